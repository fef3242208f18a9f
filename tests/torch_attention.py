"""Attention by torch, for test_ops_reference.py: its own function, or the formula where it has no such option."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from flame_triton.ops.philox import as_uniform, draw


def kept(shape: tuple[int, ...], p: float, seed: Any) -> torch.Tensor:
    """The weights that the first draw on a seed keeps."""
    key, step = (int(x) for x in np.asarray(seed))
    return torch.from_numpy(draw(shape, np.float32, key, 0, step, lambda word, _: as_uniform(word))) >= np.float32(p)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Any = None,
    *,
    key_lengths: Any = None,
    window: Any = None,
    causal_alignment: str = "top-left",
    dropout_p: float = 0.0,
    seed: Any = None,
    is_causal: bool = False,
    **kwargs: Any,
) -> torch.Tensor:
    if q.ndim == 2:
        return attention(q[None], k[None], v[None], mask, is_causal=is_causal, **kwargs)[0]
    if key_lengths is None and window is None and not dropout_p and causal_alignment == "top-left":
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, **kwargs)
    s = kwargs.get("scale", 1 / math.sqrt(q.shape[-1])) * (q @ k.transpose(-1, -2))
    i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])
    i = i + (s.shape[-1] - s.shape[-2] if causal_alignment == "bottom-right" else 0)
    part = torch.ones(s.shape, dtype=torch.bool)
    if is_causal:
        part &= j <= i
    if window is not None:
        part &= (j >= i - window[0]) & (j <= i + window[1])
    if key_lengths is not None:
        part &= j < key_lengths[..., None, None, None]
    p = torch.nan_to_num(torch.softmax(s.masked_fill(~part, -math.inf), -1))
    if dropout_p:
        p = torch.where(kept(tuple(p.shape), dropout_p, seed), p / (1 - dropout_p), 0.0)
    return p @ v


TORCH = {"scaled_dot_product_attention": attention}
WITHOUT_TWIN: dict[str, str] = {}
