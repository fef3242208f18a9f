"""Numbers at even steps, linear or in the exponent. Both ends are exact: the second half is counted from the end."""

from __future__ import annotations

import math

from ..errors import ArgumentError, DTypeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import DTypeLike, bool_, float32, float64
from ..types import dtype as as_dtype
from .arithmetic import add, mul, sub
from .define import composed, is_scalar, samples
from .logic import where

__all__ = ["geomspace", "linspace", "logspace"]

_spans = samples(
    Sample((0.0, 1.0, 5), grad=()),
    Sample((-1.5, 2.0, 4), {"dtype": "float64"}, grad=()),
    Sample((2.0, 3.0, 1), grad=()),
    Sample((1.0, 2.0, 0), grad=()),
)


def _steps(start: float, stop: float, num: int, endpoint: bool) -> Value:
    """start + i (stop - start) / (n - 1), in float64."""
    if not is_scalar(start) or not is_scalar(stop):
        raise ArgumentError(f"start and stop must be numbers, got {start!r} and {stop!r}")
    start, stop = float(start), float(stop)
    if not isinstance(num, int) or num < 0:
        raise ArgumentError(f"num must be a non-negative int, got {num!r}")
    intervals = num - 1 if endpoint else num
    step = (stop - start) / intervals if intervals > 0 else 0.0
    i = call("arange", num, dtype=float64)
    forward = add(mul(i, step), start)
    if not endpoint or num < 2:
        return forward
    return where(call("less", i, num / 2), forward, sub(stop, mul(sub(float(num - 1), i), step)))


@composed(samples=_spans)
def linspace(start: float, stop: float, num: int = 50, endpoint: bool = True, dtype: DTypeLike | None = None) -> Value:
    """`num` numbers from start to stop, evenly spaced; endpoint=False leaves out stop. dtype: default float32.

    An integer dtype truncates.
    """
    chosen = as_dtype(dtype or float32)
    if chosen is bool_:
        raise DTypeError("cannot count in bool")
    return call("cast", _steps(start, stop, num, endpoint), chosen)


@composed(samples=_spans)
def logspace(
    start: float,
    stop: float,
    num: int = 50,
    endpoint: bool = True,
    base: float = 10.0,
    dtype: DTypeLike | None = None,
) -> Value:
    """base ** linspace(start, stop, num): evenly spaced exponents. dtype: default float32.

    An integer dtype truncates; a power that is whole but for rounding is taken as whole.
    """
    chosen = as_dtype(dtype or float32)
    if chosen is bool_:
        raise DTypeError("cannot count in bool")
    powers = call("pow", float(base), _steps(start, stop, num, endpoint))
    if not chosen.is_float:
        whole = call("round", powers)
        powers = where(call("less", call("abs", sub(powers, whole)), mul(whole, 1e-12)), whole, powers)
    return call("cast", powers, chosen)


@composed(
    samples=samples(
        Sample((1.0, 1000.0, 4), grad=()),
        Sample((-2.0, -0.5, 3), {"dtype": "float64"}, grad=()),
        Sample((1.0, 8.0, 3), {"endpoint": False}, grad=()),
    )
)
def geomspace(start: float, stop: float, num: int = 50, endpoint: bool = True, dtype: DTypeLike | None = None) -> Value:
    """`num` numbers from start to stop, of one sign, in equal ratios. dtype: default float32."""
    if start * stop <= 0:
        raise ArgumentError(f"start and stop must be of one sign and not 0, got {start} and {stop}")
    sign = math.copysign(1.0, start)
    span = _steps(math.log2(abs(start)), math.log2(abs(stop)), num, endpoint)
    return call("cast", mul(call("exp2", span), sign), dtype or float32)
