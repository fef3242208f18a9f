"""The digits model in torch: the opponent. Parameter names are those of train/digits_model.py."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention, self.mlp = Attention(width, heads), MLP(width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition).chunk(6, 1)
        norm = lambda h: F.layer_norm(h, (h.shape[-1],), eps=1e-6)  # noqa: E731
        x = x + gate_1[:, None] * self.attention(modulate(norm(x), shift_1, scale_1))
        return x + gate_2[:, None] * self.mlp(modulate(norm(x), shift_2, scale_2))


class Time(nn.Module):
    def __init__(self, width: int, features: int = 256) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(features, width), nn.Linear(width, width)
        half = features // 2
        frequencies = torch.exp(-math.log(1e4) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None].float() * self.frequencies
        return self.linear_2(F.silu(self.linear_1(torch.cat([angles.cos(), angles.sin()], 1))))


class DigitsDiT(nn.Module):
    """tokens [B, 16, 4], t [B], labels [B] -> velocity [B, 16, 4]."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.patches = nn.Linear(4, width)
        self.position = nn.Parameter(torch.zeros(1, 16, width))
        self.time = Time(width)
        self.classes = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, 4)

    def forward(self, tokens: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        x = self.patches(tokens) + self.position
        condition = F.silu(self.time(t * 1000.0) + self.classes(labels))
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(condition).chunk(2, 1)
        return self.out(modulate(F.layer_norm(x, (self.width,), eps=1e-6), shift, scale))


def patchify(images: Tensor) -> Tensor:
    return images.view(-1, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(-1, 16, 4)


def flow_matching_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Drawn as ours: uniform t, normal noise, a tenth of the labels dropped."""
    clean = patchify(images)
    noise = torch.randn_like(clean)
    t = torch.rand(len(clean), device=clean.device)
    shown = torch.where(torch.rand(len(clean), device=clean.device) < 0.1, 10, labels)
    mixed = clean + t[:, None, None] * (noise - clean)
    return F.mse_loss(model(mixed, t, shown).float(), noise - clean)
