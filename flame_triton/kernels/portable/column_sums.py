"""Column sums of many arrays in one launch: the last stage of the gradients of biases and norms.

An array is [A, R, B, N], of less than 2^31 elements; summed are A and R, the rows. N is contiguous, the other axes
have strides.

    pointers_ptr  int64 [n, 2]: addresses in bytes of an array and of its sums [B, N], which are contiguous
    tiles_ptr     int64 [n_tiles, 8], from `tiles`: row of pointers_ptr; columns of the tile, at most BLOCK_N; where it
                  begins in the array, and in its sums; A * R, R; strides of A and of R
    IN, OUT       element dtypes of the arrays, float32 or float64, and of the sums
    ROUNDING      the dtype to which sums are rounded before they are stored: IN, or a 16-bit float
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import triton
import triton.language as tl

from . import library as lib


@triton.jit
def column_sums(
    pointers_ptr, tiles_ptr,
    IN: tl.constexpr, ROUNDING: tl.constexpr, OUT: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The sums, in the array's dtype and a fixed order, rounded once. One program a tile."""
    p_tile = tiles_ptr + tl.program_id(0) * 8
    p_row = pointers_ptr + tl.load(p_tile) * 2
    lane = tl.arange(0, BLOCK_N)
    inside = lane < tl.load(p_tile + 1)
    array = tl.load(p_row).to(tl.pointer_type(IN)) + tl.load(p_tile + 2)
    # 64-bit divisions and addresses would take most of the registers, and with them the programs that hide the waiting.
    rows, inner = tl.load(p_tile + 4).to(tl.int32), tl.load(p_tile + 5).to(tl.int32)
    outer_stride, inner_stride = tl.load(p_tile + 6).to(tl.int32), tl.load(p_tile + 7).to(tl.int32)
    acc = tl.zeros([BLOCK_R, BLOCK_N], dtype=IN)
    start = rows * 0
    while start < rows:
        r = start + tl.arange(0, BLOCK_R)
        offsets = r // inner * outer_stride + r % inner * inner_stride
        acc += tl.load(array + offsets[:, None] + lane[None, :], mask=(r < rows)[:, None] & inside[None, :], other=0.0)
        start += BLOCK_R
    sums = tl.load(p_row + 1).to(tl.pointer_type(OUT)) + tl.load(p_tile + 3)
    total = tl.sum(acc, 0)
    if ROUNDING == tl.bfloat16:
        total = lib.round_bf16(total)
    elif ROUNDING == tl.float16:
        total = lib.round_fp16(total)
    lib.store(sums, lane, total, inside)


BLOCK_R, BLOCK_N, WARPS = 64, 32, 4  # a warp reads whole lines of 128 bytes; mostly there are 64 to 1024 rows


def interpreted_block(columns: int) -> int:
    """Columns of a tile where a program costs more than what it computes."""
    return min(1 << (columns - 1).bit_length(), 4096)


def tiles(arrays: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], block: int = BLOCK_N) -> np.ndarray:
    """tiles_ptr, int64 [n_tiles, 8], for arrays of (shape, strides) [A, R, B, N]."""
    found: list[tuple[int, ...]] = []
    for i, ((a, r, b, n), (outer, inner, step, _)) in enumerate(arrays):
        places = [(k, m) for k in range(b) for m in range(0, n, block)]
        found += [(i, min(block, n - m), k * step + m, k * n + m, a * r, r, outer, inner) for k, m in places]
    return np.asarray(found, np.int64).reshape(-1, 8)
