"""What MMDiT models share (SD3, Flux): two streams, of image and text, that attend to each other as one sequence."""

from __future__ import annotations

from .. import nn
from ..errors import ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..types import DTypeLike, float32
from .blocks import FeedForward, gated, merge_heads, split_heads
from .embeddings import Projection

Rope = tuple[Value, Value]
"""(cos, sin) of the rotary angles, [tokens, head_size / 2] each."""


class Modulation(nn.Module):
    """`linear` [parts * width, width] of silu(embedding), cut into `parts`: shifts, scales and gates of a block.

    Zeros at first: then scales are 1, shifts 0 and gates closed.
    """

    def __init__(self, width: int, parts: int, *, dtype: DTypeLike = float32) -> None:
        self.parts = parts
        self.linear = nn.Linear(width, parts * width, dtype=dtype, init=nn.init.zeros)

    def forward(self, embedding: Value) -> list[Value]:
        """[N, width] -> `parts` values [N, width]."""
        return call("chunk", self.linear(call("silu", embedding)), self.parts, 1)


def modulated_norm(x: Value, shift: Value, scale: Value) -> Value:
    """layer_norm(x) * (1 + scale) + shift, without weights of its own.  x: [N, T, C]; shift, scale: [N, C]."""
    return call("ada_layer_norm", x, shift, scale, 1e-6)


class TimestepTextEmbedding(nn.Module):
    """The sum of the embeddings of timestep, guidance (if there is one) and pooled text.

    guidance: whether there is `guidance_embedder`; diffusers' CombinedTimestep(Guidance)TextProjEmbeddings.
    """

    def __init__(self, width: int, pooled: int, *, guidance: bool = False, dtype: DTypeLike = float32) -> None:
        self.timestep_embedder = Projection(256, width, dtype=dtype)
        self.guidance_embedder = Projection(256, width, dtype=dtype) if guidance else None
        self.text_embedder = Projection(pooled, width, dtype=dtype)

    def forward(self, timestep: Value, pooled: Value, guidance: Value | None = None) -> Value:
        """timestep, guidance: [N], in units whose sinusoids are taken as they are; pooled: [N, C] -> [N, width], in
        pooled's dtype; the sinusoids are computed from what is given, before they are rounded to it."""
        found = self.timestep_embedder(call("cast", nn.sinusoid(timestep, 256), pooled.dtype))
        if self.guidance_embedder is not None and guidance is not None:
            found = found + self.guidance_embedder(call("cast", nn.sinusoid(guidance, 256), pooled.dtype))
        return found + self.text_embedder(pooled)


class JointAttention(nn.Module):
    """Attention over the tokens of image and text together; each has its own projections and norms.

    qk_norm: RMS norm of each head's query and key, of the image's (norm_q, norm_k) and of the text's (norm_added_q,
    norm_added_k). text_first: where the text stands in the sequence. text_out: whether the text's result is wanted; if
    not, there is no `to_add_out`, and the projection of the text's queries, stored all the same, gets zero gradients.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        qk_norm: bool,
        text_first: bool,
        text_out: bool = True,
        dtype: DTypeLike = float32,
    ) -> None:
        def linear() -> nn.Linear:
            return nn.Linear(width, width, dtype=dtype)

        def norm() -> nn.RMSNorm | None:
            return nn.RMSNorm(width // heads, 1e-6, dtype=dtype) if qk_norm else None

        self.heads, self.text_first, self.text_out = heads, text_first, text_out
        self.norm_q, self.norm_k = norm(), norm()
        self.norm_added_q, self.norm_added_k = norm(), norm()
        self.to_q, self.to_k, self.to_v = linear(), linear(), linear()
        self.add_q_proj, self.add_k_proj, self.add_v_proj = linear(), linear(), linear()
        self.to_out = [linear()]
        self.to_add_out = linear() if text_out else None

    def _part(self, layer: nn.Linear, norm: nn.RMSNorm | None, x: Value) -> Value:
        """[N, T, C] -> [N, heads, T, E], normed."""
        y = split_heads(layer(x), self.heads)
        return y if norm is None else norm(y)

    def _joined(self, image: Value, text: Value) -> Value:
        """The tokens of both as one sequence.  [N, heads, T, E], [N, heads, S, E] -> [N, heads, T + S, E]."""
        return call("concat", [text, image] if self.text_first else [image, text], 2)

    def forward(self, image: Value, text: Value, rope: Rope | None = None) -> tuple[Value, Value | None]:
        """image: [N, T, C], text: [N, S, C] -> the same shapes, the second None without text_out.

        rope: turns queries and keys of the joined sequence.
        """
        q = self._joined(
            self._part(self.to_q, self.norm_q, image), self._part(self.add_q_proj, self.norm_added_q, text)
        )
        k = self._joined(
            self._part(self.to_k, self.norm_k, image), self._part(self.add_k_proj, self.norm_added_k, text)
        )
        v = self._joined(self._part(self.to_v, None, image), self._part(self.add_v_proj, None, text))
        y = merge_heads(attend(q, k, v, rope))
        pictures, words = image.shape[1], text.shape[1]
        start, begin = (words, 0) if self.text_first else (0, pictures)
        seen = self.to_out[0](y[:, start : start + pictures])
        return seen, None if self.to_add_out is None else self.to_add_out(y[:, begin : begin + words])


def attend(q: Value, k: Value, v: Value, rope: Rope | None = None) -> Value:
    """Attention, queries and keys turned by `rope` first.  [N, heads, T, E] each."""
    if rope is not None:
        q, k = (call("apply_rotary_emb", x, *rope) for x in (q, k))
    return call("scaled_dot_product_attention", q, k, v)


def feed_forward(x: Value, ff: FeedForward, shift: Value, scale: Value, gate: Value) -> Value:
    """x + gate ff(modulated norm of x)."""
    return x + gated(gate, ff(modulated_norm(x, shift, scale)))


def check_inputs(op: str, image: Value, rank: int, *, text: Value, pooled: Value, **rows: Value | None) -> None:
    """Raises ShapeError unless the inputs of an MMDiT model are of one batch; rows: those that are [N]."""
    n = image.shape[:1]
    fits = image.ndim == rank and text.ndim == 3 and pooled.ndim == 2 and text.shape[:1] == pooled.shape[:1] == n
    if not fits or any(v is not None and v.shape != n for v in rows.values()):
        names = ", ".join(name for name, v in rows.items() if v is not None)
        found = ", ".join(str(v.shape) for v in (image, text, pooled, *rows.values()) if v is not None)
        wanted = "[N, C, H, W]" if rank == 4 else "[N, T, C]"
        raise ShapeError(
            f"expects hidden_states {wanted}, encoder_hidden_states [N, S, C], pooled_projections [N, C] and [N] for "
            f"{names}, got {found}",
            op=op,
        )
