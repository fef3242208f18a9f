"""Rows by index and their gradient: negative and out-of-range indices, duplicates, tails, strides, determinism."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_launch import FLOATS, NUMPY, Output, launch, samples, tensor

from flame_triton.config import interpreted
from flame_triton.kernels.portable.indexing import (
    GatherConfig,
    ScatterConfig,
    gather_grid,
    gather_heuristic,
    gather_rows,
    scatter_add_rows,
    scatter_grid,
    scatter_heuristic,
)

WIDTHS = (1, 3, 17, 31, 32, 33)  # around a block of 32


def gather(table: np.ndarray, index: np.ndarray, config: GatherConfig | None = None, gap: int = 0) -> np.ndarray:
    """The kernel's table[index]; gap: unused elements, NaN or 77, between the rows of both arrays."""
    (n_rows, width), n_index, dtype = table.shape, index.size, table.dtype.name
    frame = np.full((n_rows, width + gap), np.nan if dtype in FLOATS else 1).astype(table.dtype)
    frame[:, :width] = table
    out = Output((n_index, width + gap), dtype)
    before = out.result().copy()
    config = config or gather_heuristic(n_index, width, interpreted())
    launch(
        gather_rows, gather_grid(n_index, width, config), tensor(frame), tensor(index), out, n_index, n_rows, width,
        width + gap, width + gap, config.BLOCK_I, config.BLOCK_W, num_warps=config.num_warps,
    )  # fmt: skip
    assert out.result()[:, width:].tobytes() == before[:, width:].tobytes(), "wrote between the rows"
    return out.result()[:, :width]


def scatter(grad, index, n_rows, config: ScatterConfig | None = None, gap: int = 0, out_dtype: str | None = None):
    """The kernel's gradient of a table of n_rows rows."""
    n_index, width = grad.shape
    frame = np.full((n_index, width + gap), np.nan).astype(grad.dtype)
    frame[:, :width] = grad
    out = Output((n_rows, width), out_dtype or grad.dtype.name)
    config = config or scatter_heuristic(n_index, n_rows, width, interpreted())
    launch(
        scatter_add_rows, scatter_grid(n_rows, width, config), tensor(frame), tensor(index), out, n_index, n_rows,
        width, width + gap, width, config.BLOCK_R, config.BLOCK_W, config.BLOCK_I, config.SCAN,
        num_warps=config.num_warps,
    )  # fmt: skip
    return out.result()


def summed(grad: np.ndarray, index: np.ndarray, n_rows: int) -> np.ndarray:
    """The gradient in float64; out-of-range indices add nothing."""
    out = np.zeros((n_rows, grad.shape[1]))
    rows = np.where(index < 0, index + n_rows, index)
    there = (rows >= 0) & (rows < n_rows)
    np.add.at(out, rows[there], grad[there].astype(np.float64))
    return out


# --- gather ---


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("config", [None, GatherConfig(4, 32, 1)], ids=["heuristic", "small"])
def test_gather_copies_rows(rng: np.random.Generator, dtype: str, index_dtype: str, config) -> None:
    table = samples(rng, (11, 37), dtype)
    index = rng.integers(-11, 11, 19).astype(NUMPY[index_dtype])
    assert gather(table, index, config).tobytes() == table[index].tobytes()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("n_index", [1, 3, 7, 8, 9])
def test_gather_tails(rng: np.random.Generator, width: int, n_index: int) -> None:
    table = samples(rng, (5, width), "float32")
    index = rng.integers(-5, 5, n_index)
    np.testing.assert_array_equal(gather(table, index, GatherConfig(8, 32, 1), gap=3), table[index])


@pytest.mark.parametrize("dtype", NUMPY)
def test_gather_out_of_range(rng: np.random.Generator, dtype: str) -> None:
    """NaN rows for floats, zeros for the rest, and no access outside the table."""
    table = samples(rng, (4, 5), dtype)
    index = np.array([3, 4, -4, -5, 2**31, -(2**40), 0])
    got = gather(table, index)
    there = np.array([True, False, True, False, False, False, True])
    np.testing.assert_array_equal(got[there], table[index[there]])
    if dtype in FLOATS:
        assert np.isnan(got[~there].astype(np.float64)).all()
    else:
        assert not got[~there].any()


# --- scatter ---

SCATTER_CONFIGS = [None, ScatterConfig(1, 32, 4, 16, 1), ScatterConfig(8, 32, 8, 8, 1)]


@pytest.mark.parametrize(("dtype", "index_dtype"), [*((dtype, "int64") for dtype in FLOATS), ("float32", "int32")])
@pytest.mark.parametrize("config", SCATTER_CONFIGS, ids=["heuristic", "row", "rows"])
def test_scatter_adds_every_row_once(rng: np.random.Generator, dtype: str, index_dtype: str, config) -> None:
    """Small integers: exact in every dtype and order. Some rows of the table are never named, one is named often."""
    grad = rng.integers(-4, 5, (41, 37)).astype(NUMPY[dtype])
    index = rng.integers(-8, 8, 41).astype(NUMPY[index_dtype])
    index[5:20] = 2
    np.testing.assert_array_equal(scatter(grad, index, 19, config).astype(np.float64), summed(grad, index, 19))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("n_index", [0, 1, 15, 16, 17])
def test_scatter_tails(rng: np.random.Generator, width: int, n_index: int) -> None:
    grad = rng.integers(-4, 5, (n_index, width)).astype(np.float32)
    index = rng.integers(-6, 6, n_index)
    got = scatter(grad, index, 6, ScatterConfig(4, 32, 4, 16, 1), gap=3)
    np.testing.assert_array_equal(got, summed(grad, index, 6))


def test_scatter_ignores_out_of_range(rng: np.random.Generator) -> None:
    grad = samples(rng, (5, 8), "float32")
    index = np.array([0, 3, -4, 2**31 + 1, -(2**40)])
    np.testing.assert_array_equal(scatter(grad, index, 3), summed(grad, index, 3).astype(np.float32))


@pytest.mark.parametrize("config", SCATTER_CONFIGS, ids=["heuristic", "row", "rows"])
def test_scatter_keeps_infinities_in_their_row(config: ScatterConfig | None) -> None:
    """A product with a one-hot matrix would give NaN (0 * inf) in the rows beside."""
    grad = np.ones((6, 4), np.float32)
    grad[1], grad[4] = np.inf, np.nan
    got = scatter(grad, np.array([0, 1, 2, 2, 3, 5]), 8, config)
    np.testing.assert_array_equal(got[:, 0], np.float32([1, np.inf, 2, np.nan, 0, 1, 0, 0]))


def test_scatter_accumulates_in_float32(rng: np.random.Generator) -> None:
    """1000 bfloat16 ones: a bfloat16 sum would stop at 256."""
    grad = np.ones((1000, 3), NUMPY["bfloat16"])
    got = scatter(grad, np.zeros(1000, np.int64), 2, out_dtype="float32")
    np.testing.assert_array_equal(got, [[1000.0] * 3, [0.0] * 3])


def test_scatter_accumulates_float64_in_float64(rng: np.random.Generator) -> None:
    grad = samples(rng, (50, 3), "float64")
    index = rng.integers(0, 2, 50)
    np.testing.assert_allclose(scatter(grad, index, 2), summed(grad, index, 2), rtol=0, atol=1e-13)


def test_scatter_is_deterministic(rng: np.random.Generator) -> None:
    grad = samples(rng, (300, 40), "float32")
    index = rng.integers(0, 7, 300)
    results = {scatter(grad, index, 7).tobytes() for _ in range(3)}
    assert len(results) == 1
    # Sums of about 43 terms of size 1.
    np.testing.assert_allclose(
        np.frombuffer(results.pop(), np.float32).reshape(7, 40), summed(grad, index, 7), atol=2e-5
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 1001, 1152), (4096, 50304, 384), (4096, 65, 384), (3, 5, 40000)])
def test_heuristics_give_legal_blocks(shape: tuple[int, int, int]) -> None:
    n_index, n_rows, width = shape
    for mode in (True, False):
        limit = 1 << 20 if mode else 1 << 13
        pick = gather_heuristic(n_index, width, mode)
        assert pick.BLOCK_I * pick.BLOCK_W <= limit
        s = scatter_heuristic(n_index, n_rows, width, mode)
        assert s.BLOCK_R * s.BLOCK_W * s.BLOCK_I <= limit and s.SCAN % s.BLOCK_I == 0 and s.SCAN <= 1 << 20
        sizes = (pick.BLOCK_I, pick.BLOCK_W, s.BLOCK_R, s.BLOCK_W, s.BLOCK_I, s.SCAN)
        assert all(size > 0 and size & (size - 1) == 0 for size in sizes)
