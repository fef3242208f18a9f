"""How gathers and scatters become launches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...graph.plan import Argument, KernelRef, Operand
from ...ir.node import Node
from ...kernels.portable import indexing

if TYPE_CHECKING:
    from ..lower import Lowering

_MODULE = "flame_triton.kernels.portable.indexing"


def gather(lowering: Lowering, node: Node) -> None:
    """out[i, :] = table[index[i], :]; inputs: table [rows, width], index [n]."""
    table, index = node.inputs
    (rows, width), count = table.shape, index.size
    config = indexing.gather_heuristic(count, width, lowering.target.interpreted)
    out = lowering.slots[node.out]
    args: list[Argument] = [lowering.operand(table), lowering.operand(index), Operand(out, node.type.dtype)]
    args += [count, rows, width, width, width]
    lowering.emit(
        node, KernelRef(_MODULE, "gather_rows"), indexing.gather_grid(count, width, config), args,
        {"BLOCK_I": config.BLOCK_I, "BLOCK_W": config.BLOCK_W}, {"num_warps": config.num_warps},
        [lowering.slot(table), lowering.slot(index)], [out], "gather",
    )  # fmt: skip


def scatter_add(lowering: Lowering, node: Node) -> None:
    """out[r, :] = sum of g[i, :] where index[i] = r; inputs: index [n], g [n, width]."""
    index, g = node.inputs
    (rows, width), count = node.type.shape, index.size
    config = indexing.scatter_heuristic(count, rows, width, lowering.target.interpreted)
    out = lowering.slots[node.out]
    args: list[Argument] = [lowering.operand(g), lowering.operand(index), Operand(out, node.type.dtype)]
    args += [count, rows, width, width, width]
    constexprs = {"BLOCK_R": config.BLOCK_R, "BLOCK_W": config.BLOCK_W, "BLOCK_I": config.BLOCK_I, "SCAN": config.SCAN}
    lowering.emit(
        node, KernelRef(_MODULE, "scatter_add_rows"), indexing.scatter_grid(rows, width, config), args,
        constexprs, {"num_warps": config.num_warps}, [lowering.slot(index), lowering.slot(g)], [out], "scatter_add",
    )  # fmt: skip


FAMILIES = {"gather": gather, "scatter_add": scatter_add}
