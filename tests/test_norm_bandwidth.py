"""Norms, softmax and rotary embeddings move each tensor once, in one kernel and small sums, and are right."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import flame_triton as ft
from bench.region_cases import CASES, SIZES, RegionCase
from flame_triton import config
from flame_triton.codegen import configs
from flame_triton.codegen.region import generate
from flame_triton.graph.evaluate import evaluate
from flame_triton.graph.pipeline import optimise
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.lower import lower

DEVICE = "interpreter" if config.interpreted() else "cuda"

H200 = Target(90)
SLACK = {"cross_entropy fwd": 4, "cross_entropy bwd": 3}  # the mean over the rows, and what it divides by, are launches


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_one_kernel_moves_each_tensor_once(name: str, size: tuple[int, int]) -> None:
    for case in CASES[name](*size):
        schedule = lower(case.graph, {}, H200)
        assert len(schedule.launches) <= SLACK.get(case.name, 1 + case.name.endswith("bwd")), case.name
        moved = sum(s.nbytes for launch in schedule.launches for s in (*launch.reads, *launch.writes)) - case.unread
        assert moved <= 1.08 * case.ideal, (case.name, moved, case.ideal)


COMPILE = """
import dataclasses, json
from bench.region_cases import CASES
from flame_triton.graph.plan import Target
from flame_triton.runtime.ahead import compile_ahead
from flame_triton.ir.graph import Graph
from flame_triton.runtime.lower import lower

target = Target(90)
launches = [n for make in CASES.values() for case in make(4608, 3072) for n in lower(case.graph, {}, target).launches]
print("REPORTS " + json.dumps([dataclasses.asdict(r) for r in compile_ahead(launches, target)]))
"""


def test_no_kernel_spills() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "FLAME_INTERPRET")}
    environment |= {"FLAME_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    reports = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("REPORTS "))[8:])
    assert len(reports) >= 2 * len(CASES)
    for report in reports:
        assert report["error"] is None and report["spills"] == 0, report
        assert report["shared_bytes"] <= H200.shared_bytes, report


@pytest.mark.parametrize("columns", [96, 1024, 1152, 3072, 2560, 4000])
def test_candidates_are_few_and_hold_whole_rows(columns: int) -> None:
    for case in CASES["layer_norm"](4608, columns):
        region = next(n for n in optimise(case.graph, target=H200).nodes if n.op.name == "fused")
        kernel = generate(region.attrs["region"], region.attrs["roles"])
        found = configs.candidates(kernel, H200)
        assert found[0] == configs.heuristic(kernel, H200)
        assert 4 <= len(found) == len(set(found)) <= configs.MOST_CANDIDATES
        assert all(c.BLOCK_N * kernel.pieces >= columns for c in found)


def _feeds(case: RegionCase) -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    feeds: list[torch.Tensor] = []
    for v in case.graph.inputs:
        drawn = 0.5 + rng.random(v.shape) if v.dtype.is_float else rng.integers(0, 5, v.shape)
        feeds.append(torch.from_numpy(np.asarray(drawn)).to(getattr(torch, v.dtype.name)))
    return feeds


@pytest.mark.parametrize("size", [(1, 96), (3, 160), (17, 384), (3, 77), (5, 32), (4, 3072)], ids=str)
@pytest.mark.parametrize("name", [n for n in CASES if n != "qk_norm"])
def test_tails_through_kernels(name: str, size: tuple[int, int]) -> None:
    for case in CASES[name](*size):
        _compare(case)


@pytest.mark.parametrize("size", [(1, 128), (3, 384), (17, 256)], ids=str)
def test_queries_and_keys_through_kernels(size: tuple[int, int]) -> None:
    for case in CASES["qk_norm"](*size):
        _compare(case)


def _compare(case: RegionCase) -> None:
    """Kernels in bfloat16 against float64, on the same values."""
    feeds = _feeds(case)
    program = ft.compile(list(case.graph.outputs), list(case.graph.inputs), device=DEVICE)
    found = program(*feeds)
    exact = [(t.double() if t.is_floating_point() else t).numpy() for t in feeds]
    wanted = evaluate(case.graph, dict(zip(case.graph.inputs, exact, strict=True)))
    for got, want, v in zip(found, wanted, case.graph.outputs, strict=True):
        scale = max(float(np.abs(want).max()), 1e-6)
        error = float(np.abs(got.double().cpu().numpy() - want).max()) / scale
        assert error < (0.02 if v.dtype.name == "bfloat16" else 1e-5), (case.name, v, error)


def test_heads_taken_first_are_turned_in_registers_too() -> None:
    """Norm and RoPE of a transposed packed projection: pairs change places in registers."""
    batch, tokens, heads, width = 1, 64, 4, 128
    x, w = ft.input((batch, tokens, 3 * heads * width), "bfloat16"), ft.input((width,), "float32")
    cos, sin = ft.input((tokens, width // 2), "float32"), ft.input((tokens, width // 2), "float32")
    split = ft.transpose(ft.reshape(x, (batch, tokens, 3, heads, width)), (2, 0, 3, 1, 4))
    q = ft.apply_rotary_emb(ft.rms_norm(split[0], (width,), w), cos, sin)
    (launch,) = lower(Graph((x, w, cos, sin), (q,)), {}, H200).launches
    assert launch.kernel.source is not None
    assert "lib.swap_pairs(" in launch.kernel.source
    assert sum("lib.load(" in line for line in launch.kernel.source.splitlines()) == 4, "x, w, cos and sin, once each"


def test_columns_of_few_rows_are_not_cut_narrow_unmeasured() -> None:
    """Windows of a pooling gradient: strips of 8 columns gave wrong numbers there, see configs.MANY_ROWS."""
    x = ft.input((1, 2, 6, 6, 5), "float32")
    y, _ = ft.max_pool3d(x, 3, (2, 1, 2), 1, return_indices=True)
    graph = optimise(Graph((x,), (y, *ft.grad(ft.sum(y), [x]))), target=Target())
    kernels = [generate(n.attrs["region"], n.attrs["roles"]) for n in graph.nodes if "region" in n.attrs]
    strips = [k for k in kernels if k.form == "columns"]
    assert strips
    assert all(configs.heuristic(k, Target()).BLOCK_N >= 32 for k in strips)
