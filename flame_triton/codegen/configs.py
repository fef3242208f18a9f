"""Tile sizes of generated kernels: a heuristic per form, for the interpreter and for a device; and what to measure.

The interpreter pays per statement and program, so its tiles are as large as a block may be.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from ..graph.plan import Target
from .region import Generated

MOST_CANDIDATES = 32
VECTOR = 8  # elements of 16 bits that one load takes
SHORT_ROW = 512  # elements of a row, below which one row cannot occupy a program
# Rows from which columns are summed in strips narrower than 32 without measuring. One such strip gave wrong numbers on
# an H200: the gradient of max_pool3d, 32 rows by 8 columns in one warp; 32 columns are right. The tuner checks numbers,
# so it may choose any width.
MANY_ROWS = 256
LEAST_STAGED = 1024  # bytes of a tile that are worth loading ahead
TILE_VALUES = 96  # float32 elements of tiles that a thread may hold in registers at once, roughly
MUCH_LOADED = 8  # bytes for one element, beyond which threads hold fewer elements


@dataclass(frozen=True)
class RegionConfig:
    """BLOCK_M x BLOCK_N elements per tile (flat kernels: BLOCK_N alone).

    num_stages: where a program walks rows ("columns"), one more than the tiles that are loaded ahead; else 1.
    """

    BLOCK_M: int
    BLOCK_N: int
    num_warps: int = 4
    num_stages: int = 1


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n (and at least 1)."""
    return 1 << max(n - 1, 0).bit_length()


def candidates(kernel: Generated, target: Target) -> list[RegionConfig]:
    """The configurations worth timing for a compiled kernel, at most MOST_CANDIDATES, the heuristic's first."""
    start = heuristic(kernel, target)
    if kernel.form == "flat":
        found = [RegionConfig(1, 32 * w * each, w) for w in (1, 2, 4, 8) for each in (4, 8, 16, 32)]
    else:
        talls = [t for t in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if t <= power_of_two(kernel.rows)]
        widths = [start.BLOCK_N] if kernel.whole_rows else [8, 16, 32, 64, 128, 256, 512, 1024, 2048]
        if kernel.whole_rows or kernel.form != "columns":
            talls = [t for t in talls if t <= 128]
            widths = [w for w in widths if w >= 32 or kernel.whole_rows]
        stages = (1, 2, 3, 4) if kernel.form == "columns" else (1,)
        found = [RegionConfig(*c) for c in itertools.product(talls, widths, (1, 2, 4, 8, 16), stages)]
    worth = [c for c in found if _worth(kernel, c, target)]
    worth.sort(key=lambda c: _distance(c, start))
    return list(dict.fromkeys([start, *worth]))[:MOST_CANDIDATES]


def _each(kernel: Generated, config: RegionConfig) -> float:
    """Elements of each tensor that a thread holds."""
    return config.BLOCK_M * config.BLOCK_N * kernel.pieces / (32 * config.num_warps)


def _worth(kernel: Generated, config: RegionConfig, target: Target) -> bool:
    """Whether a configuration can be any good: whole vectors, tiles that fit in registers and in shared memory."""
    each = _each(kernel, config)
    held = each * (2 if kernel.double else 1) * (2 + kernel.sums)
    if each / kernel.pieces < (VECTOR if _many_short_rows(kernel) else 4) or held > 2 * TILE_VALUES:
        return False
    tile = config.BLOCK_M * config.BLOCK_N * kernel.pieces * kernel.loaded
    if config.num_stages > 1 and ((config.num_stages - 1) * tile > target.shared_bytes * 3 // 4 or tile < LEAST_STAGED):
        return False
    return not (kernel.form == "columns" and config.BLOCK_M * (config.num_stages - 1) >= kernel.rows)


def _many_short_rows(kernel: Generated) -> bool:
    """True if a program walks so many short rows that each thread should load whole vectors of them."""
    short = kernel.whole_rows and kernel.columns // kernel.pieces < SHORT_ROW
    return kernel.form == "columns" and short and kernel.rows * kernel.columns // kernel.pieces >= 32 * 16 * VECTOR


def _distance(config: RegionConfig, start: RegionConfig) -> int:
    """Doublings between two configurations."""

    def apart(a: int, b: int) -> int:
        return abs(a.bit_length() - b.bit_length())

    return (
        apart(config.BLOCK_M, start.BLOCK_M) + apart(config.BLOCK_N, start.BLOCK_N)
        + apart(config.num_warps, start.num_warps) + abs(config.num_stages - start.num_stages)
    )  # fmt: skip


def heuristic(kernel: Generated, target: Target) -> RegionConfig:
    """The configuration used when nothing was tuned."""
    rows, columns = power_of_two(kernel.rows), power_of_two(kernel.columns)
    if kernel.whole_rows:
        columns = power_of_two(kernel.columns // kernel.pieces)
    if target.interpreted:
        if kernel.form == "flat":
            return RegionConfig(1, min(columns, target.block_limit))
        width = columns if kernel.whole_rows else min(columns, target.block_limit)
        return RegionConfig(max(1, min(rows, target.block_limit // (width * kernel.pieces))), width)
    if kernel.form == "flat":
        return RegionConfig(1, min(1024, max(32, columns)))
    if kernel.form == "columns":
        return _whole_rows(kernel, columns, target) if kernel.whole_rows else _column_strips(kernel, columns, target)
    width = columns if kernel.whole_rows else min(columns, 512)
    tall = min(rows, max(1, 1024 // width))
    # Measured on an H200 (docs/measurements.md): 16 elements a thread where a row is one tile.
    each = 128 if kernel.double else 512 if kernel.pieces == 1 and kernel.loaded <= MUCH_LOADED else 256
    return RegionConfig(tall, width, min(16, max(1, tall * width // each)))


def _whole_rows(kernel: Generated, piece: int, target: Target) -> RegionConfig:
    """Column sums beside whole rows: about one program a processor walks many rows, eight elements of a piece in each
    thread. A long row by itself, the loads of coming rows under way (measured on an H200). Short rows side by side, in
    programs of two warps, so that all programs of a kernel find room on the processors at once (by calculation)."""
    most = _floor_power(max(1, kernel.rows * piece // (32 * VECTOR)))
    if piece < SHORT_ROW:
        warps = min(2, most)
        tall = max(1, min(power_of_two(kernel.rows), VECTOR * 32 * warps // piece))
        deep = tall < kernel.rows and tall * piece * kernel.loaded >= LEAST_STAGED
        return RegionConfig(tall, piece, warps, 2 if deep else 1)
    elements = 8 if kernel.loaded <= MUCH_LOADED and not kernel.double else 4
    most = _floor_power(max(1, kernel.rows * piece // (32 * elements)))
    warps = min(16, _floor_power(max(1, piece // (32 * elements))), most)
    tall = max(1, min(power_of_two(kernel.rows), elements * 32 * warps // piece))
    tile = tall * piece * kernel.pieces * kernel.loaded
    stages = 1
    while stages < 4 and tall * stages < kernel.rows and stages * tile <= target.shared_bytes * 3 // 4:
        stages += 1
    return RegionConfig(tall, piece, warps, stages)


def _floor_power(n: int) -> int:
    """The largest power of two that is at most n."""
    return 1 << (n.bit_length() - 1)


def _column_strips(kernel: Generated, columns: int, target: Target) -> RegionConfig:
    """Column sums alone: strips of columns, narrow enough that there are several programs for each processor. Where
    there are columns for a few programs alone (the weight of a norm of heads), one wait for memory is all that it
    should take: strips as narrow as a sector of 32 bytes, every load of one under way at once."""
    width = min(columns, 512)
    while width > 32 and kernel.groups * columns // width < 8 * target.processors:
        width //= 2
    if kernel.rows >= MANY_ROWS and 4 * kernel.groups * columns < 32 * target.processors:
        width = min(columns, 8)
        tall = max(1, min(power_of_two(kernel.rows), 8192 // width))
        return RegionConfig(tall, width, min(16, max(1, tall * width // 512)))
    tile = 2048 if width == 64 else 4096
    tall = max(1, min(power_of_two(kernel.rows), tile // width))
    return RegionConfig(tall, width, min(16, max(1, tall * width // 1024)))
