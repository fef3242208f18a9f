"""Every op and its gradients through the generated kernels, on every sample, against the float64 oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_ops_reference import CASES, FROM_RESULT, with_gradients

import flame_triton as ft
from flame_triton import config
from flame_triton.ops.define import SAMPLED
from flame_triton.testing import TOLERANCE, Case, assert_close, check_grads

DEVICE = "interpreter" if config.interpreted() else "cuda"


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


@pytest.mark.parametrize(
    "dtype",
    [
        "float64",
        "bfloat16",
        pytest.param("float32", marks=pytest.mark.slow),
        pytest.param("float16", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_agree_with_the_oracle(case: Case, dtype: str) -> None:
    graph, arrays = with_gradients(case, dtype)
    want = ft.evaluate(graph, dict(zip(graph.inputs, arrays, strict=True)))
    program = ft.compile(list(graph.outputs), list(graph.inputs), device=DEVICE)
    got = program(*(a.astype(v.dtype.numpy) for v, a in zip(graph.inputs, arrays, strict=True)))
    floor = 1.0 if case.name in FROM_RESULT else 0.05
    for v, tensor, r in zip(graph.outputs, got, want, strict=True):
        # a draw is float32 whatever the dtype of the rest, and so is what is made of it
        tolerance = max(TOLERANCE[ft.dtype(dtype)], TOLERANCE[v.dtype]) if v.dtype.is_float else None
        assert_close(as_numpy(tensor), r, v.dtype, tolerance=tolerance, floor=floor)


def test_check_grads_through_the_kernels() -> None:
    """The differences themselves are taken through the kernels, in float64."""

    def run(outputs, feeds):
        inputs = list(feeds)
        program = programs.get(tuple(outputs))
        if program is None:
            program = programs[tuple(outputs)] = ft.compile(list(outputs), inputs, device=DEVICE)
        return [as_numpy(t) for t in program(*(feeds[v] for v in inputs))]

    programs: dict = {}
    check_grads(lambda x, w: ft.softmax(ft.layer_norm(ft.gelu(x @ w), 5)), (3, 4), (4, 5), run=run)
    assert len(programs) == 2


def test_every_function_is_run() -> None:
    assert {case.name for case in CASES} == set(SAMPLED)
