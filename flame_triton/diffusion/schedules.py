"""Noise schedules of the DDPM family: x_t = alpha_t x_0 + sigma_t noise, alpha^2 + sigma^2 = 1, t = 0 ... T - 1.

Ho et al. 2020; squared cosine: Nichol and Dhariwal 2021; zero terminal SNR: Lin et al. 2024.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import numpy as np

from ..errors import ArgumentError
from ..ir.node import Value
from ..ir.op import call
from .shapes import per_sample

Array = np.ndarray[Any, Any]
Spacing = Literal["leading", "linspace", "trailing"]


def linear_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Array:
    """Equally spaced betas, float64 [steps]. Ho et al. 2020."""
    return np.linspace(first, last, steps)


def scaled_linear_betas(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Array:
    """Betas with equally spaced square roots, float64 [steps]: those of Stable Diffusion."""
    return np.linspace(first**0.5, last**0.5, steps) ** 2


def cosine_betas(steps: int = 1000, max_beta: float = 0.999) -> Array:
    """1 - abar(t + 1/T) / abar(t), at most max_beta, abar(t) = cos^2((t + 0.008) / 1.008 pi / 2); float64 [steps]."""
    t = np.arange(steps + 1) / steps
    bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], max_beta)


def zero_terminal_snr(betas: Array) -> Array:
    """Betas rescaled so that the last step is noise alone: sqrt(abar) is shifted to end at 0 and keeps its start."""
    root = np.sqrt(np.cumprod(1 - betas))
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    bar = root**2
    return 1 - np.append(bar[:1], bar[1:] / bar[:-1])


def spaced_steps(train_steps: int, steps: int, spacing: Spacing = "leading", offset: int = 0) -> Array:
    """Which training steps to sample at, descending float64. Lin et al. 2024, table 2.

    leading: multiples of train_steps // steps, plus offset; linspace: from train_steps - 1 to 0, not rounded; trailing:
    from train_steps - 1 down by train_steps / steps.
    """
    if not 0 < steps <= train_steps:
        raise ArgumentError(f"steps must lie in [1, {train_steps}], got {steps}", op="spaced_steps")
    if spacing == "linspace":
        return np.linspace(0, train_steps - 1, steps)[::-1].copy()
    if spacing == "leading":
        return np.arange(steps, dtype=np.float64)[::-1] * (train_steps // steps) + offset
    if spacing == "trailing":
        return np.round(np.arange(train_steps, 0, -train_steps / steps)) - 1
    raise ArgumentError(f"no spacing is called {spacing!r}", op="spaced_steps")


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A schedule by its betas, float64 [T]. What follows from them is computed in float64 and cached."""

    betas: Array

    def __post_init__(self) -> None:
        if np.ndim(self.betas) != 1 or not np.all((np.asarray(self.betas) > 0) & (np.asarray(self.betas) <= 1)):
            raise ArgumentError("betas must be numbers in (0, 1], one for each step", op="NoiseSchedule")

    def __len__(self) -> int:
        return len(self.betas)

    @functools.cached_property
    def alphas_cumprod(self) -> Array:
        """abar_t = alpha_t^2 = prod(1 - beta), [T]."""
        return np.cumprod(1 - np.asarray(self.betas, np.float64))

    @property
    def alphas(self) -> Array:
        """alpha_t, the factor of the clean sample, [T]."""
        return np.sqrt(self.alphas_cumprod)

    @property
    def sigmas(self) -> Array:
        """sigma_t, the factor of the noise, [T]."""
        return np.sqrt(1 - self.alphas_cumprod)

    @property
    def noise_levels(self) -> Array:
        """sigma_t / alpha_t, [T]: the levels that Euler's method and its relatives walk through.

        Where the terminal SNR is zero, abar is taken as 2^-24, so that the last level is finite.
        """
        bar = np.maximum(self.alphas_cumprod, 2.0**-24)
        return np.sqrt((1 - bar) / bar)

    @property
    def snr(self) -> Array:
        """alpha^2 / sigma^2, [T]."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    def steps_of(self, levels: Array) -> Array:
        """Fractional training steps of noise levels, by linear interpolation of their logarithms."""
        return np.interp(np.log(np.maximum(levels, 1e-10)), np.log(self.noise_levels), np.arange(len(self)))

    # ---- in a graph ----

    def at(self, table: Array, t: Value) -> Value:
        """table[t] as float32 [B]; t: integer steps [B]; table: [T]."""
        return call("take", call("constant", np.asarray(table, np.float32)), t, axis=0)

    def draw_steps(self, batch: int, seed: Value) -> Value:
        """Uniform training steps, int64 [batch], drawn in the graph on `seed` (ft.rng_seed)."""
        return call("randint", 0, len(self), (batch,), seed)

    def noisy(self, clean: Value, noise: Value, t: Value) -> Value:
        """alpha_t clean + sigma_t noise.  clean, noise: [B, ...]; t: integer steps [B]."""
        return self._mix(clean, noise, t, 1.0)

    def velocity(self, clean: Value, noise: Value, t: Value) -> Value:
        """alpha_t noise - sigma_t clean, what a v-predicting model predicts. Salimans and Ho 2022."""
        return self._mix(noise, clean, t, -1.0)

    def _mix(self, first: Value, second: Value, t: Value, sign: float) -> Value:
        alpha = call("cast", per_sample(self.at(self.alphas, t), first), first.dtype)
        sigma = call("cast", per_sample(self.at(self.sigmas, t), first), first.dtype)
        return alpha * first + (sign * sigma) * second

    def target(self, kind: str, clean: Value, noise: Value, t: Value) -> Value:
        """What a model of this prediction kind ("eps", "v", "sample", "flow") should give at steps t."""
        if kind == "v":
            return self.velocity(clean, noise, t)
        found = {"eps": noise, "sample": clean}
        if kind == "flow":
            return noise - clean
        if kind not in found:
            raise ArgumentError(f"no prediction is called {kind!r}", op="target")
        return found[kind]


def schedule(
    kind: Literal["linear", "scaled_linear", "cosine"] = "linear",
    steps: int = 1000,
    first: float | None = None,
    last: float | None = None,
    *,
    zero_snr: bool = False,
) -> NoiseSchedule:
    """A schedule by name; first, last: betas at the ends (linear 1e-4, 0.02; scaled_linear 0.00085, 0.012)."""
    makers = {"linear": linear_betas, "scaled_linear": scaled_linear_betas, "cosine": cosine_betas}
    if kind not in makers:
        raise ArgumentError(f"no schedule is called {kind!r}; there are {', '.join(makers)}", op="schedule")
    ends = {k: v for k, v in (("first", first), ("last", last)) if v is not None}
    if kind == "cosine" and ends:
        raise ArgumentError("a cosine schedule has no first and last beta", op="schedule")
    betas = makers[kind](steps, **ends)
    return NoiseSchedule(zero_terminal_snr(betas) if zero_snr else betas)
