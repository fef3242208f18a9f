"""Generated modules on disk: content-addressed, checked, shared by processes."""

from __future__ import annotations

import hashlib
import inspect
import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from flame_triton.codegen import cache
from flame_triton.codegen.atomic import atomic_file
from flame_triton.codegen.cache import load_module
from flame_triton.errors import CacheWarning, CompileError, DeviceError

SOURCE = '"""A module."""\n\nNUMBER = 42\n\n\ndef double(x):\n    """Twice x."""\n    return 2 * x\n'


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache, and a process that has loaded nothing yet."""
    monkeypatch.setenv("FLAME_CACHE_DIR", str(tmp_path / "cache"))
    forget(monkeypatch)
    return tmp_path / "cache" / "kernels"


def forget(monkeypatch) -> None:
    monkeypatch.setattr(cache, "_modules", {})
    cache._temporary_dir.cache_clear()


def entry(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_a_module_is_a_file_that_inspect_can_read(folder: Path) -> None:
    module = load_module("kernel", SOURCE)
    digest = hashlib.sha256(SOURCE.encode()).hexdigest()
    assert module.double(module.NUMBER) == 84
    assert entry(folder).name == f"kernel_{digest[:16]}.py"
    assert entry(folder).read_text() == f"# sha256: {digest}\n{SOURCE}"
    assert module.__file__ == str(entry(folder))
    assert inspect.getsource(module.double).startswith("def double(x):")
    assert inspect.getmodule(module.double) is module
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_module_is_made_once(folder: Path, monkeypatch) -> None:
    module = load_module("kernel", SOURCE)
    assert load_module("kernel", SOURCE) is module
    assert load_module("kernel", SOURCE + "\n") is not module
    assert load_module("other", SOURCE) is not module
    before = entry_times(folder)
    forget(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_module("kernel", SOURCE) is not module
    assert entry_times(folder) == before


def entry_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[:-5],
        lambda text: text + b"\n",
        lambda text: text.replace(b"42", b"43"),
        lambda text: b"# sha256: 0000\n" + text.split(b"\n", 1)[1],
        lambda text: b"\xff\x00" + text,
    ],
)
def test_a_damaged_entry_is_made_anew_with_one_warning(folder: Path, monkeypatch, damage) -> None:
    load_module("kernel", SOURCE)
    path = entry(folder)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    forget(monkeypatch)
    with pytest.warns(CacheWarning, match="damaged") as caught:
        assert load_module("kernel", SOURCE).NUMBER == 42
    assert len(caught) == 1
    assert path.read_bytes() == whole
    assert list(folder.iterdir()) == [path]


def test_no_bytecode_outlives_the_source(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    load_module("kernel", SOURCE)
    assert [path.suffix for path in folder.rglob("*")] == [".py"]


def test_bad_names_and_bad_sources(folder: Path) -> None:
    for name in ("../x", "a-b", "", "a.b", "1x"):
        with pytest.raises(CompileError, match="cannot be called"):
            load_module(name, SOURCE)
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError):
        load_module("broken", "1 / 0\n")
    with pytest.raises(SyntaxError):
        load_module("broken", "def\n")
    assert set(sys.modules) == before


def test_long_names_fit_a_file_system(folder: Path) -> None:
    assert load_module("x" * 400, SOURCE).NUMBER == 42


def test_a_file_where_the_cache_folder_should_be(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLAME_CACHE_DIR", str(tmp_path / "file"))
    forget(monkeypatch)
    with pytest.raises(DeviceError, match="FLAME_CACHE_DIR"):
        load_module("kernel", SOURCE)


def test_a_file_where_the_kernels_folder_should_be(folder: Path, monkeypatch) -> None:
    folder.parent.mkdir()
    folder.write_text("")
    with pytest.warns(CacheWarning, match="not cached") as caught:
        module = load_module("kernel", SOURCE)
        again = load_module("other", SOURCE)
    assert len(caught) == 1
    assert module.NUMBER == again.NUMBER == 42
    assert Path(str(module.__file__)).parent == Path(str(again.__file__)).parent != folder
    assert stat.S_IMODE(Path(str(module.__file__)).parent.stat().st_mode) == 0o700


def test_a_cache_that_cannot_be_written(folder: Path, monkeypatch) -> None:
    write = os.open

    def refuse(path, flags, *args, **kwargs):
        if str(path).startswith(str(folder)) and flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return write(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.warns(CacheWarning, match="Permission denied"):
        assert load_module("kernel", SOURCE).NUMBER == 42
    assert not list(folder.iterdir())


def test_an_entry_that_is_a_folder(folder: Path, monkeypatch) -> None:
    load_module("kernel", SOURCE)
    path = entry(folder)
    path.unlink()
    path.mkdir()
    forget(monkeypatch)
    with pytest.warns(CacheWarning):
        assert load_module("kernel", SOURCE).NUMBER == 42


def test_sixteen_processes_at_once(tmp_path) -> None:
    code = (
        "import sys\n"
        "from flame_triton.codegen.cache import load_module\n"
        "sys.stdin.readline()\n"
        "for i in range(20):\n"
        "    source = f'N = {i}\\n' + '# filler\\n' * 5000\n"
        "    assert load_module(f'kernel_{i}', source).N == i\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    environment = {**os.environ, "FLAME_CACHE_DIR": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) for _ in range(16)
    ]
    errors = [process.communicate(b"go\n", timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 16, errors
    assert len(list((tmp_path / "cache" / "kernels").iterdir())) == 20


def test_an_interrupted_write_leaves_no_trace(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    with atomic_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]
