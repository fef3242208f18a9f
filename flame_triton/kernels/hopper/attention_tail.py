"""What stands before and after the Hopper attention kernels: see attention.py and attention_backward.py."""

from __future__ import annotations

import triton
import triton.language as tl

from ..portable import library as lib
from ..portable.elementary import LN2, LOG2E


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


@triton.jit
def _part(tile, cut, programs, j, DEPTH: tl.constexpr):
    """(there, slot) of the j-th part of a cut tile, as share.py deals them: part j may not exist."""
    blocks = cut * DEPTH
    i = tl.maximum(tile * programs // cut - 1, 0) + j
    begin = blocks * i // programs
    end = blocks * (i + 1) // programs
    there = (i < programs) & (begin < end) & (begin < (tile + 1) * DEPTH) & (end > tile * DEPTH)
    return there, tl.where(there, 2 * i + tile - begin // DEPTH, 0).to(tl.int64)


@triton.jit
def combine(
    work_ptr, sums_ptr, out_ptr, lse_ptr, programs, tiles, heads, L,
    DEPTH: tl.constexpr, PARTS: tl.constexpr, TILE_M: tl.constexpr, BLOCK_L: tl.constexpr, E: tl.constexpr,
    BLOCK_E: tl.constexpr,
):  # fmt: skip
    """o and lse of the cut tiles of the forward pass, from their parts in order.

    DEPTH: blocks of keys of a tile; PARTS: at least the programs that share a tile, plus 2. Launch
    [cut tiles, TILE_M // BLOCK_L] programs.
    """
    cut = tl.num_programs(0)
    row = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)
    e = tl.arange(0, BLOCK_E)[None, :]
    peak = tl.zeros([BLOCK_L], tl.float32) - lib.INF
    for j in tl.static_range(PARTS):
        there, slot = _part(tl.program_id(0), cut, programs, j, DEPTH)
        peak = tl.maximum(peak, tl.load(sums_ptr + slot * (2 * TILE_M) + row, mask=there & (row >= 0), other=-lib.INF))
    level = tl.where(peak == -lib.INF, 0.0, peak)
    total = tl.zeros([BLOCK_L], tl.float32)
    acc = tl.zeros([BLOCK_L, BLOCK_E], tl.float32)
    for j in tl.static_range(PARTS):
        there, slot = _part(tl.program_id(0), cut, programs, j, DEPTH)
        at = sums_ptr + slot * (2 * TILE_M) + row
        weight = tl.exp2(tl.load(at, mask=there & (row >= 0), other=-lib.INF) - level)
        total += weight * tl.load(at + TILE_M, mask=there & (row >= 0), other=0.0)
        part = tl.load(work_ptr + (slot * TILE_M + row[:, None]) * BLOCK_E + e, mask=there & (e >= 0), other=0.0)
        acc += weight[:, None] * part
    empty = total == 0.0
    safe = tl.where(empty, 1.0, total)
    blocks = tl.cdiv(L, TILE_M)
    tile = tiles - cut + tl.program_id(0)
    head = (tile // blocks).to(tl.int64)
    m = (blocks - 1 - tile % blocks) * TILE_M + row
    lse = tl.where(empty, -lib.INF, peak * LN2 + lib.log(safe))
    tl.store(lse_ptr + head * L + m, lse, mask=m < L)
    place = ((head // heads * L + m[:, None]) * heads + head % heads) * E + e
    lib.store(out_ptr, place, acc / safe[:, None], (m < L)[:, None] & (e < E))


@triton.jit
def add_parts(
    work_ptr, dk_ptr, dv_ptr, programs, tiles, all_heads, heads, S, TOGETHER: tl.constexpr,
    SCALE: tl.constexpr, DEPTH: tl.constexpr, PARTS: tl.constexpr, TILE_N: tl.constexpr, BLOCK_S: tl.constexpr,
    E: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """dk and dv of the cut tiles of the backward pass, from their parts in order.

    heads: of keys, all_heads: of all samples; TOGETHER: as that kernel has it; DEPTH: blocks of queries of a tile;
    PARTS as above. Launch [cut tiles, TILE_N // BLOCK_S, 2] programs.
    """
    cut = tl.num_programs(0)
    values = tl.program_id(2)
    row = tl.program_id(1) * BLOCK_S + tl.arange(0, BLOCK_S)[:, None]
    e = tl.arange(0, BLOCK_E)[None, :]
    acc = tl.zeros([BLOCK_S, BLOCK_E], tl.float32)
    for j in tl.static_range(PARTS):
        there, slot = _part(tl.program_id(0), cut, programs, j, DEPTH)
        at = ((slot * 2 + values) * TILE_N + row) * BLOCK_E + e
        acc += tl.load(work_ptr + at, mask=there & (e >= 0), other=0.0)
    blocks = tl.cdiv(S, TILE_N)
    tile = tiles - cut + tl.program_id(0)
    first = tile // (blocks * TOGETHER) * TOGETHER  # as attention_backward.place
    width = tl.minimum(all_heads - first, TOGETHER)
    rest = tile - first * blocks
    head = (first + rest % width).to(tl.int64)
    n = rest // width * TILE_N + row
    place = ((head // heads * S + n) * heads + head % heads) * E + e
    if values == 0:
        lib.store(dk_ptr, place, acc * SCALE, (n < S) & (e < E))
    else:
        lib.store(dv_ptr, place, acc, (n < S) & (e < E))
