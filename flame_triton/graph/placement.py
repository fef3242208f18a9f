"""Carry the axis order of a kernel's result through the work that follows it.

A convolution computes channels-last, while users write channels-first: around every convolution stands a transpose.
This pass moves those transposes towards the outputs, through pointwise work, reductions and views, until they meet the
transpose in front of the next convolution and cancel (simplify does that). So a convolutional body runs channels-last
from end to end, and copies remain at its borders alone.

Before: primitives (see decompose). After: the same values; what is computed elementwise from a value whose order a
kernel chose is computed in that order, and reductions and views name its axes. Run simplify afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..ir.graph import Graph
from ..ir.node import Node, Value, derived_from, make
from ..ir.op import Kernel, Pointwise, Reduce, View, call
from .legalise import in_blocks

Axes = tuple[int, ...]


def place(graph: Graph) -> Graph:
    """The graph with transposes behind kernels and norms moved towards its outputs."""
    if not any(_orders(node) or _norms_rows(node) for node in graph.nodes):
        return graph
    return graph.rewrite(_Placement().rule)


def _orders(node: Node) -> bool:
    return isinstance(node.op.lowering, Kernel) and node.op.lowering.orders


def _norms_rows(node: Node) -> bool:
    """True for what is computed of whole rows and of a sum (or another reduction) over each, as a norm is."""
    if not isinstance(node.op.lowering, Pointwise) or node.type.ndim < 3:
        return False
    spread = [v.node.inputs[0] for v in node.inputs if v.node.op.name == "broadcast_to"]
    return any(v.shape[-1:] == (1,) and v.ndim == node.type.ndim and _from_rows(v) for v in spread)


def _from_rows(value: Value, depth: int = 6) -> bool:
    """True if the value is a reduction over the last axis, or computed from one number a row."""
    node = value.node
    if isinstance(node.op.lowering, Reduce):
        return node.attrs["axes"] == (value.ndim - 1,)
    return isinstance(node.op.lowering, Pointwise) and depth > 0 and any(_from_rows(v, depth - 1) for v in node.inputs)


class _Placement:
    """ordered: values whose axes stand in an order worth keeping; their logical form is a transpose of them.
    rows: those of them that were normed, whose rows alone are worth keeping whole."""

    def __init__(self) -> None:
        self.ordered: set[Value] = set()
        self.rows: set[Value] = set()
        self._fresh: list[Value] = []

    def rule(self, node: Node) -> tuple[Value, ...] | None:
        if _orders(node):
            self.ordered.update(node.outputs)
            return None
        if _norms_rows(node) and not any(map(self._order, node.inputs)):
            self.ordered.update(node.outputs)
            self.rows.update(node.outputs)
            return None
        found = [o for o in map(self._order, node.inputs) if o is not None]
        if found and found[0][0] in self.rows:
            return self._in_rows(node, *found[0])
        if not found:
            return self._sum_of_rows(node) if node.op.name == "sum" else None
        with derived_from(node):
            match node.op.lowering:
                case Pointwise():
                    return self._pointwise(node, found[0][1])
                case Reduce():
                    return self._reduce(node, *found[0])
                case View():
                    return self._view(node, node.op.lowering, *found[0])
                case _:
                    return None

    def _in_rows(self, node: Node, ordered: Value, axes: Axes) -> tuple[Value, ...] | None:
        """Pointwise work on normed rows, in the order in which they were normed; the gradient of something packed,
        though, keeps the order in which it is packed."""
        wide = [a for a in axes if ordered.shape[a] != 1]
        if not isinstance(node.op.lowering, Pointwise | View) or (wide and wide[-1] != max(wide)):
            return None
        if node.op.name == "pad":
            return None
        with derived_from(node):
            if isinstance(node.op.lowering, Pointwise):
                made = self._pointwise(node, axes)
            else:
                made = self._view(node, node.op.lowering, ordered, axes)
        self.rows.update(v for v in self._fresh if v not in self.rows)
        self._fresh.clear()
        return made

    def _sum_of_rows(self, node: Node) -> tuple[Value, ...] | None:
        """The sum of a reshape of normed rows, in the order in which they were normed: the gradient of a bias, heads
        being merged, from heads that lie apart. The kernel that computes the rows sums them on the way."""
        source = node.inputs[0]
        if source.node.op.name != "reshape":
            return None
        known = self._order(source.node.inputs[0])
        if known is None or known[0] not in self.rows or known[1] == tuple(range(len(known[1]))):
            return None
        ordered, axes = known
        groups = regrouped(tuple(ordered.shape[a] for a in axes), source.shape)
        summed: list[int] = []
        for old, made in groups or ():
            within = [a in node.attrs["axes"] for a in made if source.shape[a] != 1]
            if any(within) and not all(within):
                return None
            summed += old if any(within) else []
        places = tuple(sorted(axes[a] for a in summed))
        if not in_blocks(ordered.shape, places):
            return None
        with derived_from(node):
            total = make("sum", [ordered], axes=places).out
            return (call("reshape", call("transpose", total, axes), node.type.shape),)

    def _order(self, value: Value) -> tuple[Value, Axes] | None:
        """(ordered, axes) if `value` is transpose(ordered, axes), or an ordered value itself."""
        if value in self.ordered:
            return value, tuple(range(value.ndim))
        node = value.node
        if isinstance(node.op.lowering, View) and node.op.lowering.role == "permute" and node.inputs[0] in self.ordered:
            return node.inputs[0], node.attrs["axes"]
        return None

    def _logical(self, ordered: Value, axes: Axes) -> tuple[Value, ...]:
        """The transpose of a newly ordered value."""
        self.ordered.add(ordered)
        self._fresh.append(ordered)
        if axes == tuple(range(len(axes))):
            return (ordered,)
        return (call("transpose", ordered, axes),)

    def _pointwise(self, node: Node, axes: Axes) -> tuple[Value, ...] | None:
        """f(transpose(x), y) = transpose(f(x, transpose^-1(y)))."""
        back = inverse(axes)
        operands: list[Value] = []
        for v in node.inputs:
            known = self._order(v)
            if known is not None and known[1] == axes:
                operands.append(known[0])
            else:
                operands.append(call("transpose", v, back))
        return self._logical(make(node.op, operands, **node.attrs).out, axes)

    def _reduce(self, node: Node, ordered: Value, axes: Axes) -> tuple[Value, ...] | None:
        reduced: Axes = node.attrs["axes"]
        if node.op.name.startswith("arg") and len(reduced) > 1:
            return None  # the index counts in the logical order
        places: Axes = tuple(sorted(axes[a] for a in reduced))
        new = make(node.op, [ordered], **{**node.attrs, "axes": places})
        return self._logical(new.out, axes)

    def _view(self, node: Node, view: View, ordered: Value, axes: Axes) -> tuple[Value, ...] | None:
        if view.role == "permute":
            outer: Axes = node.attrs["axes"]
            return (call("transpose", ordered, reordered(axes, outer)),)
        if view.role == "reshape":
            return self._reshape(ordered, axes, node.type.shape)
        if view.role == "axiswise" and len(node.type.shape) == len(axes):
            attrs: dict[str, Any] = dict(node.attrs)
            for name in view.per_axis:
                attrs[name] = reordered(node.attrs[name], inverse(axes))
            return self._logical(make(node.op, [ordered], **attrs).out, axes)
        return None

    def _reshape(self, ordered: Value, axes: Axes, shape: Axes) -> tuple[Value, ...] | None:
        """Axes may be split where they stand, and merged where they stand side by side in both orders."""
        logical = tuple(ordered.shape[a] for a in axes)
        groups = regrouped(logical, shape)
        if groups is None:
            return None
        at = [a for a in inverse(axes) if logical[a] != 1]  # logical axes in memory order
        starts: dict[int, list[int]] = {}  # first axis of a group -> the axes it becomes
        for old, made in groups:
            wide = [a for a in old if logical[a] != 1]
            if wide:
                start = at.index(wide[0])
                if at[start : start + len(wide)] != wide:
                    return None
                starts[wide[0]] = made
        new = [i for a in at for i in starts.get(a, ())]
        new += [i for i in range(len(shape)) if i not in new]  # of size 1
        return self._logical(call("reshape", ordered, reordered(shape, new)), inverse(new))


def inverse(axes: Sequence[int]) -> Axes:
    """The permutation that undoes `axes`."""
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def reordered(items: Sequence[int], axes: Sequence[int]) -> Axes:
    """Entry i is items[axes[i]]."""
    return tuple(items[a] for a in axes)


def regrouped(old: Axes, new: Axes) -> list[tuple[list[int], list[int]]] | None:
    """The finest groups of neighbouring axes, old and new, with equal products; None for an empty array.

    An axis of size 1 goes with what stands before it, as in [h] -> [h, 1] -> [h, 2] -> [2 h].
    """
    if 0 in old:
        return None
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first, second = [i] if i < len(old) else [], [j] if j < len(new) else []
        i, j = i + len(first), j + len(second)
        a, b = math.prod(old[k] for k in first), math.prod(new[k] for k in second)
        while a != b:
            if a < b:
                a *= old[i]
                first.append(i)
                i += 1
            else:
                b *= new[j]
                second.append(j)
                j += 1
        while i < len(old) and old[i] == 1:
            first.append(i)
            i += 1
        while j < len(new) and new[j] == 1:
            second.append(j)
            j += 1
        groups.append((first, second))
    return groups
