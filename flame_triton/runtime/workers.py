"""Compile kernels in several processes. Triton holds Python's lock while it compiles, so threads gain nothing.

The processes run runtime/worker.py, and hand their results over through Triton's cache on disk.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .. import config
from ..graph.plan import Launch
from .compiling import CacheKey, Compiled
from .wire import UnsendableError, encode
from .worker import READY

WORTH = 16  # kernels below which starting processes (1.5 s of importing) costs more than it gains
_FAULTS = (-4, -6, -8, -11)  # SIGILL, SIGABRT, SIGFPE, SIGSEGV: the compiler crashed on this kernel


def compile_in_processes(
    launches: Sequence[Launch],
    arch: int,
    at_once: int,
    *,
    anew: bool = False,
    done: Callable[[Launch, Compiled], Any] = lambda launch, compiled: None,
) -> dict[Launch, Compiled]:
    """What became of each launch that could be compiled by another process; none if processes cannot be started.

    anew: compile also what is cached, and report what ptxas says. done: called as results come, in any thread.
    """
    lines: dict[Launch, str] = {}
    for launch in launches:
        with contextlib.suppress(UnsendableError):
            lines[launch] = encode(launch)
    # Hand-written kernels take longest: first, so that no process ends with one alone.
    waiting = iter(sorted(lines, key=lambda launch: launch.kernel.source is not None))
    found: dict[Launch, Compiled] = {}
    lock, count = threading.Lock(), min(at_once, len(lines))

    def work(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        if process.stdout.readline().strip() != READY:
            return
        while True:
            with lock:
                launch = next(waiting, None)
            if launch is None:
                return
            answer = _ask(process, lines[launch])
            if answer is None:
                return
            found[launch] = answer
            done(launch, answer)

    processes: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            processes.append(_start(arch, anew))
    except OSError:
        pass  # those that started do it
    if not processes:
        return {}
    try:
        with ThreadPoolExecutor(len(processes)) as pool:
            try:
                list(pool.map(work, processes))
            except BaseException:
                _end(processes)  # else leaving the pool would wait for what they are compiling
                raise
    finally:
        _end(processes)
    return found


def _start(arch: int, anew: bool) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", f"{__package__}.worker", str(arch), *(["anew"] if anew else [])]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env=config.compiling_environment(),
    )


def _ask(process: subprocess.Popen[str], line: str) -> Compiled | None:
    """What became of one kernel; None if the process is gone for no fault of the kernel's."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
    except (OSError, ValueError):
        code = _code(process)
        return Compiled(error=f"the compiler crashed (signal {-code})") if code in _FAULTS else None
    cached = answer.pop("cached")
    return Compiled(**answer, cached=cached and CacheKey(**cached))


def _code(process: subprocess.Popen[str]) -> int:
    try:
        return process.wait(5)
    except subprocess.TimeoutExpired:
        return 0


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
