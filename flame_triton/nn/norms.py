"""Norms of channels with their parameters and running statistics, and weights made of unit norm.

What a step changes besides the trained parameters, running means and variances, singular vectors, are parameters with
trainable=False. A call in training notes their new values, and `Module.buffer_updates()` hands them out for `updates=`:

    y = model(x)
    updates = optimizer.updates(ft.grad(loss, model.parameters()), also=model.buffer_updates())
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import call
from ..ops.weight_norm import singular_sizes
from ..types import DTypeLike, float32, int64
from . import init as initialisers
from .init import Array
from .module import Module, Parameter


class GroupNorm(Module):
    """Group norm (Wu and He 2018).  x: [N, channels, ...].

    groups: it divides channels; affine: with a weight and a bias [channels].
    """

    weight: Value | None
    bias: Value | None

    def __init__(
        self, groups: int, channels: int, eps: float = 1e-5, affine: bool = True, *, dtype: DTypeLike = float32
    ) -> None:
        if groups < 1 or channels % groups:
            raise ArgumentError(f"groups {groups} does not divide channels {channels}", op="GroupNorm")
        self.groups, self.channels, self.eps = groups, channels, eps
        self.weight = Parameter((channels,), initialisers.ones, dtype) if affine else None
        self.bias = Parameter((channels,), initialisers.zeros, dtype) if affine else None

    def forward(self, x: Value) -> Value:
        """y of x's shape and dtype; statistics, weight and bias in float32 for 16-bit x."""
        if x.ndim < 2 or x.shape[1] != self.channels:
            raise ShapeError(f"expects [N, {self.channels}, ...], got {x.shape}", op="GroupNorm")
        return call("group_norm", x, self.groups, self.weight, self.bias, self.eps)


class _RunningNorm(Module):
    """What batch and instance norm share. ranks: the numbers of axes that x may have."""

    weight: Value | None
    bias: Value | None
    running_mean: Value | None
    running_var: Value | None
    num_batches_tracked: Value | None
    function = ""
    ranks: tuple[int, ...] = ()
    counts = False  # batches, in num_batches_tracked

    def __init__(
        self,
        channels: int,
        eps: float,
        momentum: float,
        affine: bool,
        track_running_stats: bool,
        dtype: DTypeLike,
    ) -> None:
        self.channels, self.eps, self.momentum = channels, eps, momentum
        self.weight = Parameter((channels,), initialisers.ones, dtype) if affine else None
        self.bias = Parameter((channels,), initialisers.zeros, dtype) if affine else None
        tracked = track_running_stats
        self.running_mean = Parameter((channels,), initialisers.zeros, trainable=False) if tracked else None
        self.running_var = Parameter((channels,), initialisers.ones, trainable=False) if tracked else None
        self.num_batches_tracked = Parameter((), 0, int64, trainable=False) if tracked else None

    def forward(self, x: Value) -> Value:
        """y of x's shape and dtype. In training the statistics are x's own and the running ones move; else these."""
        if x.ndim not in self.ranks or x.shape[1] != self.channels:
            raise ShapeError(
                f"expects {' or '.join(str(r) for r in self.ranks)} axes, [N, {self.channels}, ...], got {x.shape}",
                op=type(self).__name__,
            )
        affine = self.weight, self.bias
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return call(self.function, x, None, None, *affine, True, eps=self.eps)
        m, v, count = (self.buffer(b) for b in (self.running_mean, self.running_var, self.num_batches_tracked))
        if not self.training:
            return call(self.function, x, self.running_mean, self.running_var, *affine, False, eps=self.eps)
        y, m, v = call(f"{self.function}_with_stats", x, m, v, *affine, self.momentum, self.eps)
        self.update_buffers({self.running_mean: m, self.running_var: v})
        if self.counts:
            self.update_buffers({self.num_batches_tracked: count + 1})
        return y


class _BatchNorm(_RunningNorm):
    """Batch norm (Ioffe and Szegedy 2015).  x: [N, channels, ...]; statistics per channel, over the batch.

    momentum: the share of a batch in the running statistics; affine: with a weight and a bias [channels];
    track_running_stats: with running_mean, running_var [channels] and num_batches_tracked, used after `eval()`;
    without them the statistics are always x's own.
    """

    function = "batch_norm"
    counts = True

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: DTypeLike = float32,
    ) -> None:
        super().__init__(channels, eps, momentum, affine, track_running_stats, dtype)


class _InstanceNorm(_RunningNorm):
    """Instance norm (Ulyanov et al. 2016).  x: [N, channels, ...]; statistics per channel of each sample.

    The arguments are those of batch norm; as in torch, affine and track_running_stats are off by default.
    """

    function = "instance_norm"

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        dtype: DTypeLike = float32,
    ) -> None:
        super().__init__(channels, eps, momentum, affine, track_running_stats, dtype)


class BatchNorm1d(_BatchNorm):
    __doc__ = _BatchNorm.__doc__
    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = _BatchNorm.__doc__
    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    __doc__ = _BatchNorm.__doc__
    ranks = (5,)


class InstanceNorm1d(_InstanceNorm):
    __doc__ = _InstanceNorm.__doc__
    ranks = (3,)


class InstanceNorm2d(_InstanceNorm):
    __doc__ = _InstanceNorm.__doc__
    ranks = (4,)


class InstanceNorm3d(_InstanceNorm):
    __doc__ = _InstanceNorm.__doc__
    ranks = (5,)


def _unit(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """A random direction."""
    x = rng.standard_normal(shape)
    return (x / max(float(np.linalg.norm(x)), 1e-12)).astype(np.float32)


class _Reweighted(Module):
    """A layer whose weight is computed from its own parameter at every call."""

    def __init__(self, layer: Module, name: str) -> None:
        if not hasattr(layer, name):
            raise ArgumentError(f"{type(layer).__name__} has no parameter {name!r}", op=type(self).__name__)
        self.layer, self.name = layer, name

    def weight(self, own: Value) -> Value:
        """What the layer uses instead of its parameter."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own result, with the computed weight."""
        own = getattr(self.layer, self.name)
        setattr(self.layer, self.name, self.weight(own))
        try:
            return self.layer(*args, **kwargs)
        finally:
            setattr(self.layer, self.name, own)


class SpectralNorm(_Reweighted):
    """A layer with its weight divided by the largest singular value (Miyato et al. 2018).

    layer: its parameter `name`, [out, in, ...], is seen as a matrix with rows along `dim`. u, v: estimates of its
    singular vectors, which a call in training improves by n_power_iterations; see `Module.buffer_updates`.
    """

    u: Value
    v: Value

    def __init__(
        self, layer: Module, name: str = "weight", n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12
    ) -> None:
        super().__init__(layer, name)
        rows, columns = singular_sizes(getattr(layer, name).shape, dim)
        self.iterations, self.dim, self.eps = n_power_iterations, dim, eps
        self.u = Parameter((rows,), _unit, trainable=False)
        self.v = Parameter((columns,), _unit, trainable=False)

    def weight(self, own: Value) -> Value:
        """own / sigma."""
        steps = self.iterations if self.training else 0
        found, u, v = call("spectral_norm", own, self.buffer(self.u), self.buffer(self.v), steps, self.dim, self.eps)
        if self.training:
            self.update_buffers({self.u: u, self.v: v})
        return found


class StandardizedWeight(_Reweighted):
    """A layer whose weight has zero mean and unit variance for each output (Qiao et al. 2019).

    layer: its parameter `name` is [out, in, ...]; it should be followed by a norm.
    """

    def __init__(self, layer: Module, name: str = "weight", eps: float = 1e-5) -> None:
        super().__init__(layer, name)
        self.eps = eps

    def weight(self, own: Value) -> Value:
        """(own - mean) / sqrt(var + eps)."""
        return call("standardize_weight", own, eps=self.eps)
