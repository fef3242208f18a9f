"""Pictures in buckets: every picture of a bucket has one size, so each bucket has one program, and no batch mixes them.

The order of the batches is a function of seed and position alone, as that of `data.Batches` is.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ArgumentError

Array = np.ndarray[Any, Any]
Size = tuple[int, int]

RATIOS = (1 / 2, 9 / 16, 2 / 3, 3 / 4, 1.0, 4 / 3, 3 / 2, 16 / 9, 2.0)
"""Height over width of the buckets there can be."""


@dataclass(frozen=True, eq=False)
class Bucket:
    """images: uint8 [N, H, W, 3]; captions: one each."""

    images: Array
    captions: tuple[str, ...]

    @property
    def size(self) -> Size:
        """(H, W)."""
        return self.images.shape[1], self.images.shape[2]

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures with captions. skipped: what was left out -> why."""

    buckets: tuple[Bucket, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    @property
    def captions(self) -> list[str]:
        """All captions, bucket by bucket."""
        return [caption for bucket in self.buckets for caption in bucket.captions]

    def digest(self) -> str:
        """SHA-256 of all pixels and captions, in hexadecimal: a run goes on only with the data it began with."""
        found = hashlib.sha256()
        for bucket in self.buckets:
            found.update(json.dumps([bucket.images.shape, bucket.captions]).encode())
            found.update(np.ascontiguousarray(bucket.images).data)
        return found.hexdigest()

    def held_out(self, fraction: float) -> tuple[Pictures, Pictures]:
        """(those to train on, those held out): about `fraction`, chosen by the hash of the caption.

        A caption is held out only if it is there once and each of its words stands in a caption that is trained on, so
        that what is held out is a new combination of what is known.
        """
        from .captions import split

        chosen = [c for c in dict.fromkeys(self.captions) if _hash(c) < fraction]
        words: dict[str, int] = {}
        for caption in self.captions:
            for word in set(split(caption, "word")):
                words[word] = words.get(word, 0) + 1
        out: set[str] = set()
        for caption in chosen:
            own = set(split(caption, "word"))
            if self.captions.count(caption) == 1 and all(words[w] > 1 for w in own):
                out.add(caption)
                for word in own:
                    words[word] -= 1
        kept = Pictures(_select(self.buckets, lambda c: c not in out), self.skipped)
        return kept, Pictures(_select(self.buckets, out.__contains__))


def _hash(caption: str) -> float:
    """A number in [0, 1) that a caption has for good."""
    return int.from_bytes(hashlib.sha256(caption.encode()).digest()[:6], "big") / 2**48


def _select(buckets: Sequence[Bucket], wanted: Any) -> tuple[Bucket, ...]:
    kept = []
    for bucket in buckets:
        rows = [i for i, caption in enumerate(bucket.captions) if wanted(caption)]
        if rows:
            kept.append(Bucket(bucket.images[rows], tuple(bucket.captions[i] for i in rows)))
    return tuple(kept)


def bucket_sizes(side: int, multiple: int) -> list[Size]:
    """The sizes (H, W) that pictures are brought to: about side^2 pixels each, multiples of `multiple`, by RATIOS."""
    if side < multiple or multiple < 1:
        raise ArgumentError(f"the side, {side}, must be at least one patch, {multiple}", op="bucket_sizes")
    sizes: dict[Size, None] = {}
    for ratio in RATIOS:
        height, width = side * math.sqrt(ratio), side / math.sqrt(ratio)
        sizes[max(1, round(height / multiple)) * multiple, max(1, round(width / multiple)) * multiple] = None
    return list(sizes)


def nearest_size(size: Size, sizes: Sequence[Size]) -> Size:
    """The size whose ratio of height to width is nearest to that of `size`, by the logarithm; the first of equals."""
    ratio = math.log(size[0] / size[1])
    return min(sizes, key=lambda s: abs(math.log(s[0] / s[1]) - ratio))


class BucketBatches:
    """Endless (bucket, row numbers of it, int64 [batch]): every epoch takes each row of each bucket at least once.

    counts: rows of each bucket. A bucket's rows are shuffled anew in each epoch; where they do not fill the last batch,
    it begins the same order again. The batches of all buckets come in a shuffled order. seed and position determine a
    batch, as in `Batches`.
    """

    def __init__(self, counts: Sequence[int], batch: int, seed: int, position: int = 0) -> None:
        if not counts or min(counts) < 1 or batch < 1 or position < 0:
            raise ArgumentError(
                f"no batches of {batch} out of buckets of {list(counts)} rows from position {position}", op="Batches"
            )
        self.counts, self.batch, self.seed, self.position = tuple(counts), batch, seed, position
        owners = [np.full(-(-count // batch), b) for b, count in enumerate(counts)]
        self._owners = np.concatenate(owners)
        self._starts = np.concatenate([np.arange(len(o)) for o in owners])
        self._epoch = -1
        self._order = self._owners
        self._rows: list[Array] = []

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return len(self._owners)

    def __next__(self) -> tuple[int, Array]:
        epoch, place = divmod(self.position, self.per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        entry = self._order[place]
        bucket, start = int(self._owners[entry]), int(self._starts[entry]) * self.batch
        rows = self._rows[bucket]
        self.position += 1
        return bucket, rows[(start + np.arange(self.batch)) % len(rows)]

    def _shuffle(self, epoch: int) -> None:
        self._epoch = epoch
        self._order = np.random.default_rng((self.seed, epoch)).permutation(self.per_epoch)
        self._rows = [
            np.random.default_rng((self.seed, epoch, b)).permutation(count) for b, count in enumerate(self.counts)
        ]
