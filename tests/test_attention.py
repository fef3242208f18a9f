"""Attention through its kernels, in small blocks so that there are several tiles and tails; memory; what is documented.

The oracle is the float64 reference of the ops, which test_ops_reference.py compares with torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch_attention import kept

import flame_triton as ft
from flame_triton import config
from flame_triton.graph.evaluate import evaluate
from flame_triton.graph.memory import plan_memory
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.kernels.portable import attention_configs
from flame_triton.kernels.portable.attention_configs import Config, Problem
from flame_triton.runtime.lower import lower
from flame_triton.testing import TOLERANCE, assert_close, check_grads

DEVICE = "interpreter" if config.interpreted() else "cuda"
attend: Any = ft.scaled_dot_product_attention


def small_blocks(problem: Problem, kernel: str, interpreted: bool, arch: int) -> Config:
    """Several blocks of queries and keys, of different sizes; three heads at a time where there are more."""
    return Config(1 if kernel == "bias" else 4, 16, 32, 4, 1)


def one_head_blocks(problem: Problem, kernel: str, interpreted: bool, arch: int) -> Config:
    """The two-dimensional form, as compiled."""
    return Config(1, 32, 16, 4, 1)


@pytest.fixture(params=[small_blocks, one_head_blocks], ids=["heads", "head"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_configs, "heuristic", request.param)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


class Case:
    """Outputs and gradients of one call on random arrays; float inputs are differentiated."""

    def __init__(self, call: Callable[..., Any], *arrays: np.ndarray, dtype: str = "float64") -> None:
        numpy = ft.dtype(dtype).numpy
        self.inputs = [ft.input(a.shape, dtype if a.dtype.kind == "f" else a.dtype) for a in arrays]
        made = call(*self.inputs)
        self.outputs = list(made) if isinstance(made, tuple) else [made]
        seeds = [ft.input(v.shape, v.dtype) for v in self.outputs]
        wrt = [v for v in self.inputs if v.dtype.is_float]
        self.results = [*self.outputs, *ft.grad(self.outputs, wrt, grad_output=seeds)]
        self.inputs += seeds
        rng = np.random.default_rng(7)
        arrays = (*arrays, *(rng.standard_normal(v.shape) for v in seeds))
        self.arrays = [a.astype(numpy) if a.dtype.kind == "f" else a for a in arrays]
        self.dtype = dtype

    def oracle(self) -> list[np.ndarray]:
        feeds = {
            v: a.astype(np.float64) if v.dtype.is_float else a for v, a in zip(self.inputs, self.arrays, strict=True)
        }
        return evaluate(self.results, feeds)

    def run(self) -> list[np.ndarray]:
        program = ft.compile(self.results, self.inputs, device=DEVICE)
        arrays = [a.astype(v.dtype.numpy) for v, a in zip(self.inputs, self.arrays, strict=True)]
        return [as_numpy(t) for t in program(*arrays)]

    def check(self) -> list[np.ndarray]:
        got = self.run()
        for v, a, r in zip(self.results, got, self.oracle(), strict=True):
            tolerance = max(TOLERANCE[ft.dtype(self.dtype)], TOLERANCE[v.dtype])
            assert_close(a, r, v.dtype, tolerance=tolerance, floor=0.05, what=repr(v))
        return got


def randn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def qkv(rows: int, keys: int, e: int = 8, ev: int = 0, batch: int = 2, heads: int = 3, kv_heads: int = 0) -> tuple:
    kv_heads = kv_heads or heads
    shapes = (batch, heads, rows, e), (batch, kv_heads, keys, e), (batch, kv_heads, keys, ev or e)
    return tuple(randn(*shape, seed=i) for i, shape in enumerate(shapes))


SIZES = [(1, 1), (1, 77), (3, 17), (17, 3), (33, 33), (77, 33), (33, 77), (77, 1)]
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "bottom-right": {"is_causal": True, "causal_alignment": "bottom-right"},
    "window": {"window": (5, 2)},
    "left window": {"window": (20, None), "causal_alignment": "bottom-right"},
    "causal window": {"window": (9, 4), "is_causal": True},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("rows", "keys"), SIZES)
def test_sizes_and_bands(rows: int, keys: int, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = small_blocks if (SIZES.index((rows, keys)) + list(MODES).index(mode)) % 2 else one_head_blocks
    monkeypatch.setattr(attention_configs, "heuristic", chosen)
    arrays = qkv(rows, keys, batch=1)
    Case(lambda q, k, v: attend(q, k, v, return_lse=True, **MODES[mode]), *arrays).check()


@pytest.mark.parametrize(("e", "ev"), [(1, 1), (40, 24), (72, 72), (96, 80), (160, 160), (16, 256), (256, 8)])
def test_head_sizes(e: int, ev: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if config.interpreted():  # several wide float64 heads in one block need more shared memory than there is
        monkeypatch.setattr(attention_configs, "heuristic", small_blocks)
    Case(lambda q, k, v: attend(q, k, v, is_causal=True), *qkv(33, 40, e, ev, 1, 2)).check()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtypes(dtype: str) -> None:
    Case(lambda q, k, v: attend(q, k, v, return_lse=True, is_causal=True), *qkv(33, 49, 24), dtype=dtype).check()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("heads", "kv_heads", "mode"), [(6, 2, "plain"), (4, 1, "causal")])
def test_shared_heads(heads: int, kv_heads: int, mode: str) -> None:
    arrays = qkv(19, 35, heads=heads, kv_heads=kv_heads)
    Case(lambda q, k, v: attend(q, k, v, enable_gqa=True, **MODES[mode]), *arrays).check()


def test_one_key_head_is_never_repeated() -> None:
    """Shared heads reach the kernels as they are, with and without enable_gqa."""
    case = Case(lambda q, k, v: attend(q, k, v), *qkv(19, 35, heads=4, kv_heads=1))
    graph = Graph(tuple(case.inputs), tuple(case.results))
    nodes = [n for n in graph.nodes if n.op.name.startswith("attention")]
    assert [n.inputs[1].shape for n in nodes] == [(2, 1, 35, 8)] * 2
    case.check()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("mode", ["plain", "causal window"])
def test_key_lengths(mode: str) -> None:
    """None, some, all, and more than there are; what lies beyond them is never read."""
    q, k, v = qkv(20, 50, batch=5)
    lengths = np.array([0, 7, 33, 50, 99])
    k[1, :, 7:], v[1, :, 7:] = np.nan, np.nan
    case = Case(lambda q, k, v, n: attend(q, k, v, key_lengths=n, return_lse=True, **MODES[mode]), q, k, v, lengths)
    got = case.run()
    case.arrays[1:3] = (np.nan_to_num(a) for a in case.arrays[1:3])
    for v_, a, r in zip(case.results, got, case.oracle(), strict=True):
        assert_close(a, r, v_.dtype, floor=0.05)
    assert not got[0][0].any() and (got[1][0] == -np.inf).all() and not got[3][1, :, 7:].any()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("shape", [(33, 40), (2, 1, 33, 40), (3, 1, 40), (2, 3, 33, 1)])
def test_bool_masks(shape: tuple[int, ...]) -> None:
    """With rows in which no key takes part: they give zeros, -inf and no gradient, and nowhere NaN."""
    mask = np.asarray(np.random.default_rng(3).random(shape) < 0.6)
    if mask.ndim and mask.shape[-2:] == (33, 40):
        mask[..., 5, :] = mask[..., 32, :] = False
    arrays = qkv(33, 40)
    got = Case(lambda q, k, v, m: attend(q, k, v, m, return_lse=True), *arrays, mask).check()
    o, lse, dq, *_ = got
    assert np.isfinite(o).all() and all(np.isfinite(d).all() for d in got[2:])
    empty = lse == -np.inf
    np.testing.assert_array_equal(empty, ~np.broadcast_to(mask, (2, 3, 33, 40)).any(-1))
    assert not o[empty].any() and not dq[empty].any()


BIASES = [(20, 40), (2, 2, 20, 40), (2, 1, 20, 40), (1, 2, 1, 40), (2, 20, 1), ()]


@pytest.mark.parametrize("shape", BIASES, ids=str)
def test_bias_and_its_gradient(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_configs, "heuristic", small_blocks)
    arrays = (*qkv(20, 40, heads=2), randn(*shape, seed=3))
    Case(lambda q, k, v, b: attend(q, k, v, b, return_lse=True), *arrays).check()


@pytest.mark.usefixtures("blocks")
def test_everything_together() -> None:
    arrays = (*qkv(20, 40, 24, 12, heads=4, kv_heads=2), randn(4, 20, 40, seed=3), np.array([40, 21]))
    seed = ft.rng_seed(3)

    def call(q: Any, k: Any, v: Any, bias: Any, lengths: Any) -> Any:
        options = {"enable_gqa": True, "window": (9, 5), "causal_alignment": "bottom-right", "scale": -0.4}
        return attend(q, k, v, bias, 0.3, key_lengths=lengths, seed=seed, **options)

    Case(call, *arrays).check()
    Case(call, *arrays, dtype="bfloat16").check()


def test_bias_of_minus_infinity() -> None:
    """An additive mask with -inf, as torch makes of a bool one; whole rows of it as well."""
    bias = np.where(np.random.default_rng(3).random((33, 40)) < 0.6, 0.0, -np.inf)
    bias[4] = -np.inf
    got = Case(lambda q, k, v, b: attend(q, k, v, b), *qkv(33, 40), bias).check()
    assert all(np.isfinite(a).all() for a in got) and not got[0][:, :, 4].any()


# ---- dropout ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_dropout_is_that_of_the_reference(dtype: str) -> None:
    """With v the identity the result is the probabilities: zero exactly where the draw says so."""
    q, k, _ = qkv(33, 40, batch=1, heads=2)
    v = np.broadcast_to(np.eye(40), (1, 2, 40, 40)).copy()
    seed = np.array([99, 3])
    case = Case(lambda q, k, v, s: attend(q, k, v, dropout_p=0.4, seed=s), q, k, v, seed, dtype=dtype)
    p = case.check()[0]
    np.testing.assert_array_equal(p != 0, kept((1, 2, 33, 40), 0.4, seed).numpy())


def test_every_dropout_draws_anew() -> None:
    q, k, v = (ft.constant(a) for a in qkv(17, 20))
    seed = ft.rng_seed(1)
    first, second = (attend(q, k, v, dropout_p=0.5, seed=seed) for _ in range(2))
    a, b = ft.evaluate([first, second])
    assert (a != b).mean() > 0.9


# ---- layouts ---------------------------------------------------------------------------------------------------


def names(program: Any) -> list[str]:
    return [launch.kernel.name for launch in program.launches]


@pytest.mark.parametrize("order", ["BL3HD", "B3HLD", "BLH3D"])
def test_packed_projections_are_read_in_place(order: str) -> None:
    """Three views of one tensor, heads back to channels: no copy is listed, whatever the order."""
    batch, rows, heads, width = 2, 17, 3, 8
    sizes = {"B": batch, "L": rows, "3": 3, "H": heads, "D": width}
    axes = tuple(order.index(axis) for axis in "3BHLD")

    def call(x: Any) -> Any:
        packed = ft.transpose(x, axes)
        o = attend(packed[0], packed[1], packed[2], is_causal=True)
        return ft.reshape(ft.transpose(o, (0, 2, 1, 3)), (batch, rows, heads * width))

    x = randn(*(sizes[axis] for axis in order))
    forward = ft.compile(call(inner := ft.input(x.shape, "float64")), [inner], device=DEVICE)
    assert names(forward) == ["attention_forward"]
    Case(call, x).check()


def test_cotangents_are_read_in_place() -> None:
    """The whole step: forward, delta, two backward kernels, and one that packs the gradients of the projections."""
    x, g = ft.input((2, 17, 3, 3, 8), "float32"), ft.input((2, 17, 24), "float32")
    q, k, v = (ft.transpose(x[:, :, i], (0, 2, 1, 3)) for i in range(3))
    o = ft.reshape(ft.transpose(attend(q, k, v), (0, 2, 1, 3)), (2, 17, 24))
    program = ft.compile([o, *ft.grad(o, [x], grad_output=g)], [x, g], device=DEVICE)
    kernels = [n for n in names(program) if n.startswith("attention")]
    assert kernels == ["attention_forward", "attention_backward_keys", "attention_backward_queries"]
    assert len(names(program)) == 5


@pytest.mark.parametrize("leads", [((4, 1), (1, 3), (4, 3)), ((2, 1, 3), (5, 1), (1,)), ((), (3,), ()), ((), (), ())])
def test_leading_axes_broadcast(leads: tuple[tuple[int, ...], ...]) -> None:
    shapes = [(*lead, n, 4) for lead, n in zip(leads, (5, 7, 7), strict=True)]
    q, k, v = (randn(*shape, seed=i) for i, shape in enumerate(shapes))
    got = Case(lambda q, k, v: attend(q, k, v), q, k, v).check()[0]
    want = torch.softmax(torch.tensor(q @ np.swapaxes(k, -1, -2) / 2), -1).numpy() @ v
    assert_close(got, want)


@pytest.mark.parametrize(("rows", "keys"), [(0, 5), (5, 0), (0, 0)])
def test_empty(rows: int, keys: int) -> None:
    o, lse, *gradients = Case(lambda q, k, v: attend(q, k, v, return_lse=True), *qkv(rows, keys)).check()
    assert o.shape == (2, 3, rows, 8) and not o.any() and (lse == -np.inf).all()
    assert all(not g.any() for g in gradients)


# ---- properties ------------------------------------------------------------------------------------------------


def test_results_repeat_to_the_bit() -> None:
    arrays = (*qkv(40, 70, heads=4, kv_heads=2), randn(70, seed=3))
    runs = [
        Case(lambda q, k, v, b: attend(q, k, v, b, enable_gqa=True), *arrays, dtype="bfloat16").run() for _ in range(2)
    ]
    for a, b in zip(*runs, strict=True):
        assert a.tobytes() == b.tobytes()


def test_flash_tail_mask_is_minus_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A named regression: keys beyond the last counted with score 0 when S was no multiple of the block. With scores
    far below 0, they would take the whole weight."""
    monkeypatch.setattr(attention_configs, "heuristic", one_head_blocks)
    q, k, v = np.full((1, 1, 3, 8), 5.0), np.full((1, 1, 17, 8), -5.0), np.ones((1, 1, 17, 8))
    o, lse, *_ = Case(lambda q, k, v: attend(q, k, v, return_lse=True), q, k, v).check()
    np.testing.assert_allclose(o, 1.0)
    np.testing.assert_allclose(lse, -200 / np.sqrt(8) + np.log(17))


def test_large_scores_do_not_overflow() -> None:
    q, k, v = qkv(17, 40, 16)
    got = Case(lambda q, k, v: attend(q, k, v, scale=1.0), q * 60, k * 60, v, dtype="float32").run()
    assert all(np.isfinite(a).all() for a in got)


@pytest.mark.parametrize("options", [{}, {"window": (2, 1)}, {"dropout_p": 0.4}], ids=str)
def test_second_gradients_through_lse_and_result(options: dict[str, Any]) -> None:
    """lse is an output in its own right; gradients of gradients count what depends on it once."""
    seed = ft.rng_seed(5)

    def call(q: Any, k: Any, v: Any, b: Any) -> Any:
        return attend(q, k, v, b, enable_gqa=True, return_lse=True, seed=seed, **options)

    check_grads(lambda *x: list(call(*x)), (1, 4, 3, 4), (1, 2, 5, 4), (1, 2, 5, 3), (1, 4, 1, 5), order=2)
    check_grads(lambda *x: call(*x)[1] + 0.0 * ft.sum(x[2]), (2, 3, 4), (1, 5, 4), (1, 5, 4), (3, 5), order=2)


def test_second_gradient_through_the_kernels() -> None:
    arrays = qkv(17, 20, heads=2)
    inputs = [ft.input(a.shape, "float64") for a in arrays]
    first = ft.grad(ft.sum(ft.square(attend(*inputs, is_causal=True))), inputs)
    second = ft.grad(ft.sum(ft.square(first[0])) + ft.sum(first[1] * first[2]), inputs)
    want = ft.evaluate(second, dict(zip(inputs, arrays, strict=True)))
    got = ft.compile(second, inputs, device=DEVICE)(*arrays)
    for a, r in zip(got, want, strict=True):
        assert_close(as_numpy(a), r)


def test_masked_rows_have_no_gradient() -> None:
    """A row of scores that is masked throughout gives zeros, and no NaN on the way back, nor back again."""
    mask = np.array([[True, False, True], [False, False, False]])
    q, k, v = ft.input((2, 4), "float64"), ft.input((3, 4), "float64"), ft.input((3, 4), "float64")
    out = attend(q, k, v, mask)
    gradients = ft.grad(ft.sum(out), [q, k, v])
    second = ft.grad(ft.sum(ft.square(gradients[0])) + ft.sum(ft.square(gradients[2])), [q, k, v])
    feeds = {x: randn(*x.shape, seed=i) for i, x in enumerate((q, k, v))}
    found = ft.evaluate([out, *gradients, *second], feeds)
    assert all(np.isfinite(a).all() for a in found)
    o, dq, dk, dv = found[:4]
    assert not o[1].any() and not dq[1].any() and not dk[1].any() and not dv[1].any() and not found[4][1].any()


# ---- memory ----------------------------------------------------------------------------------------------------


def planned_bytes(length: int, target: Target, **options: Any) -> int:
    """Bytes of the arena for forward and backward of 2 x 8 heads of 64."""
    q, k, v, g = (ft.input((2, 8, length, 64), "bfloat16") for _ in range(4))
    o = attend(q, k, v, **options)
    schedule = lower(Graph((q, k, v, g), (o, *ft.grad(o, [q, k, v], grad_output=g))), {}, target)
    plan_memory(schedule)
    return schedule.arena_bytes


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"dropout_p": 0.1}], ids=str)
def test_memory_is_linear_in_the_length(options: dict[str, Any]) -> None:
    """From the plan, before anything runs: twice the tokens, twice the bytes. Scores would take four times."""
    if "dropout_p" in options:
        options = {**options, "seed": ft.rng_seed(0)}
    short, long = (planned_bytes(n, Target(), **options) for n in (2048, 4096))
    assert long == 2 * short
    assert short < 2 * 8 * 2048 * 2048
