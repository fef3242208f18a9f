"""Classifier-free guidance: from a model's output with its condition and without, to the output that is followed."""

from __future__ import annotations

from ..errors import ShapeError
from ..ir.node import Value
from ..ir.op import call


def guide(shown: Value, free: Value, scale: float | Value, rescale: float = 0.0) -> Value:
    """free + scale (shown - free), Ho and Salimans 2022. shown, free: outputs [B, ...] with the condition and without.

    rescale: in [0, 1], how far the result is brought back to the standard deviation of `shown`, sample by sample
    (Lin et al. 2024, section 3.4); 0.7 is theirs. scale may be a 0-d Value, so that it changes without compiling anew.
    """
    _check(shown, free)
    followed = free + scale * (shown - free)
    if not rescale:
        return followed
    axes = tuple(range(1, shown.ndim))
    ratio = call("std", shown, axis=axes, keepdims=True) / call("std", followed, axis=axes, keepdims=True)
    return followed * (rescale * ratio + (1.0 - rescale))


def guide_zero_star(shown: Value, free: Value, scale: float | Value) -> Value:
    """CFG-Zero*: guidance from s free, where s = <shown, free> / |free|^2 for each sample. Fan et al. 2025.

    Its other half, no movement in the first steps, is `Sampler.zero_init`.
    """
    _check(shown, free)
    axes = tuple(range(1, shown.ndim))
    product = call("sum", shown * free, axis=axes, keepdims=True)
    optimal = product / (call("sum", call("square", free), axis=axes, keepdims=True) + 1e-8)
    base = optimal * free
    return base + scale * (shown - base)


def _check(shown: Value, free: Value) -> None:
    if shown.shape != free.shape or shown.ndim < 2:
        raise ShapeError(f"expected two outputs [B, ...] of one shape, got {shown.shape} and {free.shape}", op="guide")
