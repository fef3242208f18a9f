"""Whole training steps of a transformer: forward, loss, backward and AdamW, bfloat16 with float32 weights and moments.

torch casts its float32 weights in every step, as autocast does; our AdamW writes the bfloat16 weights beside their
float32 masters.

"without attention" adds up queries, keys and values where attention stood, on both sides: what remains is products,
norms, rotary turns, modulation and the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import flame_triton as ft
from bench import torch_transformer
from bench.case import Aims, Case, Ours, Replayed, Scale, Session, Work
from bench.opponents import Run, Step, compiled, nothing, prepare
from bench.transformer import Sizes, Transformer, loss_of
from flame_triton import optim

LR, BETAS, DECAY = 1e-4, (0.9, 0.999), 0.01
INPUTS = ("x", "condition", "target")


@dataclass(frozen=True, eq=False)
class StepCase(Case):
    """A step of the transformer of these sizes."""

    name: str
    sizes: Sizes
    family: str = "step"
    bound: str = "compute"
    bar: str = ""
    aims: Aims = field(default_factory=lambda: Aims(ratio=1.3))

    def build(self) -> Ours:
        sizes = self.sizes
        tokens = (sizes.batch, sizes.tokens, sizes.width)
        values = {
            name: ft.parameter(tokens if name != "condition" else (sizes.batch, sizes.width), ft.float32, name=name)
            for name in INPUTS
        }
        model = Transformer(sizes)
        loss = loss_of(model, **values)
        weights = dict(model.named_parameters())
        slopes = ft.grad(loss, list(weights.values()))
        optimizer = optim.AdamW(
            list(weights.values()), LR, betas=BETAS, weight_decay=DECAY, decays=lambda _: True, master="float32",
            skip_non_finite=False,
        )  # fmt: skip
        first = {name: optimizer.slots[w][0] for name, w in weights.items()}
        masters = {_master(n): optimizer.masters[w] for n, w in weights.items() if w in optimizer.masters}
        more = [v for v in optimizer.state_values if v not in set(masters.values())]
        updates = optimizer.updates(slopes)
        return Ours(values | weights | masters, [loss], updates, more=more, watched=first)

    def open(self, device: str) -> StepSession:
        return StepSession(self, device)


class StepSession(Session):
    """Both models on a device, with the same weights.

    The gate compares the loss, and the gradients of the first and of the last block, as AdamW's first moments hold them
    after one step, with torch's in float32 (float64 for a quick case).
    """

    def __init__(self, case: StepCase, device: str) -> None:
        self.case, self.device = case, device
        self.memory = "cuda" if device == "cuda" else "cpu"
        sizes = case.sizes
        torch.manual_seed(0)
        with torch.device(self.memory):
            self.model = torch_transformer.Transformer(sizes).to(self.memory)  # with the angles, made by NumPy
            tokens = (sizes.batch, sizes.tokens, sizes.width)
            self.inputs = [torch.randn(tokens), torch.randn(sizes.batch, sizes.width), torch.randn(tokens)]
        self.first = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        self.work = Work(sizes.flops, 0)
        # Two bfloat16 roundings of every activation of twelve blocks lie between a gradient and its reference.
        self.tolerance = 1e-4 if sizes.dtype == "float32" else 5e-2

    def named_inputs(self) -> dict[str, Tensor]:
        """The arrays of a step besides the weights."""
        return dict(zip(INPUTS, self.inputs, strict=True))

    def weights(self) -> dict[str, Tensor]:
        """Our weights at first, and their masters."""
        dtype = getattr(torch, self.case.sizes.dtype)
        return {n: w.to(dtype) for n, w in self.first.items()} | {_master(n): w for n, w in self.first.items()}

    def _watched(self) -> list[list[str]]:
        """Names of the parameters of the first and of the last block."""
        return [[n for n in self.first if n.startswith(f"blocks.{i}.")] for i in (0, self.case.sizes.layers - 1)]

    def ours(self) -> dict[str, Run]:
        built = self.case.build()
        arrays = self.named_inputs() | self.weights()
        replayed = Replayed(built, arrays, self.device)

        def results() -> list[Tensor]:
            held = [[replayed.state.place(built.watched[n]).tensor for n in names] for names in self._watched()]
            return [replayed.outputs[0], *(_joined(h) / (1 - BETAS[0]) for h in held)]

        return {"ours": replace(replayed.run(), results=results, reset=nothing)}

    def opponents(self) -> dict[str, Callable[[], Run]]:
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LR, betas=BETAS, weight_decay=DECAY, fused=self.memory == "cuda"
        )

        def loss() -> Tensor:
            return torch_transformer.loss_of(self.model, *self.inputs, dtype=self.case.sizes.dtype)

        def reset() -> None:
            with torch.no_grad():
                for name, p in self.model.named_parameters():
                    p.copy_(self.first[name])
            optimizer.state.clear()

        def step(how: Callable[..., Callable[..., Tensor]]) -> Step:
            run = how(loss)

            def call() -> list[Tensor]:
                found = run()
                found.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                return [found.detach()]

            return Step(call, reset)

        def maker(how: Callable[..., Callable[..., Tensor]]) -> Callable[[], Run]:
            def make() -> Run:
                run = prepare(lambda: step(how), self.memory, capture=False)
                latest = run.results

                def results() -> list[Tensor]:
                    names = dict(self.model.named_parameters())
                    held = [[optimizer.state[names[n]]["exp_avg"] for n in watched] for watched in self._watched()]
                    return [*latest(), *(_joined(h) / (1 - BETAS[0]) for h in held)]

                return replace(run, results=results)

            return make

        return {"eager": maker(lambda f: f), "compile": maker(compiled)}

    def reference(self) -> list[Tensor]:
        wide = self.case.sizes.dtype == "float32"
        model = self.model.double() if wide else self.model
        inputs = [t.double() if wide else t for t in self.inputs]
        found = torch_transformer.loss_of(model, *inputs, dtype="float32")
        found.backward()
        names = dict(model.named_parameters())
        slopes = [_joined([names[n].grad for n in watched]) for watched in self._watched()]  # type: ignore[misc]
        model.zero_grad(set_to_none=True)
        self.model.float()
        return [found.detach(), *slopes]


def _master(name: str) -> str:
    return f"{name}.master"


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def cases(scale: Scale) -> Iterator[StepCase]:
    """The rows of this family."""
    full = Sizes(dtype=scale.dtype)
    sizes = replace(full, width=32, heads=2, tokens=16, layers=2) if scale.quick else full
    yield StepCase("transformer 12x3072, 4608 tokens, without attention", replace(sizes, attention=False))
    yield StepCase("transformer 12x3072, 4608 tokens", sizes, aims=Aims(ratio=1.0))
