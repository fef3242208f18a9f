"""What a model predicts, and how one prediction follows from another.

With x = alpha x_0 + sigma noise: "eps" is the noise, "sample" x_0, "v" alpha noise - sigma x_0 (Salimans and Ho
2022), "flow" noise - x_0. Each is a linear combination of x and any other, so samplers keep two numbers a step.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np

from ..errors import ArgumentError
from ..ir.node import Value

Kind = Literal["eps", "v", "sample", "flow"]
Tensor = TypeVar("Tensor", Value, np.ndarray)


def clean_from(kind: Kind, alpha: float, sigma: float) -> tuple[float, float]:
    """(a, b) such that x_0 = a x + b m, m being the model's output of this kind.

    Raises ArgumentError for eps where alpha is 0: noise says nothing of the sample.
    """
    if kind == "sample":
        return 0.0, 1.0
    if kind == "eps":
        if alpha == 0:
            raise ArgumentError("eps does not determine the sample where alpha is 0; use v", op="clean_from")
        return 1 / alpha, -sigma / alpha
    if kind == "v":  # alpha x - sigma v = (alpha^2 + sigma^2) x_0
        norm = alpha * alpha + sigma * sigma
        return alpha / norm, -sigma / norm
    if kind == "flow":  # x - sigma (noise - x_0) = (alpha + sigma) x_0
        return 1 / (alpha + sigma), -sigma / (alpha + sigma)
    raise ArgumentError(f"no prediction is called {kind!r}; there are eps, v, sample, flow", op="clean_from")


def noise_from(kind: Kind, alpha: float, sigma: float) -> tuple[float, float]:
    """(a, b) such that noise = a x + b m. Raises ArgumentError for a sample where sigma is 0."""
    if kind == "eps":
        return 0.0, 1.0
    if kind == "sample":
        if sigma == 0:
            raise ArgumentError("the sample does not determine the noise where sigma is 0", op="noise_from")
        return 1 / sigma, -alpha / sigma
    if kind == "v":  # sigma x + alpha v
        norm = alpha * alpha + sigma * sigma
        return sigma / norm, alpha / norm
    if kind == "flow":  # x + alpha (noise - x_0) = (alpha + sigma) noise
        return 1 / (alpha + sigma), alpha / (alpha + sigma)
    raise ArgumentError(f"no prediction is called {kind!r}; there are eps, v, sample, flow", op="noise_from")


def convert(output: Tensor, x: Tensor, source: Kind, target: Kind, alpha: float, sigma: float) -> Tensor:
    """The prediction `target` from a model's output of kind `source` at x = alpha x_0 + sigma noise. Any shapes."""
    if source == target:
        return output
    a, b = clean_from(source, alpha, sigma)
    c, d = noise_from(source, alpha, sigma)
    if target == "sample":
        return a * x + b * output
    if target == "eps":
        return c * x + d * output
    if target == "v":
        return (alpha * c - sigma * a) * x + (alpha * d - sigma * b) * output
    if target == "flow":
        return (c - a) * x + (d - b) * output
    raise ArgumentError(f"no prediction is called {target!r}; there are eps, v, sample, flow", op="convert")
