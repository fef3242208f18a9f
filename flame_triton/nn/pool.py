"""Pooling layers: torch.nn's names and arguments, no parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ..ir.node import Value
from ..ir.op import call
from .module import Module

Size = int | Sequence[int]


class _MaxPool(Module):
    """The largest of each window; stride: kernel_size by default. return_indices: forward gives (values, places)."""

    axes: ClassVar[int]

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self.arguments = (kernel_size, stride, padding, dilation, ceil_mode, return_indices)

    def forward(self, x: Value) -> Any:
        """[N, C, ...] or [C, ...] -> the same axes, fewer elements along the last."""
        return call(f"max_pool{self.axes}d", x, *self.arguments)


class MaxPool1d(_MaxPool):
    """max_pool1d as a layer: [N, C, L] or [C, L]."""

    axes = 1


class MaxPool2d(_MaxPool):
    """max_pool2d as a layer: [N, C, H, W] or [C, H, W]."""

    axes = 2


class MaxPool3d(_MaxPool):
    """max_pool3d as a layer: [N, C, D, H, W] or [C, D, H, W]."""

    axes = 3


class AvgPool1d(Module):
    """avg_pool1d as a layer: [N, C, L] or [C, L]."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad)

    def forward(self, x: Value) -> Value:
        """The mean of each window."""
        return call("avg_pool1d", x, *self.arguments)


class _AvgPool(Module):
    """The mean of each window; stride: kernel_size by default."""

    axes: ClassVar[int]

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.arguments = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

    def forward(self, x: Value) -> Value:
        """[N, C, ...] or [C, ...] -> the same axes, fewer elements along the last."""
        return call(f"avg_pool{self.axes}d", x, *self.arguments)


class AvgPool2d(_AvgPool):
    """avg_pool2d as a layer: [N, C, H, W] or [C, H, W]."""

    axes = 2


class AvgPool3d(_AvgPool):
    """avg_pool3d as a layer: [N, C, D, H, W] or [C, D, H, W]."""

    axes = 3


class _AdaptiveAvgPool(Module):
    """The mean over windows that cover the axes; output_size 1 is global pooling."""

    axes: ClassVar[int]

    def __init__(self, output_size: int | Sequence[int | None] | None) -> None:
        self.output_size = output_size

    def forward(self, x: Value) -> Value:
        """[N, C, ...] or [C, ...] -> the last axes of output_size."""
        return call(f"adaptive_avg_pool{self.axes}d", x, self.output_size)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """adaptive_avg_pool1d as a layer: [N, C, L] or [C, L]."""

    axes = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """adaptive_avg_pool2d as a layer: [N, C, H, W] or [C, H, W]."""

    axes = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """adaptive_avg_pool3d as a layer: [N, C, D, H, W] or [C, D, H, W]."""

    axes = 3


class _AdaptiveMaxPool(Module):
    """The largest of windows that cover the axes. return_indices: forward gives (values, places)."""

    axes: ClassVar[int]

    def __init__(self, output_size: int | Sequence[int | None] | None, return_indices: bool = False) -> None:
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, x: Value) -> Any:
        """[N, C, ...] or [C, ...] -> the last axes of output_size."""
        return call(f"adaptive_max_pool{self.axes}d", x, self.output_size, self.return_indices)


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """adaptive_max_pool1d as a layer: [N, C, L] or [C, L]."""

    axes = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """adaptive_max_pool2d as a layer: [N, C, H, W] or [C, H, W]."""

    axes = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """adaptive_max_pool3d as a layer: [N, C, D, H, W] or [C, D, H, W]."""

    axes = 3
