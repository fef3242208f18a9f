"""grad, from graph to graph: what is summed, what is skipped, what is refused, and what backward nodes know."""

from __future__ import annotations

import numpy as np
import pytest

import flame_triton as ft
from flame_triton.errors import DTypeError, GradientError, ShapeError
from flame_triton.graph.evaluate import Plan
from flame_triton.ir.graph import Graph, topological
from flame_triton.ir.node import make
from flame_triton.ir.op import OPS, Composite, Leaf, Op, Pointwise, register
from flame_triton.ir.verify import verify
from flame_triton.ops.define import same_type
from flame_triton.testing import check_grads


def scalar(dtype: str = "float64") -> ft.Value:
    return ft.input((), dtype)


def at(values: ft.Value | list[ft.Value], **feeds: tuple[ft.Value, float]):
    return ft.evaluate(values, {v: np.asarray(x, np.float64) for v, x in feeds.values()})


def registered(name: str, *args, **kwargs) -> Op:
    """An op made for a test, once per process."""
    return OPS.get(name) or register(Op(name, *args, **kwargs))


# ---- sums and paths --------------------------------------------------------------------------------------------


def test_fan_out_is_summed() -> None:
    x = scalar()
    y = x * x + ft.sin(x) * x - x
    (dx,) = ft.grad(y, [x])
    assert at(dx, x=(x, 0.7)) == pytest.approx(2 * 0.7 + np.sin(0.7) + 0.7 * np.cos(0.7) - 1, rel=1e-14)


def test_one_value_in_two_operands_of_one_node() -> None:
    x = scalar()
    (dx,) = ft.grad(x + x, [x])
    assert at(dx, x=(x, 3.0)) == 2.0


def test_many_uses_make_a_balanced_sum() -> None:
    """Sixteen cotangents are added in four levels, not in a chain of fifteen."""
    x = ft.input((3,), "float64")
    y = ft.concat([ft.exp(x * float(k)) for k in range(16)])
    (dx,) = ft.grad(y, [x], grad_output=ft.ones((48,), "float64"))
    depth: dict[object, int] = {}
    for node in Graph((x,), (dx,)).nodes:
        below = max((depth[v.node] for v in node.inputs), default=0)
        depth[node] = below + (node.op.name == "add")
    assert depth[dx.node] == 4


def test_gradient_of_a_value_in_between() -> None:
    """wrt may be any value, not only a leaf; what lies below it is not walked."""
    x = scalar()
    h = ft.exp(x)
    y = h * h
    dh, dx = ft.grad(y, [h, x])
    assert at([dh, dx], x=(x, 0.5)) == [pytest.approx(2 * np.exp(0.5)), pytest.approx(2 * np.exp(1.0))]
    (only,) = ft.grad(y, [h])
    assert not any(n.op.name == "exp" and n.origin is not None for n in topological([only]))


def test_wrt_the_output_itself() -> None:
    x = scalar()
    y = ft.exp(x)
    (dy,) = ft.grad(y, [y])
    assert at(dy, x=(x, 0.3)) == 1.0


def test_the_same_wrt_twice() -> None:
    x = scalar()
    a, b = ft.grad(x * x, [x, x])
    assert at([a, b], x=(x, 3.0)) == [6.0, 6.0]


def test_several_outputs_are_summed() -> None:
    x = ft.input((2,), "float64")
    y, z = ft.exp(x), ft.square(x)
    seeds = [ft.constant(np.array([1.0, 2.0])), None]
    (dx,) = ft.grad([y, z], [x], grad_output=[seeds[0], ft.ones((2,), "float64")])
    values = np.array([0.1, 0.2])
    np.testing.assert_allclose(ft.evaluate(dx, {x: values}), [1, 2] * np.exp(values) + 2 * values, rtol=1e-14)


def test_scalar_outputs_need_no_seed() -> None:
    x = ft.input((3,), "float64")
    (dx,) = ft.grad([ft.sum(x), ft.reshape(ft.sum(x * x), (1, 1))], [x])
    np.testing.assert_allclose(ft.evaluate(dx, {x: np.arange(3.0)}), 1 + 2 * np.arange(3.0))


def test_only_what_is_needed_is_walked() -> None:
    """The gradient in one input builds nothing for the other."""
    x, w = ft.input((4, 3), "float64"), ft.input((3, 2), "float64")
    (dw,) = ft.grad(ft.sum(x @ w), [w])
    names = [n.op.name for n in topological([dw])]
    assert names.count("matmul") == 1


# ---- severed paths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sever", [ft.stop_gradient, lambda x: ft.cast(ft.cast(x, "int64"), "float64"), lambda x: ft.cast(x > 0, "float64")]
)
def test_severed_path_is_an_error(sever) -> None:
    x = scalar()
    with pytest.raises(GradientError, match="no gradient reaches") as found:
        ft.grad(sever(x) * 2.0, [x])
    assert found.value.loc is not None and found.value.loc.file == __file__
    (dx,) = ft.grad(sever(x) * 2.0, [x], allow_unused=True)
    assert at(dx, x=(x, 1.5)) == 0.0
    (dx,) = ft.grad(sever(x) * 2.0 + x, [x])
    assert at(dx, x=(x, 1.5)) == 1.0


def test_unused_input() -> None:
    x, y = ft.input((2, 3), "float32", name="image"), scalar("float32")
    with pytest.raises(GradientError, match="'image'"):
        ft.grad(y * y, [x])
    (dx,) = ft.grad(y * y, [x], allow_unused=True)
    assert dx.type == x.type
    assert not ft.evaluate(dx).any()


def test_stop_gradient_keeps_the_value() -> None:
    x = scalar()
    y = x * ft.stop_gradient(x)
    (dx,) = ft.grad(y, [x])
    assert at([y, dx], x=(x, 3.0)) == [9.0, 3.0]


# ---- refusals --------------------------------------------------------------------------------------------------


def test_refusals() -> None:
    x, i = ft.input((3,), "float64"), ft.input((3,), "int64")
    with pytest.raises(GradientError, match="dtype is int64") as found:
        ft.grad(ft.sum(x), [i])
    assert found.value.loc is not None and found.value.loc.file == __file__
    with pytest.raises(GradientError, match="dtype is int64"):
        ft.grad(ft.sum(i), [x])
    with pytest.raises(GradientError, match="non-scalar output needs grad_output"):
        ft.grad(x * 2.0, [x])
    with pytest.raises(GradientError, match="must be a list"):
        ft.grad(ft.sum(x), x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(GradientError, match="2 outputs but 1 cotangents"):
        ft.grad([ft.sum(x), ft.sum(x)], [x], grad_output=[ft.ones((), "float64")])
    with pytest.raises(ShapeError, match=r"\(2,\)"):
        ft.grad(x * 2.0, [x], grad_output=ft.ones((2,), "float64"))
    with pytest.raises(DTypeError, match="float32"):
        ft.grad(x * 2.0, [x], grad_output=ft.ones((3,), "float32"))


def test_an_op_without_a_gradient_is_refused_by_name() -> None:
    op = registered("_opaque", same_type, Pointwise("{0}"), lambda x: x)
    x = scalar()
    with pytest.raises(GradientError, match="_opaque has no gradient") as found:
        ft.grad(make(op, [x]).out, [x])
    assert found.value.op == "_opaque"
    assert found.value.loc is not None and found.value.loc.file == __file__


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda node, g: [], "gave 0 cotangents for 1"),
        (lambda node, g: [ft.cast(g, "float32")], r"gave float32\[3\] for input 0 of type float64\[3\]"),
        (lambda node, g: [ft.sum(g)], r"gave float64\[\] for input 0"),
    ],
)
def test_a_wrong_rule_is_found_when_it_is_used(rule, message: str) -> None:
    op = Op("_badrule", same_type, Pointwise("{0}"), lambda x: x, rule)
    x = ft.input((3,), "float64")
    with pytest.raises(GradientError, match=message):
        ft.grad(make(op, [x]).out, [x], grad_output=ft.ones((3,), "float64"))


# ---- gradients of gradients ------------------------------------------------------------------------------------


def test_third_derivative() -> None:
    x = scalar()
    y = ft.sin(x) * ft.exp(x)
    for _ in range(3):
        (y,) = ft.grad(y, [x])
    v = 0.4
    assert at(y, x=(x, v)) == pytest.approx(2 * np.exp(v) * (np.cos(v) - np.sin(v)), rel=1e-13)


def test_gradient_penalty() -> None:
    """A loss that holds a gradient, as in training with one: through matmul, norm and activation."""

    def penalty(x, w):
        (dx,) = ft.grad(ft.sum(ft.gelu(ft.layer_norm(x @ w, 5))), [x])
        return ft.mean(ft.square(ft.norm(dx, axis=-1) - 1.0))

    check_grads(penalty, (4, 3), (3, 5))


def test_cotangent_is_differentiable() -> None:
    """grad_output may itself depend on the inputs."""
    x = scalar()
    (dx,) = ft.grad(ft.square(x), [x], grad_output=ft.exp(x))
    (again,) = ft.grad(dx, [x])
    assert at(again, x=(x, 0.5)) == pytest.approx(2 * np.exp(0.5) * 1.5, rel=1e-14)


# ---- nodes with several outputs, composites, residuals ---------------------------------------------------------


def test_unused_outputs_have_symbolic_zeros() -> None:
    x = ft.input((6, 2), "float64")
    a, b, c = ft.split(x, 2)
    (dx,) = ft.grad(ft.sum(b * b), [x])
    values = np.arange(12.0).reshape(6, 2)
    want = np.zeros((6, 2))
    want[2:4] = 2 * values[2:4]
    np.testing.assert_array_equal(ft.evaluate(dx, {x: values}), want)
    (dx,) = ft.grad(ft.sum(a * c), [x])
    want = np.concatenate([values[4:], np.zeros((2, 2)), values[:2]])
    np.testing.assert_array_equal(ft.evaluate(dx, {x: values}), want)


def test_a_node_whose_outputs_get_nothing_is_skipped() -> None:
    x = ft.input((6,), "float64")
    a, _ = ft.split(ft.exp(x), 3)
    y = ft.sum(x) + 0.0 * ft.stop_gradient(ft.sum(a))
    (dx,) = ft.grad(y, [x])
    assert all(n.op.name != "concat" for n in topological([dx]))


def test_composite_without_a_rule_goes_through_its_definition() -> None:
    def build(node):
        x, y = node.inputs
        return ft.sin(x * y) + x

    op = registered("_defined", same_type, Composite(build), lambda x, y: np.sin(x * y) + x)
    check_grads(lambda x, y: make(op, [x, y]).out, (3, 4), (3, 4), order=2)
    x = ft.input((3,), "float64")
    (dx,) = ft.grad(ft.sum(make(op, [x, x]).out), [x])  # one value in both operands
    v = np.array([0.2, 0.5, -1.0])
    np.testing.assert_allclose(ft.evaluate(dx, {x: v}), 2 * v * np.cos(v * v) + 1, rtol=1e-13)
    (dx,) = ft.grad(ft.sum(make(op, [ft.exp(x), ft.constant(v)]).out), [x])  # one operand needs nothing
    np.testing.assert_allclose(ft.evaluate(dx, {x: v}), np.exp(v) * (v * np.cos(np.exp(v) * v) + 1), rtol=1e-13)


def test_composite_with_two_outputs_without_a_rule() -> None:
    def build(node):
        (x,) = node.inputs
        return [ft.exp(x), ft.square(x)]

    op = registered("_twofold", lambda x: (x, x), Composite(build), lambda x: (np.exp(x), np.square(x)))
    check_grads(lambda x: list(make(op, [x]).outputs), (3,), order=2)
    check_grads(lambda x: make(op, [x]).outputs[1], (3,), order=2)


def test_residual_inputs_get_no_cotangent() -> None:
    """The saved result that a backward op reads is no second path to the operand it came from."""
    op = registered(
        "_saved",
        same_type,
        Pointwise("{0} * {1}"),
        lambda g, y: g * y,
        lambda node, g: [g * node.inputs[1], g * node.inputs[0]],
        residual=(1,),
    )
    x, y = scalar(), scalar()
    dx, dy = ft.grad(make(op, [x, y]).out, [x, y], allow_unused=True)
    assert at([dx, dy], x=(x, 2.0), y=(y, 5.0)) == [5.0, 0.0]


# ---- dtypes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_gradients_have_the_type_of_what_they_are_for(dtype: str) -> None:
    x, w = ft.input((4, 6), dtype), ft.parameter((6,), "float32")
    y = ft.sum(ft.layer_norm(ft.silu(x), 6, w))
    for v, d in zip((x, w), ft.grad(y, [x, w]), strict=True):
        assert d.type == v.type


def test_mixed_precision_chain() -> None:
    """float32 master weights, bfloat16 compute: the gradient comes back as float32."""
    w, x = ft.parameter((5, 3), "float32"), ft.input((4, 5), "bfloat16")
    loss = ft.mean(ft.cast(x @ ft.cast(w, "bfloat16"), "float32"))
    (dw,) = ft.grad(loss, [w])
    assert dw.type == w.type
    xs = np.random.default_rng(0).standard_normal((4, 5))
    got = ft.evaluate(dw, {x: xs, w: np.zeros((5, 3))}, dtype=None)
    np.testing.assert_allclose(got, np.repeat(xs.sum(0)[:, None] / 12, 3, 1), rtol=0.03, atol=0.01)


# ---- what backward nodes know ----------------------------------------------------------------------------------


def test_backward_nodes_point_at_their_forward_node() -> None:
    x = ft.input((3,), "float64")
    h = ft.exp(x)
    y = ft.sum(ft.tanh(h))
    (dx,) = ft.grad(y, [x])
    forward = set(topological([y]))
    backward = [n for n in topological([dx]) if n not in forward]
    assert backward
    assert {n.origin.op.name for n in backward if n.origin} == {
        "reshape",
        "sum",
        "tanh",
        "exp",
    }  # sum is a reduction and a reshape
    for node in backward:
        assert node.origin in forward
        assert node.loc == node.origin.loc
        assert node.loc.file == __file__


def test_second_backward_points_at_the_first_forward() -> None:
    x = scalar()
    y = ft.exp(x)
    (dx,) = ft.grad(y, [x])
    (ddx,) = ft.grad(dx, [x])
    made = [n for n in topological([ddx]) if n.origin is not None]
    assert {n.origin for n in made} == {y.node}


def test_forward_nodes_have_no_origin() -> None:
    x = scalar()
    y = ft.softmax(ft.stack([x, x]))
    assert all(n.origin is None for n in topological([y]))


# ---- graphs stay well formed, and evaluation frees what it can -------------------------------------------------


def test_gradient_graphs_verify() -> None:
    x, w = ft.input((4, 6), "bfloat16"), ft.parameter((6, 6), "bfloat16")
    y = ft.cross_entropy(ft.gelu(x @ w), ft.constant(np.array([0, 1, 2, 3])))
    verify(Graph((x, w), (y, *ft.grad(y, [x, w]))), "grad")


def test_evaluation_keeps_no_dead_value() -> None:
    """Each value dies at its last reader; nothing but leaves and outputs outlives the walk."""
    x = ft.input((3,), "float64")
    y = ft.sum(ft.tanh(ft.exp(x)))
    (dx,) = ft.grad(y, [x])
    plan = Plan(Graph((x,), (dx,)))
    dying = [v for group in plan.dying for v in group]
    assert len(dying) == len(set(dying))
    assert set(dying) == {v for n in plan.nodes for v in n.outputs} - {dx}
    assert all(isinstance(v.node.op.lowering, Leaf) or v in dying for v in (x,))
