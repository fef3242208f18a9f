"""Scaled dot-product attention: o = softmax(scale q k^T + mask) v.

The node also gives lse, the logsumexp of each row of scores, so that backward recomputes the probabilities
p = e^(s - lse) from q, k and lse instead of storing them. With delta = sum(do o) and dl the cotangent of lse:
    dv = p^T do,  dp = do v^T,  ds = p (dp - delta + dl),  dq = scale ds k,  dk = scale ds^T q.
Dao et al. 2022. A row with everything masked gives zeros, and lse = -inf.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Sample, call
from ..types import DType, TensorType, bool_, broadcast_shapes
from .arithmetic import add, mul, sub
from .define import Operand, as_value, define, randn, samples, wide
from .elementary import exp, log
from .leaf import stop_gradient
from .logic import equal, where
from .reduce import max, sum


def _type(
    q: TensorType, k: TensorType, v: TensorType, *mask: TensorType, scale: float, causal: bool
) -> tuple[TensorType, ...]:
    """q: [B..., L, E], k: [B..., S, E], v: [B..., S, Ev], mask: [B..., L, S]."""
    if not q.dtype.is_float or any(t.dtype is not q.dtype for t in (k, v)):
        raise DTypeError(f"query, key and value must be of one floating dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(f"query {q.shape}, key {k.shape} and value {v.shape} do not fit: [L, E], [S, E], [S, Ev]")
    if any(t.shape != (*q.shape[:-1], k.shape[-2]) for t in mask):
        raise ShapeError(f"attn_mask has shape {mask[0].shape}, the scores have {(*q.shape[:-1], k.shape[-2])}")
    return TensorType((*q.shape[:-1], v.shape[-1]), q.dtype), TensorType((*q.shape[:-1], 1), q.dtype.compute)


def _product(a: Value, b: Value, dtype: DType) -> Value:
    """a @ b for operands of one dtype, accumulated in the compute type and rounded to `dtype` once."""
    return make("matmul", [a, b], out_dtype=dtype).out


def _transposed(x: Value) -> Value:
    return call("swapaxes", x, -1, -2)


def _scores(node: Node) -> Value:
    """scale q k^T + mask, -inf where masked."""
    q, k, *rest = node.inputs
    s = mul(_product(q, _transposed(k), q.dtype.compute), node.attrs["scale"])
    for mask in rest[1:]:
        s = where(mask, s, -math.inf) if mask.dtype is bool_ else add(s, call("cast", mask, s.dtype))
    if node.attrs["causal"]:
        rows = call("reshape", call("arange", s.shape[-2], dtype="int32"), (s.shape[-2], 1))
        s = where(call("greater_equal", rows, call("arange", s.shape[-1], dtype="int32")), s, -math.inf)
    return s


def _finite(x: Value) -> Value:
    """0 instead of -inf: so that e^(-inf - x) is 0, not NaN, in a row with everything masked."""
    return where(equal(x, -math.inf), 0.0, x)


def _build(node: Node) -> list[Value]:
    v = node.inputs[2]
    s = _scores(node)
    m = stop_gradient(_finite(max(s, -1, keepdims=True)))
    e = exp(sub(s, m))
    total = sum(e, -1, keepdims=True)
    p = mul(e, where(equal(total, 0.0), 0.0, call("reciprocal", total)))
    return [_product(call("cast", p, v.dtype), v, v.dtype), add(log(total), m)]


def _ref(q: np.ndarray, k: np.ndarray, v: np.ndarray, *mask: np.ndarray, scale: float, causal: bool) -> tuple:
    s = (q @ np.swapaxes(k, -1, -2)) * q.dtype.type(scale)
    for extra in mask:
        s = np.where(extra, s, -np.inf) if extra.dtype == np.bool_ else s + extra
    if causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)
    m = np.max(s, -1, keepdims=True)
    m = np.where(m == -np.inf, 0, m).astype(s.dtype)
    e = np.exp(s - m)
    total = np.sum(e, -1, keepdims=True)
    return e @ v / np.where(total == 0, 1, total), np.log(total) + m


def _vjp(node: Node, g: Value | None, g_lse: Value | None) -> list[Value | None]:
    (q, k, v, *masks), (o, lse) = node.inputs, node.outputs
    dtype, scale = q.dtype, node.attrs["scale"]
    p = exp(sub(_scores(node), _finite(lse)))
    ds = None
    dv = None
    if g is not None:
        delta = sum(mul(wide(g), wide(o)), -1, keepdims=True)
        ds = sub(_product(g, _transposed(v), p.dtype), delta)
        dv = _product(_transposed(call("cast", p, dtype)), g, dtype)
    if g_lse is not None:
        spread = call("broadcast_to", g_lse, p.shape)
        ds = spread if ds is None else add(ds, spread)
    assert ds is not None
    ds = mul(p, ds)
    low = call("cast", mul(ds, scale), dtype)
    dq, dk = _product(low, k, dtype), _product(_transposed(low), q, dtype)
    dmask = [call("cast", ds, m.dtype) if m.dtype.is_float else None for m in masks]
    return [dq, dk, dv, *dmask]


def _spread_heads(query: Value, x: Value) -> Value:
    """Each of x's heads [..., H, S, E] repeated for the group of query heads that shares it."""
    heads, groups = x.shape[-3], query.shape[-3] // x.shape[-3]
    if query.shape[-3] != heads * groups:
        raise ShapeError(f"{query.shape[-3]} query heads are no multiple of {heads} key and value heads")
    lead, tail = x.shape[:-3], x.shape[-2:]
    x = call("reshape", x, (*lead, heads, 1, *tail))
    x = call("broadcast_to", x, (*lead, heads, groups, *tail))
    return call("reshape", x, (*lead, heads * groups, *tail))


_q, _k, _v = randn(2, 3, 5, 4), randn(2, 3, 7, 4, seed=1), randn(2, 3, 7, 6, seed=2)
_masked_row = np.arange(35).reshape(5, 7) % 3 > 0
_masked_row[2] = False


@define(
    "scaled_dot_product_attention",
    infer=_type,
    lowering=Composite(_build),
    ref=_ref,
    vjp=_vjp,
    samples=samples(
        Sample((_q, _k, _v)),
        Sample((_q, _k, _v), {"is_causal": True, "scale": 0.3}),
        Sample((_q, _k, _v, _masked_row)),
        Sample((_q, _k, _v, randn(3, 1, 7, seed=3))),
        Sample((randn(4, 5, 4), randn(2, 7, 4, seed=1), randn(2, 7, 6, seed=2)), {"enable_gqa": True}),
        Sample((randn(1, 3), randn(1, 3, seed=1), randn(1, 3, seed=2))),
    ),
)
def scaled_dot_product_attention(
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Operand | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """softmax(scale query key^T + mask) value, in float32 inside.

    query: [..., L, E], key: [..., S, E], value: [..., S, Ev] -> [..., L, Ev]; leading axes broadcast. attn_mask:
    broadcasts to [..., L, S]; bool (True takes part) or floating (added). is_causal: row i sees columns 0 .. i.
    scale: default 1 / sqrt(E). enable_gqa: key and value may have fewer heads (axis -3), each shared by a group of
    query heads. A row with everything masked gives zeros.
    """
    q, k, v = as_value(query), as_value(key), as_value(value)
    if any(x.ndim < 2 for x in (q, k, v)):
        raise ShapeError(f"query, key and value need two axes or more, got {q.shape}, {k.shape}, {v.shape}")
    if enable_gqa and q.ndim > 2:
        k, v = _spread_heads(q, k), _spread_heads(q, v)
    batch = broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    masks = []
    if attn_mask is not None:
        mask = as_value(attn_mask)
        if mask.dtype.is_integer:
            raise DTypeError(f"attn_mask must be bool or floating, got {mask.dtype}")
        batch = broadcast_shapes(batch, mask.shape[:-2])
        masks = [call("broadcast_to", mask, (*batch, q.shape[-2], k.shape[-2]))]
    q, k, v = (call("broadcast_to", x, (*batch, *x.shape[-2:])) for x in (q, k, v))
    scale = 1 / math.sqrt(q.shape[-1] or 1) if scale is None else float(scale)
    return make("scaled_dot_product_attention", [q, k, v, *masks], scale=scale, causal=is_causal).outputs[0]
