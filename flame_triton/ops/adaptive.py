"""Pooling to a given size, and its undoing. Output i covers inputs floor(i h / o) up to ceil((i + 1) h / o) of an axis.

Where the sizes divide, these are plain windows side by side. Else the mean is a constant matrix [out, in] for each
axis, and the largest is taken over windows read by index, padded to the longest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import int32
from .define import Operand, as_value, composed, integers, randn, samples, wide
from .pool import NOWHERE, floating_image, image, lowest, pooled_max
from .resize import apply_matrix
from .view import broadcast_to, reshape, transpose
from .window import Ints, Size, numbers, windows

# fmt: off
__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d",
]
# fmt: on

Sizes = int | None | Sequence[int | None]


def _output_size(x: Value, n: int, output_size: Sizes) -> Ints:
    plane = x.shape[x.ndim - n :]
    given = (output_size,) * n if output_size is None or isinstance(output_size, int) else tuple(output_size)
    if len(given) != n:
        raise ArgumentError(f"output_size must be an int or {n}, got {output_size!r}")
    if 0 in plane:
        raise ShapeError(f"there is nothing to pool in {x.shape}")
    return numbers([d if o is None else o for d, o in zip(plane, given, strict=True)], n, "output_size")


def _edges(h: int, o: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each window of an axis begins and ends."""
    i = np.arange(o)
    return i * h // o, -(-(i + 1) * h // o)


# ---- average ---------------------------------------------------------------------------------------------------


def _means(h: int, o: int) -> np.ndarray:
    """The matrix [o, h] that averages each window."""
    start, end = _edges(h, o)
    place = np.arange(h)
    inside = (place >= start[:, None]) & (place < end[:, None])
    return inside / (end - start)[:, None]


def _adaptive_avg(n: int, input: Operand, output_size: Sizes) -> Value:
    x = floating_image(input, n)
    sizes, lead, dtype = _output_size(x, n, output_size), x.ndim - n, x.dtype
    x = wide(x)
    for i, o in enumerate(sizes):
        h = x.shape[lead + i]
        if h % o:
            x = apply_matrix(x, lead + i, _means(h, o))
    apart = [m for h, o in zip(x.shape[lead:], sizes, strict=True) for m in (o, h // o)]
    axes = tuple(lead + 2 * i + 1 for i in range(n))
    return call("cast", call("mean", reshape(x, (*x.shape[:lead], *apart)), axis=axes), dtype)


@composed(samples=samples(Sample((randn(2, 3, 6), 3)), Sample((randn(2, 7), 4))))
def adaptive_avg_pool1d(input: Operand, output_size: int) -> Value:
    """The mean over output_size windows that cover the axis: [N, C, L] or [C, L]. See adaptive_avg_pool2d."""
    return _adaptive_avg(1, input, output_size)


@composed(
    samples=samples(
        Sample((randn(2, 3, 4, 6), 1)), Sample((randn(2, 5, 6), (3, None))), Sample((randn(1, 2, 4, 3), (2, 5)))
    )
)
def adaptive_avg_pool2d(input: Operand, output_size: Sizes) -> Value:
    """[N, C, H, W] or [C, H, W] -> [..., *output_size]: means of windows that cover the image; None keeps an axis.

    output_size 1 is global pooling. Windows differ in size by one, and overlap, where the sizes do not divide.
    """
    return _adaptive_avg(2, input, output_size)


@composed(samples=samples(Sample((randn(1, 2, 2, 4, 3), (1, 2, 3))), Sample((randn(1, 3, 2, 4), (2, None, 3)))))
def adaptive_avg_pool3d(input: Operand, output_size: Sizes) -> Value:
    """The mean over windows that cover [N, C, D, H, W] or [C, D, H, W]. See adaptive_avg_pool2d."""
    return _adaptive_avg(3, input, output_size)


# ---- max -------------------------------------------------------------------------------------------------------


def _window_places(plane: Ints, sizes: Ints) -> tuple[list[np.ndarray], np.ndarray]:
    """For every axis the index [k, o] of its windows, repeating the last element of short ones; and the places
    [k..., o...] in the flattened plane, NOWHERE where repeated."""
    n = len(plane)
    index: list[np.ndarray] = []
    places, inside = np.zeros((1,) * 2 * n, np.int64), np.ones((1,) * 2 * n, np.bool_)
    for i, (h, o) in enumerate(zip(plane, sizes, strict=True)):
        start, end = _edges(h, o)
        longest = int((end - start).max())
        found = start + np.arange(longest)[:, None]
        index.append(np.minimum(found, end - 1))
        shape = [1] * 2 * n
        shape[i], shape[n + i] = longest, o
        places = places * h + index[i].reshape(shape)
        inside = inside & (found < end).reshape(shape)
    return index, np.where(inside, places, NOWHERE).astype(np.int32)


def _adaptive_max(n: int, input: Operand, output_size: Sizes, return_indices: bool) -> Any:
    x = image(input, n)
    sizes, lead = _output_size(x, n, output_size), x.ndim - n
    plane = x.shape[lead:]
    if all(h % o == 0 for h, o in zip(plane, sizes, strict=True)):
        kernel = tuple(h // o for h, o in zip(plane, sizes, strict=True))
        numbered = reshape(call("arange", math.prod(plane), dtype=int32), plane)
        return pooled_max(windows(x, kernel, kernel), windows(numbered, kernel, kernel), return_indices)
    index, places = _window_places(plane, sizes)
    for i, table in enumerate(index):
        x = call("take", x, table, axis=lead + 2 * i)
    x = transpose(x, (*range(lead), *range(lead, x.ndim, 2), *range(lead + 1, x.ndim, 2)))
    numbered = call("constant", places)
    padding = broadcast_to(call("equal", numbered, NOWHERE), x.shape)
    return pooled_max(call("where", padding, lowest(x), x), numbered, return_indices)


@composed(samples=samples(Sample((randn(2, 3, 6), 3)), Sample((randn(2, 7), 4), {"return_indices": True})))
def adaptive_max_pool1d(input: Operand, output_size: int, return_indices: bool = False) -> Any:
    """The largest of output_size windows that cover the axis: [N, C, L] or [C, L]. See adaptive_max_pool2d."""
    return _adaptive_max(1, input, output_size, return_indices)


@composed(
    samples=samples(Sample((randn(2, 3, 4, 6), 2), {"return_indices": True}), Sample((randn(2, 5, 4), (3, None))))
)
def adaptive_max_pool2d(input: Operand, output_size: Sizes, return_indices: bool = False) -> Any:
    """[N, C, H, W] or [C, H, W] -> [..., *output_size]: the largest of windows that cover the image.

    None keeps an axis. Of equal elements the first has the gradient. return_indices: also their int64 places in the
    flattened plane.
    """
    return _adaptive_max(2, input, output_size, return_indices)


@composed(samples=samples(Sample((randn(1, 2, 2, 4, 3), (1, 2, 3))), Sample((randn(1, 3, 2, 4), (2, None, 3)))))
def adaptive_max_pool3d(input: Operand, output_size: Sizes, return_indices: bool = False) -> Any:
    """The largest of windows that cover [N, C, D, H, W] or [C, D, H, W]. See adaptive_max_pool2d."""
    return _adaptive_max(3, input, output_size, return_indices)


# ---- unpooling -------------------------------------------------------------------------------------------------


def _unpool(
    n: int,
    input: Operand,
    indices: Operand,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    output_size: Sequence[int] | None,
) -> Value:
    x, places = floating_image(input, n), as_value(indices)
    if places.shape != x.shape:
        raise ShapeError(f"indices {places.shape} must have input's shape {x.shape}")
    lead = x.ndim - n
    kernel = numbers(kernel_size, n, "kernel_size")
    steps = kernel if stride is None else numbers(stride, n, "stride")
    before = numbers(padding, n, "padding", 0)
    plain = [(o - 1) * s - 2 * p + k for o, k, s, p in zip(x.shape[lead:], kernel, steps, before, strict=True)]
    sizes = plain if output_size is None else list(output_size)[-n:]
    if len(sizes) != n or any(abs(a - b) >= s for a, b, s in zip(sizes, plain, steps, strict=True)):
        raise ArgumentError(f"output_size {output_size} must lie within {steps} of {tuple(plain)}")
    flat = (math.prod(x.shape[:lead]), math.prod(x.shape[lead:]))
    nothing = call("zeros", (flat[0], math.prod(sizes)), x.dtype.compute)
    places = reshape(places, flat)
    total = call("scatter_add", nothing, 1, places, reshape(wide(x), flat))
    count = call("scatter_add", nothing, 1, places, call("ones", flat, nothing.dtype))
    spread = call("div", total, call("maximum", count, 1.0))
    return call("cast", reshape(spread, (*x.shape[:lead], *sizes)), x.dtype)


@composed(samples=samples(Sample((randn(2, 1, 3), np.array([[[1, 2, 4]], [[0, 3, 5]]]), 2))))
def max_unpool1d(
    input: Operand,
    indices: Operand,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Value:
    """The undoing of max_pool1d: [N, C, L] or [C, L]. See max_unpool2d."""
    return _unpool(1, input, indices, kernel_size, stride, padding, output_size)


@composed(
    samples=samples(
        Sample((randn(1, 2, 2), np.array([[[0, 3], [8, 11]]]), 2)),
        Sample((randn(1, 1, 2, 2), np.array([[[[1, 3], [12, 14]]]]), 2), {"output_size": (5, 5)}),
    )
)
def max_unpool2d(
    input: Operand,
    indices: Operand,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Value:
    """input's elements at the places `indices` in a plane of zeros, as max_pool2d(return_indices=True) gives them.

    output_size: default (o - 1) * stride - 2 * padding + kernel_size. A place named several times gets the mean.
    """
    return _unpool(2, input, indices, kernel_size, stride, padding, output_size)


@composed(samples=samples(Sample((randn(1, 1, 1, 1, 2), integers(1, 1, 1, 1, 2, high=2) + np.array([0, 2]), 2))))
def max_unpool3d(
    input: Operand,
    indices: Operand,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Value:
    """The undoing of max_pool3d: [N, C, D, H, W] or [C, D, H, W]. See max_unpool2d."""
    return _unpool(3, input, indices, kernel_size, stride, padding, output_size)
