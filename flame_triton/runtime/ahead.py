"""Compile kernels before they run, several at a time: on the device itself, or for a device that is not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from threading import Thread
from typing import Any

from .. import config
from ..errors import CompileError, DeviceError
from ..graph.plan import Launch, Target
from . import buffers
from .compiling import (
    CacheKey,
    Compiled,
    compile_for,
    compile_kernel,
    compiled_anew,
    is_cached,
    key_of_triton,
    only_looking,
    separate_output,
    stand_in,
)
from .jit import prepare
from .launch import describe, distinct
from .workers import WORTH, compile_in_processes


@dataclass(frozen=True)
class KernelReport:
    """One compiled kernel.

    registers: per thread; spills: bytes stored plus bytes loaded per thread; shared_bytes: per block; remarks: what
    ptxas says about serialised wgmma, each of which means a slow kernel; seconds: to compile it; error: why it could
    not be compiled, else None; cached: where Triton has it.
    """

    name: str
    label: str
    registers: int = 0
    spills: int = 0
    shared_bytes: int = 0
    remarks: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str | None = None
    cached: CacheKey | None = None


def compile_ahead(
    launches: Sequence[Launch],
    target: Target,
    *,
    at_once: int | None = None,
    done: Callable[[], Any] = lambda: None,
) -> list[KernelReport]:
    """Compile every distinct kernel for `target`, which need not be there, exactly as a launch would specialise it.

    at_once: kernels compiled at the same time; default one per core. done: called after each, in any thread.
    Kernels are compiled anew even if Triton has them cached, so that the reports are complete; the results are left in
    its cache. Raises DeviceError in a process that interprets kernels (without a GPU, start it with FLAME_INTERPRET=0).
    """
    if target.interpreted or config.interpreted():
        raise DeviceError("this process interprets Triton kernels; start it with FLAME_INTERPRET=0 to compile them")
    prepare()
    kernels = distinct(launches)
    at_once = at_once or os.cpu_count() or 1
    found: dict[Launch, Compiled] = {}
    if at_once > 1 and len(kernels) >= WORTH:
        found = compile_in_processes(kernels, target.arch, at_once, anew=True, done=lambda *_: done())
    rest = [launch for launch in kernels if launch not in found]
    with stand_in(target.arch), compiled_anew(), separate_output() as output:

        def work(launch: Launch) -> Compiled:
            made = compile_for(launch, target.arch, output)
            done()
            return made

        with ThreadPoolExecutor(min(at_once, THREADS)) as pool:
            found.update(zip(rest, pool.map(work, rest), strict=True))
    return [_report(launch, found[launch]) for launch in kernels]


THREADS = 2  # one waits for ptxas while the other holds Python's lock


def _report(launch: Launch, made: Compiled) -> KernelReport:
    if made.error is not None:
        return KernelReport(launch.kernel.name, launch.label, error=f"{made.error}\n{describe(launch)}")
    return KernelReport(
        launch.kernel.name,
        launch.label,
        made.registers,
        made.spills,
        made.shared_bytes,
        made.remarks,
        made.seconds,
        cached=made.cached,
    )


def compile_all(launches: Sequence[Launch], memory: str) -> None:
    """Compile and load the kernels of launches for the device that `memory` is on, in parallel.

    Those that Triton has on disk are not compiled. Raises CompileError naming the node of a kernel that does not
    compile or does not fit the device.
    """
    from triton import knobs

    prepare()
    kernels = distinct(launches)
    hashing(_arch(memory)).join()

    def work(launch: Launch) -> None:
        try:
            with buffers.on(memory):
                _load(compile_kernel(launch))
        except Exception as error:
            raise _wrong(launch, str(error)) from error

    # Threads: loading is mostly waiting, for the C compiler that makes launchers (triton 3.6) and for the driver.
    with buffers.on(memory), ThreadPoolExecutor(min(len(kernels), os.cpu_count() or 1) or 1) as pool:
        loading: list[Future[None]] = []
        missing = kernels
        if not knobs.compilation.always_compile:
            missing = []
            with only_looking():
                for launch in kernels:
                    if is_cached(launch):
                        loading.append(pool.submit(work, launch))
                    else:
                        missing.append(launch)
            _compile_elsewhere(missing, memory)
        loading += [pool.submit(work, launch) for launch in missing]
        for done in loading:
            done.result()


@cache
def hashing(arch: int) -> Thread:
    """A thread in which Triton hashes its own files, hundreds of megabytes, and asks ptxas for its version: both are
    part of every key of its cache, and need nothing of Python meanwhile. It keeps what it finds."""
    prepare()
    thread = Thread(target=key_of_triton(arch), daemon=True)
    thread.start()
    return thread


def _arch(memory: str) -> int:
    major, minor = buffers.properties(memory).capability
    return major * 10 + minor


def _load(kernel: Any) -> None:
    """Have Triton load a compiled kernel and make its launcher, which it does when this is first read."""
    _ = kernel.run


def _compile_elsewhere(launches: Sequence[Launch], memory: str) -> None:
    """Fill Triton's cache with these kernels, by other processes, if that is worth it."""
    cores = os.cpu_count() or 1
    if cores > 1 and len(launches) >= WORTH:
        for launch, made in compile_in_processes(launches, _arch(memory), cores).items():
            if made.error is not None:
                raise _wrong(launch, made.error)


def _wrong(launch: Launch, error: str) -> CompileError:
    return CompileError(f"{error}\n{describe(launch)}", op=launch.node.op.name, loc=launch.node.loc)
