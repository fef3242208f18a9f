"""Lower an optimised graph to launches: kernels, grids, arguments, and which slot of memory each value lives in.

Pure data in, pure data out: no device is touched, so a graph can be lowered for a GPU on a machine without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ..codegen.configs import heuristic
from ..codegen.region import Generated, generate, streams_of
from ..errors import CompileError
from ..graph.access import map_onto, matrix_strides, views_below
from ..graph.pipeline import optimise, without_collection
from ..graph.plan import Argument, KernelRef, Launch, Operand, Schedule, Slot, Target
from ..ir.graph import Graph
from ..ir.node import Node, Value, make
from ..ir.op import OPS, Fused, Kernel, Leaf, View
from ..kernels.portable import matmul_configs
from ..types import TensorType
from .families import FAMILIES


def lower(graph: Graph, updates: Mapping[Value, Value], target: Target) -> Schedule:
    """The schedule of `graph` with state updates; memory is not planned yet (see graph/memory.py).

    updates: state value -> the value it takes after the step. A new value is written straight into the state's buffer
    where no launch still needs the old one; else it is listed in `Schedule.updates` and copied at the end.
    """
    fresh = [make("stop_gradient", [v]).out if isinstance(v.node.op.lowering, Leaf) else v for v in updates.values()]
    whole = Graph(graph.inputs, (*graph.outputs, *fresh))
    whole.check_closed()
    with without_collection():
        lowering = Lowering(optimise(whole, target=target), target)
        return lowering.finish(len(graph.outputs), list(updates))


class Lowering:
    """The state of one lowering: slots by value, and the launches so far."""

    def __init__(self, graph: Graph, target: Target) -> None:
        self.graph = graph
        self.target = target
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
                )
            )

    def workspace(self, shape: tuple[int, ...], dtype_of: TensorType) -> Slot:
        """Scratch memory of one node."""
        return Slot("arena", math.prod(shape) * dtype_of.dtype.itemsize)

    # ---- nodes -------------------------------------------------------------------------------------------------

    def _launch(self, node: Node) -> None:
        if not any(t.size for t in node.types):
            return
        lowering = node.op.lowering
        if isinstance(lowering, Fused) and lowering.kind == "region":
            self._region(node)
        elif isinstance(lowering, Kernel | Fused):
            name = lowering.family if isinstance(lowering, Kernel) else lowering.kind
            family: Callable[[Lowering, Node], None] | None = FAMILIES.get(name)
            if name == "matmul":
                self._matmul(node)
            elif family is None:
                raise CompileError(f"no kernel family is called {name!r}", op=node.op.name, loc=node.loc)
            else:
                family(self, node)
        else:
            raise CompileError(f"{node.op.name} was left unlowered by the passes", op=node.op.name, loc=node.loc)

    def _region(self, node: Node) -> None:
        region: Graph = node.attrs["region"]
        kernel = generate(region, node.attrs["roles"])
        config = heuristic(kernel, self.target)
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
        args += self.streams(region, kernel)
        reads = [self.slot(v) for v in node.inputs]
        index = len(self.launches)
        self.emit(
            node,
            reference(kernel),
            grid,
            args,
            constexprs,
            {"num_warps": config.num_warps},
            reads,
            results,
            kernel.name,
        )
        self.in_place += [(index, results[o], reads[i]) for o, i in kernel.in_place]

    def streams(self, region: Graph, kernel: Generated) -> list[int]:
        """The stream numbers of the region's random draws, in the order of the kernel's arguments."""
        draws = streams_of(region)
        return [draws[i].attrs["stream"] for i in kernel.streams]

    def _matmul(self, node: Node) -> None:
        a, b = node.inputs[:2]
        region, roles = self._epilogue(node)
        kernel = generate(region, roles, region.inputs[0])
        extras = node.inputs[2:]
        results = [self.slots[v] for v in node.outputs]
        first, second = self._matrix(a), self._matrix(b)
        batch, (m, k), n = math.prod(a.shape[:-2]), a.shape[-2:], b.shape[-1]
        layouts = ["n" if s[-1] == 1 or s[-2] != 1 else "t" for _, s in (first, second)]
        problem = matmul_configs.Problem(batch, m, n, k, a.dtype.name, *layouts)
        config = matmul_configs.heuristic(problem, self.target.interpreted, self.target.arch)
        pointers = [self.operand(v) for v in extras] + [
            Operand(s, v.dtype) for s, v in zip(results, node.outputs, strict=True)
        ]
        epilogue = (*pointers, batch, m, *self.streams(region, kernel))
        args = (first[0], second[0], epilogue, m, n, k, batch, first[1][0], *first[1][1:], *second[1][1:])
        constexprs = {
            "EPILOGUE": reference(kernel),
            "INPUT_PRECISION": "ieee",
            "BLOCK_B": config.BLOCK_B,
            "BLOCK_M": config.BLOCK_M,
            "BLOCK_N": config.BLOCK_N,
            "BLOCK_K": config.BLOCK_K,
            "GROUP_M": config.GROUP_M,
            "EVEN_K": config.even_k(k),
        }
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        reads = [self.slot(v) for v in node.inputs]
        index = len(self.launches)
        label = "matmul" if node.op.name == "matmul" else f"matmul + {kernel.name}"
        self.emit(
            node, KernelRef("flame_triton.kernels.portable.matmul", "matmul"), matmul_configs.grid(problem, config),
            args, constexprs, options, reads, results, label,
        )  # fmt: skip
        operands = reads[:2]
        self.in_place += [(index, results[o], reads[2 + i]) for o, i in kernel.in_place if reads[2 + i] not in operands]

    def _epilogue(self, node: Node) -> tuple[Graph, tuple[str, ...]]:
        """The fused epilogue, or one that only stores."""
        if "region" in node.attrs:
            return node.attrs["region"], node.attrs["roles"]
        attrs = {"shape": node.type.shape, "dtype": node.type.dtype, "name": None}
        product = Node(OPS["input"], (), attrs, node.types, node.loc, node.origin).out
        return Graph((product,), (product,)), ("full",)

    def _matrix(self, value: Value) -> tuple[Operand, tuple[int, int, int, int, int]]:
        """A matmul operand: pointer, and (inner batch size, two batch strides, row stride, column stride)."""
        base = self.base(value)
        found = matrix_strides(map_onto(value, base))
        if found is None:
            raise CompileError(f"{value!r} cannot be read in place by a matmul", loc=value.node.loc)
        return Operand(self.slots[base], value.dtype, found[0]), found[1:]

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
        pending = [pair for pair in pending if not self._write_through(*pair, uses)]
        kept = {*outputs, *(new for _, new in pending)}
        self._reuse(kept, uses)
        return Schedule(self.launches, leaves["input"], leaves["state"], leaves["constant"], outputs, pending)

    def _write_through(self, state: Slot, new: Slot, uses: Mapping[Slot, list[int]]) -> bool:
        """Let the launch that makes `new` write it into the state's buffer, if nobody needs the old value by then."""
        if new.kind != "arena" or new.alias is not None or new not in uses:
            return False
        maker = uses[new][0]
        readers = uses.get(state, [])
        if any(i > maker for i in readers):
            return False
        if maker in readers and (maker, new, state) not in self.in_place:
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


def reference(kernel: Generated) -> KernelRef:
    """The generated function as a kernel reference."""
    return KernelRef(kernel.name, kernel.name, kernel.source)


def _unique(slots: Sequence[Slot]) -> tuple[Slot, ...]:
    return tuple(dict.fromkeys(slots))
