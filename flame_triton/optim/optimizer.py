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

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..ops.stochastic import noise, round_with_noise
from ..types import DType, DTypeLike, bfloat16, float32, int64
from ..types import dtype as as_dtype
from .schedule import Schedule, constant

Factors = Callable[[Value], float]
"""From a parameter to a number: a factor, or True and False for 1 and 0."""

Factor = Value | float
_STREAMS = 1 << 31  # random draws of the optimizer have streams from here on, those of models have lower ones


def _by_rank(parameter: Value) -> bool:
    """Matrices decay; biases, norm weights and other vectors do not."""
    return parameter.ndim >= 2


def _one(parameter: Value) -> float:
    return 1.0


class Optimizer:
    """What all optimizers share: groups, clipping, the step count, master weights, averaged weights.

    parameters: the Values to train. lr: a rate or a schedule. weight_decay: decoupled for AdamW and Lion, added to the
    gradient for SGD; decays: whether it applies to a parameter, or a factor on it (default: to those with two or more
    axes). rates: the factor on the rate of each parameter (default: 1).
    clip_norm: gradients are scaled so that their global L2 norm is at most this; None: no clipping.
    ema: decay of an exponential moving average of the weights, at step t at most (1 + t) / (10 + t), so that it follows
    quickly at first and starts from nothing; None: none kept. Averages of 16-bit parameters are float32.
    master: "float32" keeps a float32 copy of every 16-bit parameter, which is what the rule moves; the parameter is
    that copy rounded, written by the same launch, so a step casts no weights. It starts from the initial value before
    rounding, and follows a parameter that is set in the State, or loaded without its master.
    rounding: of 16-bit parameters without master: "nearest", or "stochastic" for bfloat16 (see `ft.stochastic_round`),
    by Philox draws of `seed`, the step and the parameter's position: a resumed run rounds as the first one did.

    state_values: what a State must hold besides the parameters. averages, masters: parameter -> its own one.
    """

    moments: tuple[str, ...] = ()

    def __init__(
        self,
        parameters: Sequence[Value],
        lr: float | Schedule,
        *,
        weight_decay: float = 0.0,
        decays: Factors = _by_rank,
        rates: Factors = _one,
        clip_norm: float | None = None,
        ema: float | None = None,
        master: DTypeLike | None = None,
        rounding: str = "nearest",
        seed: int = 0,
    ) -> None:
        name = type(self).__name__
        if not parameters:
            raise ArgumentError("no parameters to train", op=name)
        if clip_norm is not None and clip_norm <= 0:
            raise ArgumentError(f"clip_norm must be positive, got {clip_norm}", op=name)
        if ema is not None and not 0 <= ema < 1:
            raise ArgumentError(f"ema must lie in [0, 1), got {ema}", op=name)
        if master is not None and as_dtype(master) is not float32:
            raise ArgumentError(f"master must be float32 or None, got {master}", op=name)
        if rounding not in ("nearest", "stochastic"):
            raise ArgumentError(f'rounding must be "nearest" or "stochastic", got {rounding!r}', op=name)
        if rounding == "stochastic" and master is not None:
            raise ArgumentError("stochastic rounding is for weights without master", op=name)
        self.parameters = list(parameters)
        self.schedule = lr if callable(lr) else constant(lr)
        self.weight_decay, self.decays, self.rates = weight_decay, decays, rates
        self.clip_norm, self.ema, self.rounding, self.seed = clip_norm, ema, rounding, seed
        self.step = call("parameter", (), int64, "optimizer.step", 0, False, True)
        self.slots = {p: [self._slot(p, name) for name in self.moments] for p in self.parameters}
        self.averages: dict[Value, Value] = (
            {p: self._slot(p, "ema") for p in self.parameters} if ema is not None else {}
        )
        self.masters: dict[Value, Value] = (
            {p: self._slot(p, "master", p) for p in self.parameters if p.dtype.is_low_precision}
            if master is not None
            else {}
        )
        self._reports: dict[str, Value] = {}

    @staticmethod
    def _slot(parameter: Value, name: str, init: Value | None = None) -> Value:
        """A state value of the parameter's shape, in float32 for 16-bit parameters; zero at first, or the initial value
        of `init`."""
        label = f"optimizer.{name}.{parameter.name}" if parameter.name else None
        implicit = parameter.explicit_name is None
        return call("parameter", parameter.shape, parameter.dtype.compute, label, init, False, implicit)

    @property
    def state_values(self) -> list[Value]:
        """The step count, the moments, the averages and the masters."""
        moments = (s for slots in self.slots.values() for s in slots)
        return [self.step, *moments, *self.averages.values(), *self.masters.values()]

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
        """parameter, moment, average, master, step -> new value; one launch for all of like dtypes.

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
        pairs = dict(zip(self.parameters, grads, strict=True))
        for members in self._groups(pairs):
            self._update_group(members, pairs, scalars, new)
        return new

    def _groups(self, grads: Mapping[Value, Value]) -> list[list[Value]]:
        """Parameters that share a launch: their dtypes agree, and their gradients'."""
        groups: dict[Any, list[Value]] = {}
        for p in self.parameters:
            groups.setdefault((p.dtype, grads[p].dtype), []).append(p)
        return list(groups.values())

    def _update_group(
        self, members: list[Value], grads: Mapping[Value, Value], scalars: list[Value], new: dict[Value, Value]
    ) -> None:
        weights = [self.masters.get(p, p) for p in members]  # a parameter with a master is only written
        kept = [[*self.slots[p], *([self.averages[p]] if self.averages else [])] for p in members]
        dtype, wide = members[0].dtype, members[0].dtype.compute
        noisy = self.rounding == "stochastic" and dtype is bfloat16
        position = {p: i for i, p in enumerate(self.parameters)}
        factors = _Columns(
            {
                "rate": [float(self.rates(p)) for p in members],
                "decay": [self.weight_decay * float(self.decays(p)) for p in members],
                **({"stream": [float(position[p]) for p in members]} if noisy else {}),
            }
        )
        shared = [*scalars, *([self.step] if noisy else [])]

        def body(p: Value, g: Value, *rest: Value) -> list[Value]:
            old, rest = list(rest[: len(kept[0])]), rest[len(kept[0]) :]
            own, index = rest[len(shared) :], rest[-1]
            finite, *numbers = rest[: len(scalars)]
            numbers = [call("cast", v, wide) for v in numbers]
            average = numbers.pop() if self.averages else None
            slope = call("cast", g, wide)
            if self.clip_norm is not None:
                slope = slope * numbers.pop()
            weight = call("cast", p, wide)
            rate = factors.times("rate", numbers.pop(0), own)
            moved, moments = self._rule(
                weight, slope, old[: len(self.moments)], factors.value("decay", own), rate, *numbers
            )
            results = [moved, *moments]
            if average is not None:
                results.append(old[-1] * average + moved * (1 - average))
            chosen = [call("where", finite, r, b) for r, b in zip(results, [weight, *old], strict=True)]
            if p.dtype is not dtype:
                return [call("cast", chosen[0], dtype), *chosen]
            if noisy:
                stream = call("cast", factors.value("stream", own), int64) + _STREAMS
                bits = noise(index, stream, rest[len(scalars)], self.seed)
                return [round_with_noise(chosen[0], bits), *chosen[1:]]
            return [call("cast", chosen[0], dtype), *chosen[1:]]

        rows = [[w, grads[p], *slots] for p, w, slots in zip(members, weights, kept, strict=True)]
        made = call("foreach", body, rows, shared, factors.table(wide), noisy)
        for p, w, slots, results in zip(members, weights, kept, made, strict=True):
            new.update(zip([p, *([] if w is p else [w]), *slots], results, strict=True))

    def _scalars(self, count: Value) -> list[Value]:
        """Further 0-d Values that `_rule` takes after the rate; count: float32, the number of this step from 1."""
        return []

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        """(new parameter, new moments) of one element. decay: 0.0 if no parameter of the launch decays."""
        raise NotImplementedError


class _Columns:
    """Numbers of each parameter: those that differ become columns of the table that `foreach` gives its body."""

    def __init__(self, columns: Mapping[str, list[float]]) -> None:
        self.fixed = {name: column[0] for name, column in columns.items() if len(set(column)) == 1}
        self.varying = {name: column for name, column in columns.items() if name not in self.fixed}

    def table(self, dtype: DType) -> Value | None:
        """[parameters, columns], or None if every number is the same for all."""
        if not self.varying:
            return None
        return call("constant", np.array(list(self.varying.values())).T, dtype)

    def value(self, name: str, own: Sequence[Value]) -> Factor:
        """One number, from the body's arguments that stand for the columns."""
        return self.fixed[name] if name in self.fixed else own[list(self.varying).index(name)]

    def times(self, name: str, other: Value, own: Sequence[Value]) -> Value:
        """other times the number."""
        factor = self.value(name, own)
        return other if not isinstance(factor, Value) and factor == 1 else other * factor


def _counts(factor: Factor) -> bool:
    return isinstance(factor, Value) or factor != 0


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
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        d = g + p * decay if _counts(decay) else g
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
        self.betas, self.eps = _check_betas(betas, "AdamW"), eps
        super().__init__(parameters, lr, weight_decay=weight_decay, **shared)

    def _scalars(self, count: Value) -> list[Value]:
        c1, c2 = (-call("expm1", count * math.log(b)) for b in self.betas)
        return [1.0 / c1, call("rsqrt", c2)]

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        b1, b2 = self.betas
        first, second = scalars  # 1 / c1 and 1 / sqrt(c2): one division and one root are left for each element
        m = moments[0] * b1 + g * (1 - b1)
        v = moments[1] * b2 + g * g * (1 - b2)
        kept = p * (1 - rate * decay) if _counts(decay) else p
        return kept - rate * first * m / (call("sqrt", v) * second + self.eps), [m, v]


class Lion(Optimizer):
    """Evolved sign momentum with decoupled weight decay (Chen et al. 2023).

    p = p (1 - lr decay) - lr sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g.
    """

    moments = ("exp_avg",)

    def __init__(
        self,
        parameters: Sequence[Value],
        lr: float | Schedule = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **shared: Any,
    ) -> None:
        self.betas = _check_betas(betas, "Lion")
        super().__init__(parameters, lr, weight_decay=weight_decay, **shared)

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        b1, b2 = self.betas
        direction = call("sign", moments[0] * b1 + g * (1 - b1))
        kept = p * (1 - rate * decay) if _counts(decay) else p
        return kept - rate * direction, [moments[0] * b2 + g * (1 - b2)]


def _check_betas(betas: tuple[float, float], name: str) -> tuple[float, float]:
    if not all(0 < b < 1 for b in betas):
        raise ArgumentError(f"betas must lie in (0, 1), got {betas}", op=name)
    return betas
