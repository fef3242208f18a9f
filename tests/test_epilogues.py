"""What is fused into a product: the launches, the bytes they move, and the numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import flame_triton as ft
from flame_triton import config, nn, optim
from flame_triton.graph.plan import SUM_ROWS, Launch, Schedule, Target
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import Value
from flame_triton.runtime.lower import lower

DEVICE = "interpreter" if config.interpreted() else "cuda"
TOKENS, WIDTH, HIDDEN = 4608, 3072, 12288

Build = Callable[..., Value]
Shapes = Sequence[tuple[int, ...]]


def plan(build: Build, shapes: Shapes, *, training: bool = False, dtype: str = "bfloat16") -> Schedule:
    """The schedule for an H200 of build(inputs), with the gradients of all inputs if training."""
    inputs, outputs = graph_of(build, shapes, training, dtype)
    return whole(lower(Graph(tuple(inputs), tuple(outputs)), {}, Target(arch=90)))


def whole(schedule: Schedule) -> Schedule:
    """Without the launches that only finish the last tiles of a product."""
    schedule.launches = [launch for launch in schedule.launches if "cut tiles" not in launch.label]
    return schedule


def results(launch: Launch) -> list[int]:
    """Bytes of each result, workspaces apart."""
    return sorted(s.nbytes for s in launch.writes if s.value is not None)


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
    assert len(schedule.launches) == 1 and len(results(schedule.launches[0])) == 1


def test_relu_keeps_nothing_besides_its_result() -> None:
    schedule = plan(mlp("relu"), mlp_shapes(TOKENS, WIDTH, HIDDEN), training=True)
    assert max(len(results(launch)) for launch in schedule.launches[:4]) == 1
    assert not any(TOKENS * HIDDEN in results(launch) for launch in schedule.launches)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_training_an_mlp(activation: str) -> None:
    """Six products. The first keeps the pre-activation; the one that computes the pre-activation's gradient applies the
    derivative, for which it reads that array: summing columns beside it would cost more than reading the result."""
    schedule = plan(mlp(activation), mlp_shapes(TOKENS, WIDTH, HIDDEN), training=True)
    assert len(products(schedule)) == 6
    (first,) = (launch for launch in schedule.launches if "matmul" in launch.label and len(results(launch)) == 2)
    assert results(first) == [TOKENS * HIDDEN * 2] * 2
    (derivative,) = (x for x in schedule.launches if "mul" in x.label.partition("+")[2])
    assert results(derivative) == [TOKENS * HIDDEN * 2]
    assert others(schedule) == ["sum", "sum"], "of the output's gradient, and of the pre-activation's"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("tokens", [40, 64, 65, 130, 200])
def test_mlp_values(activation: str, tokens: int) -> None:
    check(mlp(activation), mlp_shapes(tokens, 24, 330))


@pytest.mark.parametrize("tokens", [130, 192])
def test_interpreted_kernels_sum_too(tokens: int) -> None:
    inputs, outputs = graph_of(mlp("relu"), mlp_shapes(tokens, 24, 330), True, "float32")
    labels = products(lower(Graph(tuple(inputs), tuple(outputs)), {}, Target(interpreted=True)))
    assert any(label.endswith("sum") for label in labels), labels


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_mlp_dtypes(dtype: str) -> None:
    check(mlp("gelu"), mlp_shapes(150, 24, 72), dtype=dtype)


# ---- gated units -----------------------------------------------------------------------------------------------


def gated_unit(function: Callable[[Value], Value]) -> Build:
    return lambda x, w, b, v: ft.linear(function(ft.linear(x, w, b)), v)


def gated_unit_shapes(tokens: int, width: int, hidden: int) -> Shapes:
    return (tokens, width), (2 * hidden, width), (2 * hidden,), (width, hidden)


GATES = {"geglu": ft.geglu, "swiglu": ft.swiglu, "reglu": ft.reglu}


@pytest.mark.parametrize("name", GATES)
def test_the_gradient_of_both_halves_is_one_launch(name: str) -> None:
    """Stored side by side, as the next two products read it, with the bias's sums: no pass over it besides."""
    schedule = plan(gated_unit(GATES[name]), gated_unit_shapes(TOKENS, WIDTH, HIDDEN), training=True)
    assert len(products(schedule)) == 6 and len(others(schedule)) == 1
    both = next(launch for launch in schedule.launches if "matmul +" in launch.label)
    partial = TOKENS // SUM_ROWS * 2 * HIDDEN * 4
    assert results(both) == [partial, TOKENS * 2 * HIDDEN * 2]


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("tokens", [30, 129, 192])
def test_gated_unit_values(name: str, tokens: int) -> None:
    check(gated_unit(GATES[name]), gated_unit_shapes(tokens, 24, 330))


def test_gated_unit_dtypes() -> None:
    check(gated_unit(ft.geglu), gated_unit_shapes(150, 24, 72), dtype="bfloat16")


# ---- gates, residuals, casts, layouts --------------------------------------------------------------------------


def gated(x: Value, w: Value, b: Value, gate: Value, rest: Value) -> Value:
    return rest + gate * ft.linear(x, w, b)


def gated_shapes(batch: int, tokens: int, width: int) -> Shapes:
    return (batch, tokens, width), (width, width), (width,), (batch, 1, width), (batch, tokens, width)


def test_gate_and_residual_are_one_launch() -> None:
    assert len(plan(gated, gated_shapes(2, TOKENS // 2, WIDTH)).launches) == 1
    schedule = plan(gated, gated_shapes(2, TOKENS // 2, WIDTH), training=True)
    assert len(products(schedule)) == 3
    assert len(others(schedule)) == 1, "gate, its gradient and the bias's in one pass over the gradient and the product"


def test_gate_and_residual_values() -> None:
    check(gated, gated_shapes(2, 75, 40))


def test_accumulating_is_one_launch_in_place() -> None:
    def build(total: Value, dy: Value, x: Value) -> Value:
        return total + (dy.T @ x).astype(total.dtype)

    total, dy, x = ft.parameter((96, 40)), ft.input((130, 96), "float32"), ft.input((130, 40))
    new = build(total, dy, x)
    schedule = lower(Graph((dy, x), ()), {total: new}, Target(arch=90))
    assert [launch.label for launch in schedule.launches] == ["matmul + add"]
    assert schedule.launches[0].writes[0].root is schedule.state[total] and not schedule.updates
    check(build, [(96, 40), (130, 96), (130, 40)], training=False)


def test_gradients_of_two_batches_are_summed_by_the_second_product() -> None:
    def build(x: Value, dy: Value, u: Value, dv: Value) -> Value:
        return (dy.T @ x).astype("float32") + (dv.T @ u).astype("float32")

    shapes = [(TOKENS, WIDTH), (TOKENS, HIDDEN)] * 2
    schedule = plan(build, shapes)
    assert [launch.label.removeprefix("hopper ") for launch in schedule.launches] == ["matmul", "matmul + add"]
    check(build, [(70, 24), (70, 40)] * 2, training=False)


def test_the_result_is_stored_in_another_dtype() -> None:
    schedule = plan(lambda x, w: ft.linear(x, w).astype("float32"), [(TOKENS, WIDTH), (WIDTH, WIDTH)])
    assert len(schedule.launches) == 1 and schedule.outputs[0].nbytes == TOKENS * WIDTH * 4


def heads(x: Value, w: Value, b: Value) -> Value:
    batch, tokens, width = x.shape
    y = ft.linear(x, w, b).reshape((batch, tokens, 3, 4, width // 4))
    return y.transpose((2, 0, 3, 1, 4))


def test_heads_are_stored_by_the_projection() -> None:
    shapes = [(2, TOKENS // 2, WIDTH), (3 * WIDTH, WIDTH), (3 * WIDTH,)]
    assert len(plan(heads, shapes).launches) == 1
    check(heads, [(2, 37, 24), (72, 24), (72,)])


def test_dropout_and_residual_are_one_launch() -> None:
    seed = ft.rng_seed(3)
    build = lambda x, w, b, r: r + ft.dropout(ft.linear(x, w, b), 0.25, seed)  # noqa: E731
    x, w, b, r = (ft.input(s) for s in [(130, 24), (40, 24), (40,), (130, 40)])
    schedule = lower(Graph((x, w, b, r), (build(x, w, b, r),)), {}, Target(arch=90))
    assert len(schedule.launches) == 1
    check(build, [(130, 24), (40, 24), (40,), (130, 40)])


# ---- a whole step ----------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A block of a diffusion transformer: adaLN, attention with qk-norm, MLP, each with gate and residual."""

    def __init__(self, width: int, heads: int) -> None:
        self.norm = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.attention = nn.Attention(width, heads, qk_norm=True)
        self.mlp = nn.MLP(width, 4 * width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Value, condition: Value) -> Value:
        batch, _, width = x.shape
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = ft.chunk(self.modulation(condition), 6, 1)
        gates = [g.reshape((batch, 1, width)) for g in (gate_1, gate_2)]
        x = x + gates[0] * self.attention(nn.modulate(self.norm(x), shift_1, scale_1))
        return x + gates[1] * self.mlp(nn.modulate(self.norm(x), shift_2, scale_2))


def training_step(blocks: int) -> Schedule:
    """Mean squared error, clipping, AdamW; bfloat16 with float32 weights; lowered for an H200."""
    x, target = (ft.input((2, TOKENS // 2, WIDTH), "bfloat16") for _ in range(2))
    condition = ft.input((2, WIDTH), "bfloat16")
    layers = [Block(WIDTH, 24) for _ in range(blocks)]
    y, embedded = x, ft.silu(condition)
    for layer in layers:
        y = layer(y, embedded)
    difference = y.astype("float32") - target.astype("float32")
    loss = ft.mean(difference * difference)
    parameters = [p for layer in layers for p in layer.parameters()]
    updates = optim.AdamW(parameters, 1e-3, clip_norm=1.0).updates(ft.grad(loss, parameters))
    return whole(lower(Graph((x, condition, target), (loss,)), updates, Target(arch=90)))


def kinds(schedule: Schedule) -> Counter[str]:
    def kind(label: str) -> str:
        if "matmul" in label:
            return "product"
        if "attention" in label or label.startswith("foreach"):
            return "attention" if "attention" in label else "foreach"
        return "last sums" if label == "sum" or label.startswith("column sums") else "rows and columns"

    return Counter(kind(launch.label) for launch in schedule.launches)


def test_launches_of_a_training_step() -> None:
    """What one more block adds. A change here is a change of speed: say why in the commit that makes it."""
    two, three = kinds(training_step(2)), kinds(training_step(3))
    added = {kind: three[kind] - two[kind] for kind in three}
    assert added == {"product": 14, "attention": 4, "rows and columns": 9, "last sums": 3, "foreach": 0}


COMPILE = """
import dataclasses, json, sys
sys.path.insert(0, sys.argv[1])
import flame_triton as ft
from flame_triton.graph.plan import Target
from flame_triton.runtime.ahead import compile_ahead
from flame_triton.runtime.lower import lower
from test_epilogues import Graph, gated_unit, gated_unit_shapes, graph_of, mlp, mlp_shapes

target = Target(arch=90)
built = (mlp("silu"), mlp_shapes(4608, 3072, 12288)), (gated_unit(ft.swiglu), gated_unit_shapes(4608, 3072, 12288))
launches = []
for build, shapes in built:
    inputs, outputs = graph_of(build, shapes, True, "bfloat16")
    schedule = lower(Graph(tuple(inputs), tuple(outputs)), {}, target)
    launches += [launch for launch in schedule.launches if "EPILOGUE" in launch.constexprs]
print("REPORTS " + json.dumps([dataclasses.asdict(r) for r in compile_ahead(launches, target)]))
"""


@pytest.mark.slow
def test_epilogues_compile_without_spills() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "FLAME_INTERPRET")}
    environment |= {"FLAME_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", COMPILE, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("REPORTS "))[8:])
    assert any("sum" in kernel["label"] or "etc" in kernel["label"] for kernel in found)
    for kernel in found:
        assert kernel["error"] is None and not kernel["spills"] and not kernel["remarks"], kernel
