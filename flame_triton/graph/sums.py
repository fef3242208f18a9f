"""Finish many column sums in one launch.

The gradient of a bias, or of a norm's weight, is summed in two stages: the kernel that computes what is summed leaves
partial sums, and a small launch adds them up. A model has hundreds of these, and nothing waits for them but the
optimizer, so all of them are one node, `foreach_columns`, after everything else.

After: last stages of column sums that only pointwise nodes, maps over tensors and outputs depend on are one node for
each choice of dtypes; what depends on them stands behind it. Nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..ir.graph import Graph
from ..ir.node import Node, Value, derived_from, make, rebuild
from ..ir.op import Kernel, Pointwise, Reduce, View, call
from ..types import DType, bfloat16, float16, float32, float64
from .access import base_of, fits, map_onto, views_below

LEAST = 32  # columns: whole lines of memory
MOST = 1 << 31  # elements: places are 32-bit numbers
MAPS = ("foreach", "foreach_sum")
Dtypes = tuple[DType, DType, DType]


@dataclass(frozen=True, eq=False)
class _Last:
    """The last stage of one column sum: of array [A, R, B, N], over A and R.

    result: what becomes of the sum, rounded to `rounding`.
    """

    node: Node
    array: Value
    result: Value
    rounding: DType

    @property
    def dtypes(self) -> Dtypes:
        return self.node.inputs[0].dtype, self.rounding, self.result.dtype


def gather_sums(graph: Graph) -> Graph:
    """The graph with the last stages of its column sums gathered."""
    groups: dict[Dtypes, list[_Last]] = {}
    for last in _found(graph):
        groups.setdefault(last.dtypes, []).append(last)
    groups = {dtypes: group for dtypes, group in groups.items() if len(group) > 1}
    if not groups:
        return graph
    table: dict[Value, Value] = {}
    for (_, rounding, dtype), group in groups.items():
        with derived_from(group[-1].node):
            made = make("foreach_columns", [last.array for last in group], rounding=rounding, dtype=dtype)
            for last, total in zip(group, made.outputs, strict=True):
                table[last.result] = call("reshape", total, last.result.shape)
    gone = {last.node for group in groups.values() for last in group}
    for node in graph.nodes:
        if node not in gone and not any(v in table for v in node.outputs) and any(v in table for v in node.inputs):
            fresh = rebuild(node, [table.get(v, v) for v in node.inputs])
            table.update(zip(node.outputs, fresh.outputs, strict=True))
    return Graph(graph.inputs, tuple(table.get(v, v) for v in graph.outputs))


def _found(graph: Graph) -> list[_Last]:
    """The last stages that nothing but pointwise nodes, maps and outputs depends on."""
    readers = graph.consumers()
    outputs = set(graph.outputs)
    ends: set[Node] = set()  # nodes that lead to outputs through such nodes alone
    found: list[_Last] = []
    for node in reversed(graph.nodes):
        if any(reader not in ends for v in node.outputs for reader in readers[v]):
            continue
        if _waits(node):
            ends.add(node)
        elif (array := _summed(node)) is not None:
            found.append(_Last(node, array, *_rounded(node.out, readers, outputs)))
    return found[::-1]


def _rounded(total: Value, readers: Mapping[Value, Sequence[Node]], outputs: Collection[Value]) -> tuple[Value, DType]:
    """What becomes of a sum by casts that alone read it, through reshapes: rounded to 16 bits, and perhaps widened
    again for an optimizer; and the dtype to which it is rounded."""
    value = result = total
    rounding = total.dtype
    while total.dtype is float32 and value not in outputs and len(readers[value]) == 1:
        node = readers[value][0]
        if node.op.name == "cast" and rounding is float32 and node.type.dtype in (bfloat16, float16):
            result, rounding = node.out, node.type.dtype
        elif node.op.name == "cast" and rounding is not float32 and node.type.dtype is float32:
            return node.out, rounding
        elif node.op.name != "reshape":
            break
        value = node.out
    return result, rounding


def _waits(node: Node) -> bool:
    """True for what may stand behind everything else."""
    lowering = node.op.lowering
    return isinstance(lowering, Pointwise | View) or (isinstance(lowering, Kernel) and lowering.family in MAPS)


def _summed(node: Node) -> Value | None:
    """The array [A, R, B, N] of partial sums that a node sums over A and R; None if it does anything else."""
    if not isinstance(node.op.lowering, Reduce) or node.op.name != "sum" or node.inputs[0].ndim != 3:
        return None
    groups, _, columns = node.inputs[0].shape
    if groups != 1 or columns < LEAST or node.type.dtype not in (float32, float64):
        return None
    partial = views_below(node.inputs[0])[-1]
    if not isinstance(partial.node.op.lowering, Reduce) or partial.size >= MOST:
        return None
    return _rows_and_columns(node.inputs[0])


def _rows_and_columns(matrix: Value) -> Value | None:
    """The view [A, R, B, N] of a matrix [1, A R, B N] that is read in place; None if there is none.

    Where the matrix is what a transpose of [A, B, R, N] is reshaped to, that transpose; else [1, A R, 1, B N].
    """
    base, index = base_of(matrix)
    _, rows, columns = matrix.shape
    if index.is_dense:
        return call("reshape", matrix, (1, rows, 1, columns))
    below = next((v for v in views_below(matrix) if v.node.op.name == "transpose"), None)
    if below is None or below.ndim != 4 or math.prod(below.shape[:2]) != rows:
        return None
    straight = map_onto(matrix, below).is_dense and fits(map_onto(below, base), "strided")
    return below if straight else None
