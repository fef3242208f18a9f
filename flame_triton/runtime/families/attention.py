"""How attention and its gradients become launches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...graph.plan import Argument, KernelRef, Operand
from ...ir.node import Node, Value
from ...kernels.portable import attention_configs
from ...kernels.portable.attention_configs import Config, Problem

if TYPE_CHECKING:
    from ..lower import Lowering

_FORWARD = KernelRef("flame_triton.kernels.portable.attention", "attention_forward")
_BACKWARD = "flame_triton.kernels.portable.attention_backward"


def attention(lowering: Lowering, node: Node) -> None:
    """o and lse; inputs: q, k, v, extras."""
    problem = _problem(node)
    config = attention_configs.heuristic(problem, "forward", lowering.target.interpreted)
    args = [*(_tensor(lowering, x) for x in node.inputs[:3]), *(_result(lowering, v) for v in node.outputs)]
    _emit(
        lowering, node, _FORWARD, attention_configs.grid(problem, config, "forward"), args,
        (problem.batch * problem.heads, problem.heads, problem.L, problem.S), config, node.outputs,
    )  # fmt: skip


def attention_backward(lowering: Lowering, node: Node) -> None:
    """dq, dk and dv; inputs: q, k, v, g, lse, delta, extras."""
    problem = _problem(node)
    dq, dk, dv = node.outputs
    inputs = _operands(lowering, node)
    for kernel, results, heads in (("keys", (dk, dv), problem.kv_heads), ("queries", (dq,), problem.heads)):
        config = attention_configs.heuristic(problem, kernel, lowering.target.interpreted)
        _emit(
            lowering, node, KernelRef(_BACKWARD, f"attention_backward_{kernel}"),
            attention_configs.grid(problem, config, kernel), [*inputs, *(_result(lowering, v) for v in results)],
            (problem.batch * heads, problem.heads, problem.L, problem.S), config, results,
        )  # fmt: skip


def attention_bias_backward(lowering: Lowering, node: Node) -> None:
    """dbias; inputs as those of attention_backward."""
    problem = _problem(node)
    config = attention_configs.heuristic(problem, "bias", lowering.target.interpreted)
    shape = node.type.shape
    samples, sharing = (1 if shape[i] > 1 else n for i, n in enumerate((problem.batch, problem.heads)))
    _emit(
        lowering, node, KernelRef(_BACKWARD, "attention_backward_bias"),
        attention_configs.bias_grid(problem, config, shape),
        [*_operands(lowering, node), _result(lowering, node.out)],
        (shape[1], samples, sharing, problem.heads, problem.L, problem.S), config, node.outputs,
        {"SUM_M": shape[2] == 1, "SUM_N": shape[3] == 1},
    )  # fmt: skip


def _problem(node: Node) -> Problem:
    q, k, v = node.inputs[:3]
    (batch, heads, rows, width), (_, kv_heads, keys, _) = q.shape, k.shape
    return Problem(batch, heads, kv_heads, rows, keys, width, v.shape[-1], q.dtype.name)


def _operands(lowering: Lowering, node: Node) -> list[Argument]:
    """q, k, v, g with the head before the row, lse and delta."""
    q, k, v, g, lse, delta = node.inputs[:6]
    pointer, (b, m, h) = _tensor(lowering, g)[0], _tensor(lowering, g)[1:]
    return [
        *(_tensor(lowering, x) for x in (q, k, v)),
        (pointer, b, h, m),
        *(_whole(lowering, x) for x in (lse, delta)),
    ]


def _whole(lowering: Lowering, value: Value) -> tuple[Any, ...]:
    """(pointer, strides), 0 along axes of size 1."""
    operand, strides = lowering.strided(value)
    return operand, *(0 if d == 1 else s for d, s in zip(value.shape, strides, strict=True))


def _tensor(lowering: Lowering, value: Value) -> tuple[Any, ...]:
    """(pointer, strides) without the last, which is 1."""
    return _whole(lowering, value)[:-1]


def _result(lowering: Lowering, value: Value) -> Operand:
    return Operand(lowering.slots[value], value.dtype)


def _emit(
    lowering: Lowering,
    node: Node,
    kernel: KernelRef,
    grid: tuple[int, ...],
    args: list[Argument],
    sizes: tuple[int, ...],
    config: Config,
    results: tuple[Value, ...],
    extra: Mapping[str, object] | None = None,
) -> None:
    """One launch: the kernel's own arguments, then extras, band and sizes."""
    problem = _problem(node)
    attrs = node.attrs
    names: tuple[str, ...] = attrs["extras"]
    given = dict(zip(names, node.inputs[len(node.inputs) - len(names) :], strict=True))
    found = {name: _whole(lowering, value) for name, value in given.items()}
    dropout = (found["seed"][0], found["step"][0], attrs["stream"]) if "seed" in found else ()
    low, high = attrs["band"]
    band = 0 if low is None and high is None else 1 if low is None else 2
    masks = [found.get(name, ()) for name in ("lengths", "bias", "mask")]
    far = problem.L + problem.S  # a bound that excludes nothing
    constexprs = {
        "SCALE": attrs["scale"],
        "P": attrs["dropout"],
        "E": problem.E,
        "EV": problem.EV,
        "GROUP": problem.heads // problem.kv_heads,
        "HAS_LENGTHS": "lengths" in found,
        "HAS_BIAS": "bias" in found,
        "HAS_MASK": "mask" in found,
        "BAND": band,
        "PRECISION": "ieee",
        "BLOCK_B": config.BLOCK_B,
        "BLOCK_M": config.BLOCK_M,
        "BLOCK_N": config.BLOCK_N,
        "BLOCK_E": problem.block_e,
        "BLOCK_V": problem.block_v,
        **(extra or {}),
    }
    if extra is not None:
        del constexprs["HAS_BIAS"], constexprs["BLOCK_B"]
    lowering.emit(
        node, kernel, grid,
        [*args, *masks, dropout, low or 0, far if high is None else high, *sizes],
        constexprs, {"num_warps": config.num_warps, "num_stages": config.num_stages},
        [lowering.slot(v) for v in node.inputs], [lowering.slots[v] for v in results], kernel.name,
    )  # fmt: skip


FAMILIES = {
    "attention": attention,
    "attention_backward": attention_backward,
    "attention_bias_backward": attention_bias_backward,
}
