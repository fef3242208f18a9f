"""What scans, sorts and searches refuse: see test_ops_errors.py."""

from __future__ import annotations

from symbols import f, i

import flame_triton as ft
from flame_triton.errors import ArgumentError, DTypeError, ShapeError

# fmt: off
REFUSED = [
    ("cumsum", lambda: ft.cumsum(f(3, 4), 2), ShapeError, "axis 2"),
    ("cumprod", lambda: ft.cumprod(f(3, 4), -3), ShapeError, "axis -3"),
    ("cummax", lambda: ft.cummax(f(3, 4), 2), ShapeError, "axis 2"),
    ("cummin", lambda: ft.cummin(f(), 1), ShapeError, "axis 1"),
    ("logcumsumexp", lambda: ft.logcumsumexp(i(3), 0), DTypeError, "int64"),
    ("cumulative_trapezoid", lambda: ft.cumulative_trapezoid(i(3)), DTypeError, "int64"),
    ("cumulative_trapezoid", lambda: ft.cumulative_trapezoid(f(3, 4), f(3)), ShapeError, r"\(4,\)"),
    ("linear_recurrence", lambda: ft.linear_recurrence(f(3, 4), f(3)), ShapeError, "broadcast"),
    ("linear_recurrence", lambda: ft.linear_recurrence(i(3), i(3)), DTypeError, "int64"),
    ("sort", lambda: ft.sort(f(3), 1), ShapeError, "axis 1"),
    ("topk", lambda: ft.topk(f(3, 4), 5), ArgumentError, r"\[0, 4\]"),
    ("kthvalue", lambda: ft.kthvalue(f(3, 4), 0), ArgumentError, r"\[1, 4\]"),
    ("median", lambda: ft.median(f(0)), ShapeError, "no elements"),
    ("quantile", lambda: ft.quantile(f(3), 1.5), ArgumentError, r"\[0, 1\]"),
    ("quantile", lambda: ft.quantile(f(3), 0.5, interpolation="cubic"), ArgumentError, "cubic"),
    ("quantile", lambda: ft.quantile(i(3), 0.5), DTypeError, "int64"),
    ("mode", lambda: ft.mode(f(3, 0)), ShapeError, "no elements"),
    ("searchsorted", lambda: ft.searchsorted(f(2, 3), f(3, 3)), ShapeError, "leading axes"),
    ("bucketize", lambda: ft.bucketize(f(3), f(2, 2)), ShapeError, "one axis"),
]
# fmt: on

ACCEPTS_ALL = {"argsort", "msort", "nanmedian", "nanquantile"}  # as sort, median and quantile
