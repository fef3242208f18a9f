"""Every op and its gradients through the generated kernels, on every sample, against the float64 oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_ops_reference import CASES

import flame_triton as ft
from flame_triton import config
from flame_triton.ops.define import SAMPLED
from flame_triton.testing import Case, check_grads, check_kernels

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
    check_kernels(case, dtype, DEVICE)


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
