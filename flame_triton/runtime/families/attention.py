"""How attention and its gradients become launches: of the portable kernels, or of Hopper's where they serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...graph.plan import Argument, KernelRef, Operand
from ...ir.node import Node, Value
from ...kernels.hopper import attention_configs as hopper_configs
from ...kernels.hopper.attention_configs import HopperForward
from ...kernels.portable import attention_configs
from ...kernels.portable.attention_configs import Config
from . import hopper_attention
from .attention_call import Call

if TYPE_CHECKING:
    from ..lower import Lowering

_FORWARD = KernelRef("flame_triton.kernels.portable.attention", "attention_forward")
_BACKWARD = "flame_triton.kernels.portable.attention_backward"


def attention(lowering: Lowering, node: Node) -> None:
    """o and lse; inputs: q, k, v, extras."""
    call = Call(lowering, node)
    problem, target = call.problem, lowering.target
    hopper = hopper_attention.serves(call) and hopper_configs.serves_forward(problem)
    uneven = hopper_attention.uneven(call)

    def candidates() -> list[Config | HopperForward]:
        portable = attention_configs.candidates(problem, "forward", target.arch)
        if not hopper:
            return [*portable]
        return [*hopper_configs.forward_configs(problem, uneven, target.processors), *portable[:4]]

    def heuristic() -> Config | HopperForward:
        if hopper and hopper_attention.large(problem):
            return hopper_configs.forward_heuristic(problem, uneven, target.processors)
        return attention_configs.heuristic(problem, "forward", target.interpreted, target.arch)

    config = lowering.choose(node, "attention", {**call.facts("forward"), "hopper": hopper}, candidates, heuristic)
    if isinstance(config, HopperForward):
        hopper_attention.forward(call, config)
        return
    _emit(
        call, _FORWARD, attention_configs.grid(problem, config, "forward"), [call.tensor(x) for x in node.inputs[:3]],
        node.outputs, (problem.batch * problem.heads,), config, _constants(call, config),
    )  # fmt: skip


def attention_backward(lowering: Lowering, node: Node) -> None:
    """dq, dk and dv; inputs: q, k, v, g, lse, delta, extras."""
    call = Call(lowering, node)
    problem = call.problem
    if hopper_attention.serves(call) and hopper_configs.serves_backward(problem) and hopper_attention.large(problem):
        hopper_attention.backward(call)
        return
    dq, dk, dv = node.outputs
    for kernel, results, heads in (("keys", (dk, dv), problem.kv_heads), ("queries", (dq,), problem.heads)):
        config = _config(call, kernel)
        _emit(
            call, KernelRef(_BACKWARD, f"attention_backward_{kernel}"),
            attention_configs.grid(problem, config, kernel), call.saved(), results, (problem.batch * heads,), config,
            _constants(call, config),
        )  # fmt: skip


def attention_bias_backward(lowering: Lowering, node: Node) -> None:
    """dbias; inputs as those of attention_backward."""
    call = Call(lowering, node)
    problem, shape = call.problem, node.type.shape
    config = _config(call, "bias")
    samples, sharing = (1 if shape[i] > 1 else n for i, n in enumerate((problem.batch, problem.heads)))
    constants = {k: c for k, c in _constants(call, config).items() if k not in ("HAS_BIAS", "BLOCK_B")}
    _emit(
        call, KernelRef(_BACKWARD, "attention_backward_bias"), attention_configs.bias_grid(problem, config, shape),
        call.saved(), node.outputs, (shape[1], samples, sharing), config,
        constants | {"SUM_M": shape[2] == 1, "SUM_N": shape[3] == 1},
    )  # fmt: skip


def _config(call: Call, kernel: str) -> Config:
    """The tiles of one of the portable kernels."""
    problem, target = call.problem, call.lowering.target
    return call.lowering.choose(
        call.node, "attention", call.facts(kernel),
        lambda: attention_configs.candidates(problem, kernel, target.arch),
        lambda: attention_configs.heuristic(problem, kernel, target.interpreted, target.arch),
    )  # fmt: skip


def _constants(call: Call, config: Config) -> dict[str, object]:
    """The compile-time arguments."""
    problem, attrs = call.problem, call.node.attrs
    return {
        "SCALE": attrs["scale"],
        "P": attrs["dropout"],
        "E": problem.E,
        "EV": problem.EV,
        "GROUP": problem.heads // problem.kv_heads,
        "HAS_LENGTHS": "lengths" in call.extras,
        "HAS_BIAS": "bias" in call.extras,
        "HAS_MASK": "mask" in call.extras,
        "BAND": call.band,
        "PRECISION": "ieee",
        "BLOCK_B": config.BLOCK_B,
        "BLOCK_M": config.BLOCK_M,
        "BLOCK_N": config.BLOCK_N,
        "BLOCK_E": problem.block_e,
        "BLOCK_V": problem.block_v,
    }


def _emit(
    call: Call,
    kernel: KernelRef,
    grid: tuple[int, ...],
    operands: Sequence[Argument],
    results: Sequence[Value],
    counts: tuple[int, ...],
    config: Config,
    constants: dict[str, object],
) -> None:
    """One launch: operands, results, masks, dropout, band, counts and sizes."""
    lowering, node, problem, extras = call.lowering, call.node, call.problem, call.extras
    slots = [lowering.slots[v] for v in results]
    pointers = [Operand(slot, v.dtype) for slot, v in zip(slots, results, strict=True)]
    masks = [extras.get(name, ()) for name in ("lengths", "bias", "mask")]
    dropout = (extras["seed"][0], extras["step"][0], node.attrs["stream"]) if "seed" in extras else ()
    lowering.emit(
        node, kernel, grid,
        [*operands, *pointers, *masks, dropout, *call.bounds, *counts, problem.heads, problem.L, problem.S], constants,
        {"num_warps": config.num_warps, "num_stages": config.num_stages},
        [lowering.slot(v) for v in node.inputs], slots, kernel.name,
    )  # fmt: skip


FAMILIES = {
    "attention": attention,
    "attention_backward": attention_backward,
    "attention_bias_backward": attention_bias_backward,
}
