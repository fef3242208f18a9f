"""Problem, configuration space and starting configuration of the portable matmul. Pure Python."""

from __future__ import annotations

import math
from dataclasses import dataclass

_ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_INTERPRETER_BLOCK = 1 << 20  # elements, Triton's own limit


@dataclass(frozen=True, slots=True)
class Problem:
    """One batched product [M, K] @ [K, N].

    dtype: of both operands; layout_a, layout_b: "n" if the matrix is row-major, "t" if its transpose is;
    precision: of float32 products, as in `library.dot`.
    row_multiple: the epilogue wants BLOCK_M to be a multiple of it; heavy: it needs registers besides the accumulator.
    """

    batch: int
    M: int
    N: int
    K: int
    dtype: str
    layout_a: str = "n"
    layout_b: str = "n"
    precision: str = "ieee"
    row_multiple: int = 1
    heavy: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes of an operand element."""
        return _ITEMSIZE[self.dtype]

    @property
    def multiplications(self) -> int:
        """Of all matrices."""
        return self.batch * self.M * self.N * self.K

    @property
    def tensor_cores(self) -> bool:
        """True if products run on tensor cores with float32 accumulation."""
        return self.itemsize == 2 or (self.dtype == "float32" and self.precision != "ieee")


@dataclass(frozen=True, slots=True)
class Config:
    """Tile sizes (elements; BLOCK_B batch elements in one program), raster group and launch options."""

    BLOCK_B: int
    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    GROUP_M: int
    num_warps: int
    num_stages: int

    def even_k(self, K: int) -> bool:
        """The EVEN_K argument of the kernel."""
        return K > 0 and K % self.BLOCK_K == 0

    def slices(self, problem: Problem, interpreted: bool) -> int:
        """The SLICES argument of the kernel: 16 elements a thread, mostly, for a heavy epilogue."""
        return max(1, min(4, self.BLOCK_N // 32)) if problem.heavy and not interpreted and self.BLOCK_B == 1 else 1


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_two(n: int) -> int:
    """The smallest power of two >= n."""
    return 1 << max(n - 1, 0).bit_length()


def grid(problem: Problem, config: Config) -> tuple[int]:
    """Programs to launch, on axis 0 alone (axes 1 and 2 end at 65535): tiles of one batch block, then the next block.

    An empty result has 0 programs: skip the launch.
    """
    tiles = _cdiv(problem.M, config.BLOCK_M) * _cdiv(problem.N, config.BLOCK_N)
    return (tiles * _cdiv(problem.batch, config.BLOCK_B),)


# --- compiled ---

# Shared memory a block may use (bytes), multiprocessors, and dense 16-bit tensor FLOP per cycle and multiprocessor.
_SHARED_LIMIT = {80: 166912, 90: 232448}
_MULTIPROCESSORS = {80: 108, 90: 132}
_TENSOR_FLOP = {80: 2048, 90: 4096}
_L2_BYTES_PER_CYCLE = 56
_STORE_BYTES_PER_CYCLE = 18
_PROGRAM_CYCLES = 1500  # start, first loads, last store; hidden in part by the other programs on a multiprocessor

# (BLOCK_M, BLOCK_N, BLOCK_K, num_warps); BLOCK_K shrinks to the problem.
_HALF_TILES = (
    (256, 128, 64, 8), (128, 256, 64, 8), (128, 128, 64, 8), (128, 128, 64, 4), (128, 64, 64, 4), (64, 256, 64, 4),
    (64, 128, 64, 4), (64, 64, 64, 4), (128, 32, 64, 4), (64, 32, 64, 4), (64, 16, 64, 4), (32, 64, 64, 4),
    (32, 32, 64, 2), (16, 64, 64, 1), (32, 16, 64, 1), (16, 32, 64, 1), (16, 16, 64, 1),
)  # fmt: skip
_SINGLE_TILES = (
    (128, 128, 16, 8), (128, 64, 16, 4), (64, 128, 16, 4), (64, 64, 16, 4), (32, 32, 16, 1), (16, 64, 16, 1),
    (64, 16, 16, 1), (16, 16, 16, 1),
)  # fmt: skip
_TF32_TILES = (
    (128, 128, 32, 8), (128, 64, 32, 4), (64, 128, 32, 4), (64, 64, 32, 4), (64, 32, 32, 4), (32, 64, 32, 4),
    (32, 32, 32, 1), (16, 64, 32, 1), (16, 16, 32, 1),
)  # fmt: skip
_DOUBLE_TILES = ((64, 64, 16, 4), (64, 32, 16, 4), (32, 64, 16, 4), (32, 32, 16, 2), (16, 16, 16, 1))


def _arch(arch: int) -> int:
    """The table row for a compute capability (90 for sm_90 and newer)."""
    return 90 if arch >= 90 else 80


def shared_bytes(config: Config, problem: Problem, arch: int) -> int:
    """Upper bound of the shared memory of one program: the operand buffers, or the accumulator on its way out."""
    stage = (config.BLOCK_M + config.BLOCK_N) * config.BLOCK_K * config.BLOCK_B * problem.itemsize
    accumulator = config.BLOCK_B * config.BLOCK_M * config.BLOCK_N * (8 if problem.dtype == "float64" else 4)
    return max(stage * max(config.num_stages, 1), accumulator) + 1024


def _tiles(problem: Problem) -> tuple[tuple[int, int, int, int], ...]:
    if problem.itemsize == 2:
        return _HALF_TILES
    if problem.dtype == "float64":
        return _DOUBLE_TILES
    return _SINGLE_TILES if problem.precision == "ieee" else _TF32_TILES


def _group_m(problem: Problem, block_m: int, block_n: int) -> int:
    """Row tiles walked together: few when the product is tall (B stays in L2 anyway), many when it is wide."""
    tiles_m, tiles_n = _cdiv(problem.M, block_m), _cdiv(problem.N, block_n)
    if tiles_m >= 8 * tiles_n:
        return 1
    return 32 if tiles_n >= 8 * tiles_m else 8


def configs(problem: Problem, arch: int = 90) -> list[Config]:
    """The configurations worth timing for a compiled problem; each fits the shared memory of `arch` (80, 90, ...).

    Tiles longer than the problem rounded up to a power of two are left out; the pipeline is no deeper than the loop.
    """
    limit = _SHARED_LIMIT[_arch(arch)]
    found = []
    for block_m, block_n, block_k, warps in _tiles(problem):
        if block_m > max(16, _power_of_two(problem.M)) or block_n > max(16, _power_of_two(problem.N)):
            continue
        if block_m % problem.row_multiple:
            continue
        block_k = min(block_k, max(16, _power_of_two(problem.K)))
        group = _group_m(problem, block_m, block_n)
        deepest = min(4, _cdiv(problem.K, block_k) + 1)
        for stages in sorted({max(2, deepest), max(2, deepest - 1)}, reverse=True):
            config = Config(1, block_m, block_n, block_k, group, warps, stages)
            if shared_bytes(config, problem, arch) <= limit:
                found.append(config)
    return found


def _efficiency(config: Config, problem: Problem, arch: int) -> float:
    """The part of the peak FLOP rate that a tile shape can reach when its operands are in shared memory."""
    if not problem.tensor_cores:
        return {128: 0.9, 64: 0.75, 32: 0.45}.get(min(config.BLOCK_M, config.BLOCK_N), 0.2)
    if arch >= 90 and config.BLOCK_M >= 64 and config.num_warps >= 4:  # wgmma
        part = {256: 1.0, 128: 0.9, 64: 0.65, 32: 0.4}.get(config.BLOCK_N, 0.25)
        area = config.BLOCK_M * config.BLOCK_N
        if area >= 4096 * config.num_warps and (config.num_warps == 4 or problem.heavy):
            part *= 0.5  # 128 accumulators a thread leave no registers for an epilogue
        # Measured on an H200 (docs/measurements.md): short products do not pay for large tiles.
        return part * 0.7 if area > 8192 and problem.K < 2048 else part
    peak = 0.5 if arch >= 90 else 0.9
    return peak * {128: 1.0, 64: 0.8, 32: 0.6}.get(min(config.BLOCK_M, config.BLOCK_N, 128), 0.4)


def estimate_cycles(config: Config, problem: Problem, arch: int = 90) -> float:
    """A rough cost in clock cycles: waves of programs, each bound by its products or its loads, plus its store."""
    row = _arch(arch)
    if problem.itemsize == 2:
        rate = _TENSOR_FLOP[row]
    elif problem.tensor_cores:
        rate = _TENSOR_FLOP[row] // 2
    else:
        rate = 256 if problem.dtype == "float32" or row == 90 else 128
    area = config.BLOCK_M * config.BLOCK_N
    products = 2 * area / (rate * _efficiency(config, problem, arch))
    loads = (config.BLOCK_M + config.BLOCK_N) * problem.itemsize / _L2_BYTES_PER_CYCLE
    depth = _cdiv(problem.K, config.BLOCK_K) * config.BLOCK_K
    program = depth * max(products, loads) + area * problem.itemsize / _STORE_BYTES_PER_CYCLE
    resident = min(16, _SHARED_LIMIT[row] // shared_bytes(config, problem, arch), 64 // config.num_warps)
    waves = _cdiv(grid(problem, config)[0], _MULTIPROCESSORS[row])
    return waves * (program + _PROGRAM_CYCLES / resident) + _PROGRAM_CYCLES


# --- interpreted ---


def _interpreted(problem: Problem) -> Config:
    """The fewest, largest blocks: a program costs about 2 ms whatever its size."""
    m, n, k = (max(16, _power_of_two(d)) for d in (problem.M, problem.N, problem.K))
    while max(m * k, k * n, m * n) > _INTERPRETER_BLOCK:
        if k >= max(m, n):
            k //= 2
        elif m >= n:
            m //= 2
        else:
            n //= 2
    room = _INTERPRETER_BLOCK // max(m * k, k * n, m * n)
    return Config(min(_power_of_two(problem.batch), room), m, n, k, 1, 1, 1)


def heuristic(problem: Problem, interpreted: bool, arch: int = 90) -> Config:
    """The configuration to use when nothing has been measured: see `estimate_cycles`, or, interpreted, the largest."""
    if interpreted:
        return _interpreted(problem)
    # Of equal estimates the earlier and deeper one wins: larger tiles stand first.
    return min(configs(problem, arch), key=lambda config: math.floor(estimate_cycles(config, problem, arch)))
