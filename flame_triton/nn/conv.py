"""Convolution layers, with torch's constructor arguments, parameter names, layouts and default initialisation.

As for the other layers, parameters are used in the dtype of what they are applied to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import ArgumentError
from ..ir.node import Value
from ..ir.op import call
from ..types import DTypeLike, float32
from . import init as initialisers
from .module import Module, Parameter

Sizes = int | Sequence[int]


def _kernel(size: Sizes, rank: int, name: str) -> tuple[int, ...]:
    sizes = tuple(size) if isinstance(size, list | tuple) else (int(size),) * rank  # type: ignore[arg-type]
    if len(sizes) != rank or any(n < 1 for n in sizes):
        raise ArgumentError(f"kernel_size must be a positive int or {rank} of them, got {size!r}", op=name)
    return sizes


class _Convolution(Module):
    """What the six layers share: parameters, and how they are initialised.

    weight: [out, in / groups, *kernel_size], or transposed [in, out / groups, *kernel_size]; bias: [out]. Both uniform
    on +-1 / sqrt(weight.shape[1] * the kernel's size), as in torch.
    """

    rank: int
    weight: Value
    bias: Value | None

    def __init__(
        self, channels: int, kernels: int, out_channels: int, kernel_size: Sizes, groups: int, bias: bool,
        dtype: DTypeLike,
    ) -> None:  # fmt: skip
        """channels, kernels: the weight's second and first axis, before they are divided by groups."""
        name = type(self).__name__
        if groups < 1 or channels % groups or kernels % groups:
            raise ArgumentError(f"groups={groups} must divide {channels} and {kernels} channels", op=name)
        size = _kernel(kernel_size, self.rank, name)
        bound = 1 / math.sqrt(max(channels // groups * math.prod(size), 1))
        draw = initialisers.uniform(-bound, bound)
        self.weight = Parameter((kernels, channels // groups, *size), draw, dtype)
        self.bias = Parameter((out_channels,), draw, dtype) if bias else None

    def in_dtype_of(self, x: Value) -> tuple[Value, Value | None]:
        """Weight and bias in x's dtype."""
        return call("cast", self.weight, x.dtype), None if self.bias is None else call("cast", self.bias, x.dtype)


class _Conv(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: str | Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        dtype: DTypeLike = float32,
    ) -> None:
        super().__init__(in_channels, out_channels, out_channels, kernel_size, groups, bias, dtype)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def forward(self, x: Value) -> Value:
        """[n, in, *size] -> [n, out, *size], with or without n, computed in x's dtype."""
        weight, bias = self.in_dtype_of(x)
        function = f"conv{self.rank}d"
        return call(function, x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class _ConvTranspose(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        *,
        dtype: DTypeLike = float32,
    ) -> None:
        super().__init__(out_channels, in_channels, out_channels, kernel_size, groups, bias, dtype)
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.groups, self.dilation = groups, dilation

    def forward(self, x: Value) -> Value:
        """[n, in, *size] -> [n, out, *size], with or without n, computed in x's dtype."""
        weight, bias = self.in_dtype_of(x)
        sizes = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return call(f"conv_transpose{self.rank}d", x, weight, bias, *sizes)


class Conv1d(_Conv):
    """ft.conv1d with a weight [out, in / groups, r] and a bias [out].  x: [n, in, l]."""

    rank = 1


class Conv2d(_Conv):
    """ft.conv2d with a weight [out, in / groups, r, s] and a bias [out].  x: [n, in, h, w]."""

    rank = 2


class Conv3d(_Conv):
    """ft.conv3d with a weight [out, in / groups, q, r, s] and a bias [out].  x: [n, in, d, h, w]."""

    rank = 3


class ConvTranspose1d(_ConvTranspose):
    """ft.conv_transpose1d with a weight [in, out / groups, r] and a bias [out].  x: [n, in, l]."""

    rank = 1


class ConvTranspose2d(_ConvTranspose):
    """ft.conv_transpose2d with a weight [in, out / groups, r, s] and a bias [out].  x: [n, in, h, w]."""

    rank = 2


class ConvTranspose3d(_ConvTranspose):
    """ft.conv_transpose3d with a weight [in, out / groups, q, r, s] and a bias [out].  x: [n, in, d, h, w]."""

    rank = 3
