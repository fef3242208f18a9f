"""What writing by index refuses: see test_ops_errors.py."""

from __future__ import annotations

import numpy as np
from symbols import f, i

import flame_triton as ft
from flame_triton.errors import ArgumentError, DTypeError, ShapeError
from flame_triton.ops.scatter import scatter_extreme_rows

# fmt: off
REFUSED = [
    ("take", lambda: ft.take(f(5, 3), i(2), mode="raise"), ArgumentError, "clip"),
    ("take_along_axis", lambda: ft.take_along_axis(f(5, 3), i(2)), ShapeError, "as many axes"),
    ("take_along_axis", lambda: ft.take_along_axis(f(5, 3), i(2, 3), 1), ShapeError, "broadcast"),
    ("put_along_axis", lambda: ft.put_along_axis(f(5, 3), i(5, 2), f(3, 3), 1), ShapeError, "broadcast"),
    ("scatter", lambda: ft.scatter(f(5), 0, i(3), f(2)), ShapeError, "smaller than index"),
    ("scatter", lambda: ft.scatter(f(5), 0, i(2), f(2, dtype="float64")), DTypeError, "float64"),
    ("scatter_reduce", lambda: ft.scatter_reduce(f(5), 0, i(2), f(2), "max"), ArgumentError, "amax"),
    ("scatter_reduce", lambda: ft.scatter_reduce(f(5, 2), 0, i(2), f(2), "sum"), ShapeError, "does not fit"),
    ("scatter_extreme_rows", lambda: scatter_extreme_rows(i(2), f(3, 4), 5), ShapeError, "values"),
    ("index_add", lambda: ft.index_add(f(5, 3), 0, i(2), f(3, 3)), ShapeError, r"\(2, 3\)"),
    ("index_copy", lambda: ft.index_copy(f(5, 3), 0, i(2, 2), f(2, 3)), ShapeError, "at most one"),
    ("index_fill", lambda: ft.index_fill(f(5, 3), 0, i(2), f(3)), ShapeError, "0-d"),
    ("index_reduce", lambda: ft.index_reduce(f(5), 0, i(2), f(2), "sum"), ArgumentError, "prod"),
    ("index_put", lambda: ft.index_put(f(5), (i(2), i(2)), 1.0), ShapeError, "2 indices"),
    ("index_put", lambda: ft.index_put(f(5), (None,), 1.0), ArgumentError, "at least one"),
    ("index_put", lambda: ft.index_put(f(5, 4), (i(2),), f(3)), ShapeError, "broadcast"),
    ("getitem", lambda: f(5)[f(2) > 0], ArgumentError, "constant"),
    ("getitem", lambda: f(5, 4)[np.array([0.5])], DTypeError, "integers"),
    ("getitem", lambda: f(5, 4)[..., 0, ...], ArgumentError, "Ellipsis"),
    ("getitem", lambda: f(5, 4)[np.array([0, 1]), np.array([0, 1, 2])], ShapeError, "broadcast"),
    ("masked_scatter", lambda: ft.masked_scatter(f(5), f(5) > 0, i(5)), DTypeError, "int64"),
    ("slice_scatter", lambda: ft.slice_scatter(f(5), f(2), 0, 0, 3), ShapeError, r"\(3,\)"),
    ("slice_scatter", lambda: ft.slice_scatter(f(5), f(5), 0, step=-1), ArgumentError, "positive"),
    ("select_scatter", lambda: ft.select_scatter(f(5, 2), f(5), 0, 0), ShapeError, r"\(2,\)"),
    ("select_scatter", lambda: ft.select_scatter(f(5), f(), 0, 5), ShapeError, "out of range"),
    ("diagonal_scatter", lambda: ft.diagonal_scatter(f(5, 3), f(5)), ShapeError, r"\(3,\)"),
    ("diagonal_scatter", lambda: ft.diagonal_scatter(f(5, 3), f(3), 0, 1, -1), ShapeError, "both"),
    ("bincount", lambda: ft.bincount(i(5)), ArgumentError, "minlength"),
    ("bincount", lambda: ft.bincount(i(5), f(4), 3), ShapeError, r"\(5,\)"),
    ("histc", lambda: ft.histc(f(5), 0), ArgumentError, "bins"),
    ("uniform_like", lambda: ft.uniform_like(i(3), ft.rng_seed(0)), DTypeError, "floating"),
    ("normal_like", lambda: ft.normal_like(i(3), ft.rng_seed(0)), DTypeError, "floating"),
    ("exponential", lambda: ft.exponential((3,), ft.rng_seed(0), 0.0), ArgumentError, "rate"),
    ("log_normal", lambda: ft.log_normal((3,), ft.rng_seed(0), dtype="int64"), DTypeError, "floating"),
    ("cauchy", lambda: ft.cauchy((3,), ft.rng_seed(0), scale=-1.0), ArgumentError, "scale"),
    ("laplace", lambda: ft.laplace((3,), ft.rng_seed(0), scale=-1.0), ArgumentError, "scale"),
    ("gumbel", lambda: ft.gumbel((3,), ft.rng_seed(0), scale=-1.0), ArgumentError, "scale"),
    ("geometric", lambda: ft.geometric(0.0, (3,), ft.rng_seed(0)), ArgumentError, r"\(0, 1\]"),
    ("randperm", lambda: ft.randperm(-1, ft.rng_seed(0)), ShapeError, "negative"),
    ("multinomial", lambda: ft.multinomial(f(3), 4, ft.rng_seed(0)), ArgumentError, "4 of 3"),
    ("multinomial", lambda: ft.multinomial(i(3), 2, ft.rng_seed(0)), DTypeError, "int64"),
    ("dropout1d", lambda: ft.dropout1d(f(3), 0.5, ft.rng_seed(0)), ShapeError, "2 or 3 axes"),
    ("dropout2d", lambda: ft.dropout2d(f(3, 2, 2), 0.5), ArgumentError, "seed="),
    ("dropout3d", lambda: ft.dropout3d(f(3, 2, 2, 2), 1.5, ft.rng_seed(0)), ArgumentError, r"\[0, 1\]"),
    ("alpha_dropout", lambda: ft.alpha_dropout(i(3), 0.5, ft.rng_seed(0)), DTypeError, "int64"),
    ("feature_alpha_dropout", lambda: ft.feature_alpha_dropout(f(3), 0.5, ft.rng_seed(0)), ShapeError, "N, C"),
    ("gumbel_softmax", lambda: ft.gumbel_softmax(f(3), ft.rng_seed(0), tau=0.0), ArgumentError, "tau"),
    ("rrelu", lambda: ft.rrelu(f(3), 0.5, 0.1), ArgumentError, "lower"),
    ("rrelu", lambda: ft.rrelu(f(3), training=True), ArgumentError, "seed="),
    ("embedding_bag", lambda: ft.embedding_bag(i(5), f(4, 3)), ShapeError, "offsets"),
    ("embedding_bag", lambda: ft.embedding_bag(i(5), f(4, 3), (1, 2)), ArgumentError, "offsets"),
    ("embedding_bag", lambda: ft.embedding_bag(i(2, 5), f(4, 3), mode="min"), ArgumentError, "max"),
]
# fmt: on

ACCEPTS_ALL: set[str] = set()
