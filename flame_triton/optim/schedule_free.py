"""AdamW without a schedule: the weights that are trained on are a mean of fast weights and of their average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import ArgumentError
from ..ir.node import Value
from ..ir.op import call
from ..types import float32, float64
from .columns import Factor, counts
from .names import Parameters
from .optimizer import Optimizer, Step
from .rules import check_betas
from .schedule import Schedule


class ScheduleFreeAdamW(Optimizer):
    """Schedule-free AdamW (Defazio et al. 2024): no decay of the rate is planned; warm-up is `schedule.warmup`.

    The State's parameters are y = b1 x + (1 - b1) z, where gradients are taken; z are the fast weights, x their
    weighted average, which one validates and keeps: `with ema_weights(state, optimizer)`, `save_averages`.

    n = g / (sqrt(v / c2) + eps) + decay y; c = w_t / (w_1 + ... + w_t) with w_t = t^r max(lr)^power;
    y = y + c (z - y) - lr (1 - b1 (1 - c)) n; z = z - lr n.
    """

    moments = ("fast", "exp_avg_sq")
    starting = ("fast",)

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 2.5e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        r: float = 0.0,
        power: float = 2.0,
        **shared: Any,
    ) -> None:
        self.betas, self.eps, self.r, self.power = check_betas(betas, "ScheduleFreeAdamW"), eps, r, power
        if shared.get("ema") is not None:
            raise ArgumentError("it averages its weights by itself; leave out ema", op="ScheduleFreeAdamW")
        self.largest, self.weights = self._number("largest_lr"), self._number("weight_sum")
        super().__init__(parameters, lr, weight_decay=weight_decay, **shared)
        self._refuse("the average is weighted by it", schedules=True)

    @property
    def numbers(self) -> list[Value]:
        """The largest rate so far, and the sum of all weights of the average."""
        return [self.largest, self.weights]

    @property
    def averaged(self) -> dict[Value, Value]:
        """parameter -> x, from y (or its master) and z."""
        share = 1 - 1 / self.betas[0]
        found = {}
        for p in self.parameters:
            y = call("cast", self.masters.get(p, p), p.dtype.compute)
            found[p] = y + (self.slots[p][0] - y) * share
        return found

    def _scalars(self, step: Step) -> list[Value]:
        t = call("cast", self.step + 1, float64)
        largest = call("maximum", self.largest, call("cast", step.rate, float64))
        weight = call("pow", largest, self.power)
        if self.r:
            weight = weight * call("pow", t, self.r)
        total = self.weights + weight
        step.carried |= {self.largest: largest, self.weights: total}
        share = call("where", total > 0.0, weight / total, 0.0)
        second = call("rsqrt", -call("expm1", t * math.log(self.betas[1])))
        return [call("cast", v, float32) for v in (share, second)]

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        share, second = scalars
        b1, b2 = self.betas
        v = moments[1] * b2 + g * g * (1 - b2)
        n = g / (call("sqrt", v) * second + self.eps)
        n = n + p * decay if counts(decay) else n
        y = p + (moments[0] - p) * share - rate * (1.0 - (1.0 - share) * b1) * n
        return y, [moments[0] - rate * n, v]
