"""Checkpoint folders: their format, what is said of damaged ones, which one a run goes on from, and which ones stay."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kill_and_resume
import numpy as np
import pytest
import safetensors.numpy
from checkpoint_disk import numbered

import flame_triton as ft
from flame_triton.errors import ArgumentError, CheckpointError, MissingPackageError, StateError
from flame_triton.runtime import shards
from flame_triton.runtime.shards import Shards, read_manifest
from flame_triton.train import board, choose, loop
from flame_triton.train.folder import Progress, RunFolder, read_progress


def run_of(root: Path, *steps: int, **options: Any) -> RunFolder:
    place = RunFolder(root, "run", **{"keep": 100, "shard_bytes": 64, **options})
    place.make()
    for step in steps:
        place.save(numbered(step), Progress(step, 10 * step, {"width": 16}))
    return place


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(bytes(data))


def rewrite(path: Path, **changes: Any) -> None:
    """A manifest with other claims, and the digest that fits them."""
    table = {**json.loads((path / "manifest.json").read_text()), **changes}
    (path / "manifest.json").write_text(json.dumps({**table, "sha256": shards._own_digest(table)}))


# ---- format -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_shards_and_a_manifest(tmp_path: Path) -> None:
    place = run_of(tmp_path, 5)
    path = place.latest()
    names = [f"state-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", *names]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format"] == "flame_triton checkpoint" and manifest["version"] == 1
    assert manifest["run"] == {"step": 5, "position": 50, "seed": 0, "device": "reference", "config": {"width": 16}}
    assert set(manifest["written_by"]) == {"flame_triton", "triton", "torch", "numpy"}
    assert manifest["written_by"]["flame_triton"] == ft.__version__
    assert manifest["tensors"] == dict(zip(("w", "m", "n"), names, strict=True))
    for name in names:
        data = (path / name).read_bytes()
        assert manifest["files"][name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert (safetensors.numpy.load_file(path / names[1])["m"] == np.full((4, 4), 5, np.float32)).all()


@pytest.mark.parametrize(("limit", "files"), [(1, 3), (72, 2), (136, 1), (1 << 30, 1)])
def test_shards_hold_at_most_their_bytes(limit: int, files: int, tmp_path: Path) -> None:
    place = run_of(tmp_path, 3, shard_bytes=limit)
    assert len(list(place.latest().glob("*.safetensors"))) == files
    state = numbered(0)
    assert state.load(place.latest()) == {
        "step": "3",
        "position": "30",
        "seed": "0",
        "device": '"reference"',
        "config": '{"width": 16}',
    }
    assert all((state[name] == 3).all() for name in state.names)


def test_a_state_of_every_dtype_and_of_nothing(tmp_path: Path) -> None:
    dtypes = ("float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "int64", "int32", "uint8", "bool")
    values = [ft.parameter((3, 5), d, name=d, init=np.arange(15).reshape(3, 5) % 2) for d in dtypes]
    values += [ft.parameter((0, 4), name="empty"), ft.parameter((), name="one", init=1.5)]
    for number, held in enumerate(([], values)):
        state, other = ft.State(held, device="reference"), ft.State(held, device="reference")
        shards.write(tmp_path / str(number), state.types, state.__getitem__, {}, shard_bytes=40)
        for name, type in other.types.items():
            other.set(name, np.zeros(type.shape, type.dtype.numpy))
        other.load(tmp_path / str(number))
        assert all(other[name].tobytes() == state[name].tobytes() for name in state.names)


def test_a_checkpoint_of_another_model_is_refused_whole(tmp_path: Path) -> None:
    place = run_of(tmp_path, 5)
    other = ft.State([ft.parameter((16,), name="w"), ft.parameter((2, 8), name="m")], device="reference")
    with pytest.raises(StateError) as caught:
        other.load(place.latest())
    for line in ("m: expected float32[2, 8], the file holds float32[4, 4]", "n: unexpected"):
        assert line in str(caught.value)
    assert not other["w"].any()


def test_what_a_run_says_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="must be JSON"):
        run_of(tmp_path).save(numbered(1), Progress(1, 1, {"what": object()}))
    with pytest.raises(ArgumentError, match="at least one byte"):
        run_of(tmp_path, 1, shard_bytes=0)
    assert [p.name for p in (tmp_path / "run").iterdir()] == []


# ---- damage -----------------------------------------------------------------------------------------------------

SECOND = "state-00002-of-00003.safetensors"
DAMAGE: dict[str, tuple[Any, str]] = {
    "a flipped number": (lambda p: flip(p / SECOND), f"{SECOND} has another SHA-256 than manifest.json says"),
    "a flipped header": (lambda p: flip(p / SECOND, 20), SECOND),
    "a flipped length": (lambda p: flip(p / SECOND, 0), SECOND),
    "a shard cut short": (lambda p: (p / SECOND).write_bytes((p / SECOND).read_bytes()[:-1]), SECOND),
    "an empty shard": (lambda p: (p / SECOND).write_bytes(b""), SECOND),
    "a missing shard": (lambda p: (p / SECOND).unlink(), f"{SECOND} cannot be read: No such file"),
    "shards exchanged": (
        lambda p: shutil.copy(p / "state-00001-of-00003.safetensors", p / SECOND),
        f"{SECOND} has ",
    ),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "there is no manifest.json"),
    "an empty manifest": (lambda p: (p / "manifest.json").write_text(""), "manifest.json is no JSON"),
    "a manifest cut short": (lambda p: (p / "manifest.json").write_text('{"format": 1'), "manifest.json is no JSON"),
    "a list for a manifest": (lambda p: (p / "manifest.json").write_text("[1]"), "has another SHA-256 than it says"),
    "a deep manifest": (lambda p: (p / "manifest.json").write_text("[" * 100_000), "manifest.json is no JSON"),
    "a changed step": (
        lambda p: (p / "manifest.json").write_text((p / "manifest.json").read_text().replace('"step": 6', '"step": 7')),
        "manifest.json has another SHA-256 than it says",
    ),
    "a key twice": (
        lambda p: (p / "manifest.json").write_text('{"version": 1, ' + (p / "manifest.json").read_text()[1:]),
        "'version' occurs twice",
    ),
    "a tensor elsewhere": (
        lambda p: rewrite(p, tensors={"w": SECOND, "m": SECOND, "n": "state-00003-of-00003.safetensors"}),
        "manifest.json says another place than the shards for: w",
    ),
    "a tensor that is not there": (
        lambda p: rewrite(p, tensors={**read_manifest(p)["tensors"], "v": SECOND}),
        "another place than the shards for: v",
    ),
    "a file elsewhere": (
        lambda p: rewrite(p, files={"../../x.safetensors": {"bytes": 1, "sha256": ""}}, tensors={}),
        "is no manifest of a checkpoint",
    ),
    "another kind of file": (lambda p: rewrite(p, format="something"), "is no manifest of a checkpoint"),
    "claims of the wrong kind": (lambda p: rewrite(p, files={SECOND: 3}), "is no manifest of a checkpoint"),
    "parts of the wrong kind": (lambda p: rewrite(p, run=[]), "is no manifest of a checkpoint"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named_and_the_newest_sound_one_offered(damage: Any, message: str, tmp_path: Path) -> None:
    place = run_of(tmp_path, 2, 4, 6)
    damage(place.latest())
    state = numbered(1)
    with pytest.raises(CheckpointError) as caught:
        state.load(place.latest())
    assert "checkpoint-6 is damaged:" in str(caught.value) and message in str(caught.value)
    assert all((state[name] == 1).all() for name in state.names)
    for wish in ("latest", "6", str(place.latest())):
        with pytest.raises(CheckpointError) as caught:
            choose.find(place, wish)
        assert message in str(caught.value)
        assert "newest sound one before it is checkpoint-4: take it as 4, or as latest-good" in str(caught.value)
    with choose.find(place, "latest-good") as found:
        assert read_progress(found) == Progress(4, 40, {"width": 16})
    with choose.find(place, "2") as found:
        assert read_progress(found).step == 2


def test_every_flipped_bit_is_seen(tmp_path: Path) -> None:
    path = run_of(tmp_path, 6).latest()
    rng, state = np.random.default_rng(0), numbered(1)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for at in rng.choice(len(whole), 60, replace=len(whole) < 60):
            flip(file, int(at))
            if file.suffix != ".json" or json_changed(whole, file.read_bytes()):
                with pytest.raises(CheckpointError):
                    state.load(path)
            file.write_bytes(whole)
    assert all((state[name] == 1).all() for name in state.names)


def json_changed(a: bytes, b: bytes) -> bool:
    """False if two texts say the same: white space may change."""
    try:
        return json.loads(a) != json.loads(b)
    except ValueError:
        return True


def test_all_that_is_damaged_is_listed(tmp_path: Path) -> None:
    place = run_of(tmp_path, 6)
    for shard in place.latest().glob("*.safetensors"):
        flip(shard)
    with pytest.raises(CheckpointError, match="No checkpoint before it is sound") as caught:
        choose.find(place, "latest")
    assert str(caught.value).count("has another SHA-256") == 3
    with pytest.raises(StateError, match=r"holds no sound checkpoint\n.*checkpoint-6 is damaged"):
        choose.find(place, "latest-good")


def test_a_later_format_is_named(tmp_path: Path) -> None:
    path = run_of(tmp_path, 6).latest()
    rewrite(path, version=2)
    with pytest.raises(CheckpointError, match="format version 2; this flame_triton reads version 1"):
        Shards(path)


# ---- which one --------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"holds no checkpoint$"):
        choose.find(run_of(tmp_path), "latest")
    place = run_of(tmp_path, 2, 4)
    with pytest.raises(StateError, match="holds no checkpoint of step 3; it holds: 2, 4"):
        choose.find(place, "3")
    with pytest.raises(StateError, match="cannot be read"):
        choose.find(place, str(tmp_path / "nowhere"))


def test_the_older_format_is_read(tmp_path: Path) -> None:
    place = run_of(tmp_path, 8, keep=2)
    about = {"step": "7", "position": "70", "config": '{"width": 16}'}
    numbered(7).save(place.path / "checkpoint-7.safetensors", about)
    assert list(place.steps()) == [7, 8]
    flip(place.latest() / "manifest.json", 200)
    with pytest.raises(CheckpointError, match=r"is checkpoint-7\.safetensors: take it as 7, or as latest-good"):
        choose.find(place, "latest")
    with choose.find(place, "latest-good") as found:
        assert read_progress(found) == Progress(7, 70, {"width": 16})
        state = numbered(0)
        state.load(found)
        assert (state["w"] == 7).all() and choose.other_versions(found, "reference") is None
    place.save(numbered(9), Progress(9, 90, {}))
    assert [p.name for p in place.path.iterdir() if "7" in p.name] == []


def test_other_versions_are_told(tmp_path: Path) -> None:
    path = run_of(tmp_path, 6).latest()
    with Shards(path) as found:
        assert choose.other_versions(found, "reference") is None
        assert "device reference (now cuda:0): the run may differ" in str(choose.other_versions(found, "cuda:0"))
    rewrite(path, written_by={**shards.versions(), "triton": "1.2.3"})
    with Shards(path) as found:
        assert "written with triton 1.2.3 (now " in str(choose.other_versions(found, "reference"))


def test_another_configuration_is_refused_with_every_difference() -> None:
    stored = {"width": 16, "steps": 20, "dtype": "float32"}
    assert choose.same_run(stored, {"steps": 30, "width": 16}, free=("steps",)) == {**stored, "steps": 30}
    with pytest.raises(ArgumentError) as caught:
        choose.same_run(stored, {"width": 32, "steps": 30, "dtype": "float16", "new": 1}, free=("steps",))
    assert "width 16, which cannot become 32" in str(caught.value) and "steps" not in str(caught.value)
    assert "dtype 'float32', which cannot become 'float16'" in str(caught.value)
    assert "new 'not set', which cannot become 1" in str(caught.value)


def test_a_run_from_elsewhere_has_its_folder_to_itself(tmp_path: Path) -> None:
    place, other = run_of(tmp_path / "a", 2, 4, 6), run_of(tmp_path / "b", 4)
    with choose.find(place, str(place.path.resolve() / "checkpoint-4")) as found:
        assert choose.claim(place, found, "reference").endswith(
            "set aside, since their steps are taken again: superseded-6"
        )
    assert list(place.steps()) == [2, 4]
    with choose.find(place, str(other.latest())) as found:
        assert "superseded-4" in choose.claim(place, found, "reference")
    assert list(place.steps()) == [2] and list(other.steps()) == [4]

    made = kill_and_resume.make_training("reference")
    loop.train(made, other, 3)
    assert list(other.steps()) == [3]
    made.step = 3
    loop.train(made, place, 3)  # nothing is left to do, but the folder holds the run
    assert list(place.steps()) == [2, 3]


# ---- which ones stay --------------------------------------------------------------------------------------------


def test_milestones_stay(tmp_path: Path) -> None:
    place = run_of(tmp_path, *range(1, 12), keep=2, keep_every=4)
    assert list(place.steps()) == [4, 8, 10, 11]
    place = run_of(tmp_path, 12, keep=1, keep_every=4)
    assert list(place.steps()) == [4, 8, 11, 12]
    for wrong in ({"keep": 0}, {"keep_every": 0}):
        with pytest.raises(ArgumentError):
            RunFolder(tmp_path, "a", **wrong)


def test_a_lower_step_than_those_there_is_not_deleted_at_once(tmp_path: Path) -> None:
    place = run_of(tmp_path, 10, 20, keep=1)
    place.save(numbered(5), Progress(5, 5, {}))
    assert list(place.steps()) == [5, 20]


def test_later_checkpoints_are_set_aside(tmp_path: Path) -> None:
    place = run_of(tmp_path, 2, 4, 6)
    assert [p.name for p in place.set_aside(2)] == ["superseded-6", "superseded-4"]
    assert list(place.steps()) == [2]
    place.save(numbered(6), Progress(6, 6, {}))
    assert [p.name for p in place.set_aside(4)] == ["superseded-6.2"]
    state = numbered(0)
    state.load(place.path / "superseded-6")
    assert (state["w"] == 6).all()


def test_the_example_of_the_document_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"state": numbered(1)}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], scope)  # type: ignore[index]
    assert scope["progress"] == Progress(1, 1, {"width": 64})


def test_only_what_writers_leave_is_swept(tmp_path: Path) -> None:
    place = run_of(tmp_path, 2)
    stem = "." + "checkpoint-4." + "0" * 16
    for name in (f"{stem}.partial", f"{stem}.removed"):
        (place.path / name).mkdir()
        (place.path / name / "manifest.json").write_text("x")
    (place.path / f".checkpoint-4.safetensors.{'0' * 16}").write_text("x")
    (place.path / ".notes").write_text("mine")
    place.latest().rename(place.path / f".checkpoint-2.{'0' * 16}.replaced")
    with place.occupied():
        names = sorted(p.name for p in place.path.iterdir())
    assert names == [".lock", ".notes", "checkpoint-2"]
    assert (place.path / ".notes").read_text() == "mine"


# ---- memory, TensorBoard ----------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
import numpy as np
import flame_triton as ft
from pathlib import Path
from flame_triton.runtime import shards
values = [ft.parameter((1 << 20,), name=f"w{i}") for i in range(16)]  # 4 MiB each
state = ft.State(values, device="reference")
shards.write(Path(sys.argv[1]), state.types, state.__getitem__, {}, shard_bytes=16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
state.load(sys.argv[1])
print("GROWN", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def test_reading_takes_the_memory_of_one_tensor(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split("GROWN")[1]) < 24  # MiB; the State has 64


def events(folder: Path) -> list[Any]:
    """The events of all files in a folder: records of length, checksum, data, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            found.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += 16 + size
    return found


def test_tensorboard_gets_the_log_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    first = board.Board(tmp_path)
    first.scalars({"step": 3, "count": 3, "loss": 0.5, "lr": 1, "grad_norm": None, "seconds": 1.0})
    first.image("samples", np.arange(20, dtype=np.uint8).reshape(4, 5), 3)
    first.close()
    second = board.Board(tmp_path, after=2)
    second.image("colour", np.zeros((4, 5, 3), np.uint8), 3)
    second.close()
    values = {v.tag: (e.step, v) for e in events(tmp_path) for v in e.summary.value}
    assert set(values) == {"train/loss", "train/lr", "train/seconds", "samples", "colour"}
    assert values["train/loss"][0] == 3 and values["train/loss"][1].simple_value == 0.5
    assert (values["samples"][1].image.height, values["samples"][1].image.width) == (4, 5)
    assert values["samples"][1].image.encoded_image_string.startswith(b"\x89PNG")
    starts = [e.step for e in events(tmp_path) if e.session_log.status == 1]
    assert starts[-1] == 3  # TensorBoard drops earlier events from here on


def test_without_tensorboardx_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'flame-triton\[tensorboard\]'"):
        board.Board(tmp_path)
