"""Stable sort of rows, and binary search in sorted rows.

Elements are compared by an integer key: integers by themselves, floats by their bits, so ordered that -0.0 equals 0.0
and every NaN equals every other and lies above infinity. Descending order negates the key; equal keys keep their order
either way. First chunks of CHUNK elements are sorted, then pairs of sorted runs are merged until one is left: an
element's place in the merged run is its place in its own, plus the number of elements of the other run that come
before it, found by binary search. Places are distinct, so nothing is written twice and there are no atomics.

Each step reads values and indices [rows, length] and writes both anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from . import library as lib


@triton.jit
def sort_key(x, DESCENDING: tl.constexpr):
    """An int64 that orders loaded values: 32 bits are used for all types of at most 32 bits."""
    if x.dtype == tl.float64:
        x = tl.where(x == 0, 0.0, x)
        bits = x.to(tl.int64, bitcast=True)
        key = tl.where(x == x, bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF), 0x7FFFFFFFFFFFFFFF)
    elif x.dtype.is_floating():
        x = tl.where(x == 0, 0.0, x)
        bits = x.to(tl.int32, bitcast=True)
        key = tl.where(x == x, bits ^ ((bits >> 31) & 0x7FFFFFFF), 0x7FFFFFFF).to(tl.int64)
    else:
        key = x.to(tl.int64)
    return ~key if DESCENDING else key


@triton.jit
def _chunk(x_ptr, rows, length, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr):
    """Row offsets [BLOCK_M, 1], positions of one chunk [CHUNK], and which elements exist."""
    chunks = tl.cdiv(length, CHUNK)
    m = (tl.program_id(0) // chunks) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (tl.program_id(0) % chunks) * CHUNK + tl.arange(0, CHUNK)
    return (m.to(tl.int64) * length)[:, None], n, (m < rows)[:, None] & (n < length)[None, :]


@triton.jit
def sort_chunks(
    x_ptr, out_ptr, index_ptr, rows, length, DESCENDING: tl.constexpr, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr
):
    """Chunks of rows of a type of at most 32 bits: key and index are packed into one integer and sorted in registers.

    x, out: [rows, length]; index: int64. BLOCK_M rows and one chunk a program; launch `chunk_grid(...)`.
    """
    row, n, inside = _chunk(x_ptr, rows, length, BLOCK_M, CHUNK)
    key = sort_key(lib.load(x_ptr, row + n[None, :], inside, 0), DESCENDING)
    packed = (key << 32) | n.to(tl.int64)[None, :]
    packed = tl.sort(tl.where(inside, packed, 0x7FFFFFFFFFFFFFFF))
    found = packed & 0xFFFFFFFF
    value = lib.load(x_ptr, row + tl.where(inside, found, 0), inside, 0)
    lib.store(out_ptr, row + n[None, :], value, inside)
    lib.store(index_ptr, row + n[None, :], found, inside)


@triton.jit
def rank_chunks(
    x_ptr, out_ptr, index_ptr, rows, length, DESCENDING: tl.constexpr, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr
):
    """As sort_chunks, for every type: an element's place is the number of elements that come before it."""
    row, n, inside = _chunk(x_ptr, rows, length, BLOCK_M, CHUNK)
    value = lib.load(x_ptr, row + n[None, :], inside, 0)
    key = sort_key(value, DESCENDING)
    mine, other = key[:, :, None], key[:, None, :]
    before = (other < mine) | ((other == mine) & (n[None, None, :] < n[None, :, None]))
    rank = tl.sum((before & inside[:, None, :]).to(tl.int32), axis=2)  # [BLOCK_M, CHUNK]
    place = row + (tl.program_id(0) % tl.cdiv(length, CHUNK)) * CHUNK + rank
    lib.store(out_ptr, place, value, inside)
    lib.store(index_ptr, place, tl.broadcast_to(n.to(tl.int64)[None, :], (BLOCK_M, CHUNK)), inside)


@triton.jit
def count_before(x_ptr, base, size, key, mask, steps, OR_EQUAL: tl.constexpr, DESCENDING: tl.constexpr):
    """How many of the sorted elements x[base : base + size] have a smaller key (or an equal one, where OR_EQUAL is).

    OR_EQUAL: a bool, or a tensor of them. steps: enough halvings for the largest size.
    """
    low = tl.zeros_like(size)
    high = size
    for _ in range(steps):
        middle = (low + high) >> 1
        there = mask & (low < high)
        other = sort_key(lib.load(x_ptr, base + middle, there, 0), DESCENDING)
        before = (other < key) | (OR_EQUAL & (other == key))
        low = tl.where(there & before, middle + 1, low)
        high = tl.where(there & (before == 0), middle, high)
    return low


@triton.jit
def merge_runs(
    x_ptr, from_ptr, out_ptr, index_ptr, rows, length, run, steps, DESCENDING: tl.constexpr, BLOCK: tl.constexpr
):
    """Pairs of sorted runs of `run` elements become one; the last run of a row may be short, or have no partner.

    x, from: the values and indices so far; out, index: those afterwards. [rows, length] each, indices int64. steps:
    halvings that bring `run` to nothing. BLOCK elements a program, whatever their row; launch `merge_grid(...)`.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < tl.cast(rows, tl.int64) * length
    n = at % length
    row = at - n
    value = lib.load(x_ptr, at, mask, 0)
    index = lib.load(from_ptr, at, mask, 0)
    first = n // (2 * run) * (2 * run)
    in_second = n >= first + run
    start = tl.where(in_second, first, tl.minimum(first + run, length))
    size = tl.where(in_second, run, tl.minimum(first + 2 * run, length) - start)
    own = tl.where(in_second, n - first - run, n - first)
    # Of equal elements those of the first run come first: that is what makes it stable.
    key = sort_key(value, DESCENDING)
    place = row + first + own + count_before(x_ptr, row + start, size, key, mask, steps, in_second, DESCENDING)
    lib.store(out_ptr, place, value, mask)
    lib.store(index_ptr, place, index, mask)


@triton.jit
def search_sorted(
    sorted_ptr, x_ptr, out_ptr, count, row_count, length, stride_row, steps, RIGHT: tl.constexpr, BLOCK: tl.constexpr
):
    """out[i] = how many elements of a sorted row come before x[i] (RIGHT: or equal it), int64.

    count: elements of x, row_count of them for each sorted row of `length` elements, rows stride_row apart (0: one row
    for all). sorted and x have one type. steps: halvings that bring `length` to nothing. Launch cdiv(count, BLOCK).
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    key = sort_key(lib.load(x_ptr, at, mask, 0), False)
    base = at // row_count * stride_row
    size = tl.zeros_like(at) + length
    found = count_before(sorted_ptr, base, size, key, mask, steps, RIGHT, False)
    lib.store(out_ptr, at, found, mask)


@dataclass(frozen=True, slots=True)
class Config:
    """Chunks by sort_chunks or by rank_chunks, rows and elements a program sorts, elements it merges, and warps."""

    packed: bool
    BLOCK_M: int
    CHUNK: int
    BLOCK: int
    num_warps: int


def _power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << max(n - 1, 0).bit_length()


def chunk_grid(rows: int, length: int, config: Config) -> tuple[int]:
    """Programs of `sort_chunks` and `rank_chunks`."""
    return (-(-rows // config.BLOCK_M) * -(-length // config.CHUNK),)


def merge_grid(rows: int, length: int, config: Config) -> tuple[int]:
    """Programs of `merge_runs`."""
    return (-(-rows * length // config.BLOCK),)


def merges(length: int, config: Config) -> list[int]:
    """The run lengths at which runs are merged: CHUNK, 2 CHUNK, ... below length."""
    found = [config.CHUNK]
    while found[-1] < length:
        found.append(2 * found[-1])
    return found[:-1]


def steps(size: int) -> int:
    """Halvings of an interval of `size` elements until nothing is left of it."""
    return size.bit_length()


def heuristic(rows: int, length: int, itemsize: int, interpreted: bool) -> Config:
    """Chunks of 1024 packed keys, or of 32 ranked ones for types of 64 bits. Interpreted: larger blocks."""
    if interpreted:
        chunk = min(_power_of_two(length), 64)
        packed = itemsize <= 4 and rows * length <= 256  # the network is slow there
        most = (1 << 18) // (chunk * chunk)
        return Config(packed, min(_power_of_two(rows), most), chunk, min(_power_of_two(rows * length), 1 << 18), 1)
    packed = itemsize <= 4
    chunk = min(_power_of_two(length), 1024 if packed else 32)
    held = max(1, (1024 // chunk) if packed else 1024 // (chunk * chunk))
    return Config(packed, min(_power_of_two(rows), held), chunk, 512, 8 if packed and chunk >= 1024 else 4)
