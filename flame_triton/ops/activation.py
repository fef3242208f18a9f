"""Activations of neural networks, each one expression, computed in float32 for 16-bit floats and rounded once.

Names, arguments and defaults are those of torch.nn.functional; gradient rules work in the compute type throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Pointwise, Sample, call
from . import special
from .arithmetic import add, mul, neg, square, sub
from .define import Operand, Rule, as_value, composed, define, floating, in_compute_type, randn, samples
from .elementary import erfc, exp, sigmoid, tanh
from .leaf import literal
from .logic import greater, less_equal, logical_and, where

# fmt: off
__all__ = [
    "celu", "elu", "geglu", "gelu", "glu", "hardswish", "leaky_relu", "logsigmoid", "mish", "prelu", "quick_gelu",
    "reglu", "relu", "selu", "silu", "softplus", "softsign", "swiglu", "tanhshrink",
]
# fmt: on

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
_TANH_SCALE = 2 * math.sqrt(2 / math.pi)
_TANH_CUBIC = 0.044715
_SELU_ALPHA = 1.6732632423543772848
_SELU_SCALE = 1.0507009873554804934
_QUICK = 1.702


def _activation(
    name: str,
    expr: str | Callable[[Node], str],
    ref: Callable[..., Any],
    rule: Rule,
    cost: int,
    *kwargs: dict[str, Any],
) -> Callable[..., Any]:
    """An op of one floating operand. kwargs: the attributes with which each sample is called."""
    calls = [Sample((randn(3, 5) * 2,), k) for k in (kwargs or ({},))] + [Sample((randn(17) * 2,)), Sample((randn(),))]
    return define(
        name,
        infer=floating,
        lowering=Pointwise(expr, cost),
        ref=ref,
        vjp=in_compute_type(rule),
        samples=samples(*calls),
    )


# ---- rectifiers ------------------------------------------------------------------------------------------------


@define(
    "relu",
    infer=lambda x: x,
    lowering=Pointwise("lib.maximum({0}, 0)"),
    ref=lambda x: np.maximum(x, 0),
    vjp=lambda node, g: [where(less_equal(node.out, 0.0), 0.0, g)],
    samples=samples(Sample((randn(3, 5),)), Sample((randn(17),)), Sample((randn(),))),
)
def relu(x: Operand) -> Value:
    """max(x, 0); NaN stays NaN; the gradient at 0 is 0. Integers too."""
    x = as_value(x)
    if x.dtype.kind == "b":
        raise DTypeError("is not defined for bool")
    return make("relu", [x]).out


@_activation(
    "leaky_relu",
    lambda node: f"tl.where({{0}} > 0, {{0}}, {{0}} * {literal(node.attrs['negative_slope'])})",
    lambda x, *, negative_slope: np.where(x > 0, x, x * x.dtype.type(negative_slope)),
    lambda g, y, x, negative_slope: where(greater(x, 0.0), g, mul(g, negative_slope)),
    2,
    {},
    {"negative_slope": 0.2},
)
def leaky_relu(x: Operand, negative_slope: float = 0.01) -> Value:
    """x where x > 0, else negative_slope * x."""
    return make("leaky_relu", [as_value(x)], negative_slope=float(negative_slope)).out


@composed(
    samples=samples(Sample((randn(2, 3, 4), np.array([0.25, -0.5, 1.5]))), Sample((randn(5), np.array([0.1])))),
)
def prelu(x: Operand, weight: Operand) -> Value:
    """x where x > 0, else weight * x.  x: [N, C, ...] with weight [C], or any shape with weight [1] or []."""
    x, weight = as_value(x), as_value(weight)
    if weight.ndim > 1 or (weight.size != 1 and (x.ndim < 2 or x.shape[1] != weight.size)):
        raise ShapeError(f"weight {weight.shape} is not one number, nor one for each channel of x {x.shape}")
    weight = call("reshape", weight, () if weight.size == 1 else (weight.size,) + (1,) * (x.ndim - 2))
    return where(greater(x, 0.0), x, mul(x, weight))


@_activation(
    "elu",
    lambda node: f"tl.where({{0}} > 0, {{0}}, lib.expm1({{0}}) * {literal(node.attrs['alpha'])})",
    lambda x, *, alpha: np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(np.where(x > 0, 0, x))),
    lambda g, y, x, alpha: where(greater(x, 0.0), g, mul(mul(g, alpha), exp(x))),
    20,
    {},
    {"alpha": 0.5},
)
def elu(x: Operand, alpha: float = 1.0) -> Value:
    """x where x > 0, else alpha * (e^x - 1). Clevert et al. 2015."""
    return make("elu", [as_value(x)], alpha=float(alpha)).out


@_activation(
    "hardswish",
    "({0} * lib.minimum(lib.maximum({0} + 3.0, 0.0), 6.0) * 0.16666666666666666)",
    lambda x: x * np.clip(x + 3, 0, 6) * x.dtype.type(1 / 6),
    lambda g, y, x: mul(
        g,
        where(
            logical_and(greater(x, -3.0), call("less", x, 3.0)),
            add(mul(x, 1 / 3), 0.5),
            where(call("greater_equal", x, 3.0), 1.0, 0.0),
        ),
    ),
    5,
)
def hardswish(x: Operand) -> Value:
    """x * clamp(x + 3, 0, 6) / 6. Howard et al. 2019."""
    return make("hardswish", [as_value(x)]).out


# ---- smooth ----------------------------------------------------------------------------------------------------


def _softplus_expr(node: Node) -> str:
    beta, threshold = literal(node.attrs["beta"]), literal(node.attrs["threshold"])
    if node.attrs["beta"] == 1.0:
        return f"tl.where({{0}} > {threshold}, {{0}}, lib.softplus({{0}}))"
    return f"tl.where({{0}} * {beta} > {threshold}, {{0}}, lib.div(lib.softplus({{0}} * {beta}), {beta}))"


def _softplus_ref(x: np.ndarray, *, beta: float, threshold: float) -> np.ndarray:
    scaled = x * x.dtype.type(beta)
    return np.where(scaled > threshold, x, special.softplus(scaled) / x.dtype.type(beta))


@_activation(
    "softplus",
    _softplus_expr,
    _softplus_ref,
    lambda g, y, x, beta, threshold: where(greater(mul(x, beta), threshold), g, mul(g, sigmoid(mul(x, beta)))),
    24,
    {},
    {"beta": 2.0, "threshold": 1.5},
)
def softplus(x: Operand, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """log(1 + e^(beta x)) / beta, and x itself where beta x > threshold."""
    return make("softplus", [as_value(x)], beta=float(beta), threshold=float(threshold)).out


@_activation(
    "logsigmoid",
    "(0.0 - lib.softplus(0.0 - {0}))",
    lambda x: -special.softplus(-x),
    lambda g, y, x: mul(g, sigmoid(neg(x))),
    24,
)
def logsigmoid(x: Operand) -> Value:
    """log(sigmoid(x)) = -softplus(-x)."""
    return make("logsigmoid", [as_value(x)]).out


@_activation(
    "softsign",
    "lib.div({0}, 1 + tl.abs({0}))",
    lambda x: x / (1 + np.abs(x)),
    lambda g, y, x: call("div", g, square(add(call("abs", x), 1.0))),
    8,
)
def softsign(x: Operand) -> Value:
    """x / (1 + |x|)."""
    return make("softsign", [as_value(x)]).out


@_activation(
    "tanhshrink", "({0} - lib.tanh({0}))", lambda x: x - np.tanh(x), lambda g, y, x: mul(g, square(tanh(x))), 24
)
def tanhshrink(x: Operand) -> Value:
    """x - tanh(x)."""
    return make("tanhshrink", [as_value(x)]).out


@_activation(
    "selu",
    f"tl.where({{0}} > 0, {{0}} * {_SELU_SCALE!r}, lib.expm1({{0}}) * {_SELU_SCALE * _SELU_ALPHA!r})",
    lambda x: (
        x.dtype.type(_SELU_SCALE) * np.where(x > 0, x, x.dtype.type(_SELU_ALPHA) * np.expm1(np.where(x > 0, 0, x)))
    ),
    lambda g, y, x: mul(g, where(greater(x, 0.0), _SELU_SCALE, mul(exp(x), _SELU_SCALE * _SELU_ALPHA))),
    20,
)
def selu(x: Operand) -> Value:
    """1.0507 x where x > 0, else 1.7581 (e^x - 1). Klambauer et al. 2017."""
    return make("selu", [as_value(x)]).out


@_activation(
    "celu",
    lambda node: (
        f"tl.where({{0}} > 0, {{0}}, "
        f"lib.expm1(lib.div({{0}}, {literal(node.attrs['alpha'])})) * {literal(node.attrs['alpha'])})"
    ),
    lambda x, *, alpha: np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(np.where(x > 0, 0, x) / x.dtype.type(alpha))),
    lambda g, y, x, alpha: where(greater(x, 0.0), g, mul(g, exp(mul(x, 1 / alpha)))),
    24,
    {},
    {"alpha": 0.5},
)
def celu(x: Operand, alpha: float = 1.0) -> Value:
    """x where x > 0, else alpha * (e^(x / alpha) - 1): smooth for any alpha > 0. Barron 2017."""
    if not alpha > 0:
        raise ArgumentError(f"alpha must be positive, got {alpha}")
    return make("celu", [as_value(x)], alpha=float(alpha)).out


def _silu_rule(g: Value, y: Value, x: Value) -> Value:
    """d/dx x s = s (1 + x (1 - s)),  s = sigmoid(x)."""
    s = sigmoid(x)
    return mul(g, mul(s, add(mul(x, sub(1.0, s)), 1.0)))


@_activation("silu", "({0} * lib.sigmoid({0}))", lambda x: x * special.sigmoid(x), _silu_rule, 12)
def silu(x: Operand) -> Value:
    """x * sigmoid(x), also named swish. Elfwing et al. 2017."""
    return make("silu", [as_value(x)]).out


def _mish_rule(g: Value, y: Value, x: Value) -> Value:
    """d/dx x t = t + x s (1 - t^2),  t = tanh(softplus(x)), s = sigmoid(x)."""
    t = tanh(softplus(x))
    return mul(g, add(t, mul(mul(x, sigmoid(x)), sub(1.0, square(t)))))


@_activation("mish", "({0} * lib.tanh(lib.softplus({0})))", lambda x: x * np.tanh(special.softplus(x)), _mish_rule, 36)
def mish(x: Operand) -> Value:
    """x * tanh(softplus(x)). Misra 2019."""
    return make("mish", [as_value(x)]).out


# ---- gelu ------------------------------------------------------------------------------------------------------


def _gelu_expr(node: Node) -> str:
    if node.attrs["approximate"] == "tanh":
        return f"({{0}} * lib.sigmoid({{0}} * ({_TANH_SCALE!r} + {_TANH_SCALE * _TANH_CUBIC!r} * {{0}} * {{0}})))"
    return f"(0.5 * {{0}} * lib.erfc({{0}} * {-_SQRT_HALF!r}))"


def _gelu_ref(x: np.ndarray, *, approximate: str) -> np.ndarray:
    number = x.dtype.type
    if approximate == "tanh":
        inner = x * x
        inner *= number(_TANH_SCALE * _TANH_CUBIC)
        inner += number(_TANH_SCALE)
        inner *= x
        return x * special.sigmoid(inner)
    return x * number(0.5) * special.erfc(x * number(-_SQRT_HALF))


def _gelu_rule(g: Value, y: Value, x: Value, approximate: str) -> Value:
    """Exact: Phi(x) + x phi(x). Tanh form, x s with s = sigmoid(u): s + x s (1 - s) u'."""
    if approximate == "tanh":
        cubic = mul(square(x), _TANH_SCALE * _TANH_CUBIC)
        s = sigmoid(mul(x, add(cubic, _TANH_SCALE)))
        slope = add(mul(cubic, 3.0), _TANH_SCALE)
        return mul(g, add(s, mul(mul(x, slope), mul(s, sub(1.0, s)))))
    density = mul(exp(mul(square(x), -0.5)), _INV_SQRT_2PI)
    return mul(g, add(mul(erfc(mul(x, -_SQRT_HALF)), 0.5), mul(x, density)))


def _check_approximate(approximate: str) -> None:
    if approximate not in ("none", "tanh"):
        raise ArgumentError(f'approximate must be "none" or "tanh", got {approximate!r}')


@_activation("gelu", _gelu_expr, _gelu_ref, _gelu_rule, 44, {}, {"approximate": "tanh"})
def gelu(x: Operand, approximate: str = "none") -> Value:
    """x Phi(x), Phi the normal distribution function; approximate="tanh": its usual tanh form.

    Hendrycks and Gimpel 2016. The tanh form 0.5 x (1 + tanh u) is computed as the equal x sigmoid(2u).
    """
    _check_approximate(approximate)
    return make("gelu", [as_value(x)], approximate=approximate).out


def _quick_gelu_rule(g: Value, y: Value, x: Value) -> Value:
    """d/dx x s = s (1 + a x (1 - s)),  s = sigmoid(a x), a = 1.702."""
    ax = mul(x, _QUICK)
    s = sigmoid(ax)
    return mul(g, mul(s, add(mul(ax, sub(1.0, s)), 1.0)))


@_activation(
    "quick_gelu",
    f"({{0}} * lib.sigmoid({{0}} * {_QUICK!r}))",
    lambda x: x * special.sigmoid(x * x.dtype.type(_QUICK)),
    _quick_gelu_rule,
    13,
)
def quick_gelu(x: Operand) -> Value:
    """x * sigmoid(1.702 x), the form of gelu in CLIP. Hendrycks and Gimpel 2016."""
    return make("quick_gelu", [as_value(x)]).out


# ---- gates -----------------------------------------------------------------------------------------------------


@composed(samples=samples(Sample((randn(3, 6),)), Sample((randn(4, 5),), {"axis": 0})))
def glu(x: Operand, axis: int = -1) -> Value:
    """a * sigmoid(b), where a and b are the halves of x along the axis. Dauphin et al. 2016."""
    x = as_value(x)
    first, second = _halves(x, axis)
    return mul(first, sigmoid(second))


def _halves(x: Value, axis: int) -> tuple[Value, Value]:
    if not x.ndim or x.shape[axis] % 2:
        raise ShapeError(f"axis {axis} of {x.shape} cannot be halved")
    return call("chunk", x, 2, axis)


def _gated(x: Operand, axis: int, gate: Callable[[Value], Value]) -> Value:
    """hidden * gate(second half), in the compute type, rounded once."""
    x = as_value(x)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    hidden, second = _halves(x, axis)
    wide = x.dtype.compute
    return call("cast", mul(call("cast", hidden, wide), gate(call("cast", second, wide))), x.dtype)


@composed(samples=samples(Sample((randn(3, 6),)), Sample((randn(4, 5),), {"axis": 0, "approximate": "tanh"})))
def geglu(x: Operand, axis: int = -1, approximate: str = "none") -> Value:
    """hidden * gelu(gate); along the axis the first half of x is hidden, the second the gate. Shazeer 2020.

    diffusers' order of the halves. approximate: see gelu.
    """
    _check_approximate(approximate)
    return _gated(x, axis, lambda gate: gelu(gate, approximate))


@composed(samples=samples(Sample((randn(3, 6),)), Sample((randn(4, 5),), {"axis": 0})))
def swiglu(x: Operand, axis: int = -1) -> Value:
    """hidden * silu(gate); along the axis the first half of x is hidden, the second the gate. Shazeer 2020.

    diffusers' order of the halves; for weights that put the gate first (Llama's gate_proj, up_proj), join them as
    (up, gate).
    """
    return _gated(x, axis, silu)


@composed(samples=samples(Sample((randn(3, 6),)), Sample((randn(4, 5),), {"axis": 0})))
def reglu(x: Operand, axis: int = -1) -> Value:
    """hidden * relu(gate); along the axis the first half of x is hidden, the second the gate. Shazeer 2020."""
    return _gated(x, axis, relu)
