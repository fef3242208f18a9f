"""Gathering, scattering, sorting, scanning, and choosing by mask."""

from __future__ import annotations

from typing import Any

import flame_triton as ft

from ..adapter import Adapter, OutOfScope, cast, lacks, number, same, via


def gathered(f: Any, x: Any, dim: int, index: Any, sparse_grad: bool = False) -> Any:
    if (isinstance(index, ft.Value) and not index.dtype.is_integer) or index.dtype is ft.uint8:
        raise OutOfScope("an index that is not int32 or int64")
    return f(x, dim, index)


def scanned(f: Any, x: Any, dim: Any, *, dtype: Any = None) -> Any:
    return f(cast(x, dtype), axis=number(dim))


def extreme_scan(f: Any, x: Any, dim: Any) -> Any:
    return f(x, axis=dim)


def no_ties(x: Any, stable: Any = None) -> None:
    """Integers have equal elements; torch does not say which of them comes first, unless asked to."""
    if isinstance(x, ft.Value) and not x.dtype.is_float and not stable:
        raise OutOfScope("which of equal elements torch puts first is an accident")


def sorted_(f: Any, x: Any, dim: int = -1, descending: bool = False, *, stable: Any = None) -> Any:
    no_ties(x, stable)
    return f(x, axis=dim, descending=descending)


def argsorted(f: Any, x: Any, dim: int = -1, descending: bool = False, *, stable: Any = None) -> Any:
    no_ties(x, stable)
    return f(x, axis=dim, descending=descending)


def chosen(f: Any, x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    no_ties(x)
    return f(x, k, axis=dim, largest=largest)


def kth(f: Any, x: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    no_ties(x)
    return f(x, k, axis=dim, keepdims=keepdim)


def middle(f: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is not None:
        no_ties(x)
    return f(x, axis=dim, keepdims=keepdim)


def mode(f: Any, x: Any, dim: int = -1, keepdim: bool = False) -> Any:
    no_ties(x)
    return f(x, axis=dim, keepdims=keepdim)


def quantile(f: Any, x: Any, q: Any, dim: Any = None, keepdim: bool = False, *, interpolation: str = "linear") -> Any:
    return f(x, q, axis=dim, keepdims=keepdim, interpolation=interpolation)


def scattered(f: Any, x: Any, dim: int, index: Any, src: Any, *, reduce: Any = None) -> Any:
    lacks(reduce=reduce)
    return f(x, dim, index, src)


def scatter_reduced(f: Any, x: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True) -> Any:
    return f(x, dim, index, src, reduce, include_self=include_self)


def index_added(f: Any, x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    return f(x, dim, index, source, alpha=alpha)


def index_copied(f: Any, x: Any, dim: int, index: Any, source: Any) -> Any:
    return f(x, dim, index, source)


def mask_scattered(f: Any, x: Any, mask: Any, source: Any) -> Any:
    if mask.ndim > x.ndim:
        raise OutOfScope("x is not broadcast to its mask")
    return f(x, mask, source)


def index_put(f: Any, x: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    if len(indices) > 1 and any(isinstance(i, ft.Value) and i.dtype is ft.bool_ for i in indices):
        raise OutOfScope("a mask among indices: the shape would depend on the data")
    return f(x, indices, values, accumulate=accumulate)


def taken(f: Any, x: Any, index: Any) -> Any:
    """torch's take reads the flattened tensor."""
    return f(x, index, axis=None)


def along(f: Any, x: Any, index: Any, dim: Any = None) -> Any:
    return f(x, index, dim)


def one_hot(f: Any, indices: Any, num_classes: int = -1) -> Any:
    if num_classes == -1:
        raise OutOfScope("the number of classes must be known when the graph is built")
    return f(indices, num_classes)


def embedding(
    f: Any, weight: Any, indices: Any, padding_idx: Any = None, max_norm: Any = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Any:  # fmt: skip
    lacks(max_norm=max_norm, scale_grad_by_freq=scale_grad_by_freq)
    return f(indices, weight, padding_idx)


def index_reduced(
    f: Any, x: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True
) -> Any:  # fmt: skip
    return f(x, dim, index, source, reduce, include_self=include_self)


def searched(
    f: Any, boundaries: Any, x: Any, *, out_int32: bool = False, right: bool = False, side: Any = None,
    sorter: Any = None,
) -> Any:  # fmt: skip
    lacks(sorter=sorter, out_int32=out_int32)
    return f(boundaries, x, right=right or side == "right")


def bucketed(f: Any, x: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    lacks(out_int32=out_int32)
    return f(x, boundaries, right=right)


ADAPTERS: dict[str, Adapter] = {
    **{name: via(name, scanned) for name in "cumsum cumprod logcumsumexp".split()},
    **{name: via(name, extreme_scan) for name in "cummax cummin".split()},
    "gather": via("gather", gathered),
    "take_along_dim": via("take_along_axis", along),
    "take": via("take", taken),
    "index_select": via("index_select"),
    "index_add": via("index_add", index_added),
    **same("index_fill scatter_add msort"),
    "index_copy": via("index_copy", index_copied),
    "masked_scatter": via("masked_scatter", mask_scattered),
    "index_put": via("index_put", index_put),
    "scatter": via("scatter", scattered),
    **{f"scatter_reduce/{r}": via("scatter_reduce", scatter_reduced) for r in "sum prod mean amin amax".split()},
    **{f"index_reduce/{r}": via("index_reduce", index_reduced) for r in "mean prod amin amax".split()},
    "sort": via("sort", sorted_),
    "argsort": via("argsort", argsorted),
    "topk": via("topk", chosen),
    "kthvalue": via("kthvalue", kth),
    "median": via("median", middle),
    "nanmedian": via("nanmedian", middle),
    "mode": via("mode", mode),
    "quantile": via("quantile", quantile, static=(1, "q")),
    "nanquantile": via("nanquantile", quantile, static=(1, "q")),
    "searchsorted": via("searchsorted", searched),
    "bucketize": via("bucketize", bucketed),
    "nn.functional.one_hot": via("one_hot", one_hot),
    "nn.functional.embedding": via("embedding", embedding),
}
