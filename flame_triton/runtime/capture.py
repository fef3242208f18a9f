"""One step as one CUDA graph: a run to warm up, one to record, and then replays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import buffers
from .buffers import Array, CudaGraph, Place, Slab


class Saved:
    """A copy of what a run changes: on the device if there is ample room, else on the host."""

    def __init__(self, places: Sequence[Place], memory: str) -> None:
        self._places = places
        types = [place.type for place in places]
        self._slab: Slab | None = None
        self._arrays: list[Array] = []
        if ample_room(places, memory):
            self._slab = Slab(types, memory)
            for copy, place in zip(self._slab.places, places, strict=True):
                copy.copy_from(place)
        else:
            self._arrays = [place.read() for place in places]

    def restore(self) -> None:
        """Put everything back, bit for bit."""
        if self._slab is not None:
            for place, copy in zip(self._places, self._slab.places, strict=True):
                place.copy_from(copy)
        for place, array in zip(self._places, self._arrays, strict=False):
            place.write(array)


def ample_room(places: Sequence[Place], memory: str) -> bool:
    """Whether a copy of the places fits on the device and leaves as much again."""
    return 2 * buffers.slab_bytes([place.type for place in places]) <= buffers.memory_info(memory).available


class CapturedStep:
    """Replays `run`, which queues a step's launches and copies on a CUDA device and changes `changed`.

    The first call compiles and warms up: `run` once on a stream of its own, with `changed` saved before and restored
    after, so that no update is applied twice. Errors of kernels appear there, before anything is recorded. A state
    that the device has no room to save would take minutes to go to the host and back: then the first call is that
    run itself, its updates stay, and the second call records.
    """

    def __init__(self, run: Callable[[], None], changed: Sequence[Place], memory: str) -> None:
        self._run = run
        self._changed = changed
        self._memory = memory
        self._graph: CudaGraph | None = None
        self._warm = False

    def __call__(self) -> None:
        if self._graph is None:
            if not self._warm and not ample_room(self._changed, self._memory):
                self._run()
                self._warm = True
                return
            if not self._warm:
                self._warm_up()
            self._graph = CudaGraph(self._memory, self._run)
        self._graph.replay()

    def _warm_up(self) -> None:
        saved = Saved(self._changed, self._memory)
        try:
            with buffers.aside(self._memory):
                self._run()
            buffers.synchronize(self._memory)
        finally:
            saved.restore()
            buffers.synchronize(self._memory)
