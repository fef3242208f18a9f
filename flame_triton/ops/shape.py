"""Shapes under all the names that NumPy and torch give them: axes moved, merged, split, added and turned.

Everything here is a view, composed of reshape, transpose, slice and broadcast_to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample
from ..types import bool_, broadcast_shapes, check_axis
from .define import Operand, as_value, composed, randn, samples
from .view import broadcast_to, expand_dims, flip, narrow, reshape, squeeze, swapaxes, transpose

# fmt: off
__all__ = [
    "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_tensors", "clone", "expand_as", "fliplr", "flipud",
    "moveaxis", "positive", "ravel", "reshape_as", "rot90", "select", "t", "unflatten", "unsqueeze",
]
# fmt: on

# ---- axes ------------------------------------------------------------------------------------------------------


@composed(samples=samples(Sample((randn(2, 3), 0)), Sample((randn(2, 3), -1)), Sample((randn(), 0))))
def unsqueeze(x: Operand, dim: int) -> Value:
    """A new axis of size 1 at place `dim` of the result."""
    x = as_value(x)
    place = check_axis(dim, x.ndim + 1, "dim")
    return reshape(x, (*x.shape[:place], 1, *x.shape[place:]))


@composed(
    samples=samples(
        Sample((randn(2, 3, 4), 0, -1)), Sample((randn(2, 3, 4), (0, 1), (2, 0))), Sample((randn(3, 2), 1, 1))
    ),
    aliases=("movedim",),
)
def moveaxis(x: Operand, source: int | Sequence[int], destination: int | Sequence[int]) -> Value:
    """Axes `source` of x at the places `destination` of the result; the others keep their order."""
    x = as_value(x)
    sources, destinations = ([a] if isinstance(a, int) else list(a) for a in (source, destination))
    old = [check_axis(a, x.ndim, "source") for a in sources]
    new = [check_axis(a, x.ndim, "destination") for a in destinations]
    if len(old) != len(new) or len(set(old)) != len(old) or len(set(new)) != len(new):
        raise ShapeError(f"source {source!r} and destination {destination!r} must name as many different axes")
    order = [a for a in range(x.ndim) if a not in old]
    for place, axis in sorted(zip(new, old, strict=True)):
        order.insert(place, axis)
    return transpose(x, order)


@composed(samples=samples(Sample((randn(2, 3),)), Sample((randn(3),))))
def t(x: Operand) -> Value:
    """The transpose of a matrix; a vector or a number as it is."""
    x = as_value(x)
    if x.ndim > 2:
        raise ShapeError(f"needs at most two axes, got {x.shape}; use transpose")
    return transpose(x)


@composed(samples=samples(Sample((randn(2, 3, 4), 1, 2)), Sample((randn(2, 3), -1, -3))))
def select(x: Operand, dim: int, index: int) -> Value:
    """The slice at `index` along one axis, which is dropped."""
    x = as_value(x)
    axis = check_axis(dim, x.ndim, "dim")
    if not x.ndim or not -x.shape[axis] <= index < x.shape[axis]:
        raise ShapeError(f"index {index} is out of range for axis {axis} of {x.shape}")
    return squeeze(narrow(x, axis, index, 1), axis)


# ---- merging and splitting axes --------------------------------------------------------------------------------


@composed(samples=samples(Sample((randn(2, 3),)), Sample((randn(),))))
def ravel(x: Operand) -> Value:
    """All elements in one axis, in row-major order."""
    x = as_value(x)
    return reshape(x, (x.size,))


@composed(samples=samples(Sample((randn(2, 12), 1, (3, 4))), Sample((randn(6, 2), -2, (2, -1, 3)))))
def unflatten(x: Operand, dim: int, sizes: Sequence[int]) -> Value:
    """One axis split into several of the given sizes; one of them may be -1 (inferred)."""
    x, wanted = as_value(x), list(sizes)
    axis = check_axis(dim, x.ndim, "dim")
    known = math.prod(d for d in wanted if d != -1)
    if wanted.count(-1) == 1 and known and x.ndim:
        wanted[wanted.index(-1)] = x.shape[axis] // known
    if not x.ndim or not wanted or -1 in wanted or math.prod(wanted) != x.shape[axis]:
        raise ShapeError(f"sizes {tuple(sizes)} do not multiply to axis {axis} of {x.shape}")
    return reshape(x, (*x.shape[:axis], *wanted, *x.shape[axis + 1 :]))


@composed(samples=samples(Sample((randn(2, 6), randn(3, 4)), grad=(0,))), aliases=("view_as",))
def reshape_as(x: Operand, other: Operand) -> Value:
    """x's elements, in row-major order, in the shape of `other`."""
    x, shape = as_value(x), as_value(other).shape
    if math.prod(shape) != x.size:
        raise ShapeError(f"cannot reshape {x.shape} to {shape}")
    return reshape(x, shape)


@composed(samples=samples(Sample((randn(3, 1), randn(2, 3, 4)), grad=(0,))))
def expand_as(x: Operand, other: Operand) -> Value:
    """x broadcast to the shape of `other`."""
    x, shape = as_value(x), as_value(other).shape
    if broadcast_shapes(x.shape, shape) != shape:
        raise ShapeError(f"cannot broadcast {x.shape} to {shape}")
    return broadcast_to(x, shape)


_PLACES = {1: [(0,)], 2: [(0, 1), (0,)], 3: [(0, 1, 2), (0, 2), (2,)]}
"""Where the new axes of a tensor with 0, 1, 2 axes go, to make at least so many."""


def at_least(n: int, x: Operand) -> Value:
    """x with at least n axes."""
    x = as_value(x)
    return x if x.ndim >= n else expand_dims(x, _PLACES[n][x.ndim])


def _all_at_least(n: int, xs: Sequence[Operand]) -> Value | tuple[Value, ...]:
    if len(xs) == 1 and isinstance(xs[0], list | tuple):
        xs = xs[0]
    found = tuple(at_least(n, x) for x in xs)
    return found[0] if len(found) == 1 else found


@composed(samples=samples(Sample((randn(),)), Sample((randn(2, 3), randn()))))
def atleast_1d(*xs: Operand) -> Value | tuple[Value, ...]:
    """Numbers as vectors of one element; a tuple of results if there are several operands."""
    return _all_at_least(1, xs)


@composed(samples=samples(Sample((randn(),)), Sample((randn(3), randn(2, 3)))))
def atleast_2d(*xs: Operand) -> Value | tuple[Value, ...]:
    """Vectors [n] as matrices [1, n], numbers as [1, 1]; a tuple of results if there are several operands."""
    return _all_at_least(2, xs)


@composed(samples=samples(Sample((randn(),)), Sample((randn(3), randn(2, 3), randn(1, 2, 3)))))
def atleast_3d(*xs: Operand) -> Value | tuple[Value, ...]:
    """Vectors [n] as [1, n, 1], matrices [n, m] as [n, m, 1], numbers as [1, 1, 1]; a tuple if there are several."""
    return _all_at_least(3, xs)


# ---- broadcasting ----------------------------------------------------------------------------------------------


@composed(
    samples=samples(Sample((randn(3, 1), randn(4, seed=1))), Sample((randn(), randn(2, seed=1), randn(3, 1, seed=2)))),
    aliases=("broadcast_arrays",),
)
def broadcast_tensors(*xs: Operand) -> tuple[Value, ...]:
    """All operands expanded to their common shape."""
    values = [as_value(x) for x in xs]
    shape = broadcast_shapes(*(v.shape for v in values))
    return tuple(broadcast_to(v, shape) for v in values)


# ---- turning ---------------------------------------------------------------------------------------------------


@composed(samples=samples(Sample((randn(2, 3),)), Sample((randn(2, 1, 3),))))
def fliplr(x: Operand) -> Value:
    """Columns (the second axis) in reverse order."""
    x = as_value(x)
    if x.ndim < 2:
        raise ShapeError(f"needs two axes or more, got {x.shape}")
    return flip(x, 1)


@composed(samples=samples(Sample((randn(3),)), Sample((randn(2, 3),))))
def flipud(x: Operand) -> Value:
    """Rows (the first axis) in reverse order."""
    x = as_value(x)
    if not x.ndim:
        raise ShapeError("needs a tensor with dimensions")
    return flip(x, 0)


@composed(
    samples=samples(
        Sample((randn(2, 3),)), Sample((randn(2, 3), 2)), Sample((randn(2, 3, 4), -1, (1, 2))), Sample((randn(2, 3), 4))
    )
)
def rot90(x: Operand, k: int = 1, axes: Sequence[int] = (0, 1)) -> Value:
    """x turned k times by 90 degrees, from the first of the two axes to the second."""
    x = as_value(x)
    if len(axes) != 2 or x.ndim < 2:
        raise ShapeError(f"needs two axes of {x.shape}, got {tuple(axes)}")
    a, b = (check_axis(i, x.ndim, "axes") for i in axes)
    if a == b:
        raise ArgumentError(f"axes {tuple(axes)} names one axis twice")
    k %= 4
    if k == 2:
        return flip(x, (a, b))
    return x if not k else swapaxes(flip(x, b), a, b) if k == 1 else flip(swapaxes(x, a, b), b)


# ---- as it is --------------------------------------------------------------------------------------------------


@composed(samples=samples(Sample((randn(2, 3),)), Sample((randn(),))), aliases=("contiguous", "copy"))
def clone(x: Operand) -> Value:
    """x itself: Values never change, so a copy would be no different. Layout in memory is the compiler's business."""
    return as_value(x)


@composed(samples=samples(Sample((randn(2, 3),)), Sample((randn(),))))
def positive(x: Operand) -> Value:
    """+x: x itself. Not for bool."""
    x = as_value(x)
    if x.dtype is bool_:
        raise DTypeError("is not defined for bool; cast to an integer type")
    return x
