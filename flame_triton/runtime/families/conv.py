"""How convolutions and their gradients become launches."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ...graph.plan import KernelRef, Operand
from ...ir.node import Node, Value
from ...kernels.portable import conv_configs

if TYPE_CHECKING:
    from ..lower import KernelCall, Lowering

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class _Geometry:
    """A convolution over three spatial axes: those it lacks are sizes of 1 in front.

    x, y: spatial shapes of its input and output; c, k: channels of one group of them.
    """

    n: int
    x: Sizes
    y: Sizes
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int
    c: int
    k: int

    @property
    def depthwise(self) -> bool:
        return self.c == 1 and self.groups > 1

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def positions(self) -> int:
        """Output positions of all images."""
        return self.n * math.prod(self.y)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.n, *self.x, *self.y)

    def constexprs(self) -> dict[str, object]:
        return {"KERNEL": self.kernel, "STRIDE": self.stride, "PADDING": self.padding, "DILATION": self.dilation}

    def check_x(self) -> tuple[bool, ...]:
        """Whether some tap reads outside x, along each axis."""
        axes = zip(self.x, self.y, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple(p > 0 or (o - 1) * s - p + (r - 1) * d >= n for n, o, r, s, p, d in axes)

    def check_y(self) -> tuple[bool, ...]:
        """Whether the gradient in x may read outside dy, along each axis."""
        return tuple(r > 1 or n != o for n, o, r in zip(self.x, self.y, self.kernel, strict=True))

    def steps(self) -> dict[str, object]:
        """How the taps that reach one input position follow each other."""
        pairs = list(zip(self.stride, self.dilation, strict=True))
        step = tuple(s // math.gcd(s, d) for s, d in pairs)
        return {"STEP": step, "MOVE": tuple(-d // math.gcd(s, d) for s, d in pairs)}

    def never_empty(self) -> bool:
        """True if some tap reaches every input position."""
        axes = zip(self.stride, self.dilation, self.kernel, strict=True)
        return all(math.gcd(s, d) == 1 and s <= r for s, d, r in axes)


def _three(sizes: tuple[int, ...], fill: int = 1) -> Sizes:
    a, b, c = (fill,) * (3 - len(sizes)) + tuple(sizes)
    return a, b, c


def _geometry(call: KernelCall, x: tuple[int, ...], y: tuple[int, ...], kernel: tuple[int, ...]) -> _Geometry:
    """x, y: whole shapes of the convolution's input and output."""
    attrs = call.attrs
    groups = attrs["groups"]
    return _Geometry(
        n=x[0], x=_three(x[1:-1]), y=_three(y[1:-1]), kernel=_three(kernel), stride=_three(attrs["stride"]),
        padding=_three(tuple(low for low, _ in attrs["padding"]), 0), dilation=_three(attrs["dilation"]),
        groups=groups, c=x[-1] // groups, k=y[-1] // groups,
    )  # fmt: skip


def _strided(lowering: Lowering, value: Value) -> tuple[Operand, tuple[int, ...]]:
    """A pointer, and the strides of the batch and of three spatial axes."""
    operand, strides = lowering.strided(value)
    return operand, (strides[0], *_three(strides[1:-1], 0))


def convolution(lowering: Lowering, node: Node) -> None:
    """y; inputs: x, w."""
    call = lowering.call(node)
    x, w = call.operands
    how = _geometry(call, x.shape, call.region.inputs[0].shape, w.shape[1:-1])
    source, strides = _strided(lowering, x)
    constexprs = {**how.constexprs(), "CHECK": how.check_x()}
    _emit_gather(lowering, call, "forward", how, (source, lowering.operand(w)), strides, constexprs)


def convolution_dgrad(lowering: Lowering, node: Node) -> None:
    """dx; inputs: dy, w."""
    call = lowering.call(node)
    dy, w = call.operands
    how = _geometry(call, call.region.inputs[0].shape, dy.shape, w.shape[1:-1])
    source, strides = _strided(lowering, dy)
    constexprs = {**how.constexprs(), **how.steps(), "CHECK": how.check_y()}
    _emit_gather(lowering, call, "dgrad", how, (source, lowering.operand(w)), strides, constexprs)


def _emit_gather(
    lowering: Lowering, call: KernelCall, kind: str, how: _Geometry, operands: tuple[Operand, Operand],
    strides: tuple[int, ...], constexprs: dict[str, object],
) -> None:  # fmt: skip
    """Launch forward or dgrad, which gather for each of their rows."""
    dtype = call.operands[0].dtype.name
    remainders = math.prod(how.stride) if kind == "dgrad" else 1
    rows = how.positions
    if kind == "dgrad":
        rows = how.n * math.prod(-(-n // s) for n, s in zip(how.x, how.stride, strict=True))
    if how.depthwise:
        columns = how.groups * (how.k if kind == "forward" else 1)
        direct = _direct(lowering, call, kind, how, rows, columns)
        grid = (-(-rows // direct.BLOCK_M) * -(-columns // direct.BLOCK_N) * remainders,)
        constexprs |= {"K": how.k, "BLOCK_M": direct.BLOCK_M, "BLOCK_N": direct.BLOCK_N}
        sizes = (*how.sizes, how.groups, *strides)
        lowering.emit_call(
            call, KernelRef("flame_triton.kernels.portable.depthwise", f"depthwise_{kind}"), grid,
            lambda ptrs: (*operands, ptrs, *sizes), constexprs, {"num_warps": direct.num_warps}, _LABEL[kind],
        )  # fmt: skip
        return
    columns, inner = (how.k, how.c) if kind == "forward" else (how.c, how.k)
    problem = conv_configs.Problem(
        kind, how.groups * remainders, rows, columns, inner, how.taps, dtype, remainders
    )  # fmt: skip
    config = _config(lowering, call, problem, how)
    constexprs |= {"EVEN_C": config.even_c(inner), **_tiles(config)}
    if kind == "dgrad":
        constexprs["NEVER_EMPTY"] = how.never_empty()
    sizes = (*how.sizes, how.c, how.k, *strides)
    lowering.emit_call(
        call, KernelRef("flame_triton.kernels.portable.conv", kind), conv_configs.grid(problem, config),
        lambda ptrs: (*operands, ptrs, *sizes), constexprs, _options(config), _LABEL[kind],
    )  # fmt: skip


def convolution_wgrad(lowering: Lowering, node: Node) -> None:
    """dw, or its parts; inputs: x, dy."""
    call = lowering.call(node)
    x, dy = call.operands
    how = _geometry(call, x.shape, dy.shape, call.attrs["window"])
    (first, x_strides), (second, y_strides) = _strided(lowering, x), _strided(lowering, dy)
    parts: int = call.attrs.get("parts", 1)
    piece = -(-how.positions // parts)
    constexprs = {**how.constexprs(), "CHECK": how.check_x()}
    if how.depthwise:
        columns = how.groups * how.k
        direct = _direct(lowering, call, "wgrad", how, piece, columns)
        grid = (parts * how.taps * -(-columns // direct.BLOCK_N),)
        constexprs |= {"K": how.k, "BLOCK_M": direct.BLOCK_M, "BLOCK_N": direct.BLOCK_N}
        sizes = (*how.sizes, how.groups, piece, *x_strides, *y_strides)
        lowering.emit_call(
            call, KernelRef("flame_triton.kernels.portable.depthwise", "depthwise_wgrad"), grid,
            lambda ptrs: (first, second, ptrs, *sizes), constexprs, {"num_warps": direct.num_warps}, _LABEL["wgrad"],
        )  # fmt: skip
        return
    problem = conv_configs.Problem("wgrad", how.groups * parts, how.k, how.c, piece, how.taps, x.dtype.name)
    config = _config(lowering, call, problem, how)
    constexprs |= {"GROUPS": how.groups, **_tiles(config)}
    sizes = (*how.sizes, how.c, how.k, piece, *x_strides, *y_strides)
    lowering.emit_call(
        call, KernelRef("flame_triton.kernels.portable.conv", "wgrad"), conv_configs.grid(problem, config),
        lambda ptrs: (first, second, ptrs, *sizes), constexprs, _options(config), _LABEL["wgrad"],
    )  # fmt: skip


def _config(lowering: Lowering, call: KernelCall, problem: conv_configs.Problem, how: _Geometry) -> conv_configs.Config:
    target = lowering.target
    return lowering.choose(
        call.node, "convolution", {**asdict(problem), **_facts(lowering, call, how)},
        lambda: conv_configs.candidates(problem, target.arch),
        lambda: conv_configs.heuristic(problem, target.interpreted, target.arch),
    )  # fmt: skip


def _direct(
    lowering: Lowering, call: KernelCall, kind: str, how: _Geometry, rows: int, columns: int
) -> conv_configs.DirectConfig:
    facts = {"kind": kind, "rows": rows, "dtype": call.operands[0].dtype.name, **_facts(lowering, call, how)}
    return lowering.choose(
        call.node, "depthwise", facts,
        lambda: conv_configs.direct_candidates(rows, columns),
        lambda: conv_configs.direct_heuristic(rows, columns, lowering.target.interpreted),
    )  # fmt: skip


def _facts(lowering: Lowering, call: KernelCall, how: _Geometry) -> dict[str, object]:
    return {"geometry": asdict(how), "epilogue": lowering.epilogue_digest(call)}


def _tiles(config: conv_configs.Config) -> dict[str, object]:
    return {
        "INPUT_PRECISION": "ieee",
        "BLOCK_M": config.BLOCK_M,
        "BLOCK_N": config.BLOCK_N,
        "BLOCK_K": config.BLOCK_K,
        "GROUP_M": config.GROUP_M,
        "FLAT": config.FLAT,
    }


def _options(config: conv_configs.Config) -> dict[str, int]:
    return {"num_warps": config.num_warps, "num_stages": config.num_stages}


_LABEL = {"forward": "conv", "dgrad": "conv dgrad", "wgrad": "conv wgrad"}

FAMILIES = {
    "convolution": convolution,
    "convolution_dgrad": convolution_dgrad,
    "convolution_wgrad": convolution_wgrad,
}
