"""What torch calls the mathematics beside the core: matrices, special functions, statistics, views."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch_core import named, over_axes, positional, renamed


def two_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Diagonals: torch calls the axes dim1 and dim2."""

    def call(x: torch.Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1) -> torch.Tensor:
        return function(x, offset, axis1, axis2)

    return call


def by_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    """What torch lacks, from NumPy."""

    def call(*args: Any, **kwargs: Any) -> Any:
        args = tuple(a.numpy() if isinstance(a, torch.Tensor) else a for a in args)
        return function(*args, **kwargs)

    return call


def embedded(x: torch.Tensor, offset: int = 0, axis1: int = -2, axis2: int = -1) -> torch.Tensor:
    return torch.diag_embed(x, offset, axis1, axis2)


def traced(x: torch.Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1) -> torch.Tensor:
    return torch.diagonal(x, offset, axis1, axis2).sum(-1)


def paired(x: torch.Tensor, y: torch.Tensor, axes: Any = 2) -> torch.Tensor:
    return torch.tensordot(x, y, axes)


def pattern(function: Callable[..., Any]) -> Callable[..., Any]:
    """eye and tri: float32 by default; NumPy's offset is called k."""

    def call(n: int, m: int | None = None, offset: int = 0, dtype: str = "float32") -> np.ndarray:
        return function(n, m, offset, dtype)

    return call


def triangle(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(row: int, col: int, offset: int = 0, dtype: str = "int64") -> torch.Tensor:
        return function(row, col, offset, dtype=getattr(torch, dtype))

    return call


def grid(*xs: torch.Tensor, indexing: str = "xy") -> Any:
    return torch.meshgrid(*xs, indexing=indexing)


def vector_norm(x: torch.Tensor, ord: float = 2, axis: Any = None, keepdims: bool = False) -> torch.Tensor:
    return torch.linalg.vector_norm(x, ord, axis, keepdims)


def matrix_norm(x: torch.Tensor, ord: Any = "fro", axis: Any = (-2, -1), keepdims: bool = False) -> torch.Tensor:
    return torch.linalg.matrix_norm(x, ord, axis, keepdims)


def powers(x: torch.Tensor, N: int | None = None, increasing: bool = False) -> torch.Tensor:
    found = torch.linalg.vander(x, N=N)
    return found if increasing else found.flip(-1)


MATRICES: dict[str, Callable[..., Any]] = {
    **named("einsum cartesian_prod diag diagflat addbmm addmm addmv addr baddbmm chain_matmul", torch),
    **named("kron mv outer bmm mm dist cdist dot block_diag", torch),
    **named("cross", torch.linalg, renamed),
    **named("matrix_power multi_dot", torch.linalg),
    **named("bilinear cosine_similarity pairwise_distance", F),
    "diagonal": two_axes(torch.diagonal),
    "diag_embed": embedded,
    "eye": pattern(np.eye),
    "inner": lambda x, y: torch.inner(x, torch.as_tensor(y, dtype=x.dtype)),
    "indices": lambda shape, dtype="int64": np.indices(shape, dtype),
    "matrix_norm": matrix_norm,
    "matrix_transpose": lambda x: x.mT,
    "meshgrid": grid,
    "tensordot": paired,
    "trace": traced,
    "tri": pattern(np.tri),
    "tril_indices": triangle(torch.tril_indices),
    "triu_indices": triangle(torch.triu_indices),
    "vander": powers,
    "vecdot": lambda x, y, axis=-1: (x * y).sum(axis),
    "vector_norm": vector_norm,
}


def spaced(function: Callable[..., Any]) -> Callable[..., Any]:
    """linspace and its kin: whatever the dtype, the oracle computes in float64."""
    return lambda *args, dtype="float32", **kwargs: function(*args, **kwargs)


SHAPES: dict[str, Callable[..., Any]] = {
    **named("unsqueeze t select ravel unflatten atleast_1d atleast_2d atleast_3d broadcast_tensors", torch),
    **named("fliplr flipud rot90 clone positive hstack vstack dstack column_stack hsplit vsplit dsplit", torch),
    **named("moveaxis", torch),
    **named("split_with_sizes tensor_split", torch, renamed),
    **named("reshape_as expand_as", torch.Tensor),
    **named("linspace logspace geomspace", np, spaced),
}


def spread_lerp(start: torch.Tensor, end: torch.Tensor, weight: Any) -> torch.Tensor:
    return torch.lerp(*torch.broadcast_tensors(start, end), weight)


def opposite(x: torch.Tensor, y: Any, alpha: float = 1) -> torch.Tensor:
    return y - alpha * x


NUMERIC: dict[str, Callable[..., Any]] = {
    **named("signbit frac float_power sinc addcmul addcdiv isposinf isneginf isreal", torch),
    **named("logit isclose bitwise_and bitwise_or bitwise_xor bitwise_not", torch),
    **named("bitwise_left_shift bitwise_right_shift", torch),
    **named("entr", torch.special),
    **{n: positional(n) for n in "copysign heaviside fmax fmin hypot logaddexp logaddexp2 xlogy fmod".split()},
    "deg2rad": lambda x: torch.deg2rad(x.double()),
    "rad2deg": lambda x: torch.rad2deg(x.double()),
    "ldexp": lambda x, n: x * 2.0 ** torch.as_tensor(n, dtype=torch.float64),
    "allclose": lambda x, y, **k: torch.tensor(bool(torch.isclose(x, y, **k).all())),
    "gcd": by_numpy(np.gcd),
    "lcm": by_numpy(np.lcm),
    "lerp": spread_lerp,
    "rint": torch.round,
    "rsub": opposite,
    "xlog1py": lambda x, y: torch.special.xlog1py(x, y),
}


def both(first: Callable[..., Any], second: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: (first(*args, **kwargs), second(*args, **kwargs))


def mean_and(name: str) -> Callable[..., Any]:
    """var_mean and std_mean: torch's correction is 1."""

    def call(x: torch.Tensor, axis: Any = None, correction: float = 0, keepdims: bool = False) -> Any:
        return getattr(torch, name)(x, dim=axis, correction=correction, keepdim=keepdims)

    return call


def counted(x: torch.Tensor, axis: Any = None, keepdims: bool = False) -> np.ndarray:
    return np.asarray(np.count_nonzero(x.numpy(), axis=axis, keepdims=keepdims))


def averaged(x: torch.Tensor, axis: Any = None, weights: Any = None, keepdims: bool = False) -> np.ndarray:
    return np.average(x.numpy(), axis, None if weights is None else weights.numpy(), keepdims=keepdims)


def integrated(y: torch.Tensor, x: Any = None, dx: float = 1.0, axis: int = -1) -> torch.Tensor:
    return torch.trapezoid(y, dx=dx, dim=axis) if x is None else torch.trapezoid(y, x, dim=axis)


def slopes(x: torch.Tensor, spacing: Any = 1.0, axis: Any = None, edge_order: int = 1) -> Any:
    steps = [
        g.numpy() if isinstance(g, torch.Tensor) else g for g in (spacing if isinstance(spacing, list) else [spacing])
    ]
    return np.gradient(x.numpy(), *steps, axis=axis, edge_order=edge_order)


STATISTICS: dict[str, Callable[..., Any]] = {
    **named("nansum nanmean", torch, over_axes),
    **named("cov corrcoef", torch),
    **named("diff", torch, renamed),
    **named("nanmax nanmin", np, by_numpy),
    "aminmax": both(over_axes(torch.amin), over_axes(torch.amax)),
    "average": averaged,
    "count_nonzero": counted,
    "gradient": slopes,
    "ptp": by_numpy(np.ptp),
    "std_mean": mean_and("std_mean"),
    "trapezoid": integrated,
    "var_mean": mean_and("var_mean"),
}


def derived(n: int, x: torch.Tensor) -> torch.Tensor:
    """polygamma by Hurwitz' zeta: torch's own for n = 1 has an error of 5e-10."""
    zeta = torch.special.zeta(torch.tensor(n + 1.0, dtype=x.dtype), x)
    return torch.digamma(x) if n == 0 else (-1.0) ** (n + 1) * math.factorial(n) * zeta


SPECIAL: dict[str, Callable[..., Any]] = {
    **named("lgamma digamma mvlgamma erfinv i0", torch),
    "polygamma": derived,
    **named("erfcx ndtr log_ndtr ndtri i0e i1 i1e", torch.special),
}

TORCH: dict[str, Callable[..., Any]] = {**MATRICES, **SHAPES, **NUMERIC, **STATISTICS, **SPECIAL}

WITHOUT_TWIN: dict[str, str] = {}
