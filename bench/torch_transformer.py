"""The transformer of transformer.py in torch: the opponent. Parameters have the same names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.cases.norm import turned
from bench.transformer import Sizes


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def _normed(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """With the weight in x's dtype, for which torch has a kernel."""
    return F.rms_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.eps)


class Block(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.sizes = sizes
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = nn.RMSNorm(width // sizes.heads, 1e-6)
        self.norm_k = nn.RMSNorm(width // sizes.heads, 1e-6)
        self.proj = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def mix(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, tokens, width = h.shape
        q, k, v = self.qkv(h).view(batch, tokens, 3, self.sizes.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (turned(_normed(x, norm), cos, sin).to(v.dtype) for x, norm in ((q, self.norm_q), (k, self.norm_k)))
        y = F.scaled_dot_product_attention(q, k, v) if self.sizes.attention else q + k + v
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x: Tensor, condition: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        parts = self.modulation(condition).chunk(6, 1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        x = x + gate_1[:, None] * self.mix(modulated(x, shift_1, scale_1), cos, sin)
        hidden = F.gelu(self.fc1(modulated(x, shift_2, scale_2)), approximate="tanh")
        return x + gate_2[:, None] * self.fc2(hidden)


class Transformer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        angles = torch.from_numpy(sizes.angles)
        self.register_buffer("cos", angles.cos().to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("sin", angles.sin().to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        condition = F.silu(condition)
        for block in self.blocks:
            x = block(x, condition, self.cos, self.sin)
        return x


def loss_of(model: nn.Module, x: Tensor, condition: Tensor, target: Tensor, dtype: str) -> Tensor:
    """As ours: products and attention in `dtype` under autocast, the loss in the dtype of the target."""
    if dtype == "float32":
        return F.mse_loss(model(x, condition), target)
    with torch.autocast(x.device.type, getattr(torch, dtype)):
        made = model(x.to(getattr(torch, dtype)), condition.to(getattr(torch, dtype)))
    return F.mse_loss(made.to(target.dtype), target)
