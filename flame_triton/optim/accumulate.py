"""Gradient accumulation: one optimizer step from the gradients of several micro-batches.

Two programs share a State. `adds` gives the updates of the first every - 1 micro-batches: each sum takes in its
gradient in the kernel that computes it (a product's epilogue), and a count on the device says whether the sum begins
anew, so nothing is ever set to zero. `updates` gives those of the last one: it adds too, and the optimizer takes the
sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ArgumentError
from ..ir.node import Value
from ..ir.op import call
from ..runtime.compile import compile
from ..runtime.device import Device
from ..runtime.finite import NonFinite
from ..runtime.program import Program
from ..runtime.state import State
from ..types import int64
from .optimizer import Optimizer


class Accumulate:
    """An optimizer whose step takes the mean gradient of `every` micro-batches.

        optimizer = Accumulate(AdamW(parameters, 1e-4, clip_norm=1.0), every=4)
        gradients = grad(loss, optimizer.parameters)
        state = State([*parameters, *optimizer.state_values])
        step = optimizer.compile(loss, gradients, [x, y], state=state)
        for x, y in batches:
            loss = step(x, y)  # every fourth call moves the weights

    The mean of `every` losses, each a mean over its micro-batch, is the loss of the big batch. Clipping, averages,
    loss scaling and schedules count optimizer steps and see the mean gradient; a gradient that is not finite in any
    micro-batch skips the whole step. The loss scale changes between steps only. Random seeds (`also`) move on with
    every micro-batch.

    dtype: of the sums: "float32" (float64 for float64 parameters), or "parameter" for each parameter's own, which takes
    half the memory for 16-bit parameters and rounds every partial sum.
    sums: parameter -> its sum; count: how many micro-batches of the present step have been taken (int64, 0-d).
    """

    def __init__(self, optimizer: Optimizer, every: int, dtype: str = "float32") -> None:
        if every < 1:
            raise ArgumentError(f"every must be at least 1, got {every}", op="Accumulate")
        if dtype not in ("float32", "parameter"):
            raise ArgumentError(f'dtype must be "float32" or "parameter", got {dtype!r}', op="Accumulate")
        self.optimizer, self.every = optimizer, every
        self.count = call("parameter", (), int64, "optimizer.accumulated", 0, False, True)
        self.sums = {
            p: optimizer._slot(p, "gradient", dtype=p.dtype if dtype == "parameter" else p.dtype.compute)
            for p in optimizer.parameters
        }

    @property
    def parameters(self) -> list[Value]:
        """The optimizer's parameters."""
        return self.optimizer.parameters

    @property
    def state_values(self) -> list[Value]:
        """The optimizer's, the sums and the count. Saved and loaded in the middle of a step, they go on from there."""
        return [*self.optimizer.state_values, self.count, *self.sums.values()]

    def adds(self, grads: Sequence[Value], also: Mapping[Value, Value] | None = None) -> dict[Value, Value]:
        """Updates of a micro-batch that does not end a step. also: further ones, such as the next random seed."""
        self.optimizer.check(grads)
        return {**self._sums(grads), self.count: self.count + 1, **(also or {})}

    def updates(self, grads: Sequence[Value], also: Mapping[Value, Value] | None = None) -> dict[Value, Value]:
        """Updates of the last micro-batch: the optimizer's with the mean gradient, and a fresh start of the sums."""
        self.optimizer.check(grads)
        sums = self._sums(grads)
        means = [sums[self.sums[p]] for p in self.parameters]
        return {**sums, **self.optimizer.updates(means, also), self.count: call("full", (), 0, int64)}

    def _sums(self, grads: Sequence[Value]) -> dict[Value, Value]:
        first = call("equal", self.count, 0)
        found: dict[Value, Value] = {}
        for p, g in zip(self.parameters, grads, strict=True):
            held = self.sums[p]
            wide = held.dtype.compute
            before = call("where", first, call("full", (), 0.0, wide), call("cast", held, wide))
            found[held] = call("cast", before + call("cast", g, wide) * (1.0 / self.every), held.dtype)
        return found

    def compile(
        self,
        outputs: Value | Sequence[Value],
        grads: Sequence[Value],
        inputs: Sequence[Value],
        *,
        state: State,
        also: Mapping[Value, Value] | None = None,
        device: Device | str | None = None,
    ) -> Accumulating:
        """Both programs, behind one call. outputs: of each micro-batch; the optimizer's reports may be among them, they
        are those of the step that would be taken."""
        last = self.updates(grads, also)
        programs = [
            compile(outputs, inputs, state=state, updates=news, device=device)
            for news in (self.adds(grads, also), last)
        ]
        return Accumulating(self, state, *programs)


class Accumulating:
    """Called with one micro-batch after the other; every `every`-th call takes a step. See `Accumulate.compile`.

    adds, last: the two programs. The place within a step is kept on the host and read from the State once, at first
    and after `rewind`.
    """

    def __init__(self, plan: Accumulate, state: State, adds: Program, last: Program) -> None:
        self.state, self.adds, self.last, self._plan = state, adds, last, plan
        self._latest = adds
        self._taken = int(state[plan.count])

    @property
    def ends_step(self) -> bool:
        """Whether the next call takes a step."""
        return self._taken + 1 >= self._plan.every

    def __call__(self, *arrays: Any) -> Any:
        """Take in one micro-batch; returns the outputs."""
        ends = self.ends_step
        self._latest = self.last if ends else self.adds
        results = self._latest(*arrays)
        self._taken = 0 if ends else self._taken + 1
        return results

    def find_non_finite(self, *arrays: Any) -> NonFinite | None:
        """What makes the first NaN or infinity in the latest micro-batch, taken by itself; see
        `Program.find_non_finite`."""
        count = self.state[self._plan.count]
        try:
            self.state.set(self._plan.count, count * 0)  # then the sums that it met are not looked at
            return self._latest.find_non_finite(*arrays)
        finally:
            self.state.set(self._plan.count, count)

    def rewind(self) -> None:
        """Take the place within the step from the State, after it was loaded or restored."""
        self._taken = int(self.state[self._plan.count])
