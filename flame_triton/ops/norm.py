"""Normalisation. Statistics are float32 for 16-bit floats, and saved per row: backward recomputes what is normalised.

With xh = (x - mean) rstd over N elements, y = xh w + b and h = g w:
    dx = rstd (h - mean(h) - xh mean(h xh)),  dw = sum over rows of g xh,  db = sum over rows of g.
The statistics are outputs of the node, so a second derivative reaches them as cotangents:
    d mean / dx = 1 / N,  d rstd / dx = -rstd^2 xh / N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Sample, call
from ..types import TensorType, check_shape
from .arithmetic import add, mul, square, sub
from .define import Operand, as_value, composed, define, randn, samples, wide
from .elementary import rsqrt
from .reduce import mean, sum

__all__ = ["ada_layer_norm", "layer_norm", "modulate", "rms_norm"]


def _axes(x: TensorType | Value, dims: int) -> tuple[int, ...]:
    return tuple(range(len(x.shape) - dims, len(x.shape)))


def _row_type(x: TensorType, dims: int) -> TensorType:
    """One number per row, in the compute type."""
    return TensorType((*x.shape[: len(x.shape) - dims], *(1,) * dims), x.dtype.compute)


def _check(x: TensorType, affine: Sequence[TensorType], dims: int) -> None:
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    for t in affine:
        if t.shape != x.shape[len(x.shape) - dims :]:
            raise ShapeError(f"weight and bias must have shape {x.shape[len(x.shape) - dims :]}, got {t.shape}")
        if not t.dtype.is_float:
            raise DTypeError(f"weight and bias must be floating, got {t.dtype}")


def _normalized_axes(x: Value, normalized_shape: int | Sequence[int]) -> int:
    """How many trailing axes `normalized_shape` names. Raises ShapeError if they are not the last ones of x."""
    shape = check_shape(normalized_shape, "normalized_shape")
    if not shape or x.shape[-len(shape) :] != shape:
        raise ShapeError(f"normalized_shape {shape} is not the end of x's shape {x.shape}")
    return len(shape)


def _rows_sum(g: Value, like: Value) -> Value:
    """The cotangent of something added to, or multiplied with, every row."""
    lead = g.ndim - like.ndim
    return call("cast", sum(g, tuple(range(lead))) if lead else g, like.dtype)


# ---- layer_norm ------------------------------------------------------------------------------------------------


def _layer_norm_type(x: TensorType, *affine: TensorType, dims: int, eps: float, **_: bool) -> tuple[TensorType, ...]:
    _check(x, affine, dims)
    return x, _row_type(x, dims), _row_type(x, dims)


def _affine(node: Node) -> tuple[Value | None, Value | None]:
    """The node's weight and bias."""
    rest = list(node.inputs[1:])
    weight = rest.pop(0) if node.attrs["weight"] else None
    return weight, rest.pop(0) if node.attrs.get("bias") else None


def _scale_and_shift(xh: Value, weight: Value | None, bias: Value | None, like: Value) -> Value:
    y = xh if weight is None else mul(xh, call("cast", weight, xh.dtype))
    y = y if bias is None else add(y, call("cast", bias, xh.dtype))
    return call("cast", y, like.dtype)


def _layer_norm_build(node: Node) -> list[Value]:
    x, axes = wide(node.inputs[0]), _axes(node.inputs[0], node.attrs["dims"])
    m = mean(x, axes, keepdims=True)
    centred = sub(x, m)
    rstd = rsqrt(add(mean(square(centred), axes, keepdims=True), node.attrs["eps"]))
    weight, bias = _affine(node)
    return [_scale_and_shift(mul(centred, rstd), weight, bias, node.inputs[0]), m, rstd]


def _layer_norm_ref(x: np.ndarray, *affine: np.ndarray, dims: int, eps: float, weight: bool, bias: bool) -> Any:
    axes = tuple(range(x.ndim - dims, x.ndim))
    m = x.mean(axes, keepdims=True)
    y = x - m
    rstd = 1 / np.sqrt(np.mean(y * y, axes, keepdims=True) + x.dtype.type(eps))
    y *= rstd
    if weight:
        y *= affine[0]
    if bias:
        y += affine[-1]
    return y, m, rstd


def _layer_norm_vjp(node: Node, g: Value | None, g_mean: Value | None, g_rstd: Value | None) -> list[Value | None]:
    x, (_, m, rstd) = wide(node.inputs[0]), node.outputs
    weight, bias = _affine(node)
    axes = _axes(x, node.attrs["dims"])
    n = math.prod(x.shape[a] for a in axes)
    xh = mul(sub(x, m), rstd)
    parts: list[Value] = []
    affine: list[Value | None] = []
    if g is not None:
        g = wide(g)
        h = g if weight is None else mul(g, call("cast", weight, g.dtype))
        inner = sub(sub(h, mean(h, axes, keepdims=True)), mul(xh, mean(mul(h, xh), axes, keepdims=True)))
        parts.append(mul(inner, rstd))
        affine += [] if weight is None else [_rows_sum(mul(g, xh), weight)]
        affine += [] if bias is None else [_rows_sum(g, bias)]
    if g_mean is not None:
        parts.append(call("broadcast_to", mul(g_mean, 1 / n), x.shape))
    if g_rstd is not None:
        parts.append(mul(xh, mul(mul(g_rstd, -1 / n), square(rstd))))
    affine += [None] * (len(node.inputs) - 1 - len(affine))
    return [call("cast", _total(parts), node.inputs[0].dtype), *affine]


def _total(parts: Sequence[Value]) -> Value:
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    return total


@define(
    "layer_norm",
    infer=_layer_norm_type,
    lowering=Composite(_layer_norm_build),
    ref=_layer_norm_ref,
    vjp=_layer_norm_vjp,
    samples=samples(
        Sample((randn(4, 7), 7, randn(7, seed=1), randn(7, seed=2))),
        Sample((randn(2, 3, 5), (3, 5))),
        Sample((randn(2, 3, 5), (5,), randn(5, seed=1)), {"eps": 0.1}),
        Sample((randn(3, 5), 5), {"bias": None}),
        Sample((randn(5), 5, randn(5, seed=1), randn(5, seed=2))),
    ),
)
def layer_norm(
    x: Operand,
    normalized_shape: int | Sequence[int],
    weight: Operand | None = None,
    bias: Operand | None = None,
    eps: float = 1e-5,
) -> Value:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes, var without correction. Ba et al. 2016.

    x: [..., *normalized_shape]; weight, bias: normalized_shape, of any floating dtype; the result has x's dtype.
    """
    x = as_value(x)
    dims = _normalized_axes(x, normalized_shape)
    inputs = [x, *(as_value(v) for v in (weight, bias) if v is not None)]
    attrs = {"weight": weight is not None, "bias": bias is not None}
    return make("layer_norm", inputs, dims=dims, eps=float(eps), **attrs).outputs[0]


# ---- rms_norm --------------------------------------------------------------------------------------------------


def _rms_norm_type(x: TensorType, *affine: TensorType, dims: int, eps: float, weight: bool) -> tuple[TensorType, ...]:
    _check(x, affine, dims)
    return x, _row_type(x, dims)


def _rms_norm_build(node: Node) -> list[Value]:
    x, axes = wide(node.inputs[0]), _axes(node.inputs[0], node.attrs["dims"])
    rstd = rsqrt(add(mean(square(x), axes, keepdims=True), node.attrs["eps"]))
    return [_scale_and_shift(mul(x, rstd), _affine(node)[0], None, node.inputs[0]), rstd]


def _rms_norm_ref(x: np.ndarray, *affine: np.ndarray, dims: int, eps: float, weight: bool) -> Any:
    axes = tuple(range(x.ndim - dims, x.ndim))
    rstd = 1 / np.sqrt(np.mean(x * x, axes, keepdims=True) + x.dtype.type(eps))
    y = x * rstd
    return (y * affine[0] if weight else y), rstd


def _rms_norm_vjp(node: Node, g: Value | None, g_rstd: Value | None) -> list[Value | None]:
    """With xh = x rstd: dx = rstd (h - xh mean(h xh)); d rstd / dx = -rstd^2 xh / N."""
    x, (_, rstd) = wide(node.inputs[0]), node.outputs
    weight, _ = _affine(node)
    axes = _axes(x, node.attrs["dims"])
    xh = mul(x, rstd)
    parts: list[Value] = []
    affine: list[Value | None] = [None] * (weight is not None)
    if g is not None:
        g = wide(g)
        h = g if weight is None else mul(g, call("cast", weight, g.dtype))
        parts.append(mul(sub(h, mul(xh, mean(mul(h, xh), axes, keepdims=True))), rstd))
        affine = [] if weight is None else [_rows_sum(mul(g, xh), weight)]
    if g_rstd is not None:
        n = math.prod(x.shape[a] for a in axes)
        parts.append(mul(xh, mul(mul(g_rstd, -1 / n), square(rstd))))
    return [call("cast", _total(parts), node.inputs[0].dtype), *affine]


@define(
    "rms_norm",
    infer=_rms_norm_type,
    lowering=Composite(_rms_norm_build),
    ref=_rms_norm_ref,
    vjp=_rms_norm_vjp,
    samples=samples(
        Sample((randn(4, 7), 7, randn(7, seed=1)), {"eps": 1e-6}),
        Sample((randn(2, 3, 5), (3, 5)), {"eps": 0.1}),
        Sample((randn(2, 3, 5), (5,), randn(5, seed=1))),
        Sample((randn(5), 5)),
    ),
)
def rms_norm(
    x: Operand, normalized_shape: int | Sequence[int], weight: Operand | None = None, eps: float | None = None
) -> Value:
    """x / sqrt(mean(x^2) + eps) * weight over the last axes; eps: default the machine epsilon of x's dtype.

    x: [..., *normalized_shape]; weight: normalized_shape; the result has x's dtype. Zhang and Sennrich 2019.
    """
    x = as_value(x)
    dims = _normalized_axes(x, normalized_shape)
    inputs = [x] if weight is None else [x, as_value(weight)]
    chosen = (x.dtype.eps if x.dtype.is_float else 0.0) if eps is None else float(eps)
    return make("rms_norm", inputs, dims=dims, eps=chosen, weight=weight is not None).outputs[0]


# ---- modulation ------------------------------------------------------------------------------------------------


def _per_sample(x: Value, v: Operand, name: str) -> Value:
    """v for every element of x: [N, C] for x [N, ..., C], or what broadcasts to x. In x's compute type."""
    v = as_value(v)
    if not v.dtype.is_float:
        raise DTypeError(f"{name} must be floating, got {v.dtype}")
    shape = v.shape
    if v.ndim == 2 and x.ndim > 2:
        shape = (shape[0], *(1,) * (x.ndim - 2), shape[1])
    if len(shape) > x.ndim or any(d not in (1, n) for d, n in zip(shape[::-1], x.shape[::-1], strict=False)):
        raise ShapeError(f"{name} {v.shape} fits x {x.shape} neither as [N, C] nor, with another rank, by broadcasting")
    return call("cast", call("reshape", v, shape), x.dtype.compute)


@composed(
    samples=samples(
        Sample((randn(2, 3, 4), randn(2, 4, seed=1), randn(2, 4, seed=2))),
        Sample((randn(2, 3, 4), randn(2, 1, 4, seed=1), randn(4, seed=2))),
        Sample((randn(2, 2, 3, 4), randn(1, 4, seed=1), randn(2, 4, seed=2))),
        Sample((randn(3, 4), randn(3, 4, seed=1), randn(1, 4, seed=2))),
    )
)
def modulate(x: Operand, shift: Operand, scale: Operand) -> Value:
    """x * (1 + scale) + shift, in x's dtype: adaLN, Peebles and Xie 2023. Mind the order: shift comes first.

    x: [N, ..., C]; shift, scale: [N, C], one row for each sample, or of another rank and broadcasting to x. Computed
    in float32 for 16-bit x and rounded once; after a norm it is part of the norm's kernel.
    """
    return _modulate(as_value(x), shift, scale)


def _modulate(x: Value, shift: Operand, scale: Operand) -> Value:
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    shift, scale = _per_sample(x, shift, "shift"), _per_sample(x, scale, "scale")
    return call("cast", add(mul(wide(x), add(scale, 1.0)), shift), x.dtype)


@composed(
    samples=samples(
        Sample((randn(2, 3, 4), randn(2, 4, seed=1), randn(2, 4, seed=2))),
        Sample((randn(3, 5), randn(3, 5, seed=1), randn(3, 5, seed=2)), {"eps": 0.1}),
    )
)
def ada_layer_norm(x: Operand, shift: Operand, scale: Operand, eps: float = 1e-6) -> Value:
    """modulate(layer_norm(x), shift, scale) over the last axis, without weight and bias, rounded once.

    x: [N, ..., C]; shift, scale: as in `modulate`.
    """
    x = as_value(x)
    if not x.ndim:
        raise ShapeError("x must be [N, ..., C], got ()")
    return call("cast", _modulate(layer_norm(wide(x), x.shape[-1], eps=eps), shift, scale), x.dtype)
