"""Learning-rate schedules as graph functions of the step: changing the rate never recompiles.

A schedule takes the step Value (int64, 0-d, counted from 0) and gives the rate as a float32 0-d Value.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..errors import ArgumentError
from ..ir.node import Value
from ..ir.op import call
from ..types import float32

Schedule = Callable[[Value], Value]


def constant(rate: float) -> Schedule:
    """The same rate at every step."""
    return lambda step: call("full", (), rate, float32)


def warmup_cosine(rate: float, steps: int, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Linear from rate / warmup to rate over `warmup` steps, then half a cosine down to floor at `steps`; floor after.

    rate and floor are learning rates. Loshchilov and Hutter 2017, without restarts.
    """
    if not 0 <= warmup < steps:
        raise ArgumentError(f"needs 0 <= warmup < steps, got warmup {warmup} and steps {steps}", op="warmup_cosine")

    def schedule(step: Value) -> Value:
        t = call("cast", step, float32)
        rising = (t + 1.0) * (rate / max(warmup, 1))
        part = call("clamp", (t - float(warmup)) * (1.0 / (steps - warmup)), 0.0, 1.0)
        falling = floor + (call("cos", part * math.pi) + 1.0) * (0.5 * (rate - floor))
        return call("where", t < float(warmup), rising, falling)

    return schedule
