"""Do the Triton kernels agree with the NumPy references? The same training steps on both, compared tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.compile import compile
from ..runtime.state import State
from ..types import DTypeLike
from ..types import dtype as as_dtype
from .data import Digits
from .digits_model import DigitsConfig, training_graph

TOLERANCE = 1e-4
"""The largest difference allowed, relative to the largest element of the tensor: float32 sums in another order."""

ROUNDINGS = 4
"""How many units in the last place of a 16-bit dtype the difference may be, where sums in another order round apart."""


def tolerance(dtype: DTypeLike) -> float:
    """The largest relative difference allowed when computing in `dtype`."""
    chosen = as_dtype(dtype)
    return ROUNDINGS * chosen.eps if chosen.is_low_precision else TOLERANCE


@dataclass(frozen=True)
class StepAgreement:
    """One step. loss: by the kernels; loss_error: relative; errors: for each gradient max|a - b| / max|b|, by name."""

    loss: float
    loss_error: float
    errors: dict[str, float]

    @property
    def worst(self) -> tuple[str, float]:
        """The gradient that differs most, and by how much."""
        return max(self.errors.items(), key=lambda item: item[1])

    def within(self, limit: float) -> bool:
        """True if everything differs by at most `limit` (NaN does not)."""
        return self.loss_error <= limit and all(e <= limit for e in self.errors.values())


@dataclass(frozen=True)
class Agreement:
    """batch: images a step; launches: kernel launches a step; limit: tolerance; steps: what was found in each."""

    batch: int
    launches: int
    limit: float
    steps: tuple[StepAgreement, ...]

    @property
    def holds(self) -> bool:
        """True if every step agrees."""
        return all(step.within(self.limit) for step in self.steps)


def relative_error(a: Any, b: Any) -> float:
    """max|a - b| / max|b|; 0 where both are zero, NaN where one is NaN."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    difference, scale = float(np.max(np.abs(a - b), initial=0.0)), float(np.max(np.abs(b), initial=0.0))
    return difference / scale if scale else difference


def compare_kernels(config: DigitsConfig, state: State, data: Digits, rows: Sequence[Any], device: str) -> Agreement:
    """Take one training step for each entry of `rows` on the references and on `device`, from copies of `state`.

    config.batch is the size of the batches; rows: row numbers of the data, int64 [batch] each. Each side goes on from
    its own new weights. state: a trained State of a model of the same sizes.
    """
    graph = training_graph(config)
    outputs = [graph.loss, *graph.gradients]
    programs: list[Any] = []
    for where in ("reference", device):
        copy = State(graph.state_values, device=where)
        for name in copy.names:
            copy.set(name, state[name])
        inputs = [graph.images, graph.labels]
        programs.append(compile(outputs, inputs, state=copy, updates=graph.updates, device=where))
    names = [p.name or "" for p in graph.parameters]
    steps: list[StepAgreement] = []
    for chosen in rows:
        expected, found = ([np.asarray(t.cpu()) for t in p(data.images[chosen], data.labels[chosen])] for p in programs)
        errors = [relative_error(a, b) for a, b in zip(found, expected, strict=True)]
        steps.append(StepAgreement(float(found[0]), errors[0], dict(zip(names, errors[1:], strict=True))))
    return Agreement(config.batch, len(programs[1].launches), tolerance(config.dtype), tuple(steps))
