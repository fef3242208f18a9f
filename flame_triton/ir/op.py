"""What an op is: its rules, its kind of lowering, and the registry that knows all of them.

Passes dispatch on the kind of lowering, never on a name:

    Leaf        inputs, parameters, constants held in memory
    Pointwise   one Triton expression per element; operands all have the result's shape
    Generator   a value computed from its own logical index (arange, Philox draws); scalar operands only
    View        no arithmetic: an index map over the one operand
    Reduce      combines elements along the trailing axes it names
    Kernel      a hand-written kernel family, named by string
    Composite   defined by a graph of other ops; `decompose` expands it
    Fused       a Region made by the fusion pass
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import DTypeError, GraphError
from ..types import TensorType, storage_only

if TYPE_CHECKING:
    from .index_map import IndexMap
    from .node import Node, Value

Attrs: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Leaf:
    pass


@dataclass(frozen=True)
class Pointwise:
    """expr: a Triton expression with {0}, {1}, ... for operands and {name} for attributes; or a function of the node
    that gives one. Operands arrive in the compute type (float32 for 16-bit floats); the result is rounded to the
    node's own type afterwards. cost: about how many simple instructions one element takes."""

    expr: str | Callable[[Node], str]
    cost: int = 1

    def render(self, node: Node) -> str:
        return self.expr if isinstance(self.expr, str) else self.expr(node)


@dataclass(frozen=True)
class Generator:
    """expr: like Pointwise's, with {index} for the row-major index of the element within the value's shape and {stream}
    for the attribute of that name, which reaches the kernel as a run-time argument."""

    expr: str | Callable[[Node], str]
    cost: int = 1

    def render(self, node: Node) -> str:
        return self.expr if isinstance(self.expr, str) else self.expr(node)


@dataclass(frozen=True)
class View:
    """map: from the node to the IndexMap of its result over its operand's elements. A masked element reads the node's
    `fill` attribute.

    role: how the view stands to a permutation of its operand's axes: "permute" (it is one, by its `axes`), "reshape",
    "axiswise" (each axis for itself; the attributes named in per_axis have one entry an axis), or "" (nothing known).
    """

    map: Callable[[Node], IndexMap]
    role: str = ""
    per_axis: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reduce:
    """kind: "sum", "max", "min", "prod", "any", "all", "argmax", "argmin". The node's `axes` are kept with size 1."""

    kind: str


@dataclass(frozen=True)
class Kernel:
    """family: a name in kernels/; the runtime knows its contract.

    takes: how each operand may lie in memory (the last word holds for all that follow); fusion makes a listed copy of
    what does not:
        "dense"    row-major, reshaped at most
        "matrix"   one strided view with unit stride in one of its last two axes and a regular batch
        "strided"  one strided view with unit stride in the last axis
        "any"      one strided view, stride 0 included
    epilogue: the kernel ends in a call with its accumulator, and pointwise readers of its only result may join it.
    sums: its epilogue may sum columns over every SUM_ROWS rows (graph/plan.py): its tiles are whole multiples high.
    orders: the order of its result's axes is worth keeping in what is computed from it (see graph/placement.py).
    """

    family: str
    takes: tuple[str, ...] = ("dense",)
    epilogue: bool = False
    sums: bool = False
    orders: bool = False

    def layout(self, position: int) -> str:
        """How operand `position` may lie in memory."""
        return self.takes[min(position, len(self.takes) - 1)]


@dataclass(frozen=True)
class Composite:
    """build: from the node to the Values (one per output) that compute the same from other ops.

    body: the node's attribute `body` is a Graph that defines it, and evaluating it is evaluating that graph."""

    build: Callable[[Node], Value | Sequence[Value]]
    body: bool = False


@dataclass(frozen=True)
class Fused:
    """kind: "pointwise" or "row"; the node's `region` attribute holds the Graph."""

    kind: str


Lowering: TypeAlias = Leaf | Pointwise | Generator | View | Reduce | Kernel | Composite | Fused


@dataclass(frozen=True)
class Sample:
    """One call of an op's public function, for the tests that the registry drives.

    args: NumPy arrays (they become inputs, also inside lists and tuples) and plain Python values, in order; kwargs:
    keyword arguments, alike.
    grad: indices of the args to differentiate; None means every float array.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    grad: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Op:
    """One op: everything that is to be known about it, in one place.

    infer(*types, **attrs)     -> TensorType or a tuple of them; raises ShapeError / DTypeError
    ref(*arrays, **attrs)      -> NumPy result(s), computed in the arrays' own dtype; the semantics of the op
    vjp(node, *cotangents)     -> a cotangent Value or None per input; None instead of a function: no gradient
    simplify(node)             -> an equal, simpler Value, or None
    samples()                  -> calls of `function`, the public function, for tests; empty for internal ops
    unique: nodes are never merged (inputs, parameters, random draws)
    residual: indices of inputs that are saved results of the forward op, and so get no cotangent
    stores: takes and gives 8-bit floats, which other ops than leaves and views refuse
    """

    name: str
    infer: Callable[..., TensorType | tuple[TensorType, ...]]
    lowering: Lowering
    ref: Callable[..., Any]
    vjp: Callable[..., Sequence[Value | None]] | None = None
    simplify: Callable[[Node], Value | None] | None = None
    samples: Callable[[], Sequence[Sample]] | None = None
    function: Callable[..., Any] | None = None
    unique: bool = False
    residual: tuple[int, ...] = ()
    doc: str = ""
    stores: bool = False

    def check_storage(self, types: Sequence[TensorType]) -> None:
        """Raises DTypeError if one of the types only stores values and this op does more with them than move them."""
        if self.stores or isinstance(self.lowering, Leaf | View):
            return
        for t in types:
            if t.dtype.is_storage:
                raise DTypeError(storage_only(t.dtype))

    def __repr__(self) -> str:
        return f"Op({self.name})"


OPS: dict[str, Op] = {}
PUBLIC: dict[str, Callable[..., Any]] = {}


def register(op: Op) -> Op:
    """Enter an op; its name must be new."""
    if op.name in OPS:
        raise GraphError(f"an op named {op.name!r} is registered already")
    OPS[op.name] = op
    return op


def public(function: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
    """Enter a user-facing function under its name, so that Value's operators and gradient rules find it."""
    PUBLIC[name or function.__name__] = function
    return function


def call(name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call the public function `name`: how code below ops/ builds nodes."""
    return PUBLIC[name](*args, **kwargs)
