"""Losses where they are delicate: corners, certainty, ignored rows, and the memory of a loss without logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from regression import DEVICES, numpy
from test_norms import compare

import flame_triton as ft
from flame_triton.graph.memory import plan_memory
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.lower import lower
from flame_triton.testing import assert_close, check_grads


def randn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


# ---- corners ---------------------------------------------------------------------------------------------------


def test_binary_cross_entropy_of_wrong_certainty() -> None:
    """Logarithms stop at -100, and the gradient is torch's, finite and large."""
    x, t = np.array([0.0, 1.0, 0.0, 1.0, 0.3]), np.array([1.0, 0.0, 0.0, 1.0, 0.6])
    target = torch.tensor(t)
    compare(
        lambda v: ft.binary_cross_entropy(v, ft.constant(t, "float64"), reduction="none"),
        lambda v: F.binary_cross_entropy(v, target, reduction="none"),
        x,
        rtol=1e-8,  # torch holds the 1e-12 of its gradient in float32
    )
    v = ft.input((5,))
    y = ft.binary_cross_entropy(v, ft.constant(t, "float32"), reduction="none")
    found = ft.compile([y, *ft.grad(y, [v], grad_output=ft.ones((5,)))], [v])(x.astype(np.float32))
    assert all(np.isfinite(numpy(a)).all() for a in found)
    np.testing.assert_allclose(numpy(found[0])[:4], [100, 100, 0, 0])


@pytest.mark.parametrize("name", ["kl_div", "gaussian_nll_loss"])
def test_zero_targets_and_variances(name: str) -> None:
    x = randn(6)
    if name == "kl_div":
        t = np.array([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
        compare(lambda v: ft.kl_div(v, ft.constant(t)), lambda v: F.kl_div(v, torch.tensor(t)), x)
    else:
        t, var = randn(6, seed=1), np.array([0.0, 1e-9, 0.5, 1.0, 2.0, 0.1])
        compare(
            lambda v, s: ft.gaussian_nll_loss(v, ft.constant(t), s, True),
            lambda v, s: F.gaussian_nll_loss(v, torch.tensor(t), s, True),
            x,
            var,
        )


CORNERS: list[tuple[str, np.ndarray, dict[str, Any]]] = [
    ("relu6", np.array([-1.0, 0.0, 3.0, 6.0, 7.0]), {}),
    ("hardtanh", np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), {}),
    ("hardsigmoid", np.array([-4.0, -3.0, 0.0, 3.0, 4.0]), {}),
    ("hardshrink", np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), {}),
    ("softshrink", np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), {}),
    ("threshold", np.array([-1.0, 0.25, 0.5]), {"threshold": 0.25, "value": 9.0}),
    ("celu", np.array([-50.0, -1.0, 0.0, 1.0]), {"alpha": 0.5}),
    ("selu", np.array([-50.0, -1.0, 0.0, 1.0]), {}),
    ("softsign", np.array([-1e3, -1.0, 0.0, 1.0]), {}),
    ("tanhshrink", np.array([-40.0, -1e-3, 0.0, 1.0]), {}),
]


@pytest.mark.parametrize(("name", "x", "options"), CORNERS, ids=[c[0] for c in CORNERS])
def test_gradients_at_the_corners_are_torchs(name: str, x: np.ndarray, options: dict[str, Any]) -> None:
    ours: Callable[..., Any] = getattr(ft, name)
    theirs: Callable[..., Any] = getattr(F, name)
    rtol = 1e-7 if name == "hardsigmoid" else 1e-9  # torch holds 1 / 6 in float32
    compare(lambda v: ours(v, **options), lambda v: theirs(v, **options), x, rtol=rtol)
    v = ft.input((1,), "float64")
    assert np.isnan(ft.evaluate(ours(v, **options), {v: np.array([np.nan])})).all()


def test_margins_just_met() -> None:
    one = torch.ones(2, dtype=torch.float64)
    compare(
        lambda a, b: ft.margin_ranking_loss(a, b, ft.ones((2,), "float64"), 0.5, "sum"),
        lambda a, b: F.margin_ranking_loss(a, b, one, 0.5, reduction="sum"),
        np.array([1.0, 2.0]),
        np.array([0.5, 1.0]),
    )


def test_extreme_maxima_of_float16_keep_their_gradient() -> None:
    """A named regression: the gradient of max underflowed in float16 where many elements tie."""
    x = ft.input((1, 4096), "float16")
    (dx,) = ft.grad(ft.max(x, axis=1), [x], grad_output=ft.full((1,), 2.0, "float16"))
    found = numpy(ft.compile(dx, [x])(np.full((1, 4096), 3.0, np.float16)))
    np.testing.assert_array_equal(found, np.full((1, 4096), 2 / 4096, np.float16))


# ---- linear + cross-entropy ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_linear_cross_entropy_and_its_gradients(chunk: int, reduction: str) -> None:
    target = np.array([0, 4, -100, 2, 2, -100, 1])
    options: dict[str, Any] = {"reduction": reduction, "label_smoothing": 0.15}
    compare(
        lambda x, w, b: ft.linear_cross_entropy(x, w, ft.constant(target), b, chunk=chunk, **options),
        lambda x, w, b: F.cross_entropy(F.linear(x, w, b), torch.tensor(target), **options),
        randn(7, 3),
        randn(5, 3, seed=1),
        randn(5, seed=2),
    )


def test_linear_cross_entropy_twice_differentiable() -> None:
    check_grads(
        lambda x, w: ft.linear_cross_entropy(x, w, ft.constant(np.array([1, 0, 3])), chunk=2), (3, 2), (4, 2), order=2
    )


def test_classes_out_of_range_give_nan() -> None:
    x, w, t = ft.input((2, 3)), ft.input((4, 3)), ft.input((2,), "int64")
    loss = ft.linear_cross_entropy(x, w, t, reduction="none")
    found = ft.evaluate(loss, {x: randn(2, 3), w: randn(4, 3), t: np.array([4, 1])})
    assert np.isnan(found[0]) and np.isfinite(found[1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_linear_cross_entropy_through_kernels(device: str, dtype: str) -> None:
    """float32 weights with 16-bit activations: logits and sums are float32."""
    x, w, t = ft.input((40, 24), dtype), ft.input((50, 24)), ft.input((40,), "int64")
    loss = ft.linear_cross_entropy(x, w, t, chunk=16)
    outputs = [loss, *ft.grad(loss, [x, w])]
    a = torch.tensor(randn(40, 24)).to(getattr(torch, dtype))
    b = randn(50, 24, seed=1).astype(np.float32)
    labels = np.random.default_rng(0).integers(0, 50, 40)
    found = ft.compile(outputs, [x, w, t], device=device)(a, b, labels)
    rows = a.double().requires_grad_()
    weight = torch.tensor(b).to(getattr(torch, dtype)).double().requires_grad_()
    F.cross_entropy(rows @ weight.T, torch.tensor(labels)).backward()
    tolerance = 2e-5 if dtype == "float32" else 1e-2
    assert_close(numpy(found[1]).astype(np.float64), rows.grad.numpy(), dtype, tolerance=tolerance)
    assert_close(numpy(found[2]).astype(np.float64), weight.grad.numpy(), "float32", tolerance=tolerance)


def planned(rows: int, chunk: int | None) -> int:
    """Bytes of the arena of a step, forward and backward, on a GPU."""
    width, classes = 64, 8192
    x, t = ft.input((rows, width), "bfloat16"), ft.input((rows,), "int64")
    w = ft.input((classes, width), "bfloat16")
    loss = ft.linear_cross_entropy(x, w, t, chunk=chunk)
    schedule = lower(Graph((x, w, t), (loss, *ft.grad(loss, [x, w]))), {}, Target())
    plan_memory(schedule)
    return schedule.arena_bytes


def test_logits_are_never_held_whole() -> None:
    """The plan of a step in chunks holds less than half the float32 logits of all rows, and grows with x alone."""
    rows, classes = 2048, 8192
    whole = 4 * rows * classes
    assert planned(rows, rows) >= whole
    assert planned(rows, 128) < whole / 5
    assert planned(2 * rows, 128) - planned(rows, 128) < 2 * rows * 64 * 2 + rows * 64
