"""Does a program fit? Budgets for the memory plan, and what to say when there is too little."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import ArgumentError, OutOfMemoryError
from ..graph.memory import at_peak
from ..graph.plan import Schedule
from ..ir.node import Value
from ..types import TensorType, float32, float64
from .bound import Layout

LARGEST = 5  # values named when a program does not fit

Limit = Callable[[Schedule], int]
"""From the schedule without recomputation to the bytes that its arena may take."""


def limit_of(budget: int | float, outputs: Sequence[Value], state: int) -> Limit:
    """The limit that `memory_budget` sets. budget: an int bounds all bytes of a step, `state` bytes of the State
    included; a float in (0, 1] is a part of what intermediate values take without recomputation."""
    if isinstance(budget, bool) or not isinstance(budget, (int, float)):
        raise ArgumentError(f"memory_budget must be bytes or a fraction, got {budget!r}", op="compile")
    if isinstance(budget, float):
        if not 0 < budget <= 1:
            raise ArgumentError(f"a fraction for memory_budget lies in (0, 1], got {budget}", op="compile")
        return lambda schedule: int(schedule.arena_bytes * budget)
    if budget <= 0:
        raise ArgumentError(f"memory_budget must be positive, got {budget}", op="compile")

    def limit(schedule: Schedule) -> int:
        return budget - sum(nbytes for what, nbytes in Layout(schedule, outputs).memory(state) if what != "arena")

    return limit


def over_budget(schedule: Schedule, limit: int, least: int) -> OutOfMemoryError:
    """The error for a budget that recomputation cannot meet. least: the arena's bytes when nothing helps any more."""
    return OutOfMemoryError(
        f"memory_budget leaves {limit:,} B for the values of a step; with all recomputation that helps they take "
        f"{least:,} B. The largest at the worst moment are\n{largest(schedule)}\n{advice(schedule, recomputed=True)}",
        op="compile",
    )


def too_large(schedule: Schedule, parts: Sequence[tuple[str, int]], wanted: int, available: int, device: str) -> str:
    """What to say about a program that does not fit. parts: of its peak; wanted: bytes still to be allocated."""
    planned = ", ".join(f"{what} {nbytes:,}" for what, nbytes in parts)
    peak = sum(nbytes for _, nbytes in parts)
    return (
        f"the program does not fit on {device}: planned {peak:,} B ({planned}); {wanted:,} B of them are still to be "
        f"allocated and {available:,} B are available. The largest values at the worst moment are\n"
        f"{largest(schedule)}\n{advice(schedule, peak - wanted + available)}"
    )


def largest(schedule: Schedule) -> str:
    """A line each for the largest values alive at the worst moment: bytes, name or shape, dtype, the user's line."""
    return "\n".join(
        f"  {s.nbytes:,} B: " + (_described(s.value) if s.value is not None else "a workspace")
        for s in at_peak(schedule)[:LARGEST]
    )


def _described(value: Value) -> str:
    node = value.node
    of = f", gradient of {node.origin.op.name}" if node.origin is not None else ""
    return f"{value!r} at {node.loc}{of}"


def advice(schedule: Schedule, room: int | None = None, recomputed: bool = False) -> str:
    """What would take less memory. room: bytes a whole step may take; recomputed: memory_budget was given already."""
    ways = ["a smaller batch"]
    if not recomputed:
        ways.insert(0, "recomputation (memory_budget=" + (f"{room})" if room is not None else "...)"))
    wide: dict[TensorType, int] = {}
    for value, slot in schedule.state.items():
        if value.dtype in (float32, float64) and slot.nbytes > 1 << 20:
            wide[value.type] = wide.get(value.type, 0) + slot.nbytes
    if wide:
        ways.append(f"state in 16 bits ({sum(wide.values()):,} B are wider)")
    if any(launch.label.startswith("foreach") for launch in schedule.launches):
        ways.append("updates inside the backward pass (fused_backward=True of the optimizer)")
    return "What would help: " + ", ".join(ways) + "."
