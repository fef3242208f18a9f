"""The mathematics of kernels/portable (arithmetic, elementary, trigonometry): accuracy, special values, integers.

References are one precision wider: float64 for float32, long double (where the machine has one) for float64.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from kernel_launch import NUMPY, Output, launch, tensor

from flame_triton.kernels.portable import arithmetic
from flame_triton.kernels.portable import library as lib

BLOCK = 4096
PRECISIONS = ["float32", "float64"]
WIDER = {"float32": np.float64, "float64": np.longdouble}

# Units in the last place. The functions promise 5 ulp in float32; the compiled library functions below ours (log, sin,
# cos: 2 ulp) and FMA fusion may move a bound by one.
MAX_ULP = 6.0
# pow carries the logarithm in two parts; at the ends of the range |log result| = 709 magnifies what is left.
POW_ULP = {"float32": 8.0, "float64": 45.0}


@triton.jit
def unary_kernel(x_ptr, out_ptr, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lib.store(out_ptr, i, FUNCTION(lib.load(x_ptr, i, i < n, 1)), i < n)


@triton.jit
def binary_kernel(x_ptr, y_ptr, out_ptr, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lib.store(out_ptr, i, FUNCTION(lib.load(x_ptr, i, i < n, 1), lib.load(y_ptr, i, i < n, 1)), i < n)


def evaluate(function, *inputs: np.ndarray, dtype: str | None = None) -> np.ndarray:
    n = inputs[0].size
    out = Output(n, dtype or inputs[0].dtype.name)
    kernel = unary_kernel if len(inputs) == 1 else binary_kernel
    launch(kernel, (-(-n // BLOCK),), *map(tensor, inputs), out, n, function, BLOCK=BLOCK)
    return out.result()


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The distance in units in the last place of the exact value; 0 where the result may be flushed to zero."""
    rounded = exact.astype(got.dtype)
    with np.errstate(all="ignore"):
        distance = np.abs(got.astype(exact.dtype) - exact) / np.spacing(np.abs(rounded)).astype(exact.dtype)
    tiny = np.abs(rounded) < np.finfo(got.dtype).tiny
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded)) | (tiny & (np.abs(got) <= np.finfo(got.dtype).tiny))
    return np.where(same, 0, distance).astype(np.float64)


def spread(rng: np.random.Generator, low: float, high: float, dtype: str, n: int = 4000) -> np.ndarray:
    """Points of [low, high]: uniform ones, and both signs of magnitudes from 1e-30 up, evenly on a log scale."""
    reach = max(abs(low), abs(high))
    magnitude = np.exp(rng.uniform(math.log(1e-30), math.log(reach), n)) * rng.choice([-1, 1], n)
    x = np.concatenate([rng.uniform(low, high, n), magnitude])
    x = np.concatenate([x[(x >= low) & (x <= high)], [low, high]]).astype(NUMPY[dtype])
    return x[(x >= low) & (x <= high)]


def erfc(x: np.ndarray) -> np.ndarray:
    return np.array([math.erfc(float(v)) for v in x], x.dtype)


# name: (reference, lowest, highest argument). Beyond these the results are infinite, zero or constant.
ACCURACY = {
    "acos": (np.arccos, -1, 1),
    "acosh": (np.arccosh, 1, 1e30),
    "asin": (np.arcsin, -1, 1),
    "asinh": (np.arcsinh, -1e30, 1e30),
    "atan": (np.arctan, -1e4, 1e4),
    "atanh": (np.arctanh, -1, 1),
    "cosh": (np.cosh, -89, 89),
    "erfc": (erfc, -6, 9),
    "exp": (np.exp, -87, 88.7),
    "exp2": (np.exp2, -126, 127.9),
    "expm1": (np.expm1, -100, 88.7),
    "log": (np.log, 1e-37, 1e37),
    "log10": (np.log10, 1e-37, 1e37),
    "log1p": (np.log1p, -1, 1e30),
    "log2": (np.log2, 1e-37, 1e37),
    "reciprocal": (lambda x: 1 / x, 1e-30, 1e30),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 1e-30, 1e30),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -87, 40),
    "sinh": (np.sinh, -89, 89),
    "softplus": (lambda x: np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0), -87, 100),
    "sqrt": (np.sqrt, 0, 1e30),
    "tan": (np.tan, -100, 100),
    "tanh": (np.tanh, -25, 25),
}
EXACT = {"reciprocal": 0.5, "sqrt": 0.5}  # rounded once


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", ACCURACY)
def test_accuracy(rng: np.random.Generator, name: str, dtype: str) -> None:
    reference, low, high = ACCURACY[name]
    x = spread(rng, low, high, dtype)
    wide = np.float64 if name == "erfc" else WIDER[dtype]
    with np.errstate(all="ignore"):
        exact = reference(x.astype(wide))
    error = ulps(evaluate(getattr(lib, name), x), exact)
    worst = int(np.argmax(error))
    assert error[worst] <= EXACT.get(name, MAX_ULP), f"{error[worst]:.1f} ulp at x = {x[worst]!r}"


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_pow_accuracy(rng: np.random.Generator, dtype: str) -> None:
    """Results over the whole range of the dtype, bases on both sides of 1 and very near it."""
    n = 8000
    base = np.exp(np.concatenate([rng.uniform(-20, 20, n), rng.uniform(-1e-3, 1e-3, n)])).astype(NUMPY[dtype])
    reach = 0.98 * np.log(float(np.finfo(NUMPY[dtype]).max))
    logarithm = np.log(base.astype(np.longdouble))
    keep = logarithm != 0
    base, logarithm = base[keep], logarithm[keep]
    exponent = (rng.uniform(-reach, reach, base.size) / logarithm).astype(NUMPY[dtype])
    exact = np.power(base.astype(np.longdouble), exponent.astype(np.longdouble))
    normal = np.abs(exact) > np.finfo(NUMPY[dtype]).tiny
    error = ulps(evaluate(lib.pow, base, exponent), exact)[normal]
    assert error.max() <= POW_ULP[dtype]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_atan2_and_division_accuracy(rng: np.random.Generator, dtype: str) -> None:
    y, x = (rng.choice([-1, 1], 4000) * np.exp(rng.uniform(-30, 30, 4000))).astype(NUMPY[dtype]).reshape(2, -1)
    assert ulps(evaluate(lib.atan2, y, x), np.arctan2(y.astype(WIDER[dtype]), x.astype(WIDER[dtype]))).max() <= MAX_ULP
    assert ulps(evaluate(lib.div, y, x), y.astype(WIDER[dtype]) / x.astype(WIDER[dtype])).max() <= 0.5


# --- special values: torch's own functions decide ---

SPECIAL = [0.0, 1.0, 0.5, 2.0, 2.5, 3.0, 1e10, 1e-30, 1e38, 1.0000001, 16777215.0, math.inf]
SPECIAL = np.array([*SPECIAL, *(-v for v in SPECIAL), math.nan])
TORCH_UNARY = (
    "acos acosh asin asinh atan atanh cosh erfc exp exp2 expm1 isfinite isinf isnan log log10 log1p log2 neg "
    "reciprocal round rsqrt sigmoid sign signbit sinh sqrt tan tanh trunc"
).split()
TORCH_BINARY = ["atan2", "copysign", "div", "floor_divide", "fmod", "maximum", "minimum", "pow", "remainder"]


def assert_same(got: np.ndarray, expected: np.ndarray, signed: np.ndarray | None = None) -> None:
    """Equal up to a few ulp, infinities, NaN and signs of zero (where `signed`) included."""
    assert got.dtype == expected.dtype
    rtol = 1e-6 if got.dtype == np.float32 else 1e-14
    # A result below the normal numbers may be flushed to zero.
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=np.finfo(got.dtype).tiny)
    number = ~np.isnan(expected) if signed is None else signed & ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got)[number], np.signbit(expected)[number])


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", TORCH_UNARY)
def test_special_values(name: str, dtype: str) -> None:
    x = SPECIAL.astype(NUMPY[dtype])
    if name == "tan":
        x = x[~(np.abs(x) > 1e9)]  # torch's own reduction of huge angles is not a reference
    function = getattr(torch, name, None) or getattr(torch.special, name)
    expected = function(torch.from_numpy(x)).numpy()
    if expected.dtype == np.bool_:
        np.testing.assert_array_equal(evaluate(getattr(lib, name), x, dtype="bool"), expected)
    else:
        assert_same(evaluate(getattr(lib, name), x), expected)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", TORCH_BINARY)
def test_special_pairs(name: str, dtype: str) -> None:
    x, y = (part.ravel().astype(NUMPY[dtype]) for part in np.meshgrid(SPECIAL, SPECIAL))
    function = getattr(torch, name)
    if name in ("fmod", "remainder"):
        # Exact in the dtype, so float64 gives the same; torch's vectorised float32 loses tiny divisors.
        with np.errstate(over="ignore"):
            expected = function(torch.from_numpy(x).double(), torch.from_numpy(y).double()).numpy().astype(x.dtype)
    else:
        expected = function(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    # Which of 0.0 and -0.0 is the larger one, torch, NumPy and the GPU each say differently.
    signed = (x != y) | (np.signbit(x) == np.signbit(y)) if name in ("maximum", "minimum") else None
    assert_same(evaluate(getattr(lib, name), x, y), expected, signed)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_tiny_arguments_are_not_cancelled(dtype: str) -> None:
    """f(x) = x for small x: an e^x - 1 or 1 - cos written naively gives 0 or noise."""
    smallest = -37 if dtype == "float32" else -300
    x = np.logspace(smallest, -9 if dtype == "float32" else -17, 200).astype(NUMPY[dtype])
    x = np.concatenate([x, -x])
    for name in ("asin", "asinh", "atan", "atanh", "expm1", "log1p", "sinh", "tan", "tanh"):
        assert ulps(evaluate(getattr(lib, name), x), x.astype(np.longdouble)).max() <= 2, name


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_round_half_to_even(rng: np.random.Generator, dtype: str) -> None:
    big = 2.0 ** (23 if dtype == "float32" else 52)
    x = np.concatenate([np.arange(-8, 8, 0.25), [big - 0.5, big, big + 1, 3 * big, -0.4, 0.49999997]])
    x = np.concatenate([x, -x, rng.uniform(-1e6, 1e6, 500)]).astype(NUMPY[dtype])
    got = evaluate(lib.round, x)
    np.testing.assert_array_equal(got, np.rint(x))
    np.testing.assert_array_equal(np.signbit(got), np.signbit(x))
    np.testing.assert_array_equal(evaluate(lib.trunc, x), np.trunc(x))


# --- remainders ---


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_fmod_is_exact_whatever_the_quotient(rng: np.random.Generator, dtype: str) -> None:
    reach = 37 if dtype == "float32" else 300
    a, b = (rng.choice([-1, 1], 4000) * 10 ** rng.uniform(-reach, reach, 4000)).astype(NUMPY[dtype]).reshape(2, -1)
    expected = np.array([math.fmod(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)], a.dtype)
    np.testing.assert_array_equal(evaluate(lib.fmod, a, b), expected)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_fmod_by_pieces(rng: np.random.Generator, dtype: str) -> None:
    """The compiled algorithm. Interpreted, a fused multiply-add rounds twice, so divisors here have 3 bits (float32: 2)
    and every product is exact without it."""
    reach = 120 if dtype == "float32" else 1000
    significand = rng.choice([1.0, 1.5] if dtype == "float32" else [1.0, 1.25, 1.5, 1.75], 2000)
    b = np.ldexp(significand, rng.integers(-reach, reach, 2000)).astype(NUMPY[dtype])
    a = np.ldexp(rng.uniform(-2, 2, 2000), rng.integers(-reach, reach, 2000)).astype(NUMPY[dtype])
    subnormal = np.finfo(NUMPY[dtype]).smallest_subnormal
    a[:4], b[:4] = [5, 7, subnormal * 7, 1], np.array([subnormal * 3, 1, subnormal * 2, np.inf]).astype(b.dtype)
    expected = np.array([math.fmod(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)], a.dtype)
    np.testing.assert_array_equal(evaluate(arithmetic._fmod_float, a, b), expected)


INTEGERS = ["int32", "int64", "uint8"]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", ["remainder", "floor_divide", "fmod", "maximum", "minimum"])
def test_integer_pairs(rng: np.random.Generator, name: str, dtype: str) -> None:
    low = 0 if dtype == "uint8" else -100
    a = rng.integers(low, 101, 500).astype(NUMPY[dtype])
    b = rng.integers(low, 101, 500).astype(NUMPY[dtype])
    b[b == 0] = 3
    expected = getattr(torch, name)(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_array_equal(evaluate(getattr(lib, name), a, b), expected)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_pow(dtype: str) -> None:
    """Wraps on overflow; negative exponents as in torch: 0 unless the base is 1 or -1."""
    low = 0 if dtype == "uint8" else -5
    base, exponent = (v.ravel().astype(NUMPY[dtype]) for v in np.meshgrid(np.arange(low, 12), np.arange(low, 71)))
    expected = torch.pow(torch.from_numpy(base), torch.from_numpy(exponent)).numpy()
    np.testing.assert_array_equal(evaluate(lib.pow, base, exponent), expected)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_sign_and_neg(dtype: str) -> None:
    x = np.arange(0 if dtype == "uint8" else -5, 6).astype(NUMPY[dtype])
    np.testing.assert_array_equal(evaluate(lib.sign, x), np.sign(x))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(evaluate(lib.neg, x), np.negative(x))
