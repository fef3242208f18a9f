"""Graphs for `flame-triton tune` and `build`: `flame-triton tune bench.targets:step`."""

from __future__ import annotations

from collections.abc import Iterable

from bench.case import Case, Scale
from bench.cases import registry
from bench.cases.step import StepCase
from bench.transformer import Sizes
from flame_triton import Value

Target = tuple[list[Value], dict[Value, Value]]


def _joined(cases: Iterable[Case]) -> Target:
    outputs: list[Value] = []
    updates: dict[Value, Value] = {}
    for case in cases:
        built = case.build()
        outputs += built.outputs
        updates |= built.updates
    return outputs, updates


def step() -> Target:
    """The training step of twelve blocks that `bench` measures."""
    return _joined([StepCase("step", Sizes())])


def rows() -> Target:
    """Everything that `bench` measures of products, epilogues, norms and pointwise work."""
    return _joined(case for case in registry(Scale()) if case.family in ("gemm", "epilogue", "norm", "pointwise"))
