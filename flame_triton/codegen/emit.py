"""Write the body of a generated kernel: one Triton statement per node of a region, at the elements a tile covers.

An iteration space has a few axes (rows and columns of a tile, say), each with a coordinate variable in the kernel. What
a value is read at is an IndexMap over the space's dimensions; views inside the region only compose maps, so they cost
nothing but index arithmetic. A statement is written once per (value, map).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import CompileError
from ..graph.legalise import identity
from ..ir.graph import Graph
from ..ir.index_map import IndexMap, StridedView, refine, row_major
from ..ir.node import Node, Value
from ..ir.op import Generator, Pointwise, Reduce, View
from ..types import DType, bfloat16, bool_, float8_e4m3fn, float8_e5m2, float16, float64
from .address import Atom, Deps, Linear, remainder, split
from .precision import short_nodes, shortened

NEVER = "tl.cast(False, tl.int1)"  # the condition of an element that is always masked
PIECE = "@"  # ends the name of what differs from piece to piece of a row


@dataclass(frozen=True)
class Axis:
    """One axis of the iteration space: its coordinate variable, its size, and the variable that masks it (or None)."""

    name: str
    size: int
    mask: str | None


@dataclass(frozen=True)
class Term:
    """A variable or literal in the kernel, and the axes it varies along."""

    text: str
    deps: Deps


@dataclass
class Space:
    """Axes, and the finer dimensions each is split into so that the region's maps become strided views."""

    axes: tuple[Axis, ...]
    dims: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(d for group in self.dims for d in group)

    @property
    def owner(self) -> tuple[int, ...]:
        """For every dimension the axis it belongs to."""
        return tuple(a for a, group in enumerate(self.dims) for _ in group)


def make_space(region: Graph, axes: Sequence[Axis]) -> Space:
    """The space split as finely as the shapes in the region ask for."""
    sizes = tuple(a.size for a in axes)
    total = 1
    for n in sizes:
        total *= n
    shapes = [v.shape for n in reversed(region.nodes) for v in n.outputs]
    fine = list(refine([sizes, *(v.shape for v in region.outputs), *shapes], total))
    dims: list[tuple[int, ...]] = []
    for n in sizes:
        group: list[int] = []
        product = 1
        while product < n:
            group.append(fine.pop(0))
            product *= group[-1]
        dims.append(tuple(group) or (1,))
    return Space(tuple(axes), tuple(dims))


def cut(space: Space, maps: Sequence[IndexMap]) -> Space:
    """The space with its last dimension split where what lies below a map's last view is: a pair of columns, say, of
    something larger that is read in part."""
    last = space.dims[-1][-1]
    units = {u for m in maps for view in m.views[:-1] for u in row_major(view.shape) if 1 < u < last and last % u == 0}
    fine = refine([(last // u, u) for u in sorted(units, reverse=True)], last)
    return Space(space.axes, (*space.dims[:-1], (*space.dims[-1][:-1], *fine)))


def collapse(space: Space, maps: Sequence[IndexMap]) -> Space:
    """The space with neighbouring dimensions of one axis merged wherever every map walks both with one stride."""
    shape, owner = space.shape, space.owner
    keep = [True] * len(shape)
    for i in range(len(shape) - 1):
        same = owner[i] == owner[i + 1]
        keep[i] = not (same and all(_walks_together(m.views[-1], i) and not _cut_between(m, i) for m in maps))
    dims: list[list[int]] = [[] for _ in space.axes]
    run = 1
    for i, d in enumerate(shape):
        run *= d
        if keep[i]:
            dims[owner[i]].append(run)
            run = 1
    return Space(space.axes, tuple(tuple(g) for g in dims))


def _cut_between(index: IndexMap, i: int) -> bool:
    """True if what lies below the last view is cut where dimension i ends."""
    return any(index.views[-1].strides[i] in row_major(view.shape) for view in index.views[:-1])


def _walks_together(view: StridedView, i: int) -> bool:
    whole = view.bound(i) == (0, view.shape[i]) and view.bound(i + 1) == (0, view.shape[i + 1])
    if view.shape[i] == 1 or view.shape[i + 1] == 1:
        return whole
    return whole and view.strides[i] == view.strides[i + 1] * view.shape[i + 1]


@dataclass
class Emitter:
    """Writes statements for values of a region.

    pointers: the kernel's pointer variable of each region input. bound: values that are variables already (a matmul's
    accumulator, finished column sums). sink(deps) is the list a statement goes to, given the axes it varies along.
    whole_mask: the variable that masks elements varying along every axis. pieces: into how many tiles of equal width a
    row is cut; a name that differs from piece to piece ends in PIECE, and `unrolled` writes its statement for each.
    """

    region: Graph
    space: Space
    pointers: dict[Value, str]
    sink: Callable[[Deps], list[str]]
    bound: dict[Value, Term] = field(default_factory=dict[Value, Term])
    whole_mask: str | None = None
    row_axis: int | None = None  # the axis that row reductions reduce, held whole in a tile
    pieces: int = 1
    spread: str = ""  # added to the offsets of what is loaded once for all rows, so that it lies like a tile of rows
    terms: dict[tuple[Value, IndexMap | None], Term] = field(default_factory=dict[tuple[Value, IndexMap | None], Term])
    coordinates: dict[int, str] = field(default_factory=dict[int, str])
    loads: dict[IndexMap, tuple[Term, str | None]] = field(default_factory=dict[IndexMap, tuple[Term, str | None]])
    quotients: dict[str, Atom] = field(default_factory=dict[str, Atom])
    streams: list[Node] = field(default_factory=list[Node])
    maps: list[IndexMap] = field(default_factory=list[IndexMap])
    reads: dict[Value, set[IndexMap]] = field(default_factory=dict[Value, set[IndexMap]])
    counter: list[int] = field(default_factory=lambda: [0])

    # ---- names and indices -------------------------------------------------------------------------------------

    def fresh(self, prefix: str = "v") -> str:
        self.counter[0] += 1
        return f"{prefix}{self.counter[0]}"

    @functools.cached_property
    def short(self) -> frozenset[Node]:
        """The nodes whose elementary functions may be short."""
        return short_nodes(self.region)

    def assign(self, expression: str, deps: Deps, comment: str = "", prefix: str = "v") -> Term:
        name = self.fresh(prefix) + (PIECE if self.pieces > 1 and self.row_axis in deps else "")
        self.sink(deps).append(f"{name} = {expression}" + (f"  # {comment}" if comment else ""))
        return Term(name, deps)

    def coordinate(self, dim: int) -> str:
        """The variable that holds the coordinate of a dimension: the axis itself, or a quotient and remainder of it."""
        found = self.coordinates.get(dim)
        if found is not None:
            return found
        axis = self.space.owner[dim]
        name = self.space.axes[axis].name
        first = sum(len(g) for g in self.space.dims[:axis])
        group = self.space.dims[axis]
        if len(group) > 1:
            unit = row_major(group)[dim - first]
            text = name if unit == 1 else f"{name} // {unit}"
            if dim != first:
                text = f"({text}) % {group[dim - first]}" if unit != 1 else f"{name} % {group[dim - first]}"
            name = self.assign(text, frozenset((axis,)), prefix="i").text
        self.coordinates[dim] = name
        return name

    def place(self, index: IndexMap) -> tuple[Term, str | None]:
        """The element offset of a map, and the condition under which it is valid (None: always)."""
        found = self.loads.get(index)
        if found is not None:
            return found
        self.maps.append(index)
        fixed = index.fixed()
        if fixed is not None:
            self.loads[index] = Term(str(fixed[0]), frozenset()), None if fixed[1] else NEVER
            return self.loads[index]
        whole, conditions = self._trace(index)
        offset = self._text(whole)
        deps = offset.deps.union(*(c.deps for c in conditions))
        names = [self.space.axes[a].name for a in sorted(deps - offset.deps)]
        text = offset.text + "".join(f" + {n} * 0" for n in names)  # what a mask varies along, the offset must too
        self.loads[index] = Term(text, deps), " & ".join(c.text for c in conditions) or None
        return self.loads[index]

    def _trace(self, index: IndexMap) -> tuple[Linear, list[Term]]:
        """The element offset of a map as a sum, and the conditions under which it is valid."""
        view, owner = index.views[-1], self.space.owner
        conditions: list[Term] = []
        ranges: list[tuple[int, int]] = []
        for i, d in enumerate(view.shape):
            lo, hi = view.bound(i)
            ranges.append((lo, max(lo, hi - 1)))
            if (lo, hi) != (0, d):
                conditions += _within(Term(self.coordinate(i), frozenset((owner[i],))), lo, hi, d)
        whole = Linear(view.offset, view.strides)
        for view in reversed(index.views[:-1]):
            parts = [self._part(whole, *sizes, ranges) for sizes in _units(view.shape)]
            for i, (d, part) in enumerate(zip(view.shape, parts, strict=True)):
                if view.bound(i) != (0, d):
                    conditions += _within(self._text(part), *view.bound(i), d)
            whole = Linear(view.offset, (0,) * len(owner))
            for part, stride in zip(parts, view.strides, strict=True):
                whole = whole.plus(part, stride)
        return whole, conditions

    def _part(self, whole: Linear, unit: int, size: int, leading: bool, ranges: Sequence[tuple[int, int]]) -> Linear:
        """whole // unit, and its remainder by `size` unless nothing stands before it."""
        found, factor = split(whole, unit, ranges)
        if factor < unit:
            found = self._atom(found, f"// {unit // factor}", found.range(ranges)[1] * factor // unit + 1)
        if leading:
            return found
        found, done = remainder(found, size, ranges)
        return found if done else self._atom(found, f"% {size}", size)

    def _atom(self, whole: Linear, operation: str, size: int) -> Linear:
        """A variable that holds a quotient or a remainder, which lies below `size`."""
        term = self._text(whole)
        text = f"({term.text}) {operation}"
        if text not in self.quotients:
            self.quotients[text] = Atom(self.assign(text, term.deps, prefix="i").text, term.deps, (0, max(size - 1, 0)))
        return Linear(0, (0,) * len(self.space.owner), ((self.quotients[text], 1),))

    def _text(self, whole: Linear) -> Term:
        """A sum as source."""
        shape = self.space.shape
        terms, deps = self._walk_axes(StridedView(shape, whole.strides), [""] * len(shape))
        terms += [_times(atom.text, stride) for atom, stride in whole.atoms]
        if whole.offset or not terms:
            terms.append(str(whole.offset))
        return Term(" + ".join(terms).replace("+ -", "- "), deps.union(*(atom.deps for atom, _ in whole.atoms)))

    def _walk_axes(self, view: StridedView, coordinates: list[str]) -> tuple[list[str], Deps]:
        """coordinate * stride for every dimension, or for a whole axis at once where one stride walks it."""
        terms: list[str] = []
        deps: Deps = frozenset()
        first = 0
        for a, group in enumerate(self.space.dims):
            dims = range(first, first + len(group))
            first += len(group)
            moving = [i for i in dims if view.strides[i]]
            if not moving:
                continue
            deps |= {a}
            if len(group) > 1 and all(_walks_together(view, i) for i in dims[:-1]):
                terms.append(_times(self.space.axes[a].name, view.strides[dims[-1]]))
                continue
            for i in moving:
                coordinates[i] = self.coordinate(i)
                terms.append(_times(coordinates[i], view.strides[i]))
        return terms, deps

    def mask(self, deps: Deps, valid: str | None = None) -> str:
        """The condition under which elements varying along `deps` exist, as source."""
        masks = {a: axis.mask for a, axis in enumerate(self.space.axes) if axis.mask}
        parts = [masks[a] for a in sorted(deps) if a in masks]
        if self.whole_mask and len(parts) == len(masks) > 0:
            parts = [self.whole_mask]
        return " & ".join([*parts, *([valid] if valid else [])]) or "None"

    # ---- values ------------------------------------------------------------------------------------------------

    def value(self, value: Value, index: IndexMap) -> Term:
        """The variable that holds `value` at `index`; writes what it takes."""
        found = self.bound.get(value) or self.terms.get((value, index))
        if found is not None:
            return found
        lowering = value.node.op.lowering
        if value in self.pointers:
            term = self._load(value, index)
        elif isinstance(lowering, View):
            term = self._view(value.node, index)
        elif isinstance(lowering, Reduce):
            return self._reduce(value)
        elif isinstance(lowering, Generator):
            term = self._generator(value.node, index)
        elif isinstance(lowering, Pointwise):
            operands = [self.value(v, index) for v in value.node.inputs]
            term = self._pointwise(value.node, lowering, operands)
        else:
            raise CompileError(f"{value.node.op.name} cannot stand inside a fused kernel", loc=value.node.loc)
        self.terms[value, index] = term
        return term

    def _load(self, value: Value, index: IndexMap) -> Term:
        self.reads.setdefault(value, set()).add(index)
        place, valid = self.place(index)
        offsets = place.text + (self.spread if place.deps == {self.row_axis} else "")
        paired = self._by_pairs(index)
        if paired:
            offsets = re.sub(rf"\b{paired}\b", "pair", offsets)
        text = load(self.pointers[value], offsets, self.mask(place.deps, valid), value.dtype)
        text = f"lib.repeat_pairs({text})" if paired else text
        return self.assign(text, place.deps, str(value.dtype), prefix="x")

    def _by_pairs(self, index: IndexMap) -> str | None:
        """The coordinate that counts pairs of columns, if both columns of a pair read one element: then half a tile is
        loaded, each element once and side by side."""
        group = self.space.dims[-1]
        whole_rows = self.whole_mask == "ok" and self.row_axis is not None and self.pieces == 1
        if index.masked or len(group) != 2 or group[1] != 2 or not whole_rows or self.space.axes[-1].mask is not None:
            return None
        whole, _ = self._trace(index)
        if whole.strides[-2:] != (1, 0) or any(self.row_axis in atom.deps for atom, _ in whole.atoms):
            return None
        return self.coordinate(len(whole.strides) - 2)

    def _swaps(self, node: Node, index: IndexMap) -> bool:
        """True if the view exchanges the elements of pairs, and both elements of a pair lie in the tile side by side:
        a rotary embedding of interleaved pairs then exchanges them in registers."""
        swap = node.op.lowering.map(node).strided  # type: ignore[union-attr]
        if swap is None or swap.bounds is not None or index.masked or self.whole_mask != "ok":
            return False
        wide = [(d, s) for d, s in zip(swap.shape, swap.strides, strict=True) if d != 1]
        shape, strides = tuple(d for d, _ in wide), tuple(s for _, s in wide)
        if shape[-1:] != (2,) or swap.offset != 1 or strides != (*row_major(shape)[:-1], -1):
            return False
        whole, _ = self._trace(index)
        within = self.space.shape[-1] % 2 == 0 and whole.strides[-1] == 1
        return within and all(s % 2 == 0 for s in (*whole.strides[:-1], whole.offset, *(s for _, s in whole.atoms)))

    def _view(self, node: Node, index: IndexMap) -> Term:
        source = node.inputs[0]
        if self._swaps(node, index):
            inner = self.value(source, index)
            if self.row_axis not in inner.deps and self.row_axis is not None:
                return inner
            return self.assign(f"lib.swap_pairs({inner.text})", inner.deps, node.op.name)
        below = node.op.lowering.map(node).then(index)  # type: ignore[union-attr]
        if not node.op.lowering.map(node).masked:  # type: ignore[union-attr]
            return self.value(source, below)
        place, valid = self.place(below)
        if valid is None:
            return self.value(source, below)
        fill = constant(node.attrs["fill"], node.type.dtype)
        if valid == NEVER:
            return Term(fill, frozenset())
        inner = self.value(source, below)
        return self.assign(f"tl.where({valid}, {inner.text}, {fill})", inner.deps | place.deps, node.op.name)

    def _generator(self, node: Node, index: IndexMap) -> Term:
        scalars = [self.value(v, IndexMap.dense(v.shape).expand(index.shape)) for v in node.inputs]
        place, _ = self.place(index)
        text = node.op.lowering.render(node)  # type: ignore[union-attr]
        names = {"index": f"({place.text})" if place.deps else f"tl.cast({place.text}, tl.int32)"}
        if "stream" in node.attrs:
            if node not in self.streams:
                self.streams.append(node)
            names["stream"] = f"stream{self.streams.index(node)}"
        text = text.format(*(s.text for s in scalars), **{**node.attrs, **names})
        return self.assign(rounded(text, node.type.dtype), place.deps, node.op.name)

    def _pointwise(self, node: Node, lowering: Pointwise, operands: list[Term]) -> Term:
        deps: Deps = frozenset().union(*(t.deps for t in operands))
        if not operands:
            return Term(constant(node.attrs["value"], node.type.dtype), deps)
        text = lowering.render(node).format(*(t.text for t in operands), **node.attrs)
        if node in self.short:
            text = shortened(text)
        return self.assign(rounded(text, node.type.dtype), deps, node.op.name)

    def _reduce(self, value: Value) -> Term:
        """A row reduction: the tile holds whole rows, so it is one statement."""
        found = self.terms.get((value, None))
        if found is not None:
            return found
        node = value.node
        source, axis = node.inputs[0], self.row_axis
        if axis is None or source.ndim != 2:
            raise CompileError(f"{node.op.name} does not fit this kernel", loc=node.loc)
        inner = self.value(source, IndexMap.dense(source.shape).reshape(self.space.shape))
        mask = self.space.axes[axis].mask
        text = inner.text
        if mask is not None or axis not in inner.deps:
            neutral = constant(identity(node.op.lowering.kind, source.dtype), source.dtype)  # type: ignore[union-attr]
            where = mask or f"({self.space.axes[axis].name} >= 0)"
            text = f"tl.where({where}, {text}, {neutral})"
        kind: str = node.op.lowering.kind  # type: ignore[union-attr]
        parts = [text.replace(PIECE, f"_{p}") for p in range(self.pieces)]
        text = functools.reduce(lambda a, b: combined(kind, a, b), parts)
        expression = reduction(kind, text, axis=1)
        term = self.assign(rounded(expression, node.type.dtype), inner.deps - {axis}, node.op.name)
        self.terms[value, None] = term
        return term


def _times(coordinate: str, stride: int) -> str:
    return coordinate if stride == 1 else f"{coordinate} * {stride}"


def _units(shape: tuple[int, ...]) -> list[tuple[int, int, bool]]:
    """(elements that one step walks, size, whether nothing stands before it) of every dimension."""
    sizes = zip(row_major(shape), shape, strict=True)
    return [(unit, d, math.prod(shape[:i]) == 1) for i, (unit, d) in enumerate(sizes)]


def _within(coordinate: Term, lo: int, hi: int, size: int) -> list[Term]:
    """The conditions under which a coordinate lies in [lo, hi), of those that say anything."""
    text = coordinate.text if coordinate.text.isidentifier() else f"({coordinate.text})"
    tests = [f"({text} >= {lo})"] * (lo > 0) + [f"({text} < {hi})"] * (hi < size)
    return [Term(test, coordinate.deps) for test in tests]


def constant(value: bool | int | float, dtype: DType) -> str:
    """A literal as a typed Triton scalar."""
    if dtype.is_float and value == 0 and math.copysign(1.0, value) < 0:
        return f"lib.neg({constant(0.0, dtype)})"  # Triton makes 0.0 of every number that equals 0
    if dtype.is_float:
        value = float(dtype.convert(np.asarray(value))) if dtype.is_low_precision else float(value)
        text = repr(value) if value == value and abs(value) != float("inf") else f'float("{value}")'
    else:
        text = repr(bool(value) if dtype is bool_ else int(value))
    if dtype is float64:
        return f"tl.full((), {text}, tl.float64)"
    return f"tl.cast({text}, tl.{triton_name(dtype.compute)})"  # (tl.full is not to be had within Gluon kernels)


def triton_name(dtype: DType) -> str:
    """The name of a dtype in triton.language: of 8-bit floats, that of the bytes in which kernels take them."""
    return "int1" if dtype is bool_ else "uint8" if dtype.is_storage else dtype.name


_SUFFIX = {bfloat16: "bf16", float16: "fp16", float8_e4m3fn: "e4m3", float8_e5m2: "e5m2"}


def rounded(text: str, dtype: DType) -> str:
    """An expression in the compute type, rounded to a 16-bit or 8-bit float dtype."""
    return f"lib.round_{_SUFFIX[dtype]}({text})" if dtype in _SUFFIX else text


def load(pointer: str, offsets: str, mask: str, dtype: DType) -> str:
    """Elements of memory in their compute type; zeros where the mask is false."""
    other = "0.0" if dtype.is_float and not dtype.is_storage else "0"
    return decoded(f"lib.load({pointer}, {offsets}, {mask}, {other})", dtype)


def decoded(text: str, dtype: DType) -> str:
    """What a load gives, in its compute type: 8-bit floats are loaded as bytes."""
    return f"lib.decode_{_SUFFIX[dtype]}({text})" if dtype.is_storage else text


def store(pointer: str, offsets: str, text: str, mask: str, dtype: DType) -> str:
    """The statement that writes a value in its compute type to memory of a dtype."""
    text = f"lib.encode_{_SUFFIX[dtype]}({text})" if dtype.is_storage else text
    return f"lib.store({pointer}, {offsets}, {text}, {mask})"


def combined(kind: str, a: str, b: str) -> str:
    """Two operands of a reduction, element by element."""
    if kind in ("max", "min"):
        return f"lib.{kind}imum({a}, {b})"
    sign = {"sum": "+", "prod": "*", "any": "|", "all": "&"}[kind]
    return f"{a} {sign} {b}"


def unrolled(lines: Sequence[str], pieces: int) -> list[str]:
    """The statements, those about a piece of a row once for each piece."""
    count = {True: pieces, False: 1}
    return [line.replace(PIECE, f"_{p}") for line in lines for p in range(count[PIECE in line])]


def reduction(kind: str, text: str, axis: int) -> str:
    """Reduce a tile along an axis, keeping it with size 1. Functions of kernels/portable/reduction.py but for sums."""
    if kind == "sum":
        return f"tl.sum({text}, axis={axis}, keep_dims=True)"
    return f"reduction.{kind}({text}, {axis})"
