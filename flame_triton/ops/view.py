"""Views: the same elements in another shape or order. No arithmetic, no copy; each is an index map over its operand.

The gradient of a view is another view (or, for broadcasting, a sum): reshape <-> reshape, transpose <-> its inverse,
slice <-> pad, broadcast_to <-> sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.index_map import IndexMap
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Sample, View, call, public
from ..types import TensorType, broadcast_shapes, check_axes, check_axis, check_shape
from .define import as_value, define, randn, samples


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
    lowering=View(lambda node: _dense(node).reshape(node.type.shape)),
    ref=lambda x, *, shape: x.reshape(shape),
    vjp=lambda node, g: [reshape(g, node.inputs[0].shape)],
    simplify=_reshape_simplify,
    samples=samples(Sample((randn(4, 6), (2, -1, 3))), Sample((randn(5), (5, 1)))),
)
def reshape(x: Value, shape: Sequence[int] | int) -> Value:
    """x's elements, in row-major order, in another shape; one size may be -1 (inferred)."""
    x = as_value(x)
    dims = [shape] if isinstance(shape, int) else list(shape)
    if dims.count(-1) > 1:
        raise ShapeError(f"only one size may be -1, got {tuple(dims)}", op="reshape")
    if -1 in dims:
        known = math.prod(d for d in dims if d != -1)
        if known == 0 or x.size % known:
            raise ShapeError(f"cannot reshape {x.shape} to {tuple(dims)}", op="reshape")
        dims[dims.index(-1)] = x.size // known
    target = check_shape(dims)
    return x if target == x.shape else make("reshape", [x], shape=target).out


@public
def flatten(x: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """Axes start_dim .. end_dim (inclusive) merged into one."""
    x = as_value(x)
    first, last = check_axis(start_dim, x.ndim, "start_dim"), check_axis(end_dim, x.ndim, "end_dim")
    if first > last:
        raise ArgumentError(f"start_dim {start_dim} lies after end_dim {end_dim}", op="flatten")
    return reshape(x, (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))


@public
def squeeze(x: Value, axis: int | Sequence[int] | None = None) -> Value:
    """Drop axes of size 1: the given ones (ShapeError if one is not 1), or all."""
    x = as_value(x)
    axes = check_axes(axis, x.ndim) if axis is not None else tuple(i for i, d in enumerate(x.shape) if d == 1)
    for a in axes:
        if x.shape[a] != 1:
            raise ShapeError(f"axis {a} has size {x.shape[a]}, only size 1 can be squeezed", op="squeeze")
    return reshape(x, tuple(d for i, d in enumerate(x.shape) if i not in axes))


@public
def expand_dims(x: Value, axis: int | Sequence[int]) -> Value:
    """New axes of size 1 at the given places of the result."""
    x = as_value(x)
    places = (axis,) if isinstance(axis, int) else tuple(axis)
    ndim = x.ndim + len(places)
    wanted = {check_axis(a, ndim) for a in places}
    if len(wanted) != len(places):
        raise ShapeError(f"axis {places} names one place twice", op="expand_dims")
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
    lowering=View(lambda node: _dense(node).permute(node.attrs["axes"])),
    ref=lambda x, *, axes: np.transpose(x, axes),
    vjp=lambda node, g: [transpose(g, _inverse(node.attrs["axes"]))],
    simplify=_transpose_simplify,
    samples=samples(Sample((randn(3, 4),)), Sample((randn(2, 3, 4), (2, 0, 1)))),
    aliases=("permute", "permute_dims"),
)
def transpose(x: Value, axes: Sequence[int] | None = None) -> Value:
    """Axes in another order: axis i of the result is axis axes[i] of x. None reverses them all."""
    x = as_value(x)
    order = tuple(reversed(range(x.ndim))) if axes is None else tuple(check_axis(a, x.ndim, "axes") for a in axes)
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(f"axes {tuple(axes or ())} is not a permutation of {x.ndim} axes", op="transpose")
    return x if order == tuple(range(x.ndim)) else make("transpose", [x], axes=order).out


@public
def swapaxes(x: Value, axis1: int, axis2: int) -> Value:
    """x with two axes exchanged."""
    x = as_value(x)
    order = list(range(x.ndim))
    a, b = check_axis(axis1, x.ndim, "axis1"), check_axis(axis2, x.ndim, "axis2")
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
    lowering=View(lambda node: _dense(node).expand(node.type.shape)),
    ref=lambda x, *, shape: np.broadcast_to(x, shape),
    vjp=_broadcast_vjp,
    simplify=_broadcast_simplify,
    samples=samples(Sample((randn(3, 1), (2, 3, 4))), Sample((randn(4), (3, 4)))),
    aliases=("expand",),
)
def broadcast_to(x: Value, shape: Sequence[int]) -> Value:
    """x repeated along missing and size-1 axes to `shape` (NumPy's rules)."""
    x = as_value(x)
    target = check_shape(shape)
    return x if target == x.shape else make("broadcast_to", [x], shape=target).out


# ---- slice, flip, pad ------------------------------------------------------------------------------------------


def _slice_type(
    x: TensorType, *, starts: tuple[int, ...], sizes: tuple[int, ...], steps: tuple[int, ...]
) -> TensorType:
    for d, b, n, k in zip(x.shape, starts, sizes, steps, strict=True):
        if k == 0 or (n and not (0 <= b < d and 0 <= b + (n - 1) * k < d)):
            raise ShapeError(f"slice start {b}, size {n}, step {k} does not lie within an axis of size {d}")
    return x.with_shape(sizes)


def _slice_ref(x: np.ndarray, *, starts: Any, sizes: Any, steps: Any) -> np.ndarray:
    return x[np.ix_(*(b + k * np.arange(n) for b, n, k in zip(starts, sizes, steps, strict=True)))]


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
        g = _pad_zero(g, [0] * g.ndim, [d for k in steps for d in (0, k - 1)])
        g = reshape(g, tuple(n * k for n, k in zip(sizes, steps, strict=True)))
        g = _slice(g, [0] * g.ndim, [(n - 1) * k + 1 if n else 0 for n, k in zip(sizes, steps, strict=True)])
    if 0 in sizes:
        return [call("full", x.shape, 0, x.dtype)]
    after = [d - b - n for d, b, n in zip(x.shape, starts, g.shape, strict=True)]
    return [_pad_zero(g, starts, after)]


def _slice_simplify(node: Node) -> Value | None:
    x = node.inputs[0]
    if x.shape == node.type.shape and all(k == 1 for k in node.attrs["steps"]):
        return x
    if x.node.op.name == "full":
        return call("full", node.type.shape, x.node.attrs["value"], x.dtype)
    return None


def _slice(x: Value, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int] | None = None) -> Value:
    steps = tuple(steps) if steps is not None else (1,) * x.ndim
    if tuple(sizes) == x.shape and all(k == 1 for k in steps):
        return x
    return make("slice", [x], starts=tuple(starts), sizes=tuple(sizes), steps=steps).out


@define(
    "slice",
    infer=_slice_type,
    lowering=View(
        lambda node: _dense(node).slice(node.attrs["starts"], node.attrs["sizes"], node.attrs["steps"])
    ),
    ref=_slice_ref,
    vjp=_slice_vjp,
    simplify=_slice_simplify,
    samples=samples(
        Sample((randn(5, 7), (1, 0), (3, 7))),
        Sample((randn(9, 4), (8, 1), (3, 2)), {"steps": (-3, 2)}),
    ),
)
def slice(x: Value, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int] | None = None) -> Value:
    """Elements start, start + step, ... (size of them) along each axis; steps may be negative."""
    return _slice(as_value(x), starts, sizes, steps)


@public
def narrow(x: Value, dim: int, start: int, length: int) -> Value:
    """`length` elements from `start` along one axis."""
    x = as_value(x)
    axis = check_axis(dim, x.ndim, "dim")
    begin = start + x.shape[axis] if start < 0 else start
    if not 0 <= begin <= begin + length <= x.shape[axis]:
        raise ShapeError(f"start {start}, length {length} leaves an axis of size {x.shape[axis]}", op="narrow")
    starts, sizes = [0] * x.ndim, list(x.shape)
    starts[axis], sizes[axis] = begin, length
    return _slice(x, starts, sizes)


@public
def flip(x: Value, axis: int | Sequence[int] | None = None) -> Value:
    """x with the order of elements reversed along the axes (all by default)."""
    x = as_value(x)
    if 0 in x.shape:
        return x
    axes = check_axes(axis, x.ndim)
    starts = [d - 1 if a in axes else 0 for a, d in enumerate(x.shape)]
    return _slice(x, starts, x.shape, [-1 if a in axes else 1 for a in range(x.ndim)])


def _pad_type(x: TensorType, *, before: tuple[int, ...], after: tuple[int, ...], fill: float) -> TensorType:
    return x.with_shape(tuple(d + b + a for d, b, a in zip(x.shape, before, after, strict=True)))


def _pad_ref(x: np.ndarray, *, before: Any, after: Any, fill: float) -> np.ndarray:
    if x.ndim == 0:
        return x
    return np.pad(x, list(zip(before, after, strict=True)), constant_values=np.asarray(fill).astype(x.dtype))


def _pad_zero(x: Value, before: Sequence[int], after: Sequence[int], fill: float = 0) -> Value:
    if not any(before) and not any(after):
        return x
    return make("pad", [x], before=tuple(before), after=tuple(after), fill=fill).out


@define(
    "pad",
    infer=_pad_type,
    lowering=View(lambda node: _dense(node).pad(node.attrs["before"], node.attrs["after"])),
    ref=_pad_ref,
    vjp=lambda node, g: [_slice(g, node.attrs["before"], node.inputs[0].shape)],
    samples=samples(
        Sample((randn(3, 4), ((1, 2), (0, 3)))),
        Sample((randn(3, 4), ((0, 0), (2, 1))), {"value": -1.5}),
    ),
)
def pad(x: Value, pad_width: Sequence[tuple[int, int]], value: float = 0) -> Value:
    """Constant padding: pad_width[i] = (before, after) of axis i, in elements; negative widths crop."""
    x = as_value(x)
    if len(pad_width) != x.ndim:
        raise ShapeError(f"pad_width has {len(pad_width)} pairs for {x.ndim} axes", op="pad")
    crop = [(max(-b, 0), max(-a, 0)) for b, a in pad_width]
    sizes = [d - b - a for d, (b, a) in zip(x.shape, crop, strict=True)]
    if any(n < 0 for n in sizes):
        raise ShapeError(f"pad_width {tuple(pad_width)} crops more than {x.shape} holds", op="pad")
    x = _slice(x, [b for b, _ in crop], sizes)
    fill = float(value) if x.dtype.is_float else int(value)
    return _pad_zero(x, [max(b, 0) for b, _ in pad_width], [max(a, 0) for _, a in pad_width], fill)


# ---- joining and splitting -------------------------------------------------------------------------------------


def _concat_type(*types: TensorType, axis: int) -> TensorType:
    first = types[0]
    for t in types[1:]:
        if t.dtype is not first.dtype or len(t.shape) != len(first.shape):
            raise ShapeError(f"cannot concatenate {first} and {t}")
        if any(a != b for i, (a, b) in enumerate(zip(t.shape, first.shape, strict=True)) if i != axis):
            raise ShapeError(f"cannot concatenate {first.shape} and {t.shape} along axis {axis}")
    total = sum(t.shape[axis] for t in types)
    return first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))


def _concat_build(node: Node) -> Value:
    """Each part padded to the whole width, chosen by position: one fused kernel, no intermediate copies."""
    axis, shape = node.attrs["axis"], node.type.shape
    position = call("arange", shape[axis], dtype="int32")
    position = reshape(position, tuple(d if i == axis else 1 for i, d in enumerate(shape)))
    position = broadcast_to(position, shape)
    result: Value | None = None
    end = shape[axis]
    for part in reversed(node.inputs):
        start = end - part.shape[axis]
        if start == end:
            continue
        before = [start if i == axis else 0 for i in range(len(shape))]
        after = [shape[axis] - end if i == axis else 0 for i in range(len(shape))]
        wide = _pad_zero(part, before, after)
        result = wide if result is None else call("where", call("less", position, end), wide, result)
        end = start
    return result if result is not None else node.inputs[0]


def _concat_vjp(node: Node, g: Value) -> list[Value | None]:
    parts = split(g, [v.shape[node.attrs["axis"]] for v in node.inputs], node.attrs["axis"])
    return list(parts)


@define(
    "concat",
    infer=_concat_type,
    lowering=Composite(_concat_build),
    ref=lambda *xs, axis: np.concatenate(xs, axis),
    vjp=_concat_vjp,
    aliases=("cat", "concatenate"),
)
def concat(values: Sequence[Value], axis: int = 0) -> Value:
    """The values joined along an existing axis; dtypes are promoted to a common one."""
    parts = [as_value(v) for v in values]
    if not parts:
        raise ArgumentError("needs at least one value", op="concat")
    if any(v.ndim == 0 for v in parts):
        raise ShapeError("zero-dimensional values cannot be concatenated; use stack", op="concat")
    dtype = parts[0].dtype
    for v in parts[1:]:
        dtype = call("result_type", dtype, v.dtype)
    parts = [call("cast", v, dtype) for v in parts]
    return parts[0] if len(parts) == 1 else make("concat", parts, axis=check_axis(axis, parts[0].ndim)).out


@public
def stack(values: Sequence[Value], axis: int = 0) -> Value:
    """The values, all of one shape, joined along a new axis."""
    parts = [as_value(v) for v in values]
    if not parts:
        raise ArgumentError("needs at least one value", op="stack")
    for v in parts[1:]:
        if v.shape != parts[0].shape:
            raise ShapeError(f"cannot stack {parts[0].shape} and {v.shape}", op="stack")
    place = check_axis(axis, parts[0].ndim + 1)
    return concat([expand_dims(v, place) for v in parts], place)


def _split_type(x: TensorType, *, sizes: tuple[int, ...], axis: int) -> tuple[TensorType, ...]:
    if sum(sizes) != x.shape[axis]:
        raise ShapeError(f"sizes {sizes} do not add up to axis {axis} of {x.shape}")
    return tuple(x.with_shape((*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in sizes)


def _split_build(node: Node) -> list[Value]:
    x, axis = node.inputs[0], node.attrs["axis"]
    edges = [0, *np.cumsum(node.attrs["sizes"]).tolist()]
    return [narrow(x, axis, a, b - a) for a, b in zip(edges, edges[1:], strict=False)]


def _split_vjp(node: Node, *cotangents: Value | None) -> list[Value | None]:
    parts = [
        call("full", v.shape, 0, v.dtype) if g is None else g for v, g in zip(node.outputs, cotangents, strict=True)
    ]
    return [concat(parts, node.attrs["axis"])]


@define(
    "split",
    infer=_split_type,
    lowering=Composite(_split_build),
    ref=lambda x, *, sizes, axis: tuple(np.split(x, np.cumsum(sizes)[:-1], axis)),
    vjp=_split_vjp,
)
def split(x: Value, split_size_or_sections: int | Sequence[int], axis: int = 0) -> tuple[Value, ...]:
    """Parts along an axis: of the given sizes, or of one size (the last may be smaller), as in torch."""
    x = as_value(x)
    a = check_axis(axis, x.ndim)
    if isinstance(split_size_or_sections, int):
        step, total = split_size_or_sections, x.shape[a]
        if step <= 0:
            raise ArgumentError(f"split size must be positive, got {step}", op="split")
        sizes = tuple(min(step, total - b) for b in range(0, total, step)) or (0,)
    else:
        sizes = check_shape(split_size_or_sections, "sizes")
    return make("split", [x], sizes=sizes, axis=a).outputs


@public
def chunk(x: Value, chunks: int, axis: int = 0) -> tuple[Value, ...]:
    """At most `chunks` equal parts along an axis (the last may be smaller), as in torch."""
    x = as_value(x)
    if chunks <= 0:
        raise ArgumentError(f"chunks must be positive, got {chunks}", op="chunk")
    return split(x, max(1, -(-x.shape[check_axis(axis, x.ndim)] // chunks)), axis)


@public
def unbind(x: Value, axis: int = 0) -> tuple[Value, ...]:
    """The slices along an axis, which is dropped."""
    x = as_value(x)
    return tuple(squeeze(v, axis) for v in split(x, 1, axis))


# ---- indexing --------------------------------------------------------------------------------------------------


@public
def getitem(x: Value, key: Any) -> Value:
    """Basic NumPy indexing (integers, slices, None, Ellipsis); one integer-array index goes to `take`."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if len(keys) == 1 and isinstance(keys[0], Value):
        return call("take", x, keys[0], axis=0)
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if used > x.ndim:
        raise ShapeError(f"{used} indices for a tensor of {x.ndim} dimensions", op="getitem")
    if Ellipsis not in keys:
        keys.append(Ellipsis)
    at = keys.index(Ellipsis)
    keys[at : at + 1] = [np.s_[:]] * (x.ndim - used)
    starts, sizes, steps, shape = [], [], [], []
    axis = 0
    for k in keys:
        if k is None:
            shape.append(1)
            continue
        d = x.shape[axis]
        if isinstance(k, type(np.s_[:])):
            r = range(d)[k]
            starts.append(r.start if len(r) else 0), sizes.append(len(r)), steps.append(r.step if len(r) else 1)
            shape.append(len(r))
        elif isinstance(k, int | np.integer) and not isinstance(k, bool):
            if not -d <= k < d:
                raise ShapeError(f"index {k} is out of range for axis {axis} of size {d}", op="getitem")
            starts.append(int(k) % d), sizes.append(1), steps.append(1)
        else:
            raise ArgumentError(f"cannot index with {k!r}", op="getitem")
        axis += 1
    return reshape(_slice(x, starts, sizes, steps), tuple(shape))
