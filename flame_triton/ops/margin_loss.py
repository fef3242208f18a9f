"""Losses that ask for a margin between scores or distances: names and arguments of torch.nn.functional.

16-bit floats are computed in float32 and rounded once, at the end. Where a margin is just met the gradient is that of
max(0, .) as torch's clamp has it: 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Value
from ..ir.op import Sample, call
from ..types import DType
from .activation import softplus
from .arithmetic import add, clamp_min, div, minimum, mul, neg, square, sub
from .define import Operand, as_value, composed, integers, promote_operands, randn, samples, wide
from .distance import pairwise_distance
from .elementary import sqrt
from .logic import equal, greater_equal, less, logical_and, logical_not, not_equal, where
from .loss import reduced
from .reduce import any, mean, sum

# fmt: off
__all__ = [
    "cosine_embedding_loss", "hinge_embedding_loss", "margin_ranking_loss", "multi_margin_loss",
    "multilabel_margin_loss", "multilabel_soft_margin_loss", "soft_margin_loss", "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]
# fmt: on

_signs = np.array([1.0, -1.0, -1.0, 1.0])


def _hinge(x: Value) -> Value:
    return clamp_min(x, 0.0)


def _floats(name: str, *operands: Operand) -> tuple[list[Value], DType]:
    """The operands, of one shape after broadcasting, in the compute type; and the dtype of the result."""
    values = promote_operands(name, *operands, float_result=True)
    return [wide(v) for v in values], values[0].dtype


def _same_shape(*values: Value) -> None:
    if len({v.shape for v in values}) > 1:
        raise ShapeError("shapes must be equal, got " + ", ".join(str(v.shape) for v in values))


# ---- two classes, 1 and -1 -------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((randn(4), _signs), grad=(0,)),
        Sample((randn(3, 4), _signs), {"margin": 0.5, "reduction": "none"}, grad=(0,)),
    )
)
def hinge_embedding_loss(input: Operand, target: Operand, margin: float = 1.0, reduction: str = "mean") -> Value:
    """x where target is 1, max(0, margin - x) where it is -1, x being a distance."""
    (x, t), dtype = _floats("hinge_embedding_loss", input, target)
    near, far = where(not_equal(t, -1.0), x, 0.0), where(not_equal(t, 1.0), _hinge(sub(margin, x)), 0.0)
    return reduced(add(near, far), reduction, dtype)


@composed(
    samples=samples(
        Sample((randn(4), randn(4, seed=1), _signs), grad=(0, 1)),
        Sample((randn(4), randn(4, seed=1), -_signs), {"margin": 0.5, "reduction": "sum"}, grad=(0, 1)),
    )
)
def margin_ranking_loss(
    input1: Operand, input2: Operand, target: Operand, margin: float = 0.0, reduction: str = "mean"
) -> Value:
    """max(0, -target (input1 - input2) + margin): target 1 ranks input1 higher, -1 input2."""
    (a, b, t), dtype = _floats("margin_ranking_loss", input1, input2, target)
    return reduced(_hinge(add(mul(neg(t), sub(a, b)), margin)), reduction, dtype)


@composed(
    samples=samples(
        Sample((randn(4), _signs), grad=(0,)), Sample((randn(3, 4) * 50, _signs), {"reduction": "none"}, grad=(0,))
    )
)
def soft_margin_loss(input: Operand, target: Operand, reduction: str = "mean") -> Value:
    """log(1 + e^(-target x)) for targets 1 and -1; it does not overflow."""
    (x, t), dtype = _floats("soft_margin_loss", input, target)
    return reduced(softplus(neg(mul(x, t)), threshold=1e9), reduction, dtype)


@composed(
    samples=samples(
        Sample((randn(4, 3), randn(4, 3, seed=1), _signs), grad=(0, 1)),
        Sample((randn(4, 3), randn(4, 3, seed=1), _signs), {"margin": -0.25, "reduction": "none"}, grad=(0, 1)),
        Sample((randn(3), randn(3, seed=1), np.asarray(-1.0), -1.0), grad=(0, 1)),
    )
)
def cosine_embedding_loss(
    input1: Operand, input2: Operand, target: Operand, margin: float = 0.0, reduction: str = "mean"
) -> Value:
    """1 - cos where target is 1, max(0, cos - margin) where it is -1, cos of the angle between the last axes.

    input1, input2: [N, D] with target [N], or [D] with a target of no axes.
    """
    a, b, t = as_value(input1), as_value(input2), as_value(target)
    if a.ndim not in (1, 2) or a.shape != b.shape or t.shape != a.shape[:-1]:
        raise ShapeError(f"needs two [N, D] and a target [N], or two [D] and (), got {a.shape}, {b.shape}, {t.shape}")
    (a, b), dtype = _floats("cosine_embedding_loss", a, b)
    lengths = mul(add(sum(square(a), -1), 1e-12), add(sum(square(b), -1), 1e-12))
    cosine = div(sum(mul(a, b), -1), sqrt(lengths))
    near, far = where(equal(t, 1), sub(1.0, cosine), 0.0), where(equal(t, -1), _hinge(sub(cosine, margin)), 0.0)
    return reduced(add(near, far), reduction, dtype)


# ---- several classes -------------------------------------------------------------------------------------------


@composed(
    samples=samples(
        Sample((randn(4, 3), np.array([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])), grad=(0,)),
        Sample((randn(4, 3), randn(4, 3, low=0, high=1), randn(3, seed=2)), {"reduction": "none"}, grad=(0, 1)),
    )
)
def multilabel_soft_margin_loss(
    input: Operand, target: Operand, weight: Operand | None = None, reduction: str = "mean"
) -> Value:
    """-(t log s(x) + (1 - t) log s(-x)) weight, s the sigmoid, averaged over the last axis, that of the classes."""
    _same_shape(as_value(input), as_value(target))
    (x, t), dtype = _floats("multilabel_soft_margin_loss", input, target)
    if not x.ndim:
        raise ShapeError("input needs a class axis, got ()")
    loss = add(mul(t, softplus(neg(x), threshold=1e9)), mul(sub(1.0, t), softplus(x, threshold=1e9)))
    loss = loss if weight is None else mul(loss, call("cast", as_value(weight), x.dtype))
    return reduced(mean(loss, -1), reduction, dtype)


def _rows(input: Operand, target: Operand, whole: bool) -> tuple[Value, Value, bool, DType]:
    """Scores [N, C] in the compute type, targets [N] or (whole) [N, C], whether there was no N, the result's dtype."""
    x, t = as_value(input), as_value(target)
    wanted = x.shape if whole else x.shape[:-1]
    if x.ndim not in (1, 2) or t.shape != wanted:
        raise ShapeError(f"input must be [N, C] or [C], got {x.shape}; target {wanted}, got {t.shape}")
    if not x.dtype.is_float or not t.dtype.is_integer:
        raise DTypeError(f"needs floating input and integer target, got {x.dtype} and {t.dtype}")
    single = x.ndim == 1
    rows, targets = (call("expand_dims", v, 0) for v in (x, t)) if single else (x, t)
    return wide(rows), targets, single, x.dtype


@composed(
    samples=samples(
        Sample((randn(5, 4), integers(5, high=4)), grad=(0,)),
        Sample((randn(5, 4), integers(5, high=4), 2, 0.5, randn(4, low=0.5, high=2)), {"reduction": "none"}, grad=(0,)),
        Sample((randn(4), np.asarray(2)), {"reduction": "sum"}),
    )
)
def multi_margin_loss(
    input: Operand,
    target: Operand,
    p: int = 1,
    margin: float = 1.0,
    weight: Operand | None = None,
    reduction: str = "mean",
) -> Value:
    """sum over classes i != t of max(0, margin - x[t] + x[i])^p weight[t] / C for scores x: [N, C] or [C].

    target: integers [N] or (); a class out of range scores as if its own score were 0. p: 1 or 2. weight: [C].
    """
    if p not in (1, 2):
        raise ArgumentError(f"p must be 1 or 2, got {p}")
    x, t, single, dtype = _rows(input, target, False)
    own = equal(call("expand_dims", t, 1), call("arange", x.shape[1], dtype=t.dtype))
    gap = _hinge(add(sub(x, sum(where(own, x, 0.0), 1, keepdims=True)), margin))
    terms = where(own, 0.0, gap if p == 1 else square(gap))
    if weight is not None:
        weight = as_value(weight)
        if weight.shape != (x.shape[1],):
            raise ShapeError(f"weight must have shape ({x.shape[1]},), got {weight.shape}")
        terms = mul(terms, sum(where(own, call("cast", weight, x.dtype), 0.0), 1, keepdims=True))
    loss = mul(sum(terms, 1), 1 / max(x.shape[1], 1))
    return reduced(call("reshape", loss, ()) if single else loss, reduction, dtype)


@composed(
    samples=samples(
        Sample((randn(3, 4), np.array([[3, 0, -1, 1], [1, 2, 0, 3], [-1, 2, 1, 0]])), grad=(0,)),
        Sample((randn(4), np.array([2, -1, 0, 0])), {"reduction": "sum"}, grad=(0,)),
    )
)
def multilabel_margin_loss(input: Operand, target: Operand, reduction: str = "mean") -> Value:
    """sum of max(0, 1 - x[j] + x[i]) / C over a sample's labels j and the classes i that are none of them.

    input: scores [N, C] or [C]; target: of that shape, integers, a sample's labels up to the first negative number.
    """
    x, t, single, dtype = _rows(input, target, True)
    count = x.shape[1]
    places = call("arange", count, dtype=t.dtype)
    ended = logical_and(
        less(call("expand_dims", t, 1), 0), greater_equal(call("expand_dims", places, 1), places)
    )  # [N, label, earlier]
    given = logical_not(any(ended, 2))
    hit = logical_and(equal(call("expand_dims", t, 2), places), call("expand_dims", given, 2))  # [N, label, class]
    score = sum(where(hit, call("expand_dims", x, 1), 0.0), 2, keepdims=True)
    gap = _hinge(add(sub(call("expand_dims", x, 1), score), 1.0))
    counts = logical_and(call("expand_dims", given, 2), call("expand_dims", logical_not(any(hit, 1)), 1))
    loss = mul(sum(where(counts, gap, 0.0), (1, 2)), 1 / max(count, 1))
    return reduced(call("reshape", loss, ()) if single else loss, reduction, dtype)


# ---- triplets --------------------------------------------------------------------------------------------------

_triple = (randn(4, 3), randn(4, 3, seed=1), randn(4, 3, seed=2))


def _triplet(near: Value, far: Value, swapped: Value | None, margin: float, reduction: str, dtype: DType) -> Value:
    if margin <= 0:
        raise ArgumentError(f"margin must be positive, got {margin}")
    far = far if swapped is None else minimum(far, swapped)
    return reduced(_hinge(add(sub(near, far), margin)), reduction, dtype)


@composed(
    samples=samples(
        Sample(_triple),
        Sample(_triple, {"swap": True, "reduction": "none", "margin": 0.5}),
        Sample(_triple, {"p": 1.0, "reduction": "sum"}),
    )
)
def triplet_margin_loss(
    anchor: Operand,
    positive: Operand,
    negative: Operand,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Value:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), d the p-norm over the last axis.

    swap: the negative's distance is the lesser of those to anchor and positive. Balntas et al. 2016.
    """
    (a, b, c), dtype = _floats("triplet_margin_loss", anchor, positive, negative)
    swapped = pairwise_distance(b, c, p, eps) if swap else None
    return _triplet(pairwise_distance(a, b, p, eps), pairwise_distance(a, c, p, eps), swapped, margin, reduction, dtype)


@composed(samples=samples(Sample(_triple), Sample(_triple, {"swap": True, "margin": 0.5, "reduction": "sum"})))
def triplet_margin_with_distance_loss(
    anchor: Operand,
    positive: Operand,
    negative: Operand,
    *,
    distance_function: Callable[[Value, Value], Value] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Value:
    """As triplet_margin_loss with a distance of one's own: from two Values [N, ...] to one; default the 2-norm."""
    (a, b, c), dtype = _floats("triplet_margin_with_distance_loss", anchor, positive, negative)
    distance = distance_function or pairwise_distance
    return _triplet(distance(a, b), distance(a, c), distance(b, c) if swap else None, margin, reduction, dtype)
