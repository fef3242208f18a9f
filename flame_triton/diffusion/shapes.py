"""Numbers that belong to the samples of a batch, beside tensors [B, ...]."""

from __future__ import annotations

from ..errors import ShapeError
from ..ir.node import Value
from ..ir.op import call


def per_sample(numbers: Value, like: Value) -> Value:
    """[B] -> [B, 1, ...], to be multiplied with `like`, [B, ...]. Raises ShapeError."""
    if numbers.shape != like.shape[:1]:
        raise ShapeError(f"expected one number for each sample of {like.shape}, got {numbers.shape}", op="per_sample")
    return call("reshape", numbers, (like.shape[0],) + (1,) * (like.ndim - 1))
