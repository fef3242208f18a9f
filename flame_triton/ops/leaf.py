"""Where values come from: inputs, parameters, constants; and the two ops that change nothing but type or gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError
from ..ir.node import Node, Value, make
from ..ir.op import Generator, Leaf, Pointwise, Sample, call
from ..types import DType, DTypeLike, TensorType, bool_, check_shape, float32, int64
from ..types import dtype as as_dtype
from .define import as_value, composed, define, is_scalar, plain, randn, refuse_within, samples

# fmt: off
__all__ = [
    "arange", "cast", "constant", "full", "full_like", "input", "ones", "ones_like", "parameter", "stop_gradient",
    "zeros", "zeros_like",
]
# fmt: on


def _leaf_type(*, shape: tuple[int, ...], dtype: DType, **_: Any) -> TensorType:
    return TensorType(shape, dtype)


def _no_ref(*_: Any, **__: Any) -> Any:
    raise ArgumentError("a leaf has no value of its own")


@define("input", infer=_leaf_type, lowering=Leaf(), ref=_no_ref, unique=True)
def input(shape: Sequence[int] | int, dtype: DTypeLike = float32, name: str | None = None) -> Value:
    """A placeholder for an array given at each call.

    shape: static, in elements; dtype: one of the supported types; name: optional, used in messages and pictures.
    """
    return make("input", [], shape=check_shape(shape), dtype=as_dtype(dtype), name=_check_name(name)).out


@define("parameter", infer=_leaf_type, lowering=Leaf(), ref=_no_ref, unique=True)
def parameter(
    shape: Sequence[int] | int,
    dtype: DTypeLike = float32,
    name: str | None = None,
    init: Any = None,
    trainable: bool = True,
    implicit: bool = False,
) -> Value:
    """A value that a State owns: weights, moments, statistics, seeds.

    init: an array of this shape, a number, or an initialiser `f(shape, rng) -> float32 array` (see ft.nn.init);
    None means zeros. trainable: listed by `Module.parameters()`; it changes nothing else. implicit: the name follows
    from a structure, as in a Module, and may occur again; names that a user chooses may not.
    """
    shape = check_shape(shape)
    if init is not None and not callable(init) and not is_scalar(init):
        init = np.asarray(init)
        if init.shape != shape:
            raise ArgumentError(f"init has shape {init.shape}, the parameter has {shape}", op="parameter")
    attrs = {"shape": shape, "dtype": as_dtype(dtype), "name": _check_name(name), "init": init, "trainable": trainable}
    return make("parameter", [], **attrs, implicit=implicit).out


def _check_name(name: str | None) -> str | None:
    if name is not None and (not isinstance(name, str) or not name):
        raise ArgumentError(f"name must be a non-empty string, got {name!r}")
    return name


def _constant_type(*, array: np.ndarray, dtype: DType) -> TensorType:
    return TensorType(array.shape, dtype)


@define("constant", infer=_constant_type, lowering=Leaf(), ref=lambda *, array, dtype: dtype.convert(array))
def constant(array: Any, dtype: DTypeLike | None = None) -> Value:
    """An array known when the graph is built, held in device memory.

    dtype: default the array's own; numbers and lists of Python floats become float32.
    """
    data = np.array(array)
    own = as_dtype(float if data.dtype == np.float64 and not hasattr(array, "dtype") else data.dtype)
    chosen = as_dtype(dtype) if dtype is not None else own
    if not data.ndim:
        return cast(full((), data.item(), own), chosen)
    data.setflags(write=False)
    return make("constant", [], array=data, dtype=chosen).out


def literal(value: bool | int | float) -> str:
    """A Python scalar as Triton source."""
    if isinstance(value, bool | int):
        return repr(value) if value >= 0 else f"({value!r})"
    if value != value:
        return 'float("nan")'
    if value in (float("inf"), float("-inf")):
        return 'float("inf")' if value > 0 else '(-float("inf"))'
    return repr(value) if str(value)[0] != "-" else f"({value!r})"


def _full_type(*, shape: tuple[int, ...], value: Any, dtype: DType) -> TensorType:
    return TensorType(shape, dtype)


def _full_ref(*, shape: tuple[int, ...], value: Any, dtype: DType) -> np.ndarray:
    return np.broadcast_to(dtype.convert(np.asarray(value)), shape)


@define(
    "full",
    infer=_full_type,
    lowering=Pointwise(lambda node: literal(node.attrs["value"]), cost=0),
    ref=_full_ref,
    vjp=lambda node, g: [],
    stores=True,
    samples=samples(Sample(((2, 3), 1.5)), Sample(((4,), 7)), Sample(((), True)), Sample(((2,), -2.0, "int64"))),
)
def full(shape: Sequence[int] | int, fill_value: bool | int | float, dtype: DTypeLike | None = None) -> Value:
    """Every element equal to fill_value. dtype: default float32 for a float, int64 for an int, bool for a bool.

    The node keeps the number as given and rounds it to the dtype when it runs, so that the float64 oracle sees 0.1.
    """
    value = plain(fill_value)
    if not is_scalar(value):
        raise ArgumentError(f"fill_value must be a number, got {fill_value!r}")
    chosen = as_dtype(dtype) if dtype is not None else as_dtype(type(value))
    return make("full", [], shape=check_shape(shape), value=_fitting(value, chosen), dtype=chosen).out


def _fitting(value: bool | int | float, dtype: DType) -> bool | int | float:
    """`value` as the Python type that `dtype` stands for. Raises DTypeError if an integer type does not hold it."""
    if dtype.is_float:
        return float(value)
    if dtype is bool_:
        return bool(value)
    limits = np.iinfo(dtype.numpy)
    if not limits.min <= value <= limits.max or value != int(value):
        raise DTypeError(f"{dtype} does not hold {value}")
    return int(value)


@composed(samples=samples(Sample(((2, 3),)), Sample(((4,), "int32"))))
def zeros(shape: Sequence[int] | int, dtype: DTypeLike = float32) -> Value:
    """Zeros of `shape` and `dtype`."""
    return full(shape, 0, dtype)


@composed(samples=samples(Sample(((2, 3),)), Sample(((4,), "bool"))))
def ones(shape: Sequence[int] | int, dtype: DTypeLike = float32) -> Value:
    """Ones of `shape` and `dtype`."""
    return full(shape, 1, dtype)


@composed(samples=samples(Sample((randn(3, 5),), grad=())))
def zeros_like(x: Value, dtype: DTypeLike | None = None) -> Value:
    """Zeros of x's shape; dtype: default x's."""
    return full(x.shape, 0, dtype or x.dtype)


@composed(samples=samples(Sample((randn(3, 5),), grad=())))
def ones_like(x: Value, dtype: DTypeLike | None = None) -> Value:
    """Ones of x's shape; dtype: default x's."""
    return full(x.shape, 1, dtype or x.dtype)


@composed(samples=samples(Sample((randn(3, 5), -0.5), grad=())))
def full_like(x: Value, fill_value: bool | int | float, dtype: DTypeLike | None = None) -> Value:
    """fill_value in x's shape; dtype: default x's."""
    return full(x.shape, fill_value, dtype or x.dtype)


def representable(value: bool | int | float, dtype: DType) -> bool:
    """True if `dtype` holds the number exactly (NaN counts)."""
    held = np.asarray(value).astype(dtype.numpy).item()
    return bool(held == value) or (held != held and value != value)


def constant_value(value: Value) -> bool | int | float | None:
    """The number that fills `value` if it is a `full`, seen through views; else None. Used by algebraic rules."""
    node = value.node
    while node.op.name in ("broadcast_to", "reshape", "transpose"):
        node = node.inputs[0].node
    return node.attrs["value"] if node.op.name == "full" else None


def _cast_expr(node: Node) -> str:
    source, target = node.inputs[0].dtype, node.type.dtype
    if target is bool_:
        return "({0} != 0)"
    if source is bool_ and target.is_float:
        return "{0}.to(tl.int32).to(tl." + target.compute.name + ")"
    return "{0}.to(tl." + target.compute.name + ")"


def _cast_ref(x: np.ndarray, *, dtype: DType) -> np.ndarray:
    if dtype is bool_:
        return x != 0
    with np.errstate(invalid="ignore", over="ignore"):
        return dtype.convert(x)


def _cast_simplify(node: Node) -> Value | None:
    """cast(cast(x, wide), narrow) = cast(x, narrow) if widening lost nothing; a cast of a `full` is a `full`."""
    source = node.inputs[0]
    if source.dtype is node.type.dtype:
        return source
    if source.node.op.name == "full" and representable(source.node.attrs["value"], source.dtype):
        value, target = source.node.attrs["value"], node.type.dtype
        value = value if target.is_float else _cast_ref(np.asarray(value), dtype=target).item()
        return full(source.shape, value, target)
    if source.node.op.name == "cast":
        first = source.node.inputs[0]
        widened = source.dtype.is_float and first.dtype.is_float and source.dtype.itemsize > first.dtype.itemsize
        if widened:
            return cast(first, node.type.dtype)
    return None


@define(
    "cast",
    infer=lambda x, *, dtype: TensorType(x.shape, dtype),
    lowering=Pointwise(_cast_expr),
    ref=_cast_ref,
    vjp=lambda node, g: [call("cast", g, node.inputs[0].dtype.gradient) if node.inputs[0].dtype.is_float else None],
    simplify=_cast_simplify,
    stores=True,
    samples=samples(
        Sample((np.round(randn(3, 5) * 64) / 64, "float32")),
        Sample((randn(7) * 50, "int32")),
        Sample((randn(3, 5), "bool")),
        Sample((np.arange(5), "float64")),
        Sample((np.arange(-16, 17) / 16, "float8_e4m3fn")),
        Sample((np.arange(-8, 9) / 64, "float8_e5m2")),
    ),
    aliases=("astype",),
)
def cast(x: Value, dtype: DTypeLike) -> Value:
    """x in another dtype: floats round to nearest even, floats to integers truncate, anything to bool is x != 0.

    To 8-bit floats by way of float32, as torch 2.13 and newer: what lies beyond float8_e4m3fn, infinities too, becomes
    +-448, beyond float8_e5m2 an infinity; NaN stays NaN. A gradient in an 8-bit float is float32, and is not rounded
    where it passes such a value.
    """
    x = as_value(x)
    target = as_dtype(dtype)
    if x.dtype is not target:
        refuse_within(x)
    return x if x.dtype is target else make("cast", [x], dtype=target).out


@define(
    "stop_gradient",
    infer=lambda x: x,
    lowering=Pointwise("{0}", cost=0),
    ref=lambda x: x,
    vjp=lambda node, g: [None],
    stores=True,
    samples=samples(Sample((randn(3, 5),), grad=())),
    aliases=("detach",),
)
def stop_gradient(x: Value) -> Value:
    """x itself, with no gradient: what it was computed from is severed for `grad`."""
    return make("stop_gradient", [as_value(x)]).out


def _arange_ref(*, n: int, dtype: DType) -> np.ndarray:
    return np.arange(n).astype(dtype.numpy)


@define(
    "arange",
    infer=lambda *, n, dtype: TensorType((n,), dtype),
    lowering=Generator(lambda node: "({index}).to(tl." + node.type.dtype.compute.name + ")"),
    ref=_arange_ref,
    vjp=lambda node, g: [],
    samples=samples(Sample((7,)), Sample((3, 12, 4)), Sample((5, -2, -3)), Sample((0.5, 2.1, 0.25)), Sample((3, 3))),
)
def arange(
    start: int | float, stop: int | float | None = None, step: int | float = 1, dtype: DTypeLike | None = None
) -> Value:
    """start + i * step for i = 0, 1, ... up to but without stop, as numpy.arange.

    dtype: default int64 if all three are ints, else float32; an integer type needs integers. Floats are computed in
    float32 (float64 for float64) and rounded once.
    """
    if stop is None:
        start, stop = 0, start
    if step == 0 or not all(math.isfinite(v) for v in (start, stop, step)):
        raise ArgumentError(f"start, stop and step must be finite and step not zero, got {start}, {stop}, {step}")
    whole = all(isinstance(v, int) for v in (start, stop, step))
    chosen = as_dtype(dtype) if dtype is not None else int64 if whole else float32
    if chosen is bool_ or (chosen.is_integer and not whole):
        raise DTypeError(f"cannot count from {start} to {stop} by {step} in {chosen}")
    n = max(0, math.ceil((stop - start) / step))
    result = make("arange", [], n=n, dtype=chosen.compute).out
    result = result if step == 1 else call("mul", result, step)
    result = result if start == 0 else call("add", result, start)
    return cast(result, chosen)
