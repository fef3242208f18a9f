"""One step of every optimizer over bfloat16 parameters with float32 masters: ms, bytes of state, share of a copy.

    python -m bench.rules [--blocks 8 --width 1536] [--rounds 20] [--only "Muon"]

The tensors are those of `bench.optimizer`. Each row: the whole step as a program runs it (norm of all gradients,
skipping, the update), by CUDA events, median of the rounds; bytes that the update of a parameter must move at least;
and that traffic's time at the rate of a copy over the time taken. Then the same AdamW with what training adds to it:
loss scaling, groups with two schedules, clipping by tensor and by unit, averages; and the exchange of weights and
averages.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import flame_triton as ft
from flame_triton.runtime.ahead import compile_all
from flame_triton.runtime.compile import planned
from flame_triton.runtime.device import device

from .optimizer import shapes

GRADIENTS = 2 + 2  # bytes of a bfloat16 gradient, read by the norm and by the update
RULES: dict[str, tuple[Callable[..., ft.optim.Optimizer], int]] = {  # bytes of a parameter: masters, moments, weight
    "SGD, momentum": (lambda p, **kw: ft.optim.SGD(p, 1e-3, momentum=0.9, **kw), 8 + 8 + 2),
    "Lion": (lambda p, **kw: ft.optim.Lion(p, 1e-4, **kw), 8 + 8 + 2),
    "AdamW": (lambda p, **kw: ft.optim.AdamW(p, 1e-3, **kw), 8 + 16 + 2),
    "RAdam": (lambda p, **kw: ft.optim.RAdam(p, 1e-3, **kw), 8 + 16 + 2),
    "NAdam": (lambda p, **kw: ft.optim.NAdam(p, 1e-3, **kw), 8 + 16 + 2),
    "schedule-free": (lambda p, **kw: ft.optim.ScheduleFreeAdamW(p, 1e-3, **kw), 8 + 16 + 2),
    "Prodigy": (lambda p, **kw: ft.optim.Prodigy(p, **kw), 8 + 24 + 4 + 2 + (2 + 8) + (2 + 4)),
    "Adafactor": (lambda p, **kw: ft.optim.Adafactor(p, 1e-3, **kw), 8 + 4 + 2 + 3 * 2),
    "Muon": (lambda p, **kw: ft.optim.Muon(p, 1e-3, **kw), 8 + 8 + 2),
    "AdamW, loss scale": (lambda p, **kw: ft.optim.AdamW(p, 1e-3, scaler=ft.optim.LossScaler(1.0), **kw), 26),
    "AdamW, groups": (
        lambda p, **kw: ft.optim.AdamW(
            p, 1e-3, groups=[ft.optim.group("w?", rate=0.5, schedule=ft.optim.schedule.cosine(1e-3, 99))], **kw
        ),
        26,
    ),
    "AdamW, clip_layer": (lambda p, **kw: ft.optim.AdamW(p, 1e-3, clip_layer=1.0, **kw), 26),
    "AdamW, clip_adaptive": (lambda p, **kw: ft.optim.AdamW(p, 1e-3, clip_adaptive=0.01, **kw), 26 + 2 + 4 + 2),
    "AdamW, ema": (lambda p, **kw: ft.optim.AdamW(p, 1e-3, ema=0.999, **kw), 26 + 8),
}


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Median time of a call, by CUDA events, after three calls that are not counted."""
    for _ in range(3):
        call()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def copy_rate(rounds: int) -> float:
    """Bytes a second, read and written together, of a copy of 1 GB."""
    a = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.numel() / milliseconds(lambda: b.copy_(a), rounds) * 1e3


@dataclass(frozen=True, eq=False)
class Rule:
    """An optimizer over bfloat16 weights with float32 masters, as a graph. moved: bytes of a parameter at least."""

    name: str
    optimizer: ft.optim.Optimizer
    held: list[ft.Value]
    updates: dict[ft.Value, ft.Value]
    elements: int
    moved: int


def rule(name: str, sizes: list[tuple[int, ...]]) -> Rule:
    """The rule of a name over tensors of these sizes; gradients are parameters that nothing updates."""
    make, moved = RULES[name]
    weights = [ft.parameter(s, "bfloat16", name=f"w{i}", init=0.01) for i, s in enumerate(sizes)]
    gradients = [ft.parameter(s, "bfloat16", name=f"g{i}", trainable=False, init=1e-3) for i, s in enumerate(sizes)]
    optimizer = make(weights, master="float32")
    held = [*weights, *gradients, *optimizer.state_values]
    elements = sum(w.size for w in weights)
    return Rule(name, optimizer, held, optimizer.updates(gradients), elements, moved + GRADIENTS)


def measured(one: Rule, rate: float, rounds: int) -> str:
    """A line of the table, and one more for averages. rate: bytes a second of a copy."""
    state = ft.State(one.held, device="cuda")
    program = ft.compile([], state=state, updates=one.updates, device="cuda")
    taken = milliseconds(program, rounds)
    share = one.moved * one.elements / rate * 1e3 / taken
    held = one.optimizer.state_bytes / one.elements
    line = f"{one.name:22} {taken:8.3f} {held:8.2f} {one.moved:8d} {share:8.1%} {len(program.launches):9d}"
    if one.optimizer.ema is None:
        return line
    with ft.optim.ema_weights(state, one.optimizer):
        pass  # compiled by now
    torch.cuda.synchronize()
    begun = time.perf_counter()
    with ft.optim.ema_weights(state, one.optimizer):
        torch.cuda.synchronize()
    took, size = time.perf_counter() - begun, 2 * one.elements / 1e9
    return f"{line}\n  averages in and out: {took:.2f} s for {size:.2f} GB of weights"


def main(arguments: list[str] | None = None) -> int:
    """Print the table. Returns 1 if a rule failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", action="append", choices=RULES, help="a rule; may be repeated; default all")
    options = parser.parse_args(arguments)
    begun = time.perf_counter()
    chosen = device("cuda")
    rules = [rule(name, shapes(options.blocks, options.width)) for name in options.only or RULES]
    launches = [launch for one in rules for launch in planned([], one.updates, chosen)]
    compile_all(launches, chosen.memory)  # of all rules at once, on every core
    print(f"{len(launches)} launches planned and compiled in {time.perf_counter() - begun:.0f} s", flush=True)
    rate = copy_rate(options.rounds)
    print(f"a copy moves {rate / 1e12:.2f} TB/s")
    print(f"{'rule':22} {'ms':>8} {'state B':>8} {'moves B':>8} {'of copy':>8} {'launches':>9}")
    failed = 0
    for one in rules:
        try:
            print(measured(one, rate, options.rounds), flush=True)
        except Exception as error:  # one rule that fails must not hide the others
            failed = 1
            print(f"{one.name:22} FAILED {type(error).__name__}: {error}", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    print(f"all took {time.perf_counter() - begun:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main())
