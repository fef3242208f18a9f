"""Statistics beside the plain reductions: without NaN, weighted, in pairs, along a path; differences and slopes.

16-bit floats are computed in float32 and rounded once.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import DTypeLike, bool_, check_axes, check_axis, int64
from .arithmetic import add, clamp, div, mul, sub
from .define import Operand, as_value, composed, is_scalar, promote_operands, randn, samples, wide
from .join import concat
from .logic import isnan, logical_not, not_equal, where
from .matmul import product
from .matrix import diagonal
from .reduce import Axis, all, finish, max, mean, min, std, sum, var
from .view import broadcast_to, expand_dims, narrow, reshape, transpose

# fmt: off
__all__ = [
    "aminmax", "average", "corrcoef", "count_nonzero", "cov", "diff", "gradient", "nanmax", "nanmean", "nanmin",
    "nansum", "ptp", "std_mean", "trapezoid", "var_mean",
]
# fmt: on


def _floating(x: Operand) -> Value:
    x = as_value(x)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    return x


_holes = np.where(randn(4, 5, seed=7) > 0.8, np.nan, randn(4, 5))
_axis_samples = samples(
    Sample((randn(3, 5, 4),)),
    Sample((randn(3, 5, 4),), {"axis": (0, -1)}),
    Sample((_holes,), {"axis": 1, "keepdims": True}, grad=()),
)

# ---- without NaN -----------------------------------------------------------------------------------------------


@composed(samples=_axis_samples)
def nansum(x: Operand, axis: Axis = None, keepdims: bool = False, dtype: DTypeLike | None = None) -> Value:
    """The sum over the axes (all by default), NaN counting as 0; dtype: cast x to it first."""
    x = as_value(x)
    x = x if dtype is None else call("cast", x, dtype)
    return sum(where(isnan(x), 0.0, x) if x.dtype.is_float else x, axis, keepdims)


@composed(samples=_axis_samples)
def nanmean(x: Operand, axis: Axis = None, keepdims: bool = False, dtype: DTypeLike | None = None) -> Value:
    """The mean over the axes of what is not NaN; NaN if nothing is left. dtype: cast x to it first."""
    x = _floating(x if dtype is None else call("cast", as_value(x), dtype))
    there = logical_not(isnan(x))
    total = sum(where(there, wide(x), 0.0), axis, keepdims)
    count = sum(call("cast", there, total.dtype), axis, keepdims)
    return call("cast", div(total, count), x.dtype)


def _nan_extreme(x: Operand, axis: Axis, keepdims: bool, neutral: float) -> Value:
    """max or min with NaN replaced by what never wins; where everything is NaN, so is the result."""
    x = as_value(x)
    reduce = max if neutral < 0 else min
    if not x.dtype.is_float:
        return reduce(x, axis, keepdims)
    none = isnan(x)
    found = reduce(where(none, neutral, x), axis, keepdims)
    return where(all(none, axis, keepdims), math.nan, found)


@composed(samples=_axis_samples)
def nanmax(x: Operand, axis: Axis = None, keepdims: bool = False) -> Value:
    """The largest element over the axes that is not NaN; NaN if nothing is left. Ties share the gradient."""
    return _nan_extreme(x, axis, keepdims, -math.inf)


@composed(samples=_axis_samples)
def nanmin(x: Operand, axis: Axis = None, keepdims: bool = False) -> Value:
    """The smallest element over the axes that is not NaN; NaN if nothing is left. Ties share the gradient."""
    return _nan_extreme(x, axis, keepdims, math.inf)


# ---- several at once -------------------------------------------------------------------------------------------

_ranges = samples(
    Sample((randn(3, 5, 4),)),
    Sample((randn(3, 5, 4),), {"axis": -1}),
    Sample((randn(3, 5),), {"axis": 0, "keepdims": True}),
)
_spreads = samples(
    Sample((randn(3, 5, 4),)),
    Sample((randn(3, 5, 4),), {"axis": (0, -1), "correction": 1}),
    Sample((randn(3, 5),), {"axis": 1, "keepdims": True}),
)


@composed(samples=_ranges)
def aminmax(x: Operand, axis: Axis = None, keepdims: bool = False) -> tuple[Value, Value]:
    """The smallest and the largest element over the axes; NaN if there is one."""
    return min(as_value(x), axis, keepdims), max(as_value(x), axis, keepdims)


@composed(samples=_ranges)
def ptp(x: Operand, axis: Axis = None, keepdims: bool = False) -> Value:
    """The largest element minus the smallest over the axes."""
    return sub(max(as_value(x), axis, keepdims), min(as_value(x), axis, keepdims))


@composed(samples=_spreads)
def var_mean(x: Operand, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> tuple[Value, Value]:
    """(var, mean) over the axes."""
    return var(as_value(x), axis, correction, keepdims), mean(as_value(x), axis, keepdims)


@composed(samples=_spreads)
def std_mean(x: Operand, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> tuple[Value, Value]:
    """(std, mean) over the axes."""
    return std(as_value(x), axis, correction, keepdims), mean(as_value(x), axis, keepdims)


@composed(
    samples=samples(
        Sample((randn(3, 5).round(),), grad=()),
        Sample((np.arange(6).reshape(2, 3) % 2,), {"axis": 1}, grad=()),
        Sample((_holes,), {"axis": 0, "keepdims": True}, grad=()),
    )
)
def count_nonzero(x: Operand, axis: Axis = None, keepdims: bool = False) -> Value:
    """How many elements over the axes are not 0 (NaN counts), int64."""
    x = as_value(x)
    flags = x if x.dtype is bool_ else not_equal(x, 0)
    return sum(call("cast", flags, int64), axis, keepdims)


@composed(
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((randn(3, 5),), {"axis": 1, "weights": randn(5, low=0.5, high=2.0)}),
        Sample((randn(3, 4),), {"weights": randn(3, 4, low=0.5, high=2.0), "axis": None, "keepdims": True}),
    )
)
def average(x: Operand, axis: Axis = None, weights: Operand | None = None, keepdims: bool = False) -> Value:
    """sum(x weights) / sum(weights) over the axes. weights: of x's shape, or a vector along the one axis."""
    x = as_value(x)
    if not x.dtype.is_float:
        x = call("cast", x, "float32")
    if weights is None:
        return mean(x, axis, keepdims)
    weights, axes = as_value(weights), check_axes(axis, x.ndim)
    if weights.shape != x.shape:
        if len(axes) != 1 or weights.shape != (x.shape[axes[0]],):
            raise ShapeError(f"weights {weights.shape} fit neither x {x.shape} nor one axis of it")
        weights = reshape(weights, tuple(d if a == axes[0] else 1 for a, d in enumerate(x.shape)))
    x, weights = promote_operands("average", x, weights)
    found = div(sum(mul(wide(x), wide(weights)), axes, keepdims=True), sum(wide(weights), axes, keepdims=True))
    return finish(call("cast", found, x.dtype), axes, keepdims)


# ---- pairs of variables ----------------------------------------------------------------------------------------


def _weights(fweights: Operand | None, aweights: Operand | None, n: int) -> tuple[Value | None, Value | None]:
    """The weights of the observations, and their part that repeats observations."""
    f = None if fweights is None else as_value(fweights)
    a = None if aweights is None else as_value(aweights)
    for w in (f, a):
        if w is not None and w.shape != (n,):
            raise ShapeError(f"weights must be one for each of {n} observations, got {w.shape}")
    if f is not None and not f.dtype.is_integer:
        raise DTypeError(f"fweights must be integers, got {f.dtype}")
    return (f if a is None else a if f is None else mul(f, a)), a


def _covariance(x: Value, correction: float, fweights: Operand | None, aweights: Operand | None) -> Value:
    """[variables, variables] in the compute type; x: [variables, observations] or one variable."""
    if x.ndim > 2:
        raise ShapeError(f"needs [variables, observations] or a vector, got {x.shape}")
    x = wide(reshape(x, (1, x.size)) if x.ndim < 2 else x)
    n = x.shape[1]
    w, a = _weights(fweights, aweights, n)
    if w is None:
        centred = sub(x, mean(x, 1, keepdims=True))
        scale = 1.0 / (n - correction) if n > correction else math.nan if n == 0 or n == correction else math.inf
        return mul(product(centred, transpose(centred), x.dtype), scale)
    w = call("cast", w, x.dtype)
    total = sum(w)
    centred = sub(x, div(sum(mul(x, w), 1, keepdims=True), total))
    lost = correction if a is None else mul(div(sum(mul(w, call("cast", a, x.dtype))), total), correction)
    left = clamp(sub(total, lost), min=0.0)
    return div(product(mul(centred, w), transpose(centred), x.dtype), left)


@composed(
    samples=samples(
        Sample((randn(3, 6),)),
        Sample((randn(5),)),
        Sample((randn(2, 5),), {"correction": 0, "fweights": np.array([1, 2, 0, 3, 1])}),
        Sample((randn(2, 4),), {"aweights": randn(4, low=0.5, high=2.0)}),
    )
)
def cov(
    x: Operand, *, correction: float = 1, fweights: Operand | None = None, aweights: Operand | None = None
) -> Value:
    """Covariances of the rows of x, [variables, observations] -> [variables, variables]; of a vector its variance.

    Divided by n - correction. fweights: how often each observation counts (integers); aweights: its importance.
    """
    x = _floating(x)
    found = call("cast", _covariance(x, correction, fweights, aweights), x.dtype)
    return reshape(found, ()) if x.ndim < 2 else found


@composed(samples=samples(Sample((randn(3, 6),)), Sample((randn(5),), grad=())))
def corrcoef(x: Operand) -> Value:
    """Correlation coefficients of the rows of x: their covariances over the standard deviations, within [-1, 1]."""
    x = _floating(x)
    c = _covariance(x, 1, None, None)
    deviation = call("sqrt", diagonal(c))
    found = clamp(div(div(c, deviation), expand_dims(deviation, 1)), -1.0, 1.0)
    found = call("cast", found, x.dtype)
    return reshape(found, ()) if x.ndim < 2 else found


# ---- along a path ----------------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((randn(3, 5),), {"dx": 0.5, "axis": 0}),
        Sample((randn(3, 5), np.cumsum(np.abs(randn(5, seed=1))))),
        Sample((randn(4, 1),)),
    ),
    aliases=("trapz",),
)
def trapezoid(y: Operand, x: Operand | None = None, dx: float = 1.0, axis: int = -1) -> Value:
    """The integral of y along an axis by the trapezoidal rule: sum of (y[i] + y[i + 1]) / 2 (x[i + 1] - x[i]).

    x: the points, of y's shape or a vector along the axis; without it they are dx apart.
    """
    y = as_value(y)
    y = y if y.dtype.is_float else call("cast", y, "float32")
    if not y.ndim:
        raise ShapeError("needs a tensor with dimensions")
    a = check_axis(axis, y.ndim)
    points = None if x is None else as_value(x)
    if points is not None and points.ndim == 1 and points.shape[0] == y.shape[a]:
        points = reshape(points, tuple(points.size if i == a else 1 for i in range(y.ndim)))
    if points is not None:
        y, points = promote_operands("trapezoid", y, points)
    dtype, y = y.dtype, wide(y)
    n = y.shape[a]
    if n < 2:
        return call("cast", mul(sum(y, a), 0.0), dtype)
    heights = mul(add(narrow(y, a, 1, n - 1), narrow(y, a, 0, n - 1)), 0.5)
    width = dx if points is None else _steps(wide(points), a)
    return call("cast", sum(mul(heights, width), a), dtype)


def _steps(x: Value, axis: int) -> Value:
    """x[i + 1] - x[i] along the axis; of bools, whether they differ."""
    n = x.shape[axis]
    later, earlier = narrow(x, axis, 1, n - 1), narrow(x, axis, 0, n - 1)
    return not_equal(later, earlier) if x.dtype is bool_ else sub(later, earlier)


@composed(
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((randn(5, 2), 2), {"axis": 0}),
        Sample((randn(3, 4), 1), {"prepend": randn(3, 1, seed=1), "append": randn(3, 2, seed=2)}),
        Sample((randn(2, 3), 4)),
    )
)
def diff(
    x: Operand, n: int = 1, axis: int = -1, prepend: Operand | None = None, append: Operand | None = None
) -> Value:
    """x[i + 1] - x[i] along an axis, n times; prepend, append: values joined to x first."""
    x = as_value(x)
    if n < 0:
        raise ArgumentError(f"n must not be negative, got {n}")
    if not x.ndim:
        raise ShapeError("needs a tensor with dimensions")
    a = check_axis(axis, x.ndim)
    parts: list[Value] = []
    for part in (prepend, x, append):
        if part is None:
            continue
        part = as_value(part)
        row = tuple(1 if i == a else d for i, d in enumerate(x.shape))
        parts.append(part if part.ndim else broadcast_to(part, row))
    x = concat(parts, a)
    for _ in range(n):
        x = narrow(x, a, 0, 0) if x.shape[a] < 2 else _steps(x, a)
    return x


def _slope(x: Value, axis: int, spacing: float | Value, edge_order: int) -> Value:
    """Central differences of second order inside, one-sided ones of edge_order at both ends."""
    n = x.shape[axis]
    if n < edge_order + 1:
        raise ShapeError(f"axis {axis} of {x.shape} needs at least {edge_order + 1} elements")
    x, dtype = wide(x), x.dtype

    def at(start: int, length: int = 1) -> Value:
        return narrow(x, axis, start % n, length)

    if isinstance(spacing, Value):
        points = call("cast", reshape(spacing, tuple(n if i == axis else 1 for i in range(x.ndim))), x.dtype)
        h = _steps(points, axis)
        before, after = (
            narrow(h, axis, 0, builtins.max(n - 2, 0)),
            narrow(h, axis, builtins.min(1, n - 1), builtins.max(n - 2, 0)),
        )
        first, second = narrow(h, axis, 0, 1), narrow(h, axis, builtins.min(1, n - 2), 1)
        last, previous = narrow(h, axis, n - 2, 1), narrow(h, axis, builtins.max(n - 3, 0), 1)
    else:
        before = after = first = second = last = previous = spacing
    left = div(sub(at(1), at(0)), first)
    right = div(sub(at(-1), at(-2)), last)
    if edge_order == 2:
        left = _one_sided(left, div(sub(at(2), at(1)), second), first, second)
        right = _one_sided(right, div(sub(at(-2), at(-3)), previous), last, previous)
    parts = [left]
    if n > 2:
        backward = div(sub(at(1, n - 2), at(0, n - 2)), before)
        forward = div(sub(at(2, n - 2), at(1, n - 2)), after)
        parts.append(div(add(mul(backward, after), mul(forward, before)), add(before, after)))
    return call("cast", concat([*parts, right], axis), dtype)


def _one_sided(near: Value, next: Value, h: float | Value, k: float | Value) -> Value:
    """The slope at an end from those of the two intervals beside it, h and k long: near + (near - next) h / (h + k)."""
    return add(near, mul(sub(near, next), div(h, add(h, k)) if isinstance(h, Value) else 0.5))


@composed(
    samples=samples(
        Sample((randn(6),)),
        Sample((randn(4, 5),), {"spacing": 0.5, "axis": 1}),
        Sample((randn(4, 3),), {"edge_order": 2}),
        Sample((randn(5),), {"spacing": [np.array([0.0, 0.5, 1.5, 2.0, 4.0])], "edge_order": 2}, grad=(0,)),
        Sample((randn(2, 2),), {"axis": 0}),
    )
)
def gradient(
    x: Operand,
    *,
    spacing: float | Sequence[float | Operand] = 1.0,
    axis: int | Sequence[int] | None = None,
    edge_order: int = 1,
) -> tuple[Value, ...]:
    """Slopes of x along each axis (all by default) by central differences; one-sided at the ends, of edge_order 1 or 2.

    spacing: one distance for all axes, or for each axis a distance or the vector of its points. Always a tuple.
    """
    x = as_value(x)
    x = x if x.dtype.is_float else call("cast", x, "float32")
    axes = [
        check_axis(a, x.ndim) for a in ([axis] if isinstance(axis, int) else range(x.ndim) if axis is None else axis)
    ]
    if edge_order not in (1, 2):
        raise ArgumentError(f"edge_order must be 1 or 2, got {edge_order}")
    gaps: list[Any] = [spacing] * len(axes) if is_scalar(spacing) else list(spacing)  # type: ignore[arg-type]
    if len(gaps) != len(axes):
        raise ArgumentError(f"{len(gaps)} spacings for {len(axes)} axes")
    found: list[Value] = []
    for a, gap in zip(axes, gaps, strict=True):
        step = float(gap) if is_scalar(gap) else as_value(gap)
        if isinstance(step, Value) and step.shape != (x.shape[a],):
            raise ShapeError(f"spacing {step.shape} does not fit axis {a} of {x.shape}")
        found.append(_slope(x, a, step, edge_order))
    return tuple(found)
