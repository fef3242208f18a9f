"""Flux (Black Forest Labs 2024), as diffusers' FluxTransformer2DModel stores it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import nn
from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..types import DType, DTypeLike, float16, float32
from .blocks import FeedForward, gated, merge_heads, split_heads
from .config import Config, positive
from .joint import (
    JointAttention,
    Modulation,
    Rope,
    TimestepTextEmbedding,
    attend,
    check_inputs,
    feed_forward,
    modulated_norm,
)
from .model import Model


@dataclass(frozen=True)
class FluxConfig(Config):
    """The keys of diffusers' FluxTransformer2DModel; the defaults are Flux-schnell's, and `dev` has guidance besides.

    num_attention_heads, attention_head_dim: their product is the width. in_channels, out_channels: of a token, packed,
    and of the result, None for as many. num_layers, num_single_layers: blocks of two streams and of one.
    joint_attention_dim: channels of encoder_hidden_states; pooled_projection_dim: of pooled_projections.
    guidance_embeds: whether the guidance scale is an input. axes_dims_rope: channels of a head that are turned by the
    first number of a token's place, by its row and by its column.
    """

    class_name = "FluxTransformer2DModel"

    patch_size: int = 1
    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)

    @classmethod
    def dev(cls) -> FluxConfig:
        """Flux-dev, 11.90 B parameters: with guidance."""
        return cls(guidance_embeds=True)

    @classmethod
    def schnell(cls) -> FluxConfig:
        """Flux-schnell, 11.89 B parameters: without guidance."""
        return cls()

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def channels(self) -> int:
        """Channels of a token of the result."""
        return self.patch_size**2 * (self.out_channels or self.in_channels)

    def contradictions(self) -> list[str]:
        """Sizes below 1, rotary axes that do not make up a head."""
        sizes = "patch_size in_channels out_channels num_layers num_single_layers attention_head_dim"
        problems = positive(self, *sizes.split(), "num_attention_heads", "joint_attention_dim", "pooled_projection_dim")
        axes = self.axes_dims_rope
        if sum(axes) != self.attention_head_dim or any(d < 2 or d % 2 for d in axes):
            problems.append(
                f"axes_dims_rope = {axes}: must be even, and their sum attention_head_dim, {self.attention_head_dim}"
            )
        return problems


# ---- where tokens are ------------------------------------------------------------------------------------------


def token_places(rows: int, columns: int, text: int) -> npt.NDArray[np.float64]:
    """Places of `text` tokens, all (0, 0, 0), then of rows x columns of a picture, (0, row, column): [tokens, 3].

    A token of the picture is 2 x 2 latents: 64 x 64 tokens for 1024 x 1024 pixels.
    """
    picture = np.zeros((rows, columns, 3))
    picture[..., 1] = np.arange(rows)[:, None]
    picture[..., 2] = np.arange(columns)
    return np.concatenate([np.zeros((text, 3)), picture.reshape(rows * columns, 3)])


def rotary_tables(places: npt.ArrayLike, axes: tuple[int, ...], dtype: DType, theta: float = 1e4) -> Rope:
    """(cos, sin) of the angles of tokens at `places` [tokens, len(axes)], constants [tokens, sum(axes) / 2].

    Computed in float64 and rounded to `dtype`. Channels of an axis of size d turn by place * theta^(-2 i / d).
    """
    where = np.asarray(places, np.float64)
    if where.ndim != 2 or where.shape[1] != len(axes):
        raise ShapeError(f"places must be [tokens, {len(axes)}], got {where.shape}", op="rotary_tables")
    turns = [where[:, i, None] / theta ** (np.arange(0, d, 2) / d) for i, d in enumerate(axes)]
    angles = np.concatenate(turns, 1)
    return call("constant", np.cos(angles), dtype), call("constant", np.sin(angles), dtype)


def _thousandfold(t: Value) -> Value:
    """From 0 .. 1 to the units of the sinusoids; in float32 for 16-bit t."""
    return call("cast", t, t.dtype.compute) * 1000.0


# ---- blocks ----------------------------------------------------------------------------------------------------


def _within_range(x: Value) -> Value:
    """float16 kept from becoming infinite; other types as they are."""
    return call("clip", x, -65504.0, 65504.0) if x.dtype is float16 else x


class _DoubleBlock(nn.Module):
    """Image x and text c attend to each other; then each has its feed-forward. All is normed, modulated and gated."""

    def __init__(self, config: FluxConfig, dtype: DTypeLike) -> None:
        width = config.width
        self.norm1 = Modulation(width, 6, dtype=dtype)
        self.norm1_context = Modulation(width, 6, dtype=dtype)
        self.attn = JointAttention(width, config.num_attention_heads, qk_norm=True, text_first=True, dtype=dtype)
        self.ff = FeedForward(width, dtype=dtype)
        self.ff_context = FeedForward(width, dtype=dtype)

    def forward(self, x: Value, c: Value, condition: Value, rope: Rope) -> tuple[Value, Value]:
        """x: [N, T, C], c: [N, S, C], condition: [N, C] -> the new x and c."""
        shift, scale, gate, *mlp = self.norm1(condition)
        c_shift, c_scale, c_gate, *c_mlp = self.norm1_context(condition)
        y, text = self.attn(modulated_norm(x, shift, scale), modulated_norm(c, c_shift, c_scale), rope)
        x = feed_forward(x + gated(gate, y), self.ff, *mlp)
        c = feed_forward(c + gated(c_gate, text), self.ff_context, *c_mlp)
        return x, _within_range(c)


class _SelfAttention(nn.Module):
    """Attention whose result is projected elsewhere.  x: [N, T, C]."""

    def __init__(self, width: int, heads: int, dtype: DTypeLike) -> None:
        self.heads = heads
        self.norm_q, self.norm_k = (nn.RMSNorm(width // heads, 1e-6, dtype=dtype) for _ in range(2))
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, dtype=dtype) for _ in range(3))

    def forward(self, x: Value, rope: Rope) -> Value:
        """[N, T, C] -> [N, T, C]."""
        q, k, v = (split_heads(layer(x), self.heads) for layer in (self.to_q, self.to_k, self.to_v))
        return merge_heads(attend(self.norm_q(q), self.norm_k(k), v, rope))


class _SingleBlock(nn.Module):
    """x += gate proj_out([attention(y) | gelu(proj_mlp y)]), y the modulated norm of x, text and image together."""

    def __init__(self, config: FluxConfig, dtype: DTypeLike) -> None:
        width = config.width
        self.norm = Modulation(width, 3, dtype=dtype)
        self.proj_mlp = nn.Linear(width, 4 * width, dtype=dtype)
        self.proj_out = nn.Linear(5 * width, width, dtype=dtype)
        self.attn = _SelfAttention(width, config.num_attention_heads, dtype)

    def forward(self, x: Value, condition: Value, rope: Rope) -> Value:
        """x: [N, T, C], condition: [N, C] -> the new x."""
        shift, scale, gate = self.norm(condition)
        y = modulated_norm(x, shift, scale)
        hidden = call("gelu", self.proj_mlp(y), approximate="tanh")
        both = call("concat", [self.attn(y, rope), hidden], 2)
        return _within_range(x + gated(gate, self.proj_out(both)))


class Flux(Model):
    """hidden_states [N, T, 64], encoder_hidden_states [N, S, 4096], pooled_projections [N, 768], timestep [N],
    guidance [N] -> the velocity of the tokens, [N, T, channels], in the dtype of hidden_states.
    """

    config_type = FluxConfig
    config: FluxConfig

    def __init__(self, config: FluxConfig | None = None, *, dtype: DTypeLike = float32) -> None:
        super().__init__(config, dtype=dtype)
        c = self.config
        self.time_text_embed = TimestepTextEmbedding(
            c.width, c.pooled_projection_dim, guidance=c.guidance_embeds, dtype=dtype
        )
        self.context_embedder = nn.Linear(c.joint_attention_dim, c.width, dtype=dtype)
        self.x_embedder = nn.Linear(c.in_channels, c.width, dtype=dtype)
        self.transformer_blocks = [_DoubleBlock(c, dtype) for _ in range(c.num_layers)]
        self.single_transformer_blocks = [_SingleBlock(c, dtype) for _ in range(c.num_single_layers)]
        self.norm_out = Modulation(c.width, 2, dtype=dtype)
        self.proj_out = nn.Linear(c.width, c.channels, dtype=dtype, init=nn.init.zeros)

    def forward(
        self,
        hidden_states: Value,
        encoder_hidden_states: Value,
        pooled_projections: Value,
        timestep: Value,
        guidance: Value | None = None,
        *,
        places: npt.NDArray[Any],
    ) -> Value:
        """hidden_states: the picture, 2 x 2 latents a token; timestep: 0 .. 1; guidance: if the model has guidance
        embeddings, and only then. places: [S + T, 3], of the text's tokens and then the picture's: `token_places`.

        timestep and guidance are not rounded to the dtype of hidden_states, in which the rest is computed.
        """
        inputs = {"text": encoder_hidden_states, "pooled": pooled_projections}
        check_inputs("Flux", hidden_states, 3, **inputs, timestep=timestep, guidance=guidance)
        if self.config.guidance_embeds != (guidance is not None):
            wanted = "needs guidance" if self.config.guidance_embeds else "takes no guidance"
            raise ArgumentError(f"guidance_embeds is {self.config.guidance_embeds}: the model {wanted}", op="Flux")
        dtype, words = hidden_states.dtype, encoder_hidden_states.shape[1]
        total = words + hidden_states.shape[1]
        if np.shape(places) != (total, len(self.config.axes_dims_rope)):
            raise ShapeError(
                f"places must be [{words} + {total - words}, {len(self.config.axes_dims_rope)}], of text and picture, "
                f"got {np.shape(places)}",
                op="Flux",
            )
        rope = rotary_tables(places, self.config.axes_dims_rope, dtype.compute)
        condition = self.time_text_embed(
            _thousandfold(timestep),
            call("cast", pooled_projections, dtype),
            None if guidance is None else _thousandfold(guidance),
        )
        x: Value = self.x_embedder(hidden_states)
        c: Value = self.context_embedder(call("cast", encoder_hidden_states, dtype))
        for block in self.transformer_blocks:
            x, c = block(x, c, condition, rope)
        x = call("concat", [c, x], 1)
        for block in self.single_transformer_blocks:
            x = block(x, condition, rope)
        scale, shift = self.norm_out(condition)
        return self.proj_out(modulated_norm(x[:, words:], shift, scale))
