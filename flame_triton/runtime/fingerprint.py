"""What a measured time depends on besides problem and configuration: the kernel's source, and the compilers' versions.

A kernel's digest covers its own function, every function of ours that it calls, the constants they use, and the fused
functions it is given (epilogues, bodies), as parsed: comments, docstrings and places in a file do not matter.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

from ..graph.plan import KernelRef, Launch
from .jit import resolve


def of_launches(launches: Sequence[Launch]) -> str:
    """The digest of the kernels that these launches run, in order."""
    parts = [_digest(ref) for launch in launches for ref in _functions((launch.kernel, launch.constexprs))]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def triton_version() -> str:
    """The version of triton."""
    import triton

    return triton.__version__


@cache
def ptxas_version(arch: int) -> str:
    """The version of the assembler that triton uses for a compute capability (90, ...)."""
    from triton.backends.nvidia.compiler import get_ptxas_version

    return next((line for line in get_ptxas_version(arch).splitlines() if "release" in line), "unknown").strip()


def _functions(value: Any) -> Iterator[KernelRef]:
    """Every Triton function named in a constant, outside triton itself."""
    if isinstance(value, KernelRef):
        if value.module.partition(".")[0] != "triton":
            yield value
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _functions(value[key])
    elif isinstance(value, tuple):
        for part in value:
            yield from _functions(part)


@cache
def _digest(ref: KernelRef) -> str:
    found: dict[FunctionType, str] = {}
    _collect(resolve(ref), found)
    return hashlib.sha256("\n".join(found.values()).encode()).hexdigest()


def _collect(function: Any, found: dict[FunctionType, str]) -> None:
    """Enter a Triton function, then those it calls: its code and the constants it names."""
    plain: FunctionType = function.fn
    if plain in found:
        return
    if plain not in _known:
        _known[plain] = _read(function)
    found[plain], callees = _known[plain]
    for callee in callees:
        _collect(callee, found)


_known: dict[FunctionType, tuple[str, list[Any]]] = {}


def _read(function: Any) -> tuple[str, list[Any]]:
    """The code of one Triton function with the constants it names, and the functions of ours that it calls."""
    tree = _syntax(function)
    lines = [ast.unparse(tree)]  # unlike a dump of the tree, the same in every version of Python
    callees: list[Any] = []
    named = function.fn.__globals__
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            value: Any = named.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = named.get(node.value.id)
            value = getattr(module, node.attr, None) if isinstance(module, ModuleType) else None
        else:
            continue
        if isinstance(getattr(value, "fn", None), FunctionType):
            if not value.fn.__module__.startswith("triton."):
                callees.append(value)
        elif isinstance(value, int | float | str) or type(value).__name__ == "constexpr":
            lines.append(f"{ast.unparse(node)} = {value!r}")
    return "\n".join(lines), callees


def _syntax(function: Any) -> ast.Module:
    """The syntax tree of a Triton function without its docstring."""
    lines = getattr(function, "raw_src", None)  # a compiled function keeps its lines; an interpreted one does not
    source = "".join(lines) if lines else inspect.getsource(function.fn)
    tree = ast.parse(textwrap.dedent(source))
    body = tree.body[0].body if isinstance(tree.body[0], ast.FunctionDef) else []
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        del body[0]
    return tree
