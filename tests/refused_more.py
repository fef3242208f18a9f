"""What renorm, angle and masks of values refuse: see test_ops_errors.py, which runs every refused_*.py."""

from __future__ import annotations

from symbols import b, f, i

import flame_triton as ft
from flame_triton.errors import ArgumentError, DTypeError, ShapeError

# fmt: off
REFUSED = [
    # name, call, error, part of the message
    ("renorm", lambda: ft.renorm(f(3), 2, 0, 1.0), ShapeError, r"two axes, got \(3,\)"),
    ("renorm", lambda: ft.renorm(f(3, 4), 2, 2, 1.0), ShapeError, "dim 2"),
    ("renorm", lambda: ft.renorm(f(3, 4), 0, 0, 1.0), ArgumentError, "p > 0"),
    ("renorm", lambda: ft.renorm(f(3, 4), 2, 0, -1.0), ArgumentError, "maxnorm >= 0"),
    ("renorm", lambda: ft.renorm(i(3, 4), 2, 0, 1.0), DTypeError, "int64"),
    ("index_put", lambda: ft.index_put(f(3, 4), [b(4)], 1.0), ShapeError, r"mask \(4,\) does not fit the axes 0 to 0"),
    ("index_put", lambda: ft.index_put(f(3, 4), [b(3)], f(2, 5)), ShapeError, "broadcast"),
    ("index_put", lambda: ft.index_put(f(3, 4), [b(3, 4)], f(2, 5)), ShapeError, "broadcast"),
    ("index_put", lambda: ft.index_put(f(3, 4), [b(3), i(3)], 1.0), ArgumentError, "mask"),
    ("getitem", lambda: f(3, 4)[b(3)], ArgumentError, "masks must be constant"),
    ("index_select", lambda: ft.index_select(f(), 0, i(2)), ShapeError, "one element"),
    ("index_add", lambda: ft.index_add(f(), 0, i(2), f()), ShapeError, "source"),
    ("gaussian_nll_loss", lambda: ft.gaussian_nll_loss(f(3, 4), f(3, 5), 1.0), ShapeError, "broadcast"),
    ("gaussian_nll_loss", lambda: ft.gaussian_nll_loss(f(3, 4), f(3, 4), f(1, 1)), ShapeError, r"var \(1, 1\)"),
]
# fmt: on

ACCEPTS_ALL = {"angle"}
