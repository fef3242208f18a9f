"""The kernel executor: a schedule on a GPU, captured and replayed, or launch by launch in Triton's interpreter."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import OutOfMemoryError
from ..graph.memory import plan_memory
from ..graph.plan import Launch, Schedule
from ..ir.graph import Graph
from ..ir.node import Value
from . import buffers, fit, listing
from .ahead import compile_all
from .arena import Arena
from .bound import Bound, Layout
from .buffers import Place, Source, Tensor
from .capture import CapturedStep
from .checked import find_non_finite
from .device import Device
from .finite import NonFinite
from .launch import distinct
from .profile import Ceilings, DeviceClock, Profile, clock, measure


class KernelExecutor:
    """Runs a lowered graph on one device. Memory is allocated and bound at the first call; what does not fit is refused
    here and there.

    schedule: lowered from `graph`, its memory planned; places: where the parameters live; arena: shared with other
    programs of the State. capture: on a GPU, record the step and replay it.
    """

    def __init__(
        self,
        schedule: Schedule,
        graph: Graph,
        places: Mapping[Value, Place],
        arena: Arena,
        device: Device,
        capture: bool = True,
    ) -> None:
        self._schedule = schedule
        self._layout = Layout(schedule, graph.outputs)
        self._inputs = graph.inputs
        self._places = places
        self._arena = arena
        self._device = device
        self._captured = capture and device.kind == "cuda"
        self._bound: Bound | None = None
        self._step: CapturedStep | None = None
        self._compiled = False
        self._check_fit()
        arena.reserve(self, schedule.arena_bytes)

    @property
    def launches(self) -> Sequence[Launch]:
        """In order, without those that would do nothing."""
        return self._layout.launches

    @property
    def distinct_kernels(self) -> int:
        """How many kernels the launches need compiled."""
        return len(distinct(self._layout.launches))

    @property
    def peak_bytes(self) -> int:
        """Bytes in use during a step, State and outputs included."""
        return sum(nbytes for _, nbytes in self._memory)

    def listing(self) -> str:
        """One line per launch."""
        return listing.of_launches(self.launches, self.distinct_kernels, self._memory, str(self._device))

    def prepare(self) -> None:
        """Compile every kernel and allocate the memory, as the first call would."""
        with self._arena.in_use():
            self._bind()

    def run(self, sources: Sequence[Source], borrow: bool) -> list[Tensor]:
        """One step on accepted arrays. borrow: outputs are views, valid until the next call."""
        quiet = contextlib.nullcontext() if self._device.kind == "cuda" else np.errstate(all="ignore")
        with self._arena.in_use(), quiet:
            bound = self._bind()
            self._stage(bound, sources)
            if self._step is not None:
                self._step()
            else:
                bound.run()
            return [place.tensor if borrow else place.fresh() for place in bound.outputs]

    def find_non_finite(self, sources: Sequence[Source]) -> NonFinite | None:
        """The first non-finite value of a step on these arrays; the state is left as it is."""
        with self._arena.in_use(), np.errstate(all="ignore"):
            bound = self._bind()
            self._stage(bound, sources)
            return find_non_finite(self._schedule, bound, self._arena.memory)

    def profile(self, sources: Sequence[Source], ceilings: Ceilings) -> Profile:
        """Every launch of a step on these arrays, timed by itself; the state is left as it is."""
        memory = self._arena.memory
        with self._arena.in_use(), np.errstate(all="ignore"):
            bound = self._bind()
            self._stage(bound, sources)
            whole = clock(memory) if memory == "cpu" else DeviceClock(memory, repeats=1)
            return measure(bound, self._device, ceilings, clock(memory), whole)

    def unbind(self) -> None:
        """Forget every address and the capture: the arena has moved. The next call makes them anew."""
        self._bound = self._step = None

    @property
    def _memory(self) -> list[tuple[str, int]]:
        return self._layout.memory(held_bytes(self._places))

    def _stage(self, bound: Bound, sources: Sequence[Source]) -> None:
        for value, source in zip(self._inputs, sources, strict=True):
            place = bound.staging(value)
            if place is not None:
                place.write(source)

    def _bind(self) -> Bound:
        """This program's memory, allocated if it is not yet. Raises OutOfMemoryError before anything is launched."""
        if self._arena.growth:
            self.unbind()
        if self._bound is None:
            self._check_fit()
            memory = self._arena.memory
            if self._device.kind == "cuda" and not self._compiled:
                compile_all(self.launches, memory)
                self._compiled = True
            bound = Bound(self._layout, self._arena.buffer, self._places)
            if self._captured:
                self._step = CapturedStep(bound.run, bound.changed, memory)
            self._bound = bound
        return self._bound

    def _check_fit(self) -> None:
        """Raises OutOfMemoryError if what is still to be allocated is more than there is."""
        parts = dict(self._memory)
        del parts["state"]  # allocated long since
        wanted = sum(parts.values()) - parts["arena"] + self._arena.growth_for(self._schedule.arena_bytes)
        available = buffers.memory_info(self._arena.memory).available
        if wanted > available:
            message = fit.too_large(self._schedule, self._memory, wanted, available, str(self._device))
            raise OutOfMemoryError(message)


def held_bytes(places: Mapping[Value, Place]) -> int:
    """Bytes on the device of the States that hold these places."""
    return sum(buffer.nbytes for buffer in {place.buffer for place in places.values()} if not buffer.offloaded)


def planned_bytes(schedule: Schedule, outputs: Sequence[Value], state: int) -> list[tuple[str, int]]:
    """The parts of a step's peak for a schedule that nothing is allocated for; state: bytes of the States."""
    plan_memory(schedule)
    return Layout(schedule, outputs).memory(state)
