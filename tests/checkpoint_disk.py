"""Disks that count, record and fail the calls of a checkpoint's writer, and what a power cut would leave of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import flame_triton as ft
from flame_triton.runtime.disk import Disk

CALLS = ("make", "create", "write", "sync", "sync_folder", "rename", "remove")


def _preceded(name: str, real: Callable[..., Any], before: Callable[[str, tuple[Any, ...]], None]) -> Any:
    def call(*arguments: Any) -> Any:
        before(name, arguments)
        return real(*arguments)

    return call


def intercepted(before: Callable[[str, tuple[Any, ...]], None]) -> Disk:
    """A disk that calls `before(call, arguments)`, which may raise or end the process, ahead of every call."""
    disk = Disk()
    for name in CALLS:
        setattr(disk, name, _preceded(name, getattr(disk, name), before))
    return disk


def killing(at: int) -> Disk:
    """A disk that ends the process, without any clearing up, ahead of its `at`-th call."""
    made = 0

    def before(*_: Any) -> None:
        nonlocal made
        if made == at:
            os._exit(9)
        made += 1

    return intercepted(before)


def failing(call: str, number: int, code: int = errno.ENOSPC) -> Disk:
    """A disk whose `number`-th call of this kind fails, and every one after it."""
    made = 0

    def before(name: str, _: Any) -> None:
        nonlocal made
        if name == call:
            made += 1
            if made > number:
                raise OSError(code, os.strerror(code))

    return intercepted(before)


@dataclass(frozen=True)
class Call:
    """One call of the writer. path: of the file or folder; to: of a rename; data: of a write."""

    name: str
    path: Path
    to: Path | None = None
    data: bytes = b""


def recording(calls: list[Call]) -> Disk:
    """A disk that notes every call."""

    def before(name: str, arguments: tuple[Any, ...]) -> None:
        first = arguments[0]
        if name in ("write", "sync"):
            calls.append(Call(name, Path(first.name), data=bytes(arguments[1]) if name == "write" else b""))
        else:
            calls.append(Call(name, first, *arguments[1:]))

    return intercepted(before)


def after_power_cut(calls: list[Call], eager_names: bool) -> list[Call]:
    """The calls that a disk may remember when the power fails after all of them: no more than what was synced.

    eager_names: files and renames reach the disk at once and only their bytes are late, as some file systems do it;
    otherwise no name outlives the cut before its folder has been synced.
    """
    kept = []
    for i, call in enumerate(calls):
        later = calls[i + 1 :]
        if call.name == "write":
            durable = any(c.name == "sync" and c.path == call.path for c in later)
        elif call.name in ("make", "create", "rename", "remove"):
            durable = eager_names or any(c.name == "sync_folder" and c.path == call.path.parent for c in later)
        else:
            durable = False
        if durable:
            kept.append(call)
    return kept


def replay(calls: list[Call], old: Path, new: Path) -> None:
    """Do to the folder `new` what was done to `old`; what has no folder to be in is lost."""

    def there(path: Path) -> Path:
        return new / path.relative_to(old)

    for call in calls:
        path = there(call.path)
        if call.name == "make" and path.parent.exists():
            path.mkdir()
        elif call.name == "create" and path.parent.exists():
            path.touch()
        elif call.name == "write" and path.exists():
            with path.open("ab") as file:
                file.write(call.data)
        elif call.name == "rename" and path.exists():
            assert call.to is not None
            path.rename(there(call.to))
        elif call.name == "remove" and path.exists():
            path.rmdir() if path.is_dir() else path.unlink()


def numbered(step: int) -> ft.State:
    """A State in which every number is the step: three tensors, which make three shards of 64 bytes."""
    values = [ft.parameter((16,), name="w"), ft.parameter((4, 4), name="m"), ft.parameter((), "int64", name="n")]
    state = ft.State(values, device="reference")
    fill(state, step)
    return state


def fill(state: ft.State, step: int) -> None:
    for name, type in state.types.items():
        state.set(name, np.full(type.shape, step, type.dtype.numpy))


def steps_of(prefixes: list[Call]) -> Iterator[list[Call]]:
    """Every beginning of a list, the whole one included."""
    for n in range(len(prefixes) + 1):
        yield prefixes[:n]
