"""Refusals that torch's own suite asked for: see test_ops_errors.py."""

from __future__ import annotations

import math

from symbols import b, f

import flame_triton as ft
from flame_triton.errors import ArgumentError, DTypeError, ShapeError

REFUSED = [
    # name, call, error, part of the message
    ("square", lambda: ft.square(b(3)), DTypeError, "bool"),
    ("narrow", lambda: ft.narrow(f(), 0, 0, 1), ShapeError, "0-d"),
    ("roll", lambda: ft.roll(f(), 1, 0), ShapeError, "0-d"),
    ("split", lambda: ft.split(f(), 1), ShapeError, "0-d"),
    ("chunk", lambda: ft.chunk(f(), 1), ShapeError, "0-d"),
    ("cross", lambda: ft.cross(f(5, 3), f(5, 1)), ShapeError, "size 3"),
    ("cross", lambda: ft.cross(f(3, 5), f(5), 0), ShapeError, "size 3"),
    ("tensor_split", lambda: ft.tensor_split(f(5), "ab"), ArgumentError, "indices"),
    ("arange", lambda: ft.arange(0, math.inf, 2), ArgumentError, "finite"),
    ("arange", lambda: ft.arange(0, math.nan), ArgumentError, "finite"),
]

ACCEPTS_ALL: set[str] = set()
