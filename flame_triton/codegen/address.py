"""Where an element lies, as a sum: what an index map comes to over the dimensions of an iteration space.

A view whose shape does not split as the space does (24 heads within groups of 108 rows) asks for quotients and
remainders of a position. They are split first: of (108 g + m) 128 + n the quotient by 128 * 24 is (108 g + m) // 24,
and the remainder by 128 is n. So one division a row remains where there would be three an element, and what is read
side by side can be seen to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Deps = frozenset[int]
Range = tuple[int, int]  # the least and the largest value


@dataclass(frozen=True)
class Atom:
    """A coordinate that is no sum: a variable of the kernel, the axes it varies along, and its range."""

    text: str
    deps: Deps
    range: Range


@dataclass(frozen=True)
class Linear:
    """offset + sum(coordinate * stride) over the space's dimensions + sum(atom * stride)."""

    offset: int
    strides: tuple[int, ...]
    atoms: tuple[tuple[Atom, int], ...] = ()

    def plus(self, other: Linear, factor: int) -> Linear:
        """self + other * factor."""
        strides = tuple(a + b * factor for a, b in zip(self.strides, other.strides, strict=True))
        atoms = dict(self.atoms)
        for atom, stride in other.atoms:
            atoms[atom] = atoms.get(atom, 0) + stride * factor
        return Linear(self.offset + other.offset * factor, strides, tuple((a, s) for a, s in atoms.items() if s))

    def range(self, ranges: Sequence[Range]) -> Range:
        """The least and the largest value, given those of the dimensions."""
        low = high = self.offset
        terms = [*zip(ranges, self.strides, strict=True), *((a.range, s) for a, s in self.atoms)]
        for (least, most), stride in terms:
            low += min(least * stride, most * stride)
            high += max(least * stride, most * stride)
        return low, high

    def keep(self, wanted: Callable[[int], bool], offset: int, unit: int = 1) -> Linear:
        """The terms whose strides are wanted, and another offset; strides in `unit`s."""
        strides = tuple(s // unit if wanted(s) else 0 for s in self.strides)
        return Linear(offset, strides, tuple((a, s // unit) for a, s in self.atoms if wanted(s)))


def split(whole: Linear, unit: int, ranges: Sequence[Range]) -> tuple[Linear, int]:
    """(q, f) with whole // unit == q // (unit // f), for the largest f that is found; f is 1 at the least."""
    factors = {unit}
    for stride in (*whole.strides, *(s for _, s in whole.atoms)):
        factors |= {math.gcd(f, stride) for f in factors}
    for f in sorted(factors, reverse=True):
        offset = whole.offset % f
        low, high = whole.keep(lambda s, f=f: s % f != 0, offset).range(ranges)
        if 0 <= low and high < f:
            return whole.keep(lambda s, f=f: s % f == 0, (whole.offset - offset) // f, f), f
    return whole, 1


def remainder(whole: Linear, size: int, ranges: Sequence[Range]) -> tuple[Linear, bool]:
    """(r, done): whole % size is r if done, else r % size. whole is nowhere negative."""
    rest = whole.keep(lambda s: s % size != 0, whole.offset % size)
    low, high = rest.range(ranges)
    return (rest, high < size) if low >= 0 else (whole, False)
