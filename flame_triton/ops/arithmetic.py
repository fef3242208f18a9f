"""Arithmetic, rounding and bounds: one Triton expression, one NumPy reference, one gradient rule per op.

Expressions see operands in registers, in the compute type (float32 for 16-bit floats); `lib` is
kernels/portable/library.py. Dtypes follow torch's promotion, shapes NumPy's broadcasting.
"""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError
from ..ir.node import Node, Value
from ..ir.op import Sample, call, public
from ..types import bool_, promote
from .define import (
    Operand,
    as_value,
    composed,
    flat,
    in_compute_type,
    numeric,
    pointwise,
    randn,
    samples,
    wide,
    wide_operands,
)
from .leaf import constant_value

# fmt: off
__all__ = [
    "abs", "add", "ceil", "clamp", "clamp_max", "clamp_min", "div", "floor", "floor_divide", "maximum", "minimum",
    "mul", "neg", "pow", "reciprocal", "remainder", "rint", "round", "sign", "square", "sub", "trunc",
]
# fmt: on

public(promote, "result_type")


def _pair(low: float = -3.0, high: float = 3.0) -> Any:
    return samples(
        Sample((randn(3, 5, low=low, high=high), randn(3, 5, seed=1, low=low, high=high))),
        Sample((randn(4, 1, 3, low=low, high=high), randn(5, 1, seed=1, low=low, high=high))),
        Sample((randn(7, low=low, high=high), 1.5)),
        Sample((randn(low=low, high=high), randn(1, seed=1, low=low, high=high))),
    )


def _one(low: float = -3.0, high: float = 3.0) -> Any:
    return samples(
        Sample((randn(3, 5, low=low, high=high),)),
        Sample((randn(17, low=low, high=high),)),
        Sample((randn(low=low, high=high),)),
    )


def _is(value: Value, number: float) -> bool:
    """True if `value` is filled with this number, signs of zeros told apart."""
    found = constant_value(value)
    return found is not None and found == number and str(float(found)) == str(number)


# ---- + - * / ---------------------------------------------------------------------------------------------------


def _add_simplify(node: Node) -> Value | None:
    """x + (-0.0) = x exactly; x + 0.0 would turn -0.0 into 0.0, so it is kept for floats."""
    x, y = node.inputs
    neutral = -0.0 if x.dtype.is_float else 0.0
    if _is(y, neutral):
        return x
    return y if _is(x, neutral) else None


def _mul_simplify(node: Node) -> Value | None:
    """x * 1 = x; x * 0 is kept, since x may be infinite or NaN."""
    x, y = node.inputs
    if _is(y, 1.0):
        return x
    return y if _is(x, 1.0) else None


def _remainder_ref(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """np.remainder, but a zero keeps the sign of x, as in torch and C's fmod."""
    r = np.fmod(x, y)
    return np.where((r != 0) & ((r < 0) != (y < 0)), r + y, r)


add = pointwise(
    "add",
    lambda node: "(lib.flag({0}) | lib.flag({1}))" if node.type.dtype is bool_ else "{0} + {1}",
    np.add,
    lambda node, g: [g, g],
    doc="x + y; of bools whether one of them is True.",
    samples=_pair(),
    simplify=_add_simplify,
)
sub = pointwise(
    "sub",
    "{0} - {1}",
    np.subtract,
    lambda node, g: [g, neg(g)],
    doc="x - y. Not for bool.",
    infer=numeric,
    samples=_pair(),
    simplify=lambda node: node.inputs[0] if _is(node.inputs[1], 0.0) else None,
    aliases=("subtract",),
)
mul = pointwise(
    "mul",
    "{0} * {1}",
    np.multiply,
    lambda node, g: [mul(g, node.inputs[1]), mul(g, node.inputs[0])],
    doc="x * y.",
    samples=_pair(),
    simplify=_mul_simplify,
    aliases=("multiply",),
)
_div = pointwise(
    "div",
    "lib.div({0}, {1})",
    np.divide,
    in_compute_type(lambda g, z, x, y: [_div(g, y), neg(_div(mul(g, z), y))]),
    doc="x / y, in floating point.",
    float_result=True,
    cost=8,
    simplify=lambda node: node.inputs[0] if _is(node.inputs[1], 1.0) else None,
    aliases=("true_divide",),
)


@composed(
    samples=samples(
        Sample((randn(3, 5, low=0.5, high=3.0), randn(3, 5, seed=1, low=0.5, high=3.0))),
        Sample((randn(4, 1, 3, low=0.5, high=3.0), randn(5, 1, seed=1, low=0.5, high=3.0))),
        Sample((randn(7, low=0.5, high=3.0), 1.5)),
        Sample((randn(7, low=0.5, high=3.0), randn(1, low=-3.0, high=-1.0)), {"rounding_mode": "floor"}),
        Sample((randn(7, low=0.5, high=3.0), randn(1, low=-3.0, high=-1.0)), {"rounding_mode": "trunc"}),
        Sample((np.array([7, -7, 6]), np.array([2, 2, -3])), {"rounding_mode": "trunc"}),
    ),
    aliases=("divide",),
)
def div(x: Operand, y: Operand, rounding_mode: str | None = None) -> Value:
    """x / y, in floating point (integers become float32), correctly rounded; the operands broadcast.

    rounding_mode: "floor", as floor_divide, or "trunc", toward zero, in the promoted dtype; the gradient is then zero.
    Raises ShapeError, DTypeError, or ArgumentError for another mode.
    """
    if rounding_mode is None:
        return _div(x, y)
    if rounding_mode == "floor":
        return floor_divide(x, y)
    if rounding_mode != "trunc":
        raise ArgumentError(f"rounding_mode must be None, 'floor' or 'trunc', got {rounding_mode!r}")
    dtype, (x, y) = wide_operands("div", x, y)
    if dtype.is_float:
        return call("cast", trunc(_div(x, y)), dtype)
    return floor_divide(sub(x, call("fmod", x, y)), y)


floor_divide = pointwise(
    "floor_divide",
    "lib.floor_divide({0}, {1})",
    np.floor_divide,
    flat,
    doc="floor(x / y), as Python's //; the gradient is zero. Integers: y must not be 0.",
    infer=numeric,
    samples=_pair(0.5, 3.0),
    cost=40,
)
remainder = pointwise(
    "remainder",
    "lib.remainder({0}, {1})",
    _remainder_ref,
    in_compute_type(lambda g, r, x, y: [g, neg(mul(g, floor_divide(x, y)))]),
    doc="x - y floor(x / y), with the sign of y, as Python's %. Integers: y must not be 0.",
    infer=numeric,
    samples=_pair(0.5, 3.0),
    cost=40,
)


# ---- one operand -----------------------------------------------------------------------------------------------


def _neg_simplify(node: Node) -> Value | None:
    source = node.inputs[0].node
    return source.inputs[0] if source.op.name == "neg" else None


def _sign_ref(x: np.ndarray) -> np.ndarray:
    """NumPy's own sign gives NaN for NaN, torch's gives 0."""
    return (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype)


neg = pointwise(
    "neg",
    "lib.neg({0})",
    np.negative,
    lambda node, g: [neg(g)],
    doc="-x. Not for bool.",
    operands=("x",),
    infer=numeric,
    samples=_one(),
    simplify=_neg_simplify,
    aliases=("negative",),
)
abs = pointwise(
    "abs",
    "tl.abs({0})",
    np.abs,
    lambda node, g: [mul(g, sign(node.inputs[0]))],
    doc="|x|; the gradient at 0 is 0.",
    operands=("x",),
    infer=numeric,
    samples=_one(),
    aliases=("absolute",),
)
sign = pointwise(
    "sign",
    "lib.sign({0})",
    _sign_ref,
    flat,
    doc="-1, 0 or 1 in the dtype of x; 0 for NaN. The gradient is zero.",
    operands=("x",),
    infer=numeric,
    samples=_one(),
    aliases=("sgn",),
)
square = pointwise(
    "square",
    "{0} * {0}",
    np.square,
    lambda node, g: [mul(g, mul(node.inputs[0], 2.0))],
    doc="x * x.",
    operands=("x",),
    infer=numeric,
    samples=_one(),
)
reciprocal = pointwise(
    "reciprocal",
    "lib.reciprocal({0})",
    np.reciprocal,
    in_compute_type(lambda g, y, x: neg(mul(g, mul(y, y)))),
    doc="1 / x, in floating point.",
    operands=("x",),
    samples=_one(0.5, 3.0),
    float_result=True,
    cost=8,
)


def _rounding(name: str, expr: str, ref: Any, doc: str, *aliases: str) -> Any:
    """Integers are whole already and stay as they are."""
    return pointwise(
        name,
        expr,
        ref,
        flat,
        doc=f"{doc} The gradient is zero.",
        operands=("x",),
        infer=numeric,
        samples=_one(),
        shortcut=lambda x: x if x.dtype.is_integer else None,
        cost=2,
        aliases=aliases,
    )


floor = _rounding("floor", "tl.floor({0})", np.floor, "The largest integer <= x.")
ceil = _rounding("ceil", "tl.ceil({0})", np.ceil, "The smallest integer >= x.")
rint = _rounding("rint", "lib.round({0})", np.rint, "The nearest integer, halves to even.")
trunc = _rounding("trunc", "lib.trunc({0})", np.trunc, "x rounded toward zero.", "fix")


@composed(
    samples=samples(
        Sample((randn(3, 5),)), Sample((randn(7),), {"decimals": 2}), Sample((randn(7) * 1e3,), {"decimals": -2})
    )
)
def round(x: Operand, decimals: int = 0) -> Value:
    """The nearest number with so many decimals, halves to even; decimals < 0: to tens, hundreds, ...

    The gradient is zero. Integers stay as they are; they have no decimals < 0. Raises DTypeError for bool.
    """
    x = as_value(x)
    if not decimals or (x.dtype.is_integer and decimals > 0):
        return rint(x)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    scale = 10.0 ** builtins.abs(decimals)
    scaled = mul(wide(x), scale) if decimals > 0 else _div(wide(x), scale)
    whole = rint(scaled)
    return call("cast", _div(whole, scale) if decimals > 0 else mul(whole, scale), x.dtype)


# ---- pow -------------------------------------------------------------------------------------------------------


def _pow_ref(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Integers to a negative power: 0, but for 1 and -1."""
    if x.dtype.kind == "f":
        return np.power(x, y)
    result = np.power(x, np.maximum(y, 0))
    inverse = np.where(x == 1, 1, np.where((x == -1) & (y % 2 == 1), -1, x == -1))
    return np.where(y < 0, inverse, result).astype(x.dtype)


def _pow_rule(g: Value, z: Value, x: Value, y: Value) -> list[Value]:
    """d/dx = y x^(y - 1), 0 where y = 0; d/dy = z log x, 0 where x = 0 and y >= 0 (the limits, as torch)."""
    slope = call("where", call("equal", y, 0.0), 0.0, mul(y, pow(x, sub(y, 1.0))))
    vanishing = call("logical_and", call("equal", x, 0.0), call("greater_equal", y, 0.0))
    return [mul(g, slope), mul(g, call("where", vanishing, 0.0, mul(z, call("log", x))))]


def _pow_shortcut(x: Value, y: Value) -> Value | None:
    if _is(y, 2.0):
        return square(x)
    return x if _is(y, 1.0) else None


pow = pointwise(
    "pow",
    "lib.pow({0}, {1})",
    _pow_ref,
    in_compute_type(_pow_rule),
    doc="x ** y. A negative base needs an integral exponent, else NaN; 0 ** 0 = 1. Integers to a negative power are 0.",
    infer=numeric,
    samples=samples(
        Sample((randn(3, 5, low=0.3, high=2.0), randn(5, seed=1))),
        Sample((randn(7), 3)),
        Sample((randn(7), 2.0)),
        Sample((2.0, randn(4, 1))),
        Sample((randn(4, 2), np.asarray(-2.0)), grad=(0,)),
    ),
    shortcut=_pow_shortcut,
    cost=60,
    aliases=("power",),
)


# ---- bounds ----------------------------------------------------------------------------------------------------


def _chosen(g: Value, x: Value, y: Value, beaten: str) -> Value:
    """The cotangent of x in max(x, y) or min(x, y): all of it, half at ties, none where x is beaten."""
    tie = call("where", call("equal", x, y), mul(g, 0.5), g)
    return call("where", call(beaten, x, y), 0.0, tie)


def _extreme(name: str, logical: str, doc: str, losing: str) -> Any:
    return pointwise(
        name,
        f"lib.{name}({{0}}, {{1}})",
        getattr(np, name),
        lambda node, g: [
            _chosen(g, node.inputs[0], node.inputs[1], losing),
            _chosen(g, node.inputs[1], node.inputs[0], losing),
        ],
        doc=doc,
        infer=numeric,
        samples=_pair(),
        shortcut=lambda x, y: call(logical, x, y) if x.dtype is bool_ else None,
    )


maximum = _extreme("maximum", "logical_or", "The larger; NaN if either is. Ties share the gradient.", "less")
minimum = _extreme("minimum", "logical_and", "The smaller; NaN if either is. Ties share the gradient.", "greater")


def _inside(g: Value, x: Value, low: Value | None, high: Value | None) -> Value:
    """The cotangent of x: g where low <= x <= high, bounds included."""
    keep = None if low is None else call("greater_equal", x, low)
    below = None if high is None else call("less_equal", x, high)
    keep = below if keep is None else keep if below is None else call("logical_and", keep, below)
    return call("where", keep, g, 0.0)


def _clamp_vjp(node: Node, g: Value) -> list[Value | None]:
    """The bound that was taken gets the cotangent; where low > high the result is high."""
    x, low, high = node.inputs
    at_low = call("logical_and", call("less", x, low), call("less", low, high))
    at_high = call("logical_or", call("greater", x, high), call("less", high, low))
    return [_inside(g, x, low, high), call("where", at_low, g, 0.0), call("where", at_high, g, 0.0)]


clamp_min = pointwise(
    "clamp_min",
    "lib.maximum({0}, {1})",
    np.maximum,
    lambda node, g: [
        _inside(g, node.inputs[0], node.inputs[1], None),
        call("where", call("less", *node.inputs), g, 0.0),
    ],
    doc="max(x, min); where x = min the gradient goes to x.",
    operands=("x", "min"),
    infer=numeric,
    samples=_pair(),
)
clamp_max = pointwise(
    "clamp_max",
    "lib.minimum({0}, {1})",
    np.minimum,
    lambda node, g: [
        _inside(g, node.inputs[0], None, node.inputs[1]),
        call("where", call("greater", *node.inputs), g, 0.0),
    ],
    doc="min(x, max); where x = max the gradient goes to x.",
    operands=("x", "max"),
    infer=numeric,
    samples=_pair(),
)
_clamp = pointwise(
    "clamp",
    "lib.minimum(lib.maximum({0}, {1}), {2})",
    lambda x, low, high: np.minimum(np.maximum(x, low), high),
    _clamp_vjp,
    doc="min(max(x, low), high).",
    operands=("x", "min", "max"),
    infer=numeric,
    cost=2,
)


@composed(
    samples=samples(
        Sample((randn(3, 5), -0.5, 0.5)),
        Sample((randn(3, 5), randn(5, seed=1) - 1, randn(3, 1, seed=2) + 1)),
        Sample((randn(17), 0.1)),
        Sample((randn(17), None, 0.25)),
    ),
    aliases=("clip",),
)
def clamp(x: Operand, min: Operand | None = None, max: Operand | None = None) -> Value:
    """x kept within [min, max], numbers or tensors; NaN stays NaN; where min > max the result is max.

    The gradient passes where min <= x <= max. Raises ArgumentError without any bound.
    """
    if min is None and max is None:
        raise ArgumentError("needs min, max or both")
    if max is None:
        return clamp_min(x, min)
    return clamp_max(x, max) if min is None else _clamp(x, min, max)
