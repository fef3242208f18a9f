"""safetensors files: written atomically, read with every claim of the header checked first. Nothing is unpickled.

The format: 8 bytes header length (little endian), a JSON header {name: {dtype, shape, data_offsets}}, raw bytes.
https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import safetensors

from ..codegen.atomic import atomic_file
from ..errors import DTypeError, StateError
from ..types import (
    DType,
    TensorType,
    bfloat16,
    bool_,
    float8_e4m3fn,
    float8_e5m2,
    float16,
    float32,
    float64,
    int32,
    int64,
    uint8,
)

Array = np.ndarray[Any, Any]

_CODES: dict[DType, str] = {
    float64: "F64",
    float32: "F32",
    bfloat16: "BF16",
    float16: "F16",
    float8_e4m3fn: "F8_E4M3",
    float8_e5m2: "F8_E5M2",
    int64: "I64",
    int32: "I32",
    uint8: "U8",
    bool_: "BOOL",
}
_BY_CODE = {code: dtype for dtype, code in _CODES.items()}


def contents(
    types: Mapping[str, TensorType], read: Callable[[str], Array], metadata: Mapping[str, str]
) -> Iterator[memoryview]:
    """The bytes of a safetensors file, piece by piece: the header, then one array after another.

    `read(name)` gives an array of the type named so; one at a time is in memory. Raises StateError.
    """
    if not all(isinstance(k, str) and isinstance(v, str) for k, v in metadata.items()):
        raise StateError("the metadata of a safetensors file maps text to text")
    if "__metadata__" in types:
        raise StateError("a parameter must not be called '__metadata__' in a safetensors file")
    order = sorted(types, key=lambda name: -types[name].dtype.itemsize)  # keeps every array aligned to its itemsize
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        begin, end = end, end + types[name].nbytes
        header[name] = {
            "dtype": _CODES[types[name].dtype],
            "shape": list(types[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in order:
        yield np.ascontiguousarray(read(name)).reshape(-1).view(np.uint8).data


def write(
    path: str | os.PathLike[str],
    types: Mapping[str, TensorType],
    read: Callable[[str], Array],
    metadata: Mapping[str, str],
) -> None:
    """Write `contents` to a file, which appears under its name only when it is whole and on disk. Raises StateError."""
    try:
        with atomic_file(path) as file:
            for piece in contents(types, read, metadata):
                file.write(piece)
    except OSError as error:
        raise StateError(f"{os.fspath(path)} cannot be written: {error.strerror or error}") from error


class Reader:
    """An open safetensors file. types: what it holds under each name, a DTypeError for a dtype that is not supported.

    Raises StateError if the file is missing or damaged: a header that is no JSON or does not cover the data exactly,
    sizes that contradict shapes, names that occur twice.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._files = contextlib.ExitStack()
        self.metadata: dict[str, str] = {}
        self.types: dict[str, TensorType | DTypeError] = {}
        self._spans: dict[str, tuple[int, int]] = {}
        try:
            with safetensors.safe_open(self.path, framework="numpy"):
                pass  # the library has checked sizes, offsets and the header's form
            self._file: BinaryIO = self._files.enter_context(open(self.path, "rb"))
            self._parse()
        except OSError as error:
            self._files.close()
            raise StateError(f"{self.path} cannot be read: {error.strerror or error}") from error
        except (safetensors.SafetensorError, ValueError, KeyError, RecursionError) as error:
            self._files.close()
            raise StateError(f"{self.path} is no sound safetensors file: {error}") from error

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def _parse(self) -> None:
        length = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(length), object_pairs_hook=without_twins)
        self.metadata = dict(header.pop("__metadata__", None) or {})
        for name, entry in header.items():
            dtype = _BY_CODE.get(entry["dtype"])
            shape = tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            if dtype is None:
                self.types[name] = DTypeError(f"the unsupported dtype {entry['dtype']}")
                continue
            self.types[name] = TensorType(shape, dtype)
            self._spans[name] = (8 + length + begin, end - begin)

    def digest(self) -> tuple[int, str]:
        """Size in bytes and SHA-256 of the whole file, read piece by piece. Raises StateError if it cannot be read."""
        try:
            self._file.seek(0)
            digest = hashlib.file_digest(self._file, "sha256")  # type: ignore[arg-type]
            return self._file.tell(), digest.hexdigest()
        except OSError as error:
            raise StateError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def read(self, name: str) -> Array:
        """The array under a name. Raises StateError if the file has become shorter meanwhile."""
        found = self.types[name]
        if isinstance(found, DTypeError):
            raise StateError(f"{self.path}: {name} has {found}")
        begin, nbytes = self._spans[name]
        raw = np.empty(nbytes, np.uint8)
        try:
            self._file.seek(begin)
            if self._file.readinto(memoryview(raw)) != nbytes:  # type: ignore[attr-defined]
                raise StateError(f"{self.path} ends within {name!r}")
        except OSError as error:
            raise StateError(f"{self.path} cannot be read: {error.strerror or error}") from error
        return raw.view(found.dtype.numpy).reshape(found.shape)


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. Raises ValueError for a key that occurs twice."""
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"{key!r} occurs twice in the header")
        table[key] = value
    return table
