"""Activations made of straight pieces: choices by comparison, fused with what surrounds them.

Names, arguments, defaults and the gradients at the corners are those of torch.nn.functional. NaN stays NaN.
"""

from __future__ import annotations

from ..errors import ArgumentError, DTypeError
from ..ir.node import Value
from ..ir.op import Sample, call
from .arithmetic import add, mul, sub
from .define import Operand, as_value, composed, randn, samples, wide
from .logic import greater_equal, less, less_equal, logical_and, where

__all__ = ["hardshrink", "hardsigmoid", "hardtanh", "relu6", "softshrink", "threshold"]


def _floating(x: Operand) -> Value:
    x = as_value(x)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    return x


def _not_negative(lambd: float) -> None:
    if not lambd >= 0:
        raise ArgumentError(f"lambd must not be negative, got {lambd}")


@composed(
    samples=samples(
        Sample((randn(3, 5) * 2,)),
        Sample((randn(17),), {"min_val": -0.5, "max_val": 0.25}),
        Sample((randn(),)),
    )
)
def hardtanh(x: Operand, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    """x between min_val and max_val, else the nearer of them; the gradient at both is 0.

    For integers the bounds are cut to integers.
    """
    x = as_value(x)
    if x.dtype.kind == "b":
        raise DTypeError("is not defined for bool")
    if x.dtype.is_integer:
        min_val, max_val = int(min_val), int(max_val)
    if min_val > max_val:
        raise ArgumentError(f"min_val {min_val} is above max_val {max_val}")
    return where(less_equal(x, min_val), min_val, where(greater_equal(x, max_val), max_val, x))


@composed(samples=samples(Sample((randn(3, 5) * 4,)), Sample((randn(17) * 4,))))
def relu6(x: Operand) -> Value:
    """min(max(x, 0), 6); the gradient at both corners is 0."""
    x = as_value(x)
    if x.dtype.kind == "b":
        raise DTypeError("is not defined for bool")
    return where(less_equal(x, 0), 0, where(greater_equal(x, 6), 6, x))


@composed(samples=samples(Sample((randn(3, 5) * 3,)), Sample((randn(17),))))
def hardsigmoid(x: Operand) -> Value:
    """min(max(x + 3, 0), 6) / 6; the gradient at both corners is 0."""
    x = _floating(x)
    rows = wide(x)
    inner = mul(add(rows, 3.0), 1 / 6)
    return call("cast", where(less_equal(rows, -3.0), 0.0, where(greater_equal(rows, 3.0), 1.0, inner)), x.dtype)


@composed(samples=samples(Sample((randn(3, 5) * 2,)), Sample((randn(17), 0.25)), Sample((randn(5), 0.0))))
def softshrink(x: Operand, lambd: float = 0.5) -> Value:
    """x - lambd where x > lambd, x + lambd where x < -lambd, else 0."""
    x = _floating(x)
    _not_negative(lambd)
    rows = wide(x)
    inside = logical_and(less_equal(rows, lambd), greater_equal(rows, -lambd))
    outside = where(less(rows, 0.0), add(rows, lambd), sub(rows, lambd))
    return call("cast", where(inside, 0.0, outside), x.dtype)


@composed(samples=samples(Sample((randn(3, 5) * 2,)), Sample((randn(17), 0.25))))
def hardshrink(x: Operand, lambd: float = 0.5) -> Value:
    """x where |x| > lambd, else 0."""
    x = _floating(x)
    return where(logical_and(less_equal(x, lambd), greater_equal(x, -lambd)), 0.0, x)


@composed(samples=samples(Sample((randn(3, 5), 0.1, 20.0)), Sample((randn(17), -0.5, -1.0))))
def threshold(x: Operand, threshold: float, value: float) -> Value:
    """x where x > threshold, else value. Integers too."""
    x = as_value(x)
    if x.dtype.kind == "b":
        raise DTypeError("is not defined for bool")
    return where(less_equal(x, threshold), value, x)
