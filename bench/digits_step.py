"""One training step of the demo's model at a real size, ours and torch's side by side on one GPU.

    python -m bench.digits_step [--width 384 --layers 12 --heads 6 --batch 256 --out FOLDER]

Ours: one program over one State (forward, backward, clipping, AdamW, random numbers), replayed as one CUDA graph,
bfloat16 compute with float32 weights. torch: the same model under bfloat16 autocast, compiled in its default and
reduce-overhead modes, `clip_grad_norm_` and fused AdamW. First a gate: both models, on the same weights, must give the
same velocity. Then
rounds of each in turn; medians by CUDA events, and by wall clock over the round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import flame_triton as ft
from bench import torch_digits
from flame_triton.ir.op import call
from flame_triton.train.digits_model import DigitsConfig, training_graph

Step = Callable[[], Any]


def data(batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, 8, 8)).astype(np.float32), rng.integers(0, 10, batch)


def our_step(config: DigitsConfig) -> tuple[Step, ft.Program, Any]:
    start = time.perf_counter()
    graph = training_graph(config)
    state = ft.State(graph.state_values, seed=0, device="cuda")
    outputs = [graph.loss, graph.optimizer.grad_norm]
    program = ft.compile(outputs, [graph.images, graph.labels], state=state, updates=graph.updates, device="cuda")
    planned = time.perf_counter() - start
    images, labels = (torch.from_numpy(a).cuda() for a in data(config.batch))
    program(images, labels)
    torch.cuda.synchronize()
    print(
        f"ours: built and planned in {planned:.1f} s, first step after {time.perf_counter() - start:.1f} s; "
        f"{len(program.launches)} launches of {program.distinct_kernels} kernels, "
        f"peak {program.peak_bytes / 2**20:.0f} MiB"
    )
    return lambda: program(images, labels), program, (graph, state)


def torch_step(config: DigitsConfig, mode: str, weights: dict[str, np.ndarray]) -> Step:
    torch._dynamo.reset()
    model = torch_digits.DigitsDiT(config.width, config.layers, config.heads)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    model.cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, betas=(0.9, 0.99), fused=True)
    images, labels = (torch.from_numpy(a).cuda() for a in data(config.batch))

    def loss() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return torch_digits.flow_matching_loss(model, images, labels)

    compiled = loss if mode == "eager" else torch.compile(loss, mode=None if mode == "default" else mode)

    def step() -> None:
        if mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        compiled().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    start = time.perf_counter()
    for _ in range(6):
        step()
    torch.cuda.synchronize()
    print(f"torch {mode}: first six steps {time.perf_counter() - start:.1f} s")
    return step


def gate(config: DigitsConfig, graph: Any, state: ft.State) -> None:
    """Both models in float32 on the same perturbed weights: relative RMS of the velocity below 1e-4."""
    rng = np.random.default_rng(1)
    weights = {n: 0.05 * rng.standard_normal(v.shape).astype(np.float32) for n, v in graph.model.named_parameters()}
    tokens = ft.input((config.batch, 16, 4), "float32", name="tokens")
    t, labels = ft.input((config.batch,), "float32", name="t"), ft.input((config.batch,), "int64", name="labels")
    own = ft.State(graph.model.parameters(), device="cuda")
    graph.model.load_state_dict(own, weights)
    program = ft.compile(
        call("cast", graph.model(tokens, t, labels), "float32"), [tokens, t, labels], state=own, device="cuda"
    )
    arrays = (
        rng.standard_normal(tokens.shape).astype(np.float32),
        rng.random(config.batch).astype(np.float32),
        rng.integers(0, 11, config.batch),
    )
    ours = program(*arrays).double()
    model = torch_digits.DigitsDiT(config.width, config.layers, config.heads)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
    with torch.no_grad():
        theirs = model.double().cuda()(
            *(
                torch.from_numpy(a).cuda().double() if a.dtype == np.float32 else torch.from_numpy(a).cuda()
                for a in arrays
            )
        )
    error = float(((ours - theirs) ** 2).mean().sqrt() / (theirs**2).mean().sqrt())
    print(f"gate: velocity in float32 against torch in float64, relative RMS {error:.1e}")
    assert error < 1e-4, error


def measure(steps: dict[str, Step], rounds: int, count: int) -> dict[str, dict[str, float]]:
    """Rounds of `count` steps of each in turn: median milliseconds by events, and per step by wall clock."""
    events: dict[str, list[float]] = {name: [] for name in steps}
    walls: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(count):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                step()
                end.record()
                end.synchronize()
                events[name].append(begin.elapsed_time(end))
            for _ in range(count):
                step()
            torch.cuda.synchronize()
            walls[name].append((time.perf_counter() - start) / (2 * count) * 1e3)
    return {n: {"ms": statistics.median(events[n]), "wall_ms": statistics.median(walls[n])} for n in steps}


def host_time(step: Step, count: int = 300) -> float:
    """Microseconds of host work per step: the call alone, the device idle before it. Median."""
    times: list[float] = []
    for _ in range(count):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("width", 384), ("layers", 12), ("heads", 6), ("batch", 256), ("rounds", 5), ("count", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, help="a folder for result.json and listing.txt")
    arguments = parser.parse_args()
    config = DigitsConfig(
        arguments.width, arguments.layers, arguments.heads, "bfloat16", arguments.batch, steps=100000, ema=None
    )
    ours, program, (graph, state) = our_step(config)
    host = host_time(ours)  # before torch.compile's worker processes take part of the processor
    gate(config, graph, state)
    weights = {n: state[v] for n, v in graph.model.named_parameters()}
    steps = {"ours": ours}
    averaged, _, _ = our_step(DigitsConfig(**{**config.as_dict(), "ema": 0.99}))
    steps["ours with weight average"] = averaged
    for mode in ("default", "reduce-overhead"):
        steps[f"torch.compile {mode}"] = torch_step(config, mode, weights)
    results = measure(steps, arguments.rounds, arguments.count)
    best = min(r["ms"] for n, r in results.items() if n.startswith("torch"))
    print(
        f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}: width {config.width}, {config.layers} layers, "
        f"batch {config.batch}, bfloat16"
    )
    for name, r in results.items():
        print(
            f"  {name:32s} {r['ms']:7.3f} ms/step   {r['wall_ms']:7.3f} by wall clock   "
            f"{best / r['ms']:.2f}x the best of torch"
        )
    print(f"  host time of ours per step: {host:.0f} us")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "result.json").write_text(json.dumps({"results": results, "host_us": host}, indent=1))
        (arguments.out / "listing.txt").write_text(program.listing())


if __name__ == "__main__":
    main()
