"""Elementary functions that tl lacks, or that are only approximate when compiled.

Every function takes float32 or float64 tensors (16-bit floats are computed in float32) and returns the same dtype and
shape. The same formula runs interpreted and compiled. Errors are at most 5 ulp in float32 and 1e-15 relative in
float64 (pow at the ends of the range: 5e-15), also near zero; NaN gives NaN. A compiled float32 result below 2^-126
may be flushed to zero.

Polynomials interpolate at Chebyshev nodes, coefficients highest power first; the range they hold on stands beside
them. Products in compensated sums are exact by construction, so FMA fusion changes no result.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import (
    INF,
    INTERPRETED,
    copysign,
    div,
    frexp,
    integer_pow,
    leading_half,
    power_of_two,
    reciprocal,
    sqrt,
)


def coefficients(*values: float) -> tl.constexpr:
    """A table for `polynomial`: its own length, then the values, highest power first."""
    return tl.constexpr((len(values) + 1, *values))


LN2 = tl.constexpr(0.6931471805599453)
LOG2E = tl.constexpr(1.4426950408889634)
LOG10E = tl.constexpr(0.4342944819032518)

# (expm1(r) - r) / r^2 for |r| <= 0.35
_EXPM1_F32 = coefficients(
    1.989198e-04, 1.3934541e-03, 8.3333105e-03, 4.1666456e-02, 1.6666667e-01, 0.5,
)  # fmt: skip
_EXPM1_F64 = coefficients(
    2.0915442297780116e-09, 2.5106274733573296e-08, 2.75572718102198e-07, 2.755725283351691e-06,
    2.4801587327007187e-05, 0.00019841269876864356, 0.0013888888888883327, 0.008333333333325544,
    0.04166666666666667, 0.1666666666666667, 0.5,
)  # fmt: skip
# (tanh(x) - x) / x^3 in x^2, for |x| <= 0.55
_TANH_F32 = coefficients(
    -6.6102277e-03, 2.1309389e-02, -5.390943e-02, 1.3333113e-01, -3.333333e-01,
)  # fmt: skip
# (2 atanh(s) - 2 s) / s^3 in s^2, for |s| <= 0.1716
_ATANH_F32 = coefficients(
    2.3330964e-01, 2.8550804e-01, 4.0000123e-01, 6.666667e-01,
)  # fmt: skip
_ATANH_F64 = coefficients(
    0.1308723619665962, 0.13268714792348096, 0.15386241881938595, 0.18181795600060793, 0.22222222392489008,
    0.28571428570801954, 0.4000000000000088, 0.6666666666666666,
)  # fmt: skip
# erfc(x) exp(x^2) in t = (x - k) / (x + k); k = 3.75, x in [0, 10.5] and k = 4, x in [0, 27.5]
_ERFC_F32 = coefficients(
    -2.1014015e-04, -3.0576855e-05, 1.8289359e-03, -8.210519e-03, 2.413988e-02, -5.4804347e-02, 1.0260438e-01,
    -1.6357177e-01, 2.2600807e-01, -2.7342194e-01, 1.4558972e-01,
)  # fmt: skip
_ERFC_F64 = coefficients(
    -7.465910669306707e-11, -2.669229245079985e-10, 4.0323852211538405e-10, 2.400066311484137e-09,
    -2.5331851204836047e-09, -1.6028934226282836e-08, 2.541525641709067e-08, 9.68229859897983e-08,
    -2.84061932172216e-07, -4.0902435403000054e-07, 2.94451284800748e-06, -1.9031322331288945e-06,
    -2.2556024401076776e-05, 7.898316979491199e-05, -2.1761722992507406e-05, -0.0007991268126307132,
    0.004060263624056806, -0.012843946031416012, 0.031299056518680375, -0.06310781563973361, 0.10896317739890528,
    -0.1642578166973092, 0.21871967891826488, -0.25906804876017164, 0.13699945762506138,
)  # fmt: skip


# sqrt(pi) x erfcx(x) in 1 / (2 x^2): 1 - h + 3 h^2 - 15 h^3 + ...
_ERFC_SERIES = coefficients(10395.0, -945.0, 105.0, -15.0, 3.0, -1.0, 1.0)


@triton.jit
def polynomial(x, TABLE: tl.constexpr):
    """Horner's rule over a table of at least two `coefficients`."""
    END: tl.constexpr = TABLE[0]
    p = x * TABLE[1] + TABLE[2]
    for i in tl.static_range(3, END):
        p = p * x + TABLE[i]
    return p


# --- exponentials and logarithms ---


@triton.jit
def exp(x):
    """e^x. Compiled float32: exp2(x log2 e) with the rounding error of the product put back (tl.exp: |x| * 0.7 ulp)."""
    if INTERPRETED or x.dtype == tl.float64:
        return tl.exp(x)
    else:
        t = x * LOG2E
        error = tl.fma(x, 1.4426950216293335, -t) + x * 1.925963033500011e-08
        y = tl.exp2(t)
        # At infinity the correction would be NaN; below 2^-128 there is nothing left to correct.
        return tl.where(tl.abs(t) < 128.0, tl.fma(y, error * LN2, y), y)


@triton.jit
def exp2(x):
    """2^x."""
    return tl.exp2(x)


@triton.jit
def log(x):
    """The natural logarithm."""
    return tl.log(x)


@triton.jit
def log2(x):
    return tl.log2(x)


@triton.jit
def log10(x):
    return tl.log(x) * LOG10E


@triton.jit
def expm1(x):
    """e^x - 1 = 2^n (1 + expm1(r)) - 1 with x = n ln 2 + r, |r| <= ln(2) / 2."""
    if x.dtype == tl.float64:
        clamped = tl.where(x > 710.0, 710.0, tl.where(x < -40.0, -40.0, x))
        n = tl.floor(clamped * LOG2E + 0.5)
        r = clamped - n * 0.693147180559663 - n * 2.8235290563031577e-13
        p = r + r * r * polynomial(r, _EXPM1_F64)
    else:
        clamped = tl.where(x > 89.0, 89.0, tl.where(x < -26.0, -26.0, x))
        n = tl.floor(clamped * LOG2E + 0.5)
        r = clamped - n * 0.693145751953125 - n * 1.428606765330187e-06
        p = r + r * r * polynomial(r, _EXPM1_F32)
    scale = power_of_two(n - 1.0, x)
    return tl.where(tl.abs(x) < (1e-16 if x.dtype == tl.float64 else 1e-8), x, 2.0 * (scale * p + (scale - 0.5)))


@triton.jit
def log1p(x):
    """log(1 + x) = log(u) * x / (u - 1) with u the rounded 1 + x (W. Kahan)."""
    u = 1.0 + x
    d = u - 1.0
    return tl.where((d == 0) | (d == INF), x, tl.log(u) * (x / d))


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + exp(-x))


@triton.jit
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log1p(e^-|x|)."""
    return tl.where(x > 0, x, 0.0) + log1p(exp(-tl.abs(x)))


@triton.jit
def tanh(x):
    """Float32: an odd polynomial below 0.55, 1 - 2 / (1 + e^2|x|) above. Float64: e / (e + 2), e = expm1(2|x|)."""
    a = tl.abs(x)
    if x.dtype == tl.float64:
        e = expm1(2.0 * tl.where(a > 22.0, 22.0, a))
        y = e / (e + 2.0)
    else:
        u = x * x
        small = a + a * u * polynomial(u, _TANH_F32)
        y = tl.where(a < 0.55, small, 1.0 - 2.0 / (1.0 + tl.exp(2.0 * a)))
    return copysign(y, x)


@triton.jit
def _half_exp(a):
    """e^a / 2 for a >= 0, without overflow before the result overflows."""
    big = a > (700.0 if a.dtype == tl.float64 else 80.0)
    w = exp(tl.where(big, 0.5 * a, a))
    return (0.5 * w) * tl.where(big, w, 1.0)


@triton.jit
def sinh(x):
    """(e^x - e^-x) / 2; below 1 through e = expm1(|x|): (e + e / (e + 1)) / 2."""
    a = tl.abs(x)
    e = expm1(tl.where(a < 1.0, a, 0.0))
    h = _half_exp(a)
    return copysign(tl.where(a < 1.0, 0.5 * (e + e / (e + 1.0)), h - 0.25 / h), x)


@triton.jit
def cosh(x):
    """(e^x + e^-x) / 2."""
    h = _half_exp(tl.abs(x))
    return h + 0.25 / h


@triton.jit
def asinh(x):
    """log1p(|x| + x^2 / (1 + sqrt(1 + x^2))) with the sign of x; log(2|x|) where x^2 would overflow."""
    a = tl.abs(x)
    big = a > (1152921504606846976.0 if x.dtype == tl.float64 else 1073741824.0)
    s = tl.where(big, 0.0, a)
    w = tl.where(big, a, s + s * s / (1.0 + sqrt(1.0 + s * s)))
    return copysign(log1p(w) + big.to(x.dtype) * LN2, x)


@triton.jit
def acosh(x):
    """log1p(t + sqrt(t (x + 1))), t = x - 1; log(2 x) where the product would overflow; NaN below 1."""
    big = x > (1152921504606846976.0 if x.dtype == tl.float64 else 1073741824.0)
    s = tl.where(big, 1.0, x)
    t = s - 1.0
    w = tl.where(big, x, t + sqrt(t * (s + 1.0)))
    return tl.where(x < 1.0, float("nan"), log1p(w) + big.to(x.dtype) * LN2)


@triton.jit
def atanh(x):
    """log1p(2|x| / (1 - |x|)) / 2 with the sign of x."""
    a = tl.abs(x)
    return copysign(0.5 * log1p(2.0 * a / (1.0 - a)), x)


@triton.jit
def erfc(x):
    """1 - erf(x) = e^(-x^2) P((|x| - k) / (|x| + k)), reflected for x < 0; e^(-x^2) = e^(-h^2) e^d with h^2 exact."""
    a = tl.abs(x)
    if x.dtype == tl.float64:
        a = tl.where(a > 27.5, 27.5, a)
        p = polynomial((a - 4.0) / (a + 4.0), _ERFC_F64)
        h = leading_half(a)
        d = (h - a) * (h + a)
        p += p * (d + d * d * polynomial(d, _EXPM1_F64))
    else:
        a = tl.where(a > 10.5, 10.5, a)
        p = polynomial(div(a - 3.75, a + 3.75), _ERFC_F32)
        h = leading_half(a)
        d = (h - a) * (h + a)
        p += p * (d + d * d * polynomial(d, _EXPM1_F32))
    y = exp(-h * h) * p
    return tl.where(x < 0, 2.0 - y, y)


@triton.jit
def erfcx(x):
    """e^(x^2) erfc(x): the polynomial of erfc, its asymptotic series beyond, 2 e^(x^2) - erfcx(-x) for x < 0."""
    a = tl.abs(x)
    if x.dtype == tl.float64:
        LIMIT: tl.constexpr = 27.0
        near = polynomial((tl.where(a > LIMIT, LIMIT, a) - 4.0) / (tl.where(a > LIMIT, LIMIT, a) + 4.0), _ERFC_F64)
    else:
        LIMIT: tl.constexpr = 10.0
        c = tl.where(a > LIMIT, LIMIT, a)
        near = polynomial(div(c - 3.75, c + 3.75), _ERFC_F32)
    inverse = reciprocal(tl.where(a > LIMIT, a, LIMIT))
    far = inverse * 0.5641895835477563 * polynomial(0.5 * inverse * inverse, _ERFC_SERIES)
    y = tl.where(a > LIMIT, far, near)
    c = tl.where(a > 30.0, 30.0, a)
    h = leading_half(c)
    square = exp(h * h) * exp((c - h) * (c + h))
    return tl.where(x < 0, 2.0 * square - y, y)


# --- powers ---


@triton.jit
def _log_double(a):
    """log(a) as an unevaluated sum (high, low) with half as many bits again as the dtype, for finite a > 0.

    a = m 2^e with sqrt(1/2) <= m < sqrt(2); log m = 2 atanh(s), s = (m - 1) / (m + 1) carried in two parts.
    """
    m, exponent = frexp(a)
    above = m > 1.4142135623730951
    m = tl.where(above, 0.5 * m, m)
    e = (exponent + above.to(exponent.dtype)).to(a.dtype)
    numerator = m - 1.0
    denominator = m + 1.0
    dropped = m - (denominator - 1.0)
    d_high = leading_half(denominator)
    d_low = (denominator - d_high) + dropped
    s = div(numerator, denominator)
    s_high = leading_half(s)
    s_low = ((numerator - s_high * d_high) - s_high * d_low) / denominator
    u = s * s
    if a.dtype == tl.float64:
        tail = 2.0 * s_low + s * u * polynomial(u, _ATANH_F64) + e * 2.8235290563031577e-13
        base = e * 0.693147180559663
    else:
        tail = 2.0 * s_low + s * u * polynomial(u, _ATANH_F32) + e * 1.428606765330187e-06
        base = e * 0.693145751953125
    head = base + 2.0 * s_high
    tail += 2.0 * s_high - (head - base)
    high = head + tail
    return high, tail - (high - head)


@triton.jit
def pow(x, y):
    """x^y in C's and torch's semantics; y is a tensor of the dtype of x.

    exp(y log|x|) with the logarithm and the product carried in two parts. 0^0 = 1, 1^y = 1 and x^0 = 1 for every y
    and x, NaN included; a negative base needs an integer exponent, else NaN; integer tensors: see `integer_pow`.
    """
    x, y = tl.broadcast(x, y)
    if not x.dtype.is_floating():
        return integer_pow(x, y)
    else:
        return _pow_float(x, y)


@triton.jit
def _pow_float(x, y):
    a = tl.abs(x)
    ordinary = (a > 0) & (a < INF)
    high, low = _log_double(tl.where(ordinary, a, 1.0))
    # Beyond this exponent every base but 1 overflows or vanishes.
    limit: tl.constexpr = 36893488147419103232.0 if x.dtype == tl.float64 else 4294967296.0
    c = tl.where(y > limit, limit, tl.where(y < -limit, -limit, y))
    y_high = leading_half(c)
    l_high = leading_half(high)
    product = y_high * l_high
    rest = y_high * (high - l_high) + (c - y_high) * high + c * low
    p = product + rest
    magnitude = exp(p)
    error = rest - (p - product)
    magnitude = tl.where((magnitude > 0) & (magnitude < INF), magnitude + magnitude * error, magnitude)
    magnitude = tl.where(ordinary, magnitude, tl.where((a == 0) == (y > 0), 0.0, INF))
    odd = (tl.floor(y) == y) & (2.0 * tl.floor(0.5 * y) != y)
    result = tl.where(odd, copysign(magnitude, x), magnitude)
    result = tl.where((x < 0) & ordinary & (tl.floor(y) != y), float("nan"), result)
    result = tl.where((x != x) | (y != y), float("nan"), result)
    return tl.where((x == 1.0) | (y == 0), 1.0, result)
