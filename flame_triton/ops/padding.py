"""Padding. With a constant it is a masked view; the other modes join slices of x itself, turned round or repeated.

mode        before       x        after
constant    v v v    a b c d    v v v
edge        a a a    a b c d    d d d      torch: replicate
reflect     d c b    a b c d    c b a
symmetric   c b a    a b c d    d c b
wrap        b c d    a b c d    a b c      torch: circular
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.index_map import IndexMap
from ..ir.node import Value
from ..ir.op import Sample, View
from ..types import TensorType
from .define import Operand, as_value, define, is_scalar, randn, samples
from .join import concat
from .view import broadcast_to, flip, narrow, pad_with, slice_within

__all__ = ["pad"]

TORCH = {"replicate": "edge", "circular": "wrap"}
EXTENDING = ("edge", "reflect", "symmetric", "wrap")


def _pad_type(x: TensorType, *, before: tuple[int, ...], after: tuple[int, ...], fill: float) -> TensorType:
    return x.with_shape(tuple(d + b + a for d, b, a in zip(x.shape, before, after, strict=True)))


def _pad_ref(x: np.ndarray, *, before: Any, after: Any, fill: float) -> np.ndarray:
    out = np.full([b + d + a for b, d, a in zip(before, x.shape, after, strict=True)], fill, x.dtype)
    out[tuple(slice(b, b + d) for b, d in zip(before, x.shape, strict=True))] = x
    return out


Pairs = list[tuple[int, int]]


def _pairs(x: Value, pad_width: Sequence[Any]) -> Pairs:
    """(before, after) of every axis, from pairs in the order of the axes or torch's flat list, last axis first."""
    given = list(pad_width)
    if any(isinstance(p, int | np.integer) for p in given):
        if len(given) % 2 or len(given) > 2 * x.ndim or not all(isinstance(p, int | np.integer) for p in given):
            raise ShapeError(f"a flat pad_width has two ints for each of at most {x.ndim} axes, got {tuple(given)}")
        found = [(int(b), int(a)) for b, a in zip(given[-2::-2], given[::-2], strict=True)]
        return [(0, 0)] * (x.ndim - len(found)) + found
    if len(given) != x.ndim:
        raise ShapeError(f"pad_width has {len(given)} pairs for {x.ndim} axes")
    return [(int(b), int(a)) for b, a in given]


def _extended(x: Value, axis: int, before: int, after: int, mode: str) -> Value:
    """x with its own elements before and after one axis."""
    d = x.shape[axis]
    limit = {"edge": before + after if d else -1, "reflect": d - 1}.get(mode, d)
    if max(before, after) > limit:
        raise ShapeError(f"mode {mode!r} cannot add {(before, after)} to an axis of {d}")

    def taken(start: int, length: int, turned: bool) -> Value:
        part = narrow(x, axis, start, length)
        return flip(part, axis) if turned else part

    if mode == "edge":
        ends = [
            broadcast_to(narrow(x, axis, at, 1), (*x.shape[:axis], n, *x.shape[axis + 1 :]))
            for at, n in ((0, before), (d - 1, after))
        ]
    elif mode == "wrap":
        ends = [taken(d - before, before, False), taken(0, after, False)]
    else:
        skip = mode == "reflect"
        ends = [taken(skip, before, True), taken(d - skip - after, after, True)]
    return concat([ends[0], x, ends[1]], axis)


@define(
    "pad",
    infer=_pad_type,
    lowering=View(
        lambda node: IndexMap.dense(node.inputs[0].shape).pad(node.attrs["before"], node.attrs["after"]),
        "axiswise",
        ("before", "after"),
    ),
    ref=_pad_ref,
    vjp=lambda node, g: [slice_within(g, node.attrs["before"], node.inputs[0].shape)],
    samples=samples(
        Sample((randn(3, 4), ((1, 2), (0, 3)))),
        Sample((randn(3, 4), ((0, 0), (2, 1))), {"value": -1.5}),
        Sample((randn(5, 4), ((-1, 2), (0, -3)))),
        Sample((randn(2, 3, 4), (3, 1, 2, 0)), {"mode": "reflect"}),
        Sample((randn(3, 4), (1, 5)), {"mode": "replicate"}),
        Sample((randn(3, 4), ((3, 1), (-1, 3))), {"mode": "circular"}),
        Sample((randn(3, 4), ((3, 1), (0, 4))), {"mode": "symmetric"}),
    ),
)
def pad(x: Operand, pad_width: Sequence[Any], value: float | None = 0, mode: str = "constant") -> Value:
    """x with elements added around it; negative widths crop.

    pad_width: a pair (before, after) for each axis, as numpy.pad; or, as in torch, a flat list of ints that begins with
    (before, after) of the last axis and may leave out leading axes. mode: "constant" (with `value`), "edge" (torch:
    "replicate"), "reflect", "symmetric", "wrap" (torch: "circular"); these add at most as many elements as there are.
    """
    x = as_value(x)
    mode = TORCH.get(mode, mode)
    if mode != "constant" and mode not in EXTENDING:
        raise ArgumentError(f"mode must be constant, {', '.join([*EXTENDING, *TORCH])}, got {mode!r}")
    if value is not None and not is_scalar(value):
        raise ArgumentError(f"value must be a number, got {value!r}; mode is named: pad(x, widths, mode=...)")
    widths = _pairs(x, pad_width)
    crop = [(max(-b, 0), max(-a, 0)) for b, a in widths]
    sizes = [d - b - a for d, (b, a) in zip(x.shape, crop, strict=True)]
    if any(n < 0 for n in sizes):
        raise ShapeError(f"pad_width {tuple(widths)} crops more than {x.shape} holds")
    x = slice_within(x, [b for b, _ in crop], sizes)
    before, after = ([max(w[i], 0) for w in widths] for i in range(2))
    if mode == "constant":
        return pad_with(x, before, after, float(value or 0) if x.dtype.is_float else int(value or 0))
    for axis, (b, a) in enumerate(zip(before, after, strict=True)):
        if b or a:
            x = _extended(x, axis, b, a, mode)
    return x
