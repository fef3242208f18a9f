"""Norms, softmax and rotary embeddings move each tensor once, in one kernel and small sums, and are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flame_triton as ft
from bench.region_cases import CASES, SIZES, RegionCase
from flame_triton.graph.evaluate import evaluate
from flame_triton.graph.plan import Target
from flame_triton.runtime.lower import lower

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


def _feeds(case: RegionCase) -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    feeds: list[torch.Tensor] = []
    for v in case.graph.inputs:
        drawn = 0.5 + rng.random(v.shape) if v.dtype.is_float else rng.integers(0, 5, v.shape)
        feeds.append(torch.from_numpy(np.asarray(drawn)).to(getattr(torch, v.dtype.name)))
    return feeds


@pytest.mark.parametrize("size", [(1, 96), (3, 160), (17, 384), (3, 77), (5, 32), (4, 3072)], ids=str)
@pytest.mark.parametrize("name", [n for n in CASES if n != "qk_norm"])
def test_tails_through_interpreted_kernels(name: str, size: tuple[int, int]) -> None:
    for case in CASES[name](*size):
        _compare(case)


@pytest.mark.parametrize("size", [(1, 128), (3, 384), (17, 256)], ids=str)
def test_queries_and_keys_through_interpreted_kernels(size: tuple[int, int]) -> None:
    for case in CASES["qk_norm"](*size):
        _compare(case)


def _compare(case: RegionCase) -> None:
    """Kernels in bfloat16 against float64, on the same values."""
    feeds = _feeds(case)
    program = ft.compile(list(case.graph.outputs), list(case.graph.inputs), device="interpreter")
    found = program(*feeds)
    exact = [(t.double() if t.is_floating_point() else t).numpy() for t in feeds]
    wanted = evaluate(case.graph, dict(zip(case.graph.inputs, exact, strict=True)))
    for got, want, v in zip(found, wanted, case.graph.outputs, strict=True):
        scale = max(float(np.abs(want).max()), 1e-6)
        error = float(np.abs(got.double().numpy() - want).max()) / scale
        assert error < (0.02 if v.dtype.name == "bfloat16" else 1e-5), (case.name, v, error)
