"""Launches: from a planned Launch and memory to a call of a Triton function; and what makes two kernels the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from .. import config
from ..errors import CompileError
from ..graph.plan import Argument, ConstantTable, Descriptor, KernelRef, Launch, Operand, PointerTable, Slot
from ..types import TensorType, int64
from ..types import dtype as as_dtype
from .buffers import Place
from .jit import descriptor, known_trouble, parameters, resolve

Table: TypeAlias = PointerTable | ConstantTable

_TYPES = {
    "float64": "*fp64",
    "float32": "*fp32",
    "bfloat16": "*bf16",
    "float16": "*fp16",
    "int64": "*i64",
    "int32": "*i32",
    "uint8": "*u8",
    "bool": "*i1",
}
DIVISOR = 16  # a multiple of this, in bytes for pointers, is what Triton specialises on


def does_nothing(launch: Launch) -> bool:
    """True if no program would run, or if nothing that it writes has any elements."""
    return not math.prod(launch.grid) or not any(slot.nbytes for slot in launch.writes)


def bind(launch: Launch, memory: Callable[[Operand], Place], tables: dict[Table, Place]) -> Callable[[], Any]:
    """A function that queues the launch on the current stream (or interprets it).

    memory: the array behind an operand, from its offset to the end of its slot; tables: where pointer and constant
    tables lie. Errors of the kernel carry a note with the node and the user's line. Raises CompileError.
    """
    start = resolve(launch.kernel)[launch.grid]
    positional, keywords = arguments(launch, memory, tables)

    def run() -> None:
        try:
            start(*positional, **keywords)
        except Exception as error:
            error.add_note(describe(launch))
            if trouble := known_trouble():
                error.add_note(trouble)
            raise

    return run


def arguments(
    launch: Launch, memory: Callable[[Operand], Any], tables: dict[Table, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """All arguments of the Triton function, constexprs included, in its own order; and compile options if compiled.

    By position, because Triton's launcher has keywords of its own ("stream", "grid", "device").
    """

    def value(argument: Argument) -> Any:
        if isinstance(argument, Operand):
            return _tensor(memory(argument))
        if isinstance(argument, Descriptor):
            return descriptor(argument, _tensor(memory(argument.operand)))
        if isinstance(argument, PointerTable | ConstantTable):
            return _tensor(tables[argument])
        if isinstance(argument, tuple):
            return tuple(value(a) for a in argument)
        return argument.item() if isinstance(argument, np.generic) else argument

    named = {name: value(argument) for name, argument in named_arguments(launch)}
    named |= {name: _constant(constant) for name, constant in launch.constexprs.items()}
    ordered = tuple(named[name] for name in parameters(launch.kernel).names)
    return ordered, {} if config.interpreted() else options(launch)


def _tensor(memory: Any) -> Any:
    return memory.tensor if isinstance(memory, Place) else memory


def _constant(value: Any) -> Any:
    """A constexpr argument; a KernelRef stands for a device function."""
    if isinstance(value, KernelRef):
        return resolve(value)
    return tuple(_constant(v) for v in value) if isinstance(value, tuple) else value


def options(launch: Launch) -> dict[str, Any]:
    """Compile options; products and sums are not contracted unless the launch says so."""
    return {"enable_fp_fusion": False, **launch.options}


def named_arguments(launch: Launch) -> list[tuple[str, Argument]]:
    """The run-time arguments with the names of the parameters they go to. Raises CompileError if the number differs."""
    every = parameters(launch.kernel).names
    names = [name for name in every if name not in launch.constexprs]
    strange = ", ".join(name for name in launch.constexprs if name not in every)
    if len(names) != len(launch.args) or strange:
        raise CompileError(
            f"the kernel {launch.kernel.name} takes {', '.join(names) or 'nothing'}, got {len(launch.args)} arguments"
            + (f" and constants called {strange}" if strange else ""),
            op=launch.node.op.name,
            loc=launch.node.loc,
        )
    return list(zip(names, launch.args, strict=True))


def describe(launch: Launch) -> str:
    """The launch, its node and the user's line, for messages."""
    text = f"in the kernel {launch.kernel.name}, for {launch.node!r} at {launch.node.loc}"
    if launch.node.origin is not None:
        text += f", in the gradient of {launch.node.origin!r}"
    return text


# --- tables ---


def tables_of(launches: Iterable[Launch]) -> list[Table]:
    """Every pointer and constant table that the launches read, once."""

    def walk(argument: Argument) -> Iterator[Table]:
        if isinstance(argument, PointerTable | ConstantTable):
            yield argument
        elif isinstance(argument, tuple):
            for a in argument:
                yield from walk(a)

    return list(dict.fromkeys(t for launch in launches for argument in launch.args for t in walk(argument)))


def table_type(table: Table) -> TensorType:
    """The array that a table becomes: int64 [rows, columns] for pointers, the given array for constants."""
    if isinstance(table, PointerTable):
        return TensorType((len(table.rows), max((len(row) for row in table.rows), default=0)), int64)
    return TensorType(table.array.shape, as_dtype(table.array.dtype))


def table_array(table: Table, address: Callable[[Operand], int]) -> np.ndarray[Any, Any]:
    """The contents of a table, once slots have addresses. Missing ends of rows are 0."""
    if isinstance(table, ConstantTable):
        return table.array
    array = np.zeros(table_type(table).shape, np.int64)
    for i, row in enumerate(table.rows):
        array[i, : len(row)] = [address(operand) for operand in row]
    return array


# --- what makes kernels the same ---


def kernel_key(launch: Launch) -> tuple[Any, ...]:
    """Equal for launches that one compiled kernel serves: function, constexprs, specialised signature and options.

    Integers equal to 1 become constants; for other integers and for addresses it matters whether 16 divides them.
    """
    found = parameters(launch.kernel)
    signature = tuple(
        _specialised(argument, name not in found.not_by_value, name not in found.not_by_alignment)
        for name, argument in named_arguments(launch)
    )
    constexprs = tuple(sorted((k, type(v).__name__, v) for k, v in launch.constexprs.items()))
    return launch.kernel, constexprs, signature, tuple(sorted(options(launch).items()))


def _specialised(argument: Argument, by_value: bool, by_alignment: bool) -> Any:
    """What Triton specialises a run-time argument on, in the words of its own signatures."""
    if isinstance(argument, tuple):
        return tuple(_specialised(a, by_value, by_alignment) for a in argument)
    if isinstance(argument, Operand):
        aligned = argument.offset * argument.dtype.itemsize % DIVISOR == 0
        return _TYPES[argument.dtype.name], by_value and by_alignment and aligned
    if isinstance(argument, Descriptor):
        return "descriptor", argument.operand.dtype.name, argument.block
    if isinstance(argument, PointerTable | ConstantTable):
        return _TYPES[table_type(argument).dtype.name], by_value and by_alignment
    if isinstance(argument, bool | np.bool_):
        return "u1"
    if isinstance(argument, float | np.floating):
        return "fp32"
    if argument == 1 and by_value:
        return "constexpr", 1
    kind = "i32" if -(1 << 31) <= argument < 1 << 31 else "u64" if argument >= 1 << 63 else "i64"
    return kind, by_value and by_alignment and argument % DIVISOR == 0


def distinct(launches: Sequence[Launch]) -> list[Launch]:
    """The first launch of every kernel, in order."""
    return list({kernel_key(launch): launch for launch in reversed(launches)}.values())[::-1]


def extent(slot: Slot, operand: Operand) -> TensorType:
    """The elements that an operand's pointer may reach: from its offset to the end of its slot."""
    count = slot.nbytes // operand.dtype.itemsize - operand.offset
    return TensorType((max(count, 0),), operand.dtype)
