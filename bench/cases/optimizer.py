"""Optimizers over 268 million parameters in 416 tensors: one step on gradients that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import flame_triton as ft
from bench.case import TOLERANCE, Aims, Array, Case, Ours, Replayed, Scale, Session, Work, bytes_of
from bench.opponents import Run, Step, prepare
from flame_triton import Value, optim

LR, DECAY = 0.1, 0.01  # a rate so large that a wrong step shows in the weights
TorchStep = Callable[[list[Tensor], list[Tensor]], Step]


def shapes(scale: Scale) -> list[tuple[int, ...]]:
    """32 blocks of 13 tensors, as in a transformer of width 1024: 8.4 million parameters each."""
    n = 32 if scale.quick else 1024
    block = [(n, n)] * 4 + [(2 * n, n), (n, 2 * n)] + [(n,)] * 6 + [(2 * n,)]
    return block * (2 if scale.quick else 32)


@dataclass(frozen=True, eq=False)
class OptimizerCase(Case):
    """make: our optimizer of these parameters; exact: torch's on tensors of any dtype; theirs: opponents by name."""

    name: str
    shapes: list[tuple[int, ...]]
    make: Callable[[list[Value]], optim.Optimizer]
    exact: TorchStep
    theirs: dict[str, TorchStep]
    dtype: str = "float32"
    family: str = "optimizer"
    bound: str = "memory"
    bar: str = ""
    aims: Aims = field(default_factory=lambda: Aims(share=0.95))

    def build(self) -> Ours:
        weights = [ft.parameter(s, self.dtype, name=f"weight_{i}") for i, s in enumerate(self.shapes)]
        slopes = [ft.parameter(s, self.dtype, name=f"gradient_{i}") for i, s in enumerate(self.shapes)]
        optimizer = self.make(weights)
        values = {str(v.name): v for v in (*weights, *slopes)}
        return Ours(values, [], optimizer.updates(slopes), more=optimizer.state_values)

    def open(self, device: str) -> OptimizerSession:
        return OptimizerSession(self, device)


class OptimizerSession(Session):
    """Weights and gradients on a device."""

    def __init__(self, case: OptimizerCase, device: str) -> None:
        self.case, self.device = case, device
        self.memory = "cuda" if device == "cuda" else "cpu"
        self.built = case.build()
        generator = torch.Generator(self.memory).manual_seed(0)
        self.tensors = {
            name: Array(v.shape, v.dtype.name).make(generator, self.memory) for name, v in self.built.values.items()
        }
        self.work = Work(0, bytes_of(self.built))
        self.tolerance = TOLERANCE[case.dtype]

    def _named(self, stem: str) -> list[Tensor]:
        return [t for name, t in self.tensors.items() if name.startswith(stem)]

    def ours(self) -> dict[str, Run]:
        return {"ours": Replayed(self.built, self.tensors, self.device).run()}

    def opponents(self) -> dict[str, Callable[[], Run]]:
        def maker(how: TorchStep) -> Callable[[], Run]:
            def step() -> Step:
                return how([w.clone() for w in self._named("weight")], self._named("gradient"))

            return lambda: prepare(step, self.memory)

        return {name: maker(how) for name, how in self.case.theirs.items()}

    def reference(self) -> list[Tensor]:
        weights, slopes = ([t.double() for t in self._named(s)] for s in ("weight", "gradient"))
        return self.case.exact(weights, slopes).call()


def torch_optimizer(kind: Any, **options: Any) -> TorchStep:
    """One of torch.optim's; its moments start at zero again after a reset."""

    def how(weights: list[Tensor], slopes: list[Tensor]) -> Step:
        original = [w.clone() for w in weights]
        for w, g in zip(weights, slopes, strict=True):
            w.grad = g
        more = {"capturable": True} if weights[0].is_cuda and kind is torch.optim.AdamW else {}
        optimizer = kind(weights, lr=LR, weight_decay=DECAY, **options, **more)

        def call() -> list[Tensor]:
            optimizer.step()
            return weights

        def reset() -> None:
            torch._foreach_copy_(weights, original)
            for slots in optimizer.state.values():
                for held in slots.values():
                    if isinstance(held, Tensor):
                        held.zero_()

        return Step(call, reset)

    return how


def with_masters(kind: Any, dtype: torch.dtype, **options: Any) -> TorchStep:
    """As torch users keep them: gradients cast up, the masters' step, the masters cast down into the weights."""
    inner = torch_optimizer(kind, **options)

    def how(weights: list[Tensor], slopes: list[Tensor]) -> Step:
        masters, wide = ([t.to(dtype) for t in tensors] for tensors in (weights, slopes))
        original = [w.clone() for w in weights]
        step = inner(masters, wide)

        def call() -> list[Tensor]:
            torch._foreach_copy_(wide, slopes)
            torch._foreach_copy_(weights, step.call())
            return weights

        def reset() -> None:
            step.reset()
            torch._foreach_copy_(weights, original)

        return Step(call, reset)

    return how


def torch_lion(compiled: bool = False) -> TorchStep:
    """Lion by torch's foreach functions: p -= lr (sign(b1 m + (1 - b1) g) + decay p); m = b2 m + (1 - b2) g."""

    def how(weights: list[Tensor], slopes: list[Tensor]) -> Step:
        original, moments = [w.clone() for w in weights], [torch.zeros_like(w) for w in weights]

        def update() -> None:
            direction = torch._foreach_sign(torch._foreach_lerp(moments, slopes, 1 - 0.9))
            torch._foreach_mul_(weights, 1 - LR * DECAY)
            torch._foreach_add_(weights, list(direction), alpha=-LR)
            torch._foreach_lerp_(moments, slopes, 1 - 0.99)

        run = torch.compile(update, dynamic=False) if compiled else update

        def call() -> list[Tensor]:
            run()
            return weights

        def reset() -> None:
            torch._foreach_copy_(weights, original)
            torch._foreach_zero_(moments)

        return Step(call, reset)

    return how


def _always(_: Value) -> bool:
    return True


def cases(scale: Scale) -> Iterator[OptimizerCase]:
    """The rows of this family."""
    sizes, shared = shapes(scale), {"weight_decay": DECAY, "decays": _always}
    adamw, sgd = torch.optim.AdamW, torch.optim.SGD
    yield OptimizerCase(
        "AdamW float32, 268M in 416 tensors", sizes, lambda p: optim.AdamW(p, LR, **shared),
        torch_optimizer(adamw, foreach=True),
        {"fused": torch_optimizer(adamw, fused=True), "foreach": torch_optimizer(adamw, foreach=True)},
        bar="fused 3484 GB/s, foreach 1289",
    )  # fmt: skip
    yield OptimizerCase(
        "SGD with momentum float32, 268M in 416 tensors", sizes, lambda p: optim.SGD(p, LR, momentum=0.9, **shared),
        torch_optimizer(sgd, momentum=0.9, foreach=True),
        {
            "fused": torch_optimizer(sgd, momentum=0.9, fused=True),
            "foreach": torch_optimizer(sgd, momentum=0.9, foreach=True),
        },
    )  # fmt: skip
    if hasattr(optim, "Lion"):
        yield OptimizerCase(
            "AdamW bfloat16 with float32 masters, 268M in 416 tensors", sizes,
            lambda p: optim.AdamW(p, LR, master="float32", **shared),  # pyright: ignore[reportCallIssue]
            with_masters(torch.optim.AdamW, torch.float64, foreach=True),
            {
                "fused + casts": with_masters(torch.optim.AdamW, torch.float32, fused=True),
                "foreach + casts": with_masters(torch.optim.AdamW, torch.float32, foreach=True),
            },
            dtype="bfloat16",
        )  # fmt: skip
        lion = optim.Lion  # pyright: ignore[reportAttributeAccessIssue]
        yield OptimizerCase(
            "Lion float32, 268M in 416 tensors", sizes, lambda p: lion(p, LR, betas=(0.9, 0.99), **shared),
            torch_lion(), {"foreach": torch_lion(), "compile": torch_lion(compiled=True)},
        )  # fmt: skip
