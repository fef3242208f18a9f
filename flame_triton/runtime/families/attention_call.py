"""An attention node on its way to launches: its sizes, and its operands as the kernels take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...graph.plan import Argument
from ...ir.node import Node, Value
from ...kernels.portable.attention_configs import Problem

if TYPE_CHECKING:
    from ..lower import Lowering


class Call:
    """One attention node on its way to launches: its sizes, and its operands as the kernels take them."""

    def __init__(self, lowering: Lowering, node: Node) -> None:
        self.lowering, self.node = lowering, node
        q, k, v = node.inputs[:3]
        (batch, heads, rows, width), (_, kv_heads, keys, _) = q.shape, k.shape
        self.problem = Problem(batch, heads, kv_heads, rows, keys, width, v.shape[-1], q.dtype.name)
        names: Sequence[str] = node.attrs["extras"]
        given = zip(names, node.inputs[len(node.inputs) - len(names) :], strict=True)
        self.extras = {name: self.whole(value) for name, value in given}

    def facts(self, kernel: str) -> dict[str, Any]:
        """What `choose` tells problems apart by."""
        attrs = self.node.attrs
        return {
            **asdict(self.problem), "kernel": kernel, "band": attrs["band"], "extras": sorted(self.extras),
            "dropout": attrs["dropout"] > 0,
        }  # fmt: skip

    @property
    def band(self) -> int:
        """0 for no band, 1 for an upper bound alone, 2 for both."""
        low, high = self.node.attrs["band"]
        return 2 if low is not None else 1 if high is not None else 0

    @property
    def bounds(self) -> tuple[int, int]:
        """(low, high) of the band; a bound that is not there excludes nothing."""
        low, high = self.node.attrs["band"]
        return low or 0, self.problem.L + self.problem.S if high is None else high

    def whole(self, value: Value) -> tuple[Any, ...]:
        """(pointer, strides), 0 along axes of size 1."""
        operand, strides = self.lowering.strided(value)
        if not value.size:  # never read, but the interpreter wants some memory
            operand, _ = self.lowering.strided(next(v for v in self.node.inputs if v.size))
        return operand, *(0 if d == 1 else s for d, s in zip(value.shape, strides, strict=True))

    def tensor(self, value: Value) -> tuple[Any, ...]:
        """(pointer, strides) without the last, which is 1."""
        return self.whole(value)[:-1]

    def saved(self) -> list[Argument]:
        """q, k, v, g (stored rows first, taken heads first), lse and delta of a backward node."""
        q, k, v, g, lse, delta = self.node.inputs[:6]
        pointer, b, m, h = self.tensor(g)
        return [*map(self.tensor, (q, k, v)), (pointer, b, h, m), self.whole(lse), self.whole(delta)]
