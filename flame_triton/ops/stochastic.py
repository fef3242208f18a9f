"""Rounding up or down at random, so that what is lost on the way to 16 bits is zero on average.

Weights kept in bfloat16 alone lose every update smaller than half a unit in their last place if rounded to nearest.
Rounded at random, up as often as the value is near the upper neighbour, they follow the float32 training on average.
"""

from __future__ import annotations

import numpy as np

from ..errors import ArgumentError, DTypeError
from ..ir.node import Value, make
from ..ir.op import Op, Pointwise, Sample, call, register
from ..types import DType, DTypeLike, TensorType, bfloat16, float32, int32
from ..types import dtype as as_dtype
from .define import Operand, as_value, composed, samples
from .philox import philox
from .random import next_stream

__all__ = ["stochastic_round"]


def _noise_ref(index: np.ndarray, stream: np.ndarray, step: np.ndarray, *, seed: int) -> np.ndarray:
    at = np.asarray(index).astype(np.uint64)
    low = np.uint64(0xFFFFFFFF)
    counter = (
        at >> np.uint64(2) & low,
        at >> np.uint64(34),
        *(np.asarray(v).astype(np.uint64) & low for v in (stream, step)),
    )
    words = np.stack(np.broadcast_arrays(*philox(counter, seed)))
    word = np.take_along_axis(words, (at & np.uint64(3)).astype(np.int64)[None], axis=0)[0]
    return (word >> np.uint64(16)).astype(np.int32)


register(
    Op(
        "noise",
        lambda index, stream, step, *, seed: index.with_dtype(int32),
        Pointwise("lib.noise({seed}, {0}, {1}, {2})", 20),
        _noise_ref,
        doc="16 random bits at each index: half of word index % 4 of the Philox draw (index // 4, stream, step).",
    )
)


def _round_type(x: TensorType, noise: TensorType, *, dtype: DType) -> TensorType:
    return x.with_dtype(dtype)


def _round_ref(x: np.ndarray, noise: np.ndarray, *, dtype: DType) -> np.ndarray:
    """In float64, the oracle's, nothing is rounded: x is the expected value."""
    if x.dtype == np.float64:
        return x
    bits = np.array(x, np.float32).view(np.uint32)
    moved = (bits + (noise & 0xFFFF).astype(np.uint32)) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(x), moved.view(np.float32), x)


register(
    Op(
        "round_with_noise",
        _round_type,
        Pointwise("lib.stochastic_round({0}, {1})", 4),
        _round_ref,
        lambda node, g: [call("cast", g, float32), None],
        doc="float32 to bfloat16: the lower 16 bits of noise are added to the bits that are dropped.",
    )
)


def round_with_noise(x: Value, noise: Value) -> Value:
    """x, float32, rounded to bfloat16 by random bits (int32, the lower 16 count) of its shape."""
    return make("round_with_noise", [x, noise], dtype=bfloat16).out


def noise(index: Value, stream: Value, step: Value, seed: int) -> Value:
    """16 random bits as int32 at each index; all Values are int64 of one shape. 0 <= seed < 2^63."""
    if not 0 <= seed < 1 << 63:
        raise ArgumentError(f"seed must lie in [0, 2^63), got {seed}")
    return make("noise", [index, stream, step], seed=int(seed)).out


_exact = np.arange(-7.0, 8.0, dtype=np.float32)  # what bfloat16 holds, so that every draw gives the same


@composed(
    samples=samples(Sample((_exact.reshape(3, 5), np.array([1234, 5]))), Sample((_exact * 2.0, np.array([7, 0]))))
)
def stochastic_round(x: Operand, seed: Value, dtype: DTypeLike = bfloat16) -> Value:
    """x rounded to bfloat16, up or down at random: the upper neighbour is taken with probability (x - lower) / (upper -
    lower), so the expected value is x. What bfloat16 holds is kept, as are infinities and NaN.

    seed: see rng_seed. dtype: bfloat16 alone. The gradient is that of a cast. Gupta et al. 2015.
    """
    x = as_value(x)
    if as_dtype(dtype) is not bfloat16 or not x.dtype.is_float:
        raise DTypeError(f"rounds floats to bfloat16, got {x.dtype} to {as_dtype(dtype)}")
    stream = next_stream(seed)
    bits = make("random_integers", [seed[0], seed[1]], shape=x.shape, stream=stream, low=0, count=1 << 16).out
    return round_with_noise(call("cast", x, float32), call("cast", bits, int32))
