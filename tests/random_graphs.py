"""Random graphs over views, arithmetic, reductions and matrix products, forward and backward, for property tests."""

from __future__ import annotations

import math

import numpy as np

from flame_triton.graph.autodiff import grad
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import Value
from flame_triton.ir.op import call

MAX_SIZE = 3000  # elements of one value


def _unary(rng: np.random.Generator, x: Value) -> Value:
    name = rng.choice(
        ["tanh", "sigmoid", "square", "neg", "sin", "stop_gradient"], p=[0.25, 0.2, 0.2, 0.15, 0.15, 0.05]
    )
    return call(str(name), x)


def _view(rng: np.random.Generator, x: Value) -> Value:
    kind = rng.integers(0, 6)
    if kind == 0 and x.ndim > 1:
        return call("transpose", x, tuple(int(a) for a in rng.permutation(x.ndim)))
    if kind == 1 and x.size > 1:
        divisors = [d for d in range(1, x.size + 1) if x.size % d == 0]
        rows = int(rng.choice(divisors))
        return call("reshape", x, (rows, x.size // rows))
    if kind == 2 and x.ndim:
        axis = int(rng.integers(0, x.ndim))
        start = int(rng.integers(0, x.shape[axis]))
        key = [np.s_[:]] * x.ndim
        key[axis] = np.s_[start :: int(rng.integers(1, 3))]
        return x[tuple(key)]
    if kind == 3 and x.ndim:
        return call("flip", x, int(rng.integers(0, x.ndim)))
    if kind == 4 and x.ndim and x.size < MAX_SIZE // 4:
        widths = [(int(rng.integers(0, 3)), int(rng.integers(0, 3))) for _ in x.shape]
        grown = math.prod(d + a + b for d, (a, b) in zip(x.shape, widths, strict=True))
        return call("pad", x, widths, float(rng.integers(-1, 2))) if grown < MAX_SIZE else x
    if x.size * 3 < MAX_SIZE:
        return call("broadcast_to", x, (3, *x.shape))
    return x


def _binary(rng: np.random.Generator, x: Value, y: Value) -> Value:
    if y.shape != x.shape:
        y = call("sum", y) if rng.random() < 0.5 else call("mean", y)
    if rng.random() < 0.2:
        return call("where", call("greater", x, y), x, call("mul", y, 0.5))
    return call(str(rng.choice(["add", "sub", "mul"])), x, y)


def _reduce(rng: np.random.Generator, x: Value) -> Value:
    if not x.ndim:
        return x
    count = int(rng.integers(1, x.ndim + 1))
    axes = tuple(int(a) for a in rng.choice(x.ndim, count, replace=False))
    out = call(str(rng.choice(["sum", "mean", "max"])), x, axis=axes, keepdims=True)
    return call("mul", x, call("broadcast_to", out, x.shape)) if rng.random() < 0.5 else out


def _matmul(rng: np.random.Generator, x: Value) -> Value:
    if x.ndim < 2:
        return x
    other = call("swapaxes", x, -1, -2)
    if math.prod(x.shape[:-2]) * x.shape[-2] ** 2 > MAX_SIZE:
        return x
    return call("mul", call("matmul", x, other), 1.0 / x.shape[-1])


def random_graph(seed: int, dtype: str = "float32", size: int = 14, derivative: bool = True) -> tuple[Graph, dict]:
    """A graph of about `size` user-level calls with three inputs, its gradients among the outputs, and feeds."""
    rng = np.random.default_rng(seed)
    shapes = [tuple(int(d) for d in rng.integers(1, 7, rng.integers(1, 4))) for _ in range(3)]
    inputs = [call("input", s, dtype, name=f"x{i}") for i, s in enumerate(shapes)]
    pool = list(inputs)
    for _ in range(size):
        x = pool[int(rng.integers(0, len(pool)))]
        choice = rng.random()
        if choice < 0.2:
            y = _unary(rng, x)
        elif choice < 0.45:
            y = _view(rng, x)
        elif choice < 0.7:
            y = _binary(rng, x, pool[int(rng.integers(0, len(pool)))])
        elif choice < 0.85:
            y = _reduce(rng, x)
        elif choice < 0.95:
            y = _matmul(rng, x)
        elif x.ndim:
            y = call("concat", [x, call("neg", x)], int(rng.integers(0, x.ndim)))
        else:
            y = x
        if 0 < y.size <= MAX_SIZE:
            pool.append(call("tanh", y) if rng.random() < 0.3 else y)
    last = pool[-1]
    total = call("sum", call("tanh", last))
    for v in inputs:
        total = call("add", total, call("mul", call("sum", v), 0.1))
    outputs = [last, total]
    if derivative:
        outputs += grad(total, inputs)
    feeds = {v: rng.standard_normal(v.shape) for v in inputs}
    return Graph(tuple(inputs), tuple(outputs)), feeds
