"""Optimizers as graph builders: from gradients to the new values of parameters and moments.

`updates(grads)` gives the mapping that `ft.compile(updates=...)` takes. All tensors of like dtypes are one `foreach`
node, so one launch, whatever their groups; the gradient norm is one `foreach_sum`. The step count, the rates, the clip
factor and the loss scale are device values: a schedule never recompiles.

If the norm of all gradients is not finite, the step is skipped: parameters, moments and the step count keep their
values and `skipped` is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..ops.stochastic import noise, round_with_noise
from ..types import DType, DTypeLike, bfloat16, bool_, float32, float64, int64
from ..types import dtype as as_dtype
from .clip import Clipping, adaptive, global_norm, layer_norms, limited
from .columns import Columns, Factor
from .groups import Factors, Group, assign, by_rank, one, summary
from .names import Parameters, named
from .scaler import LossScaler
from .schedule import Schedule, constant
from .streamed import buckets, refuse_waiting

_STREAMS = 1 << 31  # random draws of the optimizer have streams from here on, those of models have lower ones


@dataclass(eq=False)
class Step:
    """One step as its rule sees it; all Values are 0-d.

    gradients: parameter -> gradient as given. finite: whether the step is taken. rates: schedule -> rate, the
    optimizer's own first. count: float32, the number of this step from 1. factor: what gradients are multiplied by
    (loss scale and clipping), or None. layers: parameter -> a factor of its own.
    new: what the State takes over; values in `carried` too, if the step is taken.
    """

    gradients: Mapping[Value, Value]
    finite: Value
    rates: dict[Schedule, Value]
    count: Value
    factor: Value | None = None
    layers: Mapping[Value, Value] = field(default_factory=dict)
    new: dict[Value, Value] = field(default_factory=dict)
    carried: dict[Value, Value] = field(default_factory=dict)

    @property
    def rate(self) -> Value:
        """The rate of the optimizer's own schedule."""
        return next(iter(self.rates.values()))


class Optimizer:
    """What all optimizers share: groups, clipping, the step count, master weights, averaged weights.

    parameters: what to train: Values, a mapping from names to them, or a module. lr: a rate or a schedule.
    weight_decay: decoupled for AdamW and its like, added to the gradient for SGD; decays: whether it applies to a
    parameter, or a factor on it (default: to those with two or more axes). rates: the factor on the rate of each
    parameter (default: 1). groups: made by `optim.group`; parameters that none of them claims follow the above.
    clip_norm: gradients are scaled so that their global L2 norm is at most this. clip_value: every element is clamped
    to this magnitude. clip_layer: as clip_norm, for each tensor apart. clip_adaptive: see `clip.adaptive`; it reads
    the gradients once more. At most one of them; None: no clipping.
    scaler: the LossScaler by which the loss was multiplied; gradients are divided by its scale again.
    ema: decay of an exponential moving average of the weights, at step t at most (1 + t) / (10 + t), so that it follows
    quickly at first and starts from nothing; None: none kept. Averages of 16-bit parameters are float32.
    master: "float32" keeps a float32 copy of every 16-bit parameter, which is what the rule moves; the parameter is
    that copy rounded, written by the same launch, so a step casts no weights. It starts from the initial value before
    rounding, and follows a parameter that is set in the State, or loaded without its master.
    moment_dtype: "bfloat16" keeps the moments of 16-bit parameters in it, as torch.optim does for bfloat16 parameters:
    half the memory and traffic of float32, the default; they are computed in float32 and rounded to the nearest once,
    so a second moment with b2 near 1 no longer follows small changes.
    rounding: of 16-bit parameters without master: "nearest", or "stochastic" for bfloat16 (see `ft.stochastic_round`),
    by Philox draws of `seed`, the step and the parameter's position: a resumed run rounds as the first one did.

    fused_backward: each large tensor is moved by a launch of its own, which the schedule puts right after its gradient,
    so that gradients are freed one by one: the same numbers, less memory. It cannot wait for what needs every gradient:
    no global norm, and no skipping of steps. skip_non_finite: default, unless fused_backward.

    parameters: a list of the Values; names: of each. state_values: what a State must hold besides the parameters.
    averages, masters: parameter -> its own one. assigned: parameter -> its Group, if it has one.
    """

    moments: tuple[str, ...] = ()
    starting: tuple[str, ...] = ()  # moments that start at the parameter instead of zero
    still: tuple[str, ...] = ()  # moments that no step changes

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule,
        *,
        weight_decay: float = 0.0,
        decays: Factors = by_rank,
        rates: Factors = one,
        groups: Sequence[Group] = (),
        clip_norm: float | None = None,
        clip_value: float | None = None,
        clip_layer: float | None = None,
        clip_adaptive: float | None = None,
        scaler: LossScaler | None = None,
        ema: float | None = None,
        master: DTypeLike | None = None,
        moment_dtype: DTypeLike | None = None,
        rounding: str = "nearest",
        seed: int = 0,
        fused_backward: bool = False,
        skip_non_finite: bool | None = None,
    ) -> None:
        name = type(self).__name__
        table = named(parameters, name)
        if not table:
            raise ArgumentError("no parameters to train", op=name)
        self.clipping = Clipping(clip_norm, clip_value, clip_layer, clip_adaptive)
        self.clipping.check(name)
        self.fused_backward = fused_backward
        self.skips = not fused_backward if skip_non_finite is None else skip_non_finite
        if fused_backward:
            refuse_waiting(self.clipping, scaler, self.skips, name)
        if ema is not None and not 0 <= ema < 1:
            raise ArgumentError(f"ema must lie in [0, 1), got {ema}", op=name)
        if master is not None and as_dtype(master) is not float32:
            raise ArgumentError(f"master must be float32 or None, got {master}", op=name)
        if moment_dtype is not None and as_dtype(moment_dtype) not in (float32, bfloat16):
            raise ArgumentError(f"moment_dtype must be bfloat16, float32 or None, got {moment_dtype}", op=name)
        if rounding not in ("nearest", "stochastic"):
            raise ArgumentError(f'rounding must be "nearest" or "stochastic", got {rounding!r}', op=name)
        if rounding == "stochastic" and master is not None:
            raise ArgumentError("stochastic rounding is for weights without master", op=name)
        self.names = {p: label for label, p in table.items()}
        self.parameters = list(table.values())
        self.schedule = lr if callable(lr) else constant(lr)
        self.weight_decay, self.decays, self.rates = weight_decay, decays, rates
        self.groups, self.assigned = tuple(groups), assign(table, groups, name)
        self.scaler, self.ema, self.rounding, self.seed = scaler, ema, rounding, seed
        self.short_moments = moment_dtype is not None and as_dtype(moment_dtype) is bfloat16
        self.step = call("parameter", (), int64, "optimizer.step", 0, False, True)
        self.slots = {p: self._slots_of(p) for p in self.parameters}
        self.averages: dict[Value, Value] = (
            {p: self._slot(p, "ema") for p in self.parameters} if ema is not None else {}
        )
        self.masters: dict[Value, Value] = (
            {p: self._slot(p, "master", p) for p in self.parameters if p.dtype.is_low_precision}
            if master is not None
            else {}
        )
        self._reports: dict[str, Value] = {}

    # ---- state -------------------------------------------------------------------------------------------------

    def _slots_of(self, parameter: Value) -> list[Value]:
        """The moments of one parameter. Those that start at it are weights, and keep the precision of such."""
        short = bfloat16 if self.short_moments and parameter.dtype.is_low_precision else None
        return [
            self._slot(parameter, name, parameter)
            if name in self.starting
            else self._slot(parameter, name, dtype=short)
            for name in self.moments
        ]

    @staticmethod
    def _slot(
        parameter: Value,
        name: str,
        init: Value | None = None,
        shape: tuple[int, ...] | None = None,
        dtype: DTypeLike | None = None,
    ) -> Value:
        """A state value of the parameter's shape, in float32 for 16-bit parameters; zero at first, or the initial value
        of `init`."""
        label = f"optimizer.{name}.{parameter.name}" if parameter.name else None
        implicit = parameter.explicit_name is None
        kept = dtype if dtype is not None else parameter.dtype.compute
        return call("parameter", parameter.shape if shape is None else shape, kept, label, init, False, implicit)

    @staticmethod
    def _number(name: str, init: float = 0.0) -> Value:
        """A number in the State that all parameters share: float64, so that sums over a long training lose nothing."""
        return call("parameter", (), float64, f"optimizer.{name}", init, False, True)

    @property
    def numbers(self) -> list[Value]:
        """Numbers in the State that all parameters share, besides the step count."""
        return []

    @property
    def state_values(self) -> list[Value]:
        """The step count, the moments, the averages, the masters and the loss scale."""
        moments = (s for slots in self.slots.values() for s in slots)
        scale = self.scaler.state_values if self.scaler else []
        return [self.step, *self.numbers, *moments, *self.averages.values(), *self.masters.values(), *scale]

    @property
    def state_bytes(self) -> int:
        """Bytes of `state_values`: what training takes besides parameters and gradients."""
        return sum(v.type.nbytes for v in self.state_values)

    @property
    def averaged(self) -> dict[Value, Value]:
        """parameter -> what to validate and sample with: its average. Empty without averages."""
        return dict(self.averages)

    # ---- groups ------------------------------------------------------------------------------------------------

    def rate_factor(self, parameter: Value) -> float:
        """The factor on the learning rate of a parameter."""
        own = self.assigned.get(parameter)
        return float(self.rates(parameter)) * (own.rate if own else 1.0)

    def decay(self, parameter: Value) -> float:
        """The weight decay of a parameter."""
        own = self.assigned.get(parameter)
        if own is not None and own.weight_decay is not None:
            return own.weight_decay
        return self.weight_decay * float(self.decays(parameter))

    def schedule_of(self, parameter: Value) -> Schedule:
        """The schedule of a parameter."""
        own = self.assigned.get(parameter)
        return own.schedule if own is not None and own.schedule is not None else self.schedule

    def summary(self) -> str:
        """The groups as a table, and the bytes of state."""
        return summary(self)

    # ---- reports -----------------------------------------------------------------------------------------------

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
        if self._reports and name not in self._reports:
            raise ArgumentError(
                f"{name} needs every gradient at once, which fused_backward=True does not keep", op=type(self).__name__
            )
        if not self._reports:
            raise ArgumentError(f"{name} is there after updates(grads)", op=type(self).__name__)
        return self._reports[name]

    # ---- a step ------------------------------------------------------------------------------------------------

    def updates(self, grads: Sequence[Value], also: Mapping[Value, Value] | None = None) -> dict[Value, Value]:
        """parameter, moment, average, master, step -> new value; one launch for all of like dtypes.

        grads: one per parameter, of its shape. also: further updates, such as the next random seed, that a skipped
        step leaves out as well.
        """
        self.check(grads)
        step = self._begin(dict(zip(self.parameters, grads, strict=True)))
        step.new[self.step] = self.step + call("cast", step.finite, int64)
        step.carried.update(also or {})
        if self.scaler is not None:
            step.new.update(self.scaler.updates(step.finite))
        scalars = self._scalars(step)
        for old, value in step.carried.items():
            step.new[old] = call("where", step.finite, value, old)
        for members in self._launches(step.gradients):
            self._update_group(members, step, scalars)
        return step.new

    def check(self, grads: Sequence[Value]) -> None:
        """Raises ArgumentError or ShapeError unless there is one gradient per parameter, of its shape."""
        op = type(self).__name__
        if len(grads) != len(self.parameters):
            raise ArgumentError(f"{len(self.parameters)} parameters but {len(grads)} gradients", op=op)
        for p, g in zip(self.parameters, grads, strict=True):
            if p.shape != g.shape:
                raise ShapeError(f"parameter {p.name!r} has shape {p.shape}, its gradient {g.shape}", op=op)

    def _begin(self, pairs: dict[Value, Value]) -> Step:
        """Norms, clipping and rates."""
        factor = self.scaler.inverse if self.scaler else None
        clipping = self.clipping
        layers: dict[Value, Value] = {}
        norm: Value | None = None
        if self.fused_backward:
            pass
        elif clipping.layer is None:
            norm = global_norm(list(pairs.values()), factor)
        else:
            total: Value | None = None
            for members in self._launches(pairs):
                own = layer_norms([pairs[p] for p in members], factor)
                part = call("sum", call("square", own))
                total = part if total is None else total + part
                layers.update((p, limited(own, clipping.layer)) for p in members)
            norm = call("sqrt", total)
        finite = call("isfinite", norm) if norm is not None and self.skips else call("full", (), True, bool_)
        if clipping.adaptive is not None:
            given = pairs.items() if factor is None else [(p, _times(g, factor)) for p, g in pairs.items()]
            pairs = {p: adaptive(self.masters.get(p, p), g, clipping.adaptive) for p, g in given}
            factor = None
        if clipping.norm is not None and norm is not None:
            limit = limited(norm, clipping.norm)
            factor = limit if factor is None else factor * limit
        schedules = dict.fromkeys([self.schedule, *map(self.schedule_of, self.parameters)])
        rates = {schedule: schedule(self.step) for schedule in schedules}
        count = call("cast", self.step + 1, float32)
        self._reports = {"lr": rates[self.schedule], "skipped": call("where", finite, 0.0, 1.0)}
        if norm is not None:
            self._reports["grad_norm"] = norm
        return Step(pairs, finite, rates, count, factor, layers)

    def _launches(self, grads: Mapping[Value, Value]) -> list[list[Value]]:
        """Parameters that share a launch: their dtypes agree, and their gradients'."""
        groups: dict[Any, list[Value]] = {}
        for p in self.parameters:
            groups.setdefault((p.dtype, grads[p].dtype), []).append(p)
        return list(groups.values())

    def _update_group(self, members: list[Value], step: Step, scalars: Sequence[Value]) -> None:
        """One launch for parameters of like dtypes."""
        weights = [self.masters.get(p, p) for p in members]  # a parameter with a master is only written
        kept = [[*self.slots[p], *([self.averages[p]] if self.averages else [])] for p in members]
        dtype, wide = members[0].dtype, members[0].dtype.compute
        noisy = self.rounding == "stochastic" and dtype is bfloat16
        factors = self._columns(members, step, noisy)
        several = [s for s in step.rates if f"rate of {id(s)}" in (*factors.fixed, *factors.varying)]
        ending = {
            **({"factor": step.factor} if step.factor is not None else {}),
            **({"ema": call("minimum", step.count / (step.count + 9.0), self.ema)} if self.ema is not None else {}),
        }
        rates = [step.rates[s] for s in several] or [step.rates[self.schedule_of(members[0])]]
        numbered = [*rates, *scalars, *ending.values()]
        shared = [step.finite, *numbered, *([self.step] if noisy else [])]
        computed = [name for name in factors.computed if name != "layer"]
        unchanged = [i for i, name in enumerate(self.moments) if name in self.still]

        def body(p: Value, g: Value, *rest: Value) -> list[Value]:
            old, rest = [call("cast", v, wide) for v in rest[: len(kept[0])]], rest[len(kept[0]) :]
            own, index = rest[len(shared) :], rest[-1]
            numbers = [call("cast", v, wide) for v in rest[1 : 1 + len(numbered)]]
            last = dict(zip(ending, numbers[len(numbers) - len(ending) :], strict=True))
            layer = factors.value("layer", own) if step.layers else None
            slope = self._slope(g, wide, last.get("factor"), layer)
            weight = call("cast", p, wide)
            if several:
                parts = [factors.times(f"rate of {id(s)}", r, own) for s, r in zip(several, numbers, strict=False)]
                rate = parts[0]
                for part in parts[1:]:
                    rate = rate + part
            else:
                rate = factors.times("rate", numbers[0], own)
            rule = numbers[len(rates) : len(rates) + len(scalars)] + [factors.value(name, own) for name in computed]
            moved, moments = self._rule(
                weight, slope, old[: len(self.moments)], factors.value("decay", own), rate, *rule
            )
            results = [moved, *moments]
            if "ema" in last:
                results.append(old[-1] * last["ema"] + moved * (1 - last["ema"]))
            chosen = [call("where", rest[0], r, b) for r, b in zip(results, [weight, *old], strict=True)]
            chosen[1:] = [call("cast", v, slot.dtype) for v, slot in zip(chosen[1:], kept[0], strict=True)]
            chosen = [v for i, v in enumerate(chosen) if i - 1 not in unchanged]
            if p.dtype is not dtype:
                return [call("cast", chosen[0], dtype), *chosen]
            if noisy:
                stream = call("cast", factors.value("stream", own), int64) + _STREAMS
                bits = noise(index, stream, rest[len(shared) - 1], self.seed)
                return [round_with_noise(chosen[0], bits), *chosen[1:]]
            return [call("cast", chosen[0], dtype), *chosen[1:]]

        rows = [[w, step.gradients[p], *slots] for p, w, slots in zip(members, weights, kept, strict=True)]
        parts = buckets(members) if self.fused_backward else [range(len(members))]
        made: dict[int, Sequence[Value]] = {}
        for part in parts:
            chosen_rows = [rows[i] for i in part]
            table = factors.table(wide, part if len(parts) > 1 else None)
            made.update(zip(part, call("foreach", body, chosen_rows, shared, table, noisy), strict=True))
        for i, (p, w, slots) in enumerate(zip(members, weights, kept, strict=True)):
            moving = [slot for j, slot in enumerate(slots) if j not in unchanged]
            step.new.update(zip([p, *([] if w is p else [w]), *moving], made[i], strict=True))

    def _columns(self, members: list[Value], step: Step, noisy: bool) -> Columns:
        """The numbers of each parameter of a launch: decay, factor on each rate, random stream, clip factor."""
        own = list(dict.fromkeys(map(self.schedule_of, members)))
        columns = {"rate": [self.rate_factor(p) for p in members]}
        if len(own) > 1:
            columns = {
                f"rate of {id(s)}": [self.rate_factor(p) if self.schedule_of(p) is s else 0.0 for p in members]
                for s in step.rates
                if s in own
            }
        columns["decay"] = [self.decay(p) for p in members]
        if noisy:
            position = {p: i for i, p in enumerate(self.parameters)}
            columns["stream"] = [float(position[p]) for p in members]
        computed = self._own(members, step)
        if step.layers:
            computed["layer"] = step.layers[members[0]]
        return Columns(columns, computed)

    def _slope(self, g: Value, wide: DType, *factors: Value | float | None) -> Value:
        """The gradient as a rule sees it, in the type `wide`: scaled, clipped."""
        slope = call("cast", g, wide)
        for factor in factors:
            if factor is not None:
                slope = slope * factor
        limit = self.clipping.value
        return slope if limit is None else call("clamp", slope, -limit, limit)

    def _store(self, p: Value, moved: Value, moments: Mapping[Value, Value], step: Step) -> None:
        """The same for a parameter whose rule is no element's: its new value in the compute type, and those of state
        values. Average, master, rounding and skipping follow."""
        weight = call("cast", self.masters.get(p, p), p.dtype.compute)
        chosen = call("where", step.finite, moved, weight)
        for old, value in moments.items():
            step.new[old] = call("where", step.finite, value, old)
        if self.averages:
            keep = call("cast", call("minimum", step.count / (step.count + 9.0), self.ema), p.dtype.compute)
            average = self.averages[p]
            step.new[average] = call("where", step.finite, average * keep + moved * (1 - keep), average)
        if p in self.masters:
            step.new[self.masters[p]] = chosen
        if self.rounding == "stochastic" and p.dtype is bfloat16:
            index = call("reshape", call("arange", p.size), p.shape)
            stream = call("full", p.shape, _STREAMS + self.parameters.index(p), int64)
            bits = noise(index, stream, call("broadcast_to", self.step, p.shape), self.seed)
            step.new[p] = round_with_noise(chosen, bits)
        else:
            step.new[p] = call("cast", chosen, p.dtype)

    def _gradient(self, p: Value, step: Step) -> Value:
        """The gradient of one parameter as a rule sees it."""
        wide = p.dtype.compute
        factors = [] if step.factor is None else [call("cast", step.factor, wide)]
        if step.layers:
            members = next(m for m in self._launches(step.gradients) if p in m)
            factors.append(call("cast", step.layers[p][members.index(p)], wide))
        return self._slope(step.gradients[p], wide, *factors)

    def _rate(self, p: Value, step: Step) -> Value:
        """The rate of one parameter, in its compute type."""
        return call("cast", step.rates[self.schedule_of(p)], p.dtype.compute) * self.rate_factor(p)

    def _own(self, members: list[Value], step: Step) -> dict[str, Value]:
        """Further numbers of each parameter of a launch, [members], that `_rule` takes last: name -> Value."""
        return {}

    def _scalars(self, step: Step) -> list[Value]:
        """Further 0-d Values that `_rule` takes after the rate; what `step.carried` gets, the State takes over."""
        return []

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        """(new parameter, new moments) of one element. decay: 0.0 if no parameter of the launch decays."""
        raise NotImplementedError

    def _refuse(self, why: str, *, layers: bool = False, groups: bool = False, schedules: bool = False) -> None:
        """Raises ArgumentError for what this optimizer cannot have: clip_layer, rates or schedules of groups."""
        if layers and self.clipping.layer is not None:
            raise ArgumentError(f"clip_layer is not for this optimizer: {why}", op=type(self).__name__)
        if groups and any(self.rate_factor(p) != 1 for p in self.parameters):
            raise ArgumentError(f"all parameters must have one learning rate: {why}", op=type(self).__name__)
        if schedules and any(self.schedule_of(p) is not self.schedule for p in self.parameters):
            raise ArgumentError(f"all parameters must have one schedule: {why}", op=type(self).__name__)


def _times(x: Value, factor: Value) -> Value:
    """x times a 0-d number, in x's compute type."""
    wide = call("cast", x, x.dtype.compute)
    return wide * call("cast", factor, wide.dtype)
