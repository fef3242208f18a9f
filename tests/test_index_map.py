"""Index maps against NumPy: random chains of view operations find the same elements."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flame_triton.ir.index_map import IndexMap, refine


def _step(rng: np.random.Generator, array: np.ndarray, index: IndexMap) -> tuple[np.ndarray, IndexMap]:
    shape = array.shape
    kind = int(rng.integers(0, 5))
    if kind == 0:
        axes = tuple(int(a) for a in rng.permutation(len(shape)))
        return array.transpose(axes), index.permute(axes)
    if kind == 1:
        rows = int(rng.choice([d for d in range(1, array.size + 1) if array.size % d == 0]))
        return array.reshape(rows, -1), index.reshape((rows, array.size // rows))
    if kind == 2:
        starts, sizes, steps = [], [], []
        for d in shape:
            start, step = int(rng.integers(0, d)), int(rng.choice([1, 2, -1, -2]))
            most = (d - 1 - start) // step + 1 if step > 0 else start // -step + 1
            starts.append(start), steps.append(step), sizes.append(int(rng.integers(1, most + 1)))
        picked = np.ix_(*(b + k * np.arange(n) for b, n, k in zip(starts, sizes, steps, strict=True)))
        return array[picked], index.slice(tuple(starts), tuple(sizes), tuple(steps))
    if kind == 3 and array.size < 500:
        before, after = (tuple(int(v) for v in rng.integers(0, 3, len(shape))) for _ in range(2))
        return np.pad(array, list(zip(before, after, strict=True))), index.pad(before, after)
    wider = tuple(d if d != 1 else int(rng.integers(1, 4)) for d in shape)
    return np.broadcast_to(array, wider), index.expand(wider)


@pytest.mark.parametrize("block", range(8))
def test_chains_of_views_find_the_same_elements(block: int) -> None:
    rng = np.random.default_rng(block)
    for _ in range(120):
        shape = tuple(int(d) for d in rng.integers(1, 5, rng.integers(1, 4)))
        whole = np.arange(1, math.prod(shape) + 1).reshape(shape)
        array, index = whole, IndexMap.dense(shape)
        for _ in range(5):
            array, index = _step(rng, array, index)
        offset, valid = index.positions()
        assert index.shape == array.shape
        np.testing.assert_array_equal(np.where(valid, whole.reshape(-1)[offset], 0), array, err_msg=str(index))


def test_simple_chains_stay_one_strided_view() -> None:
    heads = (
        IndexMap.dense((2, 16, 3, 6, 64)).permute((2, 0, 3, 1, 4)).slice((1, 0, 0, 0, 0), (1, 2, 6, 16, 64), (1,) * 5)
    )
    assert heads.reshape((2, 6, 16, 64)).strided is not None
    assert IndexMap.dense((4, 6)).reshape((2, 2, 6)).reshape((4, 6)).is_dense
    assert IndexMap.dense((4, 6)).permute((1, 0)).reshape((24,)).strided is None


def test_inverse_of_a_permutation() -> None:
    index = IndexMap.dense((2, 3, 4)).permute((1, 2, 0))
    inverse = index.inverse()
    assert inverse is not None
    order = np.arange(24)[index.positions()[0].reshape(-1)]
    back = inverse.reshape((24,)).positions()[0]
    np.testing.assert_array_equal(order[back], np.arange(24))
    assert IndexMap.dense((2, 3)).expand((2, 2, 3)).inverse() is None
    assert IndexMap.dense((4,)).slice((0,), (2,), (2,)).inverse() is None


def test_refine_chains_the_sizes_that_divide() -> None:
    assert refine([(32, 16), (2, 16, 16), (2, 16, 2, 8)], 512) == (2, 16, 2, 8)
    assert refine([(6,), (4, 1)], 6) == (6,)
