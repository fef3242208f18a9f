"""The registry's sample calls, as cases for tests to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph.autodiff import grad
from ..ir.graph import Graph
from ..ir.node import Value
from ..ir.op import Sample
from ..ops.define import SAMPLED, Sampled
from ..ops.leaf import input as placeholder
from ..ops.users import USERS
from ..types import DTypeLike, float64
from ..types import dtype as as_dtype

FROM_RESULT = {"sigmoid", "tanh"}
"""Backward reads y, which is saved anyway, rather than x: in 1 - y rounding of y is not small against what is left."""


def flatten(nest: Any) -> list[Any]:
    """The leaves of nested lists and tuples, in order."""
    if isinstance(nest, list | tuple):
        return [leaf for part in nest for leaf in flatten(part)]
    return [nest]


@dataclass(frozen=True)
class Case:
    """One sample call of a public function: what tests driven by the registry run."""

    name: str
    number: int
    function: Callable[..., Any]
    sample: Sample

    def __str__(self) -> str:
        return f"{self.name}-{self.number}"

    @property
    def floor(self) -> float:
        """The size below which errors of this case are not relative any more."""
        return 1.0 if self.name in FROM_RESULT else 0.05

    @property
    def arrays(self) -> list[np.ndarray]:
        """The arrays among the arguments, nested and keyword ones included, in order."""
        return [x for x in flatten([*self.sample.args, *self.sample.kwargs.values()]) if isinstance(x, np.ndarray)]

    @property
    def wrt(self) -> list[int]:
        """Which of `arrays` are to be differentiated."""
        chosen: list[int] = []
        count = 0
        for position, part in enumerate([*self.sample.args, *self.sample.kwargs.values()]):
            for x in flatten(part):
                if isinstance(x, np.ndarray):
                    wanted = self.sample.grad is None or position in self.sample.grad
                    if wanted and x.dtype.kind == "f":
                        chosen.append(count)
                    count += 1
        return chosen

    def arguments(self, replacements: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The sample's args and kwargs with its arrays replaced, in order."""
        left = iter(replacements)

        def place(x: Any) -> Any:
            if isinstance(x, np.ndarray):
                return next(left)
            return type(x)(place(part) for part in x) if isinstance(x, list | tuple) else x

        return [place(x) for x in self.sample.args], {k: place(x) for k, x in self.sample.kwargs.items()}

    def call(self, *values: Any) -> list[Value]:
        """The function on Values instead of the arrays; its results in a flat list."""
        args, kwargs = self.arguments(values)
        return flatten(self.function(*args, **kwargs))

    def inputs(self, dtype: DTypeLike = float64) -> list[Value]:
        """Placeholders for the arrays; floating ones of `dtype`."""
        return [placeholder(a.shape, dtype if a.dtype.kind == "f" else a.dtype) for a in self.arrays]

    def graph(self, dtype: DTypeLike = float64) -> Graph:
        """The sample as a graph."""
        inputs = self.inputs(dtype)
        return Graph(tuple(inputs), tuple(self.call(*inputs)))

    def with_gradients(self, dtype: DTypeLike = float64) -> tuple[Graph, list[np.ndarray]]:
        """The outputs and, if there are any, the gradients of the inputs; and arrays for the graph's inputs, rounded to
        `dtype`. The cotangents are inputs too, after the sample's own."""
        numpy = as_dtype(dtype).numpy
        arrays = [a.astype(numpy).astype(np.float64) if a.dtype.kind == "f" else a for a in self.arrays]
        inputs = self.inputs(dtype)
        outputs = self.call(*inputs)
        wrt = [inputs[i] for i in self.wrt]
        floating = [v for v in outputs if v.dtype.is_float]
        if not wrt or not floating:
            return Graph(tuple(inputs), tuple(outputs)), arrays
        seeds = [placeholder(v.shape, v.dtype.gradient) for v in floating]
        rng = np.random.default_rng(len(arrays))
        arrays += [rng.standard_normal(v.shape).astype(v.dtype.gradient.numpy).astype(np.float64) for v in seeds]
        gradients = grad(floating, wrt, grad_output=seeds)
        return Graph((*inputs, *seeds), (*outputs, *gradients)), arrays


def cases() -> Iterator[Case]:
    """Every sample of every public function, in order of name."""
    return _of(SAMPLED)


def user_cases(module: str) -> Iterator[Case]:
    """Every sample of the fused functions and custom ops that `module` defines with samples, in order of name."""
    return _of(USERS.get(module, {}))


def _of(table: Mapping[str, Sampled]) -> Iterator[Case]:
    for name, entry in sorted(table.items()):
        for number, sample in enumerate(entry.samples()):
            yield Case(name, number, entry.function, sample)
