"""Which checkpoint a run goes on from, and whether it is the same run."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, CheckpointError, StateError
from ..runtime.checkpoint import Reader
from ..runtime.shards import Shards, open_checkpoint, versions
from .folder import RunFolder, read_progress


def find(place: RunFolder, wish: str) -> Reader | Shards:
    """The checkpoint that is asked for, verified and open.

    wish: "latest", "latest-good" (the newest one that is sound), a step, or a path.
    Raises StateError if there is none, and for a damaged one, saying which is the newest sound one before it.
    """
    while True:
        known = place.steps()
        try:
            return _find(place, wish, known)
        except StateError:
            if place.steps() == known:
                raise  # otherwise a run that goes on has deleted what was listed: look again


def _find(place: RunFolder, wish: str, steps: Mapping[int, Path]) -> Reader | Shards:
    if wish == "latest-good":
        return _newest_sound(place, list(steps.values()))
    if wish == "latest":
        path = place.latest()
    elif wish.isdecimal():
        if int(wish) not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise StateError(f"{place.path} holds no checkpoint of step {wish}; it holds: {known}")
        path = steps[int(wish)]
    else:
        path = Path(wish)
    try:
        return open_checkpoint(path)
    except StateError as error:
        step = _step_in(steps, path)
        if step is None:
            raise
        earlier = [p for s, p in steps.items() if s < step]
        raise CheckpointError(f"{error}\n{_offer(place, earlier)}") from error


def _step_in(steps: Mapping[int, Path], path: str | os.PathLike[str]) -> int | None:
    """The step under which a folder lists a checkpoint, if it does."""
    return next((step for step, known in steps.items() if os.path.realpath(known) == os.path.realpath(path)), None)


def _offer(place: RunFolder, earlier: list[Path]) -> str:
    """What to take instead of a damaged checkpoint."""
    try:
        sound = _newest_sound(place, earlier)
    except StateError:
        return "No checkpoint before it is sound."
    with sound:
        step = read_progress(sound).step
        return f"The newest sound one before it is {Path(sound.path).name}: take it as {step}, or as latest-good"


def _newest_sound(place: RunFolder, paths: list[Path]) -> Reader | Shards:
    reasons: list[str] = []
    for path in reversed(paths):
        try:
            return open_checkpoint(path)
        except StateError as error:
            reasons.append(str(error))
    raise StateError("\n".join([f"{place.path} holds no sound checkpoint", *reasons]))


def claim(place: RunFolder, checkpoint: Reader | Shards, device: str) -> str:
    """Make a folder, which is occupied, that of the run that goes on from a checkpoint. Returns what to tell the user.

    The steps that the run takes again leave the list of checkpoints (RunFolder.set_aside), and so does one of the same
    step if the run comes from elsewhere. Raises StateError.
    """
    step = read_progress(checkpoint).step
    elsewhere = _step_in(place.steps(), checkpoint.path) is None
    moved = place.set_aside(step - 1 if elsewhere else step)
    lines: list[str | None] = [f"going on from {checkpoint.path}, step {step}", other_versions(checkpoint, device)]
    if moved:
        lines.append(f"set aside, since their steps are taken again: {', '.join(path.name for path in moved)}")
    return "\n".join(line for line in lines if line)


def same_run(stored: Mapping[str, Any], changes: Mapping[str, Any], free: Container[str] = ()) -> dict[str, Any]:
    """The stored configuration with the changes to it, of which only those named in `free` may be real ones.

    Raises ArgumentError that lists every other.
    """
    wrong = [(n, v) for n, v in changes.items() if n not in free and (n not in stored or stored[n] != v)]
    if wrong:
        said = [f"{name} {stored.get(name, 'not set')!r}, which cannot become {value!r}" for name, value in wrong]
        raise ArgumentError("the run was begun with " + "; with ".join(said))
    return {**stored, **changes}


def other_versions(checkpoint: Reader | Shards, device: str) -> str | None:
    """How the software or the device differs from what wrote a checkpoint, if so: the last bits may then differ too."""
    if isinstance(checkpoint, Reader):
        return None
    now = {**versions(), "device": device}
    then = {**checkpoint.written_by, "device": checkpoint.run.get("device", device)}
    changed = [f"{name} {then.get(name, 'unknown')} (now {now[name]})" for name in now if then.get(name) != now[name]]
    if not changed:
        return None
    return f"written with {', '.join(changed)}: the run may differ in the last bits from an unbroken one"
