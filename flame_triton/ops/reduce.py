"""Reductions. The primitive node keeps the reduced axes with size 1; `keepdims=False` adds a reshape.

16-bit floats are accumulated in float32 and rounded once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Reduce, Sample, call
from ..types import DTypeLike, TensorType, bool_, check_axes, int64
from .define import as_value, composed, define, in_compute_type, randn, samples, wide

__all__ = ["all", "any", "argmax", "argmin", "max", "mean", "min", "norm", "prod", "std", "sum", "var"]

Axis = int | Sequence[int] | None


def kept_shape(x: TensorType, axes: tuple[int, ...]) -> tuple[int, ...]:
    """x's shape with the axes reduced to size 1."""
    return tuple(1 if i in axes else d for i, d in enumerate(x.shape))


def _reduced_type(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    return x.with_shape(kept_shape(x, axes))


def finish(value: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    """A reduced value as asked for: with its axes of size 1, or without them."""
    if keepdims:
        return value
    return call("reshape", value, tuple(d for i, d in enumerate(value.shape) if i not in axes))


def nonempty(x: Value, axes: tuple[int, ...]) -> None:
    """Raises ShapeError if there is nothing to reduce and no neutral element."""
    if math.prod(x.shape[a] for a in axes) == 0:
        raise ShapeError(f"the reduction of {x.shape} over axes {axes} is over no elements")


def _counted(x: Any, dtype: DTypeLike | None) -> Value:
    """x in dtype; by default integers and bools become int64."""
    x = as_value(x)
    return call("cast", x, dtype if dtype is not None else x.dtype if x.dtype.is_float else int64)


def _drop_trivial(node: Node) -> Value | None:
    x = node.inputs[0]
    return x if math.prod(x.shape[a] for a in node.attrs["axes"]) == 1 else None


_axis_samples = samples(
    Sample((randn(3, 5, 4),)),
    Sample((randn(3, 5, 4),), {"axis": -1}),
    Sample((randn(3, 5, 4),), {"axis": (0, 1)}),
    Sample((randn(3, 5, 4),), {"axis": 1, "keepdims": True}),
    Sample((randn(1, 17),), {"axis": (-2,)}),
    Sample((randn(),)),
)


@define(
    "sum",
    infer=_reduced_type,
    lowering=Reduce("sum"),
    ref=lambda x, *, axes: np.sum(x, axis=axes, keepdims=True, dtype=x.dtype),
    vjp=lambda node, g: [call("broadcast_to", g, node.inputs[0].shape)],
    simplify=_drop_trivial,
    samples=_axis_samples,
)
def sum(x: Value, axis: Axis = None, keepdims: bool = False, dtype: DTypeLike | None = None) -> Value:
    """The sum over the axes (all by default). Integers and bools are summed in int64. dtype: cast x to it first."""
    x = _counted(x, dtype)
    axes = check_axes(axis, x.ndim)
    return finish(make("sum", [x], axes=axes).out if axes else x, axes, keepdims)


def _mean_build(node: Node) -> Value:
    """sum / n, in float32 for 16-bit floats."""
    x, axes = node.inputs[0], node.attrs["axes"]
    n = math.prod(x.shape[a] for a in axes)
    total = call("sum", call("cast", x, x.dtype.compute), axis=axes, keepdims=True)
    return call("cast", call("mul", total, 1.0 / n) if n else call("mul", total, math.nan), x.dtype)


def _mean_vjp(node: Node, g: Value) -> list[Value | None]:
    x = node.inputs[0]
    n = math.prod(x.shape[a] for a in node.attrs["axes"])
    scaled = call("mul", call("cast", g, x.dtype.compute), 1.0 / n if n else math.nan)
    return [call("broadcast_to", call("cast", scaled, x.dtype), x.shape)]


@define(
    "mean",
    infer=_reduced_type,
    lowering=Composite(_mean_build),
    ref=lambda x, *, axes: np.mean(x, axis=axes, keepdims=True, dtype=x.dtype),
    vjp=_mean_vjp,
    samples=_axis_samples,
)
def mean(x: Value, axis: Axis = None, keepdims: bool = False, dtype: DTypeLike | None = None) -> Value:
    """The arithmetic mean over the axes (all by default). x: floating, or cast to dtype first."""
    x = as_value(x) if dtype is None else call("cast", as_value(x), dtype)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    axes = check_axes(axis, x.ndim)
    return finish(make("mean", [x], axes=axes).out if axes else x, axes, keepdims)


def _extreme_vjp(node: Node, g: Value) -> list[Value | None]:
    """Elements equal to the extreme share the cotangent equally."""
    x = node.inputs[0]
    wide = x.dtype.compute
    hit = call("cast", call("equal", x, call("broadcast_to", node.out, x.shape)), wide)
    count = call("sum", hit, axis=node.attrs["axes"], keepdims=True)
    share = call("div", call("cast", g, wide), count)
    return [call("cast", call("mul", hit, call("broadcast_to", share, x.shape)), x.dtype)]


@define(
    "max",
    infer=_reduced_type,
    lowering=Reduce("max"),
    ref=lambda x, *, axes: np.max(x, axis=axes, keepdims=True),
    vjp=_extreme_vjp,
    simplify=_drop_trivial,
    samples=_axis_samples,
    aliases=("amax",),
)
def max(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """The largest element over the axes; NaN if there is one. Ties share the gradient equally, as torch.amax."""
    x = as_value(x)
    axes = check_axes(axis, x.ndim)
    nonempty(x, axes)
    return finish(make("max", [x], axes=axes).out if axes else x, axes, keepdims)


@define(
    "min",
    infer=_reduced_type,
    lowering=Reduce("min"),
    ref=lambda x, *, axes: np.min(x, axis=axes, keepdims=True),
    vjp=_extreme_vjp,
    simplify=_drop_trivial,
    samples=_axis_samples,
    aliases=("amin",),
)
def min(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """The smallest element over the axes; NaN if there is one. Ties share the gradient equally, as torch.amin."""
    x = as_value(x)
    axes = check_axes(axis, x.ndim)
    nonempty(x, axes)
    return finish(make("min", [x], axes=axes).out if axes else x, axes, keepdims)


def _flag_type(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    return TensorType(kept_shape(x, axes), bool_)


def _index_type(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    return TensorType(kept_shape(x, axes), int64)


_flag_samples = samples(Sample((randn(4, 6) > 0,)), Sample((randn(4, 6) > -3,), {"axis": 1}))


@define(
    "any",
    infer=_flag_type,
    lowering=Reduce("any"),
    samples=_flag_samples,
    ref=lambda x, *, axes: np.any(x, axis=axes, keepdims=True),
)
def any(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """True where some element over the axes is non-zero."""
    x = call("cast", as_value(x), bool_)
    axes = check_axes(axis, x.ndim)
    return finish(make("any", [x], axes=axes).out if axes else x, axes, keepdims)


@define(
    "all",
    infer=_flag_type,
    lowering=Reduce("all"),
    samples=_flag_samples,
    ref=lambda x, *, axes: np.all(x, axis=axes, keepdims=True),
)
def all(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """True where every element over the axes is non-zero."""
    x = call("cast", as_value(x), bool_)
    axes = check_axes(axis, x.ndim)
    return finish(make("all", [x], axes=axes).out if axes else x, axes, keepdims)


def _arg_ref(find: Any) -> Any:
    return lambda x, *, axes: find(x, axis=axes[0], keepdims=True).astype(np.int64)


def _arg(name: str, x: Value, axis: int | None, keepdims: bool) -> Value:
    x = as_value(x)
    shape = x.shape
    if axis is None:
        x = call("reshape", x, (x.size,))
    axes = check_axes(axis if axis is not None else 0, x.ndim)
    nonempty(x, axes)
    out = make(name, [x], axes=axes).out if x.ndim else call("full", (), 0, int64)
    if axis is None:
        return call("reshape", out, (1,) * len(shape) if keepdims else ())
    return finish(out, axes, keepdims)


@define(
    "argmax",
    infer=_index_type,
    lowering=Reduce("argmax"),
    ref=_arg_ref(np.argmax),
    samples=samples(Sample((randn(4, 6),)), Sample((randn(4, 6),), {"axis": 1})),
)
def argmax(x: Value, axis: int | None = None, keepdims: bool = False) -> Value:
    """int64 index of the first largest element (of the flattened tensor if axis is None). NaN counts as largest."""
    return _arg("argmax", x, axis, keepdims)


@define(
    "argmin",
    infer=_index_type,
    lowering=Reduce("argmin"),
    ref=_arg_ref(np.argmin),
    samples=samples(Sample((randn(4, 6),)), Sample((randn(4, 6),), {"axis": 0})),
)
def argmin(x: Value, axis: int | None = None, keepdims: bool = False) -> Value:
    """int64 index of the first smallest element (of the flattened tensor if axis is None). NaN counts as smallest."""
    return _arg("argmin", x, axis, keepdims)


# ---- variance --------------------------------------------------------------------------------------------------

_spreads = samples(
    Sample((randn(3, 5, 4),)),
    Sample((randn(3, 5, 4),), {"axis": (0, -1), "correction": 1}),
    Sample((randn(3, 5),), {"axis": 1, "keepdims": True}),
)


def _variance(x: Value, axes: tuple[int, ...], correction: float) -> Value:
    """Two passes: the mean first. In the compute type, axes kept; x: floating."""
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    x = wide(x)
    divisor = math.prod(x.shape[a] for a in axes) - correction
    squares = sum(call("square", call("sub", x, mean(x, axes, keepdims=True))), axes, keepdims=True)
    return call("mul", squares, 1.0 / divisor if divisor > 0 else math.inf)


@composed(samples=_spreads)
def var(x: Value, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Value:
    """The variance over the axes (all by default): squared deviations summed, divided by n - correction."""
    x = as_value(x)
    axes = check_axes(axis, x.ndim)
    return finish(call("cast", _variance(x, axes, correction), x.dtype), axes, keepdims)


@composed(samples=_spreads)
def std(x: Value, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Value:
    """The standard deviation, sqrt(var); where it is 0, so is the gradient."""
    x = as_value(x)
    axes = check_axes(axis, x.ndim)
    v = _variance(x, axes, correction)
    flat = call("equal", v, 0.0)
    root = call("where", flat, 0.0, call("sqrt", call("where", flat, 1.0, v)))
    return finish(call("cast", root, x.dtype), axes, keepdims)


# ---- product ---------------------------------------------------------------------------------------------------


def _others(x: Value, g: Value) -> Value:
    """g times the product of all other elements of the row; x: [M, N], g: [M, 1]. Zeros are no special case.

    Halves are multiplied pairwise up to one element, and cotangents walk back down: 2 N products, no division.
    """
    n = x.shape[1]
    if n == 1:
        return g
    half = n // 2
    a, b, rest = call("split", x, (half, half, n - 2 * half), 1)
    down = _others(call("concat", [call("mul", a, b), rest], 1), g)
    pair, last = call("split", down, (half, n - 2 * half), 1)
    return call("concat", [call("mul", pair, b), call("mul", pair, a), last], 1)


def _prod_vjp(node: Node, g: Value) -> list[Value | None]:
    x, axes = wide(node.inputs[0]), node.attrs["axes"]
    if not x.size:
        return [call("full", x.shape, 0, node.inputs[0].dtype)]
    order = (*(a for a in range(x.ndim) if a not in axes), *axes)
    front = call("transpose", x, order)
    rows = _others(call("reshape", front, (g.size, x.size // g.size)), call("reshape", wide(g), (g.size, 1)))
    back = call("transpose", call("reshape", rows, front.shape), sorted(range(x.ndim), key=order.__getitem__))
    return [call("cast", back, node.inputs[0].dtype)]


@define(
    "prod",
    infer=_reduced_type,
    lowering=Reduce("prod"),
    ref=lambda x, *, axes: np.prod(x, axis=axes, keepdims=True, dtype=x.dtype),
    vjp=_prod_vjp,
    simplify=_drop_trivial,
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((randn(3, 5, 4),), {"axis": (0, -1)}),
        Sample((np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 1.5], [1.0, -1.0, 0.5]]),), {"axis": 1, "keepdims": True}),
        Sample((np.arange(1, 6),)),
    ),
)
def prod(x: Value, axis: Axis = None, keepdims: bool = False, dtype: DTypeLike | None = None) -> Value:
    """The product over the axes (all by default). Integers and bools are multiplied in int64. dtype: cast x first."""
    x = _counted(x, dtype)
    axes = check_axes(axis, x.ndim)
    return finish(make("prod", [x], axes=axes).out if axes else x, axes, keepdims)


# ---- norm ------------------------------------------------------------------------------------------------------


def _norm_type(x: TensorType, *, axes: tuple[int, ...], p: float) -> TensorType:
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    return _reduced_type(x, axes=axes)


def _norm_build(node: Node) -> Value:
    x, axes, p = wide(node.inputs[0]), node.attrs["axes"], node.attrs["p"]
    if p == 2:
        result = call("sqrt", sum(call("square", x), axes, keepdims=True))
    elif p == 0:
        result = sum(call("cast", call("not_equal", x, 0.0), x.dtype), axes, keepdims=True)
    elif math.isinf(p):
        result = (max if p > 0 else min)(call("abs", x), axes, keepdims=True)
    else:
        result = sum(call("pow", call("abs", x), p), axes, keepdims=True)
        result = result if p == 1 else call("pow", result, 1 / p)
    return call("cast", result, node.type.dtype)


def _norm_ref(x: np.ndarray, *, axes: tuple[int, ...], p: float) -> np.ndarray:
    a = np.abs(x)
    if p == 0:
        return np.sum(a != 0, axes, keepdims=True).astype(x.dtype)
    if math.isinf(p):
        return (np.max if p > 0 else np.min)(a, axes, keepdims=True)
    return np.sum(a**p, axes, keepdims=True) ** (1 / p)


def _norm_rule(g: Value, y: Value, x: Value, axes: tuple[int, ...], p: float) -> Value:
    """sign(x) (|x| / y)^(p - 1) g, zero where x = 0 or y = 0; p = inf: the largest share g equally."""
    if p == 0:
        return call("full", x.shape, 0, x.dtype)
    if p == 1:
        return call("mul", call("sign", x), g)
    if math.isinf(p):
        hit = call("cast", call("equal", call("abs", x), y), x.dtype)
        share = call("div", g, sum(hit, axes, keepdims=True))
        return call("mul", call("mul", call("sign", x), hit), share)
    zero = call("equal", y, 0.0)
    y = call("where", zero, 1.0, y)
    g = call("where", zero, 0.0, g)
    if p == 2:
        return call("mul", x, call("div", g, y))
    power = call("pow", call("div", call("abs", x), y), p - 1)
    if p < 1:
        power = call("where", call("equal", x, 0.0), 0.0, power)
    return call("mul", call("mul", call("sign", x), power), g)


@define(
    "norm",
    infer=_norm_type,
    lowering=Composite(_norm_build),
    ref=_norm_ref,
    vjp=in_compute_type(_norm_rule),
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((randn(3, 5, 4),), {"p": 1, "axis": (0, -1)}),
        Sample((randn(3, 5),), {"p": math.inf, "axis": 1, "keepdims": True}),
        Sample((randn(3, 5),), {"p": -math.inf, "axis": 0}),
        Sample((randn(3, 5),), {"p": 3.5, "axis": -1}),
        Sample((randn(3, 5),), {"p": 0, "axis": -1}),
    ),
)
def norm(x: Value, p: float = 2.0, axis: Axis = None, keepdims: bool = False) -> Value:
    """(sum |x|^p)^(1/p) over the axes (all by default), a vector norm whatever the axes.

    p = inf: the largest |x|; -inf: the least; 0: how many are not 0. The gradient is 0 where the norm is.
    """
    x = as_value(x)
    axes = check_axes(axis, x.ndim)
    if math.isinf(p):
        nonempty(x, axes)
    return finish(make("norm", [x], axes=axes, p=float(p)).out, axes, keepdims)
