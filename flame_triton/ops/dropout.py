"""Noise inside networks beyond plain dropout: whole channels, self-normalising dropout, Gumbel softmax, random slopes.

Draws are float32 whatever x's dtype, and are made again in backward: nothing is stored. seed: see rng_seed.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import check_axis
from .activation import leaky_relu
from .define import Operand, as_value, composed, randn, samples, wide
from .leaf import stop_gradient
from .logic import equal, greater_equal, where
from .random import _seed, _threshold, uniform
from .sampling import gumbel
from .softmax import softmax
from .view import broadcast_to

__all__ = ["alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout", "gumbel_softmax", "rrelu"]

_ALPHA = -1.7580993408473766  # what SELU saturates at


def _checked(x: Operand, p: float, seed: Value | None, training: bool) -> tuple[Value, bool]:
    """x, and whether there is anything to drop."""
    x = as_value(x)
    _threshold(p)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    if training and p > 0 and seed is None:
        raise ArgumentError("needs seed= in training")
    return x, training and p > 0


def _kept(x: Value, p: float, seed: Value | None, axes: int) -> Value:
    """True with probability 1 - p, one flag for all elements that share the first `axes` indices."""
    assert seed is not None
    shape = (*x.shape[:axes], *(1 for _ in x.shape[axes:]))
    return broadcast_to(greater_equal(uniform(shape, seed), _threshold(p)), x.shape)


def _channels(x: Operand, p: float, seed: Value | None, training: bool, axes: dict[int, int]) -> Value:
    """axes: for each number of axes that x may have, how many lead to a channel."""
    x, active = _checked(x, p, seed, training)
    if x.ndim not in axes:
        raise ShapeError(f"x must have {' or '.join(map(str, axes))} axes, got {x.shape}")
    if not active:
        return x
    scaled = call("mul", x, 1 / (1 - p)) if p < 1 else x
    return where(_kept(x, p, seed, axes[x.ndim]), scaled, 0.0)


@composed(samples=samples(Sample((randn(2, 5, 3), 0.4, _seed)), Sample((randn(5, 3), 0.5, _seed))))
def dropout1d(x: Operand, p: float = 0.5, seed: Value | None = None, training: bool = True) -> Value:
    """Whole channels of x [N, C, L] or [C, L] zeroed with probability p, the others divided by 1 - p."""
    return _channels(x, p, seed, training, {2: 1, 3: 2})


@composed(samples=samples(Sample((randn(2, 5, 3, 2), 0.4, _seed)), Sample((randn(2, 5, 3), 1.0, _seed))))
def dropout2d(x: Operand, p: float = 0.5, seed: Value | None = None, training: bool = True) -> Value:
    """Whole channels of x [N, C, H, W] or [N, C, L] zeroed with probability p, the others divided by 1 - p."""
    return _channels(x, p, seed, training, {3: 2, 4: 2})


@composed(samples=samples(Sample((randn(2, 5, 1, 3, 2), 0.4, _seed)), Sample((randn(5, 1, 3, 2), 0.5, _seed, False))))
def dropout3d(x: Operand, p: float = 0.5, seed: Value | None = None, training: bool = True) -> Value:
    """Whole channels of x [N, C, D, H, W] or [C, D, H, W] zeroed with probability p, the others divided by 1 - p."""
    return _channels(x, p, seed, training, {4: 1, 5: 2})


def _alpha(x: Operand, p: float, seed: Value | None, training: bool, axes: int | None) -> Value:
    """a where(keep, x, alpha) + b, of mean 0 and variance 1 if x is: a = ((1 - p) (1 + p alpha^2))^(-1/2),
    b = -a p alpha."""
    x, active = _checked(x, p, seed, training)
    if not active:
        return x
    if p == 1:
        return call("mul", x, 0.0)
    a = ((1 - p) * (1 + p * _ALPHA**2)) ** -0.5
    kept = where(_kept(x, p, seed, x.ndim if axes is None else axes), wide(x), _ALPHA)
    return call("cast", call("mul", kept, a) - a * p * _ALPHA, x.dtype)


@composed(samples=samples(Sample((randn(3, 5), 0.4, _seed)), Sample((randn(17), 0.5, _seed, False))))
def alpha_dropout(x: Operand, p: float = 0.5, seed: Value | None = None, training: bool = True) -> Value:
    """Elements set to SELU's limit with probability p, then scaled and shifted so that mean 0 and variance 1 are kept.

    Klambauer et al. 2017.
    """
    return _alpha(x, p, seed, training, None)


@composed(samples=samples(Sample((randn(2, 5, 3), 0.4, _seed)), Sample((randn(4, 2), 1.0, _seed))))
def feature_alpha_dropout(x: Operand, p: float = 0.5, seed: Value | None = None, training: bool = True) -> Value:
    """alpha_dropout of whole channels of x [N, C, ...]."""
    x = as_value(x)
    if x.ndim < 2:
        raise ShapeError(f"x must be [N, C, ...], got {x.shape}")
    return _alpha(x, p, seed, training, 2)


@composed(
    samples=samples(
        Sample((randn(3, 5), _seed)),
        Sample((randn(4, 3), _seed), {"tau": 0.5, "axis": 0}),
        Sample((randn(3, 5), _seed), {"hard": True}, grad=()),
    )
)
def gumbel_softmax(logits: Operand, seed: Value, tau: float = 1.0, hard: bool = False, axis: int = -1) -> Value:
    """softmax((logits + Gumbel noise) / tau) along the axis: a draw from the classes, made differentiable.

    hard: one-hot at the largest, with the gradient of the soft result. Jang et al. 2017.
    """
    x = as_value(logits)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    if tau <= 0:
        raise ArgumentError(f"tau must be positive, got {tau}")
    a = check_axis(axis, x.ndim)
    soft = softmax(call("mul", wide(x) + gumbel(x.shape, seed, dtype=x.dtype.compute), 1 / tau), a)
    if not hard:
        return call("cast", soft, x.dtype)
    places = call("reshape", call("arange", x.shape[a]), tuple(n if i == a else 1 for i, n in enumerate(x.shape)))
    chosen = call("cast", equal(places, call("argmax", soft, axis=a, keepdims=True)), soft.dtype)
    return call("cast", chosen + (soft - stop_gradient(soft)), x.dtype)


@composed(
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((randn(3, 5), 0.1, 0.5, True, _seed)),
        Sample((np.array([0.0, -0.0, 2.0, -3.0]), 0.25, 0.25, True, _seed), grad=()),
    )
)
def rrelu(
    x: Operand, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, seed: Value | None = None
) -> Value:
    """x where it is positive, else x times a slope drawn uniformly from [lower, upper); not in training, their mean.

    Xu et al. 2015.
    """
    x = as_value(x)
    if not (lower <= upper and math.isfinite(lower) and math.isfinite(upper)):
        raise ArgumentError(f"needs lower <= upper, got {lower} and {upper}")
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    if not training:
        return leaky_relu(x, (lower + upper) / 2)
    if seed is None:
        raise ArgumentError("needs seed= in training")
    slope = uniform(x.shape, seed, lower, upper, x.dtype.compute)
    return where(call("greater", x, 0.0), x, call("cast", call("mul", wide(x), slope), x.dtype))
