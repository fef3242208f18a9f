"""Stable Diffusion 3 and 3.5 (Esser et al. 2024), as diffusers' SD3Transformer2DModel stores them."""

from __future__ import annotations

from dataclasses import dataclass

from .. import nn
from ..ir.node import Value
from ..ir.op import call
from ..types import DTypeLike, float32
from .blocks import FeedForward, SelfAttention, gated
from .config import Config, positive
from .embeddings import PatchEmbed, unpatchify
from .joint import JointAttention, Modulation, TimestepTextEmbedding, check_inputs, feed_forward, modulated_norm
from .model import Model


@dataclass(frozen=True)
class SD3Config(Config):
    """The keys of diffusers' SD3Transformer2DModel, and its defaults; `sd3_medium`, `sd35_medium` and `sd35_large` are
    those of the published models.

    num_attention_heads, attention_head_dim: their product is the width. in_channels, out_channels: of the latents and
    of the result, None for as many. joint_attention_dim: channels of encoder_hidden_states; caption_projection_dim:
    what they become, the width. pooled_projection_dim: channels of pooled_projections. sample_size: side of the
    latents that positions are counted in; pos_embed_max_size: side of the stored table of positions, in patches.
    dual_attention_layers: layers whose image attends to itself once more. qk_norm: "rms_norm", or None.
    """

    class_name = "SD3Transformer2DModel"

    sample_size: int = 128
    patch_size: int = 2
    in_channels: int = 16
    num_layers: int = 18
    attention_head_dim: int = 64
    num_attention_heads: int = 18
    joint_attention_dim: int = 4096
    caption_projection_dim: int = 1152
    pooled_projection_dim: int = 2048
    out_channels: int | None = 16
    pos_embed_max_size: int = 96
    dual_attention_layers: tuple[int, ...] = ()
    qk_norm: str | None = None

    @classmethod
    def sd3_medium(cls) -> SD3Config:
        """Stable Diffusion 3 medium, 2.03 B parameters."""
        return cls(num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192)

    @classmethod
    def sd35_medium(cls) -> SD3Config:
        """Stable Diffusion 3.5 medium, 2.24 B parameters."""
        return cls(
            num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
        )  # fmt: skip

    @classmethod
    def sd35_large(cls) -> SD3Config:
        """Stable Diffusion 3.5 large, 8.06 B parameters."""
        return cls(
            num_layers=38, num_attention_heads=38, caption_projection_dim=2432, pos_embed_max_size=192,
            qk_norm="rms_norm",
        )  # fmt: skip

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def channels(self) -> int:
        """Channels of the result."""
        return self.in_channels if self.out_channels is None else self.out_channels

    def contradictions(self) -> list[str]:
        """Sizes below 1, an unknown norm, a width without a table of positions or unlike that of the text."""
        sizes = "sample_size patch_size in_channels num_layers attention_head_dim num_attention_heads out_channels"
        more = "joint_attention_dim pooled_projection_dim pos_embed_max_size"
        problems = positive(self, *sizes.split(), *more.split())
        if self.qk_norm not in (None, "rms_norm"):
            problems.append(f"qk_norm = {self.qk_norm!r}: supported are None and 'rms_norm'")
        if self.caption_projection_dim != self.width:
            problems.append(f"caption_projection_dim = {self.caption_projection_dim}: must be the width, {self.width}")
        if self.width % 4:
            problems.append(f"a width of {self.width}: must be a multiple of 4")
        if self.sample_size < self.patch_size:
            problems.append(f"sample_size = {self.sample_size}: must be at least patch_size")
        return problems


class _Block(nn.Module):
    """Image x and text c attend to each other; then each has its feed-forward. All is normed, modulated and gated.

    dual: the image attends to itself besides (`attn2`). last: the text is used and then dropped.
    """

    def __init__(self, config: SD3Config, dual: bool, last: bool, dtype: DTypeLike) -> None:
        width, heads = config.width, config.num_attention_heads
        normed = config.qk_norm is not None
        self.norm1 = Modulation(width, 9 if dual else 6, dtype=dtype)
        self.norm1_context = Modulation(width, 2 if last else 6, dtype=dtype)
        self.attn = JointAttention(width, heads, qk_norm=normed, text_first=False, text_out=not last, dtype=dtype)
        self.attn2 = (
            SelfAttention(width, heads, config.attention_head_dim, qk_norm=normed, dtype=dtype) if dual else None
        )
        self.ff = FeedForward(width, dtype=dtype)
        self.ff_context = None if last else FeedForward(width, dtype=dtype)

    def forward(self, x: Value, c: Value, condition: Value) -> tuple[Value, Value | None]:
        """x: [N, T, C], c: [N, S, C], condition: [N, C] -> the new x and c; no c from the last block."""
        shift, scale, gate, *mlp = self.norm1(condition)
        factors = self.norm1_context(condition)
        if self.ff_context is None:
            c_scale, c_shift = factors  # in this order, as in the last norm of the model
        else:
            c_shift, c_scale, *_ = factors
        y, text = self.attn(modulated_norm(x, shift, scale), modulated_norm(c, c_shift, c_scale))
        more = None
        if self.attn2 is not None:
            shift_2, scale_2, gate_2 = mlp[3:]
            more = gated(gate_2, self.attn2(modulated_norm(x, shift_2, scale_2)))  # of x before the first attention
        x = x + gated(gate, y)
        x = feed_forward(x if more is None else x + more, self.ff, *mlp[:3])
        if self.ff_context is None or text is None:
            return x, None
        return x, feed_forward(c + gated(factors[2], text), self.ff_context, *factors[3:])


class SD3(Model):
    """hidden_states [N, C, H, W], encoder_hidden_states [N, S, 4096], pooled_projections [N, 2048], timestep [N]
    -> the velocity [N, channels, H, W], in the latents' dtype.
    """

    config_type = SD3Config
    config: SD3Config

    def __init__(self, config: SD3Config | None = None, *, dtype: DTypeLike = float32) -> None:
        super().__init__(config, dtype=dtype)
        c = self.config
        self.pos_embed = PatchEmbed(
            c.sample_size, c.patch_size, c.in_channels, c.width, c.pos_embed_max_size, dtype=dtype
        )
        self.time_text_embed = TimestepTextEmbedding(c.width, c.pooled_projection_dim, dtype=dtype)
        self.context_embedder = nn.Linear(c.joint_attention_dim, c.width, dtype=dtype)
        self.transformer_blocks = [
            _Block(c, i in c.dual_attention_layers, i == c.num_layers - 1, dtype) for i in range(c.num_layers)
        ]
        self.norm_out = Modulation(c.width, 2, dtype=dtype)
        self.proj_out = nn.Linear(c.width, c.patch_size**2 * c.channels, dtype=dtype, init=nn.init.zeros)

    def forward(
        self, hidden_states: Value, encoder_hidden_states: Value, pooled_projections: Value, timestep: Value
    ) -> Value:
        """hidden_states: latents whose sides are multiples of the patch, at most pos_embed_max_size patches; timestep:
        0 .. 1000, not rounded to the latents' dtype, in which the rest is computed.
        """
        check_inputs("SD3", hidden_states, 4, text=encoder_hidden_states, pooled=pooled_projections, timestep=timestep)
        dtype = hidden_states.dtype
        x: Value = self.pos_embed(hidden_states)
        condition = self.time_text_embed(timestep, call("cast", pooled_projections, dtype))
        c: Value | None = self.context_embedder(call("cast", encoder_hidden_states, dtype))
        for block in self.transformer_blocks:
            x, c = block(x, c, condition)
        scale, shift = self.norm_out(condition)
        tokens = self.proj_out(modulated_norm(x, shift, scale))
        patch = self.config.patch_size
        rows, columns = (size // patch for size in hidden_states.shape[2:])
        return unpatchify(tokens, rows, columns, patch)
