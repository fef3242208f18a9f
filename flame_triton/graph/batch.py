"""Do the same small thing to many stored tensors in one launch.

Mixed precision casts every weight to bfloat16 once a step: as many launches as there are weights. Pointwise nodes that
read one Leaf, feed kernels, and are equal but for the tensor they read become one multi-tensor map (`foreach`).

After: at most one such node for each op, attributes and dtype. Nothing else changes.
"""

from __future__ import annotations

from typing import Any

from ..ir.graph import Graph
from ..ir.node import Node, Value, derived_from, make
from ..ir.op import Kernel, Leaf, Pointwise, View, call


def batch(graph: Graph) -> Graph:
    """The graph with equal pointwise nodes on Leaves gathered into multi-tensor maps."""
    feeds = _feeding_kernels(graph)
    groups: dict[Any, list[Node]] = {}
    for node in graph.nodes:
        key = _key(node) if node.outputs[0] in feeds else None
        if key is not None:
            groups.setdefault(key, []).append(node)
    if all(len(group) < 2 for group in groups.values()):
        return graph
    made: dict[Any, dict[Value, Value]] = {}

    def rule(node: Node) -> tuple[Value, ...] | None:
        key = _key(node)
        if key is None or len(groups.get(key, ())) < 2:
            return None
        if key not in made:
            made[key] = _together(groups[key])
        result = made[key].get(node.inputs[0])
        return None if result is None else (result,)

    return graph.rewrite(rule)


def _key(node: Node) -> Any:
    """What must agree for nodes to share a map, or None if the node does not qualify."""
    if not isinstance(node.op.lowering, Pointwise) or len(node.inputs) != 1:
        return None
    source = node.inputs[0]
    if not isinstance(source.node.op.lowering, Leaf):
        return None
    return node.op.name, node.attr_key, source.dtype.name


def _together(group: list[Node]) -> dict[Value, Value]:
    """One `foreach` node for the whole group: from each Leaf to its result."""
    first = group[0]

    def body(x: Value) -> Value:
        return make(first.op, [x], **first.attrs).out

    with derived_from(first):
        results = call("foreach", body, [[node.inputs[0]] for node in group])
    return {node.inputs[0]: row[0] for node, row in zip(group, results, strict=True)}


def _feeding_kernels(graph: Graph) -> set[Value]:
    """Values that a hand-written kernel reads, through views or directly."""
    found: set[Value] = set()
    for node in reversed(graph.nodes):
        kernel = isinstance(node.op.lowering, Kernel)
        passed_on = isinstance(node.op.lowering, View) and node.outputs[0] in found
        if kernel or passed_on:
            found.update(node.inputs)
    return found
