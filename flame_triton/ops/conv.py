"""torch's convolutions: channels first, around the channels-last ops of convolution.py.

A transposed convolution is a convolution's gradient in its input. The transposes are views; the bias is an ordinary
sum, which becomes part of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from .convolution import Pads, Sizes, convolution, convolution_dgrad, output_size
from .define import Operand, as_value, composed, randn, samples

__all__ = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]

# ---- arguments -------------------------------------------------------------------------------------------------


def _sizes(value: int | Sequence[int], rank: int, name: str, least: int) -> Sizes:
    """An int, or one for each spatial axis, none below `least`."""
    given = list(value) if isinstance(value, list | tuple) else [value]
    sizes = [int(v) for v in given if isinstance(v, int | np.integer) and not isinstance(v, bool)]
    if len(sizes) != len(given):
        raise ArgumentError(f"{name} must be an int or a tuple of {rank}, got {value!r}")
    if len(sizes) not in (1, rank):
        raise ArgumentError(f"{name} must be an int or a tuple of {rank}, got {len(sizes)} numbers")
    if any(v < least for v in sizes):
        raise ArgumentError(f"{name} must be at least {least}, got {value!r}")
    return tuple(sizes) * (rank // len(sizes))


def _padding(padding: str | int | Sequence[int], kernel: Sizes, stride: Sizes, dilation: Sizes) -> Pads:
    """(before, after) along each axis; an odd total of "same" has the larger half behind, as in torch."""
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ArgumentError(f'padding="same" needs stride 1, got {stride}')
        total = [d * (r - 1) for r, d in zip(kernel, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(padding, str):
        raise ArgumentError(f'padding must be "valid", "same" or sizes, got {padding!r}')
    return tuple((p, p) for p in _sizes(padding, len(kernel), "padding", 0))


def _operands(input: Operand, weight: Operand, bias: Operand | None, rank: int) -> tuple[Value, Value, Value | None]:
    """The operands as Values of one floating dtype; an input without a batch axis gets one of size 1."""
    x, w = as_value(input), as_value(weight)
    b = None if bias is None else as_value(bias)
    if w.ndim != rank + 2:
        raise ShapeError(f"weight must have {rank + 2} axes, got {w.shape}")
    if x.ndim not in (rank + 1, rank + 2):
        raise ShapeError(f"input must be [n, channels, *{rank} sizes], or without n, got {x.shape}")
    for name, v in (("input", x), ("weight", w), ("bias", b)):
        if v is not None and (not v.dtype.is_float or v.dtype is not x.dtype):
            raise DTypeError(f"{name} is {v.dtype}; input {x.dtype} and all others must have one floating dtype")
    return call("expand_dims", x, 0) if x.ndim == rank + 1 else x, w, b


def _groups(groups: int, x: Value, w: Value, channels: int, kernels: int) -> None:
    """channels: how many the input must have; kernels: what the groups must divide."""
    if kernels % groups:
        raise ShapeError(f"groups={groups} does not divide the {kernels} channels of weight {w.shape}")
    if x.shape[1] != channels:
        raise ShapeError(f"input {x.shape} must have {channels} channels for weight {w.shape} and groups={groups}")


def _last(x: Value) -> Value:
    """Channels, or a weight's second axis, behind the spatial axes."""
    return call("transpose", x, (0, *range(2, x.ndim), 1))


def _finish(y: Value, bias: Value | None, input: Operand) -> Value:
    """The bias added, channels second, and the batch axis dropped if the input had none."""
    if bias is not None:
        if bias.shape != y.shape[-1:]:
            raise ShapeError(f"bias must be [{y.shape[-1]}], got {bias.shape}")
        y = call("add", y, bias)
    y = call("transpose", y, (0, y.ndim - 1, *range(1, y.ndim - 1)))
    return y if as_value(input).ndim == y.ndim else call("reshape", y, y.shape[1:])


def _conv(
    rank: int, input: Operand, weight: Operand, bias: Operand | None, stride: int | Sequence[int],
    padding: str | int | Sequence[int], dilation: int | Sequence[int], groups: int,
) -> Value:  # fmt: skip
    x, w, b = _operands(input, weight, bias, rank)
    (groups,) = _sizes(groups, 1, "groups", 1)
    strides, spread = _sizes(stride, rank, "stride", 1), _sizes(dilation, rank, "dilation", 1)
    pads = _padding(padding, w.shape[2:], strides, spread)
    _groups(groups, x, w, w.shape[1] * groups, w.shape[0])
    output_size(x.shape[2:], w.shape[2:], strides, pads, spread)
    return _finish(convolution(_last(x), _last(w), strides, pads, spread, groups), b, input)


def _conv_transpose(
    rank: int, input: Operand, weight: Operand, bias: Operand | None, stride: int | Sequence[int],
    padding: int | Sequence[int], output_padding: int | Sequence[int], groups: int, dilation: int | Sequence[int],
) -> Value:  # fmt: skip
    x, w, b = _operands(input, weight, bias, rank)
    (groups,) = _sizes(groups, 1, "groups", 1)
    strides, spread = _sizes(stride, rank, "stride", 1), _sizes(dilation, rank, "dilation", 1)
    pads = _sizes(padding, rank, "padding", 0)
    extra = _sizes(output_padding, rank, "output_padding", 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, spread, strict=True)):
        raise ArgumentError(f"output_padding {extra} must be smaller than stride {strides} or dilation {spread}")
    _groups(groups, x, w, w.shape[0], w.shape[0])
    size = tuple(
        (n - 1) * s - 2 * p + d * (r - 1) + 1 + e
        for n, s, p, d, r, e in zip(x.shape[2:], strides, pads, spread, w.shape[2:], extra, strict=True)
    )
    if any(n < 1 for n in size):
        raise ShapeError(f"input {x.shape} with weight {w.shape} and padding {pads} gives an output of sizes {size}")
    # The convolution whose gradient this is ends where output_padding begins.
    sides = tuple((p, p - e) for p, e in zip(pads, extra, strict=True))
    return _finish(convolution_dgrad(_last(x), _last(w), size, strides, sides, spread, groups), b, input)


# ---- the functions ---------------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((randn(2, 3, 9), randn(4, 3, 3, seed=1), randn(4)), {"padding": 1, "dilation": 2}),
        Sample((randn(2, 4, 8), randn(6, 2, 4, seed=1)), {"padding": "same", "groups": 2}),
        Sample((randn(3, 7), randn(2, 3, 7, seed=1), randn(2))),
        Sample((randn(0, 3, 5), randn(2, 3, 2, seed=1)), grad=()),
    )
)
def conv1d(
    input: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    """input [n, c, l] (n optional), weight [k, c / groups, r], bias [k] -> [n, k, out], as torch's conv1d.

    out = (l + 2 padding - dilation (r - 1) - 1) // stride + 1; padding: sizes, "valid" (none) or "same" (out = l, for
    stride 1). One floating dtype; accumulated in float32 (float64 for float64).
    Raises ShapeError, DTypeError, ArgumentError.
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


@composed(
    samples=samples(
        Sample((randn(2, 3, 6, 5), randn(4, 3, 3, 3, seed=1), randn(4)), {"padding": 1}),
        Sample((randn(1, 4, 7, 6), randn(6, 2, 3, 2, seed=1)), {"stride": (2, 1), "padding": (1, 0), "groups": 2}),
        Sample((randn(1, 3, 7, 6), randn(6, 1, 3, 3, seed=1), randn(6)), {"stride": 2, "padding": 2, "groups": 3}),
        Sample((randn(2, 5, 3, 4), randn(3, 5, 1, 1, seed=1), randn(3))),
        Sample((randn(3, 6, 7), randn(2, 3, 2, 4, seed=1)), {"padding": "same", "dilation": (2, 1)}),
        Sample((randn(2, 2, 8, 5), randn(3, 2, 2, 1, seed=1)), {"stride": 3, "dilation": (3, 2)}),
    )
)
def conv2d(
    input: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    """input [n, c, h, w] (n optional), weight [k, c / groups, r, s], bias [k] -> [n, k, *out], as torch's conv2d.

    Sizes, padding, dtypes and errors as for conv1d, along each axis.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


@composed(
    samples=samples(
        Sample((randn(1, 2, 4, 5, 3), randn(3, 2, 2, 3, 3, seed=1), randn(3)), {"stride": (2, 1, 1), "padding": 1}),
        Sample((randn(1, 2, 4, 3, 4), randn(4, 1, 2, 2, 2, seed=1)), {"groups": 2, "padding": "same"}),
    )
)
def conv3d(
    input: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    """input [n, c, d, h, w] (n optional), weight [k, c / groups, q, r, s], bias [k] -> [n, k, *out], as torch's conv3d.

    Sizes, padding, dtypes and errors as for conv1d, along each axis.
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


@composed(
    samples=samples(
        Sample((randn(2, 4, 5), randn(4, 3, 3, seed=1), randn(3)), {"stride": 2, "padding": 1, "output_padding": 1}),
        Sample((randn(4, 6), randn(4, 2, 2, seed=1)), {"groups": 2, "dilation": 3, "output_padding": 2}),
    )
)
def conv_transpose1d(
    input: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Value:
    """input [n, c, l] (n optional), weight [c, k / groups, r], bias [k] -> [n, k, out], as torch's conv_transpose1d.

    out = (l - 1) stride - 2 padding + dilation (r - 1) + output_padding + 1: the gradient of conv1d in its input, which
    is the smaller of sizes that conv1d maps to l unless output_padding adds to it. dtypes and errors as for conv1d.
    """
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@composed(
    samples=samples(
        Sample((randn(2, 3, 3, 4), randn(3, 4, 3, 3, seed=1), randn(4)), {"stride": 2, "padding": 1}),
        Sample(
            (randn(1, 4, 3, 2), randn(4, 3, 2, 3, seed=1)),
            {"stride": (2, 3), "groups": 2, "output_padding": (1, 0), "dilation": (1, 2)},
        ),
        Sample((randn(4, 3, 3), randn(4, 1, 4, 4, seed=1), randn(4)), {"stride": 2, "padding": 1, "groups": 4}),
        Sample((randn(1, 2, 3, 3), randn(2, 2, 1, 1, seed=1)), {"stride": 2}),
    )
)
def conv_transpose2d(
    input: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Value:
    """input [n, c, h, w] (n optional), weight [c, k / groups, r, s], bias [k] -> [n, k, *out].

    As torch's conv_transpose2d; sizes, dtypes and errors as for conv_transpose1d, along each axis.
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


@composed(
    samples=samples(
        Sample((randn(1, 2, 2, 3, 2), randn(2, 3, 2, 3, 2, seed=1), randn(3)), {"stride": (2, 1, 2), "padding": 1}),
        Sample((randn(1, 2, 2, 2, 3), randn(2, 1, 1, 2, 2, seed=1)), {"groups": 2}),
    )
)
def conv_transpose3d(
    input: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Value:
    """input [n, c, d, h, w] (n optional), weight [c, k / groups, q, r, s], bias [k] -> [n, k, *out].

    As torch's conv_transpose3d; sizes, dtypes and errors as for conv_transpose1d, along each axis.
    """
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)
