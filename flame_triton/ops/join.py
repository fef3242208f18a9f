"""Joining, splitting and repeating along an axis. Each is views and, for joining, a choice by position."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Sample, call
from ..types import TensorType, check_axis, check_dimension, check_shape
from .define import Operand, as_value, composed, define, randn, samples
from .view import broadcast_to, expand_dims, narrow, pad_with, reshape, squeeze

__all__ = ["chunk", "concat", "repeat", "roll", "split", "stack", "tile", "unbind"]

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
        wide = pad_with(part, before, after)
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
    stores=True,
    samples=samples(
        Sample(([randn(3, 4), randn(2, 4, seed=1), randn(1, 4, seed=2)],)),
        Sample(([randn(3, 1), randn(3, 5, seed=1)], -1)),
        Sample(([randn(2, 0), randn(2, 3)], 1)),
        Sample(([randn(7)],)),
    ),
    aliases=("cat", "concatenate"),
)
def concat(values: Sequence[Value], axis: int = 0) -> Value:
    """The values joined along an existing axis; dtypes are promoted to a common one."""
    parts = [as_value(v) for v in values]
    if not parts:
        raise ArgumentError("needs at least one value")
    if any(v.ndim == 0 for v in parts):
        raise ShapeError("zero-dimensional values cannot be concatenated; use stack")
    dtype = parts[0].dtype
    for v in parts[1:]:
        dtype = call("result_type", dtype, v.dtype)
    parts = [call("cast", v, dtype) for v in parts]
    return parts[0] if len(parts) == 1 else make("concat", parts, axis=check_axis(axis, parts[0].ndim)).out


@composed(samples=samples(Sample(([randn(3, 4), randn(3, 4, seed=1)],)), Sample(([randn(3), randn(3, seed=1)], -1))))
def stack(values: Sequence[Value], axis: int = 0) -> Value:
    """The values, all of one shape, joined along a new axis."""
    parts = [as_value(v) for v in values]
    if not parts:
        raise ArgumentError("needs at least one value")
    for v in parts[1:]:
        if v.shape != parts[0].shape:
            raise ShapeError(f"cannot stack {parts[0].shape} and {v.shape}")
    place = check_axis(axis, parts[0].ndim + 1)
    return concat([expand_dims(v, place) for v in parts], place)


def _split_type(x: TensorType, *, sizes: tuple[int, ...], axis: int) -> tuple[TensorType, ...]:
    if sum(sizes) != x.shape[axis]:
        raise ShapeError(f"sizes {sizes} do not add up to axis {axis} of {x.shape}")
    return tuple(x.with_shape((*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in sizes)


def _split_build(node: Node) -> list[Value]:
    x, axis = node.inputs[0], node.attrs["axis"]
    edges = [0, *np.cumsum(node.attrs["sizes"]).tolist()]
    return [narrow(x, axis, a, b - a) for a, b in itertools.pairwise(edges)]


def _split_ref(x: np.ndarray, *, sizes: tuple[int, ...], axis: int) -> np.ndarray | list[np.ndarray]:
    parts = np.split(x, np.cumsum(sizes)[:-1], axis)
    return parts if len(parts) > 1 else parts[0]


def _split_vjp(node: Node, *cotangents: Value | None) -> list[Value | None]:
    parts = [
        call("full", v.shape, 0, v.dtype.gradient) if g is None else g
        for v, g in zip(node.outputs, cotangents, strict=True)
    ]
    return [concat(parts, node.attrs["axis"])]


@define(
    "split",
    infer=_split_type,
    lowering=Composite(_split_build),
    ref=_split_ref,
    vjp=_split_vjp,
    stores=True,
    samples=samples(
        Sample((randn(7, 3), 3)), Sample((randn(2, 9), (4, 0, 5), -1)), Sample((randn(2, 9), [9]), {"axis": 1})
    ),
)
def split(x: Value, split_size_or_sections: int | Sequence[int], axis: int = 0) -> tuple[Value, ...]:
    """Parts along an axis: of the given sizes, or of one size (the last may be smaller), as in torch."""
    x = as_value(x)
    a = check_dimension(axis, x.ndim)
    if isinstance(split_size_or_sections, int):
        step, total = split_size_or_sections, x.shape[a]
        if step <= 0:
            raise ArgumentError(f"split size must be positive, got {step}")
        sizes = tuple(min(step, total - b) for b in range(0, total, step)) or (0,)
    else:
        sizes = check_shape(split_size_or_sections, "sizes")
    return make("split", [x], sizes=sizes, axis=a).outputs


@composed(samples=samples(Sample((randn(7, 3), 3)), Sample((randn(2, 6), 4), {"axis": 1}), Sample((randn(2), 5))))
def chunk(x: Value, chunks: int, axis: int = 0) -> tuple[Value, ...]:
    """At most `chunks` equal parts along an axis (the last may be smaller), as in torch."""
    x = as_value(x)
    if chunks <= 0:
        raise ArgumentError(f"chunks must be positive, got {chunks}")
    return split(x, max(1, -(-x.shape[check_dimension(axis, x.ndim)] // chunks)), axis)


@composed(samples=samples(Sample((randn(3, 4),)), Sample((randn(3, 2, 4),), {"axis": 1})))
def unbind(x: Value, axis: int = 0) -> tuple[Value, ...]:
    """The slices along an axis, which is dropped."""
    x = as_value(x)
    return tuple(squeeze(v, axis) for v in split(x, 1, axis))


# ---- repeating -------------------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((randn(3, 4), 2)),
        Sample((randn(3, 4), 3), {"axis": 0}),
        Sample((randn(2, 1, 3), 2), {"axis": -1}),
        Sample((randn(3, 2), (2, 0, 1)), {"axis": 0}),
    ),
    aliases=("repeat_interleave",),
)
def repeat(x: Operand, repeats: int | Sequence[int], axis: int | None = None) -> Value:
    """Each element `repeats` times in a row along the axis (of the flattened tensor by default), as numpy.repeat.

    repeats: one number, or one for each element of the axis.
    """
    x = as_value(x)
    counts = (repeats,) if isinstance(repeats, int) else tuple(repeats)
    if any(not isinstance(n, int | np.integer) or n < 0 for n in counts):
        raise ArgumentError(f"repeats must be non-negative ints, got {repeats!r}")
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    a = check_axis(axis, x.ndim)
    x = x if x.ndim else reshape(x, (1,))
    if len(counts) == 1:
        lead, tail = x.shape[: a + 1], x.shape[a + 1 :]
        spread = broadcast_to(reshape(x, (*lead, 1, *tail)), (*lead, counts[0], *tail))
        return reshape(spread, (*lead[:-1], lead[-1] * counts[0], *tail))
    if len(counts) != x.shape[a]:
        raise ShapeError(f"{len(counts)} repeats for {x.shape[a]} elements of axis {a}")
    return call("take", x, np.repeat(np.arange(len(counts)), counts), a)


@composed(samples=samples(Sample((randn(3, 4), 2)), Sample((randn(3, 4), (2, 1, 3))), Sample((randn(2, 3), (3, 1)))))
def tile(x: Operand, reps: int | Sequence[int]) -> Value:
    """The whole tensor repeated reps[i] times along axis i; missing axes are added in front, as numpy.tile."""
    x, counts = as_value(x), check_shape(reps, "reps")
    ndim = max(x.ndim, len(counts))
    shape = (1,) * (ndim - x.ndim) + x.shape
    counts = (1,) * (ndim - len(counts)) + counts
    apart = reshape(x, tuple(n for d in shape for n in (1, d)))
    spread = broadcast_to(apart, tuple(n for r, d in zip(counts, shape, strict=True) for n in (r, d)))
    return reshape(spread, tuple(r * d for r, d in zip(counts, shape, strict=True)))


@composed(
    samples=samples(
        Sample((randn(3, 4), 2)),
        Sample((randn(3, 4), -1), {"axis": 1}),
        Sample((randn(3, 4), (1, 5)), {"axis": (0, 1)}),
    )
)
def roll(x: Operand, shift: int | Sequence[int], axis: int | Sequence[int] | None = None) -> Value:
    """Elements moved by `shift` places along the axis, around the end (of the flattened tensor by default)."""
    x = as_value(x)
    if axis is None:
        return reshape(roll(reshape(x, (x.size,)), shift, 0), x.shape)
    shifts = (shift,) if isinstance(shift, int) else tuple(shift)
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if len(shifts) != len(axes):
        raise ArgumentError(f"{len(shifts)} shifts for {len(axes)} axes")
    for n, a in zip(shifts, axes, strict=True):
        a = check_dimension(a, x.ndim)
        cut = -n % x.shape[a] if x.shape[a] else 0
        if cut:
            x = concat([narrow(x, a, cut, x.shape[a] - cut), narrow(x, a, 0, cut)], a)
    return x
