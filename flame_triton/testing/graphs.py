"""Random graphs over the whole registry, forward and backward.

Half of the moves call a public function that has samples: a sample gives the arguments, and its floating arrays are
replaced by values of the graph, of their own shape where the function takes it, else fitted to the sample's shape, and
squashed into the sample's own range, so that a logarithm stays defined and numbers stay tame. The other half are moves
with random axes and shapes: views, reductions, joins, products.

Every move is tried on numbers first: what is not finite, or too large, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from ..errors import FlameError
from ..graph.autodiff import grad
from ..graph.decompose import decompose
from ..graph.evaluate import evaluate
from ..ir.graph import Graph
from ..ir.node import Node, Value
from ..ir.op import call
from ..types import DTypeLike, bfloat16, float16, float32, float64
from .cases import Case, cases

MAX_SIZE = 3000  # elements of one value
TURNS = 3  # functions between the first one of a seed and that of the next, so that 3 moves a graph miss none
NUDGE = 1e-12  # of an operand, in relation to it
LARGE = 4.0  # a value beyond this is squashed
INEXACT = {"foreach_sum", "searchsorted", "bucketize"}
"""Left out: a sum in parts; searches, whose rows must be sorted."""


@dataclass
class RandomGraph:
    """A graph, its gradients among the outputs, arrays for its inputs, and the functions that were called."""

    graph: Graph
    feeds: dict[Value, np.ndarray]
    called: list[str] = field(default_factory=list[str])


@cache
def by_function() -> dict[str, list[Case]]:
    """The cases that random graphs are made of: those of every function with a floating operand of some size that does
    not round to float32 on its way."""
    table: dict[str, list[Case]] = {}
    for case in cases():
        floats = [a for a in case.arrays if a.dtype.kind == "f"]
        tame = case.name not in INEXACT and floats and all(0 < a.size <= MAX_SIZE for a in case.arrays)
        if tame and not any(map(_narrows, decompose(case.graph()).nodes)):
            table.setdefault(case.name, []).append(case)
    return table


def _narrows(node: Node) -> bool:
    """True for a cast of float64 to another floating type, and for normal numbers, which a GPU has in float32 and about
    right."""
    if node.op.name == "random_normal":
        return True
    return node.type.dtype in (float32, float16, bfloat16) and any(v.dtype is float64 for v in node.inputs)


class _Builder:
    def __init__(self, seed: int, dtype: DTypeLike, whole: bool) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        shapes = [tuple(int(d) for d in self.rng.integers(1, 7, self.rng.integers(1, 4))) for _ in range(3)]
        self.inputs = [call("input", s, dtype, name=f"x{i}") for i, s in enumerate(shapes)]
        self.pool = list(self.inputs)
        self.feeds = {v: self.rng.standard_normal(v.shape) for v in self.inputs}
        self.numbers = dict(self.feeds)
        self.called: list[str] = []
        table = by_function() if whole else {}
        names = [str(n) for n in np.random.default_rng(0).permutation(sorted(table))]
        self.table, self.names, self.turn = table, names, seed * TURNS

    def pick(self) -> Value:
        return self.pool[int(self.rng.integers(0, len(self.pool)))]

    def move(self, number: int) -> None:
        """One more value, if the move that chance takes can be made; every other one calls the next function."""
        if self.names and number % 2 == 0:
            name = self.names[self.turn % len(self.names)]
            self.turn += 1
            case = self.table[name][int(self.rng.integers(0, len(self.table[name])))]
            self._call(case)
            return
        index = int(self.rng.choice(len(_MOVES), p=[0.2, 0.25, 0.25, 0.15, 0.1, 0.05]))
        x, y = self.pick(), self.pick()
        self._try([x, y], lambda a, b: [_MOVES[index](self.fork, a, b)], "")

    def _call(self, case: Case) -> None:
        """Call the function of a sample on values of the graph."""
        arrays = case.arrays
        sources = [self.pick() for _ in arrays]
        whole = all(a.dtype.kind == "f" and a.shape == arrays[0].shape for a in arrays)
        shape = sources[0].shape
        for direct in (True, False):
            if direct and not (whole and shape and self.rng.random() < 0.7):
                continue
            if self._try(sources, lambda *v, direct=direct: self._apply(case, v, shape if direct else None), case.name):
                return

    def _apply(self, case: Case, values: Sequence[Value], shape: tuple[int, ...] | None) -> list[Value]:
        operands: list[Any] = []
        for i, (a, v) in enumerate(zip(case.arrays, values, strict=True)):
            if a.dtype.kind != "f":
                operands.append(call("constant", a))
                continue
            fitted = _squashed(_fitted(v, a.shape if shape is None else shape), a)
            operands.append(fitted if i in case.wrt else call("stop_gradient", fitted))
        results = case.call(*operands)
        return [v if v.dtype.is_float else call("cast", v, self.dtype) for v in results if isinstance(v, Value)]

    def _try(self, sources: Sequence[Value], make: Callable[..., list[Value]], name: str) -> bool:
        """Make the move on numbers; and on the graph, if they are good. True if it is made."""
        stand_ins = [call("input", v.shape, v.dtype) for v in sources]
        self.fork = np.random.default_rng(int(self.rng.integers(1 << 30)))
        start = self.fork.bit_generator.state
        try:
            results = make(*stand_ins)
            feeds = dict(zip(stand_ins, (self.numbers[v] for v in sources), strict=True))
            found = _steady(results, feeds)
        except (FlameError, ValueError, IndexError):
            return False  # the function does not take these shapes; internal ones trust their callers and do not say so
        if not found:
            return False
        self.fork.bit_generator.state = start
        for v, a in zip(make(*sources), found, strict=True):
            size = float(np.abs(a).max())
            if v in self.numbers:
                continue
            v, a = call("cast", v, self.dtype), a
            if size > LARGE:
                v, a = _bounded(v * (2.0 / size)), _bounded(a * (2.0 / size))
            self.pool.append(v)
            self.numbers[v] = a
        if name:
            self.called.append(name)
        return True

    def finish(self, derivative: bool) -> RandomGraph:
        """The values that nothing reads, and the gradient of a sum over them."""
        read = {v for w in self.pool for v in Graph((), (w,)).consumers() if v is not w}
        last = [v for v in self.pool if v not in read and v not in self.inputs] or [self.pool[-1]]
        total = call("full", (), 0.0, self.dtype)
        for v in last:
            weights = np.cos(np.arange(v.size)).reshape(v.shape)
            total = total + call("sum", _bounded(v) * call("constant", weights, self.dtype))
        for v in self.inputs:
            total = total + call("sum", v) * 0.1
        outputs = [*last, total, *(grad(total, self.inputs) if derivative else ())]
        return RandomGraph(Graph(tuple(self.inputs), tuple(outputs)), self.feeds, self.called)


def random_graph(
    seed: int, dtype: DTypeLike = "float64", size: int = 14, *, derivative: bool = True, whole: bool = True
) -> RandomGraph:
    """A graph of about `size` moves from three inputs. The first moves do not depend on how many follow.

    derivative: the gradients of the inputs are outputs too. whole: calls of the whole registry; else only smooth
    arithmetic, views, reductions and products, whose results do not jump where float32 rounds.
    """
    builder = _Builder(seed, dtype, whole)
    for number in range(size):
        builder.move(number)
    return builder.finish(derivative)


def _steady(results: Sequence[Value], feeds: dict[Value, np.ndarray]) -> list[np.ndarray]:
    """The results in float64; none if they or their gradients are not finite, too many or too large, or jump when the
    operands move by about a rounding error: there the order of a sum decides, and nobody is right."""
    if not all(0 < v.size <= MAX_SIZE for v in results):
        return []
    floats = [v for v in results if v.dtype.is_float]
    wrt = [v for v in dict.fromkeys(feeds) if v.dtype.is_float]
    seeds = [call("constant", np.cos(np.arange(v.size)).reshape(v.shape), v.dtype) for v in floats]
    gradients = grad(floats, wrt, grad_output=seeds, allow_unused=True) if floats else []
    rng = np.random.default_rng(0)
    moved = {v: a * (1 + NUDGE * rng.standard_normal(a.shape)) for v, a in feeds.items()}
    here, there = (evaluate([*results, *gradients], at) for at in (feeds, moved))
    for a, b in zip(here, there, strict=True):
        size = float(np.abs(a, dtype=np.float64).max(initial=0))
        if not np.isfinite(a).all() or size > 1e6 or np.abs(np.subtract(a, b, dtype=np.float64)).max() > 1e-6 * size:
            return []
    return [np.asarray(a, np.float64) for a in here[: len(results)]]


# ---- fitting values to samples ---------------------------------------------------------------------------------


def _fitted(x: Value, shape: tuple[int, ...]) -> Value:
    """The elements of x in order, from the start again and smaller when they are used up, in the given shape.

    Smaller, because the variance of equal elements is rounding error.
    """
    if x.shape == shape:
        return x
    count = math.prod(shape)
    flat = call("reshape", x, (x.size,))
    if x.size < count:
        times = -(-count // x.size)
        scale = call("constant", np.linspace(1.0, 0.5, times)[:, None], x.dtype)
        flat = call("reshape", call("broadcast_to", flat, (times, x.size)) * scale, (times * x.size,))
    return call("reshape", flat[:count] if flat.size > count else flat, shape)


def _squashed(x: Value, like: np.ndarray) -> Value:
    """x between the ends of a sample's range, well inside."""
    finite = like[np.isfinite(like)]
    if not finite.size:
        return x
    low, high = float(finite.min()), float(finite.max())
    width = high - low if high > low else max(abs(low), 1.0) * 0.2
    return _bounded(x) * (0.8 * width) + (low + 0.5 * width)


def _bounded(x: Any) -> Any:
    """Between -1/2 and 1/2, smooth, and cheap in the interpreter, where a tanh takes longer than all else."""
    return x / (x * x + 1.0)


# ---- moves with random axes and shapes -------------------------------------------------------------------------


def _unary(rng: np.random.Generator, x: Value, _: Value) -> Value:
    name = rng.choice(
        ["tanh", "sigmoid", "square", "neg", "sin", "stop_gradient"], p=[0.25, 0.2, 0.2, 0.15, 0.15, 0.05]
    )
    return call(str(name), x)


def _view(rng: np.random.Generator, x: Value, _: Value) -> Value:
    kind = rng.integers(0, 6)
    if kind == 0 and x.ndim > 1:
        return call("transpose", x, tuple(int(a) for a in rng.permutation(x.ndim)))
    if kind == 1 and x.size > 1:
        rows = int(rng.choice([d for d in range(1, x.size + 1) if x.size % d == 0]))
        return call("reshape", x, (rows, x.size // rows))
    if kind == 2 and x.ndim:
        axis = int(rng.integers(0, x.ndim))
        start = int(rng.integers(0, x.shape[axis]))
        key: list[Any] = [slice(None)] * x.ndim
        key[axis] = slice(start, None, int(rng.integers(1, 3)))
        return x[tuple(key)]
    if kind == 3 and x.ndim:
        return call("flip", x, int(rng.integers(0, x.ndim)))
    if kind == 4 and x.ndim:
        widths = [(int(rng.integers(0, 3)), int(rng.integers(0, 3))) for _ in x.shape]
        return call("pad", x, widths, float(rng.integers(-1, 2)))
    return call("broadcast_to", x, (3, *x.shape))


def _binary(rng: np.random.Generator, x: Value, y: Value) -> Value:
    if y.shape != x.shape:
        y = call("sum", y) if rng.random() < 0.5 else call("mean", y)
    if rng.random() < 0.2:
        return call("where", call("greater", x, y), x, call("mul", y, 0.5))
    return call(str(rng.choice(["add", "sub", "mul"])), x, y)


def _reduce(rng: np.random.Generator, x: Value, _: Value) -> Value:
    if not x.ndim:
        return call("square", x)
    count = int(rng.integers(1, x.ndim + 1))
    axes = tuple(int(a) for a in rng.choice(x.ndim, count, replace=False))
    out = call(str(rng.choice(["sum", "mean", "max"])), x, axis=axes, keepdims=True)
    return call("mul", x, call("broadcast_to", out, x.shape)) if rng.random() < 0.5 else out


def _product(rng: np.random.Generator, x: Value, _: Value) -> Value:
    other = call("swapaxes", x, -1, -2)
    return call("mul", call("matmul", x, other), 1.0 / x.shape[-1])


def _join(rng: np.random.Generator, x: Value, _: Value) -> Value:
    return call("concat", [x, call("neg", x)], int(rng.integers(0, x.ndim))) if x.ndim else call("stack", [x, x])


_MOVES = (_unary, _view, _binary, _reduce, _product, _join)
