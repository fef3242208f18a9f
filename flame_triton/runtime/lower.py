"""Lower an optimised graph to launches: kernels, grids, arguments, and which slot of memory each value lives in.

Pure data in, pure data out: no device is touched, so a graph can be lowered for a GPU on a machine without one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeVar

from ..codegen import configs
from ..codegen.region import Generated, generate, streams_of
from ..errors import CompileError
from ..graph.access import map_onto, views_below
from ..graph.memory import plan_memory
from ..graph.pipeline import optimise, without_collection
from ..graph.plan import SUM_ROWS, Argument, KernelRef, Launch, Operand, Schedule, Slot, Target
from ..graph.remat import Recomputation
from ..graph.schedule import eager
from ..ir.graph import Graph
from ..ir.node import Node, Value, make
from ..ir.op import OPS, Fused, Kernel, Leaf, View
from ..types import TensorType
from .choices import Choices, Decision, Problem
from .families import FAMILIES
from .fit import Limit, over_budget

C = TypeVar("C")

PLANS = 12  # memory plans that are made to meet a budget


def lower(
    graph: Graph,
    updates: Mapping[Value, Value],
    target: Target,
    choices: Choices | None = None,
    limit: Limit | None = None,
) -> Schedule:
    """The schedule of `graph` with state updates; memory is not planned yet (see graph/memory.py).

    updates: state value -> the value it takes after the step. A new value is written straight into the state's buffer
    where no launch still needs the old one; else it is listed in `Schedule.updates` and copied at the end.
    choices: configurations that were measured; without them, and for what they do not know, heuristics decide.
    limit: what the arena may take; values are computed again until the planned memory fits. Raises OutOfMemoryError if
    that is not enough.
    """
    fresh = [make("stop_gradient", [v]).out if isinstance(v.node.op.lowering, Leaf) else v for v in updates.values()]
    whole = Graph(graph.inputs, (*graph.outputs, *fresh))
    whole.check_closed()
    with without_collection():
        lowering, schedule = _lowered(
            eager(optimise(whole, target=target), list(updates)), len(graph.outputs), updates, target, choices
        )
        return schedule if limit is None else _within(limit, lowering, schedule, updates)


def _lowered(
    optimised: Graph, count: int, updates: Mapping[Value, Value], target: Target, choices: Choices | None
) -> tuple[Lowering, Schedule]:
    lowering = Lowering(optimised, target, choices)
    while choices is not None and not lowering.confirmed(choices):
        lowering = Lowering(optimised, target, choices)
    return lowering, lowering.finish(count, list(updates))


def _within(limit: Limit, lowering: Lowering, schedule: Schedule, updates: Mapping[Value, Value]) -> Schedule:
    """The schedule, recomputing as much as it takes for the plan to keep to the limit. The plan judges: the search
    knows neither workspaces nor gaps between blocks of the arena, so it is asked for less until the plan fits."""
    plan_memory(schedule)
    allowed = limit(schedule)
    if schedule.arena_bytes <= allowed:
        return schedule
    graph, count = lowering.graph, len(lowering.graph.outputs) - len(updates)
    search = Recomputation(graph, {v for v, s in lowering.slots.items() if s.root.kind != "arena"})
    best, wanted = schedule, allowed + search.peak - schedule.arena_bytes
    for _ in range(PLANS):
        enough = search.reduce(wanted)
        _, made = _lowered(search.graph(), count, updates, lowering.target, lowering.choices)
        plan_memory(made)
        best = min(best, made, key=lambda s: s.arena_bytes)
        if best.arena_bytes <= allowed:
            return best
        if not enough:
            break
        wanted = search.peak - max(made.arena_bytes - allowed, search.peak // 200)
    raise over_budget(best, allowed, best.arena_bytes)


@dataclass(frozen=True, eq=False)
class KernelCall:
    """A node of a hand-written kernel. operands, attrs: the kernel's own; extras: what only the epilogue reads.

    region: the epilogue, from the kernel's result (its first input) and the extras to the node's results.
    """

    node: Node
    operands: tuple[Value, ...]
    attrs: Mapping[str, Any]
    extras: tuple[Value, ...]
    region: Graph
    roles: tuple[str, ...]

    @cached_property
    def epilogue(self) -> Generated:
        """The generated function that the kernel ends in."""
        return generate(self.region, self.roles, self.region.inputs[0])

    @property
    def row_multiple(self) -> int:
        """Tiles handed to the epilogue must be a multiple of this high."""
        return SUM_ROWS if "column" in self.roles else 1

    @property
    def heavy(self) -> bool:
        """True if the epilogue holds more of a tile in registers than the accumulator and what becomes of it."""
        whole = self.region.inputs[0].size
        return bool({"column", "halves"} & set(self.roles)) or any(v.size >= whole for v in self.extras)


class Lowering:
    """The state of one lowering: slots by value, and the launches so far."""

    def __init__(self, graph: Graph, target: Target, choices: Choices | None = None) -> None:
        self.graph = graph
        self.target = target
        self.choices = choices
        self.decisions: list[Decision] = []
        self.slots: dict[Value, Slot] = {}
        self.launches: list[Launch] = []
        self.in_place: list[tuple[int, Slot, Slot]] = []  # (launch, result, operand whose memory it may take over)
        listed = set(graph.inputs)
        for node in graph.nodes:
            lowering = node.op.lowering
            if isinstance(lowering, Leaf):
                kind = "input" if node.out in listed else {"parameter": "state", "constant": "constant"}[node.op.name]
                self.slots[node.out] = Slot(kind, node.type.nbytes, node.out)
            elif not isinstance(lowering, View):
                self.slots.update((v, Slot("arena", v.type.nbytes, v)) for v in node.outputs)
                self._launch(node)

    @property
    def deterministic(self) -> bool:
        """True unless kernels may give other bits on every run. Where a family has both forms of a kernel, it is one of
        the facts of its problem, for what was measured of one form says nothing of the other."""
        return self.target.deterministic

    # ---- operands ----------------------------------------------------------------------------------------------

    def slot(self, value: Value) -> Slot:
        """The slot of a value in memory, seen through reshapes."""
        return self.slots[self.base(value)]

    def base(self, value: Value) -> Value:
        return next(v for v in views_below(value) if v in self.slots)

    def operand(self, value: Value) -> Operand:
        """A dense operand."""
        base = self.base(value)
        if not map_onto(value, base).is_dense:
            raise CompileError(f"{value!r} is not laid out densely", loc=value.node.loc)
        return Operand(self.slots[base], value.dtype)

    def emit(
        self,
        node: Node,
        kernel: KernelRef,
        grid: tuple[int, ...],
        args: Sequence[Argument],
        constexprs: Mapping[str, object],
        options: Mapping[str, int],
        reads: Sequence[Slot],
        writes: Sequence[Slot],
        label: str,
    ) -> None:
        """Add a launch, unless it would do nothing."""
        if math.prod(grid) and any(s.nbytes for s in writes):
            self.launches.append(
                Launch(
                    kernel,
                    grid,
                    tuple(args),
                    dict(constexprs),
                    dict(options),
                    _unique(reads),
                    _unique(writes),
                    node,
                    label,
                    self.decisions[-1].source if self.decisions and self.decisions[-1].node is node else "",
                )
            )

    def workspace(self, shape: tuple[int, ...], dtype_of: TensorType) -> Slot:
        """Scratch memory of one node."""
        return Slot("arena", math.prod(shape) * dtype_of.dtype.itemsize)

    def choose(
        self,
        node: Node,
        family: str,
        facts: Mapping[str, Any],
        candidates: Callable[[], Sequence[C]],
        heuristic: Callable[[], C],
    ) -> C:
        """The configuration of a kernel for `node`: a measured one if the problem is known, else the heuristic's.

        facts: see choices.Problem. Interpreted kernels have nothing to choose, unless choices are given.
        """
        if self.target.interpreted and self.choices is None:
            return heuristic()
        problem = Problem.of(family, facts)
        found = None if self.choices is None else self.choices.find(problem, candidates)
        config, source = found or (heuristic(), "heuristic")
        self.decisions.append(Decision(node, problem, candidates, config, source, len(self.launches)))
        return config

    def decided(self) -> list[tuple[Decision, list[Launch]]]:
        """Every decision with the launches that it was for."""
        ends = [*(d.first for d in self.decisions[1:]), len(self.launches)]
        return [
            (d, [launch for launch in self.launches[d.first : end] if launch.node is d.node])
            for d, end in zip(self.decisions, ends, strict=False)
        ]

    def confirmed(self, choices: Choices) -> bool:
        """True if every measured configuration was measured with the kernel that it is used for here."""
        measured = [(d, launches) for d, launches in self.decided() if d.source != "heuristic" and launches]
        stale = [d for d, launches in measured if not choices.confirm(d, launches)]  # each is asked, and forgotten
        return not stale

    # ---- nodes -------------------------------------------------------------------------------------------------

    def _launch(self, node: Node) -> None:
        if not any(t.size for t in node.types):
            return
        lowering = node.op.lowering
        if isinstance(lowering, Fused) and lowering.kind == "region":
            self._region(node)
        elif isinstance(lowering, Kernel | Fused):
            kernel = lowering if isinstance(lowering, Kernel) else node.attrs["kernel"].lowering
            family: Callable[[Lowering, Node], None] | None = FAMILIES.get(kernel.family)
            if family is None:
                raise CompileError(f"no kernel family is called {kernel.family!r}", op=node.op.name, loc=node.loc)
            family(self, node)
        else:
            raise CompileError(f"{node.op.name} was left unlowered by the passes", op=node.op.name, loc=node.loc)

    def _region(self, node: Node) -> None:
        region: Graph = node.attrs["region"]
        kernel = generate(region, node.attrs["roles"])
        # The source names no size that needs no mask, so the sizes are facts of their own.
        sizes = {"groups": kernel.groups, "rows": kernel.rows, "columns": kernel.columns}
        config = self.choose(
            node, "region", {"kernel": digest(kernel), **sizes},
            lambda: configs.candidates(kernel, self.target), lambda: configs.heuristic(kernel, self.target),
        )  # fmt: skip
        results = [self.slots[v] for v in node.outputs]
        pointers = [self.operand(v) for v in node.inputs] + [
            Operand(s, v.dtype) for s, v in zip(results, node.outputs, strict=True)
        ]
        args: list[Argument] = list(pointers)
        across = -(-kernel.columns // config.BLOCK_N)
        constexprs = {"BLOCK_M": config.BLOCK_M, "BLOCK_N": config.BLOCK_N}
        if kernel.form == "flat":
            grid: tuple[int, ...] = (-(-kernel.rows // config.BLOCK_N),)
            args.append(kernel.rows)
            constexprs = {"BLOCK": config.BLOCK_N}
        elif kernel.form == "tile":
            grid = (-(-kernel.rows // config.BLOCK_M), 1 if kernel.whole_rows else across)
            args.append(kernel.rows)
        else:
            grid = (kernel.groups, 1 if kernel.whole_rows else across)
            constexprs["STAGES"] = config.num_stages
        args += self.streams(region, kernel)
        reads = [self.slot(v) for v in node.inputs]
        index = len(self.launches)
        self.emit(
            node,
            reference(kernel),
            grid,
            args,
            constexprs,
            {"num_warps": config.num_warps, **({"enable_fp_fusion": True} if kernel.contract else {})},
            reads,
            results,
            kernel.name,
        )
        self.in_place += [(index, results[o], reads[i]) for o, i in kernel.in_place]

    def streams(self, region: Graph, kernel: Generated) -> list[int]:
        """The stream numbers of the region's random draws, in the order of the kernel's arguments."""
        draws = streams_of(region)
        return [draws[i].attrs["stream"] for i in kernel.streams]

    # ---- kernels with an epilogue, and operands that are not dense ------------------------------------------------

    def call(self, node: Node) -> KernelCall:
        """A kernel node taken apart: its own operands and attributes, and the epilogue it ends in."""
        if "kernel" not in node.attrs:
            attrs = {"shape": node.type.shape, "dtype": node.type.dtype, "name": None}
            product = Node(OPS["input"], (), attrs, node.types, node.loc, node.origin).out
            return KernelCall(node, node.inputs, node.attrs, (), Graph((product,), (product,)), ("full",))
        region: Graph = node.attrs["region"]
        count = len(node.inputs) - len(region.inputs) + 1
        operands, extras = node.inputs[:count], node.inputs[count:]
        return KernelCall(node, operands, node.attrs["attrs"], extras, region, node.attrs["roles"])

    def emit_call(
        self,
        call: KernelCall,
        kernel: KernelRef,
        grid: tuple[int, ...],
        args: Callable[[tuple[Argument, ...]], Sequence[Argument]],
        constexprs: Mapping[str, object],
        options: Mapping[str, int],
        label: str,
        *,
        read: Sequence[Slot] = (),
        written: Sequence[Slot] = (),
    ) -> None:
        """Launch a kernel that ends in EPILOGUE(acc, b, m, n, mask, ptrs).

        read, written: workspaces besides operands, extras and results. args: from the tuple `ptrs` to all arguments.
        The result's shape is [..., M, N]; the tuple holds pointers of the epilogue's operands and results, the number
        of matrices, M, and the streams of random draws.
        """
        made = call.epilogue
        results = [self.slots[v] for v in call.node.outputs]
        shape = call.region.inputs[0].shape
        pointers = [self.operand(v) for v in call.extras] + [
            Operand(s, v.dtype) for s, v in zip(results, call.node.outputs, strict=True)
        ]
        ptrs = (*pointers, math.prod(shape[:-2]), shape[-2], *self.streams(call.region, made))
        operands = [self.slot(v) for v in call.operands]
        extras = [self.slot(v) for v in call.extras]
        index = len(self.launches)
        full_label = label if "kernel" not in call.node.attrs else f"{label} + {made.name}"
        self.emit(
            call.node, kernel, grid, args(ptrs), {"EPILOGUE": reference(made), **constexprs}, options,
            [*operands, *extras, *read], [*results, *written], full_label,
        )  # fmt: skip
        self.in_place += [(index, results[o], extras[i]) for o, i in made.in_place if extras[i] not in operands]

    def epilogue_digest(self, call: KernelCall) -> str:
        """What tells epilogues apart, for `choose`."""
        return digest(call.epilogue)

    def strided(self, value: Value) -> tuple[Operand, tuple[int, ...]]:
        """An operand read through one strided view: pointer to its first element, and strides in elements."""
        base = self.base(value)
        view = map_onto(value, base).strided
        if view is None or view.bounds is not None:
            raise CompileError(f"{value!r} cannot be read in place", loc=value.node.loc)
        return Operand(self.slots[base], value.dtype, view.offset), tuple(view.strides)

    # ---- results and state -------------------------------------------------------------------------------------

    def finish(self, count: int, updated: Sequence[Value]) -> Schedule:
        """The schedule: where the outputs are, and which updates and results are written in place."""
        outputs = [self.slot(v) for v in self.graph.outputs[:count]]
        leaves = {
            kind: {v: s for v, s in self.slots.items() if s.kind == kind} for kind in ("input", "state", "constant")
        }
        for v in updated:
            leaves["state"].setdefault(v, Slot("state", v.type.nbytes, v))
        pending = [
            (leaves["state"][v], self.slot(new)) for v, new in zip(updated, self.graph.outputs[count:], strict=True)
        ]
        uses: dict[Slot, list[int]] = {}
        for i, launch in enumerate(self.launches):
            for s in (*launch.reads, *launch.writes):
                uses.setdefault(s, []).append(i)
        may = set(self.in_place)
        pending = [pair for pair in pending if not self._write_through(*pair, uses, may)]
        kept = {*outputs, *(new for _, new in pending)}
        self._reuse(kept, uses)
        return Schedule(self.launches, leaves["input"], leaves["state"], leaves["constant"], outputs, pending)

    def _write_through(
        self, state: Slot, new: Slot, uses: Mapping[Slot, list[int]], may: Collection[tuple[int, Slot, Slot]]
    ) -> bool:
        """Let the launch that makes `new` write it into the state's buffer, if nobody needs the old value by then."""
        if new.kind != "arena" or new.alias is not None or new not in uses:
            return False
        maker = uses[new][0]
        if any(i >= maker and (i, new, state) not in may for i in uses.get(state, [])):
            return False
        new.alias = state
        return True

    def _reuse(self, kept: set[Slot], uses: Mapping[Slot, list[int]]) -> None:
        """Results take over the memory of operands that are read for the last time."""
        taken: set[Slot] = set()
        for index, result, operand in self.in_place:
            free = operand.kind == "arena" and operand.alias is None and operand not in kept and operand not in taken
            if free and result.alias is None and result not in kept and uses[operand][-1] == index:
                result.alias = operand
                taken.add(operand)


@cache
def digest(kernel: Generated) -> str:
    """What tells generated kernels apart, for `Lowering.choose`."""
    return hashlib.sha256(kernel.source.encode()).hexdigest()[:16]


def reference(kernel: Generated) -> KernelRef:
    """The generated function as a kernel reference."""
    return KernelRef(kernel.name, kernel.name, kernel.source)


def _unique(slots: Sequence[Slot]) -> tuple[Slot, ...]:
    return tuple(dict.fromkeys(slots))
