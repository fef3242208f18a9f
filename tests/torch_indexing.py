"""What torch calls writing by index, for test_ops_reference.py. Negative indices are wrapped for torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def wrapped(name: str) -> Callable[..., Any]:
    """x, dim, index, ...: the index of axis `dim` made positive."""
    function = getattr(torch, name)

    def call(x: torch.Tensor, dim: int, index: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return function(x, dim, index % (x.shape[dim] if x.ndim else 1), *args, **kwargs)

    return call


def last_wins(x: torch.Tensor, dim: int, index: torch.Tensor, src: Any) -> torch.Tensor:
    """torch leaves open which of several values stays; written one after the other it is the last."""
    out = x.clone()
    for at in np.ndindex(*index.shape):
        place = list(at)
        place[dim] = int(index[at])
        out[tuple(place)] = src[at] if isinstance(src, torch.Tensor) else src
    return out


def copied(x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    out = x.clone()
    for i, row in enumerate(index.tolist()):
        out.select(dim, row).copy_(source.select(dim, i))
    return out


def put(x: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, axis: int | None) -> torch.Tensor:
    out = x.numpy().copy()
    np.put_along_axis(out, indices.numpy(), values.numpy() if isinstance(values, torch.Tensor) else values, axis)
    return torch.from_numpy(out)


def along(x: torch.Tensor, indices: torch.Tensor, axis: int | None = -1) -> torch.Tensor:
    if axis is None:
        return torch.take_along_dim(x, indices % x.numel())
    return torch.take_along_dim(x, indices % x.shape[axis], axis)


def reduced(x: torch.Tensor, dim: int, index: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return x.scatter_reduce(dim, index % x.shape[dim], *args, **kwargs)


def put_at(x: torch.Tensor, indices: Any, values: Any, accumulate: bool = False) -> torch.Tensor:
    key = tuple(slice(None) if k is None else k.numpy() for k in indices)
    out, new = x.numpy().copy(), values.numpy() if isinstance(values, torch.Tensor) else values
    if accumulate:
        np.add.at(out, key, new)
    else:
        out[key] = new
    return torch.from_numpy(out)


def extremes(index: torch.Tensor, values: torch.Tensor, rows: int, smallest: bool = False) -> torch.Tensor:
    there = (index >= -rows) & (index < rows)
    index, values = index[there] % rows, values[there]
    if values.is_floating_point():
        empty = torch.inf if smallest else -torch.inf
    else:
        empty = torch.iinfo(values.dtype).max if smallest else torch.iinfo(values.dtype).min
    out = torch.full((rows, values.shape[1]), empty, dtype=values.dtype)
    return out.index_reduce(0, index, values, "amin" if smallest else "amax")


def counted(x: torch.Tensor, weights: torch.Tensor | None = None, minlength: int = 0) -> torch.Tensor:
    return torch.bincount(x, weights, minlength)[:minlength]


def bag(indices: torch.Tensor, weight: torch.Tensor, offsets: Any = None, **kwargs: Any) -> torch.Tensor:
    offsets = None if offsets is None else torch.tensor(offsets)
    return F.embedding_bag(indices, weight, offsets, **kwargs)


TORCH: dict[str, Callable[..., Any]] = {
    "bincount": counted,
    "diagonal_scatter": torch.diagonal_scatter,
    "embedding_bag": bag,
    "histc": torch.histc,
    "index_add": wrapped("index_add"),
    "index_copy": lambda x, dim, index, source: copied(x, dim, index % x.shape[dim], source),
    "index_fill": wrapped("index_fill"),
    "index_put": put_at,
    "index_reduce": wrapped("index_reduce"),
    "masked_scatter": lambda x, mask, source: x.masked_scatter(mask, source),
    "put_along_axis": put,
    "scatter": lambda x, dim, index, src: last_wins(x, dim, index % x.shape[dim], src),
    "scatter_extreme_rows": extremes,
    "scatter_reduce": reduced,
    "select_scatter": torch.select_scatter,
    "slice_scatter": torch.slice_scatter,
    "take_along_axis": along,
}

_DRAWS = """alpha_dropout cauchy dropout1d dropout2d dropout3d exponential feature_alpha_dropout geometric gumbel
    gumbel_softmax laplace log_normal multinomial normal_like randperm rrelu uniform_like""".split()
WITHOUT_TWIN = dict.fromkeys(_DRAWS, "a draw: see test_sampling")
