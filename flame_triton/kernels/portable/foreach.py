"""One launch over many tensors of different sizes: optimizer updates, gradient norms, moving averages.

The work is cut into chunks of CHUNK elements, each inside one tensor, one program per chunk:

    pointers_ptr  int64 [n_tensors, n_slots]: addresses in bytes. A row holds the tensors that are read and written
                  together (parameter, gradient, moments, ...): equal sizes, contiguous, each 16-byte aligned.
    chunks_ptr    int64 [n_chunks, 3]: (row of pointers_ptr, number of the chunk in the tensor, elements of the
                  tensor), from `chunks`
    scalars       tuple; a pointer is loaded once per program (one element, in its compute dtype), a number is passed on
    each          (), or a pointer to [n_tensors, EACH] in a tuple: numbers of each row (rates, decays)
    DTYPES        constexpr tuple: the element dtype of each slot (tl.float32, ...)
    BLOCK, CHUNK  elements per step and per program, powers of two, BLOCK <= CHUNK
    BODY          a @triton.jit function of

        BODY(pointers, offsets, mask, scalars, each)
            pointers  tuple of n_slots typed pointers to the first elements of the tensors
            offsets   int64 [BLOCK], element indices; mask: bool [BLOCK], True where the element exists
            scalars, each  tuples of values

`foreach`: the body loads, computes and stores. `foreach_sum`: it returns one float per element; it has no `each`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import triton
import triton.language as tl

from . import library as lib


@triton.jit
def _typed_pointers(row_ptr, DTYPES: tl.constexpr):
    """The addresses of one row as a tuple of pointers.

    Claiming alignment to four elements, and no more, gives float32 its 16-byte accesses and keeps one register layout
    for all dtypes: with 16-byte bfloat16 loads, every float32 store would pass through shared memory.
    """
    pointers = ()
    for i in tl.static_range(len(DTYPES)):
        address = tl.load(row_ptr + i)
        pointer = address.to(tl.pointer_type(DTYPES[i]))
        pointers = pointers + (tl.multiple_of(pointer, min(DTYPES[i].primitive_bitwidth // 2, 16)),)
    return pointers


@triton.jit
def _value(scalar):
    """The scalar, or what it points at. (A number 1 arrives as a compile-time int, not as a tensor.)"""
    if isinstance(scalar, tl.tensor):
        if scalar.dtype.is_ptr():
            return lib.to_compute(tl.load(scalar))
        else:
            return scalar
    else:
        return scalar


@triton.jit
def _values(scalars):
    """The scalars, those behind a pointer loaded."""
    values = ()
    for i in tl.static_range(len(scalars)):
        values = values + (_value(scalars[i]),)
    return values


@triton.jit
def _row_values(each, row, EACH: tl.constexpr):
    """The numbers of one row of the table `each`."""
    values = ()
    for i in tl.static_range(EACH):
        values = values + (lib.to_compute(tl.load(each[0] + row * EACH + i)),)
    return values


@triton.jit
def _chunk(pointers_ptr, chunks_ptr, DTYPES: tl.constexpr, CHUNK: tl.constexpr):
    """(row, pointers, first element, elements of the tensor) of this program.

    The first element is a product with CHUNK, so that the compiler knows its low bits: a body may then divide the
    index of an element by a small power of two at no cost.
    """
    p_chunk = chunks_ptr + tl.program_id(0) * 3
    row = tl.load(p_chunk)
    pointers = _typed_pointers(pointers_ptr + row * len(DTYPES), DTYPES)
    return row, pointers, tl.load(p_chunk + 1) * CHUNK, tl.load(p_chunk + 2)


@triton.jit
def foreach(
    pointers_ptr, chunks_ptr, scalars, each,
    BODY: tl.constexpr, DTYPES: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Runs BODY over every element of every tensor; see the module. Launch n_chunks programs on axis 0."""
    row, pointers, start, size = _chunk(pointers_ptr, chunks_ptr, DTYPES, CHUNK)
    values = _values(scalars)
    own = _row_values(each, row, EACH)
    lane = tl.arange(0, BLOCK)
    # A mask of unknown alignment forbids vector accesses, so whole chunks have their own loop with a constant one.
    if start + CHUNK <= size:
        for step in range(0, CHUNK, BLOCK):
            BODY(pointers, start + step + lane, tl.full([BLOCK], True, tl.int1), values, own)
    else:
        for step in range(0, CHUNK, BLOCK):
            offsets = start + step + lane
            BODY(pointers, offsets, offsets < size, values, own)


@triton.jit
def foreach_sum(
    pointers_ptr, chunks_ptr, scalars, partials_ptr,
    BODY: tl.constexpr, DTYPES: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """partials[chunk] = sum of BODY over the chunk. Launch n_chunks programs on axis 0.

    partials: float32 or float64 [n_chunks], every element written; sums run in its dtype and in a fixed order, so
    the result is deterministic.
    """
    _, pointers, start, size = _chunk(pointers_ptr, chunks_ptr, DTYPES, CHUNK)
    values = _values(scalars)
    lane = tl.arange(0, BLOCK)
    dtype: tl.constexpr = partials_ptr.dtype.element_ty
    acc = tl.zeros([BLOCK], dtype=dtype)
    if start + CHUNK <= size:
        for step in range(0, CHUNK, BLOCK):
            acc += BODY(pointers, start + step + lane, tl.full([BLOCK], True, tl.int1), values, ()).to(dtype)
    else:
        for step in range(0, CHUNK, BLOCK):
            offsets = start + step + lane
            mask = offsets < size
            acc += tl.where(mask, BODY(pointers, offsets, mask, values, ()).to(dtype), 0.0)
    tl.store(partials_ptr + tl.program_id(0), tl.sum(acc))


@triton.jit
def row_totals(partials_ptr, bounds_ptr, out_ptr, BLOCK: tl.constexpr):
    """out[row] = the sum of partials[bounds[row] : bounds[row + 1]], in a fixed order. One program a row.

    partials, out: float32 or float64. bounds: int64 [rows + 1].
    """
    row = tl.program_id(0)
    start = tl.load(bounds_ptr + row)
    stop = tl.load(bounds_ptr + row + 1)
    lane = tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], dtype=partials_ptr.dtype.element_ty)
    while start < stop:
        acc += tl.load(partials_ptr + start + lane, mask=start + lane < stop, other=0.0)
        start += BLOCK
    tl.store(out_ptr + row, tl.sum(acc))


PARTIALS = 4096  # chunks of a multi-tensor sum, at most, beyond one for each tensor


@dataclass(frozen=True, slots=True)
class Config:
    """Elements per step and per program, and warps."""

    BLOCK: int
    CHUNK: int
    num_warps: int


def chunks(sizes: Sequence[int], chunk: int) -> np.ndarray:
    """chunks_ptr, int64 [n_chunks, 3], for tensors of `sizes` elements: (tensor, number, elements of the tensor).

    Empty tensors have no chunk; without any chunk there is nothing to launch.
    """
    elements = np.asarray(sizes, np.int64)
    counts = -(-elements // chunk)
    tensor = np.repeat(np.arange(len(sizes)), counts)
    number = np.arange(len(tensor)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([tensor, number, elements[tensor]], axis=1)


def bounds(sizes: Sequence[int], chunk: int) -> np.ndarray:
    """bounds_ptr of `row_totals`: where each tensor's chunks begin in `chunks(sizes, chunk)`, and where all end."""
    counts = -(-np.asarray(sizes, np.int64) // chunk)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << max(n - 1, 0).bit_length()


def heuristic(sizes: Sequence[int], interpreted: bool) -> Config:
    """The configuration to start with for tensors of `sizes` elements.

    Interpreted, a program costs about 2 ms and an element (padding included) about 0.2 us: the cheapest block wins.
    Compiled, each thread has four elements of every tensor in flight, in one 16-byte access of float32; chunks are as
    long as leaves 64 programs for each of about 132 multiprocessors, so that the last ones to end keep few waiting.
    """
    if interpreted:
        widest = min(_power_of_two(max(sizes, default=1)), 1 << 18)
        blocks = [1 << i for i in range(4, widest.bit_length())] or [16]
        block = min(blocks, key=lambda b: sum(-(-n // b) for n in sizes) * (2e-3 + 2e-7 * b))
        return Config(block, block, 1)
    chunk = _power_of_two(sum(sizes) // (64 * 132))
    return Config(1024, min(max(chunk, 1024), 4096), 8)


def candidates(sizes: Sequence[int]) -> list[Config]:
    """The configurations of `foreach` worth measuring on a device, the heuristic's first: 4 or 8 elements a thread,
    short and long chunks."""
    found = [heuristic(sizes, False)]
    for block, warps in ((512, 4), (1024, 4), (1024, 8), (2048, 8), (2048, 16)):
        found += [Config(block, chunk, warps) for chunk in (2048, 4096, 16384)]
    return list(dict.fromkeys(found))


def sum_heuristic(sizes: Sequence[int], interpreted: bool) -> Config:
    """As `heuristic`, for `foreach_sum`: it mostly reads one tensor, so a thread has 16 elements in flight, and chunks
    are long enough for about 4096 partial sums beyond one for each tensor."""
    config = heuristic(sizes, interpreted)
    if not interpreted:
        config = Config(4096, 4096, 8)
    return _few(sizes, config)


def sum_candidates(sizes: Sequence[int]) -> list[Config]:
    """The configurations of `foreach_sum` worth measuring on a device, the heuristic's first."""
    found = [
        Config(block, chunk, warps) for block in (2048, 4096, 8192) for chunk in (8192, 65536) for warps in (8, 16)
    ]
    return list(dict.fromkeys([sum_heuristic(sizes, False), *(_few(sizes, c) for c in found)]))


def _few(sizes: Sequence[int], config: Config) -> Config:
    """With chunks so long that there are few partial sums."""
    chunk = config.CHUNK
    while sum(sizes) > chunk * PARTIALS:
        chunk *= 2
    return Config(config.BLOCK, chunk, config.num_warps)
