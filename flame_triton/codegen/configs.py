"""Tile sizes of generated kernels: a heuristic per form, for the interpreter and for a device.

The interpreter pays per statement and program, so its tiles are as large as a block may be.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..graph.plan import Target
from .region import Generated


@dataclass(frozen=True)
class RegionConfig:
    """BLOCK_M x BLOCK_N elements per program (flat kernels: BLOCK_N alone)."""

    BLOCK_M: int
    BLOCK_N: int
    num_warps: int = 4


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n (and at least 1)."""
    return 1 << max(n - 1, 0).bit_length()


def candidates(kernel: Generated, target: Target) -> list[RegionConfig]:
    """The configurations worth timing for a compiled kernel, the heuristic's first."""
    start = heuristic(kernel, target)
    found = [start]
    for tall in (1, 2, 4, 8, 16, 32, 64):
        if kernel.form == "flat" and tall > 1:
            continue
        widths = [start.BLOCK_N] if kernel.whole_rows else [256, 512, 1024, 2048, 4096]
        for width in widths:
            if tall > power_of_two(kernel.rows) or not 256 <= tall * width <= 32768:
                continue
            found += [RegionConfig(tall, width, w) for w in (1, 2, 4, 8, 16) if 4 <= tall * width // (32 * w) <= 64]
    return list(dict.fromkeys(found))


def heuristic(kernel: Generated, target: Target) -> RegionConfig:
    """The configuration used when nothing was tuned."""
    rows, columns = power_of_two(kernel.rows), power_of_two(kernel.columns)
    if target.interpreted:
        if kernel.form == "flat":
            return RegionConfig(1, min(columns, target.block_limit))
        width = columns if kernel.whole_rows else min(columns, target.block_limit)
        return RegionConfig(max(1, min(rows, target.block_limit // width)), width)
    if kernel.form == "flat":
        return RegionConfig(1, min(1024, max(32, columns)))
    # Measured on an H200 (docs/measurements.md): 8 elements a thread where nothing is accumulated, 32 where it is.
    if kernel.form == "columns":
        tall = min(rows, 32)
        width = columns if kernel.whole_rows else min(columns, max(64, 2048 // tall))
        tall = min(tall, max(1, 4096 // width))
        return RegionConfig(tall, width, min(16, max(1, tall * width // 1024)))
    width = columns if kernel.whole_rows else min(columns, 512)
    tall = min(rows, max(1, 1024 // width))
    each = 128 if kernel.double else 512
    return RegionConfig(tall, width, min(16, max(1, tall * width // each)))
