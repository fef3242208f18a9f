"""Modules: named parameters and a function that builds graph.

A module declares `Parameter`s; they become Values, named by their dotted path from the root ("blocks.0.attn.to_q.weight"),
when the root is first called or asked for its parameters. Nothing is computed here: calling a module adds nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StateError
from ..ir.node import Value
from ..ir.op import call
from ..types import DTypeLike, float32

if TYPE_CHECKING:
    from ..runtime.state import State


@dataclass(frozen=True)
class Parameter:
    """The declaration of a parameter. init: see ft.parameter; trainable: listed by `parameters()`."""

    shape: tuple[int, ...]
    init: Any = None
    dtype: DTypeLike = float32
    trainable: bool = True


class Module:
    """Base class: assign Parameters, Modules, and lists of Modules as attributes; define `forward`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Add this module's nodes to the graph: what `forward` returns."""
        self._declare("")
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{type(self).__name__} defines no forward")

    def _children(self) -> Iterator[tuple[str, Module]]:
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list | tuple):
                yield from ((f"{name}.{i}", v) for i, v in enumerate(value) if isinstance(v, Module))

    def _declare(self, prefix: str) -> None:
        """Turn declarations into Values. The first root to be used gives the names."""
        for name, value in list(vars(self).items()):
            if isinstance(value, Parameter):
                made = call("parameter", value.shape, value.dtype, prefix + name, value.init, value.trainable)
                setattr(self, name, made)
        for name, child in self._children():
            child._declare(f"{prefix}{name}.")

    def named_parameters(self, trainable: bool | None = True) -> Iterator[tuple[str, Value]]:
        """(dotted name, Value) of every parameter, in order of declaration; trainable=None: buffers as well."""
        self._declare("")
        seen: set[Value] = set()
        for name, value in self._walk(""):
            wanted = trainable is None or value.node.attrs["trainable"] == trainable
            if wanted and value not in seen:
                seen.add(value)
                yield name, value

    def _walk(self, prefix: str) -> Iterator[tuple[str, Value]]:
        for name, value in vars(self).items():
            if isinstance(value, Value) and value.node.op.name == "parameter":
                yield prefix + name, value
        for name, child in self._children():
            yield from child._walk(f"{prefix}{name}.")

    def parameters(self, trainable: bool | None = True) -> list[Value]:
        """The parameters as Values; trainable=None: buffers as well."""
        return [value for _, value in self.named_parameters(trainable)]

    def state_dict(self, state: State) -> dict[str, np.ndarray[Any, Any]]:
        """Copies of all parameters and buffers held by `state`, by dotted name."""
        return {name: state[value] for name, value in self.named_parameters(None)}

    def load_state_dict(self, state: State, arrays: Mapping[str, Any], strict: bool = True) -> None:
        """Set parameters of `state` from arrays by dotted name.

        Raises StateError listing every missing, unexpected and mis-shaped name; then nothing is written. strict=False
        ignores missing and unexpected ones.
        """
        values = dict(self.named_parameters(None))
        missing = [f"missing: {n}" for n in values if n not in arrays] if strict else []
        extra = [f"unexpected: {n}" for n in arrays if n not in values] if strict else []
        shapes = [
            f"{n}: shape {np.shape(arrays[n])}, expected {v.shape}"
            for n, v in values.items()
            if n in arrays and tuple(np.shape(arrays[n])) != v.shape
        ]
        if missing or extra or shapes:
            raise StateError("the state dict does not fit:\n  " + "\n  ".join([*missing, *extra, *shapes]))
        for name, value in values.items():
            if name in arrays:
                state.set(value, np.asarray(arrays[name]).astype(value.dtype.numpy))


class Sequential(Module):
    """Modules applied one after the other; parameters are named by position."""

    def __init__(self, *modules: Module) -> None:
        self._modules = list(modules)

    def _children(self) -> Iterator[tuple[str, Module]]:
        return ((str(i), m) for i, m in enumerate(self._modules))

    def forward(self, x: Value) -> Value:
        for module in self._modules:
            x = module.forward(x)
        return x
