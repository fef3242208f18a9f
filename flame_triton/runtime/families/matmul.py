"""How matrix products become launches: by the portable kernel, or by Hopper's where TMA can read the operands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING

from ...errors import CompileError
from ...graph.access import map_onto, matrix_strides
from ...graph.plan import Descriptor, KernelRef, Operand, Slot, Target
from ...ir.node import Node, Value
from ...kernels.hopper import matmul_configs as hopper_configs
from ...kernels.hopper.matmul_configs import HopperConfig
from ...kernels.portable import matmul_configs
from ...kernels.portable.matmul_configs import Config, Problem
from ...types import float32

if TYPE_CHECKING:
    from ..lower import KernelCall, Lowering

_PORTABLE = KernelRef("flame_triton.kernels.portable.matmul", "matmul")
_HOPPER = KernelRef("flame_triton.kernels.hopper.matmul", "matmul")
_TAIL = KernelRef("flame_triton.kernels.hopper.matmul_tail", "finish")


_ENOUGH = 1 << 26  # multiplications from which the Hopper kernel's start pays


@dataclass(frozen=True)
class _Matrix:
    """A matmul operand [..., rows, columns]: batch size, inner batch size, strides of both, of rows and columns."""

    operand: Operand
    batch: int
    inner: int
    outer_stride: int
    inner_stride: int
    rows: int
    columns: int
    row_stride: int
    column_stride: int

    @property
    def layout(self) -> str:
        """ "n" if it is stored row by row, "t" if column by column."""
        return "n" if self.column_stride == 1 or self.row_stride != 1 else "t"

    @property
    def strides(self) -> tuple[int, int, int, int]:
        return self.outer_stride, self.inner_stride, self.row_stride, self.column_stride

    def descriptor(self, rows: int, columns: int) -> Descriptor | None:
        """For TMA, in blocks of rows x columns (of its transpose if that is how it is stored); None if TMA cannot."""
        if self.layout == "n":
            shape, strides, block = (self.rows, self.columns), (self.row_stride, self.column_stride), (rows, columns)
        else:
            shape, strides, block = (self.columns, self.rows), (self.column_stride, self.row_stride), (columns, rows)
        lead = strides[0] if shape[0] > 1 else _rounded(shape[1], self.operand.dtype.itemsize)
        step = self._batch_stride()
        if step is None:
            return None
        step = step if self.batch > 1 else shape[0] * lead
        size = self.operand.dtype.itemsize
        aligned = all(n * size % 16 == 0 for n in (self.operand.offset, lead, step))
        if strides[1] != 1 or not aligned or min(lead, step) <= 0 or max(lead, step) * size >= 1 << 40:
            return None
        return Descriptor(self.operand, (self.batch, *shape), (step, lead, 1), (1, *block))

    def _batch_stride(self) -> int | None:
        """The one stride of all batch axes, or None if there are two."""
        if self.inner == 1 or self.inner == self.batch:
            return self.outer_stride if self.inner == 1 else self.inner_stride
        return self.inner_stride if self.outer_stride == self.inner * self.inner_stride else None


def _rounded(n: int, itemsize: int) -> int:
    """n elements, in whole 16 bytes."""
    return -(-n * itemsize // 16) * 16 // itemsize


def matmul(lowering: Lowering, node: Node) -> None:
    """C[b] = A[b] @ B[b]; inputs: A [..., M, K], B [..., K, N]."""
    call = lowering.call(node)
    a, b = (_matrix(lowering, value) for value in call.operands)
    problem = Problem(
        a.batch, a.rows, b.columns, a.columns, a.operand.dtype.name, a.layout, b.layout,
        row_multiple=call.row_multiple, heavy=call.heavy,
    )  # fmt: skip
    target = lowering.target
    out = call.region.inputs[0].dtype.itemsize
    hopper = out if _takes_hopper(target, a, b) else 0
    facts = {**asdict(problem), "epilogue": lowering.epilogue_digest(call), "hopper": hopper}
    config = lowering.choose(
        node, "matmul", facts, lambda: _candidates(problem, target, hopper), lambda: _heuristic(problem, target, hopper)
    )
    if isinstance(config, HopperConfig):
        _emit_hopper(lowering, call, problem, config, a, b)
    else:
        _emit_portable(lowering, call, problem, config, a, b)


def _takes_hopper(target: Target, a: _Matrix, b: _Matrix) -> bool:
    """True if the Hopper kernel can run the product: 16-bit operands that TMA can read, enough work for a tile."""
    if target.interpreted or target.arch != 90 or a.operand.dtype.itemsize != 2:
        return False
    return a.descriptor(64, 64) is not None and b.descriptor(64, 64) is not None


def _candidates(problem: Problem, target: Target, hopper: int) -> Sequence[Config | HopperConfig]:
    """hopper: bytes of an element of the product if the Hopper kernel can run it, else 0."""
    portable = matmul_configs.configs(problem, target.arch)
    if not hopper:
        return portable
    start = matmul_configs.heuristic(problem, False, target.arch)
    return [*hopper_configs.configs(problem, target.processors, hopper), *dict.fromkeys((start, *portable[:2]))]


@cache
def _heuristic(problem: Problem, target: Target, hopper: int) -> Config | HopperConfig:
    if hopper and min(problem.M, problem.N, problem.K) >= 64 and problem.multiplications >= _ENOUGH:
        return hopper_configs.heuristic(problem, target.processors, hopper)
    return matmul_configs.heuristic(problem, target.interpreted, target.arch)


def _emit_portable(
    lowering: Lowering, call: KernelCall, problem: Problem, config: Config, a: _Matrix, b: _Matrix
) -> None:
    constexprs = {
        "INPUT_PRECISION": "ieee",
        "BLOCK_B": config.BLOCK_B,
        "BLOCK_M": config.BLOCK_M,
        "BLOCK_N": config.BLOCK_N,
        "BLOCK_K": config.BLOCK_K,
        "GROUP_M": config.GROUP_M,
        "EVEN_K": config.even_k(problem.K),
        "SLICES": config.slices(problem, lowering.target.interpreted),
    }
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    sizes = (problem.M, problem.N, problem.K, problem.batch, a.inner, *a.strides, *b.strides)
    lowering.emit_call(
        call, _PORTABLE, matmul_configs.grid(problem, config), lambda ptrs: (a.operand, b.operand, ptrs, *sizes),
        constexprs, options, "matmul",
    )  # fmt: skip


def _emit_hopper(
    lowering: Lowering, call: KernelCall, problem: Problem, config: HopperConfig, a: _Matrix, b: _Matrix
) -> None:
    """One launch; a second one where the last tiles are cut along K."""
    processors = lowering.target.processors
    programs, cut = config.programs(problem, processors), config.cut(problem, processors)
    sizes = (problem.M, problem.N, problem.K, problem.batch)
    tile = config.tile_rows * config.BLOCK_N
    work = [Slot("arena", 2 * programs * tile * 4)] if cut else []
    work_pointer = Operand(work[0], float32) if cut else Operand(lowering.slot(call.operands[0]), a.operand.dtype)
    first = a.descriptor(config.ROWS, config.BLOCK_K)
    second = b.descriptor(config.BLOCK_K, config.BLOCK_N)
    assert first is not None and second is not None, "decided by _takes_hopper"
    producer, consumers = config.registers
    constexprs = {
        "DTYPE": KernelRef("triton.language", call.region.inputs[0].dtype.name),
        "CONSUMERS": config.CONSUMERS,
        "A_ROWS_OUTSIDE": a.layout == "n",
        "B_ROWS_OUTSIDE": b.layout == "n",
        "PING_PONG": config.PING_PONG,
        "SPLIT": bool(cut),
        "ROWS": config.ROWS,
        "BLOCK_N": config.BLOCK_N,
        "BLOCK_K": config.BLOCK_K,
        "STAGES": config.STAGES,
        "GROUP_M": config.GROUP_M,
        "PANEL": config.PANEL,
        "SLICE": config.SLICE,
        "PRODUCER_REGISTERS": producer,
        "CONSUMER_REGISTERS": consumers,
    }
    lowering.emit_call(
        call, _HOPPER, (programs,), lambda ptrs: (first, second, work_pointer, ptrs, *sizes), constexprs,
        {"num_warps": 4}, "hopper matmul", written=work,
    )  # fmt: skip
    if cut:
        block = {"BLOCK_M": max(32, call.row_multiple), "BLOCK_N": 64, "PARTS": -(-programs // cut) + 3}
        tail = {"TILE_M": config.tile_rows, "TILE_N": config.BLOCK_N, "DEPTH": config.depth(problem), **block}
        lowering.emit_call(
            call, _TAIL, (cut, config.tile_rows // block["BLOCK_M"], config.BLOCK_N // block["BLOCK_N"]),
            lambda ptrs: (work_pointer, ptrs, problem.M, problem.N, programs, problem.batch),
            {**tail, "GROUP_M": config.GROUP_M}, {"num_warps": 4}, "hopper matmul, cut tiles", read=work,
        )  # fmt: skip


def _matrix(lowering: Lowering, value: Value) -> _Matrix:
    base = lowering.base(value)
    found = matrix_strides(map_onto(value, base))
    if found is None:
        raise CompileError(f"{value!r} cannot be read in place by a matmul", loc=value.node.loc)
    offset, inner, *strides = found
    operand = Operand(lowering.slots[base], value.dtype, offset)
    outer, step, row, column = strides
    *batch, rows, columns = value.shape
    return _Matrix(operand, math.prod(batch), inner, outer, step, rows, columns, row, column)


FAMILIES = {"matmul": matmul}
