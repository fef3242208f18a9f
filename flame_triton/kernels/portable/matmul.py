"""Batched matrix product C[b] = A[b] @ B[b] with a fused epilogue: any strides, any sizes.

Configurations and heuristics stand in matmul_configs.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import library as lib


@triton.jit
def _batch_offset(b, batch_inner, stride_0, stride_1):
    """Element offset (int64) of batch index b under the strides of its two parts."""
    return (b // batch_inner).to(tl.int64) * stride_0 + (b % batch_inner).to(tl.int64) * stride_1


@triton.jit
def _tile(program, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """(batch block, row tile, column tile) of a program: batch blocks outermost, then grouped raster order.

    GROUP_M row tiles are walked down before moving one column tile right, so that programs which run together share
    operands in L2.
    """
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    tile = program % (tiles_m * tiles_n)
    group = tile // (GROUP_M * tiles_n)
    within = tile % (GROUP_M * tiles_n)
    rows = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    return program // (tiles_m * tiles_n), group * GROUP_M + within % rows, within // rows


@triton.jit
def matmul(
    a_ptr, b_ptr, ptrs, M, N, K, batch, batch_inner,
    stride_a0, stride_a1, stride_am, stride_ak,
    stride_b0, stride_b1, stride_bk, stride_bn,
    EPILOGUE: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """acc = A[b] @ B[b] for every b in [0, batch), handed to EPILOGUE tile by tile; stores nothing itself.

    A[b]: [M, K] at a_ptr + (b // batch_inner) * stride_a0 + (b % batch_inner) * stride_a1, row stride stride_am,
    column stride stride_ak; B[b]: [K, N] likewise. Strides are in elements, any sign, 0 to broadcast. Both operands
    have one dtype; bfloat16, float16 and float32 accumulate in float32, float64 in float64.

    Launch: `grid(...)` programs. Within a tile, offsets from its first element must fit 32 bits unless the stride
    itself is passed as int64. EVEN_K: K is a multiple of BLOCK_K (no mask in the loop).
    INPUT_PRECISION: float32 only, see `library.dot`.

    EPILOGUE(acc, b, m, n, mask, ptrs) is a @triton.jit function that loads what it needs and stores the result:
        acc   [BLOCK_M, BLOCK_N], or [BLOCK_B, BLOCK_M, BLOCK_N] when BLOCK_B > 1; float32 or float64
        b     batch index, int64: scalar, or [BLOCK_B, 1, 1]
        m, n  row and column index, int32: [BLOCK_M, 1] and [1, BLOCK_N], with a leading 1 when BLOCK_B > 1
        mask  True where the element exists, shaped like acc
        ptrs  the tuple given at launch (pointers and scalars), untouched
    """
    batch_block, tile_m, tile_n = _tile(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP_M)
    if BLOCK_B == 1:
        _tile_2d(
            a_ptr, b_ptr, ptrs, M, N, K, batch_block, tile_m, tile_n, batch_inner,
            stride_a0, stride_a1, stride_am, stride_ak, stride_b0, stride_b1, stride_bk, stride_bn,
            EPILOGUE, INPUT_PRECISION, BLOCK_M, BLOCK_N, BLOCK_K, EVEN_K,
        )  # fmt: skip
    else:
        _tile_3d(
            a_ptr, b_ptr, ptrs, M, N, K, batch, batch_block, tile_m, tile_n, batch_inner,
            stride_a0, stride_a1, stride_am, stride_ak, stride_b0, stride_b1, stride_bk, stride_bn,
            EPILOGUE, INPUT_PRECISION, BLOCK_B, BLOCK_M, BLOCK_N, BLOCK_K, EVEN_K,
        )  # fmt: skip


@triton.jit
def _tile_2d(
    a_ptr, b_ptr, ptrs, M, N, K, b, tile_m, tile_n, batch_inner,
    stride_a0, stride_a1, stride_am, stride_ak, stride_b0, stride_b1, stride_bk, stride_bn,
    EPILOGUE: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """One [BLOCK_M, BLOCK_N] tile of one batch element."""
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    # Rows and columns beyond the end wrap to existing ones, so that the loop needs no mask for them: what they give is
    # never stored. The modulus keeps what the compiler knows of contiguity.
    a_base = a_ptr + _batch_offset(b, batch_inner, stride_a0, stride_a1)
    b_base = b_ptr + _batch_offset(b, batch_inner, stride_b0, stride_b1)
    p_a = a_base + ((m % M)[:, None] * stride_am + k[None, :] * stride_ak)  # [BLOCK_M, BLOCK_K]
    p_b = b_base + (k[:, None] * stride_bk + (n % N)[None, :] * stride_bn)  # [BLOCK_K, BLOCK_N]
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float64 if a_ptr.dtype.element_ty == tl.float64 else tl.float32)
    for start in range(0, K, BLOCK_K):
        if EVEN_K:
            x = tl.load(p_a)
            y = tl.load(p_b)
        else:
            x = tl.load(p_a, mask=k[None, :] < K - start, other=0.0)
            y = tl.load(p_b, mask=k[:, None] < K - start, other=0.0)
        acc = lib.dot(x, y, acc, INPUT_PRECISION)
        p_a += BLOCK_K * stride_ak
        p_b += BLOCK_K * stride_bk
    mask = (m[:, None] < M) & (n[None, :] < N)
    EPILOGUE(acc, b.to(tl.int64), m[:, None], n[None, :], mask, ptrs)
