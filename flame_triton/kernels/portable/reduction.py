"""Reductions of a tile along one axis, kept with size 1. NaN is both the largest and the smallest, as in NumPy."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _times(x, y):
    return x * y


@triton.jit
def prod(x, AXIS: tl.constexpr):
    """The product."""
    return tl.reduce(x, AXIS, _times, keep_dims=True)


@triton.jit
def _or_nan(x, y, AXIS: tl.constexpr):
    """y, but NaN where x has one."""
    if x.dtype.is_floating():
        nans = tl.max((x != x).to(tl.int32), axis=AXIS, keep_dims=True)
        y = tl.where(nans != 0, float("nan"), y)
    return y


@triton.jit
def _or_first_nan(x, y, AXIS: tl.constexpr):
    """The index y as int64, but that of the first NaN where x has one."""
    if x.dtype.is_floating():
        nan = (x != x).to(tl.int32)
        first = tl.argmax(nan, axis=AXIS, tie_break_left=True, keep_dims=True)
        y = tl.where(tl.max(nan, axis=AXIS, keep_dims=True) != 0, first, y)
    return y.to(tl.int64)


@triton.jit
def max(x, AXIS: tl.constexpr):
    """The largest element; NaN if there is one."""
    return _or_nan(x, tl.max(x, axis=AXIS, keep_dims=True), AXIS)


@triton.jit
def min(x, AXIS: tl.constexpr):
    """The smallest element; NaN if there is one."""
    return _or_nan(x, tl.min(x, axis=AXIS, keep_dims=True), AXIS)


@triton.jit
def any(x, AXIS: tl.constexpr):
    """True if some element is."""
    return tl.max(x.to(tl.int32), axis=AXIS, keep_dims=True) != 0


@triton.jit
def all(x, AXIS: tl.constexpr):
    """True if every element is."""
    return tl.min(x.to(tl.int32), axis=AXIS, keep_dims=True) != 0


@triton.jit
def argmax(x, AXIS: tl.constexpr):
    """int64 index of the first largest element, or of the first NaN."""
    return _or_first_nan(x, tl.argmax(x, axis=AXIS, tie_break_left=True, keep_dims=True), AXIS)


@triton.jit
def argmin(x, AXIS: tl.constexpr):
    """int64 index of the first smallest element, or of the first NaN."""
    return _or_first_nan(x, tl.argmin(x, axis=AXIS, tie_break_left=True, keep_dims=True), AXIS)
