"""Numbers of each parameter, for a launch over many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..ir.node import Value
from ..ir.op import call
from ..types import DType

Factor = Value | float


class Columns:
    """Numbers of each parameter: those that differ become columns of the table that `foreach` gives its body.

    columns: a name -> one number for each parameter; computed: a name -> a Value of shape [parameters].
    """

    def __init__(self, columns: Mapping[str, list[float]], computed: Mapping[str, Value] | None = None) -> None:
        self.fixed = {name: column[0] for name, column in columns.items() if len(set(column)) == 1}
        self.varying = {name: column for name, column in columns.items() if name not in self.fixed}
        self.computed = dict(computed or {})
        self.order = [*self.varying, *self.computed]

    def table(self, dtype: DType) -> Value | None:
        """[parameters, columns], or None if every number is the same for all."""
        parts = []
        if self.varying:
            parts.append(call("constant", np.array(list(self.varying.values())).T, dtype))
        parts += [call("reshape", call("cast", v, dtype), (v.size, 1)) for v in self.computed.values()]
        if len(parts) < 2:
            return parts[0] if parts else None
        return call("concat", parts, 1)

    def value(self, name: str, own: Sequence[Value]) -> Factor:
        """One number, from the body's arguments that stand for the columns."""
        return self.fixed[name] if name in self.fixed else own[self.order.index(name)]

    def times(self, name: str, other: Value, own: Sequence[Value]) -> Value:
        """other times the number."""
        factor = self.value(name, own)
        return other if not isinstance(factor, Value) and factor == 1 else other * factor


def counts(factor: Factor) -> bool:
    """Whether there is anything to multiply: False for the number 0."""
    return isinstance(factor, Value) or factor != 0
