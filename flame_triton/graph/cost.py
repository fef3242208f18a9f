"""How many floating-point operations a node's kernels take: products only, an addition and a multiplication each one.

Pointwise work and reductions count as none: what bounds them is the memory they move.
"""

from __future__ import annotations

import math

from ..ir.node import Node
from ..types import TensorType


def flops(node: Node) -> int:
    """Operations of a node of a fused graph: a matmul, a convolution, attention, or one of these with an epilogue."""
    name = node.attrs["kernel"].name if "kernel" in node.attrs else node.op.name
    attrs = node.attrs["attrs"] if "kernel" in node.attrs else node.attrs
    types = [v.type for v in node.inputs]
    if name == "matmul":
        (*batch, m, k), n = types[0].shape, types[1].shape[-1]
        return 2 * math.prod(batch) * m * k * n
    if name in ("convolution", "convolution_dgrad"):
        x, w = types[0], types[1]
        reach = _positions(x if name == "convolution_dgrad" else _result(node, x, w)) * w.shape[0]
        return 2 * reach * math.prod(w.shape[1:])
    if name == "convolution_wgrad":
        x, dy = types[0], types[1]
        return 2 * _positions(dy) * dy.shape[-1] * math.prod(attrs["window"]) * (x.shape[-1] // attrs["groups"])
    if name in ("attention", "attention_backward"):
        q, k, v = (t.shape for t in types[:3])
        seen = 0.5 if attrs["band"][1] is not None else 1.0  # a causal mask leaves half of the pairs
        pairs = q[0] * q[1] * q[2] * k[2] * seen
        return int(pairs * (2 * (q[3] + v[3]) if name == "attention" else 6 * q[3] + 4 * v[3]))
    return 0


def _positions(t: TensorType) -> int:
    """Images times their positions, of a channels-last array."""
    return math.prod(t.shape[:-1])


def _result(node: Node, x: TensorType, w: TensorType) -> TensorType:
    """The type of a convolution's own result, which an epilogue may have turned into something else."""
    attrs = node.attrs["attrs"] if "kernel" in node.attrs else node.attrs
    op = node.attrs["kernel"] if "kernel" in node.attrs else node.op
    found = op.infer(x, w, **attrs)
    assert isinstance(found, TensorType)
    return found


FLOPS_PER_SECOND = 6e14  # products and memory of an H200, as kernels reach them; only their ratio matters
BYTES_PER_SECOND = 3.5e12
LAUNCH_SECONDS = 3e-6


def seconds(node: Node) -> float:
    """Estimated time of a node of a fused graph: its products or its memory, whichever takes longer."""
    moved = sum(v.type.nbytes for v in {*node.inputs, *node.outputs})
    return LAUNCH_SECONDS + max(flops(node) / FLOPS_PER_SECOND, moved / BYTES_PER_SECOND)
