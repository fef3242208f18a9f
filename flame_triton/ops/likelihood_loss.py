"""Losses that are negative log-likelihoods or divergences of distributions: names and arguments of
torch.nn.functional. 16-bit floats are computed in float32 and rounded once, at the end.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import ArgumentError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Sample, call
from ..types import DType
from .arithmetic import add, clamp_min, div, mul, neg, square, sub
from .define import Operand, as_value, composed, define, floating, in_compute_type, promote_operands, randn, samples
from .define import wide as widened
from .elementary import exp, log, log1p
from .leaf import stop_gradient
from .logic import equal, greater, where
from .loss import reduced
from .reduce import sum

__all__ = ["binary_cross_entropy", "gaussian_nll_loss", "kl_div", "poisson_nll_loss"]


def _pair(name: str, x: Operand, target: Operand) -> tuple[Value, Value, DType]:
    """x and target in the compute type, and the dtype of the result. Shapes must be equal: broadcasting hides bugs."""
    x, target = as_value(x), as_value(target)
    if x.shape != target.shape:
        raise ShapeError(f"input {x.shape} and target {target.shape} must have one shape")
    x, target = promote_operands(name, x, target, float_result=True)
    return widened(x), widened(target), x.dtype


_probable = randn(4, 5, seed=1, low=0, high=1)
_sparse = np.where(randn(4, 5, seed=1) > 0, _probable, 0.0)


@composed(
    samples=samples(
        Sample((randn(4, 5), _probable)),
        Sample((randn(4, 5), _sparse), {"reduction": "batchmean"}, grad=(0,)),
        Sample((randn(4, 5), randn(4, 5, seed=1)), {"reduction": "sum", "log_target": True}),
        Sample((randn(7), randn(7, low=0, high=1)), {"reduction": "none"}),
    )
)
def kl_div(input: Operand, target: Operand, reduction: str = "mean", log_target: bool = False) -> Value:
    """target (log target - input), the pointwise KL divergence from input, log-probabilities, to target.

    log_target: target holds log-probabilities. reduction: also "batchmean", the sum over the size of the first axis,
    which is the mathematical one. A target of 0 counts nothing.
    """
    x, t, dtype = _pair("kl_div", input, target)
    if log_target:
        loss = mul(exp(t), sub(t, x))
    else:
        none = equal(t, 0.0)
        loss = sub(where(none, 0.0, mul(t, log(where(none, 1.0, t)))), mul(t, x))
    if reduction != "batchmean":
        return reduced(loss, reduction, dtype)
    if not x.ndim:
        raise ShapeError('reduction "batchmean" needs a first axis')
    return call("cast", mul(sum(loss), 1 / max(x.shape[0], 1)), dtype)


# ---- binary cross-entropy --------------------------------------------------------------------------------------


def _logs(x: Value) -> tuple[Value, Value]:
    """log x and log(1 - x), at least -100, so that a wrong certainty costs much but not everything."""
    return clamp_min(log(x), -100.0), clamp_min(log1p(neg(x)), -100.0)


def _bce_build(node: Node) -> Value:
    x, t = map(widened, node.inputs)
    yes, no = _logs(x)
    return call("cast", neg(add(mul(t, yes), mul(sub(1.0, t), no))), node.type.dtype)


def _bce_ref(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return -(t * np.maximum(np.log(x), -100) + (1 - t) * np.maximum(np.log1p(-x), -100))


def _bce_rule(g: Value, y: Value, x: Value, t: Value) -> list[Value | None]:
    """dx = g (x - t) / (x (1 - x)), the divisor at least 1e-12 as in torch; dt = g (log(1 - x) - log x)."""
    yes, no = _logs(x)
    slope = div(sub(x, t), clamp_min(mul(x, sub(1.0, x)), 1e-12))
    return [mul(g, slope), mul(g, sub(no, yes))]


@define(
    "binary_cross_entropy_terms",
    infer=floating,
    lowering=Composite(_bce_build),
    ref=_bce_ref,
    vjp=in_compute_type(_bce_rule),
    samples=samples(
        Sample((randn(4, 5, low=0.05, high=0.95), _probable)),
        Sample((randn(4, 5, low=0.1, high=0.9), _probable, randn(5, seed=2, low=0, high=1)), {"reduction": "sum"}),
        Sample((randn(7, low=0.1, high=0.9), randn(7, low=0, high=1)), {"reduction": "none"}),
        Sample((np.array([0.0, 1.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0, 0.25])), {"reduction": "none"}, grad=()),
    ),
)
def binary_cross_entropy(
    input: Operand, target: Operand, weight: Operand | None = None, reduction: str = "mean"
) -> Value:
    """-(t log x + (1 - t) log(1 - x)) weight for probabilities x in [0, 1]; logarithms are at least -100.

    binary_cross_entropy_with_logits is more accurate. weight broadcasts to input.
    """
    x, t, dtype = _pair("binary_cross_entropy", input, target)
    loss = make("binary_cross_entropy_terms", [x, t]).out
    loss = loss if weight is None else mul(loss, weight)
    return reduced(loss, reduction, dtype)


# ---- counts and regression with a variance ---------------------------------------------------------------------

_counts = np.array([[0.0, 1.0, 2.0], [5.0, 3.0, 0.5]])


@composed(
    samples=samples(
        Sample((randn(2, 3), _counts)),
        Sample((randn(2, 3, low=0.5, high=2), _counts, False), {"reduction": "sum"}),
        Sample((randn(2, 3), _counts, True, True), {"reduction": "none"}, grad=(0,)),
    )
)
def poisson_nll_loss(
    input: Operand,
    target: Operand,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Value:
    """e^x - t x, the negative log-likelihood of counts t under a Poisson distribution of rate e^x.

    log_input=False: x is the rate itself, x - t log(x + eps). full: with Stirling's t log t - t + log(2 pi t) / 2 for
    log t!, where t > 1.
    """
    x, t, dtype = _pair("poisson_nll_loss", input, target)
    loss = sub(exp(x), mul(t, x)) if log_input else sub(x, mul(t, log(add(x, eps))))
    if full:
        many = greater(t, 1.0)
        safe = where(many, t, 1.0)
        stirling = add(sub(mul(safe, log(safe)), safe), mul(log(mul(safe, 2 * math.pi)), 0.5))
        loss = add(loss, where(many, stirling, 0.0))
    return reduced(loss, reduction, dtype)


@composed(
    samples=samples(
        Sample((randn(4, 3), randn(4, 3, seed=1), randn(4, 3, seed=2, low=0.5, high=2))),
        Sample((randn(4, 3), randn(4, 3, seed=1), randn(4, seed=2, low=0.5, high=2), True, 1e-6, "none")),
        Sample((randn(4, 3), randn(4, 3, seed=1), randn(4, 1, seed=2, low=0.5, high=2), False, 1e-6, "sum")),
        Sample((randn(4, 3), randn(4, 3, seed=1), 0.5)),
        Sample((randn(2, 4, 3), randn(4, 1, seed=1), randn(2, 1, 3, seed=2, low=0.5, high=2), True)),
    )
)
def gaussian_nll_loss(
    input: Operand,
    target: Operand,
    var: Operand,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Value:
    """(log var + (input - target)^2 / var) / 2, var at least eps, which its gradient does not see.

    input and target broadcast. var: of input's shape, with one axis of size 1 instead, without the last axis, or one
    number. full: with log(2 pi) / 2. Nix and Weigend 1994.
    """
    shape = as_value(input).shape
    x, t = promote_operands("gaussian_nll_loss", input, target, float_result=True)
    x, t, dtype = widened(x), widened(t), x.dtype
    if eps <= 0:
        raise ArgumentError(f"eps must be positive, got {eps}")
    v = call("cast", as_value(var), x.dtype)
    if v.ndim and v.shape == shape[:-1] != shape:
        v = call("expand_dims", v, -1)
    others = [n for n, d in zip(v.shape, shape, strict=False) if n != d]
    if v.ndim and (v.ndim != len(shape) or others not in ([], [1])):
        raise ShapeError(f"var {v.shape} does not fit input {shape}")
    fixed = stop_gradient(v)
    v = add(sub(v, fixed), clamp_min(fixed, eps))
    loss = mul(add(log(v), div(square(sub(x, t)), v)), 0.5)
    return reduced(add(loss, 0.5 * math.log(2 * math.pi)) if full else loss, reduction, dtype)
