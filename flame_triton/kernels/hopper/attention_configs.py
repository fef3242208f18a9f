"""Configurations of the Hopper attention kernels. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..portable.attention_configs import Problem

SHARED_LIMIT = 232448
BLOCK_N = 128  # keys of a program of the backward pass
MOST_PARTS = 20  # of a cut tile


@dataclass(frozen=True, slots=True)
class HopperForward:
    """As the constexprs of hopper.attention; PERSISTENT: as many programs as processors, else one for each tile.

    DOUBLE: two programs share a processor, each with half of its registers.
    """

    CONSUMERS: int
    BLOCK_N: int
    STAGES: int
    TURNS: bool = True
    PERSISTENT: bool = True
    TOGETHER: int = 1
    SPLIT: bool = False
    SHARED_OUT: bool = False
    Q_IN_REGISTERS: bool = False
    DOUBLE: bool = False

    @property
    def block_m(self) -> int:
        """Queries of a tile."""
        return 64 * self.CONSUMERS

    @property
    def registers(self) -> int:
        """Of a thread of a consumer."""
        return 104 if self.DOUBLE else 240 if self.CONSUMERS == 2 else 160

    @property
    def options(self) -> dict[str, int]:
        """Of the compiler. Half of the 65,536 registers of a processor, over 384 threads, is 80 each at the start."""
        return {"num_warps": 4, "maxnreg": 80} if self.DOUBLE else {"num_warps": 4}

    def tiles(self, problem: Problem) -> int:
        """Tiles of all heads."""
        return problem.batch * problem.heads * _cdiv(problem.L, self.block_m)

    def depth(self, problem: Problem) -> int:
        """Blocks of keys."""
        return _cdiv(problem.S, self.BLOCK_N)

    def programs(self, problem: Problem, processors: int) -> int:
        """How many to launch."""
        if self.SPLIT:
            return min(self.tiles(problem) * self.depth(problem), processors)
        at_once = processors * (2 if self.DOUBLE else 1)
        return min(self.tiles(problem), at_once) if self.PERSISTENT else self.tiles(problem)

    def cut(self, problem: Problem, processors: int) -> int:
        """Tiles that are cut along the keys."""
        return self.tiles(problem) % self.programs(problem, processors) if self.SPLIT else 0

    def shared_bytes(self, width: int) -> int:
        """Of a program, for heads of `width` elements."""
        outside = self.block_m * width * (1 if self.SHARED_OUT else 2)
        return (outside + 2 * self.STAGES * self.BLOCK_N * width) * 2 + 8 * (3 * self.CONSUMERS + 4 * self.STAGES) + 512


@dataclass(frozen=True, slots=True)
class HopperBackward:
    """As the constexprs of hopper.attention_backward; PERSISTENT as above."""

    BLOCK_M: int
    STAGES: int
    SLOTS: int
    PERSISTENT: bool = True
    SPLIT: bool = False
    TOGETHER: int = 1

    def tiles(self, problem: Problem) -> int:
        """Blocks of keys of all heads."""
        return problem.batch * problem.kv_heads * _cdiv(problem.S, BLOCK_N)

    def depth(self, problem: Problem) -> int:
        """Blocks of queries."""
        return _cdiv(problem.L, self.BLOCK_M)

    def programs(self, problem: Problem, processors: int) -> int:
        """How many to launch."""
        if self.SPLIT:
            return min(self.tiles(problem) * self.depth(problem), processors)
        return min(self.tiles(problem), processors) if self.PERSISTENT else self.tiles(problem)

    def cut(self, problem: Problem, processors: int) -> int:
        """Tiles that are cut along the queries."""
        return self.tiles(problem) % self.programs(problem, processors) if self.SPLIT else 0

    def dq_width(self, width: int) -> int:
        """Elements of a row of dq that one consumer computes."""
        return width if self.BLOCK_M == 128 else width // 2

    def shared_bytes(self, width: int) -> int:
        """Of a program, for heads of `width` elements."""
        loaded = self.STAGES * (2 * self.BLOCK_M * width * 2 + 2 * self.BLOCK_M * 4)
        kept = 2 * BLOCK_N * width * 2 + 2 * BLOCK_N * self.BLOCK_M * 2
        return loaded + kept + 2 * self.SLOTS * 64 * self.dq_width(width) * 4 + 1024


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def width_of(problem: Problem) -> int:
    """Elements of a head in shared memory: E padded to a power of two."""
    return max(64, problem.block_e)


def serves_forward(problem: Problem) -> bool:
    """True if the kernel takes such heads."""
    return problem.E == problem.EV and problem.E % 8 == 0 and width_of(problem) <= 256


def serves_backward(problem: Problem) -> bool:
    """True if the kernel takes such heads: wider ones leave no registers for both gradients."""
    return problem.E == problem.EV and problem.E % 8 == 0 and width_of(problem) <= 128


def parts(programs: int, cut: int) -> int:
    """At least the programs that share a cut tile, plus 2."""
    return -(-programs // cut) + 3


def cutting_pays(config: HopperForward | HopperBackward, problem: Problem, processors: int, flops: float) -> bool:
    """True if cutting the tiles of the last wave saves more than joining their parts costs.

    flops: of a tile. A processor does some 4.5e12 a second; joining takes about 10 us.
    """
    tiles = config.tiles(problem)
    cut = tiles % processors
    if not cut or parts(processors, cut) > MOST_PARTS:
        return False
    return (1 - cut / processors) * flops / 4.5e12 > 10e-6


def _forward_flops(config: HopperForward, problem: Problem) -> float:
    return 4.0 * config.block_m * problem.S * width_of(problem)


def _backward_flops(problem: Problem) -> float:
    return 10.0 * BLOCK_N * problem.L * width_of(problem)


def forward_configs(problem: Problem, uneven: bool, processors: int) -> list[HopperForward]:
    """Those worth timing, the heuristic's first. uneven: tiles differ in length (a band, lengths)."""
    width = width_of(problem)
    start = forward_heuristic(problem, uneven, processors)
    if width == 64:
        shapes = [(3, 128, 2), (3, 128, 3), (2, 128, 4)]
    elif width == 128:
        shapes = [(2, 128, 2), (3, 64, 3), (2, 64, 4)]
    else:
        shapes = [(2, 64, 2)]
    orders = [(False, 1), (False, 4), (False, 16)] if uneven else [(True, 1)]
    every = [
        HopperForward(c, n, stages, turns, persistent, together, False, width == 256)
        for c, n, stages in shapes
        for turns in (True, False)
        for persistent, together in orders
    ]
    if width == 128:
        every += [replace(c, Q_IN_REGISTERS=True) for c in every if (c.CONSUMERS, c.BLOCK_N) == (2, 128)]
    if not uneven:
        every += [replace(c, SPLIT=True) for c in every if cutting_pays(c, problem, processors, 1e9)]
    if width == 64 and problem.S <= 256:
        every += [HopperForward(2, 64, 2, turns, True, 1, DOUBLE=True) for turns in (True, False)]
    fitting = [c for c in every if c.shared_bytes(width) <= SHARED_LIMIT // (2 if c.DOUBLE else 1)]
    return list(dict.fromkeys([start, *fitting]))


def forward_heuristic(problem: Problem, uneven: bool, processors: int) -> HopperForward:
    """When nothing has been measured. Tiles of different length are dealt one by one, the longest first."""
    width = width_of(problem)
    if width == 64 and problem.S <= 128 and not uneven:
        return HopperForward(2, 64, 2, DOUBLE=True)
    shape = {64: (3, 128, 2), 128: (2, 128, 2), 256: (2, 64, 2)}[width]
    start = HopperForward(
        *shape, TURNS=width == 64, PERSISTENT=not uneven, TOGETHER=4 if uneven else 1, SHARED_OUT=width == 256,
        Q_IN_REGISTERS=width == 128 and not uneven,
    )  # fmt: skip
    pays = not uneven and cutting_pays(start, problem, processors, _forward_flops(start, problem))
    return replace(start, SPLIT=pays)


def heads_together(problem: Problem) -> int:
    """Heads whose queries, cotangents and sums of dq fill half of the L2 cache, at most."""
    return max(1, min(problem.batch * problem.kv_heads, (32 << 20) // (problem.L * width_of(problem) * 8)))


def backward_configs(problem: Problem, uneven: bool, processors: int, ordered: bool) -> list[HopperBackward]:
    """Those worth timing, the heuristic's first."""
    width, start = width_of(problem), backward_heuristic(problem, uneven, processors)
    shapes = [(64, 2, 1), (64, 2, 2)] if width == 128 else [(128, 2, 1), (128, 2, 2), (64, 3, 1)]
    orders = list(dict.fromkeys((start.TOGETHER, 1, *((4, 16, 64) if ordered else (4,)))))
    every = [
        HopperBackward(m, stages, slots, persistent, False, together)
        for m, stages, slots in shapes
        for together in orders
        for persistent in ((True, False) if uneven else (True,))
    ]
    if not uneven and problem.heads == problem.kv_heads:
        every += [replace(c, SPLIT=True) for c in every if c.PERSISTENT and cutting_pays(c, problem, processors, 1e9)]
    fitting = [c for c in every if c.shared_bytes(width) <= SHARED_LIMIT]
    return list(dict.fromkeys([start, *fitting]))


def backward_heuristic(problem: Problem, uneven: bool, processors: int) -> HopperBackward:
    """When nothing has been measured."""
    start = HopperBackward(64 if width_of(problem) == 128 else 128, 2, 1, not uneven, False, heads_together(problem))
    whole = not uneven and problem.heads == problem.kv_heads
    return replace(start, SPLIT=whole and cutting_pays(start, problem, processors, _backward_flops(problem)))
