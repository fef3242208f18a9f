"""Exponentials, logarithms, roots, trigonometry and their kin: floating functions of one operand.

Integers and bools become float32. 16-bit floats are computed in float32 and rounded once, gradients too.
"""

from __future__ import annotations

import math

import numpy as np

from ..ir.op import Sample
from . import special
from .arithmetic import add, div, mul, neg, square, sub
from .define import in_compute_type, pointwise, randn, samples, unary

# fmt: off
__all__ = [
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cos", "cosh", "erf", "erfc", "exp", "exp2", "expm1",
    "log", "log10", "log1p", "log2", "rsqrt", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh",
]
# fmt: on

# ---- exponentials and logarithms -------------------------------------------------------------------------------

exp = unary("exp", "lib.exp({0})", np.exp, lambda g, y, x: mul(g, y), doc="e ** x.", cost=8)
exp2 = unary("exp2", "lib.exp2({0})", np.exp2, lambda g, y, x: mul(g, mul(y, math.log(2))), doc="2 ** x.", cost=8)
expm1 = unary(
    "expm1",
    "lib.expm1({0})",
    np.expm1,
    lambda g, y, x: mul(g, add(y, 1.0)),
    doc="e ** x - 1, accurate near 0.",
    cost=20,
)
log = unary(
    "log", "lib.log({0})", np.log, lambda g, y, x: div(g, x), doc="The natural logarithm.", domain=(0.1, 3.0), cost=8
)
log2 = unary(
    "log2",
    "lib.log2({0})",
    np.log2,
    lambda g, y, x: div(g, mul(x, math.log(2))),
    doc="The logarithm to base 2.",
    domain=(0.1, 3.0),
    cost=8,
)
log10 = unary(
    "log10",
    "lib.log10({0})",
    np.log10,
    lambda g, y, x: div(g, mul(x, math.log(10))),
    doc="The logarithm to base 10.",
    domain=(0.1, 3.0),
    cost=8,
)
log1p = unary(
    "log1p",
    "lib.log1p({0})",
    np.log1p,
    lambda g, y, x: div(g, add(x, 1.0)),
    doc="log(1 + x), accurate near 0.",
    domain=(-0.9, 3.0),
    cost=16,
)

# ---- roots -----------------------------------------------------------------------------------------------------

sqrt = unary(
    "sqrt",
    "lib.sqrt({0})",
    np.sqrt,
    lambda g, y, x: div(mul(g, 0.5), y),
    doc="The square root, correctly rounded.",
    domain=(0.1, 3.0),
    cost=8,
)
rsqrt = unary(
    "rsqrt",
    "lib.rsqrt({0})",
    lambda x: 1 / np.sqrt(x),
    lambda g, y, x: mul(mul(g, -0.5), mul(y, mul(y, y))),
    doc="1 / sqrt(x).",
    domain=(0.1, 3.0),
    cost=8,
)

# ---- trigonometry ----------------------------------------------------------------------------------------------

sin = unary("sin", "tl.sin({0})", np.sin, lambda g, y, x: mul(g, cos(x)), doc="The sine, x in radians.")
cos = unary("cos", "tl.cos({0})", np.cos, lambda g, y, x: neg(mul(g, sin(x))), doc="The cosine, x in radians.")
tan = unary(
    "tan",
    "lib.tan({0})",
    np.tan,
    lambda g, y, x: mul(g, add(square(y), 1.0)),
    doc="The tangent, x in radians.",
    domain=(-1.2, 1.2),
    cost=40,
)
asin = unary(
    "asin",
    "lib.asin({0})",
    np.arcsin,
    lambda g, y, x: mul(g, rsqrt(sub(1.0, square(x)))),
    doc="The inverse sine, in [-pi/2, pi/2].",
    domain=(-0.9, 0.9),
    cost=40,
    aliases=("arcsin",),
)
acos = unary(
    "acos",
    "lib.acos({0})",
    np.arccos,
    lambda g, y, x: neg(mul(g, rsqrt(sub(1.0, square(x))))),
    doc="The inverse cosine, in [0, pi].",
    domain=(-0.9, 0.9),
    cost=40,
    aliases=("arccos",),
)
atan = unary(
    "atan",
    "lib.atan({0})",
    np.arctan,
    lambda g, y, x: div(g, add(square(x), 1.0)),
    doc="The inverse tangent, in [-pi/2, pi/2].",
    cost=40,
    aliases=("arctan",),
)
atan2 = pointwise(
    "atan2",
    "lib.atan2({0}, {1})",
    np.arctan2,
    in_compute_type(
        lambda g, z, y, x: [
            mul(g, div(x, add(square(x), square(y)))),
            neg(mul(g, div(y, add(square(x), square(y))))),
        ]
    ),
    doc="The angle of the point (x, y), in [-pi, pi]: atan2(y, x).",
    operands=("y", "x"),
    samples=samples(Sample((randn(3, 5), randn(5, seed=1))), Sample((randn(7), 0.5))),
    float_result=True,
    cost=50,
    aliases=("arctan2",),
)

# ---- hyperbolic functions --------------------------------------------------------------------------------------

sinh = unary("sinh", "lib.sinh({0})", np.sinh, lambda g, y, x: mul(g, cosh(x)), doc="The hyperbolic sine.", cost=30)
cosh = unary("cosh", "lib.cosh({0})", np.cosh, lambda g, y, x: mul(g, sinh(x)), doc="The hyperbolic cosine.", cost=20)
tanh = unary(
    "tanh", "lib.tanh({0})", np.tanh, lambda g, y, x: mul(g, sub(1.0, square(y))), doc="The hyperbolic tangent."
)
asinh = unary(
    "asinh",
    "lib.asinh({0})",
    np.arcsinh,
    lambda g, y, x: mul(g, rsqrt(add(square(x), 1.0))),
    doc="The inverse hyperbolic sine.",
    cost=30,
    aliases=("arcsinh",),
)
acosh = unary(
    "acosh",
    "lib.acosh({0})",
    np.arccosh,
    lambda g, y, x: mul(g, rsqrt(mul(sub(x, 1.0), add(x, 1.0)))),
    doc="The inverse hyperbolic cosine, x >= 1.",
    domain=(1.2, 4.0),
    cost=30,
    aliases=("arccosh",),
)
atanh = unary(
    "atanh",
    "lib.atanh({0})",
    np.arctanh,
    lambda g, y, x: div(g, sub(1.0, square(x))),
    doc="The inverse hyperbolic tangent, |x| < 1.",
    domain=(-0.9, 0.9),
    cost=30,
    aliases=("arctanh",),
)

# ---- probability -----------------------------------------------------------------------------------------------

sigmoid = unary(
    "sigmoid",
    "lib.sigmoid({0})",
    special.sigmoid,
    lambda g, y, x: mul(g, mul(y, sub(1.0, y))),
    doc="1 / (1 + e ** -x).",
    cost=10,
    aliases=("expit",),
)
erf = unary(
    "erf",
    "tl.erf({0})",
    special.erf,
    lambda g, y, x: mul(g, mul(exp(neg(square(x))), 2 / math.sqrt(math.pi))),
    doc="The error function, 2 / sqrt(pi) times the integral of exp(-t ** 2) from 0 to x.",
    cost=20,
)
erfc = unary(
    "erfc",
    "lib.erfc({0})",
    special.erfc,
    lambda g, y, x: mul(g, mul(exp(neg(square(x))), -2 / math.sqrt(math.pi))),
    doc="1 - erf(x), accurate for large x.",
    cost=40,
)
