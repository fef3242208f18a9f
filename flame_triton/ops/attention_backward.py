"""The gradients of attention as ops of their own, and the gradients of those. Notation as in attention.py.

With g the cotangent of o and delta = sum(g o) - (cotangent of lse), one number a row:
    w = D (g v^T),  ds = p (w - delta)
    dq = scale ds k,  dk = scale ds^T q,  dv = (D p)^T g,  dbias = ds
where p = e^(s - lse) is computed again from q, k and lse. lse and delta are operands like the others: what depends on
them is counted through them, so gradients of gradients count everything once.

The gradients of these, for cotangents a of dq, b of dk, c of dv, e of dbias: with x = scale (a k^T + q b^T) + e they
are those of sum(ds x) + sum(c dv), so with y = D (g c^T) and t = p ((w - delta) x + y), which is the cotangent of s,
    q: scale (t k + ds b)      k: scale (t^T q + ds^T a)      v: (D p x)^T g      g: (D p x) v + (D p) c
    bias: t                    lse: -sum(t)                   delta: -sum(p x)
(sums along rows). Those are graphs of ordinary products, quadratic in memory, as few ever ask for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.node import Node, Value, make
from ..ir.op import Kernel, Op, call, register
from ..types import TensorType
from .arithmetic import add, mul, neg, sub
from .attention_scores import Attrs, Extras, dropped, dropped_of, extras_of, heads_of, scores, scores_of
from .define import wide
from .elementary import exp
from .logic import equal, where
from .reduce import sum

_TAKES = ("strided", "strided", "strided", "strided", "any")
FIRST = 6  # inputs before the extras: q, k, v, g [B, L, H, Ev], lse and delta [B, H, L]


def backward(inputs: Sequence[Value], attrs: Attrs) -> tuple[Value, ...]:
    """dq [B, L, H, E], dk [B, S, Hk, E], dv [B, S, Hk, Ev]."""
    return make("attention_backward", inputs, **attrs).outputs


def bias_backward(inputs: Sequence[Value], attrs: Attrs) -> Value:
    """dbias, of the bias's own shape and dtype."""
    return make("attention_bias_backward", inputs, **attrs).out


# ---- references ------------------------------------------------------------------------------------------------


def _ds(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    lse: np.ndarray,
    delta: np.ndarray,
    rest: Any,
    attrs: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """ds and D p, [B, H, L, S]; g: [B, H, L, Ev]."""
    extras = Extras[np.ndarray](attrs["extras"], rest)
    s = scores(q, k, extras, attrs)
    p = np.exp(s - np.where(lse == -np.inf, 0, lse)[..., None].astype(s.dtype))
    w = dropped(np.matmul(g, np.swapaxes(heads_of(v, q.shape[1]), -1, -2)), extras, attrs)
    return p * (w - delta[..., None]), dropped(p, extras, attrs)


def _grouped(x: np.ndarray, heads: int) -> np.ndarray:
    """[B, H, S, E] -> [B, S, heads, E]: summed over the query heads that share a key head."""
    return np.swapaxes(x.reshape(x.shape[0], heads, -1, *x.shape[2:]).sum(2), 1, 2)


def _ref(q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray, lse: Any, delta: Any, *rest: Any, **attrs: Any):
    g = np.swapaxes(g, 1, 2)
    ds, p = _ds(q, k, v, g, lse, delta, rest, attrs)
    ds = ds * q.dtype.type(attrs["scale"])
    dq = np.swapaxes(np.matmul(ds, heads_of(k, q.shape[1])), 1, 2)
    dk = np.matmul(np.swapaxes(ds, -1, -2), q)
    dv = np.matmul(np.swapaxes(p, -1, -2), g)
    return dq, _grouped(dk, k.shape[1]), _grouped(dv, k.shape[1])


def _bias_ref(q: Any, k: Any, v: Any, g: np.ndarray, lse: Any, delta: Any, *rest: Any, **attrs: Any) -> np.ndarray:
    ds, _ = _ds(q, k, v, np.swapaxes(g, 1, 2), lse, delta, rest, attrs)
    shape = Extras[np.ndarray](attrs["extras"], rest)["bias"].shape
    return ds.sum(tuple(a for a, d in enumerate(shape) if d == 1), keepdims=True)


# ---- gradients of the gradients --------------------------------------------------------------------------------


def _pull_back(node: Node, a: Value | None, b: Value | None, c: Value | None, e: Value | None) -> list[Value | None]:
    """Cotangents of the inputs; a: [B, H, L, E], b: [B, H, S, E], c: [B, H, S, Ev], e: broadcasts to [B, H, L, S]."""
    q, k, v, g = (wide(x) for x in node.inputs[:4])
    lse, delta = (call("expand_dims", x, 3) for x in node.inputs[4:FIRST])
    k, v, g = _spread(k, q.shape[1]), _spread(v, q.shape[1]), call("transpose", g, (0, 2, 1, 3))
    p = exp(sub(scores_of(node, q, k), where(equal(lse, -math.inf), 0.0, lse)))
    rest = sub(dropped_of(node, _product(g, _flip(v))), delta)
    scale = node.attrs["scale"]
    x = _total(
        mul(_product(a, _flip(k)), scale) if a is not None else None,
        mul(_product(q, _flip(b)), scale) if b is not None else None,
        call("broadcast_to", e, p.shape) if e is not None else None,
    )
    t = _total(
        mul(p, mul(rest, x)) if x is not None else None,
        mul(p, dropped_of(node, _product(g, _flip(c)))) if c is not None else None,
    )
    assert t is not None
    ds, px = mul(p, rest), None if x is None else mul(p, x)
    kept = None if px is None else dropped_of(node, px)
    dq = mul(_total(_product(t, k), None if b is None else _product(ds, b)), scale)
    dk = mul(_total(_product(_flip(t), q), None if a is None else _product(_flip(ds), a)), scale)
    dv = call("zeros_like", v) if kept is None else _product(_flip(kept), g)
    dg = _total(None if kept is None else _product(kept, v), None if c is None else _product(dropped_of(node, p), c))
    dlse = neg(sum(t, -1))
    ddelta = call("zeros_like", dlse) if px is None else neg(sum(px, -1))
    heads = node.inputs[1].shape[1]
    found = [dq, _gather(dk, heads), _gather(dv, heads), call("transpose", dg, (0, 2, 1, 3)), dlse, ddelta]
    cast = [call("cast", d, x.dtype) for d, x in zip(found, node.inputs, strict=False)]
    bias = extras_of(node)["bias"]
    return [*cast, *(_unbroadcast(t, bias) if n == "bias" and bias is not None else None for n in node.attrs["extras"])]


def _product(a: Value, b: Value) -> Value:
    return call("matmul", a, b)


def _flip(x: Value) -> Value:
    return call("swapaxes", x, -1, -2)


def _total(*parts: Value | None) -> Value | None:
    """The sum of what is there."""
    total = None
    for part in parts:
        total = part if total is None else total if part is None else add(total, part)
    return total


def _spread(x: Value, heads: int) -> Value:
    """[B, Hk, S, E] -> [B, H, S, E]: each head for the query heads that read it."""
    b, kv_heads, rows, width = x.shape
    if kv_heads == heads:
        return x
    x = call("reshape", x, (b, kv_heads, 1, rows, width))
    return call(
        "reshape", call("broadcast_to", x, (b, kv_heads, heads // kv_heads, rows, width)), (b, heads, rows, width)
    )


def _gather(x: Value, kv_heads: int) -> Value:
    """[B, H, S, E] -> [B, Hk, S, E]: summed over the query heads that read a head."""
    b, heads, rows, width = x.shape
    if kv_heads == heads:
        return x
    return sum(call("reshape", x, (b, kv_heads, heads // kv_heads, rows, width)), 2)


def _unbroadcast(x: Value, like: Value) -> Value:
    axes = tuple(axis for axis, d in enumerate(like.shape) if d == 1 and x.shape[axis] != 1)
    return call("cast", sum(x, axes, keepdims=True) if axes else x, like.dtype)


def _vjp(node: Node, a: Value | None, b: Value | None, c: Value | None) -> list[Value | None]:
    heads = node.inputs[0].shape[1]
    a, b, c = (None if x is None else _spread(call("transpose", wide(x), (0, 2, 1, 3)), heads) for x in (a, b, c))
    return _pull_back(node, a, b, c, None)


def _bias_vjp(node: Node, e: Value) -> list[Value | None]:
    return _pull_back(node, None, None, None, wide(e))


# ---- ops -------------------------------------------------------------------------------------------------------


def _types(q: TensorType, k: TensorType, v: TensorType, *_: TensorType, **__: Any) -> tuple[TensorType, ...]:
    return tuple(TensorType((x.shape[0], x.shape[2], x.shape[1], x.shape[3]), x.dtype) for x in (q, k, v))


def _bias_type(*types: TensorType, extras: tuple[str, ...], **_: Any) -> TensorType:
    return types[FIRST + extras.index("bias")]


register(Op("attention_backward", _types, Kernel("attention_backward", takes=_TAKES), _ref, _vjp))
register(
    Op("attention_bias_backward", _bias_type, Kernel("attention_bias_backward", takes=_TAKES), _bias_ref, _bias_vjp)
)
