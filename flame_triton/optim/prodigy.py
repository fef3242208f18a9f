"""Prodigy: Adam that finds its own learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..ir.node import Value
from ..ir.op import call
from ..types import float32, float64
from .columns import Factor, counts
from .names import Parameters
from .optimizer import Optimizer, Step
from .rules import check_betas
from .schedule import Schedule


class Prodigy(Optimizer):
    """Prodigy (Mishchenko and Defazio 2023): the rate is `lr` (or its schedule) times d, an estimate from below of the
    distance to the solution, which only grows. Leave lr at 1, or give it a schedule that starts there.

    a = d lr (times Adam's bias correction, if asked for); r = b3 r + (d / d0) a <g, p0 - p>;
    s = b3 s + (d / d0) a' g, a' = a, or d with safeguard_warmup; d' = coefficient r / |s|_1;
    m = b1 m + (1 - b1) d g; v = b2 v + (1 - b2) d^2 g^2; p = p - a decay p - a m / (sqrt(v) + d' eps).
    b3 defaults to sqrt(b2); d' is at least d, and at most growth d. Two more passes over the gradients than AdamW.

    estimate: d, float64, 0-d.
    """

    moments = ("start", "exp_avg", "exp_avg_sq", "s")
    starting = still = ("start",)

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 1.0,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        coefficient: float = 1.0,
        growth: float = math.inf,
        bias_correction: bool = False,
        safeguard_warmup: bool = False,
        **shared: Any,
    ) -> None:
        self.betas, self.eps = check_betas(betas, "Prodigy"), eps
        self.beta3 = math.sqrt(betas[1]) if beta3 is None else beta3
        self.d0, self.coefficient, self.growth = d0, coefficient, growth
        self.bias_correction, self.safeguard_warmup = bias_correction, safeguard_warmup
        self.estimate, self.largest = self._number("d", d0), self._number("largest_d", d0)
        self.numerator = self._number("d_numerator")
        super().__init__(parameters, lr, weight_decay=weight_decay, **shared)
        self._refuse("it estimates one for all", layers=True, groups=True, schedules=True)

    @property
    def numbers(self) -> list[Value]:
        """d, the largest estimate so far, and the numerator of the next."""
        return [self.estimate, self.largest, self.numerator]

    def _scalars(self, step: Step) -> list[Value]:
        d, rate = self.estimate, call("cast", step.rate, float64)
        if self.bias_correction:
            t = call("cast", self.step + 1, float64)
            c1, c2 = (-call("expm1", t * math.log(b)) for b in self.betas)
            rate = rate * call("sqrt", c2) / c1
        scaled = d * rate
        pull = d * (1 / self.d0) * (d if self.safeguard_warmup else scaled)
        dot, size = self._sums(step, call("cast", pull, float32))
        numerator = self.numerator * self.beta3 + d * (1 / self.d0) * scaled * dot
        found = call("where", size > 0.0, numerator / size * self.coefficient, d)
        first = call("where", call("equal", d, self.d0), call("maximum", d, found), d)
        largest = call("maximum", self.largest, found)
        new = call("minimum", largest, first * self.growth) if math.isfinite(self.growth) else largest
        moving = call("logical_and", size > 0.0, rate > 0.0)
        new = call("where", moving, new, d)
        step.carried |= {
            self.estimate: new,
            self.largest: call("where", moving, largest, self.largest),
            self.numerator: numerator,
        }
        return [call("cast", v, float32) for v in (d, scaled, new, pull)]

    def _sums(self, step: Step, pull: Value) -> tuple[Value, Value]:
        """<g, p0 - p> and the sum of |s| after this step, over all parameters: float64."""
        factor = [] if step.factor is None else [step.factor]

        def dot(p: Value, start: Value, g: Value, *scale: Value) -> Value:
            wide = start.dtype
            return self._slope(g, wide, *(call("cast", v, wide) for v in scale)) * (start - call("cast", p, wide))

        def size(s: Value, g: Value, by: Value, *scale: Value) -> Value:
            slope = self._slope(g, s.dtype, *(call("cast", v, s.dtype) for v in scale))
            return call("abs", s * self.beta3 + slope * call("cast", by, s.dtype))

        totals: list[Value | None] = [None, None]
        for members in self._launches(step.gradients):
            triples = [[self.masters.get(p, p), self.slots[p][0], step.gradients[p]] for p in members]
            pairs = [[self.slots[p][3], step.gradients[p]] for p in members]
            parts = (call("foreach_sum", dot, triples, factor), call("foreach_sum", size, pairs, [pull, *factor]))
            for i, part in enumerate(parts):
                part, before = call("cast", part, float64), totals[i]
                totals[i] = part if before is None else before + part
        assert totals[0] is not None and totals[1] is not None
        return totals[0], totals[1]

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        d, scaled, new, pull = scalars
        start, m, v, s = moments
        b1, b2 = self.betas
        m = m * b1 + d * g * (1 - b1)
        v = v * b2 + d * g * (d * g) * (1 - b2)
        kept = p * (1 - scaled * decay) if counts(decay) else p
        return kept - scaled * m / (call("sqrt", v) + new * self.eps), [start, m, v, s * self.beta3 + pull * g]
