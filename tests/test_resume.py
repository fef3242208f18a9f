"""Runs that are killed, and disks that fail: what is left is always a sound checkpoint, and the run goes on from it."""

from __future__ import annotations

import os
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import kill_and_resume
import numpy as np
import pytest
from checkpoint_disk import (
    Call,
    after_power_cut,
    failing,
    fill,
    intercepted,
    killing,
    numbered,
    recording,
    replay,
    steps_of,
)

from flame_triton.errors import CheckpointError, CheckpointWarning, StateError
from flame_triton.runtime.disk import Disk
from flame_triton.runtime.shards import Shards
from flame_triton.train import choose, loop
from flame_triton.train.folder import Progress, RunFolder, read_progress
from flame_triton.train.log import read
from flame_triton.train.writer import MAX_FAILED, Writer


def folder(root: Path, disk: Disk | None = None, keep: int = 2) -> RunFolder:
    return RunFolder(root, "run", keep, shard_bytes=64, disk=disk)


def save(place: RunFolder, step: int) -> None:
    place.save(numbered(step), Progress(step, step, {}))


def begun(root: Path) -> RunFolder:
    """A run with the checkpoints 2 and 4, of which the next one will replace the first."""
    place = folder(root)
    place.make()
    save(place, 2)
    save(place, 4)
    return place


def check(place: RunFolder) -> int:
    """Every checkpoint under its name is sound, and holds the numbers of its step. Returns the newest step."""
    for step, path in place.steps().items():
        with Shards(path) as reader:
            assert reader.run["step"] == step
            assert all((reader.read(name) == step).all() for name in reader.types)
    return max(place.steps())


def hidden(place: RunFolder) -> list[str]:
    return [p.name for p in place.path.iterdir() if p.name.startswith(".checkpoint-")]


# ---- killed runs ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_runs_resume_bit_identical(tmp_path: Path) -> None:
    assert kill_and_resume.kill_and_resume(6, "reference", 1, tmp_path) == 6


def test_a_resumed_run_differs_if_anything_is_forgotten(tmp_path: Path) -> None:
    """The comparison of kill_and_resume is not blind: a run whose average or data position was lost is seen."""
    results = []
    for name, forget in (("whole", None), ("again", None), ("average", "ema"), ("position", "position")):
        training = kill_and_resume.make_training("reference")
        place = RunFolder(tmp_path, name, shard_bytes=kill_and_resume.SHARD_BYTES)
        if name != "whole":
            loop.train(training, place, 40, log_every=5, save_every=20)
            training = kill_and_resume.make_training("reference")
            training.program.state.load(place.latest())
            training.step, training.batches.position = 40, 40
            if forget == "ema":
                training.program.state.set("optimizer.ema.layer2.bias", np.zeros(1, np.float32))
            if forget == "position":
                training.batches.position = 39
        loop.train(training, place, kill_and_resume.STEPS, log_every=5, save_every=20)
        results.append(kill_and_resume.result(tmp_path / name))
    whole, again, average, position = results
    assert again == whole
    assert average[0] != whole[0] and average[1] == whole[1]
    assert position[0] != whole[0] and position[1] != whole[1]
    assert sum(line.get("skipped", 0) for line in whole[1]) > 5


def calls_of(tmp_path: Path, step: int) -> tuple[list[Call], RunFolder]:
    """What the writer asks of the disk to save a step into a folder that holds 2 and 4."""
    calls: list[Call] = []
    begun(tmp_path)
    place = folder(tmp_path, recording(calls))
    save(place, step)
    return calls, place


@pytest.mark.parametrize("step", [6, 4], ids=["new", "replaced"])
def test_a_kill_before_any_call_leaves_sound_checkpoints(step: int, tmp_path: Path) -> None:
    calls, _ = calls_of(tmp_path / "whole", step)
    assert len(calls) > 20
    for at in range(len(calls) + 1):
        root = tmp_path / str(at)
        begun(root)
        child = os.fork()
        if not child:
            save(folder(root, killing(at)), step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == (9 if at < len(calls) else 0)
        place = folder(root)
        with place.occupied():
            assert not hidden(place)
        assert check(place) >= 4 and len(place.steps()) >= 2
        save(place, 6)
        assert check(place) == 6 and list(place.steps()) == [4, 6]


# ---- what a power cut leaves ------------------------------------------------------------------------------------


def surviving(calls: list[Call], base: Path, old: Path, root: Path, eager: bool) -> list[int]:
    """The newest sound step after a power cut behind each call."""
    found = []
    for number, prefix in enumerate(steps_of(calls)):
        new = root / str(number)
        shutil.copytree(base, new)
        replay(after_power_cut(prefix, eager), old, new)
        place = RunFolder(root, new.name)
        with place.occupied():
            found.append(check(place))
    return found


@pytest.mark.parametrize("eager", [False, True], ids=["names late", "names at once"])
def test_a_power_cut_behind_any_call_leaves_sound_checkpoints(eager: bool, tmp_path: Path) -> None:
    base = begun(tmp_path / "base").path
    calls, place = calls_of(tmp_path / "whole", 6)
    found = surviving(calls, base, place.path, tmp_path / "cut", eager)
    assert set(found) == {4, 6} and found == sorted(found) and found[-1] == 6


def without(calls: list[Call], name: str, kind: str) -> list[Call]:
    """The calls of a writer that forgets to sync shards, the manifest, its own folder, or the one above."""
    kinds = {
        "shards": lambda c: c.path.suffix == ".safetensors",
        "manifest": lambda c: c.path.suffix == ".json",
        "its folder": lambda c: c.path.name.startswith("."),
        "the folder above": lambda c: c.path.name == "run",
    }
    return [c for c in calls if c.name != name or not kinds[kind](c)]


@pytest.mark.parametrize(
    ("name", "kind", "eager"),
    [
        ("sync", "shards", True),
        ("sync", "manifest", True),
        ("sync_folder", "its folder", False),
        ("sync_folder", "the folder above", False),
    ],
)
def test_a_forgotten_sync_is_seen(name: str, kind: str, eager: bool, tmp_path: Path) -> None:
    base = begun(tmp_path / "base").path
    calls, place = calls_of(tmp_path / "whole", 6)
    wrong = without(calls, name, kind)
    assert len(wrong) < len(calls)
    try:
        found = surviving(wrong, base, place.path, tmp_path / "cut", eager)
    except CheckpointError:
        return  # a checkpoint under its name that is damaged
    assert found[-1] != 6  # saved, it was said, and gone


def test_an_early_rename_is_seen(tmp_path: Path) -> None:
    base = begun(tmp_path / "base").path
    calls, place = calls_of(tmp_path / "whole", 6)
    rename = next(i for i, c in enumerate(calls) if c.name == "rename")
    manifest = next(i for i, c in enumerate(calls) if c.name == "create" and c.path.suffix == ".json")
    moved = calls[:manifest] + [calls[rename]] + calls[manifest:rename] + calls[rename + 1 :]
    with pytest.raises(CheckpointError, match=r"there is no manifest\.json"):
        surviving(moved, base, place.path, tmp_path / "cut", True)


def test_the_order_of_calls(tmp_path: Path) -> None:
    calls, place = calls_of(tmp_path, 6)
    last = {path: i for i, c in enumerate(calls) if c.name == "write" for path in [c.path]}
    synced = {c.path: i for i, c in enumerate(calls) if c.name == "sync"}
    renames = [i for i, c in enumerate(calls) if c.name == "rename"]
    assert [p.suffix for p in synced] == [".safetensors"] * 3 + [".json"]
    assert all(last[p] < synced[p] < renames[0] for p in last)
    assert calls[renames[0] - 1] == Call("sync_folder", calls[0].path)
    assert calls[renames[0]].to == place.path / "checkpoint-6"
    assert calls[renames[0] + 1] == Call("sync_folder", place.path)
    assert calls[renames[1]].path == place.path / "checkpoint-2" and renames[1] == renames[0] + 2
    assert calls[renames[1] + 1] == Call("sync_folder", place.path)
    assert all(i > renames[1] + 1 for i, c in enumerate(calls) if c.name == "remove")


# ---- disks that fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("make", 0),
        ("create", 1),
        ("write", 0),
        ("write", 3),
        ("write", 6),
        ("sync", 2),
        ("sync_folder", 0),
        ("rename", 0),
    ],
)
def test_a_full_disk_leaves_what_was_there(call: str, number: int, tmp_path: Path) -> None:
    begun(tmp_path)
    place = folder(tmp_path, failing(call, number))
    with pytest.raises(CheckpointError, match=r"checkpoint-6 cannot be written: No space left.*are as they were"):
        save(place, 6)
    assert check(place) == 4 and list(place.steps()) == [2, 4] and not hidden(place)


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    place = begun(tmp_path)
    place.path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="Permission denied"):
            save(place, 6)
        assert check(place) == 4
    finally:
        place.path.chmod(0o700)


def test_a_checkpoint_that_reads_back_wrong_deletes_nothing(tmp_path: Path) -> None:
    def before(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "rename" and arguments[1].name == "checkpoint-6":
            path = next(arguments[0].glob("state-00001*"))
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(bytes(data))

    begun(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"checkpoint-6 is damaged:\n.*state-00001-of-00003\.safetensors has anoth"
    ):
        save(folder(tmp_path, intercepted(before)), 6)
    assert list(folder(tmp_path).steps()) == [2, 4, 6]


def test_training_goes_on_when_a_checkpoint_fails_and_stops_after_three(tmp_path: Path) -> None:
    def before(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "write" and any(f".checkpoint-{step}." in arguments[0].name for step in (4, 8)):
            raise OSError(28, "No space left on device")

    run = kill_and_resume.make_training("reference")
    place = RunFolder(tmp_path, "mended", disk=intercepted(before))
    with pytest.warns(CheckpointWarning) as caught:
        loop.train(run, place, 16, save_every=4)
    assert list(place.steps()) == [12, 16] and len(caught) == 2
    assert "checkpoint-4 cannot be written: No space left" in str(caught[0].message)

    run, place = kill_and_resume.make_training("reference"), RunFolder(tmp_path, "full", disk=failing("write", 0))
    with pytest.warns(CheckpointWarning) as caught, pytest.raises(CheckpointError, match="No space left"):
        loop.train(run, place, 40, save_every=4)
    assert len(caught) == MAX_FAILED - 1 and 12 <= run.step <= 16
    assert not place.steps() and not hidden(place)
    assert [r["step"] for r in read(place.log)][:3] == [4, 8, 10]

    run, place = kill_and_resume.make_training("reference"), RunFolder(tmp_path, "last", disk=failing("write", 0))
    with pytest.raises(CheckpointError, match="No space left"):
        loop.train(run, place, 4, save_every=100)


# ---- writing beside training ------------------------------------------------------------------------------------


def test_the_writer_takes_the_state_as_it_was(tmp_path: Path) -> None:
    gate, state = threading.Event(), numbered(1)

    def before(name: str, _: Any) -> None:
        if name == "make":
            gate.wait(60)

    place = folder(tmp_path, intercepted(before))
    place.make()
    writer = Writer(place)
    writer.save(state, Progress(1, 1, {}))
    fill(state, 9)  # training goes on while the writer waits
    writer.check()
    assert not place.steps()
    gate.set()
    writer.save(state, Progress(9, 9, {}))  # waits for the first
    assert next(iter(place.steps())) == 1
    writer.close()
    assert check(place) == 9 and list(place.steps()) == [1, 9]


def test_a_state_too_large_for_the_host_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flame_triton.train.writer.HOST_SHARE", 0)
    place, state = folder(tmp_path), numbered(3)
    place.make()
    monkeypatch.setattr(type(state), "snapshot", lambda self: pytest.fail("a copy was taken"))
    writer = Writer(place)
    writer.save(state, Progress(3, 3, {}))
    assert check(place) == 3
    writer.close()


def test_an_error_that_is_no_failure_of_the_disk_comes_up_at_once(tmp_path: Path) -> None:
    place = folder(tmp_path)
    place.make()
    writer = Writer(place)
    writer.save(numbered(1), Progress(1, 1, {"what": object()}))
    with pytest.raises(ValueError, match="must be JSON"):
        writer.close()


# ---- readers beside a writer ------------------------------------------------------------------------------------


def test_a_reader_beside_the_writer_sees_whole_checkpoints_only(tmp_path: Path) -> None:
    place, done, seen = folder(tmp_path, keep=1), threading.Event(), set()
    place.make()
    save(place, 1)
    errors: list[BaseException] = []

    def reading() -> None:
        rng = random.Random(0)
        try:
            while not done.is_set():
                with choose.find(place, rng.choice(["latest", "latest-good"])) as reader:
                    step = reader.run["step"]
                    assert all((reader.read(name) == step).all() for name in reader.types)
                    seen.add(step)
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=reading) for _ in range(2)]
    for thread in readers:
        thread.start()
    for step in range(2, 60):
        save(place, step)
    done.set()
    for thread in readers:
        thread.join()
    assert not errors and len(seen) > 5


@pytest.mark.parametrize("wish", ["latest", "latest-good"])
def test_a_checkpoint_deleted_while_it_is_chosen(wish: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, opened = folder(tmp_path, keep=1), []
    place.make()
    save(place, 2)

    def overtaken(path: Path) -> Any:
        opened.append(path.name)
        if len(opened) == 1:
            save(place, 4)  # deletes 2
        return Shards(path)

    monkeypatch.setattr(choose, "open_checkpoint", overtaken)
    with choose.find(place, wish) as found:
        assert read_progress(found).step == 4
    assert opened[0] == "checkpoint-2" and opened[-1] == "checkpoint-4"


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    place = begun(tmp_path)
    with place.occupied():
        with place.occupied():  # the same one may enter again
            pass
        with pytest.raises(StateError, match="another process trains in"), folder(tmp_path).occupied():
            pass
    with folder(tmp_path).occupied():
        pass
