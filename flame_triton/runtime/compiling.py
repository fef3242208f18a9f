"""Compile one kernel in this process without launching it: what a launch would specialise it for, what ptxas says, and
under which key Triton caches it. The device need not be there: a stand-in takes the place of Triton's driver."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import CompileError
from ..graph.plan import Launch, Operand
from . import buffers
from .jit import resolve
from .launch import DIVISOR, Table, arguments, options, table_type, tables_of


@dataclass(frozen=True)
class CacheKey:
    """Where Triton caches a kernel: its key, and the two parts of the key that no installation of Triton changes.

    name: the stem of the files; key: hexadecimal; source: digest of the function with all it calls, its signature and
    constants; options: digest of the compile options.
    """

    name: str
    key: str
    source: str
    options: str


@dataclass(frozen=True)
class Compiled:
    """What became of one kernel; see ahead.KernelReport. log: all that ptxas printed."""

    shared_bytes: int = 0
    seconds: float = 0.0
    log: str = ""
    cached: CacheKey | None = None
    error: str | None = None

    @property
    def registers(self) -> int:
        return max((int(n) for n in re.findall(r"Used (\d+) registers", self.log)), default=0)

    @property
    def spills(self) -> int:
        return sum(int(n) for n in re.findall(r"(\d+) bytes spill", self.log))

    @property
    def remarks(self) -> tuple[str, ...]:
        return tuple(line.strip() for line in self.log.splitlines() if re.search(r"C75\d\d|wgmma.*serializ", line))


class Address:
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


def compile_kernel(launch: Launch) -> Any:
    """Triton's compiled kernel, without launching it."""
    tables = {table: Address(table) for table in tables_of([launch])}
    positional, keywords = arguments(launch, Address, tables)
    return resolve(launch.kernel).warmup(*positional, grid=launch.grid, **keywords)


def compile_for(launch: Launch, arch: int, output: Output) -> Compiled:
    """Compile a kernel under `stand_in(arch)` and `separate_output()`; an error is part of what is returned."""
    start = time.perf_counter()
    try:
        kernel = compile_kernel(launch)
        cached = _cache_key(launch, kernel, arch)
    except Exception as error:
        return Compiled(seconds=time.perf_counter() - start, log=output.take(), error=str(error))
    return Compiled(kernel.metadata.shared, time.perf_counter() - start, output.take(), cached)


# --- Triton's cache ---


@dataclass(frozen=True)
class _Known:
    """Part of a cache key whose digest is known."""

    digest: str

    def hash(self) -> str:
        return self.digest


def cache_key(source: str, options: str, arch: int) -> str:
    """The key under which this installation of Triton caches the kernel with these digests.

    It also covers Triton's own files (libtriton differs from one Python version to the next), ptxas and environment.
    """
    from triton.compiler.compiler import get_cache_invalidating_env_vars

    text = _key_text(arch)(_Known(source), _Known(options), get_cache_invalidating_env_vars())
    return hashlib.sha256(text.encode()).hexdigest()


def key_of_triton(arch: int) -> Callable[[], str]:
    """What makes Triton look at all that its keys cover besides the kernels. All imports are done."""
    return partial(_key_text(arch), _Known(""), _Known(""), {})


def _key_text(arch: int) -> Callable[[_Known, _Known, dict[str, str]], str]:
    """From source, options and environment to the text that Triton hashes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import get_cache_key, make_backend

    backend = make_backend(GPUTarget("cuda", arch, 32))
    return lambda source, chosen, variables: get_cache_key(source, backend, chosen, variables)


def _cache_key(launch: Launch, kernel: Any, arch: int) -> CacheKey:
    """Raises CompileError if Triton's key is not made of what we think."""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend

    backend: Any = make_backend(GPUTarget("cuda", arch, 32))
    given: dict[str, Any] = {**options(launch), "debug": bool(resolve(launch.kernel).debug) or knobs.runtime.debug}
    given["instrumentation_mode"] = knobs.compilation.instrumentation_mode
    complete = dict(backend.parse_options(given).__dict__, **kernel.src.parse_options())
    source, chosen = kernel.src.hash(), backend.parse_options(complete).hash()
    if cache_key(source, chosen, arch) != kernel.hash:
        raise CompileError("Triton's cache key is not made of its source, options, target and version alone")
    return CacheKey(kernel.src.name[:150], kernel.hash, source, chosen)


class _NotCachedError(Exception):
    """Raised by Triton's cache instead of compiling."""


_looking = threading.local()


def is_cached(launch: Launch) -> bool:
    """True if Triton has the kernel, in this process or on disk, under `only_looking()`. It is then loaded."""
    _looking.now = True
    try:
        compile_kernel(launch)
    except Exception:  # not cached, or wrong in a way that compiling it will say
        return False
    finally:
        _looking.now = False
    return True


@contextlib.contextmanager
def only_looking() -> Iterator[None]:
    """Makes Triton's cache raise an exception for a missing kernel in a thread that is in `is_cached`."""
    from triton import knobs
    from triton.runtime.cache import FileCacheManager

    usual: type[Any] = knobs.cache.manager_class or FileCacheManager

    class Looking(usual):
        def get_group(self, filename: str) -> Any:
            found = super().get_group(filename)
            if not found and getattr(_looking, "now", False):
                raise _NotCachedError(filename)
            return found

    with knobs.cache.scope():
        knobs.cache.manager_class = Looking
        yield


# --- a device that is not there ---


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
def stand_in(arch: int) -> Iterator[None]:
    """Triton compiles for a GPU of this compute capability, there or not, and cannot launch."""
    from triton.runtime.driver import driver

    before = driver._active
    driver.set_active(_Driver(arch))  # type: ignore[arg-type]
    try:
        yield
    finally:
        driver._active = before  # there is no public way back to "not chosen yet"


@contextlib.contextmanager
def compiled_anew() -> Iterator[None]:
    """Triton compiles everything anew and prints what ptxas says."""
    from triton import knobs

    with knobs.compilation.scope(), knobs.nvidia.scope():
        knobs.compilation.always_compile = True
        knobs.nvidia.dump_ptxas_log = True
        yield


class Output(io.TextIOBase):
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
def separate_output() -> Iterator[Output]:
    """What is printed inside goes to the Output."""
    output, before = Output(), sys.stdout
    sys.stdout = output
    try:
        yield output
    finally:
        sys.stdout = before
