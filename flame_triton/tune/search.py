"""The search: which configurations of which problems are tried, in which order, within a budget of time.

First every problem's heuristic is measured, which tells what share of the step each problem has; then the problems are
searched, those first that take the most time in the whole graph. Spaces of up to EXHAUSTIVE configurations are tried
wholly. Of larger ones an even sample is tried, and then, as long as that finds something faster, what differs from the
LEADERS fastest in one field by one step: of a hundred with one valley that compiles thirty, and finds the best.

What is stored is not measured again, so a search that was ended, in whatever way, goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field

from ..errors import CompileError, DeviceError
from ..runtime.ahead import KernelReport
from ..runtime.choices import Config, as_json
from ..runtime.store import FAILED, OK, UNCOMPILED, Row, Store
from .measure import LOOK, Bench, Stage, Verdict
from .problems import Task, Trial, trial

EXHAUSTIVE = 24  # configurations of a space that is tried wholly
SAMPLE = 12  # configurations of the sample of a larger one
LEADERS = 3
NEAREST = 4
AHEAD = 3  # problems that are being compiled while one is measured

Started = tuple[Trial, Future[list[KernelReport]] | None]


@dataclass
class Gain:
    """What came of one problem. before, after: microseconds of the heuristic and of the best, once each.

    count: how often the graph has it; space: configurations there are; tried: of them measured or refused, by status;
    known: of those, how many an earlier run had done; complete: the search ended by itself.
    """

    task: Task
    space: int
    before: float | None = None
    after: float | None = None
    best: str = ""
    tried: dict[str, int] = field(default_factory=dict)
    known: int = 0
    complete: bool = False
    note: str = ""

    @property
    def saved(self) -> float:
        """Microseconds saved in one run of the whole graph."""
        return self.task.count * (self.before - self.after) if self.before and self.after else 0.0


class OutOfTime(Exception):
    """The budget is spent."""


class Search:
    """One search for the problems of a graph. budget: seconds, None: until done. moved: called after each step."""

    def __init__(
        self,
        tasks: Sequence[Task],
        bench: Bench,
        store: Store,
        budget: float | None = None,
        moved: Callable[[Search], None] = lambda search: None,
    ) -> None:
        self._bench = bench
        self._store = store
        self._end = None if budget is None else time.monotonic() + budget
        self._moved = moved
        self._rows: dict[int, dict[tuple[str, str], Row]] = {}
        self._times: dict[int, dict[Config, float]] = {id(task): {} for task in tasks}  # of what is ok
        self.gains = [Gain(task, len(task.candidates)) for task in tasks]
        self.out_of_time = False

    def run(self) -> list[Gain]:
        """Search until done or out of time. Whatever ends it, what was measured is stored."""
        try:
            self._heuristics()
            order = sorted(self.gains, key=lambda g: -g.task.count * (g.before or 0.0))
            self._spaces([g for g in order if g.before is not None])
        except OutOfTime:
            self.out_of_time = True
        return self.gains

    @property
    def progress(self) -> tuple[int, int]:
        """(problems searched, problems)."""
        return sum(g.complete or bool(g.note) for g in self.gains), len(self.gains)

    # ---- heuristics --------------------------------------------------------------------------------------------

    def _heuristics(self) -> None:
        """Every problem's heuristic, compiled at once and measured one after the other."""
        started = [(gain, self._start(gain, gain.task.heuristic)) for gain in self.gains]
        for gain, (made, future) in started:
            if future is not None:
                self._check_time()
                try:
                    refused = self._bench.compiled(made, future, self._left())
                    if refused is None or refused.status != UNCOMPILED:  # if it spills: it is what runs today
                        with self._bench.stage(gain.task, made) as stage:
                            refused = stage.measure(made, None)
                except TimeoutError:
                    raise OutOfTime from None
                except CompileError as error:
                    refused = Verdict(FAILED, note=error.message)
                assert refused is not None
                self._enter(gain, made, refused)
            row = self._row(gain, made)
            if row is None or row.status != OK:
                gain.note = row.note or row.status if row is not None else ""
            else:
                gain.before = gain.after = row.microseconds
                gain.best = made.text
            self._moved(self)

    # ---- spaces ------------------------------------------------------------------------------------------------

    def _spaces(self, order: Sequence[Gain]) -> None:
        """Every problem's space; the first waves of the next problems are compiled meanwhile."""
        waves: dict[int, list[Started]] = {}
        for i, gain in enumerate(order):
            for ahead in range(i, min(i + AHEAD, len(order))):
                if ahead not in waves:
                    waves[ahead] = [self._start(order[ahead], c) for c in first_wave(order[ahead].task.candidates)]
            self._space(gain, waves.pop(i))
            gain.complete = True
            self._moved(self)

    def _space(self, gain: Gain, wave: list[Started]) -> None:
        stage: Stage | None = None
        waves = 0  # beyond the first
        asked = {made.text for made, _ in wave}
        try:
            while wave:
                before = gain.after
                for made, future in wave:
                    if future is not None:
                        self._check_time()
                        if stage is None:
                            heuristic = trial(gain.task, gain.task.heuristic, self._bench.target)
                            stage = self._bench.stage(gain.task, heuristic)
                        self._enter(gain, made, self._verdict(gain, stage, made, future))
                    self._compare(gain, made)
                    self._moved(self)
                if gain.space <= EXHAUSTIVE or (waves and gain.after == before):
                    break
                wave = [self._start(gain, c) for c in self._next_wave(gain, asked)]
                waves += 1
                asked |= {made.text for made, _ in wave}
            if stage is not None:
                self._settle(gain, stage)
        finally:
            if stage is not None:
                stage.__exit__(None, None, None)

    def _settle(self, gain: Gain, stage: Stage) -> None:
        """Time the heuristic and the fastest once more, in turn, until the fastest is one of those: the least of many
        times flatters itself."""
        task, target = gain.task, self._bench.target
        times = self._times[id(task)]
        settled: set[Config] = set()
        while (leaders := self._leaders(task))[0] not in settled:
            chosen = list(dict.fromkeys([task.heuristic, *leaders]))
            trials = [trial(task, config, target) for config in chosen]
            for made, microseconds in zip(trials, stage.compare(trials), strict=True):
                self._enter(gain, made, Verdict(OK, microseconds, LOOK))
                times[made.config] = microseconds
            settled.update(chosen)
        best = leaders[0]
        gain.before, gain.after, gain.best = times[task.heuristic], times[best], as_json(best)

    def _verdict(self, gain: Gain, stage: Stage, made: Trial, future: Future[list[KernelReport]]) -> Verdict:
        try:
            return self._bench.compiled(made, future, self._left()) or stage.measure(made, gain.after)
        except TimeoutError:
            raise OutOfTime from None
        except DeviceError as error:
            self._enter(gain, made, Verdict(FAILED, note=error.message.splitlines()[0]))  # not to be tried again
            raise

    def _next_wave(self, gain: Gain, asked: set[str]) -> list[Config]:
        """What differs from the fastest in one field by one step, and was not asked for yet."""
        near = [c for leader in self._leaders(gain.task) for c in neighbours(leader, gain.task.candidates)]
        return [c for c in dict.fromkeys(near) if as_json(c) not in asked]

    def _leaders(self, task: Task) -> list[Config]:
        """The fastest so far."""
        times = self._times[id(task)]
        return sorted(times, key=lambda config: times[config])[:LEADERS]

    # ---- one configuration -------------------------------------------------------------------------------------

    def _start(self, gain: Gain, config: Config) -> Started:
        """The configuration lowered, and being compiled unless an earlier run has done with it."""
        made = trial(gain.task, config, self._bench.target)
        if self._row(gain, made) is None:
            return made, self._bench.submit(made)
        gain.known += gain.before is None or config != gain.task.heuristic
        return made, None

    def _known(self, task: Task) -> dict[tuple[str, str], Row]:
        if id(task) not in self._rows:
            bench = self._bench
            self._rows[id(task)] = self._store.known(bench.device, bench.triton, bench.ptxas, task.problem)
        return self._rows[id(task)]

    def _row(self, gain: Gain, made: Trial) -> Row | None:
        return self._known(gain.task).get((made.text, made.kernel))

    def _enter(self, gain: Gain, made: Trial, verdict: Verdict) -> None:
        """Store what came of a configuration."""
        bench, problem = self._bench, gain.task.problem
        row = Row(
            bench.device, bench.triton, bench.ptxas, problem.family, problem.facts, made.text, made.kernel,
            **asdict(verdict),
        )  # fmt: skip
        self._store.put([row])
        self._known(gain.task)[made.text, made.kernel] = row

    def _compare(self, gain: Gain, made: Trial) -> None:
        row = self._row(gain, made)
        if row is None:
            return
        gain.tried[row.status] = gain.tried.get(row.status, 0) + 1
        if row.status == OK and row.microseconds is not None:
            self._times[id(gain.task)][made.config] = row.microseconds
            if not gain.after or row.microseconds < gain.after:
                gain.after, gain.best = row.microseconds, made.text

    def _left(self) -> float | None:
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def _check_time(self) -> None:
        if self._left() == 0.0:
            raise OutOfTime


def first_wave(candidates: Sequence[Config]) -> list[Config]:
    """All of a small space; of a larger one the first (the heuristic's), one of each kind, and an even sample."""
    if len(candidates) <= EXHAUSTIVE:
        return list(candidates)
    kinds = {type(c): c for c in reversed(candidates)}
    step = (len(candidates) - 1) / SAMPLE
    sample = [candidates[1 + int(i * step)] for i in range(SAMPLE)]
    return list(dict.fromkeys([candidates[0], *kinds.values(), *sample]))


def neighbours(config: Config, candidates: Sequence[Config]) -> list[Config]:
    """The candidates that differ from `config` in one field, by one step of the values that this field has there.

    Where fields hang together (a larger tile has fewer stages) there are few of those: then NEAREST of them and of what
    differs in the fewest fields.
    """
    fields = asdict(config)
    alike = [c for c in candidates if type(c) is type(config)]
    found: list[Config] = []
    for name in fields:
        line = [c for c in alike if {**asdict(c), name: None} == {**fields, name: None}]
        line.sort(key=lambda c: getattr(c, name))
        at = line.index(config)
        found += [line[i] for i in (at - 1, at + 1) if 0 <= i < len(line)]
    if len(found) < NEAREST:
        far = {c: sum(getattr(c, name) != value for name, value in fields.items()) for c in alike}
        near = sorted((c for c in alike if c != config and c not in found), key=lambda c: far[c])
        found += near[: NEAREST - len(found)]
    return found
