"""Folders of pictures, buckets, captions as numbers: what a run on somebody's own pictures is made of."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flame_triton.cli import app
from flame_triton.errors import ArgumentError, DataError, StateError
from flame_triton.train import buckets, images
from flame_triton.train.buckets import Bucket, BucketBatches, Pictures
from flame_triton.train.captions import NULL, PAD, SPECIAL, START, UNKNOWN, Vocabulary, split

needs_pillow = pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="Pillow is not installed")

# ---- captions -------------------------------------------------------------------------------------------------


def test_captions_are_split_into_words_and_marks_or_characters() -> None:
    assert split("Red_heart:  medium-light, l'été №5", "word") == [
        *("red", "heart", ":", "medium", "-", "light", ",", "l", "'", "été", "№", "5"),
    ]
    assert split(" A\t b_c ", "character") == ["a", " ", "b", " ", "c"]
    assert split("", "word") == [] == split("  ", "character")


def test_a_vocabulary_is_a_function_of_the_data() -> None:
    captions = ["red car", "blue car", "Blue bird"]
    built = Vocabulary.build(captions)
    assert built.tokens == ("blue", "car", "bird", "red") and len(built) == SPECIAL + 4
    assert Vocabulary.build(captions[::-1]) == built
    assert Vocabulary.build(captions, limit=1).tokens == ("blue",)
    assert Vocabulary.build(["ab b"], "character").tokens == ("b", " ", "a")


def test_captions_become_numbers_with_lengths() -> None:
    vocabulary = Vocabulary("word", ("a", "b"))
    table, lengths = vocabulary.encode(["b a", "", None, "a zebra a b a"], 4)
    a, b = SPECIAL, SPECIAL + 1
    expected = [[START, b, a, PAD], [START, PAD, PAD, PAD], [NULL, PAD, PAD, PAD], [START, a, UNKNOWN, a]]
    np.testing.assert_array_equal(table, expected)
    np.testing.assert_array_equal(lengths, [3, 1, 1, 4])
    assert table.dtype == lengths.dtype == np.int64
    assert vocabulary.unknown("a zebra, b") == ["zebra", ","] and vocabulary.longest(["a b", "a"]) == 3


def test_vocabularies_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ArgumentError, match="level must be one of word, character"):
        Vocabulary("letter", ())
    with pytest.raises(ArgumentError, match="listed twice"):
        Vocabulary("word", ("a", "a"))
    with pytest.raises(ArgumentError, match="length must be at least 1"):
        Vocabulary("word", ("a",)).encode(["a"], 0)


# ---- buckets --------------------------------------------------------------------------------------------------


def test_sizes_of_buckets_are_whole_patches_of_about_equal_area() -> None:
    for side, multiple in ((72, 4), (64, 8), (256, 16)):
        sizes = buckets.bucket_sizes(side, multiple)
        assert (side, side) in sizes and len(set(sizes)) == len(sizes)
        for height, width in sizes:
            assert height % multiple == width % multiple == 0
            assert abs(height * width / side**2 - 1) < 0.2 and (width, height) in sizes
    with pytest.raises(ArgumentError, match="at least one patch"):
        buckets.bucket_sizes(3, 4)


def test_a_picture_goes_where_its_ratio_is_nearest() -> None:
    sizes = [(8, 16), (12, 12), (16, 8)]
    assert buckets.nearest_size((100, 190), sizes) == (8, 16)
    assert buckets.nearest_size((100, 110), sizes) == (12, 12)
    assert buckets.nearest_size((5000, 100), sizes) == (16, 8)


@pytest.mark.parametrize("counts", [(6,), (6, 5, 1), (3, 17)])
def test_every_epoch_takes_every_row_and_no_batch_mixes_buckets(counts: tuple[int, ...]) -> None:
    batches = BucketBatches(counts, 4, 7)
    assert batches.per_epoch == sum(-(-c // 4) for c in counts)
    orders = []
    for _ in range(3):
        taken = [next(batches) for _ in range(batches.per_epoch)]
        for bucket, count in enumerate(counts):
            rows = np.concatenate([rows for b, rows in taken if b == bucket])
            assert set(rows) == set(range(count)) and len(rows) == -(-count // 4) * 4
            assert np.bincount(rows).max() <= -(-4 // count) + 1
        orders.append(str(taken))
    assert len(set(orders)) == 3


def test_batches_are_a_function_of_seed_and_position() -> None:
    def taken(seed: int, position: int, count: int) -> list[Any]:
        batches = BucketBatches((6, 5), 4, seed, position)
        found = [(b, rows.tolist()) for b, rows in (next(batches) for _ in range(count))]
        assert batches.position == position + count
        return found

    whole = taken(1, 0, 13)
    assert [taken(1, i, 1)[0] for i in range(13)] == whole and taken(2, 0, 13) != whole
    for wrong in (((), 4, 0, 0), ((3, 0), 4, 0, 0), ((3,), 0, 0, 0), ((3,), 1, 0, -1)):
        with pytest.raises(ArgumentError, match="no batches"):
            BucketBatches(*wrong)


def test_what_is_held_out_is_made_of_known_words() -> None:
    captions = [f"{color} {thing}" for color in ("red", "blue", "green") for thing in ("car", "cat", "hat", "bat")]
    captions += ["zebra", "red car"]
    pictures = Pictures((Bucket(np.arange(14, dtype=np.uint8).reshape(14, 1, 1, 1).repeat(3, 3), tuple(captions)),))
    kept, held = pictures.held_out(0.6)
    assert len(kept) + len(held) == 14 and 2 <= len(held) <= 9
    assert not {"zebra", "red car"} & set(held.captions)
    words = {w for c in kept.captions for w in c.split()}
    assert all(w in words for c in held.captions for w in c.split())
    for part in (kept, held):
        for image, caption in zip(part.buckets[0].images, part.captions, strict=True):
            assert captions[image[0, 0, 0]] == caption
    again = pictures.held_out(0.6)[1]
    assert again.captions == held.captions and len(pictures.held_out(0.0)[1]) == 0


def test_a_digest_knows_pixels_captions_and_order() -> None:
    base = Bucket(np.zeros((2, 4, 4, 3), np.uint8), ("a", "b"))
    pixel = base.images.copy()
    pixel[1, 2, 3, 0] = 1
    others = [Bucket(pixel, base.captions), Bucket(base.images, ("a", "c")), Bucket(base.images, ("b", "a"))]
    assert len({Pictures((b,)).digest() for b in (base, *others)}) == 4


# ---- folders --------------------------------------------------------------------------------------------------


def draw(path: Path, size: tuple[int, int], color: tuple[int, ...], mode: str = "RGB") -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size[1], size[0]), color).save(path)


def sample_folder(root: Path) -> Path:
    """Five pictures that can be used, in three shapes, and three files that cannot."""
    draw(root / "a.png", (40, 40), (255, 0, 0))
    draw(root / "b.png", (20, 40), (0, 255, 0))
    draw(root / "sub" / "c.PNG", (30, 58), (0, 0, 255))
    draw(root / "clear.png", (9, 9), (0, 0, 0, 0), "RGBA")
    draw(root / "tall.jpg", (90, 40), (9, 9, 9))
    draw(root / "mute.png", (8, 8), (1, 1, 1))
    (root / "torn.png").write_bytes((root / "a.png").read_bytes()[:50])
    for name, text in {"a": "red\n", "b": "green", "sub/c": "blue", "torn": "torn", "tall": "by file"}.items():
        (root / f"{name}.txt").write_text(text, encoding="utf-8")
    lines = [{"file": "clear.png", "caption": "nothing"}, {"file": "tall.jpg", "caption": "tall"}]
    lines += [{"file": "gone.png", "caption": "gone"}]
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    return root


@needs_pillow
def test_a_folder_becomes_buckets(tmp_path: Path) -> None:
    folder = sample_folder(tmp_path / "pictures")
    found = images.load_folder(folder, 16, 4, cache=tmp_path / "cache")
    by_caption = {c: i for b in found.buckets for i, c in zip(b.images, b.captions, strict=True)}
    assert {c: i.shape for c, i in by_caption.items()} == {
        "red": (16, 16, 3),
        "nothing": (16, 16, 3),
        "green": (12, 24, 3),
        "blue": (12, 24, 3),
        "tall": (24, 12, 3),
    }
    assert (by_caption["red"] == [255, 0, 0]).all() and (by_caption["green"] == [0, 255, 0]).all()
    assert (by_caption["nothing"] == 255).all()  # on white
    assert {name: why[:24] for name, why in found.skipped.items()} == {
        "gone.png": "captions.jsonl names it,",
        "mute.png": "it has no caption",
        "torn.png": "it is no picture that ca",
    }
    assert all(b.images.dtype == np.uint8 and len(b) == len(b.images) for b in found.buckets)


@needs_pillow
def test_the_cache_is_used_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = sample_folder(tmp_path / "pictures"), tmp_path / "cache"
    decoded: list[Path] = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda path, *rest: decoded.append(path) or decode(path, *rest))

    def load() -> tuple[int, str]:
        decoded.clear()
        found = images.load_folder(folder, 16, 4, cache=cache)
        return len(decoded), found.digest()

    (count, first), again = load(), load()
    assert count == 6 and again == (0, first) and len(list(cache.iterdir())) == 1
    (folder / "a.txt").write_text("crimson", encoding="utf-8")
    assert load()[0] == 6 and load()[1] != first
    os.utime(folder / "b.png", ns=(1, 1))
    assert load()[0] == 6
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert load()[0] == 6 and load()[0] == 0


@needs_pillow
def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        images.load_folder(tmp_path / "none")
    with pytest.raises(DataError, match="holds no picture with a caption"):
        images.load_folder(tmp_path, cache=tmp_path / "cache")
    cases = {
        "nonsense": "line 1, is no JSON",
        '\n{"file": "a.png"}': 'line 2, needs "file" and "caption"',
        "[1]": 'needs "file" and "caption"',
        '{"file": "a", "caption": "x"}\n{"file": "./a", "caption": "y"}': "line 2: ./a is listed twice",
    }
    for text, message in cases.items():
        (tmp_path / "captions.jsonl").write_text(text)
        with pytest.raises(DataError, match=message):
            images.load_folder(tmp_path, cache=tmp_path / "cache")


@needs_pillow
def test_a_sheet_of_pictures_with_captions(tmp_path: Path) -> None:
    from PIL import Image

    cells = [np.full((8, 12, 3), 10 * i, np.uint8) for i in range(3)]
    sheet = images.grid(cells, 2, scale=3)
    assert sheet.shape == (2 * 30 + 6, 2 * 42 + 6, 3)
    assert (sheet[6:30, 48:84] == 10).all() and (sheet[36:60, 6:42] == 20).all() and (sheet[40, 60] == 236).all()
    named = images.grid(cells, 3, ["a", "a very long caption indeed", ""], scale=3)
    assert named.shape == (24 + 24 + 12, 3 * 42 + 6, 3) and (named[31:54, 48:84] < 100).any()
    images.write_picture(named, tmp_path / "named.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "named.png")), named)
    with pytest.raises(StateError, match="cannot be written"):
        images.write_picture(named, tmp_path / "none" / "a.png")


@needs_pillow
def test_the_command_trains_on_a_folder_with_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_CACHE_DIR", str(tmp_path / "cache"))
    folder, out, runner = sample_folder(tmp_path / "pictures"), tmp_path / "run", CliRunner()
    small = ["--tiny", "--batch", "2", "--width", "12", "--layers", "1", "--side", "16", "--device", "reference"]
    base = ["train", "images", str(folder), *small, "--out", str(out), "--sampling-steps", "2", "--json"]
    done = runner.invoke(app, [*base, "--steps", "4", "--grids", "1", "--characters", "--caption", "a new one"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["steps"] == 4 and len(report["grids"]) == 1
    assert "2 of 16x16" in done.stderr and "left out" in done.stderr
    (folder / "a.txt").write_text("another", encoding="utf-8")
    changed = runner.invoke(app, [*base, "--resume", "latest", "--steps", "5"])
    assert changed.exit_code == 1 and "not those that the run was begun with" in changed.output
    for wrong in (["--minutes", "1", "--steps", "2"], ["--run", "x"], ["--minutes", "1", "--resume", "latest"]):
        assert runner.invoke(app, [*base, *wrong]).exit_code == 1
    painted = runner.invoke(app, ["sample", str(out), "--caption", "zzz", "--size", "16", "--json"])
    assert painted.exit_code == 1 and "HEIGHTxWIDTH" in painted.output
