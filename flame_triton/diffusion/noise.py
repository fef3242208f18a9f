"""Noise other than white, and what else is drawn for a training step. All draws are the graph's own, on `seed`."""

from __future__ import annotations

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import call


def offset_noise(noise: Value, seed: Value, strength: float = 0.1) -> Value:
    """noise + strength n, n one normal number for each sample and channel; noise: [B, C, ...].

    Lets a model learn pictures that are dark or bright as a whole (Guttenberg 2023).
    """
    if noise.ndim < 3:
        raise ShapeError(f"expected [B, C, ...], got {noise.shape}", op="offset_noise")
    shape = noise.shape[:2] + (1,) * (noise.ndim - 2)
    return noise + strength * call("normal", shape, seed, dtype=noise.dtype)


def pyramid_noise(noise: Value, seed: Value, discount: float = 0.8, levels: int = 6) -> Value:
    """noise plus discount^i times noise of 1/2^i the resolution, resized bilinearly; scaled to standard deviation 1.

    noise: [B, C, H, W]. Multi-resolution noise (Whitaker 2023). Stops where a side is one pixel.
    """
    if noise.ndim != 4:
        raise ShapeError(f"expected [B, C, H, W], got {noise.shape}", op="pyramid_noise")
    batch, channels, height, width = noise.shape
    total = noise
    for i in range(1, levels + 1):
        small = (batch, channels, max(height >> i, 1), max(width >> i, 1))
        drawn = call("normal", small, seed, dtype=noise.dtype)
        total = total + discount**i * call("interpolate", drawn, size=(height, width), mode="bilinear")
        if 1 in small[2:]:
            break
    return total / call("std", total)


def perturbed_noise(noise: Value, seed: Value, gamma: float = 0.1) -> Value:
    """noise + gamma n, to be mixed into the model's input while the target stays `noise`. Ning et al. 2023."""
    return noise + gamma * call("normal", noise.shape, seed, dtype=noise.dtype)


def dropped(batch: int, seed: Value, p: float = 0.1) -> Value:
    """Which samples lose their caption, bool [batch], each with probability p: for classifier-free guidance.

    Ho and Salimans 2022. Use: where(dropped, empty, caption).
    """
    if not 0 <= p <= 1:
        raise ArgumentError(f"p must lie in [0, 1], got {p}", op="dropped")
    return call("bernoulli", p, (batch,), seed)
