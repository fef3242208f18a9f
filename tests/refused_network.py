"""What norms, activations, positions and losses refuse: see test_ops_errors.py."""

from __future__ import annotations

import numpy as np
from symbols import b, f, i

import flame_triton as ft
from flame_triton.errors import ArgumentError, DTypeError, ShapeError

# fmt: off
REFUSED = [
    # name, call, error, part of the message
    ("group_norm", lambda: ft.group_norm(f(2, 6, 3), 4), ArgumentError, "num_groups 4"),
    ("group_norm", lambda: ft.group_norm(f(6), 2), ShapeError, r"\[N, C"),
    ("group_norm", lambda: ft.group_norm(f(2, 6), 2, f(3)), ShapeError, r"\(6,\)"),
    ("group_norm", lambda: ft.group_norm(i(2, 6), 2), DTypeError, "int64"),
    ("batch_norm", lambda: ft.batch_norm(f(2, 3), None, None), ArgumentError, "running_mean and running_var"),
    ("batch_norm", lambda: ft.batch_norm(f(1, 3), None, None, training=True), ShapeError, "one value"),
    ("batch_norm", lambda: ft.batch_norm(f(2, 3), f(4), f(3)), ShapeError, "running_mean"),
    ("batch_norm", lambda: ft.batch_norm(f(2, 3), f(3), f(3), f(4)), ShapeError, "weight must"),
    ("batch_norm", lambda: ft.batch_norm(f(2, 3), f(3), f(3), momentum=1.5), ArgumentError, "momentum"),
    ("batch_norm_with_stats", lambda: ft.batch_norm_with_stats(f(2, 3), f(2), f(3)), ShapeError, "running statistics"),
    ("instance_norm", lambda: ft.instance_norm(f(2, 3, 1)), ShapeError, "one value"),
    ("instance_norm_with_stats",
     lambda: ft.instance_norm_with_stats(f(2, 3, 4), f(2), f(3)), ShapeError, "running statistics"),
    ("normalize", lambda: ft.normalize(i(2, 3)), DTypeError, "int64"),
    ("weight_norm", lambda: ft.weight_norm(f(3, 4), f(3)), ShapeError, r"\(3, 1\)"),
    ("standardize_weight", lambda: ft.standardize_weight(f(3, 4), f(4)), ShapeError, "gain"),
    ("spectral_norm", lambda: ft.spectral_norm(f(3, 4), f(4), f(3)), ShapeError, r"\(3, 4\)"),
    ("spectral_norm", lambda: ft.spectral_norm(f(3), f(3), f(1)), ShapeError, "two axes"),
    ("spectral_norm", lambda: ft.spectral_norm(f(3, 4), f(3), f(4), -1), ArgumentError, "n_power_iterations"),
    ("modulate", lambda: ft.modulate(f(2, 3, 4), f(2, 3), f(2, 4)), ShapeError, "shift"),
    ("modulate", lambda: ft.modulate(f(2, 3, 4), f(3, 4), f(2, 4)), ShapeError, "shift"),
    ("ada_layer_norm", lambda: ft.ada_layer_norm(f(2, 3, 4), f(2, 4), f(2, 5)), ShapeError, "scale"),
    ("celu", lambda: ft.celu(f(3), 0.0), ArgumentError, "alpha"),
    ("softsign", lambda: ft.softsign(i(3)), DTypeError, "int64"),
    ("tanhshrink", lambda: ft.tanhshrink(i(3)), DTypeError, "int64"),
    ("selu", lambda: ft.selu(i(3)), DTypeError, "int64"),
    ("quick_gelu", lambda: ft.quick_gelu(i(3)), DTypeError, "int64"),
    ("hardtanh", lambda: ft.hardtanh(f(3), 1.0, -1.0), ArgumentError, "min_val"),
    ("relu6", lambda: ft.relu6(b(3)), DTypeError, "bool"),
    ("hardsigmoid", lambda: ft.hardsigmoid(i(3)), DTypeError, "int64"),
    ("softshrink", lambda: ft.softshrink(f(3), -1.0), ArgumentError, "lambd"),
    ("hardshrink", lambda: ft.hardshrink(i(3)), DTypeError, "int64"),
    ("threshold", lambda: ft.threshold(b(3), 0.0, 1.0), DTypeError, "bool"),
    ("geglu", lambda: ft.geglu(f(2, 3)), ShapeError, "halved"),
    ("geglu", lambda: ft.geglu(f(2, 4), approximate="erf"), ArgumentError, "approximate"),
    ("swiglu", lambda: ft.swiglu(i(2, 4)), DTypeError, "int64"),
    ("reglu", lambda: ft.reglu(f(2, 3)), ShapeError, "halved"),
    ("apply_rotary_emb", lambda: ft.apply_rotary_emb(f(3, 5), f(3, 2), f(3, 2)), ShapeError, "even"),
    ("apply_rotary_emb", lambda: ft.apply_rotary_emb(f(3, 4), f(3, 4), f(3, 4)), ShapeError, r"\(3, 2\)"),
    ("apply_rotary_emb", lambda: ft.apply_rotary_emb(i(3, 4), f(3, 2), f(3, 2)), DTypeError, "x must"),
    ("rope_tables", lambda: ft.rope_tables(i(3), 5), ArgumentError, "even"),
    ("rope_tables", lambda: ft.rope_tables(i(3, 2), (2, 4, 4)), ShapeError, "axes"),
    ("rope_tables", lambda: ft.rope_tables(np.zeros((3, 2)), 4), ShapeError, r"\[T\]"),
    ("timestep_embedding", lambda: ft.timestep_embedding(f(2, 2), 8), ShapeError, r"\[N\]"),
    ("timestep_embedding", lambda: ft.timestep_embedding(f(2), 1), ArgumentError, "too small"),
    ("kl_div", lambda: ft.kl_div(f(3), f(3, 1)), ShapeError, "one shape"),
    ("kl_div", lambda: ft.kl_div(f(), f(), "batchmean"), ShapeError, "first axis"),
    ("binary_cross_entropy", lambda: ft.binary_cross_entropy(f(3), f(4)), ShapeError, "one shape"),
    ("poisson_nll_loss", lambda: ft.poisson_nll_loss(f(3), f(4)), ShapeError, "one shape"),
    ("gaussian_nll_loss", lambda: ft.gaussian_nll_loss(f(3), f(3), f(2)), ShapeError, "var"),
    ("gaussian_nll_loss", lambda: ft.gaussian_nll_loss(f(3), f(3), f(3), eps=0.0), ArgumentError, "eps"),
    ("hinge_embedding_loss", lambda: ft.hinge_embedding_loss(f(3), f(4)), ShapeError, "broadcast"),
    ("margin_ranking_loss", lambda: ft.margin_ranking_loss(f(3), f(4), f(3)), ShapeError, "broadcast"),
    ("soft_margin_loss", lambda: ft.soft_margin_loss(f(3), f(3), "avg"), ArgumentError, "reduction"),
    ("cosine_embedding_loss", lambda: ft.cosine_embedding_loss(f(3, 4), f(3, 4), f(4)), ShapeError, "target"),
    ("multilabel_soft_margin_loss", lambda: ft.multilabel_soft_margin_loss(f(3), f(4)), ShapeError, "equal"),
    ("multi_margin_loss", lambda: ft.multi_margin_loss(f(3, 4), i(4)), ShapeError, "target"),
    ("multi_margin_loss", lambda: ft.multi_margin_loss(f(3, 4), i(3), 3), ArgumentError, "p must"),
    ("multi_margin_loss", lambda: ft.multi_margin_loss(f(3, 4), f(3)), DTypeError, "integer"),
    ("multi_margin_loss", lambda: ft.multi_margin_loss(f(3, 4), i(3), weight=f(3)), ShapeError, "weight"),
    ("multilabel_margin_loss", lambda: ft.multilabel_margin_loss(f(3, 4), i(3)), ShapeError, "target"),
    ("triplet_margin_loss", lambda: ft.triplet_margin_loss(f(3), f(3), f(3), margin=0.0), ArgumentError, "margin"),
    ("triplet_margin_with_distance_loss",
     lambda: ft.triplet_margin_with_distance_loss(f(3), f(3), f(4)), ShapeError, "broadcast"),
    ("linear_cross_entropy", lambda: ft.linear_cross_entropy(f(3, 4), f(5, 3), i(3)), ShapeError, r"\[V, D\]"),
    ("linear_cross_entropy", lambda: ft.linear_cross_entropy(f(3, 4), f(5, 4), i(4)), ShapeError, "target"),
    ("linear_cross_entropy", lambda: ft.linear_cross_entropy(f(3, 4), f(5, 4), f(3)), DTypeError, "integers"),
    ("linear_cross_entropy", lambda: ft.linear_cross_entropy(f(3, 4), f(5, 4), i(3), f(4)), ShapeError, "bias"),
    ("linear_cross_entropy", lambda: ft.linear_cross_entropy(f(3, 4), f(5, 4), i(3), chunk=0), ArgumentError, "chunk"),
    ("linear_cross_entropy",
     lambda: ft.linear_cross_entropy(f(3, 4), f(5, 4), i(3), label_smoothing=2), ArgumentError, "label_smoothing"),
]
# fmt: on

ACCEPTS_ALL: set[str] = set()
