"""How one of torch's calls becomes one of ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import flame_triton as ft


class OutOfScope(Exception):
    """This sample asks for something that we do not have on purpose; the message is the reason."""


@dataclass(frozen=True)
class Adapter:
    """Calls our functions with the arguments that torch's function takes.

    needs: the public functions that are called; until all of them exist the name counts as "not there yet". "pad:mode"
    asks for a function with a parameter of that name.
    call: takes these functions, then torch's arguments with Values in place of tensors.
    static: places and names of arguments that must be known when the graph is built: a tensor there becomes numbers.
    """

    needs: tuple[str, ...]
    call: Callable[..., Any]
    static: tuple[int | str, ...] = ()

    @property
    def missing(self) -> list[str]:
        return [need for need in self.needs if not exists(*need.split(":"))]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*(getattr(ft, need.split(":")[0]) for need in self.needs), *args, **kwargs)


def exists(function: str, parameter: str | None = None) -> bool:
    if function not in ft.__all__:
        return False
    return parameter is None or parameter in inspect.signature(getattr(ft, function)).parameters


def via(needs: str, call: Callable[..., Any] | None = None, static: tuple[int | str, ...] = ()) -> Adapter:
    """An adapter onto the functions named in `needs`; without `call`, onto one that takes torch's own arguments."""
    return Adapter(tuple(needs.split()), call or renamed, static)


def renamed(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """torch's arguments, with NumPy's names for axes."""
    return f(*args, **{{"dim": "axis", "keepdim": "keepdims"}.get(k, k): v for k, v in kwargs.items()})


def same(names: str, prefix: str = "") -> dict[str, Adapter]:
    """Functions that have one name and the same arguments in both libraries."""
    return {prefix + name: via(name) for name in names.split()}


def listed(f: Callable[..., Any], values: Any, *args: Any, **kwargs: Any) -> Any:
    """A list of tensors first, then torch's arguments."""
    return renamed(f, list(values), *args, **kwargs)


def variadic(f: Callable[..., Any], *values: Any) -> Any:
    """torch takes the tensors one after the other, or in one list."""
    return f(*(values[0] if len(values) == 1 and isinstance(values[0], list | tuple) else values))


def lacks(**kwargs: Any) -> None:
    """Arguments that we do not have: out of scope unless they are at their neutral value (None or False)."""
    for name, value in kwargs.items():
        if value is not None and value is not False:
            raise OutOfScope(f"no {name}=")


def cast(x: ft.Value, dtype: Any) -> ft.Value:
    """For torch's dtype= of a reduction, which converts the operand first."""
    if dtype is ft.bool_:
        raise OutOfScope("no reduction in bool")
    return x if dtype is None else ft.cast(x, dtype)


def dtype_of(dtype: torch.dtype) -> ft.DType:
    """Our element type for torch's, or OutOfScope."""
    name = str(dtype).removeprefix("torch.")
    if name not in ("float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool"):
        raise OutOfScope(f"no dtype {name}")
    return ft.dtype(name)


def number(x: Any) -> Any:
    """A Python number that stands for itself; a tensor there cannot be one, since our graphs are static."""
    if isinstance(x, bool) or not isinstance(x, int | float):
        raise OutOfScope("a tensor where we take a number")
    return x
