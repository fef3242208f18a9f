"""Graphs for `flame-triton tune` and `build`: `flame-triton tune bench.targets:step`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import flame_triton as ft
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


# heads, elements a head, then (queries, keys) at 512 x 512 and at 1024 x 1024
SHAPES = {
    "DiT-XL/2": (16, 72, [(1024, 1024), (4096, 4096)]),
    "Flux": (24, 128, [(1536, 1536), (4608, 4608)]),
    "SD3.5-medium": (24, 64, [(1357, 1357), (4429, 4429), (1024, 1024), (4096, 4096)]),  # joint, then the image alone
    "SD3.5-large": (38, 64, [(1357, 1357), (4429, 4429)]),
    "SDXL, outer": (10, 64, [(1024, 1024), (4096, 4096), (1024, 77), (4096, 77)]),
    "SDXL, inner": (20, 64, [(256, 256), (1024, 1024), (256, 77), (1024, 77)]),
}
BATCHES = (1, 4)
"""The smallest, and one that stands for 2 to 8: programs are many by then, and what is fastest changes no more."""


def attention() -> Target:
    """Attention of the models that this project is measured with, forward and backward: `--only attention`."""
    outputs: list[Value] = []
    for heads, width, sizes in SHAPES.values():
        for batch, (queries, keys) in itertools.product(BATCHES, sizes):
            shapes = [(batch, rows, heads, width) for rows in (queries, keys, keys, queries)]
            q, k, v, g = (ft.parameter(shape, "bfloat16") for shape in shapes)
            heads_first = [ft.transpose(x, (0, 2, 1, 3)) for x in (q, k, v)]
            o = ft.transpose(ft.scaled_dot_product_attention(*heads_first), (0, 2, 1, 3))
            outputs += [o, *ft.grad(o, [q, k, v], grad_output=g)]
    return outputs, {}


def rows() -> Target:
    """Everything that `bench` measures of products, epilogues, norms and pointwise work."""
    return _joined(case for case in registry(Scale()) if case.family in ("gemm", "epilogue", "norm", "pointwise"))
