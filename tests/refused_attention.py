"""What attention refuses: see test_ops_errors.py."""

from __future__ import annotations

from typing import Any

from symbols import b, f, i

import flame_triton as ft
from flame_triton.errors import ArgumentError, DTypeError, ShapeError

NAME = "scaled_dot_product_attention"
attend: Any = ft.scaled_dot_product_attention

# fmt: off
REFUSED = [
    # name, call, error, part of the message
    (NAME, lambda: attend(f(4), f(4), f(4)), ShapeError, "two axes"),
    (NAME, lambda: attend(f(2, 4), f(3, 5), f(3, 4)), ShapeError, r"query \(2, 4\), key \(3, 5\).* do not fit"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(5, 4)), ShapeError, "do not fit"),
    (NAME, lambda: attend(f(2, 3, 4, 5), f(2, 2, 4, 5), f(2, 2, 4, 5)), ShapeError, "broadcast"),
    (NAME, lambda: attend(f(2, 257), f(3, 257), f(3, 4)), ShapeError, r"\[1, 256\]"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(3, 257)), ShapeError, r"\[1, 256\]"),
    (NAME, lambda: attend(f(2, 0), f(3, 0), f(3, 4)), ShapeError, r"\[1, 256\]"),
    (NAME, lambda: attend(i(2, 4), i(3, 4), i(3, 4)), DTypeError, "one floating"),
    (NAME, lambda: attend(f(2, 4), f(3, 4, dtype="float64"), f(3, 4)), DTypeError, "one floating"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(3, 4), i(2, 3)), DTypeError, "bool or floating"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(3, 4), b(3, 2)), ShapeError, r"attn_mask \(3, 2\)"),
    (NAME, lambda: attend(f(6, 2, 4), f(6, 3, 4), f(6, 3, 4), f(5, 2, 3)), ShapeError, "broadcast"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(3, 4), b(2, 3), is_causal=True), ArgumentError, "exclude"),
    (NAME, lambda: attend(f(5, 2, 4), f(3, 3, 4), f(3, 3, 4), enable_gqa=True), ShapeError, "5 query heads"),
    (NAME, lambda: attend(f(6, 2, 4), f(3, 3, 4), f(2, 3, 4), enable_gqa=True), ShapeError, "same number of heads"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(3, 4), dropout_p=1.0), ArgumentError, r"\[0, 1\)"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(3, 4), dropout_p=-0.1), ArgumentError, r"\[0, 1\)"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(3, 4), dropout_p=0.1), ArgumentError, "seed"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(3, 4), dropout_p=0.1, seed=i(3)), ArgumentError, r"shape \(2,\)"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(3, 4), key_lengths=f()), DTypeError, "integers"),
    (NAME, lambda: attend(f(5, 2, 2, 4), f(2, 3, 4), f(2, 3, 4), key_lengths=i(2)), ShapeError, r"\(2,\).*\(5,\)"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(3, 4), window=3), ArgumentError, "window"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(3, 4), window=(1, -1)), ArgumentError, "window"),
    (NAME, lambda: attend(f(2, 4), f(3, 4), f(3, 4), causal_alignment="centre"), ArgumentError, "bottom-right"),
]
# fmt: on

ACCEPTS_ALL: set[str] = set()
