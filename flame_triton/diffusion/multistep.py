"""Multistep solvers: DPM-Solver++ (2M) and UniPC, in lambda = log(alpha / sigma), half the logarithm of the SNR; PNDM.

With h = lambda' - lambda, one step of the exact solution for a constant clean sample D is
x' = sigma'/sigma x - alpha' (e^-h - 1) D; higher orders add differences of the clean samples predicted before.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import numpy as np

from ..errors import ArgumentError
from .flow import TRAIN_STEPS, shift_times
from .ode import last_level
from .prediction import Kind, clean_from
from .sampler import Linear, Sampler, Step, combine, make_sampler
from .schedules import NoiseSchedule, Spacing, spaced_steps
from .sigmas import Curve, bend

Array = np.ndarray[Any, Any]
End = Literal["zero", "sigma_min"]


class _Path:
    """Times [n], and (alpha, sigma, lambda) at the n + 1 levels of a trajectory."""

    def __init__(self, times: Array, alpha: Array, sigma: Array) -> None:
        self.times, self.alpha, self.sigma = times, alpha, sigma
        with np.errstate(divide="ignore"):
            self.half_log = np.log(alpha) - np.log(sigma)

    def __len__(self) -> int:
        return len(self.times)

    def predict(self, kind: Kind, i: int) -> tuple[float, float]:
        """The clean sample at level i."""
        return clean_from(kind, float(self.alpha[i]), float(self.sigma[i]))


def _path(schedule: NoiseSchedule, steps: int, spacing: Spacing, offset: int, curve: Curve | None, end: End) -> _Path:
    """Levels of a noise schedule. Spacings other than trailing leave out the last of steps + 1 times."""
    if spacing == "trailing":
        times = spaced_steps(len(schedule), steps, spacing)
    else:
        times = np.round(spaced_steps(len(schedule), steps + 1, spacing, offset))[:-1]
    if curve is None:
        levels = np.interp(times, np.arange(len(schedule)), schedule.noise_levels)
    else:
        ends = np.linspace(schedule.noise_levels[-1], schedule.noise_levels[0], steps)
        levels = bend(ends, curve)
        exact = schedule.steps_of(levels)
        times = np.round(exact) if curve == "karras" else np.floor(exact + 1e-9)
    levels = np.append(levels, last_level(schedule, end))
    alpha = 1 / np.sqrt(levels**2 + 1)
    return _Path(times, alpha, levels * alpha)


def _flow_path(levels: Array) -> _Path:
    return _Path(np.floor(TRAIN_STEPS * levels[:-1] + 1e-9), 1 - levels, levels)


def dpmpp_2m(
    schedule: NoiseSchedule,
    steps: int,
    *,
    prediction: Kind = "eps",
    sde: bool = False,
    solver: Literal["midpoint", "heun"] = "midpoint",
    spacing: Spacing = "linspace",
    offset: int = 0,
    curve: Curve | None = None,
    end: End = "zero",
) -> Sampler:
    """DPM-Solver++ (2M), Lu et al. 2022, algorithm 2; sde: its stochastic variant, of the same authors' appendix.

    The first step, the last one down to level zero, and with fewer than 15 steps the last one in any case, are of first
    order. curve: the levels, from the whole schedule's ends; times are then rounded. spacing: see `spaced_steps`.
    """
    return _dpmpp(_path(schedule, steps, spacing, offset, curve, end), prediction, sde, solver, end == "zero")


def flow_dpmpp_2m(
    steps: int, *, shift: float = 1.0, sde: bool = False, solver: Literal["midpoint", "heun"] = "midpoint"
) -> Sampler:
    """DPM-Solver++ (2M) on a flow: alpha = 1 - sigma. Levels from 1 - 1 / 1000 down to 0, shifted."""
    base = 1.0 - np.linspace(1.0, 1 / TRAIN_STEPS, steps + 1)
    levels = np.append(shift_times(base, shift)[::-1][:-1], 0.0)
    return _dpmpp(_flow_path(levels), "flow", sde, solver, True)


def _dpmpp(path: _Path, prediction: Kind, sde: bool, solver: str, to_zero: bool) -> Sampler:
    if solver not in ("midpoint", "heun"):
        raise ArgumentError(f'solver is "midpoint" or "heun", got {solver!r}', op="dpmpp_2m")
    rows, count = [], len(path)
    for i in range(count):
        alpha, sigma = float(path.alpha[i + 1]), float(path.sigma[i + 1])
        h = float(path.half_log[i + 1] - path.half_log[i])
        shrink = math.exp(-2 * h) if sde else math.exp(-h)  # 0 where the next level is zero
        scale = sigma / float(path.sigma[i]) * (math.exp(-h) if sde else 1.0)
        gain = alpha * (1 - shrink)
        move: dict[str, float] = combine((scale, {"x": 1.0}), (gain, {"h": 1.0}))
        first_order = i == 0 or (i == count - 1 and (count < 15 or to_zero))
        if not first_order:
            r = float(path.half_log[i] - path.half_log[i - 1]) / h
            slope = 0.5 * gain if solver == "midpoint" else alpha * (1 - (1 - shrink) / (2 * h if sde else h))
            move = combine((1.0, move), (slope / r, {"h": 1.0, "clean": -1.0}))
        if sde:
            move = combine((1.0, move), (sigma * math.sqrt(1 - shrink), {"noise": 1.0}))
        rows.append(Step(path.times[i], move, path.predict(prediction, i), {"clean": {"h": 1.0}}))
    return make_sampler("dpmpp_2m_sde" if sde else "dpmpp_2m", rows, path.sigma, ("clean",))


# ---- UniPC -----------------------------------------------------------------------------------------------------


def unipc(
    schedule: NoiseSchedule,
    steps: int,
    *,
    order: int = 2,
    prediction: Kind = "eps",
    variant: Literal["bh1", "bh2"] = "bh2",
    spacing: Spacing = "linspace",
    offset: int = 0,
    curve: Curve | None = None,
    end: End = "zero",
) -> Sampler:
    """UniPC, Zhao et al. 2023: each model call first corrects the sample it was made for, then predicts the next one.

    order: 1 to 3, lower in the first and last steps. B(h) is h (bh1) or e^h - 1 (bh2). Levels: see `dpmpp_2m`.
    """
    return _unipc(_path(schedule, steps, spacing, offset, curve, end), prediction, order, variant)


def flow_unipc(
    steps: int,
    *,
    shift: float = 1.0,
    mu: float | None = None,
    order: int = 2,
    variant: Literal["bh1", "bh2"] = "bh2",
) -> Sampler:
    """UniPC on a flow. Levels from 1 down to 0, shifted; mu: the dynamic shift exp(mu) in place of shift."""
    base = np.linspace(1.0, 1 / TRAIN_STEPS, steps + 1)[:-1]
    levels = shift_times(base, shift if mu is None else math.exp(mu))
    levels[0] -= 1e-6  # lambda is finite there
    return _unipc(_flow_path(np.append(levels, 0.0)), "flow", order, variant)


def _unipc(path: _Path, prediction: Kind, order: int, variant: str) -> Sampler:
    if not 1 <= order <= 3 or variant not in ("bh1", "bh2"):
        raise ArgumentError(f"order must lie in [1, 3], variant be bh1 or bh2; got {order}, {variant!r}", op="unipc")
    slots = ("before", *(f"clean_{k}" for k in range(1, order + 1)))
    cleans = ("h", *slots[1:])
    history = {after: {before: 1.0} for before, after in itertools.pairwise(cleans)}
    rows, last = [], 0
    for i in range(len(path)):
        corrected: Linear = {"x": 1.0}
        if i:
            corrected = _bh_step(path, i - 1, last, variant, {"before": 1.0}, cleans[1:], correct=True)
        last = min(order, len(path) - i, i + 1)
        move = _bh_step(path, i, last, variant, corrected, cleans, correct=False)
        rows.append(Step(path.times[i], move, path.predict(prediction, i), {"before": corrected, **history}))
    return make_sampler("unipc", rows, path.sigma, slots)


def _bh_step(
    path: _Path, i: int, order: int, variant: str, x: Linear, cleans: tuple[str, ...], *, correct: bool
) -> dict[str, float]:
    """From level i to i + 1: x, and the clean samples of levels i, i - 1, ...; correct: "h" is that of level i + 1."""
    lam, alpha = path.half_log, float(path.alpha[i + 1])
    h = float(lam[i + 1] - lam[i])
    grow = math.expm1(-h)
    scale = -h if variant == "bh1" else grow
    ratios = [float(lam[i - k] - lam[i]) / h for k in range(1, order)] + [1.0]
    count = order if correct else order - 1
    move = combine((float(path.sigma[i + 1] / path.sigma[i]), x), (-alpha * grow, {cleans[0]: 1.0}))
    for k, rho in enumerate(_bh_weights(ratios[:count] if not correct else ratios, h, scale, correct)):
        point = "h" if correct and k == order - 1 else cleans[k + 1]
        move = combine((1.0, move), (-alpha * scale * rho / ratios[k], {point: 1.0, cleans[0]: -1.0}))
    return move


def _bh_weights(ratios: list[float], h: float, scale: float, correct: bool) -> list[float]:
    """The numbers rho that solve sum_k rho_k r_k^(j - 1) = j! phi_(j + 1)(-h) (-h) / B for all j; 1/2 for one."""
    count = len(ratios)
    if count <= 1:
        return [0.5] * count
    phi, factorial, right = math.expm1(-h) / -h - 1, 1, []
    for j in range(1, count + 1):
        right.append(phi * factorial / scale)
        factorial *= j + 1
        phi = phi / -h - 1 / factorial
    matrix = np.array([[r**j for r in ratios] for j in range(count)])
    return np.linalg.solve(matrix, np.array(right)).tolist()


# ---- PNDM ------------------------------------------------------------------------------------------------------


def pndm(
    schedule: NoiseSchedule,
    steps: int,
    *,
    prediction: Kind = "eps",
    spacing: Spacing = "leading",
    offset: int = 0,
    end_at_clean: bool = False,
) -> Sampler:
    """Pseudo linear multistep (PLMS), Liu et al. 2022: DDIM's transfer with Adams and Bashforth's mean of the outputs.

    The first step is taken twice (Heun), so there are steps + 1 model calls: PNDM without Runge-Kutta steps, as Stable
    Diffusion runs it. prediction: eps or v; end_at_clean: see `ddim`.
    """
    if prediction not in ("eps", "v") or steps < 2:
        raise ArgumentError(f"takes eps or v, and two steps or more; got {prediction!r}, {steps}", op="pndm")
    times = np.round(spaced_steps(len(schedule), steps, spacing, offset))
    stride, bar = len(schedule) // steps, schedule.alphas_cumprod
    end = 1.0 if end_at_clean else float(bar[0])
    names = ("m", "output_1", "output_2", "output_3")
    shift: dict[str, Linear] = {after: {before: 1.0} for before, after in itertools.pairwise(names)}
    means = [(1.0,), (0.5, 0.5), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24)]

    def transfer(start: str, t: int, mean: Linear) -> Linear:
        here, after = float(bar[t]), float(bar[t - stride]) if t >= stride else end
        if prediction == "v":
            mean = combine((math.sqrt(here), mean), (math.sqrt(1 - here), {start: 1.0}))
        below = here * math.sqrt(1 - after) + math.sqrt(here * (1 - here) * after)
        return combine((math.sqrt(after / here), {start: 1.0}), ((here - after) / below, mean))

    rows = []
    for i, t in enumerate(np.insert(times, 1, times[1])):
        mean = dict(zip(names, means[min(i, 4)], strict=False))
        if i == 1:  # the same step once more, from where it began
            rows.append(Step(t, transfer("before", int(t) + stride, mean)))
        else:
            rows.append(Step(t, transfer("x", int(t), mean), slots={**shift, "before": {"x": 1.0}}))
    levels = np.append(np.sqrt(1 - bar[times.astype(int)]), math.sqrt(1 - end))
    return make_sampler("pndm", rows, levels, (*names[1:], "before"))
