"""Captions as numbers: a vocabulary built from the data, of words or of characters.

Four tokens come first and mean something of their own: nothing (padding), a token that the vocabulary lacks, the null
caption (the empty condition of classifier-free guidance, a caption of this one token), and the start of every other
caption, so that the empty caption has a token too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import ArgumentError

Array = np.ndarray[Any, Any]

PAD, UNKNOWN, NULL, START = range(4)
SPECIAL = 4
_WORDS = re.compile(r"[^\W_]+|[^\w\s]")
LEVELS = ("word", "character")


def split(caption: str, level: str) -> list[str]:
    """The tokens of a caption, in lower case: words and single marks, or characters with single spaces between words.

    "_" separates words as a space does.
    """
    lowered = caption.lower().replace("_", " ")
    return _WORDS.findall(lowered) if level == "word" else list(" ".join(lowered.split()))


@dataclass(frozen=True)
class Vocabulary:
    """level: "word" or "character"; tokens: those that have a number, which is their position plus SPECIAL."""

    level: str
    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ArgumentError(f"level must be one of {', '.join(LEVELS)}, got {self.level!r}", op="Vocabulary")
        if len(set(self.tokens)) != len(self.tokens):
            raise ArgumentError("a token is listed twice", op="Vocabulary")

    @classmethod
    def build(cls, captions: Sequence[str], level: str = "word", limit: int = 32768) -> Vocabulary:
        """The `limit` most frequent tokens, by frequency, then in order of their characters: a function of the data."""
        counts = Counter(token for caption in captions for token in split(caption, level))
        ranked = sorted(counts, key=lambda token: (-counts[token], token))
        return cls(level, tuple(ranked[:limit]))

    def __len__(self) -> int:
        """How many numbers there are, those of the special tokens included."""
        return SPECIAL + len(self.tokens)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: SPECIAL + i for i, token in enumerate(self.tokens)}

    def unknown(self, caption: str) -> list[str]:
        """The tokens of a caption that have no number, each once."""
        return list(dict.fromkeys(t for t in split(caption, self.level) if t not in self._numbers))

    def encode(self, captions: Sequence[str | None], length: int) -> tuple[Array, Array]:
        """Numbers, int64 [N, length], padded with PAD, and how many of each row count, int64 [N]. None: no caption.

        What is beyond `length`, the start counted, is cut off.
        """
        if length < 1:
            raise ArgumentError(f"length must be at least 1, got {length}", op="Vocabulary")
        table = np.full((len(captions), length), PAD, np.int64)
        lengths = np.ones(len(captions), np.int64)
        for row, caption in enumerate(captions):
            if caption is None:
                table[row, 0] = NULL
                continue
            known = [self._numbers.get(token, UNKNOWN) for token in split(caption, self.level)]
            numbers = [START, *known][:length]
            table[row, : len(numbers)], lengths[row] = numbers, len(numbers)
        return table, lengths

    def longest(self, captions: Sequence[str]) -> int:
        """The length that no caption exceeds, the start counted."""
        return 1 + max((len(split(caption, self.level)) for caption in captions), default=0)
