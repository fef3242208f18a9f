"""Dtypes of results: torch's promotion, weak Python scalars, and how numbers meet 16-bit tensors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import flame_triton as ft
from flame_triton.graph.simplify import simplify
from flame_triton.ir.graph import Graph

NAMES = ["float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool"]
SCALARS = [True, 2, 2.5]


def like(name: str, shape: tuple[int, ...]) -> tuple[ft.Value, torch.Tensor]:
    return ft.input(shape, name), torch.ones(shape, dtype=getattr(torch, name))


def same(ours: ft.Value, theirs: torch.Tensor) -> bool:
    return str(theirs.dtype) == f"torch.{ours.dtype.name}"


@pytest.mark.parametrize(("a", "b"), list(itertools.product(NAMES, NAMES)))
@pytest.mark.parametrize("shapes", [((2,), (2,)), ((2,), ()), ((), (2,)), ((), ())], ids=str)
def test_two_tensors(a: str, b: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    (x, tx), (y, ty) = like(a, shapes[0]), like(b, shapes[1])
    assert same(x + y, tx + ty)
    assert same(x * y, tx * ty)
    assert same(x / y, tx / ty)
    assert same(ft.maximum(x, y), torch.maximum(tx, ty))
    assert same(ft.where(x > 0, x, y), torch.where(tx > 0, tx, ty))
    assert (x < y).dtype is ft.bool_
    if not a == b == "bool":
        assert same(x - y, tx - ty) if "bool" not in (a, b) else True
        assert same(ft.pow(x, y), torch.pow(tx, ty))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scalar", SCALARS)
@pytest.mark.parametrize("shape", [(2,), ()], ids=str)
def test_tensor_and_number(name: str, scalar: bool | int | float, shape: tuple[int, ...]) -> None:
    x, t = like(name, shape)
    assert same(x + scalar, t + scalar)
    assert same(scalar * x, scalar * t)
    assert same(x / scalar, t / scalar)
    assert same(ft.where(x > 0, x, scalar), torch.where(t > 0, t, scalar))
    assert same(ft.clamp(x, max=scalar), torch.clamp(t, max=scalar)) if name != "bool" else True
    assert same(x + np.float64(scalar), t + float(scalar))


@pytest.mark.parametrize("name", NAMES)
def test_one_tensor(name: str) -> None:
    x, t = like(name, (2, 3))
    for fn in ("exp", "sqrt", "tanh", "sigmoid", "erf", "reciprocal"):
        assert same(getattr(ft, fn)(x), getattr(torch, fn)(t)), fn
    for fn in ("sum", "prod", "any", "all", "argmax"):
        if (fn, name) not in [("argmax", "bool"), ("any", "uint8"), ("all", "uint8")]:  # torch refuses; gives uint8
            assert same(getattr(ft, fn)(x), getattr(torch, fn)(t)), fn
    assert same(ft.max(x), torch.amax(t))
    if name != "bool":
        for fn in ("floor", "ceil", "round", "trunc", "abs", "neg", "sign", "square"):
            assert same(getattr(ft, fn)(x), getattr(torch, fn)(t)), fn


def test_numbers_alone() -> None:
    assert ft.add(1, 2).dtype is ft.int64
    assert ft.add(1, 2.0).dtype is ft.float32
    assert ft.exp(1).dtype is ft.float32
    assert ft.evaluate(ft.where(True, 1, 2)) == 1


def test_arrays_and_lists_become_constants() -> None:
    x = ft.input((2,), "float32")
    assert (x + np.ones(2)).dtype is ft.float64
    assert (x + np.ones(2, np.float32)).dtype is ft.float32
    assert (x + [1.0, 2.0]).dtype is ft.float32
    assert (x + [1, 2]).dtype is ft.float32
    assert (np.ones(2, np.float32) * x).dtype is ft.float32
    assert ft.constant(np.float64(0.1)).dtype is ft.float64
    assert ft.constant(0.1).dtype is ft.float32
    assert ft.evaluate(ft.constant(np.float64(0.1))) == 0.1


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_a_number_is_not_rounded_to_16_bits_first(name: str) -> None:
    """x * 0.1 is computed in float32 and rounded once, as torch does on a GPU; 0.1 itself is no 16-bit number."""
    x = ft.input((64,), name)
    values = np.linspace(-3, 3, 64).astype(x.dtype.numpy).astype(np.float64)
    for ours, want in (
        (x * 0.1, values * 0.1),
        (x + 0.3, values + 0.3),
        (0.7 - x, 0.7 - values),
        (x / 0.3, values / 0.3),
        (ft.maximum(x, 0.1), np.maximum(values, 0.1)),
        (ft.clamp(x, -0.1, 0.3), np.clip(values, -0.1, 0.3)),
        (ft.pow(ft.abs(x), 1.1), np.abs(values) ** 1.1),
    ):
        assert ours.dtype is x.dtype
        got = ft.evaluate(ours, {x: values}, dtype=None).astype(np.float64)
        assert (np.abs(got - want) <= x.dtype.eps / 2 * np.abs(want) * 1.001 + 1e-7).all()


def test_exact_numbers_need_no_float32() -> None:
    x = ft.input((3,), "bfloat16")
    assert (x * 0.5).node.op.name == "mul"
    assert (x * 0.1).node.op.name == "cast"


@pytest.mark.parametrize(
    ("value", "dtype"), [(1.5, "int32"), (-2.7, "int64"), (float("nan"), "bool"), (0.5, "bool"), (3, "float16")]
)
def test_simplified_casts_of_constants_keep_their_value(value: float, dtype: str) -> None:
    y = ft.cast(ft.full((2,), value), dtype)
    graph = simplify(Graph((), (y,)))
    np.testing.assert_array_equal(ft.evaluate(graph)[0], ft.evaluate(y))


@pytest.mark.parametrize(("start", "stop", "step"), [(0, 1, 0.1), (1.0, -1.0, -0.3), (0.5, 4, 1), (3, 100, 7)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_arange_is_rounded_once(start: float, stop: float, step: float, dtype: str) -> None:
    got = ft.evaluate(ft.arange(start, stop, step, dtype=dtype), dtype=None).astype(np.float64)
    want = np.arange(start, stop, step)
    assert got.shape == want.shape
    inside = 5e-16 if dtype == "float64" else 2e-7
    assert (np.abs(got - want) <= (ft.dtype(dtype).eps / 2 + inside) * np.maximum(np.abs(want), 1)).all()


def test_functions_that_keep_16_bits() -> None:
    """Statistics are float32 inside; what comes out has the dtype that went in."""
    x, w = ft.input((4, 6), "bfloat16"), ft.input((6,), "float32")
    for y in (
        ft.softmax(x),
        ft.log_softmax(x),
        ft.logsumexp(x),
        ft.layer_norm(x, 6, w, w),
        ft.rms_norm(x, 6, w),
        ft.gelu(x),
        ft.mean(x),
        ft.var(x),
        ft.norm(x),
        ft.mse_loss(x, x),
        ft.cross_entropy(x, ft.constant(np.arange(4))),
        ft.scaled_dot_product_attention(x, x, x),
        x @ ft.transpose(x),
    ):
        assert y.dtype is ft.bfloat16
    assert ft.softmax(x, dtype="float32").dtype is ft.float32
    assert ft.layer_norm(x, 6, w).node.outputs[1].dtype is ft.float32
