"""Sorting along an axis, and what follows from order: topk, kthvalue, median, quantile, mode, searchsorted.

The primitive sorts rows [M, N], stably, NaN above all, -0.0 equal to 0.0; other axes are brought to the end by a
transpose. Its results are values and indices. With p the permutation of a row, values_j = x_p(j), so the cotangent of
x_i is g_q(i), q being the inverse of p: one gather, whose gradient is the gather by p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Kernel, Sample, call
from ..types import TensorType, check_axis, int64
from .define import Operand, as_value, composed, define, integers, promote_operands, randn, samples, wide
from .indexing import gather_rows
from .logic import where
from .scan import cummax
from .view import broadcast_to, narrow, reshape, swapaxes

# fmt: off
__all__ = [
    "argsort", "bucketize", "kthvalue", "median", "mode", "msort", "nanmedian", "nanquantile", "quantile",
    "searchsorted", "sort", "topk",
]
# fmt: on

# ---- the primitives --------------------------------------------------------------------------------------------


def _sort_type(x: TensorType, *, descending: bool) -> tuple[TensorType, TensorType]:
    if x.ndim != 2:
        raise ShapeError(f"needs rows [M, N], got {x.shape}")
    return x, x.with_dtype(int64)


def _order(x: np.ndarray, descending: bool) -> np.ndarray:
    """Stable, NaN above all. Descending is ascending by the negated rank of each element among the distinct ones."""
    if not descending:
        return np.argsort(x, axis=1, kind="stable")
    _, rank = np.unique(x, return_inverse=True)
    return np.argsort(-rank.reshape(x.shape), axis=1, kind="stable")


def _sort_ref(x: np.ndarray, *, descending: bool) -> tuple[np.ndarray, np.ndarray]:
    order = _order(x, descending)
    return np.take_along_axis(x, order, 1), order.astype(np.int64)


def _sort_vjp(node: Node, g: Value | None, _: Value | None) -> list[Value | None]:
    if g is None:
        return [None]
    permutation = node.outputs[1]
    inverse = make("sort_rows", [permutation], descending=False).outputs[1]
    return [make("permute_rows", [g, inverse, permutation]).out]


@define(
    "sort_rows",
    infer=_sort_type,
    lowering=Kernel("sort"),
    ref=_sort_ref,
    vjp=_sort_vjp,
)
def sort_rows(x: Operand, descending: bool = False) -> tuple[Value, Value]:
    """(values, indices) of the rows of x [M, N] in order."""
    values, indices = make("sort_rows", [as_value(x)], descending=bool(descending)).outputs
    return values, indices


def _permute_build(node: Node) -> Value:
    x, index = node.inputs[:2]
    rows, length = x.shape
    first = reshape(call("arange", rows) * length, (rows, 1))
    return reshape(gather_rows(reshape(x, (x.size, 1)), reshape(index + first, (x.size,))), x.shape)


@define(
    "permute_rows",
    infer=lambda x, index, inverse: x,
    lowering=Composite(_permute_build),
    ref=lambda x, index, inverse: np.take_along_axis(x, index, 1),
    vjp=lambda node, g: [
        make("permute_rows", [g, node.inputs[2], node.inputs[1]]).out,
        None,
        None,
    ],
    residual=(1, 2),
)
def permute_rows(x: Value, index: Value, inverse: Value) -> Value:
    """out[i, j] = x[i, index[i, j]]; the rows of index are permutations, those of `inverse` undo them."""
    return make("permute_rows", [x, index, inverse]).out


def _search_ref(ordered: np.ndarray, x: np.ndarray, *, right: bool) -> np.ndarray:
    side = "right" if right else "left"
    found = [np.searchsorted(ordered[i % len(ordered)], row, side) for i, row in enumerate(x)]
    return np.asarray(found, np.int64).reshape(x.shape)


def _search_type(ordered: TensorType, x: TensorType, *, right: bool) -> TensorType:
    return x.with_dtype(int64)


# ---- sort ------------------------------------------------------------------------------------------------------


def _last(x: Operand, axis: int) -> tuple[Value, int]:
    """x with the axis at the end, and its number; a number becomes a tensor of one element."""
    x = as_value(x)
    a = check_axis(axis, x.ndim)
    return (swapaxes(x, a, -1) if x.ndim else reshape(x, (1,))), a


def _sorted(x: Operand, axis: int, descending: bool) -> tuple[Value, Value, int]:
    """Values and indices in order along the last axis, and which axis of x that was."""
    last, a = _last(x, axis)
    rows = reshape(last, (math.prod(last.shape[:-1]), last.shape[-1]))
    values, indices = sort_rows(rows, descending)
    return reshape(values, last.shape), reshape(indices, last.shape), a


def _placed(y: Value, a: int, ndim: int, keepdims: bool = True) -> Value:
    """y with its last axis back at place a; keepdims false: that axis, of size 1, is dropped."""
    y = swapaxes(y, a, -1) if ndim else reshape(y, ())
    return y if keepdims or not ndim else reshape(y, tuple(d for i, d in enumerate(y.shape) if i != a))


_TIES = np.array([[2.0, -1.0, 2.0, 0.0, -1.0], [1.0, 1.0, 1.0, 0.0, 3.0]])
_SPECIAL = np.array([[1.0, np.nan, -np.inf, 0.0, -0.0], [np.inf, np.nan, np.nan, -1.0, np.inf]])


@composed(
    samples=samples(
        Sample((randn(3, 5),)),
        Sample((randn(2, 7, 3),), {"axis": 1, "descending": True}),
        Sample((randn(17),)),
        Sample((_SPECIAL,), {"descending": True}, grad=()),
        Sample((_SPECIAL,), grad=()),
        Sample((integers(2, 9, low=-4, high=4),), {"axis": -1}),
        Sample((randn(3, 1),)),
        Sample((randn(2, 0),)),
    )
)
def sort(x: Operand, axis: int = -1, descending: bool = False, stable: bool = True) -> tuple[Value, Value]:
    """(values, indices) in order along the axis; indices are int64.

    Always stable, whatever `stable` says: equal elements keep their order. NaN is the largest; -0.0 equals 0.0.
    """
    x = as_value(x)
    values, indices, a = _sorted(x, axis, descending)
    return _placed(values, a, x.ndim), _placed(indices, a, x.ndim)


@composed(
    samples=samples(Sample((_TIES,), {"descending": True}, grad=()), Sample((randn(4, 3),), {"axis": 0}, grad=()))
)
def argsort(x: Operand, axis: int = -1, descending: bool = False, stable: bool = True) -> Value:
    """The int64 indices that put x in order along the axis: those of `sort`."""
    return sort(x, axis, descending, stable)[1]


@composed(samples=samples(Sample((randn(4, 3),)), Sample((randn(5),))))
def msort(x: Operand) -> Value:
    """x sorted along its first axis."""
    return sort(x, 0)[0]


@composed(
    samples=samples(
        Sample((randn(3, 7), 2)),
        Sample((randn(5, 2), 3), {"axis": 0, "largest": False}),
        Sample((randn(4), 4), {"sorted": False}),
        Sample((randn(2, 3), 0)),
    )
)
def topk(x: Operand, k: int, axis: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Value, Value]:
    """(values, indices) of the k largest elements along the axis, or the k smallest, in order whatever `sorted` says.

    Of equal elements the first come first. NaN is the largest.
    """
    x = as_value(x)
    values, indices, a = _sorted(x, axis, largest)
    if not 0 <= k <= values.shape[-1]:
        raise ArgumentError(f"k must lie in [0, {values.shape[-1]}], got {k}")
    values, indices = narrow(values, -1, 0, k), narrow(indices, -1, 0, k)
    return (_placed(values, a, x.ndim), _placed(indices, a, x.ndim)) if x.ndim or k else (values, indices)


# ---- order statistics ------------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((randn(3, 5), 2)),
        Sample((randn(4, 3), 4), {"axis": 0, "keepdims": True}),
        Sample((randn(1), 1)),
    )
)
def kthvalue(x: Operand, k: int, axis: int = -1, keepdims: bool = False) -> tuple[Value, Value]:
    """(values, indices) of the k-th smallest element along the axis, k counting from 1."""
    x = as_value(x)
    values, indices, a = _sorted(x, axis, False)
    if not 1 <= k <= values.shape[-1]:
        raise ArgumentError(f"k must lie in [1, {values.shape[-1]}], got {k}")
    values, indices = narrow(values, -1, k - 1, 1), narrow(indices, -1, k - 1, 1)
    return _placed(values, a, x.ndim, keepdims), _placed(indices, a, x.ndim, keepdims)


def picked(x: Value, index: Value) -> Value:
    """x's elements at `index` along the last axis."""
    return call("gather", x, -1, index)


def _count(condition: Value) -> Value:
    return call("sum", call("cast", condition, int64), axis=-1, keepdims=True)


def _median(x: Operand, axis: int | None, keepdims: bool, skip_nan: bool) -> Value | tuple[Value, Value]:
    x = as_value(x)
    shape = x.shape
    flat = axis is None
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    values, indices, a = _sorted(x, axis, False)
    n = values.shape[-1]
    if not n:
        raise ShapeError(f"the median of {shape} is over no elements")
    if x.dtype.is_float:
        missing = _count(call("isnan", values))
        rank = (n - missing - 1) // 2 if skip_nan else where(call("greater", missing, 0), n - missing, (n - 1) // 2)
        rank = call("clamp", rank, 0, n - 1)
        value, index = picked(values, rank), picked(indices, rank)
    else:
        value, index = narrow(values, -1, (n - 1) // 2, 1), narrow(indices, -1, (n - 1) // 2, 1)
    if flat:
        return reshape(value, (1,) * len(shape) if keepdims else ())
    return _placed(value, a, x.ndim, keepdims), _placed(index, a, x.ndim, keepdims)


_WITH_NAN = np.array([[1.0, np.nan, 3.0, 2.0], [4.0, 2.5, -1.0, 0.5], [np.nan] * 4])
_medians = samples(
    Sample((randn(3, 5),)),
    Sample((randn(3, 4),), {"axis": 1}),
    Sample((randn(4, 3),), {"axis": 0, "keepdims": True}),
    Sample((_WITH_NAN,), grad=()),
    Sample((integers(2, 6, high=50),), {"axis": -1}),
)


@composed(samples=_medians)
def median(x: Operand, axis: int | None = None, keepdims: bool = False) -> Value | tuple[Value, Value]:
    """(values, indices) of the lower median along the axis; of the flattened x, if axis is None, its value alone.

    The lower median, as torch has it, is an element: of an even number the smaller of the middle two. The result is NaN
    if there is one. `quantile(x, 0.5)` takes the mean of the middle two.
    """
    return _median(x, axis, keepdims, False)


@composed(samples=_medians)
def nanmedian(x: Operand, axis: int | None = None, keepdims: bool = False) -> Value | tuple[Value, Value]:
    """As median, of the elements that are not NaN; NaN if there are none."""
    return _median(x, axis, keepdims, True)


_METHODS = ("linear", "lower", "higher", "midpoint", "nearest")


def _quantile(
    x: Operand, q: float | Sequence[float], axis: int | None, keepdims: bool, method: str, skip_nan: bool
) -> Value:
    """Element q (n - 1) in order, or what lies between its two neighbours; n: the elements that count."""
    x = as_value(x)
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    if method not in _METHODS:
        raise ArgumentError(f"interpolation must be one of {', '.join(_METHODS)}, got {method!r}")
    wanted = np.asarray(q, np.float64)
    if wanted.ndim > 1 or not ((wanted >= 0) & (wanted <= 1)).all():
        raise ArgumentError(f"q must be a number or a sequence of numbers in [0, 1], got {q!r}")
    shape = x.shape
    flat = axis is None
    if axis is None:
        x, axis = reshape(x, (x.size,)), 0
    values, _, a = _sorted(wide(x), axis, False)
    n = values.shape[-1]
    if not n:
        raise ShapeError(f"the quantile of {shape} is over no elements")
    missing = _count(call("isnan", values))
    results = [_between(values, float(p), missing, method, skip_nan) for p in wanted.reshape(-1)]
    results = [call("cast", r, as_value(x).dtype) for r in results]
    if flat:
        placed = [reshape(r, (1,) * len(shape) if keepdims else ()) for r in results]
    else:
        placed = [_placed(r, a, x.ndim, keepdims) for r in results]
    return placed[0] if not wanted.ndim else call("stack", placed)


def _between(values: Value, p: float, missing: Value, method: str, skip_nan: bool) -> Value:
    """The quantile p of sorted values along the last axis. Ranks are counted in float64."""
    n = values.shape[-1]
    last = (
        call("cast", n - 1 - missing, "float64") if skip_nan else call("full", missing.shape, float(n - 1), "float64")
    )
    rank = call("mul", call("clamp_min", last, 0.0), p)
    if method in ("lower", "higher", "nearest"):
        rank = call({"lower": "floor", "higher": "ceil", "nearest": "round"}[method], rank)
    low, high = call("floor", rank), call("ceil", rank)
    weight = 0.5 if method == "midpoint" else call("cast", rank - low, values.dtype)
    below = picked(values, call("cast", low, int64))
    above = picked(values, call("cast", high, int64))
    result = below + where(call("equal", low, high), 0.0, (above - below) * weight)
    return result if skip_nan else where(call("greater", missing, 0), math.nan, result)


_quantiles = samples(
    Sample((randn(3, 5), 0.3)),
    Sample((randn(3, 4), (0.0, 0.25, 1.0)), {"axis": 1}),
    Sample((randn(4, 3), 0.6), {"axis": 0, "keepdims": True, "interpolation": "midpoint"}),
    Sample((randn(3, 6), 0.3), {"axis": 1, "interpolation": "nearest"}),
    Sample((_WITH_NAN, 0.4), {"axis": 1, "interpolation": "lower"}, grad=()),
    Sample((_WITH_NAN, 0.4), {"axis": 1, "interpolation": "higher"}, grad=()),
)


@composed(samples=_quantiles)
def quantile(
    x: Operand,
    q: float | Sequence[float],
    axis: int | None = None,
    keepdims: bool = False,
    interpolation: str = "linear",
) -> Value:
    """The element that q of the others lie below, 0 <= q <= 1: number q (n - 1) in order along the axis (None: of all).

    Between two elements: "linear", "lower", "higher", "midpoint" or "nearest". Several q: a new first axis. NaN if
    there is one. Hyndman and Fan 1996, type 7.
    """
    return _quantile(x, q, axis, keepdims, interpolation, False)


@composed(samples=_quantiles)
def nanquantile(
    x: Operand,
    q: float | Sequence[float],
    axis: int | None = None,
    keepdims: bool = False,
    interpolation: str = "linear",
) -> Value:
    """As quantile, of the elements that are not NaN; NaN if there are none."""
    return _quantile(x, q, axis, keepdims, interpolation, True)


@composed(
    samples=samples(
        Sample((np.array([[2.0, 1.0, 2.0, 1.0, 3.0], [5.0, 4.0, 4.0, 3.0, 4.0]]),), grad=()),
        Sample((randn(3, 4),), {"axis": 0, "keepdims": True}),
        Sample((integers(3, 9, high=4),)),
    )
)
def mode(x: Operand, axis: int = -1, keepdims: bool = False) -> tuple[Value, Value]:
    """(values, indices) of the most frequent element along the axis, the smallest of several, where it stands last."""
    x = as_value(x)
    values, indices, a = _sorted(x, axis, False)
    n = values.shape[-1]
    if not n:
        raise ShapeError(f"the mode of {x.shape} is over no elements")
    place = broadcast_to(call("arange", n), values.shape)
    before = narrow(values, -1, 0, n - 1)
    same = call("equal", narrow(values, -1, 1, n - 1), before)
    first = call("logical_not", call("pad", same, [(0, 0)] * (values.ndim - 1) + [(1, 0)]))
    start, _ = cummax(where(first, place, 0), -1)
    best = call("argmax", place - start, axis=-1, keepdims=True)
    value, index = picked(values, best), picked(indices, best)
    return _placed(value, a, x.ndim, keepdims), _placed(index, a, x.ndim, keepdims)


# ---- search ----------------------------------------------------------------------------------------------------


@define(
    "search_rows",
    infer=_search_type,
    lowering=Kernel("search"),
    ref=_search_ref,
)
def search_rows(ordered: Value, x: Value, right: bool) -> Value:
    """Places of x [M, K] in the rows of ordered [M, N], or in the one row of ordered [1, N]."""
    return make("search_rows", [ordered, x], right=bool(right)).out


_EDGES = np.array([-1.0, 0.0, 0.0, 1.0, 2.5])


@composed(
    samples=samples(
        Sample((_EDGES, np.array([[-2.0, 0.0, 0.5], [1.0, 3.0, 2.5]])), grad=()),
        Sample((_EDGES, np.array([[-2.0, 0.0, 0.5], [1.0, 3.0, 2.5]])), {"right": True}, grad=()),
        Sample((np.sort(randn(2, 4)), randn(2, 3, seed=1)), grad=()),
        Sample((np.array([1, 3, 5]), np.array([5, 0, 9])), grad=()),
        Sample((_EDGES, np.asarray(0.0)), grad=()),
    )
)
def searchsorted(sorted_sequence: Operand, values: Operand, right: bool = False) -> Value:
    """Where each value would be inserted to keep the order: how many elements are smaller (right: or equal), int64.

    sorted_sequence: ascending, [n] for all values, or [..., n] beside values [..., k]. NaN is the largest.
    """
    ordered, x = as_value(sorted_sequence), as_value(values)
    if not ordered.ndim:
        raise ShapeError("sorted_sequence must have an axis")
    n, shape = ordered.shape[-1], x.shape
    common = promote_operands("searchsorted", reshape(ordered, (ordered.size, 1)), reshape(x, (1, x.size)))[0].dtype
    ordered, x = call("cast", ordered, common), call("cast", x, common)
    if ordered.ndim == 1:
        found = search_rows(reshape(ordered, (1, n)), reshape(x, (1, x.size)), right)
    elif ordered.shape[:-1] == shape[:-1] and x.ndim:
        rows = math.prod(shape[:-1])
        found = search_rows(reshape(ordered, (rows, n)), reshape(x, (rows, shape[-1])), right)
    else:
        raise ShapeError(f"sorted_sequence {ordered.shape} must have one axis, or the leading axes of values {shape}")
    return reshape(found, shape)


@composed(
    samples=samples(
        Sample((randn(3, 4), _EDGES), grad=()),
        Sample((np.array([3, 1, 4]), np.array([1, 3])), {"right": True}, grad=()),
    )
)
def bucketize(x: Operand, boundaries: Operand, right: bool = False) -> Value:
    """Which bucket each element falls into: `searchsorted(boundaries, x)`; boundaries: [n], ascending."""
    boundaries = as_value(boundaries)
    if boundaries.ndim != 1:
        raise ShapeError(f"boundaries must have one axis, got {boundaries.shape}")
    return searchsorted(boundaries, x, right)
