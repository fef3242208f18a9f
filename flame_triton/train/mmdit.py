"""A text-to-image model for small pictures: a text encoder of our own before a multimodal diffusion transformer.

The transformer is that of Stable Diffusion 3 (Esser et al. 2024): pictures and text are two streams of tokens with
weights of their own, which meet in one attention; both are modulated by the time and the whole caption (adaLN-Zero,
Peebles and Xie 2023); queries and keys are normalised. It works on patches of pixels instead of latents, and the text
encoder is trained along with it. Captions have different lengths: keys beyond a caption's end take no part anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import nn
from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..types import int64
from .captions import SPECIAL

MAX_PERIOD = 256.0
"""The longest wave of the position table: pictures have tens of patches a side, not thousands."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the model. width and layers: of the transformer; text_*: of the text encoder; length: tokens of a
    caption; vocabulary: how many numbers of tokens there are; patch: side of a patch, in pixels."""

    vocabulary: int
    width: int = 384
    layers: int = 5
    heads: int = 6
    text_width: int = 256
    text_layers: int = 3
    text_heads: int = 4
    length: int = 24
    patch: int = 4

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be at least 1, got {getattr(self, name)}", op="Sizes")
        for width, heads, what in ((self.width, self.heads, "heads"), (self.text_width, self.text_heads, "text_heads")):
            if width % heads:
                raise ArgumentError(f"width {width} is not a multiple of {what} {heads}", op="Sizes")
        if self.width % 4:
            raise ArgumentError(f"width must be a multiple of 4, got {self.width}", op="Sizes")
        if self.vocabulary <= SPECIAL:
            raise ArgumentError("the vocabulary is empty: no caption has a word", op="Sizes")


# ---- text ------------------------------------------------------------------------------------------------------


class TextBlock(nn.Module):
    """x += attention(norm x); x += mlp(norm x), as in a pre-norm encoder.  x: [B, L, C]."""

    def __init__(self, width: int, heads: int) -> None:
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.Attention(width, heads, init=nn.init.xavier_uniform())
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.MLP(width, 4 * width)

    def forward(self, x: Value, lengths: Value) -> Value:
        x = x + self.attention(self.norm1(x), key_lengths=lengths)
        return x + self.mlp(self.norm2(x))


class TextEncoder(nn.Module):
    """Numbers of tokens [B, L] and how many count [B] -> features of each token [B, L, C] and of the whole [B, C].

    The whole is the mean over the tokens that count. What stands at the others means nothing and must be masked.
    """

    def __init__(self, sizes: Sizes) -> None:
        width = sizes.text_width
        self.tokens = nn.Embedding(sizes.vocabulary, width, init=nn.init.normal(0.02))
        self.position = nn.Parameter((1, sizes.length, width), nn.init.normal(0.02))
        self.blocks = [TextBlock(width, sizes.text_heads) for _ in range(sizes.text_layers)]
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Value, lengths: Value, dtype: str) -> tuple[Value, Value]:
        x = call("cast", self.tokens(tokens) + self.position, dtype)
        for block in self.blocks:
            x = block(x, lengths)
        x = self.norm(x)
        batch, length = tokens.shape
        place = call("arange", length, dtype=int64)
        counts = call("reshape", place, (1, length, 1)) < call("reshape", lengths, (batch, 1, 1))
        total = call("sum", call("where", counts, x, 0.0), 1)
        return x, total / call("cast", call("reshape", lengths, (batch, 1)), total.dtype)


# ---- the transformer -------------------------------------------------------------------------------------------


class Stream(nn.Module):
    """One of the two streams of a block: norm, projections, output and MLP of its own.

    last: the tokens are not used after the attention: they are keys and values alone, and nothing is behind it.
    """

    def __init__(self, width: int, heads: int, last: bool = False) -> None:
        self.heads, self.last = heads, last
        glorot = nn.init.xavier_uniform()
        self.norm_k = nn.RMSNorm(width // heads)
        if last:
            self.norm = nn.AdaLayerNormContinuous(width)
            self.kv = nn.Linear(width, 2 * width, init=glorot)
        else:
            self.norm1 = nn.AdaLayerNormZero(width)
            self.qkv = nn.Linear(width, 3 * width, init=glorot)
            self.norm_q = nn.RMSNorm(width // heads)
            self.out = nn.Linear(width, width, init=glorot)
            self.norm2 = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
            self.mlp = nn.MLP(width, 4 * width)

    def before(self, x: Value, condition: Value) -> tuple[list[Value], list[Value]]:
        """(query, unless last, key and value of each head [B, H, T, C / H]; what `after` needs of the condition)."""
        if self.last:
            k, v = self._heads(self.kv(self.norm(x, condition)), 2)
            return [self.norm_k(k), v], []
        seen, *rest = self.norm1(x, condition)
        q, k, v = self._heads(self.qkv(seen), 3)
        return [self.norm_q(q), self.norm_k(k), v], rest

    def _heads(self, x: Value, parts: int) -> list[Value]:
        batch, tokens, width = x.shape
        split = call("reshape", x, (batch, tokens, parts, self.heads, width // parts // self.heads))
        moved = call("transpose", split, (2, 0, 3, 1, 4))
        return [moved[i] for i in range(parts)]

    def after(self, x: Value, attended: Value, rest: list[Value]) -> Value:
        """x += gate out(attended); x += gate mlp(modulate(norm x))."""
        batch, _, width = x.shape
        gate, shift, scale, gate_mlp = rest
        x = x + call("reshape", gate, (batch, 1, width)) * self.out(attended)
        hidden = self.mlp(nn.modulate(self.norm2(x), shift, scale))
        return x + call("reshape", gate_mlp, (batch, 1, width)) * hidden


class JointBlock(nn.Module):
    """Pictures [B, N, C] and text [B, L, C] attend to both, pictures first, so that the end of a text is the end of
    the keys."""

    def __init__(self, width: int, heads: int, last: bool) -> None:
        self.image = Stream(width, heads)
        self.text = Stream(width, heads, last)

    def forward(self, x: Value, text: Value, lengths: Value, condition: Value) -> tuple[Value, Value]:
        batch, count, width = x.shape
        (q, *keys), rest = self.image.before(x, condition)
        (*queries, text_k, text_v), text_rest = self.text.before(text, condition)
        k, v = (call("concat", pair, 2) for pair in zip(keys, (text_k, text_v), strict=True))
        q = call("concat", [q, *queries], 2) if queries else q
        y = call("scaled_dot_product_attention", q, k, v, key_lengths=lengths + count)
        y = call("reshape", call("transpose", y, (0, 2, 1, 3)), (batch, q.shape[2], width))
        x = self.image.after(x, y[:, :count], rest)
        return x, text if self.text.last else self.text.after(text, y[:, count:], text_rest)


class TextToImage(nn.Module):
    """Noisy pictures [B, H, W, 3], times [B] in 0..1000, captions [B, L] of lengths [B] -> the velocity [B, H, W, 3].

    H and W are multiples of the patch; positions come from a table of sines, so one set of weights serves all sizes.
    """

    def __init__(self, sizes: Sizes) -> None:
        width, pixels = sizes.width, 3 * sizes.patch**2
        self.sizes = sizes
        self.text = TextEncoder(sizes)
        self.context = nn.Linear(sizes.text_width, width)
        self.pooled = nn.Sequential(nn.Linear(sizes.text_width, width), SiLU(), nn.Linear(width, width))
        self.time = nn.TimestepEmbedding(width)
        self.patches = nn.Linear(pixels, width, init=nn.init.xavier_uniform())
        self.blocks = [JointBlock(width, sizes.heads, i == sizes.layers - 1) for i in range(sizes.layers)]
        self.norm = nn.AdaLayerNormContinuous(width)
        self.out = nn.Linear(width, pixels, init=nn.init.zeros)

    def forward(self, pictures: Value, t: Value, tokens: Value, lengths: Value, dtype: str = "float32") -> Value:
        """Computed in `dtype`; the velocity is of that dtype too."""
        patch = self.sizes.patch
        _, height, width, _ = pictures.shape
        table = call("constant", position_table(height // patch, width // patch, self.sizes.width))
        x = self.patches(call("cast", patchify(pictures, patch), dtype)) + call("cast", table, dtype)
        features, whole = self.text(tokens, lengths, dtype)
        text = self.context(features)
        condition = self.time(t, dtype) + self.pooled(whole)
        for block in self.blocks:
            x, text = block(x, text, lengths, condition)
        return unpatchify(self.out(self.norm(x, condition)), patch, height, width)


class SiLU(nn.Module):
    """x sigmoid(x)."""

    def forward(self, x: Value) -> Value:
        return call("silu", x)


def position_table(rows: int, columns: int, width: int) -> np.ndarray:
    """Where each patch lies, float32 [1, rows * columns, width]: sines and cosines of its row, then of its column.

    Positions count from the middle, so that pictures of different sizes agree about it.
    """
    quarter = width // 4
    waves = MAX_PERIOD ** (-np.arange(quarter) / quarter)
    y, x = np.meshgrid(np.arange(rows) - (rows - 1) / 2, np.arange(columns) - (columns - 1) / 2, indexing="ij")
    angles = [place.reshape(-1, 1) * waves for place in (y, x)]
    parts = [f(a) for a in angles for f in (np.sin, np.cos)]
    return np.concatenate(parts, 1, dtype=np.float32)[None]


def patchify(pictures: Value, patch: int) -> Value:
    """[B, H, W, C] -> [B, H W / patch^2, patch^2 C]: rows of patches; rows of pixels within a patch."""
    batch, height, width, channels = pictures.shape
    if height % patch or width % patch:
        raise ShapeError(f"pictures of {height}x{width} pixels have no whole number of {patch}x{patch} patches")
    rows, columns = height // patch, width // patch
    split = call("reshape", pictures, (batch, rows, patch, columns, patch, channels))
    return call("reshape", call("transpose", split, (0, 1, 3, 2, 4, 5)), (batch, rows * columns, patch**2 * channels))


def unpatchify(tokens: Value, patch: int, height: int, width: int) -> Value:
    """The inverse of patchify."""
    batch, _, size = tokens.shape
    rows, columns, channels = height // patch, width // patch, size // patch**2
    split = call("reshape", tokens, (batch, rows, columns, patch, patch, channels))
    return call("reshape", call("transpose", split, (0, 1, 3, 2, 4, 5)), (batch, height, width, channels))
