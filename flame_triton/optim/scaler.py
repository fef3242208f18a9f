"""Dynamic loss scaling: gradients that float16 would round to zero are multiplied before they are computed."""

from __future__ import annotations

import math

from ..errors import ArgumentError
from ..ir.node import Value
from ..ir.op import call
from ..types import float32, float64, int64


class LossScaler:
    """A factor on the loss that follows what float16 can hold; the numbers are those of torch.amp.GradScaler.

    A step whose gradients are not finite is skipped and the scale multiplied by `backoff_factor`; after
    `growth_interval` steps in a row that were taken, it is multiplied by `growth_factor`, if that is finite. Scale and
    count are float32 and int64 in the State: nothing recompiles and the host reads nothing.

        scaler = LossScaler()
        optimizer = AdamW(parameters, 1e-4, scaler=scaler)
        updates = optimizer.updates(grad(scaler.scaled(loss), optimizer.parameters))

    The optimizer divides the gradients again, in the launch that it makes anyway; clipping, norms and moments see true
    gradients.

    value: the scale, float32, 0-d. good_steps: how many in a row were taken since it last changed.
    """

    def __init__(
        self,
        scale: float = 65536.0,
        *,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        if not 0 < scale < math.inf:
            raise ArgumentError(f"scale must be positive and finite, got {scale}", op="LossScaler")
        if not growth_factor > 1 or not 0 < backoff_factor < 1 or growth_interval < 1:
            raise ArgumentError(
                "needs growth_factor > 1, 0 < backoff_factor < 1 and growth_interval >= 1, got "
                f"{growth_factor}, {backoff_factor} and {growth_interval}",
                op="LossScaler",
            )
        self.growth_factor, self.backoff_factor, self.growth_interval = growth_factor, backoff_factor, growth_interval
        self.value = call("parameter", (), float32, "optimizer.loss_scale", scale, False, True)
        self.good_steps = call("parameter", (), int64, "optimizer.good_steps", 0, False, True)

    @property
    def state_values(self) -> list[Value]:
        """The scale and the count of good steps."""
        return [self.value, self.good_steps]

    def scaled(self, loss: Value) -> Value:
        """loss times the scale, in float32 or wider: differentiate this."""
        return call("cast", loss, loss.dtype.compute) * call("cast", self.value, loss.dtype.compute)

    @property
    def inverse(self) -> Value:
        """What gradients of the scaled loss are multiplied by: float32, 0-d."""
        return call("cast", 1.0 / call("cast", self.value, float64), float32)

    def updates(self, finite: Value) -> dict[Value, Value]:
        """The new scale and count after a step whose gradients are finite, or not (bool, 0-d)."""
        exact = call("cast", self.value, float64)  # products in float64, rounded once
        grown = call("cast", exact * self.growth_factor, float32)
        smaller = call("cast", exact * self.backoff_factor, float32)
        count = self.good_steps + 1
        due = count >= self.growth_interval
        larger = call("where", call("logical_and", due, call("isfinite", grown)), grown, self.value)
        none = call("full", (), 0, int64)
        return {
            self.value: call("where", finite, larger, smaller),
            self.good_steps: call("where", finite, call("where", due, none, count), none),
        }
