"""The passes in order. Each is a function from Graph to Graph; `optimise` runs them up to a stage."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager

from ..errors import ArgumentError
from ..ir.graph import Graph
from .batch import batch
from .decompose import decompose
from .fuse import fuse
from .join import join
from .legalise import legalise
from .placement import place
from .plan import Target
from .simplify import simplify
from .sums import gather_sums

STAGES = ("build", "simplify", "decompose", "placement", "legalise", "fuse")


def optimise(
    graph: Graph,
    *,
    stage: str = "fuse",
    target: Target | None = None,
    dump: Callable[[str, Graph], None] | None = None,
) -> Graph:
    """`graph` after the passes up to and including `stage` (one of STAGES).

    target: what legalise and fuse may assume; default an sm_90 device. dump: called with the name of each stage and
    the graph after it.
    """
    if stage not in STAGES:
        raise ArgumentError(f"unknown stage {stage!r}; stages are {', '.join(STAGES)}")
    target = target or Target()
    passes: list[tuple[str, Callable[[Graph], Graph]]] = [
        ("simplify", simplify),
        ("decompose", lambda g: simplify(join(simplify(decompose(g, keep=("concat",)))))),
        ("placement", _placed),
        ("legalise", lambda g: gather_sums(batch(simplify(legalise(g, target))))),
        ("fuse", lambda g: fuse(g, target)),
    ]
    with without_collection():
        if dump:
            dump("build", graph)
        for name, run in passes[: STAGES.index(stage)]:
            graph = run(graph)
            if dump:
                dump(name, graph)
    return graph


def _placed(graph: Graph) -> Graph:
    moved = place(graph)
    return graph if moved is graph else simplify(moved)


@contextmanager
def without_collection() -> Generator[None, None, None]:
    """No garbage collection inside: passes make many nodes and drop none, and walking them over and over doubles their
    cost."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
