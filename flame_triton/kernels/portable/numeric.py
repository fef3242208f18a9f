"""Pointwise functions of two numbers, and of bits: what is neither plain arithmetic nor a classic function.

Floating functions take float32 or float64 tensors (16-bit floats are computed in float32), integer ones any integers.
The same formula runs interpreted and compiled.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import INF, copysign, div, float_bits, isnan, maximum, minimum, sqrt
from .elementary import LOG2E, atanh, exp, exp2, log, log1p

PI = tl.constexpr(3.141592653589793)


# --- floating ---


@triton.jit
def hypot(x, y):
    """sqrt(x^2 + y^2) = a sqrt(1 + (b / a)^2) with a the larger magnitude: no overflow; infinite if either is."""
    x, y = tl.broadcast(tl.abs(x), tl.abs(y))
    a = maximum(x, y)
    b = minimum(x, y)
    ratio = div(b, tl.where(a == 0, 1.0, a))
    ratio = tl.where(a == INF, 0.0, ratio)
    result = a * sqrt(1.0 + ratio * ratio)
    return tl.where((x == INF) | (y == INF), INF, result)


@triton.jit
def fmax(x, y):
    """The larger one; NaN only if both are. Floats and integers."""
    return tl.where(isnan(x), y, tl.where(isnan(y), x, maximum(x, y)))


@triton.jit
def fmin(x, y):
    """The smaller one; NaN only if both are. Floats and integers."""
    return tl.where(isnan(x), y, tl.where(isnan(y), x, minimum(x, y)))


@triton.jit
def heaviside(x, y):
    """0 below 0, y at 0, 1 above; 0 for NaN. Floats and integers."""
    return tl.where(x == 0, y, (x > 0).to(tl.int32).to(y.dtype))


@triton.jit
def nextafter(x, y):
    """The number next to x on the way to y: one step of the bits, which are ordered as magnitudes are."""
    x, y = tl.broadcast(x, y)
    bits = float_bits(x)
    one = bits * 0 + 1
    toward_zero = (x > 0) == (y < x)
    step = tl.where(toward_zero, -one, one)
    moved = (bits + step).to(x.dtype, bitcast=True)
    least = copysign(one.to(x.dtype, bitcast=True), y)
    moved = tl.where(x == 0, least, moved)
    return tl.where(isnan(x) | isnan(y), x + y, tl.where(x == y, y, moved))


@triton.jit
def sinc(x):
    """sin(pi x) / (pi x); 1 at 0."""
    t = tl.where(x == 0, 1.0, x) * PI
    return tl.where(x == 0, 1.0, div(tl.sin(t), t))


@triton.jit
def logaddexp(x, y):
    """log(e^x + e^y) = max + log1p(e^-|x - y|)."""
    x, y = tl.broadcast(x, y)
    m = maximum(x, y)
    d = tl.abs(x - y)
    return tl.where((x == y) & (tl.abs(x) == INF), x, m + log1p(exp(-d)))


@triton.jit
def logaddexp2(x, y):
    """log2(2^x + 2^y) = max + log2(1 + 2^-|x - y|)."""
    x, y = tl.broadcast(x, y)
    m = maximum(x, y)
    d = tl.abs(x - y)
    return tl.where((x == y) & (tl.abs(x) == INF), x, m + log1p(exp2(-d)) * LOG2E)


@triton.jit
def xlogy(x, y):
    """x log(y); 0 where x = 0, unless y is NaN."""
    return tl.where(isnan(y), y, tl.where(x == 0, 0.0, x * log(y)))


@triton.jit
def xlog1py(x, y):
    """x log(1 + y); 0 where x = 0, unless y is NaN."""
    return tl.where(isnan(y), y, tl.where(x == 0, 0.0, x * log1p(y)))


@triton.jit
def entr(x):
    """-x log(x); 0 at 0, -infinity below."""
    return tl.where(isnan(x), x, tl.where(x > 0, -x * log(x), tl.where(x == 0, 0.0, -INF)))


@triton.jit
def logit(x):
    """log(x / (1 - x)), through 2 atanh(2 x - 1) near 1/2, where the logarithm would lose its digits."""
    centre = tl.abs(x - 0.5) < 0.25
    near = 2.0 * atanh(2.0 * tl.where(centre, x, 0.5) - 1.0)
    return tl.where(centre, near, log(div(x, 1.0 - x)))


# --- integers ---


@triton.jit
def left_shift(x, y):
    """x << y; 0 where y is negative or not less than the number of bits (torch)."""
    inside = (y >= 0) & (y < x.dtype.primitive_bitwidth)
    return tl.where(inside, x << tl.where(inside, y, 0).to(x.dtype), 0).to(x.dtype)


@triton.jit
def right_shift(x, y):
    """x >> y, the sign shifted in; where y is negative or too large, the sign alone (torch)."""
    BITS: tl.constexpr = x.dtype.primitive_bitwidth
    inside = (y >= 0) & (y < BITS)
    shifted = x >> tl.where(inside, y, BITS - 1).to(x.dtype)
    if x.dtype.is_int_unsigned():
        return tl.where(inside, shifted, 0).to(x.dtype)
    else:
        return shifted


@triton.jit
def gcd(x, y):
    """The greatest common divisor, not negative; gcd(0, 0) = 0. Euclid's steps, as many as Fibonacci numbers need."""
    x, y = tl.broadcast(x, y)  # what a loop carries must not change its shape
    a = tl.abs(x)
    b = tl.abs(y)
    for _ in range((x.dtype.primitive_bitwidth * 3 + 1) // 2):
        rest = a % tl.where(b == 0, 1, b).to(a.dtype)
        a, b = tl.where(b == 0, a, b), tl.where(b == 0, b, rest)
    return a


@triton.jit
def lcm(x, y):
    """The least common multiple, not negative; 0 if either is 0."""
    x, y = tl.broadcast(x, y)
    divisor = gcd(x, y)
    return tl.abs(x // tl.where(divisor == 0, 1, divisor).to(x.dtype) * y)
