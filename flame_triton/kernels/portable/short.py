"""Elementary functions for results that end as 16-bit floats: relative error below 2^-17, far fewer instructions.

A 16-bit result has a unit of 2^-8 or 2^-11, so nothing of that error is seen. Float32 in, float32 out; interpreted,
they are the precise functions. Generated kernels use them where codegen/precision.py finds that no float32 result
depends on them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import elementary
from .arithmetic import INTERPRETED, copysign
from .elementary import coefficients

# erfc(x) exp(x^2) / t in t = 1 / (1 + 0.44 x), x in [0, 10.5]
_ERFC = coefficients(
    -1.461067975e-01, 3.506557909e-01, 4.072742301e-02, 2.635882987e-01, 2.425690545e-01, 2.485610632e-01,
)  # fmt: skip
# (tanh(x) - x) / x^3 in x^2, for |x| <= 0.55
_TANH = coefficients(-4.309963e-02, 1.3152356e-01, -3.3324514e-01)


@triton.jit
def _horner(x, TABLE: tl.constexpr):
    """A polynomial over a table of `coefficients`, by fused multiply-adds."""
    END: tl.constexpr = TABLE[0]
    p = tl.fma(x, TABLE[1], TABLE[2])
    for i in tl.static_range(3, END):
        p = tl.fma(p, x, TABLE[i])
    return p


@triton.jit
def _inverse(x):
    """1 / x for x >= 1, infinity included: the square of the reciprocal root, one instruction each."""
    r = tl.rsqrt(x)
    return r * r


@triton.jit
def short_exp(x):
    """e^x."""
    if INTERPRETED or x.dtype == tl.float64:
        return elementary.exp(x)
    else:
        return tl.exp(x)


@triton.jit
def short_sigmoid(x):
    """1 / (1 + e^-x)."""
    if INTERPRETED or x.dtype == tl.float64:
        return elementary.sigmoid(x)
    else:
        return _inverse(1.0 + tl.exp(-x))


@triton.jit
def short_tanh(x):
    """An odd polynomial below 0.55, 1 - 2 / (1 + e^2|x|) above."""
    if INTERPRETED or x.dtype == tl.float64:
        return elementary.tanh(x)
    else:
        a = tl.abs(x)
        u = x * x
        small = tl.fma(a * u, _horner(u, _TANH), a)
        return copysign(tl.where(a < 0.55, small, tl.fma(_inverse(1.0 + tl.exp(2.0 * a)), -2.0, 1.0)), x)


@triton.jit
def short_erfc(x):
    """1 - erf(x) = t P(t) e^(-x^2), t = 1 / (1 + 0.44 |x|), reflected for x < 0."""
    if INTERPRETED or x.dtype == tl.float64:
        return elementary.erfc(x)
    else:
        a = tl.abs(x)
        t = _inverse(tl.fma(a, 0.44, 1.0))
        y = t * _horner(t, _ERFC) * tl.exp(-(a * a))
        return tl.where(x < 0, 2.0 - y, y)
