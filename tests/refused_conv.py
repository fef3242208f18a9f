"""What convolutions refuse: see test_ops_errors.py, which runs every refused_*.py."""

from __future__ import annotations

from symbols import f, i

import flame_triton as ft
from flame_triton.errors import ArgumentError, DTypeError, ShapeError

# fmt: off
REFUSED = [
    # name, call, error, part of the message
    ("conv1d", lambda: ft.conv1d(f(9), f(4, 3, 3)), ShapeError, r"input must be .* got \(9,\)"),
    ("conv1d", lambda: ft.conv1d(f(2, 3, 9), f(4, 3)), ShapeError, r"weight must have 3 axes, got \(4, 3\)"),
    ("conv1d", lambda: ft.conv1d(f(2, 3, 9), f(4, 3, 3), padding="same", stride=2), ArgumentError, "stride 1"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 4, 4, 4), f(4, 3, 3, 3)), ShapeError, r"\(2, 3, 4, 4, 4\)"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 5, 3, 3)), ShapeError, r"\(2, 3, 8, 8\) must have 5 channels"),
    ("conv2d", lambda: ft.conv2d(f(2, 6, 8, 8), f(4, 2, 3, 3), groups=3), ShapeError, "groups=3 does not divide"),
    ("conv2d", lambda: ft.conv2d(f(2, 6, 8, 8), f(4, 2, 3, 3), groups=2), ShapeError, "must have 4 channels"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), groups=0), ArgumentError, "groups must be at least 1"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), groups=-1), ArgumentError, "groups must be at least 1"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 2), f(4, 3, 3, 3)), ShapeError, r"reaches over \(3, 3\).*\(8, 2\)"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), dilation=4), ShapeError, r"\(9, 9\)"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), stride=0), ArgumentError, "stride must be at least 1"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), stride=(1, -1)), ArgumentError, "stride"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), stride=(1, 1, 1)), ArgumentError, "got 3 numbers"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), stride=1.5), ArgumentError, "stride must be an int"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), dilation=0), ArgumentError, "dilation must be at least"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), padding=-1), ArgumentError, "padding must be"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), padding="full"), ArgumentError, "'full'"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), f(3)), ShapeError, r"bias must be \[4\], got \(3,\)"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), f(4, 1, 1)), ShapeError, r"bias .*\(4, 1, 1\)"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3, dtype="float64")), DTypeError, "float64"),
    ("conv2d", lambda: ft.conv2d(f(2, 3, 8, 8), f(4, 3, 3, 3), f(4, dtype="bfloat16")), DTypeError, "bias is bfloat16"),
    ("conv2d", lambda: ft.conv2d(i(2, 3, 8, 8), i(4, 3, 3, 3)), DTypeError, "int64"),
    ("conv3d", lambda: ft.conv3d(f(3, 8, 8), f(4, 3, 3, 3, 3)), ShapeError, r"\(3, 8, 8\)"),
    ("conv_transpose1d", lambda: ft.conv_transpose1d(f(2, 3, 9), f(4, 3, 3)), ShapeError, "must have 4 channels"),
    ("conv_transpose1d", lambda: ft.conv_transpose1d(f(2, 4, 2), f(4, 3, 3), padding=4), ShapeError, r"sizes \(-4,\)"),
    ("conv_transpose2d", lambda: ft.conv_transpose2d(f(2, 4, 5, 5), f(4, 3, 3, 3), stride=2, output_padding=2),
     ArgumentError, "output_padding"),
    ("conv_transpose2d", lambda: ft.conv_transpose2d(f(2, 4, 5, 5), f(4, 3, 3, 3), output_padding=-1), ArgumentError,
     "output_padding must be at least 0"),
    ("conv_transpose2d", lambda: ft.conv_transpose2d(f(2, 4, 5, 5), f(4, 3, 3, 3), f(4)), ShapeError, r"\[3\]"),
    ("conv_transpose2d", lambda: ft.conv_transpose2d(f(2, 4, 5, 5), f(4, 3, 3, 3), groups=3), ShapeError, "groups=3"),
    ("conv_transpose3d", lambda: ft.conv_transpose3d(f(2, 4, 5, 5), f(4, 3, 3, 3)), ShapeError, "weight must have 5"),
]
# fmt: on

ACCEPTS_ALL: set[str] = set()
