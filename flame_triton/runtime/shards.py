"""A checkpoint: a folder of safetensors shards, and a manifest that says what each of them must be.

    checkpoint-500/
        state-00001-of-00002.safetensors
        state-00002-of-00002.safetensors
        manifest.json

The folder is written under a hidden name: shards first, each synced to disk, then the manifest, then the folder's own
names; one rename makes it a checkpoint, and the sync of the folder above makes that last. A reader verifies every size
and SHA-256, the manifest's own among them, before it hands out the first number. docs/checkpoints.md has the format.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError, CheckpointError, DTypeError, StateError
from ..types import TensorType
from .checkpoint import Reader, contents, without_twins
from .disk import Disk

Array = np.ndarray[Any, Any]

MANIFEST = "manifest.json"
SHARD_BYTES = 4 << 30
_FORMAT = "flame_triton checkpoint"
_VERSION = 1
_PIECE = 8 << 20  # so much is hashed, then written, while it is in the cache
_LARGEST_MANIFEST = 64 << 20
_SHARD = re.compile(r"state-\d{5}-of-\d{5}\.safetensors")
_HIDDEN = re.compile(r"\.(checkpoint-\d+(?:\.safetensors)?)\.[0-9a-f]{16}(\.partial|\.removed|\.replaced)?")


# ---- writing ----------------------------------------------------------------------------------------------------


def write(
    path: Path,
    types: Mapping[str, TensorType],
    read: Callable[[str], Array],
    run: Mapping[str, Any],
    *,
    shard_bytes: int = SHARD_BYTES,
    disk: Disk | None = None,
) -> None:
    """Write a checkpoint: one array of each type, and what there is to say of the run, as JSON.

    `read(name)` gives the arrays one after another, so that one at a time is in memory; no shard is larger than
    shard_bytes, but for an array that is. What stood under the name is replaced.
    Raises CheckpointError; every other checkpoint is as it was.
    """
    disk = disk or Disk()
    if shard_bytes < 1:
        raise ArgumentError(f"a shard needs at least one byte, got shard_bytes={shard_bytes}")
    hidden = _hidden(path, "partial")
    try:
        disk.make(hidden)
        shards = _plan(types, shard_bytes)
        files = {
            name: _write_file(disk, hidden / name, contents({t: types[t] for t in members}, read, {}))
            for name, members in shards.items()
        }
        tensors = {tensor: name for name, members in shards.items() for tensor in members}
        _write_file(disk, hidden / MANIFEST, iter([_manifest(run, files, tensors)]))
        disk.sync_folder(hidden)
        _put_in_place(disk, hidden, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            _empty(disk, hidden)
        raise CheckpointError(
            f"the checkpoint {path} cannot be written: {error.strerror or error}. Earlier checkpoints are as they were"
        ) from error
    except BaseException:
        with contextlib.suppress(OSError):
            _empty(disk, hidden)
        raise


def _hidden(path: Path, what: str) -> Path:
    """A name beside `path` that nobody takes for a checkpoint, and that `sweep` knows."""
    return path.parent / f".{path.name}.{secrets.token_hex(8)}.{what}"


def _plan(types: Mapping[str, TensorType], shard_bytes: int) -> dict[str, list[str]]:
    """Shard -> the arrays in it: in order, as many as fit."""
    groups: list[list[str]] = [[]]
    held = 0
    for name, type in types.items():
        if groups[-1] and held + type.nbytes > shard_bytes:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += type.nbytes
    return {f"state-{i:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups, 1)}


def _write_file(disk: Disk, path: Path, pieces: Iterator[memoryview]) -> dict[str, Any]:
    """Write a file and sync it. Returns the manifest's claim: size and SHA-256 of what was meant to be written."""
    digest, size = hashlib.sha256(), 0
    with disk.create(path) as file:
        for piece in pieces:
            for start in range(0, len(piece), _PIECE):
                part = piece[start : start + _PIECE]
                digest.update(part)
                disk.write(file, part)
            size += len(piece)
        disk.sync(file)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _manifest(run: Mapping[str, Any], files: Mapping[str, Any], tensors: Mapping[str, str]) -> memoryview:
    table = {
        "format": _FORMAT,
        "version": _VERSION,
        "written_by": versions(),
        "run": dict(run),
        "files": files,
        "tensors": tensors,
    }
    try:
        return memoryview(json.dumps({**table, "sha256": _own_digest(table)}, indent=1).encode())
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"what a checkpoint says of its run must be JSON: {error}") from error


def _own_digest(table: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without the line that holds it."""
    rest = {key: value for key, value in table.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def versions() -> dict[str, str]:
    """The versions of what decides about the last bit of a number."""
    found = {"flame_triton": str(import_module("flame_triton").__version__)}
    for package in ("triton", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _put_in_place(disk: Disk, hidden: Path, path: Path) -> None:
    """Give a whole folder its name. What had it is deleted afterwards; after a kill between, `sweep` restores it."""
    old = None
    if os.path.lexists(path):
        old = _hidden(path, "replaced")
        disk.rename(path, old)
    try:
        disk.rename(hidden, path)
    except OSError:
        if old is not None:
            disk.rename(old, path)
        raise
    disk.sync_folder(path.parent)
    if old is not None:
        _empty(disk, old)


# ---- deleting -----------------------------------------------------------------------------------------------------


def delete(path: Path, disk: Disk | None = None) -> None:
    """Delete a checkpoint, so that it is never seen in part. Raises CheckpointError."""
    disk, hidden = disk or Disk(), _hidden(path, "removed")
    try:
        disk.rename(path, hidden)
        disk.sync_folder(path.parent)  # the name must be gone for good before the first file is
        _empty(disk, hidden)
    except OSError as error:
        raise CheckpointError(f"the old checkpoint {path} cannot be deleted: {error.strerror or error}") from error


def sweep(folder: Path, disk: Disk | None = None) -> list[str]:
    """Tidy up after killed writers: delete what they left unfinished, put back what they were about to replace.

    Only for one who knows that nobody else writes here. Returns the names found. Raises CheckpointError.
    """
    disk, found = disk or Disk(), []
    try:
        for orphan in sorted(folder.iterdir()):
            if not (match := _HIDDEN.fullmatch(orphan.name)):
                continue
            found.append(orphan.name)
            if match[2] == ".replaced" and not os.path.lexists(folder / match[1]):
                disk.rename(orphan, folder / match[1])
                disk.sync_folder(folder)
            else:
                _empty(disk, orphan)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be tidied up: {error.strerror or error}") from error
    return found


def _empty(disk: Disk, path: Path) -> None:
    """Delete a file, or a folder and what is in it."""
    if path.is_dir() and not path.is_symlink():
        for inner in sorted(path.iterdir()):
            _empty(disk, inner)
    disk.remove(path)


# ---- reading ------------------------------------------------------------------------------------------------------


class Shards:
    """An open checkpoint, verified whole: every file has the size and SHA-256 that the manifest claims.

    types, metadata, read: as Reader has them; run, written_by: what the manifest says. The files stay open, so that
    deleting the checkpoint meanwhile does no harm. Raises CheckpointError, naming everything that is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.types: dict[str, TensorType | DTypeError] = {}
        self._readers: dict[str, Reader] = {}
        with contextlib.ExitStack() as files:
            manifest = read_manifest(self.path)
            self.run: dict[str, Any] = manifest["run"]
            self.written_by: dict[str, str] = manifest["written_by"]
            self.metadata = {key: json.dumps(value) for key, value in self.run.items()}
            problems: list[str] = []
            for name in manifest["files"]:
                try:
                    self._readers[name] = files.enter_context(Reader(self.path / name))
                except StateError as error:
                    problems.append(str(error))
            with ThreadPoolExecutor(4) as pool:
                checks = pool.map(lambda n: _difference(n, self._readers[n], manifest["files"][n]), self._readers)
                problems += [problem for problem in checks if problem]
            self._where: dict[str, str] = manifest["tensors"]
            if not problems:
                problems = self._index()
            if problems:
                raise _damaged(self.path, problems)
            self._files = files.pop_all()

    def _index(self) -> list[str]:
        """Fill `types`. Returns how the manifest's table of tensors differs from what the shards hold."""
        held = {tensor: shard for shard, reader in self._readers.items() for tensor in reader.types}
        wrong = sorted(t for t in {*held, *self._where} if held.get(t) != self._where.get(t))
        if not wrong and sum(len(r.types) for r in self._readers.values()) == len(held):
            self.types = {tensor: self._readers[shard].types[tensor] for tensor, shard in self._where.items()}
            return []
        return [f"{MANIFEST} says another place than the shards for: {', '.join(wrong) or 'tensors that occur twice'}"]

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def read(self, name: str) -> Array:
        """The array under a name. Raises StateError if the disk fails."""
        return self._readers[self._where[name]].read(name)


def _difference(name: str, reader: Reader, claim: Mapping[str, Any]) -> str | None:
    """What is wrong with a shard, if anything."""
    try:
        size, digest = reader.digest()
    except StateError as error:
        return str(error)
    if size != claim["bytes"]:
        return f"{name} has {size} bytes, {MANIFEST} says {claim['bytes']}"
    return None if digest == claim["sha256"] else f"{name} has another SHA-256 than {MANIFEST} says"


def _damaged(path: Path, problems: list[str]) -> CheckpointError:
    return CheckpointError(f"the checkpoint {path} is damaged:\n  " + "\n  ".join(problems))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, checked against its own SHA-256; the shards are not looked at.

    Raises CheckpointError if it is missing, damaged, or of a later format.
    """
    try:
        with open(path / MANIFEST, "rb") as file:
            text = file.read(_LARGEST_MANIFEST + 1)
    except FileNotFoundError as error:
        raise _damaged(path, [f"there is no {MANIFEST}"]) from error
    except OSError as error:
        raise CheckpointError(f"{path / MANIFEST} cannot be read: {error.strerror or error}") from error
    try:
        table = json.loads(text, object_pairs_hook=without_twins)
        sound = isinstance(table, dict) and table.get("sha256") == _own_digest(table)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, [f"{MANIFEST} is no JSON: {error}"]) from error
    if isinstance(table, dict) and table.get("format") == _FORMAT and table.get("version") != _VERSION:
        raise CheckpointError(
            f"{path} has the format version {table.get('version')}; this flame_triton reads version {_VERSION}"
        )
    if not sound:
        raise _damaged(path, [f"{MANIFEST} has another SHA-256 than it says"])
    if not _well_formed(table):
        raise _damaged(path, [f"{MANIFEST} is no manifest of a checkpoint"])
    return table


def _well_formed(table: Mapping[str, Any]) -> bool:
    """Every part that is used later has its kind; no file lies outside the folder."""
    parts = [table.get(key) for key in ("run", "written_by", "files", "tensors")]
    if table.get("format") != _FORMAT or not all(isinstance(part, dict) for part in parts):
        return False
    files, tensors = table["files"], table["tensors"]
    claims = all(
        _SHARD.fullmatch(name)
        and isinstance(claim, dict)
        and isinstance(claim.get("bytes"), int)
        and isinstance(claim.get("sha256"), str)
        for name, claim in files.items()
    )
    return claims and all(isinstance(file, str) and file in files for file in tensors.values())


def open_checkpoint(path: str | os.PathLike[str]) -> Reader | Shards:
    """A checkpoint, verified and open: a folder of shards, or a single safetensors file. Raises StateError."""
    return Shards(path) if os.path.isdir(path) else Reader(path)
