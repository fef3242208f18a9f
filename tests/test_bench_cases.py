"""The registry of bench/: it holds every row there is a bar for, and both sides of each case compute the same."""

from __future__ import annotations

import numpy as np
import pytest

cases_module = pytest.importorskip("bench.cases", reason="bench/ is part of a checkout alone")
torch = pytest.importorskip("torch")

import flame_triton as ft  # noqa: E402
from bench.backward import cut_forward  # noqa: E402
from bench.case import Array, KernelCase, Scale, bytes_of  # noqa: E402
from bench.cases import FAMILIES, chosen, registry  # noqa: E402
from bench.cases.optimizer import shapes  # noqa: E402
from bench.harness import once, relative_error  # noqa: E402
from bench.opponents import MODES  # noqa: E402
from flame_triton.ir.graph import Graph  # noqa: E402

QUICK = registry(Scale(quick=True))
FULL = {case.name: case for case in registry(Scale())}

ROWS = [
    "4608x3072x9216 nt", "4608x3072x12288 nt", "4608x12288x3072 nt", "4608x12288x3072 nn", "12288x4608x3072 tn",
    "4096x1280x10240 nt", "16384x640x640 nt", "8192x8192x8192 nn",
    *(f"attention {size} {way}" for way in ("fwd", "bwd", "bwd, in any order") for size in (
        "1x24x4608x128", "2x16x8192x128", "2x16x8192x128 causal", "2x24x4429x64", "4x10x4096x64",
        "4x10x4096x77x64 cross")),
    *(f"conv 3x3 {size} {way}" for way in ("fwd", "dgrad", "wgrad") for size in (
        "320 128x128 b4", "640 64x64 b4", "1280 32x32 b4", "2560->1280 32x32 b4", "s2 320 128x128 b4",
        "128 512x512 b1")),
    *(f"{norm} 16384x3072 {way}" for way in ("fwd", "bwd") for norm in (
        "LayerNorm", "RMSNorm", "LN + modulate", "softmax", "GELU")),
    "GroupNorm + SiLU NHWC 4x320x128x128 fwd", "GroupNorm + SiLU NHWC 4x320x128x128 bwd",
    "AdamW float32, 268M in 416 tensors",
]  # fmt: skip
"""Every row with a measured bar."""


def test_every_row_has_a_case_with_its_bar() -> None:
    missing = [row for row in ROWS if row not in FULL]
    assert not missing, f"rows without a case: {missing}"
    assert all(FULL[row].bar for row in ROWS), [row for row in ROWS if not FULL[row].bar]


def test_names_are_unique_and_scales_agree() -> None:
    assert len(FULL) == len(registry(Scale())), "two cases have one name"
    assert [case.name for case in QUICK] == list(FULL)


def test_epilogues_norms_and_steps_are_there() -> None:
    for family, count in (
        ("epilogue", 11),
        ("norm", 16),
        ("pointwise", 16),
        ("optimizer", 2),
        ("step", 2),
        ("group", 6),
    ):
        assert sum(case.family == family for case in FULL.values()) >= count, family
    for case in FULL.values():
        if case.family == "epilogue":
            assert isinstance(case, KernelCase) and case.bare is not None and "max-autotune" in case.modes, case.name


@pytest.mark.parametrize("case", QUICK, ids=lambda case: f"{case.family}: {case.name}")
def test_both_sides_agree(case: object) -> None:
    """Ours on the references, and every opponent that needs no compiler and no GPU, against torch in float64."""
    session = case.open("reference")  # type: ignore[attr-defined]
    reference = session.reference()
    found = session.ours()
    assert relative_error(once(found["ours"]), reference) < session.tolerance
    for name, make in session.opponents().items():
        libraries = case.family in ("attention", "group") and name not in ("sdpa", "eager")  # type: ignore[attr-defined]
        if not libraries and (name not in (*MODES, "cuDNN") or case.family == "conv"):  # type: ignore[attr-defined]
            results = once(make())
            # An opponent that keeps 16-bit results rounds as ours does.
            bound = 1e-5 if all(r.dtype.itemsize >= 4 for r in results) else session.tolerance
            assert relative_error(results, reference) < bound, name


def test_bytes_count_each_tensor_once() -> None:
    """Sizes worked out by hand, in bfloat16: x, w, b and y; then g, x, w and dx, dw, db with mean and rstd saved."""
    forward, backward = (FULL[f"LayerNorm 16384x3072 {way}"] for way in ("fwd", "bwd"))
    m, n = 16384, 3072
    assert bytes_of(forward.build()) == 2 * (2 * m * n + 2 * n)
    assert bytes_of(backward.build()) == 2 * (3 * m * n + 3 * n) + 2 * 4 * m
    adamw = FULL["AdamW float32, 268M in 416 tensors"]
    numbers = sum(int(np.prod(s)) for s in shapes(Scale()))
    assert 265e6 < numbers < 272e6 and len(shapes(Scale())) >= 400
    assert bytes_of(adamw.build()) == 7 * 4 * numbers + 16  # and the step count, read and written


def test_residual_is_not_read_by_its_gradient() -> None:
    """dx is the cotangent itself: nothing to move. What is: g, y and the gate; dy and dgate."""
    case = FULL["residual + gate 4608x3072 bwd"]
    rows, n = 4608, 3072
    assert bytes_of(case.build()) == 2 * (3 * rows * n + 2 * n)


def test_backward_is_cut_from_forward() -> None:
    """The statistics are handed in; nothing of the forward pass is reduced again, and the gradient stays right."""
    x, w = ft.parameter((5, 8), name="x"), ft.parameter((8,), name="w")
    g = ft.parameter((5, 8), name="g")
    outputs, saved = cut_forward(ft.grad(ft.layer_norm(x, 8, w), [x, w], grad_output=g))
    assert {tuple(p.shape) for p in saved} == {(5, 1)} and len(saved) == 2
    assert not [n for n in Graph((), tuple(outputs)).nodes if n.op.name == "sum" and n.origin is None]


def test_chosen_takes_families_and_patterns() -> None:
    assert {c.family for c in chosen(Scale(True), ("gemm", "step"))} == {"gemm", "step"}
    assert [c.name for c in chosen(Scale(True), ("norm",), ("rmsnorm*bwd",))] == [
        "RMSNorm 16384x3072 bwd",
        "RMSNorm 4608x3072 bwd",
    ]
    with pytest.raises(ValueError, match="no family 'gem'; there are gemm"):
        chosen(Scale(True), ("gem",))
    with pytest.raises(ValueError, match="no case is called 'nothing'"):
        chosen(Scale(True), (), ("nothing",))
    assert set(FAMILIES) == {case.family for case in QUICK}


def test_quick_sizes_are_small() -> None:
    assert Scale(True).of(4608) == 16 and Scale(True).of(77) == 8 and Scale(True).of(4) == 4
    assert Scale().of(4608) == 4608
    made = Array((3, 2), "int64", below=2).make(torch.Generator().manual_seed(0), "cpu")
    assert made.dtype is torch.int64 and int(made.max()) < 2
