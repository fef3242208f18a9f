"""Planned memory of a training step, without a GPU and without allocating: `python -m bench.memory [blocks|flux]`.

blocks: 12 transformer blocks (bench/transformer.py) under memory budgets. flux: options for a model of Flux-dev's size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import flame_triton as ft
from flame_triton import Value, nn
from flame_triton.errors import OutOfMemoryError
from flame_triton.graph.cost import flops
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.execute import planned_bytes
from flame_triton.runtime.fit import limit_of
from flame_triton.runtime.lower import lower

from .transformer import Sizes, Transformer, loss_of

FRACTIONS = (1.0, 0.7, 0.5, 0.35, 0.25)
GIB = 1 << 30
HEAD = 128


@dataclass(frozen=True)
class Planned:
    """What a plan says. operations: of its products; peak: of a whole step, state included."""

    arena: int
    state: int
    peak: int
    launches: int
    operations: int
    seconds: float


class Step:
    """Loss, gradients and updates of a model, as graphs."""

    def __init__(self, inputs: Sequence[Value], loss: Value, weights: Sequence[Value], optimizer: Any) -> None:
        self.graph = Graph(tuple(inputs), (loss,))
        self.weights, self.moments = list(weights), optimizer.state_values
        self.updates = optimizer.updates(ft.grad(loss, list(weights)))

    def plan(self, budget: float | int | None = None, away: Sequence[Value] = ()) -> Planned:
        """The plan under a budget; away: state in host memory. Raises OutOfMemoryError if it is out of reach."""
        started = time.perf_counter()
        held = sum(-(-v.type.nbytes // 512) * 512 for v in {*self.weights, *self.moments} - set(away))
        limit = None if budget is None else limit_of(budget, self.graph.outputs, held)
        schedule = lower(self.graph, self.updates, Target(), limit=limit)
        parts = dict(planned_bytes(schedule, self.graph.outputs, held))
        nodes = dict.fromkeys(launch.node for launch in schedule.launches)
        return Planned(
            parts["arena"], held, sum(parts.values()), len(schedule.launches), sum(map(flops, nodes)),
            time.perf_counter() - started,
        )  # fmt: skip


def transformer_step(sizes: Sizes, **options: Any) -> Step:
    """A step of bench/transformer.py with AdamW."""
    model = Transformer(sizes)
    shape = (sizes.batch, sizes.tokens, sizes.width)
    x, target = (ft.input(shape, "float32", name=n) for n in ("x", "target"))
    condition = ft.input((sizes.batch, sizes.width), "float32", name="condition")
    weights = model.parameters()
    loss = loss_of(model, x, condition, target)
    return Step([x, condition, target], loss, weights, ft.optim.AdamW(weights, 1e-4, **options))


def blocks(layers: int) -> None:
    """A table: peak of the values of a step against the operations that recomputing adds."""
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("one update at the end", {}),
        ("updates inside the backward pass", {"fused_backward": True}),
    )
    for title, options in cases:
        step = transformer_step(Sizes(layers=layers), rounding="stochastic", **options)
        first = step.plan()
        print(f"\n{layers} blocks, bfloat16 weights, {title}")
        print("budget   values GiB   peak GiB   operations   launches   planning s")
        for part in FRACTIONS:
            try:
                made = step.plan(part)
            except OutOfMemoryError as error:
                print(f"{part:6.2f}   {str(error).splitlines()[0]}")
                continue
            print(
                f"{part:6.2f}   {made.arena / GIB:10.2f}   {made.peak / GIB:8.2f}   "
                f"{100 * (made.operations / first.operations - 1):+9.1f}%   {made.launches:8}   {made.seconds:10.1f}"
            )


class Stream(nn.Module):
    """The layers of one stream of a Double block."""

    def __init__(self, width: int, dtype: str) -> None:
        sizes = ((width, 6 * width), (width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
        self.layers = [nn.Linear(a, b, dtype=dtype) for a, b in sizes]


class Double(nn.Module):
    """A block of two streams that share one attention, as Flux has them."""

    def __init__(self, width: int, dtype: str) -> None:
        self.streams = [Stream(width, dtype) for _ in range(2)]
        self.norms = [nn.RMSNorm(HEAD, dtype=dtype) for _ in range(4)]

    def forward(self, xs: list[Value], condition: Value, cos: Value, sin: Value) -> list[Value]:
        """Text and image tokens, [B, T, C] each."""
        batch, _, width = xs[0].shape
        parts = [
            [ft.reshape(m, (batch, 1, width)) for m in ft.chunk(s.layers[0](condition), 6, 1)] for s in self.streams
        ]
        heads = [
            ft.transpose(
                ft.reshape(s.layers[1](_modulated(x, m[0], m[1])), (batch, x.shape[1], 3, width // HEAD, HEAD)),
                (2, 0, 3, 1, 4),
            )
            for x, s, m in zip(xs, self.streams, parts, strict=True)
        ]
        q = ft.concat([self.norms[2 * i](h[0]) for i, h in enumerate(heads)], 2)
        k = ft.concat([self.norms[2 * i + 1](h[1]) for i, h in enumerate(heads)], 2)
        v = ft.concat([h[2] for h in heads], 2)
        q, k = ft.apply_rotary_emb(q, cos, sin), ft.apply_rotary_emb(k, cos, sin)
        y = ft.reshape(ft.transpose(ft.scaled_dot_product_attention(q, k, v), (0, 2, 1, 3)), (batch, -1, width))
        made: list[Value] = []
        start = 0
        for x, s, m in zip(xs, self.streams, parts, strict=True):
            x = x + m[2] * s.layers[2](y[:, start : start + x.shape[1]])
            start += x.shape[1]
            made.append(x + m[5] * s.layers[4](ft.gelu(s.layers[3](_modulated(x, m[3], m[4])), "tanh")))
        return made


class Single(nn.Module):
    """A block of one stream, attention and MLP side by side."""

    def __init__(self, width: int, dtype: str) -> None:
        self.modulation = nn.Linear(width, 3 * width, dtype=dtype)
        self.first = nn.Linear(width, 7 * width, dtype=dtype)
        self.last = nn.Linear(5 * width, width, dtype=dtype)
        self.norm_q, self.norm_k = (nn.RMSNorm(HEAD, dtype=dtype) for _ in range(2))

    def forward(self, x: Value, condition: Value, cos: Value, sin: Value) -> Value:
        """[B, T, C] -> [B, T, C]."""
        batch, tokens, width = x.shape
        m = [ft.reshape(v, (batch, 1, width)) for v in ft.chunk(self.modulation(condition), 3, 1)]
        packed = self.first(_modulated(x, m[0], m[1]))
        heads = ft.reshape(packed[:, :, : 3 * width], (batch, tokens, 3, width // HEAD, HEAD))
        q, k, v = (ft.transpose(heads, (2, 0, 3, 1, 4))[i] for i in range(3))
        q, k = ft.apply_rotary_emb(self.norm_q(q), cos, sin), ft.apply_rotary_emb(self.norm_k(k), cos, sin)
        y = ft.reshape(ft.transpose(ft.scaled_dot_product_attention(q, k, v), (0, 2, 1, 3)), x.shape)
        return x + m[2] * self.last(ft.concat([y, ft.gelu(packed[:, :, 3 * width :], "tanh")], 2))


def _modulated(x: Value, shift: Value, scale: Value) -> Value:
    return ft.ada_layer_norm(x, *(ft.reshape(v, (x.shape[0], x.shape[-1])) for v in (shift, scale)))


def flux_step(width: int, counts: tuple[int, int], tokens: tuple[int, int], dtype: str, **options: Any) -> Step:
    """A step of a model with Flux's blocks, which hold nearly all of its weights. tokens: of text and image."""
    x, text = (ft.input((1, n, width), "bfloat16", name=s) for n, s in zip(tokens[::-1], ("x", "text"), strict=True))
    condition = ft.input((1, width), "bfloat16", name="condition")
    target = ft.input((1, tokens[1], width), "float32", name="target")
    angles = np.arange(sum(tokens))[:, None] * 1e4 ** (-np.arange(HEAD // 2) / (HEAD // 2))
    cos, sin = (ft.constant(f(angles), ft.float32) for f in (np.cos, np.sin))
    doubles = [Double(width, dtype) for _ in range(counts[0])]
    singles = [Single(width, dtype) for _ in range(counts[1])]
    streams = [text, x]
    for block in doubles:
        streams = block(streams, condition, cos, sin)
    value = ft.concat(streams, 1)
    for block in singles:
        value = block(value, condition, cos, sin)
    loss = ft.mse_loss(ft.cast(value[:, tokens[0] :], "float32"), target)
    weights = [p for block in [*doubles, *singles] for p in block.parameters()]
    return Step([x, text, condition, target], loss, weights, ft.optim.AdamW(weights, 1e-5, **options))


FLUX: tuple[tuple[str, dict[str, Any], float | None, bool], ...] = (
    ("fp32 masters and moments", {"master": "float32"}, None, False),
    ("stochastic rounding, fp32 moments", {"rounding": "stochastic"}, None, False),
    ("  + updates in backward", {"rounding": "stochastic", "fused_backward": True}, None, False),
    ("  + memory_budget=0.5", {"rounding": "stochastic", "fused_backward": True}, 0.5, False),
    ("  + memory_budget=0.3", {"rounding": "stochastic", "fused_backward": True}, 0.3, False),
    ("  + moments on the host", {"rounding": "stochastic", "fused_backward": True}, 0.3, True),
)


def flux(width: int, counts: tuple[int, int]) -> None:
    """A table: what a step of Flux's size takes, option by option."""
    head = ("weights B", "host GiB", "state GiB", "values GiB", "peak GiB", "operations", "s")
    print(f"{'options':36}" + "".join(f"{h:>12}" for h in head))
    first = 0
    made_of: dict[str, Step] = {}
    for label, options, budget, offload in FLUX:
        started = time.perf_counter()
        step = made_of.get(str(options))
        if step is None:
            step = made_of[str(options)] = flux_step(width, counts, (512, 4096), "bfloat16", **options)
        away = step.moments if offload else []
        made = step.plan(budget, away)
        first = first or made.operations
        host = sum(v.type.nbytes for v in away) / GIB
        count = sum(v.size for v in step.weights) / 1e9
        sizes = (count, host, made.state / GIB, made.arena / GIB, made.peak / GIB)
        added, took = 100 * (made.operations / first - 1), time.perf_counter() - started
        print(f"{label:36}" + "".join(f"{n:12.1f}" for n in sizes) + f"{added:+11.1f}%{took:12.0f}", flush=True)


def main() -> None:
    """Parse the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("blocks", "flux"), default="blocks")
    parser.add_argument("--layers", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.what == "flux":
        flux(3072, (19, 38))
    else:
        blocks(arguments.layers)


if __name__ == "__main__":
    main()
