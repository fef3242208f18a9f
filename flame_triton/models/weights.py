"""Weights in diffusers' files: one safetensors file, or several and an index that says which name is where.

diffusion_pytorch_model.safetensors
diffusion_pytorch_model-00001-of-00003.safetensors ..., diffusion_pytorch_model.safetensors.index.json
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..codegen.atomic import atomic_file
from ..errors import ArgumentError, DTypeError, StateError
from ..runtime.checkpoint import Reader, write
from ..types import DType, DTypeLike, TensorType
from ..types import dtype as as_dtype

if TYPE_CHECKING:
    from ..runtime.buffers import Place

CONFIG_FILE = "config.json"
STEM = "diffusion_pytorch_model"
WEIGHTS_FILE = f"{STEM}.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
_SHARD = re.compile(re.escape(STEM) + r"-\d{5,}-of-\d{5,}\.safetensors")
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

Array = np.ndarray[Any, Any]


# ---- reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FromFile:
    """An initialiser: the array that the files hold under a name, in their own type."""

    files: Files
    name: str

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return self.files.read(self.name)


class Files:
    """The weights in a folder. They stay open until nothing refers to them, so that what was checked is what is read.

    types: what they hold under each name, a DTypeError for a dtype that is not supported. An index goes before a
    single file. Raises StateError for missing or damaged files, and for an index that does not describe its files.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.fspath(folder)
        self._open = contextlib.ExitStack()
        weakref.finalize(self, self._open.close)
        if not os.path.exists(os.path.join(self.folder, INDEX_FILE)):
            reader = self._reader(WEIGHTS_FILE)
            self._owners = dict.fromkeys(reader.types, reader)
        else:
            where = _read_index(os.path.join(self.folder, INDEX_FILE))
            readers = {file: self._reader(file) for file in sorted(set(where.values()))}
            _check_index(self.folder, where, {file: reader.types for file, reader in readers.items()})
            self._owners = {name: readers[file] for name, file in where.items()}
        self.types = {name: reader.types[name] for name, reader in self._owners.items()}

    def _reader(self, file: str) -> Reader:
        return self._open.enter_context(Reader(os.path.join(self.folder, file)))

    def check(self, wanted: Mapping[str, TensorType]) -> None:
        """Raises StateError with one line for every missing, unexpected and mis-shaped name, and every type that does
        not convert: floats go into floats of any size, other types are exact."""
        problems = [
            f"{name}: missing, expected {list(t.shape)}" for name, t in wanted.items() if name not in self.types
        ]
        for name, found in self.types.items():
            want = wanted.get(name)
            if want is None:
                problems.append(f"{name}: unexpected")
            elif isinstance(found, DTypeError):
                problems.append(f"{name}: the file holds {found}")
            elif found.shape != want.shape:
                problems.append(f"{name}: shape {list(found.shape)}, expected {list(want.shape)}")
            elif found.dtype is not want.dtype and not (found.dtype.is_float and want.dtype.is_float):
                problems.append(f"{name}: {found.dtype}, expected {want.dtype}")
        if problems:
            raise StateError(f"the weights in {self.folder} do not fit the model:\n  " + "\n  ".join(problems))

    def common_dtype(self, names: Sequence[str]) -> DType:
        """The dtype that all these have. Raises StateError if there are several, or one that nothing computes in."""
        found = {t.dtype for name in names if isinstance(t := self.types[name], TensorType)}
        if len(found) != 1 or next(iter(found)).is_storage:
            several = " and ".join(sorted(str(d) for d in found))
            raise StateError(f"the weights in {self.folder} are {several}: say which dtype= the parameters shall have")
        return found.pop()

    def initialiser(self, name: str) -> FromFile:
        """What a parameter starts from."""
        return FromFile(self, name)

    def read(self, name: str) -> Array:
        """The array under a name."""
        return self._owners[name].read(name)


def _read_index(path: str) -> dict[str, str]:
    """name -> file, as an index says. Raises StateError for one that is damaged or leaves its own folder."""
    try:
        with open(path, encoding="utf-8") as file:
            where = json.load(file)["weight_map"]
        if not isinstance(where, dict) or not all(isinstance(v, str) for v in where.values()):
            raise ValueError("weight_map is no map from names to files")
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(f"{path} is no index of weights: {error}") from error
    for name, file in where.items():
        if file in ("", ".", "..") or os.path.basename(file) != file:
            raise StateError(f"{path}: {name} is said to be in {file!r}, which is no file of this folder")
    return where


def _check_index(folder: str, where: Mapping[str, str], held: Mapping[str, Mapping[str, object]]) -> None:
    problems = [
        f"{name}: not in {file}, where the index says" for name, file in where.items() if name not in held[file]
    ]
    for file, names in held.items():
        problems += [f"{name}: in {file}, not where the index says" for name in names if where.get(name) != file]
    if problems:
        raise StateError(f"the index in {folder} does not describe its files:\n  " + "\n  ".join(problems))


# ---- writing ---------------------------------------------------------------------------------------------------


def write_folder(
    folder: str | os.PathLike[str],
    config: str,
    places: Mapping[str, Place],
    dtype: DTypeLike | None,
    max_shard_size: int | str,
) -> None:
    """config.json with the text `config`, and weights: see Model.save_pretrained.

    All is first written to a folder beside this one and flushed to disk, then moved.
    """
    target = None if dtype is None else as_dtype(dtype)
    if target is not None and not target.is_float:
        raise ArgumentError(f"dtype must be floating, got {target}", op="save_pretrained")
    types = {
        name: place.type.with_dtype(target) if target and place.type.dtype.is_float else place.type
        for name, place in places.items()
    }
    shards = _shards(types, _size(max_shard_size))
    folder = os.path.abspath(os.fspath(folder))
    parent, name = os.path.split(folder)
    temporary = os.path.join(parent, f".{name[:100]}.{secrets.token_hex(8)}")
    try:
        os.makedirs(temporary)
        for file, names in shards.items():
            held = {name: types[name] for name in names}
            write(
                os.path.join(temporary, file),
                held,
                lambda name: types[name].dtype.convert(places[name].read()),
                {"format": "pt"},
            )
        if list(shards) != [WEIGHTS_FILE]:
            _write_text(os.path.join(temporary, INDEX_FILE), _index(types, shards))
        _write_text(os.path.join(temporary, CONFIG_FILE), config)
        _move(temporary, folder)
    except OSError as error:
        raise StateError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _size(limit: int | str) -> int:
    """Bytes from a number, or from text such as "500MB" or "2GiB". Raises ArgumentError."""
    if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
        return limit
    match = re.fullmatch(r"(\d+)\s*([KMG]I?B)", str(limit).strip().upper())
    if match is None or not int(match[1]):
        raise ArgumentError(
            f"max_shard_size must be bytes, or text such as '10GB', got {limit!r}", op="save_pretrained"
        )
    return int(match[1]) * _UNITS[match[2]]


def _shards(types: Mapping[str, TensorType], limit: int) -> dict[str, list[str]]:
    """file -> names, in order; a file is larger than `limit` only if it holds a single larger array."""
    parts: list[list[str]] = [[]]
    filled = 0
    for name, type in types.items():
        if parts[-1] and filled + type.nbytes > limit:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += type.nbytes
    if len(parts) == 1:
        return {WEIGHTS_FILE: parts[0]}
    return {f"{STEM}-{i:05d}-of-{len(parts):05d}.safetensors": names for i, names in enumerate(parts, 1)}


def _index(types: Mapping[str, TensorType], shards: Mapping[str, Sequence[str]]) -> str:
    where = {name: file for file, names in shards.items() for name in names}
    total = sum(type.nbytes for type in types.values())
    return json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2, sort_keys=True) + "\n"


def _write_text(path: str, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


def _move(source: str, folder: str) -> None:
    """Put the files of `source` into `folder`, the one that makes the new weights count last; remove older ones."""
    if not os.path.isdir(folder):
        os.rename(source, folder)
        _flush(os.path.dirname(folder))
        return
    new = set(os.listdir(source))
    old_index = os.path.join(folder, INDEX_FILE)
    if INDEX_FILE in new:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(old_index)  # from here on to the new one, its shards do not count
            _flush(folder)
    for file in sorted(new, key=lambda file: (file == INDEX_FILE, file == WEIGHTS_FILE, file)):
        os.replace(os.path.join(source, file), os.path.join(folder, file))
    _flush(folder)
    stale = [file for file in os.listdir(folder) if _SHARD.fullmatch(file) or file in (INDEX_FILE, WEIGHTS_FILE)]
    for file in sorted(set(stale) - new, key=lambda file: file != INDEX_FILE):
        os.unlink(os.path.join(folder, file))
    _flush(folder)


def _flush(folder: str) -> None:
    """Make renames within a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
