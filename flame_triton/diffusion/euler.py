"""Samplers that follow the probability-flow ODE dx/dsigma: Euler's method and its relatives.

Karras et al. 2022 for noise levels sigma; Esser et al. 2024 for flows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError
from .flow import TRAIN_STEPS, shift_times
from .sampler import Sampler, Step, make_sampler
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
    for now, after in zip(levels[:-1], levels[1:], strict=True):
        if stochastic:
            move = {"x": 1 - after, "m": -(1 - after) * now, "noise": after}
        else:
            move = {"x": 1.0, "m": after - now}
        rows.append(Step(TRAIN_STEPS * now, move))
    return make_sampler("flow_euler", rows, levels)
