"""How ops are defined: argument coercion, and short constructors for the families.

A public function takes Values, Python scalars and arrays, makes broadcasts and casts explicit, and builds one node.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import DTypeError, FlameError
from ..ir.location import user_location
from ..ir.node import Node, Value, make
from ..ir.op import Op, Pointwise, Sample, call, public, register
from ..types import DType, TensorType, bool_, broadcast_shapes, float32, int64, promote, promote_scalar

Operand: TypeAlias = Any
"""What a public function takes where a tensor is meant: a Value, a Python scalar, or an array."""

Scalar = (bool, int, float, np.bool_, np.integer, np.floating)


def is_scalar(x: object) -> bool:
    """True for a weak Python or NumPy scalar."""
    return isinstance(x, Scalar)


def plain(x: Any) -> bool | int | float:
    """A NumPy scalar as the Python one."""
    return x.item() if isinstance(x, np.generic) else x


def as_value(x: Operand, dtype: DType | None = None) -> Value:
    """x as a Value: arrays become constants; a scalar becomes a 0-d constant of `dtype` (or its natural type)."""
    if isinstance(x, Value):
        return x
    if is_scalar(x):
        x = plain(x)
        natural = call_dtype(x)
        return call("full", (), x, dtype or natural)
    if isinstance(x, np.ndarray | list | tuple) or hasattr(x, "__array__"):
        return call("constant", np.asarray(x), dtype)
    raise DTypeError(f"expected a Value, an array or a number, got {type(x).__name__}")


def call_dtype(x: bool | int | float) -> DType:
    """The natural dtype of a Python scalar."""
    return bool_ if isinstance(x, bool) else int64 if isinstance(x, int) else float32


def promote_operands(name: str, *operands: Operand, float_result: bool = False) -> list[Value]:
    """Operands as Values of one dtype (torch's promotion, scalars weak) and one shape (NumPy's broadcasting).

    float_result: integer and bool operands become float32 first (div, exp, ...). Errors name the op and the line.
    """
    tensors = [as_value(x) for x in operands if not is_scalar(x)]
    scalars = [plain(x) for x in operands if is_scalar(x)]
    if tensors:
        common = tensors[0].dtype
        for t in tensors[1:]:
            common = _promote_dimensioned(common, t, tensors)
        for s in scalars:
            common = promote_scalar(common, s)
    else:
        common = call_dtype(scalars[0])
        for s in scalars[1:]:
            common = promote(common, call_dtype(s))
    if float_result and not common.is_float:
        common = float32
    it = iter(tensors)
    values = [call("full", (), plain(x), common) if is_scalar(x) else call("cast", next(it), common) for x in operands]
    return broadcast(name, *values)


def _promote_dimensioned(common: DType, t: Value, tensors: Sequence[Value]) -> DType:
    """torch: a 0-d tensor, like a scalar, does not widen a tensor with dimensions within one category."""
    lead = [v for v in tensors if v.ndim]
    if not lead or all(v.ndim for v in tensors):
        return promote(common, t.dtype)
    strong = lead[0].dtype
    for v in lead[1:]:
        strong = promote(strong, v.dtype)
    for v in tensors:
        if not v.ndim:
            rank = {"b": 0, "u": 1, "i": 1, "f": 2}
            if rank[v.dtype.kind] > rank[strong.kind]:
                strong = v.dtype
    return strong


def broadcast(name: str, *values: Value) -> list[Value]:
    """Values expanded to their common shape. Raises ShapeError naming the op and every shape."""
    try:
        shape = broadcast_shapes(*(v.shape for v in values))
    except FlameError as error:
        error.op, error.loc = name, user_location()
        raise
    return [v if v.shape == shape else call("broadcast_to", v, shape) for v in values]


def same_type(*types: TensorType) -> TensorType:
    """Shape rule of pointwise ops: the operands are already of one type."""
    return types[0]


def pointwise(
    name: str,
    expr: str | Callable[[Node], str],
    ref: Callable[..., Any],
    vjp: Callable[..., Sequence[Value | None]] | None,
    *,
    doc: str,
    infer: Callable[..., TensorType] = same_type,
    samples: Callable[[], Sequence[Sample]] | None = None,
    simplify: Callable[[Node], Value | None] | None = None,
    float_result: bool = False,
    cost: int = 1,
    parameters: Sequence[str] | None = None,
    aliases: Sequence[str] = (),
) -> Callable[..., Value]:
    """Define and register a pointwise op whose public function promotes and broadcasts its operands.

    parameters: operand names, for the function's signature; default x (one operand), x and y (two).
    """
    names = list(parameters or ["x", "y", "z"][: _arity(ref)])

    def function(*operands: Operand) -> Value:
        if len(operands) != len(names):
            raise TypeError(f"{name}() takes {len(names)} operands, got {len(operands)}")
        return make(op, promote_operands(name, *operands, float_result=float_result)).out

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names], return_annotation=Value
    )
    op = register(
        Op(name, infer, Pointwise(expr, cost), ref, vjp, simplify, samples, function, doc=doc)
    )
    public(function, name)
    for alias in aliases:
        public(function, alias)
    return function


def _arity(ref: Callable[..., Any]) -> int:
    if isinstance(ref, np.ufunc):
        return ref.nin
    return sum(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        for p in inspect.signature(ref).parameters.values()
    )


def define(
    name: str,
    *,
    infer: Callable[..., Any],
    lowering: Any,
    ref: Callable[..., Any],
    vjp: Callable[..., Sequence[Value | None]] | None = None,
    simplify: Callable[[Node], Value | None] | None = None,
    samples: Callable[[], Sequence[Sample]] | None = None,
    unique: bool = False,
    residual: tuple[int, ...] = (),
    aliases: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator on a public function: registers the op `name`, with the function's docstring as the op's own."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        register(
            Op(name, infer, lowering, ref, vjp, simplify, samples, function, unique, residual, function.__doc__ or "")
        )
        public(function, function.__name__)
        for alias in aliases:
            public(function, alias)
        return function

    return decorate


def samples(*calls: Sample) -> Callable[[], Sequence[Sample]]:
    """A fixed list of samples."""
    return lambda: calls


def randn(*shape: int, seed: int = 0, low: float | None = None, high: float | None = None) -> np.ndarray:
    """A reproducible float64 test array: normal, or uniform on [low, high)."""
    rng = np.random.default_rng((seed, *shape))
    if low is not None and high is not None:
        return rng.uniform(low, high, shape)
    return rng.standard_normal(shape)
