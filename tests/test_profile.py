"""Profiles: which launch takes how long, whose line it is, what the roofline says; and flame-triton bench."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import flame_triton as ft
from flame_triton import cli_bench
from flame_triton.cli import app
from flame_triton.errors import DeviceError
from flame_triton.graph.cost import flops
from flame_triton.graph.pipeline import optimise
from flame_triton.ir.graph import Graph
from flame_triton.runtime.profile import Ceilings, LaunchTime, Profile, entries

M, N, K = 32, 16, 8


def training_program(device: str | None = None) -> ft.Program:
    """A weight that moves, so that a profile which left it moved would be seen."""
    x = ft.input((M, K), name="x")
    w = ft.parameter((N, K), name="w", init=np.linspace(-1, 1, N * K, dtype=np.float32).reshape(N, K))
    y = ft.gelu(ft.linear(x, w))
    loss = ft.sum(y * y)
    slope = ft.grad(loss, [w])[0]
    state = ft.State([w], device=device)
    return ft.compile([loss], [x], state=state, updates={w: w - 0.1 * slope}, device=device)


def profiled() -> tuple[ft.Program, Profile]:
    program = training_program()
    return program, program.profile(np.ones((M, K), np.float32), ceilings=Ceilings(1e9, 1e12))


def test_every_launch_is_timed_and_the_state_stays() -> None:
    program = training_program()
    before = program.state["w"].copy()
    first = program(np.ones((M, K), np.float32))[0].numpy(force=True)
    program.state.set("w", before)
    found = program.profile(np.ones((M, K), np.float32))
    assert np.array_equal(program.state["w"], before)
    assert len(found.launches) == len(program.launches)
    assert all(e.seconds > 0 and e.nbytes > 0 for e in found.launches) and found.step > 0
    assert np.array_equal(program(np.ones((M, K), np.float32))[0].numpy(force=True), first)


def test_work_and_lines() -> None:
    _, found = profiled()
    products = [e for e in found.launches if e.flops]
    assert [e.flops for e in products] == [2 * M * N * K] * 2, "the product and its weight gradient"
    assert all(e.line.startswith("test_profile.py:") and "training_program" in e.line for e in found.launches)
    for e in found.launches:
        assert e.floor == pytest.approx(max(e.nbytes / 1e9, e.flops / 1e12))


def test_work_of_several_launches_is_divided_by_time() -> None:
    q, g = ft.parameter((1, 1, 8, 8)), ft.parameter((1, 1, 8, 8))
    slope = ft.grad(ft.scaled_dot_product_attention(q, q, q), [q], grad_output=g)[0]
    launches = [la for la in ft.compile([slope]).launches if la.node.op.name == "attention_backward"]
    assert len(launches) == 2
    found = entries(launches, [3e-6, 1e-6], Ceilings(1e30, 1e12))
    assert [e.flops for e in found] == [10 * 8**3 * 3 // 4, 10 * 8**3 // 4]
    read, made = 4 * (2 * 64 + 2 * 8), 4 * 3 * 64  # q, k and v are one array; lse and delta have one number a row
    assert found[0].nbytes + found[1].nbytes == pytest.approx(read + made, abs=1)
    assert found[0].share == pytest.approx(found[1].share)


def fake() -> Profile:
    def entry(label: str, line: str, seconds: float, gradient: bool = False) -> LaunchTime:
        return LaunchTime(label, "k", line, gradient, "float32[4]", (1,), seconds, 100, 0, seconds / 2)

    launches = [
        entry("matmul", "a.py:1 in f", 2e-6),
        entry("norm", "a.py:2 in f", 1e-6),
        entry("matmul", "a.py:1 in f", 4e-6, True),
    ]
    return Profile("cuda:0", launches, 6e-6)


def test_groups() -> None:
    found = fake()
    assert [(g.name, g.count, round(g.seconds * 1e6)) for g in found.by_label()] == [("matmul", 2, 6), ("norm", 1, 1)]
    assert [g.name for g in found.by_line()] == ["a.py:1 in f (gradient)", "a.py:1 in f", "a.py:2 in f"]
    assert found.by_label()[0].share == pytest.approx(0.5)
    text = found.text(most=1)
    assert "3 launches on cuda:0: 7.0 us one by one, 6.0 us as a step" in text
    assert "85.7%" in text and "and 1 more, 1.0 us together" in text


def test_trace_is_what_chrome_reads() -> None:
    events = json.loads(json.dumps(fake().trace()))["traceEvents"]
    assert {e["ph"] for e in events} == {"M", "X"}
    spans = [e for e in events if e["ph"] == "X" and e["tid"] == 1]
    assert [e["name"] for e in spans] == ["matmul", "norm", "matmul"]
    ends = [e["ts"] + e["dur"] for e in spans]
    assert ends[-1] == pytest.approx(7.0)
    assert all(b["ts"] == pytest.approx(end) for b, end in zip(spans[1:], ends, strict=False)), "one after the other"
    assert all({"pid", "tid", "ts", "dur", "cat", "args"} <= e.keys() for e in spans)


def test_launches_are_repeated_on_the_memory_of_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that runs everything three times, as the one for GPUs does: results must not show it."""

    class Thrice:
        def seconds(self, call: Callable[[], Any]) -> float:
            for _ in range(3):
                call()
            return 1e-6

    x, v = ft.input((8,), name="x"), ft.parameter((8,), name="v", init=1.0)
    state = ft.State([v])
    new = v * 3.0 + x  # written where v lies, and read by the scan
    program = ft.compile([ft.cumsum(new)], [x], state=state, updates={v: new})
    monkeypatch.setattr("flame_triton.runtime.execute.clock", lambda memory: Thrice())
    program.profile(np.ones(8, np.float32))
    left = program._executor._bound.outputs[0].read()  # type: ignore[attr-defined]
    assert np.array_equal(left, 4 * np.arange(1, 9)), "every launch saw what its step would have left it"
    assert np.array_equal(state["v"], np.ones(8)), "put back"
    assert np.array_equal(program(np.ones(8, np.float32))[0].numpy(force=True), left)


def test_reference_has_nothing_to_profile() -> None:
    with pytest.raises(DeviceError, match="launches no kernels"):
        training_program("reference").profile(np.ones((M, K), np.float32))


# ---- operations ------------------------------------------------------------------------------------------------


def total(value: ft.Value) -> int:
    return sum(flops(node) for node in optimise(Graph((), (value,))).nodes)


def test_operations_of_kernels() -> None:
    p = ft.parameter
    assert total(ft.matmul(p((3, 5, 7)), p((3, 7, 2)))) == 2 * 3 * 5 * 7 * 2
    assert total(ft.relu(ft.linear(p((5, 7)), p((4, 7)), p((4,))))) == 2 * 5 * 7 * 4
    assert total(ft.exp(p((5,)))) == 0
    x, w = p((2, 3, 8, 8)), p((4, 3, 3, 3))
    y = ft.conv2d(x, w, stride=2, padding=1)
    expected = 2 * 2 * 4 * 4 * 4 * 27
    assert total(y) == expected
    g = p(y.shape)
    assert total(ft.grad(y, [w], grad_output=g)[0]) == expected
    # dgrad: each position of dy meets every tap once
    assert total(ft.grad(y, [x], grad_output=g)[0]) == expected
    q = p((1, 2, 16, 8))
    o = ft.scaled_dot_product_attention(q, q, q)
    assert total(o) == 4 * 2 * 16 * 16 * 8
    assert total(ft.scaled_dot_product_attention(q, q, q, is_causal=True)) == 2 * 2 * 16 * 16 * 8
    k = p((1, 2, 16, 8))
    grads = ft.grad(ft.scaled_dot_product_attention(q, k, k), [q], grad_output=p((1, 2, 16, 8)))[0]
    assert total(grads) == (4 + 10) * 2 * 16 * 16 * 8


# ---- the command line ------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["bench", *arguments])


def test_without_a_checkout_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli_bench, "HERE", tmp_path / "flame_triton")
    done = run("--quick")
    assert done.exit_code == 1
    assert "runs from a checkout" in done.output + done.stderr


def test_another_bench_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    (root / "bench").mkdir(parents=True)
    (root / "bench" / "harness.py").write_text("")
    monkeypatch.setattr(cli_bench, "HERE", root / "flame_triton")
    monkeypatch.syspath_prepend(str(root))  # restores sys.path afterwards; the real bench is imported already
    pytest.importorskip("bench")
    done = run("--quick")
    assert done.exit_code == 1 and "hides the one in" in done.output + done.stderr


def test_list_and_quick_run(tmp_path: Path) -> None:
    pytest.importorskip("bench.harness", reason="bench/ is part of a checkout alone")
    listed = run("--list", "--family", "gemm")
    assert listed.exit_code == 0 and "4608x3072x9216 nt" in listed.output
    done = run(
        "bias + SiLU",
        "--quick",
        "--opponents",
        "eager",
        "--rounds",
        "1",
        "--seconds",
        "0.001",
        "--json",
        "-o",
        str(tmp_path),
    )
    if not ft.config.gpu_available():
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["cases"][0]["verdict"] == "ok"
        assert {p.name for p in tmp_path.iterdir()} == {"bench.json", "bench.md", "bench.html"}
    refused = run("nothing at all", "--quick")
    assert refused.exit_code == 1 and "no case is called" in refused.output + refused.stderr


@pytest.mark.interpreter
def test_profile_of_a_case_and_of_a_function(tmp_path: Path) -> None:
    pytest.importorskip("bench.harness", reason="bench/ is part of a checkout alone")
    done = run("--quick", "--profile", "bias + SiLU", "-o", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "epilogue.py:" in done.output and "matmul" in done.output
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {p.name for p in tmp_path.iterdir()} == {"profile.txt", "profile.json", "trace.json"}
    several = run("--quick", "--profile", "LayerNorm")
    assert several.exit_code == 1 and "fits several cases" in several.output + several.stderr
