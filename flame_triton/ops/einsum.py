"""Sums of products named by their axes: einsum and tensordot, lowered to views, matrix products and sums.

Two operands are contracted as [batch, M, K] @ [batch, K, N]: K are the axes summed, batch those that both have and that
stay. Where neither operand has axes of its own it is a product and a sum, which fuse into one row reduction.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Sequence
from typing import Any

from ..errors import ArgumentError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import check_axis
from .arithmetic import mul
from .define import Operand, as_value, composed, randn, samples, wide
from .matmul import matmul
from .matrix import diagonal
from .reduce import sum
from .view import reshape, transpose

__all__ = ["einsum", "tensordot"]

LETTERS = string.ascii_uppercase + string.ascii_lowercase
"""What axes may be called; numbers in the sublist form count through them, as in NumPy."""

Labels = tuple[str, ...]
Term = tuple[Value, Labels]
"""An operand and the labels of its axes, none of them twice. Axes under an ellipsis are called "0", "1", ... from the
last one backwards, so that they align as in broadcasting."""


# ---- the equation ----------------------------------------------------------------------------------------------


def _labels(term: str, ndim: int | None, hidden: int) -> Labels:
    """The labels of one term; ndim: of its operand, None for the output, which shows all `hidden` axes."""
    head, dots, tail = term.partition("...")
    if any(c not in LETTERS for c in head + tail):
        raise ArgumentError(f"{term!r} has characters other than letters and one '...'")
    named = len(head) + len(tail)
    covered = hidden if ndim is None else ndim - named
    if ndim is not None and (covered < 0 or (covered and not dots)):
        raise ShapeError(f"{term!r} does not name the axes of an operand of {ndim} dimensions")
    return (*head, *(str(i) for i in reversed(range(covered if dots else 0))), *tail)


def _implicit(terms: Sequence[Labels]) -> Labels:
    """NumPy's rule without '->': the ellipsis, then the labels that occur once, in alphabetic order."""
    every = list(itertools.chain(*terms))
    hidden = sorted({c for c in every if c.isdigit()}, key=int, reverse=True)
    return (*hidden, *sorted(c for c in set(every) if not c.isdigit() and every.count(c) == 1))


def _parse(equation: str, operands: Sequence[Value]) -> tuple[list[Labels], Labels]:
    """The labels of every operand and of the result. Raises ArgumentError or ShapeError for what does not fit."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) != len(operands):
        raise ArgumentError(f"{equation!r} is for {len(parts)} operands, got {len(operands)}")
    terms = [_labels(part, x.ndim, 0) for part, x in zip(parts, operands, strict=True)]
    if not arrow:
        return terms, _implicit(terms)
    hidden = len({c for term in terms for c in term if c.isdigit()})
    output = _labels(right, None, hidden)
    if len(set(output)) != len(output):
        raise ArgumentError(f"the result of {equation!r} names one axis twice")
    unknown = sorted(set(output) - set(itertools.chain(*terms)))
    if unknown:
        raise ArgumentError(f"the result of {equation!r} names {', '.join(unknown)}, which no operand has")
    return terms, output


def _from_sublists(args: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
    """NumPy's other form, einsum(x, [0, 1], y, [1, 2], [0, 2]), as an equation and its operands."""
    lists = [*args[1::2], *(args[-1:] if len(args) % 2 else [])]
    terms: list[str] = []
    for sublist in lists:
        if not isinstance(sublist, list | tuple):
            raise ArgumentError("without an equation, every operand is followed by the list of its axes")
        if any(i is not Ellipsis and not (isinstance(i, int) and 0 <= i < len(LETTERS)) for i in sublist):
            raise ArgumentError(f"{sublist!r} must hold numbers from 0 to {len(LETTERS) - 1}, and '...'")
        terms.append("".join("..." if i is Ellipsis else LETTERS[i] for i in sublist))
    n = len(args) // 2
    return ",".join(terms[:n]) + ("->" + terms[n] if len(args) % 2 else ""), tuple(args[: 2 * n : 2])


# ---- terms -----------------------------------------------------------------------------------------------------


def _distinct(x: Value, labels: Labels) -> Term:
    """Repeated labels are diagonals."""
    while len(set(labels)) != len(labels):
        repeated = next(c for c in labels if labels.count(c) > 1)
        a, b = [i for i, c in enumerate(labels) if c == repeated][:2]
        if x.shape[a] != x.shape[b]:
            raise ShapeError(f"axis {repeated!r} of {x.shape} has two sizes, {x.shape[a]} and {x.shape[b]}")
        x = diagonal(x, 0, a, b)
        labels = (*(c for i, c in enumerate(labels) if i not in (a, b)), repeated)
    return x, labels


def _sizes(terms: Sequence[Term]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for x, labels in terms:
        for d, c in zip(x.shape, labels, strict=True):
            if sizes.setdefault(c, d) == 1:
                sizes[c] = d
            elif d not in (1, sizes[c]):
                name = "under the ellipsis" if c.isdigit() else repr(c)
                raise ShapeError(f"axis {name} has two sizes, {sizes[c]} and {d}")
    return sizes


def _without_ones(term: Term, sizes: dict[str, int]) -> Term:
    """Axes of size 1 that broadcast against longer ones are left out."""
    x, labels = term
    keep = [i for i, c in enumerate(labels) if x.shape[i] == sizes[c]]
    return reshape(x, tuple(x.shape[i] for i in keep)), tuple(labels[i] for i in keep)


def _summed(term: Term, keep: set[str]) -> Term:
    """Labels that nothing else needs are summed."""
    x, labels = term
    axes = [i for i, c in enumerate(labels) if c not in keep]
    if not axes:
        return term
    return call("cast", sum(x, axes), x.dtype), tuple(c for c in labels if c in keep)


def _arranged(term: Term, *groups: Labels) -> Value:
    """x with its axes in the order of the groups, one axis to a group."""
    x, labels = term
    x = transpose(x, [labels.index(c) for group in groups for c in group])
    sizes = iter(x.shape)
    return reshape(x, tuple(math.prod(next(sizes) for _ in group) for group in groups))


def _contracted(left: Term, right: Term, keep: set[str]) -> Term:
    """The product of two terms, summed over the labels that are not kept."""
    left = _summed(left, keep | set(right[1]))
    right = _summed(right, keep | set(left[1]))
    (x, a), (y, b) = left, right
    batch = tuple(c for c in a if c in b and c in keep)
    inner = tuple(c for c in a if c in b and c not in keep)
    rows, columns = tuple(c for c in a if c not in b), tuple(c for c in b if c not in a)
    sizes = dict(zip((*a, *b), (*x.shape, *y.shape), strict=True))
    labels = (*batch, *rows, *columns)
    shape = tuple(sizes[c] for c in labels)
    if not inner or not (rows or columns) or not x.dtype.is_float:
        return _multiplied(left, right, labels, inner), labels
    product = matmul(_arranged(left, batch, rows, inner), _arranged(right, batch, inner, columns))
    return reshape(product, shape), labels


def _multiplied(left: Term, right: Term, labels: Labels, inner: Labels) -> Value:
    """The same as a pointwise product and a sum, rounded once."""
    order = (*labels, *inner)
    dtype = left[0].dtype

    def aligned(term: Term) -> Value:
        x, own = term
        x = transpose(x, [own.index(c) for c in order if c in own])
        sizes = iter(x.shape)
        return wide(reshape(x, tuple(next(sizes) if c in own else 1 for c in order)))

    product = mul(aligned(left), aligned(right))
    total = sum(product, tuple(range(len(labels), len(order)))) if inner else product
    return call("cast", total, dtype)


def _cheapest(terms: Sequence[Term], output: Labels) -> tuple[int, int]:
    """The pair whose product has the fewest elements; of equals, the first."""

    def cost(pair: tuple[int, int]) -> int:
        outside = {c for k, (_, labels) in enumerate(terms) if k not in pair for c in labels} | set(output)
        sizes = {c: d for k in pair for c, d in zip(terms[k][1], terms[k][0].shape, strict=True)}
        return math.prod(d for c, d in sizes.items() if c in outside)

    return min(itertools.combinations(range(len(terms)), 2), key=cost)


# ---- the functions ---------------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample(("ij,jk->ik", randn(3, 4), randn(4, 5, seed=1))),
        Sample(("ij,ij", randn(3, 4), randn(3, 4, seed=1))),
        Sample(("b...i,b...j->...ij", randn(2, 3, 4), randn(2, 3, 2, seed=1))),
        Sample(("iji->ji", randn(3, 2, 3))),
        Sample(("ab,bc,cd->da", randn(2, 3), randn(3, 4, seed=1), randn(4, 2, seed=2))),
        Sample(("bhqd,bhkd->bhqk", randn(2, 2, 3, 4), randn(2, 2, 5, 4, seed=1))),
    )
)
def einsum(equation: str | Operand, *operands: Any) -> Value:
    """NumPy's Einstein summation: einsum("bik,kj->bij", x, w) sums products over the labels that the result lacks.

    Labels are letters; "..." stands for axes that broadcast; a label twice in one operand takes the diagonal; without
    "->" the result has the labels that occur once, in alphabetic order. einsum(x, [0, 1], y, [1, 2], [0, 2]) means the
    same as an equation. Several operands are multiplied in pairs, the smallest product first; dtypes are promoted.
    """
    if not isinstance(equation, str):
        equation, operands = _from_sublists((equation, *operands))
    elif len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    values = [as_value(x) for x in operands]
    if not values:
        raise ArgumentError("needs at least one operand")
    dtype = values[0].dtype
    for v in values[1:]:
        dtype = call("result_type", dtype, v.dtype)
    values = [call("cast", v, dtype) for v in values]
    labels, output = _parse(equation, values)
    terms = [_distinct(v, own) for v, own in zip(values, labels, strict=True)]
    sizes = _sizes(terms)
    terms = [_without_ones(term, sizes) for term in terms]
    while len(terms) > 1:
        i, j = _cheapest(terms, output)
        rest = [term for k, term in enumerate(terms) if k not in (i, j)]
        keep = {c for _, own in rest for c in own} | set(output)
        terms = [*rest, _contracted(terms[i], terms[j], keep)]
    x, own = _summed(terms[0], set(output))
    return transpose(x, [own.index(c) for c in output])


@composed(
    samples=samples(
        Sample((randn(3, 4, 5), randn(4, 5, 2, seed=1))),
        Sample((randn(3, 4), randn(2, 3, seed=1)), {"axes": ((0,), (1,))}),
        Sample((randn(3), randn(2, seed=1)), {"axes": 0}),
    )
)
def tensordot(x: Operand, y: Operand, axes: int | Sequence[Any] = 2) -> Value:
    """The sum of products over pairs of axes. The result has the other axes of x, then those of y.

    axes: a number n (the last n of x with the first n of y), or (axes of x, axes of y).
    """
    x, y = as_value(x), as_value(y)
    if isinstance(axes, int):
        if not 0 <= axes <= min(x.ndim, y.ndim):
            raise ShapeError(f"cannot pair {axes} axes of {x.shape} and {y.shape}")
        pairs = [(x.ndim - axes + i, i) for i in range(axes)]
    else:
        of_x, of_y = ([part] if isinstance(part, int) else list(part) for part in axes)
        if len(of_x) != len(of_y):
            raise ArgumentError(f"pairs {len(of_x)} axes with {len(of_y)}")
        pairs = [(check_axis(a, x.ndim), check_axis(b, y.ndim)) for a, b in zip(of_x, of_y, strict=True)]
    left = list(LETTERS[: x.ndim])
    right = list(LETTERS[x.ndim : x.ndim + y.ndim])
    for a, b in pairs:
        if x.shape[a] != y.shape[b]:
            raise ShapeError(f"axis {a} of {x.shape} and axis {b} of {y.shape} differ in size")
        right[b] = left[a]
    if len(set(right)) != len(right) or len({a for a, _ in pairs}) != len(pairs):
        raise ArgumentError(f"axes {axes!r} names one axis twice")
    output = [c for c in left if c not in right] + [c for c in right if c not in left]
    return einsum(f"{''.join(left)},{''.join(right)}->{''.join(output)}", x, y)
