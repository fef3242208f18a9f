"""The reference executor: the simplified graph on the ops' NumPy references, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import DeviceError
from ..graph.evaluate import Plan, leaf_array
from ..graph.pipeline import optimise
from ..graph.plan import Launch
from ..ir.graph import Graph
from ..ir.node import Value
from . import listing
from .buffers import Array, Place, Source, Tensor, as_array, as_tensor, fresh, rounded
from .finite import CheckedPlan, NonFinite
from .profile import Ceilings, Profile


class ReferenceExecutor:
    """Runs a graph and its state updates. The plan is made once; parameters are read where they lie.

    graph: its outputs; updates: parameter -> its value after the step; places: where the parameters live.
    wide: compute every float in float64 (outputs are float64 then; parameters are rounded when they are updated).
    """

    launches: tuple[Launch, ...] = ()
    distinct_kernels: int = 0

    def __init__(
        self, graph: Graph, updates: Mapping[Value, Value], places: Mapping[Value, Place], wide: bool = False
    ) -> None:
        whole = optimise(Graph(graph.inputs, (*graph.outputs, *updates.values())), stage="simplify")
        self._plan = Plan(whole, wide)
        self._inputs = graph.inputs
        self._count = len(graph.outputs)
        self._targets = [places[w].host for w in updates]
        self._slabs = [b.host for b in {p.buffer for p in places.values()}]
        self._fixed: dict[Value, Array] = {v: place.host for v, place in places.items()}
        self._fixed |= {n.out: leaf_array(n) for n in whole.nodes if n.op.name == "constant"}
        self._state_bytes = sum(slab.nbytes for slab in self._slabs)

    def prepare(self) -> None:
        """Nothing is compiled here."""

    def run(self, sources: Sequence[Source], borrow: bool) -> list[Tensor]:
        """One step on accepted arrays. borrow: outputs may share memory with the inputs and parameters."""
        feeds = self._feeds(sources)
        with np.errstate(all="ignore"):
            results = self._plan.run(feeds)
        outputs = self._hand_out(results[: self._count], feeds, borrow)
        self._update(results[self._count :])
        return outputs

    def find_non_finite(self, sources: Sequence[Source]) -> NonFinite | None:
        """The first non-finite value of a step on these arrays; the state is left as it is."""
        return CheckedPlan(self._plan.graph, self._plan.wide).find(self._feeds(sources))

    def profile(self, sources: Sequence[Source], ceilings: Ceilings) -> Profile:
        """Raises DeviceError: nothing is launched here."""
        raise DeviceError("the reference device launches no kernels; profile on 'cuda' or 'interpreter'")

    @property
    def peak_bytes(self) -> int:
        """Bytes of the State and of the values alive at once at the worst moment, each rounded up to 512."""
        alive = sum(rounded(v.type.nbytes) for v in self._inputs)
        most = alive
        listed = set(self._inputs) | set(self._fixed)
        for node, dying in zip(self._plan.nodes, self._plan.dying, strict=True):
            alive += sum(rounded(v.type.nbytes) for v in node.outputs if v not in listed)
            most = max(most, alive)
            alive -= sum(rounded(v.type.nbytes) for v in dying if v not in listed)
        return self._state_bytes + most

    def listing(self) -> str:
        """One line per node."""
        return listing.of_graph(self._plan.graph, self._plan.nodes, self.peak_bytes)

    def _feeds(self, sources: Sequence[Source]) -> dict[Value, Array]:
        feeds = dict(self._fixed)
        for value, source in zip(self._inputs, sources, strict=True):
            feeds[value] = as_array(source)
        return feeds

    def _hand_out(self, results: list[Array], feeds: Mapping[Value, Array], borrow: bool) -> list[Tensor]:
        """Results as tensors of their own: copied unless nothing else can hold their memory."""
        shared = {id(a) for a in feeds.values()}
        outputs: list[Tensor] = []
        for value, array in zip(self._plan.graph.outputs, results, strict=False):
            own = array.base is None and id(array) not in shared
            shared.add(id(array))
            if array.flags.writeable and array.flags.c_contiguous and (own or borrow):
                outputs.append(as_tensor(array))
            else:
                outputs.append(_copied(array, value))
        return outputs

    def _update(self, results: list[Array]) -> None:
        """All updates take effect together: what shares memory with a parameter is copied before any is written."""
        values = [a if a.base is None else self._detached(a) for a in results]
        for target, value in zip(self._targets, values, strict=True):
            np.copyto(target, value, casting="unsafe" if self._plan.wide else "no")

    def _detached(self, array: Array) -> Array:
        return array.copy() if any(np.may_share_memory(array, slab) for slab in self._slabs) else array


def _copied(array: Array, value: Value) -> Tensor:
    type = value.type
    if array.dtype != type.dtype.numpy:
        return as_tensor(array.copy())  # the wide executor's float64
    result = fresh(type, "cpu")
    np.copyto(as_array(result), array)
    return result
