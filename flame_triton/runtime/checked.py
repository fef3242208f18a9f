"""A step launch by launch, every float result looked at on the host: which launch makes the first NaN or infinity."""

from __future__ import annotations

from dataclasses import replace

from ..graph.access import views_below
from ..graph.evaluate import region_arrays
from ..graph.plan import Launch, Schedule, Slot
from ..ir.graph import Graph
from ..ir.node import Node, Value
from .bound import Bound
from .buffers import Array
from .capture import Saved
from .finite import CheckedPlan, NonFinite, Trace


def find_non_finite(schedule: Schedule, bound: Bound, memory: str) -> NonFinite | None:
    """What makes the first non-finite value in a step on the staged inputs. The state is put back afterwards."""
    saved = Saved(bound.changed, memory)
    try:
        found = _walk(schedule, bound)
    finally:
        saved.restore()
    if found is None or "region" not in found.node.attrs:
        return found
    try:
        return _inside(found, bound) or found
    finally:
        saved.restore()


def _walk(schedule: Schedule, bound: Bound) -> NonFinite | None:
    trace = Trace()
    for table in (schedule.inputs, schedule.state, schedule.constants):
        for value, slot in table.items():
            trace.step(value.node, (), [(slot, value.type, _read(bound, slot, value))])
    last = {slot: i for i, (launch, _) in enumerate(bound.launches) for slot in launch.writes}
    bound.begin()
    for i, (launch, call) in enumerate(bound.launches):
        call()
        done = [s for s in launch.writes if last[s] == i]  # what is written in pieces is looked at when it is whole
        whole = [(s, s.value) for s in done if s.value is not None]
        trace.step(launch.node, launch.reads, [(s, v.type, _read(bound, s, v)) for s, v in whole])
        for slot in launch.writes:
            if slot.value is None:
                trace.carry(launch.reads, slot)
    return trace.verdict([*schedule.outputs, *(new for _, new in schedule.updates), *_in_place(bound)])


def _in_place(bound: Bound) -> list[Slot]:
    """The results written straight into state."""
    return [s for launch, _ in bound.launches for s in launch.writes if s.root.kind == "state"]


def _read(bound: Bound, slot: Slot, value: Value) -> Array:
    return bound.place(slot, value.type).read()


def _inside(found: NonFinite, bound: Bound) -> NonFinite | None:
    """Which op inside a fused kernel is to blame: its region on the references, on what the kernel was given.

    None if the region is not: it was given non-finite operands, or the kernel in front of it made them.
    """
    bound.begin()
    for launch, call in bound.launches:
        if launch.node is found.node:
            region: Graph = found.node.attrs["region"]
            arrays = _operands(launch, bound)
            if "kernel" in found.node.attrs:  # the region starts from the kernel's result, which is in no memory
                arrays = region_arrays(found.node, arrays, wide=False)
            inner = CheckedPlan(region).find(dict(zip(region.inputs, arrays, strict=True)))
            if inner is None or inner.given:
                return None
            return replace(inner, cause=found.cause, reaches_output=found.reaches_output)
        call()
    return None


def _operands(launch: Launch, bound: Bound) -> list[Array]:
    """The operands of a launch's node, as they are in memory now."""
    slots = {slot.value: slot for slot in launch.reads if slot.value is not None}

    def array(value: Value) -> Array:
        if value in slots:
            return _read(bound, slots[value], value)
        node: Node = value.node
        return node.op.ref(array(node.inputs[0]), **node.attrs)

    assert all(any(v in slots for v in views_below(value)) for value in launch.node.inputs)
    return [array(value) for value in launch.node.inputs]
