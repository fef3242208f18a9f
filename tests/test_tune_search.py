"""The search: with a fake timer that knows every answer, and on real kernels in Triton's interpreter."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import flame_triton as ft
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.ahead import KernelReport
from flame_triton.runtime.choices import as_json
from flame_triton.runtime.device import device
from flame_triton.runtime.store import OK, SERIALISED, SHARED, SPILLED, UNCOMPILED, WRONG, Store
from flame_triton.tune import measure, problems, search
from flame_triton.tune.measure import DeviceBench, Verdict
from flame_triton.tune.problems import Task, Trial
from flame_triton.tune.search import Search

ROOT = Path(__file__).resolve().parent.parent


def step() -> tuple[Graph, dict[Any, Any]]:
    """A small training step with several kinds of problems."""
    x, w = ft.input((64, 32)), ft.parameter((32, 32))
    y = ft.softmax(ft.silu(x @ w), axis=-1)
    loss = ft.mean(ft.square(y))
    (g,) = ft.grad(loss, [w])
    return Graph((x,), (loss,)), {w: w - 0.1 * g}


class FakeBench:
    """Answers at once. times: microseconds by canonical JSON; the rest follow from a hash."""

    device, triton, ptxas, workers = "a fake", "3", "12", 2
    target = Target()

    def __init__(self, delay: float = 0.0, log: Path | None = None) -> None:
        self.delay, self.log = delay, log
        self.refused: dict[str, Verdict] = {}
        self.submitted: list[str] = []
        self.timed: list[str] = []
        self.answers: dict[str, float] = {}
        self.closed = False

    def submit(self, trial: Trial) -> Future[list[KernelReport]]:
        self.submitted.append(trial.text)
        done: Future[list[KernelReport]] = Future()
        done.set_result([])
        return done

    def compiled(self, trial: Trial, future: Any, timeout: float | None) -> Verdict | None:
        return self.refused.get(trial.text)

    def stage(self, task: Task, heuristic: Trial) -> Any:
        return FakeStage(self)

    def close(self) -> None:
        self.closed = True


class FakeStage:
    def __init__(self, bench: FakeBench) -> None:
        self.bench = bench

    def measure(self, trial: Trial, best: float | None) -> Verdict:
        time.sleep(self.bench.delay)
        key = f"{trial.task.problem.facts} {trial.text}"
        self.bench.timed.append(key)
        if self.bench.log is not None:
            with self.bench.log.open("a") as file:
                file.write(key + "\n")
        self.bench.answers[trial.text] = fake_time(trial.text)
        return Verdict(OK, fake_time(trial.text), 15)

    def compare(self, trials: list[Trial]) -> list[float]:
        return [self.bench.answers.get(trial.text, fake_time(trial.text)) for trial in trials]

    def __enter__(self) -> FakeStage:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def fake_time(text: str) -> float:
    return 10.0 + int(hashlib.sha256(text.encode()).hexdigest()[:6], 16) % 1000


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(tmp_path / "s") as opened:
        yield opened


def test_every_problem_gets_its_best(store: Store) -> None:
    found = problems.tasks(*step(), Target())
    assert len({t.problem for t in found}) == len(found) >= 4
    bench = FakeBench()
    gains = Search(found, bench, store).run()
    assert all(g.complete and g.before == fake_time(as_json(g.task.heuristic)) for g in gains)
    for g in gains:
        if g.space <= search.EXHAUSTIVE:
            assert g.after == min(fake_time(as_json(c)) for c in g.task.candidates)
        assert g.after is not None and g.before is not None and g.after <= g.before
    assert len(bench.timed) == len(set(bench.timed)) == len(bench.submitted)


def test_nothing_is_measured_twice(store: Store) -> None:
    found = problems.tasks(*step(), Target())
    first = Search(found, FakeBench(), store).run()
    bench = FakeBench()
    again = Search(problems.tasks(*step(), Target()), bench, store).run()
    assert not bench.submitted and not bench.timed
    for one, other in zip(first, again, strict=True):
        assert (one.before, one.after, one.best, one.tried) == (other.before, other.after, other.best, other.tried)
    assert all(g.known == sum(g.tried.values()) for g in again)


def test_a_changed_kernel_is_measured_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems.tasks(*step(), Target())[:1]
    Search(found, FakeBench(), store).run()
    monkeypatch.setattr(problems.fingerprint, "of_launches", lambda launches: "changed")
    bench = FakeBench()
    Search(found, bench, store).run()
    assert len(bench.timed) == sum(1 for c in search.first_wave(found[0].candidates))


def test_a_budget_ends_the_search_where_it_matters_most(store: Store) -> None:
    found = problems.tasks(*step(), Target())
    bench = FakeBench(delay=0.02)
    searching = Search(found, bench, store, budget=0.02 * (len(found) + 6))
    gains = searching.run()
    assert searching.out_of_time and len(bench.timed) < sum(g.space for g in gains)
    done = [g for g in gains if g.complete or g.tried]
    left = [g for g in gains if g.before is not None and not g.complete and not g.tried]
    weigh = lambda g: g.task.count * g.before  # noqa: E731
    assert done and left and min(map(weigh, done)) >= max(map(weigh, left))
    rest = FakeBench()
    assert all(g.complete for g in Search(found, rest, store).run())
    assert not set(rest.timed) & set(bench.timed)


def test_large_spaces_are_walked(store: Store) -> None:
    task = max(problems.tasks(*step(), Target()), key=lambda t: len(t.candidates))
    kind = type(task.heuristic)
    wide = [kind(m, n, w) for m in (1, 2, 4, 8, 16) for n in (256, 512, 1024, 2048) for w in (1, 2, 4, 8, 16)]
    task = replace(task, candidates=tuple(wide), heuristic=wide[0])

    class Bowl(FakeStage):
        def measure(self, trial: Trial, best: float | None) -> Verdict:
            self.bench.timed.append(trial.text)
            c = trial.config
            steps = [abs(a.bit_length() - b.bit_length()) for a, b in ((c.BLOCK_M, 4), (c.BLOCK_N, 1024))]
            self.bench.answers[trial.text] = 10.0 + sum(steps) + 0.1 * abs(c.num_warps - 4)
            return Verdict(OK, self.bench.answers[trial.text], 15)

    bench = FakeBench()
    bench.stage = lambda task, heuristic: Bowl(bench)  # type: ignore[method-assign]
    (gain,) = Search([task], bench, store).run()
    assert gain.after == 10.0 and gain.best == as_json(kind(4, 1024, 4))
    assert len(bench.timed) <= len(wide) // 2


def test_neighbours_differ_in_one_step_or_in_little(store: Store) -> None:
    kind = type(problems.tasks(*step(), Target())[0].heuristic)
    if "BLOCK_B" in kind.__dataclass_fields__:
        kind = type(max(problems.tasks(*step(), Target()), key=lambda t: len(t.candidates)).heuristic)
    grid = [kind(m, n, w) for m in (1, 2, 4) for n in (256, 512) for w in (2, 4, 8)]
    near = search.neighbours(kind(2, 256, 4), grid)
    assert set(near) == {kind(1, 256, 4), kind(4, 256, 4), kind(2, 512, 4), kind(2, 256, 2), kind(2, 256, 8)}
    apart = [kind(1, 256, 1), kind(2, 512, 2), kind(4, 1024, 4), kind(2, 2048, 8)]
    assert search.neighbours(apart[1], apart)[0] == kind(2, 2048, 8)  # two fields differ, in the others three
    assert set(search.neighbours(apart[0], apart)) == set(apart[1:])


def test_refused_configurations_are_kept_as_such(store: Store) -> None:
    task = problems.tasks(*step(), Target())[0]
    bench = FakeBench()
    bad = [as_json(c) for c in task.candidates[1:4]]
    bench.refused = {text: Verdict(s, note="why") for text, s in zip(bad, (SPILLED, SHARED, UNCOMPILED), strict=False)}
    (gain,) = Search([task], bench, store).run()
    states = {row.config: (row.status, row.note) for row in store.rows()}
    assert states[bad[0]] == (SPILLED, "why")
    assert gain.tried[SPILLED] == 1 and not any(text in key for key in bench.timed for text in bad)


def test_a_heuristic_that_does_not_compile_is_named(store: Store) -> None:
    found = problems.tasks(*step(), Target())[:2]
    bench = FakeBench()
    bench.refused = {as_json(found[0].heuristic): Verdict(UNCOMPILED, note="no such instruction")}
    first, second = Search(found, bench, store).run()
    assert first.note == "no such instruction" and first.before is None
    assert second.complete


def test_reports_are_judged() -> None:
    fine = KernelReport("k", "k", registers=100, shared_bytes=1000)
    assert measure.judge([fine], 2000) is None
    for change, status in (
        ({"error": "no"}, UNCOMPILED), ({"shared_bytes": 2001}, SHARED), ({"spills": 5000}, SPILLED),
        ({"remarks": ("C7510: serialized",)}, SERIALISED),
    ):  # fmt: skip
        verdict = measure.judge([fine, replace(fine, **change)], 2000)  # type: ignore[arg-type]
        assert verdict is not None and verdict.status == status


def test_the_fastest_is_timed_again_in_turn(store: Store) -> None:
    task = problems.tasks(*step(), Target())[0]
    lucky = as_json(task.candidates[1])

    class Noisy(FakeStage):
        def measure(self, trial: Trial, best: float | None) -> Verdict:
            return Verdict(OK, 1.0 if trial.text == lucky else fake_time(trial.text), 15)

    bench = FakeBench()
    bench.stage = lambda task, heuristic: Noisy(bench)  # type: ignore[method-assign]
    (gain,) = Search([task], bench, store).run()
    assert gain.after == min(fake_time(as_json(c)) for c in task.candidates)
    assert store.best("a fake", "3", task.problem)[0].microseconds == gain.after


def test_slow_configurations_get_a_glance() -> None:
    asked: list[int] = []

    def run(count: int) -> list[float]:
        asked.append(count)
        return [100.0] * count

    assert measure.race(run, 50.0) == (100.0, measure.GLANCE)
    assert measure.race(run, 95.0) == (100.0, measure.LOOK)
    assert measure.race(run, None)[1] == measure.LOOK
    assert asked[0] == measure.GLANCE and len(asked) == 5


# ---- killed ----------------------------------------------------------------------------------------------------

KILLED = """
import sys
from pathlib import Path
from test_tune_search import FakeBench, Search, Store, Target, problems, step

with Store(Path(sys.argv[1])) as store:
    Search(problems.tasks(*step(), Target()), FakeBench(0.02, Path(sys.argv[2])), store).run()
"""


def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "s"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), str(log)], env=environment)
    try:
        while not log.exists() or len(log.read_text().splitlines()) < 12:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = log.read_text().splitlines()
    found = problems.tasks(*step(), Target())
    bench = FakeBench()
    with Store(path) as store:
        gains = Search(found, bench, store).run()
    assert all(g.complete for g in gains)
    assert len(set(before) & set(bench.timed)) <= 1  # the one in the works
    assert len(before) < len({*before, *bench.timed})


# ---- real kernels ----------------------------------------------------------------------------------------------


@pytest.mark.interpreter
def test_real_kernels_pass_and_wrong_ones_do_not(store: Store) -> None:
    x = ft.input((12, 32))
    g = Graph((x,), (ft.sum(ft.exp(x), axis=1), ft.layer_norm(x, (32,))))
    bench = DeviceBench(device("interpreter"))
    for task in problems.tasks(g, {}, bench.target):
        good = task.heuristic
        half = replace(good, BLOCK_N=16)  # rows of 32 are held whole: this reads and writes half of each
        (gain,) = Search([replace(task, candidates=(good, half))], bench, store).run()
        assert gain.tried == {OK: 1, WRONG: 1} and gain.best == as_json(good)
    notes = [row.note for row in store.rows() if row.status == WRONG]
    assert notes and all("relative RMS error" in note for note in notes)


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_node_alone_poses_the_same_problem(dtype: str) -> None:
    q = ft.input((1, 2, 16, 16), dtype)
    x, w = ft.input((1, 4, 8, 8), dtype), ft.input((8, 4, 3, 3), dtype)
    lengths = ft.input((1,), "int32")
    y = ft.scaled_dot_product_attention(q.mT.mT, q, q[..., :], key_lengths=lengths)
    outputs = [y, ft.silu(ft.conv2d(x, w, padding=1))]
    outputs += ft.grad(ft.sum(ft.cast(ft.square(y), "float32")), [q])
    bench = DeviceBench(device("interpreter"))
    found = problems.tasks(Graph((q, x, w, lengths), tuple(outputs)), {}, bench.target)
    families = {t.problem.family for t in found}
    assert {"attention", "convolution", "region"} <= families
    assert sum(t.problem.family == "attention" for t in found) == 3  # forward, keys, queries
    for task in found:
        made = problems.trial(task, task.heuristic, bench.target)
        assert made.launches
        stage = bench.stage(task, made)
        verdict = stage.measure(made, 1e-9)
        assert verdict.status == OK and verdict.runs == measure.GLANCE, verdict
        if "lengths" in task.problem.facts:
            assert 16 in task.fills.values()
