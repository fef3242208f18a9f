"""The transformer whose step is measured, in ft.nn: blocks as in DiT and Flux. torch_transformer.py is its twin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import flame_triton as ft
from flame_triton import Value, nn


@dataclass(frozen=True)
class Sizes:
    """dtype: of weights and of what is computed; 16-bit weights have float32 masters.

    attention False: queries, keys and values are added up instead, so that all else of a step remains."""

    width: int = 3072
    heads: int = 24
    tokens: int = 4608
    layers: int = 12
    batch: int = 1
    dtype: str = "bfloat16"
    attention: bool = True

    @property
    def flops(self) -> int:
        """Of a step's products, forward and backward: 6 a weight and token; attention 4 + 10 a pair and channel."""
        products = 6 * 12 * self.width**2 * self.tokens
        pairs = 14 * self.tokens**2 * self.width if self.attention else 0
        return self.batch * self.layers * (products + pairs)

    @property
    def angles(self) -> np.ndarray:
        """Rotary angles [T, D / 2] of the tokens' positions."""
        half = self.width // self.heads // 2
        return np.arange(self.tokens)[:, None] * 1e4 ** (-np.arange(half) / half)


class Block(nn.Module):
    """x += gate_1 attention(modulate(norm x)); x += gate_2 mlp(modulate(norm x)); RMS norm and RoPE of q and k."""

    def __init__(self, sizes: Sizes) -> None:
        width, dtype = sizes.width, sizes.dtype
        self.sizes = sizes
        self.modulation = nn.Linear(width, 6 * width, dtype=dtype)
        self.qkv = nn.Linear(width, 3 * width, dtype=dtype)
        self.norm_q, self.norm_k = (nn.RMSNorm(width // sizes.heads, dtype=dtype) for _ in range(2))
        self.proj = nn.Linear(width, width, dtype=dtype)
        self.fc1, self.fc2 = (nn.Linear(a, b, dtype=dtype) for a, b in ((width, 4 * width), (4 * width, width)))

    def mix(self, h: Value, cos: Value, sin: Value) -> Value:
        """Between tokens: [B, T, C] -> [B, T, C]."""
        batch, tokens, width = h.shape
        heads = self.sizes.heads
        split = ft.transpose(ft.reshape(self.qkv(h), (batch, tokens, 3, heads, width // heads)), (2, 0, 3, 1, 4))
        q = ft.apply_rotary_emb(self.norm_q(split[0]), cos, sin)
        k = ft.apply_rotary_emb(self.norm_k(split[1]), cos, sin)
        y = ft.scaled_dot_product_attention(q, k, split[2]) if self.sizes.attention else q + k + split[2]
        return self.proj(ft.reshape(ft.transpose(y, (0, 2, 1, 3)), h.shape))

    def forward(self, x: Value, condition: Value, cos: Value, sin: Value) -> Value:
        """[B, T, C], [B, C] -> [B, T, C]."""
        batch, _, width = x.shape
        parts = ft.chunk(self.modulation(condition), 6, 1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        gates = [ft.reshape(g, (batch, 1, width)) for g in (gate_1, gate_2)]
        x = x + gates[0] * self.mix(ft.ada_layer_norm(x, shift_1, scale_1), cos, sin)
        hidden = ft.gelu(self.fc1(ft.ada_layer_norm(x, shift_2, scale_2)), "tanh")
        return x + gates[1] * self.fc2(hidden)


class Transformer(nn.Module):
    """x [B, T, C], condition [B, C] -> [B, T, C]."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.blocks = [Block(sizes) for _ in range(sizes.layers)]

    def forward(self, x: Value, condition: Value) -> Value:
        """All blocks, one after the other."""
        cos, sin = (ft.constant(f(self.sizes.angles), ft.float32) for f in (np.cos, np.sin))
        condition = ft.silu(condition)
        for block in self.blocks:
            x = block(x, condition, cos, sin)
        return x


def loss_of(model: Transformer, x: Value, condition: Value, target: Value) -> Value:
    """Mean squared error in float32 of the model in its dtype; x, condition, target: float32."""
    dtype = model.sizes.dtype
    made = model(ft.cast(x, dtype), ft.cast(condition, dtype))
    return ft.mse_loss(ft.cast(made, ft.float32), target)
