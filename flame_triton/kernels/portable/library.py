"""Device functions shared by generated kernels and hand-written ones: memory access, rounding, dot, random numbers.

The mathematics stands in arithmetic.py, elementary.py, numeric.py, special.py and trigonometry.py and is re-exported
here, so that a kernel needs this module alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import (
    INF,
    INTERPRETED,
    copysign,
    div,
    floor_divide,
    fmod,
    integer_pow,
    isfinite,
    isinf,
    isnan,
    maximum,
    minimum,
    neg,
    reciprocal,
    remainder,
    round,
    rsqrt,
    sign,
    signbit,
    sqrt,
    trunc,
)
from .elementary import (
    acosh,
    asinh,
    atanh,
    cosh,
    erfc,
    erfcx,
    exp,
    exp2,
    expm1,
    log,
    log1p,
    log2,
    log10,
    pow,
    sigmoid,
    sinh,
    softplus,
    tanh,
)
from .numeric import (
    entr,
    fmax,
    fmin,
    gcd,
    heaviside,
    hypot,
    lcm,
    left_shift,
    logaddexp,
    logaddexp2,
    logit,
    nextafter,
    right_shift,
    sinc,
    xlog1py,
    xlogy,
)
from .short import short_erfc, short_exp, short_sigmoid, short_tanh
from .special import (
    cot_pi,
    digamma,
    erfinv,
    i0,
    i0e,
    i1,
    i1e,
    lgamma,
    log_ndtr,
    ndtr,
    ndtri,
    polygamma,
)
from .trigonometry import acos, asin, atan, atan2, tan

__all__ = [
    "INF",
    "INTERPRETED",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "copysign",
    "cosh",
    "cot_pi",
    "decode_e4m3",
    "decode_e5m2",
    "digamma",
    "div",
    "dot",
    "encode_e4m3",
    "encode_e5m2",
    "entr",
    "erfc",
    "erfcx",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "gcd",
    "heaviside",
    "hypot",
    "i0",
    "i0e",
    "i1",
    "i1e",
    "integer_pow",
    "isfinite",
    "isinf",
    "isnan",
    "lcm",
    "left_shift",
    "lgamma",
    "load",
    "log",
    "log1p",
    "log2",
    "log10",
    "log_ndtr",
    "logaddexp",
    "logaddexp2",
    "logit",
    "maximum",
    "minimum",
    "ndtr",
    "ndtri",
    "neg",
    "nextafter",
    "noise",
    "normal",
    "polygamma",
    "pow",
    "randint_bits",
    "raster",
    "reciprocal",
    "remainder",
    "repeat_pairs",
    "right_shift",
    "round",
    "round_bf16",
    "round_e4m3",
    "round_e5m2",
    "round_fp16",
    "rsqrt",
    "short_erfc",
    "short_exp",
    "short_sigmoid",
    "short_tanh",
    "sigmoid",
    "sign",
    "signbit",
    "sinc",
    "sinh",
    "softplus",
    "sqrt",
    "stochastic_round",
    "store",
    "store_column_sums",
    "swap_pairs",
    "tan",
    "tanh",
    "to_compute",
    "trunc",
    "uniform",
    "xlog1py",
    "xlogy",
]


# --- memory ---


@triton.jit
def to_compute(x):
    """A loaded value in its compute dtype: bfloat16 and float16 become float32 (exact), all else is unchanged.

    The interpreter holds bfloat16 as raw 16-bit integers, on which any arithmetic is garbage, so nothing may touch a
    loaded value before this.
    """
    if x.dtype == tl.bfloat16:
        if INTERPRETED:
            bits = x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
            return bits.to(tl.float32, bitcast=True)
        else:
            return x.to(tl.float32)
    elif x.dtype == tl.float16:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def load(ptr, offsets, mask=None, other=0):
    """ptr[offsets] in its compute dtype (bool buffers: int1); `other` where the mask is false. mask may be None."""
    if mask is None:
        return to_compute(tl.load(ptr + offsets))
    elif INTERPRETED and ptr.dtype.element_ty == tl.bfloat16:
        return tl.where(mask, to_compute(tl.load(ptr + offsets, mask=mask)), other)
    else:
        return to_compute(tl.load(ptr + offsets, mask=mask, other=other))


@triton.jit
def store(ptr, offsets, value, mask=None):
    """ptr[offsets] = value converted to the element dtype; floats round to nearest even, bool is `value != 0`."""
    if ptr.dtype.element_ty == tl.bfloat16:
        value = value.to(tl.float32)
        if INTERPRETED:
            bits = round_bf16(value).to(tl.uint32, bitcast=True) >> 16
            tl.store(ptr + offsets, bits.to(tl.uint16).to(tl.bfloat16, bitcast=True), mask=mask)
        else:
            tl.store(ptr + offsets, value.to(tl.bfloat16), mask=mask)
    elif ptr.dtype.element_ty == tl.int1:
        tl.store(ptr + offsets, value != 0, mask=mask)
    else:
        tl.store(ptr + offsets, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def store_column_sums(ptr, x, m, n, M, N, mask, ROWS: tl.constexpr):
    """ptr[m // ROWS, n] = the sum of x over every ROWS rows of a tile; ptr: row-major [cdiv(M, ROWS), N].

    x: [BLOCK_M, BLOCK_N], BLOCK_M a multiple of ROWS, 0 where there is no element; m: [BLOCK_M, 1], the first a
    multiple of ROWS; n, mask: [1, BLOCK_N].
    """
    tl.static_assert(x.shape[0] % ROWS == 0, "a tile must be a multiple of ROWS high")
    if x.shape[0] == ROWS:
        part = tl.min(m, axis=0, keep_dims=True) // ROWS  # [1, 1]
        total = tl.sum(x, axis=0, keep_dims=True)
    else:
        part = tl.min(m) // ROWS + tl.arange(0, x.shape[0] // ROWS)[:, None]
        total = tl.sum(tl.reshape(x, (x.shape[0] // ROWS, ROWS, x.shape[1])), axis=1)
    store(ptr, part * N + n, total, mask & (part * ROWS < M))


@triton.jit
def flag(x):
    """A bool that & and | take. In the interpreter the result of comparing scalars keeps the operands' own type behind
    its int1, and a block made of it would hold floats."""
    if INTERPRETED:
        return x.to(tl.int32).to(tl.int1)
    else:
        return x


# --- pairs of neighbouring elements ---


@triton.jit
def swap_pairs(x):
    """x with elements 2 i and 2 i + 1 of the last axis exchanged; x: one or two axes."""
    if len(x.shape) == 2:
        a, b = tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]))
    else:
        a, b = tl.split(tl.reshape(x, [x.shape[0] // 2, 2]))
    return tl.reshape(tl.join(b, a), x.shape)


@triton.jit
def repeat_pairs(x):
    """[M, N] -> [M, 2 N], every element of a row twice."""
    return tl.reshape(tl.join(x, x), [x.shape[0], 2 * x.shape[1]])


# --- rounding ---


@triton.jit
def round_bf16(x):
    """float32 rounded to bfloat16 (nearest even; overflow to infinity; NaN stays NaN), returned as float32."""
    if INTERPRETED:
        bits = x.to(tl.int32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        bits = tl.where(x == x, nearest, (bits & -0x10000) | 0x400000)
        return bits.to(tl.float32, bitcast=True)
    else:
        return x.to(tl.bfloat16).to(tl.float32)


@triton.jit
def round_fp16(x):
    """float32 rounded to float16 (nearest even; overflow to infinity; NaN stays NaN), returned as float32."""
    return x.to(tl.float16).to(tl.float32)


# --- 8-bit floats, in memory as bytes ---
#
# Converted by integer arithmetic: the same bits interpreted and compiled, and on GPUs without such instructions.


@triton.jit
def decode_e4m3(byte):
    """float32 values of float8_e4m3fn bytes: exact. 4 bits of exponent, biased by 7; no infinities, one NaN."""
    byte = byte.to(tl.int32)
    size = byte & 0x7F
    normal = ((size << 20) + (120 << 23)).to(tl.float32, bitcast=True)
    value = tl.where(size < 8, size.to(tl.float32) * 0.001953125, normal)  # below 2^-6 in steps of 2^-9
    value = tl.where(size == 0x7F, float("nan"), value)
    return (value.to(tl.int32, bitcast=True) | ((byte & 0x80) << 24)).to(tl.float32, bitcast=True)


@triton.jit
def encode_e4m3(x):
    """Bytes of float8_e4m3fn, to nearest even: 448 for all larger sizes, infinity included; NaN stays NaN."""
    bits = x.to(tl.float32).to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    # Next to 2^14 float32 has steps of 2^-9: the sum is rounded as the result must be.
    small = (size.to(tl.float32, bitcast=True) + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
    byte = tl.where(size < (121 << 23), small, tl.where(normal < 0x7E, normal, 0x7E))
    byte = tl.where(size > 0x7F800000, 0x7F, byte)
    return (byte | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def round_e4m3(x):
    """float32 rounded to float8_e4m3fn as by `encode_e4m3`, returned as float32."""
    return decode_e4m3(encode_e4m3(x))


@triton.jit
def decode_e5m2(byte):
    """float32 values of float8_e5m2 bytes, which are the upper halves of float16: exact."""
    return (byte.to(tl.uint16) << 8).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def encode_e5m2(x):
    """Bytes of float8_e5m2, to nearest even; overflow to infinity; NaN stays NaN."""
    bits = x.to(tl.float32).to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    normal = ((size + 0xFFFFF + ((size >> 21) & 1)) >> 21) - (112 << 2)
    # Next to 2^7 float32 has steps of 2^-16.
    small = (size.to(tl.float32, bitcast=True) + 128.0).to(tl.int32, bitcast=True) - 0x43000000
    byte = tl.where(size < (113 << 23), small, tl.where(normal < 0x7C, normal, 0x7C))
    byte = tl.where(size > 0x7F800000, 0x7F, byte)
    return (byte | ((bits >> 24) & 0x80)).to(tl.uint8)


@triton.jit
def round_e5m2(x):
    """float32 rounded to float8_e5m2 as by `encode_e5m2`, returned as float32."""
    return decode_e5m2(encode_e5m2(x))


@triton.jit
def stochastic_round(x, noise):
    """float32 rounded to one of its two bfloat16 neighbours, returned as float32; infinities and NaN are kept.

    noise: int32, its lower 16 bits uniform. They are added to the bits that bfloat16 drops, so the farther neighbour is
    taken as often as x is near to it.
    """
    bits = (x.to(tl.int32, bitcast=True) + (noise & 0xFFFF)) & -0x10000
    return tl.where(isfinite(x), bits.to(tl.float32, bitcast=True), x)


# --- matrix product ---


@triton.jit
def raster(program, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    """(batch, row tile, column tile) of a program: batches outermost, then grouped raster order.

    A group of GROUP_M row tiles is walked down before moving one column tile right, so that programs which run
    together share operands in L2.
    """
    tile = program % (tiles_m * tiles_n)
    group = tile // (GROUP_M * tiles_n)
    within = tile % (GROUP_M * tiles_n)
    rows = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    return program // (tiles_m * tiles_n), group * GROUP_M + within % rows, within // rows


@triton.jit
def dot(a, b, acc, INPUT_PRECISION: tl.constexpr):
    """acc + a @ b for a: [M, K], b: [K, N], acc: [M, N], or all with one leading batch dimension.

    a and b share one dtype: bfloat16, float16 and float32 accumulate in float32, float64 in float64.
    INPUT_PRECISION is for float32 alone: "ieee" (exact products), "tf32" or "tf32x3".
    """
    if a.dtype == tl.float64:
        return tl.dot(a, b, acc, out_dtype=tl.float64)
    elif INTERPRETED:
        return tl.dot(to_compute(a), to_compute(b), acc)
    elif a.dtype == tl.float32:
        return tl.dot(a, b, acc, input_precision=INPUT_PRECISION)
    else:
        return tl.dot(a, b, acc)


# --- random numbers ---


@triton.jit
def _philox(seed, index, stream, step):
    """The four 32-bit words of Philox4x32-10 (Salmon et al. 2011), key = seed, counter = (index, stream, step)."""
    low = index.to(tl.uint32)
    high = (index.to(tl.int64) >> 32).to(tl.uint32)
    stream = tl.cast(stream, tl.uint32)
    step = tl.cast(step, tl.uint32)
    return tl.philox(seed, low, high, stream, step)


@triton.jit
def randint_bits(seed, index, stream, step):
    """Word 0 of the Philox draw at `index`, as the bits of an int32.

    seed: int64 scalar, the key (taken as uint64); index: int32 or int64 tensor, the logical row-major element index;
    stream, step: integer scalars, taken modulo 2^32.
    """
    word, _, _, _ = _philox(seed, index, stream, step)
    return word.to(tl.int32, bitcast=True)


@triton.jit
def noise(seed, index, stream, step):
    """16 random bits as an int32: the upper half of word index % 4 of the Philox draw at index // 4.

    Four elements share a draw, which the compiler sees where it knows the low bits of index.
    """
    word0, word1, word2, word3 = _philox(seed, index >> 2, stream, step)
    which = index & 3
    word = tl.where(which == 0, word0, tl.where(which == 1, word1, tl.where(which == 2, word2, word3)))
    return (word >> 16).to(tl.int32)


@triton.jit
def uniform(seed, index, stream, step):
    """float32 in [0, 1) from word 0, by tl's rule: bits x, -x - 1 if negative, times 4.6566127342e-10."""
    word, _, _, _ = _philox(seed, index, stream, step)
    return tl.uint_to_uniform_float(word)


@triton.jit
def normal(seed, index, stream, step):
    """float32 standard normal from words 0 and 1: sqrt(-2 log max(1e-7, u0)) cos(2 pi u1) (Box and Muller 1958)."""
    word0, word1, _, _ = _philox(seed, index, stream, step)
    u0 = tl.uint_to_uniform_float(word0)
    u1 = tl.uint_to_uniform_float(word1)
    value, _ = tl.pair_uniform_to_normal(u0, u1)
    return value
