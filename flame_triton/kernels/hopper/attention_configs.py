"""Configurations of the Hopper attention kernels. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass

from ..portable.attention_configs import Problem

SHARED_LIMIT = 232448
BLOCK_N = 128  # keys of a program of the backward pass


@dataclass(frozen=True, slots=True)
class HopperForward:
    """As the constexprs of hopper.attention; PERSISTENT: as many programs as processors, else one for each tile."""

    CONSUMERS: int
    BLOCK_N: int
    STAGES: int
    TURNS: bool = True
    PERSISTENT: bool = True
    TOGETHER: int = 1
    SHARED_OUT: bool = False

    @property
    def block_m(self) -> int:
        """Queries of a tile."""
        return 64 * self.CONSUMERS

    @property
    def registers(self) -> int:
        """Of a thread of a consumer."""
        return 240 if self.CONSUMERS == 2 else 160

    def tiles(self, problem: Problem) -> int:
        """Tiles of all heads."""
        return problem.batch * problem.heads * _cdiv(problem.L, self.block_m)

    def programs(self, problem: Problem, processors: int) -> int:
        """How many to launch."""
        return min(self.tiles(problem), processors) if self.PERSISTENT else self.tiles(problem)

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

    def tiles(self, problem: Problem) -> int:
        """Blocks of keys of all heads."""
        return problem.batch * problem.kv_heads * _cdiv(problem.S, BLOCK_N)

    def programs(self, problem: Problem, processors: int) -> int:
        """How many to launch."""
        return min(self.tiles(problem), processors) if self.PERSISTENT else self.tiles(problem)

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


def forward_configs(problem: Problem, banded: bool) -> list[HopperForward]:
    """Those worth timing, the heuristic's first."""
    width = width_of(problem)
    start = forward_heuristic(problem, banded)
    if width == 64:
        shapes = [(3, 128, 2), (3, 128, 3), (3, 64, 4), (2, 128, 3), (2, 128, 4), (2, 64, 4), (2, 256, 2)]
    elif width == 128:
        shapes = [(2, 128, 2), (2, 64, 4), (2, 64, 3), (3, 64, 3), (3, 64, 2)]
    else:
        shapes = [(2, 64, 2), (2, 32, 3)]
    orders = [(False, 1), (False, 4), (False, 16)] if banded else [(True, 1), (False, 1)]
    every = [
        HopperForward(c, n, stages, turns, persistent, together, width == 256)
        for c, n, stages in shapes
        for turns in (True, False)
        for persistent, together in orders
    ]
    fitting = [c for c in every if c.shared_bytes(width) <= SHARED_LIMIT]
    return list(dict.fromkeys([start, *fitting]))


def forward_heuristic(problem: Problem, banded: bool) -> HopperForward:
    """When nothing has been measured."""
    width = width_of(problem)
    if width == 64:
        return HopperForward(3, 128, 2, True, not banded, 8 if banded else 1)
    if width == 128:
        return HopperForward(2, 128, 2, True, not banded, 8 if banded else 1)
    return HopperForward(2, 64, 2, True, not banded, 8 if banded else 1, True)


def backward_configs(problem: Problem, banded: bool) -> list[HopperBackward]:
    """Those worth timing, the heuristic's first."""
    width = width_of(problem)
    shapes = [(64, 2, 2), (64, 2, 1)] if width == 128 else [(128, 2, 2), (128, 2, 1), (64, 2, 2), (64, 3, 2)]
    every = [
        HopperBackward(m, stages, slots, persistent) for m, stages, slots in shapes for persistent in (True, False)
    ]
    fitting = [c for c in every if c.shared_bytes(width) <= SHARED_LIMIT]
    return list(dict.fromkeys([backward_heuristic(problem, banded), *fitting]))


def backward_heuristic(problem: Problem, banded: bool) -> HopperBackward:
    """When nothing has been measured. A band's tiles are of very different length, so they are dealt one by one."""
    return HopperBackward(64 if width_of(problem) == 128 else 128, 2, 2, not banded)
