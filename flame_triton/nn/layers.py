"""Layers. Parameters are float32 unless told otherwise and are cast to the dtype of what they are applied to, so a
bfloat16 input means bfloat16 compute with float32 master weights."""

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
        self.weight = Parameter((out_features, in_features), weight_init, dtype)  # type: ignore[assignment]
        shift = bias_init or (initialisers.uniform(-bound, bound) if init is None else initialisers.zeros)
        self.bias = Parameter((out_features,), shift, dtype) if bias else None  # type: ignore[assignment]

    def forward(self, x: Value) -> Value:
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
        self.weight = Parameter(shape, init or initialisers.normal(1.0), dtype)  # type: ignore[assignment]

    def forward(self, indices: Value) -> Value:
        return call("embedding", indices, self.weight)


class LayerNorm(Module):
    """Layer norm over the last axis (Ba et al. 2016); elementwise_affine: weight and bias of that size."""

    weight: Value | None
    bias: Value | None

    def __init__(self, size: int, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True) -> None:
        self.size, self.eps = size, eps
        self.weight = Parameter((size,), initialisers.ones) if elementwise_affine else None  # type: ignore[assignment]
        with_bias = elementwise_affine and bias
        self.bias = Parameter((size,), initialisers.zeros) if with_bias else None  # type: ignore[assignment]

    def forward(self, x: Value) -> Value:
        weight, bias = (None if p is None else _as(p, x) for p in (self.weight, self.bias))
        return call("layer_norm", x, (self.size,), weight, bias, self.eps)


class RMSNorm(Module):
    """x / rms(x) * weight over the last axis (Zhang and Sennrich 2019)."""

    weight: Value | None

    def __init__(self, size: int, eps: float = 1e-6, elementwise_affine: bool = True) -> None:
        self.size, self.eps = size, eps
        self.weight = Parameter((size,), initialisers.ones) if elementwise_affine else None  # type: ignore[assignment]

    def forward(self, x: Value) -> Value:
        return call("rms_norm", x, (self.size,), None if self.weight is None else _as(self.weight, x), self.eps)
