"""Validation, sampling and saving with averaged weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np

from ..errors import ArgumentError, StateError
from ..ir.node import Value
from ..ir.op import call
from ..runtime import checkpoint
from ..runtime.compile import compile
from ..runtime.program import Program
from ..runtime.state import State
from ..types import DType, DTypeLike
from ..types import dtype as as_dtype
from .accumulate import Accumulate
from .optimizer import Optimizer

_swapped: WeakSet[State] = WeakSet()
_programs: WeakKeyDictionary[Optimizer, dict[State, list[Program]]] = WeakKeyDictionary()


@contextmanager
def ema_weights(state: State, optimizer: Optimizer | Accumulate) -> Iterator[None]:
    """Within the block, the parameters in `state` hold their averages; afterwards, whatever happens, their own bits.

    Programs that were compiled before see the averages too: validate and sample with them, do not train. Where weight
    and average have one dtype they change places, in one launch and without further memory, so the State's average
    holds the weight meanwhile. Otherwise (16-bit weights, schedule-free training) the average is written into the
    weight, and the weight's own bits wait on the host. Masters stay as they are.

    Raises ArgumentError without averages, StateError if the block is entered twice.
    """
    inner = optimizer.optimizer if isinstance(optimizer, Accumulate) else optimizer
    averaged = _averages(inner)
    if state in _swapped:
        raise StateError("the averages are in the place of the weights already")
    exchange, write = _compiled(state, inner, averaged)
    aside = {p: state[p] for p, v in averaged.items() if not _alike(p, v, state)}
    exchange()
    _swapped.add(state)
    try:
        write()
        yield
    finally:
        for p, array in aside.items():
            state.place(p).write(array)
        exchange()
        _swapped.discard(state)


def save_averages(
    path: str | os.PathLike[str],
    state: State,
    optimizer: Optimizer | Accumulate,
    *,
    dtype: DTypeLike | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the averages as a model: a safetensors file with the parameters' names, atomically.

    Parameters that `optimizer` does not train are not in it. dtype: of the file; default each parameter's own.
    Raises ArgumentError without averages, StateError if the file cannot be written.
    """
    inner = optimizer.optimizer if isinstance(optimizer, Accumulate) else optimizer
    averaged = _averages(inner)
    if state in _swapped:
        raise StateError("within ema_weights the weights are the averages; save them by state.save")
    kept = {state.name(p): p for p in averaged}
    wanted = None if dtype is None else as_dtype(dtype)
    types = {name: p.type.with_dtype(wanted or p.dtype) for name, p in kept.items()}

    def read(name: str) -> np.ndarray[Any, Any]:
        p = kept[name]
        return state[averaged[p] if averaged[p] in state else p].astype(types[name].dtype.numpy)

    stored = all(v in state for v in averaged.values())
    with nullcontext() if stored else ema_weights(state, inner):
        checkpoint.write(path, types, read, metadata or {})


def _averages(optimizer: Optimizer) -> dict[Value, Value]:
    averaged = optimizer.averaged
    if not averaged:
        raise ArgumentError("no averages are kept; give the optimizer ema=0.9999", op=type(optimizer).__name__)
    return averaged


def _alike(p: Value, average: Value, state: State) -> bool:
    """Whether the two can change places."""
    return average in state and p.dtype is average.dtype


def _compiled(state: State, optimizer: Optimizer, averaged: Mapping[Value, Value]) -> list[Program]:
    """Programs that exchange weights and averages of one dtype, and that write the other averages; made once."""
    known = _programs.setdefault(optimizer, {})
    if state not in known:
        rows: dict[DType, list[Value]] = {}
        write: dict[Value, Value] = {}
        for p, average in averaged.items():
            if _alike(p, average, state):
                rows.setdefault(p.dtype, []).append(p)
            else:
                write[p] = call("cast", average, p.dtype)
        exchange: dict[Value, Value] = {}
        for members in rows.values():
            made = call("foreach", lambda p, a: (a, p), [[p, averaged[p]] for p in members])
            for p, (first, second) in zip(members, made, strict=True):
                exchange[p], exchange[averaged[p]] = first, second
        known[state] = [compile([], state=state, updates=news) for news in (exchange, write)]
    return known[state]
