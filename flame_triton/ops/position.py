"""Where tokens and time steps are: rotary embeddings and sinusoidal features.

A rotary embedding turns each pair of channels by an angle, position * frequency: (a, b) -> (a c - b s, b c + a s).
Written as x c + swapped(x) s with the sign in s, it is views and pointwise work: it joins the kernel before or after
it, and its gradient, the turn by the opposite angle, does too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import float32, float64
from .arithmetic import add, mul, sub
from .define import Operand, as_value, composed, randn, samples, wide

__all__ = ["apply_rotary_emb", "rope_tables", "timestep_embedding"]

# ---- rotary ----------------------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((randn(2, 3, 6), randn(3, 3, seed=1), randn(3, 3, seed=2))),
        Sample((randn(2, 2, 3, 4), randn(3, 2, seed=1), randn(3, 2, seed=2)), {"interleaved": False}),
        Sample((randn(2, 2, 3, 2), randn(2, 1, 3, 1, seed=1), randn(2, 1, 3, 1, seed=2))),
    )
)
def apply_rotary_emb(x: Operand, cos: Operand, sin: Operand, interleaved: bool = True) -> Value:
    """x with every pair of channels (a, b) turned: (a cos - b sin, b cos + a sin). Su et al. 2021.

    x: [..., T, D], queries or keys with the heads before the tokens; cos, sin: one number for each pair, [T, D / 2] or
    broadcasting to x with D / 2 last, as `rope_tables` gives them. interleaved: the pairs are channels (2 i, 2 i + 1),
    as in Flux; otherwise (i, i + D / 2), as in Llama. Computed in float32 for 16-bit x and rounded once.
    """
    x, cos, sin = as_value(x), as_value(cos), as_value(sin)
    for name, v in (("x", x), ("cos", cos), ("sin", sin)):
        if not v.dtype.is_float:
            raise DTypeError(f"{name} must be floating, got {v.dtype}")
    if not x.ndim or x.shape[-1] % 2:
        raise ShapeError(f"x {x.shape} has no even number of channels")
    pairs = (*x.shape[:-1], x.shape[-1] // 2)
    for name, v in (("cos", cos), ("sin", sin)):
        if v.ndim > x.ndim or not v.ndim or v.shape[-1] != pairs[-1] or not _broadcasts(v.shape, pairs):
            raise ShapeError(f"{name} {v.shape} does not broadcast to one number for each pair of x, {pairs}")
    axis, split = (-1, (*pairs, 2)) if interleaved else (-2, (*pairs[:-1], 2, pairs[-1]))
    sign = sub(mul(call("arange", 2, dtype=x.dtype.compute), 2.0), 1.0)
    sign = sign if interleaved else call("reshape", sign, (2, 1))
    c, s = (call("expand_dims", call("cast", v, x.dtype.compute), axis) for v in (cos, sin))
    parts = call("reshape", wide(x), split)
    turned = add(mul(parts, c), mul(call("flip", parts, axis), mul(s, sign)))
    return call("cast", call("reshape", turned, x.shape), x.dtype)


def _broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(d in (1, n) for d, n in zip(shape[::-1], wanted[::-1], strict=False))


@composed(
    samples=samples(
        Sample((np.array([0, 1, 7, 250]), 6), grad=()),
        Sample((np.array([[0, 1, 2], [0, 63, 5]]), (2, 6, 4)), {"theta": 100.0}, ()),
    )
)
def rope_tables(positions: Operand, dim: int | Sequence[int], theta: float = 1e4) -> tuple[Value, Value]:
    """(cos, sin), float32 [T, dim / 2], of position * theta^(-2 i / dim) for i = 0 .. dim / 2 - 1. Su et al. 2021.

    positions: [T], integers or floats. With a sequence of dims there are as many axes, positions [T, axes], and the
    tables of the axes follow one another (Flux: positions (0, row, col), dims (16, 56, 56)). The angles are computed in
    float64: an array gives constants, a Value is computed when the program runs.
    """
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    for d in dims:
        if d < 2 or d % 2:
            raise ArgumentError(f"dim must be even and positive, got {d}")
    frequencies = [theta ** (-np.arange(0, d, 2, dtype=np.float64) / d) for d in dims]
    shape = positions.shape if isinstance(positions, Value) else np.shape(positions)
    wanted = 1 if isinstance(dim, int) else 2
    if len(shape) != wanted or (wanted == 2 and shape[1] != len(dims)):
        raise ShapeError(f"positions {shape} do not fit dim {dim}: [T], or [T, axes] for several")
    if not isinstance(positions, Value):
        columns = np.asarray(positions, np.float64).reshape(shape[0], len(dims))
        angles = np.concatenate([columns[:, i : i + 1] * f for i, f in enumerate(frequencies)], 1)
        return call("constant", np.cos(angles), float32), call("constant", np.sin(angles), float32)
    columns = call("reshape", call("cast", positions, float64), (shape[0], len(dims)))
    parts = [mul(columns[:, i : i + 1], call("constant", f)) for i, f in enumerate(frequencies)]
    angles = parts[0] if len(parts) == 1 else call("concat", parts, 1)
    return call("cast", call("cos", angles), float32), call("cast", call("sin", angles), float32)


# ---- sinusoids -------------------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((np.array([0.0, 1.0, 250.0, 999.0]), 8)),
        Sample((np.array([0.0, 0.5, 3.0]), 6, True, 0.0), {"scale": 10.0}),
        Sample((np.array([0.25, 1.0, 2.0]), 5), {"max_period": 100.0}),
    )
)
def timestep_embedding(
    timesteps: Operand,
    embedding_dim: int,
    flip_sin_to_cos: bool = False,
    downscale_freq_shift: float = 1.0,
    scale: float = 1.0,
    max_period: float = 1e4,
) -> Value:
    """[sin | cos] of scale * t * f_i, with f_i = exp(-ln(max_period) i / (h - downscale_freq_shift)) and h = dim // 2.

    timesteps: [N], in the units of the schedule; float32 [N, embedding_dim], an odd last column is 0; the angles are
    computed in float64.
    flip_sin_to_cos: [cos | sin]. Diffusion models use flip_sin_to_cos=True, downscale_freq_shift=0. Arguments and
    defaults are those of diffusers; Vaswani et al. 2017, Ho et al. 2020.
    """
    t = as_value(timesteps)
    half = embedding_dim // 2
    if t.ndim != 1:
        raise ShapeError(f"timesteps must be [N], got {t.shape}")
    if half < 1 or half == downscale_freq_shift:
        raise ArgumentError(f"embedding_dim {embedding_dim} is too small for a shift of {downscale_freq_shift}")
    frequencies = np.exp(-math.log(max_period) * np.arange(half) / (half - downscale_freq_shift)) * scale
    angles = mul(call("reshape", call("cast", t, float64), (t.size, 1)), call("constant", frequencies))
    waves = [call("cast", wave, float32) for wave in (call("sin", angles), call("cos", angles))]
    found = call("concat", waves[::-1] if flip_sin_to_cos else waves, 1)
    return call("pad", found, ((0, 0), (0, 1))) if embedding_dim % 2 else found
