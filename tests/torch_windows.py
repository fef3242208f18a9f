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


def patches(x: torch.Tensor, patch_size: Any, order: str = "cpp") -> torch.Tensor:
    """Columns of im2col side by side; channels last by another permutation."""
    p = patch_size if isinstance(patch_size, tuple) else (patch_size, patch_size)
    rows = F.unfold(x, p, stride=p).mT
    if order == "cpp":
        return rows
    return rows.reshape(*rows.shape[:2], x.shape[1], p[0] * p[1]).mT.reshape(rows.shape)


def unpatches(x: torch.Tensor, patch_size: Any, size: Any = None, order: str = "cpp") -> torch.Tensor:
    """As DiT has it: reshape, einsum, reshape."""
    p, q = patch_size if isinstance(patch_size, tuple) else (patch_size, patch_size)
    side = int(x.shape[1] ** 0.5)
    h, w = (side, side) if size is None else (size[0] // p, size[1] // q)
    if order == "cpp":
        x = x.reshape(len(x), h, w, -1, p, q).permute(0, 1, 2, 4, 5, 3)
    else:
        x = x.reshape(len(x), h, w, p, q, -1)
    return torch.einsum("nhwpqc->nchpwq", x).reshape(len(x), -1, h * p, w * q)


def multiplied(x: torch.Tensor, axis: int, matrix: Any) -> torch.Tensor:
    return (x.movedim(axis, -1) @ torch.tensor(matrix, dtype=x.dtype).T).movedim(-1, axis)


TORCH: dict[str, Callable[..., Any]] = {
    **named("unfold fold max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d"),
    **named("lp_pool3d local_response_norm interpolate"),
    **named("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d"),
    **named("adaptive_max_pool3d max_unpool1d max_unpool2d max_unpool3d"),
    "sliding_window_view": window_view,
    **named("pixel_shuffle pixel_unshuffle channel_shuffle grid_sample affine_grid"),
    "apply_matrix": multiplied,
    "patchify": patches,
    "unpatchify": unpatches,
    "upsample": F.interpolate,
    "upsample_nearest": F.interpolate,
    "upsample_bilinear": lambda *a, **k: F.interpolate(*a, **k, mode="bilinear", align_corners=True),
    "unfold_axis": lambda x, dim, size, step: x.unfold(dim, size, step),
    "window_max": window_maximum,
}

WITHOUT_TWIN = {
    "windows": "see test_windows, which compares it with Tensor.unfold",
    "overlap_add": "see test_windows: the transpose of windows",
    "spread": "see test_windows: overlap_add is its sum",
    "gather_spread": "see test_windows: the transpose of spread",
}
