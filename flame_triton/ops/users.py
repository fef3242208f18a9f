"""Users' own functions that come with sample calls, so that `flame-triton check MODULE` proves them like ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import ArgumentError
from ..ir.op import Sample
from .define import Sampled, randn

Calls: TypeAlias = "Sequence[Sample | tuple[Any, ...]] | Callable[[], Sequence[Sample | tuple[Any, ...]]] | None"
"""Sample calls, or a function that gives them. A plain tuple holds the positional arguments of one call, where a tuple
of ints is the shape of an array of normal numbers."""

USERS: dict[str, dict[str, Sampled]] = {}
"""By module, then by name."""


def enter(function: Callable[..., Any], module: str, name: str, calls: Calls) -> None:
    """List a user's function of `module` with its samples; a later one of the same name takes its place.

    Raises ArgumentError, once the samples are asked for, if one is neither a Sample nor a tuple.
    """
    given = calls if callable(calls) else lambda: calls or ()
    USERS.setdefault(module, {})[name] = Sampled(function, lambda: [_sample(name, call) for call in given()])


def _sample(name: str, call: Sample | tuple[Any, ...]) -> Sample:
    if isinstance(call, Sample):
        return call
    if not isinstance(call, tuple):
        raise ArgumentError(f"a sample is a Sample or a tuple of arguments, got {type(call).__name__}", op=name)
    return Sample(tuple(_argument(x, seed) for seed, x in enumerate(call)))


def _argument(x: Any, seed: int) -> Any:
    if isinstance(x, tuple) and all(isinstance(d, int) for d in x):
        return randn(*x, seed=seed)
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
