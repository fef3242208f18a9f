"""What multi-tensor maps and rounding at random refuse, for test_ops_errors.py."""

from __future__ import annotations

import numpy as np
from symbols import f, i

import flame_triton as ft
from flame_triton.errors import ArgumentError, DTypeError, GraphError, ShapeError

# fmt: off
REFUSED = [
    ("foreach", lambda: ft.foreach(lambda x, r: x * r, [[f(2)]], each=np.ones((2, 1))), ShapeError, r"\(1, n\)"),
    ("foreach", lambda: ft.foreach(lambda x: x, [[f(2)]], each=np.ones((1, 0))), ShapeError, "each must have"),
    ("foreach", lambda: ft.foreach(lambda x, k: ft.arange(3), [[f(2)]], index=True), GraphError, "arange"),
    ("stochastic_round", lambda: ft.stochastic_round(f(2), ft.rng_seed(0), "float16"), DTypeError, "float16"),
    ("stochastic_round", lambda: ft.stochastic_round(i(2), ft.rng_seed(0)), DTypeError, "int64"),
    ("stochastic_round", lambda: ft.stochastic_round(f(2), f(2)), ArgumentError, "seed"),
]
# fmt: on

ACCEPTS_ALL: set[str] = set()
