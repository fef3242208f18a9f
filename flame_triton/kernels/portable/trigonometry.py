"""Trigonometric functions and their inverses: float32 or float64, errors as in elementary.py."""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import INF, copysign, div, reciprocal, signbit, sqrt
from .elementary import coefficients, polynomial

PI = tl.constexpr(3.141592653589793)
HALF_PI = tl.constexpr(1.5707963267948966)

# (atan(x) - x) / x^3 in x^2, for |x| <= 1
_ATAN_F32 = coefficients(
    1.4886919e-03, -9.144629e-03, 2.6305001e-02, -4.8960514e-02, 7.0319146e-02, -8.931827e-02, 1.1088262e-01,
    -1.4284004e-01, 1.999995e-01, -3.3333334e-01,
)  # fmt: skip
_ATAN_F64 = coefficients(
    -5.1088410388226665e-06, 6.417524965866564e-05, -0.00038394037972999467, 0.0014617449054205385,
    -0.004000209679906822, 0.00844989240397037, -0.014503079564732733, 0.021121594179966983, -0.02718155333081564,
    0.03213544133307827, -0.036139320776507194, 0.03971908106924452, -0.043407182638729704, 0.04760471049395462,
    -0.05262931380521779, 0.0588232553920069, -0.06666664203478607, 0.07692307534369985, -0.09090909084093506,
    0.11111111110929807, -0.14285714285711718, 0.19999999999999984, -0.3333333333333333,
)  # fmt: skip
# (asin(x) - x) / x^3 in x^2, for |x| <= 0.5
_ASIN_F32 = coefficients(
    3.3690847e-02, 1.7149238e-02, 3.1100662e-02, 4.4599403e-02, 7.500094e-02, 1.6666666e-01,
)  # fmt: skip
_ASIN_F64 = coefficients(
    0.02961201126495512, -0.01924167174674304, 0.019554513336123378, 0.0030448799094556773, 0.009319560794767446,
    0.009621842970100282, 0.011566459612121669, 0.01396378001220357, 0.017352816540325496, 0.02237215744350722,
    0.03038194447553234, 0.044642857142551895, 0.07500000000000118, 0.16666666666666666,
)  # fmt: skip


@triton.jit
def tan(x):
    """sin(x) / cos(x)."""
    return div(tl.sin(x), tl.cos(x))


@triton.jit
def _atan_unit(t):
    """atan(t) for 0 <= t <= 1."""
    u = t * t
    if t.dtype == tl.float64:
        return t + t * u * polynomial(u, _ATAN_F64)
    else:
        return t + t * u * polynomial(u, _ATAN_F32)


@triton.jit
def _from_half_pi(x):
    """pi / 2 - x, with pi / 2 in two parts."""
    if x.dtype == tl.float64:
        return (HALF_PI - x) + 6.123233995736766e-17
    else:
        return (HALF_PI - x) - 4.371138828673793e-08


@triton.jit
def atan(x):
    """Reduced to [0, 1] by atan(x) = pi / 2 - atan(1 / x)."""
    a = tl.abs(x)
    r = _atan_unit(tl.where(a > 1.0, reciprocal(a), a))
    return copysign(tl.where(a > 1.0, _from_half_pi(r), r), x)


@triton.jit
def atan2(y, x):
    """The angle of the point (x, y) in [-pi, pi]; zeros and infinities as in C."""
    y, x = tl.broadcast(y, x)
    ax = tl.abs(x)
    ay = tl.abs(y)
    steep = ay > ax
    q = div(tl.where(steep, ax, ay), tl.where(steep, ay, ax))
    q = tl.where((ax == 0) & (ay == 0), 0.0, tl.where((ax == INF) & (ay == INF), 1.0, q))
    r = _atan_unit(q)
    r = tl.where(steep, _from_half_pi(r), r)
    if x.dtype == tl.float64:
        r = tl.where(signbit(x), (PI - r) + 1.2246467991473532e-16, r)
    else:
        r = tl.where(signbit(x), (PI - r) - 8.742277657347586e-08, r)
    return tl.where((x != x) | (y != y), float("nan"), copysign(r, y))


@triton.jit
def _asin_half(t, u):
    """asin(t) for 0 <= t <= 1/2, u = t^2."""
    if t.dtype == tl.float64:
        return t + t * u * polynomial(u, _ASIN_F64)
    else:
        return t + t * u * polynomial(u, _ASIN_F32)


@triton.jit
def asin(x):
    """Above 1/2: pi / 2 - 2 asin(sqrt((1 - |x|) / 2)); NaN outside [-1, 1]."""
    a = tl.abs(x)
    u = tl.where(a > 0.5, 0.5 * (1.0 - a), a * a)
    t = tl.where(a > 0.5, sqrt(u), a)
    r = _asin_half(t, u)
    return copysign(tl.where(a > 0.5, _from_half_pi(2.0 * r), r), x)


@triton.jit
def acos(x):
    """Above 1/2: 2 asin(sqrt((1 - x) / 2)), mirrored below -1/2; NaN outside [-1, 1]."""
    a = tl.abs(x)
    u = tl.where(a > 0.5, 0.5 * (1.0 - a), a * a)
    t = tl.where(a > 0.5, sqrt(u), a)
    r = _asin_half(t, u)
    if x.dtype == tl.float64:
        mirrored = (PI - 2.0 * r) + 1.2246467991473532e-16
    else:
        mirrored = (PI - 2.0 * r) - 8.742277657347586e-08
    ends = tl.where(x < 0, mirrored, 2.0 * r)
    return tl.where(a > 0.5, ends, _from_half_pi(copysign(r, x)))
