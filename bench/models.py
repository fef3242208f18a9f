"""Training steps of diffusion models beside diffusers', at real sizes, on one GPU.

    python -m bench.models --model flux|sd35|dit [--seconds 5] [--steps 100] [--mode default] [--out FILE]
    flame-triton tune bench.models:flux_step        also sd35_step, dit_step; likewise build

A step is the forward pass, the mean squared error in float32, the backward pass and AdamW. Both sides have the same
weights and the same batches. --state: "bfloat16", weights, gradients and moments, on both sides; "float32", weights and
moments, with products in bfloat16, on diffusers' side by autocast, as its own training scripts do it; "masters", on
diffusers' side the same, while ours holds bfloat16 weights beside their float32 masters, which saves casting them. With
--fused each update follows its gradient, which is then freed. diffusers' model and loss go through torch.compile, its
optimizer is torch's fused AdamW. diffusers' DiT is in eval mode, since in training it drops labels by itself; nothing
else depends on the mode. --attention pins torch's attention: cuDNN's backward, torch's first choice, fails for the
strided heads of Flux in torch 2.11 (NaN, or an illegal access), so for Flux the default is FlashAttention-2.

First a gate: the loss of the first step, and the gradients of a few parameters, against diffusers in float32; ours may
be as far away as diffusers in bfloat16 is. Then the losses of `--steps` steps on both sides, then
rounds of steps of each in turn, medians. Peak memory is that of torch's allocator while a side runs, over what was
there before it began, inputs not counted. Every mode of --mode takes some time to compile: "blocks", which compiles one
block of each kind and uses it for all, takes least.

--tiny: small sizes; without a GPU these run through the interpreter, and torch's side on the CPU.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import flame_triton as ft
from bench.harness import machine, relative_error
from bench.model_steps import BETAS, DECAY, LR, ROWS, STATES, Row, dit_step, flux_step, sd35_step, step_graph
from flame_triton.runtime.profile import Profile

__all__ = ["ROWS", "compare", "dit_step", "flux_step", "main", "sd35_step"]

BATCHES = 4
TOLERANCE = 5e-2  # of a gradient: bfloat16 roundings of every activation lie between it and its reference
LOSS_TOLERANCE = 1e-2
BESIDE = 1.5  # more than the tolerance is right if diffusers in bfloat16 is off by as much, times this
ATTENTION = {"flux": "flash"}  # where torch's own choice fails
MODES = ("default", "reduce-overhead", "max-autotune-no-cudagraphs", "blocks", "eager")


# ---- both sides ------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Side:
    """A way to take a step. step: with the arrays of a batch -> the loss; moment: AdamW's first one of a parameter.

    first: seconds from nothing to the end of the first step, without those that weights took to be made and loaded;
    more: what else is known of it; profile: with the arrays of a batch -> the time of every launch.
    """

    step: Callable[[Mapping[str, Tensor]], Tensor]
    moment: Callable[[str], Tensor]
    first: float = 0.0
    peak: int = 0
    more: dict[str, Any] = field(default_factory=dict)
    profile: Callable[[Mapping[str, Tensor]], Profile] | None = None


def our_side(
    row: Row,
    weights: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
    state_kind: str = "bfloat16",
    fused: bool = False,
) -> Side:
    """Ours, after its first step."""
    start = time.perf_counter()
    graph = step_graph(row, state_kind, fused)
    device = "cuda" if _cuda() else "interpreter"
    named = dict(graph.model.named_parameters(None))
    loading = time.perf_counter()
    state = ft.State(graph.state_values, device=device)
    for name, tensor in weights.items():
        value = named[name]
        state.set(value, tensor.to(torch.bfloat16 if value.dtype is ft.bfloat16 else torch.float32))
        if value in graph.optimizer.masters:
            state.set(graph.optimizer.masters[value], tensor)
    _synchronize()
    loading = time.perf_counter() - loading
    program = ft.compile(graph.loss, graph.inputs, state=state, updates=graph.updates, device=device)
    planned = time.perf_counter() - start - loading
    slots = {name: graph.optimizer.slots[value][0] for name, value in graph.model.named_parameters()}

    def step(arrays: Mapping[str, Tensor]) -> Tensor:
        return program(*(arrays[str(v.name)] for v in graph.inputs))

    side = Side(step, lambda name: state.place(slots[name]).tensor)
    side.more = {"planned_peak_bytes": program.peak_bytes, "launches": len(program.launches), "plan_seconds": planned}
    side.more |= {"first_loss": float(step(batch))}
    side.first = time.perf_counter() - start - loading
    side.profile = lambda arrays: program.profile(*(arrays[str(v.name)] for v in graph.inputs))
    return side


def their_side(
    row: Row,
    weights: Mapping[str, Tensor],
    batch: Mapping[str, Tensor],
    mode: str,
    state: str = "bfloat16",
    wide: bool = False,
) -> Side:
    """diffusers', after its first step. wide: in float32, without autocast and without a step of the optimizer, whose
    "moments" are then those that its first step would leave."""
    start = time.perf_counter()
    short = state == "bfloat16" and not wide
    module = their_model(row, weights)
    if short:
        module = module.to(torch.bfloat16)
    loading = time.perf_counter() - start
    names = dict(module.named_parameters())
    device = next(iter(names.values())).device.type
    fixed = {name: torch.from_numpy(array).to(device) for name, array in row.fixed.items()}

    def loss(arrays: Mapping[str, Tensor]) -> Tensor:
        inputs = {name: arrays[name] for name in row.inputs}
        if wide:
            inputs = {name: t.float() if t.is_floating_point() else t for name, t in inputs.items()}
        with torch.autocast(device, torch.bfloat16, enabled=not wide and not short):
            made = module(**inputs, **fixed, return_dict=False)[0]
        return torch.nn.functional.mse_loss(made.float(), arrays["target"])

    if wide:
        found = loss(batch)
        found.backward()
        side = Side(loss, lambda name: _grad(names[name]) * (1 - BETAS[0]))
        side.more = {"first_loss": float(found.detach())}
        return side
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY, fused=device == "cuda" or None
    )
    compiled = _compiled(loss, module, mode)

    def step(arrays: Mapping[str, Tensor]) -> Tensor:
        if mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        found = compiled(arrays)
        found.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return found.detach().clone()

    side = Side(step, lambda name: optimizer.state[names[name]]["exp_avg"])
    side.more = {"first_loss": float(step(batch))}
    side.first = time.perf_counter() - start - loading
    return side


def _pin_attention(kind: str) -> None:
    """torch's attention by one implementation; "default": as torch chooses."""
    if _cuda() and kind != "default":
        torch.backends.cuda.enable_flash_sdp(kind == "flash")
        torch.backends.cuda.enable_cudnn_sdp(kind == "cudnn")
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_math_sdp(False)


def _compiled(loss: Callable[..., Tensor], module: Any, mode: str) -> Callable[..., Tensor]:
    """`loss` through torch.compile, or the blocks of `module`."""
    torch._dynamo.reset()
    if mode == "blocks":
        for name, blocks in module.named_children():
            for block in blocks if name.endswith("transformer_blocks") else ():
                block.compile()
    return loss if mode in ("eager", "blocks") else torch.compile(loss, mode=None if mode == "default" else mode)


def _grad(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def their_model(row: Row, weights: Mapping[str, Tensor]) -> Any:
    """diffusers' model with these weights, made on the device."""
    device = torch.device("cuda" if _cuda() else "cpu")
    with device:
        module = _diffusers(row.model.config_type.class_name)(**row.config)
    module = module.to(device, torch.float32).eval()
    module.load_state_dict(weights, strict=False)  # its own table of positions stays
    missing = {name for name, _ in module.named_parameters()} ^ set(weights)
    if missing:
        raise ValueError(f"the parameters are not the same: {sorted(missing)[:5]}")
    return module


def _diffusers(name: str) -> Any:
    """The class of diffusers called `name`. diffusers imports transformers and peft where they are installed, though
    its models need neither; and not every transformers takes the huggingface_hub that diffusers needs. So they are
    hidden from it, unless it is imported already, when it knows of them."""
    unwanted = () if "diffusers" in sys.modules else ("transformers", "peft")
    modules: dict[str, Any] = sys.modules  # None is what hides one
    hidden = {module: None for module in unwanted if module not in modules}
    modules.update(hidden)
    try:
        return getattr(importlib.import_module("diffusers"), name)
    finally:
        for module in hidden:
            del modules[module]


# ---- numbers ---------------------------------------------------------------------------------------------------


def _cuda() -> bool:
    return torch.cuda.is_available()


def _synchronize() -> None:
    if _cuda():
        torch.cuda.synchronize()


def _weights(row: Row) -> dict[str, Tensor]:
    """Random weights that let every part of the model matter: no zeros, norms about 1."""
    device = "cuda" if _cuda() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    found: dict[str, Tensor] = {}
    for name, value in row.model.from_config(row.config).named_parameters():
        drawn = torch.randn(value.shape, generator=generator, device=device)
        if value.ndim > 1:
            found[name] = drawn / math.sqrt(math.prod(value.shape[1:]))
        else:
            found[name] = drawn * 0.02 + (1.0 if ".norm_" in name else 0.0)
    return found


def _batches(row: Row) -> list[dict[str, Tensor]]:
    """BATCHES batches of random numbers."""
    device = "cuda" if _cuda() else "cpu"
    rng = np.random.default_rng(1)
    found: list[dict[str, Tensor]] = []
    for _ in range(BATCHES):
        batch: dict[str, Tensor] = {}
        for name, (shape, dtype) in (row.inputs | {"target": (row.target, "float32")}).items():
            if name == "timestep":
                array = rng.choice(row.times, shape)
            elif name == "guidance":
                array = np.full(shape, 4.0)
            elif dtype == "int64":
                array = rng.integers(0, row.labels + 1, shape)
            else:
                array = rng.standard_normal(shape)
            batch[name] = torch.from_numpy(np.asarray(array)).to(device, getattr(torch, dtype))
        found.append(batch)
    return found


def _watched(row: Row) -> list[str]:
    """Parameters whose gradients the gate looks at: of the first and last blocks, and of both ends."""
    names = [name for name, _ in row.model.from_config(row.config).named_parameters() if name.endswith("weight")]
    blocks = sorted({tuple(n.split(".")[:2]) for n in names if "transformer_blocks" in n}, key=lambda b: int(b[1]))
    ends = {".".join(b) + "." for b in (blocks[0], blocks[-1])}
    kinds = ("to_q.weight", "to_v.weight", "add_k_proj.weight", "ff.net.2.weight", "linear.weight", "proj_mlp.weight")
    chosen = [n for n in names if any(n.startswith(end) for end in ends) and n.endswith(kinds)]
    outer = [n for n in names if n.split(".")[0] in ("x_embedder", "context_embedder", "proj_out", "proj_out_2")]
    return [*chosen, *outer, *(n for n in names if n.startswith("pos_embed.proj"))]


def _errors(side: Side, reference: Mapping[str, Tensor], loss: float) -> dict[str, float]:
    """Relative errors of the first step: of the loss, and of the gradients as the first moments hold them."""
    found = {"loss": abs(side.more["first_loss"] - loss) / abs(loss)}
    return found | {name: relative_error([side.moment(name).float()], [g]) for name, g in reference.items()}


class _Memory:
    """Bytes of torch's allocator over those at the beginning."""

    def __init__(self) -> None:
        gc.collect()
        if _cuda():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        self.before = torch.cuda.memory_allocated() if _cuda() else 0

    def peak(self, call: Callable[[], object]) -> int:
        if not _cuda():
            call()
            return 0
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - self.before


def _timed(step: Callable[[], object]) -> float:
    """Milliseconds of a step."""
    if not _cuda():
        start = time.perf_counter()
        step()
        return (time.perf_counter() - start) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def _measure(sides: Mapping[str, Side], batch: Mapping[str, Tensor], seconds: float) -> dict[str, list[float]]:
    """Samples of each side in rounds, so that clocks and temperature are the same for all."""
    estimate = {name: max(_timed(lambda s=side: s.step(batch)), 1e-3) for name, side in sides.items()}
    rounds = 5
    counts = {name: max(2, min(50, int(seconds * 1e3 / rounds / len(sides) / ms))) for name, ms in estimate.items()}
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            side.step(batch)
            samples[name] += [_timed(lambda s=side: s.step(batch)) for _ in range(counts[name])]
    return samples


# ---- the command -----------------------------------------------------------------------------------------------


def compare(row: Row, options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything that was found."""
    weights, batches, watched = _weights(row), _batches(row), _watched(row)
    size = sum(t.numel() for t in weights.values())
    say(f"{row.name}: {size / 1e6:.1f} million parameters, {len(watched)} gradients watched")
    result: dict[str, Any] = {"model": row.name, "parameters": size, "machine": machine()}
    result |= {"state": options.state, "fused": options.fused, "attention": options.attention}
    if options.state == "bfloat16":
        weights = {name: tensor.to(torch.bfloat16).float() for name, tensor in weights.items()}
    wide = their_side(row, weights, batches[0], "eager", wide=True)
    loss, reference = wide.more["first_loss"], {name: wide.moment(name).clone() for name in watched}
    del wide
    _pin_attention(options.attention)  # not for the reference: in float32 neither of the two can be had
    makers = {"ours": lambda: our_side(row, weights, batches[0], options.state, options.fused)}
    makers |= {
        f"torch {mode}": lambda mode=mode: their_side(row, weights, batches[0], mode, options.state)
        for mode in options.mode
    }
    sides: dict[str, Side] = {}
    curves: dict[str, list[float]] = {}
    for name, make in makers.items():
        memory = _Memory()
        try:
            side = make()
        except Exception as error:  # one side that fails must not hide what the other does
            result[name] = {"failed": f"{type(error).__name__}: {error}"[:2000]}
            say(f"{name} failed:\n{traceback.format_exc()[-3000:]}")
            continue
        errors = _errors(side, reference, loss)
        worst = max((v, k) for k, v in errors.items() if k != "loss")
        say(
            f"{name}: first step after {side.first:.1f} s; loss {side.more['first_loss']:.6f}, in float32 {loss:.6f}; "
            f"worst gradient {worst[1]}: {worst[0]:.1e}"
        )
        side.step(batches[0])
        side.peak = memory.peak(lambda s=side: s.step(batches[1 % BATCHES]))
        result[name] = {"errors": errors, "first_seconds": side.first, "peak_bytes": side.peak}
        result[name] |= side.more
        curve = [side.step(batches[i % BATCHES]) for i in range(options.steps)]
        curves[name] = [float(x) for x in curve] if _cuda() else [float(np.asarray(x)) for x in curve]
        sides[name] = side
    result["curves"] = curves
    _judge([result[name] for name in sides], [result[name] for name in sides if name != "ours"])
    _compare_curves(curves, result, say)
    for name, samples in _measure(sides, batches[0], options.seconds).items():
        ordered = sorted(samples)
        result[name] |= {"ms": statistics.median(samples), "samples": len(samples)}
        result[name] |= {"ms_low": ordered[len(ordered) // 4], "ms_high": ordered[3 * len(ordered) // 4]}
    if options.profile is not None and "ours" in sides and sides["ours"].profile is not None:
        profile = sides["ours"].profile(batches[0])
        options.profile.parent.mkdir(parents=True, exist_ok=True)
        options.profile.write_text(json.dumps({"text": profile.text(60).split("\n"), **profile.as_dict()}, indent=1))
    return result


def _judge(found: Sequence[dict[str, Any]], beside: Sequence[dict[str, Any]]) -> None:
    """Sets "agrees" of each: no error is above the tolerance, or else far above that of diffusers under autocast."""
    for side in found:
        limits = {
            name: max([TOLERANCE if name != "loss" else LOSS_TOLERANCE, *(BESIDE * b["errors"][name] for b in beside)])
            for name in side["errors"]
        }
        side["agrees"] = all(error <= limits[name] for name, error in side["errors"].items())


def _compare_curves(curves: Mapping[str, list[float]], result: dict[str, Any], say: Callable[[str], None]) -> None:
    """How far our losses are from each other side's: relative differences of the same step, the largest and the median,
    and of the sums over all steps."""
    for name, theirs in curves.items():
        if name == "ours" or "ours" not in curves or not theirs:
            continue
        ours = curves["ours"]
        apart = [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]
        whole = abs(sum(ours) - sum(theirs)) / abs(sum(theirs))
        result[name] |= {"curve_difference": max(apart), "curve_median_difference": statistics.median(apart)}
        result[name] |= {"curve_sum_difference": whole}
        say(
            f"losses of {len(apart)} further steps, ours beside {name}: relative difference at most {max(apart):.1e}, "
            f"median {statistics.median(apart):.1e}, of the sums {whole:.1e}; "
            f"first {ours[0]:.5f} {theirs[0]:.5f}, last {ours[-1]:.5f} {theirs[-1]:.5f}"
        )


def table(result: Mapping[str, Any]) -> str:
    """A line for each side that was measured."""
    names = [name for name in result if name == "ours" or name.startswith("torch ")]
    ours = result.get("ours", {})
    lines = [f"{'':34} {'ms/step':>9} {'peak GiB':>9} {'first s':>8} {'ours is':>22}"]
    for name in names:
        side = result[name]
        if "ms" not in side:
            lines.append(f"{name:34} {'failed':>9}")
            continue
        more = ""
        if name != "ours" and "ms" in ours:
            memory = f", {ours['peak_bytes'] / side['peak_bytes']:.2f}x memory" if side["peak_bytes"] else ""
            more = f"{side['ms'] / ours['ms']:.2f}x as fast{memory}"
        warning = "" if side["agrees"] else "  DOES NOT AGREE"
        lines.append(
            f"{name:34} {side['ms']:9.2f} {side['peak_bytes'] / 2**30:9.2f} {side['first_seconds']:8.1f} "
            f"{more:>22}{warning}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=ROWS, required=True)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring, of all sides together")
    parser.add_argument("--steps", type=int, default=100, help="of the loss curves")
    parser.add_argument("--mode", choices=MODES, action="append", help="of torch.compile; may be repeated")
    parser.add_argument("--state", choices=STATES, default=STATES[0], help="dtypes of weights and moments")
    parser.add_argument("--attention", choices=("default", "cudnn", "flash"), help="of torch")
    parser.add_argument("--profile", type=Path, help="a file for the time of every launch of ours, as JSON")
    parser.add_argument("--fused", action="store_true", help="ours: each update in the backward pass, at its gradient")
    parser.add_argument("--out", type=Path, help="a file for all that was found, as JSON")
    parser.add_argument("--tiny", action="store_true", help="small sizes")
    options = parser.parse_args(arguments)
    options.mode = options.mode or ["default"]
    options.attention = options.attention or ATTENTION.get(options.model, "default")
    start = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - start:6.1f} s] {line}", flush=True)

    result = compare(ROWS[options.model](options.tiny), options, say)
    print(f"\n{result['machine']['gpu'] or 'CPU'}, torch {torch.__version__}, {options.model}\n{table(result)}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
