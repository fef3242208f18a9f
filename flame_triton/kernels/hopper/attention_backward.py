"""Flash attention on Hopper, backward: one pass over the scores gives dq, dk and dv.

Two consumers of four warps own 64 keys each and walk over blocks of queries, which one warp loads by TMA:

    s^T = k q^T,  p = e^(s - lse)         dv += p^T g
    w^T = v g^T,  ds = p (w - delta)      dk += ds^T q,  dq += ds k

Probabilities and their gradient stay in registers as left operands; ds passes through shared memory for dq, to which
both consumers' keys contribute. Another warp adds dq to an array in memory, in float32, by TMA.

The sums for dq are in whatever order programs get there; with ORDERED the blocks of keys take turns, counted in a
table, so that results are the same to the bit in every run. A block of keys only ever waits for those before it, and
all walk from the last queries to the first, so that under a causal band too they follow each other at a short distance.

Tiles that do not fill the last wave can be cut along the queries, see share.py: dk and dv of the parts go to a
workspace in float32, and `attention_tail.add_parts` adds them in order.

attention_tail.prepare must have run, and attention_tail.finish must follow. Shah et al. 2024; sizes as in
ops/attention.py; scores in units of log 2.
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

from ..portable.elementary import LOG2E
from .asynchronous import add_to_global, read_counter, stored_then_count
from .attention import taking_part
from .share import share, unit, units

# --- what all warps compute ---


@gluon.jit
def query_blocks(
    n, L, limit, low, high, start, stop,
    BAND: gl.constexpr, SPLIT: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr,
):  # fmt: skip
    """(begin, inner, outer, end) of the blocks of queries for keys n .. n + BLOCK_N - 1.

    Queries of the blocks from begin to end see some of the keys, those from inner to outer see all. With SPLIT these
    are steps start .. stop - 1 alone, counted from the last block.
    """
    last = gl.minimum(n + BLOCK_N, limit) - 1
    begin = gl.minimum(L, 0)
    end = gl.cdiv(L, BLOCK_M)
    inner = begin
    outer = end
    if BAND > 0:
        begin = gl.minimum(gl.maximum(n - high, 0) // BLOCK_M, end)
        inner = gl.minimum(gl.cdiv(gl.maximum(n + BLOCK_N - 1 - high, 0), BLOCK_M), end)
    if BAND > 1:
        end = gl.maximum(gl.minimum(end, gl.cdiv(gl.maximum(last - low + 1, 0), BLOCK_M)), begin)
        outer = gl.minimum(gl.maximum(n - low + 1, 0) // BLOCK_M, end)
    if n + BLOCK_N > limit:
        outer = begin
    if n >= limit:
        end = begin
    if SPLIT:
        begin = end - stop
        end -= start
    inner = gl.minimum(gl.maximum(inner, begin), end)
    return begin, inner, gl.minimum(gl.maximum(outer, inner), end), end


@gluon.jit
def place(tile, blocks, heads, TOGETHER: gl.constexpr):
    """(head, block) of a tile: TOGETHER heads at a time, the first blocks of all of them first.

    Programs that run together then wait for each other little: most have other heads.
    """
    first = tile // (blocks * TOGETHER) * TOGETHER
    width = gl.minimum(heads - first, TOGETHER)
    rest = tile - first * blocks
    return first + rest % width, rest // width


# --- the producer ---


@gluon.jit
def _load(
    q_desc, g_desc, k_desc, v_desc, lse_desc, delta_desc, q_ring, g_ring, k_tiles, v_tiles, lse_ring, delta_ring,
    bars, lengths_ptr, low, high, batch, kv_heads, L, S,
    GROUP: gl.constexpr, HAS_LENGTHS: gl.constexpr, BAND: gl.constexpr, SPLIT: gl.constexpr, TOGETHER: gl.constexpr,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The keys and values of every unit of this program, then the queries that see them, block by block."""
    q_full, q_empty, g_full, kv_full, kv_empty, ds_full, dq_full, dq_empty = bars
    BLOCK_N: gl.constexpr = 128
    blocks = gl.cdiv(S, BLOCK_N)
    count = 0
    tiles = batch * kv_heads * blocks
    depth = gl.cdiv(L, BLOCK_M)
    whole, cut_begin, cut_end = share(tiles, depth, SPLIT)
    for i in range(units(whole, cut_begin, cut_end, depth, SPLIT)):
        tile, start, stop = unit(i, tiles, whole, cut_begin, cut_end, depth, SPLIT)
        at, block = place(tile, blocks, batch * kv_heads, TOGETHER)
        b = at // kv_heads
        head = at % kv_heads
        n = block * BLOCK_N
        limit = taking_part(lengths_ptr, b, S, HAS_LENGTHS)
        begin, inner, outer, end = query_blocks(n, L, limit, low, high, start, stop, BAND, SPLIT, BLOCK_M, BLOCK_N)
        mbarrier.wait(kv_empty.index(0), (i & 1) ^ 1)
        mbarrier.expect(kv_full.index(0), 2 * (k_desc.block_type.nbytes + v_desc.block_type.nbytes))
        for c in gl.static_range(2):
            tma.async_copy_global_to_shared(k_desc, [b, head, n + c * 64, 0], kv_full.index(0), k_tiles.index(c))
            tma.async_copy_global_to_shared(v_desc, [b, head, n + c * 64, 0], kv_full.index(0), v_tiles.index(c))
        for j in range(GROUP):
            h = head * GROUP + j
            row = b * (kv_heads * GROUP) + h
            for step in range(end - begin):
                m = (end - 1 - step) * BLOCK_M
                stage = count % STAGES
                q_bar = q_full.index(stage)
                g_bar = g_full.index(stage)
                mbarrier.wait(q_empty.index(stage), (count // STAGES & 1) ^ 1)
                mbarrier.expect(q_bar, q_desc.block_type.nbytes + lse_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(q_desc, [b, h, m, 0], q_bar, q_ring.index(stage))
                tma.async_copy_global_to_shared(lse_desc, [row, m], q_bar, lse_ring.index(stage))
                mbarrier.expect(g_bar, g_desc.block_type.nbytes + delta_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(g_desc, [b, h, m, 0], g_bar, g_ring.index(stage))
                tma.async_copy_global_to_shared(delta_desc, [row, m], g_bar, delta_ring.index(stage))
                count += 1


# --- the warp that adds dq ---


@gluon.jit
def _add(
    dq_desc, dq_tiles, bars, counters_ptr, lengths_ptr, low, high, batch, kv_heads, L, S,
    GROUP: gl.constexpr, HAS_LENGTHS: gl.constexpr, BAND: gl.constexpr, ORDERED: gl.constexpr, SPLIT: gl.constexpr,
    TOGETHER: gl.constexpr, BLOCK_M: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    """Every block of dq that the consumers have finished, to memory."""
    q_full, q_empty, g_full, kv_full, kv_empty, ds_full, dq_full, dq_empty = bars
    BLOCK_N: gl.constexpr = 128
    WIDTH: gl.constexpr = dq_tiles.shape[4]
    blocks = gl.cdiv(S, BLOCK_N)
    count = 0
    tiles = batch * kv_heads * blocks
    depth = gl.cdiv(L, BLOCK_M)
    whole, cut_begin, cut_end = share(tiles, depth, SPLIT)
    for i in range(units(whole, cut_begin, cut_end, depth, SPLIT)):
        tile, start, stop = unit(i, tiles, whole, cut_begin, cut_end, depth, SPLIT)
        at, n = place(tile, blocks, batch * kv_heads, TOGETHER)
        b = at // kv_heads
        limit = taking_part(lengths_ptr, b, S, HAS_LENGTHS)
        begin, inner, outer, end = query_blocks(
            n * BLOCK_N, L, limit, low, high, start, stop, BAND, SPLIT, BLOCK_M, BLOCK_N
        )
        for j in range(GROUP):
            h = at % kv_heads * GROUP + j
            for step in range(end - begin):
                block = end - 1 - step
                slot = count % SLOTS
                counter = counters_ptr + (b * (kv_heads * GROUP) + h) * depth + block
                first = gl.minimum(L, 0)
                if BAND > 1:
                    first = gl.maximum(block * BLOCK_M + low, 0) // BLOCK_N
                if ORDERED:
                    while read_counter(counter) < n - first:
                        pass
                mbarrier.wait(dq_full.index(slot), count // SLOTS & 1)
                for c in gl.static_range(2):
                    if BLOCK_M == 128:
                        where = [b, h, block * BLOCK_M + c * 64, 0]
                    else:
                        where = [b, h, block * BLOCK_M, c * WIDTH]
                    if ORDERED:
                        if n == first:
                            tma.async_copy_shared_to_global(dq_desc, where, dq_tiles.index(slot * 2 + c))
                        else:
                            add_to_global(dq_desc, where, dq_tiles.index(slot * 2 + c))
                    else:
                        add_to_global(dq_desc, where, dq_tiles.index(slot * 2 + c))
                tma.store_wait(0)
                mbarrier.arrive(dq_empty.index(slot))
                if ORDERED:
                    stored_then_count(counter)
                count += 1
    tma.store_wait(0)


# --- a consumer ---


@gluon.jit
def _probabilities(
    s, lse, b, h, m, n, L, limit, bias, mask, low, high,
    SCALE: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_MASK: gl.constexpr, BAND: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """e^(s - lse) of the transposed scores s [64, BLOCK_M]; 0 for keys that take no part."""
    x = s * (SCALE * LOG2E) - lse
    if HAS_BIAS:
        ptr, stride_b, stride_h, stride_m, stride_n = bias
        ptr += b.to(gl.int64) * stride_b + h.to(gl.int64) * stride_h
        there = (m < L)[None, :] & (n < limit)[:, None]
        value = gl.load(ptr + (m * stride_m)[None, :] + (n * stride_n)[:, None], mask=there, other=0.0)
        x += value.to(gl.float32) * LOG2E
    p = gl.exp2(x)
    if HAS_MASK:
        ptr, stride_b, stride_h, stride_m, stride_n = mask
        ptr += b.to(gl.int64) * stride_b + h.to(gl.int64) * stride_h
        there = (m < L)[None, :] & (n < limit)[:, None]
        value = gl.load(ptr + (m * stride_m)[None, :] + (n * stride_n)[:, None], mask=there, other=0)
        p = gl.where(value != 0, p, 0.0)
    if MASKED:
        part = (n < limit)[:, None]
        if BAND > 0:
            part = part & (n[:, None] - m[None, :] <= high)
        if BAND > 1:
            part = part & (n[:, None] - m[None, :] >= low)
        p = gl.where(part, p, 0.0)
    return p


@gluon.jit
def _walk(
    dk, dv, count, first, last, q_ring, g_ring, k_tiles, v_tiles, lse_ring, delta_ring, ds_tiles, dq_tiles, bars,
    b, h, n, L, limit, bias, mask, low, high,
    consumer: gl.constexpr, SCALE: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_MASK: gl.constexpr, BAND: gl.constexpr,
    MASKED: gl.constexpr, BLOCK_M: gl.constexpr, STAGES: gl.constexpr, SLOTS: gl.constexpr, SCORES: gl.constexpr,
    OUT: gl.constexpr, LEFT: gl.constexpr, DQ: gl.constexpr,
):  # fmt: skip
    """dk / scale and dv with the blocks of queries from `last` - 1 down to `first` added."""
    q_full, q_empty, g_full, kv_full, kv_empty, ds_full, dq_full, dq_empty = bars
    DTYPE: gl.constexpr = q_ring.dtype
    D: gl.constexpr = q_ring.shape[4]
    WIDTH: gl.constexpr = dq_tiles.shape[4]
    k = k_tiles.index(consumer).reshape([64, D])
    v = v_tiles.index(consumer).reshape([64, D])
    for step in range(last - first):
        stage = count % STAGES
        phase = count // STAGES & 1
        q = q_ring.index(stage).reshape([BLOCK_M, D])
        g = g_ring.index(stage).reshape([BLOCK_M, D])
        zero = gl.zeros((64, BLOCK_M), gl.float32, SCORES)
        mbarrier.wait(q_full.index(stage), phase)
        s = warpgroup_mma(k, q.permute((1, 0)), zero, use_acc=False, is_async=True)
        mbarrier.wait(g_full.index(stage), phase)
        w = warpgroup_mma(v, g.permute((1, 0)), zero, use_acc=False, is_async=True)
        lse = lse_ring.index(stage).load(SCORES)
        m = (last - 1 - step) * BLOCK_M + gl.arange(0, BLOCK_M, gl.SliceLayout(0, SCORES))
        s = warpgroup_mma_wait(1, (s,))
        p = _probabilities(s, lse, b, h, m, n, L, limit, bias, mask, low, high, SCALE, HAS_BIAS, HAS_MASK, BAND, MASKED)
        left = gl.convert_layout(p.to(DTYPE), LEFT)
        delta = delta_ring.index(stage).load(SCORES)
        w = warpgroup_mma_wait(0, (w,))
        dv = warpgroup_mma(left, g, dv, is_async=True)
        ds = (p * (w - delta)).to(DTYPE)
        there = (count & 1) * 2
        ds_tiles.index(there + consumer).store(ds)
        fence_async_shared()
        mbarrier.arrive(ds_full.index(0))
        dk = warpgroup_mma(gl.convert_layout(ds, LEFT), q, dk, is_async=True)
        mbarrier.wait(ds_full.index(0), count & 1)
        dq = gl.zeros((64, WIDTH), gl.float32, DQ)
        for c in gl.static_range(2):
            if BLOCK_M == 128:
                rows = ds_tiles.index(there + c).slice(consumer * 64, 64, 1).permute((1, 0))
                keys = k_tiles.index(c).reshape([64, D])
            else:
                rows = ds_tiles.index(there + c).permute((1, 0))
                keys = k_tiles.index(c).reshape([64, D]).slice(consumer * WIDTH, WIDTH, 1)
            dq = warpgroup_mma(rows, keys, dq, use_acc=c > 0, is_async=True)
        dv, dk = warpgroup_mma_wait(2, (dv, dk))
        mbarrier.arrive(q_empty.index(stage))
        slot = count % SLOTS
        mbarrier.wait(dq_empty.index(slot), (count // SLOTS & 1) ^ 1)
        dq = warpgroup_mma_wait(0, (dq,))
        dq_tiles.index(slot * 2 + consumer).reshape([64, WIDTH]).store(dq)
        fence_async_shared()
        mbarrier.arrive(dq_full.index(slot))
        count += 1
    return dk, dv, count


@gluon.jit
def _differentiate(
    consumer: gl.constexpr, dk_desc, dv_desc, q_ring, g_ring, k_tiles, v_tiles, lse_ring, delta_ring, ds_tiles,
    dq_tiles, bars, lengths_ptr, bias, mask, low, high, batch, kv_heads, L, S, work_ptr,
    SCALE: gl.constexpr, EVEN: gl.constexpr, GROUP: gl.constexpr, HAS_LENGTHS: gl.constexpr, HAS_BIAS: gl.constexpr,
    HAS_MASK: gl.constexpr, BAND: gl.constexpr, SPLIT: gl.constexpr, TOGETHER: gl.constexpr,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    """dk and dv of 64 keys of every unit of this program, and what they add to dq."""
    q_full, q_empty, g_full, kv_full, kv_empty, ds_full, dq_full, dq_empty = bars
    DTYPE: gl.constexpr = q_ring.dtype
    D: gl.constexpr = q_ring.shape[4]
    WIDTH: gl.constexpr = dq_tiles.shape[4]
    BLOCK_N: gl.constexpr = 128
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_M, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    DQ: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, WIDTH, 16])
    LEFT: gl.constexpr = gl.DotOperandLayout(0, OUT, 2)
    blocks = gl.cdiv(S, BLOCK_N)
    count = 0
    tiles = batch * kv_heads * blocks
    depth = gl.cdiv(L, BLOCK_M)
    whole, cut_begin, cut_end = share(tiles, depth, SPLIT)
    for i in range(units(whole, cut_begin, cut_end, depth, SPLIT)):
        tile, start, stop = unit(i, tiles, whole, cut_begin, cut_end, depth, SPLIT)
        at, block = place(tile, blocks, batch * kv_heads, TOGETHER)
        b = at // kv_heads
        head = at % kv_heads
        n0 = block * BLOCK_N
        n = n0 + consumer * 64 + gl.arange(0, 64, gl.SliceLayout(1, SCORES))
        limit = taking_part(lengths_ptr, b, S, HAS_LENGTHS)
        begin, inner, outer, end = query_blocks(n0, L, limit, low, high, start, stop, BAND, SPLIT, BLOCK_M, BLOCK_N)
        dk = gl.zeros((64, D), gl.float32, OUT)
        dv = gl.zeros((64, D), gl.float32, OUT)
        mbarrier.wait(kv_full.index(0), i & 1)
        for j in range(GROUP):
            h = head * GROUP + j
            if BAND > 1 or not EVEN:
                dk, dv, count = _walk(
                    dk, dv, count, outer, end, q_ring, g_ring, k_tiles, v_tiles, lse_ring, delta_ring, ds_tiles,
                    dq_tiles, bars, b, h, n, L, limit, bias, mask, low, high, consumer, SCALE, HAS_BIAS, HAS_MASK, BAND,
                    True, BLOCK_M, STAGES, SLOTS, SCORES, OUT, LEFT, DQ,
                )  # fmt: skip
            dk, dv, count = _walk(
                dk, dv, count, inner, outer, q_ring, g_ring, k_tiles, v_tiles, lse_ring, delta_ring, ds_tiles,
                dq_tiles, bars, b, h, n, L, limit, bias, mask, low, high, consumer, SCALE, HAS_BIAS, HAS_MASK, BAND,
                False, BLOCK_M, STAGES, SLOTS, SCORES, OUT, LEFT, DQ,
            )  # fmt: skip
            if BAND > 0:
                dk, dv, count = _walk(
                    dk, dv, count, begin, inner, q_ring, g_ring, k_tiles, v_tiles, lse_ring, delta_ring, ds_tiles,
                    dq_tiles, bars, b, h, n, L, limit, bias, mask, low, high, consumer, SCALE, HAS_BIAS, HAS_MASK, BAND,
                    True, BLOCK_M, STAGES, SLOTS, SCORES, OUT, LEFT, DQ,
                )  # fmt: skip
        if SPLIT and i >= whole:
            part = work_ptr + (2 * gl.program_id(0) + i - whole) * (2 * BLOCK_N * D)
            r = consumer * 64 + gl.arange(0, 64, gl.SliceLayout(1, OUT))[:, None]
            e = gl.arange(0, D, gl.SliceLayout(0, OUT))[None, :]
            gl.store(part + r * D + e, dk)
            gl.store(part + (BLOCK_N + r) * D + e, dv)
        else:
            # The memory of the values, which this consumer alone reads, takes both results.
            out = v_tiles.index(consumer)
            out.reshape([64, D]).store(dv.to(DTYPE))
            fence_async_shared()
            tma.async_copy_shared_to_global(dv_desc, [b, head, n0 + consumer * 64, 0], out)
            result = dk * SCALE
            tma.store_wait(0)
            out.reshape([64, D]).store(result.to(DTYPE))
            fence_async_shared()
            tma.async_copy_shared_to_global(dk_desc, [b, head, n0 + consumer * 64, 0], out)
            tma.store_wait(0)
        mbarrier.arrive(kv_empty.index(0))


# --- the kernel ---


@gluon.jit
def attention_backward(
    q_desc, k_desc, v_desc, g_desc, lse_desc, delta_desc, dq_desc, dk_desc, dv_desc, counters_ptr, lengths_ptr,
    bias, mask, low, high, batch, kv_heads, L, S, work_ptr,
    SCALE: gl.constexpr, EVEN: gl.constexpr, GROUP: gl.constexpr, HAS_LENGTHS: gl.constexpr, HAS_BIAS: gl.constexpr,
    HAS_MASK: gl.constexpr, BAND: gl.constexpr, ORDERED: gl.constexpr, SPLIT: gl.constexpr, TOGETHER: gl.constexpr,
    BLOCK_M: gl.constexpr, STAGES: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    """dk and dv, dense [B, S, Hk, E], and dq / scale, float32 [B, H, L, E], to be scaled and rounded.

    TMA descriptors, blocks of D elements, a power of two >= E: q [B, H, L, E] and g, the cotangent of o, as
    [B, H, L, E], in blocks [1, 1, BLOCK_M, D]; k, v, dk and dv as [B, Hk, S, E] in blocks [1, 1, 64, D]; lse and
    delta, float32 [B H, rows] as attention_tail.prepare makes them, in blocks [1, BLOCK_M]; dq in blocks
    [1, 1, 64, D] if BLOCK_M is 128, [1, 1, 64, D / 2] if it is 64. counters_ptr: int32 [B H, blocks of queries], zero.
    bias, mask, lengths_ptr, EVEN as in attention.py. Launch any number of programs, with num_warps=4.

    SPLIT (without band and lengths, GROUP 1; at most as many programs as the device holds at a time): the
    tiles % programs last tiles are cut along the queries. work_ptr, float32 [2 * programs, 2, BLOCK_N, D], receives
    dk / scale and dv of their parts.
    """
    q_ring = gl.allocate_shared_memory(q_desc.dtype, [STAGES] + q_desc.block_type.shape, q_desc.layout)
    g_ring = gl.allocate_shared_memory(q_desc.dtype, [STAGES] + g_desc.block_type.shape, g_desc.layout)
    k_tiles = gl.allocate_shared_memory(q_desc.dtype, [2] + k_desc.block_type.shape, k_desc.layout)
    v_tiles = gl.allocate_shared_memory(q_desc.dtype, [2] + v_desc.block_type.shape, v_desc.layout)
    lse_ring = gl.allocate_shared_memory(gl.float32, [STAGES] + lse_desc.block_type.shape, lse_desc.layout)
    delta_ring = gl.allocate_shared_memory(gl.float32, [STAGES] + delta_desc.block_type.shape, delta_desc.layout)
    DS_LAYOUT: gl.constexpr = gl.NVMMASharedLayout.get_default_for([64, BLOCK_M], q_desc.dtype)
    ds_tiles = gl.allocate_shared_memory(q_desc.dtype, [4, 64, BLOCK_M], DS_LAYOUT)
    dq_tiles = gl.allocate_shared_memory(gl.float32, [2 * SLOTS] + dq_desc.block_type.shape, dq_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    g_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    kv_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    kv_empty = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    ds_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    dq_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    dq_empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(q_full.index(i), count=1)
        mbarrier.init(q_empty.index(i), count=2)
        mbarrier.init(g_full.index(i), count=1)
    for i in gl.static_range(SLOTS):
        mbarrier.init(dq_full.index(i), count=2)
        mbarrier.init(dq_empty.index(i), count=1)
    mbarrier.init(kv_full.index(0), count=1)
    mbarrier.init(kv_empty.index(0), count=2)
    mbarrier.init(ds_full.index(0), count=2)
    bars = (q_full, q_empty, g_full, kv_full, kv_empty, ds_full, dq_full, dq_empty)
    # fmt: off
    gl.warp_specialize(
        [
            (_differentiate, (
                0, dk_desc, dv_desc, q_ring, g_ring, k_tiles, v_tiles, lse_ring, delta_ring, ds_tiles, dq_tiles, bars,
                lengths_ptr, bias, mask, low, high, batch, kv_heads, L, S, work_ptr, SCALE, EVEN, GROUP, HAS_LENGTHS,
                HAS_BIAS, HAS_MASK, BAND, SPLIT, TOGETHER, BLOCK_M, STAGES, SLOTS,
            )),
            (_differentiate, (
                1, dk_desc, dv_desc, q_ring, g_ring, k_tiles, v_tiles, lse_ring, delta_ring, ds_tiles, dq_tiles, bars,
                lengths_ptr, bias, mask, low, high, batch, kv_heads, L, S, work_ptr, SCALE, EVEN, GROUP, HAS_LENGTHS,
                HAS_BIAS, HAS_MASK, BAND, SPLIT, TOGETHER, BLOCK_M, STAGES, SLOTS,
            )),
            (_load, (
                q_desc, g_desc, k_desc, v_desc, lse_desc, delta_desc, q_ring, g_ring, k_tiles, v_tiles, lse_ring,
                delta_ring, bars, lengths_ptr, low, high, batch, kv_heads, L, S, GROUP, HAS_LENGTHS, BAND, SPLIT,
                TOGETHER, BLOCK_M, STAGES,
            )),
            (_add, (
                dq_desc, dq_tiles, bars, counters_ptr, lengths_ptr, low, high, batch, kv_heads, L, S, GROUP,
                HAS_LENGTHS, BAND, ORDERED, SPLIT, TOGETHER, BLOCK_M, SLOTS,
            )),
        ],
        [4, 1, 1],
        [240, 24, 24],
    )
    # fmt: on
