"""DiT (Peebles and Xie 2023), as diffusers' DiTTransformer2DModel stores it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .. import nn
from ..errors import ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..types import DTypeLike, float32
from .blocks import FeedForward, SelfAttention, gated
from .config import Config, positive
from .embeddings import PatchEmbed, TimestepLabelEmbedding, unpatchify
from .model import Model

_GELUS = {"gelu-approximate": "tanh", "gelu": "none"}


@dataclass(frozen=True)
class DiTConfig(Config):
    """The keys of diffusers' DiTTransformer2DModel; the defaults are DiT-XL/2's, but for out_channels.

    num_attention_heads, attention_head_dim: their product is the width. in_channels, out_channels: of the latents and
    of the result, None for as many (8 in DiT-XL/2, noise and variance). sample_size: side of the latents that it was
    made for. num_embeds_ada_norm: number of classes; one more means no class. attention_bias: of queries, keys, values.
    norm_elementwise_affine: a weight and bias for the norm before the MLP, and norm_eps its epsilon.
    """

    class_name = "DiTTransformer2DModel"
    also_called: ClassVar = {"Transformer2DModel": {"norm_type": "ada_norm_zero"}}  # in the files of DiT-XL/2
    fixed: ClassVar = {"dropout": 0.0, "norm_type": "ada_norm_zero"}
    outdated: ClassVar = {  # what a Transformer2DModel might be besides
        "attention_type": "default",
        "caption_channels": None,
        "cross_attention_dim": None,
        "double_self_attention": False,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "use_linear_projection": False,
    }
    ignored: ClassVar = {"norm_num_groups": 32, "upcast_attention": False}  # scores are float32 in any case

    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int | None = None
    num_layers: int = 28
    attention_bias: bool = True
    sample_size: int = 32
    patch_size: int = 2
    activation_fn: str = "gelu-approximate"
    num_embeds_ada_norm: int = 1000
    norm_elementwise_affine: bool = False
    norm_eps: float = 1e-5

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def channels(self) -> int:
        """Channels of the result."""
        return self.in_channels if self.out_channels is None else self.out_channels

    def contradictions(self) -> list[str]:
        """Sizes below 1, an unknown activation, a width without a table of positions."""
        sizes = "num_attention_heads attention_head_dim in_channels out_channels num_layers patch_size"
        problems = positive(self, *sizes.split(), "sample_size", "num_embeds_ada_norm")
        if self.activation_fn not in _GELUS:
            problems.append(f"activation_fn = {self.activation_fn!r}: supported are {', '.join(_GELUS)}")
        if self.width % 4:
            problems.append(f"a width of {self.width}: must be a multiple of 4")
        if self.sample_size < self.patch_size:
            problems.append(f"sample_size = {self.sample_size}: must be at least patch_size")
        return problems


class _Norm(nn.AdaLayerNormZero):
    """adaLN-Zero with an embedding of its own in every block."""

    def __init__(self, config: DiTConfig, dtype: DTypeLike) -> None:
        super().__init__(config.width, dtype=dtype)
        self.emb = TimestepLabelEmbedding(config.num_embeds_ada_norm, config.width, dtype=dtype)


class _Block(nn.Module):
    """x += gate attn1(modulate(norm x)); x += gate ff(modulate(norm3 x)); the factors from timestep and class."""

    def __init__(self, config: DiTConfig, dtype: DTypeLike) -> None:
        width = config.width
        self.norm1 = _Norm(config, dtype)
        self.attn1 = SelfAttention(
            width, config.num_attention_heads, config.attention_head_dim, bias=config.attention_bias, dtype=dtype
        )
        self.norm3 = nn.LayerNorm(width, config.norm_eps, config.norm_elementwise_affine, dtype=dtype)
        self.ff = FeedForward(width, _GELUS[config.activation_fn], dtype=dtype)

    def forward(self, x: Value, waves: Value, labels: Value) -> Value:
        normed, gate, shift, scale, gate_mlp = self.norm1(x, self.norm1.emb(waves, labels))
        x = x + gated(gate, self.attn1(normed))
        return x + gated(gate_mlp, self.ff(nn.modulate(self.norm3(x), shift, scale)))


class DiT(Model):
    """latents [N, C, H, W], t [N], labels [N] -> [N, channels, H, W], in the latents' dtype.

    Every block has its own embeddings of timestep and class, as in diffusers; the last norm uses the first block's.
    """

    config_type = DiTConfig
    config: DiTConfig

    def __init__(self, config: DiTConfig | None = None, *, dtype: DTypeLike = float32) -> None:
        super().__init__(config, dtype=dtype)
        c = self.config
        self.pos_embed = PatchEmbed(c.sample_size, c.patch_size, c.in_channels, c.width, dtype=dtype)
        self.transformer_blocks = [_Block(c, dtype) for _ in range(c.num_layers)]
        self.proj_out_1 = nn.Linear(c.width, 2 * c.width, dtype=dtype, init=nn.init.zeros)
        self.proj_out_2 = nn.Linear(c.width, c.patch_size**2 * c.channels, dtype=dtype, init=nn.init.zeros)

    def forward(self, latents: Value, t: Value, labels: Value) -> Value:
        """latents: [N, C, H, W], sides multiples of the patch; t: [N] in 0 .. 1000; labels: integers [N], the number of
        classes meaning none. Labels are taken as they are, in training too: a loss that wants them dropped does it.
        """
        c = self.config
        if latents.ndim != 4 or t.shape != latents.shape[:1] or labels.shape != t.shape:
            raise ShapeError(
                f"expects latents [N, {c.in_channels}, H, W], t [N], labels [N], "
                f"got {latents.shape}, {t.shape}, {labels.shape}",
                op="DiT",
            )
        x = self.pos_embed(latents)
        waves = call("cast", nn.sinusoid(t, 256, shift=1.0), x.dtype)
        for block in self.transformer_blocks:
            x = block(x, waves, labels)
        condition = self.transformer_blocks[0].norm1.emb(waves, labels)
        shift, scale = call("chunk", self.proj_out_1(call("silu", condition)), 2, 1)
        tokens = self.proj_out_2(call("ada_layer_norm", x, shift, scale, 1e-6))
        rows, columns = (size // c.patch_size for size in latents.shape[2:])
        return unpatchify(tokens, rows, columns, c.patch_size)
