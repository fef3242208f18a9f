"""Matrix products. The node is a plain batched product: [B..., M, K] @ [B..., K, N]; transposes are views, and free.

d(A B): dA = dC B^T, dB = A^T dC.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Kernel, Sample, call
from ..types import DType, TensorType, broadcast_shapes
from .define import as_value, composed, define, randn, samples

__all__ = ["bmm", "linear", "matmul", "mm"]


def _type(a: TensorType, b: TensorType, *, out_dtype: DType) -> TensorType:
    if a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"cannot multiply {a.shape} by {b.shape}: inner sizes {a.shape[-1]} and {b.shape[-2]}")
    if a.dtype is not b.dtype or not a.dtype.is_float:
        raise DTypeError(f"needs two floating operands of one dtype, got {a.dtype} and {b.dtype}")
    return TensorType((*a.shape[:-1], b.shape[-1]), out_dtype)


def _vjp(node: Node, g: Value) -> list[Value | None]:
    a, b = node.inputs
    g = call("cast", g, a.dtype)
    return [_in_layout_of(a, g, _turned(b)), _in_layout_of(b, _turned(a), g)]


def _turned(x: Value) -> Value:
    return call("swapaxes", x, -1, -2)


def _in_layout_of(operand: Value, left: Value, right: Value) -> Value:
    """left @ right; for an operand that is a transpose, as the transpose of right^T left^T.

    So the gradient of what was transposed (a weight [out, in]) is a product by itself and needs no copy.
    """
    node = operand.node
    if node.op.name == "transpose" and node.attrs["axes"][-2:] == (operand.ndim - 1, operand.ndim - 2):
        return _turned(matmul(_turned(right), _turned(left)))
    return matmul(left, right)


def _ref(a: np.ndarray, b: np.ndarray, *, out_dtype: DType) -> np.ndarray:
    return np.matmul(a, b)


@define(
    "matmul",
    infer=_type,
    lowering=Kernel("matmul", takes=("matrix",), epilogue=True, sums=True),
    ref=_ref,
    vjp=_vjp,
    samples=samples(
        Sample((randn(5, 7), randn(7, 3))),
        Sample((randn(2, 1, 3, 4), randn(3, 4, 5))),
        Sample((randn(4), randn(4))),
        Sample((randn(3, 4, 5), randn(5))),
        Sample((randn(2, 3, 4), randn(4, 6))),
        Sample((randn(17, 33), randn(33, 1))),
    ),
)
def matmul(a: Value, b: Value) -> Value:
    """NumPy's matmul: the last two axes are matrices, the others broadcast; 1-D operands are vectors.

    float64, float32, bfloat16 or float16 (promoted to one dtype); accumulated in float32 (float64 for float64).
    """
    a, b = as_value(a), as_value(b)
    return product(a, b, call("result_type", a.dtype, b.dtype))


def product(a: Value, b: Value, out_dtype: DType) -> Value:
    """matmul with its result in out_dtype: the promoted dtype, or the wider one that products accumulate in."""
    if not a.ndim or not b.ndim:
        raise ShapeError(f"needs operands with dimensions, got {a.shape} and {b.shape}")
    if a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ShapeError(
            f"cannot multiply {a.shape} by {b.shape}: inner sizes {a.shape[-1]} and {b.shape[-2 if b.ndim > 1 else 0]}",
        )
    dtype = call("result_type", a.dtype, b.dtype)
    a, b = call("cast", a, dtype), call("cast", b, dtype)
    row, column = a.ndim == 1, b.ndim == 1
    a = call("expand_dims", a, 0) if row else a
    b = call("expand_dims", b, 1) if column else b
    shape = (*broadcast_shapes(a.shape[:-2], b.shape[:-2]), *(() if row else a.shape[-2:-1]))
    shape = (*shape, *(() if column else b.shape[-1:]))
    if b.ndim == 2 and a.ndim > 2:
        a = call("reshape", a, (math.prod(a.shape[:-1]), a.shape[-1]))
    else:
        batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a = call("broadcast_to", a, (*batch, *a.shape[-2:]))
        b = call("broadcast_to", b, (*batch, *b.shape[-2:]))
    return call("reshape", make("matmul", [a, b], out_dtype=out_dtype).out, shape)


def check_ranks(a: Value, b: Value, left: int, right: int) -> None:
    """Raises ShapeError unless a has `left` axes and b has `right`."""
    if a.ndim != left or b.ndim != right:
        raise ShapeError(f"needs operands of {left} and {right} axes, got {a.shape} and {b.shape}")


@composed(samples=samples(Sample((randn(5, 7), randn(7, 3))), Sample((randn(1, 4), randn(4, 1)))))
def mm(a: Value, b: Value) -> Value:
    """The product of two matrices: [M, K] @ [K, N]; no broadcasting."""
    a, b = as_value(a), as_value(b)
    check_ranks(a, b, 2, 2)
    return matmul(a, b)


@composed(samples=samples(Sample((randn(3, 4, 5), randn(3, 5, 2)))))
def bmm(a: Value, b: Value) -> Value:
    """Products of two equally long stacks of matrices: [B, M, K] @ [B, K, N]; no broadcasting."""
    a, b = as_value(a), as_value(b)
    check_ranks(a, b, 3, 3)
    if a.shape[0] != b.shape[0]:
        raise ShapeError(f"needs one batch size, got {a.shape} and {b.shape}")
    return matmul(a, b)


@composed(
    samples=samples(Sample((randn(4, 5), randn(3, 5, seed=1), randn(3))), Sample((randn(2, 3, 5), randn(4, 5, seed=1))))
)
def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    """y = x weight^T + bias.  x: [..., in]; weight: [out, in]; bias: [out]."""
    x, weight = as_value(x), as_value(weight)
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"x {x.shape} does not fit weight {weight.shape}: [..., in] and [out, in]")
    y = matmul(x, call("transpose", weight))
    return y if bias is None else call("add", y, bias)
