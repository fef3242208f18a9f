"""flame-triton tune: what it prints, writes and refuses; and its compiling processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from test_tune_search import FakeBench
from typer.testing import CliRunner

from flame_triton import cli_tune, config
from flame_triton.cli import app
from flame_triton.errors import ArgumentError
from flame_triton.runtime import device
from flame_triton.runtime.store import Store, read_table
from flame_triton.tune import measure

ROOT = Path(__file__).resolve().parent.parent

MODEL = """
import flame_triton as ft

x, w = ft.input((64, 32)), ft.parameter((32, 32))
loss = ft.mean(ft.square(ft.softmax(x @ w, axis=-1)))

def forward():
    return loss

def several():
    return [loss, x @ w]

def step():
    return loss, {w: w - 0.1 * ft.grad(loss, [w])[0]}

def number():
    return 7
"""


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def answer(*arguments: str) -> Any:
    """The JSON object that a command prints to stdout."""
    return json.loads(CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False).stdout)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBench:
    """A device that answers at once, and a module `tuned_model` in the current folder."""
    bench = FakeBench()
    there = types.SimpleNamespace(
        gpu_available=lambda: True, interpreted=lambda: False, no_color=config.no_color, store_path=config.store_path
    )
    monkeypatch.setattr(cli_tune, "config", there)
    monkeypatch.setattr(device, "device", lambda like: device.Device("cuda"))
    monkeypatch.setattr(measure, "DeviceBench", lambda chosen, workers, deterministic=True: bench)
    monkeypatch.setenv("FLAME_STORE", str(tmp_path / "s"))
    (tmp_path / "tuned_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "tuned_model", raising=False)
    return bench


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if config.gpu_available() and not config.interpreted():
        pytest.skip("this process can tune")
    assert "tuning measures kernels on an NVIDIA GPU" in run("tune", "digits", "--budget", "8m", code=1)


def test_a_step_is_tuned_shown_exported_and_imported(fake: FakeBench, tmp_path: Path) -> None:
    forward = answer("tune", "tuned_model:forward")
    assert forward["complete"] and forward["after"] <= forward["before"] and fake.closed
    text = run("tune", "tuned_model:step")
    assert "us a run" in text and "known from before" in text
    step = answer("tune", "tuned_model:step")
    assert len(step["problems"]) > len(forward["problems"])
    assert step["known"] == sum(step["tried"].values()) and step["problems"][0]["best"]
    shown = run("tune", "show")
    best = answer("tune", "show")["problems"]
    assert "matmul" in shown and f"{len(best)} problems" in shown and len(best) >= len(step["problems"])
    run("tune", "export", "best.json")
    run("tune", "export", "all.json", "--all")
    with Store(tmp_path / "s", create=False) as store:
        assert read_table(tmp_path / "all.json") == store.rows()
    assert len(read_table(tmp_path / "best.json")) == len(best)
    run("tune", "import", "all.json", "--store", "other")
    with Store(tmp_path / "other", create=False) as other:
        assert other.rows() == read_table(tmp_path / "all.json")
    assert run("tune", "show", "--store", "other") == shown


def test_budget_and_family_are_heeded(fake: FakeBench) -> None:
    text = run("tune", "tuned_model:several", "--budget", "0.000001")
    assert "ended early" in text
    found = answer("tune", "tuned_model:several", "--only", "matmul")
    assert {p["family"] for p in found["problems"]} == {"matmul"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tuned_model:number"], "must return a Graph or Values"),
        (["tuned_model:nothing"], "has no nothing"),
        (["no_such_module:f"], "cannot be imported"),
        (["nonsense"], "expected 'digits' or MODULE:FUNCTION"),
        (["digits", "--budget", "soon"], "a budget is seconds"),
        (["digits", "--budget", "0"], "a budget is seconds"),
        (["show", "--store", "nowhere"], "no store"),
        (["export", "out.json", "--store", "nowhere"], "no store"),
        (["import", "nowhere.json"], "cannot be read"),
    ],
)
def test_what_it_refuses(fake: FakeBench, arguments: list[str], message: str) -> None:
    assert message in " ".join(run("tune", *arguments, code=1).split())


def test_budgets() -> None:
    assert [cli_tune._seconds(t) for t in ("240", "90s", "8m", "0.5h")] == [240, 90, 480, 1800]
    with pytest.raises(ArgumentError):
        cli_tune._seconds("-3")


def test_digits_is_a_step() -> None:
    graph, updates = cli_tune.step_of("digits")
    assert len(graph.outputs) == 2 and updates  # the loss and the norm of the gradients


COMPILING = """
import json, time
import flame_triton as ft
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.ahead import KernelReport
from flame_triton.tune import problems
from flame_triton.tune.compilers import Compilers

if __name__ == "__main__":
    x = ft.input((64, 64))
    task = problems.tasks(Graph((x,), (ft.silu(x @ x),)), {}, Target())[0]
    made = problems.trial(task, task.heuristic, Target())
    pool = Compilers(Target(), 1)
    (report,) = pool.reports(pool.submit(made.launches), made.launches)
    broken = made.launches[0].constexprs | {"BLOCK_M": 48}
    object.__setattr__(made.launches[0], "constexprs", broken)
    (wrong,) = pool.reports(pool.submit(made.launches), made.launches)
    first = made.task.candidates[-1]
    pool.submit(problems.trial(task, first, Target()).launches)
    begin = time.monotonic()
    pool.close()
    assert time.monotonic() - begin < 5.0
    print(json.dumps([report.registers, report.error, wrong.error]))
"""


@pytest.mark.slow
def test_other_processes_compile(tmp_path: Path) -> None:
    script = tmp_path / "compiling.py"
    script.write_text(COMPILING)
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "FLAME_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
    }  # fmt: skip
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    registers, error, wrong = json.loads(done.stdout)
    assert registers > 0 and error is None and wrong
