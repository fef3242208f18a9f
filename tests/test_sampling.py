"""Draws of further distributions: moments, ranges, determinism, agreement of executors; dropout's relatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from kernel_launch import array

import flame_triton as ft
from flame_triton import config
from flame_triton.testing import assert_close

DEVICE = "interpreter" if config.interpreted() else "cuda"
N = 40000


def drawn(function, seed: int = 7) -> np.ndarray:
    return ft.evaluate(function(ft.rng_seed(seed)), dtype=None)


@pytest.mark.parametrize(
    ("draw", "median", "quartile"),
    [
        (lambda s: ft.exponential((N,), s, 2.0), math.log(2) / 2, math.log(4 / 3) / 2),
        (lambda s: ft.log_normal((N,), s, 1.0, 0.5), math.e, math.exp(1 - 0.5 * 0.6744897501960817)),
        (lambda s: ft.cauchy((N,), s, 1.0, 2.0), 1.0, -1.0),
        (lambda s: ft.laplace((N,), s, 1.0, 2.0), 1.0, 1 - 2 * math.log(2)),
        (lambda s: ft.gumbel((N,), s, 1.0, 2.0), 1 - 2 * math.log(math.log(2)), 1 - 2 * math.log(math.log(4))),
        (lambda s: ft.uniform_like(ft.ones((N,)), s, -1.0, 3.0), 1.0, 0.0),
        (lambda s: ft.normal_like(ft.ones((N,)), s, 2.0, 3.0), 2.0, 2 - 3 * 0.6744897501960817),
    ],
)
def test_quantiles(draw, median: float, quartile: float) -> None:
    """The median and the first quartile, whose standard errors are below 0.01 times the spread here."""
    x = drawn(draw)
    assert x.dtype == np.float32 and np.isfinite(x).all()
    spread = abs(median - quartile)
    assert abs(np.median(x) - median) < 0.04 * spread
    assert abs(np.quantile(x, 0.25) - quartile) < 0.04 * spread


def test_ends_of_the_unit_interval_stay_finite() -> None:
    """u = 0 and the largest u there is, put in by hand through the graph's own draws."""
    from flame_triton.ir.op import OPS

    seed = ft.rng_seed(0)
    for u in (0.0, float(np.float32(2147483647) * np.float32(4.6566127342e-10))):
        for draw in (ft.exponential, ft.cauchy, ft.laplace, ft.gumbel):
            value = draw((2,), seed)

            def rule(node, u=u):
                return (ft.full(node.type.shape, u),) if node.op is OPS["random_uniform"] else None

            from flame_triton.ir.graph import Graph

            graph = Graph((seed,), (value,)).rewrite(rule)
            assert np.isfinite(ft.evaluate(graph, {graph.inputs[0]: np.array([0, 0])}, dtype=None)[0]).all()


def test_geometric() -> None:
    x = drawn(lambda s: ft.geometric(0.25, (N,), s))
    assert x.dtype == np.int64 and x.min() == 1
    counts = np.bincount(x)[1:6] / N
    np.testing.assert_allclose(counts, 0.25 * 0.75 ** np.arange(5), atol=0.01)


def test_randperm() -> None:
    for n in (0, 1, 2, 1000):
        p = drawn(lambda s, n=n: ft.randperm(n, s))
        np.testing.assert_array_equal(np.sort(p), np.arange(n))
    assert (drawn(lambda s: ft.randperm(1000, s)) != np.arange(1000)).mean() > 0.9
    assert (drawn(lambda s: ft.randperm(50, s), 1) != drawn(lambda s: ft.randperm(50, s), 2)).any()


def test_multinomial() -> None:
    p = np.array([0.1, 0.0, 0.6, 0.3, 0.0])
    x = drawn(lambda s: ft.multinomial(ft.constant(p), N, s, replacement=True))
    np.testing.assert_allclose(np.bincount(x, minlength=5) / N, p, atol=0.01)
    rows = ft.constant(np.broadcast_to(p, (N, 5)).copy())
    x = drawn(lambda s: ft.multinomial(rows, 2, s))
    assert (x[:, 0] != x[:, 1]).all() and not np.isin(x, [1, 4]).any()
    np.testing.assert_allclose(np.bincount(x[:, 0], minlength=5) / N, p, atol=0.01)
    second = [sum(p[j] * p[i] / (1 - p[j]) for j in range(5) if j != i) for i in range(5)]
    np.testing.assert_allclose(np.bincount(x[:, 1], minlength=5) / N, second, atol=0.01)


def test_channels_are_dropped_whole() -> None:
    shapes = {ft.dropout1d: (300, 5, 4), ft.dropout2d: (300, 5, 2, 2), ft.dropout3d: (300, 5, 2, 1, 2)}
    for function, shape in shapes.items():
        y = drawn(lambda s, function=function, shape=shape: function(ft.ones(shape), 0.4, s)).reshape(300, 5, 4)
        assert (y == y[:, :, :1]).all() and set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.6)}
        assert abs((y == 0).mean() - 0.4) < 0.06


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    x = np.random.default_rng(0).standard_normal((200, 300))
    v = ft.input(x.shape, "float64")
    for function in (ft.alpha_dropout, ft.feature_alpha_dropout):
        y = ft.evaluate(function(v, 0.3, ft.rng_seed(1)), {v: x})
        assert abs(y.mean()) < 0.02 and abs(y.std() - 1) < 0.02


def test_gumbel_softmax_draws_from_the_softmax() -> None:
    logits = np.log(np.array([0.1, 0.6, 0.3]))
    x = ft.input((N, 3), "float32")
    hard = ft.gumbel_softmax(x, ft.rng_seed(3), tau=0.7, hard=True)
    got = ft.evaluate(hard, {x: np.broadcast_to(logits, (N, 3))}, dtype=None)
    np.testing.assert_allclose(got.mean(0), [0.1, 0.6, 0.3], atol=0.01)
    assert ((np.abs(got) < 1e-6) | (np.abs(got - 1) < 1e-6)).all()
    soft = ft.gumbel_softmax(x, ft.rng_seed(3), tau=0.7)
    gradients = [ft.grad(ft.sum(ft.square(y - 0.3)), [x])[0] for y in (hard, soft)]
    assert all(np.abs(ft.evaluate(g, {x: np.broadcast_to(logits, (N, 3))})).max() > 0.01 for g in gradients)


def test_rrelu() -> None:
    y = drawn(lambda s: ft.rrelu(ft.full((N,), -1.0), 0.1, 0.3, True, s))
    assert -0.3 <= y.min() and y.max() <= -0.1 and abs(y.mean() + 0.2) < 0.003


def test_outside_training_nothing_is_drawn() -> None:
    x = ft.input((2, 3, 4), "float32")
    assert ft.dropout1d(x, training=False) is x and ft.alpha_dropout(x, 0.0) is x


def test_executors_agree_and_backward_draws_again() -> None:
    x, seed = ft.input((6, 5, 4), "float32"), ft.input((2,), "int64")
    masks = [ft.dropout1d(x, 0.4, seed), ft.alpha_dropout(x, 0.3, seed), ft.feature_alpha_dropout(x, 0.3, seed)]
    outputs = [*masks, *(ft.grad(ft.sum(y), [x])[0] for y in masks)]
    integers = [ft.randperm(40, seed), ft.multinomial(ft.abs(x) + 0.1, 3, seed), ft.geometric(0.3, (50,), seed)]
    data = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32), np.array([5, 2])
    want = ft.evaluate([*outputs, *integers], dict(zip([x, seed], data, strict=True)), dtype=None)
    got = [array(t) for t in ft.compile([*outputs, *integers], [x, seed], device=DEVICE)(*data)]
    for a, r in zip(got[:6], want[:6], strict=True):
        np.testing.assert_array_equal(a == 0, r == 0)
        assert_close(a, r, "float32")
    for a, r in zip(got[6:], want[6:], strict=True):
        np.testing.assert_array_equal(a, r)
    np.testing.assert_array_equal(got[0] == 0, got[3] == 0)
