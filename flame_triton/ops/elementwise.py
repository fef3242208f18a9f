"""Arithmetic, comparisons and choice: one Triton expression, one NumPy reference, one gradient rule per op.

Expressions see operands in registers, in the compute type (float32 for 16-bit floats); `lib` is kernels/portable/library.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..ir.node import Node, Value, make
from ..ir.op import Generator, Pointwise, Sample, call, public
from ..types import DType, DTypeLike, TensorType, bool_, float32, int64, promote
from ..types import dtype as as_dtype
from .define import Operand, as_value, broadcast, call_dtype, define, is_scalar, plain, pointwise, promote_operands, randn, samples
from .leaf import constant_value

public(promote, "result_type")


def _pair(low: float = -3.0, high: float = 3.0) -> Any:
    return samples(
        Sample((randn(3, 5, low=low, high=high), randn(3, 5, seed=1, low=low, high=high))),
        Sample((randn(4, 1, 3, low=low, high=high), randn(5, 1, seed=1, low=low, high=high))),
        Sample((randn(7, low=low, high=high), 1.5)),
    )


def _unary(low: float = -3.0, high: float = 3.0) -> Any:
    return samples(Sample((randn(3, 5, low=low, high=high),)), Sample((randn(17, low=low, high=high),)))


def _add_simplify(node: Node) -> Value | None:
    """x + (-0.0) = x exactly; x + 0.0 would turn -0.0 into 0.0, so it is kept for floats."""
    x, y = node.inputs
    for a, b in ((x, y), (y, x)):
        c = constant_value(b)
        if c is not None and c == 0 and (not x.dtype.is_float or str(c) == "-0.0"):
            return a
    return None


def _mul_simplify(node: Node) -> Value | None:
    """x * 1 = x; x * 0 is kept, since x may be infinite or NaN."""
    x, y = node.inputs
    if constant_value(y) == 1:
        return x
    return y if constant_value(x) == 1 else None


add = pointwise("add", "{0} + {1}", np.add, lambda node, g: [g, g], doc="x + y.", samples=_pair(), simplify=_add_simplify)
sub = pointwise(
    "sub", "{0} - {1}", np.subtract, lambda node, g: [g, neg(g)], doc="x - y.", samples=_pair(), aliases=("subtract",),
    simplify=lambda node: node.inputs[0] if constant_value(node.inputs[1]) == 0 and str(constant_value(node.inputs[1])) != "-0.0" else None,
)
mul = pointwise(
    "mul", "{0} * {1}", np.multiply, lambda node, g: [mul(g, node.inputs[1]), mul(g, node.inputs[0])],
    doc="x * y.", samples=_pair(), simplify=_mul_simplify, aliases=("multiply",),
)
div = pointwise(
    "div", lambda node: "tl.div_rn({0}, {1})" if node.type.dtype.compute is float32 else "({0} / {1})", np.divide,
    lambda node, g: [div(g, node.inputs[1]), neg(div(mul(g, node.out), node.inputs[1]))],
    doc="x / y, in floating point (integers become float32).", samples=_pair(0.5, 3.0), float_result=True, cost=8,
    simplify=lambda node: node.inputs[0] if constant_value(node.inputs[1]) == 1 else None, aliases=("divide", "true_divide"),
)
neg = pointwise(
    "neg", "-{0}", np.negative, lambda node, g: [neg(g)], doc="-x.", samples=_unary(), aliases=("negative",),
    simplify=lambda node: node.inputs[0].node.inputs[0] if node.inputs[0].node.op.name == "neg" else None,
)
square = pointwise(
    "square", "{0} * {0}", np.square, lambda node, g: [mul(g, mul(node.inputs[0], 2.0))], doc="x * x.", samples=_unary()
)
exp = pointwise(
    "exp", "tl.exp({0})", np.exp, lambda node, g: [mul(g, node.out)], doc="e ** x.", samples=_unary(), float_result=True, cost=8
)
log = pointwise(
    "log", "tl.log({0})", np.log, lambda node, g: [div(g, node.inputs[0])], doc="The natural logarithm.",
    samples=_unary(0.1, 3.0), float_result=True, cost=8,
)
sqrt = pointwise(
    "sqrt", lambda node: "tl.sqrt_rn({0})" if node.type.dtype.compute is float32 else "tl.sqrt({0})", np.sqrt,
    lambda node, g: [div(mul(g, 0.5), node.out)], doc="The square root, correctly rounded.", samples=_unary(0.1, 3.0),
    float_result=True, cost=8,
)
rsqrt = pointwise(
    "rsqrt", "lib.rsqrt({0})", lambda x: 1 / np.sqrt(x),
    lambda node, g: [mul(g, mul(mul(node.out, mul(node.out, node.out)), -0.5))],
    doc="1 / sqrt(x).", samples=_unary(0.1, 3.0), float_result=True, cost=8,
)
sin = pointwise(
    "sin", "tl.sin({0})", np.sin, lambda node, g: [mul(g, cos(node.inputs[0]))], doc="The sine, x in radians.",
    samples=_unary(), float_result=True, cost=12,
)
cos = pointwise(
    "cos", "tl.cos({0})", np.cos, lambda node, g: [neg(mul(g, sin(node.inputs[0])))], doc="The cosine, x in radians.",
    samples=_unary(), float_result=True, cost=12,
)
tanh = pointwise(
    "tanh", "lib.tanh({0})", np.tanh, lambda node, g: [mul(g, sub(1.0, square(node.out)))], doc="The hyperbolic tangent.",
    samples=_unary(), float_result=True, cost=12,
)
sigmoid = pointwise(
    "sigmoid", "lib.sigmoid({0})", lambda x: 1 / (1 + np.exp(-x)),
    lambda node, g: [mul(g, mul(node.out, sub(1.0, node.out)))], doc="1 / (1 + exp(-x)).", samples=_unary(),
    float_result=True, cost=10,
)


def _flag(*types: TensorType) -> TensorType:
    return types[0].with_dtype(bool_)


def _comparison(name: str, symbol: str, ref: Any, doc: str, aliases: tuple[str, ...] = ()) -> Any:
    return pointwise(name, f"({{0}} {symbol} {{1}})", ref, None, doc=doc, infer=_flag, samples=_pair(), aliases=aliases)


equal = _comparison("equal", "==", np.equal, "x == y, element by element.", ("eq",))
not_equal = _comparison("not_equal", "!=", np.not_equal, "x != y, element by element.", ("ne",))
less = _comparison("less", "<", np.less, "x < y, element by element.", ("lt",))
less_equal = _comparison("less_equal", "<=", np.less_equal, "x <= y, element by element.", ("le",))
greater = _comparison("greater", ">", np.greater, "x > y, element by element.", ("gt",))
greater_equal = _comparison("greater_equal", ">=", np.greater_equal, "x >= y, element by element.", ("ge",))


def _where_vjp(node: Node, g: Value) -> list[Value | None]:
    zero = call("full", g.shape, 0, g.dtype)
    condition = node.inputs[0]
    return [None, make("where", [condition, g, zero]).out, make("where", [condition, zero, g]).out]


@define(
    "where",
    infer=lambda condition, x, y: x,
    lowering=Pointwise("tl.where({0}, {1}, {2})"),
    ref=np.where,
    vjp=_where_vjp,
    samples=samples(Sample((randn(3, 5) > 0, randn(3, 5), randn(5, seed=1))), Sample((randn(4) > 0, randn(4), 2.0))),
)
def where(condition: Operand, x: Operand, y: Operand) -> Value:
    """x where condition (non-zero), else y; the three broadcast, x and y are promoted to one dtype."""
    condition = call("cast", as_value(condition), bool_)
    x, y = promote_operands("where", x, y)
    return make("where", broadcast("where", condition, x, y)).out


def _arange_ref(*, n: int, dtype: DType) -> np.ndarray:
    return np.arange(n).astype(dtype.numpy)


@define(
    "arange",
    infer=lambda *, n, dtype: TensorType((n,), dtype),
    lowering=Generator(lambda node: "({index}).to(tl." + node.type.dtype.compute.name + ")", cost=1),
    ref=_arange_ref,
    vjp=lambda node, g: [],
)
def arange(start: int | float, stop: int | float | None = None, step: int | float = 1, dtype: DTypeLike | None = None) -> Value:
    """start, start + step, ... up to but without stop, as numpy.arange. dtype: int64 for ints, float32 for floats."""
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ArgumentError("step must not be zero", op="arange")
    n = max(0, int(np.ceil((stop - start) / step)))
    whole = all(isinstance(v, int) for v in (start, stop, step))
    chosen = as_dtype(dtype) if dtype is not None else int64 if whole else float32
    base = make("arange", [], n=n, dtype=chosen if whole else chosen).out
    scaled = base if step == 1 else mul(base, step)
    return scaled if start == 0 else add(scaled, start)
