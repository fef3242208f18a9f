"""A folder of pictures with captions: `photo.png` beside `photo.txt`, or a `captions.jsonl` that names the files.

Pictures are decoded once, brought to the size of their bucket (scaled to cover it, the rest cut off evenly), and kept
as bytes in a cache, which is used as long as folder, captions and sizes stay what they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import config
from ..errors import DataError, StateError
from .buckets import Bucket, Pictures, Size, bucket_sizes, nearest_size
from .data import require_extra

Array = np.ndarray[Any, Any]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
CAPTIONS = "captions.jsonl"
MAX_PIXELS = 1 << 28
_FORMAT = 1  # of the cache; a new one when what is stored changes


def load_folder(
    folder: Path,
    side: int = 72,
    multiple: int = 4,
    background: tuple[int, int, int] = (255, 255, 255),
    cache: Path | None = None,
) -> Pictures:
    """The pictures of a folder and of those below it, in buckets of about side^2 pixels whose sides are multiples of
    `multiple`; those with transparency are laid on `background`.

    Pictures without a caption, and files that are no picture, are left out and listed in `skipped`.
    cache: folder of decoded pictures, default one in the process's cache folder.
    Raises MissingPackageError without Pillow; DataError for a folder that is none, that holds no picture with a
    caption, or whose captions.jsonl is damaged.
    """
    require_extra("emoji", "PIL")
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    captions, skipped = find_captions(folder)
    sizes = bucket_sizes(side, multiple)
    place = (cache or config.cache_dir() / "pictures") / f"{_key(folder, captions, sizes, background)}.npz"
    kept = _read(place)
    if kept is None:
        kept = _decode(folder, captions, sizes, background)
        _write(place, kept)
    buckets, broken = kept
    if not buckets:
        raise DataError(
            f"{folder} holds no picture with a caption; a caption stands in a .txt of the same name or in {CAPTIONS}, "
            'as {"file": "photo.png", "caption": "a photo"}'
        )
    return Pictures(buckets, {**skipped, **broken})


def find_captions(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """(relative path of a picture -> its caption, of one that is left out -> why), both in order of path."""
    listed = _listed(folder / CAPTIONS) if (folder / CAPTIONS).exists() else {}
    captions: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        name = path.relative_to(folder).as_posix()
        text = path.with_suffix(".txt")
        if name in listed:
            captions[name] = listed[name]
        elif text.is_file():
            try:
                captions[name] = text.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                skipped[name] = f"its caption cannot be read: {error}"
        else:
            skipped[name] = "it has no caption"
    skipped |= {name: f"{CAPTIONS} names it, but there is no such picture" for name in listed if name not in captions}
    return captions, dict(sorted(skipped.items()))


def _listed(path: Path) -> dict[str, str]:
    """What captions.jsonl says: file -> caption."""
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}, is no JSON: {error}") from error
        name, caption = (record.get(k) if isinstance(record, dict) else None for k in ("file", "caption"))
        if not isinstance(name, str) or not isinstance(caption, str):
            raise DataError(f'{path}, line {number}, needs "file" and "caption", both text')
        if Path(name).as_posix() in found:
            raise DataError(f"{path}, line {number}: {name} is listed twice")
        found[Path(name).as_posix()] = caption.strip()
    return found


# ---- decoding --------------------------------------------------------------------------------------------------


Decoded = tuple[tuple[Bucket, ...], Mapping[str, str]]


def _decode(folder: Path, captions: Mapping[str, str], sizes: Sequence[Size], background: Any) -> Decoded:
    """The buckets that have pictures, in order of `sizes`, and the files that are no picture."""
    members: dict[Size, list[tuple[Array, str]]] = {size: [] for size in sizes}
    broken: dict[str, str] = {}
    for name, caption in captions.items():
        found = decode(folder / name, sizes, background)
        if isinstance(found, str):
            broken[name] = found
        else:
            members[found.shape[0], found.shape[1]].append((found, caption))
    buckets = (Bucket(np.stack([i for i, _ in m]), tuple(c for _, c in m)) for m in members.values() if m)
    return tuple(buckets), broken


def decode(path: Path, sizes: Sequence[Size], background: tuple[int, int, int]) -> Array | str:
    """A picture in the size of its bucket, uint8 [H, W, 3], or why it cannot be one."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return f"it has {picture.width}x{picture.height} pixels, more than {MAX_PIXELS}"
            front = ImageOps.exif_transpose(picture).convert("RGBA")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        return f"it is no picture that can be read: {error}"
    ground = Image.new("RGBA", front.size, (*background, 255))
    whole = Image.alpha_composite(ground, front).convert("RGB")
    height, width = nearest_size((whole.height, whole.width), sizes)
    return np.asarray(ImageOps.fit(whole, (width, height), Image.Resampling.LANCZOS))


# ---- the cache -------------------------------------------------------------------------------------------------


def _key(folder: Path, captions: Mapping[str, str], sizes: Sequence[Size], background: Any) -> str:
    """A name for what the cache holds: changes with any file's name, size or time, any caption, and the sizes."""
    stats = {name: os.stat(folder / name) for name in captions}
    files = [(name, s.st_size, s.st_mtime_ns, captions[name]) for name, s in stats.items()]
    text = json.dumps([_FORMAT, str(folder.resolve()), files, sizes, background])
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, decoded: Decoded) -> None:
    """Keep what was decoded; a cache that cannot be written is done without."""
    buckets, broken = decoded
    about = json.dumps({"captions": [b.captions for b in buckets], "broken": dict(broken)})
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            images: dict[str, Any] = {f"images_{i}": b.images for i, b in enumerate(buckets)}
            np.savez(file, about=np.frombuffer(about.encode(), np.uint8), **images)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)


def _read(path: Path) -> Decoded | None:
    """What `_write` kept; None if there is nothing, or nothing sound."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            captions = [tuple(c) for c in about["captions"]]
            buckets = tuple(Bucket(stored[f"images_{i}"], c) for i, c in enumerate(captions))
            return buckets, dict(about["broken"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


# ---- pictures to look at ---------------------------------------------------------------------------------------


def write_picture(picture: Array, path: Path) -> None:
    """uint8 [H, W, 3] as a PNG. Raises StateError if it cannot be written."""
    from PIL import Image

    try:
        Image.fromarray(picture).save(path, "PNG")
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror or error}") from error


def grid(images: Sequence[Array], columns: int, captions: Sequence[str] = (), scale: int = 1) -> Array:
    """Pictures, uint8 [H, W, 3] each, row by row as one, enlarged `scale` times, with their captions below."""
    from PIL import Image, ImageDraw

    height = max(i.shape[0] for i in images) * scale
    width = max(i.shape[1] for i in images) * scale
    margin, text = 6, 24 if captions else 0
    rows = -(-len(images) // columns)
    size = (columns * (width + margin) + margin, rows * (height + margin + text) + margin)
    sheet = Image.new("RGB", size, (236, 236, 236))
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x, y = margin + i % columns * (width + margin), margin + i // columns * (height + margin + text)
        one = Image.fromarray(np.ascontiguousarray(image))
        sheet.paste(one.resize((one.width * scale, one.height * scale), Image.Resampling.NEAREST), (x, y))
        if captions:
            draw.multiline_text((x, y + height + 1), _wrapped(captions[i], draw, width), fill=(0, 0, 0), spacing=0)
    return np.asarray(sheet)


def _wrapped(caption: str, draw: Any, width: int) -> str:
    """The caption in two lines at most, each no wider than `width` pixels; what does not fit is cut off."""
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    kept = lines[:2]
    for i, line in enumerate(kept):
        while line and draw.textlength(line) > width:
            line = line[:-1]
        kept[i] = line
    return "\n".join(kept)
