"""Scans along one axis: running sums, products, extremes, logsumexp, and first-order linear recurrences.

A tensor [G, N, S], scanned along N, is read in place. A lane is one (g, s); the lanes of one group are `stride_lane`
apart, the elements of a lane `stride_n`, the groups `stride_group`, in elements. For S = 1 the G rows are the lanes of
one group. A program holds BLOCK_L lanes and walks along them BLOCK_N elements at a time, carrying the last result from
block to block in order: the same bits every run, for any length. REVERSE scans from the end. Inputs and outputs
have one layout. Launch `grid(...)`.

16-bit floats are combined in float32, integers in int64, and each result is rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from . import library as lib


@triton.jit
def _lanes(lanes, stride_lane, stride_group, BLOCK_L: tl.constexpr):
    """Where this program's lanes begin, and which of them exist."""
    tiles = tl.cdiv(lanes, BLOCK_L)
    lane = (tl.program_id(0) % tiles) * BLOCK_L + tl.arange(0, BLOCK_L)
    group = (tl.program_id(0) // tiles).to(tl.int64)
    return group * stride_group + lane.to(tl.int64) * stride_lane, lane < lanes


@triton.jit
def _tile(base, there, start, length, stride_n, REVERSE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Offsets, mask and positions along the axis of one block of elements."""
    n = start + tl.arange(0, BLOCK_N)
    place = length - 1 - n if REVERSE else n
    offsets = base[:, None] + place.to(tl.int64)[None, :] * stride_n
    return offsets, there[:, None] & (n < length)[None, :], place


@triton.jit
def _last(x, BLOCK_N: tl.constexpr):
    """The last column."""
    return tl.sum(tl.where((tl.arange(0, BLOCK_N) == BLOCK_N - 1)[None, :], x, 0), axis=1)


@triton.jit
def _accumulator(x):
    """Loaded values in the type in which they are combined."""
    return x if x.dtype.is_floating() else x.to(tl.int64)


@triton.jit
def cumulate(
    x_ptr, out_ptr, lanes, length, stride_lane, stride_n, stride_group,
    PRODUCT: tl.constexpr, REVERSE: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out[n] = x[0] + ... + x[n], or the product."""
    base, there = _lanes(lanes, stride_lane, stride_group, BLOCK_L)
    neutral: tl.constexpr = 1 if PRODUCT else 0
    double: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    kind: tl.constexpr = double if x_ptr.dtype.element_ty.is_floating() else tl.int64
    carry = tl.full([BLOCK_L], neutral, kind)
    for start in range(0, length, BLOCK_N):
        offsets, mask, _ = _tile(base, there, start, length, stride_n, REVERSE, BLOCK_N)
        x = _accumulator(lib.load(x_ptr, offsets, mask, neutral))
        if PRODUCT:
            y = tl.cumprod(x, axis=1) * carry[:, None]
        else:
            y = tl.cumsum(x, axis=1) + carry[:, None]
        lib.store(out_ptr, offsets, y, mask)
        carry = _last(y, BLOCK_N)


@triton.jit
def _later_if_larger(a, i, b, j):
    """The larger of two values and its index: the later of equal ones, and NaN above all."""
    take = (b != b) | ((a == a) & (b >= a))
    return tl.where(take, b, a), tl.where(take, j, i)


@triton.jit
def _later_if_smaller(a, i, b, j):
    take = (b != b) | ((a == a) & (b <= a))
    return tl.where(take, b, a), tl.where(take, j, i)


@triton.jit
def extreme(
    x_ptr, out_ptr, index_ptr, lanes, length, stride_lane, stride_n, stride_group,
    SMALLEST: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out[n] = the largest (or smallest) of x[0] ... x[n], index[n] (int64) where it stands, the last of equal ones.

    NaN counts as the extreme.
    """
    base, there = _lanes(lanes, stride_lane, stride_group, BLOCK_L)
    first = _accumulator(lib.load(x_ptr, base, there, 0))
    value = first
    index = tl.zeros([BLOCK_L], dtype=tl.int64)
    for start in range(0, length, BLOCK_N):
        offsets, mask, place = _tile(base, there, start, length, stride_n, False, BLOCK_N)
        x = _accumulator(lib.load(x_ptr, offsets, mask, 0))
        position = tl.broadcast_to(place.to(tl.int64)[None, :], (BLOCK_L, BLOCK_N))
        before = tl.broadcast_to(value[:, None], (BLOCK_L, BLOCK_N))
        at = tl.broadcast_to(index[:, None], (BLOCK_L, BLOCK_N))
        if SMALLEST:
            y, j = tl.associative_scan((x, position), 1, _later_if_smaller)
            y, j = _later_if_smaller(before, at, y, j)
        else:
            y, j = tl.associative_scan((x, position), 1, _later_if_larger)
            y, j = _later_if_larger(before, at, y, j)
        lib.store(out_ptr, offsets, y, mask)
        lib.store(index_ptr, offsets, j, mask)
        value = _last(y, BLOCK_N)
        index = _last(j, BLOCK_N)


@triton.jit
def _log_add(m, s, n, t):
    """(m, s) stands for m + log s. The larger exponent stays outside; NaN passes through it."""
    most = lib.maximum(m, n)
    left = tl.where(m == most, s, s * lib.exp(m - most))
    right = tl.where(n == most, t, t * lib.exp(n - most))
    return most, left + right


@triton.jit
def logcumsumexp(
    x_ptr, out_ptr, lanes, length, stride_lane, stride_n, stride_group, BLOCK_L: tl.constexpr, BLOCK_N: tl.constexpr
):
    """out[n] = log(e^x[0] + ... + e^x[n])."""
    base, there = _lanes(lanes, stride_lane, stride_group, BLOCK_L)
    kind: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    m = tl.full([BLOCK_L], float("-inf"), kind)
    s = tl.zeros([BLOCK_L], dtype=kind)
    for start in range(0, length, BLOCK_N):
        offsets, mask, _ = _tile(base, there, start, length, stride_n, False, BLOCK_N)
        x = lib.load(x_ptr, offsets, mask, 0.0)
        most, total = tl.associative_scan((x, tl.full([BLOCK_L, BLOCK_N], 1.0, kind)), 1, _log_add)
        before = tl.broadcast_to(m[:, None], (BLOCK_L, BLOCK_N))
        most, total = _log_add(before, tl.broadcast_to(s[:, None], (BLOCK_L, BLOCK_N)), most, total)
        lib.store(out_ptr, offsets, most + lib.log(total), mask)
        m = _last(most, BLOCK_N)
        s = _last(total, BLOCK_N)


@triton.jit
def _compose(a, b, c, d):
    """y -> a y + b, then y -> c y + d."""
    return a * c, c * b + d


@triton.jit
def linear_recurrence(
    a_ptr, b_ptr, out_ptr, lanes, length, stride_lane, stride_n, stride_group,
    REVERSE: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out[n] = a[n] out[n - 1] + b[n], out[-1] = 0."""
    base, there = _lanes(lanes, stride_lane, stride_group, BLOCK_L)
    kind: tl.constexpr = tl.float64 if b_ptr.dtype.element_ty == tl.float64 else tl.float32
    carry = tl.zeros([BLOCK_L], dtype=kind)
    for start in range(0, length, BLOCK_N):
        offsets, mask, _ = _tile(base, there, start, length, stride_n, REVERSE, BLOCK_N)
        # What a[0] is does not matter: nothing comes before.
        used = mask & ((start + tl.arange(0, BLOCK_N)) > 0)[None, :]
        a = lib.load(a_ptr, offsets, used, 0.0)
        b = lib.load(b_ptr, offsets, mask, 0.0)
        slope, offset = tl.associative_scan((a, b), 1, _compose)
        y = slope * carry[:, None] + offset
        lib.store(out_ptr, offsets, y, mask)
        carry = _last(y, BLOCK_N)


@dataclass(frozen=True, slots=True)
class Config:
    """Lanes a program holds, elements along them in one step, and warps."""

    BLOCK_L: int
    BLOCK_N: int
    num_warps: int


def _power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << max(n - 1, 0).bit_length()


def grid(groups: int, lanes: int, config: Config) -> tuple[int]:
    """Programs of every scan; 0: nothing to launch."""
    return (groups * -(-lanes // config.BLOCK_L),)


def heuristic(lanes: int, length: int, itemsize: int, contiguous: bool, interpreted: bool) -> Config:
    """Compiled: 4096 bytes of float32 a step, the same of wider types. itemsize: bytes of the type combined.

    contiguous: the axis itself has stride 1; else the lanes have, and share loads. Interpreted: as few programs and
    steps as a block of 2^20 elements allows.
    """
    if interpreted:
        block_n = min(_power_of_two(length), 1 << 10)
        return Config(min(_power_of_two(lanes), (1 << 20) // block_n), block_n, 1)
    held = 1024 if itemsize <= 4 else 512
    if contiguous:
        block_n = min(_power_of_two(length), held)
        return Config(min(_power_of_two(lanes), held // block_n), block_n, 4)
    block_l = min(_power_of_two(lanes), 32)
    return Config(block_l, min(_power_of_two(length), held // block_l), 4)
