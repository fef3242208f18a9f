"""Matrix product on Hopper: persistent, warp-specialised, with a fused epilogue.

One warp loads tiles of A and B into a ring of shared memory by TMA; consumers of four warps each multiply them with
wgmma. Two ways to share the work:

    cooperative   the consumers take the rows of one tile between them: large tiles, few loads
    ping-pong     each consumer has a tile of its own: one multiplies while the other stores

Tiles that do not fill the last wave can be cut along K, so that every program gets an equal part of them (stream-K):
the parts go to a workspace in float32, and `matmul_tail.finish` adds them up in order and calls the epilogue.

The accumulator goes to the epilogue in slices, brought into a layout whose rows are contiguous, so that loads and
stores of the epilogue are 16 bytes wide. Same contract as `portable.matmul`, which serves what TMA cannot read.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from ..portable import library as lib
from .share import share, unit, units


@gluon.jit
def _load(
    a_desc, b_desc, a_ring, b_ring, full, empty, M, N, K, batch,
    A_ROWS_OUTSIDE: gl.constexpr, B_ROWS_OUTSIDE: gl.constexpr, SPLIT: gl.constexpr,
    PARTS: gl.constexpr, ROWS: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr,
    GROUP_M: gl.constexpr,
):  # fmt: skip
    """The producer: for every unit of this program, its blocks of K into the ring, in order."""
    tiles_m = gl.cdiv(M, PARTS * ROWS)
    tiles_n = gl.cdiv(N, BLOCK_N)
    depth = gl.cdiv(K, BLOCK_K)
    tiles = batch * tiles_m * tiles_n
    whole, begin, end = share(tiles, depth, SPLIT)
    count = 0
    for i in range(units(whole, begin, end, depth, SPLIT)):
        tile, first, last = unit(i, tiles, whole, begin, end, depth, SPLIT)
        matrix, tile_m, tile_n = lib.raster(tile, tiles_m, tiles_n, GROUP_M)
        m = tile_m * PARTS * ROWS
        n = tile_n * BLOCK_N
        for block in range(first, last):
            k = block * BLOCK_K
            stage = count % STAGES
            mbarrier.wait(empty.index(stage), (count // STAGES & 1) ^ 1)
            mbarrier.expect(full.index(stage), PARTS * a_desc.block_type.nbytes + b_desc.block_type.nbytes)
            for part in gl.static_range(PARTS):
                if A_ROWS_OUTSIDE:
                    where = [matrix, m + part * ROWS, k]
                else:
                    where = [matrix, k, m + part * ROWS]
                tma.async_copy_global_to_shared(a_desc, where, full.index(stage), a_ring.index(stage * PARTS + part))
            if B_ROWS_OUTSIDE:
                where = [matrix, k, n]
            else:
                where = [matrix, n, k]
            tma.async_copy_global_to_shared(b_desc, where, full.index(stage), b_ring.index(stage))
            count += 1


@gluon.jit
def _slices(x, ROWS: gl.constexpr, COLUMNS: gl.constexpr):
    """x in pieces of ROWS x COLUMNS, row by row; no data moves."""
    pieces = (x,)
    for _ in gl.static_range((x.shape[0] // ROWS).bit_length() - 1):
        finer = ()
        for i in gl.static_range(len(pieces)):
            piece = pieces[i]
            finer = finer + piece.reshape(2, piece.shape[0] // 2, piece.shape[1]).permute(1, 2, 0).split()
        pieces = finer
    for _ in gl.static_range((x.shape[1] // COLUMNS).bit_length() - 1):
        finer = ()
        for i in gl.static_range(len(pieces)):
            piece = pieces[i]
            finer = finer + piece.reshape(piece.shape[0], 2, piece.shape[1] // 2).permute(0, 2, 1).split()
        pieces = finer
    return pieces


@gluon.jit
def _finish(
    acc, out, consumer: gl.constexpr, matrix, m0, n0, M, N, ptrs,
    EPILOGUE: gl.constexpr, DTYPE: gl.constexpr, PANEL: gl.constexpr, SLICE: gl.constexpr,
):  # fmt: skip
    """Hand the accumulator of the tile at (m0, n0) to the epilogue in slices of [64, SLICE].

    The product is rounded to DTYPE, as the epilogue would do first, and goes through shared memory, PANEL columns at a
    time. The slices of a panel are walked by a loop that the compiler must not unroll: the instructions of a whole tile
    are more than the cache for them holds, and fetching them would take longer than running them.
    """
    ROWS: gl.constexpr = acc.shape[0]
    PANELS: gl.constexpr = acc.shape[1] // PANEL
    ACROSS: gl.constexpr = PANEL // SLICE
    COUNT: gl.constexpr = ROWS // 64 * ACROSS
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 8], [256 // SLICE, SLICE // 8], [4, 1], [1, 0])
    b = matrix.to(gl.int64)
    m = m0 + gl.arange(0, 64, gl.SliceLayout(1, LAYOUT))[:, None]
    n = n0 + gl.arange(0, SLICE, gl.SliceLayout(0, LAYOUT))[None, :]
    panels = _slices(acc, ROWS, PANEL)
    for p in gl.static_range(PANELS):
        pieces = _slices(panels[p].to(DTYPE), 64, SLICE)
        for i in gl.static_range(COUNT):
            out.index(consumer * COUNT + i).store(pieces[i])
        for i in range(gl.minimum(M + COUNT, COUNT)):
            row = m + i // ACROSS * 64
            column = n + (p * PANEL + i % ACROSS * SLICE)
            product = out.index(consumer * COUNT + i).load(LAYOUT).to(gl.float32)
            EPILOGUE(product, b, row, column, (row < M) & (column < N), ptrs)


@gluon.jit
def _store_part(acc, work_ptr, LAYOUT: gl.constexpr, ROWS: gl.constexpr, BLOCK_N: gl.constexpr):
    """The accumulator [ROWS, BLOCK_N] to the workspace, as it is."""
    m = gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))[:, None]
    n = gl.arange(0, BLOCK_N, gl.SliceLayout(0, LAYOUT))[None, :]
    gl.store(work_ptr + m * BLOCK_N + n, acc)


@gluon.jit
def _multiply(
    consumer: gl.constexpr, a_ring, b_ring, out, full, empty, turn, M, N, K, batch, work_ptr, ptrs,
    EPILOGUE: gl.constexpr, DTYPE: gl.constexpr, A_ROWS_OUTSIDE: gl.constexpr, B_ROWS_OUTSIDE: gl.constexpr,
    PING_PONG: gl.constexpr, SPLIT: gl.constexpr, PARTS: gl.constexpr, CONSUMERS: gl.constexpr, ROWS: gl.constexpr,
    BLOCK_N: gl.constexpr, BLOCK_K: gl.constexpr, STAGES: gl.constexpr, GROUP_M: gl.constexpr, PANEL: gl.constexpr,
    SLICE: gl.constexpr,
):  # fmt: skip
    """A consumer: its rows of every unit of this program, or all rows of every CONSUMERS-th one.

    With PING_PONG it may look at the ring only when the one before it has seen its last block: a barrier's phase is
    known by its parity alone, so whoever looks too early takes an old block for a new one.
    """
    PART: gl.constexpr = 0 if PING_PONG else consumer
    LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    tiles_m = gl.cdiv(M, PARTS * ROWS)
    tiles_n = gl.cdiv(N, BLOCK_N)
    depth = gl.cdiv(K, BLOCK_K)
    tiles = batch * tiles_m * tiles_n
    whole, begin, end = share(tiles, depth, SPLIT)
    count = 0
    for i in range(units(whole, begin, end, depth, SPLIT)):
        tile, first, last = unit(i, tiles, whole, begin, end, depth, SPLIT)
        if not PING_PONG or i % CONSUMERS == consumer:
            if PING_PONG:
                mbarrier.wait(turn.index(consumer), (i // CONSUMERS & 1) ^ (1 if consumer == 0 else 0))
            acc = gl.zeros((ROWS, BLOCK_N), gl.float32, LAYOUT)
            for block in range(first, last):
                stage = count % STAGES
                mbarrier.wait(full.index(stage), count // STAGES & 1)
                if A_ROWS_OUTSIDE:
                    a = a_ring.index(stage * PARTS + PART).reshape([ROWS, BLOCK_K])
                else:
                    a = a_ring.index(stage * PARTS + PART).reshape([BLOCK_K, ROWS]).permute((1, 0))
                if B_ROWS_OUTSIDE:
                    b = b_ring.index(stage).reshape([BLOCK_K, BLOCK_N])
                else:
                    b = b_ring.index(stage).reshape([BLOCK_N, BLOCK_K]).permute((1, 0))
                acc = warpgroup_mma(a, b, acc, use_acc=block > first, is_async=True)
                acc = warpgroup_mma_wait(1, (acc,))
                # The product before this one has been waited for: its stage may be loaded again.
                mbarrier.arrive(empty.index((count + STAGES - 1) % STAGES), pred=block > first)
                count += 1
            if PING_PONG:
                mbarrier.arrive(turn.index((consumer + 1) % CONSUMERS))
            acc = warpgroup_mma_wait(0, (acc,))
            mbarrier.arrive(empty.index((count + STAGES - 1) % STAGES))
            if SPLIT and i >= whole:
                slot = 2 * gl.program_id(0) + i - whole
                _store_part(acc, work_ptr + (slot * PARTS + PART) * ROWS * BLOCK_N, LAYOUT, ROWS, BLOCK_N)
            else:
                matrix, tile_m, tile_n = lib.raster(tile, tiles_m, tiles_n, GROUP_M)
                m = (tile_m * PARTS + PART) * ROWS
                _finish(acc, out, consumer, matrix, m, tile_n * BLOCK_N, M, N, ptrs, EPILOGUE, DTYPE, PANEL, SLICE)
        else:
            count += last - first


@gluon.jit
def matmul(
    a_desc, b_desc, work_ptr, ptrs, M, N, K, batch,
    EPILOGUE: gl.constexpr, DTYPE: gl.constexpr, A_ROWS_OUTSIDE: gl.constexpr, B_ROWS_OUTSIDE: gl.constexpr,
    PING_PONG: gl.constexpr, SPLIT: gl.constexpr, CONSUMERS: gl.constexpr, ROWS: gl.constexpr, BLOCK_N: gl.constexpr,
    BLOCK_K: gl.constexpr, STAGES: gl.constexpr, GROUP_M: gl.constexpr, PANEL: gl.constexpr, SLICE: gl.constexpr,
    PRODUCER_REGISTERS: gl.constexpr, CONSUMER_REGISTERS: gl.constexpr,
):  # fmt: skip
    """acc = A[b] @ B[b] for every b in [0, batch), handed to EPILOGUE as `portable.matmul` does; float32 sums.

    a_desc: TMA descriptor of A [batch, M, K], in blocks [1, ROWS, BLOCK_K]; if not A_ROWS_OUTSIDE, of its transpose
    [batch, K, M], in blocks [1, BLOCK_K, ROWS]. b_desc: of B [batch, K, N] in blocks [1, BLOCK_K, BLOCK_N]; if not
    B_ROWS_OUTSIDE, of its transpose in blocks [1, BLOCK_N, BLOCK_K]. bfloat16 or float16. Elements outside are read as
    0 and never stored, so all sizes >= 1 will do. DTYPE: of the product; the epilogue gets it in float32.

    A tile has ROWS x BLOCK_N elements with PING_PONG (two consumers), CONSUMERS (two or three) times the rows without.
    EPILOGUE sees [64, SLICE] elements at a time, of panels of PANEL columns. Launch at most as many programs as the
    device has multiprocessors, with num_warps=4.

    SPLIT: the tiles % programs last tiles are cut along K. work_ptr, float32 [2 * programs, tile rows, BLOCK_N],
    receives their parts, and `matmul_tail.finish` must follow. Without SPLIT work_ptr is not read.
    """
    PARTS: gl.constexpr = 1 if PING_PONG else CONSUMERS
    a_ring = gl.allocate_shared_memory(a_desc.dtype, [STAGES * PARTS] + a_desc.block_type.shape, a_desc.layout)
    b_ring = gl.allocate_shared_memory(b_desc.dtype, [STAGES] + b_desc.block_type.shape, b_desc.layout)
    SLICES: gl.constexpr = ROWS // 64 * (PANEL // SLICE)
    SLICE_LAYOUT: gl.constexpr = gl.NVMMASharedLayout.get_default_for([64, SLICE], DTYPE)
    out = gl.allocate_shared_memory(DTYPE, [CONSUMERS * SLICES, 64, SLICE], SLICE_LAYOUT)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    turn = gl.allocate_shared_memory(gl.int64, [CONSUMERS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(CONSUMERS):
        mbarrier.init(turn.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=PARTS)
    # fmt: off
    if CONSUMERS == 2:
        gl.warp_specialize(
            [
                (_multiply, (
                    0, a_ring, b_ring, out, full, empty, turn, M, N, K, batch, work_ptr, ptrs, EPILOGUE, DTYPE,
                    A_ROWS_OUTSIDE, B_ROWS_OUTSIDE, PING_PONG, SPLIT, PARTS, CONSUMERS, ROWS, BLOCK_N, BLOCK_K, STAGES,
                    GROUP_M, PANEL, SLICE,
                )),
                (_multiply, (
                    1, a_ring, b_ring, out, full, empty, turn, M, N, K, batch, work_ptr, ptrs, EPILOGUE, DTYPE,
                    A_ROWS_OUTSIDE, B_ROWS_OUTSIDE, PING_PONG, SPLIT, PARTS, CONSUMERS, ROWS, BLOCK_N, BLOCK_K, STAGES,
                    GROUP_M, PANEL, SLICE,
                )),
                (_load, (
                    a_desc, b_desc, a_ring, b_ring, full, empty, M, N, K, batch, A_ROWS_OUTSIDE, B_ROWS_OUTSIDE, SPLIT,
                    PARTS, ROWS, BLOCK_N, BLOCK_K, STAGES, GROUP_M,
                )),
            ],
            [4, 1],
            [CONSUMER_REGISTERS, PRODUCER_REGISTERS],
        )
    else:
        gl.warp_specialize(
            [
                (_multiply, (
                    0, a_ring, b_ring, out, full, empty, turn, M, N, K, batch, work_ptr, ptrs, EPILOGUE, DTYPE,
                    A_ROWS_OUTSIDE, B_ROWS_OUTSIDE, PING_PONG, SPLIT, PARTS, CONSUMERS, ROWS, BLOCK_N, BLOCK_K, STAGES,
                    GROUP_M, PANEL, SLICE,
                )),
                (_multiply, (
                    1, a_ring, b_ring, out, full, empty, turn, M, N, K, batch, work_ptr, ptrs, EPILOGUE, DTYPE,
                    A_ROWS_OUTSIDE, B_ROWS_OUTSIDE, PING_PONG, SPLIT, PARTS, CONSUMERS, ROWS, BLOCK_N, BLOCK_K, STAGES,
                    GROUP_M, PANEL, SLICE,
                )),
                (_multiply, (
                    2, a_ring, b_ring, out, full, empty, turn, M, N, K, batch, work_ptr, ptrs, EPILOGUE, DTYPE,
                    A_ROWS_OUTSIDE, B_ROWS_OUTSIDE, PING_PONG, SPLIT, PARTS, CONSUMERS, ROWS, BLOCK_N, BLOCK_K, STAGES,
                    GROUP_M, PANEL, SLICE,
                )),
                (_load, (
                    a_desc, b_desc, a_ring, b_ring, full, empty, M, N, K, batch, A_ROWS_OUTSIDE, B_ROWS_OUTSIDE, SPLIT,
                    PARTS, ROWS, BLOCK_N, BLOCK_K, STAGES, GROUP_M,
                )),
            ],
            [4, 4, 1],
            [CONSUMER_REGISTERS, CONSUMER_REGISTERS, PRODUCER_REGISTERS],
        )
    # fmt: on
