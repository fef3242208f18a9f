"""From outputs to a Program: which leaves are inputs, which belong to a State, what is updated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from ..errors import ArgumentError, DeviceError, GraphError
from ..graph.memory import plan_memory
from ..graph.plan import Launch, Schedule
from ..ir.graph import Graph
from ..ir.node import Value
from ..ir.op import call
from ..types import dtype as as_dtype
from ..types import float64
from . import buffers
from .buffers import Place
from .device import Device, target
from .device import device as as_device
from .program import Executor, Program
from .reference import ReferenceExecutor
from .state import State


def compile(
    outputs: Value | Sequence[Value],
    inputs: Sequence[Value] = (),
    *,
    state: State | None = None,
    updates: Mapping[Value, Value] | None = None,
    bind: Mapping[Value, Value] | None = None,
    device: Device | str | None = None,
    deterministic: bool = True,
    dtype: Any = None,
    capture: bool = True,
    memory_budget: int | float | None = None,
) -> Program:
    """A Program that computes `outputs` from arrays for `inputs` and from the parameters of a State.

    outputs: Values; one Value alone gives one tensor alone. inputs: the Values that arrays are given for, in order;
    they may hold parameters, and values that no output needs.
    state: owns parameters. A parameter that the graph needs and that neither `inputs` nor `state` hold gets its
    initial value in a State of the program's own.
    updates: parameter -> the value it takes after the step. All take effect together; every read sees the old values.
    bind: parameter -> parameter of the same state and type that is read in its place; both may be floats of different
    dtypes, then what is read is cast.
    device: "cuda", "interpreter" or "reference"; default the state's, else the process's own.
    deterministic: use only kernels that give the same bits on every run. False lets a kernel add up in whatever order
    is fastest where it has such a form (the gradient of attention's queries on Hopper); all others are the same.
    dtype: "float64" makes the reference device compute every float in double precision.
    capture: record the step as one CUDA graph; False launches kernel by kernel, for debugging.
    memory_budget: what a step may take. An int bounds `Program.peak_bytes`, state included; a float in (0, 1] is a part
    of the bytes that intermediate values take without it. Values are computed again, by the kernels that made them,
    until the plan keeps to it: results are the same bits. The reference device takes no notice.

    Raises GraphError for a graph that is not closed, equal input names, or updates that do not fit; DeviceError;
    CompileError; OutOfMemoryError, before anything is allocated, if the plan does not fit the device or the budget.
    """
    chosen = as_device(device if device is not None else state.device if state is not None else None)
    if state is not None and state.device.memory != chosen.memory:
        raise DeviceError(f"the State lives on {state.device}, the program is for {chosen}")
    if dtype is not None and (chosen.kind != "reference" or as_dtype(dtype) is not float64):
        raise ArgumentError("dtype must be 'float64', and is for device='reference' alone", op="compile")
    graph = Graph(_check_inputs(inputs), _check_outputs(outputs))
    news = _check_updates(updates or {}, graph.inputs, state)
    graph, news = _bound(graph, news, bind or {}, state)
    whole = Graph(graph.inputs, (*graph.outputs, *news.values()))
    whole.check_closed()
    states = _states(whole, list(news), state, chosen)
    places = {value: owner.place(value) for owner in reversed(states) for value in owner.values}
    wide = dtype is not None
    executor = _executor(graph, news, places, states[0], chosen, wide, capture, memory_budget, deterministic)
    return Program(executor, graph.inputs, isinstance(outputs, Value), states, chosen, wide)


def planned(outputs: Sequence[Value], updates: Mapping[Value, Value], device: Device) -> Sequence[Launch]:
    """The launches of a program of these outputs and updates: what can be compiled before there is memory for it."""
    return _executor(Graph((), tuple(outputs)), updates, {}, State([], device=device), device, False, True).launches


def _executor(
    graph: Graph,
    updates: Mapping[Value, Value],
    places: Mapping[Value, Place],
    state: State,
    device: Device,
    wide: bool,
    capture: bool,
    memory_budget: int | float | None = None,
    deterministic: bool = True,
) -> Executor:
    if device.kind == "reference":
        return ReferenceExecutor(graph, updates, places, wide)
    from . import plans  # here: the reference device needs no triton
    from .ahead import hashing
    from .execute import KernelExecutor, held_bytes
    from .fit import limit_of
    from .lower import lower
    from .tables import tables

    held = held_bytes(places)
    limit = None if memory_budget is None else limit_of(memory_budget, graph.outputs, held)
    asked = replace(target(device), deterministic=deterministic)
    facts: dict[str, Any] = {} if limit is None else {"budget": [memory_budget, held]}
    name = buffers.properties(device.memory).name if device.kind == "cuda" else None
    if name is not None:
        hashing(asked.arch)  # of what finding kernels will need, meanwhile
        facts |= {"device": name, "measured": plans.measured()}

    def make() -> Schedule:
        with tables(name) if name is not None else nullcontext() as choices:
            schedule = lower(graph, dict(updates), asked, choices, limit)
        plan_memory(schedule)
        return schedule

    schedule = plans.kept(graph, updates, asked, facts, make)
    return KernelExecutor(schedule, graph, places, state.arena, device, capture)


def _check_outputs(outputs: Value | Sequence[Value]) -> tuple[Value, ...]:
    found = (outputs,) if isinstance(outputs, Value) else tuple(outputs)
    for value in found:
        if not isinstance(value, Value):
            raise GraphError(f"outputs must be Values, got {value!r}", op="compile")
    return found


def _check_inputs(inputs: Sequence[Value]) -> tuple[Value, ...]:
    """Raises GraphError for something that is no input, one listed twice, and two with one name."""
    if isinstance(inputs, Value):
        raise GraphError("inputs must be a list of Values, got one Value", op="compile")
    names: dict[str, Value] = {}
    for value in inputs:
        if not isinstance(value, Value) or value.node.op.name not in ("input", "parameter"):
            raise GraphError(f"inputs must be inputs or parameters, got {value!r}", op="compile")
        name = value.explicit_name
        if name in names:
            where = "listed twice" if names[name] is value else f"two inputs are named {name!r}"
            raise GraphError(f"{where}: {value!r}", op="compile", loc=value.node.loc)
        if name:
            names[name] = value
    if len(set(inputs)) != len(inputs):
        raise GraphError("one input is listed twice", op="compile")
    return tuple(inputs)


def _check_updates(updates: Mapping[Value, Value], inputs: Sequence[Value], state: State | None) -> dict[Value, Value]:
    """Raises GraphError unless every key is a parameter of the state and gets a value of its own type."""
    for key, new in updates.items():
        if not isinstance(key, Value) or key.node.op.name != "parameter":
            raise GraphError(f"updates must be keyed by parameters, got {key!r}", op="compile")
        if not isinstance(new, Value):
            raise GraphError(f"the new value of {key!r} must be a Value, got {new!r}", op="compile", loc=key.node.loc)
        if state is not None and key not in state:
            raise GraphError(f"{key!r} is updated but not in the state", op="compile", loc=key.node.loc)
        if key in inputs:
            raise GraphError(f"{key!r} is updated and cannot be an input as well", op="compile", loc=key.node.loc)
        if new.type != key.type:
            raise GraphError(f"{key!r} cannot take a value of type {new.type}", op="compile", loc=new.node.loc)
    return dict(updates)


def _bound(
    graph: Graph, updates: dict[Value, Value], bind: Mapping[Value, Value], state: State | None
) -> tuple[Graph, dict[Value, Value]]:
    """The graph and the updates with every read of a bound parameter replaced, all at once."""
    for key, other in bind.items():
        for value in (key, other):
            if state is None or not isinstance(value, Value) or value not in state:
                raise GraphError(f"bind holds {value!r}, which is not in the state", op="compile")
        if key.shape != other.shape or (key.dtype is not other.dtype and not key.dtype.is_float & other.dtype.is_float):
            raise GraphError(f"{key!r} cannot be read from {other!r}: their types differ", op="compile")
        if key in graph.inputs:
            raise GraphError(f"{key!r} is bound and cannot be an input as well", op="compile")
    if not bind:
        return graph, updates
    read = {key: call("cast", other, key.dtype) for key, other in bind.items()}
    whole = Graph(graph.inputs, (*graph.outputs, *updates.values()))
    rewritten = whole.rewrite(lambda node: None if node.inputs else [read.get(v, v) for v in node.outputs])
    count = len(graph.outputs)
    news = dict(zip(updates, rewritten.outputs[count:], strict=True))
    return Graph(graph.inputs, rewritten.outputs[:count]), news


def _states(whole: Graph, updated: Sequence[Value], state: State | None, device: Device) -> list[State]:
    """The given State first, and one more for parameters that nobody holds; at least one."""
    listed = set(whole.inputs)
    needed = [n.out for n in whole.nodes if n.op.name == "parameter" and n.out not in listed]
    missing = [v for v in dict.fromkeys((*needed, *updated)) if state is None or v not in state]
    own = [State(missing, device=device)] if missing or state is None else []
    return ([state] if state is not None else []) + own
