"""The cross-entropy of a linear layer without its logits: they are made for a few rows at a time, and made again.

With logits z = x W^T + b, p = softmax(z), V classes, smoothing s, and t the target of a row, its loss is
    y = lse(z) - (1 - s) z_t - s / V sum(z),
and with the cotangents g of y and h of lse
    dz = p (g + h) - g ((1 - s) [i = t] + s / V),  dx = dz W,  dW = dz^T x,  db = sum over rows of dz.
Forward keeps y and lse, one number a row each, as outputs for every chunk. Backward computes the logits of each chunk
transposed, W x^T: the same numbers in another product, so that nothing takes them for those of the forward pass and
keeps them.
"""

from __future__ import annotations

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..ir.node import Node, Value, make
from ..ir.op import Composite, Sample, call
from ..types import TensorType
from .arithmetic import add, div, mul, sub
from .define import Operand, as_value, define, integers, randn, samples
from .elementary import exp
from .logic import equal, not_equal, where
from .loss import counted, reduced
from .reduce import sum
from .softmax import logsumexp

__all__ = ["linear_cross_entropy"]

ROWS = 128  # chunks are multiples of this where they can be: whole tiles of a product


def _type(
    x: TensorType, weight: TensorType, target: TensorType, *bias: TensorType, smoothing: float, chunk: int
) -> tuple[TensorType, ...]:
    """The losses of each chunk, then the lse of each."""
    row = [TensorType((end - start,), x.dtype.compute) for start, end in _chunks(x.shape[0], chunk)]
    return (*row, *row)


def _chunks(rows: int, chunk: int) -> list[tuple[int, int]]:
    """(first row, end) of each chunk."""
    return [(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]


def _hits(target: Value, classes: int, axis: int) -> Value:
    """True at each row's own class; classes along the axis."""
    places = call("arange", classes, dtype=target.dtype)
    return equal(call("expand_dims", target, axis), call("expand_dims", places, 1 - axis))


def _product(a: Value, b: Value) -> Value:
    """a @ b with the result in the compute type."""
    return make("matmul", [a, b], out_dtype=a.dtype.compute).out


def _build(node: Node) -> list[Value]:
    x, weight, target, *bias = node.inputs
    smoothing, classes = node.attrs["smoothing"], weight.shape[0]
    losses: list[Value] = []
    sums: list[Value] = []
    for start, end in _chunks(x.shape[0], node.attrs["chunk"]):
        logits = _product(x[start:end], call("transpose", weight))
        logits = add(logits, call("cast", bias[0], logits.dtype)) if bias else logits
        lse = logsumexp(logits, 1)
        own = sum(where(_hits(target[start:end], classes, 1), logits, 0.0), 1)
        loss = sub(lse, mul(own, 1 - smoothing))
        losses.append(sub(loss, mul(sum(logits, 1), smoothing / classes)) if smoothing else loss)
        sums.append(lse)
    return [*losses, *sums]


def _ref(
    x: np.ndarray, weight: np.ndarray, target: np.ndarray, *bias: np.ndarray, smoothing: float, chunk: int
) -> tuple[np.ndarray, ...]:
    logits = x @ weight.T + (bias[0] if bias else 0)
    top = logits.max(1)
    lse = top + np.log(np.exp(logits - top[:, None]).sum(1))
    there = (target >= 0) & (target < len(weight))
    own = np.where(there, logits[np.arange(len(x)), np.where(there, target, 0)], 0)
    loss = lse - (1 - smoothing) * own - smoothing * logits.mean(1)
    return tuple(v[start:end] for v in (loss, lse) for start, end in _chunks(len(x), chunk))


def _vjp(node: Node, *cotangents: Value | None) -> list[Value | None]:
    x, weight, target, *bias = node.inputs
    smoothing, classes = node.attrs["smoothing"], weight.shape[0]
    count = len(node.outputs) // 2
    dx: list[Value] = []
    dw: Value | None = None
    db: Value | None = None
    for i, (start, end) in enumerate(_chunks(x.shape[0], node.attrs["chunk"])):
        rows, of_lse, lse = cotangents[i], cotangents[count + i], node.outputs[count + i]
        z = _product(weight, call("transpose", x[start:end]))  # [V, rows]
        z = add(z, call("expand_dims", call("cast", bias[0], z.dtype), 1)) if bias else z
        both = [v for v in (rows, of_lse) if v is not None]
        if not both:
            dx.append(call("full", (end - start, x.shape[1]), 0.0, x.dtype))
            continue
        dz = mul(exp(sub(z, lse)), both[0] if len(both) == 1 else add(*both))
        if rows is not None:
            wanted = mul(call("cast", _hits(target[start:end], classes, 0), z.dtype), 1 - smoothing)
            dz = sub(dz, mul(rows, add(wanted, smoothing / classes)))
        low = call("cast", dz, x.dtype)
        dx.append(call("matmul", call("transpose", low), weight))
        part = _product(low, x[start:end])
        dw = part if dw is None else add(dw, part)
        if bias:
            column = sum(dz, 1)
            db = column if db is None else add(db, column)
    assert dw is not None  # a rule is asked only if some output has a cotangent
    found = [call("concat", dx, 0), call("cast", dw, weight.dtype), None]
    return [*found, call("cast", db, bias[0].dtype)] if db is not None else found


def _default_chunk(rows: int, width: int, classes: int) -> int:
    """Rows whose logits take about the memory of x, in whole tiles."""
    wanted = -(-rows * width // max(classes, 1))
    return max(-(-wanted // ROWS) * ROWS, ROWS)


_x, _w, _t = randn(7, 4), randn(5, 4, seed=1), integers(7, high=5)


@define(
    "linear_cross_entropy",
    infer=_type,
    lowering=Composite(_build),
    ref=_ref,
    vjp=_vjp,
    samples=samples(
        Sample((_x, _w, _t), {"chunk": 3}),
        Sample((_x, _w, _t, randn(5, seed=2)), {"reduction": "none", "chunk": 4, "label_smoothing": 0.2}),
        Sample((_x, _w, np.array([0, -100, 3, 4, -100, 1, 2]), randn(5, seed=2)), {"label_smoothing": 0.1, "chunk": 2}),
        Sample((randn(2, 3, 4), _w, integers(2, 3, high=5)), {"reduction": "sum"}),
    ),
)
def linear_cross_entropy(
    x: Operand,
    weight: Operand,
    target: Operand,
    bias: Operand | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    chunk: int | None = None,
) -> Value:
    """cross_entropy(linear(x, weight, bias), target) without the [N, V] logits: those of `chunk` rows at a time.

    x: [..., D]; weight: [V, D]; bias: [V]; target: integers [...]. The logits are computed again in backward: the
    price is one more product. Logits, and the sums over them, are float32 for 16-bit x; the result has x's dtype.
    chunk: default so many rows that their logits take about the memory of x. A class out of range gives NaN; rows whose
    target is ignore_index count nothing, and the mean is over the others.
    """
    x, weight, target = as_value(x), as_value(weight), as_value(target)
    if not x.ndim or weight.ndim != 2 or x.shape[-1] != weight.shape[1] or 0 in weight.shape:
        raise ShapeError(f"x {x.shape} does not fit weight {weight.shape}: [..., D] and [V, D]")
    if target.shape != x.shape[:-1]:
        raise ShapeError(f"target has shape {target.shape}; x {x.shape} asks for {x.shape[:-1]}")
    if not target.dtype.is_integer:
        raise DTypeError(f"class indices must be integers, got {target.dtype}")
    if not x.dtype.is_float or not weight.dtype.is_float:
        raise DTypeError(f"needs floating x and weight, got {x.dtype} and {weight.dtype}")
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    if chunk is not None and chunk < 1:
        raise ArgumentError(f"chunk must be positive, got {chunk}")
    if bias is not None and as_value(bias).shape != weight.shape[:1]:
        raise ShapeError(f"bias must have shape {weight.shape[:1]}, got {as_value(bias).shape}")
    classes, width = weight.shape
    target = target if target.dtype.itemsize >= 4 else call("cast", target, "int32")
    targets = call("reshape", target, (-1,)) if target.ndim else call("reshape", target, (1,))
    rows = call("reshape", x, (targets.size, width))
    kept = not_equal(targets, ignore_index)
    inputs = [rows, call("cast", weight, x.dtype), targets, *([] if bias is None else [as_value(bias)])]
    size = chunk or _default_chunk(targets.size, width, classes)
    if not targets.size:
        terms = call("full", (0,), 0.0, x.dtype.compute)
    else:
        found = make("linear_cross_entropy", inputs, smoothing=float(label_smoothing), chunk=size).outputs
        terms = call("concat", found[: len(found) // 2], 0)
    loss = counted(terms, targets, ignore_index, classes)
    if reduction == "mean":
        return call("cast", div(sum(loss), sum(call("cast", kept, loss.dtype))), x.dtype)
    return call("reshape", reduced(loss, reduction, x.dtype), target.shape if reduction == "none" else ())
