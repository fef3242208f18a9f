"""Initialisers: functions of (shape, rng) that give float32 arrays, for `Parameter(init=...)`.

Fan-in and fan-out follow torch's layout: a weight [out, in, ...] has fan_in = in * receptive field.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Initialiser = Callable[[tuple[int, ...], np.random.Generator], Array]


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def zeros(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """All zeros."""
    return np.zeros(shape, np.float32)


def ones(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """All ones."""
    return np.ones(shape, np.float32)


def constant(value: float) -> Initialiser:
    """Every element equal to value."""
    return lambda shape, rng: np.full(shape, value, np.float32)


def normal(std: float = 0.02, mean: float = 0.0) -> Initialiser:
    """N(mean, std^2)."""
    return lambda shape, rng: (mean + std * rng.standard_normal(shape)).astype(np.float32)


def uniform(low: float, high: float) -> Initialiser:
    """Uniform on [low, high)."""
    return lambda shape, rng: rng.uniform(low, high, shape).astype(np.float32)


def xavier_uniform(gain: float = 1.0) -> Initialiser:
    """Uniform on +-gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""

    def draw(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        bound = gain * math.sqrt(6.0 / sum(_fans(shape)))
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    return draw


def xavier_normal(gain: float = 1.0) -> Initialiser:
    """N(0, gain^2 2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return lambda shape, rng: normal(gain * math.sqrt(2.0 / sum(_fans(shape))))(shape, rng)


def kaiming_normal(gain: float = math.sqrt(2.0)) -> Initialiser:
    """N(0, gain^2 / fan_in) (He et al. 2015); the default gain is that of ReLU."""
    return lambda shape, rng: normal(gain / math.sqrt(_fans(shape)[0]))(shape, rng)


def kaiming_uniform(gain: float = 1.0) -> Initialiser:
    """Uniform on +-gain * sqrt(3 / fan_in) (He et al. 2015); gain 1 / sqrt(3) is torch's default for Linear."""

    def draw(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        bound = gain * math.sqrt(3.0 / _fans(shape)[0])
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    return draw
