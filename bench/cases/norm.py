"""Norms and what follows them, forward and backward, at 16384 x 3072 and at 4608 x 3072 (four samples and one)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import flame_triton as ft
from bench.case import Aims, Array, KernelCase, Scale
from flame_triton import Value

SIZES = {"16384x3072": (4, 4096, 3072), "4608x3072": (1, 4608, 3072)}
"""Rows of x as samples times tokens, and channels."""
AIMS = {"fwd": Aims(share=0.9), "bwd": Aims(ratio=1.5, share=0.9)}
BARS = {
    ("LayerNorm", "fwd"): "eager 2350 GB/s, compile 1595",
    ("LayerNorm", "bwd"): "eager 1669 GB/s, compile 785",
    ("RMSNorm", "fwd"): "eager 3157 GB/s, compile 1768",
    ("RMSNorm", "bwd"): "eager 1811 GB/s, compile 1384",
    ("LN + modulate", "fwd"): "compile 1424 GB/s",
    ("LN + modulate", "bwd"): "eager 816 GB/s",
    ("GroupNorm + SiLU NHWC", "fwd"): "compile 372 GB/s, eager 238",
    ("GroupNorm + SiLU NHWC", "bwd"): "compile 389 GB/s, eager 297",
}


def both_ways(
    name: str,
    size: str,
    family: str,
    arrays: dict[str, Array],
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    wrt: tuple[str, ...],
    bars: dict[tuple[str, str], str],
    **more: Any,
) -> Iterator[KernelCase]:
    """The forward pass, and the backward pass alone. Bars were taken at 16384 rows."""
    for way in ("fwd", "bwd"):
        bar = bars.get((name, way), "") if not size.startswith("4608") else ""
        chosen = wrt if way == "bwd" else ()
        yield KernelCase(
            f"{name} {size} {way}", family, arrays, ours, theirs, wrt=chosen, bar=bar, aims=AIMS[way], **more
        )


def cases(scale: Scale) -> Iterator[KernelCase]:
    """The rows of this family."""
    for size, full in SIZES.items():
        samples, tokens, width = (min(full[0], 2) if scale.quick else full[0], *map(scale.of, full[1:]))
        x, w = Array((samples, tokens, width), scale.dtype), Array((width,), scale.dtype)
        yield from both_ways(
            "LayerNorm", size, "norm", {"x": x, "w": w, "b": w},
            lambda x, w, b: ft.layer_norm(x, x.shape[-1], w, b),
            lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b), ("x", "w", "b"), BARS,
        )  # fmt: skip
        yield from both_ways(
            "RMSNorm", size, "norm", {"x": x, "w": w}, lambda x, w: ft.rms_norm(x, x.shape[-1], w, 1e-6),
            lambda x, w: F.rms_norm(x, x.shape[-1:], w, 1e-6), ("x", "w"), BARS,
        )  # fmt: skip
        row = Array((samples, width), scale.dtype)
        yield from both_ways(
            "LN + modulate", size, "norm", {"x": x, "shift": row, "scale": row}, ft.ada_layer_norm, _modulated,
            ("x", "shift", "scale"), BARS,
        )  # fmt: skip
    yield from _qk_norm(scale)
    yield from _group_norm(scale)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def _qk_norm(scale: Scale) -> Iterator[KernelCase]:
    """RMS norm of each head's query and key, then their rotary turn, as Flux has it."""
    heads, tokens, channels = (2 if scale.quick else 24), scale.of(4608), 16 if scale.quick else 128
    x, w = Array((1, heads, tokens, channels), scale.dtype), Array((channels,), scale.dtype)
    table = Array((tokens, channels // 2), "float32")
    arrays = {"q": x, "k": x, "wq": w, "wk": w, "cos": table, "sin": table}

    def ours(q: Value, k: Value, wq: Value, wk: Value, cos: Value, sin: Value) -> list[Value]:
        return [ft.apply_rotary_emb(ft.rms_norm(v, channels, u, 1e-6), cos, sin) for v, u in ((q, wq), (k, wk))]

    def theirs(q: Tensor, k: Tensor, wq: Tensor, wk: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
        return [turned(F.rms_norm(v, (channels,), u, 1e-6), cos, sin) for v, u in ((q, wq), (k, wk))]

    wrt = ("q", "k", "wq", "wk")
    yield from both_ways("qk-norm + RoPE", "1x24x4608x128", "norm", arrays, ours, theirs, wrt, {})


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Channels (2 i, 2 i + 1) turned by the angle of (cos, sin) [T, D / 2], in float32 or more."""
    a, b = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).to(x.dtype)


def _group_norm(scale: Scale) -> Iterator[KernelCase]:
    """A UNet's norm on images stored channels last; x: [N, H, W, C]."""
    samples, side, channels, groups = (2, 8, 32, 4) if scale.quick else (4, 128, 320, 32)
    x, w = Array((samples, side, side, channels), scale.dtype), Array((channels,), scale.dtype)

    def ours(x: Value, w: Value, b: Value) -> Value:
        y = ft.silu(ft.group_norm(ft.transpose(x, (0, 3, 1, 2)), groups, w, b))
        return ft.transpose(y, (0, 2, 3, 1))

    def theirs(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.silu(F.group_norm(x.permute(0, 3, 1, 2), groups, w, b)).permute(0, 2, 3, 1)

    yield from both_ways(
        "GroupNorm + SiLU NHWC", "4x320x128x128", "norm", {"x": x, "w": w, "b": w}, ours, theirs, ("x", "w", "b"), BARS
    )
