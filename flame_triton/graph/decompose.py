"""Expand composite ops into the primitives that kernels are generated from.

After: every node is a Leaf, Pointwise, Generator, View, Reduce or Kernel. Nodes of an expansion carry the location and
the origin of the composite they came from.
"""

from __future__ import annotations

from collections.abc import Collection

from ..errors import GraphError
from ..ir.graph import Graph, topological
from ..ir.node import Node, Value, derived_from, rebuild
from ..ir.op import Composite


def decompose(graph: Graph, keep: Collection[str] = ()) -> Graph:
    """The graph without composite nodes, but for the ops that `keep` names."""
    return graph.rewrite(lambda node: _expand(node, keep))


def _expand(node: Node, keep: Collection[str]) -> tuple[Value, ...]:
    if not isinstance(node.op.lowering, Composite) or node.op.name in keep:
        return node.outputs
    with derived_from(node):
        built = node.op.lowering.build(node)
    outputs = (built,) if isinstance(built, Value) else tuple(built)
    for value, declared in zip(outputs, node.types, strict=True):
        if value.type != declared:
            raise GraphError(f"decomposes into {value.type}, declared {declared}", op=node.op.name, loc=node.loc)
    inner: dict[Value, Value] = {v: v for v in node.inputs}
    for fresh in topological(outputs, stop=node.inputs):
        if any(v in inner for v in fresh.outputs):
            continue
        replaced = _expand(rebuild(fresh, tuple(inner[v] for v in fresh.inputs)), keep)
        inner.update(zip(fresh.outputs, replaced, strict=True))
    return tuple(inner[v] for v in outputs)
