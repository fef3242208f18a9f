"""A handful of small problems that take the Hopper kernels, for tests/sanitize.py: every kernel, with tails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hopper import CONFIGS, Forced, Product

import flame_triton as ft
from flame_triton import Value
from flame_triton.graph.plan import Schedule, Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.choices import Choices
from flame_triton.runtime.lower import lower

FORWARD = ("hopper attention",)
BOTH = ("hopper attention", "hopper attention backward")


@dataclass(frozen=True, eq=False)
class Problem:
    """A graph and arrays for its inputs. takes: labels that its launches must have."""

    name: str
    graph: Graph
    arrays: list[Any]
    takes: tuple[str, ...]
    choices: Choices | None = None
    deterministic: bool = True

    def schedule(self, target: Target) -> Schedule:
        """Raises AssertionError if another kernel were chosen."""
        made = lower(self.graph, {}, replace(target, deterministic=self.deterministic), self.choices)
        labels = labels_of(made)
        assert set(self.takes) <= set(labels), f"{self.name} takes {labels}, not {', '.join(self.takes)}"
        return made


def labels_of(schedule: Schedule) -> list[str]:
    """Of the launches, without what is fused into each."""
    return [launch.label.partition(" + ")[0] for launch in schedule.launches]


def problems() -> Iterator[Problem]:
    """Attention over head sizes, tails, masks and layouts; then products in every layout and kind of configuration."""
    rng = np.random.default_rng(0)
    yield from _attention(rng)
    kinds = [("nt", "none", 0), ("nn", "save", 0), ("tn", "gate", 0), ("tt", "wide", 0), ("nt", "none", 3)]
    for i, (name, config) in enumerate(CONFIGS.items()):
        layout, epilogue, batch = kinds[i % len(kinds)]
        # not multiples of any tile; rows of a multiple of 16 bytes, as TMA needs them
        product = Product(200, 264, 328, layout, batch, "bfloat16", epilogue)
        leaves = product.leaves()
        graph = Graph(tuple(leaves), tuple(product.results(leaves)))
        arrays = [rng.standard_normal(v.shape) for v in leaves]
        yield Problem(f"product {name}, {layout}, {epilogue}", graph, arrays, ("hopper matmul",), Forced(config))


def _attention(rng: np.random.Generator) -> Iterator[Problem]:
    def problem(
        name: str, shapes: list[tuple[int, ...]], call: Callable[..., Value], takes: tuple[str, ...] = BOTH,
        deterministic: bool = True,
    ) -> Problem:  # fmt: skip
        inputs = [ft.input(shape, "bfloat16") for shape in shapes]
        y = call(*inputs)
        outputs = [y]
        if takes is BOTH:
            outputs += ft.grad(ft.sum(ft.cast(y, "float32")), inputs)
        arrays = [rng.standard_normal(shape) for shape in shapes]
        return Problem(f"attention {name}", Graph(tuple(inputs), tuple(outputs)), arrays, takes, None, deterministic)

    attend: Any = ft.scaled_dot_product_attention

    def causal(q: Value, k: Value, v: Value) -> Value:
        return attend(q, k, v, is_causal=True)

    def packed(qkv: Value) -> Value:
        return attend(*(ft.transpose(qkv[:, :, i], (0, 2, 1, 3)) for i in range(3)))

    for width in (64, 128):
        q, k = (1, 2, 129, width), (1, 2, 190, width)
        yield problem(f"129 x 190 x {width}", [q, k, k], attend)
        yield problem(f"causal 129 x 129 x {width}", [q, q, q], causal)
        yield problem(f"with a bias, 129 x 190 x {width}", [q, k, k, (1, 1, 129, 190)], attend)
        yield problem(f"of one packed array, 77 x 77 x {width}", [(2, 77, 3, 2, width)], packed)
    yield problem("in any order, 129 x 190 x 128", [(1, 2, 129, 128), *2 * [(1, 2, 190, 128)]], attend,
                  deterministic=False)  # fmt: skip
    yield problem("72 channels, 65 x 65", [(1, 3, 65, 72)] * 3, attend)
    yield problem("shared heads, 129 x 100 x 64", [(1, 4, 129, 64), *2 * [(1, 2, 100, 64)]],
                  lambda q, k, v: attend(q, k, v, enable_gqa=True))  # fmt: skip
    yield problem("256 channels, 129 x 190, forward", [(1, 2, 129, 256), *2 * [(1, 2, 190, 256)]], attend, FORWARD)
