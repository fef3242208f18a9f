"""Where NaN and infinity come from: follows them from the first value that has one to the outputs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph.evaluate import Plan
from ..ir.graph import Graph
from ..ir.location import Loc
from ..ir.node import Node, Value
from ..ir.op import Leaf
from ..types import TensorType

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class NonFinite:
    """A value with NaN or infinite elements, and the node that made it first.

    type: of that value; nan, inf: how many of its elements are; cause: what made an operand non-finite before this
    node turned it into NaN; reaches_output: whether an output or an updated parameter is non-finite because of it.
    """

    node: Node
    type: TensorType
    nan: int
    inf: int
    cause: NonFinite | None = None
    reaches_output: bool = True

    @property
    def op(self) -> str:
        """The name of the op."""
        return self.node.op.name

    @property
    def loc(self) -> Loc:
        """The user's line."""
        return self.node.loc

    @property
    def given(self) -> bool:
        """True if nothing computed it: it stands in an input, a parameter or a constant."""
        return not self.node.inputs

    @property
    def inputs_non_finite(self) -> bool:
        """True if the program was given non-finite numbers and this comes from them."""
        leaf = isinstance(self.node.op.lowering, Leaf)
        return leaf or (self.cause is not None and self.cause.inputs_non_finite)

    def __str__(self) -> str:
        name = self.node.attrs.get("name")
        who = f"{self.op} {name!r}" if name else self.op
        if self.node.origin is not None:
            who += f" in the gradient of {self.node.origin.op.name}"
        kinds = " and ".join(f"{n} {k}" for n, k in ((self.nan, "NaN"), (self.inf, "infinite")) if n)
        text = f"{who} {'holds' if self.given else 'makes'} {kinds} of {self.type.size} elements of {self.type}"
        text += f"\n  at {self.loc}"
        if self.cause is not None:
            text += f"\n  from {self.cause}"
        elif not self.given:
            text += "\n  from finite operands"
        return text if self.reaches_output else text + "\n  (all outputs are finite all the same)"


class Trace:
    """Non-finite values met so far. Keys are whatever the caller tells values apart by."""

    def __init__(self) -> None:
        self.findings: list[NonFinite] = []
        self._marks: dict[Hashable, tuple[NonFinite, bool]] = {}  # finding, and whether there is a NaN

    def step(self, node: Node, reads: Iterable[Hashable], writes: Iterable[tuple[Hashable, TensorType, Array]]) -> None:
        """`node` has read these values and written those; a leaf reads nothing."""
        met = [self._marks[key] for key in dict.fromkeys(reads) if key in self._marks]
        for key, type, array in writes:
            nan, inf = _count(array)
            if not nan and not inf:
                self._marks.pop(key, None)
                continue
            inherited = next((mark for mark in met if mark[1]), met[0] if met else None)
            if inherited is None or (nan and not inherited[1]):
                finding = NonFinite(node, type, nan, inf, inherited[0] if inherited else None)
                self.findings.append(finding)
            else:
                finding = inherited[0]
            self._marks[key] = (finding, nan > 0)

    def carry(self, reads: Iterable[Hashable], key: Hashable) -> None:
        """A value that cannot be looked at is as non-finite as what it was made from."""
        met = [self._marks[k] for k in reads if k in self._marks]
        if met:
            self._marks[key] = met[0]

    def verdict(self, outputs: Sequence[Hashable]) -> NonFinite | None:
        """What to blame: the root of the first non-finite output, else the first finding that was computed."""
        for key in outputs:
            if key in self._marks:
                return _root(self._marks[key][0])
        for finding in self.findings:
            if not finding.given:
                found = _root(finding)
                return NonFinite(found.node, found.type, found.nan, found.inf, found.cause, reaches_output=False)
        return None


def _root(finding: NonFinite) -> NonFinite:
    """The first computed finding on the way to this one; a mask of infinities that was given is no fault in itself."""
    while finding.cause is not None and not finding.cause.given:
        finding = finding.cause
    return finding


def _count(array: Array) -> tuple[int, int]:
    """How many elements are NaN, and how many infinite."""
    if array.dtype.kind in "iub" or bool(np.isfinite(array).all()):
        return 0, 0
    nan = int(np.count_nonzero(np.isnan(array)))
    return nan, int(array.size - np.count_nonzero(np.isfinite(array))) - nan


class CheckedPlan(Plan):
    """A Plan that follows non-finite values while it runs."""

    def __init__(self, graph: Graph, wide: bool = False) -> None:
        super().__init__(graph, wide)
        self.trace = Trace()

    def _apply(self, node: Node, env: dict[Value, Array]) -> None:
        for v in node.inputs:
            if isinstance(v.node.op.lowering, Leaf):
                self.trace.step(v.node, (), [(v, v.type, env[v])])
        super()._apply(node, env)
        self.trace.step(node, node.inputs, [(v, v.type, env[v]) for v in node.outputs])

    def find(self, feeds: Mapping[Value, Array]) -> NonFinite | None:
        """Run, and say what made the first non-finite value."""
        with np.errstate(all="ignore"):
            results = self.run(feeds)
        for v, array in zip(self.graph.outputs, results, strict=True):
            if isinstance(v.node.op.lowering, Leaf):
                self.trace.step(v.node, (), [(v, v.type, array)])
        return self.trace.verdict(self.graph.outputs)
