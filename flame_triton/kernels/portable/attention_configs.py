"""Problem, starting configuration and grid of the portable attention kernels. Pure Python."""

from __future__ import annotations

from dataclasses import dataclass

_INTERPRETER_BLOCK = 1 << 20  # elements, Triton's own limit
_ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}

KERNELS = ("forward", "keys", "queries", "bias")


@dataclass(frozen=True, slots=True)
class Problem:
    """batch samples; heads, kv_heads; L queries, S keys; E and EV elements a head; dtype: of the operands."""

    batch: int
    heads: int
    kv_heads: int
    L: int
    S: int
    E: int
    EV: int
    dtype: str

    @property
    def block_e(self) -> int:
        """BLOCK_E: E padded to what a product takes."""
        return max(16, _power_of_two(self.E))

    @property
    def block_v(self) -> int:
        """BLOCK_V, for EV."""
        return max(16, _power_of_two(self.EV))


@dataclass(frozen=True, slots=True)
class Config:
    """Heads in one program, queries and keys of a block, launch options."""

    BLOCK_B: int
    BLOCK_M: int
    BLOCK_N: int
    num_warps: int
    num_stages: int


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << max(n - 1, 0).bit_length()


def grid(problem: Problem, config: Config, kernel: str) -> tuple[int]:
    """Programs of the "forward", "queries" or "keys" kernel, on axis 0: the blocks of one head, then the next head."""
    if kernel == "keys":
        blocks, heads = _cdiv(problem.S, config.BLOCK_N), problem.kv_heads
    else:
        blocks, heads = _cdiv(problem.L, config.BLOCK_M), problem.heads
    return (blocks * _cdiv(problem.batch * heads, config.BLOCK_B),)


def bias_grid(problem: Problem, config: Config, shape: tuple[int, ...]) -> tuple[int]:
    """Programs of the "bias" kernel for a bias of this shape."""
    tiles_m = 1 if shape[2] == 1 else _cdiv(problem.L, config.BLOCK_M)
    tiles_n = 1 if shape[3] == 1 else _cdiv(problem.S, config.BLOCK_N)
    return (shape[0] * shape[1] * tiles_m * tiles_n,)


# --- compiled ---

# By the larger of BLOCK_E and BLOCK_V: (BLOCK_M, BLOCK_N, num_warps, num_stages), without spills.
_HALF = {
    "forward": {64: (128, 64, 8, 3), 128: (64, 64, 4, 3), 256: (64, 32, 8, 2)},
    "keys": {64: (64, 128, 8, 2), 128: (64, 64, 4, 2), 256: (32, 32, 8, 1)},
    "queries": {64: (64, 64, 4, 2), 128: (128, 64, 8, 3), 256: (32, 32, 8, 1)},
    "bias": {64: (64, 64, 4, 1), 128: (64, 64, 8, 1), 256: (32, 32, 8, 1)},
}
_HALF_BEFORE_90 = {
    **_HALF,
    "forward": {64: (128, 64, 8, 3), 128: (64, 64, 8, 2), 256: (64, 32, 8, 2)},
    "keys": {64: (32, 64, 8, 2), 128: (32, 64, 8, 2), 256: (32, 32, 8, 1)},
    "queries": {64: (64, 32, 8, 2), 128: (64, 64, 8, 2), 256: (32, 32, 8, 1)},
}
_SINGLE = {
    "forward": {64: (32, 32, 4, 1), 128: (16, 32, 4, 1), 256: (16, 16, 4, 1)},
    "keys": {64: (16, 16, 4, 1), 128: (16, 16, 4, 1), 256: (16, 16, 8, 1)},
    "queries": {64: (16, 16, 4, 1), 128: (16, 16, 4, 1), 256: (16, 16, 8, 1)},
    "bias": {64: (16, 16, 4, 1), 128: (16, 16, 4, 1), 256: (16, 16, 8, 1)},
}
_DOUBLE = (16, 16, 4, 1)


def _compiled(problem: Problem, kernel: str, arch: int) -> Config:
    width = max(64, problem.block_e, problem.block_v)
    if _ITEMSIZE[problem.dtype] == 2:
        chosen = (_HALF if arch >= 90 else _HALF_BEFORE_90)[kernel][width]
    else:
        chosen = _SINGLE[kernel][width] if problem.dtype == "float32" else _DOUBLE
    block_m, block_n, warps, stages = chosen
    block_m = min(block_m, max(16, _power_of_two(problem.L)))
    return Config(1, block_m, min(block_n, max(16, _power_of_two(problem.S))), warps, stages)


_SHARED_LIMIT = {80: 166912, 90: 232448}
_CELLS = {2: (2048, 16384), 4: (256, 4096), 8: (256, 1024)}  # fewest and most scores of a block, by bytes an element


def shared_bytes(problem: Problem, config: Config, kernel: str) -> int:
    """Roughly the shared memory of one program: what it keeps, and what each stage of its loop loads."""
    q, k = config.BLOCK_M, config.BLOCK_N
    width = (problem.block_e + problem.block_v) * _ITEMSIZE[problem.dtype]  # of a row of q and o, or of k and v
    kept, loaded = (k, q) if kernel == "keys" else (q, k)
    if kernel == "forward":
        return q * problem.block_e * _ITEMSIZE[problem.dtype] + k * width * config.num_stages
    return kept * width + loaded * width * config.num_stages + q * k * _ITEMSIZE[problem.dtype]


def candidates(problem: Problem, kernel: str, arch: int = 90) -> list[Config]:
    """The configurations of a kernel worth timing, the heuristic's first; what spills is found by compiling."""
    start = _compiled(problem, kernel, arch)
    limit = _SHARED_LIMIT[90 if arch >= 90 else 80]
    half = _ITEMSIZE[problem.dtype] == 2
    fewest, most = _CELLS[_ITEMSIZE[problem.dtype]]
    tiles = [
        (m, n)
        for m in ((64, 128) if half and kernel == "forward" else (32, 64, 128) if half else (16, 32, 64))
        for n in ((32, 64, 128) if half else (16, 32, 64))
        if fewest <= m * n <= most and m <= max(16, _power_of_two(problem.L)) and n <= max(16, _power_of_two(problem.S))
    ]
    every = [
        Config(1, m, n, warps, stages)
        for m, n in tiles
        for warps in ((4,) if m * n < 4096 else (4, 8))
        for stages in ((1,) if kernel == "bias" else (2, 3) if half else (1, 2))
    ]
    wide = max(problem.block_e, problem.block_v) > 128  # registers end before tiles do
    fitting = [c for c in every if shared_bytes(problem, c, kernel) <= limit and not (wide and c.num_warps < 8)]
    return list(dict.fromkeys([start, *fitting]))[:24]


# --- interpreted ---


def _interpreted(problem: Problem, kernel: str) -> Config:
    """The fewest, largest blocks: a program costs about 2 ms whatever its size."""
    m, n = (min(1024, max(16, _power_of_two(d))) for d in (problem.L, problem.S))
    room = _INTERPRETER_BLOCK // max(m * n, max(m, n) * max(problem.block_e, problem.block_v))
    heads = problem.batch * (problem.kv_heads if kernel == "keys" else problem.heads)
    return Config(1 if kernel == "bias" else min(_power_of_two(heads), room), m, n, 1, 1)


def heuristic(problem: Problem, kernel: str, interpreted: bool, arch: int = 90) -> Config:
    """The configuration of a kernel (one of KERNELS) when nothing has been measured."""
    return _interpreted(problem, kernel) if interpreted else _compiled(problem, kernel, arch)
