"""Layers. Parameters are float32 unless told otherwise and are used in the dtype of what they are applied to, so a
bfloat16 input means bfloat16 compute with float32 master weights. `dtype` is that of the parameters.
"""

from __future__ import annotations

import math

from ..errors import ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..types import DTypeLike, float32
from . import init as initialisers
from .init import Initialiser
from .module import Module, Parameter


def _as(parameter: Value, x: Value) -> Value:
    return call("cast", parameter, x.dtype)


class Linear(Module):
    """y = x weight^T + bias.  x: [..., in]; weight: [out, in]; bias: [out]. Initialised as torch's Linear."""

    weight: Value
    bias: Value | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = float32,
        init: Initialiser | None = None,
        bias_init: Initialiser | None = None,
    ) -> None:
        bound = 1 / math.sqrt(max(in_features, 1))
        weight_init = init or initialisers.kaiming_uniform(1 / math.sqrt(3))
        self.in_features = in_features
        self.weight = Parameter((out_features, in_features), weight_init, dtype)
        shift = bias_init or (initialisers.uniform(-bound, bound) if init is None else initialisers.zeros)
        self.bias = Parameter((out_features,), shift, dtype) if bias else None

    def forward(self, x: Value) -> Value:
        """[..., in] -> [..., out], computed in x's dtype."""
        if not x.ndim or x.shape[-1] != self.in_features:
            raise ShapeError(f"expects [..., {self.in_features}], got {x.shape}", op="Linear")
        return call("linear", x, _as(self.weight, x), None if self.bias is None else _as(self.bias, x))


class Embedding(Module):
    """Rows of weight [num_embeddings, embedding_dim] by integer index [...] -> [..., embedding_dim]."""

    weight: Value

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, dtype: DTypeLike = float32, init: Initialiser | None = None
    ) -> None:
        shape = (num_embeddings, embedding_dim)
        self.weight = Parameter(shape, init or initialisers.normal(1.0), dtype)

    def forward(self, indices: Value) -> Value:
        """Integers [...] -> [..., embedding_dim], in the weight's dtype."""
        return call("embedding", indices, self.weight)


class LayerNorm(Module):
    """Layer norm over the last axis, of `size` (Ba et al. 2016).  x: [..., size].

    elementwise_affine: with a weight [size]; bias: and with a bias [size].
    """

    weight: Value | None
    bias: Value | None

    def __init__(
        self,
        size: int,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = float32,
    ) -> None:
        self.size, self.eps = size, eps
        self.weight = Parameter((size,), initialisers.ones, dtype) if elementwise_affine else None
        self.bias = Parameter((size,), initialisers.zeros, dtype) if elementwise_affine and bias else None

    def forward(self, x: Value) -> Value:
        """y of x's shape and dtype; statistics, weight and bias in float32 for 16-bit x."""
        return call("layer_norm", x, (self.size,), self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, of `size` (Zhang and Sennrich 2019).  x: [..., size]."""

    weight: Value | None

    def __init__(
        self, size: int, eps: float = 1e-6, elementwise_affine: bool = True, *, dtype: DTypeLike = float32
    ) -> None:
        self.size, self.eps = size, eps
        self.weight = Parameter((size,), initialisers.ones, dtype) if elementwise_affine else None

    def forward(self, x: Value) -> Value:
        """y of x's shape and dtype; the mean and the weight in float32 for 16-bit x."""
        return call("rms_norm", x, (self.size,), self.weight, self.eps)
