"""A schedule with memory: every slot has an address, every launch is ready to go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..graph.evaluate import leaf_array
from ..graph.plan import Launch, Operand, Schedule, Slot
from ..ir.node import Value
from ..types import TensorType
from .buffers import Buffer, Place, Slab, rounded, slab_bytes
from .launch import Table, bind, does_nothing, extent, table_array, table_type, tables_of


class Layout:
    """What memory a schedule needs besides arena and state, known before any is allocated.

    launches: those that do something. staged: the inputs that are read. constants, tables: fixed contents. early: state
    slots whose old value is still needed after the step has changed them (an output, or another parameter's new
    value); they are copied aside first. changed: the slots of state and inputs that a step writes.
    """

    def __init__(self, schedule: Schedule, outputs: Sequence[Value]) -> None:
        self.schedule = schedule
        self.outputs = [value.type for value in outputs]
        self.launches = [launch for launch in schedule.launches if not does_nothing(launch)]
        self.staged = list(schedule.inputs)
        self.constants = list(schedule.constants)
        self.tables = tables_of(self.launches)
        targets = [state for state, _ in schedule.updates]
        written = [slot.root for launch in self.launches for slot in launch.writes]
        self.changed = list(dict.fromkeys(s for s in (*targets, *written) if s.kind in ("state", "input")))
        sources = [*schedule.outputs, *(new for _, new in schedule.updates)]
        self.early = [s for s in dict.fromkeys(sources) if s.kind == "state" and s in self.changed]

    @property
    def input_types(self) -> list[TensorType]:
        """Of the staging buffers."""
        return [v.type for v in self.staged]

    @property
    def fixed_types(self) -> list[TensorType]:
        """Of the constants, then of the tables."""
        return [v.type for v in self.constants] + [table_type(t) for t in self.tables]

    @property
    def early_types(self) -> list[TensorType]:
        """Of the copies of old values."""
        return [_type_of(slot) for slot in self.early]

    def memory(self, state: int) -> list[tuple[str, int]]:
        """The parts of the peak, in bytes; state: bytes of the States."""
        return [
            ("arena", rounded(self.schedule.arena_bytes)),
            ("state", state),
            ("inputs", slab_bytes(self.input_types)),
            ("outputs", slab_bytes(self.outputs)),
            ("constants and tables", slab_bytes(self.fixed_types)),
            ("copies", slab_bytes(self.early_types)),
        ]


class Bound:
    """Addresses for one schedule: staging buffers, constants and tables of its own, the arena and the state shared."""

    def __init__(self, layout: Layout, arena: Buffer, state: Mapping[Value, Place]) -> None:
        memory = arena.memory
        schedule = layout.schedule
        self._arena = arena
        self._state = state
        self._inputs = dict(zip(layout.staged, Slab(layout.input_types, memory).places, strict=True))
        fixed = Slab(layout.fixed_types, memory).places
        self._constants = dict(zip(layout.constants, fixed, strict=False))
        self._views: dict[tuple[Slot, Any, int], Place] = {}
        tables: dict[Table, Place] = dict(zip(layout.tables, fixed[len(layout.constants) :], strict=True))
        for value, place in self._constants.items():
            place.write(leaf_array(value.node))
        for table, place in tables.items():
            place.write(table_array(table, lambda operand: self.operand(operand).address))
        held = dict(zip(layout.early, Slab(layout.early_types, memory).places, strict=True))
        self.launches: list[tuple[Launch, Callable[[], Any]]] = [
            (launch, bind(launch, self.operand, tables)) for launch in layout.launches
        ]
        self.outputs = [
            held[slot] if slot in held else self.place(slot, type)
            for slot, type in zip(schedule.outputs, layout.outputs, strict=True)
        ]
        self.changed = [self.place(slot, _type_of(slot)) for slot in layout.changed]
        self._early = [(copy, self.place(slot, copy.type)) for slot, copy in held.items()]
        self._updates = [
            (self.place(target, _type_of(target)), held.get(new) or self.place(new, _type_of(target)))
            for target, new in schedule.updates
            if target.root is not new.root or new in held
        ]

    def staging(self, value: Value) -> Place | None:
        """Where the array for an input goes; None if nothing reads it."""
        return self._inputs.get(value)

    def place(self, slot: Slot, type: TensorType) -> Place:
        """A slot's memory as a dense array of `type`."""
        buffer, offset = self._where(slot)
        return buffer.place(offset, type)

    def operand(self, operand: Operand) -> Place:
        """The array that a pointer argument points to: from its offset to the end of its slot."""
        key = (operand.slot, operand.dtype, operand.offset)
        found = self._views.get(key)
        if found is None:
            buffer, begin = self._where(operand.slot)
            reach = extent(operand.slot, operand)
            if reach.size:
                place = buffer.place(begin + operand.offset * operand.dtype.itemsize, reach)
            else:  # the interpreter takes two arrays with one address for the same memory, and the first one's size
                place = Buffer(1, buffer.memory).place(0, reach)
            found = self._views[key] = place
        return found

    def run(self) -> None:
        """Queue one step: copies of old values that are needed later, launches, updates."""
        self.begin()
        for _, call in self.launches:
            call()
        self.finish()

    def begin(self) -> None:
        """Copy aside the old values that are needed after the step has changed them."""
        for copy, place in self._early:
            copy.copy_from(place)

    def finish(self) -> None:
        """Copy into the state what could not be written there in place."""
        for target, new in self._updates:
            target.copy_from(new)

    def _where(self, slot: Slot) -> tuple[Buffer, int]:
        root = slot.root
        if root.kind == "arena":
            return self._arena, root.offset
        assert root.value is not None, f"a slot of kind {root.kind} without a value"
        table = {"input": self._inputs, "state": self._state, "constant": self._constants}[root.kind]
        place = table[root.value]
        return place.buffer, place.offset


def _type_of(slot: Slot) -> TensorType:
    assert slot.value is not None, "only workspaces have no value"
    return slot.value.type
