"""Flow matching along straight lines: x_t = (1 - t) x_0 + t noise, 0 <= t <= 1; the target is noise - x_0.

Lipman et al. 2023, Liu et al. 2023; the shift, the densities of t and their weightings are those of Esser et al. 2024
(Stable Diffusion 3). A model is called with 1000 t, as the published ones are.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import numpy as np

from ..errors import ArgumentError
from ..ir.node import Value
from ..ir.op import call
from .shapes import per_sample

Array = np.ndarray[Any, Any]
Times = TypeVar("Times", Array, Value, float)
Density = Literal["uniform", "logit_normal", "mode", "cosmap"]

TRAIN_STEPS = 1000  # the model's time is TRAIN_STEPS * t


def shift_times(t: Times, shift: float) -> Times:
    """shift t / (1 + (shift - 1) t): more noise for larger pictures. t: in [0, 1], an array or a Value.

    Esser et al. 2024, eq. 23; shift = exp(mu) is the dynamic shift of Flux.
    """
    if shift <= 0:
        raise ArgumentError(f"shift must be positive, got {shift}", op="shift_times")
    return shift * t / (1.0 + (shift - 1.0) * t)


def resolution_mu(
    tokens: int, base_tokens: int = 256, max_tokens: int = 4096, base_shift: float = 0.5, max_shift: float = 1.15
) -> float:
    """mu for a picture of `tokens` tokens: linear through (base_tokens, base_shift) and (max_tokens, max_shift)."""
    slope = (max_shift - base_shift) / (max_tokens - base_tokens)
    return slope * (tokens - base_tokens) + base_shift


def draw_times(
    batch: int,
    seed: Value,
    density: Density = "logit_normal",
    *,
    mean: float = 0.0,
    std: float = 1.0,
    mode_scale: float = 1.29,
    shift: float = 1.0,
) -> Value:
    """Times to train at, float32 [batch], drawn in the graph on `seed` (ft.rng_seed), then shifted.

    density: see `times_from`; mean, std: of the logit of t; mode_scale: of "mode".
    """
    if density == "logit_normal":
        source = call("normal", (batch,), seed)
    else:
        source = call("uniform", (batch,), seed)
    t = times_from(source, density, mean=mean, std=std, mode_scale=mode_scale)
    return t if shift == 1.0 else shift_times(t, shift)


def times_from(
    source: Value, density: Density, *, mean: float = 0.0, std: float = 1.0, mode_scale: float = 1.29
) -> Value:
    """Times of a density from standard normal numbers ("logit_normal") or uniform ones (the others). Any shape.

    logit_normal: sigmoid(mean + std z); uniform: u; mode: 1 - u - mode_scale (cos^2(pi u / 2) - 1 + u), which favours
    the middle for positive scales; cosmap: 1 - 1 / (1 + tan(pi u / 2)). Esser et al. 2024, section 3.1.
    """
    if density == "logit_normal":
        return call("sigmoid", source * std + mean)
    if density == "uniform":
        return source
    if density == "mode":
        return 1.0 - source - mode_scale * (call("square", call("cos", source * (math.pi / 2))) - 1.0 + source)
    if density == "cosmap":
        sine, cosine = call("sin", source * (math.pi / 2)), call("cos", source * (math.pi / 2))
        return sine / (sine + cosine)  # tan / (1 + tan)
    raise ArgumentError(f"no density of times is called {density!r}", op="times_from")


def flow_noisy(clean: Value, noise: Value, t: Value) -> Value:
    """(1 - t) clean + t noise, as clean + t (noise - clean). clean, noise: [B, ...]; t: [B]."""
    return clean + per_sample(t, clean) * (noise - clean)


def flow_target(clean: Value, noise: Value) -> Value:
    """noise - clean, the velocity dx/dt that the model predicts."""
    return noise - clean


def flow_weight(t: Value, kind: Literal["none", "sigma_sqrt", "cosmap", "logit_normal"] = "none") -> Value:
    """Weights of the squared error at times t, any shape: w(t), which acts like drawing t from a density.

    none: 1; sigma_sqrt: t^-2; cosmap: 2 / (pi (1 - 2 t + 2 t^2)); logit_normal: the density of sigmoid(z), z standard
    normal, exp(-logit(t)^2 / 2) / (sqrt(2 pi) t (1 - t)). Esser et al. 2024.
    """
    if kind == "none":
        return call("full", t.shape, 1.0, t.dtype)
    if kind == "sigma_sqrt":
        return 1.0 / call("square", t)
    if kind == "cosmap":
        return (2 / math.pi) / (1.0 - 2.0 * t + 2.0 * call("square", t))
    if kind == "logit_normal":
        logit = call("log", t) - call("log1p", -t)
        return call("exp", call("square", logit) * -0.5) / (math.sqrt(2 * math.pi) * t * (1.0 - t))
    raise ArgumentError(f"no weighting of times is called {kind!r}", op="flow_weight")
