"""Data order, logs and run folders: what makes a run resumable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flame_triton as ft
from flame_triton.errors import ArgumentError, MissingPackageError, StateError
from flame_triton.train import data, folder, log


def take(batches: data.Batches, count: int) -> list[list[int]]:
    return [next(batches).tolist() for _ in range(count)]


@pytest.mark.parametrize("batch", [1, 4, 7, 10, 23])
def test_every_epoch_takes_each_row_once_in_its_own_order(batch: int) -> None:
    rows = [r for b in take(data.Batches(10, batch, 3), 60 // batch + 1) for r in b]
    epochs = [rows[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(e) == list(range(10)) for e in epochs)
    assert len({tuple(e) for e in epochs}) > 1


def test_batches_are_a_function_of_seed_and_position() -> None:
    whole = take(data.Batches(10, 3, 5), 12)
    batches = data.Batches(10, 3, 5)
    take(batches, 7)
    assert take(data.Batches(10, 3, 5, position=batches.position), 5) == whole[7:]
    assert take(data.Batches(10, 3, 6), 12) != whole


def test_no_batches_of_nothing() -> None:
    for arguments in ((0, 1, 0), (5, 0, 0), (5, 1, 0, -1)):
        with pytest.raises(ArgumentError, match="no batches"):
            data.Batches(*arguments)


def test_digits_are_scaled() -> None:
    pytest.importorskip("sklearn")
    digits = data.load_digits()
    assert digits.images.shape == (1797, 8, 8) and digits.images.dtype == np.float32
    assert digits.images.min() == -1 and digits.images.max() == 1
    assert digits.labels.dtype == np.int64 and set(digits.labels) == set(range(10))


def test_a_missing_extra_names_the_command() -> None:
    with pytest.raises(MissingPackageError, match=r"no_such_module is not .*pip install 'flame-triton\[examples\]'"):
        data.require_extra("examples", "numpy", "no_such_module")


# ---- log ------------------------------------------------------------------------------------------------------


def written(path: Path, *records: dict[str, Any], after: int = 0) -> None:
    writer = log.Log(path, after)
    for record in records:
        writer.write(record)
    writer.close()


def test_each_record_is_a_line_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    writer = log.Log(path)
    writer.write({"step": 1, "loss": 0.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"step": 1, "loss": 0.5}]
    writer.write({"step": 2, "loss": 0.25})
    assert log.read(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    writer.close()


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert [r["step"] for r in log.read(path)] == [1, 2]
    written(path, {"step": 3}, after=2)
    assert [r["step"] for r in log.read(path)] == [1, 2, 3]
    assert path.read_text().endswith('{"step": 3}\n')


def test_lines_that_the_run_takes_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    written(path, {"step": 10}, {"step": 20}, {"step": 30})
    written(path, {"step": 25}, after=20)
    assert [r["step"] for r in log.read(path)] == [10, 20, 25]


def test_a_damaged_log_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(StateError, match="line 2, is no JSON"):
        log.read(path)
    path.write_text("[1]\n")
    with pytest.raises(StateError, match="line 1, is no record"):
        log.read(path)
    assert log.read(tmp_path / "none") == []


# ---- run folders ----------------------------------------------------------------------------------------------


def small_state() -> ft.State:
    return ft.State([ft.parameter((3,), name="w", init=1.0)], device="reference")


def test_checkpoints_are_found_in_order_of_step_and_pruned(tmp_path: Path) -> None:
    place, state = folder.RunFolder(tmp_path, "a", keep=2), small_state()
    place.make()
    for step in (5, 100, 20, 1000):
        place.save(state, folder.Progress(step, step, {"x": 1}))
    assert [p.name for p in place.checkpoints()] == ["checkpoint-100", "checkpoint-1000"]
    assert folder.read_progress(place.latest()) == folder.Progress(1000, 1000, {"x": 1})


def test_a_new_run_gets_a_free_name(tmp_path: Path) -> None:
    for expected in ("digits", "digits-2", "digits-3"):
        place = folder.new_run(tmp_path, "digits")
        assert place.path.name == expected
        place.make()
        place.log.write_text("")
    assert folder.RunFolder(tmp_path, "digits").used()


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StateError, match="taken is a file"):
        folder.RunFolder(tmp_path, "taken")
    with pytest.raises(StateError, match="taken is a file"):
        folder.RunFolder(tmp_path / "taken", "run")
    for name in ("", "..", "a/b", ".hidden", "a\n"):
        with pytest.raises(ArgumentError, match="a run's name"):
            folder.RunFolder(tmp_path, name)
    with pytest.raises(ArgumentError, match="at least one checkpoint"):
        folder.RunFolder(tmp_path, "a", keep=0)
    with pytest.raises(StateError, match="holds no checkpoint"):
        folder.RunFolder(tmp_path, "a").latest()


def test_a_file_of_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    state = small_state()
    state.save(tmp_path / "bare.safetensors")
    with pytest.raises(StateError, match="no checkpoint of a run"):
        folder.read_progress(tmp_path / "bare.safetensors")
    state.save(tmp_path / "odd.safetensors", {"step": "x", "position": "0", "config": "{}"})
    with pytest.raises(StateError, match="no checkpoint of a run"):
        folder.read_progress(tmp_path / "odd.safetensors")
    state.save(tmp_path / "odd.safetensors", {"step": "1", "position": "0", "config": "[]"})
    with pytest.raises(StateError, match="of the wrong kind"):
        folder.read_progress(tmp_path / "odd.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(StateError, match="no sound safetensors file"):
        folder.read_progress(tmp_path / "torn.safetensors")
