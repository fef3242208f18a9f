"""Blocks of transformers and diffusion models."""

from __future__ import annotations

import math

import numpy as np

from ..errors import ArgumentError
from ..ir.node import Value
from ..ir.op import call
from ..types import DTypeLike, float32
from .init import Initialiser
from .layers import Linear, RMSNorm
from .module import Module


def modulate(x: Value, shift: Value, scale: Value) -> Value:
    """x * (1 + scale) + shift.  x: [B, T, C]; shift, scale: [B, C] (adaLN, Peebles and Xie 2023)."""
    batch, width = shift.shape
    return x * (1 + call("reshape", scale, (batch, 1, width))) + call("reshape", shift, (batch, 1, width))


def sinusoid(t: Value, size: int, max_period: float = 1e4) -> Value:
    """Timestep features [cos | sin] of t: [B] -> [B, size]; f_i = exp(-ln(max_period) i / (size / 2))."""
    if size % 2:
        raise ArgumentError(f"size must be even, got {size}", op="sinusoid")
    half = size // 2
    frequencies = np.exp(-math.log(max_period) * np.arange(half) / half).astype(np.float32)
    angles = call("reshape", call("cast", t, float32), (t.shape[0], 1)) * call("constant", frequencies)
    return call("concat", [call("cos", angles), call("sin", angles)], 1)


class TimestepEmbedding(Module):
    """linear_2(silu(linear_1(sinusoid(t)))).  t: [B], in the units of the schedule -> [B, width]."""

    def __init__(self, width: int, features: int = 256) -> None:
        self.features = features
        self.linear_1 = Linear(features, width)
        self.linear_2 = Linear(width, width)

    def forward(self, t: Value, dtype: DTypeLike = float32) -> Value:
        h = call("cast", sinusoid(t, self.features), dtype)
        return self.linear_2.forward(call("silu", self.linear_1.forward(h)))


class MLP(Module):
    """fc2(gelu(fc1(x))).  x: [..., width]; approximate: "none" (erf) or "tanh"."""

    def __init__(self, width: int, hidden: int, approximate: str = "tanh") -> None:
        self.approximate = approximate
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Value) -> Value:
        return self.fc2.forward(call("gelu", self.fc1.forward(x), approximate=self.approximate))


class Attention(Module):
    """Multi-head attention. x: [B, T, C]; context: [B, S, D] for cross-attention (then query and key/value are projected
    apart). Self-attention has one projection for query, key and value. qk_norm: RMS norm of each head's query and key."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context: int | None = None,
        qk_norm: bool = False,
        init: Initialiser | None = None,
    ) -> None:
        if width % heads:
            raise ArgumentError(f"width {width} is not a multiple of heads {heads}", op="Attention")
        self.heads = heads
        self.cross = context is not None
        if context is None:
            self.qkv = Linear(width, 3 * width, init=init)
        else:
            self.q = Linear(width, width, init=init)
            self.kv = Linear(context, 2 * width, init=init)
        self.norm_q = RMSNorm(width // heads) if qk_norm else None
        self.norm_k = RMSNorm(width // heads) if qk_norm else None
        self.out = Linear(width, width, init=init)

    def _heads(self, x: Value, parts: int) -> list[Value]:
        """[B, T, parts * C] -> parts values [B, H, T, D]; views only."""
        batch, tokens, width = x.shape
        split = call("reshape", x, (batch, tokens, parts, self.heads, width // parts // self.heads))
        moved = call("transpose", split, (2, 0, 3, 1, 4))
        return [moved[i] for i in range(parts)]

    def forward(self, x: Value, context: Value | None = None) -> Value:
        if self.cross != (context is not None):
            raise ArgumentError("context goes with a cross-attention, and only there", op="Attention")
        if context is None:
            q, k, v = self._heads(self.qkv.forward(x), 3)
        else:
            (q,) = self._heads(self.q.forward(x), 1)
            k, v = self._heads(self.kv.forward(context), 2)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q.forward(q), self.norm_k.forward(k)
        y = call("transpose", call("scaled_dot_product_attention", q, k, v), (0, 2, 1, 3))
        return self.out.forward(call("reshape", y, x.shape))
