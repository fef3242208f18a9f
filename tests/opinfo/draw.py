"""torch's samples as data: which OpInfo, which calls, their tensors, and the rules by which a sample is left out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import flame_triton as ft

from .adapter import OutOfScope, dtype_of

FOREIGN = ("out", "generator", "names")
"""Keywords without a counterpart in a static graph: a sample with one is out of scope."""

STORAGE = ("memory_format", "layout", "device", "pin_memory", "requires_grad", "non_blocking", "copy")
"""Keywords about how torch stores a result, not what it is: left out of our call."""


@functools.cache
def op_db() -> dict[str, Any]:
    """Every OpInfo by its name, or name/variant. Imported late: it imports triton, and takes seconds."""
    from torch.testing._internal.common_methods_invocations import op_db as all_ops

    found: dict[str, Any] = {}
    for op in all_ops:
        found.setdefault(f"{op.name}/{op.variant_test_name}" if op.variant_test_name else op.name, op)
    return found


def mapped(x: Any, change: Callable[[Any], Any]) -> Any:
    """A nest of lists, tuples and dicts with `change` applied to its leaves."""
    if isinstance(x, dict):
        return {k: mapped(v, change) for k, v in x.items()}
    if isinstance(x, list | tuple) and not hasattr(x, "_fields"):
        return (list if isinstance(x, list) else tuple)(mapped(v, change) for v in x)
    return change(x)


def leaves(x: Any) -> Iterator[Any]:
    """The leaves of nested lists, tuples and dicts, in order."""
    if isinstance(x, dict):
        for v in x.values():
            yield from leaves(v)
    elif isinstance(x, list | tuple):
        for v in x:
            yield from leaves(v)
    else:
        yield x


@dataclass(frozen=True)
class Static:
    """A tensor argument whose numbers are known when the graph is built."""

    tensor: torch.Tensor


@dataclass
class Drawn:
    """One call of a torch function: its arguments, with the tensors among them in a flat list."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, sample: Any, static: tuple[int | str, ...] = ()) -> Drawn:
        def known(key: int | str, x: Any) -> Any:
            return Static(x) if key in static and isinstance(x, torch.Tensor) else x

        args = tuple(known(i, x) for i, x in enumerate((sample.input, *sample.args)))
        drawn = cls(args, {k: known(k, x) for k, x in sample.kwargs.items()})
        drawn.tensors = [x for x in leaves((drawn.args, drawn.kwargs)) if isinstance(x, torch.Tensor)]
        return drawn

    def check(self) -> None:
        """Raises OutOfScope by the rules that hold for every function."""
        for name in FOREIGN:
            if self.kwargs.get(name) is not None:
                raise OutOfScope(f"{name}=")
        for t in self.tensors:
            if t.layout != torch.strided or t.is_nested:
                raise OutOfScope("a sparse or nested tensor")
            if t.device.type not in ("cpu", "cuda"):
                raise OutOfScope("a tensor without memory")
            dtype_of(t.dtype)
        for x in leaves((self.args, self.kwargs)):
            if isinstance(x, torch.dtype):
                dtype_of(x)
            if isinstance(x, complex):
                raise OutOfScope("a complex number")

    @property
    def size(self) -> int:
        return sum(t.numel() for t in self.tensors)

    def place(
        self, replacements: list[Any], dtype: Callable[[torch.dtype], Any], number: Callable[[torch.Tensor], Any]
    ) -> tuple[Any, Any]:
        """The arguments with the tensors replaced, in order, and dtypes and static tensors translated."""
        left = iter(replacements)

        def change(x: Any) -> Any:
            if isinstance(x, torch.Tensor):
                return next(left)
            if isinstance(x, Static):
                return number(x.tensor)
            return dtype(x) if isinstance(x, torch.dtype) else x

        return mapped(self.args, change), mapped(self.kwargs, change)

    def values(self) -> list[ft.Value]:
        """An input for each tensor."""
        return [ft.input(tuple(t.shape), dtype_of(t.dtype)) for t in self.tensors]

    def arrays(self) -> list[np.ndarray]:
        return [as_array(t) for t in self.tensors]

    def ours(self, call: Callable[..., Any], values: list[ft.Value]) -> list[ft.Value]:
        args, kwargs = self.place(list(values), dtype_of, torch.Tensor.tolist)
        kwargs = {k: v for k, v in kwargs.items() if k not in STORAGE}
        return [ft.constant(v) if not isinstance(v, ft.Value) else v for v in leaves(call(*args, **kwargs))]

    def theirs(self, op: Callable[..., Any], dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """torch's results with every float of type `dtype`, and the tensors that require gradients."""

        def convert(t: torch.Tensor) -> torch.Tensor:
            fresh = t.detach().to(dtype).clone() if t.is_floating_point() else t.detach().clone()
            return fresh.requires_grad_(t.requires_grad)

        def wide(d: torch.dtype) -> torch.dtype:
            return dtype if d is torch.float32 else d

        tensors = [convert(t) for t in self.tensors]
        args, kwargs = self.place(list(tensors), wide, convert)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # what integers become, and numbers
        try:
            found = [torch.as_tensor(x) for x in leaves(op(*args, **kwargs))]
        finally:
            torch.set_default_dtype(before)
        return found, [t for t in tensors if t.requires_grad]

    def __str__(self) -> str:
        def show(x: Any) -> str:
            if isinstance(x, Static):
                return repr(x.tensor.tolist())
            if isinstance(x, torch.Tensor):
                name = str(x.dtype).removeprefix("torch.")
                return f"{name}{list(x.shape)}"
            if isinstance(x, dict):
                return ", ".join(f"{k}={show(v)}" for k, v in x.items())
            if isinstance(x, list | tuple):
                inside = ", ".join(map(show, x))
                return f"[{inside}]" if isinstance(x, list) else f"({inside})"
            return repr(x)

        parts = [*map(show, self.args), *([show(self.kwargs)] if self.kwargs else [])]
        return f"({', '.join(parts)})"


def as_array(t: torch.Tensor) -> np.ndarray:
    t = t.detach().cpu()
    return (t.float() if t.dtype is torch.bfloat16 else t).numpy(force=True).copy()


@functools.lru_cache(maxsize=4)
def samples(name: str, dtype: torch.dtype, requires_grad: bool, static: tuple[int | str, ...]) -> list[Drawn]:
    """Every sample of an OpInfo in one dtype; none if it does not support the dtype, or if this torch has no such."""
    op = op_db().get(name)
    if op is None or dtype not in op.dtypes:
        return []
    grad = requires_grad and op.supports_autograd
    return [Drawn.of(s, static) for s in op.sample_inputs("cpu", dtype, requires_grad=grad)]


def spread(items: list[Any], most: int) -> list[Any]:
    """At most `most` of them, evenly spaced."""
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]
