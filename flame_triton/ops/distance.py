"""Distances and similarities of vectors. Differences are taken as they are, so nothing cancels; 16-bit floats are
computed in float32 and rounded once."""

from __future__ import annotations

import math

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import check_axis
from .arithmetic import add, div, maximum, mul, sub
from .define import Operand, as_value, composed, promote_operands, randn, samples, wide
from .reduce import norm, sum
from .view import expand_dims

__all__ = ["cdist", "cosine_similarity", "dist", "pairwise_distance"]


def _floating(name: str, x: Operand, y: Operand) -> tuple[Value, Value]:
    """The operands, broadcast, in the compute type."""
    x, y = promote_operands(name, x, y)
    if not x.dtype.is_float:
        raise DTypeError(f"needs floating tensors, got {x.dtype}")
    return x, y


@composed(
    samples=samples(
        Sample((randn(4, 3), randn(5, 3, seed=1))),
        Sample((randn(2, 2, 3), randn(4, 3, seed=1)), {"p": 1.0}),
        Sample((randn(3, 4), randn(2, 4, seed=1)), {"p": math.inf}),
        Sample((randn(3, 4), randn(2, 4, seed=1)), {"p": 3.0}),
    )
)
def cdist(x1: Operand, x2: Operand, p: float = 2.0) -> Value:
    """[..., P, R]: the p-norm of x1[..., i, :] - x2[..., j, :] for every pair of rows.

    x1: [..., P, M]; x2: [..., R, M]. The gradient is 0 where the distance is.
    """
    x1, x2 = as_value(x1), as_value(x2)
    if p < 0:
        raise ArgumentError(f"p must not be negative, got {p}")
    if x1.ndim < 2 or x2.ndim < 2 or x1.shape[-1] != x2.shape[-1]:
        raise ShapeError(f"needs rows of one length, got {x1.shape} and {x2.shape}")
    x1, x2 = expand_dims(x1, -2), expand_dims(x2, -3)
    a, b = _floating("cdist", x1, x2)
    return call("cast", norm(sub(wide(a), wide(b)), p, -1), a.dtype)


@composed(
    samples=samples(
        Sample((randn(4, 3), randn(4, 3, seed=1))),
        Sample((randn(2, 4, 3), randn(3, seed=1)), {"p": 1.0, "keepdim": True}),
    )
)
def pairwise_distance(x1: Operand, x2: Operand, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Value:
    """The p-norm of x1 - x2 + eps over the last axis; the operands broadcast."""
    a, b = _floating("pairwise_distance", x1, x2)
    return call("cast", norm(add(sub(wide(a), wide(b)), eps), p, -1, keepdim), a.dtype)


@composed(
    samples=samples(
        Sample((randn(4, 3), randn(4, 3, seed=1))),
        Sample((randn(2, 4, 3), randn(4, 1, seed=1)), {"dim": -2}),
    )
)
def cosine_similarity(x1: Operand, x2: Operand, dim: int = 1, eps: float = 1e-8) -> Value:
    """sum(x1 x2) / (max(|x1|, eps) max(|x2|, eps)) along `dim`; the operands broadcast."""
    a, b = _floating("cosine_similarity", x1, x2)
    axis = check_axis(dim, a.ndim, "dim")
    dtype, a, b = a.dtype, wide(a), wide(b)
    unit_a = div(a, maximum(norm(a, 2.0, axis, keepdims=True), eps))
    unit_b = div(b, maximum(norm(b, 2.0, axis, keepdims=True), eps))
    return call("cast", sum(mul(unit_a, unit_b), axis), dtype)


@composed(
    samples=samples(Sample((randn(3, 4), randn(3, 4, seed=1))), Sample((randn(3, 4), randn(4, seed=1)), {"p": 1.0}))
)
def dist(x: Operand, y: Operand, p: float = 2.0) -> Value:
    """The p-norm of all elements of x - y; the operands broadcast."""
    a, b = _floating("dist", x, y)
    return call("cast", norm(sub(wide(a), wide(b)), p), a.dtype)
