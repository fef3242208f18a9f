"""Sorting through its kernels: chunks by network and by rank, merges, ties, NaN, both orders, search, gradients."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_launch import FLOATS, NUMPY, Output, array, launch, samples, tensor

import flame_triton as ft
from flame_triton import config
from flame_triton.kernels.portable import sort as kernels
from flame_triton.testing import check_grads

DEVICE = "interpreter" if config.interpreted() else "cuda"
DTYPES = (*FLOATS, "int64", "int32", "uint8", "bool")
TAILS = (1, 3, 15, 16, 17, 33)


def with_special(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Few distinct values, so many ties; for floats also NaN, infinities and both zeros."""
    x = samples(rng, shape, dtype)
    if dtype in FLOATS:
        x = np.round(x.astype(np.float64)).astype(NUMPY[dtype])
        special = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0]).astype(NUMPY[dtype])
        chosen = rng.random(shape) < 0.4
        x[chosen] = rng.choice(special, chosen.sum())
    if dtype in ("int64", "int32"):
        x.flat[0], x.flat[-1] = np.iinfo(dtype).min, np.iinfo(dtype).max
    return x


def order(x: np.ndarray, descending: bool) -> np.ndarray:
    """The stable order, one row after the other, by Python's sort: NaN above all, zeros equal."""

    def key(v):
        return (1, 0) if v != v else (0, v)

    rows = [[v.item() if x.dtype.kind in "iub" else float(v) for v in row] for row in x]
    found = []
    for row in rows:
        n = len(row)
        # reverse=True keeps equal elements in their order
        found.append(sorted(range(n), key=lambda i, row=row: key(row[i]), reverse=descending))
    return np.asarray(found, np.int64)


def chunks(kernel, x: np.ndarray, pick: kernels.Config, descending: bool) -> tuple[np.ndarray, np.ndarray]:
    rows, length = x.shape
    values, indices = Output(x.shape, x.dtype.name), Output(x.shape, "int64")
    launch(
        kernel, kernels.chunk_grid(rows, length, pick), tensor(x), values, indices, rows, length,
        DESCENDING=descending, BLOCK_M=pick.BLOCK_M, CHUNK=pick.CHUNK, num_warps=pick.num_warps,
    )  # fmt: skip
    return values.result(), indices.result()


def same(a: np.ndarray, b: np.ndarray) -> None:
    """Equal, NaN included, and the signs of zeros."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    np.testing.assert_array_equal(a, b)
    nan = np.isnan(b)
    np.testing.assert_array_equal(np.signbit(a)[~nan], np.signbit(b)[~nan])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("descending", [False, True])
def test_chunks(rng: np.random.Generator, dtype: str, descending: bool) -> None:
    """Every type by rank, those of at most 32 bits also by the network: both are stable, so both find the same."""
    x = with_special(rng, (5, 13), dtype)
    want = order(x, descending)
    names = ["rank_chunks"] if x.dtype.itemsize > 4 else ["rank_chunks", "sort_chunks"]
    for name in names:
        values, indices = chunks(getattr(kernels, name), x, kernels.Config(True, 2, 16, 64, 1), descending)
        np.testing.assert_array_equal(indices, want)
        same(values, np.take_along_axis(x, want, 1))


@pytest.mark.parametrize("length", TAILS)
@pytest.mark.parametrize("name", ["rank_chunks", "sort_chunks"])
def test_merges_from_small_chunks(rng: np.random.Generator, length: int, name: str) -> None:
    """Chunks of 4, merged until one run is left; blocks of 8 elements cross rows and runs."""
    x = with_special(rng, (3, length), "float32")
    pick = kernels.Config(True, 2, 4, 8, 1)
    for descending in (False, True):
        values, indices = chunks(getattr(kernels, name), x, pick, descending)
        for run in kernels.merges(length, pick):
            out, index = Output(x.shape, "float32"), Output(x.shape, "int64")
            launch(
                kernels.merge_runs, kernels.merge_grid(3, length, pick), tensor(values), tensor(indices), out, index,
                3, length, run, kernels.steps(run), DESCENDING=descending, BLOCK=pick.BLOCK, num_warps=1,
            )  # fmt: skip
            values, indices = out.result(), index.result()
        want = order(x, descending)
        np.testing.assert_array_equal(indices, want)
        same(values, np.take_along_axis(x, want, 1))


@pytest.mark.parametrize(("shape", "axis"), [((10000,), 0), ((3, 130), 1), ((70, 3), 0), ((4, 1), 1), ((2, 0), 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_programs(rng: np.random.Generator, shape: tuple[int, ...], axis: int, dtype: str) -> None:
    x = ft.input(shape, dtype)
    outputs = [*ft.sort(x, axis), *ft.sort(x, axis, descending=True)]
    program = ft.compile(outputs, [x], device=DEVICE)
    values = np.round(rng.standard_normal(shape) * 20).astype(dtype)
    got = [array(t) for t in program(values)]
    want = np.argsort(values, axis, kind="stable")
    np.testing.assert_array_equal(got[1], want)
    np.testing.assert_array_equal(got[0], np.take_along_axis(values, want, axis))
    want = np.argsort(-values, axis, kind="stable")
    np.testing.assert_array_equal(got[3], want)
    np.testing.assert_array_equal(got[2], np.take_along_axis(values, want, axis))


def test_sort_agrees_with_the_reference_on_special_values(rng: np.random.Generator) -> None:
    for dtype in DTYPES:
        x = with_special(rng, (4, 19), dtype)
        v = ft.input(x.shape, dtype)
        for descending in (False, True):
            graph = list(ft.sort(v, descending=descending))
            got = [array(t) for t in ft.compile(graph, [v], device=DEVICE)(x)]
            want = ft.evaluate(graph, {v: x}, dtype=None)
            np.testing.assert_array_equal(got[1], order(x, descending))
            np.testing.assert_array_equal(got[1], want[1])
            same(got[0], want[0])


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int64"])
def test_search(rng: np.random.Generator, right: bool, dtype: str) -> None:
    for n in (0, 1, 2, 3, 8, 17):
        rows = np.sort(rng.integers(-5, 6, (3, n)), 1).astype(NUMPY[dtype])
        x = rng.integers(-7, 8, (3, 5)).astype(NUMPY[dtype])
        out = Output((3, 5), "int64")
        launch(
            kernels.search_sorted, (2,), tensor(rows), tensor(x), out, 15, 5, n, n, kernels.steps(n), RIGHT=right,
            BLOCK=8, num_warps=1,
        )  # fmt: skip
        side = "right" if right else "left"
        for row, values, found in zip(rows, x, out.result(), strict=True):
            wide = row.astype(np.float64), values.astype(np.float64)
            np.testing.assert_array_equal(found, np.searchsorted(*wide, side))


def test_search_puts_nan_last() -> None:
    edges, x = ft.input((4,), "float32"), ft.input((3,), "float32")
    feeds = np.array([0.0, 1.0, np.nan, np.nan], np.float32), np.array([np.nan, np.inf, -0.0], np.float32)
    for right, want in ((False, [2, 2, 0]), (True, [4, 2, 1])):
        found = ft.searchsorted(edges, x, right)
        np.testing.assert_array_equal(array(ft.compile([found], [edges, x], device=DEVICE)(*feeds)[0]), want)
        np.testing.assert_array_equal(ft.evaluate(found, {edges: feeds[0], x: feeds[1]}), want)


def test_gradients_follow_the_indices() -> None:
    x = ft.input((5,), "float64")
    values, _ = ft.topk(x, 3)
    (dx,) = ft.grad(values, [x], grad_output=ft.constant(np.array([1.0, 2.0, 4.0])))
    np.testing.assert_array_equal(ft.evaluate(dx, {x: np.array([0.0, 5.0, 5.0, 1.0, 7.0])}), [0, 2, 4, 0, 1])
    (dx,) = ft.grad(ft.median(x), [x])
    np.testing.assert_array_equal(ft.evaluate(dx, {x: np.array([0.0, 5.0, 5.0, 1.0, 7.0])}), [0, 1, 0, 0, 0])
    check_grads(lambda x: ft.square(ft.sort(ft.square(x), 0)[0]), (4, 3), order=2)


def test_quantiles_agree_with_numpy(rng: np.random.Generator) -> None:
    data = rng.standard_normal((3, 11))
    holes = np.where(rng.random((3, 11)) < 0.3, np.nan, data)
    x = ft.input((3, 11), "float64")
    for method in ("linear", "lower", "higher", "midpoint", "nearest"):
        for q in (0.0, 0.1, 0.35, 0.5, 0.9999, 1.0):
            got = ft.evaluate(ft.quantile(x, q, 1, interpolation=method), {x: data})
            np.testing.assert_allclose(got, np.quantile(data, q, 1, method=method), rtol=1e-12)
            got = ft.evaluate(ft.nanquantile(x, q, 1, interpolation=method), {x: holes})
            np.testing.assert_allclose(got, np.nanquantile(holes, q, 1, method=method), rtol=1e-12)
    assert np.isnan(ft.evaluate(ft.quantile(x, 0.5), {x: holes}))


def test_heuristics_give_legal_blocks() -> None:
    for rows, length in ((1, 1), (4096, 64), (1, 10**6), (10**6, 8), (64, 50257)):
        for itemsize in (2, 4, 8):
            for interpreted in (True, False):
                pick = kernels.heuristic(rows, length, itemsize, interpreted)
                assert not pick.packed or itemsize <= 4
                assert all(n > 0 and n & (n - 1) == 0 for n in (pick.BLOCK_M, pick.CHUNK, pick.BLOCK))
                work = pick.BLOCK_M * pick.CHUNK * (1 if pick.packed else pick.CHUNK)
                assert work <= (1 << 18 if interpreted else 2048)
