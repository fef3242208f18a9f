"""The graphs of norms and pointwise work that a transformer's step is made of, one pass each, for measuring.

Backward graphs are cut from their forward: what forward saves (statistics, a softmax) is an input of theirs, as it is
in a training step, where a product or attention lies between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import flame_triton as ft
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import Node, Value

HEAD = 128


@dataclass(frozen=True)
class RegionCase:
    """A graph to measure. unread: bytes of its operands that it has no use for. others: what its opponent reads
    besides. ideal: bytes moved if each tensor moves once."""

    name: str
    graph: Graph
    unread: int = 0
    others: tuple[Value, ...] = ()

    @property
    def ideal(self) -> int:
        leaves = [n.out for n in self.graph.nodes if n.op.name in ("input", "parameter")]
        return sum(v.type.nbytes for v in (*leaves, *self.graph.outputs)) - self.unread


def _x(shape: Sequence[int], name: str, dtype: str = "bfloat16") -> Value:
    return ft.input(tuple(shape), dtype, name=name)


def _cut(name: str, outputs: Sequence[Value], inputs: Sequence[Value], saved: str | None = None) -> RegionCase:
    """The graph of `outputs`; what the ops called `saved` save becomes an input: a norm's statistics, from which its
    result is computed again (weight and bias apart, whose gradients do not ask for them), or the only result."""
    more: list[Value] = []

    def rule(node: Node) -> tuple[Value, ...] | None:
        if node.op.name != saved:
            return None
        result, *statistics = node.types
        made = [_x(t.shape, f"saved{len(more) + i}", t.dtype.name) for i, t in enumerate(statistics or [result])]
        more.extend(made)
        if not statistics:
            return tuple(made)
        x = ft.cast(node.inputs[0], made[-1].dtype.name)
        normed = (x - made[0] if len(made) == 2 else x) * made[-1]
        return ft.cast(normed, result.dtype.name), *made

    graph = Graph(tuple(inputs), tuple(outputs)).rewrite(rule)
    used = {v for n in graph.nodes for v in n.inputs} | set(graph.outputs)
    read = tuple(v for v in (*graph.inputs, *more) if v in used)
    return RegionCase(name, Graph(read, graph.outputs), others=tuple(v for v in graph.inputs if v not in used))


def _pair(
    name: str, y: Value | Sequence[Value], wrt: Sequence[Value], others: Sequence[Value] = (), saved: str | None = None,
    keep: bool = True,
) -> list[RegionCase]:  # fmt: skip
    """A forward case, which writes what backward wants too (keep), and its backward."""
    ys = [y] if isinstance(y, Value) else list(y)
    inputs = [*wrt, *others]
    seeds = [_x(v.shape, f"g{i}", v.dtype.name) for i, v in enumerate(ys)]
    grads = ft.grad(ys, wrt, grad_output=seeds)
    statistics: list[Value] = []
    if saved and keep:
        statistics = [v for n in Graph(tuple(inputs), tuple(ys)).nodes if n.op.name == saved for v in n.outputs[1:]]
    forward = Graph(tuple(inputs), (*ys, *statistics))
    return [RegionCase(f"{name} fwd", forward), _cut(f"{name} bwd", grads, (*inputs, *seeds), saved)]


def layer_norm(rows: int, width: int) -> list[RegionCase]:
    x, w, b = _x((rows, width), "x"), _x((width,), "w"), _x((width,), "b")
    return _pair("layer_norm", ft.layer_norm(x, width, w, b), (x, w, b), saved="layer_norm")


def rms_norm(rows: int, width: int) -> list[RegionCase]:
    x, w = _x((rows, width), "x"), _x((width,), "w")
    return _pair("rms_norm", ft.rms_norm(x, width, w), (x, w), saved="rms_norm")


def _batch(rows: int) -> int:
    return 4 if rows > 8192 else 1


def modulate(rows: int, width: int) -> list[RegionCase]:
    batch = _batch(rows)
    x = _x((batch, rows // batch, width), "x")
    shift, scale = _x((batch, width), "shift"), _x((batch, width), "scale")
    return _pair("LN + modulate", ft.ada_layer_norm(x, shift, scale), (x, shift, scale), saved="layer_norm")


def gate(rows: int, width: int) -> list[RegionCase]:
    batch = _batch(rows)
    x, y = (_x((batch, rows // batch, width), n) for n in ("x", "y"))
    g = _x((batch, 1, width), "gate")
    return _pair("residual + gate", x + g * y, (y, g), (x,))


def softmax(rows: int, width: int) -> list[RegionCase]:
    x = _x((rows, width), "x")
    return _pair("softmax", ft.softmax(x), (x,), saved="softmax")


def cross_entropy(rows: int, width: int) -> list[RegionCase]:
    x, target = _x((rows, width), "logits"), _x((rows,), "target", "int64")
    return _pair("cross_entropy", ft.cross_entropy(x, target), (x,), (target,), saved="logsumexp")


def gelu(rows: int, width: int) -> list[RegionCase]:
    x = _x((rows, width), "x")
    return _pair("gelu", ft.gelu(x, approximate="tanh"), (x,))


def qk_norm(rows: int, width: int) -> list[RegionCase]:
    batch, heads = _batch(rows), width // HEAD
    length = rows // batch
    qkv = _x((batch, length, 3, heads, HEAD), "qkv")
    wq, wk = _x((HEAD,), "wq"), _x((HEAD,), "wk")
    cos, sin = (_x((length, HEAD // 2), n, "float32") for n in ("cos", "sin"))
    turned = []
    for i, w in enumerate((wq, wk)):
        normed = ft.rms_norm(qkv[:, :, i], HEAD, w, eps=1e-6)
        turned.append(ft.apply_rotary_emb(normed, ft.expand_dims(cos, 1), ft.expand_dims(sin, 1)))
    forward, _ = _pair("qk-norm + rope", turned, (qkv, wq, wk), (cos, sin), saved="rms_norm")
    # attention reads the values in place; their gradient goes where those of queries and keys go
    _, backward = _pair("qk-norm + rope", [*turned, qkv[:, :, 2]], (qkv, wq, wk), (cos, sin), saved="rms_norm")
    third = qkv.type.nbytes // 3
    return [replace(c, unread=third) for c in (forward, backward)]


CASES: dict[str, Callable[[int, int], list[RegionCase]]] = {
    f.__name__: f for f in (layer_norm, rms_norm, modulate, gate, qk_norm, softmax, cross_entropy, gelu)
}
SIZES = ((16384, 3072), (4608, 3072))


def cases(only: str = "", sizes: Sequence[tuple[int, int]] = SIZES) -> list[tuple[tuple[int, int], RegionCase]]:
    """Every case at every size whose name contains `only`."""
    found = [(size, case) for size in sizes for make in CASES.values() for case in make(*size)]
    return [(size, case) for size, case in found if only in case.name]
