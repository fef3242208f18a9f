"""Whole programs through the kernels: random graphs forward and backward, every byte written, no torch arithmetic."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import flame_triton as ft
from flame_triton import config
from flame_triton.graph.evaluate import evaluate
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime import compile as compile_module
from flame_triton.testing.graphs import random_graph

DEVICE = "interpreter" if config.interpreted() else "cuda"
# relative RMS of a whole random graph against float64; single ops are held to the table in ft.testing
LIMIT = {"float64": 1e-11, "float32": 2e-5}


def _run(graph: Graph, feeds: dict, device: str = DEVICE) -> list[np.ndarray]:
    program = ft.compile(list(graph.outputs), list(graph.inputs), device=device)
    arrays = [feeds[v].astype(v.dtype.numpy) for v in graph.inputs]
    return [t.double().cpu().numpy() for t in program(*arrays)]


def _error(got: np.ndarray, want: np.ndarray, scale: float) -> float:
    assert np.isfinite(got).all(), "an element was not written or is not finite"
    return float(np.sqrt(np.mean((got - want) ** 2))) / scale if got.size else 0.0


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fresh device memory is filled with bytes that read as NaN, so that what a kernel leaves out is seen."""
    empty = torch.empty

    def filled(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        if tensor.dtype == torch.uint8:
            tensor.fill_(0xFF)
        return tensor

    monkeypatch.setattr(torch, "empty", filled)
    yield


@pytest.mark.parametrize("seed", range(24))
def test_random_graphs_agree_with_the_oracle(seed: int, poisoned: None) -> None:
    dtype = "float64" if seed % 2 else "float32"
    made = random_graph(1000 + seed, dtype, 8 + seed % 8, whole=False)
    graph = made.graph
    feeds = {v: a.astype(dtype).astype(np.float64) for v, a in made.feeds.items()}
    want = evaluate(graph, feeds)
    scale = max(1.0, *(float(np.abs(w).max(initial=0)) for w in want))
    for got, expected in zip(_run(graph, feeds), want, strict=True):
        assert got.shape == expected.shape
        assert _error(got, expected, scale) < LIMIT[dtype]


@pytest.mark.parametrize("function", [ft.logical_and, ft.logical_or])
def test_a_comparison_of_scalars_combined_with_a_row(function) -> None:
    """Found by a random graph: the interpreter made floats of a flag that is the same for the whole row."""
    x, b = ft.input((1,), "float64"), ft.input((4,), "bool")
    out = function(ft.not_equal(x, 0.5), b)
    feeds = {x: np.ones(1), b: np.array([True, False, True, False])}
    np.testing.assert_array_equal(_run(Graph((x, b), (out,)), feeds)[0], evaluate(out, feeds))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.interpreter
def test_small_tiles_give_the_same(seed: int, poisoned: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_module, "target", lambda _: Target(interpreted=True, block_limit=32))
    made = random_graph(2000 + seed, "float64", 8)
    graph, feeds = made.graph, made.feeds
    want = evaluate(graph, feeds)
    scale = max(1.0, *(float(np.abs(w).max(initial=0)) for w in want))
    for got, expected in zip(_run(graph, feeds), want, strict=True):
        assert _error(got, expected, scale) < LIMIT["float64"]


def _pointwise_model(dtype: str) -> tuple[Graph, dict]:
    """Norm, modulate, activation by arithmetic alone: no transcendental function, so bits must agree."""
    rng = np.random.default_rng(3)
    x = ft.input((6, 5, 24), dtype, name="x")
    shift, scale = ft.input((6, 1, 24), dtype, name="shift"), ft.input((6, 1, 24), dtype, name="scale")
    h = x * (1 + scale) + shift
    y = ft.where(h > 0, h, h * 0.125) * ft.square(h) - h
    seed = ft.input(y.shape, dtype, name="dy")
    graph = Graph((x, shift, scale, seed), (y, *ft.grad(y, [x, shift, scale], grad_output=seed)[:1]))
    return graph, {v: rng.standard_normal(v.shape) for v in graph.inputs}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_fused_arithmetic_has_the_bits_of_the_references(dtype: str) -> None:
    graph, feeds = _pointwise_model(dtype)
    feeds = {v: a.astype(v.dtype.numpy) for v, a in feeds.items()}
    want = evaluate(graph, feeds, dtype=None)
    program = ft.compile(list(graph.outputs), list(graph.inputs), device=DEVICE)
    for got, expected in zip(program(*feeds.values()), want, strict=True):
        np.testing.assert_array_equal(got.double().cpu().numpy(), expected.astype(np.float64))


ALLOWED = {
    "empty", "new_empty", "set_", "view", "slice", "select", "as_strided", "detach", "lift_fresh", "copy_",
    "empty_strided", "alias",
}  # fmt: skip


class NoCompute(TorchDispatchMode):
    """Fails on any torch operator that could compute something."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name in ALLOWED, f"torch computes {func} in a running program"
        if name == "copy_":
            assert args[0].dtype == args[1].dtype, "copy_ converts"
        return func(*args, **(kwargs or {}))


def _step() -> tuple[ft.State, object, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    x, t = ft.input((8, 12), "float32", name="x"), ft.input((8, 4), "float32", name="t")
    w = ft.parameter((12, 4), "float32", name="w", init=rng.standard_normal((12, 4)) * 0.1)
    loss = ft.mean(ft.square(ft.tanh(x @ w) - t))
    (dw,) = ft.grad(loss, [w])
    state = ft.State([w], device=DEVICE)
    program = ft.compile([loss, dw], [x, t], state=state, updates={w: w - 0.1 * dw}, device=DEVICE)
    return state, program, [rng.standard_normal(s).astype(np.float32) for s in ((8, 12), (8, 4))]


def test_a_running_program_calls_no_torch_arithmetic() -> None:
    _, program, arrays = _step()
    program(*arrays)  # compiles, captures
    if DEVICE == "interpreter":
        _interpreted_without_torch(program, arrays)
    else:
        with NoCompute():
            program(*arrays)
    with pytest.raises(AssertionError, match="computes"), NoCompute():
        torch.empty(2) + torch.empty(2)


def _interpreted_without_torch(program: object, arrays: list[np.ndarray]) -> None:
    """Triton's interpreter itself is NumPy; nothing of ours around it may compute with torch."""
    with NoCompute():
        program(*arrays)


def test_updates_take_effect_and_loss_falls() -> None:
    state, program, arrays = _step()
    before = state["w"].copy()
    losses = [float(program(*arrays)[0]) for _ in range(5)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    assert not np.array_equal(before, state["w"])


def test_zero_sized_inputs_launch_nothing() -> None:
    x = ft.input((0, 5), "float32", name="x")
    program = ft.compile([ft.exp(x), ft.sum(x), ft.sum(x, axis=0)], [x], device=DEVICE)
    y, total, columns = program(np.zeros((0, 5), np.float32))
    assert y.shape == (0, 5) and float(total) == 0.0 and columns.tolist() == [0.0] * 5


@pytest.mark.gpu
def test_peak_bytes_is_what_torch_allocated() -> None:
    """State, arena, staging, outputs and tables, to the byte. Apart from them torch keeps two words of its random
    generator, 512 bytes each, for a captured graph; the graph's own pool holds no tensor of ours."""
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    _, program, arrays = _step()
    held = program(*arrays)
    gc.collect()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before - program.peak_bytes in (0, 1024)
    del held


def test_values_without_elements_beside_others() -> None:
    """What has no elements joins no kernel: its maps would divide by zero."""
    x = ft.input((5, 0))
    y = ft.matrix_norm(x, float("inf"))
    found = ft.compile([y, *ft.grad(y, [x])], [x])(np.zeros((5, 0), np.float32))
    assert float(found[0]) == 0 and found[1].shape == (5, 0)


def test_the_sum_of_bools_is_a_bool() -> None:
    """Compiled, one bit plus one bit is no bit."""
    x, y = ft.input((4,), "bool"), ft.input((4,), "bool")
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    np.testing.assert_array_equal(ft.compile(x + y, [x, y])(a, b).cpu().numpy(), a | b)
