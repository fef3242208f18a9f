"""What the ops of the first hour refuse: see test_ops_errors.py, which runs every refused_*.py."""

from __future__ import annotations

import math

import numpy as np
from symbols import b, f, i

import flame_triton as ft
from flame_triton.errors import ArgumentError, DTypeError, GraphError, ShapeError

# fmt: off
REFUSED = [
    # name, call, error, part of the message
    ("add", lambda: f(3, 4) + f(5), ShapeError, r"\(3, 4\), \(5,\)"),
    ("sub", lambda: ft.sub(b(3), b(3)), DTypeError, "bool"),
    ("mul", lambda: f(2) * "two", DTypeError, "str"),
    ("neg", lambda: -b(3), DTypeError, "bool"),
    ("abs", lambda: ft.abs(b(3)), DTypeError, "bool"),
    ("clamp", lambda: ft.clamp(f(3)), ArgumentError, "min, max or both"),
    ("clamp", lambda: ft.clamp(f(3), f(4), 1.0), ShapeError, "broadcast"),
    ("where", lambda: ft.where(b(3), f(4), f(3)), ShapeError, "broadcast"),
    ("relu", lambda: ft.relu(b(3)), DTypeError, "bool"),
    ("silu", lambda: ft.silu(i(3)), DTypeError, "int64"),
    ("gelu", lambda: ft.gelu(f(3), approximate="erf"), ArgumentError, "approximate"),
    ("prelu", lambda: ft.prelu(f(2, 3), f(4)), ShapeError, r"\(4,\)"),
    ("glu", lambda: ft.glu(f(2, 3)), ShapeError, "halved"),
    ("reshape", lambda: f(3, 4).reshape(5, 2), ShapeError, "12 elements"),
    ("reshape", lambda: ft.reshape(f(3, 4), (-1, -1)), ShapeError, "only one"),
    ("reshape", lambda: ft.reshape(f(3, 4), (-1, 5)), ShapeError, r"\(3, 4\)"),
    ("flatten", lambda: ft.flatten(f(3, 4, 5), 2, 1), ArgumentError, "start_dim 2"),
    ("squeeze", lambda: ft.squeeze(f(3, 4), 1), ShapeError, "size 4"),
    ("expand_dims", lambda: ft.expand_dims(f(3), (0, 0)), ShapeError, "twice"),
    ("transpose", lambda: ft.transpose(f(3, 4), (0, 0)), ShapeError, "permutation"),
    ("swapaxes", lambda: ft.swapaxes(f(3, 4), 0, 2), ShapeError, "axis2 2"),
    ("broadcast_to", lambda: ft.broadcast_to(f(3), (4,)), ShapeError, "broadcast"),
    ("slice", lambda: ft.slice(f(5), (3,), (3,)), ShapeError, "size 5"),
    ("narrow", lambda: ft.narrow(f(5), 0, 4, 2), ShapeError, "length 2"),
    ("flip", lambda: ft.flip(f(5), 1), ShapeError, "out of range"),
    ("pad", lambda: ft.pad(f(5), ((1, 1), (1, 1))), ShapeError, "2 pairs for 1"),
    ("pad", lambda: ft.pad(f(5), ((-3, -3),)), ShapeError, "crops"),
    ("concat", lambda: ft.concat([]), ArgumentError, "at least one"),
    ("concat", lambda: ft.concat([f(2, 3), f(2, 4)]), ShapeError, "axis 0"),
    ("concat", lambda: ft.concat([f(), f()]), ShapeError, "stack"),
    ("stack", lambda: ft.stack([f(2), f(3)]), ShapeError, "stack"),
    ("split", lambda: ft.split(f(5), (2, 2)), ShapeError, "add up"),
    ("split", lambda: ft.split(f(5), 0), ArgumentError, "positive"),
    ("chunk", lambda: ft.chunk(f(5), 0), ArgumentError, "positive"),
    ("repeat", lambda: ft.repeat(f(5), -1), ArgumentError, "non-negative"),
    ("tile", lambda: ft.tile(f(5), (-1,)), ShapeError, "negative"),
    ("roll", lambda: ft.roll(f(5), (1, 2), 0), ArgumentError, "2 shifts"),
    ("getitem", lambda: f(5)[5], ShapeError, "out of range"),
    ("getitem", lambda: f(5)[0, 0], ShapeError, "2 indices"),
    ("getitem", lambda: f(5)["a"], ArgumentError, "cannot index"),
    ("take", lambda: ft.take(f(5, 3), f(2)), DTypeError, "integers"),
    ("take", lambda: ft.take(f(5, 3), i(2), 2), ShapeError, "out of range"),
    ("gather", lambda: ft.gather(f(5, 3), 0, i(2)), ShapeError, "does not fit"),
    ("index_select", lambda: ft.index_select(f(5, 3), 0, i(2, 2)), ShapeError, "at most one"),
    ("scatter_add", lambda: ft.scatter_add(f(5), 0, i(2), f(3)), ShapeError, "one shape"),
    ("scatter_add", lambda: ft.scatter_add(f(5), 0, i(2), f(2, dtype="float64")), DTypeError, "float64"),
    ("embedding", lambda: ft.embedding(i(2), f(5)), ShapeError, r"\[rows, width\]"),
    ("embedding", lambda: ft.embedding(i(2), f(5, 3), padding_idx=5), ArgumentError, "padding_idx"),
    ("tril", lambda: ft.tril(f(5)), ShapeError, "two axes"),
    ("sum", lambda: ft.sum(f(3, 4), axis=2), ShapeError, "axis 2"),
    ("sum", lambda: ft.sum(f(3, 4), axis=(0, -2)), ShapeError, "twice"),
    ("mean", lambda: ft.mean(i(3)), DTypeError, "int64"),
    ("max", lambda: ft.max(f(0, 3), axis=0), ShapeError, "no elements"),
    ("argmin", lambda: ft.argmin(f(0)), ShapeError, "no elements"),
    ("var", lambda: ft.var(i(3)), DTypeError, "int64"),
    ("norm", lambda: ft.norm(i(3)), DTypeError, "int64"),
    ("norm", lambda: ft.norm(f(0), p=math.inf), ShapeError, "no elements"),
    ("logsumexp", lambda: ft.logsumexp(i(3)), DTypeError, "int64"),
    ("softmax", lambda: ft.softmax(i(3, 4)), DTypeError, "give dtype"),
    ("softmax", lambda: ft.softmax(f(3, 4), axis=2), ShapeError, "axis 2"),
    ("matmul", lambda: f(3, 4) @ f(3, 4), ShapeError, "inner sizes 4 and 3"),
    ("matmul", lambda: f() @ f(3), ShapeError, "dimensions"),
    ("matmul", lambda: i(3, 4) @ i(4, 3), DTypeError, "int64"),
    ("matmul", lambda: f(2, 3, 4) @ f(3, 4, 5), ShapeError, "broadcast"),
    ("linear", lambda: ft.linear(f(3, 4), f(5, 3)), ShapeError, r"\[out, in\]"),
    ("layer_norm", lambda: ft.layer_norm(f(3, 4), 3), ShapeError, "end of x's shape"),
    ("layer_norm", lambda: ft.layer_norm(f(3, 4), 4, f(3)), ShapeError, "weight and bias"),
    ("layer_norm", lambda: ft.layer_norm(i(3, 4), 4), DTypeError, "int64"),
    ("rms_norm", lambda: ft.rms_norm(f(3, 4), (3, 4), f(4)), ShapeError, "weight and bias"),
    ("mse_loss", lambda: ft.mse_loss(f(3), f(3, 1)), ShapeError, "one shape"),
    ("l1_loss", lambda: ft.l1_loss(f(3), f(3), reduction="avg"), ArgumentError, "reduction"),
    ("huber_loss", lambda: ft.huber_loss(f(3), f(3), delta=0), ArgumentError, "delta"),
    ("smooth_l1_loss", lambda: ft.smooth_l1_loss(f(3), f(3), beta=-1.0), ArgumentError, "beta"),
    ("cross_entropy", lambda: ft.cross_entropy(f(3, 4), i(4)), ShapeError, "target has shape"),
    ("cross_entropy", lambda: ft.cross_entropy(f(3, 4), b(3)), DTypeError, "integers"),
    ("cross_entropy", lambda: ft.cross_entropy(f(3, 4), f(3)), ShapeError, "probabilities"),
    ("cross_entropy", lambda: ft.cross_entropy(f(3, 4), i(3), f(3)), ShapeError, "4 classes"),
    ("cross_entropy", lambda: ft.cross_entropy(f(3, 4), i(3), label_smoothing=2), ArgumentError, "label_smoothing"),
    ("cross_entropy", lambda: ft.cross_entropy(i(3, 4), i(3)), DTypeError, "floating"),
    ("nll_loss", lambda: ft.nll_loss(f(), i()), ShapeError, "class axis"),
    ("binary_cross_entropy_with_logits",
     lambda: ft.binary_cross_entropy_with_logits(f(3), f(4)), ShapeError, "one shape"),
    ("uniform", lambda: ft.uniform((3,), f(2)), ArgumentError, "rng_seed"),
    ("normal", lambda: ft.normal((3,), 7), ArgumentError, "rng_seed"),  # pyright: ignore[reportArgumentType]
    ("uniform", lambda: ft.uniform((3,), ft.rng_seed(0), dtype="int64"), DTypeError, "floating"),
    ("randint", lambda: ft.randint(3, 3, (2,), ft.rng_seed(0)), ArgumentError, "high - low"),
    ("bernoulli", lambda: ft.bernoulli(1.5, (2,), ft.rng_seed(0)), ArgumentError, r"\[0, 1\]"),
    ("dropout", lambda: ft.dropout(f(3), 0.5), ArgumentError, "seed="),
    ("dropout", lambda: ft.dropout(f(3), -0.5), ArgumentError, r"\[0, 1\]"),
    ("rng_seed", lambda: ft.rng_seed(-1), ArgumentError, "2\\^64"),
    ("next_step", lambda: ft.next_step(f(2)), ArgumentError, "rng_seed"),
    ("foreach", lambda: ft.foreach(lambda x: x, []), ShapeError, "at least one"),
    ("foreach", lambda: ft.foreach(lambda x, y: x, [[f(2), f(3)]]), ShapeError, "row 0"),
    ("foreach", lambda: ft.foreach(lambda x: x, [[f(2)], [f(3, dtype="float64")]]), DTypeError, "row 1"),
    ("foreach", lambda: ft.foreach(lambda x, s: x, [[f(2)]], [f(1)]), ShapeError, "0-d"),
    ("foreach", lambda: ft.foreach(lambda x: ft.sum(ft.reshape(x, (1,))), [[f(2)]]), GraphError, "pointwise"),
    ("foreach_sum", lambda: ft.foreach_sum(lambda x: x > 0, [[f(2)]]), GraphError, "floating"),
    ("input", lambda: ft.input((-1, 2)), ShapeError, "negative"),
    ("input", lambda: ft.input((2,), name=""), ArgumentError, "non-empty"),
    ("input", lambda: ft.input((2.5,)), ShapeError, "ints"),  # pyright: ignore[reportArgumentType]
    ("input", lambda: ft.input((2,), "complex64"), DTypeError, "complex64"),
    ("parameter", lambda: ft.parameter((2,), init=np.zeros(3)), ArgumentError, "init"),
    ("full", lambda: ft.full((2,), 1.5, "int32"), DTypeError, "1.5"),
    ("full", lambda: ft.full((2,), 300, "uint8"), DTypeError, "300"),
    ("full", lambda: ft.full((2,), math.nan, "int64"), DTypeError, "nan"),
    ("arange", lambda: ft.arange(0, 5, 0), ArgumentError, "zero"),
    ("arange", lambda: ft.arange(0, 1, 0.25, dtype="int64"), DTypeError, "0.25"),
    ("cast", lambda: ft.cast(f(2), "int7"), DTypeError, "int7"),
]
# fmt: on

ACCEPTS_ALL = {
    *("logical_and", "logical_or", "logical_xor", "logical_not", "nan_to_num", "masked_fill", "stop_gradient"),
    *("zeros", "ones", "zeros_like", "ones_like", "full_like"),  # as full
    *("leaky_relu", "elu", "softplus", "logsigmoid", "mish", "hardswish"),  # as silu
    *("any", "all", "min", "prod", "argmax", "std"),  # as sum and max
    *("log_softmax", "softmin", "triu", "unbind", "one_hot", "gather_rows", "scatter_add_rows"),
}
"""Functions of these families with nothing to refuse that their siblings in the table do not show."""
