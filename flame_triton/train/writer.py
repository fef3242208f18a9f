"""Checkpoints written beside training: the State is copied to the host, training goes on, a thread writes the copy."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError, CheckpointWarning
from ..runtime.buffers import memory_info
from ..runtime.state import State
from .folder import Progress, RunFolder, facts

HOST_SHARE = 0.5
"""A State larger than this share of the host's available memory is written from where it is, while training waits."""

MAX_FAILED = 3
"""So many checkpoints that could not be written, one after the other, end the run."""


class Writer:
    """Writes the checkpoints of one run, one at a time.

    A checkpoint that cannot be written is a CheckpointWarning, and training goes on: a full disk may be mended before
    the next one. The last one of a run, and the third failure in a row, raise CheckpointError. Errors come up in the
    thread that calls `save`, `check` or `close`.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._failed = 0

    def save(self, state: State, progress: Progress) -> None:
        """Take a copy of the State as it is now, and begin to write it; waits for the checkpoint before it."""
        self._join()
        self._report()
        run = facts(state, progress)
        if state.nbytes > HOST_SHARE * memory_info("cpu").available:
            self._write(state, run)
            return
        arrays = state.snapshot().arrays
        # Not a daemon: Python waits for it at exit, whatever ends the run.
        self._thread = threading.Thread(target=self._write, args=(state, run, arrays), name="checkpoint", daemon=False)
        self._thread.start()

    def check(self) -> None:
        """Say at once what went wrong, if the writing has come to an end. Costs nothing."""
        if self._thread is not None and not self._thread.is_alive():
            self._join()
            self._report()

    def close(self) -> None:
        """Wait for the last checkpoint. Raises CheckpointError if it could not be written."""
        self._join()
        self._report(last=True)

    def abandon(self) -> None:
        """Wait for the last checkpoint when the run ends by another error: if that one failed too, it is a warning."""
        self._join()
        if self._error is not None:
            warnings.warn(str(self._error), CheckpointWarning, 3)

    def _write(self, state: State, run: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> None:
        try:
            self._folder.write(state.types, (state if arrays is None else arrays).__getitem__, run)
            self._failed = 0
        except BaseException as error:  # it belongs to the main thread, which raises it
            self._error = error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _report(self, last: bool = False) -> None:
        error, self._error = self._error, None
        if error is None:
            return
        self._failed += 1
        if last or self._failed >= MAX_FAILED or not isinstance(error, CheckpointError):
            raise error
        warnings.warn(f"{error}. Training goes on; the next checkpoint is tried in time", CheckpointWarning, 3)
