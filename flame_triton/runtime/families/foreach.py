"""How multi-tensor maps and sums, and the column sums of many matrices, become launches."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from ...codegen.emit import triton_name
from ...codegen.foreach import generate_body
from ...codegen.region import generate
from ...graph.plan import Argument, ConstantTable, KernelRef, Operand, PointerTable, Slot
from ...ir.graph import Graph
from ...ir.node import Node, make
from ...ir.op import OPS, call
from ...kernels.portable import column_sums as column_kernel
from ...kernels.portable import foreach as foreach_kernel
from ...types import TensorType

if TYPE_CHECKING:
    from ..lower import Lowering

_MODULE = "flame_triton.kernels.portable.foreach"


def foreach(lowering: Lowering, node: Node) -> None:
    """One pointwise graph over many tensors; inputs: rows of tensors, then scalars; outputs: rows of results."""
    body: Graph = node.attrs["body"]
    rows: int = node.attrs["rows"]
    results = [lowering.slots[v] for v in node.outputs]
    out = len(body.outputs)
    slots = _slots(node)
    config = _config(lowering, node, [node.outputs[i * out].size for i in range(rows)])
    written = [[Operand(results[i * out + j], v.dtype) for j, v in enumerate(body.outputs)] for i in range(rows)]
    index = len(lowering.launches)
    _launch_rows(lowering, node, slots, written, config, results, None)
    for i in range(rows):
        for j, made in enumerate(body.outputs):
            for k in range(slots):
                read = node.inputs[i * slots + k]
                if read.dtype.itemsize == made.dtype.itemsize:
                    lowering.in_place.append((index, results[i * out + j], lowering.slot(read)))


def foreach_sum(lowering: Lowering, node: Node) -> None:
    """The sum of one pointwise value over all elements of many tensors, or of each: partial sums, then their sum in
    order."""
    rows: int = node.attrs["rows"]
    slots = _slots(node)
    sizes = [node.inputs[i * slots].size for i in range(rows)]
    config = _config(lowering, node, sizes)
    count = len(foreach_kernel.chunks(sizes, config.CHUNK))
    partials = Slot("arena", count * node.type.dtype.itemsize)
    _launch_rows(
        lowering, node, slots, [[] for _ in range(rows)], config, [partials], Operand(partials, node.type.dtype)
    )
    if node.attrs.get("apart"):
        _sum_rows(lowering, node, partials, foreach_kernel.bounds(sizes, config.CHUNK))
        return
    total = _total(node.type, count)
    kernel = generate(total, ("row",))
    width = 1 << max(count - 1, 0).bit_length()
    out = lowering.slots[node.out]
    args = (Operand(partials, node.type.dtype), Operand(out, node.type.dtype), 1)
    lowering.emit(
        node, KernelRef(kernel.name, kernel.name, kernel.source), (1, 1), args, {"BLOCK_M": 1, "BLOCK_N": width},
        {"num_warps": min(16, max(1, width // 512))}, [partials], [out], "foreach_sum total",
    )  # fmt: skip


def _sum_rows(lowering: Lowering, node: Node, partials: Slot, bounds: np.ndarray) -> None:
    """The sums of each tensor's partial sums, which lie between two of the bounds."""
    dtype, out = node.type.dtype, lowering.slots[node.out]
    longest = max(int(np.diff(bounds).max(initial=1)), 1)
    block = min(1 << (longest - 1).bit_length(), 1024)
    args: list[Argument] = [Operand(partials, dtype), ConstantTable(bounds), Operand(out, dtype)]
    lowering.emit(
        node, KernelRef(_MODULE, "row_totals"), (node.attrs["rows"],), args, {"BLOCK": block},
        {"num_warps": min(4, max(1, block // 128))}, [partials], [out], "foreach_sum of each row",
    )  # fmt: skip


def _total(result: TensorType, count: int) -> Graph:
    """The region that sums `count` partial sums."""
    attrs = {"shape": (1, count), "dtype": result.dtype, "name": None}
    first = make(OPS["input"], [], **attrs).out
    summed = make("sum", [first], axes=(1,)).out
    return Graph((first,), (call("reshape", summed, result.shape),))


def _slots(node: Node) -> int:
    """How many tensors one row of operands holds."""
    attrs = node.attrs
    return (len(node.inputs) - attrs["scalars"] - bool(attrs.get("each"))) // attrs["rows"]


def _body(node: Node) -> tuple[str, str]:
    """Name and source of the generated body."""
    attrs = node.attrs
    return generate_body(
        attrs["body"], _slots(node), attrs["scalars"], attrs.get("each", 0), node.op.name == "foreach_sum"
    )


def _config(lowering: Lowering, node: Node, sizes: list[int]) -> foreach_kernel.Config:
    """The configuration for tensors of `sizes` elements: body, dtypes, and how much lies in how many tensors decide."""
    body: Graph = node.attrs["body"]
    facts = {
        "kernel": node.op.name,
        "body": hashlib.sha256(_body(node)[1].encode()).hexdigest()[:16],
        "dtypes": [v.dtype.name for v in (*body.inputs[: _slots(node)], *body.outputs)],
        "tensors": len(sizes),
        "elements": sum(sizes),
    }
    sums = node.op.name == "foreach_sum"
    listed = foreach_kernel.sum_candidates if sums else foreach_kernel.candidates
    first = foreach_kernel.sum_heuristic if sums else foreach_kernel.heuristic
    return lowering.choose(
        node, "foreach", facts, lambda: listed(sizes), lambda: first(sizes, lowering.target.interpreted)
    )


def _launch_rows(
    lowering: Lowering,
    node: Node,
    slots: int,
    written: list[list[Operand]],
    config: foreach_kernel.Config,
    writes: list[Slot],
    partials: Operand | None,
) -> None:
    body: Graph = node.attrs["body"]
    rows: int = node.attrs["rows"]
    read = [[lowering.operand(node.inputs[i * slots + k]) for k in range(slots)] for i in range(rows)]
    table = PointerTable(tuple((*r, *w) for r, w in zip(read, written, strict=True)))
    sizes = [node.inputs[i * slots].size for i in range(rows)]
    chunks = foreach_kernel.chunks(sizes, config.CHUNK)
    count, each = node.attrs["scalars"], node.attrs.get("each", 0)
    shared = [lowering.operand(v) for v in node.inputs[rows * slots :]]
    scalars, table_of_rows = tuple(shared[:count]), tuple(shared[count:])
    name, source = _body(node)
    dtypes = [v.dtype for v in body.inputs[:slots]] + ([] if partials else [v.dtype for v in body.outputs])
    constexprs = {
        "BODY": KernelRef(name, name, source),
        "DTYPES": tuple(KernelRef("triton.language", triton_name(d)) for d in dtypes),
        "BLOCK": config.BLOCK,
        "CHUNK": config.CHUNK,
        **({} if partials else {"EACH": each}),
    }
    args: list[Argument] = [table, ConstantTable(chunks), scalars, partials or table_of_rows]
    kernel = KernelRef(_MODULE, "foreach_sum" if partials else "foreach")
    reads = [lowering.slot(v) for v in node.inputs]
    lowering.emit(
        node, kernel, (len(chunks),), args, constexprs, {"num_warps": config.num_warps}, reads, writes,
        f"{name} x {rows}",
    )  # fmt: skip


def foreach_columns(lowering: Lowering, node: Node) -> None:
    """The column sums of many arrays [A, R, B, N], over A and R."""
    results = [lowering.slots[v] for v in node.outputs]
    read = [lowering.strided(v) for v in node.inputs]
    written = [Operand(slot, v.dtype) for slot, v in zip(results, node.outputs, strict=True)]
    arrays = [(v.shape, strides) for v, (_, strides) in zip(node.inputs, read, strict=True)]
    widest = max(v.shape[-1] for v in node.inputs)
    block = column_kernel.interpreted_block(widest) if lowering.target.interpreted else column_kernel.BLOCK_N
    tiles = column_kernel.tiles(arrays, block)
    constexprs = {
        "IN": KernelRef("triton.language", triton_name(node.inputs[0].dtype)),
        "ROUNDING": KernelRef("triton.language", triton_name(node.attrs["rounding"])),
        "OUT": KernelRef("triton.language", triton_name(node.outputs[0].dtype)),
        "BLOCK_R": column_kernel.BLOCK_R,
        "BLOCK_N": block,
    }
    table = PointerTable(tuple((operand, out) for (operand, _), out in zip(read, written, strict=True)))
    lowering.emit(
        node, KernelRef("flame_triton.kernels.portable.column_sums", "column_sums"), (len(tiles),),
        [table, ConstantTable(tiles)], constexprs, {"num_warps": column_kernel.WARPS},
        [lowering.slot(v) for v in node.inputs], results, f"column sums x {len(arrays)}",
    )  # fmt: skip


FAMILIES = {"foreach": foreach, "foreach_sum": foreach_sum, "foreach_columns": foreach_columns}
