"""The distinct kernel problems of a graph, each with a program of that one kernel node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..graph.access import views_below
from ..graph.pipeline import optimise, without_collection
from ..graph.plan import Launch, Schedule, Target
from ..ir.graph import Graph
from ..ir.node import Node, Value, make, rebuild
from ..ir.op import OPS, Leaf
from ..runtime import fingerprint
from ..runtime.choices import Choices, Config, Decision, Problem, as_json
from ..runtime.lower import Lowering


@dataclass(frozen=True, eq=False)
class Task:
    """One problem to tune.

    graph: the one node, as fusion left it; what it reads in memory are parameters. count: how often the whole graph
    has the problem. heuristic: what is taken where nothing was measured. where: the user's line of the first.
    """

    problem: Problem
    graph: Graph
    count: int
    candidates: tuple[Config, ...]
    heuristic: Config
    where: str

    @property
    def operands(self) -> list[Value]:
        """What the node reads that is not constant."""
        return [n.out for n in self.graph.nodes if n.op.name == "parameter"]

    @property
    def fills(self) -> dict[Value, int]:
        """The value of every element of the operands that are no floats.

        Indices, seeds and labels are 0, which is always valid; flags are true, so that no mask hides work; lengths of
        keys are the whole length.
        """
        values = {v: 1 if v.dtype.kind == "b" else 0 for v in self.operands if not v.dtype.is_float}
        for node in self.graph.nodes:
            names: Sequence[str] = node.attrs.get("extras", ())
            for name, value in zip(names, node.inputs[len(node.inputs) - len(names) :], strict=True):
                if name == "lengths":
                    values[views_below(value)[-1]] = node.inputs[1].shape[2]
        return values


@dataclass(frozen=True, eq=False)
class Trial:
    """One configuration of a task, lowered. launches: those that it is for; the node may have others."""

    task: Task
    config: Config
    schedule: Schedule
    launches: list[Launch]

    @cached_property
    def text(self) -> str:
        """The configuration as stored."""
        return as_json(self.config)

    @cached_property
    def kernel(self) -> str:
        """The digest of the kernel's source."""
        return fingerprint.of_launches(self.launches)


class Forced(Choices):
    """Takes one configuration for one problem, and knows nothing of others."""

    def __init__(self, problem: Problem, config: Config) -> None:
        self._problem = problem
        self._config = config

    def find(self, problem: Problem, candidates: Callable[[], Sequence[Config]]) -> tuple[Config, str] | None:
        """See Choices."""
        return (self._config, "forced") if problem == self._problem else None

    def confirm(self, decision: Decision, launches: Sequence[Launch]) -> bool:
        """See Choices."""
        return True


class Unknown(Choices):
    """Knows nothing, so that every problem is listed with its heuristic, interpreted kernels' included."""

    def find(self, problem: Problem, candidates: Callable[[], Sequence[Config]]) -> None:
        """See Choices."""

    def confirm(self, decision: Decision, launches: Sequence[Launch]) -> bool:
        """See Choices."""
        return True


def tasks(graph: Graph, updates: Mapping[Value, Value], target: Target) -> list[Task]:
    """The distinct problems of a graph with state updates, in the order in which they first occur."""
    fresh = [make("stop_gradient", [v]).out if isinstance(v.node.op.lowering, Leaf) else v for v in updates.values()]
    whole = Graph(graph.inputs, (*graph.outputs, *fresh))
    whole.check_closed()
    with without_collection():
        lowering = Lowering(optimise(whole, target=target), target, Unknown())
    found: dict[Problem, list[Decision]] = {}
    for decision, launches in lowering.decided():
        if launches:
            found.setdefault(decision.problem, []).append(decision)
    return [_task(decisions) for decisions in found.values()]


def _task(decisions: Sequence[Decision]) -> Task:
    first = decisions[0]
    candidates = tuple(dict.fromkeys((first.chosen, *first.candidates())))
    loc = first.node.loc
    where = f"{loc.file.rpartition('/')[2]}:{loc.line}"
    return Task(first.problem, isolate(first.node), len(decisions), candidates, first.chosen, where)


def isolate(node: Node) -> Graph:
    """The graph of one node of an optimised graph: its views stay, what lies in memory becomes parameters."""
    table: dict[Value, Value] = {}

    def moved(value: Value) -> Value:
        if value not in table:
            chain = views_below(value)
            base = chain[-1]
            if base not in table:
                table[base] = base if base.node.op.name == "constant" else _parameter(base)
            for upper, lower in zip(reversed(chain[:-1]), reversed(chain[1:]), strict=True):
                if upper not in table:
                    table[upper] = rebuild(upper.node, [table[lower]]).out
        return table[value]

    return Graph((), rebuild(node, [moved(v) for v in node.inputs]).outputs)


def _parameter(like: Value) -> Value:
    attrs = {"shape": like.shape, "dtype": like.dtype, "name": None, "init": None, "trainable": False, "implicit": True}
    return Node(OPS["parameter"], (), attrs, (like.type,), like.node.loc, like.node.origin).out


def trial(task: Task, config: Config, target: Target) -> Trial:
    """The task lowered with a configuration."""
    with without_collection():
        lowering = Lowering(task.graph, target, Forced(task.problem, config))
        launches = next((found for d, found in lowering.decided() if d.problem == task.problem), [])
        return Trial(task, config, lowering.finish(len(task.graph.outputs), []), launches)
