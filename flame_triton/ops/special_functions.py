"""Special functions: gamma and its derivatives, inverse and scaled error functions, the normal distribution, Bessel's.

Floating functions of one operand: integers and bools become float32; 16-bit floats are computed in float32 and rounded
once. Gradients are in closed form, in terms of the functions themselves; where terms cancel they are computed anew from
x, not from the rounded result.
"""

from __future__ import annotations

import math

from ..errors import ArgumentError
from ..ir.node import Node, Value, make
from ..ir.op import Pointwise, Sample, call
from ..types import TensorType, float32
from . import special
from .arithmetic import add, div, mul, neg, sign, square, sub
from .define import Operand, as_value, composed, define, floating, in_compute_type, randn, samples, unary, wide
from .elementary import exp
from .logic import equal, where

# fmt: off
__all__ = [
    "digamma", "erfcx", "erfinv", "i0", "i0e", "i1", "i1e", "lgamma", "log_ndtr", "mvlgamma", "ndtr", "ndtri",
    "polygamma",
]
# fmt: on

_ROOT_HALF_PI = math.sqrt(math.pi) / 2
_ROOT_2PI = math.sqrt(2 * math.pi)

# ---- gamma -----------------------------------------------------------------------------------------------------

lgamma = unary(
    "lgamma",
    "lib.lgamma({0})",
    special.lgamma,
    lambda g, y, x: mul(g, digamma(x)),
    doc="log |gamma(x)|; infinite at 0, -1, -2, ...",
    domain=(0.2, 9.0),
    cost=120,
    aliases=("gammaln",),
)
digamma = unary(
    "digamma",
    "lib.digamma({0})",
    special.digamma,
    lambda g, y, x: mul(g, polygamma(1, x)),
    doc="The derivative of lgamma; NaN at -1, -2, ...",
    domain=(0.2, 9.0),
    cost=120,
    aliases=("psi",),
)


def _polygamma_expr(node: Node) -> str:
    """For x <= 0 the reflection: polygamma(n, 1 - x) (-1)^n - pi^(n + 1) Q(cot(pi x)), Q the nth derivative of cot."""
    n: int = node.attrs["n"]
    reflected, *lower = reversed(special.cotangent_derivative(n))
    text = repr(reflected)
    for c in lower:
        text = f"({text} * lib.cot_pi({{0}}) + {c!r})"
    half = f"lib.polygamma({{0}}, {n}, {float(math.factorial(n))!r})"
    value = f"{half} - tl.where({{0}} > 0, 0.0, {text} * {math.pi ** (n + 1)!r})"
    pole = "({0} <= 0) & (tl.floor({0}) == {0})"
    return f'tl.where({pole}, float("{"" if n % 2 else "-"}inf"), {value})'


def _polygamma_type(x: TensorType, *, n: int) -> TensorType:
    return floating(x)


@define(
    "polygamma",
    infer=_polygamma_type,
    lowering=Pointwise(_polygamma_expr, cost=200),
    ref=special.polygamma,
    vjp=in_compute_type(lambda g, y, x, n: mul(g, call("polygamma", n + 1, x))),
    samples=samples(
        Sample((1, randn(3, 5, low=0.5, high=9.0))),
        Sample((2, randn(7, low=-2.9, high=-2.1))),
        Sample((4, randn(6, low=0.8, high=4.0))),
        Sample((0, randn(4, low=0.5, high=3.0))),
    ),
)
def polygamma(n: int, x: Operand) -> Value:
    """The nth derivative of digamma, (-1)^(n + 1) n! zeta(n + 1, x); infinite at 0, -1, -2, ... for n >= 1."""
    if not isinstance(n, int) or not 0 <= n <= 60:
        raise ArgumentError(f"n must be an int from 0 to 60, got {n!r}")
    if n == 0:
        return digamma(x)
    x = as_value(x)
    return make("polygamma", [x if x.dtype.is_float else call("cast", x, float32)], n=n).out


@composed(samples=samples(Sample((randn(3, 5, low=1.5, high=6.0), 3)), Sample((randn(4, low=0.5, high=3.0), 1))))
def mvlgamma(x: Operand, p: int) -> Value:
    """The logarithm of the multivariate gamma function: p (p - 1) / 4 log(pi) + sum of lgamma(x - j / 2), j < p."""
    if not isinstance(p, int) or p < 1:
        raise ArgumentError(f"p must be a positive int, got {p!r}")
    x = as_value(x)
    x = x if x.dtype.is_float else call("cast", x, float32)
    v = wide(x)
    total = lgamma(v)
    for j in range(1, p):
        total = add(total, lgamma(sub(v, j / 2)))
    return call("cast", add(total, p * (p - 1) / 4 * math.log(math.pi)), x.dtype)


# ---- error functions -------------------------------------------------------------------------------------------

erfinv = unary(
    "erfinv",
    "lib.erfinv({0})",
    special.erfinv,
    lambda g, y, x: mul(g, mul(exp(square(y)), _ROOT_HALF_PI)),
    doc="The inverse of erf; infinite at 1 and -1, NaN beyond.",
    domain=(-0.95, 0.95),
    cost=60,
)
erfcx = unary(
    "erfcx",
    "lib.erfcx({0})",
    special.erfcx,
    lambda g, y, x: mul(g, sub(mul(mul(x, 2.0), erfcx(x)), 1 / _ROOT_HALF_PI)),
    doc="e ** (x ** 2) erfc(x), which does not underflow.",
    domain=(-1.5, 3.0),
    cost=60,
)

# ---- the normal distribution -----------------------------------------------------------------------------------


def _density(x: Value) -> Value:
    return mul(exp(mul(square(x), -0.5)), 1 / _ROOT_2PI)


def _log_ndtr_rule(g: Value, y: Value, x: Value) -> Value:
    """density(x) / ndtr(x): below 0 sqrt(2 / pi) / erfcx(-x / sqrt(2)), above e^-y times the density. Each side is
    kept where it is finite, so that neither spoils the other's gradient."""
    below = call("less", x, 0.0)
    left = div(math.sqrt(2 / math.pi), erfcx(mul(call("clamp_max", x, 0.0), -math.sqrt(0.5))))
    right = mul(_density(call("clamp_min", x, 0.0)), exp(neg(where(below, 0.0, y))))
    return mul(g, where(below, left, right))


ndtr = unary(
    "ndtr",
    "lib.ndtr({0})",
    special.ndtr,
    lambda g, y, x: mul(g, _density(x)),
    doc="The standard normal distribution function, erfc(-x / sqrt(2)) / 2.",
    cost=50,
)
log_ndtr = unary(
    "log_ndtr",
    "lib.log_ndtr({0})",
    special.log_ndtr,
    _log_ndtr_rule,
    doc="log(ndtr(x)), which does not underflow.",
    domain=(-6.0, 3.0),
    cost=120,
)
ndtri = unary(
    "ndtri",
    "lib.ndtri({0})",
    special.ndtri,
    lambda g, y, x: mul(g, mul(exp(mul(square(y), 0.5)), _ROOT_2PI)),
    doc="The inverse of ndtr, accurate for small x; -inf at 0, inf at 1, NaN outside.",
    domain=(0.03, 0.97),
    cost=60,
)

# ---- modified Bessel functions ---------------------------------------------------------------------------------


def _over(y: Value, x: Value, limit: float) -> Value:
    """y / x, and its limit at 0."""
    zero = equal(x, 0.0)
    return where(zero, limit, div(y, where(zero, 1.0, x)))


i0 = unary(
    "i0",
    "lib.i0({0})",
    special.i0,
    lambda g, y, x: mul(g, i1(x)),
    doc="The modified Bessel function of the first kind, order 0.",
    domain=(-12.0, 12.0),
    cost=80,
)
i0e = unary(
    "i0e",
    "lib.i0e({0})",
    special.i0e,
    lambda g, y, x: mul(g, sub(i1e(x), mul(sign(x), i0e(x)))),
    doc="e ** -|x| i0(x).",
    domain=(-12.0, 12.0),
    cost=80,
)
i1 = unary(
    "i1",
    "lib.i1({0})",
    special.i1,
    lambda g, y, x: mul(g, sub(i0(x), _over(y, x, 0.5))),
    doc="The modified Bessel function of the first kind, order 1.",
    domain=(-12.0, 12.0),
    cost=80,
)
i1e = unary(
    "i1e",
    "lib.i1e({0})",
    special.i1e,
    lambda g, y, x: mul(g, sub(sub(i0e(x), _over(y, x, 0.5)), mul(sign(x), i1e(x)))),
    doc="e ** -|x| i1(x).",
    domain=(-12.0, 12.0),
    cost=80,
)
