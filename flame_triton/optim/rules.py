"""The rules of SGD, AdamW and Lion, element by element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import ArgumentError
from ..ir.node import Value
from ..ir.op import call
from .columns import Factor, counts
from .names import Parameters
from .optimizer import Optimizer, Step
from .schedule import Schedule


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as torch.optim.SGD: d = g + decay p; b = momentum b + d;
    p = p - lr b, or with nesterov p - lr (d + momentum b). Without momentum p = p - lr d.

    torch starts b at d; starting it at zero gives the same first step.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        **shared: Any,
    ) -> None:
        if nesterov and momentum <= 0:
            raise ArgumentError("nesterov needs momentum", op="SGD")
        self.momentum, self.nesterov = momentum, nesterov
        self.moments = ("momentum",) if momentum else ()
        super().__init__(parameters, lr, **shared)

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        d = g + p * decay if counts(decay) else g
        if not self.momentum:
            return p - rate * d, []
        b = moments[0] * self.momentum + d
        return p - rate * (d + b * self.momentum if self.nesterov else b), [b]


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW.

    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p = p (1 - lr decay) - lr (m / c1) / (sqrt(v / c2) + eps) with
    c_i = 1 - b_i^t, computed as -expm1(t ln b_i).
    """

    moments = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        **shared: Any,
    ) -> None:
        self.betas, self.eps = check_betas(betas, "AdamW"), eps
        super().__init__(parameters, lr, weight_decay=weight_decay, **shared)

    def _scalars(self, step: Step) -> list[Value]:
        c1, c2 = (-call("expm1", step.count * math.log(b)) for b in self.betas)
        return [1.0 / c1, call("rsqrt", c2)]

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        b1, b2 = self.betas
        first, second = scalars  # 1 / c1 and 1 / sqrt(c2): one division and one root are left for each element
        m = moments[0] * b1 + g * (1 - b1)
        v = moments[1] * b2 + g * g * (1 - b2)
        kept = p * (1 - rate * decay) if counts(decay) else p
        return kept - rate * first * m / (call("sqrt", v) * second + self.eps), [m, v]


class Lion(Optimizer):
    """Evolved sign momentum with decoupled weight decay (Chen et al. 2023).

    p = p (1 - lr decay) - lr sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g.
    """

    moments = ("exp_avg",)

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **shared: Any,
    ) -> None:
        self.betas = check_betas(betas, "Lion")
        super().__init__(parameters, lr, weight_decay=weight_decay, **shared)

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        b1, b2 = self.betas
        direction = call("sign", moments[0] * b1 + g * (1 - b1))
        kept = p * (1 - rate * decay) if counts(decay) else p
        return kept - rate * direction, [moments[0] * b2 + g * (1 - b2)]


def check_betas(betas: tuple[float, float], name: str) -> tuple[float, float]:
    """Raises ArgumentError unless both lie in (0, 1)."""
    if not all(0 < b < 1 for b in betas):
        raise ArgumentError(f"betas must lie in (0, 1), got {betas}", op=name)
    return betas
