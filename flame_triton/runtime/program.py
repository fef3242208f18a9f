"""Program: a compiled graph that is called with arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..errors import InputError
from ..graph.plan import Launch
from ..ir.node import Value
from . import buffers
from .buffers import Source, Tensor
from .device import Device
from .finite import NonFinite
from .profile import H200, Ceilings, Profile
from .state import State


class Executor(Protocol):
    """What runs a program on one kind of device; the members are those of Program, on arrays accepted already."""

    @property
    def launches(self) -> Sequence[Launch]: ...

    @property
    def distinct_kernels(self) -> int: ...

    @property
    def peak_bytes(self) -> int: ...

    def prepare(self) -> None: ...

    def run(self, sources: Sequence[Source], borrow: bool) -> list[Tensor]: ...

    def find_non_finite(self, sources: Sequence[Source]) -> NonFinite | None: ...

    def profile(self, sources: Sequence[Source], ceilings: Ceilings) -> Profile: ...

    def listing(self) -> str: ...


class Program:
    """A compiled graph: `program(*arrays)` runs one step, updates the state and returns the outputs. See `compile`."""

    def __init__(
        self,
        executor: Executor,
        inputs: Sequence[Value],
        single: bool,
        states: Sequence[State],
        device: Device,
        wide: bool = False,
    ) -> None:
        self.inputs = tuple(inputs)
        self.states = tuple(states)
        self.device = device
        self._executor = executor
        self._single = single
        self._wide = wide
        self._wanted = [(value.type, _label(value, i)) for i, value in enumerate(self.inputs)]

    def __call__(self, *arrays: Any, borrow: bool = False) -> Any:
        """Run one step.

        arrays: one per input, in order: NumPy, torch, DLPack arrays of the input's dtype and shape, or plain numbers.
        borrow: outputs may be views of memory that the next call of a program of this state overwrites.
        Returns a tensor per output, on the program's device; one tensor alone if one Value was compiled.
        Raises InputError, before anything is written, if an array does not fit; OutOfMemoryError.
        """
        results = self._executor.run(self._accept(arrays), borrow)
        return results[0] if self._single else results

    def prepare(self) -> None:
        """Compile every kernel and allocate the memory now; otherwise the first call does it.

        Raises CompileError, OutOfMemoryError.
        """
        self._executor.prepare()

    @property
    def state(self) -> State:
        """The State it reads and updates: the one it was compiled against, or its own."""
        return self.states[0]

    @property
    def launches(self) -> Sequence[Launch]:
        """The kernel launches of one step, in order; none on the reference device."""
        return self._executor.launches

    @property
    def distinct_kernels(self) -> int:
        """How many different kernels the launches need compiled."""
        return self._executor.distinct_kernels

    @property
    def peak_bytes(self) -> int:
        """Device memory in use during a step: arena, state, inputs, outputs, constants and tables, in bytes."""
        return self._executor.peak_bytes

    def listing(self) -> str:
        """The program as text: one line per launch, with its kernel, grid, memory traffic and the user's line."""
        return self._executor.listing()

    def find_non_finite(self, *arrays: Any) -> NonFinite | None:
        """What makes the first NaN or infinity in a step on these arrays, or None if everything is finite.

        Runs the step launch by launch, checking every float result on the host; the state is put back afterwards.
        """
        return self._executor.find_non_finite(self._accept(arrays))

    def profile(self, *arrays: Any, ceilings: Ceilings | None = None) -> Profile:
        """Time per launch of a step on these arrays, against what its memory traffic and its products would take.

        ceilings: of the device, measured; default those of an H200. The state is put back afterwards. The result
        prints as tables by kernel and by line of the user (`text`), and becomes a trace for Chrome or Perfetto
        (`trace`). Raises DeviceError on the reference device, which has no launches.
        """
        return self._executor.profile(self._accept(arrays), ceilings or H200)

    def __repr__(self) -> str:
        types = ", ".join(str(value.type) for value in self.inputs)
        return f"<Program({types}) on {self.device}, {len(self.launches)} launches>"

    def _accept(self, arrays: Sequence[Any]) -> list[Source]:
        if len(arrays) != len(self._wanted):
            expected = ", ".join(f"{label} {type}" for type, label in self._wanted) or "none"
            raise InputError(f"the program takes {len(self._wanted)} arrays, got {len(arrays)}; expected: {expected}")
        return [
            buffers.accept(array, type, label, wide=self._wide)
            for array, (type, label) in zip(arrays, self._wanted, strict=True)
        ]


def _label(value: Value, position: int) -> str:
    return f"input {value.name!r}" if value.name else f"input {position}"
