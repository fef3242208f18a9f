"""One pointwise graph over many tensors at once: a whole parameter group's optimizer step in one launch.

`foreach` maps a body over rows of tensors; `foreach_sum` adds up one value per element over all rows. The body is
traced once on 0-d placeholders, so it may hold pointwise ops alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import DTypeError, GradientError, GraphError, ShapeError
from ..ir.graph import Graph
from ..ir.node import Node, Value, make
from ..ir.op import Kernel, Leaf, Op, Pointwise, Sample, call, register
from ..types import DType, TensorType, bool_, float64, int64
from .define import Operand, as_value, composed, randn, samples

__all__ = ["foreach", "foreach_sum"]

Body = Callable[..., Any]


# ---- tracing ---------------------------------------------------------------------------------------------------


def _trace(body: Body, types: Sequence[TensorType]) -> Graph:
    """The graph of `body` on one element. Raises GraphError if it holds anything but pointwise ops."""
    slots = tuple(call("input", (), t.dtype) for t in types)
    found = body(*slots)
    outputs = (found,) if isinstance(found, Value) else tuple(as_value(v) for v in found)
    graph = Graph(slots, outputs)
    known = set(slots)
    for node in graph.nodes:
        leaf = isinstance(node.op.lowering, Leaf)
        if (leaf and node.out not in known) or not (leaf or isinstance(node.op.lowering, Pointwise)):
            raise GraphError(
                f"the body uses {node.op.name}; only pointwise ops on its own arguments are allowed", loc=node.loc
            )
    return graph


def _arguments(
    tensors: Sequence[Sequence[Operand]], scalars: Sequence[Operand]
) -> tuple[list[list[Value]], list[Value]]:
    """Rows and scalars as Values. Raises ShapeError or DTypeError if they do not fit together."""
    rows = [[as_value(v) for v in row] for row in tensors]
    shared = [as_value(v) for v in scalars]
    if not rows or not rows[0]:
        raise ShapeError("needs at least one row of at least one tensor")
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ShapeError(f"row {i} has {len(row)} tensors, row 0 has {len(rows[0])}")
        if any(v.shape != row[0].shape for v in row):
            raise ShapeError(f"the tensors of row {i} differ in shape: {', '.join(str(v.shape) for v in row)}")
        for j, (v, first) in enumerate(zip(row, rows[0], strict=True)):
            if v.dtype is not first.dtype:
                raise DTypeError(f"tensor {j} of row {i} is {v.dtype}, in row 0 it is {first.dtype}")
    for v in shared:
        if v.ndim:
            raise ShapeError(f"scalars must be 0-d, got {v.shape}")
    return rows, shared


# ---- the nodes: inputs are the rows, one after the other, then the scalars, then the table of `each` ------------


def _slots(count: int, body: Graph, rows: int, scalars: int, each: int, index: bool) -> int:
    slots = (count - scalars - bool(each)) // rows
    if count != slots * rows + scalars + bool(each) or len(body.inputs) != slots + scalars + each + index:
        raise ShapeError(f"{count} operands do not make {rows} rows for a body of {len(body.inputs)} arguments")
    return slots


def _foreach_type(
    *types: TensorType, body: Graph, rows: int, scalars: int, each: int = 0, index: bool = False
) -> tuple[TensorType, ...]:
    slots = _slots(len(types), body, rows, scalars, each, index)
    return tuple(types[i * slots].with_dtype(v.dtype) for i in range(rows) for v in body.outputs)


def _sum_dtype(body: Graph) -> DType:
    return body.outputs[0].dtype.compute


def _foreach_sum_type(*types: TensorType, body: Graph, rows: int, scalars: int, apart: bool = False) -> TensorType:
    _slots(len(types), body, rows, scalars, 0, False)
    return TensorType((rows,) if apart else (), _sum_dtype(body))


def _interpret(body: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """body on whole arrays, through the ops' references.

    Operands hold what their dtypes hold, 16-bit floats as float32; or every float is float64 (the oracle).
    """
    declared = zip(arrays, body.inputs, strict=True)
    oracle = any(a.dtype == np.float64 and v.dtype.is_float and v.dtype is not float64 for a, v in declared)
    env: dict[Value, np.ndarray] = dict(zip(body.inputs, arrays, strict=True))
    for node in body.nodes:
        value = node.outputs[0]
        if value in env:
            continue
        attrs = dict(node.attrs)
        if oracle:
            attrs = {k: float64 if isinstance(a, DType) and a.is_float else a for k, a in attrs.items()}
        result = np.asarray(node.op.ref(*(env[v] for v in node.inputs), **attrs))
        if value.dtype.is_float and oracle:
            result = result.astype(np.float64, copy=False)
        elif value.dtype is bool_:
            result = result != 0
        else:
            result = result.astype(value.dtype.numpy, copy=False).astype(value.dtype.compute.numpy, copy=False)
        env[value] = result
    return [env[v] for v in body.outputs]


def _rows_of(
    arrays: Sequence[np.ndarray], body: Graph, rows: int, scalars: int, each: int = 0, index: bool = False
) -> list[list[np.ndarray]]:
    """The body's arguments for each row."""
    slots = _slots(len(arrays), body, rows, scalars, each, index)
    shared = arrays[slots * rows : slots * rows + scalars]
    found = [[*arrays[i * slots : (i + 1) * slots], *shared] for i in range(rows)]
    for i, row in enumerate(found):
        row += [arrays[-1][i, j] for j in range(each)]
        if index:
            row.append(np.arange(row[0].size, dtype=np.int64).reshape(row[0].shape))
    return found


def _foreach_ref(*arrays: np.ndarray, body: Graph, **layout: Any) -> Any:
    results = [
        np.broadcast_to(a, row[0].shape) for row in _rows_of(arrays, body, **layout) for a in _interpret(body, row)
    ]
    return results if len(results) > 1 else results[0]


def _foreach_sum_ref(*arrays: np.ndarray, body: Graph, rows: int, scalars: int, apart: bool = False) -> np.ndarray:
    parts = []
    for row in _rows_of(arrays, body, rows, scalars):
        (value,) = _interpret(body, row)
        parts.append(np.sum(np.broadcast_to(value, row[0].shape), dtype=np.result_type(value, np.float32)))
    return np.asarray(parts) if apart else np.sum(np.asarray(parts))


# ---- the gradient: the body as ordinary ops, row by row ---------------------------------------------------------


def _inline(body: Graph, arguments: Sequence[Value], shape: tuple[int, ...]) -> dict[Value, Value]:
    """body's nodes built on whole tensors: the Value of each of its Values."""
    table = {
        slot: v if v.shape == shape else call("broadcast_to", v, shape)
        for slot, v in zip(body.inputs, arguments, strict=True)
    }
    for node in body.nodes:
        value = node.outputs[0]
        if value in table:
            continue
        if node.op.name == "full":
            table[value] = call("full", shape, node.attrs["value"], value.dtype)
        else:
            table[value] = make(node.op, [table[v] for v in node.inputs], **node.attrs).out
    return table


def _pull_back(body: Graph, table: dict[Value, Value], cotangents: Sequence[Value | None]) -> list[Value | None]:
    """Cotangents of body's arguments from those of its outputs."""
    known: dict[Value, Value] = {}

    def arrive(value: Value, cotangent: Value | None) -> None:
        if cotangent is not None:
            known[value] = call("add", known[value], cotangent) if value in known else cotangent

    for value, cotangent in zip(body.outputs, cotangents, strict=True):
        arrive(value, cotangent)
    for node in reversed(body.nodes):
        g = known.get(node.outputs[0])
        if g is None or not node.inputs:
            continue
        if node.op.vjp is None:
            raise GradientError(f"{node.op.name} has no gradient", op=node.op.name, loc=node.loc)
        for v, cotangent in zip(node.inputs, node.op.vjp(table[node.outputs[0]].node, g), strict=True):
            arrive(v, cotangent)
    return [known.get(v) for v in body.inputs]


def _values_of(node: Node) -> list[list[Value]]:
    """The body's arguments for each row, as Values."""
    body, rows, scalars = (node.attrs[k] for k in ("body", "rows", "scalars"))
    each, index = node.attrs.get("each", 0), node.attrs.get("index", False)
    slots = _slots(len(node.inputs), body, rows, scalars, each, index)
    shared = node.inputs[slots * rows : slots * rows + scalars]
    found = [[*node.inputs[i * slots : (i + 1) * slots], *shared] for i in range(rows)]
    for i, row in enumerate(found):
        row += [node.inputs[-1][i, j] for j in range(each)]
        if index:
            shape = row[0].shape
            row.append(call("reshape", call("arange", row[0].size), shape))
    return found


def _rows_vjp(node: Node, cotangents: Sequence[Sequence[Value | None]]) -> list[Value | None]:
    """The cotangents of all operands from those of the body's outputs in each row."""
    body, scalars, each = node.attrs["body"], node.attrs["scalars"], node.attrs.get("each", 0)
    slots = len(body.inputs) - scalars - each - node.attrs.get("index", False)
    result: list[Value | None] = []
    shared: list[Value | None] = [None] * scalars
    table: list[Value] = []
    for row, given in zip(_values_of(node), cotangents, strict=True):
        found = _pull_back(body, _inline(body, row, row[0].shape), given)
        result += found[:slots]
        for k, g in enumerate(found[slots : slots + scalars]):
            if g is not None:
                total = call("sum", g)
                shared[k] = total if shared[k] is None else call("add", shared[k], total)
        for g, v in zip(found[slots + scalars : slots + scalars + each], row[slots + scalars :], strict=False):
            table.append(call("full", (), 0, v.dtype) if g is None else call("sum", g))
    if each:
        shared.append(call("reshape", call("stack", table), node.inputs[-1].shape))
    return [*result, *shared]


def _foreach_vjp(node: Node, *cotangents: Value | None) -> list[Value | None]:
    width = len(node.attrs["body"].outputs)
    return _rows_vjp(node, [cotangents[i : i + width] for i in range(0, len(cotangents), width)])


def _foreach_sum_vjp(node: Node, g: Value) -> list[Value | None]:
    g = call("cast", g, node.attrs["body"].outputs[0].dtype)
    shapes = [row[0].shape for row in _values_of(node)]
    own = [g[i] if node.attrs.get("apart") else g for i in range(len(shapes))]
    return _rows_vjp(node, [[call("broadcast_to", v, shape)] for v, shape in zip(own, shapes, strict=True)])


for _name, _infer, _ref, _vjp, _doc in (
    ("foreach", _foreach_type, _foreach_ref, _foreach_vjp, "A pointwise body mapped over rows of tensors."),
    ("foreach_sum", _foreach_sum_type, _foreach_sum_ref, _foreach_sum_vjp, "The sum of a body over rows of tensors."),
):
    register(Op(_name, _infer, Kernel(_name), _ref, _vjp, doc=_doc, stores=True))


# ---- column sums: made by graph/sums.py, after autodiff ---------------------------------------------------------


def _column_sums_type(first: TensorType, *rest: TensorType, rounding: DType, dtype: DType) -> tuple[TensorType, ...]:
    types = (first, *rest)
    if any(t.ndim != 4 or t.dtype is not first.dtype for t in types):
        raise ShapeError(f"expects arrays [A, R, B, N] of one dtype, got {', '.join(map(str, types))}")
    return tuple(TensorType((1, 1, *t.shape[2:]), dtype) for t in types)


def _column_sums_ref(*arrays: np.ndarray, rounding: DType, dtype: DType) -> Any:
    sums = [dtype.convert(rounding.convert(np.sum(a, (0, 1), keepdims=True))) for a in arrays]
    return sums[0] if len(sums) == 1 else tuple(sums)


register(
    Op(
        "foreach_columns", _column_sums_type, Kernel("foreach_columns", takes=("strided",)), _column_sums_ref,
        doc="Of each array [A, R, B, N] the sums over A and R, [1, 1, B, N]: rounded, then of `dtype`.",
    )
)  # fmt: skip


# ---- public ----------------------------------------------------------------------------------------------------

_rows = ((randn(3, 5), randn(3, 5, seed=1)), (randn(7), randn(7, seed=1)), (randn(), randn(seed=1)))


def _momentum(p: Value, g: Value, rate: Value) -> tuple[Value, Value]:
    """A body for samples: one step with a squared gradient."""
    return p - rate * g, g * g * 0.1


def _product(p: Value, g: Value, rate: Value) -> Value:
    return p * call("tanh", g) * rate


def _numbered(p: Value, g: Value, rate: Value, factor: Value, i: Value) -> Value:
    return p - rate * factor * g * call("cast", i, g.dtype)


@composed(
    samples=samples(
        Sample((_momentum, _rows, (np.asarray(0.3),))),
        Sample((_product, _rows[:1], (0.5,))),
        Sample((_numbered, _rows, (0.5,), np.array([[1.0], [0.5], [-2.0]]), True)),
    )
)
def foreach(
    body: Body,
    tensors: Sequence[Sequence[Operand]],
    scalars: Sequence[Operand] = (),
    each: Operand | None = None,
    index: bool = False,
) -> list[list[Value]]:
    """[body(*row, *scalars, *each[i]) for i, row in enumerate(tensors)], as one node.

    body: from 0-d Values, of the dtypes of a row and of the scalars, to one Value or several; pointwise ops alone.
    tensors: rows; those of one row share a shape, the j-th of every row shares a dtype. scalars: 0-d, shared.
    each: [rows, n], numbers that differ from row to row: rates, decays. index: body also takes, last, the row-major
    index (int64) of its element within the row's tensors. Returns for each row body's results, in the row's shape.
    """
    rows, shared = _arguments(tensors, scalars)
    inputs = [v for row in rows for v in row] + shared
    arguments = [v.type for v in (*rows[0], *shared)]
    width = 0
    if each is not None:
        table = as_value(each)
        if table.ndim != 2 or table.shape[0] != len(rows) or not table.shape[1]:
            raise ShapeError(f"each must have shape ({len(rows)}, n), got {table.shape}")
        width = table.shape[1]
        inputs.append(table)
        arguments += [TensorType((), table.dtype)] * width
    graph = _trace(body, arguments + [TensorType((), int64)] * index)
    attrs = {"body": graph, "rows": len(rows), "scalars": len(shared), "each": width, "index": bool(index)}
    outputs = make("foreach", inputs, **attrs).outputs
    count = len(graph.outputs)
    return [list(outputs[i : i + count]) for i in range(0, len(outputs), count)]


@composed(
    samples=samples(
        Sample((_product, _rows, (np.asarray(0.3),))),
        Sample((_product, _rows[:1], (0.5,))),
        Sample((_product, _rows, (0.5,), True)),
    )
)
def foreach_sum(
    body: Body, tensors: Sequence[Sequence[Operand]], scalars: Sequence[Operand] = (), apart: bool = False
) -> Value:
    """The sum of body(*row, *scalars) over all elements of all rows: 0-d, float32 (float64 if the body's result is).

    Arguments as for `foreach`; body gives one floating Value. apart: one sum for each row, [rows].
    """
    rows, shared = _arguments(tensors, scalars)
    graph = _trace(body, [v.type for v in (*rows[0], *shared)])
    if len(graph.outputs) != 1 or not graph.outputs[0].dtype.is_float:
        raise GraphError("the body must give one floating value")
    inputs = [v for row in rows for v in row] + shared
    more = {"apart": True} if apart else {}
    return make("foreach_sum", inputs, body=graph, rows=len(rows), scalars=len(shared), **more).out
