"""Matrices and their parts: diagonals, traces, patterns of ones, powers of a column. All are views, or pointwise.

A diagonal is a strided slice of the flattened matrix: in [n, m] its elements lie m + 1 apart.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import DTypeLike, check_axis, check_shape, float32, int32, int64
from .define import Operand, as_value, composed, randn, samples
from .join import concat
from .reduce import sum
from .view import expand_dims, pad_with, reshape, slice_within, swapaxes, transpose

# fmt: off
__all__ = [
    "block_diag", "cartesian_prod", "diag", "diag_embed", "diagflat", "diagonal", "eye", "indices",
    "matrix_transpose", "meshgrid", "trace", "tri", "tril_indices", "triu_indices", "vander",
]
# fmt: on

# ---- diagonals -------------------------------------------------------------------------------------------------


def _two_axes(x: Value, axis1: int, axis2: int, ndim: int) -> tuple[int, int]:
    a, b = check_axis(axis1, ndim, "axis1"), check_axis(axis2, ndim, "axis2")
    if ndim < 2 or a == b:
        raise ShapeError(f"needs two different axes, got {axis1} and {axis2} of {ndim} for x {x.shape}")
    return a, b


@composed(
    samples=samples(
        Sample((randn(4, 5),)),
        Sample((randn(4, 3), -1)),
        Sample((randn(2, 3, 4),), {"offset": 1, "axis1": -1, "axis2": 0}),
        Sample((randn(2, 3), 4)),
        Sample((randn(1, 3), 0)),
    )
)
def diagonal(x: Operand, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Value:
    """The elements [i, i + offset] of the axes axis1 and axis2, as a new last axis; offset < 0 lies below."""
    x = as_value(x)
    a, b = _two_axes(x, axis1, axis2, x.ndim)
    x = transpose(x, (*(i for i in range(x.ndim) if i not in (a, b)), a, b))
    *lead, rows, columns = x.shape
    count = builtins.max(0, builtins.min(rows + builtins.min(offset, 0), columns - builtins.max(offset, 0)))
    start = 0 if not count else offset if offset >= 0 else -offset * columns
    flat = reshape(x, (*lead, rows * columns))
    zeros, ones = [0] * len(lead), [1] * len(lead)
    return slice_within(flat, [*zeros, start], [*lead, count], [*ones, columns + 1 if count > 1 else 1])


@composed(
    samples=samples(
        Sample((randn(4),)),
        Sample((randn(2, 3), 1)),
        Sample((randn(2, 3),), {"offset": -2, "axis1": 0, "axis2": 2}),
        Sample((randn(3), 1, -1, -2)),
    )
)
def diag_embed(x: Operand, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Value:
    """Square matrices on the axes axis1 and axis2 of the result: x's last axis on a diagonal, zeros elsewhere."""
    x = as_value(x)
    if not x.ndim:
        raise ShapeError("needs a tensor with dimensions")
    a, b = _two_axes(x, axis1, axis2, x.ndim + 1)
    *lead, n = x.shape
    size = n + builtins.abs(offset)
    zeros = [0] * len(lead)
    apart = pad_with(expand_dims(x, -1), [*zeros, 0, 0], [*zeros, 0, size])  # [..., n, size + 1]
    row = reshape(apart, (*lead, n * (size + 1)))
    length = (n - 1) * (size + 1) + 1 if n else 0
    row = slice_within(row, [*zeros, 0], [*lead, length])
    start = offset if offset >= 0 else -offset * size
    matrix = reshape(pad_with(row, [*zeros, start], [*zeros, size * size - start - length]), (*lead, size, size))
    if a > b:
        matrix, a, b = swapaxes(matrix, -1, -2), b, a
    order = list(range(len(lead)))
    order.insert(a, len(lead))
    order.insert(b, len(lead) + 1)
    return transpose(matrix, order)


@composed(samples=samples(Sample((randn(4),)), Sample((randn(3, 4), 1)), Sample((randn(2), -1))))
def diag(x: Operand, diagonal: int = 0) -> Value:
    """The diagonal of a matrix, or the square matrix with this diagonal of a vector."""
    x = as_value(x)
    if x.ndim not in (1, 2):
        raise ShapeError(f"needs a vector or a matrix, got {x.shape}")
    return diag_embed(x, diagonal) if x.ndim == 1 else call("diagonal", x, diagonal)


@composed(samples=samples(Sample((randn(2, 2),)), Sample((randn(3), -1)), Sample((randn(),))))
def diagflat(x: Operand, offset: int = 0) -> Value:
    """The square matrix with all elements of x, in row-major order, on a diagonal."""
    x = as_value(x)
    return diag_embed(reshape(x, (x.size,)), offset)


@composed(
    samples=samples(Sample((randn(4, 5),)), Sample((randn(2, 3, 4), 1, 1, -1)), Sample((np.arange(6).reshape(2, 3),)))
)
def trace(x: Operand, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Value:
    """The sum of a diagonal of the axes axis1 and axis2. Integers are summed in int64."""
    return sum(diagonal(x, offset, axis1, axis2), -1)


@composed(samples=samples(Sample((randn(2, 3, 4),)), Sample((randn(1, 2),))), aliases=("adjoint",))
def matrix_transpose(x: Operand) -> Value:
    """The last two axes exchanged."""
    x = as_value(x)
    if x.ndim < 2:
        raise ShapeError(f"needs two axes or more, got {x.shape}")
    return swapaxes(x, -1, -2)


@composed(samples=samples(Sample((randn(2, 3), randn(1, 2, seed=1), randn(3, seed=2), randn(seed=3)))))
def block_diag(*matrices: Operand) -> Value:
    """The matrices one after the other along the diagonal, zeros elsewhere; vectors and numbers count as one row."""
    parts = [as_value(m) for m in matrices]
    if not parts:
        raise ArgumentError("needs at least one matrix")
    if any(m.ndim > 2 for m in parts):
        raise ShapeError(f"needs matrices, got {', '.join(str(m.shape) for m in parts)}")
    parts = [reshape(m, (1,) * (2 - m.ndim) + m.shape) for m in parts]
    width, before, rows = builtins.sum(m.shape[1] for m in parts), 0, []
    for m in parts:
        rows.append(pad_with(m, (0, before), (0, width - before - m.shape[1])))
        before += m.shape[1]
    return concat(rows, 0)


# ---- patterns --------------------------------------------------------------------------------------------------

_pattern = samples(
    Sample((3,), grad=()), Sample((2, 4, 1), grad=()), Sample((3, 2), {"offset": -1, "dtype": "int64"}, grad=())
)
_triangles = samples(
    Sample((3, 4), grad=()), Sample((4, 3, -1), grad=()), Sample((2, 3), {"offset": 1, "dtype": "int32"}, grad=())
)


@composed(
    samples=samples(
        Sample((3,), grad=()), Sample((2, 4, 1), grad=()), Sample((3, 2), {"offset": -1, "dtype": "int64"}, grad=())
    )
)
def eye(n: int, m: int | None = None, offset: int = 0, dtype: DTypeLike = float32) -> Value:
    """[n, m] (m: default n) with ones where column - row = offset, zeros elsewhere."""
    n, m = check_shape((n, n if m is None else m))
    rows, columns = call("arange", n, dtype=int32), call("arange", m, dtype=int32)
    return call("cast", call("equal", columns, reshape(rows, (n, 1)) + offset), dtype)


@composed(
    samples=samples(
        Sample((3,), grad=()), Sample((2, 4, 1), grad=()), Sample((3, 2), {"offset": -1, "dtype": "int64"}, grad=())
    )
)
def tri(n: int, m: int | None = None, offset: int = 0, dtype: DTypeLike = float32) -> Value:
    """[n, m] (m: default n) with ones where column - row <= offset, zeros elsewhere."""
    n, m = check_shape((n, n if m is None else m))
    rows, columns = call("arange", n, dtype=int32), call("arange", m, dtype=int32)
    return call("cast", call("less_equal", columns, reshape(rows, (n, 1)) + offset), dtype)


def _triangle(rows: np.ndarray, columns: np.ndarray, dtype: DTypeLike) -> Value:
    return call("constant", np.stack([rows, columns]).astype(np.int64), dtype)


@composed(
    samples=samples(
        Sample((3, 4), grad=()), Sample((4, 3, -1), grad=()), Sample((2, 3), {"offset": 1, "dtype": "int32"}, grad=())
    )
)
def tril_indices(row: int, col: int, offset: int = 0, dtype: DTypeLike = int64) -> Value:
    """[2, n]: rows and columns of the elements of a lower triangle of [row, col], in row-major order."""
    row, col = check_shape((row, col))
    return _triangle(*np.tril_indices(row, offset, col), dtype)


@composed(
    samples=samples(
        Sample((3, 4), grad=()), Sample((4, 3, -1), grad=()), Sample((2, 3), {"offset": 1, "dtype": "int32"}, grad=())
    )
)
def triu_indices(row: int, col: int, offset: int = 0, dtype: DTypeLike = int64) -> Value:
    """[2, n]: rows and columns of the elements of an upper triangle of [row, col], in row-major order."""
    row, col = check_shape((row, col))
    return _triangle(*np.triu_indices(row, offset, col), dtype)


@composed(
    samples=samples(
        Sample((randn(3),)), Sample((randn(2, 3), 4)), Sample((randn(3), 2, True)), Sample((np.arange(3), 3))
    )
)
def vander(x: Operand, N: int | None = None, increasing: bool = False) -> Value:
    """Powers x^(N-1), ..., x, 1 of the last axis along a new one (N: default its size); increasing: 1, x, ..."""
    x = as_value(x)
    if not x.ndim:
        raise ShapeError("needs a tensor with dimensions")
    n = x.shape[-1] if N is None else N
    if n < 0:
        raise ArgumentError(f"N must not be negative, got {n}")
    if not n:
        return call("full", (*x.shape, 0), 0, x.dtype)
    power = call("arange", n, dtype=x.dtype) if increasing else call("arange", n - 1, -1, -1, dtype=x.dtype)
    return call("pow", expand_dims(x, -1), power)


# ---- grids -----------------------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((randn(3), randn(2, seed=1))),
        Sample((randn(3), randn(2, seed=1), randn(4, seed=2)), {"indexing": "ij"}),
        Sample((randn(3), randn(seed=1)), {"indexing": "ij"}),
    )
)
def meshgrid(*xs: Operand, indexing: str = "xy") -> tuple[Value, ...]:
    """Vectors (or numbers) spread over the grid they span. indexing: "ij", one axis each in order; "xy", NumPy's
    default, exchanges the first two."""
    if indexing not in ("xy", "ij"):
        raise ArgumentError(f"indexing must be 'xy' or 'ij', got {indexing!r}")
    values = [as_value(x) for x in xs]
    if not values or any(v.ndim > 1 for v in values):
        raise ShapeError(f"needs vectors, got {', '.join(str(v.shape) for v in values) or 'none'}")
    shape = tuple(v.size for v in values)
    n = len(values)
    grids = [
        call("broadcast_to", reshape(v, tuple(v.size if j == i else 1 for j in range(n))), shape)
        for i, v in enumerate(values)
    ]
    return tuple(swapaxes(g, 0, 1) for g in grids) if indexing == "xy" and n > 1 else tuple(grids)


@composed(samples=samples(Sample((randn(3), randn(2, seed=1))), Sample((randn(3),))))
def cartesian_prod(*xs: Operand) -> Value:
    """[n, k]: every combination of an element of each of k vectors, the last changing fastest; one vector: itself."""
    grids = meshgrid(*xs, indexing="ij")
    if len(grids) == 1:
        return grids[0]
    return call("stack", [reshape(g, (g.size,)) for g in grids], -1)


@composed(samples=samples(Sample(((2, 3),), grad=()), Sample(((4,), "int32"), grad=())))
def indices(dimensions: Sequence[int], dtype: DTypeLike = int64) -> Value:
    """[len(dimensions), *dimensions]: the position of each element of a grid along each axis, as numpy.indices."""
    shape = check_shape(dimensions, "dimensions")
    if not shape:
        raise ShapeError("needs at least one dimension")
    return call("stack", meshgrid(*(call("arange", d, dtype=dtype) for d in shape), indexing="ij"), 0)
