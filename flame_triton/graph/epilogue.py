"""What may join a product as its epilogue besides values of the product's own shape: see fuse.py."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from ..ir.index_map import IndexMap
from ..ir.node import Node, Value
from ..ir.op import Kernel
from .access import views_below
from .plan import SUM_ROWS, Target
from .region import halves


def same_elements(index: IndexMap, size: int) -> bool:
    """True if element i of the space reads element i of the value, in row-major order."""
    return index.is_dense or index.reshape((size,)).is_dense


def joins_halves(product: Node, value: Value, reads: Sequence[tuple[str, IndexMap]]) -> bool:
    """True if `value`, [..., 2 N], holds in either half what is computed from the product's element, [..., N]: the
    gradient of what a gated unit takes apart. It is stored at n and at n + N.

    reads: role and map of every value of the epilogue that it is computed from.
    """
    width = product.type.shape[-1]
    rows = product.type.size // width
    if not value.shape or value.shape[-1] != 2 * width or value.size != 2 * product.type.size:
        return False
    for half in halves(rows, width):
        for role, index in reads:
            here = index.reshape((rows, 2 * width)).then(half)
            absent = here.fixed() == (0, False)
            if role != "full" or not (absent or same_elements(here, product.type.size)):
                return False
    return bool(reads)


def sums_rows(product: Node, role: str | None, reduce: Node, index: IndexMap) -> bool:
    """True if `reduce` sums a result of the epilogue over every SUM_ROWS rows, where a bias's gradient begins.

    role, index: of that result, and the map by which the sum reads it; the last rows may be padded.
    """
    lowering = product.op.lowering
    *batch, rows, width = product.type.shape
    if not isinstance(lowering, Kernel) or not lowering.sums or math.prod(batch) != 1 or width < SUM_ROWS:
        return False
    if reduce.op.name != "sum" or role not in ("full", "halves"):
        return False
    width *= 2 if role == "halves" else 1
    parts, extra = -(-rows // SUM_ROWS), -rows % SUM_ROWS
    shape = reduce.inputs[0].shape
    padded = IndexMap.dense((1, rows, width)).pad((0, 0, 0), (0, extra, 0)).reshape((parts, SUM_ROWS, width))
    straight = index == padded if extra else same_elements(index, rows * width)
    return shape == (parts, SUM_ROWS, width) and straight


def too_much_to_sum(product: Node, reads: Collection[Value], target: Target) -> bool:
    """True for a Hopper epilogue that reads another array of its size, as where an activation is differentiated: on an
    H200 column sums then took 60 to 110 us of it for 4608 x 12288 elements or as many, a kernel of their own takes 40.

    reads: what the epilogue and the product load."""
    if target.arch != 90 or target.interpreted or product.inputs[0].dtype.itemsize != 2:
        return False
    operands = {base for v in product.inputs for base in views_below(v)}
    return any(v.size >= product.type.size for v in reads if v not in operands)


def same_rows(index: IndexMap, rows: int, length: int) -> bool:
    """True if every element of row i reads element i of a value with one element per row."""
    wanted = IndexMap.dense((rows, 1)).expand((rows, length))
    return index == wanted or index.reshape((rows, length)) == wanted
