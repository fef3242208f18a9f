"""Flash attention on Hopper, forward: persistent, warp-specialised, with wgmma and TMA.

One warp loads queries, keys and values; two or three consumers of four warps own 64 rows of queries each and walk over
the blocks of keys from the last to the first. A consumer multiplies the queries by the next keys while it multiplies
the last probabilities by their values, and takes the exponentials of the one while the other still runs; consumers
take turns, so that one multiplies while another takes exponentials. Shah et al. 2024.

Tiles that do not fill the last wave can be cut along the keys, see share.py: then sums, maxima and results that are not
yet divided go to a workspace in float32, and `attention_tail.combine` joins them in order.

Same contract as `portable.attention`, which serves what this kernel does not: see runtime/families/attention.py.
Sizes as in ops/attention.py; scores in units of log 2.
"""

# ruff: noqa: RUF059  (the barriers travel as one tuple; each kind of warp uses some of them)
from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from ..portable.elementary import LN2, LOG2E
from .share import share, unit, units

# --- what both kinds of warps compute ---


@gluon.jit
def place(tile, blocks, heads, TOGETHER: gl.constexpr):
    """(head, block) of a tile: TOGETHER heads at a time, the last blocks of all of them first.

    The last rows of a causal band are the longest, and heads that run together should fit the L2 cache.
    """
    first = tile // (blocks * TOGETHER) * TOGETHER
    width = gl.minimum(heads - first, TOGETHER)
    rest = tile - first * blocks
    return first + rest % width, blocks - 1 - rest // width


@gluon.jit
def taking_part(lengths_ptr, sample, S, HAS_LENGTHS: gl.constexpr):
    """How many keys of a sample may take part."""
    limit = S
    if HAS_LENGTHS:
        limit = gl.minimum(gl.maximum(gl.load(lengths_ptr + sample), 0), S).to(gl.int32)
    return limit


@gluon.jit
def key_blocks(m, rows, L, limit, low, high, BAND: gl.constexpr, BLOCK_N: gl.constexpr):
    """(begin, inner, outer, end) of the blocks of keys for queries m .. m + rows - 1.

    Blocks from begin to end can take part, those from inner to outer do so wholly. There is at least one.
    """
    last = gl.minimum(m + rows, L) - 1
    begin = gl.minimum(L, 0)
    inner = begin
    full = limit
    stop = limit
    if BAND > 0:
        stop = gl.minimum(stop, gl.maximum(last + high + 1, 0))
        full = gl.minimum(full, gl.maximum(m + high + 1, 0))
    if BAND > 1:
        begin = gl.maximum(gl.minimum(m + low, limit - 1), 0) // BLOCK_N
        inner = gl.cdiv(gl.maximum(last + low, 0), BLOCK_N)
    end = gl.maximum(gl.cdiv(stop, BLOCK_N), begin + 1)
    return begin, inner, gl.minimum(full // BLOCK_N, end), end


# --- the producer ---


@gluon.jit
def _load(
    q_desc, k_desc, v_desc, q_tiles, k_ring, v_ring, bars, lengths_ptr, low, high, batch, heads, L, S,
    GROUP: gl.constexpr, HAS_LENGTHS: gl.constexpr, BAND: gl.constexpr, TOGETHER: gl.constexpr, SPLIT: gl.constexpr,
    CONSUMERS: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The queries of every unit of this program, and its keys and values, last block first."""
    q_full, q_empty, k_full, k_empty, v_full, v_empty, turn = bars
    BLOCK_M: gl.constexpr = 64 * CONSUMERS
    blocks = gl.cdiv(L, BLOCK_M)
    count = 0
    tiles = batch * heads * blocks
    depth = gl.cdiv(S, BLOCK_N)
    whole, cut_begin, cut_end = share(tiles, depth, SPLIT)
    for i in range(units(whole, cut_begin, cut_end, depth, SPLIT)):
        tile, first, last = unit(i, tiles, whole, cut_begin, cut_end, depth, SPLIT)
        at, block = place(tile, blocks, batch * heads, TOGETHER)
        b = at // heads
        h = at % heads
        m = block * BLOCK_M
        limit = taking_part(lengths_ptr, b, S, HAS_LENGTHS)
        begin, inner, outer, end = key_blocks(m, BLOCK_M, L, limit, low, high, BAND, BLOCK_N)
        if SPLIT:
            begin = depth - last
            end = depth - first
        for c in gl.static_range(CONSUMERS):
            mbarrier.wait(q_empty.index(c), (i & 1) ^ 1)
            mbarrier.expect(q_full.index(c), q_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(q_desc, [b, h, m + c * 64, 0], q_full.index(c), q_tiles.index(c))
        for j in range(end - begin):
            n = (end - 1 - j) * BLOCK_N
            stage = count % STAGES
            phase = (count // STAGES & 1) ^ 1
            mbarrier.wait(k_empty.index(stage), phase)
            mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(k_desc, [b, h // GROUP, n, 0], k_full.index(stage), k_ring.index(stage))
            mbarrier.wait(v_empty.index(stage), phase)
            mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
            tma.async_copy_global_to_shared(v_desc, [b, h // GROUP, n, 0], v_full.index(stage), v_ring.index(stage))
            count += 1


# --- a consumer ---


@gluon.jit
def _softmax(
    s, total, peak, b, h, m, n, L, limit, bias, mask, low, high,
    SCALE: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_MASK: gl.constexpr, BAND: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """(p, total, peak, shrink) after the scores s [64, BLOCK_N] of queries m and keys n."""
    if HAS_BIAS:
        ptr, stride_b, stride_h, stride_m, stride_n = bias
        ptr += b.to(gl.int64) * stride_b + h.to(gl.int64) * stride_h
        there = (m < L)[:, None] & (n < limit)[None, :]
        value = gl.load(ptr + (m * stride_m)[:, None] + (n * stride_n)[None, :], mask=there, other=0.0)
        s = s * (SCALE * LOG2E) + value.to(gl.float32) * LOG2E
    if HAS_MASK:
        ptr, stride_b, stride_h, stride_m, stride_n = mask
        ptr += b.to(gl.int64) * stride_b + h.to(gl.int64) * stride_h
        there = (m < L)[:, None] & (n < limit)[None, :]
        value = gl.load(ptr + (m * stride_m)[:, None] + (n * stride_n)[None, :], mask=there, other=0)
        s = gl.where(value != 0, s, -float("inf"))
    if MASKED:
        part = (n < limit)[None, :]
        if BAND > 0:
            part = part & (n[None, :] - m[:, None] <= high)
        if BAND > 1:
            part = part & (n[None, :] - m[:, None] >= low)
        s = gl.where(part, s, -float("inf"))
    UNIT: gl.constexpr = 1.0 if HAS_BIAS else SCALE * LOG2E
    top = gl.maximum(peak, gl.max(s, 1) * UNIT)
    level = top
    if MASKED or HAS_BIAS or HAS_MASK:  # a row may have seen nothing yet
        level = gl.where(top == -float("inf"), 0.0, top)
    p = gl.exp2(s * UNIT - level[:, None])
    shrink = gl.exp2(peak - level)
    return p, total * shrink + gl.sum(p, 1), top, shrink


@gluon.jit
def _walk(
    acc, p, total, peak, count, done, first, last, q, k_ring, v_ring, bars, b, h, m, L, limit, bias, mask, low, high,
    consumer: gl.constexpr, SCALE: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_MASK: gl.constexpr, BAND: gl.constexpr,
    MASKED: gl.constexpr, TURNS: gl.constexpr, CONSUMERS: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    DTYPE: gl.constexpr, SCORES: gl.constexpr, OUT: gl.constexpr, LEFT: gl.constexpr,
):  # fmt: skip
    """On from block `first` down to `last`: p are the probabilities of the block before, not yet multiplied."""
    q_full, q_empty, k_full, k_empty, v_full, v_empty, turn = bars
    D: gl.constexpr = q.shape[1]
    for i in range(first - last + 1):
        before = count % STAGES
        before_phase = count // STAGES & 1
        count += 1
        stage = count % STAGES
        mbarrier.wait(k_full.index(stage), count // STAGES & 1)
        if TURNS:
            mbarrier.wait(turn.index(consumer), (count - done + (0 if consumer == 0 else 1)) & 1)
        zero = gl.zeros((64, BLOCK_N), gl.float32, SCORES)
        k = k_ring.index(stage).reshape([BLOCK_N, D]).permute((1, 0))
        s = warpgroup_mma(q, k, zero, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(before), before_phase)
        v = v_ring.index(before).reshape([BLOCK_N, v_ring.shape[4]])
        acc = warpgroup_mma(p, v, acc, is_async=True)
        if TURNS:
            mbarrier.arrive(turn.index((consumer + 1) % CONSUMERS))
        s = warpgroup_mma_wait(1, (s,))
        mbarrier.arrive(k_empty.index(stage))
        n = (first - i) * BLOCK_N + gl.arange(0, BLOCK_N, gl.SliceLayout(0, SCORES))
        x, total, peak, shrink = _softmax(
            s, total, peak, b, h, m, n, L, limit, bias, mask, low, high, SCALE, HAS_BIAS, HAS_MASK, BAND, MASKED
        )
        acc = warpgroup_mma_wait(0, (acc,))
        mbarrier.arrive(v_empty.index(before))
        p = gl.convert_layout(x.to(DTYPE), LEFT)
        acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, OUT))[:, None]
    return acc, p, total, peak, count


@gluon.jit
def _attend(
    consumer: gl.constexpr, o_desc, lse_ptr, q_tiles, k_ring, v_ring, o_tiles, bars, lengths_ptr, bias, mask,
    low, high, batch, heads, L, S, work_ptr, sums_ptr,
    SCALE: gl.constexpr, EVEN: gl.constexpr, HAS_LENGTHS: gl.constexpr, HAS_BIAS: gl.constexpr,
    HAS_MASK: gl.constexpr, BAND: gl.constexpr, TURNS: gl.constexpr, TOGETHER: gl.constexpr, SPLIT: gl.constexpr,
    CONSUMERS: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr, SHARED_OUT: gl.constexpr,
    Q_IN_REGISTERS: gl.constexpr,
):  # fmt: skip
    """64 rows of every unit of this program."""
    q_full, q_empty, k_full, k_empty, v_full, v_empty, turn = bars
    DTYPE: gl.constexpr = q_tiles.dtype
    D: gl.constexpr = q_tiles.shape[4]
    DV: gl.constexpr = v_ring.shape[4]
    BLOCK_M: gl.constexpr = 64 * CONSUMERS
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DV, 16])
    LEFT: gl.constexpr = gl.DotOperandLayout(0, OUT, 2)
    ROWS: gl.constexpr = gl.SliceLayout(1, SCORES)
    blocks = gl.cdiv(L, BLOCK_M)
    count = 0
    QUERIES: gl.constexpr = gl.DotOperandLayout(0, SCORES, 2)
    tiles = batch * heads * blocks
    depth = gl.cdiv(S, BLOCK_N)
    whole, cut_begin, cut_end = share(tiles, depth, SPLIT)
    for i in range(units(whole, cut_begin, cut_end, depth, SPLIT)):
        tile, first, last = unit(i, tiles, whole, cut_begin, cut_end, depth, SPLIT)
        at, block = place(tile, blocks, batch * heads, TOGETHER)
        b = at // heads
        h = at % heads
        m0 = block * BLOCK_M
        m = m0 + consumer * 64 + gl.arange(0, 64, ROWS)
        limit = taking_part(lengths_ptr, b, S, HAS_LENGTHS)
        begin, inner, outer, end = key_blocks(m0, BLOCK_M, L, limit, low, high, BAND, BLOCK_N)
        if SPLIT:
            begin = depth - last
            end = depth - first
        mbarrier.wait(q_full.index(consumer), i & 1)
        stage = count % STAGES
        mbarrier.wait(k_full.index(stage), count // STAGES & 1)
        q = q_tiles.index(consumer).reshape([64, D])
        if Q_IN_REGISTERS:
            q = q.load(QUERIES)
            mbarrier.arrive(q_empty.index(consumer))
        zero = gl.zeros((64, BLOCK_N), gl.float32, SCORES)
        k = k_ring.index(stage).reshape([BLOCK_N, D]).permute((1, 0))
        s = warpgroup_mma(q, k, zero, use_acc=False, is_async=True)
        s = warpgroup_mma_wait(0, (s,))
        mbarrier.arrive(k_empty.index(stage))
        peak = gl.full([64], -float("inf"), gl.float32, ROWS)
        total = gl.zeros([64], gl.float32, ROWS)
        n = (end - 1) * BLOCK_N + gl.arange(0, BLOCK_N, gl.SliceLayout(0, SCORES))
        x, total, peak, shrink = _softmax(
            s, total, peak, b, h, m, n, L, limit, bias, mask, low, high, SCALE, HAS_BIAS, HAS_MASK, BAND, not EVEN
        )
        p = gl.convert_layout(x.to(DTYPE), LEFT)
        acc = gl.zeros((64, DV), gl.float32, OUT)
        upper = end - 2
        if BAND > 0:
            down_to = gl.maximum(outer, begin)
            acc, p, total, peak, count = _walk(
                acc, p, total, peak, count, i, upper, down_to, q, k_ring, v_ring, bars, b, h, m, L, limit, bias,
                mask, low, high, consumer, SCALE, HAS_BIAS, HAS_MASK, BAND, True, TURNS, CONSUMERS, BLOCK_N, STAGES,
                DTYPE, SCORES, OUT, LEFT,
            )  # fmt: skip
            upper = gl.minimum(upper, down_to - 1)
        lower = begin
        if BAND > 1:
            lower = gl.minimum(gl.maximum(inner, begin), upper + 1)
        acc, p, total, peak, count = _walk(
            acc, p, total, peak, count, i, upper, lower, q, k_ring, v_ring, bars, b, h, m, L, limit, bias, mask,
            low, high, consumer, SCALE, HAS_BIAS, HAS_MASK, BAND, False, TURNS, CONSUMERS, BLOCK_N, STAGES, DTYPE,
            SCORES, OUT, LEFT,
        )  # fmt: skip
        if BAND > 1:
            acc, p, total, peak, count = _walk(
                acc, p, total, peak, count, i, lower - 1, begin, q, k_ring, v_ring, bars, b, h, m, L, limit, bias,
                mask, low, high, consumer, SCALE, HAS_BIAS, HAS_MASK, BAND, True, TURNS, CONSUMERS, BLOCK_N,
                STAGES, DTYPE, SCORES, OUT, LEFT,
            )  # fmt: skip
        if not SHARED_OUT and not Q_IN_REGISTERS:
            mbarrier.arrive(q_empty.index(consumer))
        stage = count % STAGES
        mbarrier.wait(v_full.index(stage), count // STAGES & 1)
        acc = warpgroup_mma(p, v_ring.index(stage).reshape([BLOCK_N, DV]), acc, is_async=True)
        empty = total == 0.0
        safe = gl.where(empty, 1.0, total)
        lse = gl.where(empty, -float("inf"), peak * LN2 + gl.log2(safe) * LN2)
        acc = warpgroup_mma_wait(0, (acc,))
        mbarrier.arrive(v_empty.index(stage))
        if SPLIT and i >= whole:
            slot = 2 * gl.program_id(0) + i - whole
            row = slot * BLOCK_M + consumer * 64
            gl.store(sums_ptr + slot * (2 * BLOCK_M) + (m - m0), peak)
            gl.store(sums_ptr + slot * (2 * BLOCK_M) + BLOCK_M + (m - m0), total)
            r = gl.arange(0, 64, gl.SliceLayout(1, OUT))[:, None]
            e = gl.arange(0, DV, gl.SliceLayout(0, OUT))[None, :]
            gl.store(work_ptr + (row + r) * DV + e, acc)
        else:
            gl.store(lse_ptr + at.to(gl.int64) * L + m, lse, mask=m < L)
            acc = acc * gl.convert_layout(1.0 / safe, gl.SliceLayout(1, OUT))[:, None]
            out = o_tiles.index(consumer)
            tma.store_wait(0)
            out.reshape([64, DV]).store(acc.to(DTYPE))
            fence_async_shared()
            tma.async_copy_shared_to_global(o_desc, [b, h, m0 + consumer * 64, 0], out)
            if SHARED_OUT:
                tma.store_wait(0)
        if SHARED_OUT:
            mbarrier.arrive(q_empty.index(consumer))
        count += 1
    tma.store_wait(0)


# --- the kernel ---


@gluon.jit
def attention_forward(
    q_desc, k_desc, v_desc, o_desc, lse_ptr, lengths_ptr, bias, mask, low, high, batch, heads, L, S, work_ptr, sums_ptr,
    SCALE: gl.constexpr, EVEN: gl.constexpr, GROUP: gl.constexpr, HAS_LENGTHS: gl.constexpr, HAS_BIAS: gl.constexpr,
    HAS_MASK: gl.constexpr, BAND: gl.constexpr, CONSUMERS: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    TURNS: gl.constexpr, TOGETHER: gl.constexpr, SPLIT: gl.constexpr, SHARED_OUT: gl.constexpr,
    Q_IN_REGISTERS: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """o, dense [B, L, H, Ev], and lse, dense [B, H, L], float32.

    TMA descriptors: q [B, H, L, E] in blocks [1, 1, 64, D], k [B, Hk, S, E] and v [B, Hk, S, Ev] in blocks
    [1, 1, BLOCK_N, D], o as [B, H, L, Ev] in blocks [1, 1, 64, D]; D is a power of two >= E. bfloat16 or float16.
    bias, mask: (pointer, four strides) or (); lengths_ptr: dense [B], read if HAS_LENGTHS. SCALE > 0.
    EVEN: no block of keys is ever partial. TURNS: consumers multiply in turn. SHARED_OUT: results leave through the
    memory of the queries. Q_IN_REGISTERS: that is where products take the queries from, not with SHARED_OUT. Launch
    any number of programs, with num_warps=4.

    SPLIT (without band and lengths): the tiles % programs last tiles are cut along the keys. work_ptr, float32
    [2 * programs, tile rows, D], and sums_ptr, float32 [2 * programs, 2, tile rows], receive their parts.
    """
    q_tiles = gl.allocate_shared_memory(q_desc.dtype, [CONSUMERS] + q_desc.block_type.shape, q_desc.layout)
    k_ring = gl.allocate_shared_memory(k_desc.dtype, [STAGES] + k_desc.block_type.shape, k_desc.layout)
    v_ring = gl.allocate_shared_memory(v_desc.dtype, [STAGES] + v_desc.block_type.shape, v_desc.layout)
    if SHARED_OUT:
        o_tiles = q_tiles
    else:
        o_tiles = gl.allocate_shared_memory(o_desc.dtype, [CONSUMERS] + o_desc.block_type.shape, o_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], mbarrier.MBarrierLayout())
    turn = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(CONSUMERS):
        mbarrier.init(q_full.index(i), count=1)
        mbarrier.init(q_empty.index(i), count=1)
        mbarrier.init(turn.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=CONSUMERS)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(v_empty.index(i), count=CONSUMERS)
    bars = (q_full, q_empty, k_full, k_empty, v_full, v_empty, turn)
    # fmt: off
    if CONSUMERS == 2:
        gl.warp_specialize(
            [
                (_attend, (
                    0, o_desc, lse_ptr, q_tiles, k_ring, v_ring, o_tiles, bars, lengths_ptr, bias, mask, low, high,
                    batch, heads, L, S, work_ptr, sums_ptr, SCALE, EVEN, HAS_LENGTHS, HAS_BIAS, HAS_MASK, BAND, TURNS,
                    TOGETHER, SPLIT, CONSUMERS, BLOCK_N, STAGES, SHARED_OUT, Q_IN_REGISTERS,
                )),
                (_attend, (
                    1, o_desc, lse_ptr, q_tiles, k_ring, v_ring, o_tiles, bars, lengths_ptr, bias, mask, low, high,
                    batch, heads, L, S, work_ptr, sums_ptr, SCALE, EVEN, HAS_LENGTHS, HAS_BIAS, HAS_MASK, BAND, TURNS,
                    TOGETHER, SPLIT, CONSUMERS, BLOCK_N, STAGES, SHARED_OUT, Q_IN_REGISTERS,
                )),
                (_load, (
                    q_desc, k_desc, v_desc, q_tiles, k_ring, v_ring, bars, lengths_ptr, low, high, batch, heads, L, S,
                    GROUP, HAS_LENGTHS, BAND, TOGETHER, SPLIT, CONSUMERS, BLOCK_N, STAGES,
                )),
            ],
            [4, 1],
            [REGISTERS, 24],
        )
    else:
        gl.warp_specialize(
            [
                (_attend, (
                    0, o_desc, lse_ptr, q_tiles, k_ring, v_ring, o_tiles, bars, lengths_ptr, bias, mask, low, high,
                    batch, heads, L, S, work_ptr, sums_ptr, SCALE, EVEN, HAS_LENGTHS, HAS_BIAS, HAS_MASK, BAND, TURNS,
                    TOGETHER, SPLIT, CONSUMERS, BLOCK_N, STAGES, SHARED_OUT, Q_IN_REGISTERS,
                )),
                (_attend, (
                    1, o_desc, lse_ptr, q_tiles, k_ring, v_ring, o_tiles, bars, lengths_ptr, bias, mask, low, high,
                    batch, heads, L, S, work_ptr, sums_ptr, SCALE, EVEN, HAS_LENGTHS, HAS_BIAS, HAS_MASK, BAND, TURNS,
                    TOGETHER, SPLIT, CONSUMERS, BLOCK_N, STAGES, SHARED_OUT, Q_IN_REGISTERS,
                )),
                (_attend, (
                    2, o_desc, lse_ptr, q_tiles, k_ring, v_ring, o_tiles, bars, lengths_ptr, bias, mask, low, high,
                    batch, heads, L, S, work_ptr, sums_ptr, SCALE, EVEN, HAS_LENGTHS, HAS_BIAS, HAS_MASK, BAND, TURNS,
                    TOGETHER, SPLIT, CONSUMERS, BLOCK_N, STAGES, SHARED_OUT, Q_IN_REGISTERS,
                )),
                (_load, (
                    q_desc, k_desc, v_desc, q_tiles, k_ring, v_ring, bars, lengths_ptr, low, high, batch, heads, L, S,
                    GROUP, HAS_LENGTHS, BAND, TOGETHER, SPLIT, CONSUMERS, BLOCK_N, STAGES,
                )),
            ],
            [4, 4, 1],
            [REGISTERS, REGISTERS, 24],
        )
    # fmt: on
