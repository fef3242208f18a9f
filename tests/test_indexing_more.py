"""Writing by index and NumPy's indexing: duplicates, order, out of range, sorted segments, every gradient at special
points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_launch import FLOATS, NUMPY, Output, array, launch, samples, tensor

import flame_triton as ft
from flame_triton import config
from flame_triton.kernels.portable import segment
from flame_triton.kernels.portable.sort import steps
from flame_triton.ops.scatter import scatter_extreme_rows
from flame_triton.runtime.families import indexing as family
from flame_triton.testing import assert_close, check_grads

DEVICE = "interpreter" if config.interpreted() else "cuda"
CONFIGS = [None, segment.Config(8, 8, 2, 1), segment.Config(4, 16, 8, 1)]


def reduced(x: np.ndarray, index: np.ndarray, rows: int, kind: str, pick: segment.Config | None) -> np.ndarray:
    """The segment kernel on an index sorted by NumPy."""
    n, width = x.shape
    order = np.argsort(index, kind="stable")
    out = Output((rows, width), x.dtype.name)
    pick = pick or segment.heuristic(rows, width, config.interpreted())
    launch(
        segment.segment_reduce, segment.grid(rows, width, pick), tensor(x), tensor(index[order]), tensor(order), out,
        n, rows, width, steps(n), KIND=kind, EMPTY=-5, BLOCK_R=pick.BLOCK_R, BLOCK_W=pick.BLOCK_W,
        BLOCK_I=pick.BLOCK_I, num_warps=pick.num_warps,
    )  # fmt: skip
    return out.result()


def expected(x: np.ndarray, index: np.ndarray, rows: int, kind: str) -> np.ndarray:
    wide = x.astype(np.float64) if x.dtype.name in FLOATS else x.astype(np.int64)
    empty = {"sum": 0, "max": -np.inf, "min": np.inf}[kind] if x.dtype.name in FLOATS or kind == "sum" else -5
    out = np.full((rows, x.shape[1]), empty, wide.dtype)
    row = np.where(index < 0, index + rows, index)
    there = (row >= 0) & (row < rows)
    if x.dtype.name not in FLOATS and kind != "sum":  # EMPTY stands for itself, not for what it is compared with
        for r in set(row[there].tolist()):
            out[r] = wide[there & (row == r)].max(0) if kind == "max" else wide[there & (row == r)].min(0)
            out[r] = np.maximum(out[r], -5) if kind == "max" else np.minimum(out[r], -5)
        return out
    {"sum": np.add, "max": np.maximum, "min": np.minimum}[kind].at(out, row[there], wide[there])
    return out


PICKS = [*((dtype, CONFIGS[0]) for dtype in (*FLOATS, "int64", "int32")), *(("float32", c) for c in CONFIGS[1:])]


@pytest.mark.parametrize(("dtype", "pick"), PICKS, ids=str)
@pytest.mark.parametrize("kind", ["sum", "max", "min"])
def test_segments(rng: np.random.Generator, dtype: str, pick: segment.Config | None, kind: str) -> None:
    """Small integers, exact in any order; negative and out-of-range indices, rows without any, one with many."""
    x = rng.integers(-4, 5, (41, 17)).astype(NUMPY[dtype])
    index = rng.integers(-24, 24, 41)
    index[5:25] = 2
    got = reduced(x, index, 19, kind, pick)
    np.testing.assert_array_equal(got.astype(np.float64), expected(x, index, 19, kind).astype(np.float64))


@pytest.mark.parametrize("width", [1, 3, 7, 8, 9])
@pytest.mark.parametrize("n", [0, 1, 3, 16, 17])
def test_segment_tails(rng: np.random.Generator, width: int, n: int) -> None:
    x = rng.integers(-4, 5, (n, width)).astype(np.float32)
    index = rng.integers(-6, 6, n).astype(np.int32)
    for kind in ("sum", "max"):
        got = reduced(x, index, 6, kind, segment.Config(4, 8, 4, 1))
        np.testing.assert_array_equal(got, expected(x, index, 6, kind))


def test_segments_carry_nan_and_keep_infinities_apart() -> None:
    x = np.array([[1.0], [np.nan], [np.inf], [-np.inf], [2.0]], np.float32)
    index = np.array([0, 0, 1, 2, 2])
    np.testing.assert_array_equal(reduced(x, index, 3, "sum", CONFIGS[1]), np.float32([[np.nan], [np.inf], [-np.inf]]))
    np.testing.assert_array_equal(reduced(x, index, 3, "max", CONFIGS[1]), np.float32([[np.nan], [np.inf], [2.0]]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bfloat16"])
def test_many_indices_are_sorted_and_give_the_same(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """One program by each kernel, on integers: the same sums, the same bits every run."""
    x, index = ft.input((300, 3), dtype), ft.input((300,), "int64")
    data = rng.integers(-9, 10, (300, 3)).astype(NUMPY[dtype]), rng.integers(-30, 45, 300)
    results = []
    for limit in (1 << 30, 0):
        monkeypatch.setattr(family, "_MANY", limit)
        monkeypatch.setattr(family, "_MANY_INTERPRETED", limit)
        program = ft.compile([ft.ops.indexing.scatter_add_rows(index, x, 40)], [x, index], device=DEVICE)
        results += [array(program(*data)[0]).tobytes() for _ in range(2)]
    assert len(set(results)) == 1


def test_integers_are_added_exactly() -> None:
    index, x = ft.input((3,), "int64"), ft.input((3, 1), "int64")
    data = np.array([0, 0, 1]), np.array([[2**40 + 1], [1], [7]])
    program = ft.compile([ft.ops.indexing.scatter_add_rows(index, x, 2)], [index, x], device=DEVICE)
    np.testing.assert_array_equal(array(program(*data)[0]), [[2**40 + 2], [7]])


def test_the_last_one_wins(rng: np.random.Generator) -> None:
    x, index, src = ft.input((6, 2), "float32"), ft.input((50,), "int64"), ft.input((50, 2), "float32")
    data = samples(rng, (6, 2), "float32"), rng.integers(-7, 7, 50), samples(rng, (50, 2), "float32")
    outputs = [ft.index_copy(x, 0, index, src), *ft.grad(ft.sum(ft.index_copy(x, 0, index, src)), [x, src])]
    want = data[0].copy()
    writer = {}
    for i, row in enumerate(data[1]):
        if -6 <= row < 6:
            want[row], writer[row % 6] = data[2][i], i
    dsrc = np.zeros((50, 2))
    dsrc[list(writer.values())] = 1
    dx = np.ones((6, 2))
    dx[list(writer)] = 0
    for got in (
        [array(t) for t in ft.compile(outputs, [x, index, src], device=DEVICE)(*data)],
        ft.evaluate(outputs, dict(zip([x, index, src], data, strict=True)), dtype=None),
    ):
        for a, r in zip(got, [want, dx, dsrc], strict=True):
            np.testing.assert_array_equal(a, r)


# ---- NumPy's indexing ------------------------------------------------------------------------------------------

A, B = np.array([2, 0, -1]), np.array([[1], [-2]])
MASK = np.array([[True, False, True, True], [False, False, True, False], [False, True, False, False]])
KEYS = [
    (A,), (A, B), (slice(None), A, B), (A, slice(None), B), (A, None, B), (Ellipsis, B, A), (slice(2, None, -1), A),
    (1, A), (A, 1), (1, slice(None), A), (slice(None), 1, A), (Ellipsis, A), (None, A, Ellipsis, None), [0, 2],
    (MASK,), (MASK, A[:5:1][[0, 1, 1, 2, 0]]), (slice(None), MASK[0]), (MASK[:, 0], Ellipsis, A[:1]),
    (np.zeros((0,), np.int64),), (np.zeros((2, 0), np.int64), 1), (np.asarray(1), A),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_brackets_are_numpys(rng: np.random.Generator, key) -> None:
    data = rng.standard_normal((3, 4, 5))
    x = ft.input(data.shape, "float64")
    y = x[key]
    want = data[tuple(key) if isinstance(key, tuple) else key]
    assert y.shape == want.shape
    np.testing.assert_array_equal(ft.evaluate(y, {x: data}), want)
    if want.size:
        check_grads(lambda v: v[key], data)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("key", [(A,), (A, B), (slice(None), A, B), (A, slice(None), B), (MASK,)], ids=range(5))
def test_index_put_is_numpys(rng: np.random.Generator, key, accumulate: bool) -> None:
    indices = tuple(None if isinstance(k, slice) else k for k in key)
    data = rng.standard_normal((3, 4, 5))
    values = rng.standard_normal(data[key].shape)
    x, v = ft.input(data.shape, "float64"), ft.input(values.shape, "float64")
    want = data.copy()
    if accumulate:
        np.add.at(want, key, values)
    else:
        want[key] = values
    got = ft.evaluate(ft.index_put(x, indices, v, accumulate), {x: data, v: values})
    np.testing.assert_allclose(got, want, rtol=1e-14)


def test_indices_out_of_range() -> None:
    x = ft.input((3, 2), "float64")
    data = np.arange(6.0).reshape(3, 2)
    i, j = ft.input((3,), "int64"), ft.input((3,), "int64")
    feeds = {x: data, i: np.array([0, 3, -1]), j: np.array([1, 0, -3])}
    np.testing.assert_array_equal(ft.evaluate(x[i, j], feeds), [1, np.nan, np.nan])
    put = ft.evaluate(ft.index_put(x, (i, j), 9.0), feeds)
    np.testing.assert_array_equal(put, [[0, 9], [2, 3], [4, 5]])
    (dx,) = ft.grad(ft.sum(x[i, j]), [x])
    np.testing.assert_array_equal(ft.evaluate(dx, feeds), [[0, 1], [0, 0], [0, 0]])


# ---- reductions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sum", "mean", "prod", "amax", "amin"])
@pytest.mark.parametrize("include_self", [True, False])
def test_scatter_reduce_gradients_are_torchs(rng: np.random.Generator, kind: str, include_self: bool) -> None:
    """Ties, duplicates and zeros, against torch's own gradients.

    Where x does not take part but equals the extreme, torch still counts it among those that share, and loses its part
    of the gradient; x is no integer then.
    """
    data = rng.integers(-1, 3, (3, 4)) + (0.0 if include_self else 0.5)
    new = rng.integers(-1, 3, (3, 6)).astype(np.float64)
    index = rng.integers(0, 4, (3, 6))
    theirs = [torch.tensor(a, requires_grad=True) for a in (data, new)]
    out = theirs[0].scatter_reduce(1, torch.tensor(index), theirs[1], kind, include_self=include_self)
    weights = np.arange(12.0).reshape(3, 4)
    (out * torch.tensor(weights)).sum().backward()
    x, s, at = ft.input((3, 4), "float64"), ft.input((3, 6), "float64"), ft.input((3, 6), "int64")
    y = ft.scatter_reduce(x, 1, at, s, kind, include_self)
    got = ft.evaluate([y, *ft.grad(y, [x, s], grad_output=ft.constant(weights))], {x: data, s: new, at: index})
    for a, r in zip(got, [out.detach(), theirs[0].grad, theirs[1].grad], strict=True):
        np.testing.assert_allclose(a, r.numpy(), atol=1e-12)


def test_scatter_prod_to_second_order_with_zeros() -> None:
    index = np.array([[0, 0, 1, 1, 1, 3]])
    src = np.array([[0.0, 2.0, 0.0, 0.0, 3.0, 1.5]])
    x = np.array([[2.0, 1.0, 3.0, 0.5]])
    check_grads(lambda x, s: ft.scatter_reduce(x, 1, index, s, "prod"), x, src, order=2)


def test_extremes_of_nothing() -> None:
    index = ft.input((2,), "int64")
    for dtype, least in (("float32", -np.inf), ("int32", -(2**31)), ("int64", -(2**63)), ("uint8", 0)):
        x = ft.input((2, 1), dtype)
        y = scatter_extreme_rows(index, x, 3)
        data = np.array([1, 1]), np.array([[3], [5]]).astype(NUMPY[dtype])
        got = array(ft.compile([y], [index, x], device=DEVICE)(*data)[0])
        np.testing.assert_array_equal(got, np.array([[least], [5], [least]]).astype(NUMPY[dtype]))
        np.testing.assert_array_equal(ft.evaluate(y, {index: data[0], x: data[1]}, dtype=None), got)


def test_histograms_are_numpys(rng: np.random.Generator) -> None:
    data = rng.standard_normal(500)
    x = ft.input((500,), "float64")
    got = ft.evaluate(ft.histc(x, 20, -1.0, 1.5), {x: data})
    np.testing.assert_array_equal(got, np.histogram(data, 20, (-1.0, 1.5))[0])
    got = ft.evaluate(ft.histc(x, 7), {x: data})
    np.testing.assert_array_equal(got, np.histogram(data, 7)[0])


def test_sixteen_bits_are_added_in_float32(rng: np.random.Generator) -> None:
    """1000 additions of 2^-8 to 1: a bfloat16 sum would not move."""
    x, src = ft.input((1, 1), "bfloat16"), ft.input((1000, 1), "bfloat16")
    index = np.zeros(1000, np.int64)
    y = [ft.index_add(x, 0, index, src), ft.index_put(x, (index,), src, True)]
    y.append(ft.scatter_reduce(x, 0, index[:, None], src, "sum"))
    data = np.ones((1, 1), NUMPY["bfloat16"]), np.full((1000, 1), 2.0**-8, NUMPY["bfloat16"])
    for t in ft.compile(y, [x, src], device=DEVICE)(*data):
        assert_close(array(t).astype(np.float64), [[1 + 1000 / 256]], "bfloat16")


# ---- masks that are Values, and tensors without axes -----------------------------------------------------------


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(
    ("shape", "first", "mask", "values"),
    [
        ((3, 4), 0, (3, 4), (6,)), ((3, 4), 0, (3, 4), ()), ((3, 4), 0, (3, 4), (1,)), ((3, 4), 0, (3,), (2, 4)),
        ((3, 4), 0, (3,), (1, 4)), ((3, 4), 0, (3,), (4,)), ((3, 4), 1, (4,), (3, 2)), ((3, 4), 1, (4,), (2,)),
        ((2, 3, 4, 2), 1, (3, 4), (2, 6, 2)), ((2, 3, 4), 1, (3, 4), (2, 1)), ((5,), 0, (5,), (0,)),
    ],
    ids=str,
)  # fmt: skip
def test_a_mask_of_values_writes_as_a_constant_one(
    rng: np.random.Generator, shape, first: int, mask, values, accumulate: bool
) -> None:
    """Values and gradients: half of the mask is true (none of it if there are no values)."""
    chosen = np.zeros(mask, bool)
    chosen.reshape(-1)[rng.permutation(chosen.size)[: 0 if values == (0,) else chosen.size // 2 or 1]] = True
    if mask == (3,):
        chosen = np.array([True, False, True])
    x, m, v = ft.input(shape, "float64"), ft.input(mask, "bool"), ft.input(values, "float64")
    g = ft.input(shape, "float64")
    arrays = {x: rng.standard_normal(shape), v: rng.standard_normal(values), g: rng.standard_normal(shape), m: chosen}
    found = ft.index_put(x, [*[None] * first, m], v, accumulate)
    want = ft.index_put(x, [*[None] * first, chosen], v, accumulate)
    ours = [found, *ft.grad(found, [x, v], grad_output=g, allow_unused=True)]
    theirs = [want, *ft.grad(want, [x, v], grad_output=g, allow_unused=True)]
    for a, r in zip(ft.evaluate(ours, arrays), ft.evaluate(theirs, arrays), strict=True):
        np.testing.assert_allclose(a, r, rtol=1e-12, atol=1e-12)
    program = ft.compile(ours, [x, v, g, m], device=DEVICE)
    for a, r in zip(program(*arrays.values()), ft.evaluate(theirs, arrays), strict=True):
        np.testing.assert_allclose(np.asarray(a.cpu()), r, rtol=1e-12, atol=1e-12)


def test_too_few_and_too_many_values_for_a_mask() -> None:
    x, m = ft.input((4,), "float32"), ft.input((4,), "bool")
    feeds = {x: np.zeros(4), m: np.array([True, False, True, True])}
    np.testing.assert_array_equal(ft.evaluate(ft.index_put(x, [m], np.float32([1, 2])), feeds), [1, 0, 2, np.nan])
    np.testing.assert_array_equal(ft.evaluate(ft.index_put(x, [m], np.float32([1, 2, 3, 4])), feeds), [1, 0, 2, 3])


@pytest.mark.parametrize("index", [np.asarray(0), np.array([0])], ids=["0-d", "1-d"])
def test_tensors_without_axes_as_in_torch(index: np.ndarray) -> None:
    x, y, i = torch.tensor(3.0), torch.tensor(5.0), torch.from_numpy(np.array(index))
    a, b = np.float32(3.0), np.float32(5.0)
    u, v = ft.input((), "float32"), ft.input((), "float32")
    pairs = [
        (ft.index_select(u, 0, index), torch.index_select(x, 0, i)), (ft.gather(u, 0, index), torch.gather(x, 0, i)),
        (ft.take(u, index, None), torch.take(x, i)), (ft.index_add(u, 0, index, v), torch.index_add(x, 0, i, y)),
        (ft.index_copy(u, -1, index, v), torch.index_copy(x, -1, i, y)),
        (ft.index_reduce(u, 0, index, v, "prod"), torch.index_reduce(x, 0, i, y, "prod")),
        (ft.scatter(u, 0, index, v), torch.scatter(x, 0, i, y)),
        (ft.scatter_add(u, 0, index, v), torch.scatter_add(x, 0, i, y)),
        (ft.scatter_reduce(u, 0, index, v, "amax"), torch.scatter_reduce(x, 0, i, y, "amax")),
    ]  # fmt: skip
    for ours, theirs in pairs:
        assert ours.shape == tuple(theirs.shape)
        np.testing.assert_array_equal(ft.evaluate(ours, {u: a, v: b}), theirs.numpy())
