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
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.index_map import IndexMap, StridedView, row_major
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Sample, View, call
from ..types import TensorType, check_axis
from .define import Operand, as_value, composed, define, randn, samples
from .view import pad_with, reshape, slice_within, transpose

Ints = tuple[int, ...]


def positive(value: int | Sequence[int], n: int, what: str, least: int = 1) -> Ints:
    """One int for each of n axes, from an int for all or a sequence. Raises ArgumentError if one is below `least`."""
    given = (value,) * n if isinstance(value, int | np.integer) else tuple(value)
    if len(given) == 1:
        given *= n
    if len(given) != n or any(isinstance(v, bool) or not isinstance(v, int | np.integer) for v in given):
        raise ArgumentError(f"{what} must be an int or {n} ints, got {value!r}")
    if any(v < least for v in given):
        raise ArgumentError(f"{what} must be at least {least}, got {value!r}")
    return tuple(int(v) for v in given)


def spans(size: Ints, dilation: Ints) -> Ints:
    """How many places a window reaches over along each axis."""
    return tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))


# ---- windows ---------------------------------------------------------------------------------------------------


def _counts(shape: Ints, size: Ints, stride: Ints, dilation: Ints) -> Ints:
    """How many windows fit along each axis. Raises ShapeError if none does."""
    reach = spans(size, dilation)
    if any(r > h for r, h in zip(reach, shape, strict=True)):
        raise ShapeError(f"a window of {size}, dilated by {dilation}, does not fit axes of {shape}")
    return tuple((h - r) // s + 1 for h, r, s in zip(shape, reach, stride, strict=True))


def _windows_type(x: TensorType, *, size: Ints, stride: Ints, dilation: Ints) -> TensorType:
    lead = x.ndim - len(size)
    return x.with_shape((*x.shape[:lead], *size, *_counts(x.shape[lead:], size, stride, dilation)))


def _windows_map(node: Node) -> IndexMap:
    x, size = node.inputs[0], node.attrs["size"]
    own = row_major(x.shape)
    lead, slid = own[: x.ndim - len(size)], own[x.ndim - len(size) :]
    along = [tuple(n * s for n, s in zip(node.attrs[k], slid, strict=True)) for k in ("dilation", "stride")]
    view = StridedView(node.type.shape, (*lead, *along[0], *along[1]))
    return IndexMap.dense(x.shape).then(IndexMap((view,)))


def _windows_ref(x: np.ndarray, *, size: Ints, stride: Ints, dilation: Ints) -> np.ndarray:
    n = len(size)
    axes = tuple(range(x.ndim - n, x.ndim))
    found = np.lib.stride_tricks.sliding_window_view(x, spans(size, dilation), axes)
    found = found[(..., *(slice(None, None, s) for s in stride), *(slice(None, None, d) for d in dilation))]
    lead = tuple(range(x.ndim - n))
    return found.transpose((*lead, *range(x.ndim, x.ndim + n), *axes))


def _windows_vjp(node: Node, g: Value) -> list[Value | None]:
    x, (size, stride, dilation) = node.inputs[0], (node.attrs[k] for k in ("size", "stride", "dilation"))
    return [overlap_add(g, x.shape[x.ndim - len(size) :], stride, dilation)]


@define(
    "windows",
    infer=_windows_type,
    lowering=View(_windows_map),
    ref=_windows_ref,
    vjp=_windows_vjp,
    samples=samples(
        Sample((randn(7), 3)),
        Sample((randn(2, 9), 3), {"stride": 2, "dilation": 2}),
        Sample((randn(2, 6, 5), (2, 3)), {"stride": (3, 1), "dilation": (2, 1)}),
    ),
)
def windows(
    x: Operand, size: int | Sequence[int], stride: int | Sequence[int] = 1, dilation: int | Sequence[int] = 1
) -> Value:
    """[..., H, W] -> [..., kh, kw, oh, ow]: the windows of `size` along the last axes, as many as `size` has.

    Element (k, o) is x[o * stride + k * dilation]; a tail in which no whole window fits is left out.
    """
    x = as_value(x)
    n = 1 if isinstance(size, int | np.integer) else len(tuple(size))
    if not 0 < n <= x.ndim:
        raise ShapeError(f"windows over {n} axes do not fit a tensor of shape {x.shape}")
    size = positive(size, n, "size")
    return make(
        "windows", [x], size=size, stride=positive(stride, n, "stride"), dilation=positive(dilation, n, "dilation")
    ).out


# ---- the transpose ---------------------------------------------------------------------------------------------


def _spread_type(g: TensorType, *, shape: Ints, stride: Ints, dilation: Ints, fill: float) -> TensorType:
    n = len(shape)
    size, counts = g.shape[g.ndim - 2 * n : g.ndim - n], g.shape[g.ndim - n :]
    for k, o, h, s, d in zip(size, counts, shape, stride, dilation, strict=True):
        if (o - 1) * s + (k - 1) * d >= h:
            raise ShapeError(f"{o} windows of {k}, stride {s}, dilation {d} reach over an axis of {h}")
    return g.with_shape((*g.shape[: g.ndim - n], *shape))


def _spread_map(node: Node) -> IndexMap:
    """Two strided views. The one below puts stride - 1 masked places after each o, and enough masked o on both sides;
    the one above reads it along diagonals: (k, h) at place h - k * dilation."""
    g, (shape, stride, dilation) = node.inputs[0], (node.attrs[k] for k in ("shape", "stride", "dilation"))
    n = len(shape)
    front, size, counts = g.shape[: g.ndim - n], g.shape[g.ndim - 2 * n : g.ndim - n], g.shape[g.ndim - n :]
    before = [-(-(k - 1) * d // s) for k, s, d in zip(size, stride, dilation, strict=True)]
    after = [max(0, -(-h // s) - o) for h, s, o in zip(shape, stride, counts, strict=True)]
    still = (0,) * len(front)
    below = IndexMap.dense(g.shape).reshape((*front, *(m for o in counts for m in (o, 1))))
    below = below.pad(
        (*still, *(m for b in before for m in (b, 0))),
        (*still, *(m for a, s in zip(after, stride, strict=True) for m in (a, s - 1))),
    )
    widths = [(b + o + a) * s for b, o, a, s in zip(before, counts, after, stride, strict=True)]
    own = list(row_major((*front, *widths)))
    slid = own[len(front) :]
    offset = sum(b * s * unit for b, s, unit in zip(before, stride, slid, strict=True))
    for i, (d, unit) in enumerate(zip(dilation, slid, strict=True)):
        own[len(front) - n + i] -= d * unit
    return below.then(IndexMap((StridedView((*front, *shape), tuple(own), offset),)))


def _spread_ref(g: np.ndarray, *, shape: Ints, stride: Ints, dilation: Ints, fill: float) -> np.ndarray:
    n = len(shape)
    size, counts = g.shape[g.ndim - 2 * n : g.ndim - n], g.shape[g.ndim - n :]
    out = np.full((*g.shape[: g.ndim - n], *shape), fill, g.dtype)
    for k in np.ndindex(*size):
        places = zip(k, counts, stride, dilation, strict=True)
        at = tuple(slice(i * d, i * d + (o - 1) * s + 1, s) for i, o, s, d in places)
        out[(..., *k, *at)] = g[(..., *k, *(slice(None),) * n)]
    return out


@define(
    "spread",
    infer=_spread_type,
    lowering=View(_spread_map),
    ref=_spread_ref,
    vjp=lambda node, g: [
        make(
            "gather_spread",
            [g],
            counts=node.inputs[0].shape[node.inputs[0].ndim - len(node.attrs["shape"]) :],
            stride=node.attrs["stride"],
            dilation=node.attrs["dilation"],
        ).out
    ],
    samples=samples(
        Sample((randn(3, 4), (7,), (1,), (1,))),
        Sample((randn(2, 3, 2), (9,), (3,), (2,))),
        Sample((randn(2, 3, 2, 3), (5, 9), (2, 3), (2, 1))),
    ),
)
def spread(g: Operand, shape: Ints, stride: Ints, dilation: Ints) -> Value:
    """[..., kh, kw, oh, ow] -> [..., kh, kw, H, W]: g[k, o] at place o * stride + k * dilation, zeros elsewhere."""
    return make("spread", [as_value(g)], shape=shape, stride=stride, dilation=dilation, fill=0).out


def _gather_spread_type(g: TensorType, *, counts: Ints, stride: Ints, dilation: Ints) -> TensorType:
    return g.with_shape((*g.shape[: g.ndim - len(counts)], *counts))


def _gather_spread_map(node: Node) -> IndexMap:
    g, (counts, stride, dilation) = node.inputs[0], (node.attrs[k] for k in ("counts", "stride", "dilation"))
    own = list(row_major(g.shape))
    n, first = len(counts), g.ndim - len(counts)
    for i, (s, d) in enumerate(zip(stride, dilation, strict=True)):
        own[first - n + i] += d * own[first + i]
        own[first + i] *= s
    return IndexMap.dense(g.shape).then(IndexMap((StridedView(node.type.shape, tuple(own)),)))


def _gather_spread_ref(g: np.ndarray, *, counts: Ints, stride: Ints, dilation: Ints) -> np.ndarray:
    n = len(counts)
    out = np.empty((*g.shape[: g.ndim - n], *counts), g.dtype)
    for k in np.ndindex(*g.shape[g.ndim - 2 * n : g.ndim - n]):
        places = zip(k, counts, stride, dilation, strict=True)
        at = tuple(slice(i * d, i * d + (o - 1) * s + 1, s) for i, o, s, d in places)
        out[(..., *k, *(slice(None),) * n)] = g[(..., *k, *at)]
    return out


@define(
    "gather_spread",
    infer=_gather_spread_type,
    lowering=View(_gather_spread_map),
    ref=_gather_spread_ref,
    vjp=lambda node, g: [
        spread(
            g,
            node.inputs[0].shape[g.ndim - len(node.attrs["counts"]) :],
            node.attrs["stride"],
            node.attrs["dilation"],
        )
    ],
    samples=samples(Sample((randn(3, 7), (4,), (1,), (1,))), Sample((randn(2, 3, 5, 8), (2, 3), (2, 2), (2, 1)))),
)
def gather_spread(g: Operand, counts: Ints, stride: Ints, dilation: Ints) -> Value:
    """The transpose of `spread`: element (k, o) is g[k, o * stride + k * dilation]."""
    return make("gather_spread", [as_value(g)], counts=counts, stride=stride, dilation=dilation).out


def _overlap_type(g: TensorType, *, shape: Ints, stride: Ints, dilation: Ints) -> TensorType:
    n = len(shape)
    _spread_type(g, shape=shape, stride=stride, dilation=dilation, fill=0)
    return g.with_shape((*g.shape[: g.ndim - 2 * n], *shape))


def _overlap_build(node: Node) -> Value:
    """The sum of `spread` over the window axes; windows that do not overlap are only put side by side."""
    g, (shape, stride, dilation) = node.inputs[0], (node.attrs[k] for k in ("shape", "stride", "dilation"))
    n = len(shape)
    lead = g.ndim - 2 * n
    size, counts = g.shape[lead : lead + n], g.shape[lead + n :]
    if any(d != 1 or k > s for k, s, d in zip(size, stride, dilation, strict=True)):
        wide = call("cast", g, g.dtype.compute)
        total = call("sum", spread(wide, shape, stride, dilation), axis=tuple(range(lead, lead + n)))
        return call("cast", total, g.dtype)
    order = (*range(lead), *itertools.chain(*((lead + n + i, lead + i) for i in range(n))))
    gaps = [m for s, k in zip(stride, size, strict=True) for m in (0, s - k)]
    tiles = pad_with(transpose(g, order), [0] * g.ndim, [*[0] * lead, *gaps])
    side = reshape(tiles, (*g.shape[:lead], *(o * s for o, s in zip(counts, stride, strict=True))))
    side = slice_within(side, [0] * side.ndim, [min(a, b) for a, b in zip(side.shape, node.type.shape, strict=True)])
    return pad_with(side, [0] * side.ndim, [b - a for a, b in zip(side.shape, node.type.shape, strict=True)])


def _overlap_ref(g: np.ndarray, *, shape: Ints, stride: Ints, dilation: Ints) -> np.ndarray:
    n = len(shape)
    lead = g.ndim - 2 * n
    out = np.zeros((*g.shape[:lead], *shape), g.dtype)
    for k in np.ndindex(*g.shape[lead : lead + n]):
        places = zip(k, g.shape[lead + n :], stride, dilation, strict=True)
        at = tuple(slice(i * d, i * d + (o - 1) * s + 1, s) for i, o, s, d in places)
        out[(..., *at)] += g[(slice(None),) * lead + k]
    return out


@define(
    "overlap_add",
    infer=_overlap_type,
    lowering=Composite(_overlap_build),
    ref=_overlap_ref,
    vjp=lambda node, g: [
        windows(
            _reached(g, node),
            node.inputs[0].shape[g.ndim - len(node.attrs["shape"]) :][: len(node.attrs["shape"])],
            node.attrs["stride"],
            node.attrs["dilation"],
        )
    ],
    samples=samples(
        Sample((randn(3, 5), 7)),
        Sample((randn(2, 3, 4), 10), {"stride": 2}),
        Sample((randn(2, 2, 3), 9), {"stride": 3}),
        Sample((randn(2, 3, 2, 4), (7, 10)), {"stride": (2, 2), "dilation": (3, 1)}),
    ),
)
def overlap_add(
    g: Operand, shape: int | Sequence[int], stride: int | Sequence[int] = 1, dilation: int | Sequence[int] = 1
) -> Value:
    """[..., kh, kw, oh, ow] -> [..., *shape]: windows added up where they lie. The transpose of `windows`.

    y[h] = sum of g[k, o] over o * stride + k * dilation = h, in float32 for 16-bit floats, rounded once.
    """
    g = as_value(g)
    shape = positive(shape, 1 if isinstance(shape, int | np.integer) else len(tuple(shape)), "shape")
    n = len(shape)
    if not n or g.ndim < 2 * n:
        raise ShapeError(f"needs {n} axes of windows and {n} of places, got {g.shape}")
    attrs = {"stride": positive(stride, n, "stride"), "dilation": positive(dilation, n, "dilation")}
    return make("overlap_add", [g], shape=shape, **attrs).out


def _reached(g: Value, node: Node) -> Value:
    """g cut to the places that some window reaches, so that `windows` finds exactly as many again."""
    shape, source = node.attrs["shape"], node.inputs[0].shape
    n = len(shape)
    lead = len(source) - 2 * n
    sizes = [
        (o - 1) * s + (k - 1) * d + 1
        for k, o, s, d in zip(
            source[lead : lead + n], source[lead + n :], node.attrs["stride"], node.attrs["dilation"], strict=True
        )
    ]
    return slice_within(g, [0] * g.ndim, [*g.shape[:lead], *sizes])


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
def sliding_window_view(
    x: Operand, window_shape: int | Sequence[int], axis: int | Sequence[int] | None = None
) -> Value:
    """Every window of window_shape along the axes (all by default), in new last axes, as NumPy's. A view, no copy."""
    x = as_value(x)
    size = positive(
        window_shape, 1 if isinstance(window_shape, int | np.integer) else len(window_shape), "window_shape"
    )
    axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    axes = tuple(check_axis(a, x.ndim) for a in axes)
    if len(axes) != len(size):
        raise ShapeError(f"window_shape {window_shape} must have one size for each of {len(axes)} axes")
    if len(set(axes)) != len(axes):
        raise ArgumentError(f"axis {axis} names one axis twice")
    front, home = _moved_last(x, axes)
    found, lead, n = windows(front, size), x.ndim - len(size), len(size)
    spatial = [a if a < lead else a + n for a in home]
    return transpose(found, (*spatial, *range(lead, lead + n)))


@composed(samples=samples(Sample((randn(3, 7), 1, 3, 2)), Sample((randn(5, 2), 0, 2, 1)), Sample((randn(6), -1, 6, 4))))
def unfold_axis(x: Operand, dim: int, size: int, step: int) -> Value:
    """Windows of `size`, `step` apart, along one axis, in a new last axis: torch's Tensor.unfold. A view, no copy."""
    x = as_value(x)
    a = check_axis(dim, x.ndim, "dim")
    front, home = _moved_last(x, (a,))
    found = windows(front, positive(size, 1, "size"), positive(step, 1, "step"))
    return transpose(found, (*(i if i < x.ndim - 1 else x.ndim for i in home), x.ndim - 1))


def _patches(size: Ints, kernel: Any, dilation: Any, padding: Any, stride: Any) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """(kernel, dilation, padding, stride, windows along each axis) of unfold and fold, checked against the image."""
    kernel, dilation = positive(kernel, 2, "kernel_size"), positive(dilation, 2, "dilation")
    padding, stride = positive(padding, 2, "padding", 0), positive(stride, 2, "stride")
    padded = tuple(d + 2 * p for d, p in zip(size, padding, strict=True))
    return kernel, dilation, padding, stride, _counts(padded, kernel, stride, dilation)


@composed(
    samples=samples(
        Sample((randn(2, 3, 5, 4), (2, 3))),
        Sample((randn(2, 4, 5), 2), {"dilation": (1, 2), "padding": 1, "stride": 2}),
    )
)
def unfold(
    input: Operand,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    stride: int | Sequence[int] = 1,
) -> Value:
    """im2col: [N, C, H, W] or [C, H, W] -> [..., C * kh * kw, L], one column for each of the L windows, as in torch."""
    x = as_value(input)
    if x.ndim not in (3, 4):
        raise ShapeError(f"needs [N, C, H, W] or [C, H, W], got {x.shape}")
    kernel, dilation, padding, stride, counts = _patches(x.shape[-2:], kernel_size, dilation, padding, stride)
    room = [*[0] * (x.ndim - 2), *padding]
    found = windows(pad_with(x, room, room), kernel, stride, dilation)
    return reshape(found, (*x.shape[:-3], x.shape[-3] * math.prod(kernel), math.prod(counts)))


@composed(
    samples=samples(
        Sample((randn(2, 12, 6), (4, 4), (2, 3)), {"padding": (0, 0), "stride": (1, 1)}),
        Sample((randn(8, 9), (4, 5), 2), {"dilation": (1, 2), "padding": 1, "stride": 2}),
    )
)
def fold(
    input: Operand,
    output_size: int | Sequence[int],
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    stride: int | Sequence[int] = 1,
) -> Value:
    """col2im: [N, C * kh * kw, L] -> [N, C, *output_size], windows added up where they overlap, as in torch."""
    x = as_value(input)
    if x.ndim not in (2, 3):
        raise ShapeError(f"needs [N, C * kh * kw, L] or [C * kh * kw, L], got {x.shape}")
    size = positive(output_size, 2, "output_size")
    kernel, dilation, padding, stride, counts = _patches(size, kernel_size, dilation, padding, stride)
    if x.shape[-2] % math.prod(kernel) or x.shape[-1] != math.prod(counts):
        wanted = f"a multiple of {math.prod(kernel)} rows and {math.prod(counts)} columns"
        raise ShapeError(f"windows of {kernel} over {size} make {wanted}, got {x.shape}")
    apart = reshape(x, (*x.shape[:-2], x.shape[-2] // math.prod(kernel), *kernel, *counts))
    padded = [d + 2 * p for d, p in zip(size, padding, strict=True)]
    total = overlap_add(apart, padded, stride, dilation)
    return slice_within(total, [*[0] * (total.ndim - 2), *padding], (*total.shape[:-2], *size))
