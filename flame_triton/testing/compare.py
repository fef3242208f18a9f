"""When two arrays agree: relative RMS error against one table of tolerances."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..types import (
    DType,
    DTypeLike,
    bfloat16,
    float8_e4m3fn,
    float8_e5m2,
    float16,
    float32,
    float64,
)
from ..types import dtype as as_dtype

TOLERANCE: dict[DType, float] = {
    float64: 1e-9, float32: 1e-5, float16: 2e-3, bfloat16: 1e-2, float8_e4m3fn: 1 / 16, float8_e5m2: 1 / 8,
}  # fmt: skip
"""Relative RMS error that a result of this dtype may have against float64 on the same inputs. Never scaled by size."""


def rms(x: np.ndarray) -> float:
    """The root mean square of the elements; 0 if there are none."""
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64))))) if np.size(x) else 0.0


def assert_close(
    actual: Any,
    reference: Any,
    dtype: DTypeLike | None = None,
    *,
    tolerance: float | None = None,
    floor: float = 0.0,
    what: str = "",
) -> None:
    """Raises AssertionError unless actual is the reference to within relative RMS error.

    rms(actual - reference) <= tolerance * max(rms(reference), floor). Shapes must be equal, NaN and infinities stand
    in the same places, integers and bools agree exactly. dtype: whose TOLERANCE applies, default that of `actual`.
    floor: the size of what cancelled, where the reference is (nearly) zero. what: begins the message.
    """
    a, r = np.asarray(actual), np.asarray(reference)
    label = f"{what}: " if what else ""
    if a.shape != r.shape:
        raise AssertionError(f"{label}shape {a.shape}, expected {r.shape}")
    chosen = as_dtype(dtype) if dtype is not None else as_dtype(a.dtype)
    if not chosen.is_float:
        _assert_equal(a, r, label)
        return
    a, r = a.astype(np.float64), r.astype(np.float64)
    for test, kind in ((np.isnan, "NaN"), (np.isposinf, "inf"), (np.isneginf, "-inf")):
        wrong = test(a) != test(r)
        if wrong.any():
            at = _place(np.argmax(wrong), a.shape)
            raise AssertionError(f"{label}{wrong.sum()} of {a.size} elements differ in {kind}; {_show(a, r, at)}")
    finite = np.isfinite(r)
    error = np.where(finite, np.abs(np.where(finite, a, 0) - np.where(finite, r, 0)), 0)
    limit = TOLERANCE[chosen] if tolerance is None else tolerance
    scale = max(rms(r[finite]), floor)
    if rms(error[finite]) > limit * scale:
        relative = rms(error[finite]) / scale if scale else float("inf")
        at = _place(np.argmax(error), a.shape)
        raise AssertionError(
            f"{label}relative RMS error {relative:.3g} in {chosen}, at most {limit:g}; worst {_show(a, r, at)}"
        )


def _assert_equal(a: np.ndarray, r: np.ndarray, label: str) -> None:
    wrong = a != r
    if wrong.any():
        at = _place(np.argmax(wrong), a.shape)
        raise AssertionError(f"{label}{wrong.sum()} of {a.size} elements differ; {_show(a, r, at)}")


def _place(flat: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(flat), shape))


def _show(a: np.ndarray, r: np.ndarray, at: tuple[int, ...]) -> str:
    return f"at {at}: {a[at]!r}, expected {r[at]!r}"
