"""Proofs: gradient checks, tolerances, the registry's samples and random graphs. For this package's tests, for
`flame-triton check`, and for ops of your own.

ft.testing.check_grads(lambda x, w: ft.tanh(x @ w), (3, 4), (4, 5), order=2)
ft.testing.assert_close(actual, reference, "bfloat16")
"""

from ..ir.op import Sample
from .cases import Case, cases, flatten, user_cases
from .compare import TOLERANCE, assert_close, rms
from .grads import ELEMENTWISE, EPS, GRADIENT_TOLERANCE, Run, check_grads, in_float64
from .proofs import Finding, check_gradient, check_kernels, differentiable, prove

__all__ = [
    "ELEMENTWISE",
    "EPS",
    "GRADIENT_TOLERANCE",
    "TOLERANCE",
    "Case",
    "Finding",
    "Run",
    "Sample",
    "assert_close",
    "cases",
    "check_gradient",
    "check_grads",
    "check_kernels",
    "differentiable",
    "flatten",
    "in_float64",
    "prove",
    "rms",
    "user_cases",
]
