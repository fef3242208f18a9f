"""Adafactor: second moments of matrices as the product of a row and a column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.node import Value
from ..ir.op import call
from .columns import Factor, counts
from .names import Parameters
from .optimizer import Optimizer, Step
from .schedule import Schedule


class Adafactor(Optimizer):
    """Adafactor (Shazeer and Stern 2018), as torch.optim.Adafactor: M + N numbers of state for a matrix of M x N.

    b = t^beta2_decay; r, c: means of g^2 over the last axis and the last but one, averaged with weight b;
    u = g / sqrt(max(r c / mean(r), eps1^2)); a = max(eps2, rms(p)) min(lr, 1 / sqrt(t));
    p = p (1 - lr decay) - a u / max(1, rms(u) / d). Tensors of fewer than two axes keep a whole second moment.

    eps: (eps1, eps2); eps1 defaults to the machine epsilon of the type that is computed in. d: the largest rms of an
    update. Matrices take a few launches each (they are reduced along rows and columns), vectors one for all.
    """

    moments = ("variance",)

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 1e-2,
        *,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        **shared: Any,
    ) -> None:
        self.beta2_decay, self.eps, self.d = beta2_decay, eps, d
        super().__init__(parameters, lr, weight_decay=weight_decay, **shared)
        self._refuse("it bounds the update of each tensor itself, by d", layers=True)

    def _slots_of(self, parameter: Value) -> list[Value]:
        if parameter.ndim < 2:
            return super()._slots_of(parameter)
        *batch, rows, columns = parameter.shape
        return [
            self._slot(parameter, "row", shape=(*batch, rows, 1)),
            self._slot(parameter, "column", shape=(*batch, 1, columns)),
        ]

    def _least(self, p: Value) -> float:
        """The smallest second moment: eps1^2."""
        return (float(np.finfo(p.dtype.compute.numpy).eps) if self.eps[0] is None else self.eps[0]) ** 2

    def _scalars(self, step: Step) -> list[Value]:
        return [call("pow", step.count, self.beta2_decay), call("rsqrt", step.count)]

    def _update_group(self, members: list[Value], step: Step, scalars: Sequence[Value]) -> None:
        vectors = [p for p in members if p.ndim < 2]
        if vectors:
            super()._update_group(vectors, step, scalars)
        matrices = [p for p in members if p.ndim >= 2]
        if matrices:
            sizes = self._sizes(matrices)
            for i, p in enumerate(matrices):
                self._update_matrix(p, step, scalars, sizes[i])

    def _sizes(self, members: list[Value]) -> Value:
        """max(eps2, rms) of each parameter: [members]."""

        def squared(p: Value) -> Value:
            return call("square", call("cast", p, p.dtype.compute))

        sums = call("foreach_sum", squared, [[self.masters.get(p, p)] for p in members], (), True)
        counted = call("constant", np.array([max(p.size, 1) for p in members]), sums.dtype)
        return call("maximum", call("sqrt", sums / counted), self.eps[1])

    def _update_matrix(self, p: Value, step: Step, scalars: Sequence[Value], size: Value) -> None:
        wide = p.dtype.compute
        share, slowest = (call("cast", v, wide) for v in scalars)
        g, weight, rate = self._gradient(p, step), call("cast", self.masters.get(p, p), wide), self._rate(p, step)
        row, column = self.slots[p]
        squared = call("square", g)
        new_row = row + (call("mean", squared, -1, keepdims=True) - row) * share
        new_column = column + (call("mean", squared, -2, keepdims=True) - column) * share
        least = self._least(p)
        mean = call("maximum", call("mean", new_row, -2, keepdims=True), least**0.5)
        update = g * call("rsqrt", call("maximum", new_row * new_column / mean, least))
        rms = call("sqrt", call("mean", call("square", update)))
        pace = call("cast", size, wide) * call("minimum", rate, slowest) / call("maximum", rms * (1 / self.d), 1.0)
        decay = self.decay(p)
        kept = weight * (1 - rate * decay) if decay else weight
        self._store(p, kept - pace * update, {row: new_row, column: new_column}, step)

    def _own(self, members: list[Value], step: Step) -> dict[str, Value]:
        """Of vectors: max(eps2, rms of the weight), and what the update's rms is divided by."""
        share = call("pow", step.count, self.beta2_decay)
        factor = [] if step.factor is None else [step.factor]

        def squared(g: Value, variance: Value, part: Value, *scale: Value) -> Value:
            wide = variance.dtype
            slope = self._slope(g, wide, *(call("cast", v, wide) for v in scale))
            return call("square", self._direction(slope, variance, call("cast", part, wide))[0])

        rows = [[step.gradients[p], self.slots[p][0]] for p in members]
        sums = call("foreach_sum", squared, rows, [share, *factor], True)
        counted = call("constant", np.array([max(p.size, 1) for p in members]), sums.dtype)
        rms = call("sqrt", sums / counted)
        return {"size": self._sizes(members), "bound": call("maximum", rms * (1 / self.d), 1.0)}

    def _direction(self, g: Value, variance: Value, share: Value) -> tuple[Value, Value]:
        """(update, new variance) of an element of a vector."""
        new = variance + (g * g - variance) * share
        return g * call("rsqrt", call("maximum", new, self._least(variance))), new

    def _rule(
        self, p: Value, g: Value, moments: Sequence[Value], decay: Factor, rate: Value, *scalars: Value
    ) -> tuple[Value, list[Value]]:
        share, slowest, size, bound = scalars
        update, variance = self._direction(g, moments[0], share)
        kept = p * (1 - rate * decay) if counts(decay) else p
        return kept - size * call("minimum", rate, slowest) / bound * update, [variance]
