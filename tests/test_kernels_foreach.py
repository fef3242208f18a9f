"""One launch over many tensors: an AdamW body in mixed dtypes, a norm, tails, and the chunk table."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl
from kernel_launch import NUMPY, Output, array, launch, samples, tensor

from flame_triton.kernels.portable import library as lib
from flame_triton.kernels.portable.foreach import (
    candidates,
    chunks,
    foreach,
    foreach_sum,
    heuristic,
    sum_candidates,
    sum_heuristic,
)

BLOCK, CHUNK = 64, 128
SIZES = (1, 3, 17, 63, 64, 65, 127, 128, 129, 300, 512)
TL = {"float64": tl.float64, "float32": tl.float32, "bfloat16": tl.bfloat16, "float16": tl.float16}
BETA1, BETA2, EPS = 0.9, 0.99, 1e-8


@triton.jit
def adamw(pointers, offsets, mask, scalars, each):
    """Slots: weight (any dtype), gradient (any), moments m and v (float32). Of each row: weight decay.

    Scalars: learning rate, step count. Loshchilov and Hutter 2019, betas (0.9, 0.99).
    """
    weight = lib.load(pointers[0], offsets, mask, 0.0)
    grad = lib.load(pointers[1], offsets, mask, 0.0)
    m = 0.9 * lib.load(pointers[2], offsets, mask, 0.0) + 0.1 * grad
    v = 0.99 * lib.load(pointers[3], offsets, mask, 0.0) + 0.01 * grad * grad
    decay = each[0]
    rate, step = scalars
    t = step.to(tl.float32)
    m_hat = lib.div(m, 1.0 - tl.exp(t * -0.10536051565782628))  # log 0.9
    v_hat = lib.div(v, 1.0 - tl.exp(t * -0.01005033585350145))  # log 0.99
    weight = weight - rate * (lib.div(m_hat, lib.sqrt(v_hat) + 1e-8) + decay * weight)
    lib.store(pointers[0], offsets, weight, mask)
    lib.store(pointers[2], offsets, m, mask)
    lib.store(pointers[3], offsets, v, mask)


@triton.jit
def square(pointers, offsets, mask, scalars, each):
    x = lib.load(pointers[0], offsets, mask, 3.0)
    return x * x


@triton.jit
def scaled_number(pointers, offsets, mask, scalars, each):
    """Slot 0 = its element number * scalar 0 + scalar 1."""
    lib.store(pointers[0], offsets, offsets * scalars[0] + scalars[1], mask)


def table(rows):
    """Tensors (or Outputs) as int64 addresses [n_tensors, n_slots]."""
    return tensor(np.array([[getattr(x, "tensor", x).data_ptr() for x in row] for row in rows], np.int64))


def chunk_table(sizes, chunk: int = CHUNK):
    return tensor(chunks(sizes, chunk))


class Buffer(Output):
    """A tensor with given contents and a guard area behind it."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__(values.shape, values.dtype.name)
        self.tensor[: self.size] = tensor(values).view(-1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("chunk", [BLOCK, CHUNK, 512])
def test_adamw(rng: np.random.Generator, dtype: str, chunk: int) -> None:
    weights = [Buffer(samples(rng, n, dtype)) for n in SIZES]
    before = [array(w.tensor)[: w.size].astype(np.float64) for w in weights]
    grads = [samples(rng, n, "bfloat16") for n in SIZES]
    ms = [Buffer(samples(rng, n, "float32")) for n in SIZES]
    vs = [Buffer(np.abs(samples(rng, n, "float32"))) for n in SIZES]
    m0 = [array(m.tensor)[: m.size].astype(np.float64) for m in ms]
    v0 = [array(v.tensor)[: v.size].astype(np.float64) for v in vs]
    decays = rng.random(len(SIZES)).astype(np.float32)
    rate, step = np.float32(0.05), 3

    device_grads = [tensor(g) for g in grads]
    rows = table(zip(weights, device_grads, ms, vs, strict=True))
    slots = (TL[dtype], tl.bfloat16, tl.float32, tl.float32)
    work = chunk_table(SIZES, chunk)
    scalars = (tensor(np.array([rate])), tensor(np.array([step])))
    launch(foreach, (len(work),), rows, work, scalars, (tensor(decays),), adamw, slots, 1, BLOCK, chunk)

    for i in range(len(SIZES)):
        g = grads[i].astype(np.float64)
        m, v = BETA1 * m0[i] + (1 - BETA1) * g, BETA2 * v0[i] + (1 - BETA2) * g * g
        update = m / (1 - BETA1**step) / (np.sqrt(v / (1 - BETA2**step)) + EPS)
        weight = before[i] - rate * (update + decays[i] * before[i])
        np.testing.assert_allclose(ms[i].result(), m, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(vs[i].result(), v, rtol=1e-5, atol=1e-6)
        # One rounding to the weight's dtype on top of float32 arithmetic (1 - beta^step cancels two digits).
        eps = {"float32": 2e-5, "bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
        np.testing.assert_allclose(weights[i].result().astype(np.float64), weight, rtol=1.1 * eps, atol=2e-5)


@pytest.mark.parametrize("dtype", TL)
def test_every_element_is_visited_with_its_own_number(dtype: str) -> None:
    """Elements 0, 1, 2, ... of each tensor; scalars a plain number and a pointer."""
    outs = [Output(n, dtype) for n in (1, 5, 128, 200)]
    work = chunk_table([out.size for out in outs])
    scalars = (2, tensor(np.array([1], np.int32)))
    rows = table([out] for out in outs)
    launch(foreach, (len(work),), rows, work, scalars, (), scaled_number, (TL[dtype],), 0, BLOCK, CHUNK)
    for out in outs:
        np.testing.assert_array_equal(out.result(), (np.arange(out.size) * 2 + 1).astype(NUMPY[dtype]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_sum_of_squares_by_chunk(rng: np.random.Generator, dtype: str) -> None:
    values = [rng.integers(-3, 4, n).astype(NUMPY[dtype]) for n in SIZES]  # exact sums
    tensors = [tensor(v) for v in values]
    work = chunk_table(SIZES)
    partials = Output(len(work), "float64" if dtype == "float64" else "float32")
    launch(
        foreach_sum, (len(work),), table([t] for t in tensors), work, (), partials, square, (TL[dtype],), BLOCK, CHUNK
    )
    expected = [
        np.square(values[i][k * CHUNK : (k + 1) * CHUNK].astype(np.float64)).sum() for i, k, _ in chunks(SIZES, CHUNK)
    ]
    np.testing.assert_array_equal(partials.result(), expected)


def test_sum_in_float64_keeps_its_digits() -> None:
    x = np.full(128, 1 / 3)
    source, partials = tensor(x), Output(1, "float64")
    launch(foreach_sum, (1,), table([[source]]), chunk_table([128]), (), partials, square, (tl.float64,), BLOCK, CHUNK)
    np.testing.assert_allclose(partials.result(), [128 / 9], rtol=1e-14)


def test_chunks_cover_each_tensor_once() -> None:
    assert chunks([0, 5, 8, 9], 8).tolist() == [[1, 0, 5], [2, 0, 8], [3, 0, 9], [3, 1, 9]]
    assert chunks([], 8).tolist() == chunks([0, 0], 8).tolist() == []


@pytest.mark.parametrize("sizes", [[], [1], [5, 100, 1000], [384 * 384] * 100 + [384] * 300, [3072 * 12288] * 20])
def test_heuristic_is_legal(sizes: list[int]) -> None:
    assert heuristic(sizes, False) in candidates(sizes) and len(candidates(sizes)) <= 16
    assert sum_heuristic(sizes, False) in sum_candidates(sizes) and len(sum_candidates(sizes)) <= 16
    for config in (heuristic(sizes, True), *candidates(sizes), *sum_candidates(sizes)):
        assert config.BLOCK <= config.CHUNK <= 1 << 18 and config.CHUNK % config.BLOCK == 0
        assert config.BLOCK & (config.BLOCK - 1) == 0 and config.CHUNK & (config.CHUNK - 1) == 0
