"""What is measured, and how: configurations of one kernel problem on one device.

`Bench` is all that the search knows of a device; `DeviceBench` is the real one. It also runs interpreted kernels, for
whose times nobody should care.

A run is timed with CUDA events around the launches alone, after a buffer larger than the L2 cache has been written, so
that caches are cold and the launches are queued while the device is still busy with the writing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

from ..errors import CompileError, DeviceError
from ..graph.memory import plan_memory
from ..graph.plan import Target
from ..ir.graph import Graph
from ..runtime import buffers, fingerprint
from ..runtime.ahead import KernelReport
from ..runtime.bound import Bound, Layout
from ..runtime.buffers import Buffer, Event, Place, Slab
from ..runtime.device import Device, target
from ..runtime.store import FAILED, OK, SERIALISED, SHARED, SPILLED, UNCOMPILED, WRONG
from ..testing.compare import TOLERANCE
from ..types import float32
from .compilers import Compilers, Reports
from .problems import Task, Trial

# Bytes a thread may spill, stored and loaded together. Measuring costs a hundredth of compiling, and a kernel that
# spills around its epilogue alone may well be the fastest: only what is hopeless is left out.
ROUNDED = 1e-3  # relative RMS of float32 results with 16-bit values on their way
SPILLS = 4096
FLUSHED = 512 << 20  # bytes written before each run: more than twice any L2, and long enough to queue the launches in
GLANCE, LOOK = 3, 15  # runs that tell whether a configuration is worth more of them, and runs of those that are
WARM = 4  # writings of that buffer before the first run
MARGIN = 1.15  # times the best time so far, beyond which a glance is enough


@dataclass(frozen=True)
class Verdict:
    """What came of a configuration: see store.Row."""

    status: str
    microseconds: float | None = None
    runs: int = 0
    note: str = ""


class Stage(Protocol):
    """One task on a device: inputs filled, the heuristic's results at hand. A context manager."""

    def measure(self, trial: Trial, best: float | None) -> Verdict:
        """Check a configuration's numbers and time it. best: microseconds of the best so far; None: time it fully."""
        ...

    def compare(self, trials: Sequence[Trial]) -> list[float]:
        """Microseconds of configurations that have passed, timed in turn so that what drifts is shared by all."""
        ...

    def __enter__(self) -> Stage: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Bench(Protocol):
    """A device to measure on. device: its name; triton, ptxas: versions; target: what to lower for."""

    device: str
    triton: str
    ptxas: str
    target: Target
    workers: int

    def submit(self, trial: Trial) -> Future[Reports]:
        """Start compiling."""
        ...

    def compiled(self, trial: Trial, future: Future[Reports], timeout: float | None) -> Verdict | None:
        """Why the configuration is not worth running, or None. Raises TimeoutError."""
        ...

    def stage(self, task: Task, heuristic: Trial) -> Stage:
        """Get ready to measure a task."""
        ...

    def close(self) -> None: ...


def judge(reports: Sequence[KernelReport], limit: int) -> Verdict | None:
    """What the compiler's reports say against a configuration, or None. limit: bytes of shared memory."""
    for report in reports:
        if report.error is not None:
            return Verdict(UNCOMPILED, note=report.error)
        if report.shared_bytes > limit:
            return Verdict(SHARED, note=f"{report.shared_bytes} of {limit} bytes")
        if report.spills > SPILLS:
            return Verdict(SPILLED, note=f"{report.spills} bytes")
        if report.remarks:
            return Verdict(SERIALISED, note=report.remarks[0][:200])
    return None


def race(run: Callable[[int], list[float]], best: float | None) -> tuple[float, int]:
    """(median microseconds, runs): a few runs first, and the rest only if the configuration may still be the best.

    With a fifth of the runs for all that are clearly slower, a space takes about a third of the time.
    run: so many runs -> their microseconds.
    """
    times = run(GLANCE)
    if best is None or min(times) <= MARGIN * best:
        times += run(LOOK - GLANCE)
    return statistics.median(times), len(times)


class DeviceBench(Bench):
    """A GPU, or Triton's interpreter on the CPU. workers: processes that compile, default one per core."""

    def __init__(self, device: Device, workers: int | None = None, deterministic: bool = True) -> None:
        self.target = replace(target(device), deterministic=deterministic)
        self.triton = fingerprint.triton_version()
        self._memory = device.memory
        self._compilers: Compilers | None = None
        self._flush: Buffer | None = None
        if device.kind == "cuda":
            found = buffers.properties(device.memory)
            self.device, self.ptxas = found.name, fingerprint.ptxas_version(self.target.arch)
            self._compilers = Compilers(self.target, workers)
            self._flush = Buffer(max(FLUSHED, 2 * found.cache_bytes), self._memory)
        else:
            self.device, self.ptxas = str(device), "none"
        self.workers = self._compilers.workers if self._compilers is not None else 1

    def submit(self, trial: Trial) -> Future[Reports]:
        """See Bench. Interpreted kernels are not compiled."""
        if self._compilers is not None:
            return self._compilers.submit(trial.launches)
        done: Future[Reports] = Future()
        done.set_result([])
        return done

    def compiled(self, trial: Trial, future: Future[Reports], timeout: float | None) -> Verdict | None:
        """See Bench."""
        if self._compilers is None:
            return None
        return judge(self._compilers.reports(future, trial.launches, timeout), self.target.shared_bytes)

    def stage(self, task: Task, heuristic: Trial) -> Stage:
        """See Bench."""
        return DeviceStage(task, heuristic, self._memory, self._flush)

    def close(self) -> None:
        """End the compiling processes."""
        if self._compilers is not None:
            self._compilers.close()


class DeviceStage(Stage):
    """A task on a device. Operands are standard normal numbers, or their magnitudes if those give no finite results
    (square roots of second moments do not), and Task.fills."""

    def __init__(self, task: Task, heuristic: Trial, memory: str, flush: Buffer | None) -> None:
        self._memory = memory
        self._flush = flush
        self._outputs = [v for v in task.graph.outputs if v.size]
        operands = task.operands
        with buffers.on(memory):
            self._places = dict(zip(operands, Slab([v.type for v in operands], memory).places, strict=True))
            self._arena = Buffer(0, memory)
            try:
                self._expected = self._reference(task, heuristic)
                self._rounded = _rounds(task.graph)
            except Exception as error:  # whatever a kernel that does not fit the device raises
                first = f"{type(error).__name__}: {error}".splitlines()[0]
                self._check_alive(first)
                raise CompileError(f"the heuristic's kernel does not run: {first}") from error

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._places = {}
        self._expected = []
        self._arena = Buffer(0, self._memory)

    def measure(self, trial: Trial, best: float | None) -> Verdict:
        """See Stage. Raises DeviceError if the configuration left the device in error."""
        with buffers.on(self._memory):
            try:
                bound = self._run(trial)
                buffers.synchronize(self._memory)
            except Exception as error:  # whatever a kernel that does not fit the device raises
                first = f"{type(error).__name__}: {error}".splitlines()[0]
                status = SHARED if "shared memory" in first else FAILED
                self._check_alive(first)
                return Verdict(status, note=first[:300])
            wrong = self._wrong(bound)
            if wrong:
                return Verdict(WRONG, note=wrong)
            calls = _calls(bound, trial)
            return Verdict(OK, *race(lambda runs: self._times(calls, runs), best))

    def compare(self, trials: Sequence[Trial]) -> list[float]:
        """See Stage."""
        with buffers.on(self._memory):
            each = [_calls(self._run(trial), trial) for trial in trials]
            rounds = [[self._times(calls, 1)[0] for calls in each] for _ in range(LOOK)]
        return [statistics.median(times) for times in zip(*rounds, strict=True)]

    def _check_alive(self, cause: str) -> None:
        """Raises DeviceError if nothing can run on the device any more."""
        try:
            buffers.synchronize(self._memory)
        except Exception as error:
            raise DeviceError(
                f"the device is in error after a configuration was tried: {cause}\nStart again: it goes on after it"
            ) from error

    def _reference(self, task: Task, heuristic: Trial) -> list[Place]:
        """The heuristic's results."""
        for magnitudes in (False, True):
            self._fill(task, magnitudes)
            found = self._results(self._run(heuristic))
            if all(buffers.all_finite(place) for place in found):
                break
        kept = Slab([place.type for place in found], self._memory).places
        for copy, place in zip(kept, found, strict=True):
            copy.copy_from(place)
        buffers.synchronize(self._memory)
        return kept

    def _fill(self, task: Task, magnitudes: bool) -> None:
        fills = task.fills
        for seed, (value, place) in enumerate(self._places.items()):
            if value.dtype.is_float:
                buffers.fill_normal(place, seed, magnitudes)
            else:
                buffers.fill_constant(place, fills[value])

    def _run(self, trial: Trial) -> Bound:
        """Every launch of the node once, on memory full of NaN."""
        if not trial.launches:
            raise DeviceError("alone, the node poses another problem than in its graph")
        plan_memory(trial.schedule)
        if trial.schedule.arena_bytes > self._arena.nbytes:
            self._arena = Buffer(trial.schedule.arena_bytes, self._memory)
        self._arena.fill(255)
        bound = Bound(Layout(trial.schedule, trial.task.graph.outputs), self._arena, self._places)
        bound.run()
        return bound

    def _results(self, bound: Bound) -> list[Place]:
        return [place for place in bound.outputs if place.type.size]

    def _wrong(self, bound: Bound) -> str:
        """What is wrong with a run's results; both may be off by the tolerance of their dtype.

        Where something on the way to a float32 result is rounded to 16 bits, a sum in another order may fall on the
        other side of a rounding: such a result has the tolerance of tf32.
        """
        for place, expected in zip(self._results(bound), self._expected, strict=True):
            error = buffers.relative_error(place, expected)
            limit = 2 * TOLERANCE.get(place.type.dtype, 0.0)
            if place.type.dtype is float32 and self._rounded:
                limit = ROUNDED
            if not error <= limit:
                return f"relative RMS error {error:.3g} in {place.type}, at most {limit:g}"
        return ""

    def _times(self, calls: Sequence[Callable[[], object]], runs: int) -> list[float]:
        """Microseconds of each of some runs."""
        return (self._on_host if self._flush is None else self._on_device)(calls, runs)

    def _on_device(self, calls: Sequence[Callable[[], object]], runs: int) -> list[float]:
        """With cold caches, on a device that has had time to raise its clock."""
        assert self._flush is not None
        for _ in range(WARM):
            self._flush.fill(0)
        pairs = [(Event(self._memory), Event(self._memory)) for _ in range(runs)]
        for begin, end in pairs:
            self._flush.fill(0)
            begin.record()
            for call in calls:
                call()
            end.record()
        return [1e3 * end.milliseconds_since(begin) for begin, end in pairs]

    def _on_host(self, calls: Sequence[Callable[[], object]], runs: int) -> list[float]:
        times: list[float] = []
        for _ in range(runs):
            begin = time.perf_counter()
            for call in calls:
                call()
            times.append(1e6 * (time.perf_counter() - begin))
        return times


def _rounds(graph: Graph) -> bool:
    """True if a value of the graph, or within a fused node of it, is a 16-bit float."""
    regions = [n.attrs["region"] for n in graph.nodes if "region" in n.attrs]
    every = (v for g in (graph, *regions) for n in g.nodes for v in n.outputs)
    return any(v.dtype.is_low_precision for v in every)


def _calls(bound: Bound, trial: Trial) -> list[Callable[[], object]]:
    """The launches that the trial's configuration is for."""
    ours = set(map(id, trial.launches))
    return [call for launch, call in bound.launches if id(launch) in ours]
