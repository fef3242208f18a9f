"""The folder of a run: its log, its pictures and its checkpoints.

A checkpoint is one safetensors file: every parameter of the State, and beside them, as metadata, the step, the position
in the data and the configuration. It appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, StateError
from ..runtime.checkpoint import Reader
from ..runtime.state import State

_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.safetensors")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Progress:
    """Where a run stands. step: steps taken; position: batches taken from the data; config: of model and training."""

    step: int
    position: int
    config: Mapping[str, Any]

    def metadata(self) -> dict[str, str]:
        """As the text map that a safetensors file holds."""
        return {"step": str(self.step), "position": str(self.position), "config": json.dumps(dict(self.config))}


def read_progress(path: Path) -> Progress:
    """What a checkpoint says of itself. Raises StateError if it is no checkpoint of a run."""
    with Reader(path) as reader:
        metadata = reader.metadata
    try:
        step, position, config = (json.loads(metadata[key]) for key in ("step", "position", "config"))
    except (KeyError, ValueError) as error:
        raise StateError(f"{path} is no checkpoint of a run: its metadata lacks step, position or config") from error
    if not isinstance(step, int) or not isinstance(position, int) or not isinstance(config, dict):
        raise StateError(f"{path} is no checkpoint of a run: step, position or config is of the wrong kind")
    return Progress(step, position, config)


class RunFolder:
    """root/name, made when it is needed. keep: how many checkpoints stay; older ones are deleted.

    Raises ArgumentError for a name that is no plain file name, StateError if the folder cannot be made.
    """

    def __init__(self, root: Path, name: str, keep: int = 3) -> None:
        if not _NAME.fullmatch(name):
            raise ArgumentError(f"a run's name is letters, digits, '.', '_' and '-', got {name!r}")
        if keep < 1:
            raise ArgumentError(f"at least one checkpoint must be kept, got keep={keep}")
        self.path, self.keep = root / name, keep
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

    def used(self) -> bool:
        """True if a run has written here."""
        return self.log.exists() or bool(self.checkpoints())

    def checkpoints(self) -> list[Path]:
        """Paths of the checkpoints, oldest step first."""
        found = [(int(m[1]), p) for p in self.path.glob("checkpoint-*") if (m := _CHECKPOINT.fullmatch(p.name))]
        return [p for _, p in sorted(found)]

    def latest(self) -> Path:
        """The checkpoint of the highest step. Raises StateError if there is none."""
        found = self.checkpoints()
        if not found:
            raise StateError(f"{self.path} holds no checkpoint")
        return found[-1]

    def save(self, state: State, progress: Progress) -> Path:
        """Write a checkpoint, then delete those beyond `keep`."""
        path = self.path / f"checkpoint-{progress.step}.safetensors"
        state.save(path, progress.metadata())
        for old in self.checkpoints()[: -self.keep]:
            if old != path:
                old.unlink(missing_ok=True)
        return path


def new_run(root: Path, stem: str, keep: int = 3) -> RunFolder:
    """A folder that no run has used: root/stem, else root/stem-2, root/stem-3, ..."""
    number = 1
    while True:
        folder = RunFolder(root, stem if number == 1 else f"{stem}-{number}", keep)
        if not folder.used():
            return folder
        number += 1
