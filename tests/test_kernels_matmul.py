"""The portable matmul: every layout, stride, tail, dtype and epilogue; its configurations.

Most checks use small integers: all products and sums are then exact in every dtype, so results are compared for
equality and a single lost, repeated or misplaced term is seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from kernel_launch import FLOATS, NUMPY, Output, launch, samples, tensor

from flame_triton.config import interpreted
from flame_triton.kernels.portable import library as lib
from flame_triton.kernels.portable.matmul import matmul, store_epilogue
from flame_triton.kernels.portable.matmul_configs import (
    Config,
    Problem,
    configs,
    estimate_cycles,
    grid,
    heuristic,
    shared_bytes,
)

SMALL = Config(1, 16, 32, 16, 2, 1, 2)  # many tiles, several K blocks, a ragged raster group


def integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return rng.integers(-4, 5, shape).astype(NUMPY[dtype])


def strides(a: torch.Tensor, inner: int) -> tuple[int, int, int, int]:
    """(outer batch, inner batch, row, column) strides of [batch, rows, columns] whose batch is split by `inner`."""
    return (a.stride(0) * inner, a.stride(0), a.stride(1), a.stride(2))


def run(
    a: torch.Tensor,
    b: torch.Tensor,
    out: Output,
    problem: Problem,
    config: Config,
    a_strides: tuple[int, ...],
    b_strides: tuple[int, ...],
    inner: int = 1,
    epilogue: Any = store_epilogue,
    ptrs: tuple[Any, ...] = (),
    slices: int = 1,
) -> np.ndarray:
    """Launches the matmul; ptrs: of the epilogue, if it is not the plain one."""
    shape = (problem.M, problem.N, problem.K, problem.batch, inner)
    ptrs = ptrs or (out.tensor, problem.M, problem.N)
    launch(
        matmul, grid(problem, config), a, b, ptrs, *shape, *a_strides, *b_strides, epilogue, problem.precision,
        config.BLOCK_B, config.BLOCK_M, config.BLOCK_N, config.BLOCK_K, config.GROUP_M, config.even_k(problem.K),
        slices, num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return out.result()


def product(a: np.ndarray, b: np.ndarray, layouts: str = "nn", config: Config | None = None, inner: int = 1):
    """a @ b for [batch, M, K] and [batch, K, N] arrays, stored as the layouts say; in the accumulator's dtype."""
    operands = [
        tensor(x) if layout == "n" else tensor(x.swapaxes(1, 2)).transpose(1, 2)
        for x, layout in zip((a, b), layouts, strict=True)
    ]
    (batch, m, k), n = a.shape, b.shape[2]
    dtype = next(name for name, kind in NUMPY.items() if kind == a.dtype)
    problem = Problem(batch, m, n, k, dtype, *layouts)
    out = Output((batch, m, n), "float64" if dtype == "float64" else "float32")
    config = config or heuristic(problem, interpreted())
    left, right = operands
    return run(left, right, out, problem, config, strides(left, inner), strides(right, inner), inner)


def exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) @ b.astype(np.float64)


# --- sizes, layouts, dtypes ---


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layouts", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("config", [None, SMALL], ids=["heuristic", "small"])
def test_layouts_and_dtypes(rng: np.random.Generator, dtype: str, layouts: str, config: Config | None) -> None:
    a, b = integers(rng, (1, 37, 50), dtype), integers(rng, (1, 50, 70), dtype)
    np.testing.assert_array_equal(product(a, b, layouts, config), exact(a, b))


@pytest.mark.parametrize("m", [1, 3, 15, 16, 17, 33])
@pytest.mark.parametrize("n", [1, 31, 32, 33])
@pytest.mark.parametrize("k", [1, 16, 35])
def test_tails(rng: np.random.Generator, m: int, n: int, k: int) -> None:
    a, b = integers(rng, (1, m, k), "float32"), integers(rng, (1, k, n), "float32")
    np.testing.assert_array_equal(product(a, b, config=SMALL), exact(a, b))


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (17, 1, 3), (1, 40, 129), (64, 64, 64)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_heuristic_on_odd_sizes(rng: np.random.Generator, m: int, n: int, k: int, dtype: str) -> None:
    a, b = integers(rng, (3, m, k), dtype), integers(rng, (3, k, n), dtype)
    np.testing.assert_array_equal(product(a, b), exact(a, b))


@pytest.mark.parametrize("group", [1, 2, 3, 100])
def test_raster_groups_reach_every_tile_once(rng: np.random.Generator, group: int) -> None:
    a, b = integers(rng, (1, 80, 16), "float32"), integers(rng, (1, 16, 96), "float32")
    np.testing.assert_array_equal(product(a, b, config=Config(1, 16, 32, 16, group, 1, 1)), exact(a, b))


def test_empty_k_gives_zeros(rng: np.random.Generator) -> None:
    a, b = np.zeros((2, 5, 0), np.float32), np.zeros((2, 0, 7), np.float32)
    np.testing.assert_array_equal(product(a, b, config=SMALL), np.zeros((2, 5, 7)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_precision_of_real_numbers(rng: np.random.Generator, dtype: str) -> None:
    a, b = samples(rng, (1, 64, 512), dtype), samples(rng, (1, 512, 48), dtype)
    error = np.abs(product(a, b) - a.astype(np.longdouble) @ b.astype(np.longdouble)).max()
    # 512 roundings of sums of about 10 to 100, in whatever order; tf32 would be off by 1e-2, float32 inside float64 by
    # 1e-4.
    assert error < 4096 * np.finfo(NUMPY[dtype]).eps


# --- batches and strides ---


@pytest.mark.parametrize("block_b", [1, 2, 4, 16])
@pytest.mark.parametrize("batch", [1, 5, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batches_in_one_block(rng: np.random.Generator, block_b: int, batch: int, dtype: str) -> None:
    a, b = integers(rng, (batch, 20, 19), dtype), integers(rng, (batch, 19, 33), dtype)
    got = product(a, b, "tn", Config(block_b, 16, 16, 16, 2, 1, 2))
    np.testing.assert_array_equal(got, exact(a, b))


@pytest.mark.parametrize("block_b", [1, 4])
def test_split_batch_with_broadcast_and_permuted_strides(rng: np.random.Generator, block_b: int) -> None:
    """Attention's q @ k^T from packed [tokens, heads, dim], keys shared by all heads (stride 0)."""
    samples_, tokens, heads, dim = 2, 21, 3, 18
    q, k = integers(rng, (samples_, tokens, heads, dim), "float32"), integers(rng, (samples_, tokens, dim), "float32")
    problem = Problem(samples_ * heads, tokens, tokens, dim, "float32", "n", "t")
    out = Output((samples_ * heads, tokens, tokens), "float32")
    q_strides = (tokens * heads * dim, dim, heads * dim, 1)
    k_strides = (tokens * dim, 0, 1, dim)  # transposed in place
    got = run(
        tensor(q), tensor(k), out, problem, Config(block_b, 16, 16, 16, 1, 1, 2), q_strides, k_strides, inner=heads
    )
    expected = np.einsum("bthd,bsd->bhts", q.astype(np.float64), k).reshape(got.shape)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("block_b", [1, 2])
def test_negative_and_zero_strides(rng: np.random.Generator, block_b: int) -> None:
    """A read backwards in rows and columns; B one column for all n."""
    a, b = integers(rng, (2, 19, 23), "float32"), integers(rng, (2, 23, 1), "float32")
    last = tensor(a).view(-1)[19 * 23 - 1 :]  # the last element of the first matrix
    problem = Problem(2, 19, 34, 23, "float32")
    out = Output((2, 19, 34), "float32")
    config = Config(block_b, 16, 16, 16, 1, 1, 2)
    got = run(last, tensor(b), out, problem, config, (19 * 23, 0, -23, -1), (23, 0, 1, 0))
    np.testing.assert_array_equal(got, np.broadcast_to(exact(a[:, ::-1, ::-1], b), got.shape))


@pytest.mark.parametrize("layouts", ["nn", "tt"])
@pytest.mark.parametrize("block_b", [1, 4])
def test_nothing_outside_the_operands_is_used(rng: np.random.Generator, layouts: str, block_b: int) -> None:
    """Operands are windows of NaN-filled buffers: a missing mask turns results into NaN."""
    batch, m, n, k = 3, 19, 37, 21
    a, b = integers(rng, (batch, m, k), "float32"), integers(rng, (batch, k, n), "float32")
    windows = []
    for x, layout in zip((a, b), layouts, strict=True):
        x = x if layout == "n" else x.swapaxes(1, 2)
        frame = np.full((batch + 2, x.shape[1] + 40, x.shape[2] + 40), np.nan, np.float32)
        frame[1:-1, 20:-20, 20:-20] = x
        window = tensor(frame)[1:-1, 20:-20, 20:-20]
        windows.append(window if layout == "n" else window.transpose(1, 2))
    problem = Problem(batch, m, n, k, "float32", *layouts)
    out = Output((batch, m, n), "float32")
    config = Config(block_b, 16, 32, 16, 1, 1, 2)
    left, right = windows
    got = run(left, right, out, problem, config, strides(left, 1), strides(right, 1))
    np.testing.assert_array_equal(got, exact(a, b))


@pytest.mark.interpreter
def test_addresses_beyond_32_bits(rng: np.random.Generator, tmp_path) -> None:
    """Rows 2^24 elements apart: the last of 200 lies beyond element 2^31. The buffer is a sparse file."""
    m, k, n, stride = 200, 5, 4, 1 << 24
    memory = np.memmap(tmp_path / "sparse", np.int16, "w+", shape=((m - 1) * stride + k,))
    a = torch.from_numpy(memory).view(torch.bfloat16)
    a.as_strided((m, k), (stride, 1)).copy_(torch.from_numpy(integers(rng, (m, k), "float32")))
    b = integers(rng, (1, k, n), "bfloat16")
    problem = Problem(1, m, n, k, "bfloat16")
    out = Output((1, m, n), "float32")
    got = run(a, tensor(b), out, problem, Config(1, 256, 16, 16, 1, 1, 1), (0, 0, stride, 1), (0, 0, n, 1))
    expected = a.as_strided((m, k), (stride, 1)).double().numpy() @ b[0].astype(np.float64)
    np.testing.assert_array_equal(got[0], expected)


# --- epilogues ---


@triton.jit
def bias_relu_and_rowwise(acc, b, m, n, mask, ptrs):
    """out = relu(acc + bias[n]) in bfloat16, raw = acc, both [batch, M, N]; ptrs = (bias, out, raw, M, N)."""
    bias_ptr, out_ptr, raw_ptr, M, N = ptrs
    offsets = (b * M + m) * N + n
    lib.store(raw_ptr, offsets, acc, mask)
    y = acc + lib.load(bias_ptr, b * 0 + m * 0 + n, mask, 0.0)
    lib.store(out_ptr, offsets, tl.where(y > 0, y, 0.0), mask)


@triton.jit
def coordinates(acc, b, m, n, mask, ptrs):
    """Stores what each position was called, to see that b, m, n belong to acc."""
    out_ptr, M, N = ptrs
    tl.store(out_ptr + (b * M + m) * N + n, acc * 0 + (b * 10000 + m * 100 + n), mask=mask)


@pytest.mark.parametrize("block_b", [1, 4])
def test_epilogue_reads_and_writes_what_it_likes(rng: np.random.Generator, block_b: int) -> None:
    batch, m, n, k = 3, 21, 35, 18
    a, b = integers(rng, (batch, m, k), "bfloat16"), integers(rng, (batch, k, n), "bfloat16")
    bias = integers(rng, (n,), "float32")
    out, raw = Output((batch, m, n), "bfloat16"), Output((batch, m, n), "float32")
    x, y = tensor(a), tensor(b)
    problem = Problem(batch, m, n, k, "bfloat16")
    config = Config(block_b, 16, 16, 16, 1, 1, 2)
    ptrs = (tensor(bias), out.tensor, raw.tensor, m, n)
    run(x, y, out, problem, config, strides(x, 1), strides(y, 1), epilogue=bias_relu_and_rowwise, ptrs=ptrs)
    np.testing.assert_array_equal(raw.result(), exact(a, b))
    np.testing.assert_array_equal(out.result(), np.maximum(exact(a, b) + bias, 0).astype(NUMPY["bfloat16"]))


@pytest.mark.parametrize("block_b", [1, 4])
def test_epilogue_coordinates(rng: np.random.Generator, block_b: int) -> None:
    x, y = tensor(np.zeros((5, 33, 16), np.float32)), tensor(np.zeros((5, 16, 40), np.float32))
    out = Output((5, 33, 40), "float32")
    config = Config(block_b, 16, 16, 16, 2, 1, 2)
    got = run(x, y, out, Problem(5, 33, 40, 16, "float32"), config, strides(x, 1), strides(y, 1), epilogue=coordinates)
    b, m, n = np.indices(got.shape)
    np.testing.assert_array_equal(got, b * 10000 + m * 100 + n)


@pytest.mark.parametrize("slices", [2, 4])
def test_epilogue_takes_a_tile_in_slices(rng: np.random.Generator, slices: int) -> None:
    a, b = integers(rng, (2, 33, 16), "float32"), integers(rng, (2, 16, 100), "float32")
    x, y, out = tensor(a), tensor(b), Output((2, 33, 100), "float32")
    problem, config = Problem(2, 33, 100, 16, "float32"), Config(1, 16, 64, 16, 2, 1, 2)
    got = run(x, y, out, problem, config, strides(x, 1), strides(y, 1), slices=slices)
    np.testing.assert_array_equal(got, exact(a, b))
    x, y = tensor(np.zeros_like(a)), tensor(np.zeros_like(b))
    got = run(x, y, out, problem, config, strides(x, 1), strides(y, 1), epilogue=coordinates, slices=slices)
    matrix, m, n = np.indices(got.shape)
    np.testing.assert_array_equal(got, matrix * 10000 + m * 100 + n)


# --- configurations ---

SHAPES = [
    (1, 4096, 1536, 384), (1, 4096, 384, 1536), (1, 4096, 1152, 384), (1, 384, 1536, 4096), (1, 1536, 384, 4096),
    (1, 4608, 3072, 9216), (1, 16384, 640, 640), (96, 256, 256, 64), (96, 256, 64, 256), (4096, 16, 16, 16),
    (1024, 16, 64, 16), (24, 77, 77, 64), (1, 64, 1000, 384), (1, 1, 1, 1), (1, 3, 5, 7), (2, 1, 50304, 384),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("arch", "limit"), [(80, 166912), (90, 232448)])
def test_every_config_fits_shared_memory(shape: tuple[int, int, int, int], dtype: str, arch: int, limit: int) -> None:
    for precision in ("ieee", "tf32"):
        problem = Problem(*shape, dtype, precision=precision)
        found = configs(problem, arch)
        assert heuristic(problem, False, arch) in found
        for config in found:
            stages = config.num_stages * (config.BLOCK_M + config.BLOCK_N) * config.BLOCK_K * problem.itemsize
            assert stages <= shared_bytes(config, problem, arch) <= limit
            sizes = (config.BLOCK_M, config.BLOCK_N, config.BLOCK_K)
            assert all(size >= 16 and size & (size - 1) == 0 for size in sizes)
            assert estimate_cycles(config, problem, arch) > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_interpreted_blocks_are_few_and_legal(shape: tuple[int, int, int, int]) -> None:
    problem = Problem(*shape, "float32")
    config = heuristic(problem, True)
    b, m, n, k = config.BLOCK_B, config.BLOCK_M, config.BLOCK_N, config.BLOCK_K
    assert b * max(m * k, k * n, m * n) <= 1 << 20
    assert grid(problem, config)[0] <= 64


def test_compiled_heuristic_fills_the_machine() -> None:
    """At least about 100 tiles where the shape allows it, and large ones where there are plenty."""
    for shape in [(1, 4096, 1536, 384), (1, 4096, 384, 1536), (1, 4096, 384, 384), (1, 384, 1152, 4096)]:
        problem = Problem(*shape, "bfloat16")
        assert grid(problem, heuristic(problem, False))[0] >= 96
    large = heuristic(Problem(1, 8192, 8192, 8192, "bfloat16"), False)
    assert large.BLOCK_M * large.BLOCK_N == 128 * 256
