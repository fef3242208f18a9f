"""Batched matrix product C[b] = A[b] @ B[b] with a fused epilogue: any strides, any sizes.

The configurations that fit a problem, and the one to start with, stand in matmul_configs.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import library as lib


@triton.jit
def _wrapped(start, size, BLOCK: tl.constexpr):
    """Positions 0 .. BLOCK - 1 of a tile at `start`, int64; those beyond the end wrap round to existing ones.

    So the loop over K needs no mask for rows and columns: what the wrapped ones give is never stored. The modulus
    (unlike a minimum) keeps what the compiler knows of contiguity, and so the 16-byte loads.
    """
    return (tl.arange(0, BLOCK) % (size - start)).to(tl.int64)


@triton.jit
def matmul(
    a_ptr, b_ptr, ptrs, M, N, K, batch, batch_inner,
    stride_a0, stride_a1, stride_am, stride_ak,
    stride_b0, stride_b1, stride_bk, stride_bn,
    EPILOGUE: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr, EVEN_K: tl.constexpr, SLICES: tl.constexpr = 1,
):  # fmt: skip
    """acc = A[b] @ B[b] for every b in [0, batch), handed to EPILOGUE tile by tile; stores nothing itself.

    A[b]: [M, K] at a_ptr + (b // batch_inner) * stride_a0 + (b % batch_inner) * stride_a1, row stride stride_am,
    column stride stride_ak; B[b]: [K, N] likewise. Strides are in elements, any sign, 0 to broadcast; addresses are
    computed in 64 bits. Both operands have one dtype: bfloat16, float16 and float32 accumulate in float32, float64 in
    float64.

    Launch `matmul_configs.grid(problem, config)` programs. EVEN_K: K is a positive multiple of BLOCK_K, so that the
    loop needs no mask. SLICES: in how many parts the epilogue takes a tile's columns, where BLOCK_B is 1; 1, 2 or 4.
    INPUT_PRECISION is for float32 alone, see `library.dot`.

    EPILOGUE(acc, b, m, n, mask, ptrs) is a @triton.jit function that loads what it needs and stores the result:
        acc   [BLOCK_M, BLOCK_N / SLICES], or [BLOCK_B, BLOCK_M, BLOCK_N] when BLOCK_B > 1; float32 or float64
        b     batch index, int64: scalar, or [BLOCK_B, 1, 1]
        m, n  row and column index, int32: [BLOCK_M, 1] and [1, BLOCK_N / SLICES], with a leading 1 when BLOCK_B > 1;
              widen m before multiplying it with a row stride if one matrix may exceed 2^31 elements
        mask  True where the element exists, shaped like acc
        ptrs  the tuple given at launch (pointers and scalars), untouched
    """
    batch_block, tile_m, tile_n = lib.raster(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    m0 = tile_m * BLOCK_M
    n0 = tile_n * BLOCK_N
    a_ptr += m0.to(tl.int64) * stride_am
    b_ptr += n0.to(tl.int64) * stride_bn
    i = _wrapped(m0, M, BLOCK_M)
    j = _wrapped(n0, N, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    m = m0 + tl.arange(0, BLOCK_M)[:, None]  # [BLOCK_M, 1]
    n = n0 + tl.arange(0, BLOCK_N)[None, :]  # [1, BLOCK_N]
    mask = (m < M) & (n < N)
    p_a = a_ptr + (i[:, None] * stride_am + k.to(tl.int64)[None, :] * stride_ak)  # [BLOCK_M, BLOCK_K]
    p_b = b_ptr + (k.to(tl.int64)[:, None] * stride_bk + j[None, :] * stride_bn)  # [BLOCK_K, BLOCK_N]
    if BLOCK_B == 1:
        b = batch_block.to(tl.int64)
        p_a += (b // batch_inner) * stride_a0 + (b % batch_inner) * stride_a1
        p_b += (b // batch_inner) * stride_b0 + (b % batch_inner) * stride_b1
        acc = _product(
            p_a, p_b, k[None, :], k[:, None], K, BLOCK_K * stride_ak, BLOCK_K * stride_bk,
            (BLOCK_M, BLOCK_N), INPUT_PRECISION, BLOCK_K, EVEN_K,
        )  # fmt: skip
        _finish(acc, b, m, n0, M, N, ptrs, EPILOGUE, SLICES)
    else:
        b = (batch_block * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)[:, None, None]  # [BLOCK_B, 1, 1]
        there = b < batch
        outer = tl.where(there, b, 0) // batch_inner
        inner = tl.where(there, b, 0) % batch_inner
        p_a = p_a[None, :, :] + (outer * stride_a0 + inner * stride_a1)  # [BLOCK_B, BLOCK_M, BLOCK_K]
        p_b = p_b[None, :, :] + (outer * stride_b0 + inner * stride_b1)  # [BLOCK_B, BLOCK_K, BLOCK_N]
        acc = _product(
            p_a, p_b, k[None, None, :], k[None, :, None], K, BLOCK_K * stride_ak, BLOCK_K * stride_bk,
            (BLOCK_B, BLOCK_M, BLOCK_N), INPUT_PRECISION, BLOCK_K, EVEN_K,
        )  # fmt: skip
        EPILOGUE(acc, b, m[None, :, :], n[None, :, :], there & mask[None, :, :], ptrs)


@triton.jit
def _finish(acc, b, m, n0, M, N, ptrs, EPILOGUE: tl.constexpr, SLICES: tl.constexpr):
    """EPILOGUE on the columns of a tile from n0 on, in SLICES slices, one after the other."""
    if SLICES == 1:
        n = n0 + tl.arange(0, acc.shape[1])[None, :]
        EPILOGUE(acc, b, m, n, (m < M) & (n < N), ptrs)
    else:
        half: tl.constexpr = acc.shape[1] // 2
        left, right = tl.split(tl.permute(tl.reshape(acc, (acc.shape[0], 2, half)), (0, 2, 1)))
        _finish(left, b, m, n0, M, N, ptrs, EPILOGUE, SLICES // 2)
        _finish(right, b, m, n0 + half, M, N, ptrs, EPILOGUE, SLICES // 2)


@triton.jit
def _product(
    p_a, p_b, k_a, k_b, K, step_a, step_b,
    SHAPE: tl.constexpr, INPUT_PRECISION: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """The sum over K of tile products, [*SHAPE]; p_a and p_b point at the first K block, k_a and k_b count within it.

    step_a, step_b: elements from one K block to the next.
    """
    acc = tl.zeros(SHAPE, dtype=tl.float64 if p_a.dtype.element_ty == tl.float64 else tl.float32)
    # At least one step, and the compiler must know it: a branch around the loop makes the assembler serialise wgmma.
    if EVEN_K:
        tl.assume(K > 0)
        end = K
    else:
        end = tl.maximum(K, 1)
    for start in range(0, end, BLOCK_K):
        if EVEN_K:
            x = tl.load(p_a)
            y = tl.load(p_b)
        else:
            x = tl.load(p_a, mask=k_a < K - start, other=0.0)
            y = tl.load(p_b, mask=k_b < K - start, other=0.0)
        acc = lib.dot(x, y, acc, INPUT_PRECISION)
        p_a += step_a
        p_b += step_b
    return acc


@triton.jit
def store_epilogue(acc, b, m, n, mask, ptrs):
    """The plain epilogue: ptrs = (out_ptr, M, N), out: row-major [batch, M, N] in any dtype."""
    out_ptr, M, N = ptrs
    lib.store(out_ptr, (b * M + m) * N + n, acc, mask)
