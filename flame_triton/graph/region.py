"""Regions: the small graphs inside fused nodes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..ir.graph import Graph
from ..ir.index_map import IndexMap
from ..ir.node import Node, Value, rebuild
from ..ir.op import OPS


def build_region(
    outputs: Sequence[Value], results: Sequence[Value], inside: Collection[Value], stored: Collection[Value]
) -> tuple[Graph, list[Value]]:
    """The graph that computes `outputs`, cut where it reads values in memory that are not computed inside.

    results: values the region gets as its first inputs (a matmul's accumulator). Returns the region, with a fresh
    placeholder for each value read, and the values read, in the order of the placeholders after `results`.
    """
    nodes: set[Node] = set()
    reads: dict[Value, None] = {}
    stack = list(outputs)
    while stack:
        v = stack.pop()
        if v in results or v.node in nodes:
            continue
        if v in stored and v not in inside:
            reads[v] = None
            continue
        nodes.add(v.node)
        stack.extend(reversed(v.node.inputs))
    table: dict[Value, Value] = {}
    order = sorted(reads, key=lambda v: (v.node.id, v.index))
    for v in (*results, *order):
        attrs = {"shape": v.shape, "dtype": v.dtype, "name": None}
        table[v] = Node(OPS["input"], (), attrs, (v.type,), v.node.loc, v.node.origin).out
    for node in sorted(nodes, key=lambda n: n.id):
        new = rebuild(node, [table[v] for v in node.inputs])
        table.update(zip(node.outputs, new.outputs, strict=True))
    inputs = tuple(table[v] for v in (*results, *order))
    return Graph(inputs, tuple(table[v] for v in outputs)), order


def halves(rows: int, width: int) -> tuple[IndexMap, IndexMap]:
    """Where [rows, width] lies in the left and in the right half of [rows, 2 width]."""
    whole = IndexMap.dense((rows, 2 * width))
    left, right = (whole.slice((0, start), (rows, width), (1, 1)) for start in (0, width))
    return left, right


def region_key(region: Graph) -> tuple[object, ...]:
    """What makes two regions the same kernel: ops, wiring, attributes and types, but not which values or streams."""
    numbers: dict[Value, int] = {}
    parts: list[object] = []
    for v in region.inputs:
        numbers[v] = len(numbers)
        parts.append((v.shape, v.dtype.name))
    for node in region.nodes:
        if node.outputs[0] in numbers:
            continue
        attrs = node.attr_key if "stream" not in node.attrs else tuple(a for a in node.attr_key if a[0] != "stream")
        wires = tuple(numbers[v] for v in node.inputs)
        parts.append((node.op.name, wires, attrs, tuple((t.shape, t.dtype.name) for t in node.types)))
        for v in node.outputs:
            numbers[v] = len(numbers)
    return (*parts, tuple(numbers[v] for v in region.outputs))
