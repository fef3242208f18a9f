"""Convolution over one to three spatial axes, channels-last, and its two gradients; conv.py has torch's functions.

    y[n, o, g K + k] = sum over taps r and channels c of  x[n, o s - p + r d, g C + c] w[g K + k, r, c]

with stride s, padding p in front, dilation d and groups g. It is bilinear, and its two gradients

    dx[n, i, g C + c]  = sum over taps r and channels k, o s = i + p - r d, of  dy[n, o, g K + k] w[g K + k, r, c]
    dw[g K + k, r, c]  = sum over n and o of  dy[n, o, g K + k] x[n, o s - p + r d, g C + c]

are bilinear too, with each other as gradients.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from ..errors import DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Kernel, call
from ..types import DType, TensorType
from .define import Operand, as_value, define

Sizes = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

# ---- shapes ----------------------------------------------------------------------------------------------------


def output_size(size: Sizes, kernel: Sizes, stride: Sizes, padding: Pads, dilation: Sizes) -> Sizes:
    """The spatial shape of a convolution's result. Raises ShapeError if the kernel does not fit."""
    reach = [d * (r - 1) + 1 for r, d in zip(kernel, dilation, strict=True)]
    room = [n + low + high for n, (low, high) in zip(size, padding, strict=True)]
    if any(a > b for a, b in zip(reach, room, strict=True)):
        raise ShapeError(
            f"a kernel of {kernel} with dilation {dilation} reaches over {tuple(reach)} positions, "
            f"more than the padded input's {tuple(room)}"
        )
    return tuple((b - a) // s + 1 for a, b, s in zip(reach, room, stride, strict=True))


def _check(x: TensorType, y: TensorType, kernels: int, groups: int) -> None:
    """x, y: the two operands; kernels: output channels of all groups."""
    if x.ndim != y.ndim or not 3 <= x.ndim <= 5:
        raise ShapeError(f"needs operands [n, one to three spatial axes, channels], got {x.shape} and {y.shape}")
    if x.dtype is not y.dtype or not x.dtype.is_float:
        raise DTypeError(f"needs two floating operands of one dtype, got {x.dtype} and {y.dtype}")
    if kernels % groups:
        raise ShapeError(f"{kernels} output channels do not divide into {groups} groups")


def _type(x: TensorType, w: TensorType, *, stride: Sizes, padding: Pads, dilation: Sizes, groups: int) -> TensorType:
    _check(x, w, w.shape[0], groups)
    if x.shape[-1] != groups * w.shape[-1]:
        raise ShapeError(f"x {x.shape} has not {groups} times the channels of the weight {w.shape}")
    size = output_size(x.shape[1:-1], w.shape[1:-1], stride, padding, dilation)
    return x.with_shape((x.shape[0], *size, w.shape[0]))


def _dgrad_type(
    dy: TensorType, w: TensorType, *, size: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> TensorType:
    _check(dy, w, w.shape[0], groups)
    expected = (*output_size(size, w.shape[1:-1], stride, padding, dilation), w.shape[0])
    if dy.shape[1:] != expected:
        raise ShapeError(f"dy {dy.shape} must be [n, *{expected}] for inputs of {size} and the weight {w.shape}")
    return dy.with_shape((dy.shape[0], *size, groups * w.shape[-1]))


def _wgrad_type(
    x: TensorType, dy: TensorType, *, window: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> TensorType:
    _check(x, dy, dy.shape[-1], groups)
    size = output_size(x.shape[1:-1], window, stride, padding, dilation)
    if x.shape[0] != dy.shape[0] or dy.shape[1:-1] != size or x.shape[-1] % groups:
        raise ShapeError(f"x {x.shape} and dy {dy.shape} do not fit a kernel of {window} and {groups} groups")
    return x.with_shape((dy.shape[-1], *window, x.shape[-1] // groups))


def _partial_type(x: TensorType, dy: TensorType, *, parts: int, out_dtype: DType, **attrs: object) -> TensorType:
    whole = _wgrad_type(x, dy, **attrs)  # type: ignore[arg-type]
    return TensorType((parts, *whole.shape), out_dtype)


# ---- references ------------------------------------------------------------------------------------------------


class _Taps:
    """Walks the taps of a kernel over a zero-padded copy of the input."""

    def __init__(self, size: Sizes, out: Sizes, kernel: Sizes, stride: Sizes, padding: Pads, dilation: Sizes) -> None:
        self.kernel, self.stride, self.dilation, self.out = kernel, stride, dilation, out
        self.before = [max(low, 0) for low, _ in padding]
        self.start = [b - low for b, (low, _) in zip(self.before, padding, strict=True)]
        last = [
            b + (o - 1) * s + (r - 1) * d + 1
            for b, o, s, r, d in zip(self.start, out, stride, kernel, dilation, strict=True)
        ]
        self.length = [max(n, b + d) for n, b, d in zip(last, self.before, size, strict=True)]
        self.inside = tuple(slice(b, b + d) for b, d in zip(self.before, size, strict=True))

    def padded(self, batch: int, channels: int, dtype: np.dtype) -> np.ndarray:
        return np.zeros((batch, *self.length, channels), dtype)

    def __iter__(self) -> Iterator[tuple[Sizes, tuple[slice, ...]]]:
        """(tap, what it reads of the padded input for every output)."""
        for tap in itertools.product(*map(range, self.kernel)):
            first = [b + r * d for b, r, d in zip(self.start, tap, self.dilation, strict=True)]
            ends = [b + (o - 1) * s + 1 for b, o, s in zip(first, self.out, self.stride, strict=True)]
            yield tap, tuple(slice(b, e, s) for b, e, s in zip(first, ends, self.stride, strict=True))


def _grouped(a: np.ndarray, groups: int) -> np.ndarray:
    """[..., groups * c] as [groups, everything else, c]."""
    return a.reshape(-1, groups, a.shape[-1] // groups).transpose(1, 0, 2)


def _ungrouped(a: np.ndarray, shape: Sizes) -> np.ndarray:
    return a.transpose(1, 0, 2).reshape(shape)


def _ref(x: np.ndarray, w: np.ndarray, *, stride: Sizes, padding: Pads, dilation: Sizes, groups: int) -> np.ndarray:
    kernel, k = w.shape[1:-1], w.shape[0]
    out = output_size(x.shape[1:-1], kernel, stride, padding, dilation)
    taps = _Taps(x.shape[1:-1], out, kernel, stride, padding, dilation)
    padded = taps.padded(x.shape[0], x.shape[-1], x.dtype)
    padded[:, *taps.inside] = x
    weight = w.reshape(groups, k // groups, *w.shape[1:])
    y = np.zeros((x.shape[0], *out, k), x.dtype)
    for tap, reads in taps:
        term = _grouped(padded[:, *reads], groups) @ weight[:, :, *tap].swapaxes(1, 2)
        y += _ungrouped(term, y.shape)
    return y


def _dgrad_ref(
    dy: np.ndarray, w: np.ndarray, *, size: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> np.ndarray:
    """Every output's contribution is added where it came from."""
    taps = _Taps(size, dy.shape[1:-1], w.shape[1:-1], stride, padding, dilation)
    padded = taps.padded(dy.shape[0], groups * w.shape[-1], dy.dtype)
    weight = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    for tap, reads in taps:
        target = padded[:, *reads]
        target += _ungrouped(_grouped(dy, groups) @ weight[:, :, *tap], target.shape)
    return padded[:, *taps.inside]


def _wgrad_ref(
    x: np.ndarray, dy: np.ndarray, *, window: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> np.ndarray:
    taps = _Taps(x.shape[1:-1], dy.shape[1:-1], window, stride, padding, dilation)
    padded = taps.padded(x.shape[0], x.shape[-1], x.dtype)
    padded[:, *taps.inside] = x
    k, c = dy.shape[-1], x.shape[-1] // groups
    dw = np.zeros((k, *window, c), x.dtype)
    for tap, reads in taps:
        product = _grouped(dy, groups).swapaxes(1, 2) @ _grouped(padded[:, *reads], groups)
        dw[:, *tap] = product.reshape(k, c)
    return dw


def _partial_ref(x: np.ndarray, dy: np.ndarray, *, parts: int, out_dtype: DType, **attrs: object) -> np.ndarray:
    pixels = math.prod(dy.shape[:-1])
    piece = -(-pixels // parts)
    part = (np.arange(pixels) // piece).reshape(*dy.shape[:-1], 1)
    return np.stack([_wgrad_ref(x, np.where(part == i, dy, 0), **attrs) for i in range(parts)])  # type: ignore[arg-type]


# ---- the three ops ---------------------------------------------------------------------------------------------


def _geometry(node: Node) -> dict[str, object]:
    return {name: node.attrs[name] for name in ("stride", "padding", "dilation", "groups")}


def _vjp(node: Node, g: Value) -> list[Value | None]:
    x, w = node.inputs
    how = _geometry(node)
    dx = make("convolution_dgrad", [g, w], size=x.shape[1:-1], **how).out
    return [dx, make("convolution_wgrad", [x, g], window=w.shape[1:-1], **how).out]


def _dgrad_vjp(node: Node, g: Value) -> list[Value | None]:
    dy, w = node.inputs
    how = _geometry(node)
    dw = make("convolution_wgrad", [g, dy], window=w.shape[1:-1], **how).out
    return [make("convolution", [g, w], **how).out, dw]


def _wgrad_vjp(node: Node, g: Value) -> list[Value | None]:
    x, dy = node.inputs
    how = _geometry(node)
    dx = make("convolution_dgrad", [dy, g], size=x.shape[1:-1], **how).out
    return [dx, make("convolution", [x, g], **how).out]


def _is_product(node: Node, kernel: Sizes) -> bool:
    """True for one tap at every position and one group: a matrix product over the channels."""
    plain = all(s == 1 for s in node.attrs["stride"]) and not any(map(any, node.attrs["padding"]))
    return plain and node.attrs["groups"] == 1 and all(r == 1 for r in kernel) and node.type.size > 0


def _rows(x: Value) -> Value:
    """[..., channels] as a matrix."""
    return call("reshape", x, (math.prod(x.shape[:-1]), x.shape[-1]))


def _matrix(w: Value) -> Value:
    """A weight of one tap as [out, in]."""
    return call("reshape", w, (w.shape[0], w.shape[-1]))


def _simplify(node: Node) -> Value | None:
    x, w = node.inputs
    if not _is_product(node, w.shape[1:-1]):
        return None
    return call("reshape", call("matmul", _rows(x), call("transpose", _matrix(w))), node.type.shape)


def _dgrad_simplify(node: Node) -> Value | None:
    dy, w = node.inputs
    if not _is_product(node, w.shape[1:-1]):
        return None
    return call("reshape", call("matmul", _rows(dy), _matrix(w)), node.type.shape)


def _wgrad_simplify(node: Node) -> Value | None:
    x, dy = node.inputs
    if not _is_product(node, node.attrs["window"]):
        return None
    return call("reshape", call("matmul", call("transpose", _rows(dy)), _rows(x)), node.type.shape)


@define(
    "convolution",
    infer=_type,
    lowering=Kernel("convolution", takes=("strided", "dense"), epilogue=True),
    ref=_ref,
    vjp=_vjp,
    simplify=_simplify,
)
def convolution(x: Operand, w: Operand, stride: Sizes, padding: Pads, dilation: Sizes, groups: int) -> Value:
    """Channels-last: x [n, *size, groups * c], w [k, *kernel, c] -> [n, *out, k]; padding: (before, after) per axis.

    Products are accumulated in float32 (float64 for float64) and rounded once.
    """
    how = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
    return make("convolution", [as_value(x), as_value(w)], **how).out


@define(
    "convolution_dgrad",
    infer=_dgrad_type,
    lowering=Kernel("convolution_dgrad", takes=("strided", "dense"), epilogue=True),
    ref=_dgrad_ref,
    vjp=_dgrad_vjp,
    simplify=_dgrad_simplify,
)
def convolution_dgrad(
    dy: Operand, w: Operand, size: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> Value:
    """The gradient of `convolution` in its input of spatial shape `size`: dy [n, *out, k] -> [n, *size, groups * c]."""
    how = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
    return make("convolution_dgrad", [as_value(dy), as_value(w)], size=tuple(size), **how).out


@define(
    "convolution_wgrad",
    infer=_wgrad_type,
    lowering=Kernel("convolution_wgrad", takes=("strided",), epilogue=True),
    ref=_wgrad_ref,
    vjp=_wgrad_vjp,
    simplify=_wgrad_simplify,
)
def convolution_wgrad(
    x: Operand, dy: Operand, window: Sizes, stride: Sizes, padding: Pads, dilation: Sizes, groups: int
) -> Value:
    """The gradient of `convolution` in its weight of spatial shape `window`: x, dy [n, *out, k] -> [k, *window, c]."""
    how = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": groups}
    return make("convolution_wgrad", [as_value(x), as_value(dy)], window=tuple(window), **how).out


@define(
    "convolution_wgrad_parts",
    infer=_partial_type,
    lowering=Kernel("convolution_wgrad", takes=("strided",), epilogue=True),
    ref=_partial_ref,
)
def convolution_wgrad_parts(x: Operand, dy: Operand, parts: int, out_dtype: DType, **how: object) -> Value:
    """`convolution_wgrad` in `parts` pieces, each over as many consecutive output positions: [parts, k, *kernel, c].

    How legalise gives a weight's gradient enough programs; their sum is the gradient.
    """
    return make("convolution_wgrad_parts", [as_value(x), as_value(dy)], parts=parts, out_dtype=out_dtype, **how).out
