"""Nodes and Values: the immutable graph that users build and passes rewrite."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from ..errors import FlameError, GraphError
from ..types import DType, TensorType
from .location import Loc, user_location
from .op import OPS, Attrs, Op, call

_ids = itertools.count()
_origin: list[Node] = []


class Node:
    """One application of an op. Immutable; compared by identity.

    inputs: operand Values; attrs: static attributes; types: one TensorType per output; loc: the user's line;
    origin: for a node made by a gradient rule, the forward node it came from; id: creation order.
    """

    __slots__ = ("__weakref__", "attrs", "id", "inputs", "known_key", "loc", "op", "origin", "outputs", "types")

    def __init__(
        self,
        op: Op,
        inputs: Sequence[Value],
        attrs: Attrs,
        types: Sequence[TensorType],
        loc: Loc,
        origin: Node | None,
    ) -> None:
        self.op = op
        self.inputs = tuple(inputs)
        self.attrs = attrs
        self.types = tuple(types)
        self.loc = loc
        self.origin = origin
        self.id = next(_ids)
        self.outputs: tuple[Value, ...] = tuple([Value(self, i) for i in range(len(self.types))])
        self.known_key: tuple[Any, ...] | None = None  # attr_key, once it was asked for

    @property
    def out(self) -> Value:
        """The only output. Raises GraphError for a node with several."""
        if len(self.outputs) != 1:
            raise GraphError(f"{self.op.name} has {len(self.outputs)} outputs", loc=self.loc)
        return self.outputs[0]

    @property
    def type(self) -> TensorType:
        return self.types[0]

    @property
    def attr_key(self) -> tuple[Any, ...]:
        """The names and `attr_key`s of all attributes; made once, and kept when the node is made anew."""
        if self.known_key is None:
            self.known_key = tuple([(k, attr_key(v)) for k, v in sorted(self.attrs.items())])
        return self.known_key

    def __repr__(self) -> str:
        types = ", ".join(map(str, self.types))
        return f"<{self.op.name} #{self.id}: {types}>"


class Value:
    """One result of a node: a symbolic tensor of static shape and dtype. Holds no data; compared by identity."""

    __slots__ = ("__weakref__", "index", "node")
    __array_ufunc__ = None
    __hash__ = object.__hash__

    def __init__(self, node: Node, index: int) -> None:
        self.node = node
        self.index = index

    @property
    def type(self) -> TensorType:
        return self.node.types[self.index]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.types[self.index].shape

    @property
    def dtype(self) -> DType:
        return self.node.types[self.index].dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.type.size

    @property
    def name(self) -> str | None:
        """The name given to an input or parameter."""
        return self.node.attrs.get("name")

    @property
    def explicit_name(self) -> str | None:
        """The name, if the user chose it. One that follows from a module's structure may occur more than once."""
        return None if self.node.attrs.get("implicit") else self.name

    def __repr__(self) -> str:
        label = f" {self.name!r}" if self.name else ""
        return f"<Value{label} {self.type} of {self.node.op.name}>"

    def __bool__(self) -> bool:
        raise GraphError("a Value is symbolic and has no truth value; use ft.where, or compute it first")

    def __iter__(self) -> Iterator[Value]:
        raise GraphError("a Value cannot be iterated; use ft.split, ft.unbind or indexing")

    def __len__(self) -> int:
        if not self.shape:
            raise GraphError("len() of a 0-d Value")
        return self.shape[0]

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise GraphError("a Value is symbolic and holds no data; compile the graph, or use ft.evaluate")

    def __add__(self, other: Any) -> Value:
        return call("add", self, other)

    def __radd__(self, other: Any) -> Value:
        return call("add", other, self)

    def __sub__(self, other: Any) -> Value:
        return call("sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return call("sub", other, self)

    def __mul__(self, other: Any) -> Value:
        return call("mul", self, other)

    def __rmul__(self, other: Any) -> Value:
        return call("mul", other, self)

    def __truediv__(self, other: Any) -> Value:
        return call("div", self, other)

    def __rtruediv__(self, other: Any) -> Value:
        return call("div", other, self)

    def __floordiv__(self, other: Any) -> Value:
        return call("floor_divide", self, other)

    def __rfloordiv__(self, other: Any) -> Value:
        return call("floor_divide", other, self)

    def __mod__(self, other: Any) -> Value:
        return call("remainder", self, other)

    def __rmod__(self, other: Any) -> Value:
        return call("remainder", other, self)

    def __pow__(self, other: Any) -> Value:
        return call("pow", self, other)

    def __rpow__(self, other: Any) -> Value:
        return call("pow", other, self)

    def __matmul__(self, other: Any) -> Value:
        return call("matmul", self, other)

    def __rmatmul__(self, other: Any) -> Value:
        return call("matmul", other, self)

    def __neg__(self) -> Value:
        return call("neg", self)

    def __abs__(self) -> Value:
        return call("abs", self)

    def __lt__(self, other: Any) -> Value:
        return call("less", self, other)

    def __le__(self, other: Any) -> Value:
        return call("less_equal", self, other)

    def __gt__(self, other: Any) -> Value:
        return call("greater", self, other)

    def __ge__(self, other: Any) -> Value:
        return call("greater_equal", self, other)

    def __and__(self, other: Any) -> Value:
        return call("bitwise_and", self, other)

    def __rand__(self, other: Any) -> Value:
        return call("bitwise_and", other, self)

    def __or__(self, other: Any) -> Value:
        return call("bitwise_or", self, other)

    def __ror__(self, other: Any) -> Value:
        return call("bitwise_or", other, self)

    def __xor__(self, other: Any) -> Value:
        return call("bitwise_xor", self, other)

    def __rxor__(self, other: Any) -> Value:
        return call("bitwise_xor", other, self)

    def __invert__(self) -> Value:
        return call("bitwise_not", self)

    def __lshift__(self, other: Any) -> Value:
        return call("bitwise_left_shift", self, other)

    def __rlshift__(self, other: Any) -> Value:
        return call("bitwise_left_shift", other, self)

    def __rshift__(self, other: Any) -> Value:
        return call("bitwise_right_shift", self, other)

    def __rrshift__(self, other: Any) -> Value:
        return call("bitwise_right_shift", other, self)

    def __getitem__(self, key: Any) -> Value:
        return call("getitem", self, key)

    @property
    def T(self) -> Value:
        """The transpose of a matrix (all axes reversed)."""
        return call("transpose", self)

    @property
    def mT(self) -> Value:
        """The last two axes exchanged."""
        return call("matrix_transpose", self)

    def reshape(self, *shape: Any) -> Value:
        return call("reshape", self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def transpose(self, *axes: Any) -> Value:
        return call("transpose", self, (axes[0] if len(axes) == 1 else axes) if axes else None)

    def astype(self, dtype: Any) -> Value:
        return call("cast", self, dtype)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Value:
        return call("sum", self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Value:
        return call("mean", self, axis=axis, keepdims=keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Value:
        return call("max", self, axis=axis, keepdims=keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Value:
        return call("min", self, axis=axis, keepdims=keepdims)


class derived_from:
    """Nodes made inside carry `node` as origin and its loc: used by autodiff and by passes. None: changes nothing."""

    __slots__ = ("node",)

    def __init__(self, node: Node | None) -> None:
        self.node = node

    def __enter__(self) -> None:
        if self.node is not None:
            _origin.append(self.node)

    def __exit__(self, *_: object) -> None:
        if self.node is not None:
            _origin.pop()


def make(op: Op | str, inputs: Sequence[Value], **attrs: Any) -> Node:
    """Build a node, checking it by the op's shape rule. Errors carry the op's name and the user's line."""
    op = OPS[op] if isinstance(op, str) else op
    if _origin:
        maker = _origin[-1]
        loc = maker.loc
        origin = maker.origin or maker if _autodiff_depth[0] else maker.origin
    else:
        loc, origin = user_location(), None
    given = [v.node.types[v.index] for v in inputs]
    try:
        types = op.infer(*given, **attrs)
        types = (types,) if isinstance(types, TensorType) else types
        op.check_storage((*given, *types))
    except FlameError as error:
        error.op = error.op or op.name
        error.loc = error.loc or loc
        raise
    return Node(op, inputs, attrs, types, loc, origin)


_autodiff_depth = [0]


@contextmanager
def differentiating() -> Generator[None, None, None]:
    """Nodes made inside are backward nodes: their origin is the forward node (a rewrite keeps what it finds)."""
    _autodiff_depth[0] += 1
    try:
        yield
    finally:
        _autodiff_depth[0] -= 1


def rebuild(node: Node, inputs: Sequence[Value], attrs: Attrs | None = None) -> Node:
    """The same node on other inputs of the same types: loc and origin are kept, the shape rule is not run again."""
    fresh = Node(node.op, inputs, node.attrs if attrs is None else attrs, node.types, node.loc, node.origin)
    if attrs is None:
        fresh.known_key = node.known_key
    return fresh


def inlined(node: Node, inputs: Sequence[Value], caller: Node) -> Node:
    """A copy of a node of the body that `caller` stands for; its loc says within what it was written."""
    origin = node.origin
    if origin is None and _origin:
        maker = _origin[-1]
        origin = maker.origin or maker if _autodiff_depth[0] else maker.origin
    within = f"{caller.loc.within} > {caller.op.name}" if caller.loc.within else caller.op.name
    loc = Loc(node.loc.file, node.loc.line, node.loc.function, within)
    return Node(node.op, inputs, node.attrs, node.types, loc, origin)


def attr_key(value: Any) -> Any:
    """A hashable key of an attribute that tells type and bits apart: 0.0 from -0.0, 1 from True; NaN equals itself."""
    kind = cast(type[Any], type(value))
    if kind is int or kind is str or kind is bool or value is None:
        return (kind, value)
    if kind is tuple or kind is list:
        return ("t", *[attr_key(v) for v in cast(Sequence[Any], value)])
    if isinstance(value, float):
        return ("f", struct.pack("<d", value))
    if isinstance(value, bool | int | str):
        return (kind, value)
    if isinstance(value, tuple | list):
        return ("t", *[attr_key(v) for v in cast(Sequence[Any], value)])
    if isinstance(value, np.ndarray):
        array = cast(np.ndarray[Any, Any], value)
        return ("a", array.shape, str(array.dtype), array.tobytes())
    if isinstance(value, DType):
        return ("d", value.name)
    return ("o", value)
