"""What torch calls our functions, for test_ops_reference.py, which reads every torch_*.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


def renamed(function: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's keyword names to torch's."""

    def call(*args: Any, axis: Any = ..., keepdims: bool | None = None, **kwargs: Any) -> Any:
        if axis is not ...:
            kwargs["dim"] = axis
        if keepdims is not None:
            kwargs["keepdim"] = keepdims
        return function(*args, **kwargs)

    return call


def over_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    """A torch reduction of one axis at most, over several: they are moved to the end and flattened."""

    def call(x: torch.Tensor, axis: Any = None, keepdims: bool = False) -> torch.Tensor:
        axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else list(axis)
        axes = sorted(a % x.ndim for a in axes)
        rest = [a for a in range(x.ndim) if a not in axes]
        flat = x.permute((*rest, *axes)).reshape(*(x.shape[a] for a in rest), -1)
        shape = [1 if a in axes else d for a, d in enumerate(x.shape)] if keepdims else [x.shape[a] for a in rest]
        found = function(flat, dim=-1)
        return (found if isinstance(found, torch.Tensor) else found[0]).reshape(shape)

    return call


def along(function: Callable[..., Any]) -> Callable[..., Any]:
    """softmax and its kin: torch wants a dim."""
    return lambda x, axis=-1: function(x, dim=axis)


def positional(name: str) -> Callable[..., Any]:
    """torch's ops take tensors, ours numbers as well."""
    function = getattr(torch, name)
    return lambda *args: function(*(torch.as_tensor(a, dtype=torch.float64) if is_number(a) else a for a in args))


def is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def spread(name: str) -> Callable[..., Any]:
    def call(x: torch.Tensor, axis: Any = None, correction: float = 0, keepdims: bool = False) -> torch.Tensor:
        return getattr(torch, name)(x, dim=axis, correction=correction, keepdim=keepdims)

    return call


def padded(x: torch.Tensor, widths: Any, value: float = 0.0, mode: str = "constant") -> torch.Tensor:
    if isinstance(widths[0], int):
        pairs = list(zip(widths[-2::-2], widths[::-2], strict=True))
        widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        return F.pad(x, [n for pair in reversed(widths) for n in pair], value=value)
    crop = tuple(slice(max(-b, 0), d + min(a, 0)) for d, (b, a) in zip(x.shape, widths, strict=True))
    numpy = {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    return torch.from_numpy(np.pad(x.numpy()[crop], np.maximum(widths, 0), numpy))


def sliced(x: torch.Tensor, starts: Any, sizes: Any, steps: Any = None) -> torch.Tensor:
    steps = steps or [1] * x.ndim
    for axis, (b, n, k) in enumerate(zip(starts, sizes, steps, strict=True)):
        x = x.index_select(axis, torch.tensor([b + k * i for i in range(n)], dtype=torch.long))
    return x


def taken(x: torch.Tensor, indices: torch.Tensor, axis: int | None = 0, mode: str = "fill") -> torch.Tensor:
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis % x.ndim)
    indices = indices.clamp(0, x.shape[axis] - 1) if mode == "clip" else indices % x.shape[axis]
    found = x.index_select(axis, indices.reshape(-1))
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def wrapped(index: torch.Tensor, x: torch.Tensor, dim: int) -> torch.Tensor:
    return index % (x.shape[dim] if x.ndim else 1)


def scattered(index: torch.Tensor, values: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.zeros(rows, values.shape[1], dtype=values.dtype).index_add(0, index % rows, values)


def in_range_rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    there = (index >= -len(table)) & (index < len(table))
    rows = table[torch.where(there, index, 0)]
    return torch.where(there[:, None], rows, math.nan if table.is_floating_point() else 0)


def rounded(x: torch.Tensor, decimals: int = 0) -> torch.Tensor:
    return x.round(decimals=decimals)


def flipped(x: torch.Tensor, axis: Any = None) -> torch.Tensor:
    return x.flip(tuple(range(x.ndim)) if axis is None else axis)


def shaped(function: Callable[..., Any]) -> Callable[..., Any]:
    """layer_norm and rms_norm: torch wants a tuple."""
    return lambda x, shape, *a, **k: function(x, (shape,) if isinstance(shape, int) else shape, *a, **k)


def indexed(x: torch.Tensor, key: Any) -> torch.Tensor:
    """NumPy's rule, which differs from torch's for an int beside an array."""
    keys = key if isinstance(key, tuple) else (key,)
    return torch.from_numpy(x.numpy()[tuple(k.numpy() if isinstance(k, torch.Tensor) else k for k in keys)].copy())


def repeated(x: torch.Tensor, repeats: Any, axis: int | None = None) -> torch.Tensor:
    counts = repeats if isinstance(repeats, int) else torch.tensor(repeats)
    return torch.repeat_interleave(x, counts, dim=axis)


def hot(indices: torch.Tensor, num_classes: int, dtype: str = "int64") -> torch.Tensor:
    return (indices[..., None] == torch.arange(num_classes)).to(getattr(torch, dtype))


def filled(value: Any) -> Callable[..., Any]:
    """zeros and ones: float32 by default."""
    return lambda shape, dtype="float32": torch.full(shape, value, dtype=getattr(torch, dtype))


def cast(x: Any, dtype: str) -> Any:
    found = x.to(getattr(torch, dtype))
    return found.double() if "float8" in dtype else found  # which NumPy does not have


def full(shape: Any, value: Any, dtype: str | None = None) -> torch.Tensor:
    return torch.full(shape, value, dtype=None if dtype is None else getattr(torch, dtype))


def expanded(x: torch.Tensor, axis: Any) -> torch.Tensor:
    return torch.from_numpy(np.expand_dims(x.numpy(), axis))


def whole_clamp(x: torch.Tensor, low: Any = None, high: Any = None) -> torch.Tensor:
    return torch.clamp(x, low, high)


def multiplied(x: torch.Tensor, axis: Any = None, keepdims: bool = False) -> torch.Tensor:
    return over_axes(torch.prod)(x, axis, keepdims)


def named(names: str, space: Any, wrap: Callable[[Any], Callable[..., Any]] = lambda f: f) -> dict[str, Any]:
    return {name: wrap(getattr(space, name)) for name in names.split()}


TORCH: dict[str, Callable[..., Any]] = {
    **named("abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 floor log log10", torch),
    **named("log1p log2 neg reciprocal rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc", torch),
    **named("isnan isinf isfinite logical_not logical_and logical_or logical_xor nan_to_num masked_fill", torch),
    **named("where narrow flatten swapaxes arange full_like zeros_like ones_like index_select scatter_add tril", torch),
    **named("triu matmul", torch),
    **named("unbind stack concat split chunk squeeze argmax argmin", torch, renamed),
    **{n: positional(n) for n in "add sub mul floor_divide remainder pow maximum minimum atan2".split()},
    **{n: positional(n) for n in "less less_equal greater greater_equal not_equal clamp_min clamp_max".split()},
    **named("relu leaky_relu prelu elu hardswish softplus logsigmoid silu mish gelu linear", F),
    **named("mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy_with_logits nll_loss", F),
    **named("cross_entropy embedding", F),
    **named("sum mean amax amin any all logsumexp", torch, over_axes),
    **named("softmax log_softmax", torch, along),
    **named("glu softmin", F, along),
    **named("layer_norm rms_norm", F, shaped),
    "broadcast_to": torch.broadcast_to,
    "cast": cast,
    "clamp": whole_clamp,
    "div": lambda x, y, rounding_mode=None: torch.div(x, y, rounding_mode=rounding_mode),
    "equal": positional("eq"),
    "expand_dims": expanded,
    "flip": flipped,
    "full": full,
    "gather": lambda x, dim, index: x.gather(dim, wrapped(index, x, dim)),
    "gather_rows": in_range_rows,
    "getitem": indexed,
    "max": over_axes(torch.amax),
    "min": over_axes(torch.amin),
    "norm": lambda x, p=2, axis=None, keepdims=False: torch.linalg.vector_norm(x, p, axis, keepdims),
    "one_hot": hot,
    "ones": filled(1),
    "pad": padded,
    "prod": multiplied,
    "repeat": repeated,
    "reshape": lambda x, shape: x.reshape(shape),
    "roll": lambda x, shift, axis=None: x.roll(shift, axis),
    "round": rounded,
    "scatter_add_rows": scattered,
    "slice": sliced,
    "std": spread("std"),
    "stop_gradient": torch.Tensor.detach,
    "take": taken,
    "tile": lambda x, reps: x.tile(reps if isinstance(reps, tuple) else (reps,)),
    "transpose": lambda x, axes=None: x.permute(*(axes or reversed(range(x.ndim)))),
    "var": spread("var"),
    "zeros": filled(0),
}
del TORCH["amax"], TORCH["amin"]  # other names of max and min

WITHOUT_TWIN = {
    "bernoulli": "a draw: see test_philox",
    "dropout": "a draw: see test_philox",
    "foreach": "torch has no op that takes a body; its own tests compare it with the ops it stands for",
    "foreach_sum": "as foreach",
    "normal": "a draw: see test_philox",
    "randint": "a draw: see test_philox",
    "uniform": "a draw: see test_philox",
}
