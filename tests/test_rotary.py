"""Rotary embeddings and time steps: both pairings, tables of several axes, gradients, fusion with QK-norm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from regression import DEVICES, numpy

import flame_triton as ft
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.lower import lower
from flame_triton.testing import assert_close, check_grads


def randn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def turned(x: np.ndarray, angles: np.ndarray, interleaved: bool) -> np.ndarray:
    """Channel by channel."""
    y = np.empty_like(x)
    half = x.shape[-1] // 2
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        c, s = np.cos(angles[:, i]), np.sin(angles[:, i])
        y[..., a] = x[..., a] * c - x[..., b] * s
        y[..., b] = x[..., b] * c + x[..., a] * s
    return y


@pytest.mark.parametrize("interleaved", [True, False])
def test_pairs_are_turned(interleaved: bool) -> None:
    x, angles = randn(2, 3, 5, 8), randn(5, 4, seed=1)
    v, c, s = (ft.input(a, "float64") for a in ((2, 3, 5, 8), (5, 4), (5, 4)))
    y = ft.apply_rotary_emb(v, c, s, interleaved)
    found = ft.evaluate(y, {v: x, c: np.cos(angles), s: np.sin(angles)})
    np.testing.assert_allclose(found, turned(x, angles, interleaved), rtol=0, atol=1e-14)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("device", DEVICES)
def test_rotary_embedding_keeps_its_gradient(interleaved: bool, device: str) -> None:
    """A named regression: RoPE lost its gradient. It is the turn by the opposite angle."""
    angles = randn(5, 4, seed=1).astype(np.float32)
    x, c, s, g = (ft.input(a) for a in ((2, 5, 8), (5, 4), (5, 4), (2, 5, 8)))
    (dx,) = ft.grad(ft.apply_rotary_emb(x, c, s, interleaved), [x], grad_output=g)
    arrays = (
        randn(2, 5, 8).astype(np.float32),
        np.cos(angles),
        np.sin(angles),
        randn(2, 5, 8, seed=2).astype(np.float32),
    )
    found = numpy(ft.compile(dx, [x, c, s, g], device=device)(*arrays))
    expected = turned(arrays[3].astype(np.float64), -angles.astype(np.float64), interleaved)
    assert_close(found, expected, "float32")
    check_grads(lambda x, c, s: ft.apply_rotary_emb(x, c, s, interleaved), (2, 3, 4), (3, 2), (3, 2), order=2)


def test_scores_depend_on_distances_alone() -> None:
    q, k = randn(1, 16), randn(1, 16, seed=1)

    def score(i: int, j: int) -> float:
        values = []
        for vector, position in ((q, i), (k, j)):
            x = ft.input((1, 16), "float64")
            c, s = ft.rope_tables(ft.constant(np.array([position])), 16)
            y = ft.apply_rotary_emb(x, ft.cast(c, "float64"), ft.cast(s, "float64"))
            values.append(ft.evaluate(y, {x: vector}))
        return float((values[0] * values[1]).sum())

    assert abs(score(3, 10) - score(103, 110)) < 1e-6
    assert abs(score(3, 10) - score(3, 11)) > 1e-3


def test_tables_of_several_axes_follow_one_another() -> None:
    """As Flux has them: ids (0, row, col), axes (16, 56, 56), theta 1e4; frequencies in float64."""
    ids = np.array([[0, r, c] for r in range(3) for c in range(4)])
    angles = np.concatenate(
        [np.outer(ids[:, i], 1e4 ** (-np.arange(0, d, 2) / d)) for i, d in enumerate((16, 56, 56))], 1
    )
    given = ft.input((12, 3), "int64")
    for positions in (ids, given):
        tables = ft.rope_tables(positions, (16, 56, 56))
        assert all(t.shape == (12, 64) and t.dtype is ft.float32 for t in tables)
        program = ft.compile(tables, [given] if positions is given else [])
        found = program(*([ids] if positions is given else []))
        np.testing.assert_allclose(numpy(found[0]), np.cos(angles), rtol=0, atol=6e-8)
        np.testing.assert_allclose(numpy(found[1]), np.sin(angles), rtol=0, atol=6e-8)


def test_far_positions_keep_their_angle() -> None:
    """Position 100003 at frequency 1: in float32 the angle alone would be off by 4e-3."""
    positions = ft.input((1,), "int64")
    c, _ = ft.rope_tables(positions, 2)
    found = numpy(ft.compile(c, [positions])(np.array([100003])))
    np.testing.assert_allclose(found, [[math.cos(100003)]], rtol=0, atol=6e-8)


@pytest.mark.parametrize("interleaved", [True, False])
def test_norm_of_queries_and_rotation_are_one_launch(interleaved: bool) -> None:
    batch, tokens, heads, width = 2, 256, 4, 64
    qkv = ft.input((batch, tokens, 3 * heads * width), "bfloat16")
    w, c, s = ft.input((width,)), ft.input((tokens, width // 2)), ft.input((tokens, width // 2))
    q, k, _ = ft.unbind(ft.transpose(ft.reshape(qkv, (batch, tokens, 3, heads, width)), (2, 0, 3, 1, 4)), 0)
    turned = [ft.apply_rotary_emb(ft.rms_norm(x, width, w, 1e-6), c, s, interleaved) for x in (q, k)]
    schedule = lower(Graph((qkv, w, c, s), tuple(turned)), {}, Target())
    assert len(schedule.launches) == 1  # q and k together, from the projection itself
    alone = ft.apply_rotary_emb(q, c, s, interleaved)
    g = ft.input(alone.shape, "bfloat16")
    backward = Graph((qkv, c, s, g), tuple(ft.grad(alone, [qkv], grad_output=g)))
    assert len(lower(backward, {}, Target()).launches) <= 2


def test_bfloat16_is_rounded_once() -> None:
    x, angles = torch.tensor(randn(1, 7, 8)).bfloat16(), randn(7, 4, seed=1).astype(np.float32)
    v, c, s = ft.input((1, 7, 8), "bfloat16"), ft.input((7, 4)), ft.input((7, 4))
    program = ft.compile(ft.cast(ft.apply_rotary_emb(v, c, s), "float32"), [v, c, s])
    found = numpy(program(x, np.cos(angles), np.sin(angles)))
    exact = torch.tensor(turned(x.double().numpy(), angles.astype(np.float64), True))
    np.testing.assert_allclose(found, exact.bfloat16().float().numpy(), rtol=2**-8)
    assert (found == exact.bfloat16().float().numpy()).mean() > 0.95


# ---- time steps ------------------------------------------------------------------------------------------------


def test_timestep_embedding_has_ln_ten_thousand() -> None:
    """A named regression: ln 2 stood in place of ln 10000. The last frequency is just above 1 / 10000."""
    t = ft.input((1,))
    found = ft.evaluate(ft.timestep_embedding(t, 256, True, 0.0), {t: np.array([1000.0])})[0]
    i = np.arange(128)
    angles = 1000 * 10000.0 ** (-i / 128)
    np.testing.assert_allclose(found, np.concatenate([np.cos(angles), np.sin(angles)]), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found[-1], math.sin(0.1 * 10000 ** (1 / 128)), rtol=1e-9)


def test_timestep_embedding_orders_and_shifts() -> None:
    t = ft.input((3,))
    times = {t: np.array([0.0, 1.0, 17.0])}
    first = ft.evaluate(ft.timestep_embedding(t, 8), times)
    assert np.array_equal(first[0], [0, 0, 0, 0, 1, 1, 1, 1])  # sin before cos
    np.testing.assert_allclose(first[:, 3], np.sin(times[t] / 1e4), rtol=1e-12)  # with a shift of 1, f ends at 1e-4
    swapped = ft.evaluate(ft.timestep_embedding(t, 8, flip_sin_to_cos=True), times)
    np.testing.assert_array_equal(swapped, np.concatenate([first[:, 4:], first[:, :4]], 1))
    odd = ft.evaluate(ft.timestep_embedding(t, 9), times)
    np.testing.assert_array_equal(odd, np.pad(first, ((0, 0), (0, 1))))
    scaled = ft.evaluate(ft.timestep_embedding(t, 8, scale=1000.0), {t: times[t] / 1000})
    np.testing.assert_allclose(scaled, first, rtol=1e-12, atol=1e-12)
