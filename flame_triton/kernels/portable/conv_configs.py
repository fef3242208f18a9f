"""Problem and starting configuration of the convolution kernels. Pure Python."""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import matmul_configs

_INTERPRETER_BLOCK = 1 << 20  # elements, Triton's own limit
_FLAT_BELOW = 16  # channels; fewer would leave most of an inner block empty
_LARGEST_TILE = 128 * 128  # a larger one leaves no registers for the addresses of its rows
_MOST = 24  # candidates of one problem
_LARGEST_FLAT_TILE = 64 * 64  # and a flat one has an address for every element


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << max(n - 1, 0).bit_length()


@dataclass(frozen=True, slots=True)
class Problem:
    """One convolution or gradient as products [rows, inner] @ [inner, columns].

    kind: "forward", "dgrad" or "wgrad". batch: independent products (groups; with dgrad remainders by the stride; with
    wgrad parts). rows: output positions, input positions of one remainder, or output channels of a group; columns:
    channels of a group; inner: channels of a group, or with wgrad the positions of one part. taps: of the kernel; they
    multiply the inner size, with wgrad the columns. remainders: products of positions by the stride, for dgrad.
    """

    kind: str
    batch: int
    rows: int
    columns: int
    inner: int
    taps: int
    dtype: str
    remainders: int = 1

    @property
    def channels(self) -> int:
        """What a block must not run across unless it is flat: the channels of one tap."""
        return self.columns if self.kind == "wgrad" else self.inner

    def product(self) -> matmul_configs.Problem:
        """The matrix product with the same work and tiles."""
        wgrad = self.kind == "wgrad"
        columns = self.columns * (self.taps if wgrad else 1)
        inner = self.inner * (1 if wgrad else max(1, self.taps // self.remainders))
        layouts = {"forward": ("n", "t"), "dgrad": ("n", "n"), "wgrad": ("t", "n")}[self.kind]
        return matmul_configs.Problem(self.batch, self.rows, columns, inner, self.dtype, *layouts)


@dataclass(frozen=True, slots=True)
class Config:
    """Tile sizes in elements, raster group, launch options; FLAT: blocks run over the channels of several taps."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    GROUP_M: int
    num_warps: int
    num_stages: int
    FLAT: bool

    def even_c(self, channels: int) -> bool:
        """The EVEN_C argument of the kernels: no block is partly empty."""
        return not self.FLAT and channels % self.BLOCK_K == 0


def grid(problem: Problem, config: Config) -> tuple[int]:
    """Programs to launch. An empty result has none: skip the launch."""
    across = _cdiv(problem.columns, config.BLOCK_N)
    if problem.kind == "wgrad":
        across = _cdiv(problem.columns * problem.taps, config.BLOCK_N) if config.FLAT else across * problem.taps
    return (problem.batch * _cdiv(problem.rows, config.BLOCK_M) * across,)


def _interpreted(problem: Problem) -> Config:
    """The fewest, largest blocks: a program costs about 2 ms whatever its size."""
    wgrad = problem.kind == "wgrad"
    columns, inner = problem.columns, problem.inner
    columns, inner = (columns * problem.taps, inner) if wgrad else (columns, inner * problem.taps)
    m, n, k = (max(16, _power_of_two(d)) for d in (problem.rows, columns, inner))
    while max(m * k, k * n, m * n) > _INTERPRETER_BLOCK:
        if k >= max(m, n):
            k //= 2
        elif m >= n:
            m //= 2
        else:
            n //= 2
    return Config(m, n, k, 1, 1, 1, True)


def heuristic(problem: Problem, interpreted: bool, arch: int = 90) -> Config:
    """The configuration to use when nothing has been measured: the matmul's for the same work, or, interpreted, large.

    Inner blocks end with the channels of a tap, and tiles are small enough for the addresses of their rows to stay in
    registers.
    """
    if interpreted:
        return _interpreted(problem)
    product = problem.product()
    best = min(_tiles(problem, arch), key=lambda c: math.floor(matmul_configs.estimate_cycles(c, product, arch)))
    return _adapted(problem, best, best.BLOCK_K)


def candidates(problem: Problem, arch: int = 90) -> list[Config]:
    """The configurations worth timing, the heuristic's first; the rest in the order of their estimates."""
    product = problem.product()
    tiles = sorted(_tiles(problem, arch), key=lambda c: math.floor(matmul_configs.estimate_cycles(c, product, arch)))
    found = [heuristic(problem, False, arch)]
    for tile in tiles:
        found += [_adapted(problem, tile, k) for k in (tile.BLOCK_K, 32) if k <= tile.BLOCK_K]
    return list(dict.fromkeys(found))[:_MOST]


def _tiles(problem: Problem, arch: int) -> list[matmul_configs.Config]:
    """The matmul's tiles that leave registers for the addresses."""
    flat = problem.channels < _FLAT_BELOW
    largest = _LARGEST_FLAT_TILE if flat else _LARGEST_TILE
    found = [c for c in matmul_configs.configs(problem.product(), arch) if c.BLOCK_M * c.BLOCK_N <= largest]
    if problem.columns < 16 and not flat:  # ptxas serialises wgmma around the masks of a tile that is mostly padding
        found = [c for c in found if c.BLOCK_M < 64]
    if problem.kind == "wgrad" and not flat:
        widest = max(16, _power_of_two(problem.columns))
        found = [c for c in found if c.BLOCK_N <= widest]
    return found


def _adapted(problem: Problem, tile: matmul_configs.Config, most: int) -> Config:
    """A matmul's tile for a convolution. most: elements of an inner block."""
    flat = problem.channels < _FLAT_BELOW
    block_k, warps = _inner_block(problem, most, flat), tile.num_warps
    if flat:  # enough threads for 16 addresses each
        warps = max(warps, (tile.BLOCK_N if problem.kind == "wgrad" else tile.BLOCK_M) * block_k // 512)
    return Config(tile.BLOCK_M, tile.BLOCK_N, block_k, tile.GROUP_M, warps, tile.num_stages, flat)


def _inner_block(problem: Problem, most: int, flat: bool) -> int:
    """BLOCK_K: short where addresses differ from element to element, else what wastes least of the last block."""
    if flat:
        return min(most, 32)
    if problem.kind == "wgrad":
        return most if problem.rows % 16 == 0 and problem.columns % 16 == 0 else min(most, 32)
    sizes = [b for b in (64, 32, 16) if b <= most]
    return min(sizes, key=lambda b: _cdiv(problem.inner, b) * b * {64: 1.0, 32: 1.1, 16: 1.35}[b])


# --- depthwise ---


@dataclass(frozen=True, slots=True)
class DirectConfig:
    """Tile sizes of the depthwise kernels: positions and channels."""

    BLOCK_M: int
    BLOCK_N: int
    num_warps: int


def direct_heuristic(rows: int, channels: int, interpreted: bool) -> DirectConfig:
    """rows: positions that a program may walk; interpreted: one block for as much as fits."""
    if interpreted:
        block_n = min(_power_of_two(channels), 1 << 10)
        return DirectConfig(min(_power_of_two(rows), _INTERPRETER_BLOCK // 16 // block_n), block_n, 1)
    block_n = min(_power_of_two(channels), 64)
    return DirectConfig(max(1, min(_power_of_two(rows), 2048 // block_n)), block_n, 4)


def direct_candidates(rows: int, channels: int) -> list[DirectConfig]:
    """The configurations of the depthwise kernels worth timing, the heuristic's first."""
    found = [direct_heuristic(rows, channels, False)]
    for block_n in (32, 64, 128):
        for elements, warps in ((1024, 2), (1024, 4), (2048, 4), (4096, 4), (4096, 8)):
            m, n = elements // block_n, min(_power_of_two(channels), block_n)
            found.append(DirectConfig(max(1, min(_power_of_two(rows), m)), n, warps))
    return list(dict.fromkeys(found))
