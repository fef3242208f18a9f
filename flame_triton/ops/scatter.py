"""Writing by index: adding, replacing and reducing, with the same bits every run whatever the indices.

Where several values are written to one place, sums run in a fixed order, and of replacing values the last one wins, as
in NumPy. An index counts from the end if negative; what is out of range is dropped. All are functions: they return a
new tensor. The gradient flows to the values that took effect, and to x where nothing was written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Kernel, Sample, call
from ..types import DType, TensorType, bool_, broadcast_shapes, check_axis, int64
from .define import Operand, as_value, composed, define, integers, is_scalar, randn, samples, wide
from .indexing import _along, _as_index, _linear_index, _resolved, _scatter_type, gather_rows, scatter_add_rows, take
from .logic import equal, where
from .scan import linear_recurrence
from .sort import search_rows, sort_rows
from .view import broadcast_to, narrow, reshape, transpose

# fmt: off
__all__ = [
    "index_add", "index_copy", "index_fill", "index_reduce", "put_along_axis", "scatter", "scatter_reduce",
]
# fmt: on

# ---- extremes of rows ------------------------------------------------------------------------------------------


def _empty(dtype: DType, smallest: bool) -> int | float:
    """The extreme of nothing: an infinity, or the last of the integers."""
    if dtype.is_float:
        return math.inf if smallest else -math.inf
    if dtype is bool_:
        return int(smallest)
    return int(np.iinfo(dtype.numpy).max if smallest else np.iinfo(dtype.numpy).min)


def _extreme_type(index: TensorType, x: TensorType, *, rows: int, smallest: bool, empty: int | float) -> TensorType:
    return _scatter_type(index, x, rows=rows)


def _extreme_ref(index: np.ndarray, x: np.ndarray, *, rows: int, smallest: bool, empty: int | float) -> np.ndarray:
    row, there = _resolved(index, rows)
    out = np.full((rows, x.shape[1]), empty, x.dtype)
    (np.minimum if smallest else np.maximum).at(out, row[there], x[there])
    return out


def _extreme_vjp(node: Node, g: Value) -> list[Value | None]:
    """Elements equal to the extreme share the cotangent equally."""
    index, x = node.inputs
    hit = equal(x, gather_rows(node.out, index))
    count = scatter_add_rows(index, call("cast", hit, x.dtype.compute), node.type.shape[0])
    share = call("div", wide(g), call("clamp_min", count, 1.0))
    return [None, call("cast", where(hit, gather_rows(share, index), 0.0), x.dtype)]


@define(
    "scatter_extreme_rows",
    infer=_extreme_type,
    lowering=Kernel("scatter_extreme"),
    ref=_extreme_ref,
    vjp=_extreme_vjp,
    samples=samples(
        Sample((np.array([0, 3, 2, 2, -1, 0, 9, 1]), randn(8, 4), 5)),
        Sample((np.array([0, 3, 2, 2, -1, 0, 9]), randn(7, 4), 6), grad=()),
        Sample((np.array([1, 1, -3, 2]), randn(4, 1), 3, True)),
        Sample((np.array([2, 0, 2]), integers(3, 2, low=-9, high=9), 3)),
    ),
)
def scatter_extreme_rows(index: Operand, values: Operand, rows: int, smallest: bool = False) -> Value:
    """[rows, width], row r being the largest (smallest) of values[i] where index[i] = r; values: [n, width].

    Without any, -inf (inf), or the least (largest) integer. NaN counts as the extreme; equal ones share the gradient.
    """
    index, values = _as_index(index), as_value(values)
    empty = _empty(values.dtype, bool(smallest))
    return make("scatter_extreme_rows", [index, values], rows=int(rows), smallest=bool(smallest), empty=empty).out


# ---- the last one wins -----------------------------------------------------------------------------------------


def _sorted_index(index: Value, rows: int) -> tuple[Value, Value, Value, Value]:
    """For an index [n], n > 0: in ascending order, what sorted it, and for each row the place of its last one in it,
    and whether there is one; [n], [n], [rows], [rows]."""
    index = call("cast", index, int64)
    resolved = where(call("less", index, 0), index + rows, index)
    ordered, order = sort_rows(reshape(resolved, (1, index.size)))
    places = reshape(call("arange", rows), (1, rows))
    end = search_rows(ordered, places, True) - 1
    ordered, order, end = (reshape(v, (v.size,)) for v in (ordered, order, end))
    at = call("clamp_min", end, 0)
    named = equal(take(ordered, at), call("arange", rows))  # with nothing below, the first is larger
    return ordered, order, at, named


def set_rows(table: Value, index: Value, values: Value) -> Value:
    """table [rows, width] with row index[i] replaced by values[i], the last of several; index: [n]."""
    rows, n = table.shape[0], index.size
    if not n or not table.size:
        return table
    _, order, at, named = _sorted_index(index, rows)
    writer = where(named, take(order, at), n)  # n is out of range: it reads NaN, and its gradient goes nowhere
    return where(reshape(named, (rows, 1)), gather_rows(values, writer), table)


def fitted(values: Value, shape: tuple[int, ...]) -> Value:
    """values broadcast to `shape`. Raises ShapeError in the name of the caller."""
    if broadcast_shapes(values.shape, shape) != shape:
        raise ShapeError(f"values {values.shape} do not broadcast to {shape}")
    return broadcast_to(values, shape)


def _flat_index(x: Value, dim: int, index: Operand) -> tuple[Value, Value]:
    """The index as a Value, and flattened to positions in the flattened x."""
    index = _as_index(index)
    return index, _linear_index(x, dim, index)


def _source(x: Value, index: Value, src: Operand) -> Value:
    """src as a column [n, 1] of x's dtype: a tensor of at least the index's shape, or a number."""
    if is_scalar(src):
        return broadcast_to(as_value(src, x.dtype), (index.size, 1))
    src = as_value(src)
    if src.dtype is not x.dtype:
        raise DTypeError(f"src is {src.dtype}, x is {x.dtype}")
    src, index = (v if v.ndim else reshape(v, (1,)) for v in (src, index))
    if src.ndim != index.ndim or any(n > d for n, d in zip(index.shape, src.shape, strict=True)):
        raise ShapeError(f"src {src.shape} is smaller than index {index.shape}")
    for a, n in enumerate(index.shape):
        src = narrow(src, a, 0, n)
    return reshape(src, (index.size, 1))


@composed(
    samples=samples(
        Sample((randn(3, 5), 1, np.array([[4, 0, 2], [1, 1, 1], [-1, 3, 4]]), randn(3, 3, seed=1))),
        Sample((randn(3, 4), 0, integers(2, 4, high=3), -1.5)),
        Sample((integers(3, 4, high=9), 0, integers(1, 4, high=3), integers(2, 5, high=9, seed=1))),
    )
)
def scatter(x: Operand, dim: int, index: Operand, src: Operand) -> Value:
    """x with src[i, j, ...] written to [i, index[i, j, ...], ...], the index standing on axis `dim`; src: or a number.

    src: x's dtype, at least index's shape. Of several values for one place the last in row-major order stays.
    """
    x = as_value(x)
    index, flat = _flat_index(x, dim, index)
    return reshape(set_rows(reshape(x, (x.size, 1)), flat, _source(x, index, src)), x.shape)


@composed(
    samples=samples(
        Sample((randn(3, 5), np.array([[4, 0], [1, 1], [-1, 3]]), randn(3, 2, seed=1), 1)),
        Sample((randn(3, 4), np.array([[2]]), 0.5, 0)),
        Sample((randn(2, 3), np.array([5, 0]), randn(2, seed=1), None)),
    )
)
def put_along_axis(x: Operand, indices: Operand, values: Operand, axis: int | None) -> Value:
    """x with values written where `take_along_axis(x, indices, axis)` reads; values broadcast to the indices."""
    x, indices, values = as_value(x), _as_index(indices), as_value(values)
    shape = x.shape
    if axis is None:
        x, indices, axis = reshape(x, (x.size,)), reshape(indices, (indices.size,)), 0
    x, indices, a = _along(x, indices, axis)
    if shape != x.shape and math.prod(shape) != x.size:
        raise ShapeError(f"indices {indices.shape} do not fit x {shape}")
    spread = fitted(call("cast", values, x.dtype), indices.shape)
    return reshape(scatter(x, a, indices, spread), shape)


# ---- reducing --------------------------------------------------------------------------------------------------

_REDUCTIONS = ("sum", "mean", "prod", "amax", "amin")


def _touched(index: Value, rows: int) -> Value:
    """How many indices name each row; int64 [rows, 1]."""
    return scatter_add_rows(index, call("ones", (index.size, 1), int64), rows)


def _product_rows(index: Value, x: Value, rows: int) -> Value:
    """[rows, 1]: the product of the x [n, 1] of each row, n > 0; anything where there are none.

    Sorted by index, running products y_i = a_i y_(i-1) + b_i that begin anew (a = 0, b = x) at every new index: no
    division, so zeros are no special case for gradients of any order.
    """
    ordered, order, at, _ = _sorted_index(index, rows)
    values = take(reshape(wide(x) if x.dtype.is_float else call("cast", x, "float64"), (index.size,)), order)
    before = call("pad", narrow(ordered, 0, 0, index.size - 1), [(1, 0)], -1)
    first = call("not_equal", ordered, before)
    first = call("logical_or", first, equal(call("arange", index.size), 0))
    running = linear_recurrence(where(first, 0.0, values), where(first, values, 0.0), 0)
    return call("cast", reshape(take(running, at), (rows, 1)), x.dtype)


def reduce_rows(x: Value, index: Value, src: Value, reduce: str, include_self: bool) -> Value:
    """x [rows, 1] with src [n, 1] reduced into the rows that index [n] names."""
    rows = x.shape[0]
    if not index.size or not rows:
        return x
    if reduce in ("prod", "amax", "amin"):
        if include_self:
            index = call("concat", [call("arange", rows), index])
            src = call("concat", [x, src])
        if reduce == "prod":
            found = _product_rows(index, src, rows)
        else:
            found = scatter_extreme_rows(index, src, rows, reduce == "amin")
        return found if include_self else where(call("greater", _touched(index, rows), 0), found, x)
    count, total = _touched(index, rows), scatter_add_rows(index, wide(src), rows)
    touched = call("greater", count, 0)
    if include_self:
        total, count = total + wide(x), count + 1
    if reduce == "mean":
        count = call("clamp_min", count, 1)
        if x.dtype.is_float:
            total = call("div", total, call("cast", count, total.dtype))
        else:
            total = call("floor_divide", total, call("cast", count, total.dtype))
    total = call("cast", total, x.dtype)
    return total if include_self else where(touched, total, x)


def _reduction(reduce: str, allowed: Sequence[str] = _REDUCTIONS) -> None:
    if reduce not in allowed:
        raise ArgumentError(f"reduce must be one of {', '.join(allowed)}, got {reduce!r}")


_DUPLICATES = np.array([[4, 0, 0], [1, 1, 1], [-1, 3, 4]])


@composed(
    samples=samples(
        *(Sample((randn(3, 5), 1, _DUPLICATES, randn(3, 3, seed=1), kind)) for kind in _REDUCTIONS),
        *(
            Sample((randn(3, 5), 1, _DUPLICATES, randn(3, 3, seed=1), kind), {"include_self": False})
            for kind in ("sum", "mean", "prod", "amin")
        ),
        Sample((np.ones((2, 4)), 1, np.array([[0, 0, 2], [1, 3, 3]]), np.array([[0.0, 0, 2], [0, 3, 0]]), "prod")),
        Sample((integers(3, 4, high=9), 0, integers(2, 4, high=3), integers(2, 4, high=9, seed=1), "mean")),
    )
)
def scatter_reduce(x: Operand, dim: int, index: Operand, src: Operand, reduce: str, include_self: bool = True) -> Value:
    """x with src[i, j, ...] reduced into [i, index[i, j, ...], ...], the index standing on axis `dim`.

    reduce: "sum", "mean", "prod", "amax" or "amin"; include_self: x's own element takes part. Equal extremes share the
    gradient equally; integers are averaged rounding down, and multiplied exactly below 2^53.
    """
    _reduction(reduce)
    x = as_value(x)
    index, flat = _flat_index(x, dim, index)
    src = _source(x, index, src)
    return reshape(reduce_rows(reshape(x, (x.size, 1)), flat, src, reduce, include_self), x.shape)


# ---- slices by index -------------------------------------------------------------------------------------------


def _front(x: Value, dim: int, index: Operand, source: Operand) -> tuple[Value, Value, Value, tuple[int, ...]]:
    """x with axis `dim` in front as [rows, width], index [n], source as [n, width], and the order of x's axes."""
    index, source = _as_index(index), as_value(source)
    a = check_axis(dim, x.ndim, "dim")
    x = x if x.ndim else reshape(x, (1,))
    if index.ndim > 1:
        raise ShapeError(f"index must have at most one axis, got {index.shape}")
    if source.dtype is not x.dtype:
        raise DTypeError(f"source is {source.dtype}, x is {x.dtype}")
    shape = (*x.shape[:a], index.size, *x.shape[a + 1 :])
    if source.shape != shape and source.size != math.prod(shape):
        raise ShapeError(f"source must be {shape}, got {source.shape}")
    order = (a, *(i for i in range(x.ndim) if i != a))
    width = math.prod(x.shape) // x.shape[a] if x.shape[a] else 0
    rows = [reshape(transpose(v, order), (v.shape[a], width)) for v in (x, reshape(source, shape))]
    return rows[0], reshape(index, (index.size,)), rows[1], order


def _back(rows: Value, x: Value, order: tuple[int, ...]) -> Value:
    if not x.ndim:
        return reshape(rows, ())
    front = reshape(rows, tuple(x.shape[a] for a in order))
    return transpose(front, sorted(range(x.ndim), key=order.__getitem__))


@composed(
    samples=samples(
        Sample((randn(5, 3), 0, np.array([4, 0, 4, -2]), randn(4, 3, seed=1))),
        Sample((randn(2, 4, 3), 1, np.array([1, 1]), randn(2, 2, 3, seed=1)), {"alpha": -0.5}),
        Sample((randn(), 0, np.asarray(0), randn(seed=1))),
    )
)
def index_add(x: Operand, dim: int, index: Operand, source: Operand, alpha: float = 1) -> Value:
    """x with alpha times the slices of `source` added to its slices at the 1-D `index` along axis `dim`."""
    x = as_value(x)
    rows, index, source, order = _front(x, dim, index, source)
    added = scatter_add_rows(index, wide(source), rows.shape[0])
    added = added if alpha == 1 else call("mul", added, alpha)
    return _back(call("cast", wide(rows) + added, x.dtype), x, order)


@composed(
    samples=samples(
        Sample((randn(5, 3), 0, np.array([4, 0, -2]), randn(3, 3, seed=1))),
        Sample((randn(2, 4, 3), 1, np.array([1, 1]), randn(2, 2, 3, seed=1))),
    )
)
def index_copy(x: Operand, dim: int, index: Operand, source: Operand) -> Value:
    """x with its slices at the 1-D `index` along axis `dim` replaced by those of `source`, the last of several.

    Here, as in index_add and index_reduce, a 0-d x is an axis of size 1.
    """
    x = as_value(x)
    rows, index, source, order = _front(x, dim, index, source)
    return _back(set_rows(rows, index, source), x, order)


@composed(
    samples=samples(
        Sample((randn(5, 3), 0, np.array([4, 0, -2]), 1.5)), Sample((randn(2, 4), 1, np.array([1]), np.asarray(0.5)))
    )
)
def index_fill(x: Operand, dim: int, index: Operand, value: Operand) -> Value:
    """x with its slices at the 1-D `index` along axis `dim` filled with a number or a 0-d Value."""
    x, index = as_value(x), _as_index(index)
    a, value = check_axis(dim, x.ndim, "dim"), as_value(value, x.dtype)
    if value.ndim or index.ndim > 1:
        raise ShapeError(f"needs a 0-d value and a 1-D index, got {value.shape} and {index.shape}")
    n = x.shape[a] if x.ndim else 1
    index = reshape(index, (index.size, 1))
    index = where(call("less", index, 0), index + n, index)
    if not index.size:
        return x
    named = call("any", equal(index, call("arange", n, dtype=index.dtype)), axis=0)
    named = reshape(named, tuple(n if i == a else 1 for i in range(x.ndim)))
    return where(named, call("cast", value, x.dtype), x)


@composed(
    samples=samples(
        *(
            Sample((randn(5, 3), 0, np.array([4, 0, 4]), randn(3, 3, seed=1), kind), {"include_self": own})
            for kind, own in (("prod", True), ("mean", False), ("amax", True), ("amin", False))
        ),
    )
)
def index_reduce(
    x: Operand, dim: int, index: Operand, source: Operand, reduce: str, include_self: bool = True
) -> Value:
    """x with the slices of `source` reduced into its slices at the 1-D `index` along axis `dim`, as scatter_reduce.

    reduce: "prod", "mean", "amax" or "amin".
    """
    _reduction(reduce, _REDUCTIONS[1:])
    x = as_value(x)
    rows, index, source, order = _front(x, dim, index, source)
    spread = broadcast_to(reshape(index, (index.size, 1)), source.shape)
    return _back(scatter_reduce(rows, 0, spread, source, reduce, include_self), x, order)
