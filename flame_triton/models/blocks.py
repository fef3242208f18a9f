"""What the blocks of diffusion transformers share: heads, feed-forward, gates."""

from __future__ import annotations

from .. import nn
from ..errors import ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..types import DTypeLike, float32


def split_heads(x: Value, heads: int) -> Value:
    """[N, T, heads * E] -> [N, heads, T, E]; a view."""
    if x.ndim != 3 or x.shape[-1] % heads:
        raise ShapeError(f"expects [N, T, C] with C a multiple of {heads} heads, got {x.shape}", op="split_heads")
    n, tokens, width = x.shape
    return call("transpose", call("reshape", x, (n, tokens, heads, width // heads)), (0, 2, 1, 3))


def merge_heads(x: Value) -> Value:
    """[N, heads, T, E] -> [N, T, heads * E]."""
    n, heads, tokens, size = x.shape
    return call("reshape", call("transpose", x, (0, 2, 1, 3)), (n, tokens, heads * size))


def gated(gate: Value, x: Value) -> Value:
    """gate[:, None] * x.  gate: [N, C]; x: [N, T, C]."""
    return call("expand_dims", gate, 1) * x


class SelfAttention(nn.Module):
    """to_out.0(attention(to_q x, to_k x, to_v x)).  x: [N, T, width], whose heads may be of any size.

    bias: of the projections of x; qk_norm: RMS norm of each head's query and key, `norm_q` and `norm_k` [head_size].
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_size: int,
        *,
        bias: bool = True,
        qk_norm: bool = False,
        dtype: DTypeLike = float32,
    ) -> None:
        inner = heads * head_size
        self.heads = heads
        self.norm_q = nn.RMSNorm(head_size, 1e-6, dtype=dtype) if qk_norm else None
        self.norm_k = nn.RMSNorm(head_size, 1e-6, dtype=dtype) if qk_norm else None
        self.to_q = nn.Linear(width, inner, bias, dtype=dtype)
        self.to_k = nn.Linear(width, inner, bias, dtype=dtype)
        self.to_v = nn.Linear(width, inner, bias, dtype=dtype)
        self.to_out = [nn.Linear(inner, width, dtype=dtype)]

    def forward(self, x: Value) -> Value:
        """[N, T, width] -> [N, T, width]."""
        q, k, v = (split_heads(layer(x), self.heads) for layer in (self.to_q, self.to_k, self.to_v))
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        return self.to_out[0](merge_heads(call("scaled_dot_product_attention", q, k, v)))


class _GELU(nn.Module):
    """gelu(proj x)."""

    def __init__(self, width: int, hidden: int, approximate: str, dtype: DTypeLike) -> None:
        self.approximate = approximate
        self.proj = nn.Linear(width, hidden, dtype=dtype)

    def forward(self, x: Value) -> Value:
        return call("gelu", self.proj(x), approximate=self.approximate)


class FeedForward(nn.Module):
    """net.2(gelu(net.0.proj x)), 4 times wider within.  x: [..., width]; approximate: "tanh" or "none" (erf)."""

    def __init__(self, width: int, approximate: str = "tanh", *, dtype: DTypeLike = float32) -> None:
        self.net = {0: _GELU(width, 4 * width, approximate, dtype), 2: nn.Linear(4 * width, width, dtype=dtype)}

    def forward(self, x: Value) -> Value:
        """[..., width] -> [..., width]."""
        return self.net[2](self.net[0](x))
