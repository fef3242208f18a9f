"""The order of launches: new values of the state are made as soon as that is possible.

A node that makes nothing but new values of the state, and the small scalars that only such nodes read, move to where
what they read is there and nothing else reads the old values any more. So a gradient that an update consumes is freed
at once, and the new value is still written in place. Everything else keeps its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.graph import Graph
from ..ir.node import Node, Value
from ..ir.op import Leaf, View

SCALARS = 4096  # bytes up to which a value that only updates read moves with them


def eager(graph: Graph, states: Sequence[Value]) -> Graph:
    """The fused graph in its new order. Its last outputs are the new values of `states`, in order."""
    nodes = launches(graph)
    step = {n: i for i, n in enumerate(nodes)}
    readers: dict[Value, list[Node]] = {}
    for node in nodes:
        for v in {base(v) for v in node.inputs}:
            readers.setdefault(v, []).append(node)
    count = len(graph.outputs) - len(states)
    results = {base(v) for v in graph.outputs[:count]}
    owner = {base(new): old for old, new in zip(states, graph.outputs[count:], strict=True)}
    moving: dict[Node, bool] = {}  # -> whether it is an update
    for node in reversed(nodes):
        if all(v in owner and v not in results and v not in readers for v in node.outputs):
            moving[node] = True
        elif all(v.type.nbytes <= SCALARS and all(r in moving for r in readers.get(v, ())) for v in node.outputs):
            moving[node] = False
    place: dict[Node, float] = {n: float(i) for n, i in step.items()}
    for node in nodes:
        if node not in moving:
            continue
        found = [place[b.node] for b in map(base, node.inputs) if b.node in place]
        if moving[node]:
            found += [place[r] for v in node.outputs for r in readers.get(owner[v], ()) if r not in moving]
        place[node] = min(place[node], max(found, default=-1.0) // 1 + 0.5)
    order = sorted(nodes, key=lambda n: (place[n], step[n]))
    if order == nodes:
        return graph
    now = leaves(graph)
    for node in order:
        now.update(zip(node.outputs, rebuilt(node, now).outputs, strict=True))
    return Graph(graph.inputs, tuple(seen(v, now) for v in graph.outputs))


def launches(graph: Graph) -> list[Node]:
    """The nodes of a fused graph that compute, in order."""
    return [n for n in graph.nodes if not isinstance(n.op.lowering, Leaf | View)]


def leaves(graph: Graph) -> dict[Value, Value]:
    """Every leaf, standing for itself."""
    return {n.out: n.out for n in graph.nodes if isinstance(n.op.lowering, Leaf)}


def base(value: Value) -> Value:
    """What a value is a view of."""
    while isinstance(value.node.op.lowering, View):
        value = value.node.inputs[0]
    return value


def seen(value: Value, now: dict[Value, Value]) -> Value:
    """`value`, its views made again on what holds their base at the moment."""
    chain: list[Node] = []
    while isinstance(value.node.op.lowering, View):
        chain.append(value.node)
        value = value.node.inputs[0]
    result = now[value]
    for node in reversed(chain):
        result = Node(node.op, (result,), node.attrs, node.types, node.loc, node.origin).out
    return result


def rebuilt(node: Node, now: dict[Value, Value]) -> Node:
    """The node made anew, on what holds its operands at the moment."""
    return Node(node.op, [seen(v, now) for v in node.inputs], node.attrs, node.types, node.loc, node.origin)
