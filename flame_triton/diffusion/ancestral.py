"""DDPM and DDIM: steps between training steps of a noise schedule, with noise added on the way or not."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from ..errors import ArgumentError
from .prediction import Kind, clean_from, noise_from
from .sampler import Sampler, Step, combine, make_sampler
from .schedules import NoiseSchedule, Spacing, spaced_steps


def ddim(
    schedule: NoiseSchedule,
    steps: int,
    *,
    prediction: Kind = "eps",
    eta: float = 0.0,
    spacing: Spacing = "leading",
    offset: int = 0,
    clip: float | None = None,
    renoise: bool = False,
    end_at_clean: bool = True,
) -> Sampler:
    """x = alpha' x_0 + sqrt(sigma'^2 - s^2) eps + s noise, s = eta sigma'/sigma sqrt(1 - alpha^2/alpha'^2).

    Song et al. 2021, eq. 12; eta 0 is deterministic, 1 is DDPM's. clip: the predicted x_0 is clamped to [-clip, clip];
    renoise: eps is computed anew from the clamped one; end_at_clean: the last step goes to alpha 1, else to the first
    training step's. spacing, offset: see `spaced_steps`.
    """
    bar = schedule.alphas_cumprod
    end = 1.0 if end_at_clean else float(bar[0])
    rows, levels = [], []
    for t in np.round(spaced_steps(len(schedule), steps, spacing, offset)):
        before = int(t) - len(schedule) // steps
        here, after = float(bar[int(t)]), float(bar[before]) if before >= 0 else end
        alpha, sigma = math.sqrt(here), math.sqrt(1 - here)
        a, b = noise_from(prediction, alpha, sigma)
        eps = {"x": 1 / sigma, "h": -alpha / sigma} if renoise else {"x": a, "m": b}
        noise = eta * math.sqrt((1 - after) / (1 - here) * (1 - here / after))
        turn = math.sqrt(max(1 - after - noise**2, 0.0))
        move = combine((1.0, {"h": math.sqrt(after)}), (turn, eps), (noise, {"noise": 1.0}))
        rows.append(Step(t, move, clean_from(prediction, alpha, sigma)))
        levels.append(sigma)
    return make_sampler("ddim", rows, np.append(levels, math.sqrt(1 - end)), clip=clip)


def ddpm(
    schedule: NoiseSchedule,
    steps: int,
    *,
    prediction: Kind = "eps",
    variance: Literal["small", "large"] = "small",
    spacing: Spacing = "leading",
    offset: int = 0,
    clip: float | None = None,
) -> Sampler:
    """The posterior q(x' | x, x_0) of the steps that are taken. Ho et al. 2020, eq. 7.

    With a = abar / abar', the mean is sqrt(abar') (1 - a) / (1 - abar) x_0 + sqrt(a) (1 - abar') / (1 - abar) x.
    variance: small is the posterior's, (1 - abar') / (1 - abar) (1 - a), large 1 - a. clip: see `ddim`.
    """
    if variance not in ("small", "large"):
        raise ArgumentError(f"variance is small or large, got {variance!r}", op="ddpm")
    bar = schedule.alphas_cumprod
    chosen = np.round(spaced_steps(len(schedule), steps, spacing, offset)).astype(int)
    rows = []
    for i, t in enumerate(chosen):
        here, after = float(bar[t]), float(bar[chosen[i + 1]]) if i + 1 < steps else 1.0
        beta = 1 - here / after
        spread = beta if variance == "large" else max((1 - after) / (1 - here) * beta, 1e-20)
        move = {
            "h": math.sqrt(after) * beta / (1 - here),
            "x": math.sqrt(here / after) * (1 - after) / (1 - here),
            "noise": math.sqrt(spread) if t > 0 else 0.0,
        }
        rows.append(Step(float(t), move, clean_from(prediction, math.sqrt(here), math.sqrt(1 - here))))
    return make_sampler("ddpm", rows, np.append(np.sqrt(1 - bar[chosen]), 0.0), clip=clip)
