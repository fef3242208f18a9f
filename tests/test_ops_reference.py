"""The NumPy reference of every op: against torch in float64, against the op's own definition, and in 16-bit floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import flame_triton as ft
from flame_triton.graph.decompose import decompose
from flame_triton.graph.simplify import simplify
from flame_triton.ir.graph import Graph
from flame_triton.ir.op import OPS, Composite, Generator, Kernel, Leaf, Pointwise, Reduce, View
from flame_triton.ir.verify import verify
from flame_triton.ops import special
from flame_triton.ops.define import SAMPLED
from flame_triton.testing import TOLERANCE, Case, assert_close, cases

CASES = list(cases())


def renamed(function: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's keyword names to torch's."""

    def call(*args: Any, axis: Any = ..., keepdims: bool | None = None, **kwargs: Any) -> Any:
        if axis is not ...:
            kwargs["dim"] = axis
        if keepdims is not None:
            kwargs["keepdim"] = keepdims
        return function(*args, **kwargs)

    return call


def over_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    """A torch reduction of one axis at most, over several: they are moved to the end and flattened."""

    def call(x: torch.Tensor, axis: Any = None, keepdims: bool = False) -> torch.Tensor:
        axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else list(axis)
        axes = sorted(a % x.ndim for a in axes)
        rest = [a for a in range(x.ndim) if a not in axes]
        flat = x.permute((*rest, *axes)).reshape(*(x.shape[a] for a in rest), -1)
        shape = [1 if a in axes else d for a, d in enumerate(x.shape)] if keepdims else [x.shape[a] for a in rest]
        found = function(flat, dim=-1)
        return (found if isinstance(found, torch.Tensor) else found[0]).reshape(shape)

    return call


def along(function: Callable[..., Any]) -> Callable[..., Any]:
    """softmax and its kin: torch wants a dim."""
    return lambda x, axis=-1: function(x, dim=axis)


def positional(name: str) -> Callable[..., Any]:
    """torch's ops take tensors, ours numbers as well."""
    function = getattr(torch, name)
    return lambda *args: function(*(torch.as_tensor(a, dtype=torch.float64) if is_number(a) else a for a in args))


def is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def spread(name: str) -> Callable[..., Any]:
    def call(x: torch.Tensor, axis: Any = None, correction: float = 0, keepdims: bool = False) -> torch.Tensor:
        return getattr(torch, name)(x, dim=axis, correction=correction, keepdim=keepdims)

    return call


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any = None, **kwargs: Any) -> torch.Tensor:
    squeeze = q.ndim == 2
    q, k, v = (x[None] if x.ndim == 2 else x for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, mask, **kwargs)
    return out[0] if squeeze else out


def padded(x: torch.Tensor, widths: Any, value: float = 0.0) -> torch.Tensor:
    return F.pad(x, [n for pair in reversed(widths) for n in pair], value=value)


def sliced(x: torch.Tensor, starts: Any, sizes: Any, steps: Any = None) -> torch.Tensor:
    steps = steps or [1] * x.ndim
    for axis, (b, n, k) in enumerate(zip(starts, sizes, steps, strict=True)):
        x = x.index_select(axis, torch.tensor([b + k * i for i in range(n)], dtype=torch.long))
    return x


def taken(x: torch.Tensor, indices: torch.Tensor, axis: int | None = 0) -> torch.Tensor:
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis % x.ndim)
    found = x.index_select(axis, indices.reshape(-1) % x.shape[axis])
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def wrapped(index: torch.Tensor, x: torch.Tensor, dim: int) -> torch.Tensor:
    return index % x.shape[dim]


def scattered(index: torch.Tensor, values: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.zeros(rows, values.shape[1], dtype=values.dtype).index_add(0, index % rows, values)


def in_range_rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    there = (index >= -len(table)) & (index < len(table))
    rows = table[torch.where(there, index, 0)]
    return torch.where(there[:, None], rows, math.nan if table.is_floating_point() else 0)


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.round()


def flipped(x: torch.Tensor, axis: Any = None) -> torch.Tensor:
    return x.flip(tuple(range(x.ndim)) if axis is None else axis)


def shaped(function: Callable[..., Any]) -> Callable[..., Any]:
    """layer_norm and rms_norm: torch wants a tuple."""
    return lambda x, shape, *a, **k: function(x, (shape,) if isinstance(shape, int) else shape, *a, **k)


def indexed(x: torch.Tensor, key: Any) -> torch.Tensor:
    return torch.from_numpy(x.numpy()[key.numpy() if isinstance(key, torch.Tensor) else key].copy())


def hot(indices: torch.Tensor, num_classes: int, dtype: str = "int64") -> torch.Tensor:
    return (indices[..., None] == torch.arange(num_classes)).to(getattr(torch, dtype))


def filled(value: Any) -> Callable[..., Any]:
    """zeros and ones: float32 by default."""
    return lambda shape, dtype="float32": torch.full(shape, value, dtype=getattr(torch, dtype))


def full(shape: Any, value: Any, dtype: str | None = None) -> torch.Tensor:
    return torch.full(shape, value, dtype=None if dtype is None else getattr(torch, dtype))


def expanded(x: torch.Tensor, axis: Any) -> torch.Tensor:
    return torch.from_numpy(np.expand_dims(x.numpy(), axis))


def whole_clamp(x: torch.Tensor, low: Any = None, high: Any = None) -> torch.Tensor:
    return torch.clamp(x, low, high)


def multiplied(x: torch.Tensor, axis: Any = None, keepdims: bool = False) -> torch.Tensor:
    return over_axes(torch.prod)(x, axis, keepdims)


def named(names: str, space: Any, wrap: Callable[[Any], Callable[..., Any]] = lambda f: f) -> dict[str, Any]:
    return {name: wrap(getattr(space, name)) for name in names.split()}


TORCH: dict[str, Callable[..., Any]] = {
    **named("abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 floor log log10", torch),
    **named("log1p log2 neg reciprocal rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc", torch),
    **named("isnan isinf isfinite logical_not logical_and logical_or logical_xor nan_to_num masked_fill", torch),
    **named("where narrow flatten swapaxes arange full_like zeros_like ones_like index_select scatter_add tril", torch),
    **named("triu matmul", torch),
    **named("unbind stack concat split chunk squeeze argmax argmin", torch, renamed),
    **{n: positional(n) for n in "add sub mul div floor_divide remainder pow maximum minimum atan2".split()},
    **{n: positional(n) for n in "less less_equal greater greater_equal not_equal clamp_min clamp_max".split()},
    **named("relu leaky_relu prelu elu hardswish softplus logsigmoid silu mish gelu linear", F),
    **named("mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy_with_logits nll_loss", F),
    **named("cross_entropy embedding", F),
    **named("sum mean amax amin any all logsumexp", torch, over_axes),
    **named("softmax log_softmax", torch, along),
    **named("glu softmin", F, along),
    **named("layer_norm rms_norm", F, shaped),
    "broadcast_to": torch.broadcast_to,
    "cast": lambda x, dtype: x.to(getattr(torch, dtype)),
    "clamp": whole_clamp,
    "equal": positional("eq"),
    "expand_dims": expanded,
    "flip": flipped,
    "full": full,
    "gather": lambda x, dim, index: x.gather(dim, wrapped(index, x, dim)),
    "gather_rows": in_range_rows,
    "getitem": indexed,
    "max": over_axes(torch.amax),
    "min": over_axes(torch.amin),
    "norm": lambda x, p=2, axis=None, keepdims=False: torch.linalg.vector_norm(x, p, axis, keepdims),
    "one_hot": hot,
    "ones": filled(1),
    "pad": padded,
    "prod": multiplied,
    "repeat": renamed(torch.repeat_interleave),
    "reshape": lambda x, shape: x.reshape(shape),
    "roll": lambda x, shift, axis=None: x.roll(shift, axis),
    "round": rounded,
    "scaled_dot_product_attention": attention,
    "scatter_add_rows": scattered,
    "slice": sliced,
    "std": spread("std"),
    "stop_gradient": torch.Tensor.detach,
    "take": taken,
    "tile": lambda x, reps: x.tile(reps if isinstance(reps, tuple) else (reps,)),
    "transpose": lambda x, axes=None: x.permute(*(axes or reversed(range(x.ndim)))),
    "var": spread("var"),
    "zeros": filled(0),
}
del TORCH["amax"], TORCH["amin"]  # other names of max and min

WITHOUT_TWIN = {
    "bernoulli": "a draw: see test_philox",
    "dropout": "a draw: see test_philox",
    "foreach": "torch has no op that takes a body; its own tests compare it with the ops it stands for",
    "foreach_sum": "as foreach",
    "normal": "a draw: see test_philox",
    "randint": "a draw: see test_philox",
    "uniform": "a draw: see test_philox",
}


def test_every_sampled_function_has_a_torch_twin_or_a_reason() -> None:
    assert set(TORCH) | set(WITHOUT_TWIN) == set(SAMPLED)
    assert not set(TORCH) & set(WITHOUT_TWIN)
    assert len(TORCH) >= 130
    assert len(CASES) >= 480


def torch_result(case: Case) -> list[np.ndarray]:
    args, kwargs = case.arguments([torch.from_numpy(np.array(a)) for a in case.arrays])
    found = TORCH[case.name](*args, **kwargs)
    return [np.asarray(x) for x in (found if isinstance(found, (tuple, list)) else [found])]


@pytest.mark.parametrize("case", [c for c in CASES if c.name in TORCH], ids=str)
def test_reference_agrees_with_torch(case: Case) -> None:
    graph = case.graph()
    ours = ft.evaluate(graph, dict(zip(graph.inputs, case.arrays, strict=True)))
    theirs = torch_result(case)
    assert len(ours) == len(theirs)
    for value, a, r in zip(graph.outputs, ours, theirs, strict=True):
        assert a.shape == value.shape == r.shape
        own = "float64" if value.dtype.is_float else value.dtype
        if value.dtype.is_float:
            assert r.dtype.kind == "f"
        else:
            assert a.dtype == value.dtype.numpy == r.dtype
        assert_close(a, r, own, tolerance=1e-13 if value.dtype.is_float else None, floor=1e-3)


# ---- special values --------------------------------------------------------------------------------------------

SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 30.0, -30.0, 1e300, -1e300, 1e-300, np.inf, -np.inf, np.nan])
ONE = """abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 floor log log10 log1p log2 neg
    reciprocal round rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc isnan isinf isfinite logical_not nan_to_num
    relu leaky_relu elu softplus logsigmoid silu mish gelu""".split()
TWO = """add sub mul div remainder floor_divide pow maximum minimum atan2 less less_equal greater greater_equal equal
    not_equal clamp_min clamp_max""".split()


def evaluated(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    inputs = [ft.input(a.shape, ft.dtype(a.dtype)) for a in arrays]
    return ft.evaluate(function(*inputs), dict(zip(inputs, arrays, strict=True)))


def assert_same(ours: np.ndarray, theirs: np.ndarray, *operands: np.ndarray, zeros: bool = True) -> None:
    """Equal up to rounding, NaN and infinities included, and unless told otherwise the signs of zeros."""
    close = np.isclose(ours, theirs, rtol=1e-12, atol=1e-190, equal_nan=True)
    if zeros:
        close &= np.isnan(theirs) | (np.signbit(ours) == np.signbit(theirs))
    wrong = [tuple(float(x.flat[i]) for x in (*operands, ours, theirs)) for i in np.flatnonzero(~close)]
    assert not wrong, f"operands, ours, torch's: {wrong}"


@pytest.mark.parametrize("name", ONE)
def test_special_values_of_one_operand(name: str) -> None:
    x = SPECIAL
    ours = evaluated(getattr(ft, name), x)
    theirs = TORCH[name](torch.from_numpy(x)).numpy()
    assert_same(ours * 1.0, theirs * 1.0, x, zeros=name not in ("relu", "logsigmoid"))


@pytest.mark.parametrize("name", TWO)
def test_special_values_of_two_operands(name: str) -> None:
    x, y = (np.ascontiguousarray(a).reshape(-1) for a in np.meshgrid(SPECIAL, SPECIAL))
    if name == "remainder":  # where the quotient overflows torch gives NaN, we the exact remainder
        fits = ~(np.isfinite(x) & (np.abs(x) > 1e200) & (np.abs(y) < 1e-200) & (y != 0))
        x, y = x[fits], y[fits]
    ours = evaluated(getattr(ft, name), x, y)
    theirs = TORCH[name](torch.from_numpy(x), torch.from_numpy(y)).numpy()
    assert_same(ours * 1.0, theirs * 1.0, x, y)


@pytest.mark.parametrize(
    "name", "sum mean max min prod any all logsumexp argmax argmin softmax log_softmax var".split()
)
def test_special_values_in_reductions(name: str) -> None:
    rows = [[1, np.nan, 2], [np.inf, 1, 2], [-np.inf, 1, 2], [np.inf, -np.inf, 0], [-np.inf] * 3, [0, 0, 0]]
    x = np.array(rows, np.float64)
    ours = evaluated(lambda v: getattr(ft, name)(v, axis=1), x)
    theirs = TORCH[name](torch.from_numpy(x), axis=1).numpy()
    assert_same(ours * 1.0, theirs * 1.0)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16", "int64"])
def test_where_on_large_arrays_keeps_every_bit(dtype: str) -> None:
    rng = np.random.default_rng(0)
    numpy = ft.dtype(dtype).numpy
    x = (rng.standard_normal((120, 100)) * 10).astype(numpy)
    if x.dtype.kind == "f":
        x[:4] = np.array([np.nan, np.inf, -np.inf, -0.0])[:, None]
    condition = rng.standard_normal((120, 100)) > 0
    c, a, b = ft.input((120, 100), "bool"), ft.input((120, 100), dtype), ft.input((100,), dtype)
    y = x[5]
    got = ft.evaluate(ft.where(c, a, b), {c: condition, a: x, b: y}, dtype=None)
    want = np.where(condition, x.astype(np.float64), y.astype(np.float64)).astype(numpy)
    np.testing.assert_array_equal(got, want)
    assert (np.signbit(got.astype(np.float64)) == np.signbit(want.astype(np.float64))).all()


def test_a_class_that_does_not_exist_gives_nan() -> None:
    """torch raises; a kernel cannot. The samples next to it are as they should be."""
    x, t = ft.input((4, 3), "float64"), ft.input((4,), "int64")
    values = np.random.default_rng(0).standard_normal((4, 3))
    for loss in (ft.cross_entropy, ft.nll_loss):
        got = ft.evaluate(loss(x, t, reduction="none"), {x: values, t: np.array([0, 3, -1, -100])})
        np.testing.assert_array_equal(np.isnan(got), [False, True, True, False])
        assert got[3] == 0
        assert np.isnan(ft.evaluate(loss(x, t), {x: values, t: np.array([0, 3, 1, 1])}))


def test_rows_out_of_range() -> None:
    table, index = ft.input((3, 2), "float64"), ft.input((4,), "int64")
    feeds = {table: np.arange(6.0).reshape(3, 2), index: np.array([-1, 3, -4, -3])}
    got = ft.evaluate(ft.take(table, index), feeds)
    np.testing.assert_array_equal(got, [[4, 5], [np.nan] * 2, [np.nan] * 2, [0, 1]])
    (dtable,) = ft.grad(ft.take(table, index), [table], grad_output=ft.ones((4, 2), "float64"))
    np.testing.assert_array_equal(ft.evaluate(dtable, feeds), [[1, 1], [0, 0], [1, 1]])


# ---- definitions -----------------------------------------------------------------------------------------------

PRIMITIVE = (Leaf, Pointwise, Generator, View, Reduce, Kernel)
DTYPES = ("float64", "float32", "bfloat16", "float16")


def with_gradients(case: Case, dtype: str) -> tuple[Graph, list[np.ndarray]]:
    """The case's outputs and, if it has any, the gradients of its inputs; arrays for the inputs, held by `dtype`."""
    numpy = ft.dtype(dtype).numpy
    arrays = [a.astype(numpy).astype(np.float64) if a.dtype.kind == "f" else a for a in case.arrays]
    inputs = case.inputs(dtype)
    outputs = case.call(*inputs)
    wrt = [inputs[i] for i in case.wrt]
    floating = [v for v in outputs if v.dtype.is_float]
    if not wrt or not floating:
        return Graph(tuple(inputs), tuple(outputs)), arrays
    seeds = [ft.input(v.shape, v.dtype) for v in floating]
    rng = np.random.default_rng(len(arrays))
    arrays += [rng.standard_normal(v.shape).astype(v.dtype.numpy).astype(np.float64) for v in seeds]
    gradients = ft.grad(floating, wrt, grad_output=seeds)
    return Graph((*inputs, *seeds), (*outputs, *gradients)), arrays


@pytest.mark.parametrize("case", CASES, ids=str)
def test_definition_agrees_with_reference(case: Case) -> None:
    """Decomposed, every op is made of primitives, of the declared types, and computes the same; so do its gradients."""
    for dtype in DTYPES:
        graph, arrays = with_gradients(case, dtype)
        verify(graph, "build")
        plain = decompose(graph)
        verify(plain, "decompose")
        assert all(isinstance(n.op.lowering, PRIMITIVE) for n in plain.nodes)
        assert [v.type for v in plain.outputs] == [v.type for v in graph.outputs]
    graph, arrays = with_gradients(case, "float64")
    want = ft.evaluate(graph, dict(zip(graph.inputs, arrays, strict=True)))
    for stage in (decompose, simplify, lambda g: simplify(decompose(g))):
        other = stage(graph)
        verify(other, "simplify")
        got = ft.evaluate(other, dict(zip(other.inputs, arrays, strict=True)))
        for v, a, r in zip(graph.outputs, got, want, strict=True):
            assert_close(a, r, v.dtype, tolerance=1e-12 if v.dtype.is_float else None, floor=1e-3)


def test_composite_ops_have_two_forms() -> None:
    """The sampled ops cover every composite there is, so the test above leaves none out."""
    composite = {name for name, op in OPS.items() if isinstance(op.lowering, Composite)}
    seen = {n.op.name for case in CASES for n in with_gradients(case, "float64")[0].nodes}
    assert composite <= seen
    assert len(composite) >= 9


# ---- low precision ---------------------------------------------------------------------------------------------


FROM_RESULT = {"sigmoid", "tanh"}
"""Backward reads y, which is saved anyway, rather than x: in 1 - y rounding of y is not small against what is left."""


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_low_precision(case: Case, dtype: str) -> None:
    """Values and gradients in the graph's own dtypes against float64 on the same inputs."""
    graph, arrays = with_gradients(case, dtype)
    feeds = dict(zip(graph.inputs, arrays, strict=True))
    got, want = ft.evaluate(graph, feeds, dtype=None), ft.evaluate(graph, feeds)
    tolerance, floor = TOLERANCE[ft.dtype(dtype)], 1.0 if case.name in FROM_RESULT else 0.05
    for v, a, r in zip(graph.outputs, got, want, strict=True):
        assert a.dtype == v.dtype.numpy
        assert_close(a, r, v.dtype, tolerance=tolerance if v.dtype.is_float else None, floor=floor)


ROUNDED_ONCE = """exp log log1p expm1 sqrt rsqrt sin cos tanh sigmoid erf silu gelu mish softplus elu hardswish
    leaky_relu reciprocal softmax log_softmax logsumexp mean sum norm layer_norm rms_norm scaled_dot_product_attention
    mse_loss cross_entropy""".split()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", [c for c in CASES if c.name in ROUNDED_ONCE], ids=str)
def test_low_precision_results_are_rounded_once(case: Case, dtype: str) -> None:
    """Computed in float32 inside and rounded at the end: within half a unit in the last place, and a bit."""
    numpy = ft.dtype(dtype).numpy
    graph = case.graph(dtype)
    arrays = [a.astype(numpy).astype(np.float64) if a.dtype.kind == "f" else a for a in case.arrays]
    feeds = dict(zip(graph.inputs, arrays, strict=True))
    (got,), (want,) = ft.evaluate(graph, feeds, dtype=None), ft.evaluate(graph, feeds)
    slack = 4e-4 if case.name == "scaled_dot_product_attention" else 1e-5  # probabilities are rounded for the product
    half = ft.dtype(dtype).eps / 2
    assert (np.abs(got.astype(np.float64) - want) <= (half + slack) * np.abs(want) + slack * 0.1).all()


GRADIENT_ROUNDED_ONCE = "exp log expm1 sin cos erf erfc silu gelu mish softplus elu leaky_relu logsigmoid tan".split()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", GRADIENT_ROUNDED_ONCE)
def test_low_precision_gradients_are_rounded_once(name: str, dtype: str) -> None:
    numpy = ft.dtype(dtype).numpy
    x, g = ft.input((64,), dtype), ft.input((64,), dtype)
    (dx,) = ft.grad(getattr(ft, name)(x), [x], grad_output=g)
    xs = np.linspace(0.3, 1.4, 64).astype(numpy).astype(np.float64)
    gs = np.linspace(-1.0, 2.0, 64).astype(numpy).astype(np.float64)
    got, want = (ft.evaluate(dx, {x: xs, g: gs}, dtype=d).astype(np.float64) for d in (None, "float64"))
    roundings = 2 if name in ("exp", "expm1", "tan") else 1  # these use the rounded result
    eps = ft.dtype(dtype).eps
    assert (np.abs(got - want) <= eps * (0.5 + 1.01 * (roundings - 1)) * 1.01 * np.abs(want) + 1e-6).all()


# ---- NumPy functions of our own --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dtype", "limit"), [("erf", "float64", 1e-15), ("erfc", "float64", 3e-15),
                                                      ("erf", "float32", 3e-7), ("erfc", "float32", 6e-7)])  # fmt: skip
def test_error_functions_are_accurate(name: str, dtype: str, limit: float) -> None:
    """Relative error against the C library, near zero, in the middle and in the tails."""
    most = {"float64": 26.0, "float32": 9.0}[dtype]
    x = np.concatenate([np.linspace(-6, most, 20001), np.logspace(-300 if dtype == "float64" else -37, 0, 2000), [0.0]])
    x = x.astype(dtype)
    want = np.array([getattr(math, name)(float(v)) for v in x])
    got = getattr(special, name)(x)
    assert got.dtype == np.dtype(dtype)
    error = np.abs(got.astype(np.float64) - want)
    assert (error <= limit * np.abs(want)).all(), f"worst {np.max(error / np.maximum(np.abs(want), 1e-320)):.3g}"


def test_error_functions_at_the_ends() -> None:
    x = np.array([np.inf, -np.inf, np.nan, -0.0, 30.0, -30.0])
    np.testing.assert_array_equal(special.erf(x), [1, -1, np.nan, 0, 1, -1])
    np.testing.assert_allclose(special.erfc(x), [0, 2, np.nan, 1, 0, 2], rtol=4e-16)
    assert np.signbit(special.erf(np.array(-0.0)))
    assert special.erf(np.zeros((0, 3))).shape == (0, 3)
    assert special.erf(np.zeros((2, 3), np.float32).T).shape == (3, 2)
