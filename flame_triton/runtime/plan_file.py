"""Graphs and schedules as plain data, and schedules as files: what runtime/plans.py keeps.

A file is a SHA-256 and what it is of, compressed: a JSON document and the arrays that it names. Nothing is unpickled.
Nodes, slots and tables stay one where they were one. Leaves, and the nodes that gradients come from, are those of the
user's graph, by number; all other nodes of the fused graph are made anew, with the user's lines.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..graph.plan import (
    Argument,
    ConstantTable,
    Descriptor,
    KernelRef,
    Launch,
    Operand,
    PointerTable,
    Schedule,
    Slot,
)
from ..ir.graph import Graph, topological
from ..ir.location import Loc
from ..ir.node import Node, Value
from ..ir.op import OPS, Composite, Op
from ..types import DType, TensorType
from ..types import dtype as as_dtype

Array = np.ndarray[Any, Any]


class UnkeepableError(Exception):
    """The graph holds something that means nothing in another process: a user's kernel, an object as attribute."""


class _Table:
    """Entries by number, equal ones once."""

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, key: Hashable, make: Callable[[], Any]) -> int:
        found = self._numbers.get(key)
        if found is None:
            entry = make()  # which may enter others
            found = self._numbers[key] = len(self.entries)
            self.entries.append(entry)
        return found


class Writer:
    """Turns nodes and what refers to them into numbers and JSON. nodes: of the user's graph, which keep their place
    there; they are referred to by negative numbers."""

    def __init__(self, nodes: Sequence[Node] = ()) -> None:
        self.nodes: list[Any] = []
        self.arrays: list[Array] = []
        self._values: dict[Value, int] = {}
        self._numbers: dict[Node, int] = {}
        self._stubs: dict[Node, int] = {}
        self._count = 0
        self._types, self._locs, self._attrs, self._attrs_by_id = _Table(), _Table(), _Table(), dict[int, int]()
        self._held: list[Any] = []  # so that no id is given twice
        self._slots, self._tables, self._kernels = _Table(), _Table(), _Table()
        for node in nodes:
            self._numbers[node] = -1 - len(self._numbers)
            for v in node.outputs:
                self._values[v] = -1 - len(self._values)

    def document(self) -> dict[str, Any]:
        """All that has been entered."""
        return {
            "nodes": self.nodes, "types": self._types.entries, "locs": self._locs.entries,
            "attrs": self._attrs.entries, "slots": self._slots.entries, "tables": self._tables.entries,
            "kernels": self._kernels.entries,
        }  # fmt: skip

    def enter(self, outputs: Iterable[Value]) -> None:
        """Every node that the values need."""
        for node in topological(outputs):
            if node not in self._numbers:
                self._numbers[node] = self._node(node)

    def value(self, value: Value) -> int:
        """The number of a value that has been entered."""
        return self._values[value]

    def values(self, values: Iterable[Value]) -> list[int]:
        return [self._values[v] for v in values]

    # ---- nodes -------------------------------------------------------------------------------------------------

    def _node(self, node: Node, stub: bool = False) -> int:
        """stub: without operands and attributes, for messages alone."""
        origin = None if node.origin is None or stub else self._origin(node.origin)
        attrs = self._attributes({} if stub else node.attrs, node.op)
        inputs = [] if stub else self.values(node.inputs)
        types = [self._types.number(t, lambda t=t: [list(t.shape), t.dtype.name]) for t in node.types]
        loc = node.loc
        place = self._locs.number(loc, lambda: [loc.file, loc.line, loc.function, loc.within])
        self.nodes.append([_op_name(node.op), inputs, attrs, types, place, origin])
        if not stub:
            for v in node.outputs:
                self._values[v] = self._count + v.index
        self._count += len(node.outputs)
        return len(self.nodes) - 1

    def _origin(self, node: Node) -> int:
        found = self._numbers.get(node, self._stubs.get(node))
        if found is None:
            found = self._stubs[node] = self._node(node, stub=True)
        return found

    def _attributes(self, attrs: Mapping[str, Any], op: Op) -> int:
        found = self._attrs_by_id.get(id(attrs))
        if found is None:
            # What a parameter starts from is the State's affair.
            plain = {k: self.plain(v) for k, v in attrs.items() if k != "init" or op.name != "parameter"}
            found = self._attrs_by_id[id(attrs)] = self._attrs.number(repr(plain), lambda: plain)
            self._held.append(attrs)
        return found

    def plain(self, value: Any) -> Any:
        """Numbers and text as they are; anything else as [kind, ...]."""
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is tuple or kind is list:
            return [kind.__name__, *map(self.plain, value)]
        if kind is dict:
            return ["dict", [[k, self.plain(v)] for k, v in value.items()]]
        if kind is DType:
            return ["dtype", value.name]
        if kind is Op:
            return ["op", _op_name(value)]
        if kind is Graph:
            self.enter((*value.inputs, *value.outputs))
            return ["graph", self.values(value.inputs), self.values(value.outputs)]
        if kind is np.ndarray:
            self.arrays.append(value)
            return ["array", len(self.arrays) - 1]
        if isinstance(value, np.generic):
            return self.plain(value.item())
        return self._argument(value)

    # ---- launches ----------------------------------------------------------------------------------------------

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Operand):
            return ["at", self.slot(value.slot), value.dtype.name, value.offset]
        if isinstance(value, Descriptor):
            return ["tma", *map(self.plain, (value.operand, value.shape, value.strides, value.block))]
        if isinstance(value, PointerTable):
            return ["table", self._tables.number(value, lambda: ["rows", self.plain(value.rows)])]
        if isinstance(value, ConstantTable):
            return ["table", self._tables.number(value, lambda: ["numbers", self.plain(value.array)])]
        if isinstance(value, KernelRef) and not value.digest:
            return ["kernel", self._kernels.number(value, lambda: [value.module, value.name, value.source])]
        raise UnkeepableError(f"{value!r}")

    def slot(self, slot: Slot) -> int:
        """The number of a slot."""

        def entry() -> list[Any]:
            value = None if slot.value is None else self._values[slot.value]
            alias = None if slot.alias is None else self.slot(slot.alias)
            return [slot.kind, slot.nbytes, value, alias, slot.offset]

        return self._slots.number(slot, entry)

    def slots(self, slots: Iterable[Slot]) -> list[int]:
        return [self.slot(s) for s in slots]

    def launch(self, launch: Launch, variants: _Table) -> list[Any]:
        """variants: function, constants and options, which many launches share."""
        parts = self.plain((launch.kernel, launch.constexprs, launch.options))
        variant = variants.number(repr(parts), lambda: parts)
        args, grid = [self.plain(a) for a in launch.args], [int(n) for n in launch.grid]
        return [
            variant, grid, args, self.slots(launch.reads), self.slots(launch.writes), self._numbers[launch.node],
            launch.label, launch.choice,
        ]  # fmt: skip


def _op_name(op: Op) -> str:
    """Raises UnkeepableError for an op that the registry does not know, unless a graph among its attributes is all
    that there is to it; that has a "!" in its name."""
    if OPS.get(op.name) is op:
        return op.name
    if isinstance(op.lowering, Composite) and op.lowering.body:
        return f"{op.name}!"
    raise UnkeepableError(f"{op!r} is no op of the package")


class _Reader:
    """What a Writer has written, made again on the nodes of the user's graph."""

    def __init__(self, document: Mapping[str, Any], arrays: Sequence[Array], nodes: Sequence[Node]) -> None:
        self._document = document
        self._arrays = arrays
        self._leaves = nodes
        self._known = [v for node in nodes for v in node.outputs]
        self._values: list[Value] = []
        self.nodes: list[Node] = []
        types = [TensorType(tuple(shape), as_dtype(name)) for shape, name in document["types"]]
        locs = [Loc(*entry) for entry in document["locs"]]
        self._attrs: list[dict[str, Any] | None] = [None] * len(document["attrs"])
        for op, inputs, attrs, kinds, loc, origin in document["nodes"]:
            values = [self.value(i) for i in inputs]
            maker = None if origin is None else self._leaves[-1 - origin] if origin < 0 else self.nodes[origin]
            node = Node(OPS[op], values, self._attributes(attrs), [types[i] for i in kinds], locs[loc], maker)
            self.nodes.append(node)
            self._values += node.outputs
        self._kernels = [KernelRef(*entry) for entry in document["kernels"]]
        self.slots: list[Slot] = []
        for kind, nbytes, value, alias, offset in document["slots"]:
            held = None if value is None else self.value(value)
            self.slots.append(Slot(kind, nbytes, held, None if alias is None else self.slots[alias], offset))
        self._tables = [self._table(*entry) for entry in document["tables"]]
        self._variants = [self.object(entry) for entry in document["variants"]]

    def value(self, number: int) -> Value:
        return self._known[-1 - number] if number < 0 else self._values[number]

    def _attributes(self, number: int) -> dict[str, Any]:
        """Read when they are first needed: a graph among them stands before."""
        found = self._attrs[number]
        if found is None:
            found = {k: self.object(v) for k, v in self._document["attrs"][number].items()}
            self._attrs[number] = found
        return found

    def _table(self, kind: str, content: Any) -> PointerTable | ConstantTable:
        found = self.object(content)
        return PointerTable(found) if kind == "rows" else ConstantTable(found)

    def object(self, plain: Any) -> Any:
        if not isinstance(plain, list):
            return plain
        kind, *parts = plain
        match kind:
            case "tuple":
                return tuple([self.object(p) for p in parts])
            case "list":
                return [self.object(p) for p in parts]
            case "dict":
                return {k: self.object(v) for k, v in parts[0]}
            case "dtype":
                return as_dtype(parts[0])
            case "op":
                return OPS[parts[0]]
            case "graph":
                inputs, outputs = ([self.value(i) for i in numbers] for numbers in parts)
                return Graph(tuple(inputs), tuple(outputs))
            case "array":
                return self._arrays[parts[0]]
            case "at":
                return Operand(self.slots[parts[0]], as_dtype(parts[1]), parts[2])
            case "tma":
                return Descriptor(*(self.object(p) for p in parts))
            case "table":
                return self._tables[parts[0]]
            case "kernel":
                return self._kernels[parts[0]]
            case _:
                raise ValueError(f"unknown kind {kind!r}")

    def launch(self, entry: Sequence[Any]) -> Launch:
        variant, grid, args, reads, writes, node, label, choice = entry
        kernel, constexprs, options = self._variants[variant]
        given: tuple[Argument, ...] = tuple([self.object(a) for a in args])
        read, written = tuple([self.slots[i] for i in reads]), tuple([self.slots[i] for i in writes])
        return Launch(
            kernel, tuple(grid), given, constexprs, options, read, written, self.nodes[node], label, choice
        )  # fmt: skip


# ---- schedules -------------------------------------------------------------------------------------------------


def pack(schedule: Schedule, nodes: Sequence[Node]) -> bytes:
    """A schedule with its memory planned as the bytes of a file. nodes: of the user's graph. Raises UnkeepableError."""
    writer, variants = Writer(nodes), _Table()
    leaves = [schedule.inputs, schedule.state, schedule.constants]
    slots = [*schedule.outputs, *(new for _, new in schedule.updates)]
    needed = [v for launch in schedule.launches for v in launch.node.outputs]
    writer.enter([*needed, *(s.value for s in slots if s.value is not None), *(v for table in leaves for v in table)])
    if any(op.endswith("!") for op, *_ in writer.nodes):
        raise UnkeepableError("a function of the user's stands where only its nodes should")
    document: dict[str, Any] = {
        "launches": [writer.launch(launch, variants) for launch in schedule.launches],
        "leaves": [[[writer.value(v), writer.slot(s)] for v, s in table.items()] for table in leaves],
        "outputs": writer.slots(schedule.outputs),
        "updates": [writer.slots(pair) for pair in schedule.updates],
        "arena_bytes": int(schedule.arena_bytes),
    }
    document |= {**writer.document(), "variants": variants.entries}
    stored = [_differences(a) for a in writer.arrays]
    document["arrays"] = [
        [as_dtype(s.dtype).name, list(s.shape), s is not a] for s, a in zip(stored, writer.arrays, strict=True)
    ]
    text = json.dumps(document, separators=(",", ":")).encode()
    content = b"".join([len(text).to_bytes(8, "little"), text, *(a.tobytes() for a in stored)])
    packed = zlib.compress(content, 1)
    return hashlib.sha256(packed).digest() + packed


def unpack(data: bytes, nodes: Sequence[Node]) -> Schedule:
    """The schedule again, on the same graph of the user's. Raises ValueError or others for what `pack` did not make."""
    packed = memoryview(data)[32:]
    if hashlib.sha256(packed).digest() != data[:32]:
        raise ValueError("the checksum does not match")
    content = memoryview(zlib.decompress(packed))
    end = 8 + int.from_bytes(content[:8], "little")
    document = json.loads(bytes(content[8:end]))
    arrays: list[Array] = []
    for name, shape, differences in document["arrays"]:
        kind = as_dtype(name).numpy
        stored = np.frombuffer(content, kind, math.prod(shape), end).reshape(shape)
        arrays.append(np.cumsum(stored, axis=0, dtype=np.int64) if differences else stored)
        end += stored.nbytes
    reader = _Reader(document, arrays, nodes)
    inputs, state, constants = (
        {reader.value(v): reader.slots[s] for v, s in table} for table in document["leaves"]
    )  # fmt: skip
    return Schedule(
        [reader.launch(entry) for entry in document["launches"]], inputs, state, constants,
        [reader.slots[s] for s in document["outputs"]],
        [(reader.slots[a], reader.slots[b]) for a, b in document["updates"]], document["arena_bytes"],
    )  # fmt: skip


def _differences(array: Array) -> Array:
    """A table of integers, which may have millions of rows, as the differences between them, nearly all alike; any
    other array as it is."""
    if array.dtype != np.int64 or array.ndim != 2:
        return array
    found = np.diff(array, axis=0, prepend=np.zeros_like(array[:1]))
    return found.astype(np.int32) if np.abs(found).max(initial=0) < 1 << 31 else found
