"""Flash attention, backward: three kernels that compute the probabilities again, each sum in one program, in order.

With w = D (g v^T), p = e^(s - lse) and ds = p (w - delta), see ops/attention_backward.py:
    attention_backward_keys      dk = scale ds^T q and dv = (D p)^T g, by blocks of keys
    attention_backward_queries   dq = scale ds k, by blocks of queries
    attention_backward_bias      dbias, the sum of ds over the axes along which the bias is broadcast
No atomics: results are the same to the bit in every run. Conventions as in attention.py; g is the cotangent of o; lse
and delta are tuples (pointer, three strides).
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import library as lib
from .attention import (
    across,
    down,
    draw_of,
    exp2,
    extremes,
    heads_at,
    kept,
    key_ranges,
    keys_taking_part,
    load_tile,
    lowered,
    scores,
    transposed,
    zeros,
)
from .elementary import LOG2E


@triton.jit
def _row_values(statistics, b, h, m, L, OTHER: tl.constexpr):
    """lse or delta of queries m; OTHER beyond the last."""
    ptr, stride_b, stride_h, stride_m = statistics
    return tl.load(ptr + (b * stride_b + h * stride_h) + m.to(tl.int64) * stride_m, mask=m < L, other=OTHER)


@triton.jit
def _log2_sum(lse, b, h, m, L):
    """lse in units of log 2; +inf for rows in which no key takes part, or that do not exist: then p is 0."""
    value = _row_values(lse, b, h, m, L, lib.INF)
    return tl.where(value == -lib.INF, lib.INF, value) * LOG2E


@triton.jit
def _walk_queries(
    dk, dv, k, v, q_at, q_m, g_at, g_m, lse, delta, begin, end, b, h, n, heads, L, S, limit,
    bias, mask, draw, low, high,
    SCALE: tl.constexpr, P: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_MASK: tl.constexpr, BAND: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """dk / scale and dv with the queries from begin to end added; scores stand transposed, [N, M]."""
    q_at += begin.to(tl.int64) * q_m
    g_at += begin.to(tl.int64) * g_m
    e = across(tl.arange(0, BLOCK_E), BLOCK_B)
    d = across(tl.arange(0, BLOCK_V), BLOCK_B)
    for start in range(begin, end, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        m = across(rows, BLOCK_B)
        q = load_tile(q_at, down(rows, BLOCK_B), L, e, E, BLOCK_E, MASKED)
        s = scores(
            lib.dot(k, transposed(q, BLOCK_B), None, PRECISION), b, h, m, n, L, limit, bias, mask, low, high,
            SCALE, HAS_BIAS, HAS_MASK, BAND, MASKED,
        )  # fmt: skip
        p = exp2(s - _log2_sum(lse, b, h, m, L))
        g = load_tile(g_at, down(rows, BLOCK_B), L, d, EV, BLOCK_V, MASKED)
        w = lib.dot(v, transposed(g, BLOCK_B), None, PRECISION)
        if P > 0:
            keep = kept(draw, b, h, m, n, heads, L, S, P)
            dv = lib.dot(lowered(tl.where(keep, p * (1.0 / (1.0 - P)), 0.0), g), g, dv, PRECISION)
            w = tl.where(keep, w * (1.0 / (1.0 - P)), 0.0)
        else:
            dv = lib.dot(lowered(p, g), g, dv, PRECISION)
        ds = p * (w - _row_values(delta, b, h, m, L, 0.0))
        dk = lib.dot(lowered(ds, q), q, dk, PRECISION)
        q_at += BLOCK_M * q_m
        g_at += BLOCK_M * g_m
    return dk, dv


@triton.jit
def _query_ranges(
    first, last, least, most, L, low, high, BAND: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """(begin, inner, outer, end) for keys first .. last, as `key_ranges` for queries: no query before `begin` or from
    `end` on sees any of them, those of the blocks from `inner` to `outer` see all."""
    begin = tl.minimum(L, 0)
    inner = begin
    end = tl.where(first < most, L, 0)
    full = tl.where(first + BLOCK_N <= least, L, 0)
    if BAND > 0:
        begin = tl.maximum(first - high, 0) // BLOCK_M * BLOCK_M
        inner = tl.cdiv(tl.maximum(last - high, 0), BLOCK_M) * BLOCK_M
    if BAND > 1:
        end = tl.minimum(end, tl.maximum(last - low + 1, 0))
        full = tl.minimum(full, tl.maximum(first - low + 1, 0))
    return begin, inner, tl.maximum(full // BLOCK_M * BLOCK_M, inner), end


@triton.jit
def attention_backward_keys(
    q, k, v, g, lse, delta, dk_ptr, dv_ptr, lengths, bias, mask, dropout, low, high, count, heads, L, S,
    SCALE: tl.constexpr, P: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, GROUP: tl.constexpr,
    HAS_LENGTHS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, BAND: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """dk [B, S, Hk, E] and dv [B, S, Hk, Ev], dense. count: B Hk, heads: H; the GROUP query heads that read a head are
    walked one after the other."""
    kv_heads = heads // GROUP
    tiles = tl.cdiv(S, BLOCK_N)
    program = tl.program_id(0)
    first = program % tiles * BLOCK_N
    b, c, there = heads_at(program // tiles, count, kv_heads, BLOCK_B)
    limit = keys_taking_part(lengths, b, S, HAS_LENGTHS)
    least, most = extremes(limit, BLOCK_B)
    last = tl.minimum(first + BLOCK_N, S) - 1
    begin, inner, outer, end = _query_ranges(first, last, least, most, L, low, high, BAND, BLOCK_M, BLOCK_N)
    draw = draw_of(dropout, P)

    n = down(first + tl.arange(0, BLOCK_N), BLOCK_B)
    m = down(tl.arange(0, BLOCK_M).to(tl.int64), BLOCK_B)
    e = across(tl.arange(0, BLOCK_E), BLOCK_B)
    d = across(tl.arange(0, BLOCK_V), BLOCK_B)
    q_ptr, q_b, q_h, q_m = q
    k_ptr, k_b, k_h, k_n = k
    v_ptr, v_b, v_h, v_n = v
    g_ptr, g_b, g_h, g_m = g
    key = load_tile(k_ptr + (b * k_b + c * k_h) + (n.to(tl.int64) * k_n + e), n, limit, e, E, BLOCK_E, True)
    value = load_tile(v_ptr + (b * v_b + c * v_h) + (n.to(tl.int64) * v_n + d), n, limit, d, EV, BLOCK_V, True)
    dk = zeros(key, BLOCK_N, BLOCK_E, BLOCK_B)
    dv = zeros(key, BLOCK_N, BLOCK_V, BLOCK_B)
    for member in range(GROUP):
        h = c * GROUP + member
        q_at = q_ptr + (b * q_b + h * q_h) + (m * q_m + e)
        g_at = g_ptr + (b * g_b + h * g_h) + (m * g_m + d)
        if BAND > 0:
            dk, dv = _walk_queries(
                dk, dv, key, value, q_at, q_m, g_at, g_m, lse, delta, begin, tl.minimum(inner, end), b, h, n, heads,
                L, S, limit, bias, mask, draw, low, high, SCALE, P, E, EV, HAS_BIAS, HAS_MASK, BAND, True, PRECISION,
                BLOCK_B, BLOCK_M, BLOCK_E, BLOCK_V,
            )  # fmt: skip
        dk, dv = _walk_queries(
            dk, dv, key, value, q_at, q_m, g_at, g_m, lse, delta, inner, outer, b, h, n, heads,
            L, S, limit, bias, mask, draw, low, high, SCALE, P, E, EV, HAS_BIAS, HAS_MASK, BAND, False, PRECISION,
            BLOCK_B, BLOCK_M, BLOCK_E, BLOCK_V,
        )  # fmt: skip
        dk, dv = _walk_queries(
            dk, dv, key, value, q_at, q_m, g_at, g_m, lse, delta, outer, end, b, h, n, heads,
            L, S, limit, bias, mask, draw, low, high, SCALE, P, E, EV, HAS_BIAS, HAS_MASK, BAND, True, PRECISION,
            BLOCK_B, BLOCK_M, BLOCK_E, BLOCK_V,
        )  # fmt: skip
    at = (b * S + n) * kv_heads + c
    lib.store(dk_ptr, at * E + e, dk * SCALE, there & (n < S) & (e < E))
    lib.store(dv_ptr, at * EV + d, dv, there & (n < S) & (d < EV))


@triton.jit
def _walk_keys(
    dq, q, g, lse, delta, k_at, k_n, v_at, v_n, begin, end, b, h, m, heads, L, S, limit,
    bias, mask, draw, low, high,
    SCALE: tl.constexpr, P: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_MASK: tl.constexpr, BAND: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """dq / scale with the keys from begin to end added; lse (in units of log 2) and delta: of rows m."""
    k_at += begin.to(tl.int64) * k_n
    v_at += begin.to(tl.int64) * v_n
    e = down(tl.arange(0, BLOCK_E), BLOCK_B)
    d = down(tl.arange(0, BLOCK_V), BLOCK_B)
    for start in range(begin, end, BLOCK_N):
        n = across(start + tl.arange(0, BLOCK_N), BLOCK_B)
        k = load_tile(k_at, n, limit, e, E, BLOCK_E, MASKED)  # [E, N]
        s = scores(
            lib.dot(q, k, None, PRECISION), b, h, m, n, L, limit, bias, mask, low, high,
            SCALE, HAS_BIAS, HAS_MASK, BAND, MASKED,
        )  # fmt: skip
        p = exp2(s - lse)
        v = load_tile(v_at, n, limit, d, EV, BLOCK_V, MASKED)  # [Ev, N]
        w = lib.dot(g, v, None, PRECISION)
        if P > 0:
            w = tl.where(kept(draw, b, h, m, n, heads, L, S, P), w * (1.0 / (1.0 - P)), 0.0)
        ds = p * (w - delta)
        dq = lib.dot(lowered(ds, k), transposed(k, BLOCK_B), dq, PRECISION)
        k_at += BLOCK_N * k_n
        v_at += BLOCK_N * v_n
    return dq


@triton.jit
def attention_backward_queries(
    q, k, v, g, lse, delta, dq_ptr, lengths, bias, mask, dropout, low, high, count, heads, L, S,
    SCALE: tl.constexpr, P: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, GROUP: tl.constexpr,
    HAS_LENGTHS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_MASK: tl.constexpr, BAND: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """dq, dense [B, L, H, E]. count: B H, heads: H."""
    tiles = tl.cdiv(L, BLOCK_M)
    program = tl.program_id(0)
    first = (tiles - 1 - program % tiles) * BLOCK_M
    b, h, there = heads_at(program // tiles, count, heads, BLOCK_B)
    limit = keys_taking_part(lengths, b, S, HAS_LENGTHS)
    least, most = extremes(limit, BLOCK_B)
    last = tl.minimum(first + BLOCK_M, L) - 1
    begin, inner, outer, end = key_ranges(first, last, least, most, low, high, BAND, BLOCK_N)
    draw = draw_of(dropout, P)

    m = down(first + tl.arange(0, BLOCK_M), BLOCK_B)
    n = across(tl.arange(0, BLOCK_N).to(tl.int64), BLOCK_B)
    e = tl.arange(0, BLOCK_E)
    d = tl.arange(0, BLOCK_V)
    q_ptr, q_b, q_h, q_m = q
    k_ptr, k_b, k_h, k_n = k
    v_ptr, v_b, v_h, v_n = v
    g_ptr, g_b, g_h, g_m = g
    e_row = across(e, BLOCK_B)
    d_row = across(d, BLOCK_B)
    row = m.to(tl.int64)
    query = load_tile(q_ptr + (b * q_b + h * q_h) + (row * q_m + e_row), m, L, e_row, E, BLOCK_E, True)
    cotangent = load_tile(g_ptr + (b * g_b + h * g_h) + (row * g_m + d_row), m, L, d_row, EV, BLOCK_V, True)
    log_sum = _log2_sum(lse, b, h, m, L)
    mean = _row_values(delta, b, h, m, L, 0.0)
    c = h // GROUP
    k_at = k_ptr + (b * k_b + c * k_h) + (n * k_n + down(e, BLOCK_B))
    v_at = v_ptr + (b * v_b + c * v_h) + (n * v_n + down(d, BLOCK_B))

    dq = zeros(query, BLOCK_M, BLOCK_E, BLOCK_B)
    if BAND > 1:
        dq = _walk_keys(
            dq, query, cotangent, log_sum, mean, k_at, k_n, v_at, v_n, begin, tl.minimum(inner, end), b, h, m, heads,
            L, S, limit, bias, mask, draw, low, high, SCALE, P, E, EV, HAS_BIAS, HAS_MASK, BAND, True, PRECISION,
            BLOCK_B, BLOCK_N, BLOCK_E, BLOCK_V,
        )  # fmt: skip
    dq = _walk_keys(
        dq, query, cotangent, log_sum, mean, k_at, k_n, v_at, v_n, inner, outer, b, h, m, heads,
        L, S, limit, bias, mask, draw, low, high, SCALE, P, E, EV, HAS_BIAS, HAS_MASK, BAND, False, PRECISION,
        BLOCK_B, BLOCK_N, BLOCK_E, BLOCK_V,
    )  # fmt: skip
    dq = _walk_keys(
        dq, query, cotangent, log_sum, mean, k_at, k_n, v_at, v_n, outer, end, b, h, m, heads,
        L, S, limit, bias, mask, draw, low, high, SCALE, P, E, EV, HAS_BIAS, HAS_MASK, BAND, True, PRECISION,
        BLOCK_B, BLOCK_N, BLOCK_E, BLOCK_V,
    )  # fmt: skip
    lib.store(dq_ptr, ((b * L + m) * heads + h) * E + e_row, dq * SCALE, there & (m < L) & (e_row < E))


@triton.jit
def attention_backward_bias(
    q, k, v, g, lse, delta, out_ptr, lengths, bias, mask, dropout, low, high, bias_heads, samples, sharing, heads, L, S,
    SCALE: tl.constexpr, P: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, GROUP: tl.constexpr,
    HAS_LENGTHS: tl.constexpr, HAS_MASK: tl.constexpr, BAND: tl.constexpr, SUM_M: tl.constexpr, SUM_N: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """dbias, dense [B or 1, H or 1, L or 1, S or 1].

    bias_heads: the second of these; samples, sharing: how many samples and heads read one element; SUM_M, SUM_N: the
    third and fourth are 1. A program owns a tile of one head of the bias and walks over all that reads it.
    """
    tiles_m = 1 if SUM_M else tl.cdiv(L, BLOCK_M)
    tiles_n = 1 if SUM_N else tl.cdiv(S, BLOCK_N)
    program = tl.program_id(0)
    head = (program // (tiles_m * tiles_n)).to(tl.int64)
    tile = program % (tiles_m * tiles_n)
    m_begin = tile // tiles_n * BLOCK_M
    n_begin = tile % tiles_n * BLOCK_N
    m_end = L if SUM_M else m_begin + 1
    n_end = S if SUM_N else n_begin + 1
    draw = draw_of(dropout, P)
    e = tl.arange(0, BLOCK_E)
    d = tl.arange(0, BLOCK_V)
    q_ptr, q_b, q_h, q_m = q
    k_ptr, k_b, k_h, k_n = k
    v_ptr, v_b, v_h, v_n = v
    g_ptr, g_b, g_h, g_m = g
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float64 if q_ptr.dtype.element_ty == tl.float64 else tl.float32)
    for i in range(samples * sharing):
        b = head // bias_heads + i // sharing  # one of the two is 0
        h = head % bias_heads + i % sharing
        c = h // GROUP
        limit = keys_taking_part(lengths, b, S, HAS_LENGTHS)
        for m0 in range(m_begin, m_end, BLOCK_M):
            m = m0 + tl.arange(0, BLOCK_M)[:, None]
            row = m.to(tl.int64)
            query = load_tile(
                q_ptr + (b * q_b + h * q_h) + (row * q_m + e[None, :]), m, L, e[None, :], E, BLOCK_E, True
            )
            at = g_ptr + (b * g_b + h * g_h) + (row * g_m + d[None, :])
            cotangent = load_tile(at, m, L, d[None, :], EV, BLOCK_V, True)
            log_sum = _log2_sum(lse, b, h, m, L)
            mean = _row_values(delta, b, h, m, L, 0.0)
            for n0 in range(n_begin, n_end, BLOCK_N):
                n = n0 + tl.arange(0, BLOCK_N)[None, :]
                column = n.to(tl.int64)
                at = k_ptr + (b * k_b + c * k_h) + (column * k_n + e[:, None])
                key = load_tile(at, n, limit, e[:, None], E, BLOCK_E, True)
                at = v_ptr + (b * v_b + c * v_h) + (column * v_n + d[:, None])
                value = load_tile(at, n, limit, d[:, None], EV, BLOCK_V, True)
                s = scores(
                    lib.dot(query, key, None, PRECISION), b, h, m, n, L, limit, bias, mask, low, high,
                    SCALE, True, HAS_MASK, BAND, True,
                )  # fmt: skip
                w = lib.dot(cotangent, value, None, PRECISION)
                if P > 0:
                    w = tl.where(kept(draw, b, h, m, n, heads, L, S, P), w * (1.0 / (1.0 - P)), 0.0)
                acc += exp2(s - log_sum) * (w - mean)
    m = m_begin + tl.arange(0, BLOCK_M)[:, None]
    n = n_begin + tl.arange(0, BLOCK_N)[None, :]
    rows = L
    columns = S
    if SUM_M:
        acc = tl.sum(acc, 0, keep_dims=True)
        m = m_begin + tl.arange(0, 1)[:, None]
        rows = 1
    if SUM_N:
        acc = tl.sum(acc, 1, keep_dims=True)
        n = n_begin + tl.arange(0, 1)[None, :]
        columns = 1
    lib.store(out_ptr, (head * rows + m) * columns + n, acc, (m < rows) & (n < columns))
