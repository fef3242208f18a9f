"""The folder of a run: its log, its pictures and its checkpoints, checkpoint-STEP, which runtime/shards.py writes.

Only one process at a time may train in it. One that was killed leaves no checkpoint in part: at most hidden files,
which the next one deletes. docs/checkpoints.md says what is guaranteed.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ..errors import ArgumentError, StateError
from ..runtime import shards
from ..runtime.checkpoint import Reader
from ..runtime.disk import Disk
from ..runtime.shards import Shards, open_checkpoint
from ..runtime.state import State
from ..types import TensorType

Array = np.ndarray[Any, Any]

_CHECKPOINT = re.compile(r"checkpoint-(\d+)(\.safetensors)?")  # with the ending: the older format, one file
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Progress:
    """Where a run stands. step: steps taken; position: batches taken from the data; config: of model and training."""

    step: int
    position: int
    config: Mapping[str, Any]


def read_progress(source: Path | Reader | Shards) -> Progress:
    """What a checkpoint says of itself. Raises StateError if it is damaged, or no checkpoint of a run."""
    with contextlib.nullcontext(source) if not isinstance(source, Path) else open_checkpoint(source) as reader:
        path, metadata = reader.path, reader.metadata
    try:
        step, position, config = (json.loads(metadata[key]) for key in ("step", "position", "config"))
    except (KeyError, ValueError) as error:
        raise StateError(f"{path} is no checkpoint of a run: its metadata lacks step, position or config") from error
    if not isinstance(step, int) or not isinstance(position, int) or not isinstance(config, dict):
        raise StateError(f"{path} is no checkpoint of a run: step, position or config is of the wrong kind")
    return Progress(step, position, config)


class RunFolder:
    """root/name: the files of one run. Nothing is made before something is written.

    keep: so many of the newest checkpoints stay; keep_every: those of steps that it divides stay as well, for ever.
    shard_bytes: the most that one file of a checkpoint holds; disk: what writes them.
    Raises ArgumentError for a name that is no plain file name, StateError if a file is in the way.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        keep: int = 3,
        keep_every: int | None = None,
        *,
        shard_bytes: int = shards.SHARD_BYTES,
        disk: Disk | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ArgumentError(f"a run's name is letters, digits, '.', '_' and '-', got {name!r}")
        if keep < 1:
            raise ArgumentError(f"at least one checkpoint must be kept, got keep={keep}")
        if keep_every is not None and keep_every < 1:
            raise ArgumentError(f"keep_every is a number of steps, got {keep_every}")
        self.path, self.keep, self.keep_every = root / name, keep, keep_every
        self._shard_bytes, self._disk = shard_bytes, disk or Disk()
        self._lock = FileLock(self.path / ".lock", timeout=0, thread_local=False)
        for folder in (root, self.path):
            if folder.exists() and not folder.is_dir():
                raise StateError(f"{folder} is a file; it should be a folder for runs. Move it, or name another")

    @property
    def log(self) -> Path:
        """The file of the log, whether or not it is there."""
        return self.path / "log.jsonl"

    def make(self) -> None:
        """Make the folder on disk. Raises StateError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"the folder {self.path} cannot be made: {error.strerror or error}") from error

    @contextlib.contextmanager
    def occupied(self) -> Iterator[None]:
        """Within, this process alone writes here, and what killed ones left is gone. May be entered again within.

        Raises StateError if another process trains here; CheckpointError.
        """
        self.make()
        try:
            self._lock.acquire()
        except Timeout as error:
            raise StateError(f"another process trains in {self.path}; wait for it, or name another run") from error
        except OSError as error:
            raise StateError(f"{self.path} cannot be written: {error.strerror or error}") from error
        try:
            shards.sweep(self.path, self._disk)
            yield
        finally:
            self._lock.release()

    def used(self) -> bool:
        """True if a run has written here."""
        return self.log.exists() or bool(self.checkpoints())

    def steps(self) -> dict[int, Path]:
        """Step -> checkpoint, in order of step."""
        found = {int(m[1]): p for p in self.path.glob("checkpoint-*") if (m := _CHECKPOINT.fullmatch(p.name))}
        return dict(sorted(found.items()))

    def checkpoints(self) -> list[Path]:
        """Paths of the checkpoints, oldest step first."""
        return list(self.steps().values())

    def latest(self) -> Path:
        """The checkpoint of the highest step. Raises StateError if there is none."""
        found = self.checkpoints()
        if not found:
            raise StateError(f"{self.path} holds no checkpoint")
        return found[-1]

    def save(self, state: State, progress: Progress) -> Path:
        """Write a checkpoint of a State, array by array, and delete old ones. Raises CheckpointError."""
        return self.write(state.types, lambda name: state[name], facts(state, progress))

    def write(self, types: Mapping[str, TensorType], read: Callable[[str], Array], run: Mapping[str, Any]) -> Path:
        """Write a checkpoint of run["step"]; then, if it reads back sound, delete those beyond `keep`.

        Raises CheckpointError if it cannot be written, or is not what was written; then nothing is deleted.
        """
        path = self.path / f"checkpoint-{run['step']}"
        shards.write(path, types, read, run, shard_bytes=self._shard_bytes, disk=self._disk)
        superfluous = self._superfluous(path)
        if superfluous:
            Shards(path).__exit__()
        for old in superfluous:
            shards.delete(old, self._disk)
        return path

    def _superfluous(self, newest: Path) -> list[Path]:
        """Checkpoints that neither `keep` nor `keep_every` holds; never the one just written."""
        passing = {s: p for s, p in self.steps().items() if not self.keep_every or s % self.keep_every or not s}
        return [p for p in list(passing.values())[: -self.keep] if p != newest]

    def set_aside(self, after: int) -> list[Path]:
        """Rename the checkpoints of later steps to superseded-STEP: the run is about to take these steps again.

        They are never read or deleted from then on. Returns their new paths.
        """
        moved = []
        for step, path in reversed(self.steps().items()):  # a kill in between leaves a shorter run, not one with a gap
            if step <= after:
                break
            stem, number = path.name.replace("checkpoint", "superseded"), 1
            while (target := self.path / (stem if number == 1 else f"{stem}.{number}")).exists():
                number += 1
            try:
                self._disk.rename(path, target)
            except OSError as error:
                raise StateError(f"{path} cannot be set aside: {error.strerror or error}") from error
            moved.append(target)
        return moved


def facts(state: State, progress: Progress) -> dict[str, Any]:
    """What a checkpoint says of its run, beside the tensors of the State."""
    return {
        "step": progress.step,
        "position": progress.position,
        "seed": state.seed,
        "device": str(state.device),
        "config": dict(progress.config),
    }


def new_run(root: Path, stem: str, keep: int = 3, keep_every: int | None = None) -> RunFolder:
    """A folder that no run has used: root/stem, else root/stem-2, root/stem-3, ..."""
    number = 1
    while True:
        folder = RunFolder(root, stem if number == 1 else f"{stem}-{number}", keep, keep_every)
        if not folder.used():
            return folder
        number += 1
