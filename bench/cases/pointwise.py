"""Softmax, losses, activations and gated residuals, forward and backward, at the sizes of the norms."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F

import flame_triton as ft
from bench.case import Array, KernelCase, Scale
from bench.cases.norm import SIZES, both_ways

BARS = {
    ("softmax", "fwd"): "compile 1211 GB/s, eager 1148",
    ("softmax", "bwd"): "compile 3162 GB/s, eager 1979",
    ("GELU", "fwd"): "eager 3343 GB/s, compile 3182",
    ("GELU", "bwd"): "eager 3811 GB/s, compile 2018",
}


def cases(scale: Scale) -> Iterator[KernelCase]:
    """The rows of this family."""
    for size, full in SIZES.items():
        samples, tokens, width = (min(full[0], 2) if scale.quick else full[0], *map(scale.of, full[1:]))
        x = Array((samples, tokens, width), scale.dtype)
        gate = Array((samples, 1, width), scale.dtype)
        yield from both_ways(
            "softmax", size, "pointwise", {"x": x}, lambda x: ft.softmax(x, -1), lambda x: F.softmax(x, -1), ("x",),
            BARS,
        )  # fmt: skip
        yield from both_ways(
            "GELU", size, "pointwise", {"x": x}, lambda x: ft.gelu(x, "tanh"),
            lambda x: F.gelu(x, approximate="tanh"), ("x",), BARS,
        )  # fmt: skip
        yield from both_ways(
            "residual + gate", size, "pointwise", {"x": x, "y": x, "gate": gate},
            lambda x, y, gate: x + gate * y, lambda x, y, gate: x + gate * y, ("x", "y", "gate"), BARS,
        )  # fmt: skip
        rows = samples * tokens
        logits, labels = Array((rows, width), scale.dtype), Array((rows,), "int64", below=width)
        yield from both_ways(
            "cross-entropy", size, "pointwise", {"x": logits, "labels": labels},
            lambda x, labels: ft.cross_entropy(x, labels), lambda x, labels: F.cross_entropy(x, labels), ("x",), BARS,
        )  # fmt: skip
