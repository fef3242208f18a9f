"""Products of vectors and matrices beside matmul, and norms of matrices. Dtypes are promoted; nothing here broadcasts
unless it says so.

beta * input + alpha * product is rounded once in 16-bit floats: the product stays in float32 until the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import DType, DTypeLike, broadcast_shapes, check_axes, check_axis
from .arithmetic import add, div, mul, sub
from .define import Operand, as_value, composed, is_scalar, promote_operands, randn, samples, wide
from .einsum import tensordot
from .join import roll
from .logic import where
from .matmul import check_ranks, matmul, product
from .matrix import eye
from .reduce import Axis, max, min, norm, sum
from .view import broadcast_to, expand_dims, reshape, transpose

# fmt: off
__all__ = [
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bilinear", "chain_matmul", "cross", "dot", "inner", "kron",
    "matrix_norm", "matrix_power", "multi_dot", "mv", "outer", "renorm", "vecdot", "vector_norm",
]
# fmt: on


def _promoted(*operands: Operand) -> list[Value]:
    """Operands as Values of one dtype; shapes stay."""
    values = [as_value(x) for x in operands]
    dtype = values[0].dtype
    for v in values[1:]:
        dtype = call("result_type", dtype, v.dtype)
    return [call("cast", v, dtype) for v in values]


# ---- vectors ---------------------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((randn(3, 5), randn(3, 5, seed=1))),
        Sample((randn(2, 1, 4), randn(3, 4, seed=1))),
        Sample((randn(4, 3), randn(4, 1, seed=1)), {"axis": 0}),
        Sample((np.arange(4), np.arange(4) - 2)),
    )
)
def vecdot(x: Operand, y: Operand, axis: int = -1) -> Value:
    """The sum of x * y over one axis; the others broadcast. 16-bit floats are rounded once."""
    x, y = promote_operands("vecdot", x, y)
    if not x.ndim:
        raise ShapeError("needs operands with dimensions")
    return call("cast", sum(mul(wide(x), wide(y)), check_axis(axis, x.ndim)), x.dtype)


@composed(samples=samples(Sample((randn(5), randn(5, seed=1))), Sample((randn(0), randn(0)))), aliases=("vdot",))
def dot(x: Operand, y: Operand) -> Value:
    """The sum of products of two vectors of one length."""
    x, y = _promoted(x, y)
    check_ranks(x, y, 1, 1)
    if x.shape != y.shape:
        raise ShapeError(f"needs vectors of one length, got {x.shape} and {y.shape}")
    return vecdot(x, y)


@composed(
    samples=samples(
        Sample((randn(2, 3, 4), randn(5, 4, seed=1))), Sample((randn(4), randn(4, seed=1))), Sample((randn(3), 2.0))
    )
)
def inner(x: Operand, y: Operand) -> Value:
    """Sums of products over the last axes of both; with a number, the product."""
    if is_scalar(x) or is_scalar(y):
        return mul(x, y)
    x, y = _promoted(x, y)
    return tensordot(x, y, ((-1,), (-1,))) if x.ndim and y.ndim else mul(x, y)


@composed(samples=samples(Sample((randn(3), randn(4, seed=1))), Sample((np.arange(3), randn(2)))), aliases=("ger",))
def outer(x: Operand, y: Operand) -> Value:
    """[n, m]: every product of an element of one vector and one of another."""
    x, y = _promoted(x, y)
    check_ranks(x, y, 1, 1)
    return mul(expand_dims(x, 1), y)


@composed(
    samples=samples(
        Sample((randn(4, 3), randn(4, 3, seed=1))),
        Sample((randn(3, 1, 2), randn(3, 4, 1, seed=1)), {"axis": 0}),
    )
)
def cross(x: Operand, y: Operand, axis: int = -1) -> Value:
    """The vector product along an axis of size 3: (x1 y2 - x2 y1, x2 y0 - x0 y2, x0 y1 - x1 y0); others broadcast."""
    shapes = [as_value(v).shape for v in (x, y)]
    x, y = promote_operands("cross", x, y)
    a = check_axis(axis, x.ndim)
    for shape in shapes:
        at = a - x.ndim  # counted from the end, where shapes are aligned
        if -at > len(shape) or shape[at] != 3:
            raise ShapeError(f"axis {axis} of {shape} must have size 3")
    dtype, x, y = x.dtype, wide(x), wide(y)
    turned = sub(mul(roll(x, -1, a), roll(y, -2, a)), mul(roll(x, -2, a), roll(y, -1, a)))
    return call("cast", turned, dtype)


# ---- matrices --------------------------------------------------------------------------------------------------


@composed(samples=samples(Sample((randn(3, 4), randn(4, seed=1)))))
def mv(a: Operand, x: Operand) -> Value:
    """A matrix times a vector: [N, M] and [M] -> [N]."""
    a, x = as_value(a), as_value(x)
    check_ranks(a, x, 2, 1)
    return matmul(a, x)


@composed(
    samples=samples(
        Sample((randn(2, 3), randn(4, 1, seed=1))),
        Sample((randn(2), randn(3, 2, 2, seed=1))),
        Sample((randn(), randn(3, seed=1))),
    )
)
def kron(x: Operand, y: Operand) -> Value:
    """The Kronecker product: every element of x times the whole of y, in the place of the element."""
    x, y = _promoted(x, y)
    ndim = x.ndim if x.ndim > y.ndim else y.ndim
    outside, inside = (1,) * (ndim - x.ndim) + x.shape, (1,) * (ndim - y.ndim) + y.shape
    left = reshape(x, tuple(n for d in outside for n in (d, 1)))
    right = reshape(y, tuple(n for d in inside for n in (1, d)))
    return reshape(mul(left, right), tuple(a * b for a, b in zip(outside, inside, strict=True)))


def _scaled_sum(x: Operand, found: Value, dtype: DType, beta: float, alpha: float) -> Value:
    """beta x + alpha found, x broadcast to found's shape, rounded once to dtype; beta = 0 ignores x, NaN included."""
    x = as_value(x)
    if broadcast_shapes(x.shape, found.shape) != found.shape:
        raise ShapeError(f"input {x.shape} does not broadcast to the product's shape {found.shape}")
    dtype = call("result_type", dtype, x.dtype)
    found = found if alpha == 1 else mul(found, alpha)
    if beta == 0:
        return call("cast", found, dtype)
    x = call("cast", x, dtype.compute)
    return call("cast", add(x if beta == 1 else mul(x, beta), call("cast", found, dtype.compute)), dtype)


def _sum_with(x: Operand, a: Operand, b: Operand, beta: float, alpha: float) -> Value:
    a, b = _promoted(a, b)
    return _scaled_sum(x, product(a, b, a.dtype.compute), a.dtype, beta, alpha)


_scales = {"beta": 0.5, "alpha": -2.0}


@composed(
    samples=samples(
        Sample((randn(3, 5), randn(3, 4, seed=1), randn(4, 5, seed=2)), _scales),
        Sample((randn(5), randn(3, 4, seed=1), randn(4, 5, seed=2))),
        Sample((randn(3, 5), randn(3, 4, seed=1), randn(4, 5, seed=2)), {"beta": 0}, grad=(1, 2)),
    )
)
def addmm(input: Operand, mat1: Operand, mat2: Operand, *, beta: float = 1, alpha: float = 1) -> Value:
    """beta * input + alpha * (mat1 @ mat2); matrices, input broadcasts."""
    mat1, mat2 = as_value(mat1), as_value(mat2)
    check_ranks(mat1, mat2, 2, 2)
    return _sum_with(input, mat1, mat2, beta, alpha)


@composed(
    samples=samples(
        Sample((randn(3), randn(3, 4, seed=1), randn(4, seed=2)), _scales),
        Sample((randn(), randn(3, 4, seed=1), randn(4, seed=2))),
    )
)
def addmv(input: Operand, mat: Operand, vec: Operand, *, beta: float = 1, alpha: float = 1) -> Value:
    """beta * input + alpha * (mat @ vec); input broadcasts."""
    mat, vec = as_value(mat), as_value(vec)
    check_ranks(mat, vec, 2, 1)
    return _sum_with(input, mat, vec, beta, alpha)


def _check_batches(a: Value, b: Value) -> None:
    check_ranks(a, b, 3, 3)
    if a.shape[0] != b.shape[0]:
        raise ShapeError(f"needs one batch size, got {a.shape} and {b.shape}")


@composed(
    samples=samples(
        Sample((randn(2, 3, 5), randn(2, 3, 4, seed=1), randn(2, 4, 5, seed=2)), _scales),
        Sample((randn(1, 5), randn(2, 3, 4, seed=1), randn(2, 4, 5, seed=2))),
    )
)
def baddbmm(input: Operand, batch1: Operand, batch2: Operand, *, beta: float = 1, alpha: float = 1) -> Value:
    """beta * input + alpha * (batch1 @ batch2), [B, N, K] and [B, K, M]; input broadcasts."""
    batch1, batch2 = as_value(batch1), as_value(batch2)
    _check_batches(batch1, batch2)
    return _sum_with(input, batch1, batch2, beta, alpha)


@composed(
    samples=samples(
        Sample((randn(3, 5), randn(2, 3, 4, seed=1), randn(2, 4, 5, seed=2)), _scales),
        Sample((randn(5), randn(2, 3, 4, seed=1), randn(2, 4, 5, seed=2))),
    )
)
def addbmm(input: Operand, batch1: Operand, batch2: Operand, *, beta: float = 1, alpha: float = 1) -> Value:
    """beta * input + alpha * the sum over the batch of batch1 @ batch2; input broadcasts to [N, M].

    The sum over the batch is part of the inner sum of one product, [N, B K] @ [B K, M].
    """
    batch1, batch2 = as_value(batch1), as_value(batch2)
    _check_batches(batch1, batch2)
    if batch1.shape[2] != batch2.shape[1]:
        raise ShapeError(f"cannot multiply {batch1.shape} by {batch2.shape}")
    b, n, k = batch1.shape
    left = reshape(transpose(batch1, (1, 0, 2)), (n, b * k))
    return _sum_with(input, left, reshape(batch2, (b * k, batch2.shape[2])), beta, alpha)


@composed(
    samples=samples(
        Sample((randn(3, 4), randn(3, seed=1), randn(4, seed=2)), _scales),
        Sample((randn(4), randn(3, seed=1), randn(4, seed=2))),
    )
)
def addr(input: Operand, vec1: Operand, vec2: Operand, *, beta: float = 1, alpha: float = 1) -> Value:
    """beta * input + alpha * outer(vec1, vec2); input broadcasts."""
    vec1, vec2 = _promoted(vec1, vec2)
    return _scaled_sum(input, outer(wide(vec1), wide(vec2)), vec1.dtype, beta, alpha)


@composed(
    samples=samples(
        Sample((randn(2, 3), randn(2, 4, seed=1), randn(5, 3, 4, seed=2), randn(5, seed=3))),
        Sample((randn(3), randn(4, seed=1), randn(1, 3, 4, seed=2))),
    )
)
def bilinear(x1: Operand, x2: Operand, weight: Operand, bias: Operand | None = None) -> Value:
    """y[..., o] = sum over i, j of x1[..., i] weight[o, i, j] x2[..., j], plus bias[o]."""
    x1, x2, weight = _promoted(x1, x2, weight)
    if weight.ndim != 3 or x1.shape[:-1] != x2.shape[:-1] or not x1.ndim:
        raise ShapeError(f"x1 {x1.shape} and x2 {x2.shape} do not fit weight {weight.shape}: [out, in1, in2]")
    out, n, m = weight.shape
    if x1.shape[-1] != n or x2.shape[-1] != m:
        raise ShapeError(f"x1 {x1.shape} and x2 {x2.shape} do not fit weight {weight.shape}: [out, in1, in2]")
    left = product(x1, reshape(transpose(weight, (1, 0, 2)), (n, out * m)), x1.dtype.compute)
    y = sum(mul(reshape(left, (*x1.shape[:-1], out, m)), wide(expand_dims(x2, -2))), -1)
    return call("cast", y if bias is None else add(y, wide(as_value(bias))), x1.dtype)


# ---- chains and powers -----------------------------------------------------------------------------------------


def _best_splits(sizes: Sequence[int]) -> dict[tuple[int, int], int]:
    """Where to split the product of matrices i .. j so that the multiplications are fewest (Cormen et al., 15.2)."""
    n = len(sizes) - 1
    cost = {(i, i): 0 for i in range(n)}
    split: dict[tuple[int, int], int] = {}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            options = {k: cost[i, k] + cost[k + 1, j] + sizes[i] * sizes[k + 1] * sizes[j + 1] for k in range(i, j)}
            split[i, j] = sorted(options, key=options.__getitem__)[0]
            cost[i, j] = options[split[i, j]]
    return split


@composed(
    samples=samples(
        Sample(([randn(2, 5), randn(5, 3, seed=1), randn(3, 4, seed=2)],)),
        Sample(([randn(5), randn(5, 3, seed=1), randn(3, seed=2)],)),
    )
)
def multi_dot(matrices: Sequence[Operand]) -> Value:
    """The product of several matrices in the cheapest order; the first and the last may be vectors."""
    parts = _promoted(*matrices) if matrices else []
    if len(parts) < 2:
        raise ArgumentError(f"needs at least two matrices, got {len(parts)}")
    row, column = parts[0].ndim == 1, parts[-1].ndim == 1
    parts[0] = expand_dims(parts[0], 0) if row else parts[0]
    parts[-1] = expand_dims(parts[-1], 1) if column else parts[-1]
    if any(m.ndim != 2 for m in parts):
        raise ShapeError(f"needs matrices, got {', '.join(str(m.shape) for m in parts)}")
    split = _best_splits([parts[0].shape[0], *(m.shape[1] for m in parts)])

    def multiply(i: int, j: int) -> Value:
        return parts[i] if i == j else matmul(multiply(i, split[i, j]), multiply(split[i, j] + 1, j))

    found = multiply(0, len(parts) - 1)
    return reshape(found, (() if row else found.shape[:1]) + (() if column else found.shape[1:]))


@composed(samples=samples(Sample((randn(2, 5), randn(5, 3, seed=1), randn(3, 4, seed=2))), Sample((randn(2, 3),))))
def chain_matmul(*matrices: Operand) -> Value:
    """The product of the matrices in the cheapest order."""
    parts = [as_value(m) for m in matrices]
    if not parts or any(m.ndim != 2 for m in parts):
        raise ShapeError(f"needs matrices, got {', '.join(str(m.shape) for m in parts) or 'none'}")
    return parts[0] if len(parts) == 1 else multi_dot(parts)


@composed(
    samples=samples(
        Sample((randn(3, 3), 3)),
        Sample((randn(2, 2, 2), 2)),
        Sample((randn(3, 3), 0), grad=()),
        Sample((randn(2, 2), 1)),
    )
)
def matrix_power(x: Operand, n: int) -> Value:
    """x @ x @ ... @ x, n times, by repeated squaring; n = 0: the identity. x: [..., M, M]; n >= 0."""
    x = as_value(x)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"needs square matrices, got {x.shape}")
    if not isinstance(n, int) or n < 0:
        raise ArgumentError(f"n must be a non-negative int, got {n!r}")
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    if n == 0:
        return broadcast_to(eye(x.shape[-1], dtype=x.dtype), x.shape)
    result: Value | None = None
    while True:
        if n & 1:
            result = x if result is None else matmul(result, x)
        n >>= 1
        if not n:
            return result if result is not None else x
        x = matmul(x, x)


# ---- norms -----------------------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((randn(3, 5, 4), 1), {"axis": (0, -1)}),
        Sample((randn(3, 5), math.inf), {"axis": 1, "keepdims": True}),
        Sample((randn(3, 5), 0.5), {"axis": 0}),
    )
)
def vector_norm(
    x: Operand, ord: float = 2.0, axis: Axis = None, keepdims: bool = False, dtype: DTypeLike | None = None
) -> Value:
    """(sum |x|^ord)^(1/ord) over the axes: `norm` with the array API's arguments. dtype: cast x to it first."""
    x = as_value(x)
    return norm(x if dtype is None else call("cast", x, dtype), ord, axis, keepdims)


@composed(
    samples=samples(
        Sample((randn(3, 5), 2.0, 0, 1.5)),
        Sample((randn(2, 3, 4), 1, -2, 7.0)),
        Sample((np.array([[0.0, 0.0], [3.0, 4.0], [0.3, 0.4]]), 2, 0, 1.0), grad=()),
        Sample((randn(3, 5), math.inf, 1, 1.0)),
    )
)
def renorm(x: Operand, p: float, dim: int, maxnorm: float) -> Value:
    """x with each slice along `dim` whose p-norm is beyond maxnorm scaled down to it: times maxnorm / (norm + 1e-7)."""
    x = as_value(x)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    if x.ndim < 2:
        raise ShapeError(f"needs at least two axes, got {x.shape}")
    if not p > 0 or not maxnorm >= 0:
        raise ArgumentError(f"needs p > 0 and maxnorm >= 0, got {p} and {maxnorm}")
    a, wider = check_axis(dim, x.ndim, "dim"), wide(x)
    size = norm(wider, float(p), tuple(i for i in range(x.ndim) if i != a), True)
    beyond = call("greater", size, maxnorm)
    factor = where(beyond, div(float(maxnorm), add(where(beyond, size, 1.0), 1e-7)), 1.0)
    return call("cast", mul(wider, factor), x.dtype)


@composed(
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((randn(2, 3, 4), 1)),
        Sample((randn(2, 3, 4), -math.inf), {"axis": (0, 2), "keepdims": True}),
        Sample((randn(3, 4, 2), math.inf, (1, 0))),
        Sample((randn(3, 4), -1)),
    )
)
def matrix_norm(
    x: Operand,
    ord: float | str = "fro",
    axis: Sequence[int] = (-2, -1),
    keepdims: bool = False,
    dtype: DTypeLike | None = None,
) -> Value:
    """The norm of matrices on two axes (rows, columns). "fro": the root of the sum of squares; 1, -1: the largest,
    least column sum of |x|; inf, -inf: the same of rows. Norms by singular values are not to be had."""
    x = as_value(x)
    x = x if dtype is None else call("cast", x, dtype)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    if len(axis) != 2 or x.ndim < 2:
        raise ShapeError(f"needs two axes of {x.shape}, got {tuple(axis)}")
    axes = check_axes(axis, x.ndim)
    if ord == "fro":
        return norm(x, 2.0, axes, keepdims)
    if isinstance(ord, str) or ord not in (1, -1, math.inf, -math.inf):
        raise ArgumentError(f"ord must be 'fro', 1, -1, inf or -inf, got {ord!r}")
    rows, columns = (check_axis(a, x.ndim) for a in axis)
    summed, other = (rows, columns) if abs(ord) == 1 else (columns, rows)
    sums = sum(call("abs", wide(x)), summed, keepdims=True)
    found = call("cast", (max if ord > 0 else min)(sums, other, keepdims=True), x.dtype)
    return found if keepdims else reshape(found, tuple(d for i, d in enumerate(x.shape) if i not in axes))
