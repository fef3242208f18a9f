"""Joining in rows, columns and depth, and splitting into named numbers of parts: NumPy's and torch's ways to say it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import check_axis
from .define import Operand, as_value, composed, randn, samples
from .join import concat, split
from .shape import at_least
from .view import reshape

# fmt: off
__all__ = [
    "column_stack", "dsplit", "dstack", "hsplit", "hstack", "split_with_sizes", "tensor_split", "vsplit", "vstack",
]
# fmt: on

# ---- joining ---------------------------------------------------------------------------------------------------


def _parts(values: Sequence[Operand]) -> list[Value]:
    parts = [as_value(v) for v in values]
    if not parts:
        raise ArgumentError("needs at least one value")
    return parts


@composed(
    samples=samples(
        Sample(([randn(2, 3), randn(2, 1, seed=1)],)), Sample(([randn(3), randn(2, seed=1)],)), Sample(([randn()],))
    )
)
def hstack(values: Sequence[Operand]) -> Value:
    """Joined along the second axis; vectors (and numbers) along their only one."""
    parts = [at_least(1, v) for v in _parts(values)]
    return concat(parts, 0 if parts[0].ndim == 1 else 1)


@composed(
    samples=samples(Sample(([randn(2, 3), randn(1, 3, seed=1)],)), Sample(([randn(3), randn(3, seed=1)],))),
    aliases=("row_stack",),
)
def vstack(values: Sequence[Operand]) -> Value:
    """Joined along the first axis; vectors are rows."""
    return concat([at_least(2, v) for v in _parts(values)], 0)


@composed(samples=samples(Sample(([randn(2, 3), randn(2, 3, seed=1)],)), Sample(([randn(3), randn(3, seed=1)],))))
def dstack(values: Sequence[Operand]) -> Value:
    """Joined along the third axis; [n, m] counts as [n, m, 1], [n] as [1, n, 1]."""
    return concat([at_least(3, v) for v in _parts(values)], 2)


@composed(samples=samples(Sample(([randn(3), randn(3, 2, seed=1)],)), Sample(([randn(), randn(seed=1)],))))
def column_stack(values: Sequence[Operand]) -> Value:
    """Joined along the second axis; vectors are columns."""
    parts = _parts(values)
    return concat([reshape(v, (v.size, 1)) if v.ndim < 2 else v for v in parts], 1)


# ---- splitting -------------------------------------------------------------------------------------------------


@composed(samples=samples(Sample((randn(7, 3), [2, 5])), Sample((randn(2, 9), (4, 0, 5), -1))))
def split_with_sizes(x: Operand, split_sizes: Sequence[int], axis: int = 0) -> tuple[Value, ...]:
    """Parts of the given sizes along an axis."""
    x = as_value(x)
    if isinstance(split_sizes, int):
        raise ArgumentError("split_sizes must be a sequence of ints; use split for parts of one size")
    return split(x, tuple(split_sizes), axis)


@composed(
    samples=samples(
        Sample((randn(7, 3), 3)),
        Sample((randn(2, 9), (2, 5)), {"axis": -1}),
        Sample((randn(5), (-2, 9))),
        Sample((randn(2), 3)),
    ),
    aliases=("array_split",),
)
def tensor_split(x: Operand, indices_or_sections: int | Sequence[int], axis: int = 0) -> tuple[Value, ...]:
    """Parts along an axis: so many, the first ones longer by one if need be; or cut before the given indices."""
    x = as_value(x)
    if not x.ndim:
        raise ShapeError("needs a tensor with dimensions")
    total = x.shape[check_axis(axis, x.ndim)]
    if isinstance(indices_or_sections, int):
        n = indices_or_sections
        if n <= 0:
            raise ArgumentError(f"the number of parts must be positive, got {n}")
        return split(x, tuple(total // n + (i < total % n) for i in range(n)), axis)
    if any(not isinstance(k, int | np.integer) for k in indices_or_sections):
        raise ArgumentError(f"parts must be a number or indices, got {indices_or_sections!r}")
    cuts = [min(max(k + total if k < 0 else k, 0), total) for k in indices_or_sections]
    edges = itertools.pairwise([0, *cuts, total])
    return tuple(call("narrow", x, axis, a, max(b - a, 0)) for a, b in edges)


def _even(x: Operand, parts: int | Sequence[int], axis: int, ndim: int) -> tuple[Value, ...]:
    """tensor_split of a tensor of at least ndim axes; a number of parts must divide the axis."""
    x = as_value(x)
    if x.ndim < ndim:
        raise ShapeError(f"needs at least {ndim} axes, got {x.shape}")
    if isinstance(parts, int) and (parts <= 0 or x.shape[axis] % parts):
        raise ArgumentError(f"{parts} parts do not divide axis {axis} of {x.shape}")
    return tensor_split(x, parts, axis)


@composed(samples=samples(Sample((randn(2, 6), 3)), Sample((randn(6), (1, 4)))))
def hsplit(x: Operand, indices_or_sections: int | Sequence[int]) -> tuple[Value, ...]:
    """Equal parts, or cut before the indices, along the second axis; of a vector along its only one."""
    x = as_value(x)
    return _even(x, indices_or_sections, 1 if x.ndim > 1 else 0, 1)


@composed(samples=samples(Sample((randn(6, 2), 3)), Sample((randn(4, 2), (1,)))))
def vsplit(x: Operand, indices_or_sections: int | Sequence[int]) -> tuple[Value, ...]:
    """Equal parts, or cut before the indices, along the first axis of a tensor of two or more."""
    return _even(x, indices_or_sections, 0, 2)


@composed(samples=samples(Sample((randn(2, 1, 4), 2)), Sample((randn(1, 2, 4), (1,)))))
def dsplit(x: Operand, indices_or_sections: int | Sequence[int]) -> tuple[Value, ...]:
    """Equal parts, or cut before the indices, along the third axis of a tensor of three or more."""
    return _even(x, indices_or_sections, 2, 3)
