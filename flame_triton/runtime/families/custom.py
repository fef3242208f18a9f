"""How users' own kernels become launches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import ArgumentError, CompileError, FlameError
from ...graph.plan import KernelRef, Operand
from ...ir.node import Node
from ...ops.custom import OPTIONS, CustomKernel, Problem
from ..jit import constexprs_of, hold, parameters

if TYPE_CHECKING:
    from ..lower import Lowering


def custom(lowering: Lowering, node: Node) -> None:
    """One launch of a user's kernel; its parameters are matched by name (see ops/custom.py)."""
    spec = node.op.lowering
    assert isinstance(spec, CustomKernel)
    ref = _reference(spec)
    target = lowering.target
    problem = Problem(tuple(v.type for v in node.inputs), node.types, dict(node.attrs), target.arch, target.interpreted)
    try:
        config = dict(spec.config(problem))
        given = dict(spec.args(problem))
        grid = _grid(spec.grid(problem, config))
        options = {k: config.pop(k) for k in OPTIONS if k in config}
        named, constants, pointers = _sort(ref, given, config, len(node.inputs), len(node.outputs))
    except FlameError as error:
        error.op, error.loc = error.op or node.op.name, error.loc or node.loc
        raise
    results = [lowering.slots[v] for v in node.outputs]
    memory = [lowering.operand(v) for v in node.inputs]
    memory += [Operand(s, v.dtype) for s, v in zip(results, node.outputs, strict=True)]
    named |= dict(zip(pointers, memory, strict=True))
    args = [named[name] for name in parameters(ref).names if name in named]
    reads = [lowering.slot(v) for v in node.inputs]
    lowering.emit(node, ref, grid, args, constants, options, reads, results, node.op.name)


def _reference(spec: CustomKernel) -> KernelRef:
    """The kernel as a reference: by module and name, or, if it is held as an object, with the digest of its source."""
    if isinstance(spec.kernel, str):
        module, _, name = spec.kernel.partition(":")
        return KernelRef(module, name)
    function = spec.kernel.fn
    ref = KernelRef(function.__module__, function.__qualname__, digest=spec.digest)
    hold(ref, spec.kernel)
    return ref


def _grid(found: Any) -> tuple[int, ...]:
    grid = (found,) if isinstance(found, int) else tuple(found)
    if not 1 <= len(grid) <= 3 or not all(isinstance(n, int) and n >= 0 for n in grid):
        raise ArgumentError(f"grid must give one to three whole numbers, got {found!r}")
    return grid


def _sort(
    ref: KernelRef, given: Mapping[str, Any], config: Mapping[str, Any], inputs: int, outputs: int
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The kernel's run-time arguments, its constexprs, and the parameters left for pointers.

    Raises CompileError if that does not add up.
    """
    names = parameters(ref).names
    twice, strange = sorted(set(given) & set(config)), sorted({*given, *config} - set(names))
    if twice or strange:
        what = f"both args and the configuration give {', '.join(twice)}" if twice else ""
        what = what or f"the kernel has no parameter {', '.join(strange)}; it has {', '.join(names)}"
        raise CompileError(what)
    marked = constexprs_of(ref)
    every = {**given, **config}
    constants = {k: v for k, v in every.items() if k in marked}
    left = [n for n in names if n not in every]
    unset = [n for n in left if n in marked]
    if unset:
        raise CompileError(f"neither args nor the configuration gives the constexpr {', '.join(unset)}")
    if len(left) != inputs + outputs:
        raise CompileError(
            f"the kernel is left with the parameters {', '.join(left) or 'none'} for pointers to {inputs} operands and "
            f"{outputs} results; args must give the others by name"
        )
    numbers = {k: v for k, v in every.items() if k not in marked}
    for k, v in numbers.items():
        if not isinstance(v, int | float):
            raise CompileError(f"args gives {v!r} for {k}, which is no constexpr: it must be a number")
    return numbers, constants, left


FAMILIES = {"custom": custom}
