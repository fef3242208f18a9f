"""Multi-tensor maps: the same as the ops they stand for, in value, dtype and gradient."""

from __future__ import annotations

import numpy as np
import pytest

import flame_triton as ft
from flame_triton import config
from flame_triton.errors import GradientError
from flame_triton.ir.graph import Graph
from flame_triton.ir.verify import verify
from flame_triton.testing import assert_close, check_grads

DEVICE = "interpreter" if config.interpreted() else "cuda"
SHAPES = [(3, 5), (17,), (), (2, 1, 9)]


def adam(p, g, m, v, rate):
    """One step in float32 on a parameter of any dtype; rate: 0-d."""
    wide = ft.cast(g, "float32")
    m = m * 0.9 + wide * 0.1
    v = v * 0.99 + wide * wide * 0.01
    return ft.cast(ft.cast(p, "float32") - rate * m / (ft.sqrt(v) + 1e-8), p.dtype), m, v


def group(dtype: str) -> tuple[list[list[ft.Value]], ft.Value, dict[ft.Value, np.ndarray]]:
    rows = [[ft.input(s, dtype), ft.input(s, dtype), ft.input(s), ft.input(s)] for s in SHAPES]
    rate = ft.input(())
    rng = np.random.default_rng(0)
    feeds = {v: np.abs(rng.standard_normal(v.shape)).astype(v.dtype.numpy) for row in rows for v in row}
    return rows, rate, {**feeds, rate: np.array(0.01, np.float32)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_foreach_is_the_body_on_each_row(dtype: str) -> None:
    rows, rate, feeds = group(dtype)
    together = ft.foreach(adam, rows, [rate])
    apart = [adam(*[*row, rate]) for row in rows]
    assert [len(r) for r in together] == [3] * len(rows)
    flat = [v for r in together for v in r], [v for r in apart for v in r]
    assert [v.type for v in flat[0]] == [v.type for v in flat[1]]
    assert len({v.node for v in flat[0]}) == 1
    verify(Graph(tuple(feeds), tuple(flat[0])))
    for wide in (None, "float64"):
        for a, r in zip(*(ft.evaluate(list(f), feeds, dtype=wide) for f in flat), strict=True):
            np.testing.assert_array_equal(a, r)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_foreach_through_the_kernel(dtype: str) -> None:
    rows, rate, feeds = group(dtype)
    outputs = [v for r in ft.foreach(adam, rows, [rate]) for v in r]
    outputs.append(ft.foreach_sum(lambda p, g, m, v: ft.cast(g, "float32") * m, rows))
    want = ft.evaluate(outputs, feeds)
    program = ft.compile(outputs, list(feeds), device=DEVICE)
    for v, a, r in zip(outputs, program(*feeds.values()), want, strict=True):
        assert_close(a.cpu().double().numpy(), r, v.dtype)


@pytest.mark.parametrize(("dtype", "result"), [("float32", "float32"), ("bfloat16", "float32"), ("float64", "float64")])
def test_foreach_sum(dtype: str, result: str) -> None:
    rows = [[ft.input(s, dtype)] for s in SHAPES]
    rng = np.random.default_rng(0)
    feeds = {row[0]: rng.standard_normal(row[0].shape).astype(row[0].dtype.numpy) for row in rows}
    total = ft.foreach_sum(lambda x: ft.square(x), rows)
    assert total.type == ft.input((), result).type
    want = sum(np.sum(np.square(a.astype(np.float64))) for a in feeds.values())
    assert_close(ft.evaluate(total, feeds), want, "float64")
    assert_close(ft.evaluate(total, feeds, dtype=None), want, dtype)


def test_gradients_of_mixed_rows() -> None:
    """Fan-out in the body, an argument it does not use, a constant, a shared scalar."""

    def body(a, b, c, s):
        return a * ft.exp(a) * s + 2.0, ft.tanh(b) * a

    check_grads(
        lambda a, b, d, e, s: ft.foreach(body, [[a, b, b], [d, e, d]], [s]), (2, 3), (2, 3), (5,), (5,), (), order=2
    )
    check_grads(lambda a, b, s: ft.foreach_sum(lambda x, r: x * x * r, [[a], [b]], [s * s]), (2, 3), (4,), (), order=2)


def test_gradient_of_one_output_alone() -> None:
    x, y = ft.input((3,), "float64"), ft.input((3,), "float64")
    ((a, b),) = ft.foreach(lambda p, q: (p * p, q * q), [[x, y]])
    (dx,) = ft.grad(ft.sum(a), [x])
    np.testing.assert_array_equal(ft.evaluate(dx, {x: np.arange(3.0)}), 2 * np.arange(3.0))
    with pytest.raises(GradientError, match="no gradient reaches"):
        ft.grad(ft.sum(b), [x])


def test_the_body_is_traced_once() -> None:
    calls = []

    def body(p):
        calls.append(p)
        return p * 2.0

    ft.foreach(body, [[ft.input(s)] for s in SHAPES])
    assert len(calls) == 1 and calls[0].shape == ()


def test_a_body_may_return_an_argument_or_a_constant() -> None:
    x = ft.input((3,), "float64")
    ((same, one),) = ft.foreach(lambda p: (p, 1.0), [[x]])
    assert same.shape == one.shape == (3,)
    a, b = ft.evaluate([same, one], {x: np.arange(3.0)})
    np.testing.assert_array_equal(a, np.arange(3.0))
    np.testing.assert_array_equal(b, np.ones(3))
