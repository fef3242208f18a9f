"""The end of a product whose last tiles were cut along K: see hopper/matmul.py."""

from __future__ import annotations

import triton
import triton.language as tl

from ..portable import library as lib


@triton.jit
def finish(
    work_ptr, ptrs, M, N, programs, batch,
    EPILOGUE: tl.constexpr, TILE_M: tl.constexpr, TILE_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    DEPTH: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """Adds the parts of each cut tile in the order of K and hands the sums to EPILOGUE, BLOCK_M x BLOCK_N at a time.

    work_ptr, programs: of the `matmul` launch, whose tiles had TILE_M x TILE_N elements and DEPTH blocks of K. Launch
    [cut tiles, TILE_M // BLOCK_M, TILE_N // BLOCK_N] programs, cut tiles = tiles % programs.
    """
    tiles_m = tl.cdiv(M, TILE_M)
    tiles_n = tl.cdiv(N, TILE_N)
    cut = tl.num_programs(0)
    tile = tl.program_id(0)
    blocks = cut * DEPTH
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    column = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    p_part = work_ptr + row * TILE_N + column
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    # Program i had the blocks [blocks * i // programs, blocks * (i + 1) // programs): those that reach into this tile.
    last = tl.minimum((tile + 1) * programs // cut + 1, programs)
    for i in range(tl.maximum(tile * programs // cut - 1, 0), last):
        begin = blocks * i // programs
        end = blocks * (i + 1) // programs
        if (begin < (tile + 1) * DEPTH) & (end > tile * DEPTH) & (begin < end):
            slot = 2 * i + tile - begin // DEPTH
            acc += tl.load(p_part + slot.to(tl.int64) * (TILE_M * TILE_N))
    place = batch * tiles_m * tiles_n - cut + tile
    matrix, tile_m, tile_n = lib.raster(place, tiles_m, tiles_n, GROUP_M)
    m = tile_m * TILE_M + row
    n = tile_n * TILE_N + column
    EPILOGUE(acc, matrix.to(tl.int64), m, n, (m < M) & (n < N), ptrs)
