"""The log of a run: one JSON object a line, readable while the run goes on and after it was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..codegen.atomic import atomic_file
from ..errors import StateError

Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """The records of a log, in order; a last line that was cut off is left out. Raises StateError for any other."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is empty or cut off
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror or error}") from error
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise StateError(f"{path}, line {number}, is no JSON: {error}") from error
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise StateError(f"{path}, line {number}, is no record of a step")
        records.append(record)
    return records


class Log:
    """Appends records to a file; each line has left this process before the next step begins.

    after: the step that the run continues from. Lines of later steps, which the run will take again, are dropped.
    """

    def __init__(self, path: Path, after: int = 0) -> None:
        kept = [json.dumps(r) + "\n" for r in read(path) if r["step"] <= after]
        try:
            with atomic_file(path) as file:
                file.write("".join(kept).encode())
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise StateError(f"{path} cannot be written: {error.strerror or error}") from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record. Raises StateError if it cannot be written."""
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise StateError(f"the log cannot be written: {error.strerror or error}") from error

    def sync(self) -> None:
        """Return when every record is on disk: before a checkpoint, which must not know more than the log."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StateError(f"the log cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()
