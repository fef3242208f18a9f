"""Convolutions: the kernels under forced tiles, strides and epilogues; splitting; the public functions' old mistakes.

Most checks use small integers: all products and sums are then exact in every dtype, so results are compared for
equality and a single lost, repeated or misplaced term is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from kernel_launch import DEVICE, GUARD, NUMPY, Output, array, launch, tensor

import flame_triton as ft
from flame_triton.config import interpreted
from flame_triton.graph.legalise import legalise
from flame_triton.graph.plan import Operand, Slot, Target
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import make
from flame_triton.kernels.portable import conv, conv_configs
from flame_triton.kernels.portable.conv_configs import Config, DirectConfig, Problem
from flame_triton.kernels.portable.matmul import store_epilogue
from flame_triton.ops.convolution import convolution, convolution_dgrad, convolution_wgrad
from flame_triton.runtime.launch import bind
from flame_triton.runtime.lower import lower

PROGRAM = "interpreter" if interpreted() else "cuda"
TAPS = Config(16, 16, 16, 2, 1, 2, False)  # many tiles, each within one tap, and a ragged raster group
FLAT = Config(16, 32, 16, 2, 1, 2, True)


def integers(shape: Sequence[int], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).integers(-4, 5, shape).astype(NUMPY[dtype])


def run(outputs: Sequence[ft.Value], feeds: dict[ft.Value, np.ndarray]) -> list[np.ndarray]:
    """The outputs by their launches, one after the other, in memory that is NaN before and guarded behind."""
    schedule = lower(Graph(tuple(feeds), tuple(outputs)), {}, Target(interpreted=interpreted()))
    memory: dict[Slot, torch.Tensor] = {slot: tensor(feeds[v]).view(-1) for v, slot in schedule.inputs.items()}

    def place(operand: Operand) -> torch.Tensor:
        slot = operand.slot.root
        if slot not in memory:
            size = slot.nbytes // operand.dtype.itemsize
            memory[slot] = tensor(np.full(size + GUARD, np.nan).astype(operand.dtype.numpy))
        return memory[slot][operand.offset :]

    for step in schedule.launches:
        with np.errstate(all="ignore"):
            bind(step, place, {})()
    results = []
    for v, slot in zip(outputs, schedule.outputs, strict=True):
        flat = array(memory[slot.root])
        assert np.isnan(flat[v.size :].astype(np.float64)).all(), "a kernel wrote behind the end of its result"
        results.append(flat[: v.size].reshape(v.shape))
    return results


def force(monkeypatch: pytest.MonkeyPatch, config: Config | None) -> None:
    """All products in tiles of `config`, depthwise ones in tiles of 16 x 8; None: the heuristics' own."""
    if config is not None:
        monkeypatch.setattr(conv_configs, "heuristic", lambda *_: config)
        monkeypatch.setattr(conv_configs, "direct_heuristic", lambda *_: DirectConfig(16, 8, 1))


def how(rank: int, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> dict[str, Any]:
    """Attributes of the ops; padding: a number, or pairs."""

    def three(x: Any) -> tuple[int, ...]:
        return (x,) * rank if isinstance(x, int) else tuple(x)

    pads = ((padding, padding),) * rank if isinstance(padding, int) else tuple(padding)
    return {"stride": three(stride), "padding": pads, "dilation": three(dilation), "groups": groups}


def all_three(
    x: tuple[int, ...], w: tuple[int, ...], dtype: str, attrs: dict[str, Any]
) -> tuple[list[ft.Value], dict[ft.Value, np.ndarray]]:
    """The convolution of inputs x and w and both its gradients, with feeds of integers."""
    a, b = ft.input(x, dtype), ft.input(w, dtype)
    y = make("convolution", [a, b], **attrs).out
    g = ft.input(y.shape, dtype)
    dx = make("convolution_dgrad", [g, b], size=x[1:-1], **attrs).out
    dw = make("convolution_wgrad", [a, g], window=w[1:-1], **attrs).out
    return [y, dx, dw], {v: integers(v.shape, dtype, i) for i, v in enumerate((a, b, g))}


def assert_exact(outputs: Sequence[ft.Value], feeds: dict[ft.Value, np.ndarray]) -> None:
    want = ft.evaluate(list(outputs), feeds)
    for v, a, r in zip(outputs, run(outputs, feeds), want, strict=True):
        assert a.dtype == v.dtype.numpy
        np.testing.assert_array_equal(a.astype(np.float64), r.astype(v.dtype.numpy).astype(np.float64), v.node.op.name)


# ---- the kernels -----------------------------------------------------------------------------------------------

GEOMETRIES = {
    "3x3": ((2, 5, 7, 17), (15, 3, 3, 17), how(2, 1, 1)),
    "one pixel and channel": ((1, 1, 1, 1), (1, 3, 3, 1), how(2, 1, 1)),
    "few channels": ((2, 6, 5, 3), (33, 3, 2, 3), how(2, (1, 2), 1)),
    "stride 2, odd sizes": ((2, 7, 5, 16), (18, 3, 3, 16), how(2, 2, 1)),
    "stride beyond the kernel": ((1, 8, 7, 4), (5, 2, 1, 4), how(2, 3)),
    "stride and dilation share a factor": ((1, 11, 9, 4), (5, 3, 2, 4), how(2, (2, 4), ((2, 2), (0, 0)), (4, 2))),
    "stride and dilation without one": ((1, 12, 9, 5), (3, 3, 3, 5), how(2, (2, 3), 3, (3, 2))),
    "asymmetric padding": ((2, 4, 6, 5), (7, 2, 4, 5), how(2, 1, ((0, 1), (2, 1)))),
    "more behind than before": ((1, 5, 4, 3), (2, 3, 3, 3), how(2, 2, ((0, 4), (1, 3)))),
    "cropped": ((1, 9, 8, 3), (4, 3, 3, 3), how(2, 2, ((-2, 1), (1, -2)))),
    "kernel as large as the input": ((3, 3, 4, 6), (5, 3, 4, 6), how(2)),
    "groups": ((2, 5, 4, 9), (15, 3, 3, 3), how(2, 1, 1, 1, 3)),
    "groups of 17": ((1, 4, 5, 34), (38, 2, 2, 17), how(2, 2, 1, 1, 2)),
    "one axis": ((2, 19, 6), (5, 3, 6), how(1, 2, 2, 3)),
    "three axes": ((1, 4, 3, 5, 5), (6, 2, 3, 2, 5), how(3, (1, 2, 1), 1, (1, 1, 2))),
    "depthwise": ((2, 6, 5, 9), (9, 3, 3, 1), how(2, 1, 1, 1, 9)),
    "depthwise, multiplier, stride": ((1, 7, 6, 5), (15, 3, 2, 1), how(2, 2, 1, 1, 5)),
    "depthwise, one axis, dilation": ((2, 13, 17), (17, 3, 1), how(1, 3, 2, 2, 17)),
    "depthwise, three axes": ((1, 3, 4, 3, 3), (6, 2, 1, 3, 1), how(3, 1, ((1, 0), (0, 0), (1, 1)), 1, 3)),
}


@pytest.mark.parametrize("config", [None, TAPS, FLAT], ids=["heuristic", "taps", "flat"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_kernels(monkeypatch: pytest.MonkeyPatch, name: str, config: Config | None) -> None:
    force(monkeypatch, config)
    x, w, attrs = GEOMETRIES[name]
    assert_exact(*all_three(x, w, "float32", attrs))


@pytest.mark.parametrize("config", [TAPS, FLAT], ids=["taps", "flat"])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_dtypes(monkeypatch: pytest.MonkeyPatch, dtype: str, config: Config) -> None:
    force(monkeypatch, config)
    assert_exact(*all_three((2, 5, 4, 18), (17, 3, 3, 18), dtype, how(2, 2, 1)))
    assert_exact(*all_three((2, 5, 4, 3), (6, 3, 3, 1), dtype, how(2, 2, 1, 1, 3)))


@pytest.mark.parametrize("channels", [(1, 17), (16, 3), (3, 16), (33, 1), (32, 31)])
@pytest.mark.parametrize("config", [TAPS, FLAT], ids=["taps", "flat"])
def test_tails(monkeypatch: pytest.MonkeyPatch, channels: tuple[int, int], config: Config) -> None:
    force(monkeypatch, config)
    c, k = channels
    for width in (1, 16):  # 2 and 17 output positions
        assert_exact(*all_three((1, width, c), (k, 2, c), "float32", how(1, 1, 1)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_precision_of_real_numbers(dtype: str) -> None:
    outputs, feeds = all_three((2, 8, 8, 64), (48, 3, 3, 64), dtype, how(2, 1, 1))
    rng = np.random.default_rng(0)
    feeds = {v: rng.standard_normal(v.shape).astype(NUMPY[dtype]) for v in feeds}
    want = ft.evaluate(outputs, feeds)
    for a, r in zip(run(outputs, feeds), want, strict=True):
        # 576 roundings of sums of about 10 to 100; tf32 would be off by 1e-2, float32 inside float64 by 1e-4
        assert np.abs(a - r).max() < 4096 * np.finfo(NUMPY[dtype]).eps


@pytest.mark.parametrize("config", [TAPS, FLAT], ids=["taps", "flat"])
@pytest.mark.parametrize("groups", [1, 3], ids=["product", "depthwise"])
def test_strided_operands_are_read_in_place(monkeypatch: pytest.MonkeyPatch, config: Config, groups: int) -> None:
    """x and dy are windows of larger, permuted and reversed arrays; what lies outside them is NaN."""
    force(monkeypatch, config)
    frame = ft.input((6, 4, 9, 7), "float32")  # [height, n, width, channels]
    x = ft.transpose(frame, (1, 0, 2, 3))[1:3, 1:6, ::-2, 2:5]
    w = ft.input((6, 3, 3, 3 // groups), "float32")
    attrs = how(2, 1, 1, 1, groups)
    y_frame = ft.input((2, 7, 5, 9), "float32")
    dy = y_frame[:, 1:6, :, 1:7]
    outputs = [
        make("convolution", [x, w], **attrs).out,
        make("convolution_dgrad", [dy, w], size=(5, 5), **attrs).out,
        make("convolution_wgrad", [x, dy], window=(3, 3), **attrs).out,
    ]
    feeds = {v: integers(v.shape, seed=i) for i, v in enumerate((frame, w, y_frame))}
    feeds[frame][0] = feeds[frame][:, :, 1::2] = feeds[frame][..., 5:] = np.nan
    feeds[y_frame][..., 0] = feeds[y_frame][:, 6] = np.nan
    assert len(lower(Graph(tuple(feeds), tuple(outputs)), {}, Target(interpreted=True)).launches) == 3
    assert_exact(outputs, feeds)


@pytest.mark.interpreter
def test_addresses_beyond_32_bits(tmp_path) -> None:
    """The second image lies 2^31 elements behind the first. The buffer is a sparse file."""
    stride, size = 1 << 31, 4 * 5 * 3
    memory = np.memmap(tmp_path / "sparse", np.int16, "w+", shape=(stride + size,))
    x = torch.from_numpy(memory).view(torch.bfloat16)
    values = integers((2, 1, 4, 5, 3))
    x.as_strided((2, 1, 4, 5, 3), (stride, 60, 15, 3, 1)).copy_(torch.from_numpy(values))
    w, out = integers((2, 1, 3, 3, 3), "bfloat16"), Output((2, 1, 2, 3, 2), "float32")
    config = Config(16, 16, 16, 1, 1, 1, False)
    ones, zeros = (1, 1, 1), (0, 0, 0)
    launch(
        conv.forward, (1,), x, tensor(w), (out.tensor, 3, 2), 2, 1, 4, 5, 1, 2, 3, 3, 2, stride, 60, 15, 3,
        store_epilogue, "ieee", (1, 3, 3), ones, zeros, ones, (False,) * 3,
        config.BLOCK_M, config.BLOCK_N, config.BLOCK_K, 1, False, False,
    )  # fmt: skip
    a, b = ft.input(values.shape, "float32"), ft.input(w.shape, "float32")
    y = make("convolution", [a, b], **how(3)).out
    np.testing.assert_array_equal(out.result(), ft.evaluate(y, {a: values, b: w.astype(np.float32)}))


# ---- epilogues -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [TAPS, FLAT], ids=["taps", "flat"])
@pytest.mark.parametrize("kind", ["forward", "dgrad", "wgrad", "depthwise forward", "depthwise dgrad"])
def test_fused_equals_unfused(monkeypatch: pytest.MonkeyPatch, kind: str, config: Config, dtype: str) -> None:
    """Bias, a value for each image, an activation, a residual and a reordered second result, to the bit."""
    force(monkeypatch, config)
    groups = 3 if kind.startswith("depthwise") else 1
    attrs = how(2, 2, 1, 1, groups)
    x, w = ft.input((2, 5, 7, 3), dtype), ft.input((9, 3, 3, 3 // groups), dtype)
    dy = ft.input((2, 3, 4, 9), dtype)
    if kind.endswith("forward"):
        y, feeds = make("convolution", [x, w], **attrs).out, [x, w]
    elif kind.endswith("dgrad"):
        y, feeds = make("convolution_dgrad", [dy, w], size=(5, 7), **attrs).out, [dy, w]
    else:
        y, feeds = make("convolution_wgrad", [x, dy], window=(3, 3), **attrs).out, [x, dy]
    n, _, wide, c = y.shape
    bias, image, residual = ft.input((c,), dtype), ft.input((n, 1, 1, c), dtype), ft.input(y.shape, dtype)
    column = ft.input((wide, 1), dtype)

    def finish(v: ft.Value) -> list[ft.Value]:
        z = ft.silu((v + bias) * (1.0 + image) + column) + residual
        return [z, ft.transpose(z * 2.0, (0, 3, 1, 2))]

    feeds = {v: np.random.default_rng(i).standard_normal(v.shape).astype(v.dtype.numpy) for i, v in
             enumerate([*feeds, bias, image, residual, column])}  # fmt: skip
    fused = finish(y)
    launches = lower(Graph(tuple(feeds), tuple(fused)), {}, Target(interpreted=True)).launches
    assert len(launches) == 1
    assert launches[0].label.startswith("conv") and "silu" in launches[0].label
    (alone,) = run([y], feeds)
    given = ft.input(y.shape, dtype)
    want = run(finish(given), {**feeds, given: alone})
    for a, r in zip(run(fused, feeds), want, strict=True):
        assert a.tobytes() == r.tobytes()


def test_listing_shows_one_launch() -> None:
    """Bias, activation and the change of layout belong to the convolution; only operands are copied before."""
    x, w, b = ft.input((1, 8, 8, 3), "float32"), ft.input((4, 3, 3, 3), "float32"), ft.input((4,), "float32")
    y = ft.silu(convolution(x, w, (1, 1), ((1, 1), (1, 1)), (1, 1), 1) + b)
    program = ft.compile([ft.transpose(y, (0, 3, 1, 2))], [x, w, b], device=PROGRAM)
    assert len(program.launches) == 1
    assert "conv + add_silu" in program.listing()


# ---- legalisation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("groups", "parts", "config"), [(1, 3, TAPS), (1, 5, FLAT), (2, 2, FLAT), (4, 3, TAPS)])
def test_parts_of_wgrad(monkeypatch: pytest.MonkeyPatch, groups: int, parts: int, config: Config) -> None:
    """Each part is the sum over its own positions, whatever the tiles; the sum of them is the gradient."""
    force(monkeypatch, config)
    x, dy = ft.input((2, 3, 5, 4), "bfloat16"), ft.input((2, 3, 5, 8), "bfloat16")
    attrs = how(2, 1, ((1, 1), (0, 1)), 1, groups) | {"window": (3, 2)}
    split = make("convolution_wgrad_parts", [x, dy], parts=parts, out_dtype=ft.float32, **attrs).out
    whole = make("convolution_wgrad", [x, dy], **attrs).out
    feeds = {x: integers(x.shape, "bfloat16"), dy: integers(dy.shape, "bfloat16", 1)}
    assert_exact([split], feeds)
    total, want = ft.evaluate([ft.sum(split, axis=0), whole], feeds)
    np.testing.assert_array_equal(total, want)
    first, second = run([split], feeds), run([split], feeds)
    assert first[0].tobytes() == second[0].tobytes()


def test_wgrad_is_split_where_there_are_few_tiles() -> None:
    x, dy = ft.input((2, 64, 64, 16), "bfloat16"), ft.input((2, 64, 64, 8), "bfloat16")
    dw = convolution_wgrad(x, dy, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    graph = Graph((x, dy), (dw,))
    split = legalise(graph, Target(interpreted=False))
    parts = [n.attrs["parts"] for n in split.nodes if n.op.name == "convolution_wgrad_parts"]
    assert parts == [8]
    assert not any(n.op.name == "convolution_wgrad" for n in split.nodes)
    assert split.outputs[0].type == dw.type
    feeds = {x: integers(x.shape, "bfloat16"), dy: integers(dy.shape, "bfloat16", 1)}
    np.testing.assert_array_equal(ft.evaluate(split, dict(zip(split.inputs, feeds.values(), strict=True)))[0],
                                  ft.evaluate(dw, feeds))  # fmt: skip
    assert [n.op.name for n in legalise(graph, Target(interpreted=True)).nodes].count("convolution_wgrad") == 1


def test_one_tap_is_a_product() -> None:
    """1x1 with stride 1, forward and backward, goes to matmul."""
    x, w = ft.input((2, 5, 4, 4), "float32"), ft.input((3, 5, 1, 1), "float32")
    y = ft.conv2d(x, w)
    gradients = ft.grad(ft.sum(ft.square(y)), [x, w])
    schedule = lower(Graph((x, w), (y, *gradients)), {}, Target(interpreted=True))
    assert not any("conv" in step.label for step in schedule.launches)
    assert sum("matmul" in step.label for step in schedule.launches) == 3


@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (2, 0, 5, 5)])
def test_empty_operands(shape: tuple[int, ...]) -> None:
    """No images, or no channels to sum over: results of the right shape, zeros if they have elements."""
    x, w = ft.input(shape, "float32"), ft.input((4, shape[1], 3, 3), "float32")
    y = ft.conv2d(x, w, ft.ones((4,), "float32"))
    gradients = ft.grad(ft.sum(y), [x, w])
    program = ft.compile([y, *gradients], [x, w], device=PROGRAM)
    got = [array(t) for t in program(np.zeros(x.shape, np.float32), np.ones(w.shape, np.float32))]
    assert [a.shape for a in got] == [(shape[0], 4, 3, 3), x.shape, w.shape]
    assert (got[0] == 1).all() and not got[2].any()


# ---- configurations --------------------------------------------------------------------------------------------

PROBLEMS = [
    Problem("forward", 1, 65536, 320, 320, 9, "bfloat16"), Problem("dgrad", 4, 4096, 640, 640, 9, "bfloat16", 4),
    Problem("wgrad", 4, 320, 320, 16384, 9, "bfloat16"), Problem("forward", 1, 65536, 320, 4, 9, "bfloat16"),
    Problem("dgrad", 1, 65536, 320, 4, 9, "float16"), Problem("wgrad", 8, 320, 4, 8192, 9, "bfloat16"),
    Problem("forward", 32, 4096, 8, 8, 9, "float32"), Problem("forward", 1, 64, 1280, 2560, 9, "float64"),
    Problem("forward", 1, 1, 1, 1, 1, "float32"), Problem("wgrad", 1, 3, 5, 7, 27, "float16"),
]  # fmt: skip


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.kind} {p.rows}x{p.columns}x{p.inner}")
@pytest.mark.parametrize("arch", [80, 90])
def test_configurations(problem: Problem, arch: int) -> None:
    compiled, whole = conv_configs.heuristic(problem, False, arch), conv_configs.heuristic(problem, True)
    for config in (compiled, whole):
        sizes = (config.BLOCK_M, config.BLOCK_N, config.BLOCK_K)
        assert all(size >= 16 and size & (size - 1) == 0 for size in sizes)
        assert conv_configs.grid(problem, config)[0] > 0
    assert compiled.FLAT == (problem.channels < 16)
    assert max(whole.BLOCK_M * whole.BLOCK_K, whole.BLOCK_N * whole.BLOCK_K, whole.BLOCK_M * whole.BLOCK_N) <= 1 << 20


# ---- old mistakes ----------------------------------------------------------------------------------------------


def test_conv1d_dilation_dropped() -> None:
    """A named regression: conv1d once ignored its dilation. Through the kernels, as all below."""
    x, w = ft.input((1, 1, 7), "float32"), ft.input((1, 1, 2), "float32")
    program = ft.compile(ft.conv1d(x, w, dilation=3), [x, w], device=PROGRAM)
    got = array(program(np.arange(7, dtype=np.float32).reshape(1, 1, 7), np.array([[[1, 10]]], np.float32)))
    np.testing.assert_array_equal(got, [[[30, 41, 52, 63]]])


def test_conv2d_lost_its_gradient() -> None:
    """A named regression: conv2d once had none. All three gradients against torch's."""
    shapes = [(2, 3, 6, 5), (4, 3, 3, 3), (4,)]
    values = [integers(s, seed=i) for i, s in enumerate(shapes)]
    inputs = [ft.input(s, "float32") for s in shapes]
    y = ft.conv2d(*inputs, stride=2, padding=1)
    program = ft.compile(ft.grad(ft.sum(ft.square(y)), inputs), inputs, device=PROGRAM)
    theirs = [torch.tensor(v, requires_grad=True) for v in values]
    torch.nn.functional.conv2d(*theirs, stride=2, padding=1).square().sum().backward()
    for a, t in zip(program(*values), theirs, strict=True):
        assert t.grad is not None
        np.testing.assert_array_equal(array(a), t.grad.numpy())


def test_interpolate_conv_pool_gradients() -> None:
    """A named regression of others: wrong gradients of upsampling, convolution and mean in a row."""
    x, w = ft.input((1, 2, 3, 4), "float64"), ft.input((3, 2, 3, 3), "float64")

    def loss(x: ft.Value, w: ft.Value) -> ft.Value:
        up = ft.repeat(ft.repeat(x, 2, axis=2), 2, axis=3)
        return ft.sum(ft.square(ft.mean(ft.conv2d(up, w, padding=1), axis=(2, 3))))

    gradients = ft.grad(loss(x, w), [x, w])
    values = [np.random.default_rng(i).standard_normal(v.shape) for i, v in enumerate((x, w))]
    got = ft.compile(gradients, [x, w], device=PROGRAM)(*values)
    theirs = [torch.tensor(v, requires_grad=True) for v in values]
    up = torch.nn.functional.interpolate(theirs[0], scale_factor=2, mode="nearest")
    torch.nn.functional.conv2d(up, theirs[1], padding=1).mean((2, 3)).square().sum().backward()
    for a, t in zip(got, theirs, strict=True):
        assert t.grad is not None
        np.testing.assert_allclose(array(a), t.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed_is_the_adjoint(rank: int, stride: int) -> None:
    """<conv(x), y> = <x, conv_transpose(y)> for every stride and padding, output_padding making up for the rest."""
    size, window, padding = (7, 6, 5)[:rank], (3, 2, 4)[:rank], (1, 0, 2)[:rank]
    x, w = ft.input((1, 2, *size), "float64"), ft.input((3, 2, *window), "float64")
    y = getattr(ft, f"conv{rank}d")(x, w, stride=stride, padding=padding)
    extra = [(n + 2 * p - r) % stride for n, p, r in zip(size, padding, window, strict=True)]
    z = ft.input(y.shape, "float64")
    options = {"stride": stride, "padding": padding, "output_padding": extra}
    back = getattr(ft, f"conv_transpose{rank}d")(z, w, **options)
    assert back.shape == x.shape
    feeds = {v: np.random.default_rng(i).standard_normal(v.shape) for i, v in enumerate((x, w, z))}
    left, right = ft.evaluate([ft.sum(y * z), ft.sum(x * back)], feeds)
    assert abs(left - right) < 1e-10 * max(1.0, abs(left))


def test_internal_ops_refuse_what_does_not_fit() -> None:
    x, w = ft.input((2, 5, 5, 4), "float32"), ft.input((6, 3, 3, 4), "float32")
    plain = ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    with pytest.raises(ft.errors.ShapeError, match="must be"):
        convolution_dgrad(ft.input((2, 4, 3, 6), "float32"), w, (5, 5), *plain)
    with pytest.raises(ft.errors.ShapeError, match="do not fit"):
        convolution_wgrad(x, ft.input((2, 4, 3, 6), "float32"), (3, 3), *plain)
    with pytest.raises(ft.errors.ShapeError, match="times the channels"):
        convolution(x, ft.input((6, 3, 3, 5), "float32"), *plain)
    with pytest.raises(ft.errors.DTypeError, match="one dtype"):
        convolution(x, ft.input((6, 3, 3, 4), "float64"), *plain)


# ---- layers ----------------------------------------------------------------------------------------------------

LAYERS = [
    ("Conv1d", (4, 6, 3), {"padding": "same", "groups": 2}, (2, 4, 8)),
    ("Conv2d", (3, 5, (3, 2)), {"stride": 2, "padding": 1, "bias": False}, (2, 3, 6, 5)),
    ("Conv3d", (2, 4, 2), {"dilation": (1, 2, 1)}, (1, 2, 4, 4, 3)),
    ("ConvTranspose1d", (4, 6, 3), {"stride": 2, "output_padding": 1, "groups": 2}, (2, 4, 5)),
    ("ConvTranspose2d", (3, 5, (3, 2)), {"stride": 2, "padding": 1}, (3, 4, 4)),
    ("ConvTranspose3d", (2, 4, 2), {"bias": False, "dilation": 2}, (1, 2, 2, 2, 3)),
]


@pytest.mark.parametrize(("name", "sizes", "options", "shape"), LAYERS, ids=[row[0] for row in LAYERS])
def test_layers_are_torchs(name: str, sizes: Any, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Arguments, parameter names, shapes, range of initial values, and results."""
    ours, theirs = getattr(ft.nn, name)(*sizes, **options), getattr(torch.nn, name)(*sizes, **options).double()
    x = ft.input(shape, "float64")
    y = ours(x)
    parameters = dict(ours.named_parameters())
    weights = dict(theirs.named_parameters())
    assert {n: v.shape for n, v in parameters.items()} == {n: tuple(t.shape) for n, t in weights.items()}
    bound = float(np.prod(weights["weight"].shape[1:])) ** -0.5
    for v in parameters.values():
        drawn = v.node.attrs["init"](v.shape, np.random.default_rng(0))
        assert np.abs(drawn).max() <= bound
        assert drawn.size < 20 or np.abs(drawn).max() > 0.8 * bound
    a = np.random.default_rng(0).standard_normal(shape)
    got = ft.evaluate(y, {x: a} | {v: weights[n].detach().numpy() for n, v in parameters.items()})
    np.testing.assert_allclose(got, theirs(torch.tensor(a)).detach().numpy(), rtol=1e-10, atol=1e-12)


def test_layers_refuse() -> None:
    with pytest.raises(ft.errors.ArgumentError, match=r"Conv2d: groups=2 must divide 3 and 4"):
        ft.nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(ft.errors.ArgumentError, match="kernel_size"):
        ft.nn.Conv2d(3, 4, (3, 3, 3))


def test_layers_compute_in_the_dtype_of_their_input() -> None:
    layer, x = ft.nn.Conv2d(3, 4, 3), ft.input((1, 3, 5, 5), "bfloat16")
    assert layer(x).dtype is ft.bfloat16
    assert layer.weight.dtype is ft.float32


def test_device_of_the_process() -> None:
    assert (DEVICE == "cpu") == interpreted()
