"""The memory plan: an offset in the arena for every slot, so that slots whose lifetimes meet never share a byte.

A slot lives from the first launch that touches it to the last one; outputs and values that are still to be copied into
the state live to the end. Slots written in place share one block with the slot whose memory they take over.

Blocks are placed greedily, largest first, each into the smallest gap that holds it among the blocks alive at the same
time (Pisarchyk and Lee 2020, "greedy by size"), in two orders of which the better one is kept. That costs about the
square of the number of blocks, so beyond the LARGE largest the rest, which hold few bytes, get a region of their own
above, filled in order of time.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import GraphError
from .plan import Argument, Operand, PointerTable, Schedule, Slot

ALIGNMENT = 512
LARGE = 4096

Ints = npt.NDArray[np.int64]


@dataclass(eq=False)
class Block:
    """Memory of a slot and of those that take it over: nbytes (a multiple of 512), alive in launches start .. end."""

    slots: list[Slot]
    nbytes: int
    start: int
    end: int
    offset: int = 0


def plan_memory(schedule: Schedule) -> None:
    """Set the offset of every arena slot, and `schedule.arena_bytes`."""
    blocks = _blocks(schedule)
    placed = [b for b in blocks if b.nbytes]
    placed.sort(key=lambda b: (-b.nbytes, b.start, b.end))
    large, small = placed[:LARGE], placed[LARGE:]
    top = _place_large(large)
    schedule.arena_bytes = _place_small(small, top)
    for block in blocks:
        for slot in block.slots:
            slot.offset = block.offset


def verify_plan(schedule: Schedule) -> None:
    """Raises GraphError if two blocks alive at once overlap, one lies outside the arena or is misaligned, an arena slot
    is read before anything is written to it, or a launch has a pointer to a slot that it does not declare."""
    _verify_use(schedule)
    blocks = [b for b in _blocks(schedule) if b.nbytes]
    for block in blocks:
        block.offset = block.slots[0].root.offset
        for slot in block.slots:
            if slot.offset != block.offset:
                raise GraphError(f"{_name(slot)} is at {slot.offset}, the slot it takes over at {block.offset}")
        if block.offset < 0 or block.offset % ALIGNMENT or block.offset + block.nbytes > schedule.arena_bytes:
            raise GraphError(f"{_describe(block)} does not fit an arena of {schedule.arena_bytes} bytes")
    alive: list[tuple[int, int]] = []
    owners: dict[int, Block] = {}
    ends = sorted(blocks, key=lambda b: b.end)
    gone = 0
    for block in sorted(blocks, key=lambda b: b.start):
        while ends[gone].end < block.start:
            old = ends[gone]
            del alive[bisect_left(alive, (old.offset, old.offset + old.nbytes))]
            gone += 1
        span = (block.offset, block.offset + block.nbytes)
        at = bisect_left(alive, span)
        for other in alive[max(at - 1, 0) : at + 1]:
            if other[0] < span[1] and span[0] < other[1]:
                raise GraphError(f"{_describe(block)} overlaps {_describe(owners[other[0]])}, alive at the same time")
        alive.insert(at, span)
        owners[block.offset] = block


def least_bytes(schedule: Schedule) -> int:
    """The most bytes alive at once: no plan can take less."""
    return _least([b for b in _blocks(schedule) if b.nbytes])


def at_peak(schedule: Schedule) -> list[Slot]:
    """The slots that hold memory at the moment when most bytes are alive, largest first."""
    blocks = [b for b in _blocks(schedule) if b.nbytes]
    worst = int(_alive(blocks).argmax()) if blocks else 0
    there = [max(b.slots, key=lambda s: s.nbytes) for b in blocks if b.start <= worst <= b.end]
    return sorted(there, key=lambda s: -s.nbytes)


def _least(blocks: Sequence[Block]) -> int:
    return int(_alive(blocks).max()) if blocks else 0


def _alive(blocks: Sequence[Block]) -> Ints:
    """Bytes alive at each launch."""
    change = np.zeros(max(b.end for b in blocks) + 2, np.int64)
    np.add.at(change, [b.start for b in blocks], [b.nbytes for b in blocks])
    np.subtract.at(change, [b.end + 1 for b in blocks], [b.nbytes for b in blocks])
    return np.cumsum(change)


# --- lifetimes ---


def _blocks(schedule: Schedule) -> list[Block]:
    """One block per arena slot that is not written in place, with its lifetime."""
    last = len(schedule.launches)
    table: dict[Slot, Block] = {}
    known: set[Slot] = set()

    def touch(slot: Slot, time: int) -> None:
        root = slot.root
        if root.kind != "arena":
            return
        block = table.get(root)
        if block is None:
            block = table[root] = Block([root], 0, time, time)
            known.add(root)
        if slot not in known:
            known.add(slot)
            block.slots.append(slot)
        block.nbytes = max(block.nbytes, -(-slot.nbytes // ALIGNMENT) * ALIGNMENT)
        block.end = max(block.end, time)

    for i, launch in enumerate(schedule.launches):
        for slot in (*launch.reads, *launch.writes):
            touch(slot, i)
    for slot in (*schedule.outputs, *(new for _, new in schedule.updates)):
        touch(slot, last)
    return list(table.values())


# --- placing ---


def _place_large(blocks: Sequence[Block]) -> int:
    """Offsets by the better of two greedy orders; returns the bytes taken."""
    least = _least(blocks)
    by_area = sorted(blocks, key=lambda b: (-b.nbytes * (b.end - b.start + 1), b.start))
    best: list[int] | None = None
    top = 0
    for order in (blocks, by_area):
        reached = _greedy(order)
        if best is None or reached < top:
            best, top = [b.offset for b in blocks], reached
        if top == least:
            break
    for block, offset in zip(blocks, best or [], strict=True):
        block.offset = offset
    return top


def _greedy(order: Sequence[Block]) -> int:
    """Each block in turn into the smallest gap that holds it among those placed before and alive with it."""
    starts, ends, bottoms, tops = (np.empty(len(order), np.int64) for _ in range(4))
    reached = 0
    for count, block in enumerate(order):
        meets = (starts[:count] <= block.end) & (ends[:count] >= block.start)
        block.offset = _best_gap(bottoms[:count][meets], tops[:count][meets], block.nbytes)
        at = int(np.searchsorted(bottoms[:count], block.offset))
        values = (block.start, block.end, block.offset, block.offset + block.nbytes)
        for column, value in zip((starts, ends, bottoms, tops), values, strict=True):
            column[at + 1 : count + 1] = column[at:count]
            column[at] = value
        reached = max(reached, block.offset + block.nbytes)
    return reached


def _best_gap(bottoms: Ints, tops: Ints, nbytes: int) -> int:
    """The start of the smallest gap of at least nbytes between spans in order of their bottoms, or above them all."""
    if not bottoms.size:
        return 0
    reach = np.maximum.accumulate(tops)
    begins = np.concatenate(([0], reach[:-1]))
    gaps = bottoms - begins
    fits = np.flatnonzero(gaps >= nbytes)
    if not fits.size:
        return int(reach[-1])
    return int(begins[fits[np.argmin(gaps[fits])]])


def _place_small(blocks: Sequence[Block], base: int) -> int:
    """Offsets above `base`, in order of time, each in the smallest free piece that holds it; returns the top."""
    free = _FreeList(base)
    ends = sorted(blocks, key=lambda b: b.end)
    gone = 0
    for block in sorted(blocks, key=lambda b: (b.start, -b.nbytes)):
        while ends[gone].end < block.start:
            free.give(ends[gone].offset, ends[gone].nbytes)
            gone += 1
        block.offset = free.take(block.nbytes)
    return free.top


class _FreeList:
    """Pieces of memory below `top` that nobody holds; neighbours are merged."""

    def __init__(self, top: int) -> None:
        self.top = top
        self._by_size: list[tuple[int, int]] = []  # (bytes, begin)
        self._ends: dict[int, int] = {}  # begin -> end
        self._begins: dict[int, int] = {}  # end -> begin

    def take(self, nbytes: int) -> int:
        at = bisect_left(self._by_size, (nbytes, -1))
        if at < len(self._by_size):
            size, begin = self._by_size[at]
            self._remove(begin, begin + size)
            if size > nbytes:
                self._add(begin + nbytes, begin + size)
            return begin
        begin = self._begins.get(self.top, self.top)
        if begin < self.top:
            self._remove(begin, self.top)
        self.top = begin + nbytes
        return begin

    def give(self, begin: int, nbytes: int) -> None:
        end = begin + nbytes
        if end in self._ends:
            after = self._ends[end]
            self._remove(end, after)
            end = after
        if begin in self._begins:
            before = self._begins[begin]
            self._remove(before, begin)
            begin = before
        self._add(begin, end)

    def _add(self, begin: int, end: int) -> None:
        self._ends[begin] = end
        self._begins[end] = begin
        insort(self._by_size, (end - begin, begin))

    def _remove(self, begin: int, end: int) -> None:
        del self._ends[begin], self._begins[end]
        del self._by_size[bisect_left(self._by_size, (end - begin, begin))]


# --- checks ---


def _verify_use(schedule: Schedule) -> None:
    written: set[Slot] = set()
    for launch in schedule.launches:
        for slot in launch.reads:
            if slot.root.kind == "arena" and slot.nbytes and slot.root not in written:
                raise GraphError(
                    f"{launch.kernel.name} reads {_name(slot)}, which nothing has written", loc=launch.node.loc
                )
        written.update(slot.root for slot in launch.writes)
        declared = {*launch.reads, *launch.writes}
        for argument in launch.args:
            for operand in _operands(argument):
                if operand.slot not in declared:
                    raise GraphError(
                        f"{launch.kernel.name} has a pointer to {_name(operand.slot)}, which it does not declare",
                        loc=launch.node.loc,
                    )


def _operands(argument: Argument) -> Iterator[Operand]:
    if isinstance(argument, Operand):
        yield argument
    elif isinstance(argument, tuple):
        for a in argument:
            yield from _operands(a)
    elif isinstance(argument, PointerTable):
        for row in argument.rows:
            yield from row


def _name(slot: Slot) -> str:
    return f"{slot.value!r}" if slot.value is not None else f"a workspace of {slot.nbytes} bytes"


def _describe(block: Block) -> str:
    span = f"bytes {block.offset} to {block.offset + block.nbytes}"
    return f"{_name(block.slots[0])} ({span}, launches {block.start} to {block.end})"
