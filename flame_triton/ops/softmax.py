"""softmax, log_softmax and logsumexp along one axis, computed in float32 for 16-bit floats and rounded once.

With m = max(x) nothing overflows: softmax = e^(x - m) / sum e^(x - m), logsumexp = m + log sum e^(x - m).
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import DTypeError
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Sample, call
from ..types import DTypeLike, TensorType, check_axes, check_axis
from .arithmetic import add, div, mul, sub
from .define import Operand, as_value, composed, define, floating, in_compute_type, randn, samples, wide
from .elementary import exp, log
from .leaf import stop_gradient
from .logic import equal, where
from .reduce import Axis, finish, kept_shape, max, nonempty, sum

__all__ = ["log_softmax", "logsumexp", "softmax", "softmin"]

_along = samples(
    Sample((randn(3, 5),)),
    Sample((randn(3, 5, 4),), {"axis": 1}),
    Sample((randn(3, 5, 4),), {"axis": 0}),
    Sample((randn(17),)),
    Sample((randn(3, 1),)),
    Sample((randn(2, 7) * 30,)),
)


def _floating(x: Operand, dtype: DTypeLike | None) -> Value:
    """x cast to `dtype` if one is given; raises DTypeError unless the result is floating."""
    x = as_value(x) if dtype is None else call("cast", x, dtype)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}; cast it, or give dtype")
    return x


def _spread(x: Value, like: Value) -> Value:
    return call("broadcast_to", x, like.shape)


# ---- softmax ---------------------------------------------------------------------------------------------------


def _softmax_build(node: Node) -> Value:
    x, axis = wide(node.inputs[0]), node.attrs["axis"]
    e = exp(sub(x, max(x, axis, keepdims=True)))
    scale = div(1.0, sum(e, axis, keepdims=True))
    return call("cast", mul(e, scale), node.type.dtype)


def _softmax_ref(x: np.ndarray, *, axis: int) -> np.ndarray:
    e = x - np.max(x, axis, keepdims=True)
    np.exp(e, out=e)
    e *= 1 / np.sum(e, axis, keepdims=True)
    return e


def _softmax_rule(g: Value, y: Value, x: Value, axis: int) -> Value:
    """dx = y (g - sum(g y))."""
    return mul(y, sub(g, sum(mul(g, y), axis, keepdims=True)))


@define(
    "softmax",
    infer=floating,
    lowering=Composite(_softmax_build),
    ref=_softmax_ref,
    vjp=in_compute_type(_softmax_rule),
    samples=_along,
)
def softmax(x: Operand, axis: int = -1, dtype: DTypeLike | None = None) -> Value:
    """e^x / sum(e^x) along the axis; dtype: cast x to it first. A slice of -inf alone gives NaN."""
    x = _floating(x, dtype)
    a = check_axis(axis, x.ndim)
    if not x.size:
        return x
    return make("softmax", [x], axis=a).out if x.ndim else call("full", (), 1.0, x.dtype)


# ---- log_softmax -----------------------------------------------------------------------------------------------


def _log_softmax_build(node: Node) -> Value:
    x, axis = wide(node.inputs[0]), node.attrs["axis"]
    shifted = sub(x, max(x, axis, keepdims=True))
    return call("cast", sub(shifted, log(sum(exp(shifted), axis, keepdims=True))), node.type.dtype)


def _log_softmax_ref(x: np.ndarray, *, axis: int) -> np.ndarray:
    shifted = x - np.max(x, axis, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis, keepdims=True))


def _log_softmax_rule(g: Value, y: Value, x: Value, axis: int) -> Value:
    """dx = g - softmax(x) sum(g)."""
    return sub(g, mul(exp(y), sum(g, axis, keepdims=True)))


@define(
    "log_softmax",
    infer=floating,
    lowering=Composite(_log_softmax_build),
    ref=_log_softmax_ref,
    vjp=in_compute_type(_log_softmax_rule),
    samples=_along,
)
def log_softmax(x: Operand, axis: int = -1, dtype: DTypeLike | None = None) -> Value:
    """log(softmax(x)) along the axis, without underflow; dtype: cast x to it first."""
    x = _floating(x, dtype)
    a = check_axis(axis, x.ndim)
    if not x.size:
        return x
    return make("log_softmax", [x], axis=a).out if x.ndim else call("full", (), 0.0, x.dtype)


# ---- logsumexp -------------------------------------------------------------------------------------------------


def _logsumexp_build(node: Node) -> Value:
    x, axes = wide(node.inputs[0]), node.attrs["axes"]
    m = stop_gradient(max(x, axes, keepdims=True))
    m = where(equal(call("abs", m), math.inf), 0.0, m)
    return call("cast", add(log(sum(exp(sub(x, m)), axes, keepdims=True)), m), node.type.dtype)


def _logsumexp_ref(x: np.ndarray, *, axes: tuple[int, ...]) -> np.ndarray:
    m = np.max(x, axes, keepdims=True)
    m = np.where(np.isinf(m), 0, m)
    return np.log(np.sum(np.exp(x - m), axes, keepdims=True)) + m


def _logsumexp_type(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    return floating(x).with_shape(kept_shape(x, axes))


@define(
    "logsumexp",
    infer=_logsumexp_type,
    lowering=Composite(_logsumexp_build),
    ref=_logsumexp_ref,
    vjp=in_compute_type(lambda g, y, x, axes: mul(exp(sub(x, _spread(y, x))), _spread(g, x))),
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((randn(3, 5, 4),), {"axis": (0, -1)}),
        Sample((randn(3, 5, 4),), {"axis": 1, "keepdims": True}),
        Sample((randn(2, 7) * 100,), {"axis": 1}),
    ),
)
def logsumexp(x: Operand, axis: Axis = None, keepdims: bool = False) -> Value:
    """log(sum(e^x)) over the axes (all by default), without overflow. The gradient is softmax(x)."""
    x = _floating(x, None)
    axes = check_axes(axis, x.ndim)
    nonempty(x, axes)
    return finish(make("logsumexp", [x], axes=axes).out if axes else x, axes, keepdims)


@composed(samples=samples(Sample((randn(3, 5),)), Sample((randn(3, 4),), {"axis": 0})))
def softmin(x: Operand, axis: int = -1, dtype: DTypeLike | None = None) -> Value:
    """softmax(-x)."""
    return softmax(call("neg", x), axis, dtype)
