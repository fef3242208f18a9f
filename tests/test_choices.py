"""Problems and the configurations that are known for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flame_triton as ft
from flame_triton.graph.pipeline import optimise
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.choices import Problem
from flame_triton.runtime.lower import Lowering
from flame_triton.runtime.tables import Tables, shipped

H200 = Target(90)


def _sums(*widths: int) -> Graph:
    inputs = tuple(ft.input((1, width), "float32") for width in widths)
    return optimise(Graph(inputs, tuple(ft.sum(x, axis=1) for x in inputs)), target=H200)


def test_equal_sources_of_other_sizes_are_other_problems() -> None:
    """Found by a random graph on a GPU: rows of 8 and of 2 have one source, for no mask says how many there are; a tile
    measured for one read beyond the end of the other."""
    made = Lowering(_sums(8, 2), H200)
    first, second = made.launches
    assert first.kernel.source == second.kernel.source, "else this test proves nothing"
    assert len({d.problem for d in made.decisions}) == 2


def test_shipped_configurations_are_candidates() -> None:
    """Whatever a table says is among what the family itself would try."""
    tables = Tables("NVIDIA H200", "3.6.0", None, shipped("NVIDIA H200", "3.6.0"))
    asked: list[tuple[Any, Sequence[Any]]] = []

    class Watched:
        def find(self, problem: Problem, candidates: Callable[[], Sequence[Any]]) -> tuple[Any, str] | None:
            found = tables.find(problem, candidates)
            if found is not None:
                asked.append((found[0], candidates()))
            return found

        confirm = tables.confirm

    Lowering(_sums(8, 2, 4, 16, 32, 4096, 3072), H200, Watched())
    assert asked, "the table knows none of them: this test proves nothing"
    assert all(config in candidates for config, candidates in asked)
