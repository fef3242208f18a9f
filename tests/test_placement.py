"""Transposes around kernels that choose the order of their result's axes move out of the way."""

from __future__ import annotations

import numpy as np
import pytest

from flame_triton.graph.access import views_below
from flame_triton.graph.autodiff import grad
from flame_triton.graph.decompose import decompose
from flame_triton.graph.evaluate import evaluate
from flame_triton.graph.placement import inverse, place, regrouped
from flame_triton.graph.simplify import simplify
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import Value, make
from flame_triton.ir.op import OPS, Kernel, Op, call, register
from flame_triton.ir.verify import verify

FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)


@pytest.fixture(autouse=True)
def chooser():
    """An op that stands for a convolution: it computes channels-last, and its gradient is one like it."""
    op = Op(
        "test_chooser",
        lambda x: x,
        Kernel("none", takes=("strided",), orders=True),
        lambda x: 2 * x,
        vjp=lambda node, g: [make("test_chooser", [g]).out],
    )
    register(op)
    yield
    del OPS["test_chooser"]


def body(x: Value) -> Value:
    """Channels-first in, channels-first out."""
    return call("transpose", make("test_chooser", [call("transpose", x, LAST)]).out, FIRST)


def placed(outputs: list[Value], inputs: list[Value]) -> Graph:
    before = Graph(tuple(inputs), tuple(outputs))
    after = simplify(place(simplify(decompose(before))))
    verify(after, "decompose")
    rng = np.random.default_rng(0)
    feeds = {v: rng.standard_normal(v.shape) for v in inputs}
    for a, b in zip(evaluate(after, feeds), evaluate(before, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    return after


def transposes(graph: Graph) -> int:
    """Of what is as large as an image; those of a broadcast vector, or of a comparison of indices, cost nothing."""
    found = [n for n in graph.nodes if n.op.name == "transpose" and n.type.dtype.is_float]
    return sum(views_below(n.out)[-1].size > 16 for n in found)


def residual_block(x: Value, scale: Value, shift: Value) -> Value:
    """GroupNorm, SiLU, convolution, a broadcast add, and the residual."""
    n, c, h, w = x.shape
    groups = call("reshape", x, (n, 2, c // 2, h, w))
    centred = groups - call("mean", groups, axis=(2, 3, 4), keepdims=True)
    normal = centred * call("rsqrt", call("mean", call("square", centred), axis=(2, 3, 4), keepdims=True) + 1e-5)
    y = call("silu", call("reshape", normal, x.shape) * call("reshape", scale, (c, 1, 1)))
    return x + body(y) + call("reshape", shift, (1, c, 1, 1))


def test_a_body_of_blocks_has_transposes_at_its_borders_only() -> None:
    x, s, b = call("input", (2, 4, 6, 6), "float64"), call("input", (4,), "float64"), call("input", (4,), "float64")
    y = body(x)
    for _ in range(3):
        y = residual_block(y, s, b)
    assert transposes(placed([y], [x, s, b])) == 2  # one in, one out


def test_its_gradient_too() -> None:
    x, s, b = call("input", (2, 4, 6, 6), "float64"), call("input", (4,), "float64"), call("input", (4,), "float64")
    y = residual_block(residual_block(body(x), s, b), s, b)
    loss = call("sum", call("square", body(y)))
    graph = placed([loss, *grad(loss, [x, s, b])], [x, s, b])
    assert transposes(graph) == 2  # of x, and of its gradient


def test_upsample_pad_slice_and_join_are_passed_through() -> None:
    x = call("input", (2, 4, 4, 4), "float64")
    y = body(x)
    wide = call("broadcast_to", call("reshape", y, (2, 4, 4, 1, 4, 1)), (2, 4, 4, 2, 4, 2))
    y = body(call("reshape", wide, (2, 4, 8, 8)))
    y = call("concat", [y, call("flip", y, 2)], 1)
    y = body(call("pad", y, ((0, 0), (0, 0), (0, 1), (0, 1)))[:, 2:, :, ::2])
    assert transposes(placed([y, *grad(call("sum", y), [x])], [x])) <= 3


def test_tokens_meet_images_without_a_copy() -> None:
    """[N, C, H, W] -> [N, H W, C] and back: in memory the same order."""
    x = call("input", (2, 4, 3, 5), "float64")
    y = body(x)
    tokens = call("reshape", call("transpose", y, LAST), (2, 15, 4))
    image = call("transpose", call("reshape", call("tanh", tokens), (2, 3, 5, 4)), FIRST)
    assert transposes(placed([body(y + image)], [x])) == 2


def test_what_reads_the_logical_order_still_does() -> None:
    x = call("input", (2, 4, 3, 5), "float64")
    y = body(x)
    flat = call("reshape", y, (2, 60))
    where = call("argmax", call("reshape", y, (2, 60)), axis=1)
    placed([flat, where, call("argmax", y, axis=1), call("max", y, axis=(1, 3)), call("reshape", y, (4, 30))], [x])


def test_regrouped() -> None:
    assert regrouped((2, 12, 5), (2, 3, 4, 5)) == [([0], [0]), ([1], [1, 2]), ([2], [3])]
    assert regrouped((2, 3, 4), (6, 4)) == [([0, 1], [0]), ([2], [1])]
    assert regrouped((0, 3), (3, 0)) is None
    assert inverse((2, 0, 1)) == (1, 2, 0)
