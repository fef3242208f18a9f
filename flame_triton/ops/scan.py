"""Scans along one axis: cumsum, cumprod, cummax, cummin, logcumsumexp, and the linear recurrence behind them.

Their gradients are scans again, in the other direction. With y_i = a_i y_(i-1) + b_i, the cotangents of b are

    d_i = g_i + a_(i+1) d_(i+1),    and those of a are d_i y_(i-1):

another linear recurrence, so it is its own gradient. cumprod, cummax, cummin and logcumsumexp are differentiated by it:

    cumprod:       dx_i = y_(i-1) d_i     with a = x               (no division, so zeros are no special case)
    logcumsumexp:  dx_i = e^(x_i - y_i) d_i     with a_(i+1) = e^(y_i - y_(i+1)) <= 1
    cummax:        dx_i = d_i where the extreme stands, with a_(i+1) = 1 as long as it stays there, else 0
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..errors import DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Kernel, Sample, call
from ..types import TensorType, check_axis, int64
from .define import (
    Operand,
    as_value,
    composed,
    define,
    floating,
    in_compute_type,
    integers,
    promote_operands,
    randn,
    samples,
    wide,
)
from .logic import where
from .view import narrow, pad_with, reshape

__all__ = ["cummax", "cummin", "cumprod", "cumsum", "cumulative_trapezoid", "linear_recurrence", "logcumsumexp"]

# ---- the axis --------------------------------------------------------------------------------------------------


def _lined_up(x: Operand, axis: int | None) -> tuple[Value, int, tuple[int, ...]]:
    """x with the axis to scan, which of x's it is, and the shape of the result. None: the flattened x."""
    x = as_value(x)
    if axis is None or not x.ndim:
        if axis is not None:
            check_axis(axis, 0)
        return reshape(x, (x.size,)), 0, (x.size,) if axis is None else ()
    return x, check_axis(axis, x.ndim), x.shape


def _shifted(x: Value, axis: int, by: int, fill: float) -> Value:
    """x moved by one place along the axis, forth (by = 1) or back (-1), `fill` where nothing comes from."""
    n = x.shape[axis]
    if not n:
        return x
    before, after = ([int(a == axis and by == side) for a in range(x.ndim)] for side in (1, -1))
    return pad_with(narrow(x, axis, int(by < 0), n - 1), before, after, fill)


def _positions(x: Value, axis: int) -> Value:
    """0, 1, ... along the axis, int64, of rank x.ndim."""
    return reshape(call("arange", x.shape[axis]), tuple(d if a == axis else 1 for a, d in enumerate(x.shape)))


# ---- sums ------------------------------------------------------------------------------------------------------


def _summed_type(x: TensorType, *, axis: int, reverse: bool = False) -> TensorType:
    return x if x.dtype.is_float else x.with_dtype(int64)


def _cumsum_ref(x: np.ndarray, *, axis: int, reverse: bool) -> np.ndarray:
    dtype = x.dtype if x.dtype.kind == "f" else np.int64
    return np.flip(np.cumsum(np.flip(x, axis), axis, dtype), axis) if reverse else np.cumsum(x, axis, dtype)


_scanned = (
    Sample((randn(3, 5),), {"axis": 1}),
    Sample((randn(2, 3, 4),), {"axis": -2}),
    Sample((randn(1, 17),), {"axis": -1}),
    Sample((randn(2, 0, 3),), {"axis": 1}),
)


@define(
    "cumsum",
    infer=_summed_type,
    lowering=Kernel("cumsum"),
    ref=_cumsum_ref,
    vjp=lambda node, g: [
        make("cumsum", [g], axis=node.attrs["axis"], reverse=not node.attrs["reverse"]).out,
    ],
    samples=samples(*_scanned, Sample((randn(2, 3),)), Sample((integers(2, 5, low=-9, high=9),), {"axis": -1})),
)
def cumsum(x: Operand, axis: int | None = None) -> Value:
    """The sums x_0 + ... + x_i along the axis (of the flattened tensor if None). Integers and bools give int64.

    16-bit floats are summed in float32; each result is rounded once.
    """
    x, a, shape = _lined_up(x, axis)
    return reshape(make("cumsum", [x], axis=a, reverse=False).out, shape)


@composed(
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((randn(2, 4, 3),), {"dx": 0.5, "axis": 1}),
        Sample((randn(3, 5), np.cumsum(randn(5, low=0.5, high=1.5)))),
        Sample((randn(3, 5), np.cumsum(randn(3, 5, low=0.5, high=1.5), 1))),
        Sample((randn(4, 1),)),
    )
)
def cumulative_trapezoid(y: Operand, x: Operand | None = None, dx: float = 1.0, axis: int = -1) -> Value:
    """The integral of y up to each point by the trapezoidal rule: one element shorter than y along the axis.

    x: where y was sampled, of y's shape or [n]; without it points are dx apart.
    """
    y = as_value(y)
    if not y.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {y.dtype}")
    if not y.ndim:
        raise ShapeError("needs a tensor with dimensions")
    a = check_axis(axis, y.ndim)
    n = max(y.shape[a] - 1, 0)

    def later(v: Value, at: int) -> Value:
        return narrow(v, at, min(1, v.shape[at]), n)

    high, low = wide(later(y, a)), wide(narrow(y, a, 0, n))
    area = call("mul", call("add", high, low), 0.5 * dx if x is None else 0.5)
    if x is not None:
        x = as_value(x)
        if x.shape not in (y.shape, (y.shape[a],)):
            raise ShapeError(f"x must have y's shape {y.shape} or ({y.shape[a]},), got {x.shape}")
        at = a if x.ndim == y.ndim else 0
        step = call("sub", wide(later(x, at)), wide(narrow(x, at, 0, n)))
        if x.ndim != y.ndim:
            step = reshape(step, tuple(n if i == a else 1 for i in range(y.ndim)))
        area = call("mul", area, step)
    return call("cast", cumsum(area, a), y.dtype)


# ---- linear recurrence -----------------------------------------------------------------------------------------


def _recurrence_type(a: TensorType, b: TensorType, *, axis: int, reverse: bool) -> TensorType:
    return floating(b)


def _recurrence_ref(a: np.ndarray, b: np.ndarray, *, axis: int, reverse: bool) -> np.ndarray:
    a, b = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
    out = np.empty(b.shape, b.dtype)
    order = range(len(b) - 1, -1, -1) if reverse else range(len(b))
    before = None
    for i in order:
        out[i] = b[i] if before is None else a[i] * out[before] + b[i]
        before = i
    return np.moveaxis(out, 0, axis)


def _recurrence_vjp(node: Node, g: Value) -> list[Value | None]:
    """d_i = g_i + a_(i+1) d_(i+1) for b, d_i y_(i-1) for a; i + 1 is i - 1 if the recurrence runs from the end."""
    a, axis, reverse = wide(node.inputs[0]), node.attrs["axis"], node.attrs["reverse"]
    forth = -1 if reverse else 1
    d = make("linear_recurrence", [_shifted(a, axis, -forth, 0), wide(g)], axis=axis, reverse=not reverse).out
    da = call("mul", d, _shifted(wide(node.out), axis, forth, 0))
    return [call("cast", da, node.inputs[0].dtype), call("cast", d, node.inputs[1].dtype)]


@define(
    "linear_recurrence",
    infer=_recurrence_type,
    lowering=Kernel("linear_recurrence"),
    ref=_recurrence_ref,
    vjp=_recurrence_vjp,
    samples=samples(
        Sample((randn(3, 5), randn(3, 5, seed=1))),
        Sample((randn(2, 4, 3), randn(2, 4, 3, seed=1)), {"axis": 1, "reverse": True}),
        Sample((randn(2, 1), randn(2, 1, seed=1))),
    ),
)
def linear_recurrence(a: Operand, b: Operand, axis: int = -1, reverse: bool = False) -> Value:
    """y_i = a_i y_(i-1) + b_i along the axis, y before the first being 0; reverse: y_i = a_i y_(i+1) + b_i.

    a and b are promoted and broadcast. Computed as an associative scan (Blelloch 1990), in float32 for 16-bit floats:
    running products of a must stay finite.
    """
    a, b = promote_operands("linear_recurrence", a, b)
    at = check_axis(axis, b.ndim)
    shape = b.shape
    if not b.ndim:
        a, b = reshape(a, (1,)), reshape(b, (1,))
    return reshape(make("linear_recurrence", [a, b], axis=at, reverse=bool(reverse)).out, shape)


# ---- products --------------------------------------------------------------------------------------------------


def _cumprod_vjp(node: Node, g: Value) -> list[Value | None]:
    """dx_i = y_(i-1) d_i, d_i = g_i + x_(i+1) d_(i+1)."""
    x, axis = wide(node.inputs[0]), node.attrs["axis"]
    before = wide(node.out) if x is node.inputs[0] else make("cumprod", [x], axis=axis).out
    d = linear_recurrence(_shifted(x, axis, -1, 0), wide(g), axis, reverse=True)
    return [call("cast", call("mul", _shifted(before, axis, 1, 1), d), node.inputs[0].dtype)]


@define(
    "cumprod",
    infer=_summed_type,
    lowering=Kernel("cumprod"),
    ref=lambda x, *, axis: np.cumprod(x, axis, x.dtype if x.dtype.kind == "f" else np.int64),
    vjp=_cumprod_vjp,
    samples=samples(
        *_scanned,
        Sample((np.array([[2.0, 0.0, 3.0, -1.0], [0.0, 1.5, 0.0, 2.0]]),), {"axis": 1}),
        Sample((np.array([2, -3, 0, 5]),)),
    ),
)
def cumprod(x: Operand, axis: int | None = None) -> Value:
    """The products x_0 ... x_i along the axis (of the flattened tensor if None). Integers and bools give int64."""
    x, a, shape = _lined_up(x, axis)
    return reshape(make("cumprod", [x], axis=a).out, shape)


# ---- extremes --------------------------------------------------------------------------------------------------


def _extreme_ref(better: Callable[..., np.ndarray]) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    def ref(x: np.ndarray, *, axis: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.moveaxis(x, axis, 0)
        values, indices = x.copy(), np.zeros(x.shape, np.int64)
        for i in range(1, len(x)):
            take = np.isnan(x[i]) | (~np.isnan(values[i - 1]) & better(x[i], values[i - 1]))
            values[i] = np.where(take, x[i], values[i - 1])
            indices[i] = np.where(take, i, indices[i - 1])
        return np.moveaxis(values, 0, axis), np.moveaxis(indices, 0, axis)

    return ref


def _extreme_vjp(node: Node, g: Value | None, _: Value | None) -> list[Value | None]:
    """The cotangents of a run of equal indices, summed where the run's element stands."""
    if g is None:
        return [None]
    index, axis = node.outputs[1], node.attrs["axis"]
    stays = call("cast", call("equal", _shifted(index, axis, -1, -1), index), g.dtype.compute)
    d = linear_recurrence(stays, wide(g), axis, reverse=True)
    return [call("cast", where(call("equal", index, _positions(index, axis)), d, 0.0), g.dtype)]


_extreme_samples = samples(
    *_scanned,
    Sample((np.array([[1.0, 3.0, 3.0, 2.0, 3.0], [2.0, -1.0, -1.0, -4.0, 0.5]]),), {"axis": 1}, grad=()),
    Sample((np.array([4, 4, 2, 7, 7, 2]),), {"axis": 0}),
)


@define(
    "cummax",
    infer=lambda x, *, axis: (x, x.with_dtype(int64)),
    lowering=Kernel("cummax"),
    ref=_extreme_ref(np.greater_equal),
    vjp=_extreme_vjp,
    samples=_extreme_samples,
)
def cummax(x: Operand, axis: int) -> tuple[Value, Value]:
    """(values, indices): the largest of x_0 ... x_i along the axis, and where it stands (int64).

    The last of equal elements counts, and NaN as the largest, as in torch. The gradient goes to that element alone.
    """
    return _extreme("cummax", x, axis)


@define(
    "cummin",
    infer=lambda x, *, axis: (x, x.with_dtype(int64)),
    lowering=Kernel("cummin"),
    ref=_extreme_ref(np.less_equal),
    vjp=_extreme_vjp,
    samples=_extreme_samples,
)
def cummin(x: Operand, axis: int) -> tuple[Value, Value]:
    """(values, indices): the smallest of x_0 ... x_i along the axis, and where it stands; otherwise as cummax."""
    return _extreme("cummin", x, axis)


def _extreme(name: str, x: Operand, axis: int) -> tuple[Value, Value]:
    x, a, shape = _lined_up(x, axis)
    values, indices = make(name, [x], axis=a).outputs
    return reshape(values, shape), reshape(indices, shape)


# ---- logcumsumexp ----------------------------------------------------------------------------------------------


def _logcumsumexp_ref(x: np.ndarray, *, axis: int) -> np.ndarray:
    return np.logaddexp.accumulate(x, axis) if x.size else x


def _logcumsumexp_rule(g: Value, y: Value, x: Value, axis: int) -> Value:
    """dx_i = e^(x_i - y_i) d_i, d_i = g_i + e^(y_i - y_(i+1)) d_(i+1); -inf - -inf counts as -inf."""
    least = call("equal", y, -math.inf)
    solid = where(least, 0.0, y)
    following = _shifted(solid, axis, -1, 0)
    decay = call("exp", where(least, -math.inf, call("sub", solid, following)))
    d = linear_recurrence(decay, g, axis, reverse=True)
    return call("mul", call("exp", call("sub", x, solid)), d)


@define(
    "logcumsumexp",
    infer=lambda x, *, axis: floating(x),
    lowering=Kernel("logcumsumexp"),
    ref=_logcumsumexp_ref,
    vjp=in_compute_type(_logcumsumexp_rule),
    samples=samples(
        *_scanned,
        Sample((np.array([[-np.inf, -np.inf, 1.0, 2.0], [800.0, -800.0, 799.0, 801.0]]),), {"axis": 1}, grad=()),
    ),
)
def logcumsumexp(x: Operand, axis: int) -> Value:
    """log(e^x_0 + ... + e^x_i) along the axis, the largest exponent taken out: nothing overflows. x: floating."""
    x, a, shape = _lined_up(x, axis)
    return reshape(make("logcumsumexp", [x], axis=a).out, shape)
