"""Kernels compiled by other processes, one per core, which leave them in Triton's cache for this one.

Threads would share one interpreter lock, which Triton holds for about a tenth of a compilation: sixteen of them are
worth about six. The processes use no device; they get launches without the graph.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from multiprocessing.synchronize import Event
from typing import Any

from ..graph.plan import Launch, Slot, Target
from ..runtime.ahead import KernelReport, compile_ahead
from ..runtime.launch import distinct

Reports = list[KernelReport]
CRASHED = "the compiler crashed"


class Compilers:
    """A pool of compiling processes for one target. workers: default one per core."""

    def __init__(self, target: Target, workers: int | None = None) -> None:
        self._target = target
        self._workers = workers or os.cpu_count() or 1
        # Started anew rather than forked: a forked process cannot live with CUDA in its parent.
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Event()
        self._pool = self._fresh(self._workers)

    @property
    def workers(self) -> int:
        """How many kernels are compiled at once."""
        return self._workers

    def submit(self, launches: Sequence[Launch]) -> Future[Reports]:
        """Start compiling the distinct kernels of launches."""
        work = (bare(distinct(launches)), self._target)
        try:
            return self._pool.submit(_compile, *work)
        except BrokenExecutor:
            self._pool = self._fresh(self._workers)
            return self._pool.submit(_compile, *work)

    def reports(self, future: Future[Reports], launches: Sequence[Launch], timeout: float | None = None) -> Reports:
        """The result of `submit`. A crash of the compiler ends every work in progress: it is then done again alone,
        so that the one to blame is found. Raises TimeoutError."""
        try:
            return future.result(timeout)
        except BrokenExecutor:
            alone = self._fresh(1)
            try:
                return alone.submit(_compile, bare(distinct(launches)), self._target).result(timeout)
            except BrokenExecutor:
                first = launches[0]
                return [KernelReport(first.kernel.name, first.label, error=CRASHED)]
            finally:
                alone.shutdown(cancel_futures=True)

    def close(self) -> None:
        """End the processes, whatever they are at."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._stop.set()
        self._pool.shutdown()

    def _fresh(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, self._context, _end_in_time, (self._stop,))


@dataclasses.dataclass(frozen=True)
class _Nowhere:
    """Stands for a launch's node, which compiling reads for messages alone."""

    loc: str = "a place that the compiling process does not know"
    origin: None = None


_NOWHERE: Any = _Nowhere()


def bare(launches: Sequence[Launch]) -> list[Launch]:
    """Launches that can be sent to another process: what they are compiled from, without the graph around it."""
    return [
        dataclasses.replace(launch, args=_bare(launch.args), reads=(), writes=(), node=_NOWHERE) for launch in launches
    ]


def _bare(value: Any) -> Any:
    if isinstance(value, Slot):
        return Slot(value.kind, value.nbytes)
    if isinstance(value, tuple):
        return tuple(_bare(v) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: _bare(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return value if all(changed[k] is getattr(value, k) for k in changed) else dataclasses.replace(value, **changed)
    return value


def _compile(launches: list[Launch], target: Target) -> Reports:
    with contextlib.redirect_stderr(None):
        return [_brief(report) for report in compile_ahead(launches, target)]


def _brief(report: KernelReport) -> KernelReport:
    """The report with one line of its error: the last one before the one that names the launch."""
    lines = [line.strip() for line in (report.error or "").splitlines() if line.strip()]
    return dataclasses.replace(report, error=lines[-2:][0][:300]) if lines else report


def _end_in_time(stop: Event) -> None:
    """Let this process end when it is told to, or when its parent is killed; an interruption is for the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def after(wait: Callable[[], object]) -> None:
        wait()
        os._exit(1)

    for wait in (parent.join, stop.wait):
        threading.Thread(target=after, args=(wait,), daemon=True).start()
