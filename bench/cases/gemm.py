"""Matrix products, as M x K x N. nt: both operands have K last; nn: the second has N last; tn: the first has M last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flame_triton as ft
from bench.case import Aims, Array, KernelCase, Scale, product

ROWS = [
    (4608, 3072, 9216, "nt", "Inductor Triton 711 TFLOP/s, cuBLAS 676"),
    (4608, 3072, 12288, "nt", "Inductor Triton 728 TFLOP/s, cuBLAS 660"),
    (4608, 12288, 3072, "nt", "cuBLAS 717 TFLOP/s, Triton 704"),
    (4608, 12288, 3072, "nn", "cuBLAS 705 TFLOP/s, Triton 667"),
    (12288, 4608, 3072, "tn", "Triton 705 TFLOP/s, cuBLAS 694"),
    (4096, 1280, 10240, "nt", "cuBLAS 677 TFLOP/s, Triton 652"),
    (16384, 640, 640, "nt", "cuBLAS 493 TFLOP/s, Triton 213"),
    (8192, 8192, 8192, "nn", "cuBLAS about 790 TFLOP/s cold"),
    (4608, 15360, 3072, "nt", ""),
]
BATCHED = [(16, 2048, 2048, 2048, "nt"), (24, 4608, 128, 4608, "nt")]
MODES = ("inductor-triton",)


def operands(m: int, k: int, n: int, layout: str, dtype: str, batch: tuple[int, ...] = ()) -> dict[str, Array]:
    """a and b as they lie in memory."""
    first = (k, m) if layout == "tn" else (m, k)
    second = (n, k) if layout == "nt" else (k, n)
    return {"a": Array((*batch, *first), dtype), "b": Array((*batch, *second), dtype, k**-0.5)}


def multiply(layout: str, swap: Callable[[Any], Any], matmul: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """a @ b for operands that lie as `layout` says."""
    return lambda a, b: matmul(swap(a) if layout == "tn" else a, swap(b) if layout == "nt" else b)


def _ours(layout: str) -> Callable[..., Any]:
    return multiply(layout, lambda x: ft.swapaxes(x, -1, -2), ft.matmul)


def _theirs(layout: str) -> Callable[..., Any]:
    return multiply(layout, lambda x: x.mT, lambda a, b: a @ b)


def cases(scale: Scale) -> Iterator[KernelCase]:
    """The rows of this family."""
    for m, k, n, layout, bar in ROWS:
        sizes = scale.of(m), scale.of(k), scale.of(n)
        yield KernelCase(
            f"{m}x{k}x{n} {layout}", "gemm", operands(*sizes, layout, scale.dtype), _ours(layout), _theirs(layout),
            eager="cuBLAS", modes=MODES, flops=product(sizes), bound="compute", bar=bar, aims=Aims(ratio=0.97),
        )  # fmt: skip
    for batch, m, k, n, layout in BATCHED:
        count, sizes = (2 if scale.quick else batch), (scale.of(m), scale.of(k), scale.of(n))
        yield KernelCase(
            f"{batch} of {m}x{k}x{n} {layout}", "gemm", operands(*sizes, layout, scale.dtype, (count,)),
            _ours(layout), _theirs(layout), eager="cuBLAS", modes=MODES, flops=product((count, *sizes)),
            bound="compute", aims=Aims(ratio=0.97),
        )  # fmt: skip
