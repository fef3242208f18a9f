"""Products with what a transformer does to their results: each beside our own bare product of the same operands.

x: [M, K]; w: [N, K]; the sizes of a Flux block's MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import flame_triton as ft
from bench.case import Aims, Array, KernelCase, Scale, product
from flame_triton import Value
from flame_triton.ops.matmul import product as product_in

TANH = "tanh"
# Tensor cores truncate where they add up float32: K = 4608 products may leave more than 1e-5.
ACCUMULATED = 1e-4
ONE, TWO = Aims(ratio=1.0, bare=1.02), Aims(ratio=1.0, bare=1.06)
GELU = Aims(ratio=1.12, bare=1.02)
ALL = ("compile", "max-autotune", "inductor-triton")


def _bare(x: Value, w: Value, **_: Value) -> Value:
    return ft.linear(x, w)


def cases(scale: Scale) -> Iterator[KernelCase]:
    """The rows of this family."""
    yield from _forward(scale)
    yield from _gated(scale)
    yield from _backward(scale)


def _forward(scale: Scale) -> Iterator[KernelCase]:
    m, k, n = (scale.of(s) for s in (4608, 3072, 12288))
    dtype = scale.dtype
    arrays = {"x": Array((m, k), dtype), "w": Array((n, k), dtype, k**-0.5), "b": Array((n,), dtype)}
    shared: dict[str, Any] = {"modes": ALL, "bare": _bare, "flops": product((m, k, n)), "bound": "compute"}
    size = "4608x3072x12288"

    def case(name: str, ours: Any, theirs: Any, aims: Aims) -> KernelCase:
        return KernelCase(f"{name} {size}", "epilogue", arrays, ours, theirs, aims=aims, **shared)

    yield case("bias", lambda x, w, b: ft.linear(x, w, b), lambda x, w, b: F.linear(x, w, b), ONE)
    yield case(
        "bias + GELU", lambda x, w, b: ft.gelu(ft.linear(x, w, b), TANH),
        lambda x, w, b: F.gelu(F.linear(x, w, b), approximate=TANH), GELU,
    )  # fmt: skip

    def ours_saved(x: Value, w: Value, b: Value) -> list[Value]:
        h = ft.linear(x, w, b)
        return [ft.gelu(h, TANH), h]

    def theirs_saved(x: Tensor, w: Tensor, b: Tensor) -> list[Tensor]:
        h = F.linear(x, w, b)
        return [F.gelu(h, approximate=TANH), h]

    yield case("bias + GELU, pre-activation kept", ours_saved, theirs_saved, TWO)
    yield case(
        "bias + SiLU", lambda x, w, b: ft.silu(ft.linear(x, w, b)), lambda x, w, b: F.silu(F.linear(x, w, b)), ONE,
    )  # fmt: skip
    yield KernelCase(
        f"float32 result {size}", "epilogue", {n: arrays[n] for n in ("x", "w")},
        lambda x, w: product_in(x, ft.transpose(w), ft.float32), _float32_product, aims=ONE,
        tolerance=ACCUMULATED, **shared,
    )  # fmt: skip


def _float32_product(x: Tensor, w: Tensor) -> Tensor:
    if x.is_cuda and x.dtype is torch.bfloat16:
        return torch.mm(x, w.t(), out_dtype=torch.float32)
    return x @ w.t()


def _gated(scale: Scale) -> Iterator[KernelCase]:
    m, k, n = (scale.of(s) for s in (4608, 12288, 3072))
    dtype = scale.dtype
    arrays = {"x": Array((m, k), dtype), "w": Array((n, k), dtype, k**-0.5), "b": Array((n,), dtype)}
    arrays |= {"gate": Array((1, n), dtype), "residual": Array((m, n), dtype)}
    yield KernelCase(
        "gate * x + residual 4608x12288x3072", "epilogue", arrays,
        lambda x, w, b, gate, residual: residual + gate * ft.linear(x, w, b),
        lambda x, w, b, gate, residual: residual + gate * F.linear(x, w, b),
        modes=ALL, bare=_bare, flops=product((m, k, n)), bound="compute", aims=ONE,
    )  # fmt: skip
    m, k, n = (scale.of(s) for s in (4608, 3072, 24576))
    arrays = {"x": Array((m, k), dtype), "w": Array((n, k), dtype, k**-0.5), "b": Array((n,), dtype)}
    shared: dict[str, Any] = {"bare": _bare, "flops": product((m, k, n)), "bound": "compute", "aims": ONE}

    def halves(activation: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        hidden, second = F.linear(x, w, b).chunk(2, -1)
        return hidden * activation(second)

    yield KernelCase(
        "GEGLU 4608x3072x24576", "epilogue", arrays, lambda x, w, b: ft.geglu(ft.linear(x, w, b)),
        lambda x, w, b: halves(F.gelu, x, w, b), modes=ALL, **shared,
    )  # fmt: skip
    yield KernelCase(
        "SwiGLU 4608x3072x24576", "epilogue", arrays, lambda x, w, b: ft.swiglu(ft.linear(x, w, b)),
        lambda x, w, b: halves(F.silu, x, w, b), modes=ALL, **shared,
    )  # fmt: skip


def _backward(scale: Scale) -> Iterator[KernelCase]:
    m, k, n = (scale.of(s) for s in (4608, 3072, 12288))
    dtype = scale.dtype
    dy, h = Array((m, k), dtype), Array((m, n), dtype)
    shared: dict[str, Any] = {"flops": product((m, k, n)), "bound": "compute", "modes": ALL, "aims": ONE}

    def ours_dgrad(dy: Value, w: Value, h: Value) -> Value:
        return ft.grad(ft.gelu(h, TANH), [h], grad_output=ft.matmul(dy, w))[0]

    yield KernelCase(
        "dgrad * GELU' 4608x3072x12288 nn", "epilogue", {"dy": dy, "w": Array((k, n), dtype, k**-0.5), "h": h},
        ours_dgrad, lambda dy, w, h: torch.ops.aten.gelu_backward(dy @ w, h, approximate=TANH),
        bare=lambda dy, w, **_: ft.matmul(dy, w), **shared,
    )  # fmt: skip
    wgrad = {"dy": Array((m, n), dtype), "x": Array((m, k), dtype, m**-0.5)}
    bare = lambda dy, x, **_: ft.matmul(ft.transpose(dy), x)  # noqa: E731
    yield KernelCase(
        "wgrad + bias gradient 12288x4608x3072 tn", "epilogue", wgrad,
        lambda dy, x: [ft.matmul(ft.transpose(dy), x), ft.sum(dy, 0)],
        lambda dy, x: [dy.t() @ x, dy.sum(0)], bare=bare, **shared,
    )  # fmt: skip
    yield KernelCase(
        "wgrad added to a float32 gradient 12288x4608x3072 tn", "epilogue",
        {**wgrad, "total": Array((n, k), "float32")},
        lambda dy, x, total: total + product_in(ft.transpose(dy), x, ft.float32),
        lambda dy, x, total: total.add_(dy.t() @ x), into=("total",), bare=bare,
        tolerance=ACCUMULATED, **shared,
    )  # fmt: skip
