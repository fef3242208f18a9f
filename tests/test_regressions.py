"""Bugs that others have had, each by name: of the framework that this project re-imagines, and of its neighbours.

Every test runs the case that went wrong through the kernels and through float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import flame_triton as ft
from flame_triton import config, nn, optim
from flame_triton.graph.pipeline import optimise
from flame_triton.ir.graph import Graph
from flame_triton.testing import assert_close, check_grads

DEVICE = "interpreter" if config.interpreted() else "cuda"


def both_ways(outputs: list[ft.Value], feeds: dict[ft.Value, np.ndarray], tolerance: float = 1e-9) -> list[np.ndarray]:
    """The outputs through the kernels, found equal to float64's."""
    arrays = [a.astype(v.dtype.numpy) for v, a in feeds.items()]
    found = [t.double().cpu().numpy() for t in ft.compile(outputs, list(feeds), device=DEVICE)(*arrays)]
    for a, want in zip(found, ft.evaluate(outputs, feeds), strict=True):
        assert_close(a, want, "float64", tolerance=tolerance, floor=1e-3)
    return found


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def gradients_are_alive(fn: Callable[..., ft.Value], *shapes: tuple[int, ...]) -> None:
    """Every operand has a gradient that is right, to second order, and nowhere zero throughout."""
    check_grads(fn, *shapes, order=2)
    inputs = [ft.input(s, "float64") for s in shapes]
    gradients = ft.grad(ft.sum(ft.square(fn(*inputs))), inputs)
    feeds = {v: normal(*v.shape, seed=i) for i, v in enumerate(inputs)}
    assert all(np.abs(g).max() > 1e-3 for g in both_ways(gradients, feeds))


# ---- FLAME -----------------------------------------------------------------------------------------------------


def test_narrow_keeps_its_gradient() -> None:
    gradients_are_alive(lambda x: ft.narrow(x, 1, 2, 3), (4, 7))


def test_conv2d_keeps_its_gradient() -> None:
    gradients_are_alive(lambda x, w, b: ft.conv2d(x, w, b, stride=2, padding=1), (1, 2, 5, 4), (3, 2, 3, 3), (3,))


def test_contiguous_keeps_its_gradient() -> None:
    gradients_are_alive(lambda x: ft.contiguous(ft.transpose(x)), (3, 5))


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotary_embedding_keeps_its_gradient(interleaved: bool) -> None:
    cos, sin = np.cos(normal(5, 3)), np.sin(normal(5, 3))
    gradients_are_alive(lambda x: ft.apply_rotary_emb(x, cos, sin, interleaved=interleaved), (2, 5, 6))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_affine_layer_norm_has_gradients_of_gamma_and_beta(dtype: str) -> None:
    x, w, b = ft.input((4, 7), dtype), ft.input((7,), dtype), ft.input((7,), dtype)
    gradients = ft.grad(ft.sum(ft.square(ft.layer_norm(x, 7, w, b))), [w, b])
    held = ft.dtype(dtype).numpy
    feeds = {x: normal(4, 7), w: np.ones(7), b: np.full(7, 0.3)}
    feeds = {v: a.astype(held).astype(np.float64) for v, a in feeds.items()}
    dw, db = both_ways(gradients, feeds, tolerance=1e-9 if dtype == "float64" else 1e-2)
    assert (np.abs(dw) > 0.1).all() and (np.abs(db) > 0.1).all()


STRIDED: dict[str, Callable[[ft.Value], ft.Value]] = {
    "transposed": ft.transpose,
    "every second, backwards": lambda x: x[::-2, 1::2],
    "a row repeated": lambda x: ft.broadcast_to(x[2:3], (4, x.shape[1])),
    "moved axes": lambda x: ft.reshape(ft.transpose(ft.reshape(x, (2, 3, 2, 4)), (2, 0, 3, 1)), (4, 12)),
}


@pytest.mark.parametrize("view", STRIDED.values(), ids=STRIDED.keys())
def test_strided_views_are_read_where_they_are(view: Callable[[ft.Value], ft.Value]) -> None:
    """By elementwise work, by norms, by products, and as values saved for backward."""
    x = ft.input((6, 8), "float64")
    v = view(x)
    w = ft.constant(normal(v.shape[1], v.shape[1], seed=1))
    for y in (ft.exp(v) * v, ft.layer_norm(v, v.shape[1]), ft.tanh(v @ w), ft.softmax(v, axis=0)):
        both_ways([y, *ft.grad(ft.sum(y * y), [x])], {x: normal(6, 8)})


@pytest.mark.parametrize("keys", [1, 15, 16, 17, 33, 65, 129])
def test_attention_masks_the_tail_of_its_keys(keys: int) -> None:
    """Keys beyond the last whole block weigh nothing, rather than e^0: beside scores far below 0 that is everything."""
    q, k, v = (ft.input((1, 1, n, 8), "float64") for n in (3, keys, keys))
    y = ft.scaled_dot_product_attention(q, k, v)
    feeds = {q: np.full(q.shape, 4.0) + normal(*q.shape) * 0.1, k: np.full(k.shape, -4.0), v: normal(*v.shape) + 3.0}
    out, *_ = both_ways([y, *ft.grad(ft.sum(y * y), [q, k, v])], feeds)
    np.testing.assert_allclose(out[0, 0], np.broadcast_to(feeds[v][0, 0].mean(0), (3, 8)), rtol=1e-9)


def test_conv1d_uses_its_dilation() -> None:
    x, w = ft.input((1, 1, 9), "float64"), ft.input((1, 1, 3), "float64")
    y = ft.conv1d(x, w, dilation=3)
    feeds = {x: normal(1, 1, 9), w: normal(1, 1, 3, seed=1)}
    out, *_ = both_ways([y, *ft.grad(ft.sum(y * y), [x, w])], feeds)
    want = [sum(feeds[x][0, 0, i + 3 * j] * feeds[w][0, 0, j] for j in range(3)) for i in range(3)]
    np.testing.assert_allclose(out[0, 0], want, rtol=1e-12)


def test_timestep_features_have_the_period_of_ten_thousand() -> None:
    """The lowest frequency is 10000^(-(h - 1) / h), not 2^(-(h - 1) / h)."""
    t = ft.input((2,), "float32")
    (out,) = both_ways([nn.sinusoid(t, 8)], {t: np.array([1.0, 700.0])}, tolerance=1e-5)
    angles = np.array([1.0, 700.0])[:, None] * 10000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(out, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-4)


def test_recomputed_casts_keep_their_gradient() -> None:
    """A float32 weight used twice through one bfloat16 cast; what fusion recomputes has the same gradient."""
    x, w = ft.input((64, 48), "bfloat16"), ft.input((48,), "float32")
    low = ft.cast(w, "bfloat16")
    y = ft.cast(ft.exp(x * low * 0.1) + ft.tanh(x + low), "float32")
    feeds = {x: normal(64, 48).astype(x.dtype.numpy).astype(np.float64), w: normal(48, seed=1)}
    (dw,) = both_ways(ft.grad(ft.sum(y), [w]), feeds, tolerance=1e-2)
    assert (np.abs(dw) > 0.1).all()


def test_timestep_embedding_has_the_period_of_ten_thousand() -> None:
    """The function of the same features: its last frequency is 1 / 10000."""
    t = ft.input((2,), "float32")
    out = ft.evaluate(ft.timestep_embedding(t, 8), {t: np.array([1.0, 700.0])})
    np.testing.assert_allclose(out[1, [3, 7]], [np.sin(0.07), np.cos(0.07)], atol=1e-6)


def test_scale_and_shift_are_not_swapped() -> None:
    """modulate(x, shift, scale) = x (1 + scale) + shift: at x = 0 the shift alone is left."""
    x, shift, scale = ft.input((2, 3, 4), "float64"), ft.input((2, 4), "float64"), ft.input((2, 4), "float64")
    feeds = {x: np.zeros((2, 3, 4)), shift: normal(2, 4), scale: normal(2, 4, seed=1)}
    (out,) = both_ways([nn.modulate(x, shift, scale)], feeds)
    np.testing.assert_array_equal(out, np.broadcast_to(feeds[shift][:, None], (2, 3, 4)))
    (out,) = both_ways([nn.modulate(x, shift, scale)], {**feeds, x: np.ones((2, 3, 4)), shift: np.zeros((2, 4))})
    np.testing.assert_allclose(out, np.broadcast_to(1 + feeds[scale][:, None], (2, 3, 4)), rtol=1e-15)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_clipping_with_a_norm_that_is_not_finite_leaves_the_weights(bad: float) -> None:
    w, g = ft.parameter((3,), "float32", name="w", init=np.array([1.0, 2.0, 3.0], np.float32)), ft.input((3,))
    rule = optim.AdamW([w], lr=0.1, clip_norm=1.0)
    updates = rule.updates([g])
    state = ft.State([w, *rule.state_values], device=DEVICE)
    step = ft.compile([rule.skipped, rule.grad_norm], [g], state=state, updates=updates)
    before = {v: np.asarray(state[v]).copy() for v in state.values}
    skipped, norm = step(np.array([1.0, bad, 1.0]).astype(np.float32))
    assert float(skipped) == 1 and not np.isfinite(float(norm))
    for v, array in before.items():
        np.testing.assert_array_equal(np.asarray(state[v]), array)


# ---- others ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 5, 16), (1, 33, 48), (3, 4, 8)])
def test_chained_modulated_layer_norms(shape: tuple[int, ...]) -> None:
    """pytorch #193061: a compiled chain of modulated norms had wrong gradients."""
    batch, _, width = shape
    x = ft.input(shape, "float64")
    factors = [ft.input((batch, width), "float64") for _ in range(4)]
    w = ft.input((width, width), "float64")
    h = nn.modulate(ft.layer_norm(x, width, eps=1e-6), factors[0], factors[1])
    y = nn.modulate(ft.layer_norm(x + h @ w, width, eps=1e-6), factors[2], factors[3])
    feeds = {v: normal(*v.shape, seed=i) * 0.5 for i, v in enumerate((x, *factors, w))}
    both_ways([y, *ft.grad(ft.sum(ft.tanh(y)), list(feeds))], feeds)


def test_interpolation_convolution_and_pooling() -> None:
    """pytorch #185509: compiled together, their gradients were wrong."""

    def model(x: ft.Value, w: ft.Value) -> ft.Value:
        larger = ft.interpolate(x, scale_factor=2, mode="bilinear")
        return ft.avg_pool2d(ft.tanh(ft.conv2d(larger, w, padding=1)), 2)

    check_grads(model, (1, 2, 3, 4), (2, 2, 3, 3), order=1)
    x, w = ft.input((1, 2, 3, 4), "float64"), ft.input((2, 2, 3, 3), "float64")
    y = model(x, w)
    both_ways([y, *ft.grad(ft.sum(y * y), [x, w])], {x: normal(1, 2, 3, 4), w: normal(2, 2, 3, 3, seed=1)})


def test_equal_parameters_are_not_merged() -> None:
    """tinygrad #9597: parameters that begin equal are different all the same."""
    a, b = (ft.parameter((3,), "float32", name=n, init=1.0) for n in "ab")
    x = ft.input((3,))
    y = a * x + ft.square(b) * x
    staged = optimise(Graph((x,), (y,)), stage="simplify")
    assert sum(n.op.name == "parameter" for n in staged.nodes) == 2
    da, db = ft.grad(ft.sum(y), [a, b])
    state = ft.State([a, b], device=DEVICE)
    step = ft.compile([y], [x], state=state, updates={a: a - da, b: b - db})
    step(np.ones(3, np.float32))
    np.testing.assert_array_equal(np.asarray(state[a]), np.zeros(3))
    np.testing.assert_array_equal(np.asarray(state[b]), -np.ones(3))


def test_equal_constants_keep_their_bits() -> None:
    """tinygrad #9597: 0.0 and -0.0, 1 and True are equal to Python and not to a kernel."""
    x = ft.input((3,), "float64")
    outputs = [x * ft.full((3,), 0.0, "float64"), x * ft.full((3,), -0.0, "float64")]
    found = both_ways(outputs, {x: np.ones(3)})
    assert not np.signbit(found[0]).any() and np.signbit(found[1]).all()


def test_fp16_max_backward_does_not_underflow() -> None:
    """tinygrad #12296: many ties in float16, whose shares are counted in float32."""
    x = ft.input((1, 4096), "float16")
    (dx,) = both_ways(ft.grad(ft.max(x), [x]), {x: np.zeros((1, 4096))}, tolerance=1e-3)
    np.testing.assert_array_equal(dx, np.float16(1 / 4096))


NORMS: dict[str, Callable[..., ft.Value]] = {
    "group_norm": lambda x, w, b: ft.group_norm(x, 2, w, b),
    "layer_norm": lambda x, w, b: ft.layer_norm(x, 6, w, b),
    "rms_norm": lambda x, w, b: ft.rms_norm(x, 6, w) + b,
    "softmax": lambda x, w, b: ft.softmax(x, axis=-1) * w + b,
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_every_fused_norm_has_a_backward(norm: Callable[..., ft.Value]) -> None:
    """candle #2168: the fast path of a norm had none, and training went on without it."""
    gradients_are_alive(norm, (4, 6), (6,), (6,))
