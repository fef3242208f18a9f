"""Normalisation of channels, x: [N, C, *]: group, instance and batch norm, all one op.

Channel c of sample n has S elements. Its mean and mean squared deviation come first, a reduction over S alone, read
once; those of a group follow from them (Chan et al. 1983: what cancels is never squared first):
    m = mean(m_c),  v = mean(v_c + (m_c - m)^2).
With r = (v + eps)^-1/2, xh = (x - m) r over n elements, y = xh w + b, and per channel the sums S1 = sum g,
S2 = sum g xh over its S elements, backward reads g and x once for sums and once for the result:
    db = sum over samples of S1,  dw = sum over samples of S2,
    dx = r (g w - sum(w S1) / n - xh sum(w S2) / n),  the sums over the channels of the group.
m and v are outputs of the node, saved in float32 for 16-bit x, and have cotangents of their own:
    dm / dx = 1 / n,  dv / dx = 2 (x - m) / n.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Sample, call
from ..types import TensorType
from .arithmetic import add, mul, square, sub
from .define import Operand, as_value, composed, define, randn, samples, wide
from .elementary import rsqrt
from .reduce import mean, sum

__all__ = ["batch_norm", "batch_norm_with_stats", "group_norm", "instance_norm", "instance_norm_with_stats"]

ROW = 4096  # elements over which a mean and the deviations from it are taken in one read


def _grouped(x: TensorType | Value, groups: int) -> tuple[int, int, int, int]:
    """[N, G, C / G, S]."""
    return x.shape[0], groups, x.shape[1] // groups, math.prod(x.shape[2:])


def _stat_axes(batch: bool) -> tuple[int, ...]:
    """The axes of [N, G, C / G, S] that share statistics."""
    return (0, 2, 3) if batch else (2, 3)


def _channel_norm_type(
    x: TensorType, *affine: TensorType, groups: int, batch: bool, eps: float, weight: bool, bias: bool
) -> tuple[TensorType, ...]:
    statistic = TensorType((1 if batch else x.shape[0], groups, 1, 1), x.dtype.compute)
    return x, statistic, statistic


def _piece(length: int) -> int:
    """The longest divisor of `length` that one program reads whole, if a decent one exists, else `length`."""
    if length <= ROW:
        return length
    best = max(d for d in range(1, ROW + 1) if length % d == 0)
    return best if best * 8 >= ROW else length


def _moments(x: Value, axes: tuple[int, ...]) -> tuple[Value, Value]:
    """Mean and variance over the axes, which are kept; two passes over each row, which stays in registers."""
    m = mean(x, axes, keepdims=True)
    return m, mean(square(sub(x, m)), axes, keepdims=True)


def _statistics(x: Value, batch: bool) -> tuple[Value, Value]:
    """Mean and variance of x: [N, G, K, S], by way of its channels unless a group is one short row."""
    n, g, k, s = x.shape
    if not batch and k * s <= ROW:
        return _moments(x, (2, 3))
    piece = max(_piece(s), 1)
    parts = call("reshape", x, (n, g, k, s // piece, piece))
    if piece == 1:
        return _moments(x, _stat_axes(batch))
    m, v = _moments(parts, (4,))
    axes = (0, 2, 3) if batch else (2, 3)
    whole = mean(m, axes, keepdims=True)
    spread = mean(add(v, square(sub(m, whole))), axes, keepdims=True)
    shape = (1 if batch else n, g, 1, 1)
    return call("reshape", whole, shape), call("reshape", spread, shape)


def _affine(node: Node, dtype: Any) -> tuple[Value | None, Value | None]:
    """The node's weight and bias as [1, G, C / G, 1]."""
    groups, rest = node.attrs["groups"], list(node.inputs[1:])
    shape = (1, groups, node.inputs[0].shape[1] // groups, 1)
    wanted = (node.attrs["weight"], node.attrs["bias"])
    found = [call("reshape", call("cast", rest.pop(0), dtype), shape) if there else None for there in wanted]
    return found[0], found[1]


def _channel_norm_build(node: Node) -> list[Value]:
    x = node.inputs[0]
    rows = call("reshape", wide(x), _grouped(x, node.attrs["groups"]))
    m, v = _statistics(rows, node.attrs["batch"])
    weight, bias = _affine(node, rows.dtype)
    y = mul(sub(rows, m), rsqrt(add(v, node.attrs["eps"])))
    y = y if weight is None else mul(y, weight)
    y = y if bias is None else add(y, bias)
    return [call("reshape", call("cast", y, x.dtype), x.shape), m, v]


def _channel_norm_ref(
    x: np.ndarray, *affine: np.ndarray, groups: int, batch: bool, eps: float, weight: bool, bias: bool
) -> Any:
    shape = (x.shape[0], groups, x.shape[1] // groups, math.prod(x.shape[2:]))
    rows, axes = x.reshape(shape), _stat_axes(batch)
    m, v = rows.mean(axes, keepdims=True), rows.var(axes, keepdims=True)
    y = ((rows - m) / np.sqrt(v + x.dtype.type(eps))).reshape(x.shape)
    per_channel = [a.reshape(-1, *(1,) * (x.ndim - 2)) for a in affine]
    y = y * per_channel[0] if weight else y
    return (y + per_channel[-1] if bias else y), m, v


def _channel_norm_vjp(node: Node, g: Value | None, g_mean: Value | None, g_var: Value | None) -> list[Value | None]:
    x, (_, m, v) = node.inputs[0], node.outputs
    shape = _grouped(x, node.attrs["groups"])
    axes = _stat_axes(node.attrs["batch"])
    share = 1 / max(math.prod(shape[a] for a in axes), 1)
    centred = sub(call("reshape", wide(x), shape), m)
    affine: list[Value | None] = [None] * (len(node.inputs) - 1)
    parts: list[Value] = []
    if g is not None:
        rows = call("reshape", wide(g), shape)
        r = rsqrt(add(v, node.attrs["eps"]))
        xh = mul(centred, r)
        sums = [sum(rows, 3, keepdims=True), sum(mul(rows, xh), 3, keepdims=True)]
        weight, _ = _affine(node, rows.dtype)
        first, second = (mul(sum(s if weight is None else mul(s, weight), axes, keepdims=True), share) for s in sums)
        h = rows if weight is None else mul(rows, weight)
        parts.append(mul(sub(sub(h, first), mul(xh, second)), r))
        wanted = [s for s, there in ((sums[1], weight is not None), (sums[0], node.attrs["bias"])) if there]
        affine = [
            call("cast", call("reshape", sum(s, 0), a.shape), a.dtype)
            for s, a in zip(wanted, node.inputs[1:], strict=True)
        ]
    if g_mean is not None:
        parts.append(call("broadcast_to", mul(g_mean, share), shape))
    if g_var is not None:
        parts.append(mul(centred, mul(g_var, 2 * share)))
    total = parts[0]
    for part in parts[1:]:
        total = add(total, part)
    return [call("cast", call("reshape", total, x.shape), x.dtype), *affine]


def _channel_norm(
    x: Value, groups: int, weight: Operand | None, bias: Operand | None, eps: float, batch: bool = False
) -> tuple[Value, ...]:
    """(y, mean, variance), the statistics [N or 1, groups, 1, 1] in the compute type."""
    inputs = [x, *(as_value(v) for v in (weight, bias) if v is not None)]
    attrs = {"weight": weight is not None, "bias": bias is not None}
    return make("channel_norm", inputs, groups=groups, batch=batch, eps=float(eps), **attrs).outputs


def _check(x: Value, *affine: Operand | None) -> None:
    if x.ndim < 2:
        raise ShapeError(f"x must be [N, C, ...], got {x.shape}")
    if not x.dtype.is_float:
        raise DTypeError(f"needs a floating tensor, got {x.dtype}")
    for name, v in zip(("weight", "bias"), affine, strict=True):
        if v is not None and as_value(v).shape != (x.shape[1],):
            raise ShapeError(f"{name} must have shape ({x.shape[1]},), got {as_value(v).shape}")
        if v is not None and not as_value(v).dtype.is_float:
            raise DTypeError(f"{name} must be floating, got {as_value(v).dtype}")


@define(
    "channel_norm",
    infer=_channel_norm_type,
    lowering=Composite(_channel_norm_build),
    ref=_channel_norm_ref,
    vjp=_channel_norm_vjp,
    samples=samples(
        Sample((randn(2, 6, 3, 2), 3, randn(6, seed=1), randn(6, seed=2))),
        Sample((randn(2, 4, 5), 1, randn(4, seed=1)), {"eps": 0.1}),
        Sample((randn(2, 4, 5), 4), {"bias": randn(4, seed=2)}),
        Sample((randn(3, 6), 2)),
        Sample((randn(1, 2, 1030 * 4), 1, randn(2, seed=1), randn(2, seed=2))),
    ),
)
def group_norm(
    x: Operand, num_groups: int, weight: Operand | None = None, bias: Operand | None = None, eps: float = 1e-5
) -> Value:
    """(x - mean) / sqrt(var + eps) * weight + bias, statistics over each sample's groups of C / num_groups channels.

    x: [N, C, ...]; weight, bias: [C], of any floating dtype; the result has x's dtype. Wu and He 2018.
    """
    x = as_value(x)
    _check(x, weight, bias)
    if num_groups < 1 or x.shape[1] % num_groups:
        raise ArgumentError(f"num_groups {num_groups} does not divide the {x.shape[1]} channels of x {x.shape}")
    return _channel_norm(x, num_groups, weight, bias, eps)[0]


# ---- running statistics ----------------------------------------------------------------------------------------


def _running(old: Operand | None, new: Value, momentum: float) -> Value | None:
    """(1 - momentum) old + momentum new, in old's dtype; new: [..., C, 1, 1], averaged over what comes before C."""
    if old is None:
        return None
    old = as_value(old)
    channels = new.shape[1]
    if old.shape != (channels,) or not old.dtype.is_float:
        raise ShapeError(f"running statistics must be floating and have shape ({channels},), got {old.type}")
    batch = call("reshape", mean(call("stop_gradient", new), 0), (channels,))
    return call("cast", add(mul(wide(old), 1 - momentum), mul(batch, momentum)), old.dtype)


def _with_running(x: Value, running_mean: Operand, running_var: Operand, eps: float) -> Value:
    """(x - running_mean) / sqrt(running_var + eps), in the compute type."""
    shape = (x.shape[1],) + (1,) * (x.ndim - 2)
    for name, statistic in (("running_mean", running_mean), ("running_var", running_var)):
        if as_value(statistic).shape != (x.shape[1],):
            raise ShapeError(f"{name} must have shape ({x.shape[1]},), got {as_value(statistic).shape}")
    m, v = (call("reshape", call("cast", as_value(s), x.dtype.compute), shape) for s in (running_mean, running_var))
    return mul(sub(wide(x), m), rsqrt(add(v, eps)))


def _scaled(xh: Value, weight: Operand | None, bias: Operand | None, x: Value) -> Value:
    shape = (x.shape[1],) + (1,) * (x.ndim - 2)
    y = xh if weight is None else mul(xh, call("reshape", call("cast", as_value(weight), xh.dtype), shape))
    y = y if bias is None else add(y, call("reshape", call("cast", as_value(bias), xh.dtype), shape))
    return call("cast", y, x.dtype)


def _normalised(
    x: Operand,
    running: tuple[Operand | None, Operand | None],
    affine: tuple[Operand | None, Operand | None],
    from_input: bool,
    momentum: float,
    eps: float,
    batch: bool,
) -> tuple[Value, Value | None, Value | None]:
    """The result and the new running statistics. batch: one group of statistics for all samples."""
    x = as_value(x)
    _check(x, *affine)
    if not 0 <= momentum <= 1:
        raise ArgumentError(f"momentum must lie in [0, 1], got {momentum}")
    if not from_input:
        if running[0] is None or running[1] is None:
            raise ArgumentError("needs running_mean and running_var unless statistics come from the input")
        old = as_value(running[0]), as_value(running[1])
        return _scaled(_with_running(x, *old, eps), *affine, x), *old
    count = math.prod(x.shape[2:]) * (x.shape[0] if batch else 1)
    if count == 1:
        raise ShapeError(f"a channel of x {x.shape} has one value: its variance says nothing")
    y, m, v = _channel_norm(x, x.shape[1], *affine, eps, batch)
    unbiased = mul(v, count / max(count - 1, 1))
    return y, _running(running[0], m, momentum), _running(running[1], unbiased, momentum)


_statistics_samples: tuple[np.ndarray, ...] = (randn(3, seed=1), randn(3, seed=2, low=0.5, high=2))
_affine_samples: tuple[np.ndarray, ...] = (randn(3, seed=3), randn(3, seed=4))


@composed(
    samples=samples(
        Sample((randn(4, 3, 2, 2), None, None, *_affine_samples, True)),
        Sample((randn(5, 3), None, None), {"training": True, "eps": 0.1}),
        Sample((randn(2, 3, 5), *_statistics_samples, *_affine_samples)),
        Sample((randn(2, 3, 5), *_statistics_samples), {"training": True}, grad=(0,)),
    )
)
def batch_norm(
    x: Operand,
    running_mean: Operand | None,
    running_var: Operand | None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """(x - mean) / sqrt(var + eps) * weight + bias per channel, over all samples. Ioffe and Szegedy 2015.

    x: [N, C, ...]; weight, bias, running_mean, running_var: [C]. training: statistics are those of x; otherwise the
    running ones. Nothing is changed: `batch_norm_with_stats` also gives the new running statistics.
    """
    return _normalised(x, (running_mean, running_var), (weight, bias), training, momentum, eps, True)[0]


@composed(
    samples=samples(
        Sample((randn(4, 3, 2, 2), *_statistics_samples, *_affine_samples), grad=()),
        Sample((randn(5, 3), *_statistics_samples), {"momentum": 0.3}, grad=()),
    )
)
def batch_norm_with_stats(
    x: Operand,
    running_mean: Operand,
    running_var: Operand,
    weight: Operand | None = None,
    bias: Operand | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Value, Value, Value]:
    """(batch_norm in training, new running_mean, new running_var): what `updates=` of a program takes.

    New statistics: (1 - momentum) old + momentum of x's own, its variance divided by count - 1. They carry no
    gradient to x.
    """
    y, m, v = _normalised(x, (running_mean, running_var), (weight, bias), True, momentum, eps, True)
    assert m is not None and v is not None
    return y, m, v


@composed(
    samples=samples(
        Sample((randn(2, 3, 5),), {"weight": _affine_samples[0], "bias": _affine_samples[1]}),
        Sample((randn(2, 3, 2, 2),), {"eps": 0.1}),
        Sample((randn(2, 3, 5), *_statistics_samples, *_affine_samples, False)),
    )
)
def instance_norm(
    x: Operand,
    running_mean: Operand | None = None,
    running_var: Operand | None = None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """(x - mean) / sqrt(var + eps) * weight + bias, statistics over each channel of each sample. Ulyanov et al. 2016.

    x: [N, C, ...], more than one element a channel; weight, bias, running_mean, running_var: [C]. use_input_stats:
    False takes the running statistics; `instance_norm_with_stats` also gives the new ones.
    """
    return _normalised(x, (running_mean, running_var), (weight, bias), use_input_stats, momentum, eps, False)[0]


@composed(samples=samples(Sample((randn(4, 3, 2, 2), *_statistics_samples, *_affine_samples), grad=())))
def instance_norm_with_stats(
    x: Operand,
    running_mean: Operand,
    running_var: Operand,
    weight: Operand | None = None,
    bias: Operand | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Value, Value, Value]:
    """(instance_norm, new running_mean, new running_var): statistics of x averaged over its samples."""
    y, m, v = _normalised(x, (running_mean, running_var), (weight, bias), True, momentum, eps, False)
    assert m is not None and v is not None
    return y, m, v
