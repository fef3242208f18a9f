"""The NumPy reference of every op: against torch in float64, against the op's own definition, and in 16-bit floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flame_triton as ft
from flame_triton.graph.decompose import decompose
from flame_triton.graph.simplify import simplify
from flame_triton.ir.op import OPS, Composite, Generator, Kernel, Leaf, Pointwise, Reduce, View
from flame_triton.ir.verify import verify
from flame_triton.ops import special
from flame_triton.ops.define import SAMPLED
from flame_triton.testing import TOLERANCE, Case, assert_close, cases

CASES = list(cases())


TABLES = [import_module(path.stem) for path in sorted(Path(__file__).parent.glob("torch_*.py"))]
TORCH: dict[str, Callable[..., Any]] = {name: f for table in TABLES for name, f in table.TORCH.items()}
WITHOUT_TWIN: dict[str, str] = {name: reason for table in TABLES for name, reason in table.WITHOUT_TWIN.items()}


def test_every_sampled_function_has_a_torch_twin_or_a_reason() -> None:
    assert set(TORCH) | set(WITHOUT_TWIN) == set(SAMPLED)
    assert not set(TORCH) & set(WITHOUT_TWIN)
    assert len(TORCH) >= 130
    assert len(CASES) >= 480


def torch_result(case: Case) -> list[np.ndarray]:
    args, kwargs = case.arguments([torch.from_numpy(np.array(a)) for a in case.arrays])
    found = TORCH[case.name](*args, **kwargs)
    return [np.asarray(x) for x in (found if isinstance(found, (tuple, list)) else [found])]


@pytest.mark.parametrize("case", [c for c in CASES if c.name in TORCH], ids=str)
def test_reference_agrees_with_torch(case: Case) -> None:
    graph = case.graph()
    ours = ft.evaluate(graph, dict(zip(graph.inputs, case.arrays, strict=True)))
    theirs = torch_result(case)
    assert len(ours) == len(theirs)
    for value, a, r in zip(graph.outputs, ours, theirs, strict=True):
        assert a.shape == value.shape == r.shape
        own = "float64" if value.dtype.is_float else value.dtype
        if value.dtype.is_float:
            assert r.dtype.kind == "f"
        else:
            assert a.dtype == value.dtype.numpy == r.dtype
        assert_close(a, r, own, tolerance=1e-13 if value.dtype.is_float else None, floor=1e-3)


# ---- special values --------------------------------------------------------------------------------------------

SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 30.0, -30.0, 1e300, -1e300, 1e-300, np.inf, -np.inf, np.nan])
ONE = """abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 floor log log10 log1p log2 neg
    reciprocal round rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc isnan isinf isfinite logical_not nan_to_num
    relu leaky_relu elu softplus logsigmoid silu mish gelu""".split()
TWO = """add sub mul div remainder floor_divide pow maximum minimum atan2 less less_equal greater greater_equal equal
    not_equal clamp_min clamp_max""".split()


def evaluated(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    inputs = [ft.input(a.shape, ft.dtype(a.dtype)) for a in arrays]
    return ft.evaluate(function(*inputs), dict(zip(inputs, arrays, strict=True)))


def assert_same(ours: np.ndarray, theirs: np.ndarray, *operands: np.ndarray, zeros: bool = True) -> None:
    """Equal up to rounding, NaN and infinities included, and unless told otherwise the signs of zeros."""
    close = np.isclose(ours, theirs, rtol=1e-12, atol=1e-190, equal_nan=True)
    if zeros:
        close &= np.isnan(theirs) | (np.signbit(ours) == np.signbit(theirs))
    wrong = [tuple(float(x.flat[i]) for x in (*operands, ours, theirs)) for i in np.flatnonzero(~close)]
    assert not wrong, f"operands, ours, torch's: {wrong}"


@pytest.mark.parametrize("name", ONE)
def test_special_values_of_one_operand(name: str) -> None:
    x = SPECIAL
    ours = evaluated(getattr(ft, name), x)
    theirs = TORCH[name](torch.from_numpy(x)).numpy()
    assert_same(ours * 1.0, theirs * 1.0, x, zeros=name not in ("relu", "logsigmoid"))


@pytest.mark.parametrize("name", TWO)
def test_special_values_of_two_operands(name: str) -> None:
    x, y = (np.ascontiguousarray(a).reshape(-1) for a in np.meshgrid(SPECIAL, SPECIAL))
    if name == "remainder":  # where the quotient overflows torch gives NaN, we the exact remainder
        fits = ~(np.isfinite(x) & (np.abs(x) > 1e200) & (np.abs(y) < 1e-200) & (y != 0))
        x, y = x[fits], y[fits]
    ours = evaluated(getattr(ft, name), x, y)
    theirs = TORCH[name](torch.from_numpy(x), torch.from_numpy(y)).numpy()
    assert_same(ours * 1.0, theirs * 1.0, x, y)


@pytest.mark.parametrize(
    "name", "sum mean max min prod any all logsumexp argmax argmin softmax log_softmax var".split()
)
def test_special_values_in_reductions(name: str) -> None:
    rows = [[1, np.nan, 2], [np.inf, 1, 2], [-np.inf, 1, 2], [np.inf, -np.inf, 0], [-np.inf] * 3, [0, 0, 0]]
    x = np.array(rows, np.float64)
    ours = evaluated(lambda v: getattr(ft, name)(v, axis=1), x)
    theirs = TORCH[name](torch.from_numpy(x), axis=1).numpy()
    assert_same(ours * 1.0, theirs * 1.0)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16", "int64"])
def test_where_on_large_arrays_keeps_every_bit(dtype: str) -> None:
    rng = np.random.default_rng(0)
    numpy = ft.dtype(dtype).numpy
    x = (rng.standard_normal((120, 100)) * 10).astype(numpy)
    if x.dtype.kind == "f":
        x[:4] = np.array([np.nan, np.inf, -np.inf, -0.0])[:, None]
    condition = rng.standard_normal((120, 100)) > 0
    c, a, b = ft.input((120, 100), "bool"), ft.input((120, 100), dtype), ft.input((100,), dtype)
    y = x[5]
    got = ft.evaluate(ft.where(c, a, b), {c: condition, a: x, b: y}, dtype=None)
    want = np.where(condition, x.astype(np.float64), y.astype(np.float64)).astype(numpy)
    np.testing.assert_array_equal(got, want)
    assert (np.signbit(got.astype(np.float64)) == np.signbit(want.astype(np.float64))).all()


def test_a_class_that_does_not_exist_gives_nan() -> None:
    """torch raises; a kernel cannot. The samples next to it are as they should be."""
    x, t = ft.input((4, 3), "float64"), ft.input((4,), "int64")
    values = np.random.default_rng(0).standard_normal((4, 3))
    for loss in (ft.cross_entropy, ft.nll_loss):
        got = ft.evaluate(loss(x, t, reduction="none"), {x: values, t: np.array([0, 3, -1, -100])})
        np.testing.assert_array_equal(np.isnan(got), [False, True, True, False])
        assert got[3] == 0
        assert np.isnan(ft.evaluate(loss(x, t), {x: values, t: np.array([0, 3, 1, 1])}))


def test_rows_out_of_range() -> None:
    table, index = ft.input((3, 2), "float64"), ft.input((4,), "int64")
    feeds = {table: np.arange(6.0).reshape(3, 2), index: np.array([-1, 3, -4, -3])}
    got = ft.evaluate(ft.take(table, index), feeds)
    np.testing.assert_array_equal(got, [[4, 5], [np.nan] * 2, [np.nan] * 2, [0, 1]])
    (dtable,) = ft.grad(ft.take(table, index), [table], grad_output=ft.ones((4, 2), "float64"))
    np.testing.assert_array_equal(ft.evaluate(dtable, feeds), [[1, 1], [0, 0], [1, 1]])


# ---- definitions -----------------------------------------------------------------------------------------------

PRIMITIVE = (Leaf, Pointwise, Generator, View, Reduce, Kernel)
DTYPES = ("float64", "float32", "bfloat16", "float16")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_definition_agrees_with_reference(case: Case) -> None:
    """Decomposed, every op is made of primitives, of the declared types, and computes the same; so do its gradients."""
    for dtype in DTYPES:
        graph, arrays = case.with_gradients(dtype)
        verify(graph, "build")
        plain = decompose(graph)
        verify(plain, "decompose")
        assert all(isinstance(n.op.lowering, PRIMITIVE) for n in plain.nodes)
        assert [v.type for v in plain.outputs] == [v.type for v in graph.outputs]
    graph, arrays = case.with_gradients("float64")
    want = ft.evaluate(graph, dict(zip(graph.inputs, arrays, strict=True)))
    for stage in (decompose, simplify, lambda g: simplify(decompose(g))):
        other = stage(graph)
        verify(other, "simplify")
        got = ft.evaluate(other, dict(zip(other.inputs, arrays, strict=True)))
        for v, a, r in zip(graph.outputs, got, want, strict=True):
            assert_close(a, r, v.dtype, tolerance=1e-12 if v.dtype.is_float else None, floor=1e-3)


def test_composite_ops_have_two_forms() -> None:
    """The sampled ops cover every composite there is, so the test above leaves none out."""
    made = {name for name, op in OPS.items() if isinstance(op.lowering, Composite)}
    composite = {name for name in made if not name.startswith("_")}  # without those that other tests have made
    seen = {n.op.name for case in CASES for n in case.with_gradients("float64")[0].nodes}
    assert composite <= seen
    assert len(composite) >= 9


# ---- low precision ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_low_precision(case: Case, dtype: str) -> None:
    """Values and gradients in the graph's own dtypes against float64 on the same inputs."""
    graph, arrays = case.with_gradients(dtype)
    feeds = dict(zip(graph.inputs, arrays, strict=True))
    got, want = ft.evaluate(graph, feeds, dtype=None), ft.evaluate(graph, feeds)
    tolerance, floor = TOLERANCE[ft.dtype(dtype)], case.floor
    for v, a, r in zip(graph.outputs, got, want, strict=True):
        assert a.dtype == v.dtype.numpy
        assert_close(a, r, v.dtype, tolerance=tolerance if v.dtype.is_float else None, floor=floor)


ROUNDED_ONCE = """exp log log1p expm1 sqrt rsqrt sin cos tanh sigmoid erf silu gelu mish softplus elu hardswish
    leaky_relu reciprocal softmax log_softmax logsumexp mean sum norm layer_norm rms_norm scaled_dot_product_attention
    mse_loss cross_entropy""".split()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", [c for c in CASES if c.name in ROUNDED_ONCE], ids=str)
def test_low_precision_results_are_rounded_once(case: Case, dtype: str) -> None:
    """Computed in float32 inside and rounded at the end: within half a unit in the last place, and a bit."""
    numpy = ft.dtype(dtype).numpy
    graph = case.graph(dtype)
    arrays = [a.astype(numpy).astype(np.float64) if a.dtype.kind == "f" else a for a in case.arrays]
    feeds = dict(zip(graph.inputs, arrays, strict=True))
    (got,), (want,) = ft.evaluate(graph, feeds, dtype=None), ft.evaluate(graph, feeds)
    slack = 4e-4 if case.name == "scaled_dot_product_attention" else 1e-5  # probabilities are rounded for the product
    half = ft.dtype(dtype).eps / 2
    assert (np.abs(got.astype(np.float64) - want) <= (half + slack) * np.abs(want) + slack * 0.1).all()


GRADIENT_ROUNDED_ONCE = "exp log expm1 sin cos erf erfc silu gelu mish softplus elu leaky_relu logsigmoid tan".split()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", GRADIENT_ROUNDED_ONCE)
def test_low_precision_gradients_are_rounded_once(name: str, dtype: str) -> None:
    numpy = ft.dtype(dtype).numpy
    x, g = ft.input((64,), dtype), ft.input((64,), dtype)
    (dx,) = ft.grad(getattr(ft, name)(x), [x], grad_output=g)
    xs = np.linspace(0.3, 1.4, 64).astype(numpy).astype(np.float64)
    gs = np.linspace(-1.0, 2.0, 64).astype(numpy).astype(np.float64)
    got, want = (ft.evaluate(dx, {x: xs, g: gs}, dtype=d).astype(np.float64) for d in (None, "float64"))
    roundings = 2 if name in ("exp", "expm1", "tan") else 1  # these use the rounded result
    eps = ft.dtype(dtype).eps
    assert (np.abs(got - want) <= eps * (0.5 + 1.01 * (roundings - 1)) * 1.01 * np.abs(want) + 1e-6).all()


# ---- NumPy functions of our own --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dtype", "limit"), [("erf", "float64", 1e-15), ("erfc", "float64", 3e-15),
                                                      ("erf", "float32", 3e-7), ("erfc", "float32", 6e-7)])  # fmt: skip
def test_error_functions_are_accurate(name: str, dtype: str, limit: float) -> None:
    """Relative error against the C library, near zero, in the middle and in the tails."""
    most = {"float64": 26.0, "float32": 9.0}[dtype]
    x = np.concatenate([np.linspace(-6, most, 20001), np.logspace(-300 if dtype == "float64" else -37, 0, 2000), [0.0]])
    x = x.astype(dtype)
    want = np.array([getattr(math, name)(float(v)) for v in x])
    got = getattr(special, name)(x)
    assert got.dtype == np.dtype(dtype)
    error = np.abs(got.astype(np.float64) - want)
    assert (error <= limit * np.abs(want)).all(), f"worst {np.max(error / np.maximum(np.abs(want), 1e-320)):.3g}"


def test_error_functions_at_the_ends() -> None:
    x = np.array([np.inf, -np.inf, np.nan, -0.0, 30.0, -30.0])
    np.testing.assert_array_equal(special.erf(x), [1, -1, np.nan, 0, 1, -1])
    np.testing.assert_allclose(special.erfc(x), [0, 2, np.nan, 1, 0, 2], rtol=4e-16)
    assert np.signbit(special.erf(np.array(-0.0)))
    assert special.erf(np.zeros((0, 3))).shape == (0, 3)
    assert special.erf(np.zeros((2, 3), np.float32).T).shape == (3, 2)
