"""`ft.fused`: a user's own expression as one node, which the passes take apart again and fuse.

A call traces the body once, on placeholders of the operands' types, and makes a composite node that holds the traced
graph. So the node has a name in listings, the gradient comes from the one autodiff engine, and fusion sees the
primitives. Values that the body takes from outside (a closure's, a module's parameters) become operands of the node.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, overload

import numpy as np

from ..errors import CompileError, FlameError, GraphError
from ..ir.graph import Graph
from ..ir.location import user_location
from ..ir.node import Node, Value, inlined, make
from ..ir.op import Composite, Leaf, Op, call
from ..ops.define import as_value
from ..ops.users import Calls, enter
from ..types import DType, TensorType
from ..types import dtype as as_dtype
from .fusion_report import FusionReport, report
from .plan import Target


def _types(*types: TensorType, body: Graph, statics: str = "") -> tuple[TensorType, ...]:
    declared = tuple(v.type for v in body.inputs)
    if types != declared:
        raise GraphError(f"the body was traced for {declared}, got {types}")
    return tuple(v.type for v in body.outputs)


def _no_ref(*_: object, **__: object) -> object:
    raise AssertionError("a body is evaluated by graph/evaluate.py")


def _inline(node: Node) -> list[Value]:
    """The body's nodes, on the operands of `node`."""
    body: Graph = node.attrs["body"]
    table: dict[Value, Value] = dict(zip(body.inputs, node.inputs, strict=True))
    for inner in body.nodes:
        if any(v in table for v in inner.outputs):
            continue
        if isinstance(inner.op.lowering, Leaf):
            table.update((v, v) for v in inner.outputs)
        else:
            copy = inlined(inner, [table[v] for v in inner.inputs], node)
            table.update(zip(inner.outputs, copy.outputs, strict=True))
    return [table[v] for v in body.outputs]


class FusedFunction:
    """A function from Values to a Value or several, made by `ft.fused`."""

    def __init__(self, function: Callable[..., Any], strict: bool, samples: Calls) -> None:
        functools.update_wrapper(self, function)
        self.name = function.__name__
        self.strict = strict
        self._function = function
        doc = inspect.getdoc(function) or ""
        self._op = Op(self.name, _types, Composite(_inline, body=True), _no_ref, doc=doc, stores=True)
        if samples is not None:
            enter(self, function.__module__, self.name, samples)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self) -> str:
        return f"<fused function {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One node that computes the body. Values and arrays, also inside lists and tuples, become its operands; all
        other arguments are passed on as they are.

        Raises GraphError if the body does not return Values; with strict=True, CompileError if it is not one kernel.
        """
        body, operands, single = self._trace(args, kwargs)
        if self.strict:
            found = report(self.name, body, Target(), backward=False)
            if len(found.forward) > 1:
                raise CompileError(f"is not one kernel:\n{found}", op=self.name, loc=user_location())
        outputs = make(self._op, operands, body=body, **_statics(args, kwargs)).outputs
        return outputs[0] if single else outputs

    def explain(self, *args: Any, target: Target | None = None, **kwargs: Any) -> FusionReport:
        """How many kernels a call takes, forward and backward, and which values are stored in between and why.

        args, kwargs: as for a call; a TensorType, or a pair of a shape and a dtype, may stand for a Value. target: the
        device that is compiled for, default sm_90. The call is looked at alone: in a larger graph its kernels may also
        take in what stands before and after them.
        """
        args = tuple(_placeholder(a) for a in args)
        body, _, _ = self._trace(args, {k: _placeholder(a) for k, a in kwargs.items()})
        return report(self.name, body, target or Target())

    def _trace(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Graph, list[Value], bool]:
        """The body's graph, the operands for its inputs, and whether it returns one Value alone."""
        operands: list[Value] = []
        slots: list[Value] = []

        def place(x: Any) -> Any:
            if isinstance(x, Value) and not x.dtype.is_float:
                return x  # found and lifted below; a seed must be itself, since it counts the draws made from it
            if isinstance(x, Value | np.ndarray):
                operands.append(as_value(x))
                slots.append(call("input", operands[-1].shape, operands[-1].dtype))
                return slots[-1]
            if isinstance(x, list | tuple):
                parts = [place(part) for part in cast(Sequence[Any], x)]
                return parts if isinstance(x, list) else tuple(parts)
            return x

        first = call("input", (), "float32").node.id  # what is older than this node comes from outside
        try:
            made = self._function(*[place(x) for x in args], **{k: place(x) for k, x in kwargs.items()})
        except FlameError as error:
            error.loc = error.loc or user_location()
            raise
        several = cast(Sequence[Any], made) if isinstance(made, list | tuple) else (made,)
        outputs = tuple(v for v in several if isinstance(v, Value))
        if not outputs or len(outputs) != len(several):
            raise GraphError(
                f"must return a Value or a tuple of Values, got {made!r}", op=self.name, loc=user_location()
            )
        body, captured = _lift(slots, outputs, first)
        return body, operands + captured, isinstance(made, Value)


def _statics(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """The arguments that are not Values, as text for listings."""
    named = [("", x) for x in args] + list(kwargs.items())
    plain = [f"{k}={x!r}" if k else repr(x) for k, x in named if isinstance(x, bool | int | float | str | DType)]
    return {"statics": ", ".join(plain)} if plain else {}


def _placeholder(x: Any) -> Any:
    """A fresh Value for a Value or a type; anything else as it is."""
    if isinstance(x, TensorType | Value):
        return call("input", x.shape, x.dtype)
    parts = cast("tuple[Any, ...]", x) if isinstance(x, tuple) else ()
    if len(parts) == 2 and isinstance(parts[0], tuple) and isinstance(parts[1], str | DType):
        return call("input", cast("tuple[int, ...]", parts[0]), as_dtype(parts[1]))
    return cast(Any, x)


def _lift(slots: Sequence[Value], outputs: tuple[Value, ...], first: int) -> tuple[Graph, list[Value]]:
    """The traced graph with a placeholder for every value that it takes from outside, and those values."""
    own = set(slots)
    captured: set[Value] = set()
    inside: list[Node] = []

    def outside(v: Value) -> bool:
        leaf = isinstance(v.node.op.lowering, Leaf) and v.node.op.name != "constant"
        return v not in own and (leaf or v.node.id < first)

    stack = list(outputs)
    seen: set[Node] = set()
    while stack:
        v = stack.pop()
        if outside(v):
            captured.add(v)
        elif v.node not in seen:
            seen.add(v.node)
            inside.append(v.node)
            stack.extend(v.node.inputs)
    order = sorted(captured, key=lambda v: (v.node.id, v.index))
    if not order:
        return Graph(tuple(slots), outputs), []
    table: dict[Value, Value] = {v: call("input", v.shape, v.dtype) for v in order}
    inputs = (*slots, *table.values())
    table.update((v, v) for v in slots)
    for node in sorted(inside, key=lambda n: n.id):
        if any(v in table for v in node.outputs) and not node.inputs:
            continue
        if isinstance(node.op.lowering, Leaf):
            table.update((v, v) for v in node.outputs)
            continue
        new = Node(node.op, [table[v] for v in node.inputs], node.attrs, node.types, node.loc, node.origin)
        table.update(zip(node.outputs, new.outputs, strict=True))
    return Graph(inputs, tuple(table[v] for v in outputs)), order


@overload
def fused(function: Callable[..., Any]) -> FusedFunction: ...


@overload
def fused(*, strict: bool = False, samples: Calls = None) -> Callable[[Callable[..., Any]], FusedFunction]: ...


def fused(function: Any = None, *, strict: bool = False, samples: Calls = None) -> Any:
    """Decorator: an expression in ft's ops as one op of your own, with its gradient, and one kernel where possible.

    The function takes Values and plain arguments and returns a Value or a tuple of them. Each call becomes one node
    under the function's name. `f.explain(...)` says how many kernels a call takes, and why not one. Values that the
    body uses without taking them as arguments become operands, so gradients reach them too.

    strict: raise CompileError at a call whose forward pass is more than one kernel. samples: calls for `flame-triton
    check`, each a tuple of arguments in which a tuple of ints is the shape of an array of normal numbers.
    """
    if function is None:
        return functools.partial(fused, strict=strict, samples=samples)
    return FusedFunction(function, strict, samples)
