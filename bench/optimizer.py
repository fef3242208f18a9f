"""One AdamW step over 268 million float32 parameters in 449 tensors: the share of a copy's bandwidth.

    python -m bench.optimizer [--all] [--rounds 20] [--blocks 32 --width 832]

The tensors are those of a transformer's blocks (attention, MLP, biases, norms) and an embedding. Each in turn, by CUDA
events, medians: a copy that moves the same bytes, 28 a parameter, read and written together; our kernel with the
heuristic's configuration and, with --all, with every candidate; torch's fused and foreach AdamW. A step moves 7.5 GB,
far more than caches hold, so every run is cold. First a gate: after three steps our weights must be torch's.

"ours" is the update alone. "our whole step" is what a program runs: the norm of all gradients too, 4 bytes more for
each parameter, with which it clips, and skips what is not finite; torch's step does neither.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable

import numpy as np
import torch

import flame_triton as ft
from flame_triton.graph.plan import ConstantTable, Launch, PointerTable
from flame_triton.kernels.portable.foreach import Config, candidates, chunks
from flame_triton.runtime.ahead import compile_all
from flame_triton.runtime.launch import bind, table_array

BYTES = 28  # of one parameter: weight, gradient and two moments are read, all but the gradient written
RATE, DECAY = 1e-3, 0.1
Call = Callable[[], object]


def shapes(blocks: int, width: int) -> list[tuple[int, ...]]:
    """An embedding, and of each block two linear layers of the attention, two of the MLP, and four norms."""
    w = width
    linear = [(3 * w, w), (3 * w,), (w, w), (w,), (4 * w, w), (4 * w,), (w, 4 * w), (w,)]
    return [(3072, w), *([*linear, (w,), (w,), (w,), (w,), (64,), (64,)] * blocks)]


class Ours:
    """Our optimizer on tensors in a State; gradients are parameters that nothing updates."""

    def __init__(self, sizes: list[tuple[int, ...]], device: str) -> None:
        self.weights = [ft.parameter(s, name=f"w{i}") for i, s in enumerate(sizes)]
        self.gradients = [ft.parameter(s, name=f"g{i}", trainable=False) for i, s in enumerate(sizes)]
        optimizer = ft.optim.AdamW(self.weights, RATE, weight_decay=DECAY)
        updates = optimizer.updates(self.gradients)
        self.state = ft.State([*self.weights, *self.gradients, *optimizer.state_values], device=device)
        torch.manual_seed(0)
        for w, g in zip(self.weights, self.gradients, strict=True):
            self.tensor(w).normal_(0, 0.02)
            self.tensor(g).normal_(0, 1e-3)
        self.program = ft.compile([], state=self.state, updates=updates, device=device)
        self.sizes = [w.size for w in self.weights]

    def tensor(self, value: ft.Value) -> torch.Tensor:
        return self.state.place(value).tensor

    def update(self) -> Launch:
        """The one launch that updates everything."""
        (found,) = (launch for launch in self.program.launches if launch.kernel.name == "foreach")
        return found

    def configured(self, config: Config) -> Launch:
        """That launch in another configuration."""
        launch = self.update()
        table = ConstantTable(np.asarray(chunks(self.sizes, config.CHUNK), np.int64))
        return dataclasses.replace(
            launch,
            grid=(len(table.array),),
            args=(launch.args[0], table, *launch.args[2:]),
            constexprs={**launch.constexprs, "BLOCK": config.BLOCK, "CHUNK": config.CHUNK},
            options={"num_warps": config.num_warps},
        )

    def ready(self, launch: Launch) -> Call:
        """The launch on the program's own memory, which must have run once."""
        bound = self.program._executor._bind()  # type: ignore[attr-defined]
        tables = {}
        for table in launch.args[:2]:
            assert isinstance(table, PointerTable | ConstantTable)
            array = table_array(table, lambda operand: bound.operand(operand).address)
            tables[table] = torch.from_numpy(np.ascontiguousarray(array)).to(self.tensor(self.weights[0]).device)
        return bind(launch, bound.operand, tables)


def theirs(ours: Ours, **kind: bool) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    """torch's AdamW on copies of our weights and on our gradients; matrices decay."""
    weights = [torch.nn.Parameter(ours.tensor(w).detach().clone()) for w in ours.weights]
    for p, g in zip(weights, ours.gradients, strict=True):
        p.grad = ours.tensor(g)
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    return weights, torch.optim.AdamW(groups, lr=RATE, **kind)


def gate(ours: Ours, weights: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> float:
    """The largest difference after three steps, in relation to the largest weight. Raises AssertionError."""
    for _ in range(3):
        ours.program()
        optimizer.step()
    pairs = zip(ours.weights, weights, strict=True)
    worst = max(float((ours.tensor(w) - p.detach()).abs().max() / p.detach().abs().max()) for w, p in pairs)
    assert worst < 1e-4, f"our weights differ from torch's by {worst:.2g}"
    return worst


def measure(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, run in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        marks = {}
        for name, call in calls.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            marks[name] = begin, end
        torch.cuda.synchronize()
        for name, (begin, end) in marks.items():
            if turn >= 2:
                times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(found) for name, found in times.items()}


def main(arguments: list[str] | None = None, device: str = "cuda") -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--all", action="store_true", help="every candidate, not the heuristic's configuration alone")
    options = parser.parse_args(arguments)
    ours = Ours(shapes(options.blocks, options.width), device)
    count = sum(ours.sizes)
    fused = theirs(ours, fused=True)
    worst = gate(ours, *fused)
    looped = theirs(ours, foreach=True)
    print(f"{count:,} parameters in {len(ours.sizes)} tensors; after three steps within {worst:.1g} of torch's")

    source = torch.empty(count * BYTES // 8, device=ours.tensor(ours.weights[0]).device)
    target = torch.empty_like(source)
    launches = {"ours (heuristic)": ours.update()}
    if options.all:
        for c in candidates(ours.sizes):
            launches[f"ours {c.BLOCK}, {c.CHUNK}, {c.num_warps} warps"] = ours.configured(c)
        compile_all(list(launches.values()), ours.state.device.memory)
    calls: dict[str, Call] = {"copy": lambda: target.copy_(source)}
    calls |= {name: ours.ready(launch) for name, launch in launches.items()}
    calls |= {"our whole step": ours.program, "torch fused": fused[1].step, "torch foreach": looped[1].step}
    found = measure(calls, options.rounds)
    print(f"{'':32}{'ms':>8}{'GB/s':>8}{'% of copy':>11}")
    for name, ms in found.items():
        each = BYTES + 4 * (name == "our whole step")
        share = each / BYTES * found["copy"] / ms
        print(f"{name:32}{ms:8.3f}{count * each / ms / 1e6:8.0f}{100 * share:11.1f}")


if __name__ == "__main__":
    main()
