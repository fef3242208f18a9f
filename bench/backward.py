"""A backward pass by itself: what the forward pass computes for it is handed in, as in a training step.

A training step saves results of reductions and of kernels (statistics, a logsumexp, a product) and computes pointwise
values again. So the graph of a gradient is cut there: each such value of the forward pass becomes a parameter, and a
program that runs once beforehand gives it its value.
"""

from __future__ import annotations

from collections.abc import Sequence

import flame_triton as ft
from flame_triton import Value
from flame_triton.graph.pipeline import optimise
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import rebuild
from flame_triton.ir.op import Kernel, Leaf, Reduce


def cut_forward(gradients: Sequence[Value]) -> tuple[list[Value], dict[Value, Value]]:
    """(the gradients without the forward pass, parameter -> the forward value that it stands for).

    Nodes made by gradient rules have an origin; the others are the forward pass.
    """
    whole = optimise(Graph((), tuple(gradients)), stage="decompose")
    table: dict[Value, Value] = {}
    saved: dict[Value, Value] = {}
    for node in whole.nodes:
        if isinstance(node.op.lowering, Leaf):
            table[node.out] = node.out
        elif node.origin is None and isinstance(node.op.lowering, Kernel | Reduce):
            for value in node.outputs:
                stand_in = ft.parameter(value.shape, value.dtype, name=f"saved_{len(saved)}")
                saved[stand_in], table[value] = value, stand_in
        else:
            fresh = rebuild(node, [table[v] for v in node.inputs])
            table.update(zip(node.outputs, fresh.outputs, strict=True))
    outputs = [table[v] for v in whole.outputs]
    read = {v for node in Graph((), tuple(outputs)).nodes for v in node.outputs}
    return outputs, {stand_in: value for stand_in, value in saved.items() if stand_in in read}
