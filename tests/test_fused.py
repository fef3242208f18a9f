"""`ft.fused`: a user's expression as one node, its gradients, and what `explain` says about its kernels."""

from __future__ import annotations

import numpy as np
import pytest

import flame_triton as ft
from flame_triton import config
from flame_triton.errors import CompileError, GraphError, ShapeError
from flame_triton.graph import show
from flame_triton.graph.decompose import decompose
from flame_triton.graph.pipeline import optimise
from flame_triton.ir.graph import Graph
from flame_triton.ir.op import Leaf
from flame_triton.ir.verify import verify
from flame_triton.testing import assert_close, check_grads
from flame_triton.types import TensorType

DEVICE = "interpreter" if config.interpreted() else "cuda"


@ft.fused
def gated(x, g, scale=1.0):
    """x * sigmoid(g) * scale."""
    return x * ft.sigmoid(g) * scale


@ft.fused
def moments(x):
    mean = ft.mean(x, -1, keepdims=True)
    return mean, gated(x - mean, x)


def through_kernels(outputs, feeds: dict) -> list[np.ndarray]:
    arrays = [a.astype(v.dtype.numpy) for v, a in feeds.items()]
    return [np.asarray(t.double().cpu()) for t in ft.compile(list(outputs), list(feeds), device=DEVICE)(*arrays)]


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_one_node_one_kernel_and_its_name() -> None:
    x, g = ft.input((6, 5), name="x"), ft.input((6, 5), name="g")
    y = gated(x, g, scale=2.0)
    assert y.node.op.name == "gated" and y.node.inputs == (x, g)
    assert y.node.loc.function == "test_one_node_one_kernel_and_its_name"
    assert "gated(x, g, body=<" in show.text(Graph((x, g), (y,))) and "scale=2.0" in show.text(Graph((x, g), (y,)))
    program = ft.compile([y, *ft.grad(ft.sum(y), [x, g])], [x, g], device=DEVICE)
    assert len(program.launches) == 1
    assert "in gated" in program.listing() and "gradient of gated" in program.listing()
    assert gated.__name__ == "gated" and gated.__doc__ == "x * sigmoid(g) * scale."


def test_values_are_those_of_the_body() -> None:
    for dtype in ("float64", "bfloat16"):
        x, g = ft.input((6, 5), dtype), ft.input((5,), dtype)
        ours, plain = gated(x, g), gated.__wrapped__(x, g)
        feeds = {x: floats(6, 5).astype(x.dtype.numpy), g: floats(5).astype(x.dtype.numpy)}
        for how in ("float64", None):
            np.testing.assert_array_equal(ft.evaluate(ours, feeds, dtype=how), ft.evaluate(plain, feeds, dtype=how))
        np.testing.assert_array_equal(through_kernels([ours], feeds), through_kernels([plain], feeds))


def test_gradients_to_second_order() -> None:
    check_grads(gated, (3, 4), (3, 4), order=2)
    check_grads(lambda x: list(moments(x)), (3, 4), order=2)


def test_gradients_through_kernels() -> None:
    x = ft.input((4, 6), "float64")
    mean, y = moments(x)
    gradients = ft.grad(ft.sum(y * y) + ft.sum(mean), [x])
    feeds = {x: floats(4, 6)}
    outputs = [mean, y, *gradients]
    for got, want in zip(through_kernels(outputs, feeds), ft.evaluate(outputs, feeds), strict=True):
        assert_close(got, want, "float64")


def test_nested_functions_are_named_outermost_first() -> None:
    x = ft.input((3, 4))
    _, y = moments(x)
    plain = decompose(Graph((x,), (y,)))
    verify(plain, "decompose")
    within = {n.loc.within for n in plain.nodes}
    assert "moments > gated" in within and "moments" in within


def test_values_from_outside_become_operands() -> None:
    x, w = ft.input((3, 4), "float64"), ft.parameter((4,), "float64", init=np.arange(4.0))
    hidden = ft.exp(w)

    @ft.fused
    def scaled(x):
        return x * hidden + ft.constant(np.ones(4))

    y = scaled(x)
    assert y.node.inputs == (x, hidden)
    (dw,) = ft.grad(ft.sum(y), [w])
    want = floats(3, 4).sum(0) * np.exp(np.arange(4.0))
    np.testing.assert_allclose(ft.evaluate(dw, {x: floats(3, 4)}), want)
    np.testing.assert_allclose(through_kernels([dw], {x: floats(3, 4)})[0], want)


def test_parameters_made_inside_are_operands() -> None:
    @ft.fused
    def layer(x):
        return x * ft.parameter((4,), "float32", name="inner", init=2.0)

    x = ft.input((3, 4))
    y = layer(x)
    assert [v.name for v in y.node.inputs] == [None, "inner"]
    np.testing.assert_array_equal(through_kernels([y], {x: np.ones((3, 4))})[0], np.full((3, 4), 2.0))


def test_an_operand_that_depends_on_another() -> None:
    check_grads(lambda x: gated(x, gated(x, ft.tanh(x))), (3, 4), order=2)
    check_grads(lambda x: gated(x, x), (3, 4), order=2)


def test_a_body_that_returns_its_operand() -> None:
    @ft.fused
    def first(x, y):
        return x, y * 2.0

    check_grads(lambda x, y: list(first(x, y)), (3,), (4,), order=2)


def test_lists_arrays_and_numbers() -> None:
    @ft.fused
    def total(parts, weight, power=2):
        return sum((p**power for p in parts[1:]), parts[0] ** power) * weight

    x, y = ft.input((3,)), ft.input((3,))
    out = total([x, y], 0.5, power=3)
    assert out.node.inputs == (x, y) and out.dtype.name == "float32"
    feeds = {x: np.arange(3.0), y: np.ones(3)}
    np.testing.assert_allclose(ft.evaluate(out, feeds), (np.arange(3.0) ** 3 + 1) / 2)
    assert len(total([x, np.ones(3, np.float32)], 0.5).node.inputs) == 2


def test_methods() -> None:
    class Scale:
        def __init__(self) -> None:
            self.weight = ft.parameter((4,), "float32", init=3.0)

        @ft.fused
        def forward(self, x):
            return x * self.weight

    scale, x = Scale(), ft.input((2, 4))
    assert scale.forward(x).node.inputs == (x, scale.weight)


def test_random_draws_are_the_same_in_backward() -> None:
    seed = ft.rng_seed(3)

    @ft.fused
    def noisy(x):
        return x * ft.uniform(x.shape, seed, dtype="float64")

    x = ft.input((4, 5), "float64")
    y = noisy(x)
    (dx,) = ft.grad(ft.sum(y), [x])
    out, slope = through_kernels([y, dx], {x: np.full((4, 5), 2.0)})
    np.testing.assert_allclose(out, slope * 2.0)
    assert np.unique(slope).size > 10


def test_two_calls_with_one_seed_draw_different_numbers() -> None:
    """A seed counts the draws that are made from it, inside of bodies too."""

    @ft.fused
    def noisy(x, seed):
        return x + ft.uniform(x.shape, seed)

    seed, x = ft.rng_seed(3), ft.input((50,))
    first, second = ft.evaluate([noisy(x, seed), noisy(x, seed)], {x: np.zeros(50)})
    assert not np.array_equal(first, second)
    third = ft.evaluate(ft.uniform((50,), seed))
    assert not np.array_equal(third, first) and not np.array_equal(third, second)


def test_equal_calls_merge() -> None:
    x, g = ft.input((4, 4)), ft.input((4, 4))
    fused = optimise(Graph((x, g), (gated(x, g) + gated(x, g),)), stage="decompose")
    assert sum(n.op.name == "sigmoid" for n in fused.nodes) == 1


# ---- what it says about kernels --------------------------------------------------------------------------------


def test_explain_one_kernel() -> None:
    found = gated.explain(TensorType((32, 64), ft.float32), ((32, 64), "float32"))
    assert found.one_kernel and len(found.forward) == 1 and len(found.backward or ()) == 1
    assert str(found).startswith("gated: one kernel forward\n  1. sigmoid mul -> float32[32, 64]")


def test_explain_counts_the_kernels_that_a_program_has() -> None:
    @ft.fused
    def block(x, w):
        h = gated(x @ w, x)
        return ft.softmax(h, axis=0) * ft.layer_norm(h, 64)

    x, w = ft.input((32, 64)), ft.input((64, 64))
    found = block.explain(x, w)
    y = block(x, w)
    nodes = optimise(Graph((x, w), (y,))).nodes
    assert len(found.forward) == sum(n.op.name in ("matmul", "fused", "fused_kernel") for n in nodes)
    text = str(found)
    assert "matmul is a kernel of its own" in text
    assert "a sum down the columns is complete only when every row has been read" in text
    assert all(s.made < min(s.read) <= len(found.forward) for s in found.forward_stored)


def test_explain_without_a_gradient() -> None:
    @ft.fused
    def larger(x, y):
        return x > y

    assert larger.explain(((3,), "float32"), ((3,), "float32")).backward is None


def test_strict_refuses_what_is_not_one_kernel() -> None:
    @ft.fused(strict=True)
    def product(x):
        return ft.exp(x) @ x

    @ft.fused(strict=True)
    def norm(x):
        return ft.rms_norm(x, 8)

    norm(ft.input((4, 8)))
    with pytest.raises(CompileError, match=r"is not one kernel(.|\n)*matmul is a kernel of its own") as found:
        product(ft.input((4, 4)))
    assert found.value.op == "product" and found.value.loc is not None and found.value.loc.file == __file__


# ---- refusals --------------------------------------------------------------------------------------------------


def test_a_body_must_return_values() -> None:
    with pytest.raises(GraphError, match="must return a Value or a tuple of Values"):
        ft.fused(lambda x: None)(ft.input((3,)))


def test_errors_in_the_body_name_its_line() -> None:
    @ft.fused
    def bad(x):
        return x + ft.zeros((5,))

    with pytest.raises(ShapeError) as found:
        bad(ft.input((3,)))
    assert found.value.loc is not None and found.value.loc.function == "bad"


def test_no_placeholder_is_left() -> None:
    x, g = ft.input((3, 4)), ft.input((3, 4))
    graph = Graph((x, g), (gated(x, g),))
    for stage in ("simplify", "decompose", "legalise", "fuse"):
        staged = optimise(graph, stage=stage)
        verify(staged, stage)
        assert sum(isinstance(n.op.lowering, Leaf) for n in staged.nodes) == 2
