"""Scaled dot-product attention, o = softmax(scale q k^T + bias) v, without ever storing the scores.

    s = scale q k^T + bias,  -inf where a key takes no part;  lse = log sum e^s,  p = e^(s - lse),  o = (D p) v

D is the dropout mask over 1 - p_drop, or 1. The op gives lse, the logsumexp of each row, besides o, so that backward
computes p again from q, k and lse: see attention_backward.py. Dao et al. 2022. A row in which no key takes part gives
o = 0 and lse = -inf.

Sizes: B samples, H query heads, Hk key and value heads (Hk divides H: head h reads h Hk // H), L queries, S keys, E and
Ev elements a head. o is stored [B, L, H, Ev], as projections after it read it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Kernel, Op, Sample, call, register
from ..types import TensorType, bool_, broadcast_shapes, float64
from .arithmetic import mul, sub
from .attention_backward import backward, bias_backward
from .attention_scores import Extras, dropped, heads_of, scores
from .define import Operand, as_value, composed, randn, samples, wide
from .leaf import stop_gradient
from .logic import where
from .random import next_stream
from .reduce import sum

__all__ = ["scaled_dot_product_attention"]

MAX_HEAD_SIZE = 256


# ---- the op ----------------------------------------------------------------------------------------------------


def _type(q: TensorType, k: TensorType, v: TensorType, *_: TensorType, **__: Any) -> tuple[TensorType, TensorType]:
    (b, h, rows, _e), width = q.shape, v.shape[-1]
    return TensorType((b, rows, h, width), q.dtype), TensorType((b, h, rows), q.dtype.compute)


def _ref(q: np.ndarray, k: np.ndarray, v: np.ndarray, *rest: Any, **attrs: Any) -> tuple[np.ndarray, np.ndarray]:
    extras = Extras[np.ndarray](attrs["extras"], rest)
    s = scores(q, k, extras, attrs)
    m = np.max(s, -1, keepdims=True, initial=-np.inf)
    m = np.where(m == -np.inf, 0, m).astype(s.dtype)
    e = np.exp(s - m)
    total = np.sum(e, -1, keepdims=True)
    p = dropped(e / np.where(total == 0, 1, total), extras, attrs)
    o = np.matmul(p, heads_of(v, q.shape[1]))
    return np.swapaxes(o, 1, 2), (np.log(total) + m)[..., 0]


def _vjp(node: Node, g: Value | None, g_lse: Value | None) -> list[Value | None]:
    """delta = sum(o g) - g_lse is an ordinary reduction, and everything quadratic happens in two kernels' nodes."""
    o, lse = node.outputs
    cotangent: Value = call("zeros_like", o) if g is None else g
    delta = call("transpose", sum(mul(wide(cotangent), wide(o)), -1), (0, 2, 1))
    if g_lse is not None:
        delta = sub(delta, g_lse)
    q, k, v, *rest = node.inputs
    inputs = [q, k, v, cotangent, lse, delta, *rest]
    dq, dk, dv = (call("transpose", d, (0, 2, 1, 3)) for d in backward(inputs, node.attrs))
    others = [bias_backward(inputs, node.attrs) if n == "bias" else None for n in node.attrs["extras"]]
    return [dq, dk, dv, *others]


register(
    Op(
        "attention",
        _type,
        Kernel("attention", takes=("strided", "strided", "strided", "any")),
        _ref,
        _vjp,
        doc="o [B, L, H, Ev] and lse [B, H, L] of q [B, H, L, E], k [B, Hk, S, E], v [B, Hk, S, Ev] and extras.",
    )
)


# ---- the public function ---------------------------------------------------------------------------------------


def _lead(x: Value) -> tuple[int, ...]:
    """The axes before [rows, elements], heads last: one at least."""
    return x.shape[:-2] or (1,)


def _check(q: Value, k: Value, v: Value) -> str:
    """The shapes, for messages. Raises ShapeError or DTypeError if query, key and value do not fit together."""
    given = f"query {q.shape}, key {k.shape}, value {v.shape}"
    if any(x.ndim < 2 for x in (q, k, v)):
        raise ShapeError(f"query, key and value need two axes or more, got {given}")
    if not q.dtype.is_float or any(x.dtype is not q.dtype for x in (k, v)):
        raise DTypeError(f"query, key and value must be of one floating dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(f"{given} do not fit: [..., L, E], [..., S, E], [..., S, Ev]")
    if not 1 <= q.shape[-1] <= MAX_HEAD_SIZE or not 1 <= v.shape[-1] <= MAX_HEAD_SIZE:
        raise ShapeError(f"E and Ev, the elements of a head, must lie in [1, {MAX_HEAD_SIZE}], got {given}")
    return given


def _share(q: Value, k: Value, v: Value, enable_gqa: bool, given: str) -> bool:
    """True if the query heads share the heads of key and value; ShapeError if they should and cannot."""
    heads, kv_heads, v_heads = (_lead(x)[-1] for x in (q, k, v))
    if not enable_gqa:
        return kv_heads == v_heads == 1
    if kv_heads != v_heads:
        raise ShapeError(f"key and value must have the same number of heads (axis -3), got {given}")
    if not kv_heads or heads % kv_heads:
        raise ShapeError(f"{heads} query heads are no multiple of {kv_heads} key and value heads: {given}")
    return True


def _mask(attn_mask: Operand | None, queries: int, keys: int) -> Value | None:
    if attn_mask is None:
        return None
    mask = as_value(attn_mask)
    if mask.dtype.is_integer:
        raise DTypeError(f"attn_mask must be bool or floating, got {mask.dtype}")
    if mask.ndim < 2:
        mask = call("reshape", mask, (1,) * (2 - mask.ndim) + mask.shape)
    if any(m not in (1, d) for m, d in zip(mask.shape[-2:], (queries, keys), strict=True)):
        raise ShapeError(f"attn_mask {mask.shape} does not broadcast to [..., {queries}, {keys}], the scores")
    return mask


def _unrolled(mask: Value, lead: tuple[int, ...]) -> Value:
    """attn_mask as [B or 1, H or 1, L or 1, S or 1]."""
    shape = (1,) * (len(lead) + 2 - mask.ndim) + mask.shape
    mask = call("reshape", mask, shape)
    if any(d != 1 for d in shape[: len(lead) - 1]):
        mask = call("broadcast_to", mask, (*lead[:-1], *shape[len(lead) - 1 :]))
        return call("reshape", mask, (math.prod(lead[:-1]), *shape[len(lead) - 1 :]))
    return call("reshape", mask, (1, *shape[len(lead) - 1 :]))


def _heads(x: Value, lead: tuple[int, ...], heads: int) -> Value:
    """[..., rows, elements] as [B, heads, rows, elements]; views alone."""
    x = call("broadcast_to", x, (*lead[:-1], heads, *x.shape[-2:]))
    return call("reshape", x, (math.prod(lead[:-1]), heads, *x.shape[-2:]))


def _lengths(key_lengths: Operand, lead: tuple[int, ...]) -> Value:
    lengths = as_value(key_lengths)
    if not lengths.dtype.is_integer:
        raise DTypeError(f"key_lengths must be integers, got {lengths.dtype}")
    if lengths.shape != lead[:-1]:
        raise ShapeError(f"key_lengths has shape {lengths.shape}, the leading axes without the heads are {lead[:-1]}")
    return call("reshape", lengths, (math.prod(lead[:-1]),))


def _band(
    queries: int, keys: int, is_causal: bool, window: Sequence[int | None] | None, alignment: str
) -> tuple[int | None, int | None]:
    """(low, high): key j takes part in query i if low <= j - i <= high. A bound that excludes nothing is None."""
    if alignment not in ("top-left", "bottom-right"):
        raise ArgumentError(f"causal_alignment must be 'top-left' or 'bottom-right', got {alignment!r}")
    left, right = _window(window)
    if is_causal:
        right = 0
    diagonal = keys - queries if alignment == "bottom-right" else 0
    low = None if left is None else diagonal - left
    high = None if right is None else diagonal + right
    return None if low is None or low <= 1 - queries else low, None if high is None or high >= keys - 1 else high


def _window(window: Sequence[int | None] | None) -> tuple[int | None, int | None]:
    if window is None:
        return None, None
    if not isinstance(window, tuple | list) or len(window) != 2 or not all(_is_bound(n) for n in window):
        raise ArgumentError(f"window must be (left, right), each a number >= 0 or None for no bound, got {window!r}")
    return window[0], window[1]


def _is_bound(n: object) -> bool:
    return n is None or (isinstance(n, int) and not isinstance(n, bool) and n >= 0)


def _dropout(dropout_p: float, seed: Value | None) -> dict[str, Any]:
    """The attributes of dropout, and the seed to draw with."""
    if not 0 <= dropout_p < 1:
        raise ArgumentError(f"dropout_p must lie in [0, 1), got {dropout_p}")
    if dropout_p and seed is None:
        raise ArgumentError(f"dropout_p = {dropout_p} needs seed=, see rng_seed")
    return {"dropout": float(dropout_p), "stream": next_stream(seed) if dropout_p and seed is not None else 0}


_q, _k, _v = randn(2, 3, 5, 4), randn(2, 3, 7, 4, seed=1), randn(2, 3, 7, 6, seed=2)
_masked_row = np.arange(35).reshape(5, 7) % 3 > 0
_masked_row[2] = False
_seed = np.array([1234, 5])


@composed(
    samples=samples(
        Sample((_q, _k, _v)),
        Sample((_q, _k, _v), {"is_causal": True, "scale": 0.3}),
        Sample((_q, _k, _v, _masked_row)),
        Sample((_q, _k, _v, randn(3, 1, 7, seed=3))),
        Sample((_q, _k, _v, randn(2, 1, 5, 7, seed=3))),
        Sample((randn(4, 5, 4), randn(2, 7, 4, seed=1), randn(2, 7, 6, seed=2)), {"enable_gqa": True}),
        Sample((randn(1, 3), randn(1, 3, seed=1), randn(1, 3, seed=2))),
        Sample((_q, randn(7, 4, seed=1), randn(1, 1, 7, 6, seed=2)), {"key_lengths": np.array([3, 0])}),
        Sample((_q, _k, _v), {"window": (2, 1), "causal_alignment": "bottom-right"}),
        Sample((_q, _k, _v), {"dropout_p": 0.4, "seed": _seed, "is_causal": True}),
    ),
)
def scaled_dot_product_attention(
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Operand | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    key_lengths: Operand | None = None,
    window: Sequence[int | None] | None = None,
    causal_alignment: str = "top-left",
    seed: Value | None = None,
    return_lse: bool = False,
) -> Value | tuple[Value, Value]:
    """softmax(scale query key^T + mask) value: flash attention, in memory linear in L and S. Dao et al. 2022.

    query: [..., L, E], key: [..., S, E], value: [..., S, Ev] -> [..., L, Ev], of one floating dtype; leading axes
    broadcast, the last of them are the heads; 1 <= E, Ev <= 256. 16-bit products are summed in float32.

    attn_mask: broadcasts to [..., L, S]; bool (True takes part) or floating (added, and differentiated).
    dropout_p: the probability that a weight is dropped, the others are divided by 1 - dropout_p; it needs `seed`, see
    rng_seed. Unlike a module, the function does not know of evaluation: pass 0.
    is_causal: query i sees keys 0 .. i; not together with attn_mask.
    scale: default 1 / sqrt(E).
    enable_gqa: key and value may have fewer heads, Hk; query head h of H reads head h Hk // H.
    key_lengths: integers, shaped like the leading axes without the heads: keys 0 .. length - 1 take part.
    window: (left, right): query i sees keys i - left .. i + right; None for no bound; with is_causal right is 0.
    causal_alignment: where the diagonal of is_causal and window lies if L is not S. "top-left", as in torch: query 0 is
    level with key 0; "bottom-right": the last query with the last of S keys, i becomes i + S - L.
    return_lse: give (result, lse), lse [..., L] the logsumexp of each row of scores, float32 (float64 for float64).

    A row in which no key takes part gives zeros, lse = -inf, and no gradient. Keys that do not take part should still
    be finite, but for those beyond key_lengths, which are never read.
    Raises ShapeError, DTypeError, ArgumentError.
    """
    q, k, v = as_value(query), as_value(key), as_value(value)
    given = _check(q, k, v)
    share = _share(q, k, v, enable_gqa, given)
    queries, keys = q.shape[-2], k.shape[-2]
    mask = _mask(attn_mask, queries, keys)
    if mask is not None and is_causal:
        raise ArgumentError("is_causal and attn_mask exclude each other")
    leads = [
        _lead(q),
        *((*_lead(x)[:-1], 1) if share else _lead(x) for x in (k, v)),
        *([] if mask is None else [_lead(mask)]),
    ]
    lead = broadcast_shapes(*leads)
    kv_heads = _lead(k)[-1] if share else lead[-1]
    named: dict[str, Value] = {}
    if mask is not None:
        if mask.dtype is bool_ and q.dtype is float64:
            # Added instead: triton 3.6 cannot bring a tile of bools into the layout of a float64 product.
            mask = stop_gradient(where(mask, call("full", (), 0.0, float64), -math.inf))
        named["mask" if mask.dtype is bool_ else "bias"] = _unrolled(mask, lead)
    if key_lengths is not None:
        named["lengths"] = _lengths(key_lengths, lead)
    dropout = _dropout(dropout_p, seed)
    if dropout["dropout"] and seed is not None:
        named |= {"seed": seed[0], "step": seed[1]}
    inputs = [_heads(q, lead, lead[-1]), _heads(k, lead, kv_heads), _heads(v, lead, kv_heads), *named.values()]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    band = _band(queries, keys, is_causal, window, causal_alignment)
    o, lse = make("attention", inputs, extras=tuple(named), scale=scale, band=band, **dropout).outputs
    batch = lead if max(x.ndim for x in (q, k, v)) > 2 or (mask is not None and mask.ndim > 2) else ()
    result = call("reshape", call("transpose", o, (0, 2, 1, 3)), (*batch, queries, v.shape[-1]))
    return (result, call("reshape", lse, (*batch, queries))) if return_lse else result
