"""Recomputation under a memory budget: the same bits, the planned peak, what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import flame_triton as ft
from flame_triton import nn
from flame_triton.errors import ArgumentError, OutOfMemoryError
from flame_triton.graph.cost import flops
from flame_triton.graph.evaluate import evaluate
from flame_triton.graph.memory import plan_memory, verify_plan
from flame_triton.graph.pipeline import optimise
from flame_triton.graph.plan import Target
from flame_triton.graph.remat import Recomputation
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import Value
from flame_triton.runtime import buffers
from flame_triton.runtime.buffers import MemoryInfo
from flame_triton.runtime.fit import limit_of
from flame_triton.runtime.lower import lower

ROWS, WIDTH = 48, 16
KERNELS = "interpreter" if ft.config.interpreted() else "cuda"


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Value) -> Value:
        return x + self.down(ft.gelu(self.up(ft.layer_norm(x, x.shape[-1:]))))


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Value) -> Value:
        heads = [
            ft.transpose(ft.reshape(p, (1, *x.shape[:1], 2, -1)), (0, 2, 1, 3)) for p in ft.chunk(self.qkv(x), 3, 1)
        ]
        y = ft.scaled_dot_product_attention(*heads)
        return x + self.out(ft.reshape(ft.transpose(y, (0, 2, 1, 3)), x.shape))


class Step:
    """Loss, gradients and SGD's updates of a stack of blocks."""

    def __init__(self, layers: int, attention: bool = False, drop: float = 0.0, dtype: str = "float32") -> None:
        blocks = [m for _ in range(layers) for m in ([Attention(WIDTH)] if attention else []) + [Block(WIDTH)]]
        self.x = ft.input((ROWS, WIDTH), dtype, name="x")
        self.seed = ft.parameter((2,), "int64", name="seed", init=np.array([3, 7])) if drop else None
        value = self.x
        for block in blocks:
            value = block(value)
            if self.seed is not None:
                value = ft.dropout(value, drop, seed=self.seed)
        self.weights = [p for block in blocks for p in block.parameters()]
        self.loss = ft.mean(value * value)
        self.grads = ft.grad(self.loss, self.weights)
        self.updates = {w: w - 0.1 * g for w, g in zip(self.weights, self.grads, strict=True)}

    def run(self, budget: float | int | None, steps: int = 2) -> tuple[list[np.ndarray], int]:
        state = ft.State(self.weights + ([self.seed] if self.seed is not None else []), seed=5, device=KERNELS)
        program = ft.compile(
            [self.loss], [self.x], state=state, updates=self.updates, device=KERNELS, memory_budget=budget
        )
        x = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
        results = [program(x)[0].cpu().numpy() for _ in range(steps)]
        return [*results, *(state[w] for w in self.weights)], program.peak_bytes


def same(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("attention", [False, True])
def test_recomputed_values_are_the_same_bits(attention: bool) -> None:
    step = Step(3, attention)
    plain, most = step.run(None)
    less, peak = step.run(0.8)
    assert peak < most
    assert same(plain, less)


def test_random_draws_are_repeated() -> None:
    step = Step(3, drop=0.3)
    plain, _ = step.run(None)
    less, _ = step.run(0.85)
    assert same(plain, less)


def fused(step: Step, target: Target | None = None) -> Graph:
    return optimise(Graph((step.x,), (step.loss, *step.grads)), target=target or Target())


def test_the_recomputed_graph_is_the_same_function_in_float64() -> None:
    step = Step(4)
    graph = fused(step)
    search = Recomputation(graph)
    search.reduce(0)
    made = search.graph()
    assert search.again
    assert len(made.nodes) > len(graph.nodes)
    rng = np.random.default_rng(1)
    feeds = {n.out: rng.standard_normal(n.type.shape) for n in graph.nodes if n.op.name in ("input", "parameter")}
    for a, b in zip(evaluate(graph.outputs, feeds), evaluate(made.outputs, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=0)


@pytest.mark.parametrize("layers", [4, 12])
def test_the_live_bytes_are_those_of_the_graph(layers: int) -> None:
    """`live` after each reduction equals what a walk over the finished graph counts."""
    search = Recomputation(fused(Step(layers)))
    for part in (0.9, 0.7, 0.5):
        search.reduce(int(search.peak * part))
        again = Recomputation(search.graph())
        assert again.peak <= search.peak


def test_blocks_are_recomputed_one_at_a_time() -> None:
    """With equal blocks, what stays is the input of each block, so memory falls to a small part."""
    step = Step(12)
    search = Recomputation(Graph((step.x,), optimise(Graph((step.x,), (step.loss, step.grads[0]))).outputs))
    before = search.peak
    search.reduce(0)
    assert search.peak < 0.4 * before
    assert search.flops < 0.34 * sum(map(flops, search.nodes))  # a forward pass is a third of a step


def test_the_plan_keeps_to_a_budget_in_bytes() -> None:
    step = Step(6)
    _, most = step.run(None, 1)
    budget = int(most * 0.93)
    _, peak = step.run(budget, 1)
    assert peak <= budget


def test_plans_with_recomputation_are_sound() -> None:
    step = Step(6, attention=True)
    graph = Graph((step.x,), (step.loss,))
    schedule = lower(graph, step.updates, Target(), limit=limit_of(0.8, graph.outputs, 0))
    plan_memory(schedule)
    verify_plan(schedule)


def test_a_budget_out_of_reach_is_refused_with_the_values_in_the_way() -> None:
    with pytest.raises(OutOfMemoryError, match="memory_budget leaves") as caught:
        Step(2).run(1000)
    assert "What would help: a smaller batch" in str(caught.value)
    assert "test_remat.py" in str(caught.value)


def test_what_does_not_fit_is_refused_when_it_is_compiled(monkeypatch) -> None:
    monkeypatch.setattr(buffers, "memory_info", lambda memory: MemoryInfo(1024, 1 << 30))
    with pytest.raises(OutOfMemoryError, match=f"the program does not fit on {KERNELS}") as caught:
        Step(2).run(None)
    assert "1,024 B are available" in str(caught.value) and "recomputation (memory_budget=" in str(caught.value)


@pytest.mark.parametrize("budget", [0.0, 1.5, -3, 0, True, "1"])
def test_budgets_that_mean_nothing_are_refused(budget: object) -> None:
    with pytest.raises(ArgumentError, match="memory_budget"):
        Step(1).run(budget)  # type: ignore[arg-type]
