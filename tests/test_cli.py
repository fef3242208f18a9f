"""The command line: what it prints, what it writes, and how it says what is wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import flame_triton as ft
from flame_triton import doctor
from flame_triton.cli import app
from flame_triton.ir.op import OPS, Kernel
from flame_triton.testing import proofs
from flame_triton.train import agreement, data

ROOT = Path(__file__).resolve().parent.parent
PATHS = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])  # also where the package is not installed
SMALL = [
    "--width",
    "8",
    "--layers",
    "1",
    "--heads",
    "2",
    "--batch",
    "4",
    "--sampling-steps",
    "2",
    "--device",
    "reference",
]


def run(*arguments: str, code: int = 0) -> str:
    """Standard output and error of a command that must end with `code`."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def process(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": PATHS, **more.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "flame_triton", *arguments], capture_output=True, text=True, env=environment, **more
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of runs that holds one short run called "first", and what the command printed as JSON."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    runs = tmp_path_factory.mktemp("runs")
    options = ["--steps", "130", "--save-every", "50", "--keep", "2", "--no-proof", "--json"]
    result = CliRunner().invoke(app, ["train", "digits", "--runs", str(runs), "--run", "first", *options, *SMALL])
    assert result.exit_code == 0, result.output
    return runs, json.loads(result.stdout)


# ---- help and usage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((), ("train", "sample", "doctor", "graph", "Exit codes")),
        (("train",), ("digits",)),
        (("train", "digits"), ("--steps", "--resume", "--json", "--dtype", "Exit codes")),
        (("sample",), ("RUN", "--guidance")),
        (("doctor",), ("--json",)),
        (("graph",), ("--stage", "--format", "fuse")),
    ],
)
def test_help(command: tuple[str, ...], words: tuple[str, ...]) -> None:
    text = run(*command, "--help")
    assert all(word in text for word in words)


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    process("--help")  # once, so that no bytecode has to be written
    begun = time.perf_counter()
    assert process("--help").returncode == 0
    taken = time.perf_counter() - begun
    code = "import sys; import flame_triton.cli; print(sorted({'torch', 'triton', 'sklearn'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": PATHS}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert found.stdout.strip() == "[]", found.stderr
    assert taken < 5  # about 0.4 s on a machine with nothing else to do


def test_version_and_wrong_usage() -> None:
    assert run("--version") == f"flame-triton {ft.__version__}\n"
    assert "No such command 'trian'" in run("trian", code=2)
    assert "--steps" in run("train", "digits", "--steps", "none", code=2)
    assert "--stage" in run("graph", "--stage", "nowhere", code=2)


# ---- train and sample -----------------------------------------------------------------------------------------


def test_train_writes_log_checkpoints_and_pictures(trained: tuple[Path, dict[str, Any]]) -> None:
    runs, report = trained
    assert report["steps"] == 130 and report["device"] == "reference" and not report["interrupted"]
    assert report["samples"] == 100 and 0 <= report["samples_read_right"] <= 100 and report["loss_ratio"] < 1
    names = {p.name for p in (runs / "first").iterdir()}
    checkpoints = {"checkpoint-100", "checkpoint-130"}
    assert names == {".lock", "log.jsonl", "loss.png", "samples.png", *checkpoints}
    lines = [json.loads(line) for line in (runs / "first" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10, 131, 10))


def test_train_goes_on_from_the_latest_checkpoint(trained: tuple[Path, dict[str, Any]]) -> None:
    runs, _ = trained
    text = run(
        "train", "digits", "--runs", str(runs), "--run", "first", "--resume", "latest", "--steps", "140", "--no-proof",
        "--sampling-steps", "2", "--device", "reference",
    )  # fmt: skip
    assert "step 130" in text and "step 140 of 140" in text and "\x1b" not in text
    assert (runs / "first" / "checkpoint-140" / "manifest.json").exists()


def test_a_damaged_checkpoint_is_refused_and_the_one_before_taken(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(trained[0] / "first", tmp_path / "a", ignore=shutil.ignore_patterns("checkpoint-140"))
    shard = next((tmp_path / "a" / "checkpoint-130").glob("state-*"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    command = ["train", "digits", "--runs", str(tmp_path), "--run", "a", *SMALL, "--no-proof", "--steps", "110"]
    text = run(*command, "--resume", "latest", code=1)
    assert "checkpoint-130 is damaged" in text and "is checkpoint-100: take it as 100, or as latest-good" in text
    assert "is damaged" in run("sample", str(tmp_path / "a"), "--device", "reference", code=1)
    text = run(*command, "--resume", "latest-good")
    assert "checkpoint-100, step 100" in text and "taken again: superseded-130" in text
    assert (tmp_path / "a" / "superseded-130").is_dir() and (tmp_path / "a" / "checkpoint-110").is_dir()
    lines = [json.loads(line)["step"] for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert lines == list(range(10, 111, 10))
    text = run(*command, "--resume", "99", code=1)
    assert "holds no checkpoint of step 99; it holds: 100, 110" in text
    draw = ["--device", "reference", "--sampling-steps", "1", "--per-class", "1", "--checkpoint"]
    assert "samples-1.png" in run("sample", str(tmp_path / "a"), *draw, "100")


def test_tensorboard_is_written_beside_the_log(tmp_path: Path) -> None:
    command = ["train", "digits", "--runs", str(tmp_path), "--run", "a", *SMALL, "--no-proof", "--tensorboard"]
    if importlib.util.find_spec("tensorboardX") is None:
        assert "pip install 'flame-triton[tensorboard]'" in run(*command, code=1)
        return
    for wish, steps in (([], "20"), (["--resume", "latest"], "30")):
        run(*command, "--steps", steps, *wish)
    found = sorted((tmp_path / "a" / "tensorboard").glob("events.out.tfevents.*"))
    assert len(found) == 2 and all(b"train/loss" in p.read_bytes() and b"samples" in p.read_bytes() for p in found)


def test_sample_draws_from_a_run(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    runs, _ = trained
    options = ["--device", "reference", "--sampling-steps", "2", "--per-class", "2", "--json"]
    result = CliRunner().invoke(app, ["sample", "first", "--runs", str(runs), "-o", str(tmp_path / "a.png"), *options])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["samples"] == 20 and report["picture"] == str(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "samples-3.png" in run("sample", str(runs / "first"), "--seed", "3", *options[:-1])


def test_train_says_what_is_wrong(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    runs, _ = trained
    command = ["train", "digits", "--runs", str(runs)]
    assert "holds a run: --resume latest" in run(*command, "--run", "first", *SMALL, code=1)
    assert "--resume needs --run" in run(*command, "--resume", "latest", *SMALL, code=1)
    assert "holds no checkpoint" in run(*command, "--run", "none", "--resume", "latest", *SMALL, code=1)
    assert "cannot become 16" in run(*command, "--run", "first", "--resume", "latest", "--width", "16", code=1)
    assert "a run's name" in run(*command, "--run", "../x", *SMALL, code=1)
    assert "unknown device 'abacus'" in run(*command, "--device", "abacus", code=1)
    assert "unsupported dtype 'float7'" in run(*command, "--run", "new", *SMALL, "--dtype", "float7", code=1)
    (tmp_path / "file").write_text("")
    text = run("train", "digits", "--runs", str(tmp_path), "--run", "file", *SMALL, code=1)
    assert text.startswith("error: ") and "is a file" in text and "Traceback" not in text
    if not ft.config.gpu_available():
        assert "no NVIDIA GPU" in run(*command, "--device", "cuda", code=1)


def test_a_run_that_diverges_stops_and_names_the_line(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    text = run("train", "digits", "--runs", str(tmp_path), "--lr", "1e30", *SMALL, code=3)
    assert re.search(r"error: step \d+: .* not finite; the step was not taken", text)
    assert re.search(r"\(?\w+\)? .*makes \d+ (NaN|infinite)", text) and "digits_model.py:" in text


def test_a_missing_extra_is_named_before_anything_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    text = run("train", "digits", "--runs", str(tmp_path / "runs"), code=1)
    assert "pip install 'flame-triton[examples]'" in text and not (tmp_path / "runs").exists()


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    found = process("--debug", "sample", "none", "--runs", str(tmp_path))
    assert found.returncode == 1 and "Traceback" in found.stderr and "holds no checkpoint" in found.stderr


@pytest.mark.interpreter
@pytest.mark.parametrize(("tolerance", "code"), [(1e-4, 0), (-1.0, 4)])
def test_proof_decides_the_exit_code(
    tolerance: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(agreement, "TOLERANCE", tolerance)
    text = run("train", "digits", "--runs", str(tmp_path), "--steps", "2", *SMALL, code=code)
    assert "22 gradients were compared" in text and ("DIFFER" in text) == (code == 4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_checkpoint_and_exits_130(number: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-m", "flame_triton", "train", "digits", "--runs", str(tmp_path), "--run", "a", *SMALL]
    environment = {**os.environ, "PYTHONPATH": PATHS}
    child = subprocess.Popen(
        [*command, "--steps", "1000000"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    log = tmp_path / "a" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text()) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(number)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 130, output
    assert "stopped after step" in output and "--run a --resume latest" in output and "Traceback" not in output
    assert len(list((tmp_path / "a").glob("checkpoint-*"))) == 1


# ---- graph ----------------------------------------------------------------------------------------------------


def test_graph_of_the_digits_model() -> None:
    small = ["--width", "8", "--layers", "1", "--batch", "2"]
    text = run("graph", "--forward", *small)
    assert "blocks.0.attention.qkv.weight = parameter()" in text and "digits_model.py" in text
    assert "(gradient of" not in text and "(gradient of" in run("graph", *small)
    fused = run("graph", "--forward", "--stage", "fuse", *small)
    assert "= fused(" in fused and len(fused.splitlines()) < len(text.splitlines())


def test_graph_formats_and_files(tmp_path: Path) -> None:
    small = ["--forward", "--width", "8", "--layers", "1", "--batch", "2"]
    assert run("graph", "-f", "dot", *small).startswith("digraph")
    assert run("graph", "-f", "html", "-o", str(tmp_path / "g.html"), *small) == ""
    assert "<svg" in (tmp_path / "g.html").read_text()
    assert "cannot be written" in run("graph", "-o", str(tmp_path / "no" / "g.html"), *small, code=1)


def test_graph_of_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up_model.py").write_text(
        "import flame_triton as ft\n"
        "def loss():\n    return ft.sum(ft.exp(ft.input((3,), name='x')))\n"
        "def several():\n    return [loss(), loss()]\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    text = run("graph", "made_up_model:loss")
    assert "x = input() : float32[3]" in text and "made_up_model.py:3" in text
    assert run("graph", "made_up_model:several").count("input()") == 2
    assert "must return a Graph" in run("graph", "made_up_model:number", code=1)
    assert "made_up_model has no nothing" in run("graph", "made_up_model:nothing", code=1)
    assert "cannot be imported" in run("graph", "no_such_module:f", code=1)
    assert "expected 'digits' or MODULE:FUNCTION" in run("graph", "neither", code=1)


# ---- doctor ---------------------------------------------------------------------------------------------------


def test_doctor_checks_every_kind_of_kernel() -> None:
    report = json.loads(run("doctor", "--json"))
    assert report["ok"]
    names = {c["name"].split(" (")[0] for c in report["checks"] if c["group"] == "kernels"}
    families = {op.lowering.family for op in OPS.values() if isinstance(op.lowering, Kernel)}
    assert names == {*families, "pointwise", "reduce", "random"} - doctor.MADE_BY_PASSES
    assert {"python", "torch", "triton", "numpy"} <= {c["name"] for c in report["checks"]}


def test_doctor_says_what_is_broken_and_how_to_mend_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLAME_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(doctor, "representatives", dict)
    text = run("doctor", code=1)
    assert "BAD folder: DeviceError" in text and "to mend it: set FLAME_CACHE_DIR" in text
    assert re.search(r"[12] broken", text), "on a GPU the store of tuned kernels lies in that folder too"


def test_doctor_sees_what_is_wrong_with_versions_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ranges", lambda: {"torch": ">=99", "numpy": ">=1.0,<99"})
    monkeypatch.setattr(doctor, "OPTIONAL", ("no-such-package",))
    monkeypatch.setattr(doctor, "representatives", dict)
    monkeypatch.setenv("FLAME_CACHE_DIR", str(tmp_path))
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "k_0.py").write_text("# sha256: 0\nx = 1\n")
    tmp_path.chmod(0o777)
    checks = {c.name: c for c in doctor.examine()}
    assert not checks["torch"].ok and "needs >=99" in checks["torch"].value and "torch>=99" in checks["torch"].advice
    assert checks["numpy"].ok and checks["no-such-package"].ok
    assert not checks["permissions"].ok and "chmod 700" in checks["permissions"].advice
    assert checks["contents"].ok and "1 damaged" in checks["contents"].value
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "0").write_bytes(bytes(1 << 20))
    assert "1 graphs, 1.0 of" in doctor._plans(tmp_path)
    monkeypatch.setenv("FLAME_PLANS", "0")
    assert "none are kept" in doctor._plans(tmp_path)


def test_doctor_sees_a_kernel_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    case = doctor.representatives()["pointwise"]
    monkeypatch.setattr(doctor, "representatives", lambda: {"pointwise": case})
    monkeypatch.setattr(proofs, "evaluate", lambda graph, feeds: [a + 1 for a in ft.evaluate(graph, feeds)])
    (check,) = doctor._kernels()
    assert not check.ok and "relative RMS error" in check.value and check.advice


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("3.7.1", ">=3.6,<3.10", True),
        ("3.10.0", ">=3.6,<3.10", False),
        ("2.13.0+cpu", ">=2.11", True),
        ("2.9", ">=2.11", False),
        ("1.0", "", True),
        ("1.0", "==1.0", True),
    ],
)
def test_version_ranges(version: str, wanted: str, fits: bool) -> None:
    assert doctor._within(version, wanted) == fits


# ---- check -----------------------------------------------------------------------------------------------------

EXAMPLE = str(ROOT / "examples" / "custom_kernels.py")
WRONG = """
import flame_triton as ft

@ft.fused(samples=[((3, 4),)])
def severed(x):
    return ft.stop_gradient(x) * x

@ft.fused(samples=[((3, 4),)])
def fine(x):
    return ft.tanh(x)
"""


def test_check_proves_a_users_file() -> None:
    text = run("check", EXAMPLE)
    assert "30 proofs of 2 functions: all hold" in text


def test_check_reports_what_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "wrong_ops.py").write_text(WRONG)
    text = run("check", str(tmp_path / "wrong_ops.py"), code=1)
    assert "BAD severed-0, gradient: gradient along a random direction" in text
    assert "12 proofs of 2 functions: 2 failed" in text and "BAD fine" not in text
    report = json.loads(run("check", str(tmp_path / "wrong_ops.py"), "--json", code=1))
    assert report["ok"] is False and {f["case"] for f in report["failed"]} == {"severed-0"}
    assert json.loads(run("check", str(tmp_path / "wrong_ops.py"), "--only", "fine", "--json"))["ok"] is True


def test_check_proves_functions_of_the_registry() -> None:
    assert "all hold" in run("check", "--only", "softmin")


def test_check_proves_random_graphs() -> None:
    assert "2 random graphs from seed 7: all hold" in run("check", "--graphs", "2", "--seed", "7", "--size", "4")


def test_check_says_what_failed_and_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ft.testing.GraphFinding(9, 2, ("exp",), "it is wrong", "return x\n")
    monkeypatch.setattr(ft.testing, "prove_graphs", lambda *_: [found])
    text = run("check", "--graphs", "1", "--seed", "9", code=1)
    assert "BAD seed 9, 2 calls: it is wrong" in text and "flame-triton check --graphs 1 --seed 9 --size 2" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_module"], "no_such_module cannot be imported"),
        (["json"], "json has no function with samples"),
        (["--only", "nothing_like_it"], "no function with samples whose name holds 'nothing_like_it'"),
    ],
)
def test_check_refuses(arguments: list[str], message: str) -> None:
    assert message in run("check", *arguments, code=1)
