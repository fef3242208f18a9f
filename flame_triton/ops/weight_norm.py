"""Vectors and weights made of unit length, unit spectral norm, or zero mean and unit variance.

Everything is computed in float32 for 16-bit floats and rounded once.
"""

from __future__ import annotations

import math

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import check_axis
from .arithmetic import div, mul, square, sub
from .define import Operand, as_value, composed, randn, samples, wide
from .elementary import rsqrt
from .reduce import Axis, mean, norm, sum

__all__ = ["normalize", "spectral_norm", "standardize_weight", "weight_norm"]


def _floating(x: Operand) -> Value:
    x = as_value(x)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    return x


def _unit(x: Value, p: float, axes: Axis, eps: float) -> Value:
    """x / max(|x|_p, eps), in x's dtype; the gradient is that of x / eps where the norm is less."""
    return div(x, call("clamp_min", norm(x, p, axes, keepdims=True), eps))


@composed(
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((randn(2, 3, 4),), {"p": 1.0, "dim": -1}),
        Sample((randn(2, 3, 4),), {"dim": (1, 2), "eps": 50.0}),
        Sample((randn(5),), {"p": 3.0, "dim": 0}),
    )
)
def normalize(x: Operand, p: float = 2.0, dim: Axis = 1, eps: float = 1e-12) -> Value:
    """x / max(|x|_p, eps), the vector norm over the axes; vectors of zeros stay zero."""
    x = _floating(x)
    return call("cast", _unit(wide(x), p, dim, eps), x.dtype)


def _others(x: Value, axis: int | None) -> tuple[int, ...]:
    """All axes but one; None: all."""
    kept = () if axis is None else (check_axis(axis, x.ndim),)
    return tuple(a for a in range(x.ndim) if a not in kept)


@composed(
    samples=samples(
        Sample((randn(3, 4, 2), randn(3, 1, 1, seed=1))),
        Sample((randn(3, 4), randn(1, 4, seed=1)), {"dim": 1}),
        Sample((randn(3, 4), randn(seed=1)), {"dim": None}),
    )
)
def weight_norm(v: Operand, g: Operand, dim: int | None = 0) -> Value:
    """v * g / |v|, the L2 norm over all axes but one (None: over all). Salimans and Kingma 2016.

    g: one number per index of that axis, with all other axes of size 1; v's dtype. Raises ShapeError otherwise.
    """
    v, g = _floating(v), _floating(g)
    axes = _others(v, dim)
    wanted = () if dim is None else tuple(1 if a in axes else d for a, d in enumerate(v.shape))
    if g.shape != wanted:
        raise ShapeError(f"g must have shape {wanted} for v {v.shape} and dim {dim}, got {g.shape}")
    rows = wide(v)
    scale = div(call("cast", g, rows.dtype), norm(rows, 2.0, axes, keepdims=True))
    return call("cast", mul(rows, scale), v.dtype)


@composed(
    samples=samples(
        Sample((randn(4, 3, 2, 2),)),
        Sample((randn(4, 6),), {"eps": 0.1}),
        Sample((randn(4, 3, 2, 2), randn(4, seed=1)), {"dim": 0}),
    )
)
def standardize_weight(weight: Operand, gain: Operand | None = None, dim: int = 0, eps: float = 1e-5) -> Value:
    """(weight - mean) / sqrt(var + eps) * gain over all axes but one, that of the outputs. Qiao et al. 2019.

    weight: [out, in, ...] for dim 0; gain: [out], float. A convolution with it learns no scale or mean of its own.
    """
    weight = _floating(weight)
    axis = check_axis(dim, weight.ndim, "dim")
    axes = _others(weight, axis)
    rows = wide(weight)
    centred = sub(rows, mean(rows, axes, keepdims=True))
    scale = rsqrt(call("add", mean(square(centred), axes, keepdims=True), eps))
    if gain is not None:
        gain = _floating(gain)
        if gain.shape != (weight.shape[axis],):
            raise ShapeError(f"gain must have shape ({weight.shape[axis]},), got {gain.shape}")
        shape = tuple(1 if a in axes else d for a, d in enumerate(weight.shape))
        scale = mul(scale, call("reshape", call("cast", gain, rows.dtype), shape))
    return call("cast", mul(centred, scale), weight.dtype)


def _rows_of(weight: Value, axis: int) -> Value:
    """The weight as a matrix whose rows are the indices of the axis."""
    order = (axis, *(a for a in range(weight.ndim) if a != axis))
    return call("reshape", call("transpose", weight, order), (weight.shape[axis], -1))


def _times(matrix: Value, vector: Value, axis: int) -> Value:
    """matrix @ vector (axis 1) or vector @ matrix (axis 0), as pointwise work and a reduction: one launch."""
    return sum(mul(matrix, call("expand_dims", vector, 1 - axis)), axis)


@composed(
    samples=samples(
        Sample((randn(4, 3), randn(4, seed=1), randn(3, seed=2)), grad=()),
        Sample((randn(2, 3, 4), randn(3, seed=1), randn(8, seed=2), 3), {"dim": 1}, grad=()),
        Sample((randn(4, 3), randn(4, seed=1), randn(3, seed=2), 0), grad=(0,)),
    )
)
def spectral_norm(
    weight: Operand, u: Operand, v: Operand, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12
) -> tuple[Value, Value, Value]:
    """(weight / sigma, new u, new v): sigma = u W v approaches the largest singular value. Miyato et al. 2018.

    W: weight as a matrix, its rows the indices of `dim`; u: [rows], v: [columns], estimates of its singular vectors.
    Each iteration takes u = W v and v = W^T u, made of unit length, without gradient; 0: u and v as given, for
    inference. Keep u and v in a State and put the new ones into `updates=`.
    """
    weight, u, v = _floating(weight), _floating(u), _floating(v)
    if weight.ndim < 2:
        raise ShapeError(f"weight needs two axes at least, got {weight.shape}")
    if n_power_iterations < 0:
        raise ArgumentError(f"n_power_iterations must not be negative, got {n_power_iterations}")
    matrix = _rows_of(wide(weight), check_axis(dim, weight.ndim, "dim"))
    if (u.shape, v.shape) != ((matrix.shape[0],), (matrix.shape[1],)):
        raise ShapeError(f"u {u.shape} and v {v.shape} do not fit a matrix {matrix.shape}")
    left, right = (call("stop_gradient", call("cast", s, matrix.dtype)) for s in (u, v))
    fixed = call("stop_gradient", matrix)
    for _ in range(n_power_iterations):
        left = _unit(_times(fixed, right, 1), 2.0, None, eps)
        right = _unit(_times(fixed, left, 0), 2.0, None, eps)
    sigma = sum(mul(left, _times(matrix, right, 1)))
    result = call("cast", div(wide(weight), sigma), weight.dtype)
    return result, call("cast", left, u.dtype), call("cast", right, v.dtype)


def singular_sizes(shape: tuple[int, ...], dim: int) -> tuple[int, int]:
    """Rows and columns of a weight as the matrix that `spectral_norm` sees."""
    rows = shape[check_axis(dim, len(shape), "dim")]
    return rows, math.prod(shape) // max(rows, 1)
