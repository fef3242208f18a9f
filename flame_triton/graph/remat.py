"""Recomputation: values that lie idle through the worst moment are dropped and computed again before they are read.

Works on the fused graph, so a value that is computed again comes from the same kernel on the same operands: no number
changes by a bit. Random draws carry their stream, so they repeat. Nothing here knows forward from backward: a value is
a candidate if a long gap lies between two of its uses, which is what saved activations look like.

State of the search: the dropped values, each with the last launch that still reads the first copy. From them follow,
last node first, the moments at which nodes are run again (just before the first reader behind the gap, be it a launch
of the step or another node that is run again) and the lifetimes of all values; their sum over time is `live`.

Greedy: while the worst moment takes too much, the candidate is dropped there whose bytes x length of the gap are most
for the time it costs. Operands that are gone by then are kept longer if they are small, else computed again as well. A
step is taken only if it lowers the worst moment and raises no other above it, so the inputs of blocks, of which
nothing is left to compute them from at once, stay, and the segments between them are recomputed one at a time.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..ir.graph import Graph
from ..ir.node import Node, Value
from ..ir.op import Fused, Kernel
from . import cost
from .schedule import base, launches, leaves, rebuilt, seen

SMALL = 8  # an operand is kept longer, not computed again, if it is this many times smaller than what it helps to drop
LEAST = 1 << 12  # candidates below this part of the worst moment are left alone
ALIGNMENT = 512


@dataclass(frozen=True)
class Candidate:
    """Values of one node that are idle between launches start and end, exclusively."""

    values: tuple[Value, ...]
    start: int
    end: int
    nbytes: int


class Recomputation:
    """The search on one fused graph. free: values that take no memory of the arena (written into the state).

    first: changes of the bytes in use, from launch to launch, without recomputation. live: bytes in use at each launch
    with it, workspaces not counted. `reduce` lowers its maximum, `graph` gives the result.
    """

    def __init__(self, graph: Graph, free: Collection[Value] = ()) -> None:
        self.source = graph
        self.nodes = launches(graph)
        self.step = {n: i for i, n in enumerate(self.nodes)}
        self.reads: dict[Node, list[Value]] = {}
        self.uses: dict[Value, list[int]] = {v: [] for n in self.nodes for v in n.outputs}
        self.kept = {base(v) for v in graph.outputs}
        self.bytes = {v: 0 if v in free else -(-v.type.nbytes // ALIGNMENT) * ALIGNMENT for v in self.uses}
        for node, i in self.step.items():
            self.reads[node] = [v for v in dict.fromkeys(map(base, node.inputs)) if v in self.uses]
            for v in self.reads[node]:
                self.uses[v].append(i)
        self.ends = {
            v: len(self.nodes) if v in self.kept else max([self.step[v.node], *uses]) for v, uses in self.uses.items()
        }
        self.dropped: dict[Value, int] = {}
        self.first = np.zeros(len(self.nodes) + 2, np.int64)
        for v in self.uses:
            self.first[self.step[v.node]] += self.bytes[v]
            self.first[self.ends[v] + 1] -= self.bytes[v]
        self.live = np.cumsum(self.first)[:-1]

    @property
    def peak(self) -> int:
        """The most bytes in use at once."""
        return int(self.live.max(initial=0))

    @property
    def again(self) -> list[Node]:
        """The nodes that are run twice."""
        return list(_Times(self, self.dropped).again)

    @property
    def flops(self) -> int:
        """Operations added by running nodes again."""
        return sum(cost.flops(n) for n in self.again)

    @property
    def seconds(self) -> float:
        """Time added, by the cost model."""
        return sum(cost.seconds(n) for n in self.again)

    def reduce(self, limit: int) -> bool:
        """Drop values until `peak` is at most `limit`; False if no step helps any more."""
        while self.peak > limit:
            ranked = sorted(((self._score(c), i, c) for i, c in enumerate(self._candidates())), key=_rank)
            moved = False
            for _, _, candidate in ranked:
                if self.peak <= limit:
                    break
                moved |= self._try(candidate)
            if not moved:
                return False
        return True

    def graph(self) -> Graph:
        """The fused graph with the dropped values computed again, in the order of its launches."""
        times = _Times(self, self.dropped)
        due: dict[int, list[Node]] = {}
        for node in sorted(times.again, key=self.step.__getitem__):
            due.setdefault(times.again[node], []).append(node)
        now = leaves(self.source)
        for i, node in enumerate(self.nodes):
            for earlier in due.get(i, ()):
                copy = rebuilt(earlier, now)
                now.update((v, c) for v, c in zip(earlier.outputs, copy.outputs, strict=True) if v in self.dropped)
            now.update(zip(node.outputs, rebuilt(node, now).outputs, strict=True))
        return Graph(self.source.inputs, tuple(seen(v, now) for v in self.source.outputs))

    # --- candidates ---

    def _candidates(self) -> list[Candidate]:
        """What could be dropped at the worst moment: single values, and all such values of a node together."""
        worst = int(self.live.argmax())
        least = self.peak // LEAST
        found: list[Candidate] = []
        for node in self.nodes[:worst]:
            if not _repeatable(node):
                continue
            gaps: list[Candidate] = []
            for v in node.outputs:
                if v in self.dropped or v in self.kept or self.bytes[v] < least:
                    continue
                touched = [self.step[node], *self.uses[v]]
                start = max((t for t in touched if t < worst), default=worst)
                end = min((t for t in touched if t >= worst), default=start)
                if start < worst < end:
                    gaps.append(Candidate((v,), start, end, self.bytes[v]))
            found += gaps
            if len(gaps) > 1:
                values = tuple(v for c in gaps for v in c.values)
                start, end = max(c.start for c in gaps), min(c.end for c in gaps)
                found.append(Candidate(values, start, end, sum(c.nbytes for c in gaps)))
        return found

    def _score(self, candidate: Candidate) -> float:
        nodes = {v.node for v in self._closure(candidate)} - {v.node for v in self.dropped}
        return candidate.nbytes * (candidate.end - candidate.start) / (sum(map(cost.seconds, nodes)) + 1e-6)

    def _closure(self, candidate: Candidate) -> dict[Value, int]:
        """The candidate's values and what must be computed again for them -> the last launch that reads the first."""
        found = {v: max(t for t in (self.step[v.node], *self.uses[v]) if t < candidate.end) for v in candidate.values}
        nodes = [candidate.values[0].node]
        seen = set(nodes)
        while nodes:
            for v in self.reads[nodes.pop()]:
                gone = v not in self.dropped and self.ends[v] < candidate.end
                if gone and self.bytes[v] * SMALL > candidate.nbytes and _repeatable(v.node):
                    found.setdefault(v, self.ends[v])
                    if v.node not in seen:
                        seen.add(v.node)
                        nodes.append(v.node)
        return found

    def _try(self, candidate: Candidate) -> bool:
        """Drop it if the worst moment gets better by it and none gets worse than that."""
        worst = int(self.live.argmax())
        if not candidate.start < worst < candidate.end or any(v in self.dropped for v in candidate.values):
            return False
        dropped = {**self._closure(candidate), **self.dropped}
        live = _Times(self, dropped).live()
        if live.max() > self.live[worst] or live[worst] >= self.live[worst]:
            return False
        self.dropped, self.live = dropped, live
        return True


class _Times:
    """When nodes run again, and from it all lifetimes. again: node -> the launch before which it does."""

    def __init__(self, search: Recomputation, dropped: dict[Value, int]) -> None:
        self.search, self.dropped = search, dropped
        self.again: dict[Node, int] = {}
        self.readers: dict[Value, list[int]] = {}  # value -> times at which nodes that run again read it
        for node in sorted({v.node for v in dropped}, key=search.step.__getitem__, reverse=True):
            mine = [v for v in node.outputs if v in dropped]
            later = [t for v in mine for t in (*search.uses[v], *self.readers.get(v, ())) if t > dropped[v]]
            if not later:
                continue  # what reads it again has moved to where the first copy still is
            self.again[node] = min(later)
            for v in search.reads[node]:
                self.readers.setdefault(v, []).append(self.again[node])

    def live(self) -> npt.NDArray[np.int64]:
        """Bytes in use at each launch."""
        search, change = self.search, self.search.first.copy()
        for v in {*self.readers, *(v for n in self.again for v in n.outputs)}:
            made, size = search.step[v.node], search.bytes[v]
            times = [made, *search.uses[v], *self.readers.get(v, ())]
            start = self.again.get(v.node)
            split = len(search.nodes) + 1 if start is None or v not in self.dropped else start
            end = search.ends[v] if v in search.kept else max(t for t in times if t < split)
            change[search.ends[v] + 1] += size
            change[end + 1] -= size
            if start is not None:
                change[start] += size
                change[max([start, *(t for t in times if t >= split)]) + 1] -= size
        return np.cumsum(change)[:-1]


def _rank(scored: tuple[float, int, Candidate]) -> tuple[float, int]:
    return -scored[0], scored[1]


def _repeatable(node: Node) -> bool:
    """Not for maps over many tensors, or sums of many: all of them would be made again for one."""
    kernel = node.attrs["kernel"].lowering if "kernel" in node.attrs else node.op.lowering
    many = isinstance(kernel, Kernel) and kernel.family.startswith("foreach")
    return not many and not node.op.unique and isinstance(kernel, Kernel | Fused)
