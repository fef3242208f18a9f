"""What is measured: a case is one piece of work, ours and its opponents', on the same arrays.

A `KernelCase` is a function of a few arrays, or the gradient of one by itself. Optimizers and whole steps are cases of
their own kinds; all open to the same `Session`, which the harness gates, times and forgets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import flame_triton as ft
from bench.backward import cut_forward
from bench.opponents import MODES, Run, Step, both_step, gradient_step, prepare
from flame_triton import Value
from flame_triton.ir.graph import Graph

TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int64": torch.int64}
Function = Callable[..., Any]


@dataclass(frozen=True)
class Scale:
    """Full size in bfloat16, or quick: tiny sizes in float32, so that every case runs on a CPU in a moment."""

    quick: bool = False

    @property
    def dtype(self) -> str:
        """Of the computation."""
        return "float32" if self.quick else "bfloat16"

    def of(self, size: int, least: int = 8) -> int:
        """A size of the work: of a quick case a small one, a multiple of 8 like most real ones."""
        return min(size, max(least, size // 256 // 8 * 8)) if self.quick else size


@dataclass(frozen=True)
class Array:
    """An operand: standard normal numbers times `spread`, or whole numbers below `below`."""

    shape: tuple[int, ...]
    dtype: str
    spread: float = 1.0
    below: int = 0

    def make(self, generator: torch.Generator, device: str) -> Tensor:
        """The operand itself; integers where `below` is given."""
        if self.below:
            return torch.randint(self.below, self.shape, generator=generator, device=device)
        made = torch.randn(self.shape, generator=generator, device=device, dtype=torch.float32)
        return (made * self.spread).to(TORCH[self.dtype])


@dataclass(frozen=True)
class Aims:
    """What is asked of a case: ratio to the best opponent, share of the ceiling, time over that of the bare product."""

    ratio: float | None = None
    share: float | None = None
    bare: float | None = None


@dataclass(eq=False)
class Ours:
    """Our side as a graph.

    values: the parameters that take the case's arrays, by name; outputs; updates: of parameters; saved: parameters
    that stand for values of a forward pass, with those values; more: further parameters that the State holds, zero at
    first; watched: those of them that a gate looks at, by name.
    """

    values: dict[str, Value]
    outputs: list[Value]
    updates: dict[Value, Value] = field(default_factory=dict)
    saved: dict[Value, Value] = field(default_factory=dict)
    more: list[Value] = field(default_factory=list)
    watched: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """How much a case does: floating-point operations, and bytes with every tensor counted once."""

    flops: int
    nbytes: int


class Session(ABC):
    """An opened case: memory is held until this object is gone.

    tolerance: relative RMS error against `reference()` that ours may have.
    """

    tolerance: float
    work: Work

    @abstractmethod
    def ours(self) -> dict[str, Run]:
        """ "ours", and where it tells something "bare": ours without what is fused into it."""

    @abstractmethod
    def opponents(self) -> dict[str, Callable[[], Run]]:
        """By name; preparing one may compile for seconds, or fail."""

    @abstractmethod
    def reference(self) -> list[Tensor]:
        """The results in float64 (float32 where that is too large)."""


class Case(ABC):
    """One row of the table.

    name: unique; bar: what torch reached on one H200 with torch 2.11; bound: "memory" or "compute": whether its ceiling
    is a copy of the same bytes or a large product.
    """

    name: str
    family: str
    bar: str
    bound: str
    aims: Aims

    @abstractmethod
    def build(self) -> Ours:
        """Our graph, made anew."""

    @abstractmethod
    def open(self, device: str) -> Session:
        """Arrays and programs on a device: "cuda" or "reference"."""


@dataclass(frozen=True, eq=False)
class KernelCase(Case):
    """A function of arrays, ours and in torch.

    arrays: operands by the name of the parameter they go to. ours, theirs: the function, from Values and from Tensors,
    to one result or several. wrt: if given, what is measured is the gradient with respect to these alone, given what
    the forward pass saves; both: with the forward pass, in one go. into: arrays that the results, in order, replace in
    place; `theirs` writes them in place.
    opponents: further torch functions by name. modes: how torch.compile takes part (see opponents.MODES).
    bare: ours without what is fused into it. axes: results are permuted so, ours and theirs, so that none is copied.
    exact: the reference in float64 as a function of float64 tensors, where `theirs` would not do.
    deterministic: as ft.compile takes it. tolerance: default by the dtype of the results.
    """

    name: str
    family: str
    arrays: Mapping[str, Array]
    ours: Function
    theirs: Function
    wrt: tuple[str, ...] = ()
    both: bool = False
    into: tuple[str, ...] = ()
    opponents: Mapping[str, Function] = field(default_factory=dict)
    modes: tuple[str, ...] = ("compile",)
    eager: str = "eager"
    bare: Function | None = None
    axes: tuple[int, ...] | None = None
    exact: Function | None = None
    flops: int = 0
    bound: str = "memory"
    bar: str = ""
    aims: Aims = field(default_factory=Aims)
    tolerance: float | None = None
    deterministic: bool = True

    def build(self, function: Function | None = None) -> Ours:
        values = {n: ft.parameter(a.shape, a.dtype, name=n) for n, a in self.arrays.items()}
        made = several((function or self.ours)(**values))
        if not self.wrt:
            if self.into and function is None:
                targets = [values[n] for n in self.into]
                return Ours(values, [], dict(zip(targets, made, strict=True)))
            return Ours(values, [permuted(v, self.axes, ft.transpose) for v in made])
        seeds = [ft.parameter(v.shape, v.dtype, name=f"cotangent_{i}") for i, v in enumerate(made)]
        found = ft.grad(made, [values[n] for n in self.wrt], grad_output=seeds)
        values |= {str(seed.name): seed for seed in seeds}
        if self.both:
            return Ours(values, [permuted(v, self.axes, ft.transpose) for v in (*made, *found)])
        outputs, saved = cut_forward([permuted(v, self.axes, ft.transpose) for v in found])
        return Ours(values, outputs, {}, saved)

    def open(self, device: str) -> KernelSession:
        return KernelSession(self, device)


def several(made: Any) -> list[Any]:
    """One result or several, as a list."""
    return list(made) if isinstance(made, list | tuple) else [made]


def permuted(x: Any, axes: tuple[int, ...] | None, transpose: Callable[..., Any]) -> Any:
    """x, or with its axes in another order if it has that many."""
    return transpose(x, axes) if axes is not None and x.ndim == len(axes) else x


def bytes_of(ours: Ours) -> int:
    """Bytes of what is read, computed and replaced, each tensor once. What the forward pass saves is read."""
    nodes = Graph((), (*ours.outputs, *ours.updates.values())).nodes
    leaves = {node.out for node in nodes if node.op.name == "parameter"}
    return sum(v.type.nbytes for v in (*leaves, *(set(ours.outputs) - leaves), *ours.updates))


class Replayed:
    """A program of ours as the harness runs it: operands are parameters of its State and results stay where they are
    made, so that what is timed is the replay of the captured launches and no copy."""

    def __init__(self, ours: Ours, tensors: Mapping[str, Tensor], device: str, deterministic: bool = True) -> None:
        held = [*ours.values.values(), *ours.saved, *ours.more]
        self.captured = device == "cuda"
        self.state = ft.State(held, device=device)
        self.tensors, self.values = tensors, ours.values
        given = set(ours.values.values())
        self.outside = [p for p in ours.updates if p in given]
        for name, value in ours.values.items():
            self.state.set(value, tensors[name])
        if ours.saved:
            ft.compile([], state=self.state, updates=ours.saved, device=device)()
        self.program = ft.compile(
            ours.outputs, state=self.state, updates=ours.updates, device=device, deterministic=deterministic
        )
        self.outputs: list[Tensor] = []

    def __call__(self) -> None:
        """One step."""
        self.outputs = self.program(borrow=True)

    def results(self) -> list[Tensor]:
        """Outputs, then what was updated among the case's arrays, as tensors that the next call may overwrite."""
        return [*self.outputs, *(self.state.place(p).tensor for p in self.outside)]

    def reset(self) -> None:
        """Put back the case's arrays that a call changes."""
        for p in self.outside:
            self.state.set(p, self.tensors[str(p.name)])

    def run(self) -> Run:
        """As the harness takes it."""
        kernels = [_label(launch) for launch in self.program.launches]
        return Run(self, self.results, self.reset, self.captured, kernels=kernels)


def _label(launch: Any) -> str:
    """A launch's name, and where its configuration comes from."""
    source = getattr(launch, "choice", "")
    return (launch.label or launch.kernel.name) + (f" ({source})" if source else "")


class KernelSession(Session):
    """A KernelCase with its arrays on a device."""

    def __init__(self, case: KernelCase, device: str) -> None:
        self.case, self.device = case, device
        self.memory = "cuda" if device == "cuda" else "cpu"
        self.built = case.build()
        generator = torch.Generator(self.memory).manual_seed(0)
        arrays = dict(case.arrays)
        for name, value in self.built.values.items():
            arrays.setdefault(name, Array(value.shape, value.dtype.name))
        self.tensors = {name: array.make(generator, self.memory) for name, array in arrays.items()}
        self.seeds = [name for name in arrays if name not in case.arrays]
        self.work = Work(case.flops, bytes_of(self.built))
        results = [*self.built.outputs, *self.built.updates]
        self.tolerance = case.tolerance or max(TOLERANCE[v.dtype.name] for v in results)

    def ours(self) -> dict[str, Run]:
        found = {"ours": Replayed(self.built, self.tensors, self.device, self.case.deterministic).run()}
        if self.case.bare is not None:
            found["bare"] = Replayed(self.case.build(self.case.bare), self.tensors, self.device).run()
        return found

    def opponents(self) -> dict[str, Callable[[], Run]]:
        case = self.case
        plain = {case.eager: case.theirs, **case.opponents}
        found = {name: self._maker(f, lambda f: f) for name, f in plain.items()}
        return found | {mode: self._maker(case.theirs, MODES[mode]) for mode in case.modes}

    def _maker(self, function: Function, how: Callable[[Function], Function]) -> Callable[[], Run]:
        return lambda: prepare(lambda: self._step(how(function)), self.memory)

    def _step(self, function: Function) -> Step:
        """The torch side: on tensors of its own where it writes them."""
        case = self.case
        own = {n: t.clone() if n in case.into else t for n, t in self._operands().items()}
        if case.wrt:
            step = both_step if case.both else gradient_step
            return step(function, own, case.wrt, [self.tensors[n] for n in self.seeds], self._leave)

        def reset() -> None:
            for name in case.into:
                own[name].copy_(self.tensors[name])

        return Step(lambda: self._leave(several(function(**own))), reset)

    def _leave(self, results: Sequence[Tensor]) -> list[Tensor]:
        return [permuted(r, self.case.axes, torch.permute) for r in results]

    def _operands(self) -> dict[str, Tensor]:
        return {name: self.tensors[name] for name in self.case.arrays}

    def reference(self) -> list[Tensor]:
        case = self.case
        wide = {n: t.double() if t.is_floating_point() else t for n, t in self._operands().items()}
        wide = {n: t.clone() if n in case.into else t for n, t in wide.items()}
        function = case.exact or case.theirs
        if not case.wrt:
            return self._leave([r.detach() for r in several(function(**wide))])
        seeds = [self.tensors[n].double() for n in self.seeds]
        step = both_step if case.both else gradient_step
        return step(function, wide, case.wrt, seeds, self._leave).call()


TOLERANCE = {t.name: limit for t, limit in ft.testing.TOLERANCE.items()}
"""The project's table: relative RMS error by dtype."""


def product(sizes: Sequence[int]) -> int:
    """2 M K N of a matrix product, and 2 B M K N of a batched one."""
    return 2 * math.prod(sizes)
