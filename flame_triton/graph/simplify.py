"""Merge equal nodes, apply the ops' own algebraic rules, fold constants, drop dead code.

After: no two nodes of one op have the same operands and attributes (except unique ops), and no op's `simplify` rule
applies any more. Dead nodes go because only what the outputs reach is kept. One walk in creation order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir.graph import Graph
from ..ir.node import Node, Value, derived_from, rebuild
from ..ir.op import Leaf, Pointwise, call


def simplify(graph: Graph) -> Graph:
    """The simplified graph; inputs stay as they are."""
    merger = _Merger()
    return graph.rewrite(merger.settle_node)


class _Merger:
    def __init__(self) -> None:
        self.seen: dict[Any, Node] = {}
        self.settled: dict[Value, Value] = {}

    def settle_node(self, node: Node) -> tuple[Value, ...]:
        outputs = self._settle(node)
        for v in outputs:
            self.settled[v] = v
        return outputs

    def _settle(self, node: Node) -> tuple[Value, ...]:
        """node's operands are settled; gives the values to use instead of its outputs."""
        if isinstance(node.op.lowering, Leaf) or node.op.unique:
            return node.outputs
        key = (node.op.name, node.inputs, node.attr_key)
        twin = self.seen.get(key)
        if twin is not None:
            return twin.outputs
        simpler = self._simpler(node)
        if simpler is not None and simpler is not node.outputs[0]:
            result = (self._adopt(simpler),)
            self.seen[key] = result[0].node if result[0].index == 0 and len(result[0].node.outputs) == 1 else node
            if self.seen[key] is node:
                del self.seen[key]
            return result
        self.seen[key] = node
        return node.outputs

    def _simpler(self, node: Node) -> Value | None:
        if node.op.simplify is not None:
            with derived_from(node):
                found = node.op.simplify(node)
            if found is not None:
                return found
        return _fold(node)

    def _adopt(self, value: Value) -> Value:
        """Settle the nodes that a rule has just built."""
        if value in self.settled:
            return value
        table = self.settled
        built: set[Node] = set()
        stack = [value.node]
        while stack:
            node = stack.pop()
            if node not in built and not any(v in table for v in node.outputs):
                built.add(node)
                stack.extend(v.node for v in node.inputs)
        for fresh in sorted(built, key=lambda n: n.id):
            inputs = tuple(table.get(v, v) for v in fresh.inputs)
            outputs = self._settle(fresh if inputs == fresh.inputs else rebuild(fresh, inputs))
            for old, new in zip(fresh.outputs, outputs, strict=True):
                table[old] = new
                table[new] = new
        return table[value]


def _fold(node: Node) -> Value | None:
    """A pointwise node whose operands are all `full` is a `full`, if no rounding is lost by saying so: operands and
    result must be numbers that their dtypes hold exactly."""
    if not isinstance(node.op.lowering, Pointwise) or not node.inputs or len(node.outputs) != 1:
        return None
    for v in node.inputs:
        if v.node.op.name != "full":
            return None
    arrays: list[np.ndarray[Any, Any]] = []
    for v in node.inputs:
        exact = np.asarray(v.node.attrs["value"])
        held = exact.astype(v.dtype.numpy)
        if not np.array_equal(held.astype(exact.dtype), exact, equal_nan=exact.dtype.kind == "f"):
            return None
        arrays.append(np.asarray(exact, dtype=np.float64 if v.dtype.is_float else v.dtype.numpy))
    with np.errstate(all="ignore"):
        result = np.asarray(node.op.ref(*arrays, **node.attrs))
        held = result.astype(node.type.dtype.numpy)
    if not np.array_equal(held.astype(result.dtype), result, equal_nan=result.dtype.kind == "f"):
        return None
    with derived_from(node):
        return call("full", node.type.shape, held.item(), node.type.dtype)
