"""How gathers and scatters become launches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...graph.plan import Argument, KernelRef, Operand
from ...ir.node import Node
from ...kernels.portable import indexing, segment
from ...kernels.portable.sort import steps
from ...types import TensorType, int64
from .sort import emit_sort

if TYPE_CHECKING:
    from ..lower import Lowering

_MODULE = "flame_triton.kernels.portable.indexing"
_MANY = 1 << 27  # comparisons of a place with an index, beyond which the indices are sorted
_MANY_INTERPRETED = 1 << 22
_NAN8 = 0x7F  # NaN in both 8-bit floats, which kernels take as bytes


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
        {"MISSING": _NAN8 if table.dtype.is_storage else 0, "BLOCK_I": config.BLOCK_I, "BLOCK_W": config.BLOCK_W},
        {"num_warps": config.num_warps}, [lowering.slot(table), lowering.slot(index)], [out], "gather",
    )  # fmt: skip


def scatter_add(lowering: Lowering, node: Node) -> None:
    """out[r, :] = sum of g[i, :] where index[i] = r; inputs: index [n], g [n, width]."""
    index, g = node.inputs
    (rows, width), count = node.type.shape, index.size
    if rows * count > (_MANY_INTERPRETED if lowering.target.interpreted else _MANY):
        _segments(lowering, node, "sum", 0)
        return
    config = indexing.scatter_heuristic(count, rows, width, lowering.target.interpreted)
    out = lowering.slots[node.out]
    args: list[Argument] = [lowering.operand(g), lowering.operand(index), Operand(out, node.type.dtype)]
    args += [count, rows, width, width, width]
    constexprs = {"BLOCK_R": config.BLOCK_R, "BLOCK_W": config.BLOCK_W, "BLOCK_I": config.BLOCK_I, "SCAN": config.SCAN}
    lowering.emit(
        node, KernelRef(_MODULE, "scatter_add_rows"), indexing.scatter_grid(rows, width, config), args,
        constexprs, {"num_warps": config.num_warps}, [lowering.slot(index), lowering.slot(g)], [out], "scatter_add",
    )  # fmt: skip


def scatter_extreme(lowering: Lowering, node: Node) -> None:
    """out[r, :] = the largest or smallest of x[i, :] where index[i] = r; inputs: index [n], x [n, width]."""
    _segments(lowering, node, "min" if node.attrs["smallest"] else "max", node.attrs["empty"])


def _segments(lowering: Lowering, node: Node, kind: str, empty: int | float) -> None:
    """The indices sorted, then rows of equal ones combined. empty: what an integer row without any gets."""
    index, x = node.inputs
    (rows, width), count = node.type.shape, index.size
    config = segment.heuristic(rows, width, lowering.target.interpreted)
    out = lowering.slots[node.out]
    found = lowering.workspace(index.shape, index.type), lowering.workspace(index.shape, TensorType((1,), int64))
    if count:
        emit_sort(lowering, node, index, count, found, False)
    args: list[Argument] = [lowering.operand(x), Operand(found[0], index.dtype), Operand(found[1], int64)]
    args += [Operand(out, node.type.dtype), count, rows, width, steps(count)]
    constexprs = {"KIND": kind, "EMPTY": 0 if node.type.dtype.is_float else int(empty)}
    lowering.emit(
        node, KernelRef("flame_triton.kernels.portable.segment", "segment_reduce"),
        segment.grid(rows, width, config), args,
        {**constexprs, "BLOCK_R": config.BLOCK_R, "BLOCK_W": config.BLOCK_W, "BLOCK_I": config.BLOCK_I},
        {"num_warps": config.num_warps}, [lowering.slot(x), *found], [out], f"segments, {kind}",
    )  # fmt: skip


FAMILIES = {"gather": gather, "scatter_add": scatter_add, "scatter_extreme": scatter_extreme}
