"""What goes into a diffusion transformer: patches with their places, timesteps, class labels, pooled text."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .. import nn
from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..types import DTypeLike, float32

# ---- where patches are -----------------------------------------------------------------------------------------


def position_table(
    width: int, rows: int, columns: int, base_size: int = 16, interpolation_scale: float = 1.0
) -> npt.NDArray[np.float32]:
    """Sinusoidal features of places in a picture, [rows * columns, width]: of the column, then of the row.

    Each half is [sin | cos] of place * 1e4^(-i / (width / 4)), computed in float64 and rounded once; a place is
    counted so that `base_size` patches make up the picture: index / (rows / base_size) / interpolation_scale, in
    float32. As diffusers computes it.
    """
    if width % 4:
        raise ArgumentError(f"width must be a multiple of 4, got {width}", op="position_table")
    frequencies = 1.0 / 10000.0 ** (np.arange(width // 4, dtype=np.float64) / (width / 4.0))

    def places(count: int) -> npt.NDArray[np.float32]:
        scaled = np.arange(count, dtype=np.float32) / np.float32(count / base_size)
        return scaled / np.float32(interpolation_scale)

    def features(place: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        angles = place.astype(np.float64)[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], 1)

    across, down = features(places(columns)), features(places(rows))
    whole = np.concatenate([np.tile(across, (rows, 1)), np.repeat(down, columns, 0)], 1)
    return whole.astype(np.float32)


def crop_table(table: Value, size: int, rows: int, columns: int) -> Value:
    """The middle rows x columns of a table [1, size * size, C] of size x size places: [1, rows * columns, C]."""
    if rows > size or columns > size:
        raise ShapeError(f"{rows} x {columns} patches do not fit the table of {size} x {size}", op="crop_table")
    top, left, channels = (size - rows) // 2, (size - columns) // 2, table.shape[-1]
    places = call("reshape", table, (size, size, channels))[top : top + rows, left : left + columns]
    return call("reshape", places, (1, rows * columns, channels))


def patchify(x: Value, patch: int) -> Value:
    """[N, C, H, W] -> [N, H/patch * W/patch, C * patch * patch]; a token's channels are (channel, row, column)."""
    if x.ndim != 4 or x.shape[2] % patch or x.shape[3] % patch:
        raise ShapeError(f"expects [N, C, H, W] with H and W multiples of {patch}, got {x.shape}", op="patchify")
    n, c, h, w = x.shape
    split = call("reshape", x, (n, c, h // patch, patch, w // patch, patch))
    moved = call("transpose", split, (0, 2, 4, 1, 3, 5))
    return call("reshape", moved, (n, (h // patch) * (w // patch), c * patch * patch))


def unpatchify(tokens: Value, rows: int, columns: int, patch: int) -> Value:
    """[N, rows * columns, patch * patch * C] -> [N, C, rows * patch, columns * patch].

    A token's channels are (row, column, channel): the other way around than in `patchify`, as in DiT and SD3.
    """
    n, count, width = tokens.shape
    if count != rows * columns or width % (patch * patch):
        raise ShapeError(f"{tokens.shape} are no {rows} x {columns} patches of side {patch}", op="unpatchify")
    channels = width // (patch * patch)
    split = call("reshape", tokens, (n, rows, columns, patch, patch, channels))
    moved = call("transpose", split, (0, 5, 1, 3, 2, 4))
    return call("reshape", moved, (n, channels, rows * patch, columns * patch))


class _PatchProjection(nn.Module):
    """A convolution of patches that do not overlap, as a product.  weight: [width, in_channels, patch, patch]."""

    weight: Value
    bias: Value

    def __init__(self, in_channels: int, width: int, patch: int, dtype: DTypeLike) -> None:
        size = in_channels * patch * patch
        bound = 1 / math.sqrt(size)
        self.width, self.patch, self.in_channels = width, patch, in_channels
        self.weight = nn.Parameter((width, in_channels, patch, patch), nn.init.uniform(-bound, bound), dtype)
        self.bias = nn.Parameter((width,), nn.init.uniform(-bound, bound), dtype)

    def forward(self, x: Value) -> Value:
        """[N, C, H, W] -> [N, H/patch * W/patch, width], computed in x's dtype."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ShapeError(f"expects [N, {self.in_channels}, H, W], got {x.shape}", op="PatchEmbed")
        tokens = patchify(x, self.patch)
        weight = call("reshape", call("cast", self.weight, x.dtype), (self.width, tokens.shape[-1]))
        return call("linear", tokens, weight, call("cast", self.bias, x.dtype))


class PatchEmbed(nn.Module):
    """Patches as tokens, with sinusoidal positions added.  x: [N, in_channels, H, W] -> [N, tokens, width].

    proj: the projection of patches. sample_size: side of the pictures that a place is counted in.
    pos_embed_max_size: with it, `pos_embed` [1, max^2, width] is a stored buffer (not trained) whose middle is used,
    as in SD3; without it the table is computed for the picture's own size, as in DiT.
    """

    pos_embed: Value | None

    def __init__(
        self,
        sample_size: int,
        patch: int,
        in_channels: int,
        width: int,
        pos_embed_max_size: int | None = None,
        *,
        dtype: DTypeLike = float32,
    ) -> None:
        self.patch, self.width, self.max_size = patch, width, pos_embed_max_size
        self.base_size = sample_size // patch
        self.proj = _PatchProjection(in_channels, width, patch, dtype)
        self.pos_embed = None
        if (side := pos_embed_max_size) is not None:
            self.pos_embed = nn.Parameter(
                (1, side * side, width),
                lambda shape, rng: position_table(width, side, side, self.base_size)[None],
                dtype,
                trainable=False,
            )

    def positions(self, rows: int, columns: int) -> Value:
        """The table for a picture of rows x columns patches: [1, rows * columns, width]."""
        if self.pos_embed is not None and self.max_size is not None:
            return crop_table(self.pos_embed, self.max_size, rows, columns)
        return call("constant", position_table(self.width, rows, columns, self.base_size)[None])

    def forward(self, x: Value) -> Value:
        """Tokens in x's dtype; the sum is computed in float32 for 16-bit x and rounded once."""
        tokens = self.proj(x)
        table = self.positions(x.shape[2] // self.patch, x.shape[3] // self.patch)
        compute = x.dtype.compute
        return call("cast", call("cast", tokens, compute) + call("cast", table, compute), x.dtype)


# ---- conditions ------------------------------------------------------------------------------------------------


class Projection(nn.Module):
    """linear_2(silu(linear_1(x))).  x: [N, features] -> [N, width]; diffusers' PixArtAlphaTextProjection."""

    def __init__(self, features: int, width: int, *, dtype: DTypeLike = float32) -> None:
        self.linear_1 = nn.Linear(features, width, dtype=dtype)
        self.linear_2 = nn.Linear(width, width, dtype=dtype)

    def forward(self, x: Value) -> Value:
        """[N, features] -> [N, width], in x's dtype."""
        return self.linear_2(call("silu", self.linear_1(x)))


class LabelEmbedding(nn.Module):
    """A row of `embedding_table` [classes + 1, width] for each label; the last is that of no class."""

    def __init__(self, classes: int, width: int, *, dtype: DTypeLike = float32) -> None:
        self.embedding_table = nn.Embedding(classes + 1, width, dtype=dtype, init=nn.init.normal(0.02))

    def forward(self, labels: Value) -> Value:
        """Integers [N] in 0 .. classes -> [N, width], in the table's dtype."""
        return self.embedding_table(labels)


class TimestepLabelEmbedding(nn.Module):
    """The sum of an embedding of the timestep and one of the class; diffusers' CombinedTimestepLabelEmbeddings.

    Labels are not dropped here: a loss that wants classifier-free guidance replaces them by `classes` itself.
    """

    def __init__(self, classes: int, width: int, features: int = 256, *, dtype: DTypeLike = float32) -> None:
        self.timestep_embedder = Projection(features, width, dtype=dtype)
        self.class_embedder = LabelEmbedding(classes, width, dtype=dtype)

    def forward(self, waves: Value, labels: Value) -> Value:
        """waves: the timesteps' sinusoids [N, features]; labels: integers [N] -> [N, width], in the dtype of waves."""
        return self.timestep_embedder(waves) + call("cast", self.class_embedder(labels), waves.dtype)
