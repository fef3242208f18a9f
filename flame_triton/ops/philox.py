"""Philox4x32-10 in NumPy: counter-based random numbers, bit for bit those of the kernels. Salmon et al. 2011.

key = seed (64 bits); counter = (index low, index high, stream, step), 32 bits each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Word = np.ndarray | int

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_BLOCK = 1 << 13  # elements at a time: the working set stays in the first-level cache


def philox(counter: Sequence[Word], seed: int) -> tuple[np.ndarray, ...]:
    """The four output words, as uint64 arrays below 2^32, of four counter words that broadcast against each other."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = seed & _MASK, seed >> 32 & _MASK
    m0, m1, low, half = np.uint64(_MULTIPLIERS[0]), np.uint64(_MULTIPLIERS[1]), np.uint64(_MASK), np.uint64(32)
    for _ in range(_ROUNDS):
        p0, p1 = c0 * m0, c2 * m1
        c0, c1, c2, c3 = (
            (p1 >> half) ^ c1 ^ np.uint64(k0),
            p1 & low,
            (p0 >> half) ^ c3 ^ np.uint64(k1),
            p0 & low,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def draw(
    shape: tuple[int, ...],
    dtype: np.dtype | type,
    seed: int,
    stream: int,
    step: int,
    finish: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """finish(word 0, word 1) at every row-major element index of `shape`."""
    out = np.empty(int(np.prod(shape, dtype=np.int64)), dtype)
    for start in range(0, out.size, _BLOCK):
        index = np.arange(start, min(start + _BLOCK, out.size), dtype=np.uint64)
        counter = (index & np.uint64(_MASK), index >> np.uint64(32), stream & _MASK, step & _MASK)
        word0, word1, _, _ = philox(counter, seed)
        out[start : start + _BLOCK] = finish(word0, word1)
    return out.reshape(shape)


def as_uniform(word: np.ndarray) -> np.ndarray:
    """float32 in [0, 1): the word as int32 x, -x - 1 where negative, times 4.6566127342e-10 (the rule of tl.rand)."""
    signed = word.astype(np.uint32).view(np.int32)
    return (signed ^ (signed >> 31)).astype(np.float32) * np.float32(4.6566127342e-10)


def as_normal(word0: np.ndarray, word1: np.ndarray) -> np.ndarray:
    """float32 standard normal: sqrt(-2 log max(1e-7, u0)) cos(2 pi u1). Box and Muller 1958."""
    radius = np.sqrt(np.float32(-2) * np.log(np.maximum(np.float32(1e-7), as_uniform(word0))))
    return radius * np.cos(np.float32(6.283185307179586) * as_uniform(word1))
