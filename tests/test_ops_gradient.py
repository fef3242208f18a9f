"""Gradients of every op, on every sample, against central differences in float64; then the gradients of those."""

from __future__ import annotations

import numpy as np
import pytest

import flame_triton as ft
from flame_triton.errors import ArgumentError
from flame_triton.graph.decompose import decompose
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import make
from flame_triton.ir.op import OPS, Composite, Kernel, Op, Pointwise, Reduce, View, register
from flame_triton.ops.define import SAMPLED, same_type
from flame_triton.testing import Case, assert_close, cases, check_gradient, check_grads, differentiable

CASES = list(cases())

NO_GRADIENT = """equal not_equal less less_equal greater greater_equal logical_and logical_or logical_xor logical_not
    isnan isinf isfinite any all argmax argmin one_hot zeros ones full arange zeros_like ones_like full_like uniform
    normal randint bernoulli stop_gradient""".split()
"""Functions whose results are not floating, or do not depend on a floating operand. Later ones say so themselves: all
their samples have `grad=()`."""


def without_gradient() -> set[str]:
    said = {name for name, entry in SAMPLED.items() if all(s.grad == () for s in entry.samples())}
    return {*NO_GRADIENT, *said}


DIFFERENTIABLE = [case for case in CASES if differentiable(case)]


def test_every_function_is_differentiated_or_listed() -> None:
    checked = {case.name for case in DIFFERENTIABLE}
    assert checked | without_gradient() == set(SAMPLED)
    assert not checked & without_gradient()
    assert len(DIFFERENTIABLE) >= 410


def test_every_gradient_rule_is_reached() -> None:
    """No op with floating results escapes: each one occurs in some sample or in a gradient of one."""
    seen = {node.op.name for case in DIFFERENTIABLE for node in Graph((), tuple(_with_gradients(case))).nodes}
    missing = {
        name
        for name, op in OPS.items()
        if op.vjp is not None
        and isinstance(op.lowering, Pointwise | View | Reduce | Kernel | Composite)
        and not op.unique
        and name not in seen
        and not name.startswith("_")  # an op that another test in this process has made
    }
    assert missing <= {"stop_gradient", "fused", "fused_kernel", "nextafter"}  # no 16-bit floats: see test_math


def _with_gradients(case: Case) -> list[ft.Value]:
    inputs = case.inputs()
    outputs = [v for v in case.call(*inputs) if v.dtype.is_float]
    seeds = [ft.input(v.shape, v.dtype.gradient) for v in outputs]
    return [*outputs, *ft.grad(outputs, [inputs[i] for i in case.wrt], grad_output=seeds)]


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_gradient(case: Case) -> None:
    check_gradient(case, order=1)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_second_gradient(case: Case) -> None:
    """Of every op, none left out: the gradient is itself differentiable in the operands and in the cotangent."""
    check_gradient(case, order=2)


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_gradient_of_the_definition(case: Case) -> None:
    """A composite op's own rule agrees with the gradient of the graph that defines it."""
    inputs = case.inputs()
    outputs = [v for v in case.call(*inputs) if v.dtype.is_float]
    plain = decompose(Graph(tuple(inputs), tuple(outputs)))
    if len(plain.nodes) == len(Graph(tuple(inputs), tuple(outputs)).nodes):
        return  # nothing composite in it
    rng = np.random.default_rng(0)
    seeds = {v: rng.standard_normal(v.shape) for v in outputs}
    feeds = dict(zip(inputs, case.arrays, strict=True))
    ours = _gradients(outputs, inputs, case, seeds, feeds)
    again = dict(zip(plain.outputs, seeds.values(), strict=True))
    theirs = _gradients(plain.outputs, plain.inputs, case, again, feeds)
    for a, r in zip(ours, theirs, strict=True):
        assert_close(a, r, "float64", tolerance=1e-10, floor=1e-3)


def _gradients(outputs, inputs, case, seeds, feeds):
    cotangents = [ft.input(v.shape, v.dtype.gradient) for v in outputs]
    wrt = [inputs[i] for i in case.wrt]
    gradients = ft.grad(list(outputs), wrt, grad_output=cotangents, allow_unused=True)
    return ft.evaluate(gradients, {**feeds, **dict(zip(cotangents, seeds.values(), strict=True))})


# ---- places where a rule has a special case --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_ties_share_the_gradient(name: str) -> None:
    x, y = ft.input((3,), "float64"), ft.input((3,), "float64")
    gradients = ft.grad(getattr(ft, name)(x, y), [x, y], grad_output=ft.ones((3,), "float64"))
    dx, dy = ft.evaluate(gradients, {x: np.array([1.0, 2.0, 3.0]), y: np.array([1.0, 5.0, 0.0])})
    first = np.array([0.5, 0.0, 1.0] if name == "maximum" else [0.5, 1.0, 0.0])
    np.testing.assert_array_equal(dx, first)
    np.testing.assert_array_equal(dy, 1 - first)


@pytest.mark.parametrize("name", ["max", "min", "norm"])
def test_ties_in_reductions_share_the_gradient(name: str) -> None:
    x = ft.input((4,), "float64")
    y = ft.norm(x, p=np.inf) if name == "norm" else getattr(ft, name)(x)
    (dx,) = ft.grad(y, [x])
    values = np.array([2.0, 1.0, 2.0, 1.0])
    want = [0, 0.5, 0, 0.5] if name == "min" else [0.5, 0, 0.5, 0]
    np.testing.assert_array_equal(ft.evaluate(dx, {x: values}), want)


@pytest.mark.parametrize(
    ("fn", "at", "slope"),
    [
        (ft.abs, 0.0, 0.0),
        (ft.relu, 0.0, 0.0),
        (ft.sign, 1.5, 0.0),
        (ft.floor, 1.5, 0.0),
        (lambda x: ft.clamp(x, -1.0, 1.0), 1.0, 1.0),
        (lambda x: ft.clamp(x, -1.0, 1.0), -1.0, 1.0),
        (lambda x: ft.clamp(x, 2.0, 1.0), 1.5, 0.0),
        (lambda x: ft.pow(x, 0.0), 0.0, 0.0),
        (lambda x: ft.pow(x, 3.0), 0.0, 0.0),
        (lambda x: ft.pow(x, 1.0), 0.0, 1.0),
        (lambda x: ft.pow(0.0, x), 2.0, 0.0),
        (lambda x: ft.norm(x), 0.0, 0.0),
        (lambda x: ft.norm(x, p=3), 0.0, 0.0),
        (lambda x: ft.std(ft.stack([x, x])), 1.0, 0.0),
        (lambda x: ft.softplus(x), 50.0, 1.0),
        (lambda x: ft.logsumexp(ft.stack([x, x - 2000.0])), 0.0, 1.0),
    ],
)
def test_gradient_at_a_special_point(fn, at: float, slope: float) -> None:
    x = ft.input((), "float64")
    (dx,) = ft.grad(fn(x), [x])
    assert ft.evaluate(dx, {x: np.array(at)}) == slope


def test_prod_with_zeros_to_second_order() -> None:
    check_grads(lambda x: ft.prod(x, axis=1), np.array([[2.0, 0.0, 3.0, -1.0], [0.0, 0.0, 1.5, 2.0]]), order=2)


def test_norm_statistics_have_cotangents() -> None:
    check_grads(lambda x: list(ft.layer_norm(x, 5).node.outputs), (3, 5), order=2)
    check_grads(lambda x: list(ft.rms_norm(x, 5, eps=0.1).node.outputs), (3, 5), order=2)
    check_grads(lambda x: ft.layer_norm(x, 5).node.outputs[2], (3, 5), order=2)


# ---- check_grads itself ----------------------------------------------------------------------------------------


def _broken(name: str, slope: float):
    """tanh with a gradient that is wrong by a factor."""
    op = OPS.get(name) or register(
        Op(name, same_type, Pointwise("lib.tanh({0})"), np.tanh, lambda node, g: [g * (1.0 - node.out**2) * slope])
    )
    return lambda x: make(op, [x]).out


def test_check_grads_sees_a_wrong_gradient() -> None:
    check_grads(_broken("_right", 1.0), (3, 4), order=2)
    with pytest.raises(AssertionError, match="gradient along a random direction"):
        check_grads(_broken("_wrong", 1.001), (3, 4))
    with pytest.raises(AssertionError, match="gradient along a random direction"):
        check_grads(_broken("_wrong", 1.001), (30, 40))


def test_check_grads_sees_a_wrong_second_gradient() -> None:
    """A gradient that is right in value but hides its dependence on x."""

    def vjp(node, g):
        return [g * ft.stop_gradient(node.inputs[0]) * 2.0]

    op = OPS.get("_shy") or register(Op("_shy", same_type, Pointwise("{0} * {0}"), np.square, vjp))
    check_grads(lambda x: make(op, [x]).out, (3,))
    with pytest.raises(AssertionError, match="second gradient"):
        check_grads(lambda x: make(op, [x]).out, (3,), order=2)


def test_check_grads_runs_on_what_it_is_given() -> None:
    seen = []

    def run(outputs, feeds):
        seen.append(len(outputs))
        return ft.evaluate(list(outputs), feeds)

    check_grads(lambda x, i: ft.take(ft.exp(x), i), (3, 2), np.array([2, 0]), run=run)
    assert len(seen) == 1 + 2 + 2 * 6  # the gradient, one direction, six elements


def test_check_grads_refuses_what_it_cannot_check() -> None:
    with pytest.raises(ArgumentError, match="order"):
        check_grads(ft.exp, (3,), order=3)
    with pytest.raises(ArgumentError, match="no floating output"):
        check_grads(lambda x: x > 0, (3,))


# ---- assert_close ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        (np.array([1.0, 2.0, 3.1]), "relative RMS error"),
        (np.array([1.0, 2.0]), "shape"),
        (np.array([1.0, np.nan, 3.0]), "NaN"),
        (np.array([1.0, 2.0, np.inf]), "inf"),
    ],
)
def test_assert_close_refuses(actual: np.ndarray, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_close(actual, np.array([1.0, 2.0, 3.0]), "bfloat16")


def test_assert_close_accepts_and_compares_integers_exactly() -> None:
    assert_close(np.array([1, np.nan, np.inf], np.float32), [1 + 1e-7, np.nan, np.inf])
    assert_close(np.array([]), np.array([]))
    assert_close(np.array([1e-9]), np.array([0.0]), "float32", floor=1.0)
    with pytest.raises(AssertionError, match="relative RMS error inf"):
        assert_close(np.array([1e-9]), np.array([0.0]), "float32")
    with pytest.raises(AssertionError, match="1 of 2 elements differ"):
        assert_close(np.array([1, 2]), np.array([1, 3]))
