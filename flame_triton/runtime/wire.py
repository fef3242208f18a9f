"""Launches as JSON, with as much of them as a compiler needs, for the processes that compile."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from ..graph import plan
from ..graph.plan import KernelRef, Launch, PointerTable, Slot
from ..ir.node import Node
from ..types import DType
from ..types import dtype as as_dtype


class UnsendableError(Exception):
    """The launch holds something that another process cannot look up: a kernel that a user defined."""


def encode(launch: Launch) -> str:
    """One line of text. Raises UnsendableError."""
    arguments = [a.item() if isinstance(a, np.generic) else a for a in launch.args]
    parts = [launch.kernel, tuple(launch.grid), tuple(arguments), launch.constexprs, launch.options]
    return json.dumps([_plain(part) for part in parts])


def decode(line: str) -> Launch:
    """A launch that compiles to the same kernel; it reads and writes nothing, and has no node."""
    kernel, grid, args, constexprs, options = (_value(part) for part in json.loads(line))
    nobody: Node = None  # type: ignore[assignment]
    return Launch(kernel, grid, args, constexprs, options, (), (), nobody)


def _plain(value: Any) -> Any:
    """Numbers and text as they are; anything else as {kind: content}."""
    if isinstance(value, KernelRef) and value.digest:
        raise UnsendableError(f"the kernel {value.name} is an object of this process")
    if isinstance(value, Slot):
        return {"Slot": [value.kind, value.nbytes]}
    if isinstance(value, PointerTable):
        return {"PointerTable": {"rows": {"tuple": []}}}
    if isinstance(value, DType):
        return {"dtype": value.name}
    if isinstance(value, np.ndarray):
        return {"zeros": [list(value.shape), value.dtype.name]}
    if isinstance(value, tuple):
        return {"tuple": [_plain(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": {k: _plain(v) for k, v in value.items()}}
    if is_dataclass(value) and type(value).__module__ == plan.__name__:
        return {type(value).__name__: {f.name: _plain(getattr(value, f.name)) for f in fields(value)}}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise UnsendableError(f"{value!r} cannot be sent")


def _value(plain: Any) -> Any:
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    match kind:
        case "Slot":
            return Slot(*content)
        case "dtype":
            return as_dtype(content)
        case "zeros":
            return np.zeros(*content)
        case "tuple":
            return tuple(_value(v) for v in content)
        case "dict":
            return {k: _value(v) for k, v in content.items()}
        case _:
            return getattr(plan, kind)(**{k: _value(v) for k, v in content.items()})
