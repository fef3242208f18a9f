"""Parameter groups and freezing, by patterns of names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ArgumentError
from ..ir.node import Value
from .names import Parameters, Pattern, named, select, text
from .schedule import Schedule

if TYPE_CHECKING:
    from .optimizer import Optimizer

Factors = Callable[[Value], float]
"""From a parameter to a number: a factor, or True and False for 1 and 0."""


def by_rank(parameter: Value) -> bool:
    """Matrices decay; biases, norm weights and other vectors do not."""
    return parameter.ndim >= 2


def one(parameter: Value) -> float:
    """The same for all."""
    return 1.0


@dataclass(frozen=True, eq=False)
class Group:
    """Parameters that are trained in their own way; see `group`."""

    patterns: tuple[Pattern, ...]
    but: tuple[Pattern, ...] = ()
    rate: float = 1.0
    weight_decay: float | None = None
    schedule: Schedule | None = None

    def __str__(self) -> str:
        shown = ", ".join(map(text, self.patterns))
        return f"{shown} but {', '.join(map(text, self.but))}" if self.but else shown


def group(
    *patterns: Pattern,
    but: Pattern | Sequence[Pattern] = (),
    rate: float = 1.0,
    weight_decay: float | None = None,
    schedule: Schedule | None = None,
) -> Group:
    """Parameters whose names match any of the patterns (globs or compiled regular expressions), but for those that
    match `but`. For the `groups=` of an optimizer.

    rate: factor on the learning rate. weight_decay: applies to all of the group, vectors too; None: the optimizer's
    own, where its `decays` says so. schedule: the group's own, instead of the optimizer's.
    """
    if not patterns:
        raise ArgumentError("a group needs a pattern", op="group")
    if rate < 0 or (weight_decay is not None and weight_decay < 0):
        raise ArgumentError(f"rate and weight_decay must not be negative, got {rate} and {weight_decay}", op="group")
    spared = (but,) if isinstance(but, str | re.Pattern) else tuple(but)
    return Group(patterns, spared, float(rate), weight_decay, schedule)


def freeze(parameters: Parameters, *patterns: Pattern) -> dict[str, Value]:
    """The parameters that are left to train when those that match a pattern are frozen: name -> Value.

    Give the result to an optimizer, and differentiate by its `parameters`: what is frozen has no gradient, no moments
    and no optimizer memory. Raises ArgumentError, listing near names, for a pattern that matches nothing, and if
    nothing is left.
    """
    table = named(parameters, "freeze")
    if not patterns:
        raise ArgumentError("freezing needs a pattern", op="freeze")
    frozen = select(patterns, table, "freeze")
    if len(frozen) == len(table):
        raise ArgumentError(f"{', '.join(map(text, patterns))} would freeze all parameters", op="freeze")
    return {name: value for name, value in table.items() if name not in frozen}


def assign(table: Mapping[str, Value], groups: Sequence[Group], op: str) -> dict[Value, Group]:
    """Parameter -> the group it belongs to; those that no pattern matches are left out.

    Raises ArgumentError for a pattern that matches nothing, and for a parameter that two groups claim.
    """
    found: dict[Value, Group] = {}
    for one_group in groups:
        if not isinstance(one_group, Group):
            raise ArgumentError(f"groups are made by optim.group(...), got {one_group!r}", op=op)
        spared = select(one_group.but, table, op) if one_group.but else set()
        for name in sorted(select(one_group.patterns, table, op) - spared):
            other = found.setdefault(table[name], one_group)
            if other is not one_group:
                raise ArgumentError(
                    f"{name} belongs to two groups, {other} and {one_group}; spare it in one of them by but=", op=op
                )
    return found


def summary(optimizer: Optimizer) -> str:
    """The groups of an optimizer as a table, and the bytes of its state."""
    rows = [("group", "tensors", "elements", "rate", "weight decay", "schedule")]
    for own in (*optimizer.groups, None):
        members = [p for p in optimizer.parameters if optimizer.assigned.get(p) is own]
        if not members:
            continue
        rates = sorted({optimizer.rate_factor(p) for p in members})
        decays = sorted({optimizer.decay(p) for p in members})
        schedule = optimizer.schedule_of(members[0])
        others = "the others" if optimizer.groups else "all"
        rows.append(
            (
                others if own is None else str(own),
                str(len(members)),
                f"{sum(p.size for p in members):,}",
                _span(rates),
                _span(decays),
                repr(schedule) if hasattr(schedule, "text") else getattr(schedule, "__name__", "a schedule"),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.rjust(w) if 0 < i < 5 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    total = sum(p.size for p in optimizer.parameters)
    state = optimizer.state_bytes
    head = f"{type(optimizer).__name__}: {len(optimizer.parameters)} tensors, {total:,} elements, "
    head += f"{state:,} bytes of state ({state / max(total, 1):.2f} an element)"
    return "\n".join([head, *(line.rstrip() for line in lines)])


def _span(numbers: Sequence[float]) -> str:
    """One number, or the smallest and the largest."""
    if len(numbers) == 1:
        return f"{numbers[0]:g}"
    return f"{numbers[0]:g} to {numbers[-1]:g}"
