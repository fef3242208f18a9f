"""Proofs: gradient checks, tolerances, the registry's samples and random graphs. For this package's tests, for
`flame-triton check`, and for ops of your own.

ft.testing.check_grads(lambda x, w: ft.tanh(x @ w), (3, 4), (4, 5), order=2)
ft.testing.assert_close(actual, reference, "bfloat16")
"""

from ..ir.op import Sample
from .cases import Case, cases, flatten, user_cases
from .compare import TOLERANCE, assert_close, rms
from .grads import ELEMENTWISE, EPS, GRADIENT_TOLERANCE, Run, check_grads, in_float64
from .graphs import RandomGraph, random_graph
from .proofs import (
    PROOFS,
    Finding,
    GraphFinding,
    check_gradient,
    check_graph,
    check_kernels,
    differentiable,
    prove,
    prove_graphs,
)

__all__ = [
    "ELEMENTWISE",
    "EPS",
    "GRADIENT_TOLERANCE",
    "PROOFS",
    "TOLERANCE",
    "Case",
    "Finding",
    "GraphFinding",
    "RandomGraph",
    "Run",
    "Sample",
    "assert_close",
    "cases",
    "check_gradient",
    "check_grads",
    "check_graph",
    "check_kernels",
    "differentiable",
    "flatten",
    "in_float64",
    "prove",
    "prove_graphs",
    "random_graph",
    "rms",
    "user_cases",
]
