"""How often values occur: counts and histograms, with the same bits every run."""

from __future__ import annotations

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import int64
from .define import Operand, as_value, composed, randn, samples, wide
from .indexing import _as_index, scatter_add_rows
from .logic import equal, where
from .view import reshape

__all__ = ["bincount", "histc"]


@composed(
    samples=samples(
        Sample((np.array([0, 3, 3, 1, 7]),), {"minlength": 5}, grad=()),
        Sample((np.array([0, 3, 3, 1]), randn(4)), {"minlength": 6}),
    )
)
def bincount(x: Operand, weights: Operand | None = None, minlength: int = 0) -> Value:
    """How often each of 0 ... minlength - 1 occurs in x [n]: int64; with weights [n] the sums of these.

    The length is static, so it must be given: larger elements, and negative ones, are not counted.
    """
    x = _as_index(x)
    if x.ndim != 1:
        raise ShapeError(f"x must have one axis, got {x.shape}")
    if minlength < 1:
        raise ArgumentError("minlength must say how many to count")
    added = call("ones", x.shape, int64) if weights is None else as_value(weights)
    if added.shape != x.shape:
        raise ShapeError(f"weights must be {x.shape}, got {added.shape}")
    index = where(call("less", x, 0), minlength, x)
    return reshape(scatter_add_rows(index, reshape(added, (x.size, 1)), minlength), (minlength,))


@composed(
    samples=samples(
        Sample((randn(20),), {"bins": 4, "min": -1.0, "max": 1.0}, grad=()),
        Sample((randn(3, 5),), {"bins": 5}, grad=()),
        Sample((np.array([0.0, 0.5, 1.0, 1.0, 2.0, -1.0]), 2, 0.0, 1.0), grad=()),
    )
)
def histc(x: Operand, bins: int = 100, min: float = 0, max: float = 0) -> Value:
    """How many elements of x fall into each of `bins` equal intervals of [min, max], the last one closed; x's dtype.

    min = max = 0: from the least to the largest element. Others, and NaN, are not counted.
    """
    x = as_value(x)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    if bins < 1 or max < min:
        raise ArgumentError(f"needs bins > 0 and min <= max, got {bins}, {min} and {max}")
    flat = wide(reshape(x, (x.size,)))
    low, high = as_value(float(min), flat.dtype), as_value(float(max), flat.dtype)
    if min == max == 0 and x.size:
        low, high = call("min", flat), call("max", flat)
    one = equal(low, high)
    low, high = where(one, low - 1, low), where(one, high + 1, high)
    inside = call("logical_and", call("greater_equal", flat, low), call("less_equal", flat, high))
    place = call("floor", (flat - low) * call("div", float(bins), high - low))
    place = call("cast", where(inside, call("clamp", place, 0.0, float(bins - 1)), float(bins)), int64)
    return call("cast", bincount(place, None, bins), x.dtype)
