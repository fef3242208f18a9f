"""Measured configurations on disk: one row per problem, configuration, kernel source, device and compiler versions.

The store is one sqlite file with a write-ahead log, so any number of processes may read and write it at once, and what
was written survives a process that is killed. Tables are the same rows as JSON with a checksum, to ship and exchange.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ..codegen.atomic import atomic_file
from ..errors import StateError
from .choices import Problem

OK, SPILLED, SHARED = "ok", "spilled", "too much shared memory"
SERIALISED, WRONG = "serialised wgmma", "wrong numbers"
UNCOMPILED, FAILED = "failed to compile", "failed"
STATUSES = (OK, SPILLED, SHARED, SERIALISED, WRONG, UNCOMPILED, FAILED)

VERSION = 1
FORMAT = "flame_triton tuning table"
PATIENCE = 60.0  # seconds to wait for other processes

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One measured configuration.

    device: its name; triton, ptxas: versions; family, facts: the problem; config: see choices.as_json; kernel: digest
    of its source (fingerprint.py); status: one of STATUSES; microseconds: the median, None unless measured; runs: how
    many that is the median of; note: why it was not measured.
    """

    device: str
    triton: str
    ptxas: str
    family: str
    facts: str
    config: str
    kernel: str
    status: str
    microseconds: float | None = None
    runs: int = 0
    note: str = ""

    @property
    def problem(self) -> Problem:
        return Problem(self.family, self.facts)


_COLUMNS = ", ".join(f.name for f in fields(Row))
_PLACES = ", ".join("?" for _ in fields(Row))
_SCHEMA = """
CREATE TABLE results (
    device TEXT NOT NULL, triton TEXT NOT NULL, ptxas TEXT NOT NULL, family TEXT NOT NULL, facts TEXT NOT NULL,
    config TEXT NOT NULL, kernel TEXT NOT NULL, status TEXT NOT NULL, microseconds REAL, runs INTEGER NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (device, triton, family, facts, config, kernel, ptxas)
) WITHOUT ROWID
"""


class Store:
    """An open store. create: make it if it is not there; otherwise it is opened for reading alone.

    Raises StateError for a file that is damaged, no store, or of another version, and if it cannot be opened.
    """

    def __init__(self, path: Path, create: bool = True) -> None:
        self.path = path
        if create:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StateError(f"the folder {path.parent} cannot be made: {error.strerror}") from error
        elif not path.exists():
            raise StateError(f"there is no store {path}; `flame-triton tune` makes one")
        with self._explained():
            where = f"{path.resolve().as_uri()}?mode={'rwc' if create else 'ro'}"
            self._connection = sqlite3.connect(where, uri=True, timeout=PATIENCE, isolation_level=None)
            try:
                if create:
                    _patiently(self._prepare)
                found = self._connection.execute("PRAGMA user_version").fetchone()[0]
            except BaseException:
                self._connection.close()
                raise
        if found != VERSION:
            self._connection.close()
            raise StateError(f"{path} is no store of version {VERSION} (it says {found}); move it away")

    def _prepare(self) -> None:
        """Make the table, if no other process has; the log is written ahead and flushed by the system."""
        execute = self._connection.execute
        if not execute("PRAGMA user_version").fetchone()[0]:
            execute("BEGIN IMMEDIATE")
            try:
                if not execute("PRAGMA user_version").fetchone()[0]:
                    if execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                        raise StateError(f"{self.path} is a database of something else")
                    execute(_SCHEMA)
                    execute(f"PRAGMA user_version = {VERSION}")
                execute("COMMIT")
            except BaseException:
                execute("ROLLBACK")
                raise
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StateError(f"the store {self.path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"the store {self.path} is damaged ({error}); move it away, a new one is made by the next `tune`"
            ) from error

    def put(self, rows: Iterable[Row]) -> None:
        """Enter rows, all or none; a row of the same problem, configuration and versions is replaced."""
        entries = [astuple(row) for row in rows]

        def write() -> None:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(f"INSERT OR REPLACE INTO results ({_COLUMNS}) VALUES ({_PLACES})", entries)
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

        with self._explained():
            _patiently(write)

    def best(self, device: str, triton: str, problem: Problem) -> list[Row]:
        """What was measured for a problem, the fastest first."""
        return self._select(
            "device = ? AND triton = ? AND family = ? AND facts = ? AND status = 'ok' ORDER BY microseconds, config",
            (device, triton, problem.family, problem.facts),
        )

    def known(self, device: str, triton: str, ptxas: str, problem: Problem) -> dict[tuple[str, str], Row]:
        """Every row of a problem by configuration and kernel."""
        where = "device = ? AND triton = ? AND family = ? AND facts = ? AND ptxas = ?"
        rows = self._select(where, (device, triton, problem.family, problem.facts, ptxas))
        return {(row.config, row.kernel): row for row in rows}

    def rows(self) -> list[Row]:
        """Every row, in an order that does not depend on when it was written."""
        return self._select("TRUE ORDER BY device, triton, family, facts, config, kernel, ptxas", ())

    def count(self, device: str, triton: str) -> int:
        """Problems with a measured configuration."""
        with self._explained():
            return self._connection.execute(
                "SELECT count(*) FROM (SELECT DISTINCT family, facts FROM results "
                "WHERE device = ? AND triton = ? AND status = 'ok')", (device, triton),
            ).fetchone()[0]  # fmt: skip

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _select(self, where: str, values: Sequence[Any]) -> list[Row]:
        with self._explained():
            found = self._connection.execute(f"SELECT {_COLUMNS} FROM results WHERE {where}", values)
            return [Row(*entry) for entry in found]


def _patiently(action: Callable[[], T]) -> T:
    """`action`, again while another process holds the file: sqlite itself waits for some locks, not for all."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if ("locked" not in str(error) and "busy" not in str(error)) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def fastest(rows: Iterable[Row]) -> list[Row]:
    """The fastest row of every problem on every device and triton."""
    best: dict[tuple[str, ...], Row] = {}
    for row in rows:
        if row.status != OK or row.microseconds is None:
            continue
        key = (row.device, row.triton, row.family, row.facts)
        if key not in best or row.microseconds < (best[key].microseconds or math.inf):
            best[key] = row
    return list(best.values())


# ---- tables ----------------------------------------------------------------------------------------------------


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Rows as a JSON file, whole or not at all. Raises StateError if it cannot be written."""
    entries = [asdict(row) for row in rows]
    document = {"format": FORMAT, "version": VERSION, "sha256": _checksum(entries), "rows": entries}
    try:
        with atomic_file(path) as file:
            file.write(json.dumps(document, indent=1).encode() + b"\n")
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror or error}") from error


def read_table(path: Path) -> list[Row]:
    """The rows of a JSON file. Raises StateError if it is damaged, no table, or of another version."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise StateError(f"{path} is no JSON, or cut off: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StateError(f"{path} is no tuning table")
    if document.get("version") != VERSION:
        raise StateError(f"{path} is a table of version {document.get('version')!r}; this is version {VERSION}")
    entries = document.get("rows")
    if not isinstance(entries, list) or document.get("sha256") != _checksum(entries):
        raise StateError(f"{path} is damaged: its checksum does not fit its rows")
    return [_row(path, i, entry) for i, entry in enumerate(entries)]


def _row(path: Path, position: int, entry: Any) -> Row:
    """One entry of a table. Raises StateError naming what is wrong with it."""

    def refuse(what: str) -> StateError:
        return StateError(f"{path}, row {position}: {what}")

    names = [f.name for f in fields(Row)]
    if not isinstance(entry, dict) or set(entry) != set(names):
        raise refuse(f"expected the fields {', '.join(names)}")
    texts = [n for n in names if n not in ("microseconds", "runs")]
    wrong = [n for n in texts if not isinstance(entry[n], str)]
    if wrong:
        raise refuse(f"{', '.join(wrong)} must be text")
    if type(entry["runs"]) is not int or entry["runs"] < 0:
        raise refuse("runs must be a number of runs")
    if entry["status"] not in STATUSES:
        raise refuse(f"unknown status {entry['status']!r}; known are {', '.join(STATUSES)}")
    time = entry["microseconds"]
    if time is not None and (type(time) not in (int, float) or not 0 < time < math.inf):
        raise refuse(f"microseconds must be a positive number, got {time!r}")
    if (time is None) == (entry["status"] == OK):
        raise refuse("a row has a time exactly if its status is 'ok'")
    for name in ("facts", "config"):
        try:
            readable = isinstance(json.loads(entry[name]), dict)
        except ValueError:
            readable = False
        if not readable:
            raise refuse(f"{name} must be a JSON object")
    return Row(**entry)


def _checksum(entries: Any) -> str:
    text = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
