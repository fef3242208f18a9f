"""Samplers that follow the probability-flow ODE dx/dsigma: Euler's method and its relatives.

Karras et al. 2022 for noise levels sigma; Esser et al. 2024 for flows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..errors import ArgumentError
from .flow import TRAIN_STEPS, shift_times
from .prediction import Kind, clean_from
from .sampler import Sampler, Step, make_sampler
from .schedules import NoiseSchedule, Spacing, spaced_steps
from .sigmas import Curve, bend

Array = np.ndarray[Any, Any]


def flow_sigmas(
    steps: int,
    *,
    shift: float = 1.0,
    mu: float | None = None,
    sigmas: Sequence[float] | Array | None = None,
    terminal: float | None = None,
    curve: Curve | None = None,
) -> Array:
    """Noise levels of a flow, float64 [steps + 1], from about 1 down to 0.

    shift: see `shift_times`; mu: the dynamic shift, exp(mu), in place of it (`resolution_mu`); sigmas: levels before
    the shift, by default equally spaced from 1 to 1 / 1000 (shifted once already, as diffusers' SD3 has it; Flux takes
    linspace(1, 1 / steps, steps)); terminal: stretch them so that the last before 0 is this; curve: replace them by a
    Karras or exponential curve with the same ends.
    """
    if steps < 1 or (sigmas is not None and len(sigmas) != steps):
        given = "" if sigmas is None else f" and {len(sigmas)} sigmas"
        raise ArgumentError(
            f"takes at least one step, and as many sigmas as steps; got {steps}{given}", op="flow_sigmas"
        )
    factor = shift if mu is None else float(np.exp(mu))
    if sigmas is None:
        last = 1 / TRAIN_STEPS if mu is not None else shift_times(1 / TRAIN_STEPS, shift)
        levels = np.linspace(1.0, last, steps)
    else:
        levels = np.asarray(sigmas, np.float64)
    levels = shift_times(levels, factor)
    if terminal:
        rest = 1 - levels
        levels = 1 - rest * ((1 - terminal) / rest[-1])
    return np.append(bend(levels, curve), 0.0)


def flow_euler(
    steps: int,
    *,
    shift: float = 1.0,
    mu: float | None = None,
    sigmas: Sequence[float] | Array | None = None,
    terminal: float | None = None,
    curve: Curve | None = None,
    stochastic: bool = False,
) -> Sampler:
    """Euler's method on a flow: x += (sigma' - sigma) m. The model predicts noise - clean, at time 1000 sigma.

    stochastic: go to the clean sample and add fresh noise, x = (1 - sigma') (x - sigma m) + sigma' noise. The other
    arguments: see `flow_sigmas`.
    """
    levels = flow_sigmas(steps, shift=shift, mu=mu, sigmas=sigmas, terminal=terminal, curve=curve)
    rows = []
    for now, after in itertools.pairwise(levels):
        if stochastic:
            move = {"x": 1 - after, "m": -(1 - after) * now, "noise": after}
        else:
            move = {"x": 1.0, "m": after - now}
        rows.append(Step(TRAIN_STEPS * now, move))
    return make_sampler("flow_euler", rows, levels)


# ---- noise schedules, in the variable x / alpha = clean + (sigma / alpha) noise -----------------------------------


def levels_of(
    schedule: NoiseSchedule,
    steps: int,
    spacing: Spacing = "linspace",
    offset: int = 0,
    curve: Curve | None = None,
    end: Literal["zero", "sigma_min"] = "zero",
) -> tuple[Array, Array]:
    """Times to call the model at, [steps], and noise levels sigma / alpha, [steps + 1]; float64.

    curve: replace the levels by one with the same ends, and the times by fractional ones that fit; end: the last level,
    zero or the first training step's.
    """
    times = spaced_steps(len(schedule), steps, spacing, offset)
    levels = np.interp(times, np.arange(len(schedule)), schedule.noise_levels)
    if curve is not None:
        levels = bend(levels, curve)
        times = schedule.steps_of(levels)
    return times, np.append(levels, last_level(schedule, end))


def last_level(schedule: NoiseSchedule, end: str) -> float:
    """The level after the last step."""
    if end not in ("zero", "sigma_min"):
        raise ArgumentError(f'end is "zero" or "sigma_min", got {end!r}', op="sampler")
    return 0.0 if end == "zero" else float(schedule.noise_levels[0])


def _derivative(prediction: Kind, level: float) -> tuple[float, float]:
    """(a, b) such that dx/dlevel = (x - clean) / level = a x + b m; x is in the variable x / alpha."""
    alpha = 1 / math.sqrt(level * level + 1)
    a, b = clean_from(prediction, alpha, level * alpha)
    return (1 - a * alpha) / level, -b / level


def _input_scale(level: float) -> float:
    return 1 / math.sqrt(level * level + 1)


def _start_scale(levels: Array, spacing: Spacing) -> float:
    """A start at the last training step is noise alone; an earlier one is as wide as a noisy sample."""
    top = float(levels.max())
    return top if spacing in ("linspace", "trailing") else math.sqrt(top * top + 1)


def euler(
    schedule: NoiseSchedule,
    steps: int,
    *,
    prediction: Kind = "eps",
    spacing: Spacing = "linspace",
    offset: int = 0,
    curve: Curve | None = None,
    end: Literal["zero", "sigma_min"] = "zero",
) -> Sampler:
    """x += (level' - level) d, d = (x - clean) / level. Karras et al. 2022, without churn. See `levels_of`."""
    times, levels = levels_of(schedule, steps, spacing, offset, curve, end)
    rows = [
        Step(t, {"x": 1.0, "h": after - now}, _derivative(prediction, now), input_scale=_input_scale(now))
        for t, (now, after) in zip(times, itertools.pairwise(levels), strict=True)
    ]
    return make_sampler("euler", rows, levels, start_scale=_start_scale(levels, spacing))


def euler_ancestral(
    schedule: NoiseSchedule,
    steps: int,
    *,
    prediction: Kind = "eps",
    spacing: Spacing = "linspace",
    offset: int = 0,
    curve: Curve | None = None,
) -> Sampler:
    """Euler's step down to a level below the next one, then noise up to it: up^2 + down^2 = level'^2,
    up^2 = level'^2 (level^2 - level'^2) / level^2, as the posterior of DDPM has it.
    """
    times, levels = levels_of(schedule, steps, spacing, offset, curve)
    rows = []
    for t, (now, after) in zip(times, itertools.pairwise(levels), strict=True):
        up = math.sqrt(after**2 * (now**2 - after**2) / now**2)
        down = math.sqrt(after**2 - up**2)
        move = {"x": 1.0, "h": down - now, "noise": up}
        rows.append(Step(t, move, _derivative(prediction, now), input_scale=_input_scale(now)))
    return make_sampler("euler_ancestral", rows, levels, start_scale=_start_scale(levels, spacing))


def heun(
    schedule: NoiseSchedule,
    steps: int,
    *,
    prediction: Kind = "eps",
    spacing: Spacing = "linspace",
    offset: int = 0,
    curve: Curve | None = None,
) -> Sampler:
    """Heun's second-order method: an Euler step, then again with the mean of both derivatives. 2 steps - 1 model calls.

    Karras et al. 2022, algorithm 1, without churn.
    """
    times, levels = levels_of(schedule, steps, spacing, offset, curve)
    rows = []
    for i, (now, after) in enumerate(itertools.pairwise(levels)):
        keep = {"derivative": {"h": 1.0}, "before": {"x": 1.0}}
        move = {"x": 1.0, "h": after - now}
        rows.append(Step(times[i], move, _derivative(prediction, now), keep, _input_scale(now)))
        if after > 0:
            half = (after - now) / 2
            again = {"before": 1.0, "derivative": half, "h": half}
            rows.append(Step(times[i + 1], again, _derivative(prediction, after), input_scale=_input_scale(after)))
    slots = ("derivative", "before")
    return make_sampler("heun", rows, levels, slots, start_scale=_start_scale(levels, spacing))


def lms(
    schedule: NoiseSchedule,
    steps: int,
    *,
    order: int = 4,
    prediction: Kind = "eps",
    spacing: Spacing = "linspace",
    offset: int = 0,
    curve: Curve | None = None,
) -> Sampler:
    """Linear multistep, by Adams and Bashforth: x += the integral of the polynomial through the last derivatives.

    order: how many of them, 1 to 4. Levels: see `levels_of`.
    """
    if not 1 <= order <= 4:
        raise ArgumentError(f"order must lie in [1, 4], got {order}", op="lms")
    times, levels = levels_of(schedule, steps, spacing, offset, curve)
    slots = tuple(f"derivative_{k}" for k in range(1, order))
    names = ("h", *slots)
    history = {after: {before: 1.0} for before, after in itertools.pairwise(names)}
    rows = []
    for i, (t, now) in enumerate(zip(times, levels[:-1], strict=True)):
        numbers = _lagrange_integrals(levels[max(i - order + 1, 0) : i + 1][::-1], now, levels[i + 1])
        move = {"x": 1.0, **dict(zip(names, numbers, strict=False))}
        rows.append(Step(t, move, _derivative(prediction, now), history, _input_scale(now)))
    return make_sampler("lms", rows, levels, slots, start_scale=_start_scale(levels, spacing))


def _lagrange_integrals(points: Array, first: float, last: float) -> list[float]:
    """The integrals from first to last of the polynomials that are 1 at one point and 0 at the others."""
    where, weights = np.polynomial.legendre.leggauss(4)  # exact up to degree 7
    tau = first + (where + 1) / 2 * (last - first)
    found = []
    for k, point in enumerate(points):
        others = np.delete(points, k)
        values = np.prod((tau[:, None] - others) / (point - others), axis=1)
        found.append(float(np.sum(weights * values) * (last - first) / 2))
    return found
