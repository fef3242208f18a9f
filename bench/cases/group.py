"""Attention with what stands before it in a block: each stream's queries and keys normed, the streams joined, turned.

    flame-triton bench --family group

As in Flux's blocks of one and of two streams, and in SD3.5's, which turns nothing. What a stream brings are its three
projections, [B, T, H, D] each, as products leave them. "forward and backward" is both in one go, each side keeping what
it likes between them: ours as one program, torch's through autograd, captured.

torch's side is torch.compile for norms, join and turns, and attention held to one library. cuDNN stands there twice: on
the heads as they lie, strided, and on heads that the compiled part lays out one after the other; the first is what
models do, and its gradients are not numbers with torch 2.11, which the gate says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import flame_triton as ft
from bench.case import Aims, Array, Function, KernelCase, Scale
from bench.cases.attention import exact, libraries, theirs
from bench.cases.norm import turned
from flame_triton import Value

STREAMS = ("", "_2")  # of operands' names


@dataclass(frozen=True)
class Shape:
    """tokens: of each stream, in their order. rope: whether queries and keys are turned."""

    name: str
    batch: int
    heads: int
    width: int
    tokens: tuple[int, ...]
    rope: bool

    def small(self) -> Shape:
        """The same for --quick."""
        return Shape(self.name, self.batch, 2, 16, tuple(8 + 5 * i for i, _ in enumerate(self.tokens)), self.rope)


SHAPES = [
    Shape("Flux, two streams 1x24x(512+4096)x128", 1, 24, 128, (512, 4096), True),
    Shape("Flux, one stream 1x24x4608x128", 1, 24, 128, (4608,), True),
    Shape("SD3.5, two streams 2x24x(4096+333)x64", 2, 24, 64, (4096, 333), False),
]


def cases(scale: Scale) -> Iterator[KernelCase]:
    """The rows of this family."""
    for shape in SHAPES:
        s = shape.small() if scale.quick else shape
        arrays: dict[str, Array] = {}
        for stream, tokens in zip(STREAMS, s.tokens, strict=False):
            arrays |= {f"{n}{stream}": Array((s.batch, tokens, s.heads, s.width), scale.dtype) for n in "qkv"}
            arrays |= {f"w{n}{stream}": Array((s.width,), scale.dtype) for n in "qk"}
        wrt = tuple(arrays)
        total = sum(s.tokens)
        if s.rope:
            arrays |= {n: Array((total, s.width // 2), "float32") for n in ("cos", "sin")}
        pairs = s.batch * s.heads * total * total * s.width
        what = "qk-norm + RoPE + attention" if s.rope else "qk-norm + attention"
        for way, wanted, flops in (("forward", (), 4), ("forward and backward", wrt, 14)):
            # Queries and keys are rounded between the kernels on every side, and scores are large, since cosines and
            # sines are random numbers here: eager torch is off by as much as we are, 0.010 at an eighth of the tokens.
            yield KernelCase(
                f"{what}, {s.name} {way}", "group", arrays, _ours, _by(theirs(False)), wrt=wanted, both=bool(wanted),
                opponents=_opponents(), modes=(), exact=_by(exact(False)), flops=flops * pairs, bound="compute",
                aims=Aims(ratio=1.25), tolerance=0.0 if scale.quick else 0.04,
            )  # fmt: skip


def _ours(**given: Value) -> Value:
    """[B, T, H, D] of every stream -> [B, T, H, D] of all tokens."""

    def joined(name: str) -> Value:
        parts: list[Value] = []
        for stream in STREAMS:
            if name + stream in given:
                x = ft.transpose(given[name + stream], (0, 2, 1, 3))
                w = given.get(f"w{name}{stream}")
                parts.append(x if w is None else ft.rms_norm(x, x.shape[-1], w, 1e-6))
        return parts[0] if len(parts) == 1 else ft.concat(parts, 2)

    q, k, v = (joined(name) for name in "qkv")
    if "cos" in given:
        q, k = (ft.apply_rotary_emb(x, given["cos"], given["sin"]) for x in (q, k))
    return ft.transpose(ft.scaled_dot_product_attention(q, k, v), (0, 2, 1, 3))


def _prepared(given: dict[str, Tensor]) -> list[Tensor]:
    """Queries, keys and values as attention takes them, by torch: [B, H, T, D], the heads strided."""

    def joined(name: str) -> Tensor:
        parts: list[Tensor] = []
        for stream in STREAMS:
            if name + stream in given:
                x, w = given[name + stream], given.get(f"w{name}{stream}")
                parts.append(x if w is None else F.rms_norm(x, x.shape[-1:], w, 1e-6))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    q, k, v = (joined(name) for name in "qkv")
    if "cos" in given:
        q, k = (turned(x, given["cos"][:, None], given["sin"][:, None]) for x in (q, k))
    return [x.transpose(1, 2) for x in (q, k, v)]


def _laid_out(given: dict[str, Tensor]) -> list[Tensor]:
    """The same, each head's rows one after the other."""
    return [x.contiguous() for x in _prepared(given)]


def _by(attention: Function, prepared: Function = _prepared) -> Function:
    return lambda **given: attention(*prepared(given)).transpose(1, 2)


def _opponents() -> dict[str, Function]:
    """The libraries' attention behind what torch.compile has fused; none without a GPU."""
    found = libraries(False)
    if not found:
        return {}
    strided, dense = (torch.compile(f, dynamic=False) for f in (_prepared, _laid_out))
    return {
        "compile + cuDNN": _by(found["cuDNN"], strided),
        "compile + cuDNN, heads laid out": _by(found["cuDNN"], dense),
        "compile + FlashAttention": _by(found["FlashAttention"], strided),
    }
