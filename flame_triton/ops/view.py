"""Views: the same elements in another shape or order. No arithmetic, no copy; each is an index map over its operand.

The gradient of a view is another view (or, for broadcasting, a sum): reshape <-> reshape, transpose <-> its inverse,
slice <-> pad (which is in padding.py), broadcast_to <-> sum.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.index_map import IndexMap
from ..ir.node import Node, Value, make
from ..ir.op import Sample, View, call
from ..types import TensorType, broadcast_shapes, check_axes, check_axis, check_dimension, check_shape
from .define import as_value, composed, define, randn, samples

# fmt: off
__all__ = [
    "broadcast_to", "expand_dims", "flatten", "flip", "narrow", "reshape", "slice", "squeeze", "swapaxes",
    "transpose",
]
# fmt: on


def _dense(node: Node) -> IndexMap:
    return IndexMap.dense(node.inputs[0].shape)


# ---- reshape ---------------------------------------------------------------------------------------------------


def _reshape_type(x: TensorType, *, shape: tuple[int, ...]) -> TensorType:
    if math.prod(shape) != x.size:
        raise ShapeError(f"cannot reshape {x.shape} ({x.size} elements) to {shape} ({math.prod(shape)} elements)")
    return x.with_shape(shape)


def _reshape_simplify(node: Node) -> Value | None:
    source = node.inputs[0]
    if source.shape == node.type.shape:
        return source
    if source.node.op.name == "reshape":
        return reshape(source.node.inputs[0], node.type.shape)
    if source.node.op.name == "full":
        return call("full", node.type.shape, source.node.attrs["value"], source.dtype)
    return None


@define(
    "reshape",
    infer=_reshape_type,
    lowering=View(lambda node: _dense(node).reshape(node.type.shape), "reshape"),
    ref=lambda x, *, shape: x.reshape(shape),
    vjp=lambda node, g: [call("reshape", g, node.inputs[0].shape)],
    simplify=_reshape_simplify,
    samples=samples(Sample((randn(4, 6), (2, -1, 3))), Sample((randn(5), (5, 1))), Sample((randn(1), ()))),
)
def reshape(x: Value, shape: Sequence[int] | int) -> Value:
    """x's elements, in row-major order, in another shape; one size may be -1 (inferred)."""
    x = as_value(x)
    dims = [shape] if isinstance(shape, int) else list(shape)
    if dims.count(-1) > 1:
        raise ShapeError(f"only one size may be -1, got {tuple(dims)}")
    if -1 in dims:
        known = math.prod(d for d in dims if d != -1)
        if known == 0 or x.size % known:
            raise ShapeError(f"cannot reshape {x.shape} to {tuple(dims)}")
        dims[dims.index(-1)] = x.size // known
    target = check_shape(dims)
    return x if target == x.shape else make("reshape", [x], shape=target).out


@composed(
    samples=samples(Sample((randn(2, 3, 4),)), Sample((randn(2, 3, 4), 1)), Sample((randn(2, 3, 4),), {"end_dim": -2}))
)
def flatten(x: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """Axes start_dim .. end_dim (inclusive) merged into one."""
    x = as_value(x)
    first, last = check_axis(start_dim, x.ndim, "start_dim"), check_axis(end_dim, x.ndim, "end_dim")
    if first > last:
        raise ArgumentError(f"start_dim {start_dim} lies after end_dim {end_dim}")
    return reshape(x, (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))


@composed(
    samples=samples(
        Sample((randn(1, 3, 1),)), Sample((randn(1, 3, 1),), {"axis": -1}), Sample((randn(1, 3, 1),), {"axis": (0, 2)})
    )
)
def squeeze(x: Value, axis: int | Sequence[int] | None = None) -> Value:
    """Drop axes of size 1: the given ones (ShapeError if one is not 1), or all."""
    x = as_value(x)
    axes = check_axes(axis, x.ndim) if axis is not None else tuple(i for i, d in enumerate(x.shape) if d == 1)
    for a in axes:
        if x.shape[a] != 1:
            raise ShapeError(f"axis {a} has size {x.shape[a]}, only size 1 can be squeezed")
    return reshape(x, tuple(d for i, d in enumerate(x.shape) if i not in axes))


@composed(samples=samples(Sample((randn(2, 3), 0)), Sample((randn(2, 3), -1)), Sample((randn(3), (0, 2)))))
def expand_dims(x: Value, axis: int | Sequence[int]) -> Value:
    """New axes of size 1 at the given places of the result."""
    x = as_value(x)
    places = (axis,) if isinstance(axis, int) else tuple(axis)
    ndim = x.ndim + len(places)
    wanted = {check_axis(a, ndim) for a in places}
    if len(wanted) != len(places):
        raise ShapeError(f"axis {places} names one place twice")
    rest = iter(x.shape)
    return reshape(x, tuple(1 if i in wanted else next(rest) for i in range(ndim)))


# ---- transpose -------------------------------------------------------------------------------------------------


def _transpose_simplify(node: Node) -> Value | None:
    axes, source = node.attrs["axes"], node.inputs[0]
    if axes == tuple(range(len(axes))):
        return source
    if source.node.op.name == "transpose":
        inner = source.node.attrs["axes"]
        return transpose(source.node.inputs[0], tuple(inner[a] for a in axes))
    if source.node.op.name == "full":
        return call("full", node.type.shape, source.node.attrs["value"], source.dtype)
    return None


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


@define(
    "transpose",
    infer=lambda x, *, axes: x.with_shape(tuple(x.shape[a] for a in axes)),
    lowering=View(lambda node: _dense(node).permute(node.attrs["axes"]), "permute"),
    ref=lambda x, *, axes: np.transpose(x, axes),
    vjp=lambda node, g: [call("transpose", g, _inverse(node.attrs["axes"]))],
    simplify=_transpose_simplify,
    samples=samples(Sample((randn(3, 4),)), Sample((randn(2, 3, 4), (2, 0, 1)))),
    aliases=("permute", "permute_dims"),
)
def transpose(x: Value, axes: Sequence[int] | None = None) -> Value:
    """Axes in another order: axis i of the result is axis axes[i] of x. None reverses them all."""
    x = as_value(x)
    order = tuple(reversed(range(x.ndim))) if axes is None else tuple(check_axis(a, x.ndim, "axes") for a in axes)
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(f"axes {tuple(axes or ())} is not a permutation of {x.ndim} axes")
    return x if order == tuple(range(x.ndim)) else make("transpose", [x], axes=order).out


@composed(samples=samples(Sample((randn(2, 3, 4), 0, -1)), Sample((randn(2, 3), 1, 1))), aliases=("swapdims",))
def swapaxes(x: Value, axis1: int, axis2: int) -> Value:
    """x with two axes exchanged."""
    x = as_value(x)
    order = list(range(x.ndim))
    a, b = check_axis(axis1, x.ndim, "axis1"), check_axis(axis2, x.ndim, "axis2")
    if not x.ndim:
        return x
    order[a], order[b] = b, a
    return transpose(x, order)


# ---- broadcast_to ----------------------------------------------------------------------------------------------


def _broadcast_type(x: TensorType, *, shape: tuple[int, ...]) -> TensorType:
    if broadcast_shapes(x.shape, shape) != shape:
        raise ShapeError(f"cannot broadcast {x.shape} to {shape}")
    return x.with_shape(shape)


def _broadcast_vjp(node: Node, g: Value) -> list[Value | None]:
    source = node.inputs[0].shape
    lead = g.ndim - len(source)
    axes = [*range(lead)] + [lead + i for i, d in enumerate(source) if d == 1 and g.shape[lead + i] != 1]
    return [reshape(call("sum", g, axis=tuple(axes), keepdims=True), source) if axes else reshape(g, source)]


def _broadcast_simplify(node: Node) -> Value | None:
    source = node.inputs[0]
    if source.shape == node.type.shape:
        return source
    if source.node.op.name == "broadcast_to":
        return broadcast_to(source.node.inputs[0], node.type.shape)
    if source.node.op.name == "full":
        return call("full", node.type.shape, source.node.attrs["value"], source.dtype)
    return None


@define(
    "broadcast_to",
    infer=_broadcast_type,
    lowering=View(lambda node: _dense(node).expand(node.type.shape), "axiswise", ("shape",)),
    ref=lambda x, *, shape: np.broadcast_to(x, shape),
    vjp=_broadcast_vjp,
    simplify=_broadcast_simplify,
    samples=samples(
        Sample((randn(3, 1), (2, 3, 4))),
        Sample((randn(4), (3, 4))),
        Sample((randn(), (2, 3))),
        Sample((randn(1), (1,))),
    ),
    aliases=("expand",),
)
def broadcast_to(x: Value, shape: Sequence[int]) -> Value:
    """x repeated along missing and size-1 axes to `shape` (NumPy's rules)."""
    x = as_value(x)
    target = check_shape(shape)
    return x if target == x.shape else make("broadcast_to", [x], shape=target).out


# ---- slice, flip ------------------------------------------------------------------------------------------------


def _slice_type(
    x: TensorType, *, starts: tuple[int, ...], sizes: tuple[int, ...], steps: tuple[int, ...]
) -> TensorType:
    for d, b, n, k in zip(x.shape, starts, sizes, steps, strict=True):
        if k == 0 or (n and not (0 <= b < d and 0 <= b + (n - 1) * k < d)):
            raise ShapeError(f"slice start {b}, size {n}, step {k} does not lie within an axis of size {d}")
    return x.with_shape(sizes)


def _slice_ref(x: np.ndarray, *, starts: Any, sizes: Any, steps: Any) -> np.ndarray:
    key = []
    for b, n, k in zip(starts, sizes, steps, strict=True):
        end = b + n * k
        key.append(builtins.slice(b, end if end >= 0 else None, k) if n else builtins.slice(0, 0))
    return x[tuple(key)]


def _slice_vjp(node: Node, g: Value) -> list[Value | None]:
    """Zeros around and, for steps, between: flip negative steps, then [n] -> [n, 1] -> pad to [n, k] -> [n * k]."""
    x = node.inputs[0]
    starts, sizes, steps = (list(node.attrs[k]) for k in ("starts", "sizes", "steps"))
    down = [a for a, k in enumerate(steps) if k < 0]
    if down and 0 not in sizes:
        g = flip(g, tuple(down))
        for a in down:
            starts[a], steps[a] = starts[a] + (sizes[a] - 1) * steps[a], -steps[a]
    if any(k > 1 for k in steps):
        g = reshape(g, tuple(d for n in sizes for d in (n, 1)))
        g = pad_with(g, [0] * g.ndim, [d for k in steps for d in (0, k - 1)])
        g = reshape(g, tuple(n * k for n, k in zip(sizes, steps, strict=True)))
        g = slice_within(g, [0] * g.ndim, [(n - 1) * k + 1 if n else 0 for n, k in zip(sizes, steps, strict=True)])
    if 0 in sizes:
        return [call("full", x.shape, 0, g.dtype)]
    after = [d - b - n for d, b, n in zip(x.shape, starts, g.shape, strict=True)]
    return [pad_with(g, starts, after)]


def _slice_simplify(node: Node) -> Value | None:
    x = node.inputs[0]
    if x.shape == node.type.shape and all(k == 1 for k in node.attrs["steps"]):
        return x
    if x.node.op.name == "full":
        return call("full", node.type.shape, x.node.attrs["value"], x.dtype)
    return None


def slice_within(x: Value, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int] | None = None) -> Value:
    """slice, or x itself if nothing is cut off."""
    steps = tuple(steps) if steps is not None else (1,) * x.ndim
    if tuple(sizes) == x.shape and all(k == 1 for k in steps):
        return x
    return make("slice", [x], starts=tuple(starts), sizes=tuple(sizes), steps=steps).out


@define(
    "slice",
    infer=_slice_type,
    lowering=View(
        lambda node: _dense(node).slice(node.attrs["starts"], node.attrs["sizes"], node.attrs["steps"]),
        "axiswise",
        ("starts", "sizes", "steps"),
    ),
    ref=_slice_ref,
    vjp=_slice_vjp,
    simplify=_slice_simplify,
    samples=samples(
        Sample((randn(5, 7), (1, 0), (3, 7))),
        Sample((randn(9, 4), (8, 1), (3, 2)), {"steps": (-3, 2)}),
        Sample((randn(5, 4), (4, 3), (5, 4)), {"steps": (-1, -1)}),
        Sample((randn(5, 4), (0, 1), (0, 3))),
    ),
)
def slice(x: Value, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int] | None = None) -> Value:
    """Elements start, start + step, ... (size of them) along each axis; steps may be negative."""
    return slice_within(as_value(x), starts, sizes, steps)


@composed(
    samples=samples(Sample((randn(5, 7), 1, 2, 3)), Sample((randn(5, 7), 0, -2, 2)), Sample((randn(5), -1, 5, 0)))
)
def narrow(x: Value, dim: int, start: int, length: int) -> Value:
    """`length` elements from `start` along one axis."""
    x = as_value(x)
    axis = check_dimension(dim, x.ndim, "dim")
    begin = start + x.shape[axis] if start < 0 else start
    if not 0 <= begin <= begin + length <= x.shape[axis]:
        raise ShapeError(f"start {start}, length {length} leaves an axis of size {x.shape[axis]}")
    starts, sizes = [0] * x.ndim, list(x.shape)
    starts[axis], sizes[axis] = begin, length
    return slice_within(x, starts, sizes)


@composed(
    samples=samples(
        Sample((randn(3, 4),)), Sample((randn(3, 4),), {"axis": -1}), Sample((randn(2, 3, 4),), {"axis": (0, 2)})
    )
)
def flip(x: Value, axis: int | Sequence[int] | None = None) -> Value:
    """x with the order of elements reversed along the axes (all by default)."""
    x = as_value(x)
    if 0 in x.shape:
        return x
    axes = check_axes(axis, x.ndim)
    starts = [d - 1 if a in axes else 0 for a, d in enumerate(x.shape)]
    return slice_within(x, starts, x.shape, [-1 if a in axes else 1 for a in range(x.ndim)])


def pad_with(x: Value, before: Sequence[int], after: Sequence[int], fill: float = 0) -> Value:
    """`fill` before and after each axis, or x itself if there is nothing to add."""
    if not any(before) and not any(after):
        return x
    return make("pad", [x], before=tuple(before), after=tuple(after), fill=fill).out
