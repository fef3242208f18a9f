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
from ..ir.op import Composite, Reduce, Sample, call, public
from ..types import TensorType, bool_, check_axes, float32, int64
from .define import as_value, define, randn, samples

Axis = int | Sequence[int] | None


def _keep(x: TensorType, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i in axes else d for i, d in enumerate(x.shape))


def _reduced_type(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    return x.with_shape(_keep(x, axes))


def _finish(value: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    if keepdims:
        return value
    return call("reshape", value, tuple(d for i, d in enumerate(value.shape) if i not in axes))


def _nonempty(name: str, x: Value, axes: tuple[int, ...]) -> None:
    if math.prod(x.shape[a] for a in axes) == 0:
        raise ShapeError(f"the reduction of {x.shape} over axes {axes} is over no elements", op=name)


def _drop_trivial(node: Node) -> Value | None:
    x = node.inputs[0]
    return x if math.prod(x.shape[a] for a in node.attrs["axes"]) == 1 else None


_axis_samples = samples(
    Sample((randn(3, 5, 4),)), Sample((randn(3, 5, 4),), {"axis": -1}), Sample((randn(3, 5, 4),), {"axis": (0, 1)}),
    Sample((randn(3, 5, 4),), {"axis": 1, "keepdims": True}),
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
def sum(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """The sum over the axes (all by default). Integers and bools are summed in int64."""
    x = as_value(x)
    x = x if x.dtype.is_float else call("cast", x, int64)
    axes = check_axes(axis, x.ndim)
    return _finish(make("sum", [x], axes=axes).out if axes else x, axes, keepdims)


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
def mean(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """The arithmetic mean over the axes (all by default). x: floating."""
    x = as_value(x)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}", op="mean")
    axes = check_axes(axis, x.ndim)
    return _finish(make("mean", [x], axes=axes).out if axes else x, axes, keepdims)


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
    _nonempty("max", x, axes)
    return _finish(make("max", [x], axes=axes).out if axes else x, axes, keepdims)


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
    _nonempty("min", x, axes)
    return _finish(make("min", [x], axes=axes).out if axes else x, axes, keepdims)


def _flag_type(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    return TensorType(_keep(x, axes), bool_)


def _index_type(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    return TensorType(_keep(x, axes), int64)


_flag_samples = samples(Sample((randn(4, 6) > 0,)), Sample((randn(4, 6) > -3,), {"axis": 1}))


@define("any", infer=_flag_type, lowering=Reduce("any"), samples=_flag_samples,
        ref=lambda x, *, axes: np.any(x, axis=axes, keepdims=True))
def any(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """True where some element over the axes is non-zero."""
    x = call("cast", as_value(x), bool_)
    axes = check_axes(axis, x.ndim)
    return _finish(make("any", [x], axes=axes).out if axes else x, axes, keepdims)


@define("all", infer=_flag_type, lowering=Reduce("all"), samples=_flag_samples,
        ref=lambda x, *, axes: np.all(x, axis=axes, keepdims=True))
def all(x: Value, axis: Axis = None, keepdims: bool = False) -> Value:
    """True where every element over the axes is non-zero."""
    x = call("cast", as_value(x), bool_)
    axes = check_axes(axis, x.ndim)
    return _finish(make("all", [x], axes=axes).out if axes else x, axes, keepdims)


def _arg_ref(find: Any) -> Any:
    return lambda x, *, axes: find(x, axis=axes[0], keepdims=True).astype(np.int64)


def _arg(name: str, x: Value, axis: int | None, keepdims: bool) -> Value:
    x = as_value(x)
    shape = x.shape
    if axis is None:
        x = call("reshape", x, (x.size,))
    axes = check_axes(axis if axis is not None else 0, x.ndim)
    _nonempty(name, x, axes)
    out = make(name, [x], axes=axes).out if x.ndim else call("full", (), 0, int64)
    if axis is None:
        return call("reshape", out, (1,) * len(shape) if keepdims else ())
    return _finish(out, axes, keepdims)


@define("argmax", infer=_index_type, lowering=Reduce("argmax"), ref=_arg_ref(np.argmax),
        samples=samples(Sample((randn(4, 6),)), Sample((randn(4, 6),), {"axis": 1})))
def argmax(x: Value, axis: int | None = None, keepdims: bool = False) -> Value:
    """int64 index of the first largest element (of the flattened tensor if axis is None). NaN counts as largest."""
    return _arg("argmax", x, axis, keepdims)


@define("argmin", infer=_index_type, lowering=Reduce("argmin"), ref=_arg_ref(np.argmin),
        samples=samples(Sample((randn(4, 6),)), Sample((randn(4, 6),), {"axis": 0})))
def argmin(x: Value, axis: int | None = None, keepdims: bool = False) -> Value:
    """int64 index of the first smallest element (of the flattened tensor if axis is None). NaN counts as smallest."""
    return _arg("argmin", x, axis, keepdims)


@public
def var(x: Value, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Value:
    """The variance over the axes, divided by n - correction; two passes (mean first), float32 for 16-bit floats."""
    x = as_value(x)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}", op="var")
    axes = check_axes(axis, x.ndim)
    n = math.prod(x.shape[a] for a in axes)
    wide = call("cast", x, x.dtype.compute)
    centred = call("sub", wide, mean(wide, axes, keepdims=True))
    divisor = n - correction
    scale = 1.0 / divisor if divisor > 0 else math.nan if n <= correction and n - correction == 0 else math.inf
    squares = sum(call("square", centred), axes, keepdims=True)
    return _finish(call("cast", call("mul", squares, scale), x.dtype), axes, keepdims)


@public
def std(x: Value, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Value:
    """The standard deviation: sqrt(var)."""
    return call("sqrt", var(x, axis, correction, keepdims))
