"""Compile kernels before they run, several at a time: on the device itself, or for a device that is not there."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from .. import config
from ..errors import CompileError, DeviceError
from ..graph.plan import ConstantTable, Launch, Operand, PointerTable, Target
from . import buffers
from .jit import prepare, resolve
from .launch import DIVISOR, Table, arguments, describe, distinct, table_type, tables_of


@dataclass(frozen=True)
class KernelReport:
    """One compiled kernel.

    registers: per thread; spills: bytes stored plus bytes loaded per thread; shared_bytes: per block; remarks: what
    ptxas says about serialised wgmma, each of which means a slow kernel; seconds: to compile it; error: why it could
    not be compiled, else None.
    """

    name: str
    label: str
    registers: int = 0
    spills: int = 0
    shared_bytes: int = 0
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str | None = None


def compile_ahead(launches: Sequence[Launch], target: Target, *, threads: int | None = None) -> list[KernelReport]:
    """Compile every distinct kernel for `target`, which need not be there, exactly as a launch would specialise it.

    threads: default one per core. Kernels are compiled anew even if Triton has them cached, so that the reports are
    complete; the results are left in its cache. Raises DeviceError in a process that interprets kernels (without a
    GPU, start it with FLAME_INTERPRET=0).
    """
    if target.interpreted or config.interpreted():
        raise DeviceError("this process interprets Triton kernels; start it with FLAME_INTERPRET=0 to compile them")
    prepare()
    kernels = distinct(launches)
    with _stand_in(target.arch), _settings(), _separate_output() as output:

        def report(launch: Launch) -> KernelReport:
            start = time.perf_counter()
            try:
                compiled = _compile(launch, _Address)
            except Exception as error:
                return KernelReport(launch.kernel.name, launch.label, error=f"{error}\n{describe(launch)}")
            seconds = time.perf_counter() - start
            return _report(launch, output.take(), compiled.metadata.shared, seconds)

        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            return list(pool.map(report, kernels))


def compile_all(launches: Sequence[Launch], memory: str) -> None:
    """Compile the kernels of launches for the device that `memory` is on, in parallel, so that none waits for another.

    Raises CompileError naming the node of a kernel that does not compile.
    """

    def work(launch: Launch) -> None:
        try:
            with buffers.on(memory):
                _compile(launch, _Address)
        except Exception as error:
            raise CompileError(f"{error}\n{describe(launch)}", op=launch.node.op.name, loc=launch.node.loc) from error

    kernels = distinct(launches)
    with ThreadPoolExecutor(min(len(kernels), os.cpu_count() or 1) or 1) as pool:
        list(pool.map(work, kernels))


class _Address:
    """What stands for a tensor when nothing is launched: its dtype, and whether its address is a multiple of 16."""

    def __init__(self, argument: Operand | Table) -> None:
        is_operand = isinstance(argument, Operand)
        kind = argument.dtype if is_operand else table_type(argument).dtype
        self.dtype = buffers.kernel_dtype(kind)
        self._address = argument.offset * kind.itemsize % DIVISOR if is_operand else 0

    def data_ptr(self) -> int:
        return self._address

    def ptr_range(self) -> int:
        return 0


def _compile(launch: Launch, stand_in: Callable[[Operand | PointerTable | ConstantTable], Any]) -> Any:
    """Triton's compiled kernel, without launching it."""
    tables = {table: stand_in(table) for table in tables_of([launch])}
    positional, keywords = arguments(launch, stand_in, tables)
    return resolve(launch.kernel).warmup(*positional, grid=launch.grid, **keywords)


def _report(launch: Launch, log: str, shared: int, seconds: float) -> KernelReport:
    """A report from what ptxas -v says."""

    def total(pattern: str) -> int:
        return sum(int(n) for n in re.findall(pattern, log))

    remarks = tuple(line.strip() for line in log.splitlines() if re.search(r"C75\d\d|wgmma.*serializ", line))
    return KernelReport(
        launch.kernel.name,
        launch.label,
        max((int(n) for n in re.findall(r"Used (\d+) registers", log)), default=0),
        total(r"(\d+) bytes spill"),
        shared,
        remarks,
        seconds,
    )


# --- compiling for a device that is not there ---


_numbers = itertools.count()


class _Driver:
    """Stands in for Triton's driver: says which GPU to compile for, and nothing else.

    Its device has a name of its own, so that nothing compiled for another stand-in is found in a function's cache.
    """

    def __init__(self, arch: int) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", arch, 32)
        self._name = f"stand-in {next(_numbers)}"

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> str:
        return self._name

    def get_current_stream(self, device: str) -> int:
        return 0


@contextlib.contextmanager
def _stand_in(arch: int) -> Iterator[None]:
    from triton.runtime.driver import driver

    before = driver._active
    driver.set_active(_Driver(arch))  # type: ignore[arg-type]
    try:
        yield
    finally:
        driver._active = before  # there is no public way back to "not chosen yet"


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Triton compiles everything anew and prints what ptxas says."""
    from triton import knobs

    with knobs.compilation.scope(), knobs.nvidia.scope():
        knobs.compilation.always_compile = True
        knobs.nvidia.dump_ptxas_log = True
        yield


class _Output(io.TextIOBase):
    """Collects what each thread prints."""

    def __init__(self) -> None:
        self._own = threading.local()

    def write(self, text: str) -> int:
        self._own.text = getattr(self._own, "text", "") + text
        return len(text)

    def take(self) -> str:
        """What this thread has printed since it last asked."""
        text = getattr(self._own, "text", "")
        self._own.text = ""
        return text


@contextlib.contextmanager
def _separate_output() -> Iterator[_Output]:
    output, before = _Output(), sys.stdout
    sys.stdout = output
    try:
        yield output
    finally:
        sys.stdout = before
