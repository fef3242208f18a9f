"""Optimizers as graph builders: from gradients to the new values of parameters and moments.

`updates(grads)` gives the mapping that `ft.compile(updates=...)` takes. All tensors of one group are one `foreach`
node, so one launch; the gradient norm is one `foreach_sum`. The step count, the rate and the clip factor are device
values: a schedule never recompiles.

If the norm of all gradients is not finite, the step is skipped: parameters, moments and the step count keep their
values and `skipped` is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..types import float32, int64
from .schedule import Schedule, constant

Decays = Callable[[Value], bool]


def _by_rank(parameter: Value) -> bool:
    """Matrices decay; biases, norm weights and other vectors do not."""
    return parameter.ndim >= 2


class Optimizer:
    """What all optimizers share: groups, clipping, the step count, averaged weights.

    parameters: the Values to train. lr: a rate or a schedule. weight_decay: decoupled for AdamW, added to the
    gradient for SGD; decays: which parameters it applies to (default: those with two or more axes).
    clip_norm: gradients are scaled so that their global L2 norm is at most this; None: no clipping.
    ema: decay of an exponential moving average of the weights, at step t at most (1 + t) / (10 + t), so that it follows
    quickly at first and starts from nothing; None: none kept.

    state_values: what a State must hold besides the parameters. averages: parameter -> its moving average.
    """

    moments: tuple[str, ...] = ()

    def __init__(
        self,
        parameters: Sequence[Value],
        lr: float | Schedule,
        *,
        weight_decay: float = 0.0,
        decays: Decays = _by_rank,
        clip_norm: float | None = None,
        ema: float | None = None,
    ) -> None:
        if not parameters:
            raise ArgumentError("no parameters to train", op=type(self).__name__)
        if clip_norm is not None and clip_norm <= 0:
            raise ArgumentError(f"clip_norm must be positive, got {clip_norm}", op=type(self).__name__)
        if ema is not None and not 0 <= ema < 1:
            raise ArgumentError(f"ema must lie in [0, 1), got {ema}", op=type(self).__name__)
        self.parameters = list(parameters)
        self.schedule = lr if callable(lr) else constant(lr)
        self.weight_decay, self.decays, self.clip_norm, self.ema = weight_decay, decays, clip_norm, ema
        self.step = call("parameter", (), int64, "optimizer.step", 0, False, True)
        self.slots = {p: [self._slot(p, name) for name in self.moments] for p in self.parameters}
        self.averages: dict[Value, Value] = (
            {p: self._slot(p, "ema") for p in self.parameters} if ema is not None else {}
        )
        self._reports: dict[str, Value] = {}

    @staticmethod
    def _slot(parameter: Value, name: str) -> Value:
        """A state value of the parameter's shape, in float32 for 16-bit parameters, zero at first."""
        label = f"optimizer.{name}.{parameter.name}" if parameter.name else None
        implicit = parameter.explicit_name is None
        return call("parameter", parameter.shape, parameter.dtype.compute, label, None, False, implicit)

    @property
    def state_values(self) -> list[Value]:
        """The step count, the moments and the averages."""
        return [self.step, *(s for slots in self.slots.values() for s in slots), *self.averages.values()]

    @property
    def grad_norm(self) -> Value:
        """The global L2 norm of the gradients before clipping: 0-d, float32 (float64 if any gradient is)."""
        return self._report("grad_norm")

    @property
    def lr(self) -> Value:
        """The learning rate of this step: 0-d, float32."""
        return self._report("lr")

    @property
    def skipped(self) -> Value:
        """1 if the step is skipped because the norm is not finite, else 0: 0-d, float32."""
        return self._report("skipped")

    def _report(self, name: str) -> Value:
        if not self._reports:
            raise ArgumentError(f"{name} is there after updates(grads)", op=type(self).__name__)
        return self._reports[name]

    def updates(self, grads: Sequence[Value], also: Mapping[Value, Value] | None = None) -> dict[Value, Value]:
        """parameter, moment, average, step -> new value.

        grads: one per parameter, of its shape. also: further updates, such as the next random seed, that a skipped
        step leaves out as well.
        """
        if len(grads) != len(self.parameters):
            raise ArgumentError(f"{len(self.parameters)} parameters but {len(grads)} gradients", op=type(self).__name__)
        for p, g in zip(self.parameters, grads, strict=True):
            if p.shape != g.shape:
                raise ShapeError(
                    f"parameter {p.name!r} has shape {p.shape}, its gradient {g.shape}", op=type(self).__name__
                )
        norm = global_norm(grads)
        finite = call("isfinite", norm)
        rate = self.schedule(self.step)
        self._reports = {"grad_norm": norm, "lr": rate, "skipped": call("where", finite, 0.0, 1.0)}
        count = call("cast", self.step + 1, float32)
        scalars = [finite, rate, *self._scalars(count)]
        if self.clip_norm is not None:
            scalars.append(call("minimum", self.clip_norm / (norm + 1e-6), 1.0))
        if self.ema is not None:
            scalars.append(call("minimum", count / (count + 9.0), self.ema))
        new: dict[Value, Value] = {self.step: self.step + call("cast", finite, int64)}
        for old, value in (also or {}).items():
            new[old] = call("where", finite, value, old)
        for members, decay in self._groups():
            self._update_group(members, dict(zip(self.parameters, grads, strict=True)), decay, scalars, new)
        return new

    def _groups(self) -> list[tuple[list[Value], float]]:
        """Parameters that share a dtype and a decay."""
        groups: dict[Any, list[Value]] = {}
        for p in self.parameters:
            decay = self.weight_decay if self.decays(p) else 0.0
            groups.setdefault((p.dtype, decay), []).append(p)
        return [(members, decay) for (_, decay), members in groups.items()]

    def _update_group(
        self,
        members: list[Value],
        grads: dict[Value, Value],
        decay: float,
        scalars: list[Value],
        new: dict[Value, Value],
    ) -> None:
        kept = [[*self.slots[p], *([self.averages[p]] if self.averages else [])] for p in members]

        def body(p: Value, g: Value, *rest: Value) -> list[Value]:
            wide = p.dtype.compute
            old, finite = rest[: len(kept[0])], rest[len(kept[0])]
            shared = [call("cast", v, wide) for v in rest[len(kept[0]) + 1 :]]
            average = shared.pop() if self.averages else None
            slope = call("cast", g, wide)
            if self.clip_norm is not None:
                slope = slope * shared.pop()
            weight = call("cast", p, wide)
            moved, moments = self._rule(weight, slope, old[: len(self.moments)], decay, *shared)
            results = [moved, *moments]
            if average is not None:
                results.append(old[-1] * average + moved * (1 - average))
            chosen = [call("where", finite, r, b) for r, b in zip(results, [weight, *old], strict=True)]
            return [call("cast", chosen[0], p.dtype), *chosen[1:]]

        rows = [[p, grads[p], *slots] for p, slots in zip(members, kept, strict=True)]
        for p, slots, made in zip(members, kept, call("foreach", body, rows, scalars), strict=True):
            new[p] = made[0]
            new.update(zip(slots, made[1:], strict=True))

    def _scalars(self, count: Value) -> list[Value]:
        """Further 0-d Values that `_rule` takes after the rate; count: float32, the number of this step from 1."""
        return []

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: float, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        """(new parameter, new moments) of one element."""
        raise NotImplementedError


def global_norm(grads: Sequence[Value]) -> Value:
    """The L2 norm of all gradients together: float32 (float64 if any is), 0-d. One launch per dtype."""
    groups: dict[Any, list[list[Value]]] = {}
    for g in grads:
        groups.setdefault(g.dtype, []).append([g])

    def squared(g: Value) -> Value:
        return call("square", call("cast", g, g.dtype.compute))

    total: Value | None = None
    for rows in groups.values():
        part = call("foreach_sum", squared, rows)
        total = part if total is None else total + part
    assert total is not None
    return call("sqrt", total)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as torch.optim.SGD: d = g + decay p; b = momentum b + d;
    p = p - lr b, or with nesterov p - lr (d + momentum b). Without momentum p = p - lr d.

    torch starts b at d; starting it at zero gives the same first step.
    """

    def __init__(
        self,
        parameters: Sequence[Value],
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
        self, p: Value, g: Value, moments: Sequence[Value], decay: float, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        d = g + p * decay if decay else g
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
        parameters: Sequence[Value],
        lr: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        **shared: Any,
    ) -> None:
        if not all(0 < b < 1 for b in betas):
            raise ArgumentError(f"betas must lie in (0, 1), got {betas}", op="AdamW")
        self.betas, self.eps = betas, eps
        super().__init__(parameters, lr, weight_decay=weight_decay, **shared)

    def _scalars(self, count: Value) -> list[Value]:
        return [-call("expm1", count * math.log(b)) for b in self.betas]

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: float, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        b1, b2 = self.betas
        c1, c2 = scalars
        m = moments[0] * b1 + g * (1 - b1)
        v = moments[1] * b2 + g * g * (1 - b2)
        kept = p * (1 - rate * decay) if decay else p
        return kept - rate * (m / c1) / (call("sqrt", v / c2) + self.eps), [m, v]
