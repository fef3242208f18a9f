"""Layers that resize images or rearrange their pixels: torch.nn's names and arguments, no parameters."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.node import Value
from ..ir.op import call
from .module import Module


class Upsample(Module):
    """interpolate as a layer: to `size`, or by scale_factor."""

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        self.arguments = (size, scale_factor, mode, align_corners, recompute_scale_factor)

    def forward(self, x: Value) -> Value:
        """[N, C, ...] -> the same axes, the last ones resized."""
        return call("interpolate", x, *self.arguments)


class PixelShuffle(Module):
    """pixel_shuffle as a layer (Shi et al. 2016)."""

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = upscale_factor

    def forward(self, x: Value) -> Value:
        """[..., C r^2, H, W] -> [..., C, H r, W r]."""
        return call("pixel_shuffle", x, self.upscale_factor)


class PixelUnshuffle(Module):
    """pixel_unshuffle as a layer."""

    def __init__(self, downscale_factor: int) -> None:
        self.downscale_factor = downscale_factor

    def forward(self, x: Value) -> Value:
        """[..., C, H r, W r] -> [..., C r^2, H, W]."""
        return call("pixel_unshuffle", x, self.downscale_factor)
