"""How sorts and searches become launches: chunks first, then merges of runs of doubling length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...graph.plan import KernelRef, Operand, Slot
from ...ir.node import Node, Value
from ...kernels.portable import sort as kernels
from ...types import TensorType, int64

if TYPE_CHECKING:
    from ..lower import Lowering

_MODULE = "flame_triton.kernels.portable.sort"


def emit_sort(
    lowering: Lowering, node: Node, x: Value, length: int, results: tuple[Slot, Slot], descending: bool
) -> None:
    """Sorts the rows of x, of `length` elements each, into the slots of values and of indices (int64).

    Steps write to the results and to scratch memory in turn, so that the last one writes to the results.
    """
    rows = x.size // length
    config = kernels.heuristic(rows, length, x.dtype.itemsize, lowering.target.interpreted)
    runs = kernels.merges(length, config)
    pairs = [results]
    if runs:
        index_type = TensorType((1,), int64)
        scratch = lowering.workspace(x.shape, x.type), lowering.workspace(x.shape, index_type)
        pairs = [scratch, results] if len(runs) % 2 else [results, scratch]
    first = "sort_chunks" if config.packed else "rank_chunks"
    flags, options = {"DESCENDING": descending}, {"num_warps": config.num_warps}

    def operands(pair: tuple[Slot, Slot]) -> list[Operand]:
        return [Operand(pair[0], x.dtype), Operand(pair[1], int64)]

    lowering.emit(
        node, KernelRef(_MODULE, first), kernels.chunk_grid(rows, length, config),
        [lowering.operand(x), *operands(pairs[0]), rows, length],
        {**flags, "BLOCK_M": config.BLOCK_M, "CHUNK": config.CHUNK}, options, [lowering.slot(x)], pairs[0],
        f"{node.op.name} chunks",
    )  # fmt: skip
    for i, run in enumerate(runs):
        source, target = pairs[i % 2], pairs[(i + 1) % 2]
        lowering.emit(
            node, KernelRef(_MODULE, "merge_runs"), kernels.merge_grid(rows, length, config),
            [*operands(source), *operands(target), rows, length, run, kernels.steps(run)],
            {**flags, "BLOCK": config.BLOCK}, {"num_warps": 4}, source, target, f"{node.op.name} runs of {run}",
        )  # fmt: skip


def sort(lowering: Lowering, node: Node) -> None:
    """values, indices = rows of x [rows, length] in order."""
    values, indices = (lowering.slots[v] for v in node.outputs)
    x = node.inputs[0]
    emit_sort(lowering, node, x, x.shape[1], (values, indices), node.attrs["descending"])


def search(lowering: Lowering, node: Node) -> None:
    """Places of x [rows, n] in sorted [rows, length], or in sorted [1, length] for all rows."""
    ordered, x = node.inputs
    length, count = ordered.shape[1], math.prod(x.shape)
    config = kernels.heuristic(1, count, x.dtype.itemsize, lowering.target.interpreted)
    out = lowering.slots[node.out]
    stride = length if ordered.shape[0] > 1 else 0
    lowering.emit(
        node, KernelRef(_MODULE, "search_sorted"), (-(-count // config.BLOCK),),
        [lowering.operand(ordered), lowering.operand(x), Operand(out, int64), count, x.shape[1], length, stride,
         kernels.steps(length)],
        {"RIGHT": node.attrs["right"], "BLOCK": config.BLOCK}, {"num_warps": 4},
        [lowering.slot(ordered), lowering.slot(x)], [out], "search",
    )  # fmt: skip


FAMILIES = {"sort": sort, "search": search}
