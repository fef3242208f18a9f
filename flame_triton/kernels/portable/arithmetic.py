"""Bits, signs, rounding, division and remainders: what is exact, or rounded once.

Functions take float32 or float64 tensors (16-bit floats are computed in float32) and return the same dtype and shape;
those that take integers too say so. The same formula runs interpreted and compiled.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...config import interpreted

INTERPRETED = tl.constexpr(interpreted())

INF = tl.constexpr(float("inf"))


@triton.jit
def float_bits(x):
    """The bits of a float as an integer of the same width."""
    if x.dtype == tl.float64:
        return x.to(tl.int64, bitcast=True)
    else:
        return x.to(tl.int32, bitcast=True)


@triton.jit
def power_of_two(k, x):
    """2^k in the dtype of x, for an integer-valued float k within the normal exponents."""
    if x.dtype == tl.float64:
        return ((k.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    else:
        return ((k.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def leading_half(x):
    """x with the lower half of its significand cleared, so that a product of two such numbers is exact."""
    if x.dtype == tl.float64:
        return (float_bits(x) & -0x8000000).to(tl.float64, bitcast=True)
    else:
        return (float_bits(x) & -0x1000).to(tl.float32, bitcast=True)


# --- classification and signs ---


@triton.jit
def isnan(x):
    return x != x


@triton.jit
def isinf(x):
    return tl.abs(x) == INF


@triton.jit
def isfinite(x):
    return tl.abs(x) < INF


@triton.jit
def sign(x):
    """-1, 0 or 1 in the dtype of x, floats and signed integers; 0 for NaN, as torch has it."""
    return ((x > 0).to(tl.int32) - (x < 0).to(tl.int32)).to(x.dtype)


@triton.jit
def copysign(x, y):
    """|x| with the sign bit of y (also of -0.0 and NaN); both of one dtype."""
    if x.dtype == tl.float64:
        bits = (float_bits(x) & 0x7FFFFFFFFFFFFFFF) | (float_bits(y) & -0x8000000000000000)
        return bits.to(tl.float64, bitcast=True)
    else:
        bits = (float_bits(x) & 0x7FFFFFFF) | (float_bits(y) & -0x80000000)
        return bits.to(tl.float32, bitcast=True)


@triton.jit
def neg(x):
    """-x, also for zeros (Triton's own `-x` is 0 - x, which turns 0.0 into 0.0). Floats and integers."""
    if x.dtype.is_floating():
        return x * -1.0
    else:
        return 0 - x


@triton.jit
def signbit(x):
    """True where the sign bit is set."""
    return float_bits(x) < 0


@triton.jit
def maximum(x, y):
    """The larger one; NaN if either is NaN. Floats and integers."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(x, y):
    """The smaller one; NaN if either is NaN. Floats and integers."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


# --- division and rounding ---


@triton.jit
def div(x, y):
    """x / y rounded to nearest. (Compiled, the plain `/` of two float32 is off by up to 2 ulp.)"""
    if x.dtype == tl.float32:
        return tl.div_rn(x, y)
    else:
        return x / y


@triton.jit
def reciprocal(x):
    """1 / x rounded to nearest."""
    if x.dtype == tl.float32:
        return tl.div_rn(1.0, x)
    else:
        return 1.0 / x


@triton.jit
def sqrt(x):
    """The square root rounded to nearest."""
    if x.dtype == tl.float32:
        return tl.sqrt_rn(x)
    else:
        return tl.sqrt(x)


@triton.jit
def rsqrt(x):
    """1 / sqrt(x)."""
    if x.dtype == tl.float32:
        return tl.rsqrt(x)
    else:
        return 1.0 / tl.sqrt(x)


@triton.jit
def trunc(x):
    """Rounds toward zero."""
    return tl.where(x < 0, tl.ceil(x), tl.floor(x))


@triton.jit
def round(x):
    """Rounds to the nearest integer, halves to even. Adding 2^(p-1) pushes the fraction out of the significand."""
    big: tl.constexpr = 4503599627370496.0 if x.dtype == tl.float64 else 8388608.0
    magnitude = tl.abs(x)
    return tl.where(magnitude < big, copysign((magnitude + big) - big, x), x)


@triton.jit
def frexp(a):
    """(m, e) with a = m * 2^e and 1 <= m < 2, e an integer tensor, for finite a > 0, subnormal ones included."""
    if a.dtype == tl.float64:
        subnormal = a < 2.2250738585072014e-308
        bits = float_bits(tl.where(subnormal, a * 18014398509481984.0, a))
        e = (bits >> 52) - tl.where(subnormal, 1077, 1023)
        m = ((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True)
    else:
        subnormal = a < 1.1754943508222875e-38
        bits = float_bits(tl.where(subnormal, a * 16777216.0, a))
        e = (bits >> 23) - tl.where(subnormal, 151, 127)
        m = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    return m, e


@triton.jit
def fmod(a, b):
    """a - b * trunc(a / b), exact, with the sign of a (C's fmod). Floats and integers.

    Compiled, floats divide the significands in pieces of STEP bits, each remainder made exact by one fused
    multiply-add, as many as the whole range of exponents can need (the `%` of floats loses all digits when the
    quotient is large).
    """
    if INTERPRETED or not a.dtype.is_floating():
        return a % b
    else:
        return _fmod_float(a, b)


@triton.jit
def _fmod_float(a, b):
    a, b = tl.broadcast(a, b)  # what a loop carries must not change its shape
    if a.dtype == tl.float64:
        STEP: tl.constexpr = 50
        PIECES: tl.constexpr = 42
    else:
        STEP: tl.constexpr = 22
        PIECES: tl.constexpr = 13
    x = tl.abs(a)
    y = tl.abs(b)
    r, x_exponent = frexp(x)
    m, y_exponent = frexp(y)
    left = x_exponent - y_exponent
    for _ in range(PIECES):
        step = tl.minimum(tl.maximum(left, 0), STEP)
        left -= step
        r = r * power_of_two(step, a)
        r = tl.fma(-tl.floor(div(r, m)), m, r)
        r = tl.where(r < 0, r + m, r)  # the quotient may have been rounded up to an integer, never down below one
    half = y_exponent >> 1
    r = r * power_of_two(half, a) * power_of_two(y_exponent - half, a)
    r = tl.where(x < y, x, r)
    defined = (x < INF) & (y > 0) & (y == y)
    return tl.where(defined, copysign(r, a), float("nan"))


@triton.jit
def remainder(a, b):
    """a - b * floor(a / b), with the sign of b (Python's and torch's `%`). Floats and integers."""
    r = fmod(a, b)
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)


@triton.jit
def floor_divide(a, b):
    """floor(a / b), consistent with `remainder` (Python's and torch's `//`). Floats and integers."""
    if a.dtype.is_floating():
        r = fmod(a, b)
        q = div(a - r, b)
        q = tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1.0, q)
        whole = tl.floor(q)
        whole = tl.where(q - whole > 0.5, whole + 1.0, whole)
        exact = div(a, b)
        whole = tl.where(q == 0, copysign(q, exact), whole)
        return tl.where(b == 0, exact, whole)
    else:
        r = a % b
        return a // b - ((r != 0) & ((r < 0) != (b < 0))).to(a.dtype)


@triton.jit
def integer_pow(x, y):
    """x^y of integers by repeated squaring, wrapping on overflow. A negative y gives 0 unless x is 1 or -1 (torch)."""
    x, y = tl.broadcast(x, y)  # what a loop carries must not change its shape
    result = x * 0 + 1
    base = x
    exponent = y
    for _ in range(x.dtype.primitive_bitwidth):
        result = tl.where((exponent & 1) != 0, result * base, result)
        base = base * base
        exponent = exponent >> 1
    if x.dtype.is_int_unsigned():
        return result
    else:
        # A negative exponent shifts in ones: for x = 1 and -1 that is the right answer, for others it is not.
        return tl.where((y < 0) & (x != 1) & (x != -1), 0, result)
