"""Sliding windows and their transpose, the sum of overlapping windows.

windows      element (k, o) reads x[o * stride + k * dilation]: one strided view, overlapping, no copy
overlap_add  y[h] = sum of g[k, o] over o * stride + k * dilation = h, which is the gradient of `windows`

The sum over k is an ordinary reduction of a view, `spread`: element (k, h) reads g[k, (h - k * dilation) / stride]
where that is a whole number within bounds, else 0. So nothing is scattered, the order of the sum is fixed, and every
gradient is made of the same few ops again. Window axes stand in front of the axes that they slide along.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.index_map import IndexMap, StridedView, row_major
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Sample, View, call
from ..types import TensorType, check_axis
from .define import Operand, as_value, composed, define, randn, samples
from .view import pad_with, reshape, slice_within, transpose

__all__ = ["fold", "sliding_window_view", "unfold", "unfold_axis"]

Ints: TypeAlias = "tuple[int, ...]"
Size: TypeAlias = "int | Sequence[int]"


def numbers(value: Size, n: int, what: str, least: int | None = 1) -> Ints:
    """One int for each of n axes, from an int for all or a sequence. Raises ArgumentError if one is below `least`."""
    given = tuple(value) if isinstance(value, Sequence) else (value,) * n
    if len(given) == 1:
        given *= n
    if len(given) != n or any(isinstance(v, bool) or not isinstance(v, int | np.integer) for v in given):
        raise ArgumentError(f"{what} must be an int or {n} ints, got {value!r}")
    if least is not None and any(v < least for v in given):
        raise ArgumentError(f"{what} must be at least {least}, got {value!r}")
    return tuple(int(v) for v in given)


def spans(size: Ints, dilation: Ints) -> Ints:
    """How many places a window reaches over along each axis."""
    return tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))


# ---- windows ---------------------------------------------------------------------------------------------------


def counted(shape: Ints, size: Ints, stride: Ints, dilation: Ints) -> Ints:
    """How many windows fit along each axis. Raises ShapeError if none does."""
    reach = spans(size, dilation)
    if any(r > h for r, h in zip(reach, shape, strict=True)):
        raise ShapeError(f"a window of {size}, dilated by {dilation}, does not fit axes of {shape}")
    return tuple((h - r) // s + 1 for h, r, s in zip(shape, reach, stride, strict=True))


def _windows_type(
    x: TensorType, *, size: Ints, stride: Ints, dilation: Ints, before: Ints, after: Ints, fill: float
) -> TensorType:
    lead = x.ndim - len(size)
    padded = tuple(h + b + a for h, b, a in zip(x.shape[lead:], before, after, strict=True))
    return x.with_shape((*x.shape[:lead], *size, *counted(padded, size, stride, dilation)))


def _windows_map(node: Node) -> IndexMap:
    x, size = node.inputs[0], node.attrs["size"]
    lead = x.ndim - len(size)
    still = (0,) * lead
    padded = IndexMap.dense(x.shape).pad((*still, *node.attrs["before"]), (*still, *node.attrs["after"]))
    own = row_major(padded.shape)
    along = [tuple(n * s for n, s in zip(node.attrs[k], own[lead:], strict=True)) for k in ("dilation", "stride")]
    return padded.then(IndexMap((StridedView(node.type.shape, (*own[:lead], *along[0], *along[1])),)))


def _windows_ref(
    x: np.ndarray, *, size: Ints, stride: Ints, dilation: Ints, before: Ints, after: Ints, fill: float
) -> np.ndarray:
    n = len(size)
    axes = tuple(range(x.ndim - n, x.ndim))
    whole = [(0, 0)] * (x.ndim - n)
    cut = (..., *(slice(None, a if a < 0 else None) for a in after))
    widths = [*whole, *((b, max(a, 0)) for b, a in zip(before, after, strict=True))]
    x = np.pad(x[cut], widths, constant_values=fill)
    found = np.lib.stride_tricks.sliding_window_view(x, spans(size, dilation), axes)
    found = found[(..., *(slice(None, None, s) for s in stride), *(slice(None, None, d) for d in dilation))]
    return found.transpose((*range(x.ndim - n), *range(x.ndim, x.ndim + n), *axes))


def _windows_vjp(node: Node, g: Value) -> list[Value | None]:
    x, (size, stride, dilation, before) = node.inputs[0], (node.attrs[k] for k in _WINDOWS)
    return [overlap_add(g, x.shape[x.ndim - len(size) :], stride, dilation, before)]


_WINDOWS = ("size", "stride", "dilation", "before")


@define(
    "windows",
    infer=_windows_type,
    lowering=View(_windows_map),
    ref=_windows_ref,
    vjp=_windows_vjp,
    samples=samples(
        Sample((randn(7), 3)),
        Sample((randn(2, 9), 3), {"stride": 2, "dilation": 2, "before": 1, "after": -2, "fill": -1.5}),
        Sample((randn(2, 6, 5), (2, 3)), {"stride": (3, 1), "dilation": (2, 1), "before": (0, 2), "after": (3, 1)}),
    ),
)
def windows(
    x: Operand,
    size: Size,
    stride: Size = 1,
    dilation: Size = 1,
    before: Size = 0,
    after: Size = 0,
    fill: float = 0,
) -> Value:
    """[..., H, W] -> [..., kh, kw, oh, ow]: the windows of `size` along the last axes, as many as `size` has.

    Element (k, o) is x[o * stride + k * dilation - before], `fill` where there is none. The axes are as if `before` and
    `after` elements longer at their ends (`after` may be negative); a tail that holds no whole window is left out.
    """
    x = as_value(x)
    n = 1 if isinstance(size, int | np.integer) else len(size)
    if not 0 < n <= x.ndim:
        raise ShapeError(f"windows over {n} axes do not fit a tensor of shape {x.shape}")
    return make(
        "windows",
        [x],
        size=numbers(size, n, "size"),
        stride=numbers(stride, n, "stride"),
        dilation=numbers(dilation, n, "dilation"),
        before=numbers(before, n, "before", 0),
        after=numbers(after, n, "after", None),
        fill=fill,
    ).out


# ---- the transpose ---------------------------------------------------------------------------------------------


def _apart(shape: Ints, n: int) -> tuple[Ints, Ints, Ints]:
    """The shape [..., *size, *places] of windows over n axes, taken apart."""
    lead = len(shape) - 2 * n
    return shape[:lead], shape[lead : lead + n], shape[lead + n :]


def _spread_type(g: TensorType, *, shape: Ints, stride: Ints, dilation: Ints, before: Ints, fill: float) -> TensorType:
    lead, size, _ = _apart(g.shape, len(shape))
    return g.with_shape((*lead, *size, *shape))


def _spread_map(node: Node) -> IndexMap:
    """Two strided views. The one below puts stride - 1 masked places after each o, and enough masked o on both sides;
    the one above reads it along diagonals: (k, h) at place h + before - k * dilation."""
    g, (shape, stride, dilation, before) = node.inputs[0], (node.attrs[k] for k in _SPREAD)
    n = len(shape)
    lead, size, counts = _apart(g.shape, n)
    front = (*lead, *size)
    room = [-(-(k - 1) * d // s) for k, s, d in zip(size, stride, dilation, strict=True)]
    more = [max(0, -(-(h + b) // s) - o) for h, b, s, o in zip(shape, before, stride, counts, strict=True)]
    still = (0,) * len(front)
    below = IndexMap.dense(g.shape).reshape((*front, *(m for o in counts for m in (o, 1))))
    below = below.pad(
        (*still, *(m for r in room for m in (r, 0))),
        (*still, *(m for a, s in zip(more, stride, strict=True) for m in (a, s - 1))),
    )
    widths = [(r + o + a) * s for r, o, a, s in zip(room, counts, more, stride, strict=True)]
    own = list(row_major((*front, *widths)))
    slid = own[len(front) :]
    offset = sum((r * s + b) * unit for r, s, b, unit in zip(room, stride, before, slid, strict=True))
    for i, (d, unit) in enumerate(zip(dilation, slid, strict=True)):
        own[len(lead) + i] -= d * unit
    return below.then(IndexMap((StridedView((*front, *shape), tuple(own), offset),)))


def _places(k: Ints, counts: Ints, shape: Ints, stride: Ints, dilation: Ints, before: Ints) -> tuple[Any, Any]:
    """NumPy indices of the places o whose element k lies within the axes, and of where those lie."""
    lows, highs = [], []
    for i, o, h, s, d, b in zip(k, counts, shape, stride, dilation, before, strict=True):
        inside = [p for p in range(o) if 0 <= p * s + i * d - b < h]
        lows.append(np.array(inside, np.int64))
        highs.append(lows[-1] * s + i * d - b)
    return np.ix_(*lows), np.ix_(*highs)


def _spread_ref(g: np.ndarray, *, shape: Ints, stride: Ints, dilation: Ints, before: Ints, fill: float) -> np.ndarray:
    lead, size, counts = _apart(g.shape, len(shape))
    out = np.zeros((*lead, *size, *shape), g.dtype)
    for k in np.ndindex(*size):
        places, at = _places(k, counts, shape, stride, dilation, before)
        out[(slice(None),) * len(lead) + k][(..., *at)] = g[(slice(None),) * len(lead) + k][(..., *places)]
    return out


def _spread_vjp(node: Node, g: Value) -> list[Value | None]:
    counts = _apart(node.inputs[0].shape, len(node.attrs["shape"]))[2]
    return [gather_spread(g, counts, *(node.attrs[k] for k in _SPREAD[1:]))]


_SPREAD = ("shape", "stride", "dilation", "before")


@define(
    "spread",
    infer=_spread_type,
    lowering=View(_spread_map),
    ref=_spread_ref,
    vjp=_spread_vjp,
    samples=samples(
        Sample((randn(3, 4), (7,), (1,), (1,), (0,))),
        Sample((randn(2, 3, 2), (9,), (3,), (2,), (1,))),
        Sample((randn(2, 3, 2, 3), (5, 6), (2, 3), (2, 1), (0, 2))),
    ),
)
def spread(g: Operand, shape: Ints, stride: Ints, dilation: Ints, before: Ints) -> Value:
    """[..., kh, kw, oh, ow] -> [..., kh, kw, H, W]: g[k, o] at place o * stride + k * dilation - before, else 0."""
    return make("spread", [as_value(g)], shape=shape, stride=stride, dilation=dilation, before=before, fill=0).out


def _gather_spread_type(
    g: TensorType, *, counts: Ints, stride: Ints, dilation: Ints, before: Ints, fill: float
) -> TensorType:
    lead, size, _ = _apart(g.shape, len(counts))
    return g.with_shape((*lead, *size, *counts))


def _gather_spread_map(node: Node) -> IndexMap:
    g, (counts, stride, dilation, before) = node.inputs[0], (node.attrs[k] for k in ("counts", *_SPREAD[1:]))
    lead, size, shape = _apart(g.shape, len(counts))
    still = (0,) * (len(lead) + len(size))
    ends = [(o - 1) * s + r for o, s, r in zip(counts, stride, spans(size, dilation), strict=True)]
    after = [e - h - b for e, h, b in zip(ends, shape, before, strict=True)]
    padded = IndexMap.dense(g.shape).pad((*still, *before), (*still, *after))
    own = list(row_major(padded.shape))
    for i, (s, d) in enumerate(zip(stride, dilation, strict=True)):
        own[len(lead) + i] += d * own[len(still) + i]
        own[len(still) + i] *= s
    return padded.then(IndexMap((StridedView(node.type.shape, tuple(own)),)))


def _gather_spread_ref(
    g: np.ndarray, *, counts: Ints, stride: Ints, dilation: Ints, before: Ints, fill: float
) -> np.ndarray:
    lead, size, shape = _apart(g.shape, len(counts))
    out = np.zeros((*lead, *size, *counts), g.dtype)
    for k in np.ndindex(*size):
        places, at = _places(k, counts, shape, stride, dilation, before)
        out[(slice(None),) * len(lead) + k][(..., *places)] = g[(slice(None),) * len(lead) + k][(..., *at)]
    return out


def _gather_spread_vjp(node: Node, g: Value) -> list[Value | None]:
    shape = _apart(node.inputs[0].shape, len(node.attrs["counts"]))[2]
    return [spread(g, shape, *(node.attrs[k] for k in _SPREAD[1:]))]


@define(
    "gather_spread",
    infer=_gather_spread_type,
    lowering=View(_gather_spread_map),
    ref=_gather_spread_ref,
    vjp=_gather_spread_vjp,
    samples=samples(
        Sample((randn(3, 7), (4,), (1,), (1,), (0,))),
        Sample((randn(2, 3, 5, 8), (2, 3), (2, 3), (2, 1), (1, 0))),
    ),
)
def gather_spread(g: Operand, counts: Ints, stride: Ints, dilation: Ints, before: Ints) -> Value:
    """The transpose of `spread`: element (k, o) is g[k, o * stride + k * dilation - before], 0 where there is none."""
    attrs = {"counts": counts, "stride": stride, "dilation": dilation, "before": before, "fill": 0}
    return make("gather_spread", [as_value(g)], **attrs).out


def _overlap_type(g: TensorType, *, shape: Ints, stride: Ints, dilation: Ints, before: Ints) -> TensorType:
    return g.with_shape((*_apart(g.shape, len(shape))[0], *shape))


def _overlap_build(node: Node) -> Value:
    """The sum of `spread` over the window axes; windows that do not overlap are only put side by side."""
    g, (shape, stride, dilation, before) = node.inputs[0], (node.attrs[k] for k in _SPREAD)
    n = len(shape)
    front, size, counts = _apart(g.shape, n)
    lead = len(front)
    if any(d != 1 or k > s for k, s, d in zip(size, stride, dilation, strict=True)):
        apart = spread(call("cast", g, g.dtype.compute), shape, stride, dilation, before)
        return call("cast", call("sum", apart, axis=tuple(range(lead, lead + n))), g.dtype)
    order = (*range(lead), *itertools.chain(*((lead + n + i, lead + i) for i in range(n))))
    gaps = [m for s, k in zip(stride, size, strict=True) for m in (0, s - k)]
    tiles = pad_with(transpose(g, order), [0] * g.ndim, [*[0] * lead, *gaps])
    reach = [o * s for o, s in zip(counts, stride, strict=True)]
    side = reshape(tiles, (*front, *reach))
    kept = [max(0, min(h, r - b)) for h, r, b in zip(shape, reach, before, strict=True)]
    side = slice_within(side, [*[0] * lead, *before], [*front, *kept])
    return pad_with(side, [0] * side.ndim, [*[0] * lead, *(h - m for h, m in zip(shape, kept, strict=True))])


def _overlap_ref(g: np.ndarray, *, shape: Ints, stride: Ints, dilation: Ints, before: Ints) -> np.ndarray:
    lead, size, counts = _apart(g.shape, len(shape))
    out = np.zeros((*lead, *shape), g.dtype)
    for k in np.ndindex(*size):
        places, at = _places(k, counts, shape, stride, dilation, before)
        out[(..., *at)] += g[(slice(None),) * len(lead) + k][(..., *places)]
    return out


def _overlap_vjp(node: Node, g: Value) -> list[Value | None]:
    shape, stride, dilation, before = (node.attrs[k] for k in _SPREAD)
    _, size, counts = _apart(node.inputs[0].shape, len(shape))
    ends = [(o - 1) * s + r for o, s, r in zip(counts, stride, spans(size, dilation), strict=True)]
    after = [e - h - b for e, h, b in zip(ends, shape, before, strict=True)]
    return [windows(g, size, stride, dilation, before, after)]


@define(
    "overlap_add",
    infer=_overlap_type,
    lowering=Composite(_overlap_build),
    ref=_overlap_ref,
    vjp=_overlap_vjp,
    samples=samples(
        Sample((randn(3, 5), 7)),
        Sample((randn(2, 3, 4), 8), {"stride": 2, "before": 1}),
        Sample((randn(2, 2, 3), 9), {"stride": 3}),
        Sample((randn(2, 2, 3), 5), {"stride": 2, "before": 1}),
        Sample((randn(2, 3, 2, 4), (7, 9)), {"stride": (2, 2), "dilation": (3, 1)}),
    ),
)
def overlap_add(g: Operand, shape: Size, stride: Size = 1, dilation: Size = 1, before: Size = 0) -> Value:
    """[..., kh, kw, oh, ow] -> [..., *shape]: windows added up where they lie. The transpose of `windows`.

    y[h] = sum of g[k, o] over o * stride + k * dilation = h + before; what lies outside is dropped. Sums run in float32
    for 16-bit floats and are rounded once.
    """
    g = as_value(g)
    shape = numbers(shape, 1 if isinstance(shape, int | np.integer) else len(shape), "shape")
    n = len(shape)
    if not n or g.ndim < 2 * n:
        raise ShapeError(f"needs {n} axes of windows and {n} of places, got {g.shape}")
    attrs = {"stride": numbers(stride, n, "stride"), "dilation": numbers(dilation, n, "dilation")}
    return make("overlap_add", [g], shape=shape, **attrs, before=numbers(before, n, "before", 0)).out


# ---- public faces ----------------------------------------------------------------------------------------------


def _moved_last(x: Value, axes: Sequence[int]) -> tuple[Value, tuple[int, ...]]:
    """x with the axes at the end, and where each axis of x went."""
    order = (*(a for a in range(x.ndim) if a not in axes), *axes)
    return transpose(x, order), tuple(sorted(range(x.ndim), key=order.__getitem__))


@composed(
    samples=samples(
        Sample((randn(3, 6), 4), {"axis": 1}), Sample((randn(4, 5), (2, 3))), Sample((randn(5, 2, 4), 2), {"axis": 0})
    )
)
def sliding_window_view(x: Operand, window_shape: Size, axis: Size | None = None) -> Value:
    """Every window of window_shape along the axes (all by default), in new last axes, as NumPy's. A view, no copy."""
    x = as_value(x)
    size = numbers(window_shape, 1 if isinstance(window_shape, int | np.integer) else len(window_shape), "window_shape")
    axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    axes = tuple(check_axis(a, x.ndim) for a in axes)
    if len(axes) != len(size):
        raise ShapeError(f"window_shape {window_shape} must have one size for each of {len(axes)} axes")
    if len(set(axes)) != len(axes):
        raise ArgumentError(f"axis {axis} names one axis twice")
    front, home = _moved_last(x, axes)
    counted(front.shape[x.ndim - len(size) :], size, (1,) * len(size), (1,) * len(size))
    found, lead, n = windows(front, size), x.ndim - len(size), len(size)
    spatial = [a if a < lead else a + n for a in home]
    return transpose(found, (*spatial, *range(lead, lead + n)))


@composed(samples=samples(Sample((randn(3, 7), 1, 3, 2)), Sample((randn(5, 2), 0, 2, 1)), Sample((randn(6), -1, 6, 4))))
def unfold_axis(x: Operand, dim: int, size: int, step: int) -> Value:
    """Windows of `size`, `step` apart, along one axis, in a new last axis: torch's Tensor.unfold. A view, no copy."""
    x = as_value(x)
    a = check_axis(dim, x.ndim, "dim")
    front, home = _moved_last(x, (a,))
    length, apart = numbers(size, 1, "size"), numbers(step, 1, "step")
    counted(front.shape[-1:], length, apart, (1,))
    found = windows(front, length, apart)
    return transpose(found, (*(i if i < x.ndim - 1 else x.ndim for i in home), x.ndim - 1))


def _patches(size: Ints, kernel: Any, dilation: Any, padding: Any, stride: Any) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """(kernel, dilation, padding, stride, windows along each axis) of unfold and fold, checked against the image."""
    kernel, dilation = numbers(kernel, 2, "kernel_size"), numbers(dilation, 2, "dilation")
    padding, stride = numbers(padding, 2, "padding", 0), numbers(stride, 2, "stride")
    padded = tuple(d + 2 * p for d, p in zip(size, padding, strict=True))
    return kernel, dilation, padding, stride, counted(padded, kernel, stride, dilation)


@composed(
    samples=samples(
        Sample((randn(2, 3, 5, 4), (2, 3))),
        Sample((randn(2, 4, 5), 2), {"dilation": (1, 2), "padding": 1, "stride": 2}),
    )
)
def unfold(
    input: Operand,
    kernel_size: Size,
    dilation: Size = 1,
    padding: Size = 0,
    stride: Size = 1,
) -> Value:
    """im2col: [N, C, H, W] or [C, H, W] -> [..., C * kh * kw, L], one column for each of the L windows, as in torch."""
    x = as_value(input)
    if x.ndim not in (3, 4):
        raise ShapeError(f"needs [N, C, H, W] or [C, H, W], got {x.shape}")
    kernel, dilation, padding, stride, counts = _patches(x.shape[-2:], kernel_size, dilation, padding, stride)
    found = windows(x, kernel, stride, dilation, padding, padding)
    return reshape(found, (*x.shape[:-3], x.shape[-3] * math.prod(kernel), math.prod(counts)))


@composed(
    samples=samples(
        Sample((randn(2, 12, 6), (4, 4), (2, 3)), {"padding": (0, 0), "stride": (1, 1)}),
        Sample((randn(8, 9), (4, 5), 2), {"dilation": (1, 2), "padding": 1, "stride": 2}),
    )
)
def fold(
    input: Operand,
    output_size: Size,
    kernel_size: Size,
    dilation: Size = 1,
    padding: Size = 0,
    stride: Size = 1,
) -> Value:
    """col2im: [N, C * kh * kw, L] -> [N, C, *output_size], windows added up where they overlap, as in torch."""
    x = as_value(input)
    if x.ndim not in (2, 3):
        raise ShapeError(f"needs [N, C * kh * kw, L] or [C * kh * kw, L], got {x.shape}")
    size = numbers(output_size, 2, "output_size")
    kernel, dilation, padding, stride, counts = _patches(size, kernel_size, dilation, padding, stride)
    if x.shape[-2] % math.prod(kernel) or x.shape[-1] != math.prod(counts):
        wanted = f"a multiple of {math.prod(kernel)} rows and {math.prod(counts)} columns"
        raise ShapeError(f"windows of {kernel} over {size} make {wanted}, got {x.shape}")
    apart = reshape(x, (*x.shape[:-2], x.shape[-2] // math.prod(kernel), *kernel, *counts))
    return overlap_add(apart, size, stride, dilation, padding)
