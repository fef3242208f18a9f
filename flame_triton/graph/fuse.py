"""Fusion: which values are written to memory, and which nodes share one kernel.

Three questions, answered in one walk each.

1. *What must be in memory?* Inputs, results of kernels, operands of kernels, outputs. A pointwise value is recomputed
   by its readers rather than stored when the values it is computed from take no more bytes than it does itself: a
   normalised row from x, mean and rstd; a dropout mask from nothing; an activation's derivative from its argument. So
   the forward pass saves what is small, and backward recomputes what is cheap. What overlapping windows would compute
   again for each of them is stored, unless it is next to nothing.
2. *Which of the computed values ("anchors") share a kernel?* Anchors join the kernel of a value they read, or one that
   reads the same value, if the iteration spaces agree: element by element, along the same rows, or along the same
   columns; and a pointwise anchor joins the matmul whose result it reads, as its epilogue.
3. *Is the result acyclic?* Every kernel has a level, above the levels of all it reads from; an anchor joins only where
   everything else it reads lies on a lower level, or where nothing reads the kernel yet and its level can rise. So no
   cycle can form, and no search for one is needed.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..ir.graph import Graph
from ..ir.index_map import IndexMap
from ..ir.node import Node, Value
from ..ir.op import OPS, Fused, Generator, Kernel, Leaf, Op, Pointwise, Reduce, View, register
from ..types import TensorType, bool_
from .access import fits, map_onto, parts_of, view_map, views_below
from .epilogue import joins_halves, same_elements, same_rows, sums_rows, too_much_to_sum
from .plan import Target
from .region import build_region

MAX_POINTERS = 40  # operands and results of one kernel
MAX_COST = 600  # instructions per element of one kernel, by the ops' own count
INLINE_COST = 200  # instructions per element that are recomputed rather than loaded
INLINE_BYTES = 1.25  # bytes read to recompute a value, over the bytes of the value
REPEAT_COST = 64  # instructions per element that a view which reads elements again and again may repeat
INLINE_SMALL = 1 << 16  # bytes that may be read besides: they stay in cache, and a launch costs more


def _fused_type(*_: TensorType, region: Graph, roles: tuple[str, ...]) -> tuple[TensorType, ...]:
    return tuple(v.type for v in region.outputs)


def _kernel_type(
    *_: TensorType, kernel: Op, attrs: dict[str, object], region: Graph, roles: tuple[str, ...]
) -> tuple[TensorType, ...]:
    return tuple(v.type for v in region.outputs)


def _no_ref(*_: object, **__: object) -> object:
    raise AssertionError("fused nodes are evaluated by graph/evaluate.py")


# roles: for each output "full" (an element for each of the iteration space, in order), "row", "column", "permuted" (a
# reordering view of a "full" value, stored in its own order), "parts" (see parts_of: several values side by side, each
# an element for each of the iteration space) or "halves" (twice as wide: elements n and n + N)
register(Op("fused", _fused_type, Fused("region"), _no_ref, stores=True))
# kernel: the Op with the epilogue; attrs: that node's own attributes; the operands of the kernel come first
register(Op("fused_kernel", _kernel_type, Fused("kernel"), _no_ref, stores=True))


@dataclass(eq=False)
class Cluster:
    """One kernel in the making.

    kind: "region", "epilogue" (a kernel that takes one) or "kernel"; level: above everything it reads; size: elements
    of the iteration space;
    rows: (M, N) once a row reduction has joined; groups: (G, R, N) once a column reduction has.
    members: anchor -> its role (see below); reads: what is loaded; cost: instructions per element.
    """

    kind: str
    level: int
    size: int
    node: Node | None = None
    rows: tuple[int, int] | None = None
    groups: tuple[int, int, int] | None = None
    members: dict[Value, str] = field(default_factory=dict[Value, str])
    reads: set[Value] = field(default_factory=set[Value])
    cost: int = 0
    last: int = 0


@dataclass(frozen=True, eq=False)
class Anchor:
    """A value that a kernel computes. reads: (value in memory, map from this anchor's space to its elements)."""

    value: Value
    size: int
    reads: tuple[tuple[Value, IndexMap], ...]
    cost: int
    reduce: str | None = None  # "row" or "column"


def fuse(graph: Graph, target: Target) -> Graph:
    """The graph of fused nodes, kernel nodes and the views between them.

    Before: canonical primitives (see legalise). After: every node is a Leaf, a View of something in memory, a Kernel,
    "fused_kernel" or "fused". The order of nodes is a valid schedule, close to the order they were written in.
    """
    return _Fuser(graph, target).run()


def _cost(node: Node) -> int:
    """Instructions per element, by the op's own count; views and reductions cost nothing of their own."""
    lowering = node.op.lowering
    return lowering.cost if isinstance(lowering, Pointwise | Generator) else 0


def _repeats(node: Node) -> float:
    """How many times over a view reads the elements of its operand, as overlapping windows do. Broadcast axes do not
    count: along them a kernel computes once."""
    view = view_map(node).views[-1]
    walked = [hi - lo for a, s in enumerate(view.strides) if s for lo, hi in (view.bound(a),)]
    return math.prod(walked) / max(node.inputs[0].size, 1)


def _is_pointwise(value: Value) -> bool:
    return isinstance(value.node.op.lowering, Pointwise | Generator)


class _Fuser:
    def __init__(self, graph: Graph, target: Target) -> None:
        self.graph = graph
        self.target = target
        self.operands: dict[tuple[Value, str], Value] = {}
        self.stored: set[Value] = set()  # decided to be anchors or in memory already
        self.sources: dict[Value, tuple[dict[Value, int], int]] = {}
        self.cluster_of: dict[Value, Cluster] = {}
        self.readers: dict[Value, list[Cluster]] = {}
        self.clusters: list[Cluster] = []
        self.forced: set[Value] = set()
        self.users: dict[Value, list[Anchor]] = {}

    def run(self) -> Graph:
        self._force()
        self._choose_stored()
        anchors: dict[Node, Anchor] = {}
        for node in self.graph.nodes:
            if node.outputs[0] in self.stored and not isinstance(node.op.lowering, Leaf | Kernel):
                anchor = anchors[node] = self._anchor(node.out)
                for v in {v for v, _ in anchor.reads}:
                    self.users.setdefault(v, []).append(anchor)
        for node in self.graph.nodes:
            if isinstance(node.op.lowering, Kernel):
                self._kernel(node)
            elif node in anchors:
                self._place(anchors[node])
        self._merge()
        return self._emit()

    # ---- 1. what is in memory ----------------------------------------------------------------------------------

    def _operand(self, value: Value, layout: str = "dense") -> Value:
        """The value a kernel reads for `value`: the lowest one in its chain of views from which it can be read in
        place, preferring one that is in memory already. Where only `value` itself will do, that is a copy."""
        found = self.operands.get((value, layout))
        if found is not None:
            return found
        chain = views_below(value)
        usable = [v for v in reversed(chain) if v is value or fits(map_onto(value, v), layout)]
        present = [v for v in usable if v in self.stored]
        found = self.operands[value, layout] = (present or usable)[0]
        return found

    def _kernel_operands(self, node: Node) -> list[Value]:
        """What a kernel node reads for each of its inputs."""
        lowering = node.op.lowering
        assert isinstance(lowering, Kernel)
        return [self._operand(v, lowering.layout(i)) for i, v in enumerate(node.inputs)]

    def _force(self) -> None:
        for node in self.graph.nodes:
            if isinstance(node.op.lowering, Kernel):
                self.stored.update(self._kernel_operands(node))
                self.stored.update(node.outputs)
            elif isinstance(node.op.lowering, Leaf | Reduce):
                self.stored.update(node.outputs)
        self.stored.update(self._operand(v) for v in self.graph.outputs)
        self.forced = set(self.stored)

    def _choose_stored(self) -> None:
        for node in self.graph.nodes:
            lowering = node.op.lowering
            for value in node.outputs:
                if value in self.stored or not isinstance(lowering, Pointwise | Generator | View):
                    self.sources[value] = ({value: value.size}, 0)
                    continue
                sources, cost = self._sources(node.inputs)
                if isinstance(lowering, View):
                    repeats = _repeats(node)
                    if cost and cost * (repeats - 1) > REPEAT_COST:
                        base = views_below(value)[-1]
                        self.stored.add(base)
                        sources, cost = {base: base.size}, 0
                    if repeats < 1:  # a slice reads its part alone
                        sources = {v: math.ceil(n * repeats) for v, n in sources.items()}
                else:
                    cost += lowering.cost
                    read = sum(min(n, value.size) * v.dtype.itemsize for v, n in sources.items())
                    # To write a flag and read it back costs as much as to read two bytes where it is needed.
                    most = 2 if value.dtype is bool_ else INLINE_BYTES
                    if read > most * value.type.nbytes + INLINE_SMALL or cost > INLINE_COST:
                        self.stored.add(value)
                        sources, cost = {value: value.size}, 0
                self.sources[value] = (sources, cost)

    def _sources(self, values: Iterable[Value]) -> tuple[dict[Value, int], int]:
        """What the values are computed from, with the elements that are read of each, and the instructions it takes."""
        sources: dict[Value, int] = {}
        cost = 0
        for v in dict.fromkeys(values):
            for u, n in self.sources[v][0].items():
                sources[u] = min(sources.get(u, 0) + n, u.size)
            cost += self.sources[v][1]
        return sources, cost

    # ---- 2. which anchors share a kernel -----------------------------------------------------------------------

    def _anchor(self, value: Value) -> Anchor:
        node = value.node
        lowering = node.op.lowering
        if isinstance(lowering, View):
            starts = [(node.inputs[0], view_map(node))]
        else:
            starts = [(v, IndexMap.dense(v.shape)) for v in node.inputs]
        reads: list[tuple[Value, IndexMap]] = []
        seen: set[tuple[Value, IndexMap]] = set()
        cost = _cost(node)
        while starts:
            v, index = starts.pop()
            if (v, index) in seen:
                continue
            seen.add((v, index))
            if v in self.stored:
                reads.append((v, index))
            elif isinstance(v.node.op.lowering, View):
                starts.append((v.node.inputs[0], view_map(v.node).then(index)))
            else:
                cost += _cost(v.node)
                starts.extend((u, index) for u in v.node.inputs)
        reduce: str | None = None
        size = value.size
        if isinstance(lowering, Reduce):
            size = node.inputs[0].size
            reduce = "row" if node.inputs[0].ndim == 2 else "column"
        return Anchor(value, size, tuple(reads), cost, reduce)

    def _level(self, value: Value) -> int:
        cluster = self.cluster_of.get(value)
        return cluster.level if cluster else 0

    def _kernel(self, node: Node) -> None:
        assert isinstance(node.op.lowering, Kernel)
        operands = self._kernel_operands(node)
        kind = "epilogue" if node.op.lowering.epilogue else "kernel"
        level = 1 + max((self._level(v) for v in operands), default=0)
        cluster = Cluster(kind, level, node.type.size, node, last=node.id)
        for v in operands:
            self._read(cluster, v)
        self.clusters.append(cluster)
        for value in node.outputs:
            self.cluster_of[value] = cluster
            cluster.members[value] = "full"

    def _place(self, anchor: Anchor) -> None:
        """Put the anchor into the best cluster that takes it, or a new one."""
        found = self._home(anchor)
        if found is None:
            level = 1 + max((self._level(v) for v, _ in anchor.reads), default=0)
            found = Cluster("region", level, anchor.size), "full"
            self.clusters.append(found[0])
        self._join(found[0], anchor, found[1])

    def _home(self, anchor: Anchor) -> tuple[Cluster, str] | None:
        """A cluster that takes the anchor, and its role there: one that it reads from, else one that reads the same."""
        top = max((self._level(v) for v, _ in anchor.reads), default=0)
        found = {id(c): c for v, _ in anchor.reads if (c := self.cluster_of.get(v)) is not None}
        vertical = sorted(
            (c for c in found.values() if c.level == top or self._may_rise(c)),
            # the last product first: a sum of products then runs on from one to the next, and holds one at a time
            key=lambda c: (c.kind != "epilogue", -c.node.id if c.node else 0, -c.level),
        )
        for cluster in vertical:
            role = self._role(cluster, anchor) or self._permuted_role(cluster, anchor)
            role = role or self._parts_role(cluster, anchor)
            if role:
                return cluster, role
        for v, _ in anchor.reads:
            if v.size < anchor.size:
                continue
            for cluster in self.readers.get(v, [])[-4:]:
                # Rows and columns of a slice of something larger, as of a packed projection, are worth one reading too.
                alike = v.size == anchor.size or anchor.reduce or cluster.rows or cluster.groups
                if cluster.kind == "region" and cluster.level > top and cluster.size == anchor.size and alike:
                    role = self._role(cluster, anchor)
                    if role:
                        return cluster, role
        return self._beside(anchor, top)

    def _beside(self, anchor: Anchor, top: int) -> tuple[Cluster, str] | None:
        """A cluster that a reduction shares no element with, but the iteration space: of rows of the same operand (the
        queries and keys of a packed projection), or of columns of another result of the same kernel (the partial sums
        for a norm's weight and bias)."""
        if not anchor.reduce:
            return None
        kin = [v for v, _ in anchor.reads]
        if anchor.reduce == "column":
            kin = [m for v in kin if (c := self.cluster_of.get(v)) for m, role in c.members.items() if role == "column"]
        for v in kin:
            for cluster in self.readers.get(v, [])[-4:]:
                alike = cluster.rows if anchor.reduce == "row" else cluster.groups
                if cluster.kind == "region" and cluster.level > top and alike == anchor.value.node.inputs[0].shape:
                    role = self._role(cluster, anchor)
                    if role:
                        return cluster, role
        return None

    def _role(self, cluster: Cluster, anchor: Anchor) -> str | None:
        """The role the anchor would play in the cluster ("full", "row", "column"), or None if it does not fit."""
        if cluster.kind == "kernel" or cluster.cost + anchor.cost > MAX_COST:
            return None
        if len(cluster.reads | {v for v, _ in anchor.reads}) + len(cluster.members) >= MAX_POINTERS:
            return None
        inside = [(v, index) for v, index in anchor.reads if v in cluster.members]
        late = any(self._level(v) >= cluster.level for v, _ in anchor.reads if v not in cluster.members)
        if late and not self._may_rise(cluster):
            return None
        if cluster.kind == "epilogue" and anchor.reduce == "column":
            return "column" if self._sums_epilogue(cluster, anchor) else None
        if cluster.kind == "epilogue":
            whole = anchor.reduce is None and anchor.size == cluster.size and _is_pointwise(anchor.value)
            whole = whole and not self._belongs_to_rows(anchor)
            straight = all(cluster.members[v] == "full" and same_elements(index, cluster.size) for v, index in inside)
            if whole and straight:
                return "full"
            roles = [(cluster.members[v], index) for v, index in inside]
            fits_halves = anchor.reduce is None and _is_pointwise(anchor.value) and not self._belongs_to_rows(anchor)
            assert cluster.node is not None
            return "halves" if fits_halves and joins_halves(cluster.node, anchor.value, roles) else None
        if anchor.size == cluster.size:
            return "full" if self._fits_whole(cluster, anchor, inside) else None
        if anchor.reduce or not inside:
            return None
        roles = {cluster.members[v] for v, _ in inside}
        if len(roles) != 1 or not all(same_elements(index, anchor.size) for _, index in inside):
            return None
        role = roles.pop()
        return role if role in ("row", "column") else None

    def _sums_epilogue(self, cluster: Cluster, anchor: Anchor) -> bool:
        """True if the anchor sums rows of a result of the epilogue, and nothing else reads that result but kernels and
        such sums: else the kernel that reads it sums it on the way."""
        assert cluster.node is not None
        if len(anchor.reads) != 1:
            return False
        value, index = anchor.reads[0]
        users = self.users.get(value, [])
        alone = all(u.value in cluster.members or (u.reduce == "column" and len(u.reads) == 1) for u in users)
        role = cluster.members.get(value)
        if role == "full" and too_much_to_sum(cluster.node, cluster.reads, self.target):
            return False
        return alone and sums_rows(cluster.node, role, anchor.value.node, index)

    def _permuted_role(self, cluster: Cluster, anchor: Anchor) -> str | None:
        """ "permuted" if the anchor reorders a value that the cluster computes, or could compute on the way."""
        chain = views_below(anchor.value)
        base = next((v for v in chain[1:] if v in self.stored), chain[-1])
        if base is anchor.value or base.size != cluster.size or map_onto(anchor.value, base).inverse() is None:
            return None
        if cluster.kind == "kernel":
            return None
        if base in cluster.members:
            return "permuted" if cluster.members[base] == "full" else None
        if base in self.stored:
            return None
        return "permuted" if self._role(cluster, self._anchor(base)) == "full" else None

    def _parts_role(self, cluster: Cluster, anchor: Anchor) -> str | None:
        """ "parts" if the cluster computes one part of the anchor, and has or can read the others on its way."""
        if cluster.rows is None or not _is_pointwise(anchor.value):
            return None
        if any(self._level(v) >= cluster.level for v, _ in anchor.reads if v not in cluster.members):
            return None
        parts = parts_of(anchor.value)
        for part, _ in parts or ():
            unknown = part not in cluster.members and views_below(part)[-1] not in self.stored
            if unknown or part.size != cluster.size or cluster.members.get(part, "full") != "full":
                return None
        return "parts" if parts else None

    def _belongs_to_rows(self, anchor: Anchor) -> bool:
        """True if only reductions over the anchor's own space, and what builds on them, read it: then the kernel of
        the reduction should compute it, rather than an epilogue write it for that kernel to read back."""
        users = self.users.get(anchor.value, [])
        if anchor.value in self.forced or not any(u.reduce and u.size == anchor.size for u in users):
            return False
        return all(u.reduce or any(isinstance(v.node.op.lowering, Reduce) for v, _ in u.reads) for u in users)

    def _fits_whole(self, cluster: Cluster, anchor: Anchor, inside: list[tuple[Value, IndexMap]]) -> bool:
        rows, groups = cluster.rows, cluster.groups
        if anchor.reduce:
            shape = anchor.value.node.inputs[0].shape
            if anchor.reduce == "row":
                rows = (shape[0], shape[1])
                if cluster.rows not in (None, rows) or (groups and groups[2] != rows[1]):
                    return False
            else:
                groups = (shape[0], shape[1], shape[2])
                if cluster.groups not in (None, groups) or (rows and rows[1] != groups[2]):
                    return False
        for v, index in inside:
            role = cluster.members[v]
            if role in ("permuted", "parts"):
                return False
            if role == "full" and not same_elements(index, cluster.size):
                return False
            if role == "row" and (rows is None or not same_rows(index, *rows)):
                return False
            if role == "column":
                return False
        return True

    def _join(self, cluster: Cluster, anchor: Anchor, role: str) -> None:
        if anchor.reduce:
            shape = anchor.value.node.inputs[0].shape
            if anchor.reduce == "row":
                cluster.rows = (shape[0], shape[1])
            else:
                cluster.groups = (shape[0], shape[1], shape[2])
            role = anchor.reduce
        cluster.members[anchor.value] = role
        cluster.cost += anchor.cost
        cluster.last = anchor.value.node.id
        self.cluster_of[anchor.value] = cluster
        outside = [v for v, _ in anchor.reads if v not in cluster.members]
        cluster.level = max(cluster.level, 1 + max((self._level(v) for v in outside), default=0))
        for v in outside:
            self._read(cluster, v)

    def _merge(self) -> None:
        """Make one kernel of those that walk equal rows of different values beside one table, as the queries and keys
        of two projections do with rotary angles, and of the sums of what one kernel has begun to sum. Kernels of one
        level never wait for one another."""
        found: dict[tuple[object, ...], list[Cluster]] = {}
        for cluster in [c for c in self.clusters if c.kind == "region" and (c.rows or c.groups)]:
            alike = found.setdefault((cluster.level, cluster.rows, cluster.groups), [])
            makers = {self.cluster_of.get(v) for v in cluster.reads}
            for other in alike:
                pointers = len(cluster.reads | other.reads) + len(cluster.members) + len(other.members)
                shared = any(v.type.nbytes > INLINE_SMALL for v in cluster.reads & other.reads) and cluster.rows
                begun = cluster.rows is None and makers == {self.cluster_of.get(v) for v in other.reads} != {None}
                if (shared or begun) and cluster.cost + other.cost <= MAX_COST and pointers < MAX_POINTERS:
                    other.members |= cluster.members
                    other.reads |= cluster.reads
                    other.cost += cluster.cost
                    other.last = max(other.last, cluster.last)
                    self.cluster_of |= dict.fromkeys(cluster.members, other)
                    self.clusters.remove(cluster)
                    break
            else:
                alike.append(cluster)

    def _read(self, cluster: Cluster, value: Value) -> None:
        if value not in cluster.reads:
            cluster.reads.add(value)
            self.readers.setdefault(value, []).append(cluster)

    def _may_rise(self, cluster: Cluster) -> bool:
        """True if nothing reads the cluster yet, so that its level may still be raised."""
        return not any(self.readers.get(v) for v in cluster.members)

    # ---- 3. the fused graph ------------------------------------------------------------------------------------

    def _emit(self) -> Graph:
        needed = {self._operand(v) for v in self.graph.outputs}
        for cluster in self.clusters:
            needed.update(v for v in cluster.reads if self.cluster_of.get(v) is not cluster)
        table: dict[Value, Value] = {}
        for node in self.graph.nodes:
            if isinstance(node.op.lowering, Leaf):
                table[node.outputs[0]] = node.outputs[0]
        for cluster in self._ordered():
            self._emit_cluster(cluster, needed, table)
        outputs = tuple(self._resolve(v, table, self._operand(v)) for v in self.graph.outputs)
        return Graph(self.graph.inputs, outputs)

    def _ordered(self) -> list[Cluster]:
        """Clusters in an order that puts producers first and otherwise follows the order of their last members."""
        waiting: dict[int, set[int]] = {}
        users: dict[int, list[Cluster]] = {}
        for cluster in self.clusters:
            makers = {id(m) for v in cluster.reads if (m := self.cluster_of.get(v)) and m is not cluster}
            waiting[id(cluster)] = makers
            for m in makers:
                users.setdefault(m, []).append(cluster)
        ready = [(c.last, i, c) for i, c in enumerate(self.clusters) if not waiting[id(c)]]
        numbers = {id(c): i for i, c in enumerate(self.clusters)}
        heapq.heapify(ready)
        order: list[Cluster] = []
        while ready:
            _, _, cluster = heapq.heappop(ready)
            order.append(cluster)
            for user in users.get(id(cluster), ()):
                waiting[id(user)].discard(id(cluster))
                if not waiting[id(user)]:
                    heapq.heappush(ready, (user.last, numbers[id(user)], user))
        assert len(order) == len(self.clusters), "the fused graph has a cycle"
        return order

    def _resolve(self, value: Value, table: dict[Value, Value], base: Value) -> Value:
        """`value` in the new graph: the views between it and `base`, which is in memory, built again."""
        chain: list[Node] = []
        while value is not base:
            chain.append(value.node)
            value = value.node.inputs[0]
        result = table[base]
        for node in reversed(chain):
            result = Node(node.op, (result,), node.attrs, node.types, node.loc, node.origin).out
        return result

    def _emit_cluster(self, cluster: Cluster, needed: set[Value], table: dict[Value, Value]) -> None:
        if cluster.node is not None and len(cluster.members) == len(cluster.node.outputs):
            node = cluster.node
            inputs = self._operands(node, table)
            new = Node(node.op, inputs, node.attrs, node.types, node.loc, node.origin)
            table.update(zip(node.outputs, new.outputs, strict=True))
            return
        outputs = [v for v in cluster.members if v in needed]
        results = cluster.node.outputs if cluster.node else ()
        region, reads = build_region(outputs, results, cluster.members, self.stored)
        inputs = [table[v] for v in reads]
        maker = outputs[-1].node
        types = tuple(v.type for v in region.outputs)
        attrs: dict[str, object] = {"region": region, "roles": tuple(cluster.members[v] for v in outputs)}
        if cluster.node is not None:
            inputs = self._operands(cluster.node, table) + inputs
            attrs |= {"kernel": cluster.node.op, "attrs": dict(cluster.node.attrs)}
        new = Node(OPS["fused_kernel" if cluster.node else "fused"], inputs, attrs, types, maker.loc, maker.origin)
        table.update(zip(outputs, new.outputs, strict=True))

    def _operands(self, node: Node, table: dict[Value, Value]) -> list[Value]:
        pairs = zip(node.inputs, self._kernel_operands(node), strict=True)
        return [self._resolve(v, table, base) for v, base in pairs]
