"""Flash attention, forward: o = softmax(scale q k^T + bias) v by blocks of keys, with a running maximum and sum.

One program owns a block of queries of one head (interpreted: of BLOCK_B heads, as one three-dimensional block) and
walks over the blocks of keys that can take part. Dao et al. 2022. Sizes as in ops/attention.py.

Coordinates: with BLOCK_B = 1, b and h are scalars and m, n, d stand along the axes of matrices; else b and h are
[BLOCK_B, 1, 1] and everything else has a leading axis of 1. So one text serves both, by broadcasting.

q, k, v: tuples (pointer, stride of the sample, of the head, of the row) in elements, with unit stride in the last axis.
bias, mask: (pointer, four strides, 0 where broadcast); lengths: (pointer, stride); dropout: (seed pointer, step
pointer, stream); each () if there is none. BAND: 0, 1 for keys with n - m <= high alone, 2 for low <= n - m <= high.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import library as lib
from .elementary import LN2, LOG2E

# --- coordinates ---


@triton.jit
def down(x, BLOCK_B: tl.constexpr):
    """[n] -> [n, 1], or [1, n, 1]: an index along the rows of a matrix."""
    if BLOCK_B == 1:
        return x[:, None]
    else:
        return x[None, :, None]


@triton.jit
def across(x, BLOCK_B: tl.constexpr):
    """[n] -> [1, n], or [1, 1, n]: an index along the columns of a matrix."""
    if BLOCK_B == 1:
        return x[None, :]
    else:
        return x[None, None, :]


@triton.jit
def heads_at(block, count, heads, BLOCK_B: tl.constexpr):
    """(b, h, there) of a block of heads: sample and head, int64, and False where there is none (then b and h are those
    of the last one, so that loads need no mask)."""
    if BLOCK_B == 1:
        at = block.to(tl.int64)
    else:
        at = (block * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)[:, None, None]
    last = tl.minimum(at, count - 1)
    return last // heads, last % heads, at < count


@triton.jit
def transposed(x, BLOCK_B: tl.constexpr):
    if BLOCK_B == 1:
        return tl.trans(x)
    else:
        return tl.permute(x, (0, 2, 1))


@triton.jit
def zeros(like, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_B: tl.constexpr):
    """An accumulator for operands like `like`: float32, or float64."""
    if BLOCK_B == 1:
        return tl.zeros((ROWS, COLUMNS), dtype=tl.float64 if like.dtype == tl.float64 else tl.float32)
    else:
        return tl.zeros((BLOCK_B, ROWS, COLUMNS), dtype=tl.float64 if like.dtype == tl.float64 else tl.float32)


# --- pieces ---


@triton.jit
def exp2(x):
    """2^x: the hardware's for float32."""
    if x.dtype == tl.float64:
        return lib.exp2(x)
    else:
        return tl.exp2(x)


@triton.jit
def lowered(p, like):
    """p rounded to the dtype of `like`, for a product with it."""
    if not lib.INTERPRETED:
        return p.to(like.dtype)
    elif like.dtype == tl.bfloat16:
        return lib.round_bf16(p)
    elif like.dtype == tl.float16:
        return lib.round_fp16(p)
    else:
        return p


@triton.jit
def load_tile(pointers, row, limit, d, D: tl.constexpr, BLOCK_D: tl.constexpr, MASKED: tl.constexpr):
    """Rows `row` and elements d of heads, as they are stored; 0 from row `limit` on (if MASKED) and beyond element D."""
    if MASKED:
        return tl.load(pointers, mask=(row < limit) & (d < D), other=0.0)
    elif D != BLOCK_D:
        return tl.load(pointers, mask=d < D, other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def keys_taking_part(lengths, b, S, HAS_LENGTHS: tl.constexpr):
    """How many keys of sample b may take part."""
    if HAS_LENGTHS:
        ptr, stride = lengths
        return tl.minimum(tl.maximum(tl.load(ptr + b * stride), 0), S).to(tl.int32)
    else:
        return tl.maximum(S, 0)


@triton.jit
def extremes(x, BLOCK_B: tl.constexpr):
    """The smallest and the largest of a block of heads."""
    if BLOCK_B == 1 or len(x.shape) == 0:
        return x, x
    else:
        return tl.min(x), tl.max(x)


@triton.jit
def scores(
    qk, b, h, m, n, L, limit, bias, mask, low, high,
    SCALE: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, BAND: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """scale q k^T + bias in units of log 2, and -inf for keys that take no part; n < limit and the band are looked at
    only if MASKED. m, n: in whatever orientation qk has."""
    s = qk * (SCALE * LOG2E)
    if HAS_BIAS:
        ptr, stride_b, stride_h, stride_m, stride_n = bias
        at = b * stride_b + h * stride_h + m.to(tl.int64) * stride_m + n.to(tl.int64) * stride_n
        s += lib.load(ptr, at, (m < L) & (n < limit), 0.0) * LOG2E
    if HAS_MASK:
        ptr, stride_b, stride_h, stride_m, stride_n = mask
        at = b * stride_b + h * stride_h + m.to(tl.int64) * stride_m + n.to(tl.int64) * stride_n
        s = tl.where(tl.load(ptr + at, mask=(m < L) & (n < limit), other=0) != 0, s, -lib.INF)
    if MASKED:
        part = n < limit
        if BAND > 0:
            part = part & (n - m <= high)
        if BAND > 1:
            part = part & (n - m >= low)
        s = tl.where(part, s, -lib.INF)
    return s


@triton.jit
def draw_of(dropout, P: tl.constexpr):
    """(seed, step, stream) as numbers."""
    if P > 0:
        seed_ptr, step_ptr, number = dropout
        return tl.load(seed_ptr), tl.load(step_ptr), number
    else:
        return 0, 0, 0


@triton.jit
def kept(draw, b, h, m, n, heads, L, S, P: tl.constexpr):
    """True for the weights that dropout keeps: a function of their index in [B, H, L, S]."""
    seed, step, number = draw
    return lib.uniform(seed, ((b * heads + h) * L + m) * S + n, number, step) >= P


@triton.jit
def key_ranges(first, last, least, most, low, high, BAND: tl.constexpr, BLOCK_N: tl.constexpr):
    """(begin, inner, outer, end) for queries first .. last: keys before `begin` and from `end` on take no part in any,
    those of the blocks from `inner` to `outer` take part in all. least, most: keys of the shortest and longest sample.

    All but `end` are multiples of BLOCK_N.
    """
    begin = tl.minimum(most, 0)
    inner = begin
    end = most
    full = least
    if BAND > 0:
        end = tl.minimum(end, tl.maximum(last + high + 1, 0))
        full = tl.minimum(full, tl.maximum(first + high + 1, 0))
    if BAND > 1:
        begin = tl.maximum(first + low, 0) // BLOCK_N * BLOCK_N
        inner = tl.cdiv(tl.maximum(last + low, 0), BLOCK_N) * BLOCK_N
    return begin, inner, tl.maximum(full // BLOCK_N * BLOCK_N, inner), end


# --- the kernel ---


@triton.jit
def _walk(
    acc, peak, total, q, k_pointers, k_row, v_pointers, v_row, begin, end, b, h, m, heads, L, S, limit,
    bias, mask, draw, low, high,
    SCALE: tl.constexpr, P: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_MASK: tl.constexpr, BAND: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """The running (sum of e^(s - peak) v, peak, sum of e^(s - peak)) after the keys from begin to end."""
    AXIS: tl.constexpr = 1 if BLOCK_B == 1 else 2
    k_pointers += begin.to(tl.int64) * k_row
    v_pointers += begin.to(tl.int64) * v_row
    e = down(tl.arange(0, BLOCK_E), BLOCK_B)
    d = across(tl.arange(0, BLOCK_V), BLOCK_B)
    for start in range(begin, end, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        k = load_tile(k_pointers, across(n, BLOCK_B), limit, e, E, BLOCK_E, MASKED)
        s = scores(
            lib.dot(q, k, None, PRECISION), b, h, m, across(n, BLOCK_B), L, limit, bias, mask, low, high,
            SCALE, HAS_BIAS, HAS_MASK, BAND, MASKED,
        )  # fmt: skip
        top = tl.maximum(peak, tl.max(s, AXIS, keep_dims=True))
        if MASKED or HAS_BIAS or HAS_MASK:  # a row may have seen nothing yet
            level = tl.where(top == -lib.INF, 0.0, top)
        else:
            level = top
        p = exp2(s - level)
        shrink = exp2(peak - level)
        total = total * shrink + tl.sum(p, AXIS, keep_dims=True)
        if P > 0:
            p = tl.where(kept(draw, b, h, m, across(n, BLOCK_B), heads, L, S, P), p, 0.0)
        v = load_tile(v_pointers, down(n, BLOCK_B), limit, d, EV, BLOCK_V, MASKED)
        acc = lib.dot(lowered(p, v), v, acc * shrink, PRECISION)
        peak = top
        k_pointers += BLOCK_N * k_row
        v_pointers += BLOCK_N * v_row
    return acc, peak, total


@triton.jit
def attention_forward(
    q, k, v, out_ptr, lse_ptr, lengths, bias, mask, dropout, low, high, count, heads, L, S,
    SCALE: tl.constexpr, P: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, GROUP: tl.constexpr,
    HAS_LENGTHS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, BAND: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """o, dense [B, L, H, Ev], and lse, dense [B, H, L].

    count: B H, heads: H, GROUP: query heads that read one head of keys and values. SCALE: of the scores; P: the
    probability of dropout. Launch attention_configs.grid programs.
    """
    tiles = tl.cdiv(L, BLOCK_M)
    program = tl.program_id(0)
    first = (tiles - 1 - program % tiles) * BLOCK_M  # the longest rows of a causal band first
    b, h, there = heads_at(program // tiles, count, heads, BLOCK_B)
    limit = keys_taking_part(lengths, b, S, HAS_LENGTHS)
    least, most = extremes(limit, BLOCK_B)
    last = tl.minimum(first + BLOCK_M, L) - 1
    begin, inner, outer, end = key_ranges(first, last, least, most, low, high, BAND, BLOCK_N)
    draw = draw_of(dropout, P)

    m = down(first + tl.arange(0, BLOCK_M), BLOCK_B)
    n = tl.arange(0, BLOCK_N).to(tl.int64)
    e = tl.arange(0, BLOCK_E)
    d = across(tl.arange(0, BLOCK_V), BLOCK_B)
    q_ptr, q_b, q_h, q_m = q
    k_ptr, k_b, k_h, k_n = k
    v_ptr, v_b, v_h, v_n = v
    e_row = across(e, BLOCK_B)
    query = load_tile(q_ptr + (b * q_b + h * q_h) + (m.to(tl.int64) * q_m + e_row), m, L, e_row, E, BLOCK_E, True)
    g = h // GROUP
    k_at = k_ptr + (b * k_b + g * k_h) + (across(n, BLOCK_B) * k_n + down(e, BLOCK_B))  # [E, N]
    v_at = v_ptr + (b * v_b + g * v_h) + (down(n, BLOCK_B) * v_n + d)  # [N, Ev]

    acc = zeros(query, BLOCK_M, BLOCK_V, BLOCK_B)
    total = zeros(query, BLOCK_M, 1, BLOCK_B)
    peak = total - lib.INF
    if BAND > 1:
        acc, peak, total = _walk(
            acc, peak, total, query, k_at, k_n, v_at, v_n, begin, tl.minimum(inner, end), b, h, m, heads, L, S, limit,
            bias, mask, draw, low, high, SCALE, P, E, EV, HAS_BIAS, HAS_MASK, BAND, True, PRECISION,
            BLOCK_B, BLOCK_N, BLOCK_E, BLOCK_V,
        )  # fmt: skip
    acc, peak, total = _walk(
        acc, peak, total, query, k_at, k_n, v_at, v_n, inner, outer, b, h, m, heads, L, S, limit,
        bias, mask, draw, low, high, SCALE, P, E, EV, HAS_BIAS, HAS_MASK, BAND, False, PRECISION,
        BLOCK_B, BLOCK_N, BLOCK_E, BLOCK_V,
    )  # fmt: skip
    acc, peak, total = _walk(
        acc, peak, total, query, k_at, k_n, v_at, v_n, outer, end, b, h, m, heads, L, S, limit,
        bias, mask, draw, low, high, SCALE, P, E, EV, HAS_BIAS, HAS_MASK, BAND, True, PRECISION,
        BLOCK_B, BLOCK_N, BLOCK_E, BLOCK_V,
    )  # fmt: skip

    empty = total == 0.0
    out = acc * (1.0 / (1.0 - P)) / tl.where(empty, 1.0, total)
    lse = tl.where(empty, -lib.INF, peak * LN2 + lib.log(tl.where(empty, 1.0, total)))
    lib.store(out_ptr, ((b * L + m) * heads + h) * EV + d, out, there & (m < L) & (d < EV))
    lib.store(lse_ptr, (b * heads + h) * L + m, lse, there & (m < L))
