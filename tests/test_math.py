"""The mathematics beside the core where samples do not reach: random equations, ranges, special values, dtypes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch_math import TORCH

import flame_triton as ft
from flame_triton import config
from flame_triton.ir.graph import Graph
from flame_triton.ops import special

DEVICE = "interpreter" if config.interpreted() else "cuda"


def evaluated(function: Callable[..., Any], *arrays: Any) -> np.ndarray:
    """A function of arrays, by the references."""
    arrays = tuple(np.asarray(a) for a in arrays)
    inputs = [ft.input(a.shape, ft.dtype(a.dtype)) for a in arrays]
    return ft.evaluate(function(*inputs), dict(zip(inputs, arrays, strict=True)))


def launched(function: Callable[..., Any], *arrays: Any) -> np.ndarray:
    """The same, by the kernels."""
    arrays = tuple(np.asarray(a) for a in arrays)
    inputs = [ft.input(a.shape, ft.dtype(a.dtype)) for a in arrays]
    found = ft.compile([function(*inputs)], inputs, device=DEVICE)(*arrays)
    return found[0].cpu().numpy()


# ---- einsum ----------------------------------------------------------------------------------------------------


def random_equation(rng: np.random.Generator) -> tuple[str, list[tuple[int, ...]]]:
    """Up to three operands over five labels: repeated labels, sizes of 1 that broadcast, ellipses, either form."""
    sizes = dict(zip("abcde", rng.integers(1, 4, 5).tolist(), strict=True))
    hidden = rng.integers(1, 4, 2).tolist()
    dots = rng.random() < 0.4
    terms, shapes = [], []
    for _ in range(rng.integers(1, 4)):
        labels = rng.choice(list("abcde"), rng.integers(0, 4)).tolist()
        shape = [sizes[c] for c in labels]
        text = "".join(labels)
        if dots:
            covered = hidden[2 - int(rng.integers(0, 3)) :]
            covered = [1 if rng.random() < 0.3 else d for d in covered]
            at = int(rng.integers(0, len(labels) + 1))
            text = f"{text[:at]}...{text[at:]}"
            shape[at:at] = covered
        terms.append(text)
        shapes.append(tuple(shape))
    equation = ",".join(terms)
    if rng.random() < 0.7:
        known = sorted({c for term in terms for c in term if c.isalpha()})
        output = rng.permutation(known)[: rng.integers(0, len(known) + 1)].tolist()
        equation += "->" + ("..." if dots else "") + "".join(output)
    return equation, shapes


@pytest.mark.parametrize("seed", range(150))
def test_einsum_against_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    equation, shapes = random_equation(rng)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    got = evaluated(lambda *xs: ft.einsum(equation, *xs), *arrays)
    want = np.einsum(equation, *arrays)
    assert got.shape == want.shape, equation
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12, err_msg=equation)


def test_einsum_in_numbers_and_in_a_list() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 3, 3))
    np.testing.assert_allclose(evaluated(lambda a, b: ft.einsum(a, [0, 1], b, [1, 2], [2, 0]), x, y), (x @ y).T)
    np.testing.assert_allclose(evaluated(lambda a, b: ft.einsum(a, [0, 1], b, [1, 2]), x, y), x @ y)
    np.testing.assert_allclose(evaluated(lambda a: ft.einsum(a, [..., 0]), x), np.einsum(x, [..., 0]))
    np.testing.assert_allclose(evaluated(lambda a, b: ft.einsum("ij,jk", [a, b]), x, y), x @ y)


def test_einsum_of_integers_is_exact() -> None:
    x = np.arange(6).reshape(2, 3) + 2**60
    got = evaluated(lambda a, b: ft.einsum("ij,kj->ik", a, b), x, np.ones((4, 3), np.int64))
    np.testing.assert_array_equal(got, np.einsum("ij,kj->ik", x, np.ones((4, 3), np.int64)))


def test_einsum_multiplies_the_small_pair_first() -> None:
    shapes = [(50, 2), (2, 60), (60, 3)]
    xs = [ft.input(s) for s in shapes]
    y = ft.einsum("ab,bc,cd->ad", *xs)
    products = [n for n in Graph(tuple(xs), (y,)).nodes if n.op.name == "matmul"]
    assert {p.type.shape[-2:] for p in products} == {(2, 3), (50, 3)}


# ---- special functions over their ranges -----------------------------------------------------------------------

RANGES: dict[str, list[tuple[float, float]]] = {
    "lgamma": [(1e-8, 4), (3, 200), (-5, -0.01)],
    "digamma": [(1e-3, 30), (30, 1e6), (-6, -0.01)],
    "erfinv": [(-0.999, 0.999), (0.999999, 1 - 1e-12)],
    "ndtri": [(1e-3, 0.999), (1e-300, 1e-290)],
    "ndtr": [(-5, 5), (-30, -5)],
    "log_ndtr": [(-5, 5), (-100, -5)],
    "erfcx": [(-5, 26), (26, 1e4)],
    "i0": [(-8, 8), (8, 80)],
    "i0e": [(-8, 8), (8, 1e5)],
    "i1": [(-8, 8), (8, 80)],
    "i1e": [(-8, 8), (8, 1e5)],
    "sinc": [(-3, 3)],
    "logit": [(1e-6, 0.999)],
    "entr": [(1e-6, 5)],
}


def points(low: float, high: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(low, high, 300), np.linspace(low, high, 101)])
    return x[(x > 0) | (np.abs(x - np.rint(x)) > 1e-3)]  # poles stand at negative integers


ZEROS = {"lgamma": 1.0, "digamma": 1.0, "sinc": 1.0}
"""Functions that cross zero, or cancel: their error is relative to this if the result is smaller, else to 0.01."""


def distance(name: str, got: np.ndarray, want: np.ndarray) -> float:
    """The largest error, relative."""
    return float(np.max(np.abs(got.astype(np.float64) - want) / np.maximum(np.abs(want), ZEROS.get(name, 0.01))))


@pytest.mark.parametrize("name", RANGES)
def test_references_are_accurate(name: str) -> None:
    """Against torch in float64, whose own error is about 1e-14."""
    for low, high in RANGES[name]:
        x = points(low, high)
        want = TORCH[name](torch.from_numpy(x)).numpy()
        assert distance(name, evaluated(getattr(ft, name), x), want) < 2e-13, (name, low, high)


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-13), ("float32", 5e-6)])
def test_kernels_are_accurate(name: str, dtype: str, limit: float) -> None:
    """The kernels have other formulas than the references, which hold in float64."""
    for low, high in RANGES[name]:
        x = points(low, high).astype(dtype)
        if dtype == "float32":
            x = x[(np.abs(x) > 1e-37) & ((name not in ("erfinv", "ndtri")) | (np.abs(x) < 1))]
        want = evaluated(getattr(ft, name), x.astype(np.float64))
        keep = np.abs(want) < 3e38
        if x.size:
            assert distance(name, launched(getattr(ft, name), x)[keep], want[keep]) < limit, (name, low, high)


def test_lgamma_is_relative_at_its_zeros() -> None:
    """lgamma(1 + t) = -gamma t + zeta(2) t^2 / 2 - ...: no digit is lost next to 1."""
    t = np.array([-1e-5, -1e-9, 1e-12, 1e-6])
    want = -0.5772156649015329 * t + 0.8224670334241132 * t**2 - 0.40068563438653143 * t**3
    got = launched(ft.lgamma, 1 + t)
    exact = (1 + t) - 1  # what 1 + t really was
    np.testing.assert_allclose(got, want * (exact / t), rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_polygamma(n: int) -> None:
    x = np.concatenate([points(0.05, 30), points(-4.9, -0.1)])
    x = x[np.abs(x - np.rint(x)) > 0.02]
    want = special.polygamma(x, n=n)
    zeta = torch.special.zeta(torch.tensor(n + 1.0, dtype=torch.float64), torch.from_numpy(x[x > 0])).numpy()
    np.testing.assert_allclose(want[x > 0], (-1) ** (n + 1) * math.factorial(n) * zeta, rtol=1e-12)
    steps = special.polygamma(x + 1, n=n) + (-1) ** (n + 1) * math.factorial(n) * x ** -(n + 1.0)  # the recurrence
    size = np.abs(want) + np.abs(x * special.polygamma(x, n=n + 1))  # what the rounding of x comes to
    assert np.max(np.abs(want - steps) / size) < 1e-12
    assert np.max(np.abs(launched(lambda v: ft.polygamma(n, v), x) - want) / size) < 1e-12


def test_polygamma_at_its_poles() -> None:
    x = np.array([0.0, -0.0, -1.0, -3.0])
    for run in (evaluated, launched):
        for n in (1, 2, 3):
            want = np.full(4, np.inf if n % 2 else -np.inf)
            np.testing.assert_array_equal(run(lambda v, n=n: ft.polygamma(n, v), x), want)


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 2.0, 30.0, -30.0, 1e300, -1e300, 1e-300, np.inf, -np.inf, np.nan])
INFINITE_IN_TORCH = {"i0": "torch gives NaN at infinity, where the function is infinite", "i1": "as i0"}
TWO = "copysign heaviside fmax fmin hypot logaddexp logaddexp2 xlogy xlog1py fmod".split()


def assert_same(got: np.ndarray, want: np.ndarray, *operands: np.ndarray) -> None:
    close = np.isclose(got, want, rtol=1e-12, atol=1e-16, equal_nan=True)
    assert close.all(), [tuple(float(v[k]) for v in (*operands, got, want)) for k in np.flatnonzero(~close)]


@pytest.mark.parametrize("name", [*RANGES, "signbit", "isposinf", "isneginf", "rint", "deg2rad"])
@pytest.mark.parametrize("run", [evaluated, launched])
def test_special_values_of_one_operand(name: str, run: Callable[..., np.ndarray]) -> None:
    x = SPECIAL[np.isfinite(SPECIAL)] if name in INFINITE_IN_TORCH else SPECIAL
    x = x[np.abs(x) < 1e200] if name == "sinc" else x  # sin(1e300 pi) is a matter of rounding
    x = x[np.isfinite(x)] if name == "sinc" else x
    want = TORCH[name](torch.from_numpy(x)).numpy()
    got = run(getattr(ft, name), x)
    assert_same(got * 1.0, want * 1.0, x)


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("run", [evaluated, launched])
def test_special_values_of_two_operands(name: str, run: Callable[..., np.ndarray]) -> None:
    x, y = (np.ascontiguousarray(a).reshape(-1) for a in np.meshgrid(SPECIAL, SPECIAL))
    if name == "fmod":  # where the quotient overflows torch gives NaN, we the exact remainder
        fits = ~(np.isfinite(x) & (np.abs(x) > 1e200) & (np.abs(y) < 1e-200) & (y != 0))
        x, y = x[fits], y[fits]
    want = TORCH[name](torch.from_numpy(x), torch.from_numpy(y)).numpy()
    assert_same(run(getattr(ft, name), x, y) * 1.0, want * 1.0, x, y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nextafter(dtype: str) -> None:
    tiny = float(np.finfo(dtype).smallest_subnormal)
    values = np.array([0.0, -0.0, 1.0, -1.0, tiny, -tiny, np.finfo(dtype).max, np.inf, -np.inf, np.nan], dtype)
    x, y = (np.ascontiguousarray(a).reshape(-1) for a in np.meshgrid(values, values))
    want = np.nextafter(x, y)
    for run in (launched, evaluated) if dtype == "float64" else (launched,):
        got = run(ft.nextafter, x, y)
        np.testing.assert_array_equal(got, want)
        assert (np.signbit(got) == np.signbit(want))[~np.isnan(want)].all()


# ---- integers and bools ----------------------------------------------------------------------------------------

WORDS = {
    "uint8": [0, 1, 7, 128, 200, 255],
    "int32": [0, 1, -1, 12345, -(2**31), 2**31 - 1],
    "int64": [0, 1, -1, 2**40 + 5, -(2**63), 2**63 - 1],
}


@pytest.mark.parametrize("dtype", WORDS)
@pytest.mark.parametrize("name", ["bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not"])
def test_bits(dtype: str, name: str) -> None:
    values = np.array(WORDS[dtype], dtype)
    x, y = (np.ascontiguousarray(a).reshape(-1) for a in np.meshgrid(values, values))
    operands = (x,) if name == "bitwise_not" else (x, y)
    want = getattr(torch, name)(*map(torch.from_numpy, operands)).numpy()
    for run in (evaluated, launched):
        got = run(getattr(ft, name), *operands)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", WORDS)
def test_shifts(dtype: str) -> None:
    bits = np.dtype(dtype).itemsize * 8
    counts = [0, 1, 3, bits - 1, bits, *([] if dtype == "uint8" else [-1])]
    both = np.meshgrid(np.array(WORDS[dtype], dtype), np.array(counts, dtype))
    x, y = (np.ascontiguousarray(a).reshape(-1) for a in both)
    for name in ("bitwise_left_shift", "bitwise_right_shift"):
        want = getattr(torch, name)(torch.from_numpy(x), torch.from_numpy(y)).numpy()
        for run in (evaluated, launched):
            np.testing.assert_array_equal(run(getattr(ft, name), x, y), want, err_msg=f"{name} {run.__name__}")


@pytest.mark.parametrize("dtype", WORDS)
def test_divisors(dtype: str) -> None:
    most = {"uint8": 200, "int32": 2**15, "int64": 2**31}[dtype]
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0 if dtype == "uint8" else -most, most, 200).astype(dtype) for _ in range(2))
    longest = {
        "uint8": (233, 144),
        "int32": (1836311903, 1134903170),
        "int64": (7540113804746346429, 4660046610375530309),
    }[dtype]  # neighbours among Fibonacci's numbers take the most steps
    x, y = (np.append(v, np.array([f, 0], dtype)) for v, f in zip((x, y), longest, strict=True))
    np.testing.assert_array_equal(launched(ft.gcd, x, y), np.gcd(x, y))
    np.testing.assert_array_equal(launched(ft.lcm, x[:200], y[:200]), np.lcm(x[:200], y[:200]))


def test_operators_are_bitwise_on_integers_and_logical_on_bools() -> None:
    x, y = ft.input((2,), "int64"), ft.input((2,), "int64")
    feeds = {x: np.array([6, -3]), y: np.array([3, 2])}
    for ours, want in [
        (x & y, [2, 0]), (x | y, [7, -1]), (x ^ y, [5, -1]), (~x, [-7, 2]), (x << y, [48, -12]), (x >> 1, [3, -2]),
        (3 & x, [2, 1]), (8 | x, [14, -3]), (1 ^ x, [7, -4]), (1 << y, [8, 4]), (64 >> y, [8, 16]),
    ]:  # fmt: skip
        np.testing.assert_array_equal(ft.evaluate(ours, feeds), want)
    a, b = x > 0, y > 2
    for ours, want in [(a & b, [True, False]), (a | b, [True, False]), (a ^ b, [False, False]), (~a, [False, True])]:
        assert ours.dtype is ft.bool_
        np.testing.assert_array_equal(ft.evaluate(ours, feeds), want)
    assert (a & x).dtype is ft.int64


# ---- dtypes ----------------------------------------------------------------------------------------------------

PROMOTED = [
    *("hypot", "copysign", "logaddexp", "xlogy", "fmax", "fmod", "float_power"),
    *("outer", "kron", "inner"),
]


@pytest.mark.parametrize("name", PROMOTED)
@pytest.mark.parametrize("a", ["float64", "float32", "bfloat16", "int64", "int32", "uint8"])
@pytest.mark.parametrize("b", ["float32", "int64"])
def test_promotion(name: str, a: str, b: str) -> None:
    x, y = torch.ones(2, dtype=getattr(torch, a)), torch.ones(2, dtype=getattr(torch, b))
    ours = getattr(ft, name)(ft.input((2,), a), ft.input((2,), b))
    try:
        theirs = getattr(torch, name)(x, y).dtype
    except RuntimeError:
        if name != "inner":
            pytest.skip("torch has it for floating tensors alone")
        theirs = torch.promote_types(x.dtype, y.dtype)
    assert f"torch.{ours.dtype.name}" == str(theirs)


def test_dtype_of_reductions() -> None:
    x = ft.input((2, 3), "int32")
    assert ft.sum(x, dtype="float32").dtype is ft.float32
    assert ft.mean(x, dtype="float64").dtype is ft.float64
    assert ft.prod(x, dtype="int32").dtype is ft.int32
    assert ft.ldexp(ft.input((2,), "bfloat16"), ft.input((2,), "int64")).dtype is ft.bfloat16
    assert ft.nansum(x).dtype is ft.count_nonzero(x).dtype is ft.int64
    assert ft.sum(ft.input((2,), "float16"), dtype="float32").dtype is ft.float32


ROUNDED_ONCE: dict[str, Callable[..., Any]] = {
    "addmm": lambda a, b, c: ft.addmm(a, b, c, beta=0.3, alpha=-1.7),
    "addr": lambda a, b, c: ft.addr(a, b[0], c[0], beta=0.3, alpha=-1.7),
    "addcmul": lambda a, b, c: ft.addcmul(a, b, c, value=0.3),
    "addcdiv": lambda a, b, c: ft.addcdiv(a, b, c + 9.0, value=0.3),
    "lerp": ft.lerp,
    "rsub": lambda a, b, c: ft.rsub(a, b, alpha=0.3),
    "cdist": lambda a, b, c: ft.cdist(a, b),
    "cross": lambda a, b, c: ft.cross(a[:, :3], b[:, :3]),
    "vecdot": lambda a, b, c: ft.vecdot(a, b),
    "logit": lambda a, b, c: ft.logit(ft.abs(a) + 0.1, eps=0.2),
    "trapezoid": lambda a, b, c: ft.trapezoid(a),
}


@pytest.mark.parametrize("name", ROUNDED_ONCE)
def test_bfloat16_is_rounded_once(name: str) -> None:
    """Within half a unit in the last place of the float64 result on the same inputs."""
    rng = np.random.default_rng(0)
    numpy = ft.bfloat16.numpy
    xs = [ft.input((8, 8), "bfloat16") for _ in range(3)]
    feeds = {x: rng.standard_normal((8, 8)).astype(numpy).astype(np.float64) for x in xs}
    y = ROUNDED_ONCE[name](*xs)
    got, want = ft.evaluate(y, feeds, dtype=None).astype(np.float64), ft.evaluate(y, feeds)
    slack = 1.0 if name in ("addcdiv", "logit") else 0.0  # c + 9 and |a| + 0.1 are rounded before
    assert (np.abs(got - want) <= ft.bfloat16.eps * (0.501 + slack) * np.abs(want) + 1e-5 + 0.02 * slack).all()


# ---- places where a rule has a special case --------------------------------------------------------------------


def slope(function: Callable[..., Any], *at: float, order: int = 1) -> list[float]:
    """The derivatives at one point, the last operand's last."""
    xs = [ft.input((), "float64") for _ in at]
    y = function(*xs)
    found = ft.grad(y, xs)
    if order == 2:
        found = [ft.grad(g, [x], allow_unused=True)[0] for g, x in zip(found, xs, strict=True)]
    return [float(v) for v in ft.evaluate(found, dict(zip(xs, map(np.asarray, at), strict=True)))]


def test_slopes_at_special_points() -> None:
    assert slope(ft.xlogy, 0.0, 0.0)[0] == 0.0
    assert slope(ft.xlogy, 0.0, 2.0) == [math.log(2.0), 0.0]
    assert slope(ft.copysign, 0.0, -1.0) == [0.0, 0.0]
    assert slope(ft.copysign, 2.0, -1.0) == [-1.0, 0.0]
    assert slope(ft.heaviside, 0.0, 3.0) == [0.0, 1.0]
    assert slope(ft.fmax, 1.0, 1.0) == [1.0, 0.0]
    assert slope(ft.fmax, math.nan, 1.0) == [0.0, 1.0]
    assert slope(ft.fmin, 1.0, math.nan) == [1.0, 0.0]
    assert slope(ft.nextafter, 1.0, 2.0) == [1.0, 0.0]
    assert slope(ft.sinc, 0.0) == [0.0]
    assert slope(ft.sinc, 0.0, order=2) == pytest.approx([-(math.pi**2) / 3])
    assert slope(ft.i1, 0.0) == [0.5]
    assert slope(ft.i1e, 0.0) == [0.5]
    assert slope(ft.log_ndtr, 50.0) == [0.0]
    assert slope(ft.log_ndtr, 50.0, order=2) == [0.0]
    assert slope(ft.log_ndtr, -50.0) == pytest.approx([50.01999200639360])
    assert slope(lambda x: ft.logit(x, eps=0.1), 0.05) == [0.0]
    assert slope(lambda x, y: ft.lerp(x, y, 0.25), 1.0, 2.0) == [0.75, 0.25]


def test_zero_beta_ignores_the_input() -> None:
    x, a, b = ft.input((2, 2), "float64"), ft.input((2, 3), "float64"), ft.input((3, 2), "float64")
    feeds = {x: np.full((2, 2), np.nan), a: np.ones((2, 3)), b: np.ones((3, 2))}
    np.testing.assert_array_equal(ft.evaluate(ft.addmm(x, a, b, beta=0), feeds), np.full((2, 2), 3.0))


def test_statistics_of_holes() -> None:
    x = np.array([[1.0, np.nan, 3.0], [np.nan] * 3])
    np.testing.assert_array_equal(evaluated(lambda v: ft.nanmean(v, axis=1), x), [2.0, np.nan])
    np.testing.assert_array_equal(evaluated(lambda v: ft.nanmax(v, axis=1), x), [3.0, np.nan])
    np.testing.assert_array_equal(evaluated(lambda v: ft.nansum(v, axis=1), x), [4.0, 0.0])
    v = ft.input((3,), "float64")
    (dx,) = ft.grad(ft.nanmean(v), [v])
    np.testing.assert_array_equal(ft.evaluate(dx, {v: x[0]}), [0.5, 0.0, 0.5])


def test_isclose_as_torch() -> None:
    values = np.array([0.0, 1.0, 1.0 + 1e-6, 1.1, np.inf, -np.inf, np.nan])
    x, y = (np.ascontiguousarray(a).reshape(-1) for a in np.meshgrid(values, values))
    for options in ({}, {"equal_nan": True}, {"rtol": 0.0, "atol": 0.2}):
        want = torch.isclose(torch.from_numpy(x), torch.from_numpy(y), **options).numpy()
        np.testing.assert_array_equal(evaluated(lambda a, b, o=options: ft.isclose(a, b, **o), x, y), want)


@pytest.mark.parametrize("offset", range(-6, 7))
@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (1, 3), (3, 1), (0, 3)])
def test_every_diagonal(shape: tuple[int, int], offset: int) -> None:
    x = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    np.testing.assert_array_equal(evaluated(lambda v: ft.diagonal(v, offset), x), torch.from_numpy(x).diagonal(offset))
    row = x.reshape(-1)[:3]
    np.testing.assert_array_equal(evaluated(lambda v: ft.diagflat(v, offset), row), np.diagflat(row, offset))


def test_products_are_gradients_of_views() -> None:
    """No product is copied for its transpose: x.mT and x.T are views."""
    x = ft.input((2, 3, 4))
    assert x.mT.shape == (2, 4, 3)
    assert x.mT.node.op.name == "transpose"


@pytest.mark.parametrize("endpoint", [True, False])
def test_ranges_end_exactly(endpoint: bool) -> None:
    for num in (0, 1, 2, 7, 50):
        got = ft.evaluate(ft.linspace(-0.3, 1.7, num, endpoint, dtype="float64"))
        np.testing.assert_allclose(got, np.linspace(-0.3, 1.7, num, endpoint), rtol=1e-14, atol=1e-16)
        if endpoint and num > 1:
            assert (got[0], got[-1]) == (-0.3, 1.7)


@pytest.mark.parametrize("mode", ["floor", "trunc", None])
def test_rounding_modes(mode: str | None) -> None:
    for x, y in ([7.0, -7.0, 5.5], [2.0, 2.0, -1.5]), ([7, -7, 6], [2, 2, -4]):
        a, b = torch.tensor(x), torch.tensor(y)
        a, b = (v.double() if v.is_floating_point() else v for v in (a, b))
        got = evaluated(lambda u, v: ft.div(u, v, rounding_mode=mode), a.numpy(), b.numpy())
        np.testing.assert_allclose(got, torch.div(a.double() if mode is None else a, b, rounding_mode=mode).numpy())
