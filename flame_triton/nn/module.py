"""Modules: named parameters and a function that builds graph.

A module declares `Parameter`s; they become Values, named by their dotted path from the root
("blocks.0.attn.to_q.weight"), when the root is first called or asked for its parameters. Nothing is computed here:
calling a module adds nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..errors import StateError
from ..ir.node import Value
from ..ir.op import call
from ..types import DTypeLike, float32

if TYPE_CHECKING:
    from ..runtime.state import State


@dataclass(frozen=True)
class _Declared:
    """A parameter that has no name yet."""

    shape: tuple[int, ...]
    init: Any
    dtype: DTypeLike
    trainable: bool

    def named(self, name: str) -> Value:
        """The parameter itself. Its name follows from the structure of the module, so another may have it too."""
        return call("parameter", self.shape, self.dtype, name, self.init, self.trainable, True)


def Parameter(shape: tuple[int, ...], init: Any = None, dtype: DTypeLike = float32, trainable: bool = True) -> Any:
    """Declares a parameter of a module: assigned to an attribute, it becomes a Value when the module is first used.

    init: see ft.parameter; trainable: listed by `Module.parameters()`.
    """
    return _Declared(shape, init, dtype, trainable)


class Module:
    """Base class: assign Parameters, Modules, and lists or dicts of Modules as attributes; define `forward`.

    training: whether calls build the graph of training; `train` and `eval` set it for all modules below.
    """

    training: bool = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Add this module's nodes to the graph: what `forward` returns."""
        self.declare()
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """From Values to Values; a subclass defines it."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def train(self, mode: bool = True) -> Self:
        """Set `training` for this module and all below it; returns the module. It concerns calls that follow."""
        self.training = mode
        for _, child in self._children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """train(False)."""
        return self.train(False)

    def buffer(self, value: Value) -> Value:
        """What a buffer (a parameter that is not trained) holds by now: its newest value in the graph being built."""
        return self._pending().get(value, value)

    def update_buffers(self, news: Mapping[Value, Value]) -> None:
        """Note new values of buffers, for `buffer_updates`; a later call of the module starts from them."""
        self._pending().update(news)

    def _pending(self) -> dict[Value, Value]:
        return self.__dict__.setdefault("_buffer_news", {})

    def buffer_updates(self) -> dict[Value, Value]:
        """buffer -> new value, noted by calls in training since this was last asked, here and below.

        For the `updates=` of the program that those calls are part of, or `also=` of an optimizer's updates. Asking
        ends the step: calls that follow start from the buffers themselves again.
        """
        news = dict(self._pending())
        self._pending().clear()
        for _, child in self._children():
            news.update(child.buffer_updates())
        return news

    def declare(self, prefix: str = "") -> None:
        """Make the parameters of this module and of those below it, named by prefix and path; done once.

        The first module to be used, or asked for parameters, does it with its own path as the root.
        """
        for name, value in list(vars(self).items()):
            if isinstance(value, _Declared):
                setattr(self, name, value.named(prefix + name))
        for name, child in self._children():
            child.declare(f"{prefix}{name}.")

    def start_from(self, inits: Mapping[str, Any]) -> None:
        """Give parameters another `init` (see ft.parameter), by dotted path; before the module is first used.

        Raises StateError for a path that names no parameter, or one that has been made already.
        """
        declared = {path: (owner, name) for path, owner, name in self._declarations("")}
        if unknown := [path for path in inits if path not in declared]:
            raise StateError(f"no parameters to be made are called {', '.join(unknown)}")
        for path, init in inits.items():
            owner, name = declared[path]
            setattr(owner, name, replace(getattr(owner, name), init=init))

    def _declarations(self, prefix: str) -> Iterator[tuple[str, Module, str]]:
        """(dotted path, module, attribute) of every parameter that has not been made yet."""
        yield from ((prefix + name, self, name) for name, v in vars(self).items() if isinstance(v, _Declared))
        for name, child in self._children():
            yield from child._declarations(f"{prefix}{name}.")

    def _children(self) -> Iterator[tuple[str, Module]]:
        for name, value in vars(self).items():
            parts: Iterable[tuple[Any, Any]]
            if isinstance(value, list | tuple):
                parts = enumerate(value)
            elif isinstance(value, dict):
                parts = value.items()
            else:
                if isinstance(value, Module):
                    yield name, value
                continue
            yield from ((f"{name}.{key}", child) for key, child in parts if isinstance(child, Module))

    def named_parameters(self, trainable: bool | None = True) -> Iterator[tuple[str, Value]]:
        """(dotted path, Value) of every parameter, each once, in order of declaration.

        trainable: None for those that are not trained as well.
        """
        self.declare()
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
        """The parameters as Values; trainable: None for those that are not trained as well."""
        return [value for _, value in self.named_parameters(trainable)]

    def state_dict(self, state: State) -> dict[str, np.ndarray[Any, Any]]:
        """Copies of all parameters, as `state` holds them, by dotted path."""
        return {name: state[value] for name, value in self.named_parameters(None)}

    def load_state_dict(self, state: State, arrays: Mapping[str, Any], strict: bool = True) -> None:
        """Set parameters of `state` from arrays by dotted path; floating arrays are converted to their dtype.

        Raises StateError listing every missing, unexpected and mis-shaped name; then nothing is written. strict=False
        leaves missing and unexpected ones alone.
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
        """The last module's result on that of the one before, and so on."""
        for module in self._modules:
            x = module(x)
        return x
