"""A small trainable model and what the tests of programs share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import flame_triton.ops  # noqa: F401
from flame_triton.graph.autodiff import grad
from flame_triton.ir.op import call
from flame_triton.ops.leaf import input as make_input
from flame_triton.ops.leaf import parameter
from flame_triton.runtime import buffers
from flame_triton.runtime.compile import compile
from flame_triton.runtime.program import Program
from flame_triton.runtime.state import State

REFERENCE = "reference"
KERNELS = [
    pytest.param("interpreter", marks=pytest.mark.interpreter),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
DEVICES = [REFERENCE, *KERNELS]


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def numpy(tensor: torch.Tensor) -> np.ndarray:
    return buffers.as_array(tensor)


class Regression:
    """A linear model with a squared loss, and one step of gradient descent."""

    def __init__(self, device: str) -> None:
        self.x, self.y = make_input((8, 5), name="x"), make_input((8, 3), name="y")
        self.w = parameter((5, 3), name="w", init=floats(5, 3, seed=1))
        self.b = parameter((3,), name="b")
        self.loss = call("mean", call("square", self.x @ self.w + self.b - self.y))
        dw, db = grad(self.loss, [self.w, self.b])
        self.state = State([self.w, self.b], device=device)
        self.updates = {self.w: self.w - 0.1 * dw, self.b: self.b - 0.1 * db}
        self.arrays = floats(8, 5, seed=2), floats(8, 3, seed=3)

    def step(self, **options) -> Program:
        return compile(self.loss, [self.x, self.y], state=self.state, updates=self.updates, **options)
