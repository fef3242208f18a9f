"""What stands before and after the Hopper attention's backward pass: see hopper/attention_backward.py."""

from __future__ import annotations

import triton
import triton.language as tl

from ..portable import library as lib
from ..portable.elementary import LOG2E


@triton.jit
def prepare(
    lse, delta, rows_lse_ptr, rows_delta_ptr, counters_ptr, dq_ptr, heads, L, rows, blocks,
    E: tl.constexpr, ZERO: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """lse in units of log 2 and delta as [B H, rows], rows >= L; lse is +inf, so that e^(s - lse) = 0, for rows that
    see no key or do not exist. Sets `blocks` counters of each head to 0, and with ZERO the array of dq [B H, L, E].

    lse, delta: (pointer, three strides), float32. Launch [cdiv(rows, BLOCK_L), B H] programs.
    """
    head = tl.program_id(1).to(tl.int64)
    b = head // heads
    h = head % heads
    m = tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)
    at = m.to(tl.int64)
    lse_ptr, lse_b, lse_h, lse_m = lse
    delta_ptr, delta_b, delta_h, delta_m = delta
    x = tl.load(lse_ptr + b * lse_b + h * lse_h + at * lse_m, mask=m < L, other=lib.INF)
    x = tl.where(x == -lib.INF, lib.INF, x) * LOG2E
    d = tl.load(delta_ptr + b * delta_b + h * delta_h + at * delta_m, mask=m < L, other=0.0)
    tl.store(rows_lse_ptr + head * rows + m, x, mask=m < rows)
    tl.store(rows_delta_ptr + head * rows + m, d, mask=m < rows)
    tl.store(counters_ptr + head * blocks + m, tl.zeros([BLOCK_L], tl.int32), mask=m < blocks)
    if ZERO:
        e = tl.arange(0, BLOCK_E)
        zero = tl.zeros([BLOCK_L, BLOCK_E], tl.float32)
        tl.store(dq_ptr + (head * L + at[:, None]) * E + e[None, :], zero, mask=(m < L)[:, None] & (e < E)[None, :])


@triton.jit
def finish(
    sums_ptr, dq_ptr, heads, L,
    SCALE: tl.constexpr, E: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """dq [B, L, H, E] = scale sums, from float32 [B, H, L, E]. Launch [cdiv(L, BLOCK_L), B H] programs."""
    head = tl.program_id(1).to(tl.int64)
    m = (tl.program_id(0) * BLOCK_L + tl.arange(0, BLOCK_L)).to(tl.int64)[:, None]
    e = tl.arange(0, BLOCK_E)[None, :]
    there = (m < L) & (e < E)
    x = tl.load(sums_ptr + (head * L + m) * E + e, mask=there, other=0.0)
    b = head // heads
    lib.store(dq_ptr, ((b * L + m) * heads + head % heads) * E + e, x * SCALE, there)
