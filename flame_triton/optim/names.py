"""Parameters by name, and patterns that select among them."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

from ..errors import ArgumentError
from ..ir.node import Value


class HasParameters(Protocol):
    """A module: it lists its parameters by dotted path."""

    def named_parameters(self) -> Iterator[tuple[str, Value]]: ...


Parameters: TypeAlias = Sequence[Value] | Mapping[str, Value] | HasParameters
"""What can be trained: Values with their own names, a name for each, or a module (those it lists as trainable)."""

Pattern: TypeAlias = str | re.Pattern[str]
"""A glob ("*.bias", "blocks.[0-9].*"; * also passes dots), or a compiled regular expression. It must match the whole
name."""


def named(parameters: Parameters, op: str) -> dict[str, Value]:
    """Parameters by name, in order. Unnamed ones are "parameter_0", ...; of equal names all but the first get a number.

    Raises ArgumentError for something else than a parameter and for one that is listed twice.
    """
    if isinstance(parameters, Mapping):
        items: Iterable[tuple[str | None, Value]] = parameters.items()
    elif isinstance(parameters, Sequence):
        items = [(v.name if isinstance(v, Value) else None, v) for v in parameters]
    else:
        items = parameters.named_parameters()
    found: dict[str, Value] = {}
    seen: set[Value] = set()
    for i, (name, value) in enumerate(items):
        if not isinstance(value, Value) or value.node.op.name != "parameter":
            raise ArgumentError(f"expected parameters, got {value!r}", op=op)
        if value in seen:
            raise ArgumentError(f"{value!r} is listed twice", op=op)
        seen.add(value)
        label, number = name or f"parameter_{i}", 0
        while label in found:
            number += 1
            label = f"{name}_{number}"
        found[label] = value
    return found


def matches(pattern: Pattern, name: str) -> bool:
    """Whether the pattern matches the whole name."""
    if isinstance(pattern, re.Pattern):
        return pattern.fullmatch(name) is not None
    return fnmatch.fnmatchcase(name, pattern)


def select(patterns: Sequence[Pattern], names: Iterable[str], op: str) -> set[str]:
    """The names that any of the patterns matches. Raises ArgumentError, listing near names, if one matches none."""
    known = list(names)
    found: set[str] = set()
    missing: list[str] = []
    for pattern in patterns:
        hits = {name for name in known if matches(pattern, name)}
        if not hits:
            missing.append(f"{text(pattern)} matches no parameter; {_near(pattern, known)}")
        found |= hits
    if missing:
        raise ArgumentError("\n  ".join(missing), op=op)
    return found


def text(pattern: Pattern) -> str:
    """The pattern as it was written."""
    return f"/{pattern.pattern}/" if isinstance(pattern, re.Pattern) else f'"{pattern}"'


def _near(pattern: Pattern, names: Sequence[str]) -> str:
    """What may have been meant: names whose letters, or one of whose parts, are like the pattern's."""
    source = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    plain = re.sub(r"\\.|[^\w.]", "", source).strip(".")
    near = difflib.get_close_matches(plain, names, n=4, cutoff=0.6)
    words = [w for w in plain.split(".") if len(w) > 2 and not w.isdigit()]
    for name in names:
        if len(near) >= 4:
            break
        parts = name.split(".")
        if name not in near and any(difflib.get_close_matches(word, parts, n=1, cutoff=0.7) for word in words):
            near.append(name)
    if near:
        return "near: " + ", ".join(near)
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"the names are {shown}" if names else "there are none"
