"""Reverse-mode differentiation: a function from graph to graph, and the only autodiff engine there is.

For y = f(x), each op's `vjp` turns the cotangent of y into the cotangent of x by building ordinary Values. Walking the
nodes backwards once, cotangents of a value that several nodes read are summed (fan-out). A missing cotangent is a
symbolic zero: it is never built, and a node all of whose outputs have one is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DTypeError, GradientError, ShapeError
from ..ir.graph import topological
from ..ir.node import Node, Value, derived_from, differentiating
from ..ir.op import Composite, call


def grad(
    output: Value | Sequence[Value],
    wrt: Sequence[Value],
    *,
    grad_output: Value | Sequence[Value | None] | None = None,
    allow_unused: bool = False,
) -> list[Value]:
    """The gradient of `output` with respect to each value in `wrt`, as Values of the same shapes and dtypes (float32
    where the value's own dtype only stores values).

    output: one floating Value, or several (their contributions are summed). A scalar output needs no grad_output; any
    other needs a cotangent of its own shape and dtype.
    allow_unused: a `wrt` that the output does not depend on gives zeros; without it that is a GradientError, since a
    severed gradient is a bug. stop_gradient and integer operations sever.

    Raises GradientError, ShapeError, DTypeError. The results can be differentiated again.
    """
    if isinstance(wrt, Value):
        raise GradientError("wrt must be a list of Values, got one Value", op="grad")
    outputs = [output] if isinstance(output, Value) else list(output)
    seeds = [grad_output] if grad_output is None or isinstance(grad_output, Value) else list(grad_output)
    if seeds == [None]:
        seeds = [None] * len(outputs)
    if len(seeds) != len(outputs):
        raise GradientError(f"{len(outputs)} outputs but {len(seeds)} cotangents in grad_output", op="grad")
    for value in wrt:
        if not value.dtype.is_float:
            raise GradientError(
                f"cannot differentiate with respect to {value!r}: its dtype is {value.dtype}, only floating types have "
                "gradients",
                op="grad",
                loc=value.node.loc,
            )
    with differentiating():
        started = [(value, _seed(value, seed)) for value, seed in zip(outputs, seeds, strict=True)]
        cotangents = _pull_back(topological(outputs), started, wrt)
        return [_result(value, cotangents, allow_unused) for value in wrt]


def _pull_back(
    order: list[Node], seeds: Sequence[tuple[Value, Value]], wrt: Sequence[Value]
) -> dict[Value, list[Value]]:
    """Cotangents of every value between `wrt` and the seeded outputs; order: their nodes, operands first."""
    active, targets = _depends_on(order, wrt), set(wrt)
    cotangents: dict[Value, list[Value]] = {}
    for value, seed in seeds:
        cotangents.setdefault(value, []).append(seed)
    for node in reversed(order):
        if node in active:
            _propagate(node, active, targets, cotangents)
    return cotangents


def _seed(value: Value, seed: Value | None) -> Value:
    if not value.dtype.is_float:
        raise GradientError(
            f"cannot differentiate {value!r}: its dtype is {value.dtype}", op="grad", loc=value.node.loc
        )
    with derived_from(value.node):
        if seed is None:
            if value.size != 1:
                raise GradientError(
                    f"the output has shape {value.shape}; a non-scalar output needs grad_output of that shape",
                    op="grad",
                    loc=value.node.loc,
                )
            return call("full", value.shape, 1.0, value.dtype.gradient)
    if seed.shape != value.shape:
        raise ShapeError(f"grad_output has shape {seed.shape}, the output has {value.shape}", op="grad")
    if seed.dtype is not value.dtype.gradient:
        raise DTypeError(
            f"grad_output is {seed.dtype}, needs {value.dtype.gradient} for an output of {value.dtype}", op="grad"
        )
    return seed


def _depends_on(order: list[Node], wrt: Sequence[Value]) -> set[Node]:
    """Nodes that compute something from a value in `wrt`, and the nodes that make those values."""
    targets = set(wrt)
    carriers: set[Value] = set(wrt)
    active: set[Node] = set()
    for node in order:
        reads = any(v in carriers for v in node.inputs)
        owned = [v for v in node.outputs if v in targets]
        if reads:
            carriers.update(node.outputs)
            active.add(node)
        elif owned:
            carriers.update(owned)
            active.add(node)
    return active


def _total(values: list[Value]) -> Value:
    """The sum of cotangents, as a balanced tree (short dependency chains, deterministic)."""
    while len(values) > 1:
        pairs = [call("add", a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(pairs) * 2 :]
    return values[0]


def _propagate(node: Node, active: set[Node], targets: set[Value], cotangents: dict[Value, list[Value]]) -> None:
    if not any(v.node in active or v in targets for v in node.inputs):
        return
    present = [cotangents.get(v) for v in node.outputs]
    if not any(present):
        return
    if node.op.vjp is None and not isinstance(node.op.lowering, Composite):
        if any(v.dtype.is_float for v in node.outputs):
            raise GradientError(f"{node.op.name} has no gradient", op=node.op.name, loc=node.loc)
        return
    with derived_from(node):
        incoming: list[Value | None] = []
        for value, parts in zip(node.outputs, present, strict=True):
            if parts:
                total = _total(parts)
                cotangents[value] = [total]
                incoming.append(total)
            else:
                incoming.append(None)
        results = _through_definition(node, incoming) if node.op.vjp is None else node.op.vjp(node, *incoming)
    if len(results) != len(node.inputs):
        raise GradientError(
            f"the gradient rule gave {len(results)} cotangents for {len(node.inputs)} inputs", op=node.op.name
        )
    for i, (value, cotangent) in enumerate(zip(node.inputs, results, strict=True)):
        if cotangent is None or i in node.op.residual or (value.node not in active and value not in targets):
            continue
        if cotangent.type != value.type.with_dtype(value.dtype.gradient):
            raise GradientError(
                f"the gradient rule gave {cotangent.type} for input {i} of type {value.type}",
                op=node.op.name,
                loc=node.loc,
            )
        cotangents.setdefault(value, []).append(cotangent)


def _through_definition(node: Node, incoming: Sequence[Value | None]) -> list[Value | None]:
    """The gradient of a composite op without a rule of its own: differentiate the graph that defines it."""
    lowering = node.op.lowering
    assert isinstance(lowering, Composite)
    built = lowering.build(node)
    outputs = [built] if isinstance(built, Value) else list(built)
    seeds = [(value, seed) for value, seed in zip(outputs, incoming, strict=True) if seed is not None]
    wrt = [v for v in node.inputs if v.dtype.is_float]
    inner = [n for n in topological([v for v, _ in seeds], stop=wrt) if not any(v.node is n for v in wrt)]
    cotangents = _pull_back(inner, seeds, wrt)
    # A value that is several operands gets its whole cotangent once, at the first of them.
    return [_total(parts) if (parts := cotangents.pop(v, None)) else None for v in node.inputs]


def _result(value: Value, cotangents: dict[Value, list[Value]], allow_unused: bool) -> Value:
    parts = cotangents.get(value)
    with derived_from(value.node):
        if parts:
            return _total(parts)
        if allow_unused:
            return call("full", value.shape, 0.0, value.dtype.gradient)
    raise GradientError(
        f"no gradient reaches {value!r}: the output does not depend on it, or the path is severed by stop_gradient or "
        "an integer operation; pass allow_unused=True if zeros are meant",
        op="grad",
        loc=value.node.loc,
    )
