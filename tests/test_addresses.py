"""Addresses in generated kernels: the source that an index map becomes, run by NumPy, against the map itself."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flame_triton.codegen.address import Linear, remainder, split
from flame_triton.codegen.emit import Axis, Emitter, Space, collapse, cut
from flame_triton.ir.graph import Graph
from flame_triton.ir.index_map import IndexMap, refine

SIZES = [(5, 12), (30, 8), (4, 54, 16), (10, 24, 1), (6, 36)]


def _random_map(rng: np.random.Generator, size: int) -> IndexMap:
    """Some reshapes, transposes, slices and pads of a dense array, ending in `size` elements."""
    index = IndexMap.dense((size,))
    for _ in range(rng.integers(1, 5)):
        n = math.prod(index.shape)
        a = int(rng.choice([d for d in range(1, n + 1) if n % d == 0]))
        b = int(rng.choice([d for d in range(1, n // a + 1) if n // a % d == 0]))
        index = index.reshape((a, b, n // a // b)).permute(tuple(rng.permutation(3)))
        if rng.random() < 0.3:
            axis, steps = int(rng.integers(3)), [1, 1, 1]
            steps[axis] = -1
            starts = [0, 0, 0]
            starts[axis] = index.shape[axis] - 1
            index = index.slice(tuple(starts), index.shape, tuple(steps))
        if rng.random() < 0.3:
            axis = int(rng.integers(3))
            shape, starts, before = list(index.shape), [0, 0, 0], [0, 0, 0]
            gone = int(rng.integers(shape[axis]))
            shape[axis] -= gone
            before[axis] = gone
            index = index.slice(tuple(starts), tuple(shape), (1, 1, 1)).pad(tuple(before), (0, 0, 0))
    return index


def _space(sizes: tuple[int, ...], index: IndexMap, rng: np.random.Generator) -> Space:
    """The axes, split as finely as the map's shapes ask for, and then joined again as a kernel does."""
    axes = tuple(Axis(f"a{i}", n, None) for i, n in enumerate(sizes))
    fine = list(refine([sizes, *(v.shape for v in index.views)], math.prod(sizes)))
    dims: list[tuple[int, ...]] = []
    for n in sizes:
        group: list[int] = []
        while math.prod(group) < n:
            group.append(fine.pop(0))
        dims.append(tuple(group) or (1,))
    space = Space(axes, tuple(dims))
    space = cut(space, [index.reshape(space.shape)])
    return collapse(space, [index.reshape(space.shape)]) if rng.random() < 0.7 else space


@pytest.mark.parametrize("seed", range(150))
def test_source_gives_the_map(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = SIZES[seed % len(SIZES)]
    index = _random_map(rng, math.prod(sizes))
    space = _space(sizes, index, rng)
    index = index.reshape(space.shape)
    lines: list[str] = []
    place, valid = Emitter(Graph((), ()), space, {}, lambda _: lines).place(index)
    names: dict[str, object] = {}
    for i, n in enumerate(sizes):
        names[f"a{i}"] = np.arange(n).reshape([-1 if j == i else 1 for j in range(len(sizes))])
    names["tl"] = type("tl", (), {"cast": staticmethod(lambda value, _: value), "int1": bool})
    exec("\n".join(lines), names)
    want, wanted = index.positions()
    found = np.broadcast_to(np.asarray(eval(place.text, names)), sizes).reshape(space.shape)
    mask = True if valid is None else eval(valid, names)
    mask = np.broadcast_to(np.asarray(mask), sizes).reshape(space.shape)
    np.testing.assert_array_equal(mask, wanted)
    np.testing.assert_array_equal(np.where(wanted, found, 0), want)
    axes = {a for a, axis in enumerate(space.axes) if axis.name in place.text}
    assert axes <= place.deps


def test_heads_in_groups_that_do_not_hold_whole_tokens() -> None:
    """(108 g + m) 128 + n over [4608, 24, 128]: one quotient and one remainder a row, none an element."""
    whole = Linear(0, (108 * 128, 128, 1))
    ranges = [(0, 1023), (0, 107), (0, 127)]
    rest, factor = split(whole, 24 * 128, ranges)
    assert (rest, factor) == (Linear(0, (108, 1, 0)), 128)
    assert remainder(whole, 128, ranges) == (Linear(0, (0, 0, 1)), True)
    assert split(whole, 128, ranges) == (Linear(0, (108, 1, 0)), 128)
