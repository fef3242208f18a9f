"""8-bit floats as storage: every bit of a cast, what may be done with such values, and that all else is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

if __name__ == "__main__":
    os.environ["FLAME_INTERPRET"] = "0"

import flame_triton as ft  # isort: skip
from flame_triton import config
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import Value
from flame_triton.testing import Case, cases

# isort: split
import torch
import triton
import triton.language as tl

from flame_triton.kernels.portable import library as lib

TYPES = [ft.float8_e4m3fn, ft.float8_e5m2]
BYTES = np.arange(256, dtype=np.uint8)
DEVICE = "interpreter" if config.interpreted() else "cuda"
SHARED = {80: 166912, 90: 232448}


def stored(dtype: ft.DType) -> np.ndarray:
    """Every bit pattern of a type."""
    return BYTES.view(dtype.numpy)


def exact(dtype: ft.DType) -> np.ndarray:
    """The float32 values of all bit patterns, by the definition of the format rather than by a library."""
    exponent_bits, mantissa_bits, bias = (4, 3, 7) if dtype is ft.float8_e4m3fn else (5, 2, 15)
    exponent = ((BYTES & 0x7F) >> mantissa_bits).astype(np.int64)
    mantissa = (BYTES & ((1 << mantissa_bits) - 1)).astype(np.float64) / (1 << mantissa_bits)
    value = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    top = exponent == (1 << exponent_bits) - 1
    if dtype is ft.float8_e4m3fn:
        value = np.where(top & (mantissa == 0.875), np.nan, value)
    else:
        value = np.where(top, np.where(mantissa == 0, np.inf, np.nan), value)
    return np.copysign(value, np.where(BYTES & 0x80, -1.0, 1.0)).astype(np.float32)


def interesting(dtype: ft.DType) -> np.ndarray:
    """float32 values where rounding can go wrong: every value of the type, every tie between two of them and its
    neighbours, subnormals, both ends of the range and beyond, and a fair draw of all bit patterns."""
    values = np.unique(exact(dtype)[np.isfinite(exact(dtype))])
    ties = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    beyond = np.float32([448, 464, 465, 480, 481, 57344, 61440, 65536, 1e9, 3.4e38, np.inf, np.nan])
    tiny = np.float32([0.0, 1e-45, 1e-38, 2.0**-10, 2.0**-11, 2.0**-17, 2.0**-18, 2.0**-16 * 0.75])
    around = np.concatenate([values, ties, beyond, tiny])
    near = [around, np.nextafter(around, np.float32(np.inf)), np.nextafter(around, np.float32(-np.inf))]
    drawn = np.random.default_rng(0).integers(0, 2**32, 1 << 15, dtype=np.uint32).view(np.float32)
    scaled = np.random.default_rng(1).standard_normal(1 << 14).astype(np.float32) * values.max() / 4
    both = np.concatenate([*near, drawn, scaled])
    return np.concatenate([both, -both])


def nearest(x: np.ndarray, dtype: ft.DType) -> np.ndarray:
    """The bytes of float32 values: the nearest value of the type, the even one of two, found by search."""
    table = exact(dtype)[:128].astype(np.float64)
    finite = table[np.isfinite(table)]
    with np.errstate(invalid="ignore"):
        size = np.abs(x.astype(np.float64))
    above = np.clip(np.searchsorted(finite, size), 1, len(finite) - 1)
    low, high = finite[above - 1], finite[above]
    up = (size - low > high - size) | ((size - low == high - size) & (above % 2 == 0))
    byte = np.where(up, above, above - 1)
    if dtype is ft.float8_e5m2:  # the next value would be 65536; half of the way there is as far as even rounding goes
        byte = np.where(size >= 61440, 0x7C, byte)
    byte = np.where(np.isnan(x), 0x7F, byte)
    return (byte | np.where(np.signbit(x), 0x80, 0)).astype(np.uint8)


def run(outputs: list[Value], inputs: list[Value], arrays: list[np.ndarray], device: str) -> list[np.ndarray]:
    """The outputs as NumPy; 8-bit floats as their bytes."""
    found = ft.compile(outputs, inputs, device=device)(*arrays)
    result: list[np.ndarray] = []
    for v, t in zip(outputs, found, strict=True):
        assert str(t.dtype) == f"torch.{v.dtype}"
        t = t.cpu()
        result.append((t.view(torch.uint8) if v.dtype.is_storage else t).numpy())
    return result


# ---- casts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_bit_pattern_decodes(dtype: ft.DType) -> None:
    want = exact(dtype)
    np.testing.assert_array_equal(stored(dtype).astype(np.float32), want)
    np.testing.assert_array_equal(torch.from_numpy(BYTES).view(getattr(torch, dtype.name)).float().numpy(), want)
    x = ft.input((256,), dtype)
    outputs = [ft.cast(x, "float32"), ft.cast(x, "float64"), ft.cast(x, "float16"), ft.cast(x, "bool")]
    for where in ("reference", DEVICE):
        single, double, half, flag = run(outputs, [x], [stored(dtype)], where)
        np.testing.assert_array_equal(single, want)
        np.testing.assert_array_equal(np.signbit(single[~np.isnan(want)]), np.signbit(want[~np.isnan(want)]))
        np.testing.assert_array_equal(double, want.astype(np.float64))
        np.testing.assert_array_equal(half, want.astype(np.float16))
        np.testing.assert_array_equal(flag, want != 0)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_kind_of_value_encodes(dtype: ft.DType) -> None:
    values = interesting(dtype)
    want = nearest(values, dtype)
    theirs = torch.from_numpy(values).to(getattr(torch, dtype.name)).view(torch.uint8).numpy()
    within = np.ones(values.shape, bool)
    if dtype is ft.float8_e4m3fn and tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 13):
        within = ~(np.abs(values) > 448)  # older torch gives NaN there, where newer torch and GPUs stop at 448
    np.testing.assert_array_equal(theirs[within], want[within])
    x = ft.input(values.shape, "float32")
    for where in ("reference", DEVICE):
        (found,) = run([ft.cast(x, dtype)], [x], [values], where)
        signed = ~np.isnan(values)  # a GPU's conversions make every NaN a positive one
        np.testing.assert_array_equal(found[signed], want[signed])
        np.testing.assert_array_equal(found[~signed] & 0x7F, want[~signed] & 0x7F)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("source", ["float64", "float16", "bfloat16", "int64", "uint8", "bool", "other"])
def test_casts_from_every_dtype(dtype: ft.DType, source: str) -> None:
    """By way of float32, from float64 too."""
    kind = ft.dtype(source) if source != "other" else TYPES[dtype is TYPES[0]]
    rng = np.random.default_rng(0)
    wide = {"int64": rng.integers(-600, 600, 2048), "uint8": BYTES, "bool": BYTES > 99}
    array = wide.get(source, rng.standard_normal(4096) * 200)
    array = kind.convert(np.asarray(array)) if kind.is_storage else array.astype(kind.numpy)
    if source == "float64":  # just beyond a tie: lost on the way through float32
        array = np.concatenate([array, np.float64([1.0625, 1.125, 1.3125]) + 1e-12])
    want = nearest(array.astype(np.float32), dtype)
    x = ft.input(array.shape, kind)
    for where in ("reference", DEVICE):
        (found,) = run([ft.cast(x, dtype)], [x], [array], where)
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_numbers_and_constants(dtype: ft.DType) -> None:
    """A constant is rounded as a cast rounds, whether it is folded, a literal in a kernel or an array in memory."""
    numbers = [0.1, -0.0, 1000.0, -1e6, 3.3, float("inf"), float("nan")]
    want = nearest(np.float32(numbers), dtype)
    outputs = [ft.full((1,), n, dtype) for n in numbers]
    outputs += [ft.cast(ft.full((1,), n), dtype) for n in numbers]
    outputs += [ft.constant(np.float32(numbers), dtype), ft.cast(ft.constant(np.float32(numbers)), dtype)]
    for where in ("reference", DEVICE):
        found = np.concatenate(run(outputs, [], [], where))
        np.testing.assert_array_equal(found, np.tile(want, 4))


# ---- data movement ---------------------------------------------------------------------------------------------


def moved(rng: np.random.Generator, x: Value) -> Value:
    """One random view or movement."""
    moves = [
        lambda: ft.reshape(x, (-1, x.shape[-1])),
        lambda: ft.reshape(x, (x.size,)),
        lambda: ft.transpose(x),
        lambda: ft.flip(x, 0),
        lambda: x[tuple(slice(None, None, int(rng.choice([1, 2, -1]))) for _ in x.shape)],
        lambda: ft.expand_dims(x, int(rng.integers(0, x.ndim + 1))),
        lambda: ft.broadcast_to(x, (2, *x.shape)),
        lambda: ft.pad(x, [(1, 0)] * x.ndim),
        lambda: ft.roll(x, 2, 0),
        lambda: ft.concat([x, ft.flip(x, 0)], 0),
        lambda: ft.stack([x, x], -1),
        lambda: ft.split(x, 2, 0)[0],
        lambda: ft.take(x, np.array([0, -1, 0]), 0),
        lambda: ft.take(x, np.array([0, x.shape[0]]), 0),  # out of range: NaN
        lambda: ft.where(np.arange(x.shape[-1]) % 2 == 0, x, 1.5),
        lambda: ft.stop_gradient(x),
        lambda: ft.cast(ft.cast(x, "bfloat16"), x.dtype),
        lambda: ft.cast(ft.mul(ft.cast(x, "float32"), 1.5), x.dtype),
    ]
    return moves[rng.integers(len(moves))]()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_of_views_and_casts(dtype: ft.DType, seed: int) -> None:
    """Interpreted kernels and the references give the same bytes."""
    rng = np.random.default_rng(seed)
    x = ft.input((4, 6), dtype)
    outputs = [x]
    for _ in range(6):
        following = moved(rng, outputs[-1])
        if 0 < following.size < 3000 and following.ndim:
            outputs.append(following)
    outputs = [*outputs[1:], ft.cast(outputs[-1], "float32")]
    array = dtype.convert(rng.standard_normal((4, 6)) * 3)
    for ours, want in zip(run(outputs, [x], [array], DEVICE), run(outputs, [x], [array], "reference"), strict=True):
        np.testing.assert_array_equal(ours, want)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_weights_in_8_bits(dtype: ft.DType) -> None:
    """Frozen 8-bit weights under bfloat16 products: their casts are one launch, and what is trained has gradients."""
    rng = np.random.default_rng(0)
    sizes = [(32, 32)] * 3
    weights = [
        ft.parameter(s, dtype, f"w{i}", lambda shape, rng: rng.standard_normal(shape) / 6) for i, s in enumerate(sizes)
    ]
    scale = ft.parameter((32,), "float32", "scale", 1.0)
    x = ft.input((8, 32), "bfloat16")
    h = x
    for w in weights:
        h = h @ ft.cast(w, "bfloat16") * ft.cast(scale, "bfloat16")
    loss = ft.mean(ft.square(ft.cast(h, "float32")))
    (gradient,) = ft.grad(loss, [scale])
    array = rng.standard_normal((8, 32)).astype(x.dtype.numpy)
    state = ft.State([*weights, scale], device=DEVICE)
    program = ft.compile([loss, gradient], [x], state=state, device=DEVICE)
    assert program.listing().count("foreach x 3") == 1
    found = [np.asarray(t.cpu()) for t in program(array)]
    want = ft.evaluate(
        [loss, gradient], {x: array.astype(np.float64)} | {v: state[v].astype(np.float64) for v in state.values}
    )
    for a, r in zip(found, want, strict=True):
        ft.testing.assert_close(a, r, "bfloat16")


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_product_writes_8_bits_from_its_epilogue(dtype: ft.DType) -> None:
    x, w = ft.input((16, 32), "float32"), ft.input((32, 16), "float32")
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-3, 4, v.shape).astype(np.float32) for v in (x, w)]
    for where in ("reference", DEVICE):
        (found,) = run([ft.cast(x @ w, dtype)], [x, w], arrays, where)
        np.testing.assert_array_equal(found, nearest(arrays[0] @ arrays[1], dtype))


# ---- gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_gradients_pass_unrounded_and_in_float32(dtype: ft.DType) -> None:
    """What arrives at an 8-bit value, from several readers, is summed and passed on in float32."""
    x = ft.input((4, 6), "float32")
    y = ft.cast(x, dtype)
    first, second = ft.cast(y.T, "float32"), ft.cast(ft.concat([y[:2], y[2:]], 0), "bfloat16")
    total = ft.sum(first * 0.3) + ft.sum(ft.cast(second, "float32") * 0.01)
    to_x, to_y = ft.grad(total, [x, y])
    assert to_x.dtype is to_y.dtype is ft.float32
    array = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    want = np.float32(0.3) + np.float32(0.01).astype(ft.bfloat16.numpy).astype(np.float32)
    for where in ("reference", DEVICE):
        for found in run([to_x, to_y], [x], [array], where):
            np.testing.assert_array_equal(found, np.full((4, 6), want, np.float32))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_gradient_in_an_8_bit_parameter(dtype: ft.DType) -> None:
    w = ft.parameter((3, 5), dtype, "w", 0.5)
    pieces = [
        ft.where(np.eye(3, 5) > 0, w, 0.0), w[::2, ::-1], ft.split(w, 2, 1)[0], w[:0], ft.take(w, np.array([2, 2, 7])),
        ft.broadcast_to(w, (2, 3, 5)), ft.pad(w, [(1, 1), (0, 2)]), ft.gather(w, 1, np.array([[1], [1], [0]])),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(p.shape) for p in pieces]
    loss = ft.add(
        0.0, ft.sum(ft.stack([ft.sum(ft.cast(p, "float64") * a) for p, a in zip(pieces, weights, strict=True)]))
    )
    (found,) = ft.grad(loss, [w])
    assert found.type.dtype is ft.float32
    double = ft.input((3, 5), "float64")
    twin = [
        ft.where(np.eye(3, 5) > 0, double, 0.0), double[::2, ::-1], ft.split(double, 2, 1)[0], double[:0],
        ft.take(double, np.array([2, 2, 7])), ft.broadcast_to(double, (2, 3, 5)), ft.pad(double, [(1, 1), (0, 2)]),
        ft.gather(double, 1, np.array([[1], [1], [0]])),
    ]  # fmt: skip
    (want,) = ft.grad([ft.sum(p * a) for p, a in zip(twin, weights, strict=True)], [double])
    array = np.full((3, 5), 0.5)
    np.testing.assert_allclose(ft.evaluate(found, {w: array}), ft.evaluate(want, {double: array}), rtol=1e-12)


def test_a_cotangent_given_is_float32() -> None:
    x = ft.input((3,), "float32")
    y = ft.cast(x, "float8_e5m2")
    (found,) = ft.grad(y, [x], grad_output=ft.input((3,), "float32"))
    assert found.dtype is ft.float32
    with pytest.raises(ft.errors.DTypeError, match="float8_e5m2"):
        ft.grad(y, [x], grad_output=ft.input((3,), "float8_e5m2"))


# ---- refusals --------------------------------------------------------------------------------------------------

x8, y8 = ft.input((4, 4), "float8_e4m3fn"), ft.input((4, 4), "float8_e5m2")
MIXED = [
    ("add", lambda: x8 + ft.input((4, 4))),
    ("mul", lambda: x8 * y8),
    ("where", lambda: ft.where(ft.input((4, 4), "bool"), x8, y8)),
    ("concat", lambda: ft.concat([x8, ft.input((4, 4))])),
]
REFUSED = [
    ("add", lambda: x8 + x8),
    ("mul", lambda: x8 * 0.1),
    ("neg", lambda: -x8),
    ("less", lambda: x8 < 1.0),
    ("isnan", lambda: ft.isnan(x8)),
    ("logical_and", lambda: ft.logical_and(x8, True)),
    ("sum", lambda: x8.sum()),
    ("sum", lambda: ft.sum(ft.input((4, 4)), dtype="float8_e5m2")),
    ("mean", lambda: x8.mean()),
    ("max", lambda: x8.max()),
    ("exp", lambda: ft.exp(x8)),
    ("softmax", lambda: ft.softmax(x8)),
    ("gelu", lambda: ft.gelu(x8)),
    ("matmul", lambda: x8 @ x8),
    ("matmul", lambda: ft.linear(ft.input((4, 4)), x8)),
    ("layer_norm", lambda: ft.layer_norm(x8, 4)),
    ("sort_rows", lambda: ft.sort(x8)),
    ("cumsum", lambda: ft.cumsum(x8, 0)),
    ("scatter_add_rows", lambda: ft.scatter_add(x8, 0, np.zeros((4, 4), np.int64), x8)),
    ("attention", lambda: ft.scaled_dot_product_attention(x8[None], x8[None], x8[None])),
]


@pytest.mark.parametrize(("name", "call"), REFUSED, ids=[f"{r[0]}-{k}" for k, r in enumerate(REFUSED)])
def test_arithmetic_is_refused(name: str, call) -> None:
    with pytest.raises(ft.errors.DTypeError, match=r"float8_e\dm\d(fn)? only stores values; cast it first") as found:
        call()
    assert found.value.op == name
    assert found.value.loc.file == __file__


def test_an_optimizer_wants_a_master_copy() -> None:
    """8-bit weights are trained through float32 ones that are cast: to add small steps to 8 bits loses them."""
    w = ft.parameter((4,), "float8_e5m2", "w", 1.0)
    (gradient,) = ft.grad(ft.sum(ft.square(ft.cast(w, "float32"))), [w])
    with pytest.raises(ft.errors.DTypeError, match="float8_e5m2 only stores values"):
        ft.optim.SGD([w], 0.1).updates([gradient])


def test_threads_do_not_see_each_other() -> None:
    """A cast of the user's own, while another thread is inside a function."""
    inside, done = threading.Event(), threading.Event()

    def body(x: Value) -> Value:
        inside.set()
        assert done.wait(10)
        return x * 2.0

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(ft.foreach, body, [[ft.input((3,))]])
        assert inside.wait(10)
        assert ft.cast(x8, "float32").dtype is ft.float32
        done.set()
        future.result()


@pytest.mark.parametrize(("name", "call"), MIXED, ids=[name for name, _ in MIXED])
def test_nothing_is_promoted(name: str, call) -> None:
    with pytest.raises(
        ft.errors.DTypeError, match=r"have no common type: float8_e[45]m[23](fn)? only stores values"
    ) as found:
        call()
    assert found.value.op == name


MOVES = set(
    """atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cartesian_prod cast channel_shuffle
    chunk clone column_stack concat diag diag_embed diagflat diagonal diagonal_scatter dsplit dstack embedding expand_as
    expand_dims flatten flip fliplr flipud full_like gather gather_rows gather_spread getitem hsplit hstack index_copy
    index_fill index_select isreal masked_fill masked_scatter matrix_transpose meshgrid moveaxis narrow normal_like
    ones_like pad patchify pixel_shuffle pixel_unshuffle positive put_along_axis ravel repeat reshape reshape_as roll
    rot90 scatter select select_scatter slice slice_scatter sliding_window_view split split_with_sizes spread squeeze
    stack stop_gradient swapaxes t take take_along_axis tensor_split tile transpose tril triu unbind unflatten unfold
    unfold_axis uniform_like unpatchify unsqueeze upsample_nearest vsplit vstack where windows zeros_like""".split()
)
"""Functions that take 8-bit floats in every sample; all others refuse at least one."""


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_what_the_registry_does_with_them(dtype: ft.DType) -> None:
    """Every sample of every function: it moves elements, and its result is of the same type, or it is refused."""
    refused: set[str] = set()
    called: set[str] = set()
    for case in cases():
        if not any(a.dtype.kind == "f" for a in case.arrays):
            continue
        called.add(case.name)
        try:
            outputs = case.call(*case.inputs(dtype))
        except ft.errors.DTypeError as error:
            assert "float8" in str(error), f"{case}: {error}"
            refused.add(case.name)
            continue
        assert case.name == "cast" or all(v.dtype is dtype for v in outputs if v.dtype.is_float), str(case)
    assert called - refused == MOVES


@pytest.mark.parametrize("case", [c for c in cases() if c.name in MOVES and not c.number], ids=str)
def test_movement_through_the_kernels(case: Case) -> None:
    """The same bytes as from the references, and the same gradients, which are float32."""
    graph, arrays = case.with_gradients("float8_e4m3fn")
    feeds = [v.dtype.convert(np.asarray(a)) for v, a in zip(graph.inputs, arrays, strict=True)]
    inputs, outputs = list(graph.inputs), list(graph.outputs)
    pairs = zip(outputs, run(outputs, inputs, feeds, DEVICE), run(outputs, inputs, feeds, "reference"), strict=True)
    for v, found, want in pairs:
        if v.dtype is ft.float32:
            np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)
        elif case.name != "normal_like":  # the logarithms and cosines of kernels differ in their last bit
            np.testing.assert_array_equal(found, want)


# ---- memory ----------------------------------------------------------------------------------------------------


def test_state_and_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    names = {
        dtype: ft.parameter((3, 5), dtype, dtype.name, lambda shape, rng: rng.standard_normal(shape) * 300)
        for dtype in TYPES
    }
    plain = ft.parameter((2,), "float8_e4m3fn", "plain", 1000.0)
    state = ft.State([*names.values(), plain], seed=3)
    np.testing.assert_array_equal(state[plain].view(np.uint8), [0x7E, 0x7E])
    path = tmp_path / "weights.safetensors"
    state.save(path)
    theirs = load_file(path)
    for dtype, w in names.items():
        assert theirs[dtype.name].dtype == getattr(torch, dtype.name)
        np.testing.assert_array_equal(theirs[dtype.name].view(torch.uint8).numpy(), state[w].view(np.uint8))
    other = ft.State([*names.values(), plain], seed=4)
    other.load(path)
    for w in names.values():
        np.testing.assert_array_equal(other[w].view(np.uint8), state[w].view(np.uint8))
    other.set(plain, [0.5, 2.0])
    np.testing.assert_array_equal(other[plain].astype(np.float32), [0.5, 2.0])
    with pytest.raises(ft.errors.StateError, match=r"float8_e4m3fn\[2\], got float32\[2\].*ml_dtypes.float8_e4m3fn"):
        other.set(plain, np.float32([1, 2]))
    with pytest.raises(ft.errors.StateError, match=r"float8_e4m3fn\[2\], got float8_e5m2\[2\]"):
        other.set(plain, torch.zeros(2).to(torch.float8_e5m2))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_updates_write_back(dtype: ft.DType) -> None:
    w = ft.parameter((7,), dtype, "w", 1.0)
    state = ft.State([w], device=DEVICE)
    step = ft.compile([], [], updates={w: ft.cast(ft.cast(w, "float32") * 1.3, dtype)}, state=state, device=DEVICE)
    want = np.ones(7, np.float32)
    for _ in range(3):
        step()
        want = dtype.convert(want * np.float32(1.3)).astype(np.float32)
    np.testing.assert_array_equal(state[w].astype(np.float32), want)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_arrays_in_and_out(dtype: ft.DType) -> None:
    """NumPy through ml_dtypes, torch as itself, plain numbers; the listing shows the type, one byte an element."""
    x = ft.input((2, 3), dtype, "x")
    program = ft.compile([x.T], [x], device=DEVICE)
    numbers = [[0.5, 1.0, -2.0], [0.25, 3.0, 1000.0]]
    own = dtype.convert(np.asarray(numbers))
    theirs = torch.from_numpy(own.view(np.uint8)).view(getattr(torch, dtype.name))
    for given in (own, theirs, numbers):
        (found,) = program(given)
        np.testing.assert_array_equal(found.cpu().view(torch.uint8).numpy(), own.view(np.uint8).T)
    assert x.type.nbytes == 6
    assert f"{dtype}[3, 2]" in program.listing()
    assert ft.dtype(f"torch.{dtype}") is ft.dtype(dtype.numpy) is ft.dtype(getattr(torch, dtype.name)) is dtype


@triton.jit
def doubled_kernel(p_x, p_y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = lib.decode_e5m2(tl.load(p_x + i, mask=i < n, other=0))
    tl.store(p_y + i, lib.encode_e4m3(x * 2), mask=i < n)


def test_a_kernel_of_ones_own_takes_bytes() -> None:
    doubled = ft.custom_op(
        "doubled_float8", infer=lambda x: x.with_dtype(ft.float8_e4m3fn), kernel=doubled_kernel,
        grid=lambda problem, config: 1, args=lambda problem: {"n": problem.out.size, "BLOCK": 16},
        ref=lambda x: x * 2,
    )  # fmt: skip
    x = ft.input((7,), "float8_e5m2")
    array = ft.float8_e5m2.convert(np.float32([0.5, -1.25, 300.0, 3.0, -0.0, np.nan, 7.0]))
    want = ft.float8_e4m3fn.convert(array.astype(np.float32) * 2).view(np.uint8)
    for where in ("reference", DEVICE):
        (found,) = run([doubled(x)], [x], [array], where)
        np.testing.assert_array_equal(found, want)


# ---- compilation -----------------------------------------------------------------------------------------------


def compiled_graph() -> Graph:
    """Casts both ways, views, a gather, a product with an epilogue, and casts of several weights at once."""
    inputs: list[Value] = []
    outputs: list[Value] = []
    for dtype in TYPES:
        x, w, v = ft.input((64, 128), dtype), ft.input((128, 128), dtype), ft.input((128, 128), dtype)
        a, i = ft.input((64, 128), "bfloat16"), ft.input((32,), "int64")
        inputs += [x, w, v, a, i]
        h = a @ ft.cast(w, "bfloat16") @ ft.cast(v, "bfloat16")
        outputs += [ft.cast(h, dtype), ft.cast(x.T, "float32"), ft.cast(ft.cast(a, "float64") * 2, dtype)]
        outputs += [ft.take(x, i), ft.concat([x, x], 1)]
    return Graph(tuple(inputs), tuple(outputs))


def main(arch: int) -> None:
    """Compiles everything for one architecture and prints what became of it."""
    from flame_triton.runtime.ahead import compile_ahead
    from flame_triton.runtime.lower import lower

    target = Target(arch, False, *((132, SHARED[90]) if arch == 90 else (108, SHARED[80])))
    reports = compile_ahead(lower(compiled_graph(), {}, target).launches, target)
    print("REPORTS " + json.dumps([dataclasses.asdict(r) for r in reports]))


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
def test_kernels_compile(arch: int) -> None:
    """sm_80 has no instructions for float8_e4m3fn and needs none."""
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "FLAME_INTERPRET")}
    environment |= {"FLAME_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, str(Path(__file__).resolve()), str(arch)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = json.loads(done.stdout.split("REPORTS ")[1])
    assert len(reports) >= 6
    for report in reports:
        assert not report["error"], report
        assert not report["spills"] and report["shared_bytes"] <= SHARED[arch], report


if __name__ == "__main__":
    main(int(sys.argv[1]))
