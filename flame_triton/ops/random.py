"""Seeded random draws, the same on every executor and for every memory layout.

A draw is a function of (seed, step, stream, element index) by Philox4x32-10: `seed` is an int64 Value [2] that holds
(seed, step) and lives in the State; the stream is the draw's ordinal among the draws on that Value, so a program
that is built again draws the same numbers. Numbers are drawn in float32 and cast, so masks agree in every dtype.
Nothing random is stored for backward: it is drawn again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError
from ..ir.node import Node, Value, make
from ..ir.op import Generator, Op, Sample, call, register
from ..types import DTypeLike, TensorType, bool_, check_shape, float32, int64
from ..types import dtype as as_dtype
from .arithmetic import add, mul
from .define import Operand, as_value, composed, randn, samples
from .leaf import parameter
from .logic import greater_equal, less, where
from .philox import as_normal, as_uniform, draw

__all__ = ["bernoulli", "dropout", "next_step", "normal", "randint", "rng_seed", "uniform"]

_streams: weakref.WeakKeyDictionary[Value, int] = weakref.WeakKeyDictionary()


# ---- the seed --------------------------------------------------------------------------------------------------


@composed
def rng_seed(seed: int, name: str = "rng") -> Value:
    """A parameter, int64 [2], that holds (seed, step 0): what draws take as their seed. 0 <= seed < 2^64."""
    if not 0 <= seed < 1 << 64:
        raise ArgumentError(f"seed must lie in [0, 2^64), got {seed}")
    initial = np.array([seed, 0], np.uint64).view(np.int64)
    return parameter((2,), int64, name, init=initial, trainable=False)


@composed
def next_step(seed: Value) -> Value:
    """(seed, step + 1), the new value of `seed` for a program's `updates`: each run then draws other numbers."""
    _check_seed(seed)
    return add(seed, call("constant", np.array([0, 1]), int64))


def _check_seed(seed: Value) -> None:
    if not isinstance(seed, Value) or seed.type != TensorType((2,), int64):
        given = seed.type if isinstance(seed, Value) else repr(seed)
        raise ArgumentError(f"seed must be an int64 Value of shape (2,), as rng_seed makes it, got {given}")


# ---- draws -----------------------------------------------------------------------------------------------------


def _draw_type(seed: TensorType, step: TensorType, *, shape: tuple[int, ...], stream: int, **_: int) -> TensorType:
    return TensorType(shape, float32)


def _draw_op(name: str, expr: str | Callable[[Node], str], finish: Callable[..., Any], infer: Any, cost: int) -> Op:
    """A draw. finish(word 0, word 1, **attrs): the NumPy values of two Philox words."""

    def ref(seed: np.ndarray, step: np.ndarray, *, shape: tuple[int, ...], stream: int, **attrs: int) -> np.ndarray:
        dtype = np.int64 if infer is not _draw_type else np.float32
        return draw(shape, dtype, int(seed), stream, int(step), lambda a, b: finish(a, b, **attrs))

    return register(
        Op(name, infer, Generator(expr, cost), ref, lambda node, g: [None, None], unique=True, doc=f"A {name} draw.")
    )


def _below(word: np.ndarray, *, low: int, count: int) -> np.ndarray:
    """word * count / 2^32, rounded down, plus low."""
    return (word * np.uint64(count) >> np.uint64(32)).astype(np.int64) + low


_draw_op(
    "random_uniform",
    "lib.uniform({0}, {index}, {stream}, {1})",
    lambda word0, word1: as_uniform(word0),
    _draw_type,
    40,
)
_draw_op("random_normal", "lib.normal({0}, {index}, {stream}, {1})", as_normal, _draw_type, 80)
_draw_op(
    "random_integers",
    "(((lib.randint_bits({0}, {index}, {stream}, {1}).to(tl.int64) & 0xFFFFFFFF) * {count} >> 32) + ({low}))",
    lambda word0, word1, *, low, count: _below(word0, low=low, count=count),
    lambda seed, step, *, shape, **_: TensorType(shape, int64),
    44,
)


def next_stream(seed: Value) -> int:
    """The stream of the next draw on `seed`: each draw takes a new one."""
    _check_seed(seed)
    stream = _streams.get(seed, 0)
    _streams[seed] = stream + 1
    return stream


def _draw(op: str, shape: int | Sequence[int], seed: Value, **attrs: int) -> Value:
    stream = next_stream(seed)
    return make(op, [seed[0], seed[1]], shape=check_shape(shape), stream=stream, **attrs).out


def _floating(dtype: DTypeLike) -> Any:
    chosen = as_dtype(dtype)
    if not chosen.is_float:
        raise DTypeError(f"needs a floating dtype, got {chosen}")
    return chosen


_seed = np.array([1234, 5])


@composed(samples=samples(Sample(((3, 5), _seed)), Sample(((17,), _seed, -2.0, 3.0))))
def uniform(
    shape: int | Sequence[int], seed: Value, low: float = 0.0, high: float = 1.0, dtype: DTypeLike = float32
) -> Value:
    """Uniform numbers in [low, high). Drawn in float32 (a multiple of 2^-31), then scaled and cast."""
    chosen = _floating(dtype)
    x = call("cast", _draw("random_uniform", shape, seed), chosen.compute)
    if high - low != 1.0:
        x = mul(x, high - low)
    return call("cast", add(x, low) if low else x, chosen)


@composed(samples=samples(Sample(((3, 5), _seed)), Sample(((17,), _seed, -2.0, 3.0))))
def normal(
    shape: int | Sequence[int], seed: Value, mean: float = 0.0, std: float = 1.0, dtype: DTypeLike = float32
) -> Value:
    """Normal numbers. Drawn in float32 by Box and Muller's rule (|z| < 5.7), then scaled and cast."""
    chosen = _floating(dtype)
    x = call("cast", _draw("random_normal", shape, seed), chosen.compute)
    if std != 1.0:
        x = mul(x, std)
    return call("cast", add(x, mean) if mean else x, chosen)


@composed(samples=samples(Sample((0.3, (3, 5), _seed)), Sample((1.0, (4,), _seed)), Sample((0.0, (4,), _seed))))
def bernoulli(p: float, shape: int | Sequence[int], seed: Value, dtype: DTypeLike = bool_) -> Value:
    """True with probability p, else False; in another dtype 1 and 0."""
    threshold = _threshold(p)
    return call("cast", less(_draw("random_uniform", shape, seed), threshold), dtype)


@composed(samples=samples(Sample((-3, 4, (3, 5), _seed)), Sample((0, 1000, (17,), _seed))))
def randint(low: int, high: int, shape: int | Sequence[int], seed: Value, dtype: DTypeLike = int64) -> Value:
    """Integers in [low, high), high - low at most 2^31; each is likely to 1 part in 2^32 / (high - low)."""
    if not 0 < high - low <= 1 << 31:
        raise ArgumentError(f"high - low must lie in [1, 2^31], got {high} - {low}")
    return call("cast", _draw("random_integers", shape, seed, low=int(low), count=int(high - low)), dtype)


def _threshold(p: float) -> float:
    """p as the draws see it, in float32, so that masks agree with those of the float64 oracle."""
    if not 0 <= p <= 1:
        raise ArgumentError(f"p must lie in [0, 1], got {p}")
    return float(np.float32(p))


@composed(
    samples=samples(
        Sample((randn(3, 5), 0.4, _seed)), Sample((randn(17), 0.5, _seed, False)), Sample((randn(4), 1.0, _seed))
    )
)
def dropout(x: Operand, p: float = 0.5, seed: Value | None = None, training: bool = True) -> Value:
    """x / (1 - p) with probability 1 - p, else 0; x itself if not training or p is 0. Srivastava et al. 2014.

    seed: see rng_seed; needed only in training.
    """
    x = as_value(x)
    threshold = _threshold(p)
    if not training or p == 0:
        return x
    if seed is None:
        raise ArgumentError("needs seed= in training")
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    keep = greater_equal(_draw("random_uniform", x.shape, seed), threshold)
    return where(keep, mul(x, 1 / (1 - p)) if p < 1 else x, 0.0)
