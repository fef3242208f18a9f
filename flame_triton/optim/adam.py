"""Adam's kin: RAdam and NAdam, with torch's numbers."""

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


class _Rectified(Optimizer):
    """What the two share: moments, betas, and weight decay of either kind."""

    moments = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        **shared: Any,
    ) -> None:
        self.betas, self.eps = check_betas(betas, type(self).__name__), eps
        self.decoupled = decoupled_weight_decay
        super().__init__(parameters, lr, weight_decay=weight_decay, **shared)

    def _decayed(self, p: Value, g: Value, decay: Factor, rate: Value) -> tuple[Value, Value]:
        """(parameter, gradient) after weight decay."""
        if not counts(decay):
            return p, g
        return (p * (1 - rate * decay), g) if self.decoupled else (p, g + p * decay)

    def _moved(self, g: Value, moments: Sequence[Value]) -> tuple[Value, Value]:
        """The new moments."""
        b1, b2 = self.betas
        return moments[0] * b1 + g * (1 - b1), moments[1] * b2 + g * g * (1 - b2)


class RAdam(_Rectified):
    """Rectified Adam (Liu et al. 2020), as torch.optim.RAdam: Adam's step times a factor r that grows from the variance
    of the second moment's estimate; a step by the first moment alone where that is too few steps old (rho <= 5).

    rho_inf = 2 / (1 - b2) - 1; rho = rho_inf - 2 t b2^t / (1 - b2^t);
    r^2 = (rho - 4)(rho - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho).
    weight_decay: added to the gradient, or decoupled.
    """

    def __init__(self, parameters: Parameters, lr: float | Schedule = 1e-3, **more: Any) -> None:
        super().__init__(parameters, lr, **more)

    def _scalars(self, step: Step) -> list[Value]:
        t = call("cast", self.step + 1, float64)
        c1, c2 = (-call("expm1", t * math.log(b)) for b in self.betas)
        whole = 2 / (1 - self.betas[1]) - 1
        rho = whole - 2.0 * t * (1.0 - c2) / c2
        squared = (rho - 4.0) * (rho - 2.0) / rho * (whole / ((whole - 4) * (whole - 2)))
        factor = call("where", rho > 5.0, call("sqrt", call("maximum", squared * c2, 0.0)), 0.0)
        return [call("cast", v, float32) for v in (1.0 / c1, factor)]

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        first, factor = scalars
        p, g = self._decayed(p, g, decay, rate)
        m, v = self._moved(g, moments)
        adaptive = call("where", factor > 0.0, factor / (call("sqrt", v) + self.eps), 1.0)
        return p - rate * first * m * adaptive, [m, v]


class NAdam(_Rectified):
    """Adam with Nesterov momentum (Dozat 2016), as torch.optim.NAdam.

    mu_t = b1 (1 - 0.96^(t momentum_decay) / 2); p = p - lr ((1 - mu_t) g / (1 - mu_1..t) + mu_t+1 m / (1 - mu_1..t+1))
    / (sqrt(v / c2) + eps). weight_decay: added to the gradient, or decoupled.
    """

    def __init__(
        self, parameters: Parameters, lr: float | Schedule = 2e-3, *, momentum_decay: float = 4e-3, **more: Any
    ) -> None:
        self.momentum_decay = momentum_decay
        self.product = self._number("mu_product", 1.0)
        super().__init__(parameters, lr, **more)

    @property
    def numbers(self) -> list[Value]:
        """The product of all momenta so far."""
        return [self.product]

    def _scalars(self, step: Step) -> list[Value]:
        t = call("cast", self.step + 1, float64)
        b1, b2 = self.betas

        def momentum(at: Value) -> Value:
            return (1.0 - call("exp", at * (self.momentum_decay * math.log(0.96))) * 0.5) * b1

        now, following = momentum(t), momentum(t + 1.0)
        product = self.product * now
        step.carried[self.product] = product
        own, kept = (1.0 - now) / (1.0 - product), following / (1.0 - product * following)
        second = call("rsqrt", -call("expm1", t * math.log(b2)))
        return [call("cast", v, float32) for v in (own, kept, second)]

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        own, kept, second = scalars
        p, g = self._decayed(p, g, decay, rate)
        m, v = self._moved(g, moments)
        return p - rate * (own * g + kept * m) / (call("sqrt", v) * second + self.eps), [m, v]
