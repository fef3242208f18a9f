"""The measurement: correctness first, then rounds of all sides in turn, with cold caches.

For each case: arrays are made once; ours and each opponent are prepared and run once, and compared with the reference
in float64. If ours is wrong nothing is timed. Then, in rounds, each side in turn: a buffer of four times the L2 cache
is written, and CUDA events are recorded around the work alone. The same rounds hold a ceiling: a copy that moves the
same bytes, or cuBLAS's product of 8192^3 for what computes.
"""

from __future__ import annotations

import gc
import math
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

import flame_triton as ft
from bench.case import Case, KernelCase, Ours, Scale, Session, Work
from bench.opponents import MODES, SLOW_MODES, Run, Step, prepare
from flame_triton.errors import FlameError
from flame_triton.runtime.ahead import compile_all
from flame_triton.runtime.compile import planned
from flame_triton.runtime.device import device

SCHEMA = 1
STRANGE = 0.05  # relative RMS error at which an opponent is left out: it computes something else
LEAST, MOST = 3, 40  # samples of each side in one round
LEAD = 16  # how often the cache is overwritten before a round, so that the host is ahead of the device from its start


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    opponents: names that take part, none: all. budget: seconds after which no case is started; autotune: seconds that
    the slow modes of torch.compile may take together, checked before each; rounds: of each case; seconds: what the
    rounds of one case may take, about.
    """

    scale: Scale = field(default_factory=Scale)
    opponents: tuple[str, ...] = ()
    budget: float = 600.0
    autotune: float = 120.0
    rounds: int = 5
    seconds: float = 0.6


@dataclass
class Measured:
    """One side of a case: milliseconds of every sample, and how it was prepared."""

    samples: list[float]
    captured: bool = False
    error: float | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the quartiles."""
        low, middle, high = quartiles(self.samples)
        samples = [round(s, 6) for s in self.samples]
        return {"median_ms": middle, "q1_ms": low, "q3_ms": high, **asdict(self), "samples": samples}


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


# ---- clocks ----------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """What takes times."""

    def times(self, calls: Sequence[Callable[[], Any]], count: int) -> list[list[float]]:
        """Milliseconds of `count` runs of each call, the calls in turn."""
        ...


class HostClock:
    """Wall clock, for work on the CPU."""

    def times(self, calls: Sequence[Callable[[], Any]], count: int) -> list[list[float]]:
        found: list[list[float]] = [[] for _ in calls]
        for turn in range(count):
            for i in _rotated(len(calls), turn):
                start = time.perf_counter()
                calls[i]()
                found[i].append((time.perf_counter() - start) * 1e3)
        return found


class CudaClock:
    """Events around each call, the L2 cache full of something else before it.

    Writing the buffer takes longer than the host needs to queue a replay, so the device never waits for the host.
    """

    def __init__(self) -> None:
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        self._other = torch.empty(4 * cache, dtype=torch.uint8, device="cuda")

    def times(self, calls: Sequence[Callable[[], Any]], count: int) -> list[list[float]]:
        marks: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in calls]
        for _ in range(LEAD):
            self._other.zero_()
        for turn in range(count):
            for i in _rotated(len(calls), turn):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self._other.zero_()
                begin.record()
                calls[i]()
                end.record()
                marks[i].append((begin, end))
        torch.cuda.synchronize()
        return [[begin.elapsed_time(end) for begin, end in pairs] for pairs in marks]


def _rotated(count: int, turn: int) -> list[int]:
    """Every side goes first equally often."""
    return [(i + turn) % count for i in range(count)]


def measure(runs: dict[str, Run], clock: Clock, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Samples of each run: `rounds` rounds of as many as fit into `seconds` altogether, within LEAST and MOST."""
    calls = [run.call for run in runs.values()]
    first = clock.times(calls, 2)
    estimate = sum(min(samples) for samples in first) + 0.06 * len(calls)
    count = int(min(max(seconds * 1e3 / rounds / estimate, LEAST), MOST))
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for samples, new in zip(found.values(), clock.times(calls, count), strict=True):
            samples.extend(new)
    return found


# ---- correctness -----------------------------------------------------------------------------------------------


def relative_error(results: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The largest relative RMS error among the results; infinite if one is not finite where it should be."""
    if len(results) != len(reference):
        raise ValueError(f"{len(results)} results, {len(reference)} expected")
    worst = 0.0
    for result, wanted in zip(results, reference, strict=True):
        if result.shape != wanted.shape:
            raise ValueError(f"a result of shape {tuple(result.shape)}, expected {tuple(wanted.shape)}")
        exact = wanted.double()
        error = (result.double() - exact).square().mean().sqrt().item()
        size = exact.square().mean().sqrt().item()
        found = error / size if size else error
        worst = max(worst, found if found == found else float("inf"))
    return worst


def once(run: Run) -> list[Tensor]:
    """The results of one run on the arrays as they were made."""
    run.reset()
    run.call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return list(run.results())


# ---- ceilings --------------------------------------------------------------------------------------------------


def copy(nbytes: int, memory: str) -> Run:
    """A kernel that reads half of nbytes and writes it elsewhere. (Captured, `copy_` becomes a transfer, which reached
    2.5 to 3.8 TB/s on an H200 where this reaches 4.1.)"""

    def make() -> Step:
        source, target = (torch.zeros(max(nbytes // 8, 1), device=memory) for _ in range(2))
        return Step(lambda: [torch.mul(source, 1.0, out=target)])

    return prepare(make, memory)


def large_product(memory: str, quick: bool) -> tuple[Run, int]:
    """cuBLAS's bfloat16 product of 8192^3, and its operations."""
    n = 64 if quick else 8192

    def make() -> Step:
        a, b = (torch.randn(n, n, device=memory).to(torch.float32 if quick else torch.bfloat16) for _ in range(2))
        out = torch.empty_like(a)
        return Step(lambda: [torch.mm(a, b, out=out)])

    return prepare(make, memory), 2 * n**3


# ---- one case --------------------------------------------------------------------------------------------------


class Harness:
    """Measures cases one after the other. say: takes a line for the user."""

    def __init__(self, plan: Plan, where: str, say: Callable[[str], None], clock: Clock | None = None) -> None:
        self.plan, self.device, self.say = plan, where, say
        self.memory = "cuda" if where == "cuda" else "cpu"
        self.clock = clock or (CudaClock() if where == "cuda" else HostClock())
        self._product: tuple[Run, int] | None = None
        self._tuned = 0.0

    def run(self, cases: Sequence[Case]) -> dict[str, Any]:
        """Everything that was found, as it goes to JSON."""
        start = time.perf_counter()
        if self.device == "cuda":
            self._compile(cases)
        found: list[dict[str, Any]] = []
        for case in cases:
            if time.perf_counter() - start > self.plan.budget:
                found.append(_entry(case, "skipped", "no time was left"))
                continue
            found.append(self.case(case))
            self.say(_line(found[-1]))
            gc.collect()
            if self.device == "cuda":
                torch.cuda.empty_cache()
        options = {**asdict(self.plan), "device": self.device}
        seconds = time.perf_counter() - start
        return {"schema": SCHEMA, "machine": machine(), "options": options, "seconds": seconds, "cases": found}

    def case(self, case: Case) -> dict[str, Any]:
        """One row; what goes wrong in it is part of the row."""
        try:
            return self._case(case)
        except Exception as error:  # a case that breaks must not take the other rows with it
            return _entry(case, "failed", f"{type(error).__name__}: {error}")

    def _case(self, case: Case) -> dict[str, Any]:
        session = case.open(self.device)
        reference = session.reference()
        sides = session.ours()
        kernels = sides["ours"].kernels
        error = relative_error(once(sides["ours"]), reference)
        if not error <= session.tolerance:
            message = f"relative RMS error {error:.2g}, at most {session.tolerance:g}"
            finite = error if math.isfinite(error) else None
            return _entry(case, "wrong", message, session.work, error=finite, kernels=kernels)
        errors: dict[str, float] = {"ours": error}
        failed: dict[str, str] = {}
        for name, make in session.opponents().items():
            if why := self._unwanted(name):
                if why != "not asked for":
                    failed[name] = why
                continue
            try:
                sides[name] = self._prepared(name, make)
                errors[name] = relative_error(once(sides[name]), reference)
            except Exception as broken:  # an opponent that refuses a case is a finding too
                sides.pop(name, None)
                failed[name] = str(broken).strip().split("\n")[0][:200]
                continue
            if not errors[name] <= STRANGE:
                failed[name] = f"does not agree: relative RMS error {errors[name]:.2g}"
                del sides[name]
        del reference
        ceiling, amount = self._ceiling(case, session)
        samples = measure({**sides, "ceiling": ceiling}, self.clock, self.plan.rounds, self.plan.seconds)
        measured = {
            name: Measured(samples[name], run.captured, errors.get(name), run.seconds) for name, run in sides.items()
        }
        top = Measured(samples["ceiling"], ceiling.captured)
        return _result(case, session, measured, failed, (top, amount), kernels)

    def _prepared(self, name: str, make: Callable[[], Run]) -> Run:
        start = time.perf_counter()
        try:
            return make()
        finally:
            if name in SLOW_MODES:
                self._tuned += time.perf_counter() - start

    def _unwanted(self, name: str) -> str | None:
        """Why an opponent does not take part."""
        if self.plan.opponents and name not in self.plan.opponents:
            return "not asked for"
        if name in MODES and self.device != "cuda" and not self.plan.opponents:
            return "not asked for"
        if name in SLOW_MODES and self._tuned >= self.plan.autotune:
            return f"autotuning had used its {self.plan.autotune:g} s"
        return None

    def _ceiling(self, case: Case, session: Session) -> tuple[Run, int]:
        """What bounds a case, and how many bytes or operations it is."""
        if case.bound == "memory":
            return copy(session.work.nbytes, self.memory), session.work.nbytes // 2 * 2
        if self._product is None:
            self._product = large_product(self.memory, self.plan.scale.quick)
        return self._product

    def _compile(self, cases: Sequence[Case]) -> None:
        """All kernels of all cases at once, on every core, so that no case waits for its own."""
        start, launches = time.perf_counter(), []
        chosen = device(self.device)
        for case in cases:
            try:
                for ours in _graphs(case):
                    launches += planned(ours.outputs, ours.updates, chosen)
            except FlameError as error:
                self.say(f"{case.name}: {error}")  # its own row says so again
        try:
            compile_all(launches, chosen.memory)
        except FlameError as error:
            self.say(f"a kernel does not compile: {error}")
        self.say(f"{len(launches)} launches planned and compiled in {time.perf_counter() - start:.1f} s")


def _graphs(case: Case) -> list[Ours]:
    """Every graph of ours that a case runs."""
    ours = case.build()
    forward = [Ours({}, [], ours.saved)] if ours.saved else []
    bare = [case.build(case.bare)] if isinstance(case, KernelCase) and case.bare is not None else []
    return [ours, *forward, *bare]


# ---- results ---------------------------------------------------------------------------------------------------


def _entry(case: Case, verdict: str, message: str = "", work: Work | None = None, **more: Any) -> dict[str, Any]:
    """A row without times. verdict: "ok", "wrong", "failed" or "skipped"."""
    shared = {"name": case.name, "family": case.family, "bar": case.bar, "bound": case.bound, "aims": asdict(case.aims)}
    counted = asdict(work) if work is not None else {"flops": 0, "nbytes": 0}
    return {**shared, "verdict": verdict, "message": message, **counted, **more}


def _result(
    case: Case,
    session: Session,
    measured: dict[str, Measured],
    failed: dict[str, str],
    ceiling: tuple[Measured, int],
    kernels: list[str],
) -> dict[str, Any]:
    """A row with times and what follows from them."""
    sides = {name: m.as_dict() for name, m in measured.items()}
    ours = sides.pop("ours")
    bare = sides.pop("bare", None)
    best = min(sides, key=lambda name: sides[name]["median_ms"], default=None)
    top, amount = ceiling
    limit = {"what": "copy" if case.bound == "memory" else "cuBLAS 8192^3", "amount": amount, **top.as_dict()}
    done = session.work.nbytes if case.bound == "memory" else session.work.flops
    rate, most = done / ours["median_ms"], amount / limit["median_ms"]
    return _entry(
        case, "ok", "", session.work, error=measured["ours"].error, tolerance=session.tolerance, kernels=kernels,
        ours=ours, bare=bare, opponents=sides, failed=failed, best=best, ceiling=limit,
        ratio=sides[best]["median_ms"] / ours["median_ms"] if best is not None else None,
        share=rate / most, over_bare=ours["median_ms"] / bare["median_ms"] if bare else None,
    )  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    """A row as it is said while the others are still to come."""
    if row["verdict"] != "ok":
        return f"{row['family']:9} {row['name']}: {row['verdict'].upper()} {row['message']}"
    text = f"{row['family']:9} {row['name']}: {row['ours']['median_ms']:.4f} ms"
    if row["best"] is not None:
        text += f", {row['ratio']:.2f}x {row['best']}"
    return text + f", {row['share']:.0%} of the ceiling"


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    import triton

    found = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    found |= {"flame_triton": ft.__version__, "gpu": None, "driver": None}
    if torch.cuda.is_available():
        p = torch.cuda.get_device_properties(0)
        found |= {"gpu": p.name, "processors": p.multi_processor_count, "l2_bytes": p.L2_cache_size}
        found |= {"cuda": torch.version.cuda, "driver": _driver(), "cudnn": torch.backends.cudnn.version()}
    return found


def _driver() -> str | None:
    """The driver's version, as Linux tells it."""
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii") as file:
            found = re.search(r"\b\d+\.\d+(\.\d+)?\b", file.readline())
    except OSError:
        return None
    return found[0] if found else None
