"""Updates inside the backward pass: which tensors share a launch, and what cannot be had together with it."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ArgumentError
from ..ir.node import Value
from .clip import Clipping
from .scaler import LossScaler

SMALL = 1 << 20  # bytes of a parameter below which it shares one launch with the other small ones


def buckets(members: Sequence[Value]) -> list[list[int]]:
    """Positions of parameters that one launch moves: each large one by itself, all small ones together."""
    small = [i for i, p in enumerate(members) if p.type.nbytes < SMALL]
    return [[i] for i, p in enumerate(members) if p.type.nbytes >= SMALL] + ([small] if small else [])


def refuse_waiting(clipping: Clipping, scaler: LossScaler | None, skips: bool, op: str) -> None:
    """Raises ArgumentError for what must know every gradient before the first weight moves."""
    waiting = {
        "clip_norm": clipping.norm is not None,
        "clip_layer": clipping.layer is not None,
        "scaler (it skips steps that are not finite)": scaler is not None,
        "skip_non_finite": skips,
    }
    for what, asked in waiting.items():
        if asked:
            raise ArgumentError(
                f"fused_backward=True moves weights before the last gradient is known, and {what} needs every gradient "
                "first: leave one of the two out (clip_value works element by element)",
                op=op,
            )
