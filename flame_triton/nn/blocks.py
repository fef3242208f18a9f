"""Blocks of transformers and diffusion models."""

from __future__ import annotations

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..types import DTypeLike, float32
from .init import Initialiser
from .layers import Linear, RMSNorm
from .module import Module


def modulate(x: Value, shift: Value, scale: Value) -> Value:
    """x * (1 + scale) + shift.  x: [B, T, C]; shift, scale: [B, C] (adaLN, Peebles and Xie 2023)."""
    if x.ndim != 3 or shift.shape != (x.shape[0], x.shape[2]) or scale.shape != shift.shape:
        raise ShapeError(
            f"x is {x.shape}, shift {shift.shape}, scale {scale.shape}; expected [B, T, C], [B, C], [B, C]",
            op="modulate",
        )
    return call("modulate", x, shift, scale)


def sinusoid(t: Value, size: int, max_period: float = 1e4, shift: float = 0.0) -> Value:
    """Timestep features [cos | sin] of t: [B] -> float32 [B, size]; f_i = exp(-ln(max_period) i / (size / 2 - shift)).

    shift: 1 in DiT as diffusers computes it (its downscale_freq_shift), 0 in most other models.
    """
    if size < 2 or size % 2:
        raise ArgumentError(f"size must be even and positive, got {size}", op="sinusoid")
    return call("timestep_embedding", t, size, True, shift, max_period=max_period)


class TimestepEmbedding(Module):
    """linear_2(silu(linear_1(sinusoid(t)))).  t: [B], in the units of the schedule -> [B, width].

    features: size of the sinusoid; dtype: of the parameters.
    """

    def __init__(self, width: int, features: int = 256, *, dtype: DTypeLike = float32) -> None:
        self.features = features
        self.linear_1 = Linear(features, width, dtype=dtype)
        self.linear_2 = Linear(width, width, dtype=dtype)

    def forward(self, t: Value, dtype: DTypeLike = float32) -> Value:
        """[B] -> [B, width], the angles in float32, the rest in `dtype`."""
        h = call("cast", sinusoid(t, self.features), dtype)
        return self.linear_2(call("silu", self.linear_1(h)))


class MLP(Module):
    """fc2(gelu(fc1(x))).  x: [..., width]; approximate: "none" (erf) or "tanh"; dtype: of the parameters."""

    def __init__(self, width: int, hidden: int, approximate: str = "tanh", *, dtype: DTypeLike = float32) -> None:
        self.approximate = approximate
        self.fc1 = Linear(width, hidden, dtype=dtype)
        self.fc2 = Linear(hidden, width, dtype=dtype)

    def forward(self, x: Value) -> Value:
        """[..., width] -> [..., width]."""
        return self.fc2(call("gelu", self.fc1(x), approximate=self.approximate))


class Attention(Module):
    """Multi-head attention.  x: [B, T, C]; context: [B, S, D] for cross-attention.

    fused: self-attention has one projection `qkv` [3C, C], cross-attention `q` [C, C] and `kv` [2C, D]; otherwise
    there are `q`, `k` and `v`. qk_norm: RMS norm of each head's query and key. bias: of the projections of the inputs.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context: int | None = None,
        fused: bool = True,
        qk_norm: bool = False,
        bias: bool = True,
        dtype: DTypeLike = float32,
        init: Initialiser | None = None,
    ) -> None:
        if heads < 1 or width % heads:
            raise ArgumentError(f"width {width} is not a multiple of heads {heads}", op="Attention")
        self.heads, self.cross, self.fused = heads, context is not None, fused
        source = width if context is None else context
        if not fused:
            self.q = Linear(width, width, bias, dtype=dtype, init=init)
            self.k = Linear(source, width, bias, dtype=dtype, init=init)
            self.v = Linear(source, width, bias, dtype=dtype, init=init)
        elif context is None:
            self.qkv = Linear(width, 3 * width, bias, dtype=dtype, init=init)
        else:
            self.q = Linear(width, width, bias, dtype=dtype, init=init)
            self.kv = Linear(source, 2 * width, bias, dtype=dtype, init=init)
        self.norm_q = RMSNorm(width // heads, dtype=dtype) if qk_norm else None
        self.norm_k = RMSNorm(width // heads, dtype=dtype) if qk_norm else None
        self.out = Linear(width, width, dtype=dtype, init=init)

    def _heads(self, x: Value, parts: int = 1) -> list[Value]:
        """[B, T, parts * C] -> parts values [B, H, T, C / H]; views only."""
        batch, tokens, width = x.shape
        split = call("reshape", x, (batch, tokens, parts, self.heads, width // parts // self.heads))
        moved = call("transpose", split, (2, 0, 3, 1, 4))
        return [moved[i] for i in range(parts)]

    def _projected(self, x: Value, source: Value) -> list[Value]:
        """Query, key and value of each head."""
        if not self.fused:
            return [self._heads(layer(v))[0] for layer, v in ((self.q, x), (self.k, source), (self.v, source))]
        if self.cross:
            return [*self._heads(self.q(x)), *self._heads(self.kv(source), 2)]
        return self._heads(self.qkv(x), 3)

    def forward(self, x: Value, context: Value | None = None, *, is_causal: bool = False) -> Value:
        """[B, T, C] -> [B, T, C]. is_causal: token i sees tokens 0 .. i."""
        if self.cross != (context is not None):
            raise ArgumentError("context goes with cross-attention, and only there", op="Attention")
        q, k, v = self._projected(x, x if context is None else context)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        y = call("scaled_dot_product_attention", q, k, v, is_causal=is_causal)
        return self.out(call("reshape", call("transpose", y, (0, 2, 1, 3)), x.shape))
