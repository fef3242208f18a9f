"""Curves of noise levels between two ends."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..errors import ArgumentError

Array = np.ndarray[Any, Any]
Curve = Literal["karras", "exponential"]


def karras_sigmas(first: float, last: float, steps: int, rho: float = 7.0) -> Array:
    """(first^(1/rho) + i/(steps - 1) (last^(1/rho) - first^(1/rho)))^rho; [steps]. Karras et al. 2022, eq. 5."""
    ramp = np.linspace(0.0, 1.0, steps)
    return (first ** (1 / rho) + ramp * (last ** (1 / rho) - first ** (1 / rho))) ** rho


def exponential_sigmas(first: float, last: float, steps: int) -> Array:
    """Levels with equally spaced logarithms, float64 [steps]."""
    return np.exp(np.linspace(np.log(first), np.log(last), steps))


def bend(levels: Array, curve: Curve | None) -> Array:
    """The levels themselves, or a curve between their ends."""
    if curve is None:
        return levels
    if curve not in ("karras", "exponential"):
        raise ArgumentError(f"no curve of noise levels is called {curve!r}", op="sigmas")
    make = karras_sigmas if curve == "karras" else exponential_sigmas
    return make(float(levels[0]), float(levels[-1]), len(levels))
