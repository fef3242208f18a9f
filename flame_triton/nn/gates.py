"""Gated units, and layer norms whose scale and shift come from an embedding (adaLN)."""

from __future__ import annotations

from ..errors import ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..types import DTypeLike, float32
from . import init as initialisers
from .init import Initialiser
from .layers import Linear
from .module import Module


class _Gated(Module):
    """proj: [2 hidden, width]; its first half is the value, the second the gate, as diffusers stores them."""

    function = ""

    def __init__(self, width: int, hidden: int, bias: bool = True, *, dtype: DTypeLike = float32) -> None:
        self.proj = Linear(width, 2 * hidden, bias, dtype=dtype)

    def forward(self, x: Value) -> Value:
        """[..., width] -> [..., hidden]."""
        return call(self.function, self.proj(x))


class GEGLU(_Gated):
    """value * gelu(gate) of one projection `proj` [2 hidden, width].  x: [..., width]. Shazeer 2020."""

    function = "geglu"


class SwiGLU(_Gated):
    """value * silu(gate) of one projection `proj` [2 hidden, width].  x: [..., width]. Shazeer 2020."""

    function = "swiglu"


class _AdaLayerNorm(Module):
    """`linear` [parts * width, embedding] of silu(embedding), zeros at first: then scales are 1 and gates closed."""

    parts = 0

    def __init__(
        self,
        width: int,
        embedding: int | None = None,
        eps: float = 1e-6,
        *,
        dtype: DTypeLike = float32,
        init: Initialiser | None = initialisers.zeros,
    ) -> None:
        self.width, self.eps = width, eps
        self.linear = Linear(embedding or width, self.parts * width, dtype=dtype, init=init)

    def _modulation(self, x: Value, embedding: Value) -> list[Value]:
        """`parts` values [N, width]."""
        if x.ndim < 2 or x.shape[-1] != self.width or embedding.ndim != 2 or embedding.shape[0] != x.shape[0]:
            raise ShapeError(
                f"expects [N, ..., {self.width}] and [N, E], got {x.shape} and {embedding.shape}",
                op=type(self).__name__,
            )
        return call("chunk", self.linear(call("silu", embedding)), self.parts, 1)


class AdaLayerNormZero(_AdaLayerNorm):
    """The norm of a DiT block (Peebles and Xie 2023); `linear` gives, in this order, shift, scale and gate of the
    attention, then shift, scale and gate of the MLP.

    width: of x; embedding: width of the embedding, default that of x; init: of `linear`, default zeros.
    """

    parts = 6

    def forward(self, x: Value, embedding: Value) -> tuple[Value, Value, Value, Value, Value]:
        """(the modulated norm of x, gate of the attention, shift, scale and gate of the MLP), the last four [N, C]."""
        shift, scale, gate, *mlp = self._modulation(x, embedding)
        return (call("ada_layer_norm", x, shift, scale, self.eps), gate, mlp[0], mlp[1], mlp[2])


class AdaLayerNormContinuous(_AdaLayerNorm):
    """The norm of a final layer; `linear` gives the **scale first**, then the shift, as diffusers stores them.

    width: of x; embedding: width of the embedding, default that of x; init: of `linear`, default zeros.
    """

    parts = 2

    def forward(self, x: Value, embedding: Value) -> Value:
        """layer_norm(x) * (1 + scale) + shift."""
        scale, shift = self._modulation(x, embedding)
        return call("ada_layer_norm", x, shift, scale, self.eps)
