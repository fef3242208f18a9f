"""Attention, forward and backward. Queries, keys and values: [B, H, T, D]; results are compared as [B, T, H, D]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint

import flame_triton as ft
from bench.case import Aims, Array, KernelCase, Scale
from flame_triton import Value

ROWS = [
    ("1x24x4608x128", (1, 24, 4608, 4608, 128), False, "cuDNN 616 TFLOP/s", "cuDNN 509 TFLOP/s"),
    ("2x16x8192x128", (2, 16, 8192, 8192, 128), False, "cuDNN 649 TFLOP/s", "cuDNN 524 TFLOP/s"),
    ("2x16x8192x128 causal", (2, 16, 8192, 8192, 128), True, "cuDNN 614 TFLOP/s", "cuDNN 500 TFLOP/s"),
    ("2x24x4429x64", (2, 24, 4429, 4429, 64), False, "cuDNN 410 TFLOP/s", "cuDNN 411 TFLOP/s"),
    ("4x10x4096x64", (4, 10, 4096, 4096, 64), False, "cuDNN 462 TFLOP/s", "cuDNN 438 TFLOP/s"),
    ("4x10x4096x77x64 cross", (4, 10, 4096, 77, 64), False, "cuDNN 108 TFLOP/s", "cuDNN 53 TFLOP/s"),
]
HEADS_BACK = (0, 2, 1, 3)


def cases(scale: Scale) -> Iterator[KernelCase]:
    """The rows of this family."""
    for name, (batch, heads, rows, keys, width), causal, forward, backward in ROWS:
        if scale.quick:
            batch, heads, rows, keys, width = 1, 2, 24, 24 if rows == keys else 13, 16
        q = Array((batch, heads, rows, width), scale.dtype)
        kv = Array((batch, heads, keys, width), scale.dtype)
        pairs = batch * heads * rows * keys * width
        aim = 1.03 if width == 128 else 1.0
        ways = [
            ("fwd", (), forward, 4 * pairs, aim, True),
            ("bwd", ("q", "k", "v"), backward, 10 * pairs, 0.88, True),
            ("bwd, in any order", ("q", "k", "v"), backward, 10 * pairs, 0.95, False),
        ]
        for way, wrt, bar, flops, ratio, deterministic in ways:
            yield KernelCase(
                f"attention {name} {way}", "attention", {"q": q, "k": kv, "v": kv}, _ours(causal), theirs(causal),
                wrt=wrt, axes=HEADS_BACK, opponents=libraries(causal), modes=(), exact=exact(causal), eager="sdpa",
                flops=flops // 2 if causal else flops, bound="compute", bar=bar, aims=Aims(ratio=ratio),
                deterministic=deterministic,
            )  # fmt: skip


def _ours(causal: bool) -> Callable[..., Value]:
    return lambda q, k, v: ft.scaled_dot_product_attention(q, k, v, is_causal=causal)


def theirs(causal: bool) -> Callable[..., Tensor]:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def libraries(causal: bool) -> dict[str, Callable[..., Tensor]]:
    """torch's attention held to one library each; a library that is not there fails when it is prepared."""

    def held_to(backend: SDPBackend) -> Callable[..., Tensor]:
        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel([backend]):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

        return run

    found = {"cuDNN": held_to(SDPBackend.CUDNN_ATTENTION), "FlashAttention": held_to(SDPBackend.FLASH_ATTENTION)}
    found["flex"] = _flex(causal)
    return found if torch.cuda.is_available() else {}


def _flex(causal: bool) -> Callable[..., Tensor]:
    """torch's generated attention."""
    compiled = torch.compile(flex_attention, dynamic=False)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = None
        if causal:
            sizes = (None, None, q.shape[-2], k.shape[-2])
            mask = create_block_mask(lambda b, h, i, j: i >= j, *sizes, device=q.device)
        return compiled(q, k, v, block_mask=mask)

    return run


def exact(causal: bool) -> Callable[..., Tensor]:
    """One head after the other, so that the scores of one fit."""

    def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if causal:
            hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, -torch.inf)
        return scores.softmax(-1) @ v

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def parts(x: Any) -> list[Tensor]:
            return list(x.flatten(0, 1).unbind(0))

        found = [
            checkpoint(one, *heads, use_reentrant=False) for heads in zip(parts(q), parts(k), parts(v), strict=True)
        ]
        return torch.stack(found).unflatten(0, q.shape[:2])

    return run
