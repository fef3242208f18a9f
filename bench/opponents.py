"""torch's side of a case: eager, torch.compile in its modes, captured as CUDA graphs where that is possible.

Everything is captured, ours and theirs: for a kernel of ten microseconds the host's work for one launch is longer than
the kernel, and what is compared here is kernels. What torch cannot capture is called as it is, and the table says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # calls before capture: lazy initialisation, torch.compile's compilation of forward and backward


def nothing() -> None:
    """Nothing is to be put back."""


@dataclass(eq=False)
class Step:
    """What is timed on torch's side. call: queues the work and gives its results. reset: puts back what it changes."""

    call: Callable[[], list[Tensor]]
    reset: Callable[[], None] = nothing


@dataclass(eq=False)
class Run:
    """A prepared piece of work. captured: one replay of a CUDA graph; seconds: to prepare it; kernels: our launches.

    held: what must outlive a captured graph, which knows the addresses of its operands and keeps none of them.
    """

    call: Callable[[], Any]
    results: Callable[[], Sequence[Tensor]]
    reset: Callable[[], None] = nothing
    captured: bool = False
    seconds: float = 0.0
    kernels: list[str] = field(default_factory=list)
    held: object = None


def prepare(make: Callable[[], Step], memory: str, capture: bool = True) -> Run:
    """Build, compile, warm up and capture. Whatever torch raises while it builds or warms up goes to the caller."""
    start = time.perf_counter()
    if memory == "cpu":
        step = make()
        kept: list[Tensor] = []

        def remembered() -> None:
            kept[:] = step.call()

        return Run(remembered, lambda: kept, step.reset, seconds=time.perf_counter() - start)
    # Autograd runs backward on the stream of the forward pass, so all of it happens on the stream of the capture.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step = make()
        for _ in range(WARM_UP):
            results = step.call()
    torch.cuda.synchronize()
    call, captured = step.call, False
    if capture:
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                results = step.call()
            call, captured = graph.replay, True
        except Exception:  # torch refuses in many ways; the work can still be timed call by call
            torch.cuda.synchronize()
    if captured:
        return Run(call, lambda: results, step.reset, True, time.perf_counter() - start, held=step)
    latest: list[Tensor] = []

    def plain() -> None:
        latest[:] = step.call()

    return Run(plain, lambda: latest, step.reset, False, time.perf_counter() - start)


def gradient_step(
    function: Callable[..., Any],
    tensors: Mapping[str, Tensor],
    wrt: Sequence[str],
    cotangents: Sequence[Tensor],
    leave: Callable[[Sequence[Tensor]], list[Tensor]],
) -> Step:
    """The backward pass alone: the forward pass is run once, here."""
    own, wanted = _leaves(tensors, wrt)
    outputs = _forward(function, own)
    seeds = [c.to(o.dtype) for c, o in zip(cotangents, outputs, strict=True)]
    return Step(lambda: leave(torch.autograd.grad(outputs, wanted, seeds, retain_graph=True)))


def both_step(
    function: Callable[..., Any],
    tensors: Mapping[str, Tensor],
    wrt: Sequence[str],
    cotangents: Sequence[Tensor],
    leave: Callable[[Sequence[Tensor]], list[Tensor]],
) -> Step:
    """The forward pass and the backward pass in one go; the results are those of both."""
    own, wanted = _leaves(tensors, wrt)

    def call() -> list[Tensor]:
        outputs = _forward(function, own)
        seeds = [c.to(o.dtype) for c, o in zip(cotangents, outputs, strict=True)]
        return leave([*(o.detach() for o in outputs), *torch.autograd.grad(outputs, wanted, seeds)])

    return Step(call)


def _leaves(tensors: Mapping[str, Tensor], wrt: Sequence[str]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The operands, those in `wrt` as leaves of their own; and the latter in order."""
    own = {n: t.detach().clone().requires_grad_() if n in wrt else t for n, t in tensors.items()}
    return own, [own[n] for n in wrt]


def _forward(function: Callable[..., Any], own: Mapping[str, Tensor]) -> list[Tensor]:
    made = function(**own)
    return list(made) if isinstance(made, list | tuple) else [made]


# ---- torch.compile ---------------------------------------------------------------------------------------------


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile as it comes."""
    return _compile(function)


def autotuned(function: Callable[..., Any]) -> Callable[..., Any]:
    """max-autotune without its own CUDA graphs (all are captured here): cuBLAS and Triton templates, TMA included."""
    return _compile(function, {"max_autotune": True})


def templates(function: Callable[..., Any]) -> Callable[..., Any]:
    """Inductor's Triton templates alone, autotuned: epilogues are always fused."""
    return _compile(function, {"max_autotune_gemm": True, "max_autotune_gemm_backends": "TRITON"})


MODES: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "compile": compiled,
    "max-autotune": autotuned,
    "inductor-triton": templates,
}
SLOW_MODES = ("max-autotune", "inductor-triton")
"""Modes that try dozens of kernels for each case; `--autotune SECONDS` bounds what they take together."""


def _compile(function: Callable[..., Any], options: dict[str, Any] | None = None) -> Callable[..., Any]:
    torch._dynamo.reset()
    if options is not None:
        from torch._inductor import config

        if hasattr(config.triton, "enable_persistent_tma_matmul"):
            options = {**options, "triton.enable_persistent_tma_matmul": True}
    return torch.compile(function, dynamic=False, options=options)
