"""What the tests of the Hopper matmul share: products in every layout, and a lowering with a chosen configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flame_triton as ft
from flame_triton.graph.pipeline import optimise
from flame_triton.graph.plan import Launch, Target
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import Value
from flame_triton.kernels.hopper.matmul_configs import HopperConfig
from flame_triton.runtime.choices import Config, Decision, Problem
from flame_triton.runtime.lower import Lowering

TARGET = Target(arch=90)


@dataclass(frozen=True)
class Product:
    """[batch,] M x K by K x N; layout: "n" or "t" for each operand, as it is stored; epilogue: see `graph`."""

    M: int
    N: int
    K: int
    layout: str = "nt"
    batch: int = 0
    dtype: str = "bfloat16"
    epilogue: str = "none"

    def leaves(self) -> list[Value]:
        """a, b, and what the epilogue reads."""
        lead = (self.batch,) if self.batch else ()
        a = (self.M, self.K) if self.layout[0] == "n" else (self.K, self.M)
        b = (self.K, self.N) if self.layout[1] == "n" else (self.N, self.K)
        shapes = [(*lead, *a), (*lead, *b)]
        if self.epilogue != "none":
            shapes += [(self.N,), (*lead, self.M, self.N)]
        return [ft.input(shape, self.dtype, name=f"x{i}") for i, shape in enumerate(shapes)]

    def results(self, leaves: Sequence[Value]) -> list[Value]:
        """The product; "gate": bias, gelu and a residual; "save": that of gelu's argument as well; "wide": float32."""
        a, b, *more = leaves
        y = (a if self.layout[0] == "n" else ft.swapaxes(a, -1, -2)) @ (
            b if self.layout[1] == "n" else ft.swapaxes(b, -1, -2)
        )
        if self.epilogue == "none":
            return [y]
        bias, residual = more
        y = y + bias
        if self.epilogue == "wide":
            return [ft.cast(y, "float32") + ft.cast(residual, "float32")]
        active = residual + ft.gelu(y, approximate="tanh")
        return [active, y] if self.epilogue == "save" else [active]

    def graph(self) -> Graph:
        """Optimised for sm_90."""
        leaves = self.leaves()
        return optimise(Graph(tuple(leaves), tuple(self.results(leaves))), target=TARGET)


class Forced:
    """Choices that give a matmul one configuration; `seen` collects the candidates."""

    def __init__(self, config: HopperConfig | None = None) -> None:
        self.config = config
        self.seen: list[Config] = []

    def find(self, problem: Problem, candidates: Callable[[], Sequence[Config]]) -> tuple[Any, str] | None:
        """The configuration, whatever the matmul."""
        if problem.family != "matmul":
            return None
        self.seen = list(candidates())
        return None if self.config is None else (self.config, "forced")

    def confirm(self, decision: Decision, launches: Sequence[Launch]) -> bool:
        """What is forced is never stale."""
        return True


def lowered(graph: Graph, config: HopperConfig | None = None, target: Target = TARGET) -> Lowering:
    """The lowering of an optimised graph, its matmuls with this configuration."""
    return Lowering(graph, target, Forced(config))


CONFIGS = {
    "cooperative": HopperConfig(64, 256, 64, 4, 8, 128, 32, False, False),
    "cooperative, cut": HopperConfig(64, 256, 64, 4, 8, 128, 32, False, True),
    "tall": HopperConfig(128, 128, 64, 4, 8, 64, 32, False, True),
    "three consumers": HopperConfig(64, 128, 64, 4, 3, 128, 32, False, False, 3),
    "three consumers, cut": HopperConfig(64, 128, 64, 4, 3, 128, 32, False, True, 3),
    "ping-pong": HopperConfig(128, 128, 64, 4, 8, 64, 32, True, False),
    "ping-pong, cut": HopperConfig(128, 128, 64, 4, 8, 64, 32, True, True),
    "small ping-pong": HopperConfig(64, 64, 64, 4, 1, 64, 32, True, False),
}
