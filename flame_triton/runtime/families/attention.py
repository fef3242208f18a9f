"""How attention and its gradients become launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
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
    call = _Call(lowering, node)
    problem = call.problem
    config = call.config("forward")
    call.emit(
        _FORWARD, attention_configs.grid(problem, config, "forward"), [call.tensor(x) for x in node.inputs[:3]],
        node.outputs, (problem.batch * problem.heads,), config, call.constants(config),
    )  # fmt: skip


def attention_backward(lowering: Lowering, node: Node) -> None:
    """dq, dk and dv; inputs: q, k, v, g, lse, delta, extras."""
    call = _Call(lowering, node)
    problem = call.problem
    dq, dk, dv = node.outputs
    for kernel, results, heads in (("keys", (dk, dv), problem.kv_heads), ("queries", (dq,), problem.heads)):
        config = call.config(kernel)
        call.emit(
            KernelRef(_BACKWARD, f"attention_backward_{kernel}"), attention_configs.grid(problem, config, kernel),
            call.saved(), results, (problem.batch * heads,), config, call.constants(config),
        )  # fmt: skip


def attention_bias_backward(lowering: Lowering, node: Node) -> None:
    """dbias; inputs as those of attention_backward."""
    call = _Call(lowering, node)
    problem, shape = call.problem, node.type.shape
    config = call.config("bias")
    samples, sharing = (1 if shape[i] > 1 else n for i, n in enumerate((problem.batch, problem.heads)))
    constants = {k: c for k, c in call.constants(config).items() if k not in ("HAS_BIAS", "BLOCK_B")}
    call.emit(
        KernelRef(_BACKWARD, "attention_backward_bias"), attention_configs.bias_grid(problem, config, shape),
        call.saved(), node.outputs, (shape[1], samples, sharing), config,
        constants | {"SUM_M": shape[2] == 1, "SUM_N": shape[3] == 1},
    )  # fmt: skip


class _Call:
    """One attention node on its way to launches: its sizes, and its operands as the kernels take them."""

    def __init__(self, lowering: Lowering, node: Node) -> None:
        self.lowering, self.node = lowering, node
        q, k, v = node.inputs[:3]
        (batch, heads, rows, width), (_, kv_heads, keys, _) = q.shape, k.shape
        self.problem = Problem(batch, heads, kv_heads, rows, keys, width, v.shape[-1], q.dtype.name)
        names: Sequence[str] = node.attrs["extras"]
        given = zip(names, node.inputs[len(node.inputs) - len(names) :], strict=True)
        self.extras = {name: self.whole(value) for name, value in given}

    def config(self, kernel: str) -> Config:
        """The tiles of one of the kernels."""
        problem, target, attrs = self.problem, self.lowering.target, self.node.attrs
        facts = {
            **asdict(problem), "kernel": kernel, "band": attrs["band"], "extras": sorted(self.extras),
            "dropout": attrs["dropout"] > 0,
        }  # fmt: skip
        return self.lowering.choose(
            self.node, "attention", facts,
            lambda: attention_configs.candidates(problem, kernel, target.arch),
            lambda: attention_configs.heuristic(problem, kernel, target.interpreted, target.arch),
        )  # fmt: skip

    def whole(self, value: Value) -> tuple[Any, ...]:
        """(pointer, strides), 0 along axes of size 1."""
        operand, strides = self.lowering.strided(value)
        if not value.size:  # never read, but the interpreter wants some memory
            operand, _ = self.lowering.strided(next(v for v in self.node.inputs if v.size))
        return operand, *(0 if d == 1 else s for d, s in zip(value.shape, strides, strict=True))

    def tensor(self, value: Value) -> tuple[Any, ...]:
        """(pointer, strides) without the last, which is 1."""
        return self.whole(value)[:-1]

    def saved(self) -> list[Argument]:
        """q, k, v, g (stored rows first, taken heads first), lse and delta of a backward node."""
        q, k, v, g, lse, delta = self.node.inputs[:6]
        pointer, b, m, h = self.tensor(g)
        return [*map(self.tensor, (q, k, v)), (pointer, b, h, m), self.whole(lse), self.whole(delta)]

    def constants(self, config: Config) -> dict[str, object]:
        """The compile-time arguments."""
        problem, attrs = self.problem, self.node.attrs
        low, high = attrs["band"]
        return {
            "SCALE": attrs["scale"],
            "P": attrs["dropout"],
            "E": problem.E,
            "EV": problem.EV,
            "GROUP": problem.heads // problem.kv_heads,
            "HAS_LENGTHS": "lengths" in self.extras,
            "HAS_BIAS": "bias" in self.extras,
            "HAS_MASK": "mask" in self.extras,
            "BAND": 2 if low is not None else 1 if high is not None else 0,
            "PRECISION": "ieee",
            "BLOCK_B": config.BLOCK_B,
            "BLOCK_M": config.BLOCK_M,
            "BLOCK_N": config.BLOCK_N,
            "BLOCK_E": problem.block_e,
            "BLOCK_V": problem.block_v,
        }

    def emit(
        self,
        kernel: KernelRef,
        grid: tuple[int, ...],
        operands: Sequence[Argument],
        results: Sequence[Value],
        counts: tuple[int, ...],
        config: Config,
        constants: dict[str, object],
    ) -> None:
        """One launch: operands, results, masks, dropout, band, counts and sizes."""
        lowering, node, problem, extras = self.lowering, self.node, self.problem, self.extras
        slots = [lowering.slots[v] for v in results]
        pointers = [Operand(slot, v.dtype) for slot, v in zip(slots, results, strict=True)]
        masks = [extras.get(name, ()) for name in ("lengths", "bias", "mask")]
        dropout = (extras["seed"][0], extras["step"][0], node.attrs["stream"]) if "seed" in extras else ()
        low, high = node.attrs["band"]
        far = problem.L + problem.S  # a bound that excludes nothing
        band = (low or 0, far if high is None else high)
        lowering.emit(
            node, kernel, grid,
            [*operands, *pointers, *masks, dropout, *band, *counts, problem.heads, problem.L, problem.S], constants,
            {"num_warps": config.num_warps, "num_stages": config.num_stages},
            [lowering.slot(v) for v in node.inputs], slots, kernel.name,
        )  # fmt: skip


FAMILIES = {
    "attention": attention,
    "attention_backward": attention_backward,
    "attention_bias_backward": attention_bias_backward,
}
