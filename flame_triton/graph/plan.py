"""The vocabulary of a lowered program: slots of memory, operands, launches. Pure data; the runtime binds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ..ir.node import Node, Value
from ..types import DType

SUM_ROWS = 64  # rows that one column sum of an epilogue covers; tiles of such a kernel are whole multiples of it high


@dataclass(frozen=True)
class Target:
    """What the compiler needs to know about a device, and what is asked of every kernel: nothing else decides what is
    generated.

    arch: compute capability times ten (80, 90); interpreted: kernels run in Triton's interpreter on the CPU;
    processors: streaming multiprocessors; shared_bytes: shared memory one block may use; block_limit: elements that
    one block of an interpreted generated kernel may hold (tests lower it, so that there are several tiles and tails).
    deterministic: kernels must give the same bits on every run; else one may add up in whatever order is fastest.
    """

    arch: int = 90
    interpreted: bool = False
    processors: int = 132
    shared_bytes: int = 232448
    block_limit: int = 1 << 20
    deterministic: bool = True


@dataclass(eq=False)
class Slot:
    """A piece of device memory that holds one dense value, a workspace, or nothing yet.

    kind: "arena" (planned, reused), "input" (staging), "state" (owned by the State), "constant".
    nbytes: its size. value: the graph value it holds, if any. alias: for a result written in place, the slot of the
    operand whose memory it takes over. offset: bytes from the start of the arena, set by the memory plan.
    """

    kind: str
    nbytes: int
    value: Value | None = None
    alias: Slot | None = None
    offset: int = -1

    @property
    def root(self) -> Slot:
        """The slot whose memory this one uses: itself, unless it is written in place."""
        return self if self.alias is None else self.alias.root


@dataclass(frozen=True, eq=False)
class Operand:
    """A pointer argument: elements of `dtype` from `offset` elements into the slot."""

    slot: Slot
    dtype: DType
    offset: int = 0


@dataclass(frozen=True, eq=False)
class PointerTable:
    """An int64 table of device addresses, one row per tensor; filled once the slots have addresses."""

    rows: tuple[tuple[Operand, ...], ...]


@dataclass(frozen=True, eq=False)
class ConstantTable:
    """A small integer table the kernel reads, fixed at compile time."""

    array: np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Descriptor:
    """A TMA descriptor argument: an array of `shape` and `strides` (in elements) at `operand`, moved in blocks.

    The last stride is 1; the others, and the address, are multiples of 16 bytes. What a block covers outside is read
    as 0. The block lies in shared memory as wgmma reads it, swizzled as far as its last axis allows.
    """

    operand: Operand
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]


@dataclass(frozen=True)
class KernelRef:
    """A Triton function. module: a dotted name inside the package, or for generated code its module name.

    source: the generated module's text, or None for a hand-written kernel. digest: of the source of a user's kernel,
    which the runtime holds as an object (jit.hold), else empty.
    """

    module: str
    name: str
    source: str | None = field(default=None, repr=False)
    digest: str = ""


Argument: TypeAlias = Operand | Descriptor | PointerTable | ConstantTable | int | float | tuple["Argument", ...]


@dataclass(frozen=True, eq=False)
class Launch:
    """One kernel launch. args in the kernel's order, constexprs by name (a KernelRef stands for a jit function).

    reads / writes: the slots it touches (a slot written in place is in both, under its own and its alias).
    options: num_warps, num_stages and other compile options. node: what it computes, for messages and profiles.
    choice: where its configuration comes from ("heuristic", "tuned", "shipped"); empty if there was none to choose.
    """

    kernel: KernelRef
    grid: tuple[int, ...]
    args: tuple[Argument, ...]
    constexprs: dict[str, Any]
    options: dict[str, Any]
    reads: tuple[Slot, ...]
    writes: tuple[Slot, ...]
    node: Node
    label: str = ""
    choice: str = ""


@dataclass(eq=False)
class Schedule:
    """A lowered graph: launches in order, and where inputs, state and outputs live.

    inputs, state, constants: slot of each leaf value; outputs: the slot of each graph output, in order (its bytes are
    dense row-major; several outputs may share a slot); updates: (state slot, slot with the new value) pairs that still
    need a copy after the last launch, because the new value could not be written in place; empty where it could.
    """

    launches: list[Launch]
    inputs: dict[Value, Slot]
    state: dict[Value, Slot]
    constants: dict[Value, Slot]
    outputs: list[Slot]
    updates: list[tuple[Slot, Slot]]
    arena_bytes: int = 0
