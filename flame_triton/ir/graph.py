"""A Graph is a closed function: inputs, outputs, and every node between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..errors import GraphError
from .node import Node, Value, rebuild
from .op import Leaf


def topological(outputs: Iterable[Value], stop: Iterable[Value] = ()) -> list[Node]:
    """Every node that the outputs need, in creation order, which puts operands first.

    Creation order keeps what was written together together: each gradient stands where autodiff made it.
    Nodes of the values in `stop` are listed without what they need.
    """
    halt = {v.node for v in stop}
    found: set[Node] = set()
    stack = [v.node for v in outputs]
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        if node not in halt:
            stack += [v.node for v in node.inputs]
    return sorted(found, key=_id)


def _id(node: Node) -> int:
    return node.id


@dataclass(frozen=True, eq=False)
class Graph:
    """inputs: leaf Values, in call order; outputs: the Values computed."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    _nodes: list[Node] = field(default_factory=list[Node], repr=False)

    @property
    def nodes(self) -> list[Node]:
        """All nodes, operands first, unused inputs included at the front."""
        if not self._nodes:
            order = topological(self.outputs)
            known = set(order)
            self._nodes.extend([v.node for v in self.inputs if v.node not in known] + order)
        return self._nodes

    def consumers(self) -> dict[Value, list[Node]]:
        """For every value the nodes that read it (once per operand position)."""
        table: dict[Value, list[Node]] = {v: [] for node in self.nodes for v in node.outputs}
        for node in self.nodes:
            for v in node.inputs:
                table[v].append(node)
        return table

    def rewrite(self, rule: Callable[[Node], Sequence[Value] | None]) -> Graph:
        """A new graph. `rule` gets each node, already on its new operands, and gives the Values that replace its
        outputs, or None to keep it. Nodes are made anew in order, so creation order still tells what came first."""
        table: dict[Value, Value] = {}
        for node in self.nodes:
            leaf = isinstance(node.op.lowering, Leaf)
            fresh = node if leaf else rebuild(node, tuple([table[v] for v in node.inputs]))
            new = rule(fresh)
            new = fresh.outputs if new is None else new
            if len(new) != len(node.outputs):
                raise GraphError(f"a rewrite of {node.op.name} gave {len(new)} of {len(node.outputs)} outputs")
            for old, value in zip(node.outputs, new, strict=True):
                table[old] = value
        return Graph(tuple(table[v] for v in self.inputs), tuple(table[v] for v in self.outputs))

    def check_closed(self) -> None:
        """Raises GraphError if an input placeholder is needed but not listed."""
        listed = set(self.inputs)
        for node in self.nodes:
            if isinstance(node.op.lowering, Leaf) and node.op.name == "input" and node.out not in listed:
                label = f" {node.attrs['name']!r}" if node.attrs.get("name") else ""
                raise GraphError(f"input{label} {node.type} is needed but not listed in inputs", loc=node.loc)
