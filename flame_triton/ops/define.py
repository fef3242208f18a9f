"""How ops are defined: argument coercion, and short constructors for the families.

A public function takes Values, Python scalars and arrays, makes broadcasts and casts explicit, and builds one node
(`define`, `pointwise`, `unary`) or a few (`composed`). Whatever is wrong with its arguments, the error names the
function and the user's own line.
"""

from __future__ import annotations

import functools
import inspect
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast, overload

import numpy as np

from ..errors import DTypeError, FlameError
from ..ir.location import user_location
from ..ir.node import Node, Value, make
from ..ir.op import Op, Pointwise, Sample, call, public, register
from ..types import (
    DType,
    TensorType,
    bool_,
    broadcast_shapes,
    float32,
    int64,
    promote,
    promote_scalar,
    storage_only,
)

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
        return call("full", (), x, dtype or call_dtype(x))
    if isinstance(x, np.ndarray | list | tuple) or hasattr(x, "__array__"):
        return call("constant", x, dtype)
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
    common = _common(tensors) if tensors else call_dtype(scalars[0])
    for s in scalars:
        common = promote_scalar(common, s) if tensors else promote(common, call_dtype(s))
    if float_result and not common.is_float:
        common = float32
    it = iter(tensors)
    values = [call("full", (), plain(x), common) if is_scalar(x) else call("cast", next(it), common) for x in operands]
    return broadcast(name, *values)


def wide_operands(name: str, *operands: Operand, float_result: bool = False) -> tuple[DType, list[Value]]:
    """The dtype that promote_operands would give, and the operands broadcast and in its compute type.

    For composed functions: numbers are not rounded to 16 bits first, and the result is rounded once, by a cast.
    """
    dtype = promote_operands(name, *operands, float_result=float_result)[0].dtype
    values = [
        call("full", (), plain(x), dtype.compute)
        if is_scalar(x)
        else call("cast", call("cast", as_value(x), dtype), dtype.compute)
        for x in operands
    ]
    return dtype, broadcast(name, *values)


def _common(tensors: Sequence[Value]) -> DType:
    """torch's rule: a 0-d tensor, like a scalar, does not widen tensors with dimensions within one category."""
    strong = [v.dtype for v in tensors if v.ndim]
    weak = [v.dtype for v in tensors if not v.ndim]
    if not strong or not weak:
        return functools.reduce(promote, strong or weak)
    lead, extra = functools.reduce(promote, strong), functools.reduce(promote, weak)
    return lead if lead.is_float or (lead.is_integer and not extra.is_float) else promote(lead, extra)


def broadcast(name: str, *values: Value) -> list[Value]:
    """Values expanded to their common shape. Raises ShapeError naming the op and every shape."""
    try:
        shape = broadcast_shapes(*(v.shape for v in values))
    except FlameError as error:
        error.op, error.loc = name, user_location()
        raise
    return [v if v.shape == shape else call("broadcast_to", v, shape) for v in values]


# ---- gradient rules --------------------------------------------------------------------------------------------


def wide(x: Value) -> Value:
    """x in the dtype in which kernels compute it: float32 for 16-bit floats, else its own."""
    return call("cast", x, x.dtype.compute)


Rule: TypeAlias = Callable[..., "Value | Sequence[Value | None]"]


def in_compute_type(rule: Rule) -> Callable[[Node, Value], list[Value | None]]:
    """A gradient rule for 16-bit floats that rounds once: rule(g, y, *inputs, **attrs) works in the compute type.

    g: the cotangent of the result y. It gives one cotangent per input (or the only one), which are then cast down.
    """

    def vjp(node: Node, g: Value) -> list[Value | None]:
        found = rule(wide(g), wide(node.out), *map(wide, node.inputs), **node.attrs)
        cotangents = [found] if isinstance(found, Value) else found
        pairs = zip(cotangents, node.inputs, strict=True)
        return [None if c is None else call("cast", c, v.dtype) for c, v in pairs]

    return vjp


def flat(node: Node, g: Value) -> list[Value | None]:
    """The gradient rule of a step function: zero almost everywhere."""
    return [call("full", v.shape, 0, v.dtype) for v in node.inputs]


# ---- registration ----------------------------------------------------------------------------------------------

Samples: TypeAlias = "Callable[[], Sequence[Sample]] | None"


@dataclass(frozen=True)
class Sampled:
    """A public function together with calls of it, for the tests that the registry drives."""

    function: Callable[..., Any]
    samples: Callable[[], Sequence[Sample]]


SAMPLED: dict[str, Sampled] = {}


Function = TypeVar("Function", bound=Callable[..., Any])


class _Running(threading.local):
    """The public functions that this thread is in, the outermost first."""

    def __init__(self) -> None:
        self.names: list[str] = []


_running = _Running()


def refuse_within(x: Value) -> None:
    """Raises DTypeError for an 8-bit float, unless the user's own code calls: casts that a function makes on its own to
    compute would hide arithmetic."""
    if len(_running.names) > 1 and x.dtype.is_storage:
        raise DTypeError(storage_only(x.dtype), op=_running.names[0])


def publish(function: Function, name: str, samples: Samples, aliases: Sequence[str]) -> Function:
    """Enter a public function under its name and aliases; its errors then name it and the user's line."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        _running.names.append(name)
        try:
            return function(*args, **kwargs)
        except FlameError as error:
            error.op = error.op or name
            error.loc = error.loc or user_location()
            raise
        finally:
            _running.names.pop()

    for label in (name, *aliases):
        public(checked, label)
    if samples is not None:
        SAMPLED[name] = Sampled(checked, samples)
    return cast(Function, checked)


@overload
def composed(function: Function) -> Function: ...


@overload
def composed(*, samples: Samples = None, aliases: Sequence[str] = ()) -> Callable[[Function], Function]: ...


def composed(function: Any = None, *, samples: Samples = None, aliases: Sequence[str] = ()) -> Any:
    """Decorator on a public function that builds other ops and has none of its own."""
    if function is None:
        return functools.partial(composed, samples=samples, aliases=aliases)
    return publish(function, function.__name__, samples, aliases)


def define(
    name: str,
    *,
    infer: Callable[..., Any],
    lowering: Any,
    ref: Callable[..., Any],
    vjp: Callable[..., Sequence[Value | None]] | None = None,
    simplify: Callable[[Node], Value | None] | None = None,
    samples: Samples = None,
    unique: bool = False,
    residual: tuple[int, ...] = (),
    stores: bool = False,
    aliases: Sequence[str] = (),
) -> Callable[[Function], Function]:
    """Decorator on a public function: registers the op `name`, with the function's docstring as the op's own."""

    def decorate(function: Function) -> Function:
        checked = publish(function, function.__name__, samples, aliases)
        doc = function.__doc__ or ""
        register(Op(name, infer, lowering, ref, vjp, simplify, samples, checked, unique, residual, doc, stores))
        return checked

    return decorate


def same_type(x: TensorType, *_: TensorType, **__: Any) -> TensorType:
    """Shape rule of pointwise ops: the operands are already of one type."""
    return x


def numeric(x: TensorType, *_: TensorType, **__: Any) -> TensorType:
    """Shape rule of pointwise arithmetic that makes no sense for bool."""
    if x.dtype is bool_:
        raise DTypeError("is not defined for bool; cast to an integer type, or use a logical op")
    return x


def floating(x: TensorType, *_: TensorType, **__: Any) -> TensorType:
    """Shape rule of pointwise ops on floating tensors alone."""
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    return x


def pointwise(
    name: str,
    expr: str | Callable[[Node], str],
    ref: Callable[..., Any],
    vjp: Callable[..., Sequence[Value | None]] | None,
    *,
    doc: str,
    operands: Sequence[str] = ("x", "y"),
    infer: Callable[..., TensorType] = same_type,
    samples: Samples = None,
    simplify: Callable[[Node], Value | None] | None = None,
    shortcut: Callable[..., Value | None] | None = None,
    float_result: bool = False,
    cost: int = 1,
    aliases: Sequence[str] = (),
) -> Callable[..., Value]:
    """Define and register a pointwise op without attributes; its function promotes and broadcasts the operands.

    operands: their names, for the function's signature. float_result: integers and bools become float32 first.
    A Python number that a 16-bit float does not hold exactly is used in float32, and the result rounded, as in torch.
    shortcut: from the promoted operands to a Value that needs no such node, or None.
    """

    def function(*args: Operand) -> Value:
        if len(args) != len(operands):
            raise TypeError(f"{name}() takes {len(operands)} operands, got {len(args)}")
        values = promote_operands(name, *args, float_result=float_result)
        dtype = values[0].dtype
        once = dtype.is_low_precision and any(_loses(x, dtype) for x in args)
        if once and infer(*(v.type for v in values)).dtype is dtype:
            args = tuple(x if is_scalar(x) else wide(as_value(x)) for x in args)
            values = promote_operands(name, *args, float_result=float_result)
        found = shortcut(*values) if shortcut else None
        result = make(op, values).out if found is None else found
        return call("cast", result, dtype) if once and result.dtype.is_float else result

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{doc}\n\n{_conventions(operands, float_result)}"
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in operands], return_annotation=Value
    )
    checked = publish(function, name, samples, aliases)
    op = register(Op(name, infer, Pointwise(expr, cost), ref, vjp, simplify, samples, checked, doc=doc))
    return checked


def _conventions(operands: Sequence[str], float_result: bool) -> str:
    """What holds for every pointwise function, for its docstring."""
    text = f"{', '.join(operands)}: Values, arrays or numbers"
    text += " that broadcast as in NumPy; dtypes are promoted as in torch" if len(operands) > 1 else " of any shape"
    text += "; integers and bools become float32." if float_result else "."
    return text + " Raises ShapeError or DTypeError."


def _loses(x: Operand, dtype: DType) -> bool:
    """True for a number that `dtype` rounds."""
    return is_scalar(x) and math.isfinite(x) and float(np.asarray(x, dtype.numpy)) != x


def unary(
    name: str,
    expr: str | Callable[[Node], str],
    ref: Callable[..., Any],
    rule: Rule,
    *,
    doc: str,
    domain: tuple[float, float] = (-3.0, 3.0),
    cost: int = 12,
    aliases: Sequence[str] = (),
) -> Callable[..., Value]:
    """A floating function of one operand. rule(g, y, x): the cotangent of x; domain: where samples are drawn."""
    low, high = domain
    calls = samples(*(Sample((randn(*shape, low=low, high=high),)) for shape in ((3, 5), (17,), (1,), ())))
    return pointwise(
        name,
        expr,
        ref,
        in_compute_type(rule),
        doc=doc,
        operands=("x",),
        infer=floating,
        samples=calls,
        float_result=True,
        cost=cost,
        aliases=aliases,
    )


def samples(*calls: Sample) -> Callable[[], Sequence[Sample]]:
    """A fixed list of samples."""
    return lambda: calls


def randn(*shape: int, seed: int = 0, low: float | None = None, high: float | None = None) -> np.ndarray:
    """A reproducible float64 test array: normal, or uniform on [low, high)."""
    rng = np.random.default_rng((seed, *shape))
    if low is not None and high is not None:
        return np.asarray(rng.uniform(low, high, shape))
    return np.asarray(rng.standard_normal(shape))


def integers(*shape: int, low: int = 0, high: int, seed: int = 0) -> np.ndarray:
    """A reproducible int64 test array, uniform on [low, high)."""
    return np.asarray(np.random.default_rng((seed, *shape)).integers(low, high, shape))
