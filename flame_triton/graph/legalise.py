"""Bring reductions and matrix products into the few forms that kernels take, with enough parallelism for the target.

After: every Reduce is either a row reduction, [M, N] over axis 1, or a column reduction, [G, R, N] over axis 1, neither
longer than one program should walk; a matrix product with few output tiles and a long inner size is split over K into
float32 partial products and their sum (deterministic: the order of the sum is fixed), and the gradient of a
convolution's weight likewise over output positions. Reductions and products over nothing are constants, and so is
whatever has no elements. Everything else is views, which cost nothing.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import count

from ..ir.graph import Graph
from ..ir.node import Node, Value, derived_from, make
from ..ir.op import Kernel, Leaf, Pointwise, Reduce, View, call
from ..types import DType, bool_, float32
from .access import base_of, matrix_strides
from .plan import SUM_ROWS, Target

ROW_LIMIT = 4096  # elements of a row that one program holds in registers
COLUMN_LIMIT = 64  # rows that one program of a column reduction walks at least when there are few groups
LAST_STAGE = 256  # rows of partial sums that one more launch adds up
PROGRAMS = 1  # of a column reduction for each processor, about
FULL_ROW = 3072  # elements of a row of which one program keeps a processor's memory busy; of shorter rows it takes more
PARTIAL_COST = 1.5  # what a row of partial sums costs, written and read again, in rows walked
LEAST_BLOCK = 32  # neighbours that are kept, where sums over several axes are taken block by block
GROUPS_ENOUGH = 128  # groups that fill the device by themselves
INTERPRETED_ROW_LIMIT = 1 << 17


def legalise(graph: Graph, target: Target) -> Graph:
    """The graph with canonical reductions and split matrix products."""
    blocks = {_blocks(node) for node in graph.nodes} - {None}
    normed, places = _normed(graph), count()

    def rule(node: Node) -> tuple[Value, ...] | None:
        place = next(places)  # every node is asked for, in order
        if not any(t.size for t in node.types) and not isinstance(node.op.lowering, Leaf):
            with derived_from(node):
                return tuple(call("full", t.shape, 0, t.dtype) for t in node.types)
        if isinstance(node.op.lowering, Reduce):
            with derived_from(node):
                shape = node.inputs[0].shape
                if _blocks(node) or (shape in blocks and node.attrs["axes"] == (0, 1, 2) and node.op.name == "sum"):
                    return (_summed_in_blocks(node, target),)
                return (_reduce(node, target, place in normed),)
        if node.op.name == "matmul":
            with derived_from(node):
                return (_matmul(node, target),)
        if node.op.name in ("convolution", "convolution_dgrad", "convolution_wgrad"):
            with derived_from(node):
                return (_convolution(node, target),)
        return None

    return graph.rewrite(rule)


def identity(kind: str, dtype: DType) -> bool | int | float:
    """The element that changes nothing in a reduction of this kind."""
    if kind in ("sum", "prod"):
        return 0 if kind == "sum" else 1
    if kind in ("any", "all"):
        return kind == "all"
    low = kind in ("max", "argmax")
    if dtype.is_float:
        return -math.inf if low else math.inf
    if dtype is bool_:
        return not low
    bits = dtype.itemsize * 8
    least, most = (0, 255) if dtype.kind == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)
    return least if low else most


def _reduce(node: Node, target: Target, normed: bool = False) -> Value:
    """normed: see `_normed`."""
    x, kind, result = node.inputs[0], node.op.name, node.type
    axes: tuple[int, ...] = node.attrs["axes"]
    length = math.prod(x.shape[a] for a in axes)
    if length == 0 or result.size == 0:
        return call("full", result.shape, identity(kind, x.dtype) if result.size else 0, result.dtype)
    if x.dtype.is_low_precision and kind in ("sum", "prod"):
        x = call("cast", x, float32)
    kept = tuple(a for a in range(x.ndim) if a not in axes and x.shape[a] != 1)
    real = tuple(a for a in axes if x.shape[a] != 1)
    arg = kind.startswith("arg")
    if not real or all(a < real[0] for a in kept):
        flat = _rows(kind, call("reshape", x, (result.size, length)), target)
    elif not arg and real[-1] - real[0] + 1 - len(real) == sum(x.shape[a] == 1 for a in range(real[0], real[-1])):
        outer, inner = math.prod(x.shape[: real[0]]), math.prod(x.shape[real[-1] + 1 :])
        flat = _columns(kind, call("reshape", x, (outer, length, inner)), target, normed)
    elif not arg:
        return _run_by_run(node, x, target)
    else:
        order = (*(a for a in range(x.ndim) if a not in axes), *axes)
        flat = _rows(kind, call("reshape", call("transpose", x, order), (result.size, length)), target)
    return call("reshape", call("cast", flat, result.dtype), result.shape)


def in_blocks(shape: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """True if a sum of [A, B, C, D] over A and C, as for the bias of heads that lie apart, is taken block by block."""
    if len(shape) != 4 or not (axes == (0, 2) or (axes == (2,) and shape[0] == 1)):
        return False
    return shape[0] > 0 and shape[1] > 1 and shape[2] > COLUMN_LIMIT and LEAST_BLOCK <= shape[3] <= ROW_LIMIT


def _blocks(node: Node) -> tuple[int, ...] | None:
    """The shape of what a node sums block by block, or None."""
    if node.op.name != "sum" or not in_blocks(node.inputs[0].shape, node.attrs["axes"]):
        return None
    return node.inputs[0].shape


def _summed_in_blocks(node: Node, target: Target) -> Value:
    """Sums of [A, B, C, D] over A and C, or over all but D: first over pieces of C, then over all pieces. Both sums of
    one value begin with the same pieces, in one kernel."""
    x, result = node.inputs[0], node.type
    a, b, c, d = x.shape
    x = call("cast", x, float32) if x.dtype.is_low_precision else x
    narrow = max(1, min(8, 1024 // d))
    most = LAST_STAGE * narrow // (a * b)
    piece = c if target.interpreted else _rows_walked(a * b, c, PROGRAMS * target.processors * narrow, most)
    x = _padded("sum", x, 2, piece)
    parts = x.shape[2] // piece
    partial = make("sum", [call("reshape", x, (a * b * parts, piece, d))], axes=(1,)).out
    flat = (1, a * b * parts, d)
    if 1 not in node.attrs["axes"]:
        partial = call("transpose", call("reshape", partial, (a, b, parts, d)), (0, 2, 1, 3))
        flat = (1, a * parts, b * d)
    total = _columns("sum", call("reshape", partial, flat), target)
    return call("reshape", call("cast", total, result.dtype), result.shape)


def _run_by_run(node: Node, x: Value, target: Target) -> Value:
    """Axes with others in between: the first run of neighbours as columns, which reads x in order; then the rest."""
    axes: tuple[int, ...] = node.attrs["axes"]
    kept = [a for a in range(x.ndim) if a not in axes and x.shape[a] != 1]
    end = next(a for a in kept if any(b < a and x.shape[b] != 1 for b in axes))
    first = make(node.op, [x], axes=tuple(a for a in axes if a < end)).out
    rest = make(node.op, [_reduce(first.node, target)], axes=tuple(a for a in axes if a > end)).out
    return call("cast", _reduce(rest.node, target), node.type.dtype)


def _padded(kind: str, x: Value, axis: int, multiple: int) -> Value:
    extra = -x.shape[axis] % multiple
    if not extra:
        return x
    widths = [(0, extra if a == axis else 0) for a in range(x.ndim)]
    return call("pad", x, widths, identity(kind, x.dtype))


def _divisor(n: int, most: int) -> int:
    """The largest divisor of n that is at most `most`."""
    return next(d for d in range(most, 0, -1) if n % d == 0)


def _piece(length: int, most: int) -> int:
    """How long a piece should be: a divisor of length if a decent one exists, else `most` (the end is padded)."""
    best = _divisor(length, most)
    return best if best * 4 >= most else most


def _rows(kind: str, x: Value, target: Target) -> Value:
    """[M, N] -> [M, 1]."""
    rows, length = x.shape
    limit = INTERPRETED_ROW_LIMIT if target.interpreted else ROW_LIMIT
    few = not target.interpreted and rows < GROUPS_ENOUGH and length > limit // 2
    if kind.startswith("arg") or (length <= limit and not few):
        return make(kind, [x], axes=(1,)).out
    piece = _piece(length, limit // 2 if not target.interpreted else limit)
    x = _padded(kind, x, 1, piece)
    parts = x.shape[1] // piece
    partial = make(kind, [call("reshape", x, (rows * parts, piece))], axes=(1,)).out
    return _rows(kind, call("reshape", partial, (rows, parts)), target)


def _columns(kind: str, x: Value, target: Target, normed: bool = False) -> Value:
    """[G, R, N] -> [G, 1, N]."""
    groups, length, width = x.shape
    tiles = groups * max(1, width // 1024)
    beside = kind == "sum" and groups == 1 and length > 2 * SUM_ROWS and not normed and _computed_by_product(x)
    if not beside and (target.interpreted or length <= 2 * COLUMN_LIMIT or tiles >= GROUPS_ENOUGH):
        return make(kind, [x], axes=(1,)).out
    if beside:
        piece = SUM_ROWS
    else:
        narrow = max(1, min(8, 1024 // width))  # few bytes a row: several programs a processor keep its memory busy
        if groups == 1 and length <= LAST_STAGE * narrow and x.type.nbytes <= LAST_STAGE * 4 * 8192:
            return make(kind, [x], axes=(1,)).out
        together = 1 << (max(1, min(8, FULL_ROW // width)).bit_length() - 1)
        piece = _rows_walked(groups, length, PROGRAMS * target.processors * together)
    if piece >= length:
        return make(kind, [x], axes=(1,)).out
    x = _padded(kind, x, 1, piece)
    parts = x.shape[1] // piece
    partial = make(kind, [call("reshape", x, (groups * parts, piece, width))], axes=(1,)).out
    return _columns(kind, call("reshape", partial, (groups, parts, width)), target)


@cache
def _rows_walked(groups: int, length: int, processors: int, most: int = 1 << 30) -> int:
    """How many rows of a column reduction one program walks, so that the busiest processor walks few and there are few
    partial sums. A divisor of the length, so that what else reads these rows can share the kernel, if one will do.

    most: parts of each group; more if one part would be too long.
    """

    def cost(parts: int) -> float:
        programs = groups * parts
        return -(-programs // processors) * (length // parts) + PARTIAL_COST * programs / processors

    parts = min((d for d in range(1, max(1, min(length // 2, most)) + 1) if length % d == 0), key=cost)
    even = length * groups / processors
    return length // parts if cost(parts) <= 4 * even + COLUMN_LIMIT else COLUMN_LIMIT


def _computed_by_product(x: Value) -> bool:
    """True if x, or either half of it, is computed from the result of a product of that size, whose epilogue can sum
    it on the way: no other kernel's result of that size or larger that it is computed from is newer."""
    last = _newest_kernel(x)
    if last is None or not isinstance(last.op.lowering, Kernel):
        return False
    return last.op.lowering.sums and last.type.size in (x.size, x.size // 2)


def _newest_kernel(x: Value) -> Node | None:
    """The newest kernel whose result x is computed from, element by element."""
    sizes = (x.size, x.size // 2)
    waiting, seen, kernels = [x], {x}, list[Node]()
    while waiting and len(seen) < 64:
        v = waiting.pop(0)
        lowering = v.node.op.lowering
        if isinstance(lowering, Kernel):
            kernels.append(v.node)
        if isinstance(lowering, Pointwise | View):
            view = isinstance(lowering, View)
            fresh = [u for u in v.node.inputs if (u.size in sizes or (view and u.size > x.size)) and u not in seen]
            waiting += fresh
            seen.update(fresh)
    return max(kernels, key=lambda node: node.id, default=None)


def _normed(graph: Graph) -> set[int]:
    """Where in graph.nodes sums over columns stand that the backward pass of a norm takes on its way: what they sum
    comes from a product whose result is summed by rows as well. The product's epilogue would sum too few rows at a
    time for that kernel to have a program on every processor."""
    columns: dict[int, Node] = {}
    rows: set[Node] = set()
    for place, node in enumerate(graph.nodes):
        if node.op.name != "sum":
            continue
        shape, axes = node.inputs[0].shape, node.attrs["axes"]
        kept = [a for a in range(len(shape)) if a not in axes and shape[a] != 1]
        real = [a for a in axes if shape[a] != 1]
        if not kept or not real or (real[-1] > kept[0] and real[0] < kept[-1]):
            continue
        last = _newest_kernel(node.inputs[0])
        if last is not None and real[0] > kept[-1]:
            rows.add(last)
        elif last is not None:
            columns[place] = last
    return {place for place, last in columns.items() if last in rows}


def _matmul(node: Node, target: Target) -> Value:
    a, b = node.inputs
    if 0 in (*a.shape, *b.shape):
        return call("full", node.type.shape, 0.0, node.type.dtype)
    parts = _split_k(node, target)
    if parts == 1:
        return node.out
    (m, k), n = a.shape[-2:], b.shape[-1]
    left = call("transpose", call("reshape", a, (m, parts, k // parts)), (1, 0, 2))
    right = call("reshape", b, (parts, k // parts, n))
    partial = make("matmul", [left, right], out_dtype=float32).out
    total = make("sum", [call("reshape", partial, (1, parts, m * n))], axes=(1,)).out
    return call("reshape", call("cast", total, node.type.dtype), node.type.shape)


def _split_k(node: Node, target: Target) -> int:
    """Into how many pieces K is cut: enough for one wave of tiles, each piece at least 256 long; 1 means not at all.

    Hopper's kernel cuts K itself.
    """
    a, b = node.inputs
    if target.arch == 90 and a.dtype.itemsize == 2 and all(n >= 64 for n in (*a.shape[-2:], b.shape[-1])):
        if _regular(a) and _regular(b):
            return 1
    batch, k = math.prod(a.shape[:-2]), a.shape[-1]
    if target.interpreted or batch != 1 or a.dtype.itemsize == 8 or node.attrs["out_dtype"] is not a.dtype:
        return 1
    tiles = -(-a.shape[-2] // 128) * -(-b.shape[-1] // 128)
    parts = 1
    while tiles * parts * 8 <= target.processors * 5 and k % (parts * 2) == 0 and k // (parts * 2) >= 256:
        parts *= 2
    return parts


def _regular(operand: Value) -> bool:
    """True if the rows of a product's 16-bit operand, or its columns, are stored 16 bytes apart or a multiple of that,
    as TMA reads them; how many there are does not matter."""
    _, index = base_of(operand)
    *_, row, column = matrix_strides(index) or (operand.shape[-1], 1)
    return (column == 1 and row % 8 == 0) or (row == 1 and column % 8 == 0)


def _convolution(node: Node, target: Target) -> Value:
    x, y = node.inputs
    if 0 in (*x.shape, *y.shape, *node.type.shape):
        return call("full", node.type.shape, 0.0, node.type.dtype)
    parts = _split_positions(node, target) if node.op.name == "convolution_wgrad" else 1
    if parts == 1:
        return node.out
    partial = make("convolution_wgrad_parts", [x, y], parts=parts, out_dtype=x.dtype.compute, **node.attrs).out
    total = make("sum", [call("reshape", partial, (1, parts, node.type.size))], axes=(1,)).out
    return call("reshape", call("cast", total, node.type.dtype), node.type.shape)


def _split_positions(node: Node, target: Target) -> int:
    """Into how many pieces the output positions of a weight's gradient are cut: enough for three waves of tiles of 64
    channels squared, each piece at least 1024 long; 1 means not at all."""
    k, *kernel, c = node.type.shape
    groups: int = node.attrs["groups"]
    positions = math.prod(node.inputs[1].shape[:-1])
    if target.interpreted:
        return 1
    wide = -(-k // 64) if c == 1 else groups * -(-(k // groups) // 64) * max(1, c // 64)
    tiles = wide * math.prod(kernel)
    parts = 1
    while tiles * parts < 3 * target.processors and positions // (parts * 2) >= 1024:
        parts *= 2
    return parts
