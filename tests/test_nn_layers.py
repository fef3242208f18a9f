"""Layers and blocks against torch's, in float64: results and the gradient of every parameter and input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import flame_triton as ft
from flame_triton.errors import ArgumentError, ShapeError

Function = Callable[[Sequence[torch.Tensor], dict[str, torch.Tensor]], torch.Tensor]


def check_against_torch(module: Any, theirs: Function, *arrays: np.ndarray) -> None:
    """theirs(inputs, parameters by name) must give the module's result and gradients on random parameters."""
    rng = np.random.default_rng(1)
    inputs = [ft.input(a.shape, "float64" if a.dtype.kind == "f" else "int64") for a in arrays]
    y = module(*inputs)
    parameters = dict(module.named_parameters())
    weights = {n: rng.standard_normal(v.shape) for n, v in parameters.items()}
    cotangent = rng.standard_normal(y.shape)
    wrt = [*parameters.values(), *(v for v in inputs if v.dtype.is_float)]
    seed = ft.input(y.shape, y.dtype)
    gradients = ft.grad(y, wrt, grad_output=seed)
    feeds = dict(zip(inputs, arrays, strict=True)) | {v: weights[n] for n, v in parameters.items()} | {seed: cotangent}
    found = ft.evaluate([y, *gradients], feeds)

    tensors = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    their_weights = {n: torch.tensor(w, requires_grad=True) for n, w in weights.items()}
    result = theirs(tensors, their_weights)
    result.backward(torch.tensor(cotangent))
    expected = [result, *(w.grad for w in their_weights.values()), *(t.grad for t in tensors if t.requires_grad)]
    labels = ["result", *parameters, *("input" for t in tensors if t.requires_grad)]
    for label, a, b in zip(labels, found, expected, strict=True):
        assert b is not None
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-9, atol=1e-10, err_msg=label)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias: bool) -> None:
    layer = ft.nn.Linear(5, 7, bias=bias)
    check_against_torch(layer, lambda x, w: F.linear(x[0], w["weight"], w.get("bias")), normal(2, 3, 5))


def test_embedding() -> None:
    indices = np.array([[0, 3, 3], [2, 0, 1]])
    check_against_torch(ft.nn.Embedding(4, 6), lambda x, w: F.embedding(x[0], w["weight"]), indices)


@pytest.mark.parametrize(("affine", "bias"), [(True, True), (True, False), (False, False)])
def test_layer_norm(affine: bool, bias: bool) -> None:
    layer = ft.nn.LayerNorm(6, 1e-3, affine, bias)
    check_against_torch(
        layer, lambda x, w: F.layer_norm(x[0], (6,), w.get("weight"), w.get("bias"), 1e-3), normal(4, 6)
    )


@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm(affine: bool) -> None:
    layer = ft.nn.RMSNorm(6, 1e-3, affine)
    check_against_torch(layer, lambda x, w: F.rms_norm(x[0], (6,), w.get("weight"), 1e-3), normal(2, 3, 6))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_mlp(approximate: str) -> None:
    def theirs(x: Sequence[torch.Tensor], w: dict[str, torch.Tensor]) -> torch.Tensor:
        h = F.gelu(F.linear(x[0], w["fc1.weight"], w["fc1.bias"]), approximate=approximate)
        return F.linear(h, w["fc2.weight"], w["fc2.bias"])

    check_against_torch(ft.nn.MLP(4, 9, approximate), theirs, normal(2, 3, 4))


def attention(heads: int, causal: bool = False) -> Function:
    """torch's attention on our parameters, whatever projections there are."""

    def split(y: torch.Tensor) -> torch.Tensor:
        return y.unflatten(-1, (heads, -1)).transpose(1, 2)

    def theirs(x: Sequence[torch.Tensor], w: dict[str, torch.Tensor]) -> torch.Tensor:
        def project(name: str, source: torch.Tensor) -> torch.Tensor:
            return F.linear(source, w[f"{name}.weight"], w.get(f"{name}.bias"))

        context = x[-1]
        if "qkv.weight" in w:
            q, k, v = project("qkv", x[0]).chunk(3, -1)
        elif "kv.weight" in w:
            q, (k, v) = project("q", x[0]), project("kv", context).chunk(2, -1)
        else:
            q, k, v = project("q", x[0]), project("k", context), project("v", context)
        q, k, v = split(q), split(k), split(v)
        if "norm_q.weight" in w:
            q, k = (F.rms_norm(a, a.shape[-1:], w[f"norm_{n}.weight"], 1e-6) for n, a in (("q", q), ("k", k)))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return project("out", y.transpose(1, 2).flatten(2))

    return theirs


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"bias": False}])
def test_self_attention(options: dict[str, Any], fused: bool) -> None:
    check_against_torch(ft.nn.Attention(8, 2, fused=fused, **options), attention(2), normal(2, 5, 8))


@pytest.mark.parametrize("fused", [True, False])
def test_cross_attention(fused: bool) -> None:
    layer = ft.nn.Attention(8, 2, context=6, fused=fused, qk_norm=True)
    check_against_torch(layer, attention(2), normal(2, 5, 8), normal(2, 3, 6))


def test_causal_attention() -> None:
    class Causal(ft.nn.Module):
        def __init__(self) -> None:
            self.attention = ft.nn.Attention(8, 4)

        def forward(self, x: ft.Value) -> ft.Value:
            return self.attention(x, is_causal=True)

    def theirs(x: Sequence[torch.Tensor], w: dict[str, torch.Tensor]) -> torch.Tensor:
        return attention(4, causal=True)(x, {n.removeprefix("attention."): v for n, v in w.items()})

    check_against_torch(Causal(), theirs, normal(2, 5, 8))


def test_sinusoid_is_cosines_then_sines_over_ten_thousand() -> None:
    t = np.array([0.0, 1.0, 250.0, 999.0])
    frequencies = np.exp(-math.log(1e4) * np.arange(4) / 4)
    expected = np.concatenate([np.cos(t[:, None] * frequencies), np.sin(t[:, None] * frequencies)], 1)
    value = ft.input((4,), "float64")
    np.testing.assert_allclose(ft.evaluate(ft.nn.sinusoid(value, 8), {value: t}), expected, rtol=0, atol=1e-4)


def test_timestep_embedding() -> None:
    layer = ft.nn.TimestepEmbedding(6, 8)
    t = ft.input((3,), "float32")
    features = ft.evaluate(ft.nn.sinusoid(t, 8), {t: np.array([1.0, 7.0, 500.0])})

    class AfterFeatures(ft.nn.Module):
        def __init__(self) -> None:
            self.linear_1, self.linear_2 = layer.linear_1, layer.linear_2

        def forward(self, x: ft.Value) -> ft.Value:
            return self.linear_2(ft.silu(self.linear_1(x)))

    def theirs(x: Sequence[torch.Tensor], w: dict[str, torch.Tensor]) -> torch.Tensor:
        h = F.silu(F.linear(x[0], w["linear_1.weight"], w["linear_1.bias"]))
        return F.linear(h, w["linear_2.weight"], w["linear_2.bias"])

    check_against_torch(AfterFeatures(), theirs, features)
    weights = {p: np.random.default_rng(2).standard_normal(p.shape) for p in layer.parameters()}
    x, t_feed = ft.input(features.shape, "float64"), {t: np.array([1.0, 7.0, 500.0])}
    whole, parts = ft.evaluate([layer(t), AfterFeatures()(x)], {**weights, **t_feed, x: features})
    np.testing.assert_allclose(whole, parts, rtol=1e-12)


def test_modulate() -> None:
    x, shift, scale = (ft.input(s, "float64") for s in ((2, 3, 4), (2, 4), (2, 4)))
    a, b, c = normal(2, 3, 4), normal(2, 4), normal(2, 4) + 2
    found = ft.evaluate(ft.nn.modulate(x, shift, scale), {x: a, shift: b, scale: c})
    np.testing.assert_allclose(found, a * (1 + c[:, None]) + b[:, None])


def test_low_precision_input_means_low_precision_compute_with_float32_weights() -> None:
    layer = ft.nn.Attention(8, 2, qk_norm=True)
    y = layer(ft.input((1, 3, 8), "bfloat16"))
    assert y.dtype is ft.bfloat16
    assert {p.dtype for p in layer.parameters()} == {ft.float32}
    gradients = ft.grad(ft.sum(y), layer.parameters())
    assert {g.dtype for g in gradients} == {ft.float32}


def test_parameters_take_the_dtype_they_are_given() -> None:
    modules = [
        ft.nn.Linear(4, 4, dtype="bfloat16"),
        ft.nn.LayerNorm(4, dtype="bfloat16"),
        ft.nn.RMSNorm(4, dtype="bfloat16"),
        ft.nn.Embedding(3, 4, dtype="bfloat16"),
        ft.nn.MLP(4, 8, dtype="bfloat16"),
        ft.nn.Attention(4, 2, qk_norm=True, dtype="bfloat16"),
        ft.nn.TimestepEmbedding(4, 8, dtype="bfloat16"),
    ]
    assert all(p.dtype is ft.bfloat16 for m in modules for p in m.parameters())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"Linear: expects \[\.\.\., 5\], got \(2, 4\)"):
        ft.nn.Linear(5, 3)(ft.input((2, 4)))
    with pytest.raises(ArgumentError, match="width 10 is not a multiple of heads 3"):
        ft.nn.Attention(10, 3)
    with pytest.raises(ArgumentError, match="context goes with cross-attention"):
        ft.nn.Attention(8, 2)(ft.input((1, 2, 8)), ft.input((1, 2, 8)))
    with pytest.raises(ArgumentError, match="size must be even"):
        ft.nn.sinusoid(ft.input((2,)), 7)
    with pytest.raises(ShapeError, match="modulate"):
        ft.nn.modulate(ft.input((2, 3, 4)), ft.input((2, 3)), ft.input((2, 3)))


SHAPE = (300, 200)
BOUNDS = {
    "xavier_uniform": (ft.nn.init.xavier_uniform(), math.sqrt(2 / 500)),
    "xavier_normal": (ft.nn.init.xavier_normal(), math.sqrt(2 / 500)),
    "kaiming_uniform": (ft.nn.init.kaiming_uniform(), math.sqrt(1 / 200)),
    "kaiming_normal": (ft.nn.init.kaiming_normal(), math.sqrt(2 / 200)),
    "normal": (ft.nn.init.normal(0.3), 0.3),
    "uniform": (ft.nn.init.uniform(-1, 1), math.sqrt(1 / 3)),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_initialisers_have_their_spread(name: str, rng: np.random.Generator) -> None:
    draw, std = BOUNDS[name]
    array = draw(SHAPE, rng)
    assert array.shape == SHAPE and array.dtype == np.float32
    assert abs(array.std() / std - 1) < 0.02 and abs(array.mean()) < 0.02 * std


def test_constant_initialisers(rng: np.random.Generator) -> None:
    init = ft.nn.init
    assert (init.zeros((2, 3), rng) == 0).all() and (init.ones((2,), rng) == 1).all()
    assert (init.constant(0.5)((4,), rng) == 0.5).all()
    convolution = init.kaiming_uniform()((8, 4, 3, 3), rng)  # fan_in = 4 * 9
    assert abs(convolution).max() <= math.sqrt(3 / 36) + 1e-6
