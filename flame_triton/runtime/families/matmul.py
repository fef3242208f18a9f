"""How matrix products become launches."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...errors import CompileError
from ...graph.access import map_onto, matrix_strides
from ...graph.plan import KernelRef, Operand
from ...ir.node import Node, Value
from ...kernels.portable import matmul_configs

if TYPE_CHECKING:
    from ..lower import Lowering

_KERNEL = KernelRef("flame_triton.kernels.portable.matmul", "matmul")


def matmul(lowering: Lowering, node: Node) -> None:
    """C[b] = A[b] @ B[b]; inputs: A [..., M, K], B [..., K, N]."""
    call = lowering.call(node)
    a, b = call.operands
    first, second = _matrix(lowering, a), _matrix(lowering, b)
    batch, (m, k), n = math.prod(a.shape[:-2]), a.shape[-2:], b.shape[-1]
    layouts = ["n" if s[-1] == 1 or s[-2] != 1 else "t" for _, s in (first, second)]
    problem = matmul_configs.Problem(
        batch, m, n, k, a.dtype.name, *layouts, row_multiple=call.row_multiple, heavy=call.heavy
    )
    target = lowering.target
    config = lowering.choose(
        node, "matmul", {**asdict(problem), "epilogue": lowering.epilogue_digest(call)},
        lambda: matmul_configs.configs(problem, target.arch),
        lambda: matmul_configs.heuristic(problem, target.interpreted, target.arch),
    )  # fmt: skip
    constexprs = {
        "INPUT_PRECISION": "ieee",
        "BLOCK_B": config.BLOCK_B,
        "BLOCK_M": config.BLOCK_M,
        "BLOCK_N": config.BLOCK_N,
        "BLOCK_K": config.BLOCK_K,
        "GROUP_M": config.GROUP_M,
        "EVEN_K": config.even_k(k),
        "SLICES": config.slices(problem, target.interpreted),
    }
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    sizes = (m, n, k, batch, first[1][0], *first[1][1:], *second[1][1:])
    lowering.emit_call(
        call, _KERNEL, matmul_configs.grid(problem, config), lambda ptrs: (first[0], second[0], ptrs, *sizes),
        constexprs, options, "matmul",
    )  # fmt: skip


def _matrix(lowering: Lowering, value: Value) -> tuple[Operand, tuple[int, int, int, int, int]]:
    """A matmul operand: pointer, and (inner batch size, two batch strides, row stride, column stride)."""
    base = lowering.base(value)
    found = matrix_strides(map_onto(value, base))
    if found is None:
        raise CompileError(f"{value!r} cannot be read in place by a matmul", loc=value.node.loc)
    return Operand(lowering.slots[base], value.dtype, found[0]), found[1:]


FAMILIES = {"matmul": matmul}
