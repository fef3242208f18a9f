"""Random graphs over the whole registry: every pass, and the kernels, against float64, forward and backward."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from flame_triton.graph import pipeline
from flame_triton.graph.evaluate import evaluate
from flame_triton.ir.op import OPS, Pointwise
from flame_triton.ops.define import SAMPLED
from flame_triton.testing import check_graph, prove_graphs, random_graph
from flame_triton.testing.graphs import INEXACT, by_function

SEEDS = 200
SIZE = 6


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_random_graphs_agree(first: int) -> None:
    """More on demand: flame-triton check --graphs 10000."""
    failed = [f for f in prove_graphs(10, first, SIZE) if f.problem]
    assert not failed, "\n\n".join(f"seed {f.seed}, size {f.size}: {f.problem}\n{f.text}" for f in failed)


def test_the_whole_registry_occurs() -> None:
    """Every function with a floating operand is called, and nearly every op is a node, forward or backward."""
    called: Counter[str] = Counter()
    ops: set[str] = set()
    for seed in range(SEEDS):
        made = random_graph(seed, size=SIZE)
        called.update(made.called)
        ops.update(node.op.name for node in made.graph.nodes)
    missing = set(by_function()) - set(called)
    assert len(missing) <= 0.05 * len(by_function()), sorted(missing)
    assert len(ops) >= 110, f"{len(ops)} ops, without {sorted(set(OPS) - ops)}"


def test_graphs_are_tame_and_repeatable() -> None:
    for seed in range(12):
        made, again = random_graph(seed, size=SIZE), random_graph(seed, size=SIZE)
        assert made.called == again.called
        values = evaluate(made.graph, made.feeds)
        assert all(np.isfinite(v).all() for v in values)
        assert all(np.array_equal(a, b) for a, b in zip(values, evaluate(again.graph, again.feeds), strict=True))
        assert random_graph(seed, size=3).called == made.called[: len(random_graph(seed, size=3).called)]


def test_smooth_graphs_call_no_function_of_the_registry() -> None:
    assert random_graph(3, "float32", 10, whole=False).called == []
    assert set(SAMPLED) >= INEXACT


def test_a_wrong_kernel_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sine that is off by a hair: the first graph that has one fails, with its seed and the fewest moves."""
    right = OPS["sin"]
    wrong = replace(right, name="sine", lowering=Pointwise("(tl.sin({0}) * 1.0001)", 12))
    simplify = pipeline.simplify

    def sabotaged(graph):
        return simplify(graph).rewrite(
            lambda node: (
                type(node)(wrong, node.inputs, node.attrs, node.types, node.loc, node.origin).outputs
                if node.op is right
                else None
            )
        )

    seed = next(s for s in range(100) if any(n.op is right for n in random_graph(s, size=SIZE).graph.nodes))
    check_graph(random_graph(seed, size=SIZE))
    monkeypatch.setattr(pipeline, "simplify", sabotaged)
    (found,) = prove_graphs(1, seed, SIZE)
    assert "through the kernels" in found.problem and "relative RMS error" in found.problem
    assert found.size <= SIZE and " = sin(" in found.text and found.seed == seed


def test_a_pass_that_breaks_the_graph_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(graph, _):
        nodes = [n for n in graph.nodes if n.op.name == "mul"]
        return graph.rewrite(lambda node: (node.inputs[0],) if nodes and node.op.name == "mul" else None)

    monkeypatch.setattr(pipeline, "legalise", careless)
    (found,) = prove_graphs(1, 4, SIZE)
    assert found.problem
