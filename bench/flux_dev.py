"""A training step of all of Flux-dev on one GPU: 19 + 38 blocks, 11.9 billion parameters, 1024 x 1024 pixels.

    python -m bench.flux_dev [--steps 5] [--budget 0.5] [--moments bfloat16] [--out FILE]       on a GPU with 141 GB
    python -m bench.flux_dev --tiny                                            1 + 1 small blocks, also without a GPU

A step is the forward pass of 4096 tokens of the picture and 512 of text, batch 1, the mean squared error in float32,
the backward pass and AdamW, which moves every weight. To fit: bfloat16 weights with stochastic rounding and no masters,
each update right after its gradient, and recomputation within a memory budget; with --moments bfloat16 instead of
float32 nothing has to be computed again. Weights are random and drawn where they lie; the batch is the same in every
step.

Printed: the options, the plan with its peak beside what torch's allocator held at most, the seconds of every part of
the start, each loss, and the median step. Model operations are three times those of the forward pass's products and
attention: what is computed again does not count. Exit code 1 if a loss is not finite, or does not change.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flame_triton as ft
from bench.harness import machine
from bench.model_steps import ROWS, Row
from flame_triton import Value, config
from flame_triton.errors import OutOfMemoryError
from flame_triton.graph.cost import flops
from flame_triton.ir.graph import Graph
from flame_triton.models import FluxConfig, Model, token_places

GIB = 1 << 30
LR = 1e-5
BUDGETS = {"float32": (0.5, 0.3), "bfloat16": (1.0, 0.5)}
TINY_BUDGETS = (0.8, 1.0)
OPTIONS = "bfloat16 weights, stochastic rounding, {} moments, fused_backward=True"


# ---- the step --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Step:
    """The training step as graphs. operations: of a step's products and attention, without any that is repeated."""

    model: Model
    inputs: list[Value]
    loss: Value
    updates: dict[Value, Value]
    state_values: list[Value]
    operations: int


def flux(tiny: bool) -> Row:
    """The row of bench/models.py with all blocks of Flux-dev; or the small one, with 8 x 8 tokens of the picture, so
    that it is activations that take the memory."""
    row = ROWS["flux"](tiny)
    whole = FluxConfig.dev()
    if not tiny:
        layers = {"num_layers": whole.num_layers, "num_single_layers": whole.num_single_layers}
        return replace(row, config=row.config | layers)
    (_, _, channels), dtype = row.inputs["hidden_states"]
    places = token_places(8, 8, row.inputs["encoder_hidden_states"][0][1])
    inputs = row.inputs | {"hidden_states": ((1, 64, channels), dtype)}
    return replace(row, inputs=inputs, target=(1, 64, channels), ours={"places": places})


def build(row: Row, moments: str = "float32") -> Step:
    """The step of a row. Every parameter starts from 0: `draw` gives it numbers on the device."""
    model = row.model.from_config(row.config, dtype="bfloat16")
    names = (name for name, _ in row.model.from_config(row.config).named_parameters(None))  # asked for, they are made
    model.start_from(dict.fromkeys(names, 0))
    inputs = [ft.input(shape, dtype, name=name) for name, (shape, dtype) in row.inputs.items()]
    target = ft.input(row.target, "float32", name="target")
    loss = ft.mse_loss(ft.cast(model(*inputs, **row.ours), "float32"), target)
    optimizer = ft.optim.AdamW(model.parameters(), LR, rounding="stochastic", moment_dtype=moments, fused_backward=True)
    updates = optimizer.updates(ft.grad(loss, model.parameters()))
    inputs.append(target)
    operations = 3 * sum(map(flops, Graph(tuple(inputs), (loss,)).nodes))
    return Step(model, inputs, loss, updates, [*model.parameters(None), *optimizer.state_values], operations)


def draw(model: Model, state: ft.State) -> None:
    """Random weights in place: products keep the size of what they are given, norms multiply by 1."""
    generator: torch.Generator | None = None
    for name, value in model.named_parameters():
        tensor = state.place(value).tensor
        generator = generator or torch.Generator(tensor.device).manual_seed(0)
        if value.ndim > 1:
            tensor.normal_(0.0, 1 / math.sqrt(math.prod(value.shape[1:])), generator=generator)
        elif ".norm_" in name:
            tensor.fill_(1.0)
        else:
            tensor.normal_(0.0, 0.02, generator=generator)


def batch(row: Row, inputs: list[Value], memory: str) -> list[Tensor]:
    """Random arrays for the inputs; the timestep lies in the middle."""
    generator = torch.Generator(memory).manual_seed(1)
    fixed = {"timestep": row.times[len(row.times) // 2], "guidance": 4.0}
    found: list[Tensor] = []
    for value in inputs:
        kind = getattr(torch, value.dtype.name)
        if value.name in fixed:
            found.append(torch.full(value.shape, fixed[value.name], dtype=kind, device=memory))
        else:
            found.append(torch.randn(value.shape, generator=generator, device=memory).to(kind))
    return found


def program_of(
    step: Step, state: ft.State, budgets: Sequence[float], say: Callable[[str], None]
) -> tuple[ft.Program, float]:
    """The program under the first budget that fits, and that budget."""
    for budget in budgets:
        try:
            return (
                ft.compile(step.loss, step.inputs, state=state, updates=step.updates, memory_budget=budget),
                budget,
            )
        except OutOfMemoryError as error:
            if budget == budgets[-1]:
                raise
            say(f"memory_budget={budget} does not do: {str(error).splitlines()[0]}")
    raise ValueError("no budgets")


# ---- the measurement -------------------------------------------------------------------------------------------


class Watch:
    """Seconds of one part after the other, and the bytes that torch's allocator holds on the device."""

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda
        self.begun = time.perf_counter()
        self.parts: dict[str, float] = {}
        self._last = self.begun

    def lap(self, part: str) -> float:
        """The seconds since the last call, which were those of `part`."""
        if self.cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.parts[part], self._last = now - self._last, now
        return self.parts[part]

    def say(self, line: str) -> None:
        print(f"[{time.perf_counter() - self.begun:6.1f} s] {line}", flush=True)

    def memory(self) -> dict[str, int]:
        """peak: held by torch's allocator at most; used: of the device as its driver sees it, now."""
        if not self.cuda:
            return {"peak": 0, "used": 0, "total": 0}
        free, total = torch.cuda.mem_get_info()
        return {"peak": torch.cuda.max_memory_allocated(), "used": total - free, "total": total}


def run(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was found."""
    cuda = config.gpu_available() and not config.interpreted()
    watch = Watch(cuda)
    step = build(row, options.moments)
    chosen = OPTIONS.format(options.moments)
    count = sum(v.size for v in step.model.parameters())
    watch.lap("graph")
    watch.say(f"{count / 1e9:.3f} billion parameters; {chosen}")
    state = ft.State(step.state_values, device="cuda" if cuda else "interpreter")
    draw(step.model, state)
    arrays = batch(row, step.inputs, state.device.memory)
    watch.lap("state")
    watch.say(f"state of {state.nbytes / GIB:.2f} GiB made and drawn in {watch.parts['state']:.1f} s")
    program, budget = program_of(
        step, state, options.budget or (TINY_BUDGETS if options.tiny else BUDGETS[options.moments]), watch.say
    )
    watch.lap("planning")
    watch.say(
        f"memory_budget={budget}: {len(program.launches)} launches of {program.distinct_kernels} kernels, peak "
        f"{program.peak_bytes / GIB:.2f} GiB as planned; {watch.parts['planning']:.1f} s"
    )
    program.prepare()
    watch.lap("compiling")
    watch.say(f"kernels compiled and loaded, memory allocated in {watch.parts['compiling']:.1f} s")
    losses: list[float] = []
    times: list[float] = []
    for number in range(1, max(options.steps, 3) + 1):
        losses.append(float(program(*arrays)))
        times.append(watch.lap(f"step {number}") * 1e3)
        watch.say(f"step {number}: loss {losses[-1]:.6f}, {times[-1]:.1f} ms")
    memory = watch.memory()
    median = statistics.median(times[2:])  # the first may have warmed up, the second may have recorded
    return {
        "machine": machine(), "parameters": count, "options": f"{chosen}, memory_budget={budget}",
        "launches": len(program.launches), "kernels": program.distinct_kernels, "seconds": watch.parts,
        "whole_seconds": time.perf_counter() - watch.begun, "planned_bytes": program.peak_bytes,
        "state_bytes": state.nbytes, "peak_bytes": memory["peak"], "used_bytes": memory["used"],
        "total_bytes": memory["total"], "losses": losses, "step_ms": times, "median_ms": median,
        "operations": step.operations, "tflops": step.operations / median / 1e9,
    }  # fmt: skip


def text(found: dict[str, Any]) -> str:
    """The result, for people."""
    seconds = ", ".join(f"{part} {took:.1f}" for part, took in found["seconds"].items() if not part.startswith("step"))
    lines = [
        f"{found['machine']['gpu'] or 'CPU'}, torch {found['machine']['torch']}, triton {found['machine']['triton']}",
        f"options      {found['options']}",
        f"program      {found['launches']} launches of {found['kernels']} kernels",
        f"seconds      {seconds}, first step {found['step_ms'][0] / 1e3:.1f}, all {found['whole_seconds']:.1f}",
        f"peak         {found['planned_bytes'] / GIB:.2f} GiB planned, {found['peak_bytes'] / GIB:.2f} GiB held by "
        f"torch's allocator; {found['used_bytes'] / GIB:.2f} of {found['total_bytes'] / GIB:.2f} GiB of the device",
        f"step         {found['median_ms']:.1f} ms median; {found['tflops']:.0f} TFLOP/s of the model's "
        f"{found['operations'] / 1e12:.1f} TFLOP",
        f"losses       {' '.join(f'{loss:.6f}' for loss in found['losses'])}",
        f"verdict      {'finite, changing' if well(found) else 'THE LOSSES ARE WRONG'}",
    ]
    return "\n".join(lines)


def well(found: dict[str, Any]) -> bool:
    """Whether every loss is finite and each differs from the one before."""
    losses = found["losses"]
    return all(map(math.isfinite, losses)) and all(a != b for a, b in pairwise(losses))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=5, help="at least 3")
    parser.add_argument("--budget", type=float, action="append", help="memory_budget; several are tried in turn")
    parser.add_argument("--moments", choices=BUDGETS, default="float32", help="the dtype of AdamW's moments")
    parser.add_argument("--out", type=Path, help="a file for all that was found, as JSON")
    parser.add_argument("--tiny", action="store_true", help="small sizes")
    options = parser.parse_args(arguments)
    found = run(flux(options.tiny), options)
    print(f"\n{text(found)}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1))
    return 0 if well(found) else 1


if __name__ == "__main__":
    sys.exit(main())
