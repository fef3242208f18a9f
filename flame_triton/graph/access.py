"""How nodes reach memory: which value lies below a chain of views, and where each element of it is read."""

from __future__ import annotations

import itertools
import math

from ..ir.index_map import Bounds, IndexMap, StridedView
from ..ir.node import Node, Value
from ..ir.op import View

MOST_PARTS = 8


def view_map(node: Node) -> IndexMap:
    """The index map of a view node over its operand's elements."""
    assert isinstance(node.op.lowering, View)
    return node.op.lowering.map(node)


def views_below(value: Value) -> list[Value]:
    """`value`, what it is a view of, and so on down to the first value that is not a view."""
    chain = [value]
    while isinstance(value.node.op.lowering, View):
        value = value.node.inputs[0]
        chain.append(value)
    return chain


def map_onto(value: Value, base: Value) -> IndexMap:
    """The map from value's elements to the elements of `base`, which lies below it in its chain of views."""
    nodes: list[Node] = []
    while value is not base:
        nodes.append(value.node)
        value = value.node.inputs[0]
    index = IndexMap.dense(base.shape)
    for node in reversed(nodes):
        index = index.then(view_map(node))
    return index


def base_of(value: Value) -> tuple[Value, IndexMap]:
    """The value below all views of `value`, and the map from value's elements to its elements."""
    base = views_below(value)[-1]
    return base, map_onto(value, base)


def parts_of(value: Value) -> list[tuple[Value, IndexMap]] | None:
    """The parts of a value that is a sum of padded values side by side, as the gradient of something packed is.

    For each: what is padded, and the map from its elements to the value's. None unless every element lies in just one
    part.
    """
    addends = [value]
    padded: list[Value] = []
    while addends:
        v = addends.pop()
        if v.node.op.name == "add" and len(padded) + len(addends) < MOST_PARTS:
            addends += v.node.inputs
        else:
            padded.append(v)
    if len(padded) < 2:
        return None
    parts: list[tuple[Value, IndexMap]] = []
    boxes: list[Bounds] = []
    for v in padded:
        if v.type != value.type:
            return None
        found = _placed(v)
        if found is None:
            return None
        parts.append(found[0])
        boxes.append(found[1])
    apart = all(
        any(a[1] <= b[0] or b[1] <= a[0] for a, b in zip(one, other, strict=True))
        for one, other in itertools.combinations(boxes, 2)
    )
    return parts if apart and sum(v.size for v, _ in parts) == value.size else None


def _placed(value: Value) -> tuple[tuple[Value, IndexMap], Bounds] | None:
    """The lowest value below a padded one all of which stands in it, the map from its elements to those of `value`,
    and the box in which they stand."""
    for base in reversed(views_below(value)[1:]):
        view = map_onto(value, base).strided
        if view is None or view.bounds is None:
            continue
        box = tuple(view.bounds)
        lows, sizes = tuple(lo for lo, _ in box), tuple(hi - lo for lo, hi in box)
        start = view.offset + sum(lo * s for lo, s in zip(lows, view.strides, strict=True))
        order = IndexMap((StridedView(sizes, view.strides, start),)).inverse()
        if order is not None and math.prod(sizes) == base.size:
            return (base, IndexMap.dense(value.shape).slice(lows, sizes, (1,) * len(sizes)).then(order)), box
    return None


def matrix_strides(index: IndexMap) -> tuple[int, int, int, int, int, int] | None:
    """A matmul operand's (offset, inner batch size, outer batch stride, inner batch stride, row and column stride).

    None unless the map is one strided view without a mask whose batch axes, but for the last, walk with one stride.
    """
    view = index.strided
    if view is None or view.bounds is not None or len(view.shape) < 2:
        return None
    outer = 0
    run = 0
    for d, s in zip(view.shape[:-3], view.strides[:-3], strict=True):
        if d == 1:
            continue
        if run and outer != d * s:
            return None
        run, outer = d, s
    inner, step = (view.shape[-3], view.strides[-3]) if len(view.shape) > 2 else (1, 0)
    return view.offset, inner, outer, step, view.strides[-2], view.strides[-1]


def fits(index: IndexMap, layout: str) -> bool:
    """True if a kernel whose operand may lie as `layout` says (see Kernel) can read it through this map."""
    if layout == "dense":
        return index.is_dense
    if layout == "matrix":
        return takes_matrix(index)
    view = index.strided
    if view is None or view.bounds is not None:
        return False
    return layout == "any" or not view.shape or view.shape[-1] == 1 or view.strides[-1] == 1


def takes_matrix(index: IndexMap) -> bool:
    """True if a matmul can read this operand in place: strided, with unit stride along one of the two matrix axes."""
    found = matrix_strides(index)
    if found is None:
        return False
    rows, columns = index.shape[-2:]
    row_stride, column_stride = found[-2:]
    return column_stride == 1 or row_stride == 1 or rows == 1 or columns == 1
