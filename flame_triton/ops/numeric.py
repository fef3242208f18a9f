"""Pointwise functions of two or three numbers: signs, remainders, interpolation, logarithms of sums and products.

16-bit floats are computed in float32 and rounded once, gradients too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import TensorType, bool_, float32, float64
from .arithmetic import abs, add, div, mul, neg, sub, trunc
from .define import (
    Operand,
    as_value,
    composed,
    in_compute_type,
    is_scalar,
    numeric,
    pointwise,
    promote_operands,
    randn,
    samples,
    unary,
    wide,
    wide_operands,
)
from .elementary import cos, log, sigmoid
from .logic import equal, isfinite, isinf, isnan, less, logical_and, logical_or, where

# fmt: off
__all__ = [
    "addcdiv", "addcmul", "allclose", "angle", "copysign", "deg2rad", "entr", "float_power", "fmax", "fmin", "fmod",
    "frac", "heaviside", "hypot", "isclose", "isneginf", "isposinf", "isreal", "ldexp", "lerp", "logaddexp",
    "logaddexp2", "logit", "nextafter", "rad2deg", "rsub", "signbit", "sinc", "xlog1py", "xlogy",
]
# fmt: on


def _pair(low: float = -3.0, high: float = 3.0) -> Any:
    return samples(
        Sample((randn(3, 5, low=low, high=high), randn(5, seed=1, low=low, high=high))),
        Sample((randn(7, low=low, high=high), 1.5)),
        Sample((randn(low=low, high=high), randn(1, seed=1, low=low, high=high))),
    )


def _flag(x: TensorType, *_: TensorType) -> TensorType:
    return x.with_dtype(bool_)


def _zero(x: Value) -> Value:
    return call("full", x.shape, 0, x.dtype)


# ---- signs and steps -------------------------------------------------------------------------------------------

copysign = pointwise(
    "copysign",
    "lib.copysign({0}, {1})",
    np.copysign,
    in_compute_type(lambda g, z, x, y: [where(equal(x, 0.0), 0.0, mul(g, div(z, x))), _zero(y)]),
    doc="|x| with the sign of y, also of -0.0. The gradient is that of x alone, 0 where x = 0.",
    samples=_pair(),
    float_result=True,
    cost=4,
)
signbit = pointwise(
    "signbit",
    lambda node: "lib.signbit({0})" if node.inputs[0].dtype.is_float else "({0} < 0)",
    np.signbit,
    None,
    doc="True where the sign bit is set: negative numbers, -0.0 and NaN with a sign.",
    operands=("x",),
    infer=_flag,
    samples=samples(
        Sample((randn(3, 5),), grad=()),
        Sample((np.array([0.0, -0.0, -1.0]),), grad=()),
        Sample((np.arange(-2, 2),), grad=()),
    ),
)
heaviside = pointwise(
    "heaviside",
    "lib.heaviside({0}, {1})",
    lambda x, y: np.where(x == 0, y, (x > 0).astype(y.dtype)),
    lambda node, g: [_zero(node.inputs[0]), where(equal(node.inputs[0], 0.0), g, 0.0)],
    doc="The step function: 0 for x < 0 (and NaN), y for x = 0, 1 for x > 0. The gradient in x is zero.",
    infer=numeric,
    samples=samples(
        Sample((randn(3, 5), randn(5, seed=1))), Sample((np.array([-1.0, 0.0, 2.0]), randn(2, 3, seed=1)), grad=(1,))
    ),
    cost=2,
)


@composed(
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((np.array([0.0, -0.0, -1.0, np.inf, -np.inf, np.nan]),), grad=()),
        Sample((np.arange(-2, 2),), grad=()),
    )
)
def angle(x: Operand) -> Value:
    """The angle of a real number in the complex plane: pi where it is negative, else 0. The gradient is zero."""
    (x,) = promote_operands("angle", x, float_result=True)
    return where(less(x, 0.0), math.pi, where(isnan(x), x, 0.0))


def _precise(x: TensorType, *_: TensorType) -> TensorType:
    if x.dtype not in (float32, float64):
        raise DTypeError(f"needs float32 or float64, got {x.dtype}")
    return x


nextafter = pointwise(
    "nextafter",
    "lib.nextafter({0}, {1})",
    np.nextafter,
    lambda node, g: [g, call("full", g.shape, 0, g.dtype)],
    doc="The floating number next to x in the direction of y. float32 and float64.",
    infer=_precise,
    cost=6,
)


# ---- remainders and extremes -----------------------------------------------------------------------------------

fmod = pointwise(
    "fmod",
    "lib.fmod({0}, {1})",
    np.fmod,
    in_compute_type(lambda g, r, x, y: [g, neg(mul(g, trunc(div(x, y))))]),
    doc="x - y trunc(x / y), exact, with the sign of x, as C's fmod. Integers: y must not be 0.",
    infer=numeric,
    samples=samples(
        *_pair(0.5, 3.0)(), Sample((randn(9, low=-9.0, high=9.0), 2.0)), Sample((np.arange(-4, 5), np.array([3])))
    ),
    cost=40,
)


def _chosen(name: str, keeps: str, logical: str, ref: Any, doc: str) -> Any:
    """fmax and fmin. Ties give the whole gradient to x, as torch."""

    def vjp(node: Any, g: Value) -> list[Value]:
        x, y = node.inputs
        first = call(keeps, x, y)
        first = logical_or(first, isnan(y)) if x.dtype.is_float else first
        return [where(first, g, 0.0), where(first, 0.0, g)]

    return pointwise(
        name,
        f"lib.{name}({{0}}, {{1}})",
        ref,
        vjp,
        doc=doc,
        infer=numeric,
        samples=_pair(),
        shortcut=lambda x, y: call(logical, x, y) if x.dtype is bool_ else None,
        cost=3,
    )


fmax = _chosen("fmax", "greater_equal", "logical_or", np.fmax, "The larger; NaN only if both are.")
fmin = _chosen("fmin", "less_equal", "logical_and", np.fmin, "The smaller; NaN only if both are.")

hypot = pointwise(
    "hypot",
    "lib.hypot({0}, {1})",
    np.hypot,
    in_compute_type(lambda g, z, x, y: [mul(g, div(x, z)), mul(g, div(y, z))]),
    doc="sqrt(x ** 2 + y ** 2), without overflow.",
    samples=_pair(),
    float_result=True,
    cost=24,
)


@composed(samples=samples(Sample((randn(3, 5),)), Sample((randn(17) * 9,))))
def frac(x: Operand) -> Value:
    """x - trunc(x): what stands behind the point, with the sign of x. x: floating."""
    x = as_value(x)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    return sub(x, trunc(x))


# ---- powers and scales -----------------------------------------------------------------------------------------


@composed(samples=samples(Sample((randn(3, 5, low=0.3, high=2.0), randn(5, seed=1))), Sample((randn(4), 2))))
def float_power(x: Operand, y: Operand) -> Value:
    """x ** y in float64, whatever the operands are."""
    x, y = (call("cast", as_value(v, float64), float64) for v in (x, y))
    return call("pow", x, y)


@composed(samples=samples(Sample((randn(3, 5), np.array([-2, 0, 1, 3, 5]))), Sample((randn(4), 3))))
def ldexp(x: Operand, other: Operand) -> Value:
    """x * 2 ** other; with integer exponents in x's dtype, rounded once."""
    x, other = as_value(x), as_value(other)
    if other.dtype.is_float or not x.dtype.is_float:
        return mul(x, call("pow", 2.0, other))
    scale = call("pow", 2.0, call("cast", other, x.dtype.compute))
    return call("cast", mul(wide(x), scale), x.dtype)


@composed(samples=samples(Sample((randn(3, 5) * 90,)), Sample((np.arange(4),))))
def deg2rad(x: Operand) -> Value:
    """Degrees to radians: x pi / 180."""
    return mul(_number(x), math.pi / 180)


@composed(samples=samples(Sample((randn(3, 5),)), Sample((np.arange(4),))))
def rad2deg(x: Operand) -> Value:
    """Radians to degrees: x 180 / pi."""
    return mul(_number(x), 180 / math.pi)


def _number(x: Operand) -> Value:
    x = as_value(x)
    if x.dtype is bool_:
        raise DTypeError("is not defined for bool; cast to an integer type")
    return x


def _sinc_rule(g: Value, y: Value, x: Value) -> Value:
    """(cos(pi x) - sinc(x)) / x; near 0 it is -pi^2 x / 3, whose own derivative holds at 0 as well."""
    zero = equal(x, 0.0)
    slope = div(sub(cos(mul(x, math.pi)), y), where(zero, 1.0, x))
    return mul(g, where(zero, mul(x, -(math.pi**2) / 3), slope))


sinc = unary("sinc", "lib.sinc({0})", np.sinc, _sinc_rule, doc="sin(pi x) / (pi x); 1 at 0.", cost=24)


# ---- sums and blends -------------------------------------------------------------------------------------------


@composed(samples=samples(Sample((randn(3, 5), randn(5, seed=1))), Sample((randn(4), 2.0), {"alpha": 0.3})))
def rsub(x: Operand, y: Operand, alpha: float = 1) -> Value:
    """y - alpha * x. Not for bool."""
    if alpha == 1:
        return sub(y, x)
    dtype, (x, y) = wide_operands("rsub", x, y)
    return call("cast", sub(y, mul(x, alpha)), dtype)


@composed(
    samples=samples(
        Sample((randn(3, 5), randn(5, seed=1), 0.3)),
        Sample((randn(3, 5), randn(5, seed=1), 0.9)),
        Sample((randn(4), randn(4, seed=1), randn(3, 1, seed=2))),
    )
)
def lerp(start: Operand, end: Operand, weight: Operand) -> Value:
    """start + weight (end - start), counted from the nearer end so that weight = 1 gives `end` exactly; floating."""
    dtype, (s, e, w) = wide_operands("lerp", start, end, weight)
    if not dtype.is_float:
        raise DTypeError(f"needs floating tensors, got {dtype}")
    rise = sub(e, s)
    near_start, near_end = add(s, mul(w, rise)), sub(e, mul(rise, sub(1.0, w)))
    if is_scalar(weight):
        found = near_start if -0.5 < float(weight) < 0.5 else near_end
    else:
        found = where(less(abs(w), 0.5), near_start, near_end)
    return call("cast", found, dtype)


@composed(
    samples=samples(
        Sample((randn(3, 5), randn(5, seed=1), randn(3, 1, seed=2))),
        Sample((randn(4), randn(4, seed=1), randn(4, seed=2)), {"value": -0.7}),
    )
)
def addcmul(input: Operand, tensor1: Operand, tensor2: Operand, *, value: float = 1) -> Value:
    """input + value * tensor1 * tensor2, rounded once."""
    dtype, (x, a, b) = wide_operands("addcmul", input, tensor1, tensor2)
    a = a if value == 1 else mul(a, value)
    return call("cast", add(x, mul(a, b)), dtype)


@composed(
    samples=samples(
        Sample((randn(3, 5), randn(5, seed=1), randn(3, 1, seed=2, low=0.5, high=2.0))),
        Sample((randn(4), randn(4, seed=1), randn(4, seed=2, low=0.5, high=2.0)), {"value": -0.7}),
    )
)
def addcdiv(input: Operand, tensor1: Operand, tensor2: Operand, *, value: float = 1) -> Value:
    """input + value * tensor1 / tensor2, rounded once; floating."""
    dtype, (x, a, b) = wide_operands("addcdiv", input, tensor1, tensor2)
    if not dtype.is_float:
        raise DTypeError(f"needs floating tensors, got {dtype}")
    a = a if value == 1 else mul(a, value)
    return call("cast", add(x, div(a, b)), dtype)


# ---- logarithms ------------------------------------------------------------------------------------------------

logaddexp = pointwise(
    "logaddexp",
    "lib.logaddexp({0}, {1})",
    np.logaddexp,
    in_compute_type(lambda g, z, x, y: [mul(g, sigmoid(sub(x, y))), mul(g, sigmoid(sub(y, x)))]),
    doc="log(e ** x + e ** y), without overflow.",
    samples=_pair(),
    float_result=True,
    cost=32,
)


def _share2(x: Value, y: Value) -> Value:
    """2^x / (2^x + 2^y)."""
    return sigmoid(mul(sub(x, y), math.log(2)))


logaddexp2 = pointwise(
    "logaddexp2",
    "lib.logaddexp2({0}, {1})",
    np.logaddexp2,
    in_compute_type(lambda g, z, x, y: [mul(g, _share2(x, y)), mul(g, _share2(y, x))]),
    doc="log2(2 ** x + 2 ** y), without overflow.",
    samples=_pair(),
    float_result=True,
    cost=32,
)


def _xlog_ref(logarithm: Any) -> Any:
    return lambda x, y: np.where(np.isnan(y), y, np.where(x == 0, 0, x * logarithm(y)))


def _xlog_rule(name: str, shift: float) -> Any:
    """d/dx = log(y), 0 where x = 0 and the logarithm is none; d/dy = x / y (y: the logarithm's argument)."""

    def rule(g: Value, z: Value, x: Value, y: Value) -> list[Value]:
        argument = add(y, shift) if shift else y
        none = logical_and(equal(x, 0.0), call("less_equal", argument, 0.0))
        return [where(none, 0.0, call(name, g, y)), div(mul(g, x), argument)]

    return in_compute_type(rule)


xlogy = pointwise(
    "xlogy",
    "lib.xlogy({0}, {1})",
    _xlog_ref(np.log),
    _xlog_rule("xlogy", 0.0),
    doc="x log(y); 0 where x = 0, unless y is NaN.",
    samples=_pair(0.5, 3.0),
    float_result=True,
    cost=12,
)
xlog1py = pointwise(
    "xlog1py",
    "lib.xlog1py({0}, {1})",
    _xlog_ref(np.log1p),
    _xlog_rule("xlog1py", 1.0),
    doc="x log(1 + y), accurate for small y; 0 where x = 0, unless y is NaN.",
    samples=_pair(-0.5, 3.0),
    float_result=True,
    cost=20,
)


def _entr_ref(x: np.ndarray) -> np.ndarray:
    inside = np.where(x > 0, x, 1)
    return np.where(x > 0, -inside * np.log(inside), np.where(x == 0, 0, np.where(np.isnan(x), x, -np.inf)))


entr = unary(
    "entr",
    "lib.entr({0})",
    _entr_ref,
    lambda g, y, x: mul(g, sub(-1.0, log(x))),
    doc="The entropy -x log(x); 0 at 0, -inf below.",
    domain=(0.1, 3.0),
    cost=12,
)
_logit = unary(
    "logit",
    "lib.logit({0})",
    lambda x: np.log(x) - np.log1p(-x),
    lambda g, y, x: div(g, mul(x, sub(1.0, x))),
    doc="log(x / (1 - x)).",
    domain=(0.1, 0.9),
    cost=40,
)


@composed(samples=samples(Sample((randn(3, 5, low=0.05, high=0.95),)), Sample((randn(9, low=-0.5, high=1.5), 0.1))))
def logit(x: Operand, eps: float | None = None) -> Value:
    """log(x / (1 - x)), the inverse of sigmoid. eps: x is clamped to [eps, 1 - eps] first."""
    if eps is None:
        return _logit(x)
    dtype, (v,) = wide_operands("logit", x, float_result=True)
    return call("cast", _logit(call("clamp", v, eps, 1 - eps)), dtype)


# ---- tests -----------------------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((np.array([1.0, 1.0, np.nan, np.inf, np.inf]), np.array([1.0, 1.1, np.nan, np.inf, -np.inf])), grad=()),
        Sample((np.array([1.0, np.nan]), np.array([1.000001, np.nan])), {"equal_nan": True}, grad=()),
        Sample((np.array([10, 11]), np.array([10, 10])), {"rtol": 0.2}, grad=()),
    )
)
def isclose(x: Operand, y: Operand, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Value:
    """|x - y| <= atol + rtol |y|, or equal (infinities); equal_nan: two NaN are close too."""
    if rtol < 0 or atol < 0:
        raise ArgumentError(f"rtol and atol must not be negative, got {rtol} and {atol}")
    a, b = promote_operands("isclose", x, y)
    same = equal(a, b)
    a, b = (wide(v) if v.dtype.is_float else call("cast", v, float64) for v in (a, b))
    error = abs(sub(a, b))
    near = logical_and(isfinite(error), call("less_equal", error, add(abs(mul(b, rtol)), atol)))
    same = logical_or(same, near)
    return logical_or(same, logical_and(isnan(a), isnan(b))) if equal_nan else same


@composed(
    samples=samples(
        Sample((randn(3, 4), randn(4)), grad=()), Sample((np.arange(3), np.arange(3)), {"rtol": 0.1}, grad=())
    )
)
def allclose(x: Operand, y: Operand, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Value:
    """True if all elements are close: see isclose."""
    return call("all", isclose(x, y, rtol, atol, equal_nan))


_infinite = samples(Sample((np.array([1.0, np.inf, -np.inf, np.nan]),), grad=()), Sample((np.arange(3),), grad=()))


@composed(samples=_infinite)
def isposinf(x: Operand) -> Value:
    """True where x is +inf."""
    x = as_value(x)
    return logical_and(isinf(x), call("greater", x, 0))


@composed(samples=_infinite)
def isneginf(x: Operand) -> Value:
    """True where x is -inf."""
    x = as_value(x)
    return logical_and(isinf(x), less(x, 0))


@composed(samples=_infinite)
def isreal(x: Operand) -> Value:
    """True everywhere: there are no complex numbers here."""
    return call("full", as_value(x).shape, True, bool_)
