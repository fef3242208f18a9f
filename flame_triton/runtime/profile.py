"""Where a step's time goes: every launch by itself, against what its memory traffic and its products would take.

Launches are timed in the order of the step, each on the memory that the step has left it. On a GPU a launch is recorded
many times into a CUDA graph of its own, so that no time of the host is in it; what it writes is put back before it runs
once for the step. Its operands may then lie in the L2 cache, which they would not always do in a step: the sum over all
launches is shown beside the time of the whole step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..graph.cost import flops
from ..graph.plan import Launch, Slot
from ..ir.node import Node
from . import buffers, listing
from .buffers import CudaGraph, Event, Place
from .capture import Saved

if TYPE_CHECKING:
    from .bound import Bound
    from .device import Device

REPEATS = 20  # runs of a launch in its graph
SAMPLES = 5  # replays of the graph


@dataclass(frozen=True)
class Ceilings:
    """What a device can do at most: bytes per second of memory traffic, operations per second of its products."""

    bandwidth: float
    flops: float


H200 = Ceilings(4.2e12, 7.9e14)
"""A copy, and cuBLAS's bfloat16 product of 8192^3, on one H200: what is assumed where nothing was measured."""


@dataclass(frozen=True)
class LaunchTime:
    """One launch of a step.

    label, kernel: its names. line: of the user, with the function it is in. gradient: whether a gradient rule made it.
    seconds: median. nbytes: of all arrays that it reads and writes, each whole and once. flops: of its products. Both
    are those of its node, divided by time if that takes several launches. floor: seconds that the ceilings ask for.
    """

    label: str
    kernel: str
    line: str
    gradient: bool
    type: str
    grid: tuple[int, ...]
    seconds: float
    nbytes: int
    flops: int
    floor: float

    @property
    def share(self) -> float:
        """Of the roofline: 1 is as fast as the ceilings allow, more means that data came from the cache."""
        return self.floor / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Group:
    """Launches that share a name: how many, their seconds and the floor of these."""

    name: str
    count: int
    seconds: float
    floor: float

    @property
    def share(self) -> float:
        """Of the roofline."""
        return self.floor / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Profile:
    """The launches of a step, in order. step: seconds of the whole step, as it is run."""

    device: str
    launches: list[LaunchTime]
    step: float
    ceilings: Ceilings = field(default=H200)

    @property
    def seconds(self) -> float:
        """Of all launches, one by one."""
        return sum(entry.seconds for entry in self.launches)

    def by_label(self) -> list[Group]:
        """Grouped by what the kernels do, the most costly first."""
        return _grouped(self.launches, lambda entry: entry.label)

    def by_line(self) -> list[Group]:
        """Grouped by the user's line, forward and gradient apart, the most costly first."""
        return _grouped(self.launches, lambda entry: entry.line + (" (gradient)" if entry.gradient else ""))

    def text(self, most: int = 25) -> str:
        """Both tables; most: lines of each."""
        alone, whole = _us(self.seconds), _us(self.step)
        lines = [
            f"{len(self.launches)} launches on {self.device}: {alone} one by one, {whole} as a step",
            f"ceilings: {self.ceilings.bandwidth / 1e9:,.0f} GB/s, {self.ceilings.flops / 1e12:,.0f} TFLOP/s",
        ]
        for title, groups in (("label", self.by_label()), ("line", self.by_line())):
            rows = [
                (f"{g.seconds / self.seconds:.1%}" if self.seconds else "", _us(g.seconds), str(g.count),
                 _us(g.seconds / g.count), f"{g.share:.0%}", g.name)
                for g in groups[:most]
            ]  # fmt: skip
            rest = groups[most:]
            lines += ["", *listing.table(("of all", "time", "launches", "each", "of roofline", title), rows)]
            if rest:
                lines.append(f"and {len(rest)} more, {_us(sum(g.seconds for g in rest))} together")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        launches = [{**asdict(entry), "share": entry.share} for entry in self.launches]
        ceilings = asdict(self.ceilings)
        return {"device": self.device, "step": self.step, "ceilings": ceilings, "launches": launches}

    def trace(self) -> dict[str, Any]:
        """Chrome's trace events: one row of launches, one of the user's lines that they come from; in microseconds."""
        names = {1: "launches", 2: "lines"}
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": f"flame_triton on {self.device}"}}
        ]
        events += [
            {"ph": "M", "name": "thread_name", "pid": 1, "tid": t, "args": {"name": n}} for t, n in names.items()
        ]
        begin = 0.0
        for i, entry in enumerate(self.launches):
            shown = {"kernel": entry.kernel, "line": entry.line, "type": entry.type, "grid": list(entry.grid)}
            shown |= {"bytes": entry.nbytes, "flops": entry.flops, "roofline": round(entry.share, 3), "launch": i}
            category = "gradient" if entry.gradient else "forward"
            for row, name in ((1, entry.label), (2, entry.line)):
                events.append(
                    {"ph": "X", "name": name, "cat": category, "pid": 1, "tid": row, "ts": begin,
                     "dur": entry.seconds * 1e6, "args": shown}
                )  # fmt: skip
            begin += entry.seconds * 1e6
        return {"displayTimeUnit": "ns", "traceEvents": events}


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f} us"


def _grouped(launches: Sequence[LaunchTime], name: Callable[[LaunchTime], str]) -> list[Group]:
    table: dict[str, list[LaunchTime]] = {}
    for entry in launches:
        table.setdefault(name(entry), []).append(entry)
    groups = [Group(n, len(es), sum(e.seconds for e in es), sum(e.floor for e in es)) for n, es in table.items()]
    return sorted(groups, key=lambda group: group.seconds, reverse=True)


# ---- measuring -------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """What takes times."""

    def seconds(self, call: Callable[[], Any]) -> float:
        """How long one call takes: the median of several."""
        ...


class HostClock:
    """Wall clock: for the interpreter."""

    def seconds(self, call: Callable[[], Any]) -> float:
        times: list[float] = []
        for _ in range(2):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


class DeviceClock:
    """CUDA events around replays of a graph that holds the call many times. The call must have been compiled."""

    def __init__(self, memory: str, repeats: int = REPEATS) -> None:
        self._memory, self._repeats = memory, repeats

    def seconds(self, call: Callable[[], Any]) -> float:
        def record() -> None:
            for _ in range(self._repeats):
                call()

        graph = CudaGraph(self._memory, record)
        graph.replay()
        times: list[float] = []
        for _ in range(SAMPLES):
            begin, end = Event(self._memory), Event(self._memory)
            begin.record()
            graph.replay()
            end.record()
            times.append(end.milliseconds_since(begin) / 1e3 / self._repeats)
        return statistics.median(times)


def clock(memory: str) -> Clock:
    """The clock for programs whose bytes lie in `memory`."""
    return HostClock() if memory == "cpu" else DeviceClock(memory)


def measure(bound: Bound, device: Device, ceilings: Ceilings, clock: Clock, whole: Clock) -> Profile:
    """Every launch of a step on the staged inputs; the state is put back afterwards. whole: times the step itself."""
    memory = device.memory
    saved = Saved(bound.changed, memory)
    times: list[float] = []
    try:
        with buffers.aside(memory):  # loads every kernel, which cannot happen while a graph is recorded
            bound.run()
        buffers.synchronize(memory)
        saved.restore()
        step = whole.seconds(bound.run)
        saved.restore()
        bound.begin()
        for launch, call in bound.launches:
            held = Saved([place for slot in launch.writes if (place := _place(bound, slot)) is not None], memory)
            times.append(clock.seconds(call))
            held.restore()
            call()
    finally:
        saved.restore()
        buffers.synchronize(memory)
    return Profile(str(device), entries([launch for launch, _ in bound.launches], times, ceilings), step, ceilings)


def _place(bound: Bound, slot: Slot) -> Place | None:
    """Where a launch writes; None for a workspace, which it reads only after it has written it."""
    return bound.place(slot, slot.value.type) if slot.value is not None else None


def entries(launches: Sequence[Launch], times: Sequence[float], ceilings: Ceilings) -> list[LaunchTime]:
    """Launches with their seconds. What a node of several launches moves and computes is divided among them by time."""
    nodes: dict[Node, list[tuple[Launch, float]]] = {}
    for launch, seconds in zip(launches, times, strict=True):
        nodes.setdefault(launch.node, []).append((launch, seconds))
    found: list[LaunchTime] = []
    for launch, seconds in zip(launches, times, strict=True):
        own = nodes[launch.node]
        whole = sum(s for _, s in own)
        part = seconds / whole if whole else 1 / len(own)
        found.append(_entry(launch, seconds, round(_moved(own) * part), round(flops(launch.node) * part), ceilings))
    return found


def _moved(own: Sequence[tuple[Launch, float]]) -> int:
    """Bytes of all slots that the launches of a node read, and of all that they write, each once."""
    reads = {slot for launch, _ in own for slot in launch.reads}
    writes = {slot for launch, _ in own for slot in launch.writes}
    return sum(slot.nbytes for slots in (reads, writes) for slot in slots)


def _entry(launch: Launch, seconds: float, nbytes: int, work: int, ceilings: Ceilings) -> LaunchTime:
    """A launch with its time, its part of the work, and where it comes from."""
    node = launch.node
    return LaunchTime(
        launch.label or launch.kernel.name, launch.kernel.name, line_of(node), node.origin is not None,
        ", ".join(map(str, node.types)), launch.grid, seconds, nbytes, work,
        max(nbytes / ceilings.bandwidth, work / ceilings.flops),
    )  # fmt: skip


def line_of(node: Node) -> str:
    """file:line of the user, for a gradient that of what it is the gradient of, and the function it is in."""
    loc = node.origin.loc if node.origin is not None else node.loc
    name = f"{loc.file.rpartition('/')[2]}:{loc.line}"
    return f"{name} in {loc.within or loc.function}"
