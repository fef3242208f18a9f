"""Gradients against central differences in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import ArgumentError
from ..graph.autodiff import grad
from ..graph.evaluate import evaluate
from ..ir.node import Value
from ..ops.define import randn
from ..ops.leaf import input as placeholder
from ..types import float64
from .cases import flatten
from .compare import assert_close, rms

Run: TypeAlias = Callable[[Sequence[Value], Mapping[Value, np.ndarray]], Sequence[Any]]
"""Computes Values from arrays for their inputs: how `check_grads` reaches an executor."""

EPS = 1e-6
"""The step of central differences in float64, where truncation and rounding error are both about 1e-10."""

GRADIENT_TOLERANCE = 1e-6
"""How far a gradient may lie from central differences, relative to the larger of its RMS and 1."""

ELEMENTWISE = 40
"""Up to this many elements, all inputs together, every element is checked; beyond, one random direction alone."""


def in_float64(outputs: Sequence[Value], feeds: Mapping[Value, np.ndarray]) -> Sequence[Any]:
    """The oracle: the references of the ops, in double precision."""
    return evaluate(list(outputs), feeds)


def check_grads(
    fn: Callable[..., Any],
    *shapes_or_arrays: Any,
    order: int = 1,
    run: Run = in_float64,
    eps: float = EPS,
    tolerance: float = GRADIENT_TOLERANCE,
    seed: int = 0,
) -> None:
    """Raises AssertionError unless the gradients of fn agree with central differences in float64.

    fn: from Values to a Value or a nest of them; its floating outputs are checked. shapes_or_arrays: a tuple of ints is
    a shape (filled with normal numbers), anything else an array; floating ones become float64 inputs and are
    differentiated, the others are passed on as they are. order: 2 checks the gradient of the gradient as well.
    run: what computes the values, both the gradient's and the differences'.

    Every output is projected on one random cotangent; the gradient is compared along one random direction and, if there
    are at most ELEMENTWISE elements, element by element.
    """
    if order not in (1, 2):
        raise ArgumentError(f"order must be 1 or 2, got {order}", op="check_grads")
    rng = np.random.default_rng(seed)
    arrays = [_array(x, seed=i) for i, x in enumerate(shapes_or_arrays)]
    inputs = [placeholder(a.shape, float64 if a.dtype.kind == "f" else a.dtype) for a in arrays]
    outputs = [v for v in flatten(fn(*inputs)) if v.dtype.is_float]
    wrt = [v for v in inputs if v.dtype.is_float]
    if not outputs or not wrt:
        raise ArgumentError("fn has no floating input, or no floating output, to differentiate", op="check_grads")
    cotangents = [placeholder(v.shape, v.dtype.gradient) for v in outputs]
    feeds = dict(zip(inputs, arrays, strict=True))
    feeds |= {c: rng.standard_normal(c.shape) for c in cotangents}
    gradients = grad(outputs, wrt, grad_output=cotangents)
    _compare(outputs, cotangents, wrt, gradients, feeds, run, eps, tolerance, rng, "gradient")
    if order == 2:
        again = [placeholder(v.shape, v.dtype) for v in gradients]
        feeds |= {c: rng.standard_normal(c.shape) for c in again}
        both = [*wrt, *cotangents]
        second = grad(gradients, both, grad_output=again, allow_unused=True)
        _compare(gradients, again, both, second, feeds, run, eps, tolerance, rng, "second gradient")


def _array(x: Any, seed: int) -> np.ndarray:
    if isinstance(x, tuple) and all(isinstance(d, int) for d in x):
        return randn(*x, seed=seed)
    data = np.asarray(x)
    return data.astype(np.float64) if data.dtype.kind == "f" else data


def _compare(
    outputs: Sequence[Value],
    cotangents: Sequence[Value],
    wrt: Sequence[Value],
    gradients: Sequence[Value],
    feeds: Mapping[Value, np.ndarray],
    run: Run,
    eps: float,
    tolerance: float,
    rng: np.random.Generator,
    what: str,
) -> None:
    """Gradients of <outputs, cotangents> against differences of it."""
    weights = [feeds[c] for c in cotangents]

    def difference(direction: Sequence[np.ndarray]) -> float:
        """The derivative along a direction in the space of `wrt`."""
        total = 0.0
        for sign in (1, -1):
            moved = {v: feeds[v] + sign * eps * d for v, d in zip(wrt, direction, strict=True)}
            values = run(outputs, {**feeds, **moved})
            total += sign * sum(float(np.sum(np.asarray(a) * w)) for a, w in zip(values, weights, strict=True))
        return total / (2 * eps)

    exact = [np.asarray(g, np.float64) for g in run(gradients, feeds)]
    floor = max(1.0, *(rms(g) for g in exact))
    direction = [rng.standard_normal(v.shape) for v in wrt]
    along = sum(float(np.sum(g * d)) for g, d in zip(exact, direction, strict=True))
    names = f"{what} along a random direction"
    assert_close(along, difference(direction), float64, tolerance=tolerance, floor=floor, what=names)
    if sum(v.size for v in wrt) > ELEMENTWISE:
        return
    for i, (v, g) in enumerate(zip(wrt, exact, strict=True)):
        numeric = np.empty(v.shape)
        for at in np.ndindex(v.shape):
            unit = [np.zeros(u.shape) for u in wrt]
            unit[i][at] = 1.0
            numeric[at] = difference(unit)
        assert_close(g, numeric, float64, tolerance=tolerance, floor=floor, what=f"{what} of input {i}")
