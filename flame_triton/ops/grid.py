"""Sampling an image at places that a tensor gives, as in spatial transformers (Jaderberg et al. 2015).

A place is a vector (x, y) or (x, y, z) in -1 .. 1 across the image. Each result is a weighted sum of neighbours: along
every axis t = place - floor(place) gives the weights (1 - t, t), or the four of cubic convolution. All neighbours are
fetched by one gather, and gradients reach the image through it and the grid through the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import int64
from .define import Operand, as_value, composed, randn, samples, wide
from .indexing import gather_rows
from .join import stack
from .logic import where
from .view import expand_dims, reshape, transpose

__all__ = ["affine_grid", "grid_sample"]

A = -0.75  # of the cubic convolution kernel (Keys 1981), as in interpolate


def _within(place: Value, size: int) -> Value:
    """The place clamped to the image; no gradient where it is clamped, or at the very ends, as in torch."""
    last = float(size - 1)
    return where(call("less_equal", place, 0.0), 0.0, where(call("greater_equal", place, last), last, place))


def _reflected(place: Value, size: int, align_corners: bool) -> Value:
    """The place reflected into the image: about the centres of the outermost pixels, or about their outer edges."""
    low, span = (0.0, float(size - 1)) if align_corners else (-0.5, float(size))
    if span == 0:
        return call("mul", place, 0.0)
    distance = call("abs", place - low)
    times = call("floor", distance / span)
    rest = distance - times * span
    odd = call("not_equal", call("remainder", times, 2.0), 0.0)
    return where(odd, span - rest, rest) + low


def _padded(place: Value, size: int, padding_mode: str, align_corners: bool) -> Value:
    if padding_mode == "zeros":
        return place
    place = _reflected(place, size, align_corners) if padding_mode == "reflection" else place
    return _within(place, size)


def _cubic(t: Value) -> list[Value]:
    """Weights of the neighbours at -1, 0, 1 and 2."""

    def far(d: Value) -> Value:
        return ((d - 5.0) * d + 8.0) * d * A - 4 * A

    def near(d: Value) -> Value:
        return ((A + 2) * d - (A + 3)) * d * d + 1.0

    return [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]


def _taps(place: Value, size: int, mode: str, padding_mode: str, align_corners: bool) -> tuple[Value, Value, Value]:
    """(neighbours, weights, which exist) along one axis, each [taps, M], for places [M]."""
    if mode != "bicubic":
        place = _padded(place, size, padding_mode, align_corners)
    if mode == "nearest":
        neighbours = expand_dims(call("round", place), 0)
        weights = 1.0 - call("trunc", place - neighbours)  # ones that know of the grid, whose gradient is zero
    else:
        first = call("floor", place)
        t = place - first
        weights = stack([1.0 - t, t] if mode == "bilinear" else _cubic(t))
        offsets = np.arange(2.0) if mode == "bilinear" else np.arange(-1.0, 3.0)
        neighbours = first + call("constant", offsets[:, None], place.dtype)
    if mode == "bicubic":
        neighbours = _padded(neighbours, size, padding_mode, align_corners)
    there = call("logical_and", call("greater_equal", neighbours, 0.0), call("less_equal", neighbours, float(size - 1)))
    index = call("cast", where(there, neighbours, 0.0), int64)
    return index, weights, there


def _checked(input: Operand, grid: Operand, mode: str, padding_mode: str) -> tuple[Value, Value]:
    x, grid = as_value(input), as_value(grid)
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise ArgumentError(f"mode must be bilinear, nearest or bicubic, got {mode!r}")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ArgumentError(f"padding_mode must be zeros, border or reflection, got {padding_mode!r}")
    n = x.ndim - 2
    if n not in (2, 3) or (mode == "bicubic" and n != 2):
        raise ShapeError(f"needs [N, C, H, W]{'' if mode == 'bicubic' else ' or [N, C, D, H, W]'}, got {x.shape}")
    if grid.ndim != x.ndim or grid.shape[0] != x.shape[0] or grid.shape[-1] != n:
        raise ShapeError(f"grid must be [{x.shape[0]}, ..., {n}] of {x.ndim} axes, got {grid.shape}")
    if 0 in x.shape[2:]:
        raise ShapeError(f"there is nothing to sample in {x.shape}")
    if not x.dtype.is_float or grid.dtype is not x.dtype:
        raise DTypeError(f"input and grid must be floating, of one dtype; got {x.dtype} and {grid.dtype}")
    return x, grid


@composed(
    samples=samples(
        Sample((randn(2, 3, 4, 3), randn(2, 2, 5, 2, low=-1.2, high=1.2)), {"align_corners": False}),
        Sample(
            (randn(1, 2, 3, 4), randn(1, 3, 2, 2)), {"mode": "bicubic", "padding_mode": "border", "align_corners": True}
        ),
        Sample((randn(1, 2, 3, 4), randn(1, 3, 2, 2)), {"padding_mode": "reflection", "align_corners": True}),
        Sample((randn(1, 2, 3, 4), randn(1, 3, 2, 2)), {"mode": "nearest", "align_corners": False}),
        Sample((randn(1, 2, 2, 3, 2), randn(1, 1, 2, 2, 3, low=-1.2, high=1.2)), {"align_corners": True}),
    )
)
def grid_sample(
    input: Operand,
    grid: Operand,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Value:
    """input [N, C, H, W] sampled at grid [N, oh, ow, 2], of places (x, y) -> [N, C, oh, ow]; or [N, C, D, H, W] and
    [N, od, oh, ow, 3].

    -1 and 1 are the outer edges of the image, or with align_corners the centres of its outermost pixels. mode:
    bilinear, nearest, bicubic (images alone). padding_mode: what lies outside: zeros, border, reflection.
    """
    x, grid = _checked(input, grid, mode, padding_mode)
    plane, (batch, *places) = x.shape[2:], grid.shape[:-1]
    count = math.prod(grid.shape[:-1])
    coordinates = reshape(wide(grid), (count, len(plane)))
    n = reshape(call("arange", count), (count,))
    index = call("floor_divide", n, max(count // max(batch, 1), 1))
    weights: Value | None = None
    there: Value | None = None
    for i, size in enumerate(plane):
        unit = reshape(call("narrow", coordinates, 1, len(plane) - 1 - i, 1), (count,))
        place = (unit + 1.0) * ((size - 1) / 2) if align_corners else ((unit + 1.0) * float(size) - 1.0) * 0.5
        neighbours, weight, inside = _taps(place, size, mode, padding_mode, bool(align_corners))
        index = expand_dims(index, -2) * size + neighbours
        weights = weight if weights is None else expand_dims(weights, -2) * weight
        there = inside if there is None else call("logical_and", expand_dims(there, -2), inside)
    assert weights is not None and there is not None
    table = reshape(transpose(x, (0, *range(2, x.ndim), 1)), (x.size // x.shape[1], x.shape[1]))
    found = wide(gather_rows(table, reshape(index, (index.size,))))
    found = where(reshape(there, (there.size, 1)), found, 0.0) * reshape(weights, (weights.size, 1))
    total = call("sum", reshape(found, (index.size // max(count, 1), count, x.shape[1])), axis=0)
    total = reshape(call("cast", total, x.dtype), (batch, *places, x.shape[1]))
    return transpose(total, (0, total.ndim - 1, *range(1, total.ndim - 1)))


def _across(size: int, align_corners: bool) -> np.ndarray:
    """The places of the pixels of an axis in -1 .. 1."""
    if align_corners:
        return np.linspace(-1, 1, size) if size > 1 else np.zeros(size)
    return (2 * np.arange(size) + 1) / size - 1


@composed(
    samples=samples(
        Sample((randn(2, 2, 3), (2, 3, 4, 2), False)),
        Sample((randn(1, 2, 3), (1, 1, 3, 2)), {"align_corners": True}),
        Sample((randn(1, 3, 4), (1, 2, 2, 3, 2), False)),
    )
)
def affine_grid(theta: Operand, size: Sequence[int], align_corners: bool | None = None) -> Value:
    """The grid of an affine map: theta [N, 2, 3] and size (N, C, H, W) -> [N, H, W, 2]; or [N, 3, 4] and five sizes.

    Place (x, y) of the result reads theta (x, y, 1). For grid_sample with the same align_corners.
    """
    theta, size = as_value(theta), tuple(int(d) for d in size)
    n = len(size) - 2
    if n not in (2, 3) or theta.shape != (size[0], n, n + 1) or min(size) < 1:
        wanted = "theta [N, 2, 3] with size (N, C, H, W), or [N, 3, 4] with five sizes"
        raise ShapeError(f"needs {wanted}, got {theta.shape} and {size}")
    if not theta.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {theta.dtype}")
    axes = np.meshgrid(*(_across(d, bool(align_corners)) for d in size[2:]), indexing="ij")
    base = np.stack([*reversed(axes), np.ones(size[2:])], -1).reshape(-1, n + 1)
    wider = wide(theta)
    found = call("matmul", call("constant", base, wider.dtype), call("swapaxes", wider, 1, 2))
    return call("cast", reshape(found, (size[0], *size[2:], n)), theta.dtype)
