"""Convolutions and norms on the GPU, in 16 bits, against torch by FlashAttention's own criterion.

max |ours - ref| <= 2 max |torch - ref| + one unit in the last place of the largest element, ref in float64 on the same
inputs; for the result and for the gradient of every operand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_ops_kernels import as_numpy

import flame_triton as ft

pytestmark = pytest.mark.gpu

Shapes = list[tuple[int, ...]]

CONVOLUTIONS: dict[str, tuple[str, Shapes, dict[str, Any]]] = {
    "3x3": ("conv2d", [(2, 64, 33, 31), (96, 64, 3, 3), (96,)], {"padding": 1}),
    "SDXL": ("conv2d", [(2, 320, 32, 32), (320, 320, 3, 3), (320,)], {"padding": 1}),
    "first": ("conv2d", [(2, 4, 32, 32), (320, 4, 3, 3), (320,)], {"padding": 1}),
    "last": ("conv2d", [(2, 320, 32, 32), (4, 320, 3, 3), (4,)], {"padding": 1}),
    "stride 2": ("conv2d", [(2, 64, 33, 32), (128, 64, 3, 3), (128,)], {"padding": 1, "stride": 2}),
    "patches": ("conv2d", [(2, 16, 32, 32), (128, 16, 2, 2), (128,)], {"stride": 2}),
    "1x1": ("conv2d", [(2, 72, 17, 17), (40, 72, 1, 1), (40,)], {}),
    "dilated": ("conv2d", [(1, 32, 40, 37), (48, 32, 3, 3), (48,)], {"dilation": (2, 3), "padding": (1, 4)}),
    "groups": ("conv2d", [(2, 96, 19, 18), (64, 24, 3, 3), (64,)], {"groups": 4, "padding": 1}),
    "depthwise": ("conv2d", [(2, 80, 33, 20), (160, 1, 5, 5), (160,)], {"groups": 80, "padding": 2}),
    "1d": ("conv1d", [(3, 40, 129), (56, 40, 7), (56,)], {"padding": 3, "dilation": 2}),
    "3d": ("conv3d", [(1, 16, 5, 17, 18), (32, 16, 3, 3, 3), (32,)], {"padding": 1}),
    "transposed": ("conv_transpose2d", [(2, 64, 16, 17), (64, 48, 4, 4), (48,)], {"stride": 2, "padding": 1}),
    "transposed 1d": ("conv_transpose1d", [(2, 24, 65), (24, 16, 3), (16,)], {"stride": 3, "output_padding": 1}),
}

NORMS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Shapes]] = {
    "layer_norm": (
        lambda x, w, b: ft.layer_norm(x, 640, w, b),
        lambda x, w, b: F.layer_norm(x, (640,), w, b),
        [(77, 640), (640,), (640,)],
    ),
    "long layer_norm": (
        lambda x, w, b: ft.layer_norm(x, 5000, w, b),
        lambda x, w, b: F.layer_norm(x, (5000,), w, b),
        [(33, 5000), (5000,), (5000,)],
    ),
    "rms_norm": (
        lambda x, w: ft.rms_norm(x, 128, w, eps=1e-6),
        lambda x, w: F.rms_norm(x, (128,), w, eps=1e-6),
        [(4, 129, 128), (128,)],
    ),
    "group_norm": (
        lambda x, w, b: ft.group_norm(x, 32, w, b),
        lambda x, w, b: F.group_norm(x, 32, w, b),
        [(2, 320, 33, 31), (320,), (320,)],
    ),
    "instance_norm": (lambda x: ft.instance_norm(x), lambda x: F.instance_norm(x), [(2, 24, 40, 17)]),
    "batch_norm": (
        lambda x, w, b: ft.batch_norm(x, None, None, w, b, training=True),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        [(8, 48, 20, 17), (48,), (48,)],
    ),
    "softmax": (lambda x: ft.softmax(x, -1), lambda x: F.softmax(x, -1), [(65, 1000)]),
    "log_softmax": (lambda x: ft.log_softmax(x, 0), lambda x: F.log_softmax(x, 0), [(77, 65)]),
}


def check(ours: Callable[..., Any], torchs: Callable[..., Any], shapes: Shapes, dtype: str) -> None:
    """Result and gradients are as close to float64 as torch's are."""
    rng = np.random.default_rng(0)
    kind = getattr(torch, dtype)
    arrays = [torch.from_numpy(rng.standard_normal(s)).to(kind) for s in shapes]
    inputs = [ft.input(s, dtype) for s in shapes]
    y = ours(*inputs)
    seed = torch.from_numpy(rng.standard_normal(y.shape)).to(kind)
    g = ft.input(y.shape, dtype)
    program = ft.compile([y, *ft.grad(y, inputs, grad_output=g)], [*inputs, g])
    found = [as_numpy(t).astype(np.float64) for t in program(*arrays, seed)]

    def reference(dtype: torch.dtype) -> list[np.ndarray]:
        leaves = [a.cuda().to(dtype).requires_grad_() for a in arrays]
        out = torchs(*leaves)
        made = [out, *torch.autograd.grad(out, leaves, seed.cuda().to(dtype))]
        return [t.detach().double().cpu().numpy() for t in made]

    want, theirs = reference(torch.float64), reference(kind)
    for i, (a, t, r) in enumerate(zip(found, theirs, want, strict=True)):
        limit = 2 * np.abs(t - r).max() + ft.dtype(dtype).eps * np.abs(r).max()
        error = np.abs(a - r).max()
        assert error <= limit, f"{'result' if not i else f'gradient {i - 1}'}: {error:.3g}, at most {limit:.3g}"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str, dtype: str) -> None:
    function, shapes, options = CONVOLUTIONS[name]
    ours, torchs = getattr(ft, function), getattr(F, function)
    check(lambda *a: ours(*a, **options), lambda *a: torchs(*a, **options), shapes, dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NORMS)
def test_norm(name: str, dtype: str) -> None:
    ours, torchs, shapes = NORMS[name]
    check(ours, torchs, shapes, dtype)
