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


def warmup_cosine(rate: float, steps: int | Value, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Linear from rate / warmup to rate over `warmup` steps, then half a cosine down to floor at `steps`; floor after.

    rate and floor are learning rates. steps: a 0-d float32 Value may stand for it, such as a parameter of the State:
    then the length of the run can change without compiling anew. Loshchilov and Hutter 2017, without restarts.
    """
    if not isinstance(steps, Value) and not 0 <= warmup < steps:
        raise ArgumentError(f"needs 0 <= warmup < steps, got warmup {warmup} and steps {steps}", op="warmup_cosine")

    def schedule(step: Value) -> Value:
        t = call("cast", step, float32)
        rising = (t + 1.0) * (rate / max(warmup, 1))
        length = call("maximum", steps - float(warmup), 1.0) if isinstance(steps, Value) else float(steps - warmup)
        part = call("clamp", (t - float(warmup)) / length, 0.0, 1.0)
        falling = floor + (call("cos", part * math.pi) + 1.0) * (0.5 * (rate - floor))
        return call("where", t < float(warmup), rising, falling)

    return schedule
