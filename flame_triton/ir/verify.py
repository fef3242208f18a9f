"""Checks that a graph is well formed. Run after every pass in tests, and on demand."""

from __future__ import annotations

from ..errors import FlameError, GraphError
from ..types import TensorType
from .graph import Graph
from .op import Leaf


def verify(graph: Graph, stage: str = "graph") -> None:
    """Raises GraphError naming the node, the rule it breaks and the stage after which it does.

    Rules: operands come before their readers; every op's shape rule gives the types the node declares; the graph is
    closed; names of inputs are unique.
    """
    seen: set[int] = set()
    for node in graph.nodes:
        where = f"after {stage}: {node!r}"
        for v in node.inputs:
            if id(v.node) not in seen:
                raise GraphError(f"{where} reads {v!r}, which comes later", op=node.op.name, loc=node.loc)
            if v.node.outputs[v.index] is not v:
                raise GraphError(f"{where} reads a stale value {v!r}", op=node.op.name, loc=node.loc)
        seen.add(id(node))
        if isinstance(node.op.lowering, Leaf):
            continue
        try:
            types = node.op.infer(*(v.type for v in node.inputs), **node.attrs)
        except FlameError as error:
            raise GraphError(f"{where} is refused by its shape rule: {error}", op=node.op.name, loc=node.loc) from error
        types = (types,) if isinstance(types, TensorType) else tuple(types)
        if types != node.types:
            raise GraphError(f"{where} declares {node.types}, its rule gives {types}", op=node.op.name, loc=node.loc)
    names = [v.explicit_name for v in graph.inputs if v.explicit_name]
    for name in names:
        if names.count(name) > 1:
            raise GraphError(f"{names.count(name)} inputs are named {name!r}; explicit names must differ")
    graph.check_closed()
