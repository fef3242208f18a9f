"""Losses, as graphs of other ops: names, arguments and reductions of torch.nn.functional.

16-bit floats are cast to float32 at the start and the loss is rounded once, at the end. The log-probabilities of a
classification are never stored: backward recomputes softmax from the logits and one logsumexp per sample.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import DType
from .activation import softplus
from .arithmetic import abs, add, div, mul, square, sub
from .define import Operand, as_value, composed, integers, promote_operands, randn, samples, wide
from .logic import equal, greater_equal, less, logical_and, not_equal, where
from .reduce import mean, sum
from .softmax import logsumexp

# fmt: off
__all__ = [
    "binary_cross_entropy_with_logits", "cross_entropy", "huber_loss", "l1_loss", "mse_loss", "nll_loss",
    "smooth_l1_loss",
]
# fmt: on

_pair = samples(
    Sample((randn(4, 5), randn(4, 5, seed=1))),
    Sample((randn(4, 5), randn(4, 5, seed=1)), {"reduction": "none"}),
    Sample((randn(7) * 3, randn(7, seed=1)), {"reduction": "sum"}),
)


def reduced(loss: Value, reduction: str, dtype: DType) -> Value:
    """The loss per element, its mean, or its sum, rounded to `dtype`."""
    if reduction not in ("none", "mean", "sum"):
        raise ArgumentError(f'reduction must be "none", "mean" or "sum", got {reduction!r}')
    if reduction != "none":
        loss = mean(loss) if reduction == "mean" else sum(loss)
    return call("cast", loss, dtype)


def _difference(name: str, x: Operand, target: Operand) -> tuple[Value, DType]:
    """x - target in the compute type, and the dtype of the result. Shapes must be equal: broadcasting hides bugs."""
    x, target = as_value(x), as_value(target)
    if x.shape != target.shape:
        raise ShapeError(f"input {x.shape} and target {target.shape} must have one shape")
    x, target = promote_operands(name, x, target, float_result=True)
    return sub(wide(x), wide(target)), x.dtype


# ---- regression ------------------------------------------------------------------------------------------------


@composed(samples=_pair)
def mse_loss(input: Operand, target: Operand, reduction: str = "mean") -> Value:
    """(input - target)^2, its mean or its sum."""
    difference, dtype = _difference("mse_loss", input, target)
    return reduced(square(difference), reduction, dtype)


@composed(samples=_pair)
def l1_loss(input: Operand, target: Operand, reduction: str = "mean") -> Value:
    """|input - target|, its mean or its sum."""
    difference, dtype = _difference("l1_loss", input, target)
    return reduced(abs(difference), reduction, dtype)


@composed(samples=_pair)
def smooth_l1_loss(input: Operand, target: Operand, reduction: str = "mean", beta: float = 1.0) -> Value:
    """With d = |input - target|: d^2 / (2 beta) where d < beta, else d - beta / 2. Girshick 2015."""
    if beta < 0:
        raise ArgumentError(f"beta must not be negative, got {beta}")
    difference, dtype = _difference("smooth_l1_loss", input, target)
    d = abs(difference)
    if beta:
        d = where(less(d, beta), mul(square(difference), 0.5 / beta), sub(d, 0.5 * beta))
    return reduced(d, reduction, dtype)


@composed(samples=_pair)
def huber_loss(input: Operand, target: Operand, reduction: str = "mean", delta: float = 1.0) -> Value:
    """With d = |input - target|: d^2 / 2 where d < delta, else delta (d - delta / 2). Huber 1964."""
    if delta <= 0:
        raise ArgumentError(f"delta must be positive, got {delta}")
    difference, dtype = _difference("huber_loss", input, target)
    d = abs(difference)
    loss = where(less(d, delta), mul(square(difference), 0.5), mul(sub(d, 0.5 * delta), delta))
    return reduced(loss, reduction, dtype)


# ---- binary classification -------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((randn(4, 5) * 4, randn(4, 5, seed=1, low=0, high=1))),
        Sample(
            (randn(4, 5), randn(4, 5, seed=1, low=0, high=1), randn(5, seed=2, low=0, high=1)), {"reduction": "sum"}
        ),
        Sample((randn(7), randn(7, low=0, high=1)), {"reduction": "none", "pos_weight": np.asarray(2.5)}),
    )
)
def binary_cross_entropy_with_logits(
    input: Operand,
    target: Operand,
    weight: Operand | None = None,
    reduction: str = "mean",
    pos_weight: Operand | None = None,
) -> Value:
    """-(p t log s(x) + (1 - t) log(1 - s(x))) weight, s the sigmoid, p = pos_weight or 1; stable for any x.

    Computed as (1 - t) x + (1 + (p - 1) t) softplus(-x).
    """
    x, target = as_value(input), as_value(target)
    if x.shape != target.shape:
        raise ShapeError(f"input {x.shape} and target {target.shape} must have one shape")
    x, target = promote_operands("binary_cross_entropy_with_logits", x, target, float_result=True)
    dtype, x, target = x.dtype, wide(x), wide(target)
    log_part = softplus(call("neg", x), threshold=1e9)
    if pos_weight is not None:
        log_part = mul(add(mul(sub(pos_weight, 1.0), target), 1.0), log_part)
    loss = add(mul(sub(1.0, target), x), log_part)
    if weight is not None:
        loss = mul(loss, weight)
    return reduced(loss, reduction, dtype)


# ---- classification --------------------------------------------------------------------------------------------


def _class_axis(x: Value) -> int:
    if not x.ndim:
        raise ShapeError("input needs a class axis: [C], [N, C] or [N, C, ...]")
    if not x.dtype.is_float:
        raise DTypeError(f"needs floating input, got {x.dtype}")
    return 0 if x.ndim == 1 else 1


def _check_target(x: Value, target: Value, axis: int) -> None:
    rest = (*x.shape[:axis], *x.shape[axis + 1 :])
    if not target.dtype.is_integer:
        raise DTypeError(f"class indices must be integers, got {target.dtype}")
    if target.shape != rest:
        raise ShapeError(f"target has shape {target.shape}; input {x.shape} asks for {rest}")


def _class_weights(weight: Operand | None, x: Value, axis: int) -> Value | None:
    """Per-class weights [C] along the class axis of x."""
    if weight is None:
        return None
    weight = as_value(weight)
    if weight.shape != (x.shape[axis],):
        raise ShapeError(f"weight has shape {weight.shape}; input {x.shape} has {x.shape[axis]} classes")
    shape = tuple(d if i == axis else 1 for i, d in enumerate(x.shape))
    return call("reshape", call("cast", weight, x.dtype.compute), shape)


def _is_target(x: Value, target: Value, axis: int) -> Value:
    """True at each sample's own class."""
    classes = call("arange", x.shape[axis], dtype=target.dtype if target.dtype.itemsize >= 4 else "int32")
    classes = call("reshape", classes, tuple(d if i == axis else 1 for i, d in enumerate(x.shape)))
    return equal(call("expand_dims", target, axis), classes)


def _pick(x: Value, hit: Value, axis: int) -> Value:
    return sum(where(hit, x, 0.0), axis)


def _average(loss: Value, weights: Value, reduction: str, dtype: DType) -> Value:
    """As reduced, but the mean is divided by the sum of the weights."""
    if reduction != "mean":
        return reduced(loss, reduction, dtype)
    return call("cast", div(sum(loss), sum(weights)), dtype)


_classes = (randn(5, 4), integers(5, high=4))
_images = (randn(2, 3, 5), integers(2, 5, high=3))
_probabilities = randn(5, 4, seed=3, low=0, high=1)
_weights = randn(4, seed=2, low=0.5, high=2)
_ignored = (randn(5, 4), np.array([0, 1, -100, 3, -100]))


@composed(
    samples=samples(
        Sample(_classes),
        Sample((*_images,), {"reduction": "sum"}),
        Sample((*_classes, _weights), {"reduction": "none"}, grad=(0,)),
        Sample((*_ignored, _weights), grad=(0,)),
    )
)
def nll_loss(
    input: Operand,
    target: Operand,
    weight: Operand | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Value:
    """-weight[t] input[t] for class indices t, input being log-probabilities [C], [N, C] or [N, C, ...].

    Samples whose target is ignore_index count nothing; the mean is weighted. A class out of range gives NaN.
    weight: [C].
    """
    x, target = as_value(input), as_value(target)
    axis = _class_axis(x)
    _check_target(x, target, axis)
    hit = _is_target(x, target, axis)
    weights = _sample_weights(x, target, hit, axis, weight, ignore_index)
    picked = _pick(wide(x), hit, axis)
    loss = counted(mul(call("neg", picked), weights), target, ignore_index, x.shape[axis])
    return _average(loss, weights, reduction, x.dtype)


def counted(loss: Value, target: Value, ignore_index: int, classes: int) -> Value:
    """0 for samples that are ignored, NaN for a class that does not exist: a kernel cannot raise."""
    exists = logical_and(greater_equal(target, 0), less(target, classes))
    return where(not_equal(target, ignore_index), where(exists, loss, math.nan), 0.0)


def _sample_weights(x: Value, target: Value, hit: Value, axis: int, weight: Operand | None, ignore_index: int) -> Value:
    """The weight of each sample: that of its class, 0 if it is ignored."""
    kept = not_equal(target, ignore_index)
    per_class = _class_weights(weight, x, axis)
    if per_class is None:
        return call("cast", kept, x.dtype.compute)
    return where(kept, _pick(call("broadcast_to", per_class, x.shape), hit, axis), 0.0)


@composed(
    samples=samples(
        Sample(_classes),
        Sample(_images, {"label_smoothing": 0.1}),
        Sample((*_classes, _weights), {"reduction": "none", "label_smoothing": 0.2}, grad=(0,)),
        Sample((*_ignored, _weights), {"label_smoothing": 0.1}, grad=(0,)),
        Sample(_ignored, {"reduction": "sum"}),
        Sample((randn(5, 4), _probabilities)),
        Sample((randn(5, 4), _probabilities, _weights), {"label_smoothing": 0.1}),
        Sample((randn(6), np.asarray(2))),
    )
)
def cross_entropy(
    input: Operand,
    target: Operand,
    weight: Operand | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Value:
    """-sum over classes of weight p log softmax(input), p the target distribution.

    input: logits [C], [N, C] or [N, C, ...]. target: class indices (integers, without the class axis; ignore_index
    counts nothing; the mean is weighted), or probabilities (floating, input's shape; the mean is over samples).
    label_smoothing: mixes p with the uniform distribution. weight: [C]. A class out of range gives NaN.
    """
    x, target = as_value(input), as_value(target)
    axis = _class_axis(x)
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    if target.dtype.is_float:
        return _soft_cross_entropy(x, target, axis, weight, reduction, label_smoothing)
    _check_target(x, target, axis)
    logits = wide(x)
    lse = logsumexp(logits, axis)
    hit = _is_target(x, target, axis)
    weights = _sample_weights(x, target, hit, axis, weight, ignore_index)
    loss = mul(sub(lse, _pick(logits, hit, axis)), weights)
    if label_smoothing:
        uniform = _against(logits, lse, axis, _class_weights(weight, x, axis))
        loss = add(mul(loss, 1 - label_smoothing), mul(uniform, label_smoothing / x.shape[axis]))
    loss = counted(loss, target, ignore_index, x.shape[axis])
    return _average(loss, weights, reduction, x.dtype)


def _against(logits: Value, lse: Value, axis: int, weights: Value | None) -> Value:
    """-sum over classes of weights log softmax(logits); weights: of logits' rank, or None for ones."""
    if weights is None:
        return sub(mul(lse, float(logits.shape[axis])), sum(logits, axis))
    return sum(mul(sub(call("expand_dims", lse, axis), logits), weights), axis)


def _soft_cross_entropy(
    x: Value, target: Value, axis: int, weight: Operand | None, reduction: str, label_smoothing: float
) -> Value:
    if target.shape != x.shape:
        raise ShapeError(f"target probabilities have shape {target.shape}, input has {x.shape}")
    logits, p = wide(x), call("cast", target, x.dtype.compute)
    if label_smoothing:
        p = add(mul(p, 1 - label_smoothing), label_smoothing / x.shape[axis])
    weights = _class_weights(weight, x, axis)
    loss = _against(logits, logsumexp(logits, axis), axis, p if weights is None else mul(p, weights))
    return reduced(loss, reduction, x.dtype)
