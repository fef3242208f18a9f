"""What attention and its gradients share: the scores with their masks, and dropout of the probabilities.

Twice: in NumPy, for the references, and as a graph, for the gradient of the gradient. Sizes as in attention.py.

An attention node has the inputs that its op names, and after them those that its attribute `extras` names, in this
order, each as often as it is there:
    bias     floating [B or 1, H or 1, L or 1, S or 1], added to the scores
    mask     bool, shaped like bias: True where the key takes part
    lengths  integer [B]: keys 0 .. length - 1 take part
    seed, step  int64 scalars of the dropout draw, see random.py
Its other attributes: scale; band = (low, high): key j takes part in query i if low <= j - i <= high, None for no bound;
dropout: the probability that a weight becomes 0, the others being divided by 1 - dropout; stream: of that draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from ..ir.node import Node, Value, make
from ..ir.op import call
from .arithmetic import add, mul
from .define import wide
from .logic import greater_equal, less, less_equal, where
from .philox import as_uniform, draw

Element = TypeVar("Element")
Attrs = Mapping[str, Any]


class Extras(Generic[Element]):
    """The optional operands of an attention node by name; None where there is none."""

    def __init__(self, names: Sequence[str], given: Sequence[Element]) -> None:
        self._by_name = dict(zip(names, given, strict=True))

    def __getitem__(self, name: str) -> Element | None:
        return self._by_name.get(name)


# ---- NumPy -----------------------------------------------------------------------------------------------------


def scores(q: np.ndarray, k: np.ndarray, extras: Extras[np.ndarray], attrs: Attrs) -> np.ndarray:
    """[B, H, L, S]: scale q k^T + bias, -inf where a key takes no part."""
    s = np.matmul(q, np.swapaxes(heads_of(k, q.shape[1]), -1, -2)) * q.dtype.type(attrs["scale"])
    bias, mask, lengths = extras["bias"], extras["mask"], extras["lengths"]
    if bias is not None:
        s = s + bias
    i, j = np.arange(s.shape[2])[:, None], np.arange(s.shape[3])
    low, high = attrs["band"]
    part = np.ones((1, 1, 1, 1), bool) if mask is None else mask
    if low is not None:
        part = part & (j - i >= low)
    if high is not None:
        part = part & (j - i <= high)
    if lengths is not None:
        part = part & (j < lengths[:, None, None, None])
    return np.where(part, s, -np.inf).astype(s.dtype)


def heads_of(x: np.ndarray, heads: int) -> np.ndarray:
    """Each key or value head repeated for the query heads that read it."""
    return np.repeat(x, heads // x.shape[1], 1) if x.shape[1] != heads else x


def dropped(p: np.ndarray, extras: Extras[np.ndarray], attrs: Attrs) -> np.ndarray:
    """D p."""
    seed, step = extras["seed"], extras["step"]
    if seed is None or step is None:
        return p
    rate = attrs["dropout"]
    uniform = draw(p.shape, np.float32, int(seed), attrs["stream"], int(step), lambda word, _: as_uniform(word))
    return np.where(uniform >= np.float32(rate), p / p.dtype.type(1 - rate), 0).astype(p.dtype)


# ---- graph -----------------------------------------------------------------------------------------------------


def scores_of(node: Node, q: Value, k: Value) -> Value:
    """`scores` of wide q [B, H, L, E] and k [B, H, S, E] under the masks of an attention node."""
    extras = extras_of(node)
    bias, mask, lengths = extras["bias"], extras["mask"], extras["lengths"]
    s = mul(call("matmul", q, call("swapaxes", k, -1, -2)), node.attrs["scale"])
    if bias is not None:
        s = add(s, wide(bias))
    if mask is not None:
        s = where(mask, s, -math.inf)
    j = call("arange", s.shape[3], dtype="int64")
    distance = j - call("reshape", call("arange", s.shape[2], dtype="int64"), (s.shape[2], 1))
    low, high = node.attrs["band"]
    if low is not None:
        s = where(greater_equal(distance, low), s, -math.inf)
    if high is not None:
        s = where(less_equal(distance, high), s, -math.inf)
    if lengths is not None:
        s = where(less(j, call("reshape", lengths, (s.shape[0], 1, 1, 1))), s, -math.inf)
    return s


def extras_of(node: Node) -> Extras[Value]:
    """The optional operands of an attention node: the last of its inputs."""
    names: Sequence[str] = node.attrs["extras"]
    return Extras(names, node.inputs[len(node.inputs) - len(names) :])


def dropped_of(node: Node, x: Value) -> Value:
    """D x, for x [B, H, L, S]."""
    seed, step = extras_of(node)["seed"], extras_of(node)["step"]
    if seed is None or step is None:
        return x
    rate = node.attrs["dropout"]
    uniform = make("random_uniform", [seed, step], shape=x.shape, stream=node.attrs["stream"]).out
    return where(greater_equal(uniform, float(np.float32(rate))), mul(x, 1 / (1 - rate)), 0.0)
