"""Move a concatenation of normalised streams above their norms: concat(f(a), f(b)) becomes f(concat(a, b)).

Joint attention norms the queries of text and of image apart and joins them. Joined first, one kernel reads both
projections, sums the rows, and writes the joined tensor; what differs from stream to stream (the norm's weight) is
joined too, a choice by position. The backward pass of a stream sums its rows again, which it reads anyway.

Before: primitives, and concatenations. After: primitives alone. A concatenation whose parts hold no row reduction, or
were computed in different ways, stays where it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir.graph import Graph
from ..ir.node import Node, Value, derived_from, make
from ..ir.op import Pointwise, Reduce, View, call
from .decompose import decompose

MOST_PARTS = 4


def join(graph: Graph) -> Graph:
    """The graph without concatenations; those of normalised streams stand above the norms."""
    if all(node.op.name != "concat" for node in graph.nodes):
        return graph

    def rule(node: Node) -> tuple[Value, ...] | None:
        if node.op.name != "concat":
            return None
        with derived_from(node):
            found = _Joined().above(node.inputs, node.attrs["axis"])
        return None if found is None else (found,)

    return decompose(graph.rewrite(rule))


class _Joined:
    """One concatenation on its way up."""

    def __init__(self) -> None:
        self._reduced = False
        self._made: dict[tuple[tuple[Value, ...], int], tuple[Value, int]] = {}

    def above(self, parts: Sequence[Value], axis: int) -> Value | None:
        """The parts joined along an axis, as far up as they are computed alike; None unless they are normalised."""
        if len(parts) > MOST_PARTS or not all(v.size for v in parts):
            return None
        found, standing_for = self._find(tuple(parts), axis)
        return found if self._reduced and not standing_for else None

    def _find(self, parts: tuple[Value, ...], axis: int) -> tuple[Value, int]:
        """The joined value, and for how many elements of a row one of its elements stands, 0 above every reduction."""
        known = self._made.get((parts, axis))
        if known is None:
            known = self._alike(parts, axis) or (make("concat", parts, axis=axis).out, 0)
            self._made[parts, axis] = known
        return known

    def _alike(self, parts: tuple[Value, ...], axis: int) -> tuple[Value, int] | None:
        """The joined value computed from joined operands, or None where that cannot be."""
        node = parts[0].node
        if any(v.node.op is not node.op or len(v.node.inputs) != len(node.inputs) for v in parts):
            return None
        match node.op.lowering:
            case Pointwise() if node.op.name == "full":
                same = all(v.node.attrs["value"] == node.attrs["value"] for v in parts)
                return (call("full", _total(parts, axis), node.attrs["value"], node.type.dtype), 0) if same else None
            case Pointwise() if all(v.node.attrs == node.attrs for v in parts) and node.inputs:
                found = [self._find(tuple(v.node.inputs[i] for v in parts), axis) for i in range(len(node.inputs))]
                return make(node.op, [v for v, _ in found], **node.attrs).out, max(n for _, n in found)
            case Reduce() if all(v.node.attrs == node.attrs for v in parts) and axis not in node.attrs["axes"]:
                sources = tuple(v.node.inputs[0] for v in parts)
                if not _fit(sources, axis):
                    return None
                source, _ = self._find(sources, axis)
                self._reduced = True
                return make(node.op, [source], **node.attrs).out, source.size // parts[0].size
            case View():
                return self._view(parts, node, axis)
            case _:
                return None

    def _view(self, parts: tuple[Value, ...], node: Node, axis: int) -> tuple[Value, int] | None:
        sources = tuple(v.node.inputs[0] for v in parts)
        if node.op.name == "transpose" and all(v.node.attrs == node.attrs for v in parts):
            source, n = self._find(sources, node.attrs["axes"][axis])
            return call("transpose", source, node.attrs["axes"]), n
        if node.op.name not in ("reshape", "broadcast_to"):
            return None
        places = {_same_axis(v, axis) for v in parts}
        place = places.pop()
        if places or place is None or not _fit(sources, place):
            return None
        source, n = self._find(sources, place)
        made = call(node.op.name, source, _total(parts, axis))
        return made, n if node.op.name == "reshape" else 0


def _fit(parts: Sequence[Value], axis: int) -> bool:
    """True if the parts can be joined: of one dtype, and of equal sizes but for the axis."""
    sizes = {(v.dtype, v.shape[:axis], v.shape[axis + 1 :]) for v in parts}
    return len(sizes) == 1


def _same_axis(view: Value, axis: int) -> int | None:
    """The axis of a view's operand that is this axis of its result, whole; None if there is none."""
    shape, source = view.shape, view.node.inputs[0].shape
    if view.node.op.name == "broadcast_to":
        place = axis - (len(shape) - len(source))
        return place if place >= 0 and source[place] == shape[axis] else None
    before = math.prod(shape[:axis])
    return next((a for a, d in enumerate(source) if d == shape[axis] and math.prod(source[:a]) == before), None)


def _total(parts: Sequence[Value], axis: int) -> tuple[int, ...]:
    shape = list(parts[0].shape)
    shape[axis] = sum(v.shape[axis] for v in parts)
    return tuple(shape)
