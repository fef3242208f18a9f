"""Parts of a tensor replaced: where a mask is true, along a slice, on a diagonal. All return a new tensor; gradients
flow to what was written, and to x where nothing was.
"""

from __future__ import annotations

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import bool_, check_axis
from .define import Operand, as_value, composed, randn, samples
from .indexing import gather_rows
from .logic import equal, where
from .scan import cumsum
from .view import broadcast_to, expand_dims, narrow, reshape, transpose

__all__ = ["diagonal_scatter", "masked_scatter", "select_scatter", "slice_scatter"]


@composed(
    samples=samples(
        Sample((randn(3, 4), randn(3, 4, seed=2) > 0, randn(12, seed=1))),
        Sample((randn(2, 3), np.array([True, False, True]), randn(2, 2, seed=1))),
    )
)
def masked_scatter(x: Operand, mask: Operand, source: Operand) -> Value:
    """x with the elements of `source`, in order, written where the mask is True, in row-major order.

    The mask broadcasts to x. Where source ends, NaN (0 for integers) is written.
    """
    x, source = as_value(x), as_value(source)
    if source.dtype is not x.dtype:
        raise DTypeError(f"source is {source.dtype}, x is {x.dtype}")
    mask = broadcast_to(call("cast", as_value(mask), bool_), x.shape)
    if not x.size:
        return x
    place = cumsum(mask) - 1
    index = where(reshape(mask, (x.size,)), place, source.size)
    found = gather_rows(reshape(source, (source.size, 1)), index)
    return where(mask, reshape(found, x.shape), x)


def _spread(src: Value, a: int, size: int, start: int, step: int) -> Value:
    """src with its elements along axis a at start, start + step, ... of `size` places, and zeros elsewhere."""
    n = src.shape[a]
    apart = reshape(src, (*src.shape[:a], n, 1, *src.shape[a + 1 :]))
    apart = call("pad", apart, [(0, step - 1) if i == a + 1 else (0, 0) for i in range(apart.ndim)])
    line = narrow(reshape(apart, (*src.shape[:a], n * step, *src.shape[a + 1 :])), a, 0, (n - 1) * step + 1)
    after = size - start - line.shape[a]
    return call("pad", line, [(start, after) if i == a else (0, 0) for i in range(src.ndim)])


@composed(
    samples=samples(
        Sample((randn(6, 3), randn(2, 3, seed=1)), {"dim": 0, "start": 1, "end": 5, "step": 3}),
        Sample((randn(3, 4), randn(3, 2, seed=1), 1, -2)),
        Sample((randn(3, 4), randn(3, 0), 1, 2, 2), grad=(0,)),
    )
)
def slice_scatter(
    x: Operand, src: Operand, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """x with its slice start:end:step along axis `dim` replaced by src; step > 0."""
    x, src = as_value(x), as_value(src)
    a = check_axis(dim, x.ndim, "dim")
    if step < 1:
        raise ArgumentError(f"step must be positive, got {step}")
    places = range(x.shape[a])[start:end:step]
    wanted = (*x.shape[:a], len(places), *x.shape[a + 1 :])
    if src.shape != wanted:
        raise ShapeError(f"src must be {wanted}, got {src.shape}")
    if not src.size:
        return x
    n = call("arange", x.shape[a]) - places.start
    inside = call("logical_and", call("greater_equal", n, 0), call("less", n, len(places) * step))
    inside = call("logical_and", inside, equal(call("remainder", n, step), 0))
    inside = reshape(inside, tuple(d if i == a else 1 for i, d in enumerate(x.shape)))
    return where(inside, _spread(call("cast", src, x.dtype), a, x.shape[a], places.start, step), x)


@composed(samples=samples(Sample((randn(3, 4), randn(3, seed=1), 1, -2)), Sample((randn(2, 3, 4), randn(3, 4), 0, 1))))
def select_scatter(x: Operand, src: Operand, dim: int, index: int) -> Value:
    """x with its slice number `index` along axis `dim` replaced by src, which lacks that axis."""
    x, src = as_value(x), as_value(src)
    a = check_axis(dim, x.ndim, "dim")
    if not -x.shape[a] <= index < x.shape[a]:
        raise ShapeError(f"index {index} is out of range for axis {a} of size {x.shape[a]}")
    if src.shape != x.shape[:a] + x.shape[a + 1 :]:
        raise ShapeError(f"src must be {x.shape[:a] + x.shape[a + 1 :]}, got {src.shape}")
    here = equal(call("arange", x.shape[a]), index % x.shape[a])
    here = reshape(here, tuple(d if i == a else 1 for i, d in enumerate(x.shape)))
    return where(here, broadcast_to(expand_dims(call("cast", src, x.dtype), a), x.shape), x)


@composed(
    samples=samples(
        Sample((randn(3, 4), randn(3, seed=1))),
        Sample((randn(4, 3), randn(2, seed=1)), {"offset": -2}),
        Sample((randn(3, 2, 4), randn(2, 3, seed=1)), {"offset": 1, "dim1": 0, "dim2": 2}),
    )
)
def diagonal_scatter(x: Operand, src: Operand, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """x with the diagonal of its axes dim1 and dim2 replaced by src, whose last axis runs along the diagonal."""
    x, src = as_value(x), as_value(src)
    a, b = check_axis(dim1, x.ndim, "dim1"), check_axis(dim2, x.ndim, "dim2")
    if a == b:
        raise ShapeError(f"dim1 and dim2 are both axis {a}")
    order = (*(i for i in range(x.ndim) if i not in (a, b)), a, b)
    front = transpose(x, order)
    rows, columns = front.shape[-2:]
    first = max(-offset, 0)  # the row in which the diagonal begins
    length = max(min(rows - first, columns - max(offset, 0)), 0)
    if src.shape != (*front.shape[:-2], length):
        raise ShapeError(f"src must be {(*front.shape[:-2], length)}, got {src.shape}")
    if not src.size:
        return x
    line = call("pad", call("cast", src, x.dtype), [(0, 0)] * (src.ndim - 1) + [(first, rows - first - length)])
    on = equal(call("arange", columns) - reshape(call("arange", rows), (rows, 1)), offset)
    written = where(on, broadcast_to(expand_dims(line, -1), front.shape), front)
    return transpose(written, sorted(range(x.ndim), key=order.__getitem__))
