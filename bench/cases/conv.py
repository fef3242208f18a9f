"""Convolutions of images stored channels last: x [N, H, W, C], weight [O, R, S, C]; forward, dgrad and wgrad."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import flame_triton as ft
from bench.case import Aims, Array, KernelCase, Scale
from flame_triton import Value

ROWS = [
    ("320 128x128 b4", (4, 320, 320, 128, 1), (605, 602, 513)),
    ("640 64x64 b4", (4, 640, 640, 64, 1), (645, 681, 698)),
    ("1280 32x32 b4", (4, 1280, 1280, 32, 1), (633, 687, 697)),
    ("2560->1280 32x32 b4", (4, 2560, 1280, 32, 1), (740, 679, 780)),
    ("s2 320 128x128 b4", (4, 320, 320, 128, 2), (450, 432, 445)),
    ("128 512x512 b1", (1, 128, 128, 512, 1), (662, 690, 618)),
]
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
WAYS: dict[str, tuple[str, ...]] = {"fwd": (), "dgrad": ("x",), "wgrad": ("w",)}


def cases(scale: Scale) -> Iterator[KernelCase]:
    """The rows of this family."""
    for name, (samples, channels, kernels, side, stride), bars in ROWS:
        if scale.quick:
            samples, channels, kernels, side = 1, 8, 8 if channels == kernels else 16, 8
        arrays = {
            "x": Array((samples, side, side, channels), scale.dtype),
            "w": Array((kernels, 3, 3, channels), scale.dtype, (9 * channels) ** -0.5),
        }
        flops = 2 * samples * (side // stride) ** 2 * kernels * channels * 9
        for (way, wrt), bar in zip(WAYS.items(), bars, strict=True):
            yield KernelCase(
                f"conv 3x3 {name} {way}", "conv", arrays, _ours(stride), _theirs(stride), wrt=wrt, eager="cuDNN",
                modes=(), flops=flops, bound="compute", bar=f"cuDNN NHWC {bar} TFLOP/s", aims=Aims(ratio=1.0),
            )  # fmt: skip


def _ours(stride: int) -> Callable[..., Value]:
    def run(x: Value, w: Value) -> Value:
        y = ft.conv2d(ft.transpose(x, FIRST), ft.transpose(w, FIRST), stride=stride, padding=1)
        return ft.transpose(y, LAST)

    return run


def _theirs(stride: int) -> Callable[..., Tensor]:
    def run(x: Tensor, w: Tensor) -> Tensor:
        if x.is_cuda:
            torch.backends.cudnn.benchmark = True  # cuDNN's best algorithm, found while warming up
        return F.conv2d(x.permute(FIRST), w.permute(FIRST), stride=stride, padding=1).permute(LAST)

    return run
