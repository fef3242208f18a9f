"""Planned memory of a training step, without a GPU and without allocating: `python -m bench.memory [blocks|flux]`.

blocks: 12 transformer blocks (bench/transformer.py) under memory budgets. flux: options for a model of Flux-dev's size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flame_triton as ft
from flame_triton import Value
from flame_triton.errors import OutOfMemoryError
from flame_triton.graph.cost import flops
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.execute import planned_bytes
from flame_triton.runtime.fit import limit_of
from flame_triton.runtime.lower import lower

from .transformer import Sizes, Transformer, loss_of

FRACTIONS = (1.0, 0.7, 0.5, 0.35, 0.25)
GIB = 1 << 30


@dataclass(frozen=True)
class Planned:
    """What a plan says. operations: of its products; peak: of a whole step, state included."""

    arena: int
    state: int
    peak: int
    launches: int
    operations: int
    seconds: float


class Step:
    """Loss, gradients and updates of a model, as graphs."""

    def __init__(self, inputs: Sequence[Value], loss: Value, weights: Sequence[Value], optimizer: Any) -> None:
        self.graph = Graph(tuple(inputs), (loss,))
        self.state = [*weights, *optimizer.state_values]
        self.updates = optimizer.updates(ft.grad(loss, list(weights)))

    def plan(self, budget: float | int | None = None) -> Planned:
        """The plan under a budget. Raises OutOfMemoryError if it is out of reach."""
        started = time.perf_counter()
        held = sum(-(-v.type.nbytes // 512) * 512 for v in self.state)
        limit = None if budget is None else limit_of(budget, self.graph.outputs, held)
        schedule = lower(self.graph, self.updates, Target(), limit=limit)
        parts = dict(planned_bytes(schedule, self.graph.outputs, held))
        nodes = dict.fromkeys(launch.node for launch in schedule.launches)
        return Planned(
            parts["arena"], held, sum(parts.values()), len(schedule.launches), sum(map(flops, nodes)),
            time.perf_counter() - started,
        )  # fmt: skip


def transformer_step(sizes: Sizes, **options: Any) -> Step:
    """A step of bench/transformer.py with AdamW."""
    model = Transformer(sizes)
    shape = (sizes.batch, sizes.tokens, sizes.width)
    x, target = (ft.input(shape, "float32", name=n) for n in ("x", "target"))
    condition = ft.input((sizes.batch, sizes.width), "float32", name="condition")
    weights = model.parameters()
    loss = loss_of(model, x, condition, target)
    return Step([x, condition, target], loss, weights, ft.optim.AdamW(weights, 1e-4, **options))


def blocks(layers: int) -> None:
    """A table: peak of the values of a step against the operations that recomputing adds."""
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("one update at the end", {}),
        ("updates inside the backward pass", {"fused_backward": True}),
    )
    for title, options in cases:
        step = transformer_step(Sizes(layers=layers, weights="bfloat16"), rounding="stochastic", **options)
        first = step.plan()
        print(f"\n{layers} blocks, bfloat16 weights, {title}")
        print("budget   values GiB   peak GiB   operations   launches   planning s")
        for part in FRACTIONS:
            try:
                made = step.plan(part)
            except OutOfMemoryError as error:
                print(f"{part:6.2f}   {str(error).splitlines()[0]}")
                continue
            print(
                f"{part:6.2f}   {made.arena / GIB:10.2f}   {made.peak / GIB:8.2f}   "
                f"{100 * (made.operations / first.operations - 1):+9.1f}%   {made.launches:8}   {made.seconds:10.1f}"
            )


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("blocks",), default="blocks")
    parser.add_argument("--layers", type=int, default=12)
    arguments = parser.parse_args()
    blocks(arguments.layers)


if __name__ == "__main__":
    main()
