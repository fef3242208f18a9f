"""What torch calls scans, sorts and searches, for test_ops_reference.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch_core import renamed


def flattened(name: str) -> Callable[..., Any]:
    """cumsum and cumprod of the flattened tensor, as NumPy."""

    def call(x: torch.Tensor, axis: int | None = None) -> torch.Tensor:
        return getattr(torch, name)(x.reshape(-1) if axis is None else x, 0 if axis is None else axis)

    return call


def trapezoid(y: torch.Tensor, x: torch.Tensor | None = None, dx: float = 1.0, axis: int = -1) -> torch.Tensor:
    return torch.cumulative_trapezoid(y, dx=dx, dim=axis) if x is None else torch.cumulative_trapezoid(y, x, dim=axis)


def recurrence(a: torch.Tensor, b: torch.Tensor, axis: int = -1, reverse: bool = False) -> torch.Tensor:
    y, found = torch.zeros_like(b.select(axis, 0)), []
    steps = list(zip(a.unbind(axis), b.unbind(axis), strict=True))
    for slope, offset in reversed(steps) if reverse else steps:
        y = slope * y + offset
        found.append(y)
    return torch.stack(found[::-1] if reverse else found, axis)


def ordered(x: torch.Tensor, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    return torch.sort(x, dim=axis, descending=descending, stable=True)


def middle(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: torch.Tensor, axis: int | None = None, keepdims: bool = False) -> Any:
        return function(x) if axis is None else function(x, axis, keepdims)

    return call


def quantiles(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: torch.Tensor, q: Any, axis: Any = None, keepdims: bool = False, interpolation: str = "linear") -> Any:
        q = torch.tensor(q, dtype=x.dtype)
        return function(x, q, dim=axis, keepdim=keepdims, interpolation=interpolation)

    return call


def searched(sequence: torch.Tensor, values: torch.Tensor, right: bool = False) -> torch.Tensor:
    return torch.searchsorted(sequence, values, right=right)


def bucketed(x: torch.Tensor, boundaries: torch.Tensor, right: bool = False) -> torch.Tensor:
    """torch's bucketize and NumPy's digitize count the other way round than searchsorted; ours follows torch."""
    return torch.bucketize(x, boundaries, right=right)


def most(x: torch.Tensor, axis: int = -1, keepdims: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    value, _ = torch.mode(x, axis, True)
    at = torch.from_numpy(np.arange(x.shape[axis])).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    index = torch.where(x == value, at, -1).amax(axis, True)
    return (value, index) if keepdims else (value.squeeze(axis), index.squeeze(axis))


TORCH: dict[str, Callable[..., Any]] = {
    "argsort": lambda x, axis=-1, descending=False: torch.argsort(x, dim=axis, descending=descending, stable=True),
    "bucketize": bucketed,
    "cummax": renamed(torch.cummax),
    "cummin": renamed(torch.cummin),
    "cumprod": flattened("cumprod"),
    "cumsum": flattened("cumsum"),
    "cumulative_trapezoid": trapezoid,
    "kthvalue": renamed(torch.kthvalue),
    "linear_recurrence": recurrence,
    "logcumsumexp": renamed(torch.logcumsumexp),
    "median": middle(torch.median),
    "mode": most,
    "msort": torch.msort,
    "nanmedian": middle(torch.nanmedian),
    "nanquantile": quantiles(torch.nanquantile),
    "quantile": quantiles(torch.quantile),
    "searchsorted": searched,
    "sort": ordered,
    "topk": lambda x, k, axis=-1, largest=True, sorted=True: torch.topk(x, k, axis, largest, True),
}

WITHOUT_TWIN: dict[str, str] = {}
