"""Gradient checks, the tolerance table and the registry's samples: for tests of this package and of user-made ops.

ft.testing.check_grads(lambda x, w: ft.tanh(x @ w), (3, 4), (4, 5), order=2)
ft.testing.assert_close(actual, reference, "bfloat16")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .errors import ArgumentError
from .graph.autodiff import grad
from .graph.evaluate import evaluate
from .ir.graph import Graph
from .ir.node import Value
from .ir.op import Sample
from .ops.define import SAMPLED, randn
from .ops.leaf import input as placeholder
from .types import DType, DTypeLike, bfloat16, float16, float32, float64
from .types import dtype as as_dtype

Run: TypeAlias = Callable[[Sequence[Value], Mapping[Value, np.ndarray]], Sequence[Any]]
"""Computes Values from arrays for their inputs: how `check_grads` reaches an executor."""

TOLERANCE: dict[DType, float] = {float64: 1e-9, float32: 1e-5, float16: 2e-3, bfloat16: 1e-2}
"""Relative RMS error that a result of this dtype may have against float64 on the same inputs. Never scaled by size."""

EPS = 1e-6
"""The step of central differences in float64, where truncation and rounding error are both about 1e-10."""

GRADIENT_TOLERANCE = 1e-6
"""How far a gradient may lie from central differences, relative to the larger of its RMS and 1."""

ELEMENTWISE = 40
"""Up to this many elements, all inputs together, every element is checked; beyond, one random direction alone."""


# ---- comparing -------------------------------------------------------------------------------------------------


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


# ---- gradients -------------------------------------------------------------------------------------------------


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
    cotangents = [placeholder(v.shape, v.dtype) for v in outputs]
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


# ---- the registry's samples ------------------------------------------------------------------------------------


def flatten(nest: Any) -> list[Any]:
    """The leaves of nested lists and tuples, in order."""
    if isinstance(nest, list | tuple):
        return [leaf for part in nest for leaf in flatten(part)]
    return [nest]


@dataclass(frozen=True)
class Case:
    """One sample call of a public function: what tests driven by the registry run."""

    name: str
    number: int
    function: Callable[..., Any]
    sample: Sample

    def __str__(self) -> str:
        return f"{self.name}-{self.number}"

    @property
    def arrays(self) -> list[np.ndarray]:
        """The arrays among the arguments, nested and keyword ones included, in order."""
        return [x for x in flatten([*self.sample.args, *self.sample.kwargs.values()]) if isinstance(x, np.ndarray)]

    @property
    def wrt(self) -> list[int]:
        """Which of `arrays` are to be differentiated."""
        chosen: list[int] = []
        count = 0
        for position, part in enumerate([*self.sample.args, *self.sample.kwargs.values()]):
            for x in flatten(part):
                if isinstance(x, np.ndarray):
                    wanted = self.sample.grad is None or position in self.sample.grad
                    if wanted and x.dtype.kind == "f":
                        chosen.append(count)
                    count += 1
        return chosen

    def arguments(self, replacements: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The sample's args and kwargs with its arrays replaced, in order."""
        left = iter(replacements)

        def place(x: Any) -> Any:
            if isinstance(x, np.ndarray):
                return next(left)
            return type(x)(place(part) for part in x) if isinstance(x, list | tuple) else x

        return [place(x) for x in self.sample.args], {k: place(x) for k, x in self.sample.kwargs.items()}

    def call(self, *values: Any) -> list[Value]:
        """The function on Values instead of the arrays; its results in a flat list."""
        args, kwargs = self.arguments(values)
        return flatten(self.function(*args, **kwargs))

    def inputs(self, dtype: DTypeLike = float64) -> list[Value]:
        """Placeholders for the arrays; floating ones of `dtype`."""
        return [placeholder(a.shape, dtype if a.dtype.kind == "f" else a.dtype) for a in self.arrays]

    def graph(self, dtype: DTypeLike = float64) -> Graph:
        """The sample as a graph."""
        inputs = self.inputs(dtype)
        return Graph(tuple(inputs), tuple(self.call(*inputs)))


def cases() -> Iterator[Case]:
    """Every sample of every public function, in order of name."""
    for name, entry in sorted(SAMPLED.items()):
        for number, sample in enumerate(entry.samples()):
            yield Case(name, number, entry.function, sample)
