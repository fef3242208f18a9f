"""Rows of a table by index, and the table's gradient: both deterministic, without atomics.

An index counts from 0; -n_rows .. -1 count from the end, as in NumPy. Index arrays are int32 or int64, contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from . import library as lib


@triton.jit
def gather_rows(
    table_ptr, index_ptr, out_ptr, n_index, n_rows, width, stride_table, stride_out,
    BLOCK_I: tl.constexpr, BLOCK_W: tl.constexpr, MISSING: tl.constexpr = 0,
):  # fmt: skip
    """out[i, :] = table[index[i], :]; out of range: a row of NaN, or of MISSING if the elements are integers.

    table: [n_rows, width], row stride stride_table; index: [n_index]; out: [n_index, width], row stride stride_out, in
    the dtype of table or wider; inner strides 1, strides in elements. BLOCK_I rows and BLOCK_W columns a program;
    launch `gather_grid(...)`.
    """
    tiles_w = tl.cdiv(width, BLOCK_W)
    i = (tl.program_id(0) // tiles_w) * BLOCK_I + tl.arange(0, BLOCK_I)
    w = (tl.program_id(0) % tiles_w) * BLOCK_W + tl.arange(0, BLOCK_W)
    index = tl.load(index_ptr + i, mask=i < n_index, other=0).to(tl.int64)
    row = tl.where(index < 0, index + n_rows, index)
    there = (row >= 0) & (row < n_rows)
    inside = (i < n_index)[:, None] & (w < width)[None, :]
    other = float("nan") if table_ptr.dtype.element_ty.is_floating() else MISSING
    offsets = tl.where(there, row, 0)[:, None] * stride_table + w[None, :]
    x = lib.load(table_ptr, offsets, there[:, None] & inside, other)  # [BLOCK_I, BLOCK_W]
    lib.store(out_ptr, i.to(tl.int64)[:, None] * stride_out + w[None, :], x, inside)


@triton.jit
def scatter_add_rows(
    grad_ptr, index_ptr, out_ptr, n_index, n_rows, width, stride_grad, stride_out,
    BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_I: tl.constexpr, SCAN: tl.constexpr,
):  # fmt: skip
    """out[r, :] = sum of grad[i, :] over all i with index[i] = r: the gradient of `gather_rows` in the table.

    grad: [n_index, width], row stride stride_grad; index: [n_index], out-of-range ones add nothing; out:
    [n_rows, width], row stride stride_out; inner strides 1. Every element of out is written. Sums run in float32
    (float64 if grad or out is float64, int64 for integers), in index order by blocks of BLOCK_I, within a block in a
    fixed tree order.

    A program owns BLOCK_R rows and BLOCK_W columns of out. It looks through the indices SCAN at a time (a multiple of
    BLOCK_I) and reads gradient rows only where one of its own rows occurs. Launch `scatter_grid(...)`.
    """
    tiles_w = tl.cdiv(width, BLOCK_W)
    r0 = (tl.program_id(0) // tiles_w) * BLOCK_R
    r = r0 + tl.arange(0, BLOCK_R)
    w = (tl.program_id(0) % tiles_w) * BLOCK_W + tl.arange(0, BLOCK_W)
    double: tl.constexpr = (grad_ptr.dtype.element_ty == tl.float64) or (out_ptr.dtype.element_ty == tl.float64)
    real: tl.constexpr = tl.float64 if double else tl.float32
    acc = tl.zeros([BLOCK_R, BLOCK_W], dtype=real if grad_ptr.dtype.element_ty.is_floating() else tl.int64)
    for start in range(0, n_index, SCAN):
        seen = _rows(index_ptr, start + tl.arange(0, SCAN), n_index, n_rows)
        if tl.max(((seen >= r0) & (seen < r0 + BLOCK_R)).to(tl.int32), axis=0) > 0:
            for inner in range(start, start + SCAN, BLOCK_I):
                i = inner + tl.arange(0, BLOCK_I)
                row = _rows(index_ptr, i, n_index, n_rows)
                used = (row >= r0) & (row < r0 + BLOCK_R)
                p = i.to(tl.int64)[:, None] * stride_grad + w[None, :]
                g = lib.load(grad_ptr, p, used[:, None] & (w < width)[None, :], 0).to(acc.dtype)
                # A choice, not a product with 0 and 1: an infinity must not reach the other rows of the block.
                match = row[None, :] == r[:, None]  # [BLOCK_R, BLOCK_I]
                acc += tl.sum(tl.where(match[:, :, None], g[None, :, :], 0), axis=1)
    p_out = r.to(tl.int64)[:, None] * stride_out + w[None, :]
    lib.store(out_ptr, p_out, acc, (r < n_rows)[:, None] & (w < width)[None, :])


@triton.jit
def _rows(index_ptr, i, n_index, n_rows):
    """Row numbers of index positions i, from the end where negative; -1 beyond the end. int64."""
    index = tl.load(index_ptr + i, mask=i < n_index, other=-1 - n_rows).to(tl.int64)
    return tl.where(index < 0, index + n_rows, index)


@dataclass(frozen=True, slots=True)
class GatherConfig:
    """Rows and columns a program copies, and warps."""

    BLOCK_I: int
    BLOCK_W: int
    num_warps: int


@dataclass(frozen=True, slots=True)
class ScatterConfig:
    """Rows and columns a program owns, gradient rows read and indices looked at in one step, and warps."""

    BLOCK_R: int
    BLOCK_W: int
    BLOCK_I: int
    SCAN: int
    num_warps: int


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << max(n - 1, 0).bit_length()


def gather_grid(n_index: int, width: int, config: GatherConfig) -> tuple[int]:
    """Programs of `gather_rows`; 0: nothing to launch."""
    return (_cdiv(n_index, config.BLOCK_I) * _cdiv(width, config.BLOCK_W),)


def scatter_grid(n_rows: int, width: int, config: ScatterConfig) -> tuple[int]:
    """Programs of `scatter_add_rows`; 0: nothing to launch."""
    return (_cdiv(n_rows, config.BLOCK_R) * _cdiv(width, config.BLOCK_W),)


def gather_heuristic(n_index: int, width: int, interpreted: bool) -> GatherConfig:
    """Interpreted: as few programs as a block of 2^20 elements allows. Compiled: 2048 elements a program."""
    if interpreted:
        block_w = min(_power_of_two(width), 1 << 14)
        return GatherConfig(min(_power_of_two(n_index), (1 << 20) // block_w), block_w, 1)
    block_w = min(_power_of_two(width), 1024)
    return GatherConfig(min(_power_of_two(n_index), max(1, 2048 // block_w)), block_w, 4)


def scatter_heuristic(n_index: int, n_rows: int, width: int, interpreted: bool) -> ScatterConfig:
    """Compiled: one row a program, 4096 gradient elements in registers, columns split until some thousand programs run.

    Interpreted: as much as 2^20 elements hold.
    """
    if interpreted:
        block_w = min(_power_of_two(width), 1 << 8)
        block_i = min(_power_of_two(n_index), 1 << 6)
        block_r = min(_power_of_two(n_rows), (1 << 20) // (block_w * block_i))
        return ScatterConfig(block_r, block_w, block_i, max(block_i, min(_power_of_two(n_index), 1 << 16)), 1)
    block_w = min(max(_power_of_two(width), 32), 1024)
    while block_w > 32 and n_rows * _cdiv(width, block_w) < 1024:
        block_w //= 2
    block_i = min(4096 // block_w, max(_power_of_two(n_index), 4))
    return ScatterConfig(1, block_w, block_i, max(block_i, min(_power_of_two(n_index), 512)), 4)
