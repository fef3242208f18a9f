"""Plans kept on disk: what the passes and the lowering made of a graph, for the next process that compiles it.

The name of an entry is a digest of everything that a plan depends on: the graph with its constants and the user's
lines, the target and the device's name, what was measured for it, the budget, and the files of this package. So nothing
in an entry is ever out of date; what changes has another name, and the entries used longest ago make room. An entry
that cannot be read, for whatever reason, is no entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import config
from ..codegen.atomic import atomic_file
from ..errors import DeviceError
from ..graph.pipeline import without_collection
from ..graph.plan import Schedule, Target
from ..ir.graph import Graph
from ..ir.node import Node, Value
from . import fingerprint
from .plan_file import UnkeepableError, Writer, pack, unpack

FORMAT = 1
WORTH = 500  # nodes of a graph that takes longer to plan than to look up
FOLDER = "plans"
LIMIT = 256 << 20  # bytes of all entries
PACKAGE = Path(__file__).parents[1]


def kept(
    graph: Graph,
    updates: Mapping[Value, Value],
    target: Target,
    facts: Mapping[str, Any],
    make: Callable[[], Schedule],
) -> Schedule:
    """The schedule that `make` made of this graph in an earlier process, else what it makes now, which is kept.

    facts: what else the plan depends on, as JSON. make: lowers and plans the memory; what it raises is passed on.
    """
    nodes = Graph(graph.inputs, (*graph.outputs, *updates, *updates.values())).nodes
    path = _path(graph, updates, target, facts, nodes) if config.keeps_plans() and len(nodes) >= WORTH else None
    if path is None:
        return make()
    with without_collection():
        found = _read(path, nodes)
    if found is None:
        found = make()
        _keep(path, found, nodes)
    return found


def folder() -> Path:
    """Where entries live. Raises DeviceError if the cache folder is not a folder."""
    return config.cache_dir() / FOLDER


def _path(
    graph: Graph, updates: Mapping[Value, Value], target: Target, facts: Mapping[str, Any], nodes: list[Node]
) -> Path | None:
    """The name of the entry; None if the graph holds what cannot be kept, or there is no cache folder."""
    writer = Writer()
    try:
        writer.enter([v for node in nodes for v in node.outputs])
        where = folder()
    except (UnkeepableError, DeviceError):
        return None
    parts = {
        "format": FORMAT, "package": _package(), "triton": fingerprint.triton_version(), "numpy": np.__version__,
        "target": asdict(target), "facts": dict(facts), "inputs": writer.values(graph.inputs),
        "outputs": writer.values(graph.outputs), "updates": [writer.values(pair) for pair in updates.items()],
        "graph": writer.document(),
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for array in writer.arrays:
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return where / digest.hexdigest()


@cache
def _package() -> str:
    """The digest of every source and every shipped table of this package."""
    digest = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.json")]):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(PACKAGE)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def measured() -> list[Any]:
    """What tells the user's store of measured configurations from what it was before something was added to it."""
    path = config.store_path()
    stamps: list[Any] = [str(path)]
    for file in (path, path.with_name(f"{path.name}-wal")):
        with contextlib.suppress(OSError):
            found = file.stat()
            stamps.append([found.st_size, found.st_mtime_ns] if found.st_size else None)
    return stamps


def _read(path: Path, nodes: list[Node]) -> Schedule | None:
    try:
        found = unpack(path.read_bytes(), nodes)
    except Exception:  # missing, cut off, damaged: made anew
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return found


def _keep(path: Path, schedule: Schedule, nodes: list[Node]) -> None:
    """Write an entry, and remove those used longest ago if they are too many. What fails leaves none: a run needs no
    entry."""
    with contextlib.suppress(UnkeepableError, OSError):
        data = pack(schedule, nodes)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with atomic_file(path) as file:
            file.write(data)
        _make_room(path.parent)


def _make_room(folder: Path) -> None:
    entries = [(entry.stat(), entry) for entry in folder.iterdir()]
    total = sum(found.st_size for found, _ in entries)
    for found, entry in sorted(entries, key=lambda e: e[0].st_mtime_ns):
        if total > LIMIT:
            entry.unlink(missing_ok=True)
            total -= found.st_size
