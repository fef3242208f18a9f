"""Samplers as tables: every step of every sampler here is one linear map with numbers known in advance.

The state is the sample x and some slots (what a multistep method remembers). Step i calls the model once,

    m = model(input_scale[i] x, timesteps[i])
    h = clip(a[i] x + b[i] m)                        the clean sample, noise or derivative, as the method wants it
    (x, slots) = update[i] (x, slots, h, m, noise)   a matrix of numbers

So the host's oracle is a matrix product, one compiled program with the numbers of a step as its input serves all steps,
and a whole trajectory is a graph as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..types import float32, int64

Array = np.ndarray[Any, Any]
Model = Callable[[Value, Value], Value]
Linear = Mapping[str, float]  # a linear combination of "x", slots, "h", "m" (the model's output) and "noise"


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """A sampler's whole plan for n steps, in float64. len(sampler) is the number of model calls.

    timesteps, input_scale: [n]; predict: [n, 2], the numbers (a, b) of h; slots: their names; update:
    [n, 1 + slots, slots + 4], rows x and the slots, columns x, the slots, h, m, noise; clip: h is clamped to
    [-clip, clip]; start_scale: the standard deviation of the first x; sigmas: [n + 1] noise levels, for information.
    """

    name: str
    timesteps: Array
    input_scale: Array
    predict: Array
    update: Array
    sigmas: Array
    slots: tuple[str, ...] = ()
    clip: float | None = None
    start_scale: float = 1.0

    def __len__(self) -> int:
        return len(self.timesteps)

    def __repr__(self) -> str:
        return f"<Sampler {self.name}, {len(self)} model calls>"

    @property
    def stochastic(self) -> bool:
        """True if a step adds noise."""
        return bool(np.any(self.update[:, :, -1]))

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return 4 + self.update[0].size

    def row(self, i: int) -> Array:
        """The numbers of step i, float32 [width]: what a program from `step_graph` takes."""
        return self._rows()[i].astype(np.float32)

    def _rows(self) -> Array:
        flat = self.update.reshape(len(self), -1)
        return np.concatenate([self.timesteps[:, None], self.input_scale[:, None], self.predict, flat], axis=1)

    def start(self, noise: Array) -> list[Array]:
        """The state before the first step, from standard normal noise: x and empty slots."""
        return [noise * np.asarray(self.start_scale, noise.dtype), *(np.zeros_like(noise) for _ in self.slots)]

    def step(self, i: int, state: Sequence[Array], output: Array, noise: Array | None = None) -> list[Array]:
        """The state after step i, in the arrays' own dtype. output: the model's, for input_scale[i] * state[0].

        noise: standard normal, needed by stochastic samplers. Raises ArgumentError without it.
        """
        if noise is None:
            if np.any(self.update[i, :, -1]):
                raise ArgumentError(f"step {i} needs noise", op=self.name)
            noise = np.zeros_like(output)
        a, b = self.predict[i]
        h = a * state[0] + b * output
        if self.clip is not None:
            h = np.clip(h, -self.clip, self.clip)
        columns = np.stack([*state, h, output, noise])
        return list(np.tensordot(self.update[i], columns, axes=1))

    def draw(self, program: Callable[..., Any], noise: Array, *inputs: Any, seed: int = 0) -> Array:
        """All steps by a program compiled from a `StepGraph`, from standard normal noise; float32, on the host.

        inputs: what the program takes besides the StepGraph's own; seed: of the noise that stochastic samplers add,
        Philox(seed, step), so the same on every device.
        """
        state: Sequence[Any] = self.start(np.asarray(noise, np.float32))
        for i in range(len(self)):
            key = [np.array([seed, i], np.int64)] if self.stochastic else []
            state = program(*state, self.row(i), *key, *inputs)
        return np.asarray(state[0].cpu() if hasattr(state[0], "cpu") else state[0])

    def zero_init(self, steps: int = 1) -> Sampler:
        """The same sampler, with the model's output taken as zero in the first steps (CFG-Zero*, Fan et al. 2025)."""
        if not 0 <= steps < len(self):
            raise ArgumentError(f"steps must lie in [0, {len(self)}), got {steps}", op="zero_init")
        predict, update = self.predict.copy(), self.update.copy()
        predict[:steps, 1] = 0
        update[:steps, :, -2] = 0
        return dataclasses.replace(self, predict=predict, update=update)


# ---- building tables -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a sampler, by name: h = predict (x, m); x and each slot become linear combinations."""

    timestep: float
    x: Linear
    predict: tuple[float, float] = (0.0, 1.0)
    slots: Mapping[str, Linear] = dataclasses.field(default_factory=dict)
    input_scale: float = 1.0


def make_sampler(name: str, steps: Sequence[Step], sigmas: Array, slots: Sequence[str] = (), **options: Any) -> Sampler:
    """A Sampler from its steps; a slot that a step does not mention keeps what it holds."""
    columns = ("x", *slots, "h", "m", "noise")
    update = np.zeros((len(steps), 1 + len(slots), len(columns)))
    for i, step in enumerate(steps):
        for r, row in enumerate([step.x, *(step.slots.get(s, {s: 1.0}) for s in slots)]):
            for column, number in row.items():
                update[i, r, columns.index(column)] = number
    return Sampler(
        name,
        np.array([s.timestep for s in steps], np.float64),
        np.array([s.input_scale for s in steps], np.float64),
        np.array([s.predict for s in steps], np.float64),
        update,
        np.asarray(sigmas, np.float64),
        tuple(slots),
        **options,
    )


def combine(*terms: tuple[float, Linear]) -> dict[str, float]:
    """The sum of number * combination."""
    total: dict[str, float] = {}
    for number, linear in terms:
        for name, part in linear.items():
            total[name] = total.get(name, 0.0) + number * part
    return total


# ---- graphs ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class StepGraph:
    """One step as a graph, for all steps: compile `outputs` with `inputs`, then `sampler.draw(program, noise)`."""

    sampler: Sampler
    state: list[Value]
    row: Value
    seed: Value | None
    outputs: list[Value]

    @property
    def inputs(self) -> list[Value]:
        """The state, the row, and for stochastic samplers the seed."""
        return [*self.state, self.row, *([] if self.seed is None else [self.seed])]


def step_graph(sampler: Sampler, model: Model, shape: Sequence[int]) -> StepGraph:
    """A step on samples of this shape, [B, ...]: model(x, t) -> output, x: float32, t: float32 [B].

    Numbers that are the same in all steps are built in; the others come in with the row.
    """
    state = [call("input", tuple(shape), float32, name=name) for name in ("x", *sampler.slots)]
    row = call("input", (sampler.width,), float32, name="row")
    seed = call("input", (2,), int64, name="seed") if sampler.stochastic else None
    table = sampler._rows()
    fixed = np.all(table == table[0], axis=0)
    numbers = [float(table[0, k]) if fixed[k] else row[k] for k in range(sampler.width)]
    return StepGraph(sampler, state, row, seed, _advance(sampler, numbers, state, model, seed))


def sample_graph(sampler: Sampler, model: Model, noise: Value, seed: Value | None = None) -> Value:
    """All steps in one graph: the sample, float32 [B, ...], from standard normal noise of that shape.

    The model is built once for each step, so this is for few steps. seed: int64 [2], for stochastic samplers.
    """
    if sampler.stochastic and seed is None:
        raise ArgumentError("a stochastic sampler needs seed=", op=sampler.name)
    x = call("cast", noise, float32)
    if sampler.start_scale != 1.0:
        x = x * sampler.start_scale
    state = [x, *(call("full", x.shape, 0.0, float32) for _ in sampler.slots)]
    for numbers in sampler._rows().tolist():
        state = _advance(sampler, numbers, state, model, seed)
    return state[0]


def _advance(
    sampler: Sampler, numbers: Sequence[float | Value], state: list[Value], model: Model, seed: Value | None
) -> list[Value]:
    """One step on Values. numbers: a row, as numbers or 0-d Values."""
    t, scale, a, b, *update = numbers
    x = state[0]
    times = call("broadcast_to", call("reshape", t, (1,)), x.shape[:1]) if isinstance(t, Value) else None
    if times is None:
        times = call("full", x.shape[:1], t, float32)
    m = call("cast", model(_times(scale, x), times), float32)
    if m.shape != x.shape:
        raise ShapeError(f"the model maps {x.shape} to {m.shape}; expected the same shape", op=sampler.name)
    h = _sum([(a, x), (b, m)], x)
    if sampler.clip is not None:
        h = call("clamp", h, -sampler.clip, sampler.clip)
    columns = [*state, h, m]
    if sampler.stochastic:
        assert seed is not None
        columns.append(call("normal", x.shape, seed))
    size = len(state) + 3
    return [_sum(list(zip(update[r * size : (r + 1) * size], columns, strict=False)), x) for r in range(len(state))]


def _times(number: float | Value, x: Value) -> Value:
    return x if isinstance(number, float) and number == 1.0 else number * x


def _sum(terms: Sequence[tuple[float | Value, Value]], like: Value) -> Value:
    """The sum of number * tensor, in order; numbers that are zero in every step cost nothing."""
    parts = [_times(number, x) for number, x in terms if isinstance(number, Value) or number != 0.0]
    total = parts[0] if parts else call("full", like.shape, 0.0, float32)
    for part in parts[1:]:
        total = total + part
    return total
