"""Indexing with brackets, as NumPy: basic indices are views, integer arrays pick elements, constant masks too.

Index arrays, Values or constants, broadcast against each other. Where they stand side by side their axes take the place
of the axes they index; else they come first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import bool_, broadcast_shapes, int64
from .define import Operand, as_value, composed, integers, randn, samples, wide
from .indexing import gather_rows, scatter_add_rows
from .logic import where
from .scatter import fitted, set_rows
from .view import broadcast_to, reshape, slice_within, transpose

__all__ = ["index_put"]


def _is_int(k: Any) -> bool:
    return isinstance(k, int | np.integer) and not isinstance(k, bool | np.bool_)


def _expanded(key: Any, ndim: int) -> list[Any]:
    """One key for each axis, and None for each new one: Ellipsis spelled out, masks as the indices of their Trues."""
    keys: list[Any] = []
    for k in key if isinstance(key, tuple) else [key]:
        if isinstance(k, list) or (isinstance(k, np.ndarray) and not k.ndim and k.dtype.kind in "iu"):
            k = np.asarray(k)
        if isinstance(k, np.ndarray) and k.dtype == np.bool_ and k.ndim:
            keys.extend(np.nonzero(k))
        elif isinstance(k, Value) and not k.dtype.is_integer:
            raise ArgumentError(f"cannot index with a Value of {k.dtype}; masks must be constant, or use where")
        else:
            keys.append(k)
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if used > ndim:
        raise ShapeError(f"{used} indices for a tensor of {ndim} dimensions")
    dots = [i for i, k in enumerate(keys) if k is Ellipsis]
    if len(dots) > 1:
        raise ArgumentError("an index can only have a single Ellipsis")
    at = dots[0] if dots else len(keys)
    return [*keys[:at], *[slice(None)] * (ndim - used), *keys[at + len(dots) :]]


def _basic(x: Value, keys: Sequence[Any]) -> Value:
    """The view that slices, ints and Nones describe."""
    parts: list[tuple[int, int, int]] = []  # start, size and step along each axis of x
    shape: list[int] = []
    for k in keys:
        if k is None:
            shape.append(1)
            continue
        d = x.shape[len(parts)]
        if isinstance(k, slice):
            r = range(d)[k]
            parts.append((r.start, len(r), r.step) if len(r) else (0, 0, 1))
            shape.append(len(r))
        elif _is_int(k):
            if not -d <= k < d:
                raise ShapeError(f"index {k} is out of range for axis {len(parts)} of size {d}")
            parts.append((int(k) % d, 1, 1))
        else:
            raise ArgumentError(f"cannot index with {k!r}")
    starts, sizes, steps = ([part[i] for part in parts] for i in range(3))
    return reshape(slice_within(x, starts, sizes, steps), tuple(shape))


_checks = np.indices((3, 4)).sum(0) % 2 == 0


class _Place:
    """Where integer arrays point: in the rows of a table made of the indexed axes, which come first."""

    def __init__(self, x: Value, keys: Sequence[Any]) -> None:
        """x: a view with one axis for each key; keys: an index array, or anything else for an axis left alone."""
        arrays = [i for i, k in enumerate(keys) if isinstance(k, Value | np.ndarray)]
        indices = [as_value(keys[i]) for i in arrays]
        for v in indices:
            if not v.dtype.is_integer:
                raise DTypeError(f"indices must be integers, got {v.dtype}")
        self.x = x
        self.order = (*arrays, *(i for i in range(x.ndim) if i not in arrays))
        self.rest = tuple(x.shape[i] for i in self.order[len(arrays) :])
        self.shape = broadcast_shapes(*(v.shape for v in indices))
        self.at = arrays[0] if arrays == list(range(arrays[0], arrays[-1] + 1)) else 0
        self.sizes = [x.shape[i] for i in arrays]
        self.rows, self.width = math.prod(self.sizes), math.prod(self.rest)
        self.table = reshape(transpose(x, self.order), (self.rows, self.width))
        self.index = self._linear(indices)

    def _linear(self, indices: Sequence[Value]) -> Value:
        """The row of the table for each element; its number of rows, which is out of range, where an index is."""
        total: Value | None = None
        inside: Value | None = None
        for v, n in zip(indices, self.sizes, strict=True):
            v = broadcast_to(call("cast", v, int64), self.shape)
            v = where(call("less", v, 0), v + n, v)
            there = call("logical_and", call("greater_equal", v, 0), call("less", v, n))
            inside = there if inside is None else call("logical_and", inside, there)
            total = v if total is None else total * n + v
        assert total is not None and inside is not None
        return reshape(where(inside, total, self.rows), (math.prod(self.shape),))

    @property
    def axes(self) -> tuple[int, ...]:
        """For each axis of the result, which of (index axes, other axes) it is."""
        k, n = len(self.shape), len(self.shape) + len(self.rest)
        return (*range(k, k + self.at), *range(k), *range(k + self.at, n))

    @property
    def result(self) -> tuple[int, ...]:
        whole = (*self.shape, *self.rest)
        return tuple(whole[a] for a in self.axes)

    def read(self) -> Value:
        return transpose(reshape(gather_rows(self.table, self.index), (*self.shape, *self.rest)), self.axes)

    def write(self, values: Value, accumulate: bool) -> Value:
        """x with values, of the result's shape, written or added."""
        front = transpose(values, sorted(range(values.ndim), key=self.axes.__getitem__))
        rows = reshape(front, (self.index.size, self.width))
        if accumulate:
            table = wide(self.table) + scatter_add_rows(self.index, wide(rows), self.rows)
            table = call("cast", table, self.x.dtype)
        else:
            table = set_rows(self.table, self.index, rows)
        whole = reshape(table, tuple(self.x.shape[i] for i in self.order))
        return transpose(whole, sorted(range(self.x.ndim), key=self.order.__getitem__))


@composed(
    samples=samples(
        Sample((randn(5, 7), (slice(1, 4), slice(None, None, -2)))),
        Sample((randn(3, 4, 5), (Ellipsis, None, -1))),
        Sample((randn(3, 4), 2)),
        Sample((randn(5, 3), np.array([4, 0, -1]))),
        Sample((randn(3, 4, 5), (np.array([2, 0]), slice(1, 3), np.array([[1], [-1], [4]])))),
        Sample((randn(3, 4, 5), (slice(None), np.array([2, 0, 0]), np.array([1, -1, 4])))),
        Sample((randn(3, 4, 5), (1, slice(None), np.array([2, 0])))),
        Sample((randn(2, 3, 4), (slice(None), np.array([[2, 0]]), None))),
    )
)
def getitem(x: Value, key: Any) -> Value:
    """NumPy's indexing: integers, slices, None, Ellipsis, integer arrays or Values, and constant masks.

    An index in an array that is out of range reads NaN (0 for integers).
    """
    keys = _expanded(key, x.ndim)
    if len(keys) == 1 and isinstance(keys[0], Value):
        return call("take", x, keys[0], axis=0)
    if not any(isinstance(k, Value | np.ndarray) for k in keys):
        return _basic(x, keys)
    # An int among arrays is an array without axes, as in NumPy.
    keys = [np.asarray(k) if _is_int(k) else k for k in keys]
    view = _basic(x, [slice(None) if isinstance(k, Value | np.ndarray) else k for k in keys])
    return _Place(view, keys).read()


def _put_where(x: Value, first: int, mask: Value, values: Value, accumulate: bool) -> Value:
    """x with values written, in order, where a mask over its axes first, first + 1, ... is True.

    values: broadcast to (*axes before, how many are True, *axes after); one along that axis serves all of them. Those
    left over are dropped, and where they end NaN (0 for integers) is written.
    """
    last = first + mask.ndim
    if x.shape[first:last] != mask.shape:
        raise ShapeError(f"the mask {mask.shape} does not fit the axes {first} to {last - 1} of {x.shape}")
    before, after = x.shape[:first], x.shape[last:]
    inside = reshape(mask, (*(1,) * len(before), *mask.shape, *(1,) * len(after)))
    whole = (1,) * (len(before) + 1 + len(after) - values.ndim) + values.shape
    if len(whole) > len(before) + 1 + len(after):
        raise ShapeError(f"values {values.shape} do not broadcast to {before} + (True elements,) + {after}")
    values, n = reshape(values, whole), whole[first]
    if n == 1:
        spread = (*whole[:first], *(1,) * mask.ndim, *whole[first + 1 :])
        new = fitted(reshape(values, spread), x.shape)
    else:
        rows = call("moveaxis", fitted(values, (*before, n, *after)), first, 0)
        width = math.prod(before) * math.prod(after)
        place = call("cumsum", reshape(mask, (mask.size,)), 0) - 1
        found = gather_rows(reshape(rows, (n, width)), where(reshape(mask, (mask.size,)), place, n))
        order = (*range(mask.ndim, mask.ndim + first), *range(mask.ndim), *range(mask.ndim + first, x.ndim))
        new = transpose(reshape(found, (*mask.shape, *before, *after)), order)
    if not accumulate:
        return where(inside, new, x)
    return call("cast", wide(x) + where(inside, wide(new), call("full", (), 0, wide(x).dtype)), x.dtype)


@composed(
    samples=samples(
        Sample((randn(4, 3), (np.array([3, 0, 3]), np.array([0, 2, 0])), randn(3, seed=1))),
        Sample((randn(4, 3), (np.array([3, 0, 3]), np.array([0, 2, 0])), randn(3, seed=1), True)),
        Sample((randn(2, 4, 3), (None, np.array([[1, -1]])), randn(3, seed=1), True)),
        Sample((randn(5, 2), [np.array([1, 1, 4])], 0.5)),
        Sample((integers(4, high=9), (np.array([2, 2]),), integers(2, high=9, seed=1), True)),
        Sample((randn(3, 4), [_checks], randn(6, seed=1))),
        Sample((randn(2, 3, 4), [None, _checks], randn(2, 1, seed=1), True)),
        Sample((randn(3, 2), [np.array([True, False, True])], randn(2, 2, seed=1), True)),
    )
)
def index_put(x: Operand, indices: Sequence[Operand | None], values: Operand, accumulate: bool = False) -> Value:
    """x with `values` written where x[indices] reads, the last of several; accumulate: added.

    indices: one integer array for each of the first axes, None for an axis left whole, constant masks as in brackets;
    or one mask that is a Value, with None before and after. values broadcast to the shape of x[indices]. In how many
    places such a mask is true is not known when the graph is built: values are written to them in order, and where
    too few are given NaN (0 for integers) is.
    """
    x, values = as_value(x), as_value(values)
    masks = [i for i, k in enumerate(indices) if isinstance(k, Value) and k.dtype is bool_ and k.ndim]
    if masks and all(k is None for i, k in enumerate(indices) if i != masks[0]):
        return _put_where(x, masks[0], as_value(indices[masks[0]]), call("cast", values, x.dtype), accumulate)
    listed = tuple(slice(None) if k is None else k for k in indices)
    keys = [k if isinstance(k, slice | Value) else np.asarray(k) for k in _expanded(listed, x.ndim)]
    if not any(isinstance(k, Value | np.ndarray) for k in keys):
        raise ArgumentError("needs at least one index array")
    if any(isinstance(k, np.ndarray) and k.dtype.kind not in "iu" for k in keys):
        raise DTypeError("indices must be integers")
    place = _Place(x, keys)
    values = fitted(call("cast", values, x.dtype), place.result)
    return place.write(values, accumulate) if values.size else x
