"""Integer index maps: how the elements of a view are found in the buffer below it.

An IndexMap sends the coordinates of a logical shape to (offset, valid): a chain of strided views, the first one next
to the buffer. Reshape, permute, expand, slice, flip and pad compose into one strided view whenever that is possible;
where it is not (a transposed matrix flattened, say) the chain grows by one, and the offset of the later view is
unravelled over the shape of the earlier. An element that is not valid reads as the pad's fill value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Bounds = tuple[tuple[int, int], ...]


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Element strides of a dense array of `shape`."""
    strides: list[int] = []
    step = 1
    for d in reversed(shape):
        strides.append(step)
        step *= d
    return tuple(reversed(strides))


@dataclass(frozen=True, slots=True)
class StridedView:
    """offset + sum(coordinate * stride), valid where every coordinate lies within its bounds [lo, hi)."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    bounds: Bounds | None = None

    @property
    def is_dense(self) -> bool:
        """True if this is the identity on a dense buffer: row-major, from element 0, nothing masked."""
        if self.offset or self.bounds is not None:
            return False
        step = 1
        for d, s in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if d != 1 and s != step:
                return False
            step *= d
        return True

    def bound(self, axis: int) -> tuple[int, int]:
        return self.bounds[axis] if self.bounds is not None else (0, self.shape[axis])


def _view(shape: tuple[int, ...], strides: tuple[int, ...], offset: int, bounds: Bounds | None) -> StridedView:
    """A view with size-1 strides zeroed and bounds dropped where they exclude nothing."""
    strides = tuple(0 if d == 1 else s for d, s in zip(shape, strides, strict=True))
    if bounds is not None and all(lo <= 0 and hi >= d for (lo, hi), d in zip(bounds, shape, strict=True)):
        bounds = None
    return StridedView(shape, strides, offset, bounds)


def _collapse(view: StridedView) -> StridedView:
    """The same map with neighbouring dimensions merged where one stride walks both; size-1 dimensions dropped."""
    dims: list[tuple[int, int, tuple[int, int] | None]] = []
    for axis, (d, s) in enumerate(zip(view.shape, view.strides, strict=True)):
        bound = view.bound(axis)
        masked = None if bound == (0, d) else bound
        if d == 1 and masked is None:
            continue
        if dims and masked is None and dims[-1][2] is None and dims[-1][1] == s * d:
            dims[-1] = (dims[-1][0] * d, s, None)
        else:
            dims.append((d, s, masked))
    shape = tuple(d for d, _, _ in dims)
    bounds = tuple(m or (0, d) for d, _, m in dims)
    return _view(shape, tuple(s for _, s, _ in dims), view.offset, bounds)


def _assign(stride: int, extent: int, shape: tuple[int, ...], suffix: tuple[int, ...]) -> tuple[int, int] | None:
    """The (axis, coefficient) by which a walk of `stride` over `shape` moves one coordinate only, if it does."""
    size = abs(stride)
    for axis, unit in enumerate(suffix):
        if unit <= size and shape[axis] > 1:
            coefficient, rest = divmod(size, unit)
            if rest or coefficient * (extent - 1) >= shape[axis]:
                return None
            return axis, coefficient if stride > 0 else -coefficient
    return None


@lru_cache(maxsize=1 << 14)
def _merge(inner: StridedView, outer: StridedView) -> StridedView | None:
    """One view equal to `outer` read through `inner` (outer's offsets are row-major positions in inner.shape)."""
    if inner.is_dense:
        return outer
    if outer.is_dense and outer.shape == inner.shape:
        return inner
    if 0 in outer.shape:
        return _view(outer.shape, outer.strides, 0, None)
    inner = _collapse(inner)
    suffix = row_major(inner.shape)
    lows = [outer.bound(a)[0] for a in range(len(outer.shape))]
    highs = [outer.bound(a)[1] for a in range(len(outer.shape))]
    if any(lo >= hi for lo, hi in zip(lows, highs, strict=True)):
        return StridedView(outer.shape, (0,) * len(outer.shape), 0, outer.bounds)
    base = outer.offset + sum(s * lo for s, lo in zip(outer.strides, lows, strict=True))
    origin: list[int] = []
    for d, unit in zip(inner.shape, suffix, strict=True):
        origin.append(base // unit % d)
    walks: list[list[tuple[int, int]]] = [[] for _ in inner.shape]
    for axis, stride in enumerate(outer.strides):
        extent = highs[axis] - lows[axis]
        if extent <= 1 or stride == 0:
            continue
        found = _assign(stride, extent, inner.shape, suffix)
        if found is None:
            return None
        walks[found[0]].append((axis, found[1]))
    strides = [0] * len(outer.shape)
    offset = inner.offset
    bounds = list(zip(lows, highs, strict=True))
    for d, walk in enumerate(walks):
        reach = [q * (highs[a] - lows[a] - 1) for a, q in walk]
        low = origin[d] + sum(r for r in reach if r < 0)
        high = origin[d] + sum(r for r in reach if r > 0)
        if low < 0 or high >= inner.shape[d]:
            return None
        start = origin[d] - sum(q * lows[a] for a, q in walk)
        offset += inner.strides[d] * start
        for axis, q in walk:
            strides[axis] += inner.strides[d] * q
        lo, hi = inner.bound(d)
        if low >= lo and high < hi:
            continue
        if len(walk) > 1:
            return None
        if not walk:
            if not lo <= origin[d] < hi:  # nothing is valid: an empty bound says so, where there is an axis to hold it
                if not bounds:
                    return None
                bounds[0] = (0, 0)
            continue
        axis, q = walk[0]
        if q > 0:
            first, last = -((start - lo) // q), (hi - 1 - start) // q
        else:
            first, last = -((hi - 1 - start) // -q), (start - lo) // -q
        bounds[axis] = (max(bounds[axis][0], first), min(bounds[axis][1], last + 1))
    return _view(outer.shape, tuple(strides), offset, tuple(bounds))


@dataclass(frozen=True, slots=True)
class IndexMap:
    """A chain of strided views, views[0] next to the buffer; shape is the logical shape of the last one."""

    views: tuple[StridedView, ...]

    @staticmethod
    def dense(shape: tuple[int, ...]) -> IndexMap:
        """The identity on a dense row-major buffer of `shape`."""
        return IndexMap((StridedView(shape, row_major(shape)),))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.views[-1].shape

    @property
    def is_dense(self) -> bool:
        return len(self.views) == 1 and self.views[0].is_dense

    @property
    def strided(self) -> StridedView | None:
        """The one strided view this map is, or None if it needs a chain."""
        return self.views[0] if len(self.views) == 1 else None

    @property
    def masked(self) -> bool:
        return any(v.bounds is not None for v in self.views)

    def then(self, outer: IndexMap) -> IndexMap:
        """This map read through `outer`, whose buffer is this map's logical shape, laid out row-major."""
        views = list(self.views)
        for view in outer.views:
            merged = _merge(views[-1], view)
            if merged is None:
                views.append(view)
            else:
                views[-1] = merged
        return IndexMap(tuple(views))

    def _through(
        self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, bounds: Bounds | None = None
    ) -> IndexMap:
        return self.then(IndexMap((_view(shape, strides, offset, bounds),)))

    def reshape(self, shape: tuple[int, ...]) -> IndexMap:
        return self._through(shape, row_major(shape))

    def permute(self, axes: tuple[int, ...]) -> IndexMap:
        """Axis i of the result is axis axes[i] of this."""
        strides = row_major(self.shape)
        return self._through(tuple(self.shape[a] for a in axes), tuple(strides[a] for a in axes))

    def expand(self, shape: tuple[int, ...]) -> IndexMap:
        """Broadcast: missing leading axes and size-1 axes repeat."""
        lead = len(shape) - len(self.shape)
        own = row_major(self.shape)
        strides = (0,) * lead + tuple(
            0 if d == 1 and n != 1 else s for d, n, s in zip(self.shape, shape[lead:], own, strict=True)
        )
        return self._through(shape, strides)

    def slice(self, starts: tuple[int, ...], sizes: tuple[int, ...], steps: tuple[int, ...]) -> IndexMap:
        """Element i along an axis is element start + i * step; steps may be negative."""
        own = row_major(self.shape)
        offset = sum(b * s for b, s in zip(starts, own, strict=True)) if 0 not in sizes else 0
        return self._through(sizes, tuple(s * k for s, k in zip(own, steps, strict=True)), offset)

    def pad(self, before: tuple[int, ...], after: tuple[int, ...]) -> IndexMap:
        """Each axis grows by before + after elements that are not valid."""
        own = row_major(self.shape)
        shape = tuple(d + b + a for d, b, a in zip(self.shape, before, after, strict=True))
        offset = -sum(b * s for b, s in zip(before, own, strict=True))
        return self._through(shape, own, offset, tuple((b, b + d) for d, b in zip(self.shape, before, strict=True)))

    def fixed(self) -> tuple[int, bool] | None:
        """(offset, valid) if they are the same for every element, else None."""
        outer = self.views[-1]
        empty = any(lo >= hi for lo, hi in outer.bounds or ())
        if empty:
            return 0, False
        if any(outer.strides) or outer.bounds is not None:
            return None
        offset = outer.offset
        for view in reversed(self.views[:-1]):
            coordinates = [offset // unit % d for d, unit in zip(view.shape, row_major(view.shape), strict=True)]
            if any(not view.bound(a)[0] <= c < view.bound(a)[1] for a, c in enumerate(coordinates)):
                return 0, False
            offset = view.offset + sum(c * s for c, s in zip(coordinates, view.strides, strict=True))
        return offset, True

    def inverse(self) -> IndexMap | None:
        """For a map that only reorders a dense buffer: the map from the buffer's elements, in order, to this map's
        logical positions. None if elements are skipped, repeated or masked."""
        view = self.strided
        if view is None or view.bounds is not None or view.offset or 0 in view.shape:
            return None
        own = row_major(view.shape)
        axes = sorted((a for a, d in enumerate(view.shape) if d != 1), key=lambda a: -view.strides[a])
        step = math.prod(view.shape)
        for a in axes:
            step //= view.shape[a]
            if view.strides[a] != step:
                return None
        shape = tuple(view.shape[a] for a in axes)
        return IndexMap((_view(shape, tuple(own[a] for a in axes), 0, None),))

    def positions(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Buffer offset and validity of every element, both of the logical shape (offset 0 where not valid)."""
        valid = np.ones(self.shape, np.bool_)
        coordinates = list(np.indices(self.shape, dtype=np.int64))
        offset = np.zeros(self.shape, np.int64)
        for depth, view in enumerate(reversed(self.views)):
            offset = np.full(self.shape, view.offset, np.int64)
            for axis, (coordinate, stride) in enumerate(zip(coordinates, view.strides, strict=True)):
                lo, hi = view.bound(axis)
                valid &= (coordinate >= lo) & (coordinate < hi)
                offset += coordinate * stride
            if depth + 1 < len(self.views):
                below = self.views[-depth - 2].shape
                offset = np.where(valid, offset, 0)
                coordinates = [
                    offset // unit % d if d else offset for d, unit in zip(below, row_major(below), strict=True)
                ]
        return np.where(valid, offset, 0), valid


def refine(shapes: list[tuple[int, ...]], size: int) -> tuple[int, ...]:
    """A shape of `size` elements that every given shape of that size is a regrouping of, as far as they agree.

    The suffix products of all shapes are chained; one that does not divide the chain is left out. Earlier shapes win.
    """
    chain = {1, size}
    for shape in shapes:
        if math.prod(shape) != size:
            continue
        for product in row_major(shape):
            if 0 < product <= size and all(max(product, c) % min(product, c) == 0 for c in chain):
                chain.add(product)
    ordered = sorted(chain)
    return tuple(b // a for a, b in reversed(list(pairwise(ordered))))
