"""Rows that share an index, combined: sums, largest and smallest elements, for many rows and many indices.

The indices come sorted, with the order that sorted them (kernels of sort.py), so the rows that go to one place are
neighbours in it, found by binary search. The work is n log n + n width; `scatter_add_rows` of indexing.py, which looks
through all indices for every place, is for few places or few indices.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from . import library as lib
from .sort import count_before


@triton.jit
def _largest(a, b):
    """The larger one, NaN above all."""
    return tl.where((b != b) | ((a == a) & (b > a)), b, a)


@triton.jit
def _smallest(a, b):
    return tl.where((b != b) | ((a == a) & (b < a)), b, a)


@triton.jit
def _along(x, KIND: tl.constexpr):
    """Axis 1 of [R, I, W] reduced; NaN if there is one."""
    if KIND == "sum":
        return tl.sum(x, axis=1)
    else:
        y = tl.max(x, axis=1) if KIND == "max" else tl.min(x, axis=1)
        if x.dtype.is_floating():
            y = tl.where(tl.max((x != x).to(tl.int32), axis=1) != 0, float("nan"), y)
        return y


@triton.jit
def segment_reduce(
    x_ptr, sorted_ptr, order_ptr, out_ptr, n_index, n_rows, width, steps,
    KIND: tl.constexpr, EMPTY: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """out[r, :] = the sum ("sum"), largest ("max") or smallest ("min") of all x[i, :] with index[i] = r.

    x: [n_index, width]; sorted: the indices in ascending order, -n_rows .. -1 counting from the end, others that name
    no row unused; order: int64, where each came from; out: [n_rows, width]; all contiguous. A row without any gets 0,
    -inf or inf, integers EMPTY for "max" and "min". steps: halvings that bring n_index to nothing.

    Floats are combined in float32 (float64 if x is), integers in int64: first those of negative indices, then the
    rest, each in index order by blocks of BLOCK_I, within a block in a fixed tree order. Launch `grid(...)`.
    """
    tiles_w = tl.cdiv(width, BLOCK_W)
    r = (tl.program_id(0) // tiles_w).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    w = (tl.program_id(0) % tiles_w) * BLOCK_W + tl.arange(0, BLOCK_W)
    double: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    kind: tl.constexpr = double if x_ptr.dtype.element_ty.is_floating() else tl.int64
    if KIND == "sum":
        empty = 0
    elif x_ptr.dtype.element_ty.is_floating():
        empty = float("-inf") if KIND == "max" else float("inf")
    else:
        empty = EMPTY
    acc = tl.full([BLOCK_R, BLOCK_W], empty, kind)
    count = tl.zeros_like(r) + n_index
    known = r < n_rows
    for side in tl.static_range(2):
        row = r - n_rows if side == 0 else r
        begin = count_before(sorted_ptr, 0, count, row, known, steps, False, False)
        end = count_before(sorted_ptr, 0, count, row, known, steps, True, False)
        longest = tl.max(tl.where(known, end - begin, 0), axis=0)
        for start in range(0, longest, BLOCK_I):
            at = begin[:, None] + start + tl.arange(0, BLOCK_I)[None, :]  # [BLOCK_R, BLOCK_I]
            there = known[:, None] & (at < end[:, None])
            i = tl.load(order_ptr + at, mask=there, other=0)
            inside = there[:, :, None] & (w < width)[None, None, :]
            x = lib.load(x_ptr, i[:, :, None] * width + w[None, None, :], inside, empty).to(kind)
            found = _along(x, KIND)
            if KIND == "sum":
                acc += found
            elif KIND == "max":
                acc = _largest(acc, found)
            else:
                acc = _smallest(acc, found)
    lib.store(out_ptr, r[:, None] * width + w[None, :], acc, known[:, None] & (w < width)[None, :])


@dataclass(frozen=True, slots=True)
class Config:
    """Rows and columns a program owns, elements of a segment read in one step, and warps."""

    BLOCK_R: int
    BLOCK_W: int
    BLOCK_I: int
    num_warps: int


def _power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << max(n - 1, 0).bit_length()


def grid(n_rows: int, width: int, config: Config) -> tuple[int]:
    """Programs of `segment_reduce`; 0: nothing to launch."""
    return (-(-n_rows // config.BLOCK_R) * -(-width // config.BLOCK_W),)


def heuristic(n_rows: int, width: int, interpreted: bool) -> Config:
    """Compiled: 512 elements a step, of one row if rows are wide, of many if they are narrow.

    Interpreted: 2^16 elements a step.
    """
    block_w = min(_power_of_two(width), 64)
    block_i = 8 if block_w >= 64 else 4
    held = (1 << 16 if interpreted else 1 << 9) // (block_w * block_i)
    return Config(min(_power_of_two(n_rows), held), block_w, block_i, 1 if interpreted else 4)
