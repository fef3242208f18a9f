"""Scans through their kernels: any length, rows and columns, carries, ties, NaN, zeros, both directions."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_launch import FLOATS, NUMPY, Output, array, launch, samples, tensor

import flame_triton as ft
from flame_triton import config
from flame_triton.kernels.portable import scan
from flame_triton.testing import TOLERANCE, assert_close, check_grads

DEVICE = "interpreter" if config.interpreted() else "cuda"
TAILS = (1, 3, 15, 16, 17)
BLOCKS = [scan.Config(4, 8, 1), scan.Config(1, 32, 1), scan.Config(8, 16, 1)]


def run(kernel, arrays, outputs, shape, pick: scan.Config, **flags) -> list[np.ndarray]:
    """A scan kernel over the middle axis of arrays [G, N, S]; outputs: names of dtypes."""
    groups, length, inner = shape
    lanes, strides = (groups, (length, 1, 0)) if inner == 1 else (inner, (1, inner, length * inner))
    results = [Output(shape, dtype) for dtype in outputs]
    count = 1 if inner == 1 else groups
    launch(
        kernel, scan.grid(count, lanes, pick), *(tensor(a) for a in arrays), *results, lanes, length, *strides,
        **flags, BLOCK_L=pick.BLOCK_L, BLOCK_N=pick.BLOCK_N, num_warps=pick.num_warps,
    )  # fmt: skip
    return [r.result() for r in results]


@pytest.mark.parametrize("dtype", [*FLOATS, "int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("inner", [1, 5])
@pytest.mark.parametrize("pick", BLOCKS, ids=str)
def test_cumsum_of_every_dtype(rng: np.random.Generator, dtype: str, inner: int, pick: scan.Config) -> None:
    """Small integers, so that sums are exact in float32; they are rounded once."""
    x = samples(rng, (3, 37, inner), "int64").clip(0, 4).astype(NUMPY[dtype])
    out = dtype if dtype in FLOATS else "int64"
    for reverse in (False, True):
        (got,) = run(scan.cumulate, [x], [out], x.shape, pick, PRODUCT=False, REVERSE=reverse)
        wide = x.astype(np.float64)
        want = np.flip(np.cumsum(np.flip(wide, 1), 1), 1) if reverse else np.cumsum(wide, 1)
        np.testing.assert_array_equal(got.astype(np.float64), want.astype(NUMPY[out]).astype(np.float64))


@pytest.mark.parametrize("length", TAILS)
@pytest.mark.parametrize("inner", [1, 3])
def test_tails(rng: np.random.Generator, length: int, inner: int) -> None:
    shape = (3, length, inner)
    x, a = rng.standard_normal(shape), rng.uniform(-1, 1, shape)
    pick = scan.Config(2, 8, 1)
    (got,) = run(scan.cumulate, [x], ["float64"], shape, pick, PRODUCT=True, REVERSE=False)
    np.testing.assert_allclose(got, np.cumprod(x, 1), rtol=1e-12)
    (got,) = run(scan.logcumsumexp, [x], ["float64"], shape, pick)
    np.testing.assert_allclose(got, np.logaddexp.accumulate(x, 1), rtol=1e-12, atol=1e-12)
    (got,) = run(scan.linear_recurrence, [a, x], ["float64"], shape, pick, REVERSE=False)
    np.testing.assert_allclose(got, recurrence(a, x), rtol=1e-11, atol=1e-12)
    (got,) = run(scan.linear_recurrence, [a, x], ["float64"], shape, pick, REVERSE=True)
    np.testing.assert_allclose(got, np.flip(recurrence(np.flip(a, 1), np.flip(x, 1)), 1), rtol=1e-11, atol=1e-12)


def recurrence(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = b.copy()
    for i in range(1, b.shape[1]):
        out[:, i] = a[:, i] * out[:, i - 1] + b[:, i]
    return out


def extremes(x: np.ndarray, smallest: bool) -> tuple[np.ndarray, np.ndarray]:
    """One element after the other, by torch's rule: `in >= out`, NaN above all."""
    values, indices = x.copy(), np.zeros(x.shape, np.int64)
    for at in np.ndindex(x.shape[0], x.shape[2]):
        best, where = x[at[0], 0, at[1]], 0
        for n in range(x.shape[1]):
            v = x[at[0], n, at[1]]
            if v != v or (best == best and (v <= best if smallest else v >= best)):
                best, where = v, n
            values[at[0], n, at[1]], indices[at[0], n, at[1]] = best, where
    return values, indices


@pytest.mark.parametrize("dtype", [*FLOATS, "int64", "int32", "uint8"])
@pytest.mark.parametrize("pick", BLOCKS[:2], ids=str)
def test_extremes_with_ties_and_nan(rng: np.random.Generator, dtype: str, pick: scan.Config) -> None:
    """A NaN in the second block, ties across blocks, infinities of the wrong sign at the start."""
    for inner in (1, 3):
        x = rng.integers(0, 4, (3, 35, inner)).astype(NUMPY[dtype])
        if dtype in FLOATS:
            x[0, 20], x[0, 23], x[1, :3], x[2, :3] = np.nan, np.nan, -np.inf, np.inf
        for smallest in (False, True):
            values, indices = run(scan.extreme, [x], [dtype, "int64"], x.shape, pick, SMALLEST=smallest)
            want, at = extremes(x, smallest)
            np.testing.assert_array_equal(values.astype(np.float64), want.astype(np.float64))
            np.testing.assert_array_equal(indices, at)


def test_logcumsumexp_of_infinities(rng: np.random.Generator) -> None:
    """Nothing but -inf stays -inf, across blocks too; +inf stays; NaN stays; 1e4 does not overflow."""
    x = np.zeros((4, 20, 1), np.float32)
    x[0, :12], x[1, 5], x[2, 9], x[3] = -np.inf, np.inf, np.nan, 1e4
    (got,) = run(scan.logcumsumexp, [x], ["float32"], x.shape, scan.Config(4, 8, 1))
    with np.errstate(invalid="ignore"):
        want = np.logaddexp.accumulate(x.astype(np.float64), 1)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_sixteen_bits_accumulate_in_float32() -> None:
    """1000 ones: a bfloat16 sum would stop at 256."""
    x = np.ones((1, 1000, 1), NUMPY["bfloat16"])
    (got,) = run(scan.cumulate, [x], ["float32"], x.shape, scan.Config(1, 64, 1), PRODUCT=False, REVERSE=False)
    np.testing.assert_array_equal(got[0, :, 0], np.arange(1, 1001))


def test_a_long_row_is_the_same_every_time(rng: np.random.Generator) -> None:
    x = ft.input((2, 5000), "float32")
    program = ft.compile([ft.cumsum(x, 1), ft.cumsum(x, 0)], [x], device=DEVICE)
    values = rng.standard_normal((2, 5000)).astype(np.float32)
    runs = [[array(t).tobytes() for t in program(values)] for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]
    assert_close(array(program(values)[0]), np.cumsum(values.astype(np.float64), 1), "float32")


# ---- gradients -------------------------------------------------------------------------------------------------


def test_cumprod_is_differentiated_through_zeros() -> None:
    """The gradient by torch's own rule of three cases, and twice differentiable: compared with differences."""
    check_grads(lambda x: ft.cumprod(x, 1), np.array([[2.0, 0.0, 3.0, -1.0, 0.0, 4.0], [0.0] * 6]), order=2)
    torch = pytest.importorskip("torch")
    values = np.array([[2.0, 0.0, 3.0, -1.0], [0.0, 0.0, 1.5, 2.0]])
    theirs = torch.tensor(values, requires_grad=True)
    weights = np.arange(8.0).reshape(2, 4)
    (torch.cumprod(theirs, 1) * torch.tensor(weights)).sum().backward()
    x = ft.input((2, 4), "float64")
    (dx,) = ft.grad(ft.cumprod(x, 1), [x], grad_output=ft.constant(weights))
    np.testing.assert_allclose(ft.evaluate(dx, {x: values}), theirs.grad.numpy(), atol=1e-12)


def test_extremes_send_the_gradient_to_one_element() -> None:
    x = ft.input((6,), "float64")
    values = np.array([1.0, 3.0, 3.0, 2.0, 3.0, 5.0])
    (dx,) = ft.grad(ft.cummax(x, 0)[0], [x], grad_output=ft.constant(np.array([1.0, 2, 4, 8, 16, 32])))
    np.testing.assert_array_equal(ft.evaluate(dx, {x: values}), [1, 2, 12, 0, 16, 32])
    (dx,) = ft.grad(ft.cummin(x, 0)[0], [x], grad_output=ft.constant(np.array([1.0, 2, 4, 8, 16, 32])))
    np.testing.assert_array_equal(ft.evaluate(dx, {x: values}), [63, 0, 0, 0, 0, 0])


def test_logcumsumexp_gradient_is_stable() -> None:
    """Far beyond the range of exp, with a cotangent of zeros and mixed signs, and with -inf in front."""
    x = ft.input((5,), "float64")
    g = np.array([0.0, -1.0, 0.0, 2.0, 0.0])
    (dx,) = ft.grad(ft.logcumsumexp(x, 0), [x], grad_output=ft.constant(g))
    got = ft.evaluate(dx, {x: np.array([900.0, -900.0, 899.0, 901.0, 0.0])})
    e = np.exp(np.array([-1.0, -1801.0, -2.0, 0.0, -901.0]))
    want = 2 * e / e[:4].sum() * [1, 1, 1, 1, 0]
    want[:2] -= np.exp([0.0, -1800.0])
    np.testing.assert_allclose(got, want, atol=1e-14)
    got = ft.evaluate(dx, {x: np.array([-np.inf, -np.inf, 1.0, 2.0, 3.0])})
    assert np.isfinite(got).all() and not got[:2].any()


def test_linear_recurrence_is_exact_where_a_is_zero() -> None:
    check_grads(lambda a, b: ft.linear_recurrence(a, b, 0), np.array([0.5, 0.0, 2.0, 0.0]), np.arange(4.0), order=2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_through_the_kernels_in_columns(rng: np.random.Generator, dtype: str) -> None:
    x, g = ft.input((2, 21, 3), dtype), ft.input((2, 21, 3), dtype)
    outputs = [ft.cumsum(x, 1), ft.cumprod(x, 1), ft.logcumsumexp(x, 1), ft.cummax(x, 1)[0]]
    gradients = [ft.grad(y, [x], grad_output=g)[0] for y in outputs]
    numpy = NUMPY[dtype]
    feeds = {x: (rng.uniform(0.5, 1.5, x.shape)).astype(numpy), g: rng.standard_normal(g.shape).astype(numpy)}
    want = ft.evaluate(gradients, {k: v.astype(np.float64) for k, v in feeds.items()})
    program = ft.compile(gradients, [x, g], device=DEVICE)
    for a, r in zip(program(*feeds.values()), want, strict=True):
        assert_close(array(a).astype(np.float64), r, dtype, tolerance=TOLERANCE[ft.dtype(dtype)])


def test_empty_and_single() -> None:
    x = ft.input((3, 0), "float32")
    assert ft.evaluate(ft.cumsum(x, 1), {x: np.zeros((3, 0))}).shape == (3, 0)
    y = ft.input((), "float32")
    assert ft.cumsum(y, 0).shape == () and ft.cumsum(y).shape == (1,)
    values, indices = ft.cummax(y, -1)
    assert values.shape == indices.shape == ()


@pytest.mark.parametrize("shape", [(1, 1), (1, 10**7), (4096, 50257), (10**6, 3)])
def test_heuristics_give_legal_blocks(shape: tuple[int, int]) -> None:
    for interpreted in (True, False):
        for contiguous in (True, False):
            for itemsize in (4, 8):
                pick = scan.heuristic(*shape, itemsize, contiguous, interpreted)
                assert all(n > 0 and n & (n - 1) == 0 for n in (pick.BLOCK_L, pick.BLOCK_N))
                assert pick.BLOCK_L * pick.BLOCK_N <= (1 << 20 if interpreted else 1024)
