"""Last stages of column sums: one launch for all of them, the same numbers as one by one."""

from __future__ import annotations

import numpy as np
import pytest
import triton.language as tl
from kernel_launch import NUMPY, Output, launch, samples, tensor

import flame_triton as ft
from flame_triton import Value, config
from flame_triton.graph.evaluate import evaluate
from flame_triton.graph.pipeline import optimise
from flame_triton.graph.plan import Launch, Target
from flame_triton.ir.graph import Graph
from flame_triton.ir.verify import verify
from flame_triton.kernels.portable.column_sums import column_sums, tiles
from flame_triton.runtime.lower import lower
from flame_triton.testing import assert_close

DEVICE = "interpreter" if config.interpreted() else "cuda"
SHAPES = [(1, 1, 1, 1), (1, 3, 1, 31), (1, 128, 1, 32), (3, 43, 1, 33), (2, 64, 3, 50), (5, 200, 2, 64), (1, 7, 3, 40)]
KINDS = [
    ("float32", "float32", "float32"), ("float32", "bfloat16", "bfloat16"), ("float32", "bfloat16", "float32"),
    ("float32", "float16", "float32"), ("float64", "float64", "float64"),
]  # fmt: skip
TL = {"float64": tl.float64, "float32": tl.float32, "bfloat16": tl.bfloat16, "float16": tl.float16}


@pytest.mark.parametrize("dtypes", KINDS, ids=str)
def test_kernel(rng: np.random.Generator, dtypes: tuple[str, str, str]) -> None:
    """Over axes 0 and 1 of [A, R, B, N], stored [A, B, R, N]."""
    given, rounding, made = dtypes
    arrays = [samples(rng, (a, b, r, n), given) for a, r, b, n in SHAPES]
    stored = [tensor(x) for x in arrays]
    outs = [Output((b, n), made) for *_, b, n in SHAPES]
    rows = [[m.data_ptr(), out.tensor.data_ptr()] for m, out in zip(stored, outs, strict=True)]
    strides = [(b * r * n, n, r * n, 1) for _, r, b, n in SHAPES]
    table, work = tensor(np.array(rows, np.int64)), tensor(tiles(list(zip(SHAPES, strides, strict=True))))
    launch(column_sums, (len(work),), table, work, TL[given], TL[rounding], TL[made], 128, 32)
    for a, out in zip(arrays, outs, strict=True):
        want = a.astype(np.float64).sum((0, 2))
        limit = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 2.0**-8, "float16": 2.0**-10}[rounding]
        scale = np.abs(a.astype(np.float64)).sum((0, 2))
        assert (np.abs(out.result().astype(np.float64) - want) <= limit * np.maximum(np.abs(want), 1e-2 * scale)).all()
        assert out.result().dtype == NUMPY[made]
        assert (out.result() == out.result().astype(NUMPY[rounding]).astype(NUMPY[made])).all()


def network(dtype: str = "bfloat16", depth: int = 3, rows: int = 4096) -> tuple[list[Value], list[Value]]:
    """(leaves, gradients) of norms and layers with biases."""
    x = ft.input((rows, 64), dtype, name="x")
    leaves, y = [x], x
    for i in range(depth):
        w, b, gain, shift = (
            ft.input(shape, dtype, name=f"{name}{i}")
            for name, shape in (("w", (64, 64)), ("b", (64,)), ("gain", (64,)), ("shift", (64,)))
        )
        leaves += [w, b, gain, shift]
        y = y + ft.linear(ft.layer_norm(ft.silu(y), 64, gain, shift), w, b)
    return leaves, ft.grad(ft.sum(y * y), leaves)


def launches(leaves: list[Value], outputs: list[Value]) -> list[Launch]:
    return lower(Graph(tuple(leaves), tuple(outputs)), {}, Target()).launches


def test_last_stages_are_one_launch_for_each_pair_of_dtypes() -> None:
    leaves, gradients = network()
    graph = optimise(Graph(tuple(leaves), tuple(gradients)))
    verify(graph, "fuse")
    found = [n for n in graph.nodes if n.op.name == "foreach_columns"]
    assert sum(len(n.inputs) for n in found) == 9 and len(found) <= 2
    labels = [launch.label for launch in launches(leaves, gradients)]
    assert [label for label in labels if label.startswith("column sums")] == labels[-len(found) :]


def test_what_another_kernel_waits_for_is_not_put_off() -> None:
    """A bias's gradient that is multiplied by a matrix, and what that one waits for."""
    leaves, gradients = network()
    waiting = ft.matmul(ft.reshape(gradients[2], (1, 64)), leaves[1])
    labels = [launch.label for launch in launches(leaves, [*gradients, waiting])]
    assert sum(int(label.rsplit(" ", 1)[1]) for label in labels if label.startswith("column sums")) == 8
    last = next(i for i, label in enumerate(labels) if label.startswith("column sums"))
    assert not any(label.startswith("sum") for label in labels[last:])


def test_numbers_of_every_stage() -> None:
    leaves, gradients = network("float32", rows=4100)
    rng = np.random.default_rng(0)
    feeds = {v: rng.standard_normal(v.shape) for v in leaves}
    outputs = [*gradients, gradients[2] * 2, gradients[2]]
    want = evaluate(outputs, feeds)
    graph = optimise(Graph(tuple(leaves), tuple(outputs)))
    assert any(n.op.name == "foreach_columns" for n in graph.nodes)
    for v, a, r in zip(outputs, evaluate(graph, feeds), want, strict=True):
        assert_close(a, r, "float64", tolerance=1e-11, floor=1.0, what=repr(v))


@pytest.mark.parametrize("casts", [(), ("bfloat16",), ("bfloat16", "float32"), ("float16", "float32")], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_program(dtype: str, casts: tuple[str, ...]) -> None:
    """Sums of sums, of several widths, perhaps rounded and widened again; the rounded one is read again."""
    inputs = [ft.input(shape, dtype) for shape in ((4, 6, 40), (3, 5, 33), (2, 7, 100))]
    sums = [ft.sum(ft.sum(x, 1), 0) for x in inputs]
    for cast in casts:
        sums = [ft.cast(v, cast) for v in sums]
    outputs = [*sums, sums[0] * 2]
    program = ft.compile(outputs, inputs, device=DEVICE)
    assert sum(launch.label == "column sums x 3" for launch in program.launches) == 1
    assert len(program.launches) == (5 if dtype == "float32" or not casts else 7)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(v.shape).astype(NUMPY[dtype]) for v in inputs]
    want = evaluate(outputs, {v: a.astype(np.float64) for v, a in zip(inputs, arrays, strict=True)})
    limit = 2.0**-7 if "bfloat16" in casts else 2.0**-10 if casts else 1e-5 if dtype == "float32" else 1e-12
    for v, made, r in zip(outputs, program(*arrays), want, strict=True):
        assert str(made.dtype) == f"torch.{v.dtype.name}"
        np.testing.assert_allclose(made.double().cpu().numpy(), r, rtol=limit, atol=limit)


@pytest.mark.parametrize("axes", [(0, 2), (2,), (0, 1, 2), (0, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 130, 32), (1, 3, 700, 64), (2, 1, 96, 32), (3, 2, 67, 33)], ids=str)
def test_sums_block_by_block(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """Of [A, B, C, D] over A and C, and all others of the same value beside it."""
    x = ft.input(shape, "float32")
    outputs = [ft.sum(x, axes), ft.sum(x * x, (0, 2)), ft.sum(x, (0, 1, 2))]
    feeds = {x: np.random.default_rng(0).standard_normal(shape)}
    want = evaluate(outputs, feeds)
    for target in (Target(), Target(interpreted=True)):
        graph = optimise(Graph((x,), tuple(outputs)), target=target)
        verify(graph, "fuse")
        for a, r in zip(evaluate(graph, feeds), want, strict=True):
            assert_close(a, r, "float64", tolerance=1e-12, floor=1.0)


def projected(tokens: int, heads: int, width: int, dtype: str) -> tuple[list[Value], list[Value]]:
    """(leaves, gradients) of heads that are projected with a bias, normed and turned heads first."""
    x = ft.input((2, tokens, 32), dtype, name="x")
    w, b = ft.input((heads * width, 32), dtype, name="w"), ft.input((heads * width,), dtype, name="b")
    gain, g = ft.input((width,), dtype, name="gain"), ft.input((2, heads, tokens, width), dtype, name="g")
    y = ft.rms_norm(ft.transpose(ft.reshape(ft.linear(x, w, b), (2, tokens, heads, width)), (0, 2, 1, 3)), width, gain)
    taken = ft.cumsum(g, 2)  # stands for what attention gives
    return [x, w, b, gain, g], ft.grad([y], [x, w, b, gain], grad_output=[taken])


def test_a_bias_is_summed_where_its_heads_are_normed() -> None:
    """One kernel computes the gradient of what was projected, and both partial sums."""
    leaves, gradients = projected(1024, 8, 64, "bfloat16")
    labels = [launch.label for launch in launches(leaves, gradients)]
    last = labels.index("column sums x 2")
    assert [label for label in labels[:last] if "sum" in label] == ["cumsum", "add_square_sum_mul_rsqrt_etc"], labels


@pytest.mark.parametrize("tokens", [5, 66, 70])
def test_a_bias_of_normed_heads(tokens: int) -> None:
    leaves, gradients = projected(tokens, 3, 32, "float32")
    rng = np.random.default_rng(0)
    feeds = {v: rng.standard_normal(v.shape) for v in leaves}
    want = evaluate(gradients, feeds)
    for target in (Target(), Target(interpreted=True)):
        graph = optimise(Graph(tuple(leaves), tuple(gradients)), target=target)
        verify(graph, "fuse")
        for a, r in zip(evaluate(graph, feeds), want, strict=True):
            assert_close(a, r, "float64", tolerance=1e-11, floor=1.0)
    program = ft.compile(gradients, leaves, device=DEVICE)
    for a, r in zip(program(*(feeds[v].astype(np.float32) for v in leaves)), want, strict=True):
        assert_close(a.cpu().numpy(), r, "float32", tolerance=1e-4, floor=1.0)


def test_an_optimizer_reads_them() -> None:
    """Gradients that a map over many tensors reads, of parameters that are updated in place."""
    w = [ft.parameter((48,), "float32", init=np.full(48, i, np.float32), name=f"w{i}") for i in range(3)]
    x = ft.input((6, 8, 48), "float32")
    loss = ft.sum(sum((ft.sum(ft.sum(ft.sin(x + v), 1), 0) for v in w[1:]), ft.sum(ft.sum(ft.sin(x + w[0]), 1), 0)))
    optimizer = ft.optim.SGD(w, 0.1)
    updates = optimizer.updates(ft.grad(loss, w))
    state = ft.State([*w, *optimizer.state_values], device=DEVICE)
    program = ft.compile(loss, [x], state=state, updates=updates, device=DEVICE)
    array = np.random.default_rng(0).standard_normal((6, 8, 48)).astype(np.float32)
    program(array)
    for i, v in enumerate(w):
        want = i - 0.1 * np.cos(array.astype(np.float64) + i).sum((0, 1))
        np.testing.assert_allclose(state.place(v).tensor.cpu().numpy(), want, rtol=1e-5, atol=1e-5)
