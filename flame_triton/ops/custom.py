"""`ft.custom_op`: a user's own Triton kernel as an op of the graph.

The kernel is held as an opaque object, or by name: this module imports no triton. What the runtime needs to launch it
stands in the op's lowering, a `CustomKernel`.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..errors import ArgumentError, FlameError, GraphError, ShapeError
from ..ir.location import Loc, user_location
from ..ir.node import Node, Value, make
from ..ir.op import OPS, Kernel, Op, call
from ..types import TensorType
from .define import Operand, as_value
from .users import Calls, enter

__all__ = ["custom_op"]

Config: TypeAlias = Mapping[str, Any]
"""Constexpr arguments of the kernel by name, and compile options (OPTIONS)."""

OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg", "enable_fp_fusion")
"""What a configuration may hold besides the kernel's own parameters."""

CUSTOM: dict[str, CustomOp] = {}
"""Every custom op by name."""


@dataclass(frozen=True)
class Problem:
    """One use of a custom op, for `args`, `grid`, `valid` and `heuristic`.

    inputs, outputs: the types of operands and results, all dense and row-major; attrs: the call's keyword arguments.
    arch: compute capability times ten; interpreted: the kernel runs in Triton's interpreter, where a launch costs about
    2 ms and each program more than its elements, so that few large blocks are best.
    """

    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    attrs: Mapping[str, Any]
    arch: int
    interpreted: bool

    @property
    def out(self) -> TensorType:
        """The first result."""
        return self.outputs[0]


@dataclass(frozen=True)
class CustomKernel(Kernel):
    """The lowering of a custom op. kernel: the Triton function, or "module:function"; digest: of its source and that of
    the functions that it calls; see `custom_op` for the others."""

    kernel: Any = None
    digest: str = ""
    grid: Callable[..., Any] = field(default=lambda problem, config: (1,))
    args: Callable[[Problem], Mapping[str, Any]] = field(default=lambda problem: {})
    configs: Sequence[Config] = ({},)
    valid: Callable[[Problem, Config], bool] = field(default=lambda problem, config: True)
    heuristic: Callable[[Problem], Config] | None = None

    def config(self, problem: Problem) -> Config:
        """The configuration to use. Raises ArgumentError if none fits."""
        if self.heuristic is not None:
            return self.heuristic(problem)
        found = next((c for c in self.configs if self.valid(problem, c)), None)
        if found is None:
            shapes = ", ".join(map(str, problem.inputs))
            raise ArgumentError(f"none of the {len(self.configs)} configurations is valid for {shapes}")
        return found


class CustomOp:
    """The function that `ft.custom_op` returns: Values and arrays to a Value, or a tuple if the op has several results.

    Static arguments are given by keyword; `infer`, `ref` and `vjp` see them.
    """

    def __init__(self, op: Op, signature: inspect.Signature, loc: Loc) -> None:
        self.op = op
        self.name = self.__name__ = op.name
        self.loc = loc
        self.__doc__ = op.doc
        self._signature = signature

    def __repr__(self) -> str:
        return f"<custom op {self.name}>"

    def __call__(self, *operands: Operand, **attrs: Any) -> Any:
        try:
            self._check(len(operands), attrs)
            outputs = make(self.op, [as_value(x) for x in operands], **attrs).outputs
        except FlameError as error:
            error.op = error.op or self.name
            error.loc = error.loc or user_location()
            raise
        return outputs[0] if len(outputs) == 1 else outputs

    def _check(self, count: int, attrs: Mapping[str, Any]) -> None:
        """Raises ArgumentError for a call that the shape rule has no parameters for."""
        try:
            self._signature.bind(*range(count), **attrs)
        except TypeError as error:
            raise ArgumentError(
                f"takes {self._signature}, as its shape rule does; got {count} operands"
                + (f" and {', '.join(attrs)}" if attrs else "")
                + f": {error}"
            ) from None


def custom_op(
    name: str,
    *,
    infer: Callable[..., TensorType | Sequence[TensorType]],
    kernel: Any,
    grid: Callable[[Problem, Config], int | Sequence[int]],
    args: Callable[[Problem], Mapping[str, Any]] | None = None,
    ref: Callable[..., Any] | None = None,
    vjp: Callable[..., Any] | None = None,
    configs: Sequence[Config] = (),
    valid: Callable[[Problem, Config], bool] | None = None,
    heuristic: Callable[[Problem], Config] | None = None,
    samples: Calls = None,
    doc: str = "",
) -> CustomOp:
    """A Triton kernel of your own as an op: a function on Values, evaluated, compiled and differentiated like ours.

    infer(*types, **attrs): the shape rule, from TensorTypes (`.shape`, `.dtype`) to one or several of them. Its
        parameters are the op's: operands by position, static arguments by keyword. It may raise ft.errors.ShapeError.
    kernel: the `@triton.jit` function, or "module:function". Its parameters are matched by name: what `args` or the
        configuration holds, and, in this order, a pointer for each operand and each result. All are dense, row-major.
        The kernel must write every element of every result; scratch memory is one more result that nobody reads.
    grid(problem, config): how many programs run, up to three axes.
    args(problem): the kernel's other arguments by name: run-time numbers, and constexprs that follow from the problem.
    ref(*arrays, **attrs): the same in NumPy, in the dtype of the arrays; the op's meaning, which the kernel is checked
        against and which the oracle and the reference device run. Without it the op runs through its kernel alone.
    vjp(node, *cotangents): a cotangent Value or None for each operand (or the only one), built from `node.inputs`,
        `node.outputs`, `node.attrs`; or another custom op, which is called with the operands and the cotangents, and
        has a result for each floating operand. Without it the op cannot be differentiated.
    configs: what the kernel can be compiled with: dicts of constexprs and of num_warps, num_stages, num_ctas, maxnreg,
        enable_fp_fusion. valid(problem, config): whether one may be used; the first valid one is. heuristic(problem):
        the configuration to use instead.
    samples: calls for `flame-triton check MODULE`: tuples of arguments in which a tuple of ints is a shape, or
        ft.testing.Sample.

    Raises GraphError if the name is taken, ArgumentError if a definition does not hold together.
    """
    loc = user_location()
    if name in OPS or (name in CUSTOM and CUSTOM[name].loc != loc):
        raise GraphError("an op of this name exists already; choose another", op=name, loc=loc)
    if not name.isidentifier():
        raise ArgumentError(f"the name of an op must be an identifier, got {name!r}", op="custom_op", loc=loc)
    if isinstance(kernel, str):
        if kernel.count(":") != 1:
            raise ArgumentError(f'a kernel is named as "module:function", got {kernel!r}', op=name, loc=loc)
    elif not hasattr(kernel, "arg_names") or not hasattr(kernel, "fn"):
        raise ArgumentError(f"kernel must be decorated with @triton.jit, got {kernel!r}", op=name, loc=loc)
    given = {"grid": grid, "args": args, "valid": valid, "heuristic": heuristic}
    lowering = CustomKernel(
        "custom", kernel=kernel, digest=_digest(kernel), configs=tuple(configs) or ({},),
        **{k: v for k, v in given.items() if v is not None},
    )  # fmt: skip
    op = Op(name, _types(infer), lowering, _reference(name, ref), _gradient(name, vjp), doc=doc, stores=True)
    made = CUSTOM[name] = CustomOp(op, _signature(infer), loc)
    if samples is not None:
        enter(made, infer.__module__, name, samples)
    return made


def _signature(infer: Callable[..., Any]) -> inspect.Signature:
    """The shape rule's parameters without their types."""
    found = inspect.signature(infer)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    return found.replace(parameters=plain, return_annotation=inspect.Signature.empty)


def _types(infer: Callable[..., Any]) -> Callable[..., tuple[TensorType, ...]]:
    """The shape rule, its result checked."""

    def checked(*types: TensorType, **attrs: Any) -> tuple[TensorType, ...]:
        found = infer(*types, **attrs)
        results = (found,) if isinstance(found, TensorType) else tuple(found) if isinstance(found, list | tuple) else ()
        if not results or not all(isinstance(t, TensorType) for t in results):
            raise ArgumentError(f"infer must give a TensorType or several, got {found!r}")
        return results

    return checked


def _reference(name: str, ref: Callable[..., Any] | None) -> Callable[..., Any]:
    """The reference; a missing one says so when it is needed."""
    if ref is not None:
        return ref

    def missing(*_: Any, **__: Any) -> Any:
        raise GraphError("has no ref=, so that it cannot be evaluated in NumPy; only its kernel can run", op=name)

    return missing


def _gradient(name: str, vjp: Callable[..., Any] | None) -> Callable[..., Sequence[Value | None]] | None:
    """The gradient rule in the form of `Op.vjp`: every cotangent given, a cotangent or None for every operand."""
    if vjp is None:
        return None

    def rule(node: Node, *cotangents: Value | None) -> list[Value | None]:
        whole = [
            call("zeros", t.shape, t.dtype.gradient) if g is None and t.dtype.is_float else g
            for g, t in zip(cotangents, node.types, strict=True)
        ]
        if not isinstance(vjp, CustomOp):
            found = vjp(node, *whole)
            return [found] if isinstance(found, Value) else list(found)
        found = vjp(*node.inputs, *(g for g in whole if g is not None))
        results = iter((found,) if isinstance(found, Value) else found)
        return list(_distributed(name, vjp, node, results))

    return rule


def _distributed(name: str, vjp: CustomOp, node: Node, results: Iterator[Value]) -> Iterator[Value | None]:
    """One result of the backward op for each floating operand, in order."""
    wanted = sum(v.dtype.is_float for v in node.inputs)
    found = list(results)
    if len(found) != wanted:
        raise ShapeError(f"its backward op {vjp.name} has {len(found)} results for {wanted} floating operands", op=name)
    left = iter(found)
    for v in node.inputs:
        yield next(left) if v.dtype.is_float else None


def _digest(kernel: Any) -> str:
    """A hash of the source of a kernel and of all Triton functions that it calls by name; "" for one known by name."""
    if isinstance(kernel, str):
        return ""
    seen: dict[int, str] = {}
    stack = [kernel]
    while stack:
        function = stack.pop().fn
        if id(function) in seen:
            continue
        try:
            seen[id(function)] = inspect.getsource(function)
        except (OSError, TypeError):
            seen[id(function)] = repr(function.__code__.co_code) + repr(function.__code__.co_consts)
        values = [function.__globals__.get(n) for n in function.__code__.co_names]
        values += [c.cell_contents for c in function.__closure__ or () if c.cell_contents is not None]
        stack += [v for v in values if hasattr(v, "fn") and hasattr(v, "arg_names")]
    return hashlib.sha256("\0".join(sorted(seen.values())).encode()).hexdigest()[:16]
