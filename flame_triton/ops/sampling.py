"""Draws from further distributions, by inverting their distribution functions; permutations and choices.

All are made of the uniform and normal draws of random.py, so they are the same on every executor and layout, up to the
rounding of log and tan; what is an integer is computed in float64. u is uniform in [0, 1), a multiple of 2^-31.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import DType, DTypeLike, check_shape, float32, float64, int64
from .define import Operand, as_value, composed, randn, samples
from .leaf import stop_gradient
from .random import _floating, _seed, normal, randint, uniform
from .scan import cumsum
from .sort import argsort, searchsorted, topk
from .view import broadcast_to, narrow

# fmt: off
__all__ = [
    "cauchy", "exponential", "geometric", "gumbel", "laplace", "log_normal", "multinomial", "normal_like", "randperm",
    "uniform_like",
]
# fmt: on

Shape = int | Sequence[int]

# ---- like another tensor ---------------------------------------------------------------------------------------


@composed(
    samples=samples(Sample((randn(3, 5), _seed), grad=()), Sample((randn(17), _seed, -2.0, 3.0), grad=())),
    aliases=("rand_like",),
)
def uniform_like(x: Operand, seed: Value, low: float = 0.0, high: float = 1.0, dtype: DTypeLike | None = None) -> Value:
    """Uniform numbers in [low, high) in x's shape; dtype: default x's. As `uniform`."""
    x = as_value(x)
    return uniform(x.shape, seed, low, high, _floating(x.dtype if dtype is None else dtype))


@composed(
    samples=samples(Sample((randn(3, 5), _seed), grad=()), Sample((randn(17), _seed, -2.0, 3.0), grad=())),
    aliases=("randn_like",),
)
def normal_like(x: Operand, seed: Value, mean: float = 0.0, std: float = 1.0, dtype: DTypeLike | None = None) -> Value:
    """Normal numbers in x's shape; dtype: default x's. As `normal`."""
    x = as_value(x)
    return normal(x.shape, seed, mean, std, _floating(x.dtype if dtype is None else dtype))


# ---- distributions ---------------------------------------------------------------------------------------------


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ArgumentError(f"{name} must be positive, got {value}")


def _waiting(shape: Shape, seed: Value, dtype: DType) -> Value:
    """-log(1 - u), exponential of rate 1."""
    return call("neg", call("log1p", call("neg", uniform(shape, seed, dtype=dtype))))


@composed(samples=samples(Sample(((3, 5), _seed), grad=()), Sample(((17,), _seed, 2.5), grad=())))
def exponential(shape: Shape, seed: Value, rate: float = 1.0, dtype: DTypeLike = float32) -> Value:
    """Exponential numbers of mean 1 / rate: -log(1 - u) / rate."""
    chosen = _floating(dtype)
    _positive("rate", rate)
    return call("cast", call("mul", _waiting(shape, seed, chosen.compute), 1.0 / rate), chosen)


@composed(samples=samples(Sample(((3, 5), _seed), grad=()), Sample(((17,), _seed, -1.0, 0.5), grad=())))
def log_normal(shape: Shape, seed: Value, mean: float = 0.0, std: float = 1.0, dtype: DTypeLike = float32) -> Value:
    """e^z for normal z of that mean and standard deviation."""
    chosen = _floating(dtype)
    return call("cast", call("exp", normal(shape, seed, mean, std, chosen.compute)), chosen)


@composed(samples=samples(Sample(((3, 5), _seed), grad=()), Sample(((17,), _seed, -1.0, 0.5), grad=())))
def cauchy(shape: Shape, seed: Value, loc: float = 0.0, scale: float = 1.0, dtype: DTypeLike = float32) -> Value:
    """Cauchy numbers: loc + scale tan(pi (u - 1/2))."""
    chosen = _floating(dtype)
    _positive("scale", scale)
    x = call("tan", call("mul", uniform(shape, seed, dtype=chosen.compute) - 0.5, math.pi))
    return call("cast", call("mul", x, scale) + loc, chosen)


@composed(samples=samples(Sample(((3, 5), _seed), grad=()), Sample(((17,), _seed, -1.0, 0.5), grad=())))
def laplace(shape: Shape, seed: Value, loc: float = 0.0, scale: float = 1.0, dtype: DTypeLike = float32) -> Value:
    """Laplace numbers: loc - scale sign(v) log(1 - 2 |v|) with v = u - 1/2."""
    chosen = _floating(dtype)
    _positive("scale", scale)
    v = uniform(shape, seed, dtype=chosen.compute) - 0.5
    inner = call("clamp_max", call("mul", call("abs", v), 2.0), 1 - 2.0**-24)
    x = call("mul", call("sign", v), call("log1p", call("neg", inner)))
    return call("cast", call("mul", x, -scale) + loc, chosen)


@composed(samples=samples(Sample(((3, 5), _seed), grad=()), Sample(((17,), _seed, -1.0, 0.5), grad=())))
def gumbel(shape: Shape, seed: Value, loc: float = 0.0, scale: float = 1.0, dtype: DTypeLike = float32) -> Value:
    """Gumbel numbers: loc - scale log(-log(u + 2^-32))."""
    chosen = _floating(dtype)
    _positive("scale", scale)
    x = call("log", call("neg", call("log", uniform(shape, seed, dtype=chosen.compute) + 2.0**-32)))
    return call("cast", call("mul", x, -scale) + loc, chosen)


@composed(samples=samples(Sample((0.3, (3, 5), _seed), grad=()), Sample((1.0, (4,), _seed), grad=())))
def geometric(p: float, shape: Shape, seed: Value, dtype: DTypeLike = int64) -> Value:
    """How many trials it takes until one succeeds, with probability p each: 1 + floor(log(1 - u) / log(1 - p))."""
    if not 0 < p <= 1:
        raise ArgumentError(f"p must lie in (0, 1], got {p}")
    if p == 1:
        return call("ones", shape, dtype)
    return call("cast", call("floor", call("mul", _waiting(shape, seed, float64), -1 / math.log1p(-p))) + 1.0, dtype)


# ---- choices ---------------------------------------------------------------------------------------------------


@composed(samples=samples(Sample((10, _seed), grad=()), Sample((1, _seed), grad=()), Sample((0, _seed), grad=())))
def randperm(n: int, seed: Value) -> Value:
    """0 ... n - 1 in random order, int64: the order that sorts 62 random bits for each."""
    (n,) = check_shape(n, "n")
    high, low = (randint(0, 1 << 31, (n,), seed) for _ in range(2))
    return argsort(high * (1 << 31) + low, 0)


@composed(
    samples=samples(
        Sample((np.array([[0.1, 0.0, 0.6, 0.3], [2.0, 2.0, 0.0, 0.0]]), 5, _seed, True), grad=()),
        Sample((np.array([0.1, 0.2, 0.3, 0.4]), 3, _seed), grad=()),
    )
)
def multinomial(probs: Operand, num_samples: int, seed: Value, replacement: bool = False) -> Value:
    """int64 [..., num_samples]: classes drawn with the probabilities probs [..., classes], which need not add up to 1.

    With replacement the distribution function is inverted, in float64. Without, each class waits exponentially with its
    probability as rate, and the first ones are taken: as many classes must have probabilities that are not 0.
    """
    p = as_value(probs)
    if not p.dtype.is_float:
        raise DTypeError(f"needs floating probabilities, got {p.dtype}")
    if not p.ndim or not p.shape[-1]:
        raise ShapeError(f"needs classes to choose from, got {p.shape}")
    if num_samples < 1 or (not replacement and num_samples > p.shape[-1]):
        raise ArgumentError(f"cannot draw {num_samples} of {p.shape[-1]} classes")
    p = call("cast", stop_gradient(p), float64)
    if not replacement:
        waits = call("clamp_min", _waiting(p.shape, seed, float64), 2.0**-32)
        return topk(call("div", p, waits), num_samples)[1]
    sums = cumsum(p, -1)
    total = narrow(sums, -1, p.shape[-1] - 1, 1)
    u = uniform((*p.shape[:-1], num_samples), seed, dtype=float64)
    found = searchsorted(sums, call("mul", u, total), right=True)
    last = searchsorted(sums, total)  # the last class whose probability is not 0: rounding must not pass it
    return call("minimum", found, broadcast_to(last, found.shape))
