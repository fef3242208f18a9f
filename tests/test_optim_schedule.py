"""Schedules against torch's, step by step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as theirs

import flame_triton as ft
from flame_triton.errors import ArgumentError
from flame_triton.optim import schedule as ours

RATE, LONG = 0.3, 45


def _torch(make: Callable[[torch.optim.Optimizer], Any], steps: int, rate: float = RATE) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler, found = make(optimizer), []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return found


def _ours(schedule: ours.Schedule, steps: int, device: str = "reference") -> list[float]:
    t = ft.input((), "int64")
    rate = schedule(t)
    assert rate.shape == () and rate.dtype is ft.float32
    program = ft.compile(rate, [t], device=device)
    return [float(program(np.asarray(i))) for i in range(steps)]


CASES: dict[str, tuple[ours.Schedule, Callable[[Any], Any], int]] = {
    "constant": (ours.constant(RATE), lambda o: theirs.ConstantLR(o, 1.0), LONG),
    "linear": (ours.linear(RATE, 30, end=0.06), lambda o: theirs.LinearLR(o, 1.0, 0.2, 30), LONG),
    "cosine": (ours.cosine(RATE, 30, floor=0.01), lambda o: theirs.CosineAnnealingLR(o, 30, 0.01), 31),
    "restarts": (
        ours.cosine_restarts(RATE, 7, floor=0.01),
        lambda o: theirs.CosineAnnealingWarmRestarts(o, 7, 1, 0.01),
        LONG,
    ),
    "longer restarts": (
        ours.cosine_restarts(RATE, 5, 2),
        lambda o: theirs.CosineAnnealingWarmRestarts(o, 5, 2),
        80,
    ),
    "polynomial": (ours.polynomial(RATE, 30, 2.0), lambda o: theirs.PolynomialLR(o, 30, 2.0), LONG),
    "exponential": (ours.exponential(RATE, 0.93), lambda o: theirs.ExponentialLR(o, 0.93), LONG),
    "step": (ours.step(RATE, 10, 0.5), lambda o: theirs.StepLR(o, 10, 0.5), LONG),
    "multistep": (ours.multistep(RATE, [5, 12, 40], 0.3), lambda o: theirs.MultiStepLR(o, [5, 12, 40], 0.3), LONG),
    "one cycle": (ours.one_cycle(RATE, 40), lambda o: theirs.OneCycleLR(o, RATE, 40), 40),
    "linear cycle": (
        ours.one_cycle(RATE, 40, rising=0.4, begin=10.0, last=100.0, anneal="linear"),
        lambda o: theirs.OneCycleLR(
            o, RATE, 40, pct_start=0.4, div_factor=10.0, final_div_factor=100.0, anneal_strategy="linear"
        ),
        40,
    ),
    "warm-up": (ours.warmup(8, ours.constant(RATE)), lambda o: theirs.LinearLR(o, 1 / 8, 1.0, 7), LONG),
    "sequence": (
        ours.sequence([ours.constant(RATE), ours.exponential(RATE, 0.9), ours.linear(RATE, 5)], [6, 20]),
        lambda o: theirs.SequentialLR(
            o,
            [theirs.ConstantLR(o, 1.0), theirs.ExponentialLR(o, 0.9), theirs.LinearLR(o, 1.0, 0.0, 5)],
            [6, 20],
        ),
        LONG,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_schedules_are_torchs(case: str) -> None:
    schedule, make, steps = CASES[case]
    np.testing.assert_allclose(_ours(schedule, steps), _torch(make, steps), rtol=3e-6, atol=1e-7)


def test_schedules_stay_where_they_end() -> None:
    late = [1000, 10**6, 2**40]
    t = ft.input((), "int64")
    for schedule, end in (
        (ours.linear(RATE, 30, end=0.06), 0.06),
        (ours.cosine(RATE, 30, floor=0.01), 0.01),
        (ours.polynomial(RATE, 30, 2.0, end=0.02), 0.02),
        (ours.one_cycle(RATE, 40), RATE / 25 / 1e4),
        (ours.warmup_cosine(RATE, 30, 4, 0.01), 0.01),
        (ours.at_least(0.05, ours.exponential(RATE, 0.9)), 0.05),
        (ours.warmup(9, ours.constant(RATE)), RATE),
    ):
        for at in late:
            assert float(ft.evaluate(schedule(t), {t: np.asarray(at)})) == pytest.approx(end, rel=1e-5), schedule


def test_warm_up_comes_before_the_schedule() -> None:
    found = _ours(ours.warmup(10, ours.cosine(RATE, 30)), 45)
    np.testing.assert_allclose(found[:10], RATE * (np.arange(10) + 1) / 10, rtol=1e-6)
    np.testing.assert_allclose(found[10:], _ours(ours.cosine(RATE, 30), 35), rtol=1e-6)


def test_the_length_of_a_run_may_be_a_value() -> None:
    steps, t = ft.input(()), ft.input((), "int64")
    rate = ours.warmup_cosine(RATE, steps, 4, 0.01)(t)
    for length in (10, 30):
        found = [float(ft.evaluate(rate, {steps: np.float32(length), t: np.asarray(i)})) for i in range(40)]
        np.testing.assert_allclose(found, _ours(ours.warmup_cosine(RATE, length, 4, 0.01), 40), rtol=1e-5)


def test_schedules_run_through_kernels() -> None:
    device = "interpreter" if ft.config.interpreted() else "cuda"
    for schedule in (ours.cosine_restarts(RATE, 5, 2), ours.one_cycle(RATE, 9), ours.step(RATE, 3)):
        np.testing.assert_allclose(_ours(schedule, 9, device), _ours(schedule, 9), rtol=1e-6, atol=1e-9)


def test_schedules_print_as_they_are_written() -> None:
    schedule = ours.warmup(5, ours.at_least(0.01, ours.cosine_restarts(0.1, 50, 2)))
    assert repr(schedule) == "warmup(5, at_least(0.01, cosine_restarts(0.1, 50, multiplier=2, floor=0)))"
    assert repr(ours.multistep(0.1, [3, 5])) == "multistep(0.1, [3, 5], gamma=0.1)"


def test_schedules_refuse_nonsense() -> None:
    for make, message in (
        (lambda: ours.cosine(0.1, 0), "cosine: steps"),
        (lambda: ours.cosine_restarts(0.1, 5, 0), "multiplier"),
        (lambda: ours.multistep(0.1, [5, 5]), "rise"),
        (lambda: ours.sequence([ours.constant(1.0)], [3]), "one milestone less"),
        (lambda: ours.one_cycle(0.1, 10, rising=1.0), "both sides"),
        (lambda: ours.one_cycle(0.1, 10, anneal="cubic"), "cubic"),
        (lambda: ours.exponential(0.1, 0.0), "gamma"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make()
