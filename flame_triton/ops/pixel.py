"""Rearrangements of pixels, channels and patches: reshapes and transposes, so no arithmetic and no copy."""

from __future__ import annotations

import math

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample
from .define import Operand, as_value, composed, randn, samples
from .view import reshape, transpose
from .window import Size, numbers

__all__ = ["channel_shuffle", "patchify", "pixel_shuffle", "pixel_unshuffle", "unpatchify"]


@composed(samples=samples(Sample((randn(2, 8, 3, 2), 2)), Sample((randn(9, 1, 2), 3))))
def pixel_shuffle(input: Operand, upscale_factor: int) -> Value:
    """[..., C r^2, H, W] -> [..., C, H r, W r]: channel c r^2 + i r + j holds pixel (i, j) of each block."""
    x = as_value(input)
    (r,) = numbers(upscale_factor, 1, "upscale_factor")
    if x.ndim < 3 or x.shape[-3] % (r * r):
        raise ShapeError(f"needs [..., C * {r * r}, H, W], got {x.shape}")
    *lead, c, h, w = x.shape
    n = len(lead)
    apart = reshape(x, (*lead, c // (r * r), r, r, h, w))
    mixed = transpose(apart, (*range(n + 1), n + 3, n + 1, n + 4, n + 2))
    return reshape(mixed, (*lead, c // (r * r), h * r, w * r))


@composed(samples=samples(Sample((randn(2, 3, 4, 6), 2)), Sample((randn(1, 3, 6), 3))))
def pixel_unshuffle(input: Operand, downscale_factor: int) -> Value:
    """[..., C, H r, W r] -> [..., C r^2, H, W]: the inverse of pixel_shuffle."""
    x = as_value(input)
    (r,) = numbers(downscale_factor, 1, "downscale_factor")
    if x.ndim < 3 or x.shape[-2] % r or x.shape[-1] % r:
        raise ShapeError(f"needs [..., C, H, W] with sizes that {r} divides, got {x.shape}")
    *lead, c, h, w = x.shape
    n = len(lead)
    apart = reshape(x, (*lead, c, h // r, r, w // r, r))
    mixed = transpose(apart, (*range(n + 1), n + 2, n + 4, n + 1, n + 3))
    return reshape(mixed, (*lead, c * r * r, h // r, w // r))


@composed(samples=samples(Sample((randn(2, 6, 3, 2), 3)), Sample((randn(1, 4, 5), 2))))
def channel_shuffle(input: Operand, groups: int) -> Value:
    """[N, C, ...] with channel g (C / groups) + i moved to i groups + g (Zhang et al. 2018)."""
    x = as_value(input)
    (groups,) = numbers(groups, 1, "groups")
    if x.ndim < 3 or x.shape[1] % groups:
        raise ShapeError(f"needs [N, C, ...] with C a multiple of {groups}, got {x.shape}")
    n, c, *rest = x.shape
    apart = reshape(x, (n, groups, c // groups, *rest))
    return reshape(transpose(apart, (0, 2, 1, *range(3, apart.ndim))), x.shape)


# ---- patches ---------------------------------------------------------------------------------------------------


def _order(order: str) -> str:
    if order not in ("cpp", "ppc"):
        raise ArgumentError(f"order must be 'cpp' (channels first) or 'ppc' (channels last), got {order!r}")
    return order


@composed(
    samples=samples(
        Sample((randn(2, 3, 4, 6), 2)),
        Sample((randn(1, 2, 2, 6), (2, 3)), {"order": "ppc"}),
        Sample((randn(1, 1, 2, 2), 1)),
    )
)
def patchify(x: Operand, patch_size: Size, order: str = "cpp") -> Value:
    """[N, C, H, W] -> [N, (H / p) (W / p), C p p]: one row for each patch, patches in row-major order.

    order: of the elements of a row. "cpp": channel, row, column, as a convolution's weight [out, C, p, p] has them, and
    as Flux packs latents; "ppc": row, column, channel, as the output layers of DiT and SD3 give them.
    """
    x = as_value(x)
    p, q = numbers(patch_size, 2, "patch_size")
    if x.ndim != 4 or x.shape[2] % p or x.shape[3] % q:
        raise ShapeError(f"needs [N, C, H, W] with H a multiple of {p} and W of {q}, got {x.shape}")
    n, c, h, w = x.shape
    apart = reshape(x, (n, c, h // p, p, w // q, q))
    axes = (0, 2, 4, 1, 3, 5) if _order(order) == "cpp" else (0, 2, 4, 3, 5, 1)
    return reshape(transpose(apart, axes), (n, (h // p) * (w // q), c * p * q))


@composed(
    samples=samples(Sample((randn(2, 4, 12), 2)), Sample((randn(1, 2, 12), (2, 3)), {"size": (2, 6), "order": "ppc"}))
)
def unpatchify(x: Operand, patch_size: Size, size: Size | None = None, order: str = "cpp") -> Value:
    """[N, L, C p p] -> [N, C, H, W]: the inverse of patchify. size: (H, W) in pixels, by default of a square."""
    x = as_value(x)
    p, q = numbers(patch_size, 2, "patch_size")
    if x.ndim != 3 or x.shape[2] % (p * q):
        raise ShapeError(f"needs [N, L, C * {p * q}], got {x.shape}")
    n, count, width = x.shape
    if size is None:
        side = math.isqrt(count)
        if side * side != count:
            raise ShapeError(f"{count} patches make no square: give the size of the image")
        size = (side * p, side * q)
    h, w = numbers(size, 2, "size")
    if h % p or w % q or (h // p) * (w // q) != count:
        raise ShapeError(f"{count} patches of {(p, q)} do not make an image of {(h, w)}")
    c = width // (p * q)
    if _order(order) == "cpp":
        apart, axes = reshape(x, (n, h // p, w // q, c, p, q)), (0, 3, 1, 4, 2, 5)
    else:
        apart, axes = reshape(x, (n, h // p, w // q, p, q, c)), (0, 5, 1, 3, 2, 4)
    return reshape(transpose(apart, axes), (n, c, h, w))
