"""Muon: momentum, orthogonalised, for the matrices inside a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import ArgumentError
from ..ir.node import Value
from ..ir.op import call
from ..types import DType, DTypeLike, bfloat16
from ..types import dtype as as_dtype
from .names import Parameters, Pattern, select
from .optimizer import Step
from .rules import AdamW
from .schedule import Schedule

QUINTIC = (3.4445, -4.775, 2.0315)
"""Coefficients of the Newton-Schulz polynomial a x + b x^3 + c x^5 of Jordan et al. 2024."""


class Muon(AdamW):
    """Muon (Jordan et al. 2024), as torch.optim.Muon, for parameters of two and more axes; AdamW for all others.

    m = mu m + (1 - mu) g; u = orthogonalised (mu m + (1 - mu) g) with nesterov, else m;
    p = p (1 - lr decay) - lr ratio u. Kernels of more than two axes are matrices of their first axis by all others.

    adamw: patterns of names that AdamW trains although they are matrices: embeddings, the last layer.
    adjust: the ratio for M x N: "match_rms_adamw" (0.2 sqrt(max(M, N)), so that one learning rate serves both; Liu et
    al. 2025) or "original" (sqrt(max(1, M / N))). dtype: of the iteration's products. steps: of the iteration.
    Matrices of one shape are orthogonalised together, in batched products.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Schedule = 1e-3,
        *,
        adamw: Sequence[Pattern] = (),
        momentum: float = 0.95,
        nesterov: bool = True,
        steps: int = 5,
        coefficients: tuple[float, float, float] = QUINTIC,
        eps: float = 1e-7,
        adjust: str = "match_rms_adamw",
        dtype: DTypeLike = bfloat16,
        weight_decay: float = 0.1,
        **more: Any,
    ) -> None:
        if adjust not in ("match_rms_adamw", "original"):
            raise ArgumentError(f'adjust must be "match_rms_adamw" or "original", got {adjust!r}', op="Muon")
        if not 0 <= momentum < 1 or steps < 1:
            raise ArgumentError(f"needs 0 <= momentum < 1 and steps >= 1, got {momentum} and {steps}", op="Muon")
        self.momentum, self.nesterov, self.iterations = momentum, nesterov, steps
        self.coefficients, self.least, self.adjust, self.dtype = coefficients, eps, adjust, as_dtype(dtype)
        self._patterns = tuple(adamw)
        self._vectors: set[Value] | None = None
        super().__init__(parameters, lr, weight_decay=weight_decay, **more)
        self._refuse("the update of each matrix has one norm whatever its gradient", layers=True)

    def _is_matrix(self, p: Value) -> bool:
        if self._vectors is None:
            chosen = select(self._patterns, self.names.values(), "Muon") if self._patterns else set()
            self._vectors = {p for p, name in self.names.items() if p.ndim < 2 or name in chosen}
        return p not in self._vectors

    def _slots_of(self, parameter: Value) -> list[Value]:
        return [self._slot(parameter, "momentum")] if self._is_matrix(parameter) else super()._slots_of(parameter)

    def _update_group(self, members: list[Value], step: Step, scalars: Sequence[Value]) -> None:
        others = [p for p in members if not self._is_matrix(p)]
        if others:
            super()._update_group(others, step, scalars)
        matrices = [p for p in members if self._is_matrix(p)]
        if not matrices:
            return
        shapes: dict[tuple[int, int], list[Value]] = {}
        directions = self._directions(matrices, step)
        for p in matrices:
            shapes.setdefault(_flat(p), []).append(p)
        for (rows, columns), equal in shapes.items():
            stacked = call("stack", [call("reshape", directions[p], (rows, columns)) for p in equal])
            made = orthogonal(stacked, self.iterations, self.coefficients, self.least)
            for i, p in enumerate(equal):
                self._move(p, call("reshape", made[i], p.shape), step)

    def _directions(self, members: list[Value], step: Step) -> dict[Value, Value]:
        """What is orthogonalised, in the iteration's dtype; the momenta move on, in one launch."""
        wide, mu = members[0].dtype.compute, self.momentum
        numbers = [step.finite, *([] if step.factor is None else [step.factor])]

        def body(m: Value, g: Value, finite: Value, *scale: Value) -> list[Value]:
            slope = self._slope(g, wide, *(call("cast", v, wide) for v in scale))
            new = m * mu + slope * (1 - mu)
            way = new * mu + slope * (1 - mu) if self.nesterov else new
            return [call("where", finite, new, m), call("cast", way, self.dtype)]

        rows = [[self.slots[p][0], step.gradients[p]] for p in members]
        found = call("foreach", body, rows, numbers)
        step.new.update((self.slots[p][0], new) for p, (new, _) in zip(members, found, strict=True))
        return {p: way for p, (_, way) in zip(members, found, strict=True)}

    def _move(self, p: Value, update: Value, step: Step) -> None:
        wide, (rows, columns) = p.dtype.compute, _flat(p)
        ratio = math.sqrt(max(1, rows / columns)) if self.adjust == "original" else 0.2 * math.sqrt(max(rows, columns))
        weight, rate, decay = call("cast", self.masters.get(p, p), wide), self._rate(p, step), self.decay(p)
        kept = weight * (1 - rate * decay) if decay else weight
        self._store(p, kept - rate * ratio * call("cast", update, wide), {}, step)


def _flat(p: Value) -> tuple[int, int]:
    """A kernel as a matrix: its first axis by all others."""
    return p.shape[0], p.size // max(p.shape[0], 1)


def orthogonal(
    x: Value, steps: int = 5, coefficients: tuple[float, float, float] = QUINTIC, eps: float = 1e-7
) -> Value:
    """About U V^T of each matrix of x = U S V^T, [..., M, N], by Newton-Schulz iteration: singular values come to lie
    between about 0.7 and 1.2. Products in x's dtype.

    x = x / |x|; steps times: A = x x^T; x = a x + (b A + c A A) x.
    """
    a, b, c = coefficients
    wide: DType = x.dtype.compute
    tall = x.shape[-2] > x.shape[-1]
    x = call("swapaxes", x, -1, -2) if tall else x
    whole = call("cast", x, wide)
    norm = call("sqrt", call("sum", call("square", whole), (-2, -1), True))
    x = call("cast", whole / call("maximum", norm, eps), x.dtype)

    def added(product: Value, other: Value, by: float, scale: float = 1.0) -> Value:
        return call("cast", call("cast", product, wide) * scale + call("cast", other, wide) * by, x.dtype)

    for _ in range(steps):
        gram = call("matmul", x, call("swapaxes", x, -1, -2))
        x = added(call("matmul", added(call("matmul", gram, gram), gram, b, c), x), x, a)
    return call("swapaxes", x, -1, -2) if tall else x
