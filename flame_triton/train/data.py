"""Training data: the handwritten digits of scikit-learn, and batches whose order is a function of seed and position."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError, MissingPackageError

Array = np.ndarray[Any, Any]


def require_extra(extra: str, *modules: str) -> None:
    """Raises MissingPackageError, naming the command that helps, unless all modules can be imported."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed; "
            f"run: pip install 'flame-triton[{extra}]'"
        )


@dataclass(frozen=True, eq=False)
class Digits:
    """images: float32 [N, 8, 8] in [-1, 1]; labels: int64 [N], 0 to 9."""

    images: Array
    labels: Array


def load_digits() -> Digits:
    """The 1797 handwritten digits that come with scikit-learn (Alpaydin and Kaynak 1998), 0..16 scaled to [-1, 1].

    Raises MissingPackageError without scikit-learn.
    """
    require_extra("examples", "sklearn")
    from sklearn.datasets import load_digits as load

    found: Any = load()
    return Digits((found.images / 8 - 1).astype(np.float32), found.target.astype(np.int64))


class Batches:
    """Endless batches of row numbers, int64 [batch]: every epoch takes each row once, in an order of its own.

    count: rows there are; seed: what the orders are drawn from; position: how many batches have been taken. The same
    seed and position give the same batch, so that the position is all a checkpoint needs.
    """

    def __init__(self, count: int, batch: int, seed: int, position: int = 0) -> None:
        if count < 1 or batch < 1 or position < 0:
            raise ArgumentError(f"no batches of {batch} out of {count} rows from position {position}", op="Batches")
        self.count, self.batch, self.seed, self.position = count, batch, seed, position
        self._orders: dict[int, Array] = {}

    def __next__(self) -> Array:
        rows = self.position * self.batch + np.arange(self.batch)
        epochs = rows // self.count
        self._orders = {e: self._order(e) for e in range(int(epochs[0]), int(epochs[-1]) + 1)}
        self.position += 1
        return np.concatenate([order[rows[epochs == e] % self.count] for e, order in self._orders.items()])

    def _order(self, epoch: int) -> Array:
        known = self._orders.get(epoch)
        return np.random.default_rng((self.seed, epoch)).permutation(self.count) if known is None else known
