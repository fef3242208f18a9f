"""How scans along an axis become launches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ...graph.plan import Argument, KernelRef, Operand
from ...ir.node import Node
from ...kernels.portable import scan as kernels

if TYPE_CHECKING:
    from ..lower import Lowering

_MODULE = "flame_triton.kernels.portable.scan"


def _scan(lowering: Lowering, node: Node, kernel: str, **constexprs: Any) -> None:
    """One launch over [groups, length, inner], the tensor seen from the scanned axis."""
    shape, axis = node.type.shape, node.attrs["axis"]
    outer, length, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    groups, lanes, strides = (1, outer, (length, 1, 0)) if inner == 1 else (outer, inner, (1, inner, length * inner))
    itemsize = max(v.dtype.compute.itemsize for v in node.outputs)
    config = kernels.heuristic(lanes, length, itemsize, inner == 1, lowering.target.interpreted)
    results = [lowering.slots[v] for v in node.outputs]
    args: list[Argument] = [lowering.operand(v) for v in node.inputs]
    args += [Operand(slot, v.dtype) for slot, v in zip(results, node.outputs, strict=True)]
    lowering.emit(
        node, KernelRef(_MODULE, kernel), kernels.grid(groups, lanes, config), [*args, lanes, length, *strides],
        {**constexprs, "BLOCK_L": config.BLOCK_L, "BLOCK_N": config.BLOCK_N}, {"num_warps": config.num_warps},
        [lowering.slot(v) for v in node.inputs], results, node.op.name,
    )  # fmt: skip


FAMILIES = {
    "cumsum": lambda lowering, node: _scan(lowering, node, "cumulate", PRODUCT=False, REVERSE=node.attrs["reverse"]),
    "cumprod": lambda lowering, node: _scan(lowering, node, "cumulate", PRODUCT=True, REVERSE=False),
    "cummax": lambda lowering, node: _scan(lowering, node, "extreme", SMALLEST=False),
    "cummin": lambda lowering, node: _scan(lowering, node, "extreme", SMALLEST=True),
    "logcumsumexp": lambda lowering, node: _scan(lowering, node, "logcumsumexp"),
    "linear_recurrence": lambda lowering, node: _scan(
        lowering, node, "linear_recurrence", REVERSE=node.attrs["reverse"]
    ),
}
