"""Configuration space and cost model of the Hopper matmul. Pure Python."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..portable.matmul_configs import Problem

SHARED_LIMIT = 232448


@dataclass(frozen=True, slots=True)
class HopperConfig:
    """As the constexprs of hopper.matmul; a tile has ROWS rows with PING_PONG, CONSUMERS times as many without."""

    ROWS: int
    BLOCK_N: int
    BLOCK_K: int
    STAGES: int
    GROUP_M: int
    SLICE: int
    PING_PONG: bool
    SPLIT: bool
    CONSUMERS: int = 2

    @property
    def tile_rows(self) -> int:
        """Rows of a tile."""
        return self.ROWS if self.PING_PONG else self.CONSUMERS * self.ROWS

    def tiles(self, problem: Problem) -> int:
        """Output tiles of all matrices."""
        return problem.batch * _cdiv(problem.M, self.tile_rows) * _cdiv(problem.N, self.BLOCK_N)

    def depth(self, problem: Problem) -> int:
        """Blocks of K."""
        return _cdiv(problem.K, self.BLOCK_K)

    def programs(self, problem: Problem, processors: int) -> int:
        """How many to launch."""
        blocks = self.tiles(problem) * (self.depth(problem) if self.SPLIT else 1)
        return min(processors, blocks)

    def cut(self, problem: Problem, processors: int) -> int:
        """Tiles that are cut along K."""
        return self.tiles(problem) % self.programs(problem, processors) if self.SPLIT else 0

    @property
    def registers(self) -> tuple[int, int]:
        """Of a thread of the producer and of the consumers."""
        return 24, 240 if self.CONSUMERS == 2 else 160


# (ROWS, BLOCK_N, CONSUMERS, PING_PONG)
_TILES = (
    (64, 256, 2, False), (128, 128, 2, False), (128, 128, 2, True), (64, 128, 3, False),
    (64, 128, 2, False), (64, 256, 2, True), (64, 128, 2, True), (128, 64, 2, True), (64, 64, 2, True),
)  # fmt: skip


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def shared_bytes(config: HopperConfig) -> int:
    """Shared memory of one program: the ring, and what brings a slice into another layout (per consumer)."""
    ring = config.STAGES * (config.tile_rows + config.BLOCK_N) * config.BLOCK_K * 2
    return ring + config.CONSUMERS * config.SLICE * 128 + 1024


def configs(problem: Problem, processors: int = 132) -> list[HopperConfig]:
    """The configurations worth timing for 16-bit operands that TMA can read; each fits the shared memory."""
    found = []
    for rows, block_n, consumers, ping_pong in _TILES:
        if block_n > 64 and block_n >= 2 * problem.N or rows > 64 and rows >= 2 * problem.M:
            continue
        for slice_n in (64, 32):
            shape = HopperConfig(rows, block_n, 64, 1, 1, slice_n, ping_pong, False, consumers)
            deep = next(s for s in range(8, 0, -1) if shared_bytes(replace(shape, STAGES=s)) <= SHARED_LIMIT)
            for group in _groups(problem, shape, processors):
                for split in (False, True):
                    config = replace(shape, STAGES=deep, GROUP_M=group, SPLIT=split)
                    if not split or _worth_splitting(config, problem, processors):
                        found.append(config)
    return found


def _groups(problem: Problem, shape: HopperConfig, processors: int) -> list[int]:
    """Row tiles walked together: so that a wave of tiles is nearly a square, or whole rows of tiles if those are short."""
    tiles_m, tiles_n = _cdiv(problem.M, shape.tile_rows), _cdiv(problem.N, shape.BLOCK_N)
    if min(tiles_m, tiles_n) == 1:
        return [1]
    square = max(math.isqrt(processors), processors // tiles_n)
    return sorted({min(8, tiles_m), min(square, tiles_m)})


def _worth_splitting(config: HopperConfig, problem: Problem, processors: int) -> bool:
    """True if the last wave is not nearly full and K is long enough to be cut."""
    cut = config.cut(problem, processors)
    if not cut or config.depth(problem) < 8:
        return False
    return cut * 10 < 9 * processors


def estimate_cycles(config: HopperConfig, problem: Problem, processors: int = 132) -> float:
    """A rough cost in clock cycles: waves of tiles, each bound by wgmma or by its loads, and what they store."""
    area = config.tile_rows * config.BLOCK_N
    multiply = config.BLOCK_K * area / 2048 / (0.93 if config.BLOCK_N >= 128 else 0.8)
    load = (config.tile_rows + config.BLOCK_N) * config.BLOCK_K * 2 / 56
    block = max(multiply, load)
    store = 600 + area / 20
    tile = config.depth(problem) * block + (0.25 * store if config.PING_PONG else store)
    tiles, programs = config.tiles(problem), config.programs(problem, processors)
    tail = 0.0
    if cut := config.cut(problem, processors):
        # the parts' way through memory, and a second launch
        tail = cut / programs * config.depth(problem) * block + 4000 + min(programs, 2 * cut) * area * 8 / 2000
        waves = tiles // programs
    else:
        waves = _cdiv(tiles, programs)
    pair = 2 if config.PING_PONG and tiles <= programs else 1  # one consumer of two has nothing to do
    return waves * tile * (1.15 if pair == 2 else 1.0) + tail + 2000


def heuristic(problem: Problem, processors: int = 132) -> HopperConfig:
    """The configuration to use when nothing has been measured."""
    return min(configs(problem, processors), key=lambda c: math.floor(estimate_cycles(c, problem, processors)))
