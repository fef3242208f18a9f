"""What the mathematics beside the core refuses: see test_ops_errors.py."""

from __future__ import annotations

from symbols import b, f, i

import flame_triton as ft
from flame_triton.errors import ArgumentError, DTypeError, ShapeError

# fmt: off
MATRICES = [
    ("mm", lambda: ft.mm(f(2, 3, 4), f(4, 5)), ShapeError, "2 and 2 axes"),
    ("bmm", lambda: ft.bmm(f(2, 3, 4), f(4, 5)), ShapeError, "3 and 3 axes"),
    ("bmm", lambda: ft.bmm(f(2, 3, 4), f(1, 4, 5)), ShapeError, "one batch size"),
    ("einsum", lambda: ft.einsum("ij,jk", f(2, 3)), ArgumentError, "2 operands, got 1"),
    ("einsum", lambda: ft.einsum("ij,jk->ik", f(2, 3), f(4, 5)), ShapeError, "'j' has two sizes, 3 and 4"),
    ("einsum", lambda: ft.einsum("ij->ik", f(2, 3)), ArgumentError, "names k"),
    ("einsum", lambda: ft.einsum("ij->ii", f(2, 3)), ArgumentError, "twice"),
    ("einsum", lambda: ft.einsum("i", f(2, 3)), ShapeError, "2 dimensions"),
    ("einsum", lambda: ft.einsum("i1", f(2, 3)), ArgumentError, "letters"),
    ("einsum", lambda: ft.einsum("ii", f(2, 3)), ShapeError, "two sizes"),
    ("einsum", lambda: ft.einsum(f(2, 3), [0, 99]), ArgumentError, "numbers from 0"),
    ("tensordot", lambda: ft.tensordot(f(2, 3), f(4, 5), 1), ShapeError, "differ in size"),
    ("tensordot", lambda: ft.tensordot(f(2, 3), f(3), 2), ShapeError, "cannot pair"),
    ("tensordot", lambda: ft.tensordot(f(2, 2), f(2, 2), ((0, 0), (0, 1))), ArgumentError, "twice"),
    ("diagonal", lambda: ft.diagonal(f(3)), ShapeError, "out of range"),
    ("diagonal", lambda: ft.diagonal(f(3, 3), 0, 1, -1), ShapeError, "two different"),
    ("diag_embed", lambda: ft.diag_embed(f()), ShapeError, "dimensions"),
    ("diag", lambda: ft.diag(f(2, 3, 4)), ShapeError, "vector or a matrix"),
    ("matrix_transpose", lambda: ft.matrix_transpose(f(3)), ShapeError, "two axes"),
    ("block_diag", lambda: ft.block_diag(f(2, 2, 2)), ShapeError, "matrices"),
    ("vander", lambda: ft.vander(f(3), -1), ArgumentError, "negative"),
    ("meshgrid", lambda: ft.meshgrid(f(3), f(2), indexing="yx"), ArgumentError, "indexing"),
    ("meshgrid", lambda: ft.meshgrid(f(3, 2)), ShapeError, "vectors"),
    ("indices", lambda: ft.indices(()), ShapeError, "at least one"),
    ("eye", lambda: ft.eye(-1), ShapeError, "negative"),
    ("tri", lambda: ft.tri(-1), ShapeError, "negative"),
    ("tril_indices", lambda: ft.tril_indices(-1, 2), ShapeError, "negative"),
    ("triu_indices", lambda: ft.triu_indices(-1, 2), ShapeError, "negative"),
    ("vecdot", lambda: ft.vecdot(f(3), f(4)), ShapeError, "broadcast"),
    ("dot", lambda: ft.dot(f(3, 2), f(2)), ShapeError, "1 and 1 axes"),
    ("dot", lambda: ft.dot(f(3), f(2)), ShapeError, "one length"),
    ("outer", lambda: ft.outer(f(3, 1), f(2)), ShapeError, "1 and 1 axes"),
    ("cross", lambda: ft.cross(f(3, 2), f(3, 2)), ShapeError, "size 3"),
    ("cross", lambda: ft.cross(f(5, 3), f(5, 1)), ShapeError, "size 3"),
    ("mv", lambda: ft.mv(f(3), f(3)), ShapeError, "2 and 1 axes"),
    ("addmm", lambda: ft.addmm(f(4), f(2, 3), f(3, 5)), ShapeError, "broadcast"),
    ("addmm", lambda: ft.addmm(f(5), f(2, 3, 4), f(4, 5)), ShapeError, "2 and 2 axes"),
    ("addmv", lambda: ft.addmv(f(2, 2), f(2, 3), f(3)), ShapeError, "broadcast"),
    ("baddbmm", lambda: ft.baddbmm(f(5), f(2, 3, 4), f(3, 4, 5)), ShapeError, "one batch size"),
    ("addbmm", lambda: ft.addbmm(f(5), f(2, 3, 4), f(2, 3, 5)), ShapeError, "cannot multiply"),
    ("addr", lambda: ft.addr(f(2, 2), f(3), f(2)), ShapeError, "broadcast"),
    ("bilinear", lambda: ft.bilinear(f(2, 3), f(2, 4), f(5, 4, 3)), ShapeError, "do not fit"),
    ("multi_dot", lambda: ft.multi_dot([f(2, 3)]), ArgumentError, "at least two"),
    ("multi_dot", lambda: ft.multi_dot([f(2, 3), f(3), f(3, 4)]), ShapeError, "matrices"),
    ("chain_matmul", lambda: ft.chain_matmul(f(3), f(3)), ShapeError, "matrices"),
    ("matrix_power", lambda: ft.matrix_power(f(2, 3), 2), ShapeError, "square"),
    ("matrix_power", lambda: ft.matrix_power(f(3, 3), -1), ArgumentError, "non-negative"),
    ("matrix_power", lambda: ft.matrix_power(i(3, 3), 0), DTypeError, "int64"),
    ("matrix_norm", lambda: ft.matrix_norm(f(3, 3), "nuc"), ArgumentError, "ord"),
    ("matrix_norm", lambda: ft.matrix_norm(f(3)), ShapeError, "two axes"),
    ("matrix_norm", lambda: ft.matrix_norm(i(3, 3)), DTypeError, "int64"),
    ("cdist", lambda: ft.cdist(f(3, 4), f(3, 5)), ShapeError, "one length"),
    ("cdist", lambda: ft.cdist(f(3, 4), f(3, 4), p=-1.0), ArgumentError, "negative"),
    ("cdist", lambda: ft.cdist(i(3, 4), i(3, 4)), DTypeError, "int64"),
    ("pairwise_distance", lambda: ft.pairwise_distance(i(3), i(3)), DTypeError, "int64"),
    ("cosine_similarity", lambda: ft.cosine_similarity(b(3, 2), b(3, 2)), DTypeError, "bool"),
    ("dist", lambda: ft.dist(f(3), f(4)), ShapeError, "broadcast"),
]
SHAPES = [
    ("unsqueeze", lambda: ft.unsqueeze(f(3), 2), ShapeError, "dim 2"),
    ("moveaxis", lambda: ft.moveaxis(f(3, 4), (0, 1), 0), ShapeError, "as many different axes"),
    ("t", lambda: ft.t(f(3, 4, 5)), ShapeError, "at most two"),
    ("select", lambda: ft.select(f(3, 4), 0, 3), ShapeError, "index 3"),
    ("unflatten", lambda: ft.unflatten(f(3, 4), 1, (3, -1)), ShapeError, "multiply to axis 1"),
    ("reshape_as", lambda: ft.reshape_as(f(3, 4), f(5)), ShapeError, "cannot reshape"),
    ("expand_as", lambda: ft.expand_as(f(3, 4), f(4)), ShapeError, "cannot broadcast"),
    ("broadcast_tensors", lambda: ft.broadcast_tensors(f(3), f(4)), ShapeError, "do not broadcast"),
    ("fliplr", lambda: ft.fliplr(f(3)), ShapeError, "two axes"),
    ("flipud", lambda: ft.flipud(f()), ShapeError, "dimensions"),
    ("rot90", lambda: ft.rot90(f(3)), ShapeError, "two axes"),
    ("rot90", lambda: ft.rot90(f(3, 3), 1, (0, -2)), ArgumentError, "twice"),
    ("positive", lambda: ft.positive(b(3)), DTypeError, "bool"),
    ("hstack", lambda: ft.hstack([]), ArgumentError, "at least one"),
    ("vstack", lambda: ft.vstack([]), ArgumentError, "at least one"),
    ("dstack", lambda: ft.dstack([]), ArgumentError, "at least one"),
    ("column_stack", lambda: ft.column_stack([]), ArgumentError, "at least one"),
    ("split_with_sizes", lambda: ft.split_with_sizes(f(5), 2), ArgumentError, "use split"),
    ("tensor_split", lambda: ft.tensor_split(f(5), 0), ArgumentError, "positive"),
    ("tensor_split", lambda: ft.tensor_split(f(), 1), ShapeError, "dimensions"),
    ("hsplit", lambda: ft.hsplit(f(5), 2), ArgumentError, "do not divide"),
    ("vsplit", lambda: ft.vsplit(f(4), 2), ShapeError, "at least 2"),
    ("dsplit", lambda: ft.dsplit(f(4, 4), 2), ShapeError, "at least 3"),
    ("repeat", lambda: ft.repeat(f(5), (1, 2)), ShapeError, "2 repeats for 5"),
    ("linspace", lambda: ft.linspace(0, 1, -1), ArgumentError, "num"),
    ("logspace", lambda: ft.logspace(0, 1, dtype="bool"), DTypeError, "bool"),
    ("linspace", lambda: ft.linspace(f(2), 1.0), ArgumentError, "numbers"),  # pyright: ignore[reportArgumentType]
    ("geomspace", lambda: ft.geomspace(-1, 1), ArgumentError, "one sign"),
]
NUMERIC = [
    ("div", lambda: ft.div(f(3), 2, rounding_mode="up"), ArgumentError, "rounding_mode"),
    ("round", lambda: ft.round(i(3), decimals=-1), DTypeError, "int64"),
    ("copysign", lambda: ft.copysign(f(3), f(4)), ShapeError, "broadcast"),
    ("heaviside", lambda: ft.heaviside(b(3), b(3)), DTypeError, "bool"),
    ("nextafter", lambda: ft.nextafter(f(3, dtype="bfloat16"), 1.0), DTypeError, "float32 or float64"),
    ("frac", lambda: ft.frac(i(3)), DTypeError, "int64"),
    ("deg2rad", lambda: ft.deg2rad(b(3)), DTypeError, "bool"),
    ("rad2deg", lambda: ft.rad2deg(b(3)), DTypeError, "bool"),
    ("lerp", lambda: ft.lerp(i(3), i(3), 1), DTypeError, "int64"),
    ("addcdiv", lambda: ft.addcdiv(i(3), i(3), i(3)), DTypeError, "int64"),
    ("isclose", lambda: ft.isclose(f(3), f(3), rtol=-1.0), ArgumentError, "negative"),
    ("bitwise_and", lambda: f(3) & f(3), DTypeError, "integers or bools"),
    ("bitwise_not", lambda: ~f(3), DTypeError, "integers or bools"),
    ("bitwise_left_shift", lambda: b(3) << b(3), DTypeError, "bool"),
    ("gcd", lambda: ft.gcd(f(3), 2), DTypeError, "float32"),
]
STATISTICS = [
    ("nanmean", lambda: ft.nanmean(i(3)), DTypeError, "int64"),
    ("average", lambda: ft.average(f(3, 4), weights=f(4)), ShapeError, "weights"),
    ("cov", lambda: ft.cov(f(2, 3, 4)), ShapeError, "observations"),
    ("cov", lambda: ft.cov(f(2, 3), fweights=f(3)), DTypeError, "integers"),
    ("cov", lambda: ft.cov(f(2, 3), aweights=f(2)), ShapeError, "each of 3"),
    ("corrcoef", lambda: ft.corrcoef(i(2, 3)), DTypeError, "int64"),
    ("trapezoid", lambda: ft.trapezoid(f()), ShapeError, "dimensions"),
    ("diff", lambda: ft.diff(f(3), -1), ArgumentError, "negative"),
    ("diff", lambda: ft.diff(f()), ShapeError, "dimensions"),
    ("gradient", lambda: ft.gradient(f(3), edge_order=3), ArgumentError, "edge_order"),
    ("gradient", lambda: ft.gradient(f(1, 3)), ShapeError, "at least 2"),
    ("gradient", lambda: ft.gradient(f(3), spacing=[1.0, 2.0]), ArgumentError, "2 spacings"),
]
SPECIAL = [
    ("polygamma", lambda: ft.polygamma(-1, f(3)), ArgumentError, "0 to 60"),
    ("mvlgamma", lambda: ft.mvlgamma(f(3), 0), ArgumentError, "positive"),
]
# fmt: on

REFUSED = [*MATRICES, *SHAPES, *NUMERIC, *STATISTICS, *SPECIAL]

ACCEPTS_ALL = {
    *("diagflat", "trace", "cartesian_prod", "inner", "kron", "vector_norm"),  # as diag, diagonal, meshgrid, norm
    *("float_power", "ldexp", "rsub", "addcmul", "logit", "allclose", "isposinf", "isneginf", "isreal"),
    *("nansum", "nanmax", "nanmin", "aminmax", "ptp", "var_mean", "std_mean", "count_nonzero"),
    *("ravel", "clone", "atleast_1d", "atleast_2d", "atleast_3d"),
}
"""Functions with nothing to refuse that their siblings in the table do not show."""
