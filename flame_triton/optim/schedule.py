"""Learning-rate schedules as graph functions of the step: changing the rate never recompiles.

A schedule takes the step Value (int64, 0-d, counted from 0) and gives the rate as a float32 0-d Value. Any function of
that kind will do; those made here print as they were written. rate, end, floor: learning rates; steps, every: steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import ArgumentError
from ..ir.node import Value
from ..ir.op import call
from ..types import float32, int64

Schedule = Callable[[Value], Value]


@dataclass(frozen=True, eq=False)
class Curve:
    """A schedule that prints as `text`."""

    text: str
    rate: Schedule

    def __call__(self, step: Value) -> Value:
        return self.rate(step)

    def __repr__(self) -> str:
        return self.text


def constant(rate: float) -> Schedule:
    """The same rate at every step."""
    return Curve(f"constant({rate:g})", lambda step: call("full", (), float(rate), float32))


def linear(rate: float, steps: int, end: float = 0.0) -> Schedule:
    """From rate to end in a straight line over `steps` steps, then end."""
    _positive("linear", steps=steps)
    return Curve(f"linear({rate:g}, {steps}, end={end:g})", lambda t: _between(rate, end, _part(t, steps)))


def cosine(rate: float, steps: int, floor: float = 0.0) -> Schedule:
    """Half a cosine from rate down to floor over `steps` steps, then floor. Loshchilov and Hutter 2017."""
    _positive("cosine", steps=steps)
    return Curve(f"cosine({rate:g}, {steps}, floor={floor:g})", lambda t: _cosine(rate, floor, _part(t, steps)))


def cosine_restarts(rate: float, period: int, multiplier: int = 1, floor: float = 0.0) -> Schedule:
    """Half a cosine from rate to floor over and over; each takes `multiplier` times as long as the one before, the
    first `period` steps. Loshchilov and Hutter 2017."""
    _positive("cosine_restarts", period=period, multiplier=multiplier)

    def curve(step: Value) -> Value:
        if multiplier == 1:
            return _cosine(rate, floor, call("cast", call("remainder", step, period), float32) * (1.0 / period))
        begin, length = call("full", (), 0, int64), call("full", (), float(period), float32)
        start, long = period, period * multiplier
        while start < 1 << 40:  # more steps than anybody takes
            later = step >= start
            begin = call("where", later, call("full", (), start, int64), begin)
            length = call("where", later, float(long), length)
            start, long = start + long, long * multiplier
        return _cosine(rate, floor, call("cast", step - begin, float32) / length)

    return Curve(f"cosine_restarts({rate:g}, {period}, multiplier={multiplier}, floor={floor:g})", curve)


def polynomial(rate: float, steps: int, power: float = 1.0, end: float = 0.0) -> Schedule:
    """end + (rate - end) (1 - t / steps)^power, then end."""
    _positive("polynomial", steps=steps, power=power)

    def curve(step: Value) -> Value:
        return call("pow", 1.0 - _part(step, steps), float(power)) * (rate - end) + end

    return Curve(f"polynomial({rate:g}, {steps}, power={power:g}, end={end:g})", curve)


def exponential(rate: float, gamma: float) -> Schedule:
    """rate gamma^t."""
    _positive("exponential", gamma=gamma)

    def curve(step: Value) -> Value:
        return call("exp", call("cast", step, float32) * math.log(gamma)) * rate

    return Curve(f"exponential({rate:g}, {gamma:g})", curve)


def step(rate: float, every: int, gamma: float = 0.1) -> Schedule:
    """rate gamma^(t // every)."""
    _positive("step", every=every, gamma=gamma)

    def curve(at: Value) -> Value:
        return call("pow", float(gamma), call("cast", call("floor_divide", at, every), float32)) * rate

    return Curve(f"step({rate:g}, {every}, gamma={gamma:g})", curve)


def multistep(rate: float, milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """rate gamma^n, where n milestones have been reached."""
    _rising("multistep", milestones)

    def curve(at: Value) -> Value:
        result = call("full", (), float(rate), float32)
        for i, milestone in enumerate(milestones, 1):
            result = call("where", at >= milestone, rate * gamma**i, result)
        return result

    return Curve(f"multistep({rate:g}, {list(milestones)}, gamma={gamma:g})", curve)


def one_cycle(
    rate: float, steps: int, rising: float = 0.3, begin: float = 25.0, last: float = 1e4, anneal: str = "cosine"
) -> Schedule:
    """From rate / begin up to rate over the first `rising` share of the steps, then down to rate / begin / last.

    anneal: "cosine" or "linear". As torch's OneCycleLR with two phases. Smith and Topin 2018.
    """
    _positive("one_cycle", steps=steps - 1, begin=begin, last=last)
    top = rising * steps - 1
    if not 0 < top < steps - 1:
        raise ArgumentError(
            f"rising must leave steps on both sides of the top, got {rising} of {steps}", op="one_cycle"
        )
    if anneal not in ("cosine", "linear"):
        raise ArgumentError(f'anneal must be "cosine" or "linear", got {anneal!r}', op="one_cycle")
    way = _cosine if anneal == "cosine" else _between

    def curve(at: Value) -> Value:
        t = call("cast", at, float32)
        up = way(rate / begin, rate, call("clamp", t * (1.0 / top), 0.0, 1.0))
        down = way(rate, rate / begin / last, call("clamp", (t - top) * (1.0 / (steps - 1 - top)), 0.0, 1.0))
        return call("where", t <= top, up, down)

    return Curve(f"one_cycle({rate:g}, {steps}, rising={rising:g}, anneal={anneal!r})", curve)


def warmup(steps: int, then: Schedule) -> Schedule:
    """A straight line up to then's first rate over `steps` steps, from its `steps`-th part; then `then`, from its own
    step 0."""
    _positive("warmup", steps=steps)

    def curve(at: Value) -> Value:
        after = then(call("maximum", at - steps, call("full", (), 0, int64)))
        share = call("clamp", (call("cast", at, float32) + 1.0) * (1.0 / steps), 0.0, 1.0)
        return after * share

    return Curve(f"warmup({steps}, {then!r})", curve)


def warmup_cosine(rate: float, steps: int | Value, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Linear from rate / warmup to rate over `warmup` steps, then half a cosine down to floor at `steps`; floor after.

    steps: a 0-d float32 Value may stand for it, such as a parameter of the State: then the length of the run can change
    without compiling anew. Loshchilov and Hutter 2017, without restarts.
    """
    if not isinstance(steps, Value) and not 0 <= warmup < steps:
        raise ArgumentError(f"needs 0 <= warmup < steps, got warmup {warmup} and steps {steps}", op="warmup_cosine")

    def curve(at: Value) -> Value:
        t = call("cast", at, float32)
        rising = (t + 1.0) * (rate / max(warmup, 1))
        length = call("maximum", steps - float(warmup), 1.0) if isinstance(steps, Value) else float(steps - warmup)
        part = call("clamp", (t - float(warmup)) / length, 0.0, 1.0)
        return call("where", t < float(warmup), rising, _cosine(rate, floor, part))

    shown = "steps" if isinstance(steps, Value) else steps
    return Curve(f"warmup_cosine({rate:g}, {shown}, warmup={warmup}, floor={floor:g})", curve)


def sequence(schedules: Sequence[Schedule], milestones: Sequence[int]) -> Schedule:
    """One schedule after the other, each from its own step 0; the next begins at each milestone."""
    _rising("sequence", milestones)
    if len(schedules) != len(milestones) + 1:
        raise ArgumentError(f"{len(schedules)} schedules need one milestone less, got {len(milestones)}", op="sequence")

    def curve(at: Value) -> Value:
        result = schedules[0](at)
        for schedule, milestone in zip(schedules[1:], milestones, strict=True):
            own = call("maximum", at - milestone, call("full", (), 0, int64))
            result = call("where", at >= milestone, schedule(own), result)
        return result

    return Curve(f"sequence({list(schedules)}, {list(milestones)})", curve)


def at_least(lowest: float, schedule: Schedule) -> Schedule:
    """The schedule, but never below `lowest`."""
    return Curve(f"at_least({lowest:g}, {schedule!r})", lambda step: call("maximum", schedule(step), float(lowest)))


def _part(step: Value, steps: int) -> Value:
    """t / steps, at most 1: float32."""
    return call("clamp", call("cast", step, float32) * (1.0 / steps), 0.0, 1.0)


def _between(start: float, end: float, part: Value) -> Value:
    return part * (end - start) + start


def _cosine(start: float, end: float, part: Value) -> Value:
    return end + (call("cos", part * math.pi) + 1.0) * (0.5 * (start - end))


def _positive(op: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ArgumentError(f"{name} must be positive, got {number}", op=op)


def _rising(op: str, milestones: Sequence[int]) -> None:
    if not milestones or any(b <= a for a, b in zip([0, *milestones], milestones, strict=False)):
        raise ArgumentError(f"milestones must be positive and rise, got {list(milestones)}", op=op)
