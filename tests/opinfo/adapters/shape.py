"""Views, joins, creation, padding."""

from __future__ import annotations

from typing import Any

import flame_triton as ft

from ..adapter import Adapter, OutOfScope, lacks, listed, number, same, variadic, via


def sizes(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """torch takes a shape as one sequence or as several numbers."""
    return tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape


def reshaped(f: Any, x: Any, *shape: Any) -> Any:
    return f(x, sizes(shape))


def expanded(f: Any, x: Any, *shape: Any) -> Any:
    """torch's -1 keeps a size."""
    shape = sizes(shape)
    lead = len(shape) - x.ndim
    return f(x, tuple(x.shape[i - lead] if d == -1 and i >= lead else d for i, d in enumerate(shape)))


def swapped(f: Any, x: Any, dim0: int, dim1: int) -> Any:
    return f(x, dim0, dim1)


def last_two(f: Any, x: Any) -> Any:
    return f(x, -2, -1)


def reversed_axes(f: Any, x: Any) -> Any:
    return f(x)


def narrowed(f: Any, x: Any, dim: int, start: Any, length: int) -> Any:
    return f(x, dim, number(start), length)


def sliced(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    key: list[Any] = [slice(None)] * x.ndim
    key[dim] = slice(start, end, step)
    return x[tuple(key)]


def indexed(x: Any, key: Any) -> Any:
    parts = key if isinstance(key, tuple) else (key,)
    if any(isinstance(k, list | bool) or (isinstance(k, ft.Value) and k is not key) for k in parts):
        raise OutOfScope("an index is one array of integers, or slices and numbers")
    if isinstance(key, ft.Value) and key.dtype is ft.bool_:
        raise OutOfScope("a mask as index: the shape would depend on the data")
    return x[key]


def squeezed(f: Any, x: Any, dim: Any = None) -> Any:
    """torch leaves axes of another size than 1 alone, NumPy and we refuse them."""
    if dim is None:
        return f(x)
    dims = [dim] if isinstance(dim, int) else list(dim)
    if any(-x.ndim <= d < x.ndim and x.shape[d] != 1 for d in dims):
        raise OutOfScope("squeeze of an axis that is not 1: an error, as in NumPy")
    if not x.ndim:
        raise OutOfScope("an axis of a scalar")
    return f(x, tuple(dims))


def flipped(f: Any, x: Any, dims: Any) -> Any:
    return f(x, dims)


def rolled(f: Any, x: Any, shifts: Any, dims: Any = None) -> Any:
    return f(x, shifts, None if dims in ((), []) else dims)


def tiled(f: Any, x: Any, *reps: Any) -> Any:
    return f(x, sizes(reps))


def repeated(f: Any, x: Any, *reps: Any) -> Any:
    """torch's repeat is NumPy's tile; it wants a count for every axis."""
    return f(x, sizes(reps))


def interleaved(f: Any, x: Any, repeats: Any, dim: Any = None, *, output_size: Any = None) -> Any:
    return f(x, repeats, dim)


def split_into(f: Any, x: Any, sections: Any, dim: int = 0) -> Any:
    return f(x, sections, dim)


def chunked(f: Any, x: Any, chunks: int, dim: int = 0) -> Any:
    return f(x, chunks, dim)


def unbound(f: Any, x: Any, dim: int = 0) -> Any:
    return f(x, dim)


def padded(f: Any, x: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    """torch lists the widths from the last axis to the first."""
    if len(pad) % 2:
        raise OutOfScope("widths are pairs here")
    if len(pad) // 2 > x.ndim:
        raise OutOfScope("there is a pair for each axis")
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)][::-1]
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        return f(x, widths, 0 if value is None else value)
    if any(-(min(low, 0) + min(high, 0)) >= d > 0 for (low, high), d in zip(widths, x.shape, strict=True)):
        raise OutOfScope("nothing is left of an axis to repeat: torch repeats what was cropped")
    return f(x, widths, mode=mode)


def constant_padded(f: Any, x: Any, pad: Any, value: Any = 0) -> Any:
    return padded(f, x, pad, "constant", value)


def moved(f: Any, x: Any, source: Any, destination: Any) -> Any:
    return f(x, source, destination)


def blocks(f: Any, *matrices: Any) -> Any:
    return f(*matrices)


def diagonal(f: Any, x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    return f(x, offset, dim1, dim2)


def matrix_diagonal(f: Any, x: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    return f(x, offset, dim1, dim2)


def embedded(f: Any, x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    return f(x, offset, dim1, dim2)


def filled_like(f: Any, x: Any, *value: Any, dtype: Any = None) -> Any:
    return f(x, *value, dtype=dtype)


def filled(f: Any, *shape: Any, dtype: Any = None) -> Any:
    return f(sizes(shape), **({} if dtype is None else {"dtype": dtype}))


def new(f: Any, x: Any, *shape: Any, dtype: Any = None) -> Any:
    return f(sizes(shape), dtype=x.dtype if dtype is None else dtype)


def new_full(f: Any, x: Any, shape: Any, value: Any, dtype: Any = None) -> Any:
    return f(shape, value, dtype=x.dtype if dtype is None else dtype)


def full(f: Any, shape: Any, value: Any, dtype: Any = None) -> Any:
    return f(shape, number(value), dtype=dtype)


def filled_with(f: Any, x: Any, value: Any) -> Any:
    return f(x, value if isinstance(value, bool) else number(value))


def counted(f: Any, *args: Any, end: Any = None, dtype: Any = None) -> Any:
    """torch's arange(end), arange(start, end, step)."""
    return f(*args, *([] if end is None else [end]), dtype=dtype)


def indices(f: Any, stack: Any, row: int, col: int, offset: int = 0, *, dtype: Any = ft.int64) -> Any:
    found = f(row, col, offset, dtype)
    return stack(list(found)) if isinstance(found, tuple) else found


def eye(f: Any, n: int, m: Any = None, *, dtype: Any = None) -> Any:
    return f(n, m, **({} if dtype is None else {"dtype": dtype}))


def cut_late(start: Any, end: Any, dtype: Any) -> None:
    """With an integer dtype torch cuts the ends to integers before it counts, NumPy and we the numbers afterwards."""
    if dtype is not None and not dtype.is_float and not (float(start).is_integer() and float(end).is_integer()):
        raise OutOfScope("torch cuts the ends to integers, we the numbers in between")


def linspace(f: Any, start: Any, end: Any, steps: int, *, dtype: Any = None) -> Any:
    cut_late(number(start), number(end), dtype)
    return f(number(start), number(end), steps, **({} if dtype is None else {"dtype": dtype}))


def logspace(f: Any, start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: Any = None) -> Any:
    cut_late(number(start), number(end), dtype)
    return f(number(start), number(end), steps, base=base, **({} if dtype is None else {"dtype": dtype}))


def unfolded(f: Any, x: Any, dim: int, size: int, step: int) -> Any:
    if not x.ndim:
        raise OutOfScope("an axis of a scalar")
    return f(x, dim, size, step)


def diff(f: Any, x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    lacks(prepend=prepend, append=append)
    return f(x, n, dim)


def meshes(f: Any, *values: Any, indexing: str = "ij") -> Any:
    values = tuple(values[0]) if isinstance(values[0], list | tuple) else values
    return f(*values, indexing=indexing)


def triangle(f: Any, x: Any, diagonal: int = 0) -> Any:
    return f(x, diagonal)


def rotated(f: Any, x: Any, k: int = 1, dims: Any = (0, 1)) -> Any:
    return f(x, k, dims)


def scattered_slice(f: Any, x: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return f(x, src, dim, start, end, step)


VIEWS: dict[str, Adapter] = {
    **same("contiguous flatten ravel fliplr flipud expand_as reshape_as view_as t select"),
    **{name: via("reshape", reshaped) for name in "reshape view view_copy".split()},
    **{name: via(name, variadic) for name in "atleast_1d atleast_2d atleast_3d".split()},
    "unflatten": via("unflatten"),
    "t_copy": via("t"),
    **{name: via("adjoint") for name in ("H", "mH")},
    **{name: via("broadcast_to", expanded) for name in "expand expand_copy broadcast_to".split()},
    **{name: via("swapaxes", swapped) for name in "transpose transpose_copy".split()},
    **{name: via("swapaxes", last_two) for name in "mT".split()},
    "T": via("transpose", reversed_axes),
    **{name: via("transpose", reshaped) for name in "permute permute_copy".split()},
    **{name: via("narrow", narrowed, static=(2,)) for name in "narrow narrow_copy".split()},
    "slice": via("", sliced),
    "__getitem__": via("", indexed),
    **{name: via("squeeze", squeezed) for name in "squeeze squeeze/multiple squeeze_copy".split()},
    **{name: via("unsqueeze") for name in "unsqueeze unsqueeze_copy".split()},
    "flip": via("flip", flipped),
    "roll": via("roll", rolled),
    "rot90": via("rot90", rotated),
    "tile": via("tile", tiled),
    "repeat": via("tile", repeated),
    "repeat_interleave": via("repeat_interleave", interleaved, static=(1, "repeats")),
    "movedim": via("movedim", moved),
    **{name: via("diagonal", diagonal) for name in "diagonal diagonal_copy".split()},
    "linalg.diagonal": via("diagonal", matrix_diagonal),
    "diag": via("diag"),
    "diagflat": via("diagflat"),
    "diag_embed": via("diag_embed", embedded),
    "tril": via("tril", triangle),
    "triu": via("triu", triangle),
    **{name: via("unfold_axis", unfolded) for name in "unfold unfold_copy".split()},
    "diff": via("diff", diff),
    **{name: via("clone") for name in "clone alias_copy resolve_conj resolve_neg".split()},
    "nn.functional.pad/constant": via("pad", padded),
    "nn.functional.pad/reflect": via("pad:mode", padded),
    "nn.functional.pad/replicate": via("pad:mode", padded),
    "nn.functional.pad/replicate_negative": via("pad:mode", padded),
    "nn.functional.pad/circular": via("pad:mode", padded),
    "constant_pad_nd": via("pad", constant_padded),
}


def joined(f: Any, values: Any, dim: int = 0) -> Any:
    shapes = [v.shape for v in values if isinstance(v, ft.Value)]
    if (0,) in shapes and any(len(s) > 1 for s in shapes):
        raise OutOfScope("tensors of shape (0,) are not left out")
    return f(list(values), dim)


JOINS: dict[str, Adapter] = {
    "cat": via("cat", joined),
    "block_diag": via("block_diag", blocks),
    **{name: via(name, listed) for name in "stack hstack vstack dstack column_stack".split()},
    **{name: via("split", split_into) for name in "split split/list_args unsafe_split".split()},
    "split_with_sizes": via("split_with_sizes", split_into),
    "split_with_sizes_copy": via("split_with_sizes", split_into),
    "tensor_split": via("tensor_split", split_into, static=(1, "tensor_indices_or_sections")),
    **{name: via("chunk", chunked) for name in "chunk unsafe_chunk".split()},
    **{name: via("unbind", unbound) for name in "unbind unbind_copy".split()},
    **same("hsplit vsplit dsplit"),
    "broadcast_tensors": via("broadcast_tensors", variadic),
    "meshgrid/variadic_tensors": via("meshgrid", meshes),
    "meshgrid/list_of_tensors": via("meshgrid", meshes),
    "cartesian_prod": via("cartesian_prod", variadic),
    "slice_scatter": via("slice_scatter", scattered_slice),
    **same("select_scatter diagonal_scatter"),
}

CREATION: dict[str, Adapter] = {
    **{name: via(name, filled_like) for name in "zeros_like ones_like full_like".split()},
    **{name: via(name, filled) for name in "zeros ones".split()},
    "new_zeros": via("zeros", new),
    "new_ones": via("ones", new),
    "new_full": via("full", new_full),
    "full": via("full", full),
    "fill": via("full_like", filled_with, static=(1, "value")),
    "arange": via("arange", counted),
    "eye": via("eye", eye),
    "linspace": via("linspace", linspace),
    "logspace": via("logspace", logspace),
    "linspace/tensor_overload": via("linspace", linspace, static=(0, 1, "end")),
    "logspace/tensor_overload": via("logspace", logspace, static=(0, 1, "end")),
    "tril_indices": via("tril_indices stack", indices),
    "triu_indices": via("triu_indices stack", indices),
    "scalar_tensor": via("full", lambda f, value, dtype=None: f((), value, dtype=dtype)),
}

ADAPTERS = {**VIEWS, **JOINS, **CREATION}
