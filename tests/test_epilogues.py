"""What is fused into a product: the launches, the bytes they move, and the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

import flame_triton as ft
from flame_triton import config
from flame_triton.graph.plan import SUM_ROWS, Schedule, Target
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import Value
from flame_triton.runtime.lower import lower
from flame_triton.testing import assert_close

DEVICE = "interpreter" if config.interpreted() else "cuda"
TOKENS, WIDTH, HIDDEN = 4608, 3072, 12288

Build = Callable[..., Value]
Shapes = Sequence[tuple[int, ...]]


def plan(build: Build, shapes: Shapes, *, training: bool = False, dtype: str = "bfloat16") -> Schedule:
    """The schedule for an H200 of build(inputs), with the gradients of all inputs if training."""
    inputs, outputs = graph_of(build, shapes, training, dtype)
    return lower(Graph(tuple(inputs), tuple(outputs)), {}, Target(arch=90))


def graph_of(build: Build, shapes: Shapes, training: bool, dtype: str) -> tuple[list[Value], list[Value]]:
    inputs = [ft.input(s, dtype) for s in shapes]
    y = build(*inputs)
    if not training:
        return inputs, [y]
    seed = ft.input(y.shape, y.dtype)
    return [*inputs, seed], [y, *ft.grad(y, inputs, grad_output=seed)]


def products(schedule: Schedule) -> list[str]:
    """The labels of the launches that compute products."""
    return [launch.label for launch in schedule.launches if "matmul" in launch.label]


def others(schedule: Schedule) -> list[str]:
    """The labels of the other launches that move more than a megabyte twenty times over."""
    return [
        launch.label
        for launch in schedule.launches
        if "matmul" not in launch.label and sum(s.nbytes for s in (*launch.reads, *launch.writes)) > 20e6
    ]


def check(build: Build, shapes: Shapes, *, dtype: str = "float32", training: bool = True) -> None:
    """Kernels against the NumPy references in the graph's own dtypes."""
    rng = np.random.default_rng(0)
    inputs, outputs = graph_of(build, shapes, training, dtype)
    arrays = [
        (rng.standard_normal(v.shape) / max(v.shape[-1:], default=1) ** 0.5).astype(v.dtype.numpy) for v in inputs
    ]
    got = ft.compile(outputs, inputs, device=DEVICE)(*arrays)
    want = ft.evaluate(outputs, dict(zip(inputs, arrays, strict=True)), dtype="float64")
    for one, other, value in zip(got, want, outputs, strict=True):
        exact = np.asarray(other)
        error = np.abs(np.asarray(one.double().cpu()) - exact).max()
        limit = {"float32": 2e-5, "bfloat16": 3e-2, "float64": 1e-12}[value.dtype.name]
        assert error <= limit * max(1.0, np.abs(exact).max()), (value, error)


# ---- bias, activation ------------------------------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[Value], Value]] = {
    "gelu": ft.gelu,
    "gelu_tanh": lambda v: ft.gelu(v, approximate="tanh"),
    "silu": ft.silu,
    "relu": ft.relu,
}


def mlp(activation: str) -> Build:
    return lambda x, w, b, v, c: ft.linear(ACTIVATIONS[activation](ft.linear(x, w, b)), v, c)


def mlp_shapes(tokens: int, width: int, hidden: int) -> Shapes:
    return (tokens, width), (hidden, width), (hidden,), (width, hidden), (width,)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_and_activation_are_one_launch(activation: str) -> None:
    build = lambda x, w, b: ACTIVATIONS[activation](ft.linear(x, w, b))  # noqa: E731
    schedule = plan(build, mlp_shapes(TOKENS, WIDTH, HIDDEN)[:3])
    assert len(schedule.launches) == 1 and len(schedule.launches[0].writes) == 1


def test_relu_keeps_nothing_besides_its_result() -> None:
    schedule = plan(mlp("relu"), mlp_shapes(TOKENS, WIDTH, HIDDEN), training=True)
    assert max(len(launch.writes) for launch in schedule.launches[:4]) == 1
    assert not any(TOKENS * HIDDEN == s.nbytes for launch in schedule.launches for s in launch.writes)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_training_an_mlp(activation: str) -> None:
    """Six products. The first keeps the pre-activation; the one that computes the pre-activation's gradient applies the
    derivative and begins the bias's gradient, so that neither is read again but by products."""
    schedule = plan(mlp(activation), mlp_shapes(TOKENS, WIDTH, HIDDEN), training=True)
    assert len(products(schedule)) == 6
    first, derivative = (launch for launch in schedule.launches if "matmul" in launch.label and len(launch.writes) == 2)
    assert [s.nbytes for s in first.writes] == [TOKENS * HIDDEN * 2] * 2
    partial = TOKENS // SUM_ROWS * HIDDEN * 4
    assert sorted(s.nbytes for s in derivative.writes) == [partial, TOKENS * HIDDEN * 2]
    assert others(schedule) == ["sum"], "of the output's gradient, which no product here computes"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("tokens", [40, 64, 65, 130, 200])
def test_mlp_values(activation: str, tokens: int) -> None:
    check(mlp(activation), mlp_shapes(tokens, 24, 80))


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_mlp_dtypes(dtype: str) -> None:
    check(mlp("gelu"), mlp_shapes(150, 24, 72), dtype=dtype)
