"""Generated kernel modules on disk. Triton compiles functions from files only, so generated source needs one.

A module called `name` lives at <cache>/kernels/<name>_<first 16 hex digits of its source's SHA-256>.py; its first line
holds the whole checksum. What is run is always the source that was asked for: a file that differs from it in any byte
is a damaged entry, and is replaced with one warning.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.machinery
import importlib.util
import shutil
import sys
import tempfile
import threading
import warnings
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType

from .. import config
from ..errors import CacheWarning, CompileError
from .atomic import atomic_file

PACKAGE = "flame_triton_generated"

_modules: dict[tuple[str, str], ModuleType] = {}
_lock = threading.RLock()


def load_module(name: str, source: str) -> ModuleType:
    """The module that `source` defines, from a file under the cache folder; made once per process.

    Safe with many processes at once. If the cache folder cannot be written, a private temporary folder takes its place
    for this process, with one CacheWarning. Raises DeviceError if the cache folder is not a folder, CompileError for a
    name that is no identifier, and whatever the source raises.
    """
    if not name.isidentifier():
        raise CompileError(f"a generated module cannot be called {name!r}")
    digest = hashlib.sha256(source.encode()).hexdigest()
    with _lock:
        found = _modules.get((name, digest))
        if found is None:
            stem = f"{name[:100]}_{digest[:16]}"
            text = f"# sha256: {digest}\n{source}".encode()
            found = _import(stem, _stored(stem, text), text)
            _modules[name, digest] = found
    return found


def _stored(stem: str, text: bytes) -> Path:
    """The path of a file that holds exactly `text`."""
    path = kernels_dir() / f"{stem}.py"
    try:
        if path.read_bytes() == text:
            return path
        warnings.warn(f"the cached kernel {path} is damaged and is made anew", CacheWarning, stacklevel=4)
    except FileNotFoundError:
        pass
    except OSError as error:
        warnings.warn(f"the cached kernel {path} cannot be read ({error.strerror})", CacheWarning, stacklevel=4)
    try:
        _write(path, text)
    except OSError as error:
        path = _private_dir(f"{path.parent} cannot be written ({error.strerror})") / path.name
        _write(path, text)
    return path


def _write(path: Path, text: bytes) -> None:
    with atomic_file(path) as file:
        file.write(text)


def kernels_dir() -> Path:
    """The folder of generated modules, created 0700. Raises DeviceError if the cache folder itself cannot be used."""
    folder = config.cache_dir() / "kernels"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        return _private_dir(f"{folder} cannot be made ({error.strerror})")
    return folder


@cache
def _temporary_dir() -> Path:
    folder = tempfile.mkdtemp(prefix="flame-triton-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _private_dir(why: str) -> Path:
    """A folder of this process alone; warns the first time, since nothing is kept for the next process."""
    if not _temporary_dir.cache_info().currsize:
        warnings.warn(f"kernels are not cached: {why}", CacheWarning, stacklevel=5)
    return _temporary_dir()


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads exactly the text it was given, and leaves no bytecode file that could outlive a damaged source."""

    def __init__(self, fullname: str, path: str, text: bytes) -> None:
        super().__init__(fullname, path)
        self._text = text

    def get_data(self, path: str) -> bytes:
        return self._text

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._text, self.path)


def _import(stem: str, path: Path, text: bytes) -> ModuleType:
    fullname = f"{PACKAGE}.{stem}"
    loader = _Loader(fullname, str(path), text)
    spec = importlib.util.spec_from_file_location(fullname, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[fullname] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[fullname]
        raise
    return module
