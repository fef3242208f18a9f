"""Norms of gradients, and what keeps them in bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError
from ..ir.node import Value
from ..ir.op import call

EPS = 1e-6
"""Added to a norm before dividing by it, as torch does."""


@dataclass(frozen=True)
class Clipping:
    """At most one of these. norm: the largest global L2 norm; value: the largest magnitude of an element; layer: the
    largest L2 norm of each tensor; adaptive: the largest ratio of a unit's gradient norm to its weight norm."""

    norm: float | None = None
    value: float | None = None
    layer: float | None = None
    adaptive: float | None = None

    def check(self, op: str) -> None:
        """Raises ArgumentError if more than one is given, or one is not positive."""
        given = {f"clip_{k}": v for k, v in vars(self).items() if v is not None}
        for name, limit in given.items():
            if not limit > 0:
                raise ArgumentError(f"{name} must be positive, got {limit}", op=op)
        if len(given) > 1:
            raise ArgumentError(f"gradients are clipped in one way, got {' and '.join(given)}", op=op)


def _squared(g: Value, *factor: Value) -> Value:
    wide = call("cast", g, g.dtype.compute)
    return call("square", wide * call("cast", factor[0], wide.dtype) if factor else wide)


def global_norm(grads: Sequence[Value], factor: Value | None = None) -> Value:
    """The L2 norm of all gradients together: float32 (float64 if any is), 0-d. One launch per dtype.

    factor: 0-d, multiplies every gradient first.
    """
    groups: dict[Any, list[list[Value]]] = {}
    for g in grads:
        groups.setdefault(g.dtype, []).append([g])
    shared = [] if factor is None else [factor]
    total: Value | None = None
    for rows in groups.values():
        part = call("foreach_sum", _squared, rows, shared)
        total = part if total is None else total + part
    assert total is not None
    return call("sqrt", total)


def layer_norms(grads: Sequence[Value], factor: Value | None = None) -> Value:
    """The L2 norm of each gradient: [gradients]; all must have one dtype. factor: as in `global_norm`."""
    return call("sqrt", call("foreach_sum", _squared, [[g] for g in grads], [] if factor is None else [factor], True))


def limited(norm: Value, limit: float) -> Value:
    """What brings a norm down to the limit: min(limit / norm, 1)."""
    return call("minimum", limit / (norm + EPS), 1.0)


def adaptive(p: Value, g: Value, ratio: float, eps: float = 1e-3) -> Value:
    """Adaptive gradient clipping: each unit's gradient is scaled so that |g| <= ratio max(|p|, eps).

    Units are the slices along the first axis of a matrix or kernel, and vectors as a whole (a scalar is its own).
    Brock et al. 2021. p, g: one shape; computed in g's compute type.
    """
    wide, weight = call("cast", g, g.dtype.compute), call("cast", p, g.dtype.compute)
    axes = tuple(range(1, p.ndim)) if p.ndim > 1 else tuple(range(p.ndim))

    def norm(v: Value) -> Value:
        return call("sqrt", call("sum", call("square", v), axes, True)) if axes else call("abs", v)

    limit = call("maximum", norm(weight), eps) * ratio
    return wide * call("minimum", limit / call("maximum", norm(wide), EPS), 1.0)
