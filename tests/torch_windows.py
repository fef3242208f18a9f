"""What torch calls windows, pooling, padding, resizing and patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def window_view(x: torch.Tensor, window_shape: Any, axis: Any = None) -> torch.Tensor:
    return torch.from_numpy(np.lib.stride_tricks.sliding_window_view(x.numpy(), window_shape, axis).copy())


def named(names: str) -> dict[str, Callable[..., Any]]:
    return {name: getattr(F, name) for name in names.split()}


def window_maximum(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    n = places.ndim // 2
    return values.amax(tuple(range(values.ndim - 2 * n, values.ndim - n)))


TORCH: dict[str, Callable[..., Any]] = {
    **named("unfold fold max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d"),
    **named("lp_pool3d local_response_norm interpolate upsample upsample_nearest upsample_bilinear"),
    **named("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d"),
    **named("adaptive_max_pool3d max_unpool1d max_unpool2d max_unpool3d"),
    "sliding_window_view": window_view,
    "unfold_axis": lambda x, dim, size, step: x.unfold(dim, size, step),
    "window_max": window_maximum,
}

WITHOUT_TWIN = {
    "windows": "see test_windows, which compares it with Tensor.unfold",
    "overlap_add": "see test_windows: the transpose of windows",
    "spread": "see test_windows: overlap_add is its sum",
    "gather_spread": "see test_windows: the transpose of spread",
}
