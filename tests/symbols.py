"""Short names for inputs in tables of calls."""

from __future__ import annotations

import flame_triton as ft


def f(*shape: int, dtype: str = "float32") -> ft.Value:
    return ft.input(shape, dtype)


def i(*shape: int) -> ft.Value:
    return ft.input(shape, "int64")


def b(*shape: int) -> ft.Value:
    return ft.input(shape, "bool")
