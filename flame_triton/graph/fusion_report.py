"""How many kernels an expression takes, and why: what `explain()` of a fused function says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.graph import Graph
from ..ir.node import Node, Value
from ..ir.op import Fused, Kernel, Leaf, Reduce, View, call
from .access import base_of
from .autodiff import grad
from .pipeline import optimise
from .plan import Target
from .show import region_summary


@dataclass(frozen=True)
class Stored:
    """A value that one kernel writes and others read. value: its type; made, read: numbers of the kernels in the
    report, from 1; why: the reason why the readers do not take it in registers."""

    value: str
    made: int
    read: tuple[int, ...]
    why: str

    def __str__(self) -> str:
        return f"{self.value}: stored by {self.made}, read by {', '.join(map(str, self.read))}, because {self.why}"


@dataclass(frozen=True)
class FusionReport:
    """forward, backward: the kernels in order, each as the ops that it computes and its results; stored: what is
    written in between, forward and backward. backward is None if there is no floating operand or result."""

    name: str
    forward: tuple[str, ...]
    forward_stored: tuple[Stored, ...]
    backward: tuple[str, ...] | None
    backward_stored: tuple[Stored, ...]

    @property
    def one_kernel(self) -> bool:
        """True if the forward pass is at most one kernel."""
        return len(self.forward) <= 1

    def __str__(self) -> str:
        lines = [f"{self.name}: {_count(self.forward)} forward"]
        lines += _section(self.forward, self.forward_stored)
        if self.backward is not None:
            lines += [f"{self.name}: {_count(self.backward)} backward"]
            lines += _section(self.backward, self.backward_stored)
        return "\n".join(lines)


def report(name: str, body: Graph, target: Target, backward: bool = True) -> FusionReport:
    """The report of a traced body. backward: also of the gradient in every floating input."""
    forward, stored = _kernels(body, target)
    wrt = [v for v in body.inputs if v.dtype.is_float]
    outputs = [v for v in body.outputs if v.dtype.is_float]
    if not backward or not wrt or not outputs:
        return FusionReport(name, forward, stored, None, ())
    seeds = [call("input", v.shape, v.dtype) for v in outputs]
    gradients = grad(outputs, wrt, grad_output=seeds, allow_unused=True)
    found, kept = _kernels(Graph((*body.inputs, *seeds), tuple(gradients)), target)
    return FusionReport(name, forward, stored, found, kept)


def _count(kernels: Sequence[str]) -> str:
    return {0: "no kernel", 1: "one kernel"}.get(len(kernels), f"{len(kernels)} kernels")


def _section(kernels: Sequence[str], stored: Sequence[Stored]) -> list[str]:
    lines = [f"  {i}. {text}" for i, text in enumerate(kernels, 1)]
    return lines + [f"  {s}" for s in stored]


def _kernels(graph: Graph, target: Target) -> tuple[tuple[str, ...], tuple[Stored, ...]]:
    fused = optimise(graph, target=target)
    nodes = [n for n in fused.nodes if not isinstance(n.op.lowering, Leaf | View)]
    numbers = {node: i for i, node in enumerate(nodes, 1)}
    readers: dict[Value, list[int]] = {}
    reasons: dict[Value, dict[str, None]] = {}
    for node in nodes:
        read = [v for v in dict.fromkeys(base_of(v)[0] for v in node.inputs) if v.node in numbers]
        last = max((numbers[v.node] for v in read), default=0)
        columns = {v.node for v in read if _role(v) == "column"}
        for v in read:
            readers.setdefault(v, []).append(numbers[node])
            if numbers[v.node] == last or isinstance(node.op.lowering, Kernel):
                waits = v.node in columns and _role(v) != "column"
                why = "the reader also needs a sum down the columns of that kernel" if waits else _reason(v, node)
                reasons.setdefault(v, {})[why] = None
    waiting = "its readers also wait for later kernels"
    stored = [
        Stored(str(v.type), numbers[v.node], tuple(read), "; ".join(reasons.get(v, (waiting,))))
        for v, read in readers.items()
    ]
    return tuple(map(_describe, nodes)), tuple(stored)


def _role(value: Value) -> str:
    """The role of a result within its kernel."""
    roles: tuple[str, ...] | None = value.node.attrs.get("roles")
    return roles[value.index] if roles else "full"


def _describe(node: Node) -> str:
    ops = region_summary(node.attrs["region"]) if "region" in node.attrs else node.op.name
    if "kernel" in node.attrs:
        ops = f"{node.attrs['kernel'].name} with the epilogue {ops}"
    return f"{ops} -> {', '.join(map(str, node.types))}"


def _reason(value: Value, reader: Node) -> str:
    """Why `value`, a result of one kernel, is not passed on to `reader` in registers."""
    maker = value.node
    if isinstance(reader.op.lowering, Kernel):
        return f"{reader.op.name} is a kernel of its own and reads its operands from memory"
    operands = reader.inputs[: len(reader.inputs) - len(reader.attrs["region"].inputs) + 1]
    if "kernel" in reader.attrs and any(base_of(v)[0] is value for v in operands):
        return f"{reader.attrs['kernel'].name} is a kernel of its own and reads its operands from memory"
    if isinstance(maker.op.lowering, Kernel):
        takes = " that nothing joins" if not maker.op.lowering.epilogue else ""
        return f"{maker.op.name} is a kernel of its own{takes or _not_an_epilogue(reader)}"
    if "kernel" in maker.attrs:
        return f"{maker.attrs['kernel'].name} is a kernel of its own{_not_an_epilogue(reader)}"
    return _between_regions(value, reader)


def _not_an_epilogue(reader: Node) -> str:
    """What keeps a reader from being the epilogue of the kernel before it."""
    assert isinstance(reader.op.lowering, Fused)
    reduces = _reductions(reader)
    if reduces:
        return f", and only pointwise work joins it: the reader reduces {reduces}"
    return ", and only pointwise work that reads its result element by element, in the same order, joins it"


def _reductions(node: Node) -> str:
    """The reductions of a fused node as text: rows or columns, and of how many."""
    region: Graph | None = node.attrs.get("region")
    found: list[str] = []
    for inner in region.nodes if region else ():
        if isinstance(inner.op.lowering, Reduce):
            shape = inner.inputs[0].shape
            words = f"rows of {shape[-1]}" if len(shape) == 2 else f"columns of {shape[1]}"
            found.append(f"{words} ({inner.op.name})")
    return ", ".join(dict.fromkeys(found))


def _between_regions(value: Value, reader: Node) -> str:
    role = _role(value)
    reduces = _reductions(reader)
    if role == "column":
        return "a sum down the columns is complete only when every row has been read"
    if role == "row":
        if reduces:
            return f"its kernel reduces {_reductions(value.node)}, the reader {reduces}, and these do not share rows"
        return f"it is complete at the end of a row ({_reductions(value.node)}), and the reader has other rows"
    if reduces and _reductions(value.node):
        return f"its kernel reduces {_reductions(value.node)}, the reader {reduces}, and these do not share rows"
    if reduces:
        return f"the reader reduces {reduces}, which are not rows of the kernel that computes it"
    if role == "permuted":
        return "it is stored in another order than the one in which it is computed"
    return "the reader takes its elements in another order or number, or one kernel of both would be too large"
