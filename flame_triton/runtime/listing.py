"""Programs as text: one line per launch or node, and what memory they take."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph.plan import Launch
from ..ir.graph import Graph
from ..ir.node import Node
from ..ir.op import Leaf


def of_launches(launches: Sequence[Launch], distinct: int, memory: Sequence[tuple[str, int]], device: str) -> str:
    """launches: in order; distinct: kernels among them; memory: (what, bytes), the parts of the peak."""
    lines = [
        f"{len(launches)} launches of {distinct} kernels on {device}",
        _memory_line(memory),
        "",
    ]
    rows = [
        (
            str(i),
            launch.label or launch.kernel.name,
            launch.kernel.name,
            "x".join(map(str, launch.grid)),
            launch.choice or "-",
            ", ".join(map(str, launch.node.types)),
            _in_place(launch),
            f"{_moved(launch):,} B",
            _where(launch.node),
        )
        for i, launch in enumerate(launches)
    ]
    head = ("", "label", "kernel", "grid", "config", "type", "in place", "moved", "line")
    return "\n".join(lines + table(head, rows))


def of_graph(graph: Graph, nodes: Sequence[Node], peak: int) -> str:
    """A graph run on the references: one line per node that computes."""
    computing = [node for node in nodes if not isinstance(node.op.lowering, Leaf)]
    rows = [(str(i), node.op.name, ", ".join(map(str, node.types)), _where(node)) for i, node in enumerate(computing)]
    lines = [
        f"{len(computing)} nodes on reference, {len(graph.outputs)} outputs and updates",
        f"peak {peak:,} B",
        "",
    ]
    return "\n".join(lines + table(("", "op", "type", "line"), rows))


def _memory_line(memory: Sequence[tuple[str, int]]) -> str:
    parts = ", ".join(f"{what} {nbytes:,}" for what, nbytes in memory)
    return f"peak {sum(nbytes for _, nbytes in memory):,} B: {parts}"


def _in_place(launch: Launch) -> str:
    """Which results take over another slot's memory, and whose."""
    taken = [s.alias.kind for s in launch.writes if s.alias is not None]
    return ", ".join(dict.fromkeys(taken)) or "-"


def _moved(launch: Launch) -> int:
    """Bytes of all slots read and written, each counted once as a whole."""
    return sum(s.nbytes for s in launch.reads) + sum(s.nbytes for s in launch.writes)


def _where(node: Node) -> str:
    place = f"{node.loc.file.rpartition('/')[2]}:{node.loc.line}"
    place += f" in {node.loc.within}" if node.loc.within else ""
    return f"{place} (gradient of {node.origin.op.name})" if node.origin is not None else place


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows in aligned columns, numbers of the first column to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if i == 0 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
