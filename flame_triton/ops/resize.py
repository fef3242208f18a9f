"""Resizing images, with torch's coordinates for every mode.

Every mode is separable. `nearest` reads one element for each: a repetition or a strided slice where the sizes divide,
else a gather. The others are a weighted mean of neighbours: one constant matrix [out, in] for each axis, applied in the
compute type, so the gradient is that of its transpose. `area` is an adaptive mean.

Where output element i lies, in input elements: scale * (i + 1/2) - 1/2 with scale = in / out, or 1 / scale_factor if
that is what was given; with align_corners i * (in - 1) / (out - 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Sample, call
from ..types import DType, TensorType, bool_, float64
from .define import Operand, as_value, composed, define, randn, samples, wide
from .view import slice_within
from .window import Ints, Size, numbers, windows

__all__ = ["interpolate", "upsample", "upsample_bilinear", "upsample_nearest"]

Factor = float | Sequence[float]


# ---- a matrix along an axis -----------------------------------------------------------------------------------

BAND = 16
"""Up to this many neighbours are summed over windows; beyond, the whole matrix is multiplied."""


def _matrix_build(node: Node) -> Value:
    """Each block of out / g rows reads windows of the `in` elements, in / g apart, where g is the greatest common
    divisor: sum over t of weight[t, i, r] x[i * in / g + first + t] is element r of block i. One fused kernel."""
    x, axis, matrix = wide(node.inputs[0]), node.attrs["axis"], node.attrs["matrix"]
    lead, (out, size), rest = x.shape[:axis], matrix.shape, x.shape[axis + 1 :]
    blocks = math.gcd(out, size)
    step, row, column = size // blocks, *np.nonzero(matrix)
    offset = column - row // (out // blocks) * step
    first, last = (int(offset.min()), int(offset.max())) if len(offset) else (0, 0)
    first = min(first, 0)
    taps = last - first + 1
    if taps > BAND:
        return call("cast", _dense_product(x, axis, matrix), node.type.dtype)
    weights = np.zeros((taps, out))
    weights[offset - first, row] = matrix[row, column]
    ones = (1,) * len(rest)
    after = (blocks - 1) * step + taps + first - size
    found = windows(x, (taps, *ones), (step, *ones), before=(-first, *[0] * len(rest)), after=(after, *[0] * len(rest)))
    shape = (*lead, taps, blocks, out // blocks, *rest)
    found = call("broadcast_to", call("reshape", found, (*lead, taps, blocks, 1, *rest)), shape)
    channels = min(axis, 2)  # the sum stands behind [N, C], so that a program walks along whole planes
    found = call("transpose", found, (*range(channels), axis, *range(channels, axis), *range(axis + 1, found.ndim)))
    table = weights.reshape(taps, *(1,) * (axis - channels), blocks, out // blocks, *ones)
    total = call("sum", call("mul", found, call("constant", table, x.dtype)), axis=channels)
    return call("cast", call("reshape", total, node.type.shape), node.type.dtype)


def _dense_product(x: Value, axis: int, matrix: np.ndarray) -> Value:
    table = call("constant", matrix, x.dtype)
    lead, rest = x.shape[:axis], x.shape[axis + 1 :]
    shape = (*lead, matrix.shape[0], *rest)
    if math.prod(rest) == 1:
        rows = call("reshape", x, (math.prod(lead), x.shape[axis]))
        return call("reshape", call("matmul", rows, call("transpose", table)), shape)
    planes = call("reshape", x, (math.prod(lead), x.shape[axis], math.prod(rest)))
    return call("reshape", call("matmul", table, planes), shape)


def _matrix_type(x: TensorType, *, axis: int, matrix: np.ndarray) -> TensorType:
    if not x.dtype.is_float or matrix.ndim != 2 or x.shape[axis] != matrix.shape[1]:
        raise ShapeError(f"a matrix {matrix.shape} does not fit axis {axis} of {x}")
    return x.with_shape((*x.shape[:axis], matrix.shape[0], *x.shape[axis + 1 :]))


def _matrix_ref(x: np.ndarray, *, axis: int, matrix: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.tensordot(matrix.astype(x.dtype), x, (1, axis)), 0, axis)


_BANDED = np.array([[0.5, 0, 0, 0], [0.3, 0.7, 0, 0], [0, 0.2, 0.8, 0], [0, 0, 1, -1], [0, 0, 0.1, 2], [0, 0, 0, 3]])


@define(
    "apply_matrix",
    infer=_matrix_type,
    lowering=Composite(_matrix_build),
    ref=_matrix_ref,
    vjp=lambda node, g: [call("apply_matrix", g, node.attrs["axis"], node.attrs["matrix"].T)],
    samples=lambda: [
        Sample((randn(2, 4, 3), 1, _BANDED.tolist())),
        Sample((randn(3, 20), 1, randn(3, 20, seed=1).tolist())),
    ],
)
def apply_matrix(x: Operand, axis: int, matrix: Any) -> Value:
    """An axis of x, of `in` elements, multiplied by a constant matrix [out, in]; 16-bit floats are rounded once.

    A banded matrix, as of resizing, is a sum over sliding windows; any other is a matrix product.
    """
    x = as_value(x)
    table = np.array(matrix, x.dtype.compute.numpy).astype(np.float64)  # what the kernel holds, for the oracle too
    table.setflags(write=False)
    return make("apply_matrix", [x], axis=axis, matrix=table).out


# ---- weights of one axis ---------------------------------------------------------------------------------------


def _scale(size: int, out: int, factor: float | None, align_corners: bool) -> float:
    """Input elements for each output element."""
    if align_corners:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    return 1 / factor if factor else size / out


def _matrix(size: int, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[out, in] from the places of the neighbours, clamped to the image, and their weights, both [out, taps]."""
    found = np.zeros((len(places), size))
    np.add.at(found, (np.arange(len(places))[:, None], np.clip(places, 0, size - 1)), weights)
    return found


def _linear(size: int, out: int, factor: float | None, align_corners: bool) -> np.ndarray:
    scale = _scale(size, out, factor, align_corners)
    i = np.arange(out)
    x = scale * i if align_corners else np.maximum(scale * (i + 0.5) - 0.5, 0)
    first = np.minimum(np.floor(x).astype(np.int64), size - 1)
    t = np.clip(x - first, 0, 1)
    return _matrix(size, first[:, None] + np.arange(2), np.stack([1 - t, t], 1))


def _cubic_weights(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel (Keys 1981) at distance x."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _cubic(size: int, out: int, factor: float | None, align_corners: bool) -> np.ndarray:
    scale = _scale(size, out, factor, align_corners)
    i = np.arange(out)
    x = scale * i if align_corners else scale * (i + 0.5) - 0.5
    taps = np.floor(x).astype(np.int64)[:, None] + np.arange(-1, 3)
    return _matrix(size, taps, _cubic_weights(x[:, None] - taps, -0.75))


def _antialiased(
    size: int, out: int, factor: float | None, align_corners: bool, reach: int, kernel: Callable[[Any], Any]
) -> np.ndarray:
    """The kernel stretched by the scale when an image shrinks, cut at the edges and normalised, as in Pillow."""
    scale = _scale(size, out, factor, align_corners)
    stretch = max(scale, 1.0)
    found = np.zeros((out, size))
    for i in range(out):
        center = scale * (i + 0.5)
        first = max(int(center - reach * stretch + 0.5), 0)
        last = min(int(center + reach * stretch + 0.5), size)
        weights = kernel((np.arange(first, last) - center + 0.5) / stretch)
        found[i, first:last] = weights / weights.sum()
    return found


def _linear_antialiased(size: int, out: int, factor: float | None, align_corners: bool) -> np.ndarray:
    return _antialiased(size, out, factor, align_corners, 1, lambda x: np.maximum(1 - np.abs(x), 0))


def _cubic_antialiased(size: int, out: int, factor: float | None, align_corners: bool) -> np.ndarray:
    return _antialiased(size, out, factor, align_corners, 2, lambda x: _cubic_weights(x, -0.5))


MATRICES: dict[tuple[str, bool], Callable[[int, int, float | None, bool], np.ndarray]] = {
    ("linear", False): _linear,
    ("bilinear", False): _linear,
    ("trilinear", False): _linear,
    ("bicubic", False): _cubic,
    ("bilinear", True): _linear_antialiased,
    ("bicubic", True): _cubic_antialiased,
}
RANK = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}


# ---- nearest ---------------------------------------------------------------------------------------------------


def _nearest_places(size: int, out: int, factor: float | None, exact: bool, dtype: DType) -> np.ndarray:
    """Which element each output element reads. Computed in the type in which torch computes it."""
    real = np.float64 if dtype is float64 else np.float32
    scale = real(1.0 / factor) if factor else real(size) / real(out)
    i = np.arange(out).astype(real)
    if exact:
        i = i + real(0.5)
    return np.minimum(np.floor(i * scale).astype(np.int64), size - 1)


def _nearest(x: Value, axis: int, places: np.ndarray) -> Value:
    size, out = x.shape[axis], len(places)
    if out == size and (places == np.arange(size)).all():
        return x
    if out % size == 0 and (places == np.arange(out) // (out // size)).all():
        return call("repeat", x, out // size, axis=axis)
    step = int(places[1] - places[0]) if out > 1 else 1
    if step > 0 and (np.diff(places) == step).all():
        starts, sizes, steps = [0] * x.ndim, list(x.shape), [1] * x.ndim
        starts[axis], sizes[axis], steps[axis] = int(places[0]), out, step
        return slice_within(x, starts, sizes, steps)
    return call("take", x, places, axis=axis)


# ---- interpolate -----------------------------------------------------------------------------------------------


def _outcome(
    plane: Ints, size: Size | None, scale_factor: Factor | None, recompute: bool
) -> tuple[Ints, list[float | None]]:
    """Output sizes, and for every axis the factor that its coordinates follow (None: that of the sizes)."""
    n = len(plane)
    if (size is None) == (scale_factor is None):
        raise ArgumentError("needs either size or scale_factor" + (", not both" if size is not None else ""))
    if size is not None:
        if recompute:
            raise ArgumentError("recompute_scale_factor goes with scale_factor, not with size")
        return numbers(size, n, "size"), [None] * n
    factors = [scale_factor] * n if isinstance(scale_factor, int | float) else list(scale_factor or ())
    if len(factors) != n or any(not isinstance(f, int | float) or not f > 0 for f in factors):
        raise ArgumentError(f"scale_factor must be a positive number or {n} of them, got {scale_factor!r}")
    sizes = tuple(math.floor(d * f) for d, f in zip(plane, factors, strict=True))
    if any(s < 1 for s in sizes):
        raise ShapeError(f"scale_factor {scale_factor} leaves {sizes} of {plane}")
    return sizes, [None] * n if recompute else [float(f) for f in factors]


def _checked(input: Operand, mode: str, align_corners: bool | None, antialias: bool) -> Value:
    x = as_value(input)
    if mode not in ("nearest", "nearest-exact", "area", *RANK):
        raise ArgumentError(f"mode must be nearest, nearest-exact, area, {', '.join(RANK)}, got {mode!r}")
    if x.ndim not in (3, 4, 5) or (mode in RANK and x.ndim != RANK[mode] + 2):
        axes = ", ".join("DHW"[3 - RANK[mode] :]) if mode in RANK else "..."
        raise ShapeError(f"mode {mode!r} needs [N, C, {axes}], got {x.shape}")
    if align_corners is not None and mode not in RANK:
        raise ArgumentError(f"align_corners has no meaning for mode {mode!r}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ArgumentError(f"antialias goes with bilinear and bicubic, not with {mode!r}")
    if 0 in x.shape[2:]:
        raise ShapeError(f"there is nothing to interpolate in {x.shape}")
    if x.dtype is bool_ or (mode[:7] != "nearest" and not x.dtype.is_float):
        raise DTypeError(f"mode {mode!r} is not defined for {x.dtype}")
    return x


@composed(
    samples=samples(
        Sample((randn(1, 2, 3, 2),), {"scale_factor": 2}),
        Sample((randn(1, 2, 5), 7), {"mode": "nearest-exact"}),
        Sample((randn(1, 2, 6, 5), (3, 7)), {"mode": "bilinear"}),
        Sample((randn(2, 1, 4, 3), (7, 5)), {"mode": "bicubic", "align_corners": True}),
        Sample((randn(1, 1, 7, 6), (3, 4)), {"mode": "bicubic", "antialias": True}),
        Sample((randn(1, 2, 4),), {"scale_factor": 1.6, "mode": "linear"}),
        Sample((randn(1, 1, 2, 3, 2), (3, 2, 4)), {"mode": "trilinear"}),
        Sample((randn(1, 2, 4, 5), (2, 3)), {"mode": "area"}),
    )
)
def interpolate(
    input: Operand,
    size: Size | None = None,
    scale_factor: Factor | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    """[N, C, ...] resized to `size`, or by scale_factor; one number for all axes or one for each.

    mode: nearest, nearest-exact and area for one to three axes, linear for one, bilinear and bicubic for two, trilinear
    for three. Coordinates are torch's, with align_corners, a scale_factor that does not divide (recompute_scale_factor:
    then that of the rounded sizes) and antialias (bilinear, bicubic). 16-bit floats are rounded once.
    """
    x = _checked(input, mode, align_corners, antialias)
    recompute = bool(recompute_scale_factor) or (mode == "area" and size is None)
    plane = x.shape[2:]
    sizes, factors = _outcome(plane, size, scale_factor, recompute)
    if mode == "area":
        return call(f"adaptive_avg_pool{len(plane)}d", x, sizes)
    if mode not in RANK:
        for i, (d, n, f) in enumerate(zip(plane, sizes, factors, strict=True)):
            x = _nearest(x, 2 + i, _nearest_places(d, n, f, mode == "nearest-exact", x.dtype))
        return x
    result = wide(x)
    order = sorted(range(len(plane)), key=lambda i: sizes[i] / plane[i])  # what shrinks first, for less work after it
    for i in order:
        if plane[i] == sizes[i] and (mode != "bicubic" or antialias):
            continue  # as torch: a factor that changes no size changes nothing, but where it is cubic
        matrix = MATRICES[mode, antialias](plane[i], sizes[i], factors[i], bool(align_corners))
        if matrix.shape[0] != matrix.shape[1] or (matrix != np.eye(len(matrix))).any():
            result = apply_matrix(result, 2 + i, matrix)
    return call("cast", result, x.dtype)


@composed(
    samples=samples(
        Sample((randn(1, 2, 3),), {"scale_factor": 2}), Sample((randn(1, 1, 3, 2), (4, 5)), {"mode": "bilinear"})
    )
)
def upsample(
    input: Operand,
    size: Size | None = None,
    scale_factor: Factor | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Value:
    """`interpolate` under its older name."""
    return interpolate(input, size, scale_factor, mode, align_corners)


@composed(samples=samples(Sample((randn(1, 2, 3, 2),), {"scale_factor": 3}), Sample((randn(1, 1, 3, 2), (4, 5)))))
def upsample_nearest(input: Operand, size: Size | None = None, scale_factor: Factor | None = None) -> Value:
    """`interpolate` with mode nearest."""
    return interpolate(input, size, scale_factor)


@composed(samples=samples(Sample((randn(1, 2, 3, 2),), {"scale_factor": 2}), Sample((randn(1, 1, 3, 2), (4, 5)))))
def upsample_bilinear(input: Operand, size: Size | None = None, scale_factor: Factor | None = None) -> Value:
    """`interpolate` with mode bilinear and align_corners, as in torch."""
    return interpolate(input, size, scale_factor, "bilinear", True)
