"""Pooling: a reduction over the window axes of `windows`, so one fused kernel whatever stands before it.

Names, arguments and defaults are torch.nn.functional's. Arguments of one number hold for every axis.

max    the gradient goes to one element of each window: the first of the largest (of NaNs the last, as torch has it)
avg    windows that reach over the end of the padding (ceil_mode) count only what lies within it
lp     (sum x^p)^(1/p), zero where the sum is not positive
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Sample, call
from ..types import TensorType, bool_, int32, int64
from .define import Operand, as_value, composed, define, randn, samples, wide
from .view import broadcast_to, expand_dims, reshape
from .window import Ints, Size, numbers, spans, windows

# fmt: off
__all__ = [
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "local_response_norm", "lp_pool1d", "lp_pool2d", "lp_pool3d",
    "max_pool1d", "max_pool2d", "max_pool3d",
]
# fmt: on

NOWHERE = 2**31 - 1
"""The place of an element that is padding: above all others, so never the first of the largest."""


def image(input: Operand, n: int) -> Value:
    """The operand, if it has n axes after [N, C] or [C]. Raises ShapeError otherwise, DTypeError for bool."""
    x = as_value(input)
    if x.ndim not in (n + 1, n + 2):
        axes = ", ".join("DHW"[3 - n :])
        raise ShapeError(f"needs [N, C, {axes}] or [C, {axes}], got {x.shape}")
    if x.dtype is bool_:
        raise DTypeError("is not defined for bool")
    return x


def floating_image(input: Operand, n: int) -> Value:
    """`image`, floating. Raises DTypeError otherwise."""
    x = image(input, n)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    return x


# ---- where windows lie -----------------------------------------------------------------------------------------


def _ends(shape: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool) -> Ints:
    """Padding behind each axis such that exactly the windows that torch counts fit.

    With ceil_mode a last window may reach beyond the padding, but must start before its end.
    """
    after: list[int] = []
    for h, s, p, reach in zip(shape, stride, padding, spans(kernel, dilation), strict=True):
        room = h + 2 * p - reach
        if room < 0:
            raise ShapeError(f"a window that reaches over {reach} does not fit an axis of {h} padded by {p}")
        last = -(-room // s) if ceil_mode else room // s
        if ceil_mode and last * s >= h + p:
            last -= 1
        after.append(max(0, last * s + reach - h - p))
    return tuple(after)


def _geometry(
    x: Value, n: int, kernel_size: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: bool
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """(kernel, stride, padding before, padding after, dilation), one of each for every axis; checked."""
    kernel = numbers(kernel_size, n, "kernel_size")
    steps = kernel if stride is None or stride == () else numbers(stride, n, "stride")
    before, apart = numbers(padding, n, "padding", 0), numbers(dilation, n, "dilation")
    for p, reach in zip(before, spans(kernel, apart), strict=True):
        if p > reach // 2:
            raise ArgumentError(f"padding {p} is more than half of the window, which reaches over {reach}")
    after = _ends(x.shape[x.ndim - n :], kernel, steps, before, apart, bool(ceil_mode))
    return kernel, steps, before, after, apart


# ---- max -------------------------------------------------------------------------------------------------------


def _window_max_type(values: TensorType, places: TensorType) -> TensorType:
    n = places.ndim // 2
    return values.with_shape((*values.shape[: values.ndim - 2 * n], *values.shape[values.ndim - n :]))


def _window_axes(values: Value, places: Value) -> Ints:
    n = places.ndim // 2
    return tuple(range(values.ndim - 2 * n, values.ndim - n))


def _window_max_ref(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    n = places.ndim // 2
    return np.max(values, axis=tuple(range(values.ndim - 2 * n, values.ndim - n)))


def first_place(values: Value, most: Value, places: Value) -> Value:
    """int32: the least place at which the window holds its largest value; with NaNs, the greatest place of one."""
    axes = _window_axes(values, places)
    there = broadcast_to(places, values.shape)
    found = call("equal", values, broadcast_to(expand_dims(most, axes), values.shape))
    key = call("where", found, there, NOWHERE)
    if values.dtype.is_float:
        key = call("where", call("isnan", values), call("sub", -1, there), key)
    least = call("min", key, axis=axes)
    return call("where", call("less", least, 0), call("sub", -1, least), least)


def _window_max_vjp(node: Node, g: Value) -> list[Value | None]:
    values, places = node.inputs
    axes = _window_axes(values, places)
    first = broadcast_to(expand_dims(first_place(values, node.out, places), axes), values.shape)
    hit = call("equal", broadcast_to(places, values.shape), first)
    return [call("where", hit, broadcast_to(expand_dims(g, axes), values.shape), 0.0), None]


@define(
    "window_max",
    infer=_window_max_type,
    lowering=Composite(lambda node: call("max", node.inputs[0], axis=_window_axes(*node.inputs))),
    ref=_window_max_ref,
    vjp=_window_max_vjp,
    samples=samples(
        Sample((randn(2, 3, 4), np.arange(12).reshape(3, 4))), Sample((np.ones((2, 2)), np.eye(2, dtype=int)), grad=())
    ),
)
def window_max(values: Operand, places: Operand) -> Value:
    """[..., kh, kw, oh, ow] -> [..., oh, ow]: the largest of each window; its gradient goes to one element.

    places [kh, kw, oh, ow]: integers by which elements are told apart; of equal ones the least is taken.
    """
    return make("window_max", [as_value(values), call("cast", as_value(places), int32)]).out


def lowest(x: Value) -> float | int:
    """What is never larger than an element of x."""
    return -math.inf if x.dtype.is_float else int(np.iinfo(x.dtype.numpy).min)


def pooled_max(values: Value, places: Value, return_indices: bool) -> Value | tuple[Value, Value]:
    """window_max and, if asked for, the places of the largest as int64."""
    most = window_max(values, places)
    if not return_indices:
        return most
    first = first_place(values, most, places)
    return most, call("cast", first, int64)


def _max_pool(
    n: int,
    input: Operand,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilation: Size,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    x = image(input, n)
    kernel, steps, before, after, apart = _geometry(x, n, kernel_size, stride, padding, dilation, ceil_mode)
    plane = x.shape[x.ndim - n :]
    places = reshape(call("arange", math.prod(plane), dtype=int32), plane)
    places = windows(places, kernel, steps, apart, before, after, NOWHERE)
    return pooled_max(windows(x, kernel, steps, apart, before, after, lowest(x)), places, return_indices)


@composed(
    samples=samples(
        Sample((randn(2, 3, 9), 3)),
        Sample((randn(3, 10), 3, 2, 1), {"ceil_mode": True}),
        Sample((randn(2, 2, 11), 3), {"stride": 2, "dilation": 2, "return_indices": True}),
    )
)
def max_pool1d(
    input: Operand,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest of each window: [N, C, L] or [C, L]. See max_pool2d."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composed(
    samples=samples(
        Sample((randn(2, 3, 6, 4), 2)),
        Sample((randn(2, 7, 6), (3, 2)), {"stride": (2, 1), "padding": 1, "ceil_mode": True}),
        Sample(
            (np.round(randn(1, 2, 5, 7)), 3),
            {
                "stride": 2,
                "padding": 1,
                "return_indices": True,
            },
            grad=(),
        ),
        Sample((np.arange(24).reshape(1, 4, 6) % 7, 3), {"padding": 1}),
    )
)
def max_pool2d(
    input: Operand,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest of each window: [N, C, H, W] or [C, H, W] -> [..., oh, ow]; stride: kernel_size by default.

    Padding never wins. NaN if there is one. Of equal elements the first has the gradient. return_indices: also int64
    [..., oh, ow], where in the flattened plane H * W each was. ceil_mode: windows that reach over the end count too.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@composed(
    samples=samples(
        Sample((randn(1, 2, 4, 2, 4), 2)),
        Sample((randn(2, 3, 4, 3), (3, 2, 1)), {"stride": (1, 2, 1), "padding": (1, 0, 0), "return_indices": True}),
    )
)
def max_pool3d(
    input: Operand,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest of each window: [N, C, D, H, W] or [C, D, H, W]. See max_pool2d."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


# ---- average ---------------------------------------------------------------------------------------------------


def _counted(plane: Ints, kernel: Ints, stride: Ints, before: Ints, after: Ints, padding_counts: bool) -> np.ndarray:
    """How many elements each window averages over, float64 [oh, ow]."""
    total = np.ones(())
    for h, k, s, b, a in zip(plane, kernel, stride, before, after, strict=True):
        start = np.arange(0, h + b + a - k + 1, s) - b
        low, high = (-b, h + b) if padding_counts else (0, h)
        total = total[..., None] * (np.minimum(start + k, high) - np.maximum(start, low))
    return total


def _avg_pool(
    n: int,
    input: Operand,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Value:
    x = floating_image(input, n)
    kernel, steps, before, after, apart = _geometry(x, n, kernel_size, stride, padding, 1, ceil_mode)
    lead = x.ndim - n
    found = windows(wide(x), kernel, steps, apart, before, after)
    total = call("sum", found, axis=tuple(range(lead, lead + n)))
    if divisor_override is not None:
        if divisor_override == 0:
            raise ArgumentError("divisor_override must not be 0")
        return call("cast", call("div", total, float(divisor_override)), x.dtype)
    counts = _counted(x.shape[lead:], kernel, steps, before, after, count_include_pad)
    same = counts.size and (counts == counts.flat[0]).all()
    divisor = float(counts.flat[0]) if same else call("constant", counts, total.dtype)
    return call("cast", call("div", total, divisor), x.dtype)


@composed(
    samples=samples(
        Sample((randn(2, 3, 9), 3)),
        Sample((randn(3, 10), 4, 3), {"padding": 2, "ceil_mode": True, "count_include_pad": False}),
    )
)
def avg_pool1d(
    input: Operand,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Value:
    """The mean of each window: [N, C, L] or [C, L]. See avg_pool2d."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@composed(
    samples=samples(
        Sample((randn(2, 3, 6, 4), 2)),
        Sample((randn(2, 7, 6), (3, 2)), {"stride": (2, 1), "padding": 1, "ceil_mode": True}),
        Sample((randn(1, 2, 5, 7), 3), {"stride": 2, "padding": 1, "count_include_pad": False}),
        Sample((randn(1, 5, 4), 2), {"divisor_override": 3}),
    )
)
def avg_pool2d(
    input: Operand,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """The mean of each window: [N, C, H, W] or [C, H, W] -> [..., oh, ow]; stride: kernel_size by default.

    Padding counts as zeros, or with count_include_pad=False not at all. divisor_override: what sums are divided by.
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@composed(
    samples=samples(
        Sample((randn(1, 2, 4, 2, 4), 2)),
        Sample((randn(2, 3, 4, 3), (3, 2, 1)), {"stride": (1, 2, 1), "padding": (1, 0, 0), "count_include_pad": False}),
    )
)
def avg_pool3d(
    input: Operand,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """The mean of each window: [N, C, D, H, W] or [C, D, H, W]. See avg_pool2d."""
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


# ---- norms -----------------------------------------------------------------------------------------------------


def _lp_pool(n: int, input: Operand, p: float, kernel_size: Size, stride: Size | None, ceil_mode: bool) -> Value:
    x = floating_image(input, n)
    if not p:
        raise ArgumentError("norm_type must not be 0")
    powers = call("square", wide(x)) if p == 2 else call("pow", wide(x), p)
    mean = _avg_pool(n, powers, kernel_size, stride, 0, ceil_mode, True, None)
    total = call("mul", mean, float(math.prod(numbers(kernel_size, n, "kernel_size"))))
    none = call("less_equal", total, 0.0)
    root = call("pow", call("where", none, 1.0, total), 1 / p)
    return call("cast", call("where", none, 0.0, root), x.dtype)


@composed(samples=samples(Sample((randn(2, 3, 9), 2, 3)), Sample((randn(3, 8, low=0.5, high=2.0), 3.0, 3, 2))))
def lp_pool1d(
    input: Operand, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Value:
    """(sum x^p)^(1/p) of each window: [N, C, L] or [C, L]; 0 where the sum is not positive, and so is the gradient."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


@composed(
    samples=samples(Sample((randn(2, 3, 4, 6), 2, 2)), Sample((randn(1, 5, 4), 4, (2, 3), (2, 1)), {"ceil_mode": True}))
)
def lp_pool2d(
    input: Operand, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Value:
    """(sum x^p)^(1/p) of each window: [N, C, H, W] or [C, H, W]. See lp_pool1d."""
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


@composed(samples=samples(Sample((randn(1, 2, 4, 2, 3), 2, (2, 2, 3)))))
def lp_pool3d(
    input: Operand, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Value:
    """(sum x^p)^(1/p) of each window: [N, C, D, H, W] or [C, D, H, W]. See lp_pool1d."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


@composed(samples=samples(Sample((randn(2, 5, 3), 3)), Sample((randn(1, 4, 2, 3), 2), {"alpha": 0.5, "k": 2.0})))
def local_response_norm(input: Operand, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Value:
    """x / (k + alpha * mean of x^2 over `size` neighbouring channels)^beta; [N, C, ...] (Krizhevsky et al. 2012)."""
    x = as_value(input)
    if x.ndim < 3:
        raise ShapeError(f"needs [N, C, ...] of three axes or more, got {x.shape}")
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    (size,) = numbers(size, 1, "size")
    ones, still = [1] * (x.ndim - 2), [0] * (x.ndim - 2)
    squares = call("square", wide(x))
    near = windows(squares, (size, *ones), before=(size // 2, *still), after=((size - 1) // 2, *still))
    mean = call("div", call("sum", near, axis=tuple(range(1, x.ndim))), float(size))
    scale = call("pow", call("add", call("mul", mean, alpha), k), beta)
    return call("cast", call("div", wide(x), scale), x.dtype)
