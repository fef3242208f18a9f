"""Picking and adding by index: integer tensors pick rows of a table, positions make masks.

The primitive is `gather_rows`: rows of a [rows, width] table by index. Its gradient is `scatter_add_rows`, whose
gradient is `gather_rows` again. An index counts from the end if negative; out of range it reads NaN (0 in an integer
table) and adds nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value, make
from ..ir.op import Kernel, Sample, call
from ..types import DTypeLike, TensorType, broadcast_shapes, check_axis, int32, int64
from .define import Operand, as_value, composed, define, integers, randn, samples, wide
from .leaf import stop_gradient
from .logic import equal, where
from .view import broadcast_to, reshape, transpose

# fmt: off
__all__ = [
    "embedding", "embedding_bag", "gather", "index_select", "one_hot", "scatter_add", "take", "take_along_axis",
    "tril", "triu",
]
# fmt: on

# ---- rows of a table -------------------------------------------------------------------------------------------


def _gather_type(table: TensorType, index: TensorType) -> TensorType:
    if table.ndim != 2 or index.ndim != 1 or index.dtype not in (int32, int64):
        raise ShapeError(f"needs a table [rows, width] and an int32 or int64 index [n], got {table} and {index}")
    return table.with_shape((index.shape[0], table.shape[1]))


def _scatter_type(index: TensorType, g: TensorType, *, rows: int) -> TensorType:
    if g.ndim != 2 or index.ndim != 1 or index.shape[0] != g.shape[0] or index.dtype not in (int32, int64):
        raise ShapeError(f"needs an int32 or int64 index [n] and values [n, width], got {index} and {g}")
    return g.with_shape((rows, g.shape[1]))


def _resolved(index: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers, negative ones counted from the end, and which of them exist."""
    index = np.where(index < 0, index + rows, index)
    return index, (index >= 0) & (index < rows)


def _gather_ref(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    row, there = _resolved(index, table.shape[0])
    if there.all():
        return table[row]
    out = np.full((index.size, table.shape[1]), np.nan if table.dtype.kind == "f" else 0, table.dtype)
    out[there] = table[row[there]]
    return out


def _scatter_ref(index: np.ndarray, g: np.ndarray, *, rows: int) -> np.ndarray:
    """Sorted by row, each run of equal rows is summed in one pass."""
    row, there = _resolved(index, rows)
    row, g = row[there], g[there]
    out = np.zeros((rows, g.shape[1]), g.dtype)
    if row.size:
        order = np.argsort(row, kind="stable")
        found, starts = np.unique(row[order], return_index=True)
        out[found] = np.add.reduceat(g[order], starts, axis=0)
    return out


@define(
    "gather_rows",
    infer=_gather_type,
    lowering=Kernel("gather"),
    ref=_gather_ref,
    vjp=lambda node, g: [call("scatter_add_rows", node.inputs[1], g, node.inputs[0].shape[0]), None],
    stores=True,
    samples=samples(
        Sample((randn(6, 5), np.array([0, 5, 2, 2, -1, -6, 0]))),
        Sample((randn(1, 3), np.array([0, 0]))),
        Sample((np.arange(12).reshape(4, 3), np.array([3, 4, -5]))),
    ),
)
def gather_rows(table: Operand, index: Operand) -> Value:
    """table[index]: rows of a table [rows, width] by an int index [n] -> [n, width]."""
    return make("gather_rows", [as_value(table), _as_index(index)]).out


@define(
    "scatter_add_rows",
    infer=_scatter_type,
    lowering=Kernel("scatter_add"),
    ref=_scatter_ref,
    vjp=lambda node, g: [None, gather_rows(g, node.inputs[0])],
    samples=samples(
        Sample((np.array([0, 3, 2, 2, -1]), randn(5, 4), 6)),
        Sample((np.array([1, 1]), randn(2, 1), 3)),
    ),
)
def scatter_add_rows(index: Operand, values: Operand, rows: int) -> Value:
    """[rows, width], row r being the sum of values[i] where index[i] = r; index: [n], values: [n, width].

    Sums run in float32 for 16-bit floats and are rounded once.
    """
    return make("scatter_add_rows", [_as_index(index), as_value(values)], rows=int(rows)).out


def _as_index(index: Operand) -> Value:
    index = as_value(index)
    if not index.dtype.is_integer:
        raise DTypeError(f"indices must be integers, got {index.dtype}")
    return index if index.dtype in (int32, int64) else call("cast", index, int32)


@composed(
    samples=samples(
        Sample((randn(5, 3), np.array([4, 0, -1, 0]))),
        Sample((randn(5, 3), np.array([[2, 0], [1, 1]])), {"axis": 1}),
        Sample((randn(2, 3, 4), np.array([2, -3])), {"axis": -2}),
        Sample((randn(2, 3), np.array([5, 0, 5])), {"axis": None}),
        Sample((randn(5, 3), np.asarray(2))),
        Sample((randn(5, 3), np.array([7, -1, -6, 2])), {"mode": "wrap"}),
        Sample((randn(5, 3), np.array([[7, -1], [-6, 2]])), {"axis": None, "mode": "clip"}),
    )
)
def take(x: Operand, indices: Operand, axis: int | None = 0, mode: str = "fill") -> Value:
    """Slices of x at integer `indices` of any shape, which replaces the axis; None: of the flattened x.

    A 0-d x is an axis of size 1. mode, for indices out of range: "fill" reads NaN (0 for integers), negative ones
    counting from the end; "wrap" goes around; "clip" takes the first or last slice, negative ones being out of range
    (as in NumPy).
    """
    x, indices = as_value(x), _as_index(indices)
    if mode not in ("fill", "wrap", "clip"):
        raise ArgumentError(f'mode must be "fill", "wrap" or "clip", got {mode!r}')
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    a = check_axis(axis, x.ndim)
    x = x if x.ndim else reshape(x, (1,))
    if mode != "fill" and x.shape[a]:
        n = x.shape[a]
        indices = call("remainder", indices, n) if mode == "wrap" else call("clamp", indices, 0, n - 1)
    order = (a, *(i for i in range(x.ndim) if i != a))
    front = transpose(x, order)
    rest = front.shape[1:]
    table = reshape(front, (front.shape[0], int(np.prod(rest, dtype=np.int64))))
    rows = gather_rows(table, reshape(indices, (indices.size,)))
    result = reshape(rows, (*indices.shape, *rest))
    back = (*range(indices.ndim, indices.ndim + a), *range(indices.ndim), *range(indices.ndim + a, result.ndim))
    return transpose(result, back)


@composed(samples=samples(Sample((randn(5, 3), 1, np.array([2, 0, 2]))), Sample((randn(), 0, np.array([0])))))
def index_select(x: Operand, dim: int, index: Operand) -> Value:
    """x's slices at the 1-D `index` along axis `dim`; a 0-d x has one slice, itself."""
    x, index = as_value(x), _as_index(index)
    if index.ndim > 1 or (not x.ndim and index.size != 1):
        at_most = "at most one axis" if x.ndim else "one element"
        raise ShapeError(f"index must have {at_most}, got {index.shape}")
    found = take(x, reshape(index, (index.size,)), dim)
    return found if x.ndim else reshape(found, ())


def _linear_index(x: Value, dim: int, index: Value) -> Value:
    """Positions in the flattened x of the elements that torch.gather(x, dim, index) reads."""
    x, index = (reshape(v, (1,)) if not v.ndim else v for v in (x, index))  # a number is an axis of size 1, as in torch
    a = check_axis(dim, x.ndim, "dim")
    if index.ndim != x.ndim or any(n > d for i, (n, d) in enumerate(zip(index.shape, x.shape, strict=True)) if i != a):
        raise ShapeError(f"index {index.shape} does not fit x {x.shape} along axis {a}")
    index = call("cast", index, int64)
    index = where(call("less", index, 0), index + x.shape[a], index)
    there = call("logical_and", call("greater_equal", index, 0), call("less", index, x.shape[a]))
    strides = [int(np.prod(x.shape[i + 1 :], dtype=np.int64)) for i in range(x.ndim)]
    total = index * strides[a]
    for i, n in enumerate(index.shape):
        if i != a:
            place = reshape(call("arange", n), tuple(n if j == i else 1 for j in range(x.ndim)))
            total = total + place * strides[i]
    return reshape(where(there, total, x.size), (index.size,))


@composed(
    samples=samples(
        Sample((randn(3, 5), 1, integers(3, 4, high=5))),
        Sample((randn(3, 5), 0, integers(2, 5, low=-3, high=3))),
        Sample((randn(2, 3, 4), -1, integers(2, 2, 6, high=4))),
        Sample((randn(), 0, np.array([0, 0]))),
    )
)
def gather(x: Operand, dim: int, index: Operand) -> Value:
    """out[i, j, ...] = x[i, index[i, j, ...], ...], the index standing on axis `dim`; index: x's rank, as in torch.

    Here and where values are scattered, a 0-d tensor stands for an axis of size 1.
    """
    x, index = as_value(x), _as_index(index)
    rows = gather_rows(reshape(x, (x.size, 1)), _linear_index(x, dim, index))
    return reshape(rows, index.shape)


@composed(
    samples=samples(
        Sample((randn(3, 5), np.array([[4, 0, 0], [1, 1, 2], [-1, 3, 0]]), 1)),
        Sample((randn(3, 5), np.array([[2, 0]]).T), {"axis": 0}),
        Sample((randn(1, 4), np.array([[2], [0], [1]]))),
        Sample((randn(2, 3), np.array([5, 0])), {"axis": None}),
    ),
    aliases=("take_along_dim",),
)
def take_along_axis(x: Operand, indices: Operand, axis: int | None = -1) -> Value:
    """out[i, j, ...] = x[i, indices[i, j, ...], ...], the index standing on `axis`; None: of the flattened x.

    The other axes of x and indices broadcast. Out of range as `take`.
    """
    x, indices = as_value(x), _as_index(indices)
    if axis is None:
        return take(x, reshape(indices, (indices.size,)), None)
    x, indices, a = _along(x, indices, axis)
    return gather(x, a, indices)


def _along(x: Value, index: Value, axis: int) -> tuple[Value, Value, int]:
    """x and index, broadcast against each other but for the axis."""
    if x.ndim != index.ndim:
        raise ShapeError(f"indices {index.shape} must have as many axes as x {x.shape}")
    a = check_axis(axis, x.ndim)
    rest = broadcast_shapes(*((*s[:a], 1, *s[a + 1 :]) for s in (x.shape, index.shape)))
    wide = [(*rest[:a], n, *rest[a + 1 :]) for n in (x.shape[a], index.shape[a])]
    return broadcast_to(x, wide[0]), broadcast_to(index, wide[1]), a


@composed(
    samples=samples(
        Sample((randn(3, 5), 1, integers(3, 4, high=5), randn(3, 4, seed=1))),
        Sample((randn(3, 5), 0, integers(2, 5, high=3), randn(2, 5, seed=1))),
        Sample((randn(), 0, np.array([0]), randn(seed=1))),
    )
)
def scatter_add(x: Operand, dim: int, index: Operand, src: Operand) -> Value:
    """x with src[i, j, ...] added at [i, index[i, j, ...], ...], the index standing on axis `dim`.

    index: x's rank; src: index's shape and x's dtype.
    """
    x, index, src = as_value(x), _as_index(index), as_value(src)
    if (src.shape or (1,)) != (index.shape or (1,)):
        raise ShapeError(f"src {src.shape} and index {index.shape} must have one shape")
    if src.dtype is not x.dtype:
        raise DTypeError(f"src is {src.dtype}, x is {x.dtype}")
    added = scatter_add_rows(_linear_index(x, dim, index), reshape(src, (src.size, 1)), x.size)
    return x + reshape(added, x.shape)


@composed(
    samples=samples(
        Sample((np.array([[0, 3, 3], [1, 5, 0]]), randn(6, 4))),
        Sample((np.array([0, 3, 3]), randn(4, 2)), {"padding_idx": 3}, grad=()),
        Sample((np.asarray(1), randn(4, 2))),
    )
)
def embedding(indices: Operand, weight: Operand, padding_idx: int | None = None) -> Value:
    """Rows of weight [rows, width] at integer indices [...] -> [..., width].

    padding_idx: this row gets no gradient.
    """
    indices, weight = _as_index(indices), as_value(weight)
    if weight.ndim != 2:
        raise ShapeError(f"weight must be [rows, width], got {weight.shape}")
    found = take(weight, indices, 0)
    if padding_idx is None:
        return found
    row = padding_idx + weight.shape[0] if padding_idx < 0 else padding_idx
    if not 0 <= row < weight.shape[0]:
        raise ArgumentError(f"padding_idx {padding_idx} is out of range for {weight.shape[0]} rows")
    return where(call("expand_dims", equal(indices, row), -1), stop_gradient(found), found)


def _bags(indices: Value, offsets: Sequence[int] | None, last: bool) -> tuple[Value, Value | None]:
    """Indices as bags [B, L], and which of them count (None: all). offsets: where bags begin in indices [n]."""
    if offsets is None:
        if indices.ndim != 2:
            raise ShapeError(f"indices must be [bags, length], or [n] with offsets, got {indices.shape}")
        return indices, None
    edges = [int(o) for o in offsets] + ([] if last else [indices.size])
    sizes = [b - a for a, b in itertools.pairwise(edges)]
    if indices.ndim != 1 or not edges or edges[0] != 0 or edges[-1] > indices.size or min(sizes, default=0) < 0:
        raise ArgumentError(f"offsets must rise from 0 to at most {indices.size} for indices [n], got {tuple(offsets)}")
    length = max(*sizes, 1, 1)
    place = np.asarray(edges[:-1], np.int64)[:, None] + np.arange(length)
    there = np.arange(length) < np.asarray(sizes, np.int64)[:, None]
    return take(indices, call("constant", np.where(there, place, 0))), call("constant", there)


@composed(
    samples=samples(
        Sample((np.array([[0, 3, 3], [1, 5, 0]]), randn(6, 4))),
        Sample((np.array([0, 3, 3, 1, 5]), randn(6, 4), (0, 2, 2)), {"mode": "sum"}),
        Sample((np.array([0, 3, 3, 1, 5]), randn(6, 4), (0, 3)), {"mode": "max"}),
        Sample((np.array([0, 3, 3, 1]), randn(6, 2), (0, 3, 4)), {"mode": "mean", "include_last_offset": True}),
        Sample((np.array([[0, 3], [1, 5]]), randn(6, 2)), {"mode": "sum", "per_sample_weights": randn(2, 2, seed=1)}),
        Sample((np.array([[0, 3, 3], [1, 5, 0]]), randn(6, 2)), {"mode": "max", "padding_idx": 3}, grad=()),
        Sample((np.array([[0, 3, 3], [3, 3, 3]]), randn(6, 2)), {"mode": "mean", "padding_idx": 3}, grad=()),
    )
)
def embedding_bag(
    indices: Operand,
    weight: Operand,
    offsets: Sequence[int] | None = None,
    mode: str = "mean",
    per_sample_weights: Operand | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Value:
    """The sum, mean or largest elements of weight's rows [rows, width] over bags of indices -> [bags, width].

    indices: [bags, length], or [n] with `offsets`, static, where bags begin (include_last_offset: and where the last
    one ends). per_sample_weights: indices' shape, factors of the rows, for "sum". padding_idx: these do not count, and
    get no gradient. An empty bag gives zeros. Means and sums are taken in float32 for 16-bit floats.
    """
    indices, weight = _as_index(indices), as_value(weight)
    if weight.ndim != 2 or not weight.dtype.is_float:
        raise ShapeError(f"weight must be floating [rows, width], got {weight.type}")
    if mode not in ("sum", "mean", "max"):
        raise ArgumentError(f'mode must be "sum", "mean" or "max", got {mode!r}')
    bags, there = _bags(indices, offsets, include_last_offset)
    rows = wide(embedding(bags, weight, padding_idx))
    if per_sample_weights is not None:
        factors = as_value(per_sample_weights)
        if mode != "sum" or factors.shape != indices.shape:
            raise ArgumentError(f'per_sample_weights needs mode "sum" and shape {indices.shape}, got {factors.shape}')
        factors = factors if offsets is None else _bags(factors, offsets, include_last_offset)[0]
        rows = call("mul", rows, call("expand_dims", wide(factors), -1))
    if padding_idx is not None:
        row = padding_idx + weight.shape[0] if padding_idx < 0 else padding_idx
        real = call("logical_not", equal(bags, row))
        there = real if there is None else call("logical_and", there, real)
    if there is None:
        result = call("max" if mode == "max" else mode, rows, axis=1)
    else:
        count = call("sum", call("cast", there, int64), axis=1, keepdims=True)
        here = call("expand_dims", there, -1)
        if mode == "max":
            result = call("max", where(here, rows, -math.inf), axis=1)
            result = where(call("greater", count, 0), result, 0.0)
        else:
            result = call("sum", where(here, rows, 0.0), axis=1)
            if mode == "mean":
                result = call("div", result, call("cast", call("clamp_min", count, 1), result.dtype))
    return call("cast", result, weight.dtype)


# ---- masks by position -----------------------------------------------------------------------------------------


@composed(
    samples=samples(Sample((np.array([0, 2, 1]), 3)), Sample((np.array([[1, 4], [0, 7]]), 5), {"dtype": "float32"}))
)
def one_hot(indices: Operand, num_classes: int, dtype: DTypeLike = int64) -> Value:
    """1 where the new last axis, of num_classes, equals the index, else 0; an index out of range gives zeros."""
    indices = _as_index(indices)
    classes = call("arange", num_classes, dtype=indices.dtype)
    return call("cast", equal(call("expand_dims", indices, -1), classes), dtype)


def _diagonal_distance(x: Value) -> Value:
    """column - row of each element of the last two axes."""
    if x.ndim < 2:
        raise ShapeError(f"needs two axes or more, got {x.shape}")
    rows, columns = x.shape[-2:]
    return call("arange", columns, dtype=int32) - reshape(call("arange", rows, dtype=int32), (rows, 1))


_matrices = samples(
    Sample((randn(4, 5),)), Sample((randn(2, 3, 3), 1)), Sample((randn(5, 3), -2)), Sample((randn(1, 1), 3))
)


@composed(samples=_matrices)
def tril(x: Operand, diagonal: int = 0) -> Value:
    """The lower triangles of the last two axes, up to the given diagonal; zeros elsewhere."""
    x = as_value(x)
    return where(call("less_equal", _diagonal_distance(x), diagonal), x, call("full", (), 0, x.dtype))


@composed(samples=_matrices)
def triu(x: Operand, diagonal: int = 0) -> Value:
    """The upper triangles of the last two axes, from the given diagonal; zeros elsewhere."""
    x = as_value(x)
    return where(call("greater_equal", _diagonal_distance(x), diagonal), x, call("full", (), 0, x.dtype))
