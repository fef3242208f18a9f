"""Run a graph on the ops' NumPy references: the oracle in float64, the reference executor in the graph's own dtypes.

16-bit floats are computed in float32 and rounded to nearest even after every node, as the kernels do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import GraphError, InputError, ShapeError
from ..ir.graph import Graph
from ..ir.node import Node, Value
from ..ir.op import Composite, Fused, Leaf, Op
from ..types import DType, bool_, float64

Array = np.ndarray[Any, Any]


def evaluate(
    outputs: Value | Sequence[Value] | Graph, feeds: Mapping[Value, Any] | None = None, *, dtype: Any = float64
) -> Any:
    """The values of `outputs` as NumPy arrays, computed by the references of the ops.

    feeds: arrays for inputs and parameters (a parameter that is not fed takes its initial value if that is an array or
    a number). dtype: float64 (default) computes every floating value in double precision, whatever its type says;
    None keeps the graph's own dtypes. Raises GraphError for a missing input, InputError for a wrong shape.
    """
    single = isinstance(outputs, Value)
    values = (outputs,) if isinstance(outputs, Value) else outputs.outputs if isinstance(outputs, Graph) else outputs
    graph = outputs if isinstance(outputs, Graph) else Graph((), tuple(values))
    results = run(graph, {v: check_feed(v, a) for v, a in (feeds or {}).items()}, wide=dtype is not None)
    return results[0] if single else results


def check_feed(value: Value, array: Any) -> Array:
    """`array` as NumPy, if its shape is the value's. Raises InputError naming the input otherwise."""
    data = np.asarray(array)
    if data.shape != value.shape:
        label = repr(value.name) if value.name else "input"
        raise InputError(f"{label} expects shape {value.shape}, got {data.shape}", loc=value.node.loc)
    return data


def leaf_array(node: Node) -> Array:
    """The initial array of a constant or of a parameter with a fixed initial value."""
    attrs = node.attrs
    if node.op.name == "constant":
        return attrs["dtype"].convert(attrs["array"])
    label = repr(attrs["name"]) if attrs.get("name") else f"without a name, {node.type},"
    if node.op.name == "parameter" and not callable(attrs["init"]):
        init = 0 if attrs["init"] is None else attrs["init"]
        return np.array(np.broadcast_to(attrs["dtype"].convert(np.asarray(init)), node.type.shape))
    raise GraphError(f"{node.op.name} {label} is needed but no array is given for it", loc=node.loc)


def run(graph: Graph, feeds: Mapping[Value, Array], *, wide: bool) -> list[Array]:
    """Every output of `graph`. wide: floats in float64 throughout; else each value is rounded to its own dtype."""
    with np.errstate(all="ignore"):
        return Plan(graph, wide).run(feeds)


def region_arrays(node: Node, arrays: Sequence[Array], wide: bool) -> list[Array]:
    """What the region of a kernel with an epilogue starts from: the kernel's result, then the epilogue's operands.

    arrays: the values of the node's inputs, the kernel's operands first.
    """
    region: Graph = node.attrs["region"]
    kernel: Op = node.attrs["kernel"]
    count = len(node.inputs) - len(region.inputs) + 1
    dtypes = [float64 if wide and v.dtype.is_float else v.dtype.compute for v in node.inputs[:count]]
    operands = [a.astype(d.numpy, copy=False) for a, d in zip(arrays, dtypes, strict=False)]
    made = np.asarray(kernel.ref(*operands, **_widened(node.attrs["attrs"], wide)))
    kept = float64 if wide and region.inputs[0].dtype.is_float else region.inputs[0].dtype
    return [made.astype(kept.numpy, copy=False), *arrays[count:]]


def _widened(attrs: Mapping[str, Any], wide: bool) -> Mapping[str, Any]:
    """Attributes that name a floating dtype are widened with the values."""
    if not wide:
        return attrs
    return {k: float64 if isinstance(a, DType) and a.is_float else a for k, a in attrs.items()}


class Plan:
    """A graph prepared for repeated evaluation: node order, and when each value is read for the last time."""

    def __init__(self, graph: Graph, wide: bool = False) -> None:
        self.graph = graph
        self.wide = wide
        self.nodes = graph.nodes
        keep = set(graph.outputs)
        last: dict[Value, int] = {}
        for i, node in enumerate(self.nodes):
            for v in (*node.inputs, *node.outputs):
                last[v] = i
        self.dying: list[list[Value]] = [[] for _ in self.nodes]
        for v, i in last.items():
            if v not in keep:
                self.dying[i].append(v)

    def run(self, feeds: Mapping[Value, Array]) -> list[Array]:
        env: dict[Value, Array] = {}
        for node, dying in zip(self.nodes, self.dying, strict=True):
            if isinstance(node.op.lowering, Leaf):
                value = node.outputs[0]
                array = feeds[value] if value in feeds else leaf_array(node)
                env[value] = self._as(array, value.dtype)
            else:
                self._apply(node, env)
            for v in dying:
                env.pop(v, None)
        return [np.asarray(self._as(env[v], v.dtype)) for v in self.graph.outputs]

    def _as(self, array: Array, dtype: DType) -> Array:
        target = float64 if self.wide and dtype.is_float else dtype
        return array if array.dtype == target.numpy else target.convert(array)

    def _apply(self, node: Node, env: dict[Value, Array]) -> None:
        if isinstance(node.op.lowering, Fused):
            env.update(zip(node.outputs, self._fused(node, env), strict=True))
            return
        if isinstance(node.op.lowering, Composite) and node.op.lowering.body:
            body: Graph = node.attrs["body"]
            feeds = {inner: env[v] for inner, v in zip(body.inputs, node.inputs, strict=True)}
            env.update(zip(node.outputs, Plan(body, self.wide).run(feeds), strict=True))
            return
        arrays: list[Array] = []
        for v in node.inputs:
            a = env[v]
            if v.dtype.is_low_precision and not self.wide:
                a = a.astype(np.float32)
            arrays.append(a)
        result = node.op.ref(*arrays, **_widened(node.attrs, self.wide))
        results = (result,) if len(node.outputs) == 1 else result
        for v, a in zip(node.outputs, results, strict=True):
            a = np.asarray(a)
            if a.shape != v.shape:
                raise ShapeError(
                    f"the reference gives shape {a.shape}, the shape rule {v.shape}", op=node.op.name, loc=node.loc
                )
            if v.dtype is bool_ and a.dtype != np.bool_:
                a = a != 0
            env[v] = self._as(a, v.dtype)

    def _fused(self, node: Node, env: dict[Value, Array]) -> list[Array]:
        """A fused node's region on the values of its operands; that of a kernel with an epilogue gets its result."""
        region: Graph = node.attrs["region"]
        arrays = [env[v] for v in node.inputs]
        if "kernel" in node.attrs:
            arrays = region_arrays(node, arrays, self.wide)
        return Plan(region, self.wide).run(dict(zip(region.inputs, arrays, strict=True)))
