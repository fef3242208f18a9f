"""`ft.custom_op`: users' Triton kernels as ops, proven like ours; and what is refused."""

from __future__ import annotations

import flame_triton as ft
from flame_triton import config

# isort: split
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import triton
import triton.language as tl
from test_examples import load

from flame_triton.errors import ArgumentError, CompileError, DeviceError, GradientError, GraphError, ShapeError
from flame_triton.graph.plan import KernelRef
from flame_triton.ops.custom import CUSTOM, Problem
from flame_triton.runtime.jit import _in_mode
from flame_triton.runtime.launch import kernel_key
from flame_triton.testing import assert_close, check_grads

ROOT = Path(__file__).resolve().parent.parent
DEVICE = "interpreter" if config.interpreted() else "cuda"


@triton.jit
def _twice(v):
    return v * 2


@triton.jit
def affine_kernel(p_x, p_y, p_sum, scale, n, BLOCK: tl.constexpr, SHIFT: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(p_x + i, mask=i < n, other=0)
    tl.store(p_y + i, _twice(x) * scale + SHIFT, mask=i < n)
    tl.store(p_sum, tl.sum(x))


def affine_vjp(node, dy, dsum):
    return [dy * 2.0 * node.attrs["scale"] + ft.broadcast_to(dsum, dy.shape)]


DEFINITION = {
    "infer": lambda x, *, scale=3: (x, x.with_shape(())),
    "kernel": affine_kernel,
    "grid": lambda problem, config: 1,
    "args": lambda problem: {"scale": problem.attrs["scale"], "n": problem.out.size, "SHIFT": 1},
    "ref": lambda x, scale=3: (2 * x * scale + 1, x.sum()),
    "vjp": affine_vjp,
    "configs": [{"BLOCK": 16}, {"BLOCK": 64, "num_warps": 1}],
    "valid": lambda problem, config: config["BLOCK"] >= problem.out.size,
}


@pytest.fixture
def define():
    """Defines ops that are gone after the test."""
    names: list[str] = []

    def make(name: str = "affine", **changes):
        names.append(name)
        return ft.custom_op(name, **{**DEFINITION, **changes})

    yield make
    for name in names:
        CUSTOM.pop(name, None)


def run(outputs, feeds: dict) -> list[np.ndarray]:
    arrays = [np.asarray(a, v.dtype.numpy) for v, a in feeds.items()]
    return [np.asarray(t.double().cpu()) for t in ft.compile(list(outputs), list(feeds), device=DEVICE)(*arrays)]


def test_evaluates_compiles_and_differentiates(define) -> None:
    affine = define()
    x = ft.input((5, 7), "float64", name="x")
    y, total = affine(ft.tanh(x), scale=4)
    gradients = ft.grad(ft.sum(y * y) + total, [x])
    feeds = {x: np.random.default_rng(0).standard_normal((5, 7))}
    for got, want in zip(run([y, total, *gradients], feeds), ft.evaluate([y, total, *gradients], feeds), strict=True):
        assert_close(got, want, "float64")
    check_grads(lambda x: list(affine(x, scale=4)), (3, 4), order=2)
    program = ft.compile([y], [x], device=DEVICE)
    assert "affine" in program.listing() and "affine_kernel" in program.listing()
    assert "test_custom_op.py" in program.listing()


def test_an_unused_result_has_a_zero_cotangent(define) -> None:
    affine = define()
    check_grads(lambda x: affine(x, scale=2)[0], (3, 4), order=2)


def test_operands_are_made_dense(define) -> None:
    affine = define()
    x = ft.input((7, 5), "float64")
    y, _ = affine(x.T[1:4], scale=1)
    feeds = {x: np.random.default_rng(0).standard_normal((7, 5))}
    np.testing.assert_allclose(run([y], feeds)[0], feeds[x].T[1:4] * 2 + 1)


def test_the_first_valid_configuration_or_the_heuristic(define) -> None:
    affine = define()
    for size, block in ((16, 16), (17, 64)):
        x = ft.input((size,))
        (launch,) = ft.compile(list(affine(x, scale=2)), [x], device=DEVICE).launches
        assert launch.constexprs == {"BLOCK": block, "SHIFT": 1}
        assert launch.options == ({} if block == 16 else {"num_warps": 1})
    x = ft.input((65,))
    with pytest.raises(ArgumentError, match=r"affine: none of the 2 configurations is valid for float32\[65\]"):
        ft.compile(list(affine(x, scale=2)), [x], device=DEVICE)
    seen: list[Problem] = []

    def heuristic(problem: Problem) -> dict:
        seen.append(problem)
        return {"BLOCK": 128}

    chosen = define("chosen", heuristic=heuristic)
    (launch,) = ft.compile(list(chosen(x, scale=2)), [x], device=DEVICE).launches
    assert launch.constexprs["BLOCK"] == 128
    assert seen[0].inputs[0].shape == (65,) and seen[0].attrs == {"scale": 2} and len(seen[0].outputs) == 2


def test_the_source_of_the_kernel_is_part_of_its_key(define, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Editing a kernel, or what it calls, and loading it again gives another program; loading it as it is does not."""
    text = (
        "import triton, triton.language as tl\n@triton.jit\ndef inner(x):\n    return x + 1\n"
        "@triton.jit\ndef kernel(p_x, p_y):\n    tl.store(p_y, inner(tl.load(p_x)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = []
    for version in (text, text, text.replace("x + 1", "x + 2")):
        (tmp_path / "edited_kernel.py").write_text(version)
        sys.modules.pop("edited_kernel", None)
        importlib.invalidate_caches()
        module = importlib.import_module("edited_kernel")
        bare = dict.fromkeys(("args", "ref", "vjp", "valid"))
        op = define("edited", infer=lambda x: x, kernel=module.kernel, configs=(), **bare)
        x = ft.input((), name="x")
        program = ft.compile([op(x)], [x], device=DEVICE)
        found.append((kernel_key(program.launches[0]), float(program(np.float32(5.0))[0])))
        CUSTOM.pop("edited")
    assert found[0] == found[1] and found[0][0] != found[2][0]
    assert [value for _, value in found] == [6.0, 6.0, 7.0]


def test_a_kernel_by_name_and_one_in_a_function(define) -> None:
    by_name = define("by_name", kernel=f"{__name__}:affine_kernel")

    @triton.jit
    def negate(p_x, p_y, BLOCK: tl.constexpr):
        i = tl.arange(0, BLOCK)
        tl.store(p_y + i, -tl.load(p_x + i))

    local = define("local", kernel=negate, infer=lambda x: x, args=None, configs=[{"BLOCK": 8}], valid=None)
    x = ft.input((8,), "float64")
    feeds = {x: np.arange(8.0)}
    np.testing.assert_array_equal(run([by_name(x, scale=1)[0]], feeds)[0], 2 * np.arange(8.0) + 1)
    np.testing.assert_array_equal(run([local(x)], feeds)[0], -np.arange(8.0))


def test_a_second_custom_op_as_gradient() -> None:
    example = load("custom_kernels")
    assert example.main() < 1e-5
    check_grads(example.swiglu, (3, 5), (3, 5), order=2)
    check_grads(example.swiglu, (3, 5), (3, 5), run=lambda outputs, feeds: run(outputs, dict(feeds)))
    check_grads(example.snake, (3, 5), np.linspace(0.5, 1.5, 5), order=2)


AHEAD = """
import sys
sys.path.insert(0, "examples")
import custom_kernels, flame_triton as ft
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.ahead import compile_ahead
from flame_triton.runtime.lower import lower
for arch in (80, 90):
    x, g = ft.input((64, 130), "bfloat16"), ft.input((64, 130), "bfloat16")
    y = custom_kernels.swiglu(x, g)
    target = Target(arch=arch)
    schedule = lower(Graph((x, g), (y, *ft.grad(ft.sum(y * y), [x, g]))), {}, target)
    reports = {r.name: r for r in compile_ahead(schedule.launches, target)}
    assert {"swiglu_kernel", "swiglu_backward_kernel"} <= set(reports), list(reports)
    assert all(r.error is None and not r.spills and r.registers for r in reports.values()), reports
print("compiled")
"""


@pytest.mark.slow
def test_compiles_ahead_for_gpus() -> None:
    environment = {**os.environ, "FLAME_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", AHEAD], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "compiled", done.stderr


# ---- refusals --------------------------------------------------------------------------------------------------


def test_a_name_is_taken(define) -> None:
    with pytest.raises(GraphError, match="exp: an op of this name exists already"):
        define("exp")
    define("mine")
    with pytest.raises(GraphError, match="mine: an op of this name"):
        ft.custom_op("mine", **DEFINITION)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": test_a_name_is_taken}, "must be decorated with @triton.jit"),
        ({"kernel": "nowhere"}, "module:function"),
        ({"name": "two words"}, "must be an identifier"),
    ],
)
def test_refused_definitions(define, changes: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        define(**changes)


def test_refused_calls(define) -> None:
    affine = define()
    x = ft.input((3,))
    with pytest.raises(ArgumentError, match=r"affine: takes \(x, \*, scale=3\).*got 2 operands") as found:
        affine(x, x)
    assert found.value.loc is not None and found.value.loc.file == __file__
    with pytest.raises(ArgumentError, match="and colour"):
        affine(x, colour=1)
    with pytest.raises(ArgumentError, match="infer must give a TensorType"):
        define("bad", infer=lambda x: None)(x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"args": lambda problem: {"scale": 1, "n": 3}}, "gives the constexpr SHIFT"),
        (
            {"args": lambda problem: {"SHIFT": 1, "n": 3}},
            "left with the parameters p_x, p_y, p_sum, scale",
        ),
        ({"args": lambda problem: {"SHIFT": 1, "n": 3, "m": 4, "scale": 1}}, "no parameter m; it has p_x"),
        (
            {"args": lambda problem: {"SHIFT": 1, "n": 3, "BLOCK": 4, "scale": 1}},
            "both args and the configuration",
        ),
        ({"args": lambda problem: {"SHIFT": 1, "n": "x", "scale": 1}}, "gives 'x' for n"),
        ({"grid": lambda problem, config: (1, 1, 1, 1)}, "one to three whole numbers"),
        ({"kernel": "test_custom_op:nothing"}, "no kernel called 'nothing'"),
        ({"kernel": "no_such_module:nothing"}, "cannot be imported"),
    ],
)
def test_refused_when_compiled(define, changes: dict, message: str) -> None:
    op = define(**changes)
    x = ft.input((3,))
    with pytest.raises((ArgumentError, CompileError), match=message) as found:
        ft.compile(list(op(x, scale=1)), [x], device=DEVICE)
    if "kernel" not in changes:
        assert found.value.op == "affine" and found.value.loc is not None and found.value.loc.file == __file__


def test_missing_reference_and_gradient(define) -> None:
    op = define(ref=None, vjp=None)
    x = ft.input((3,), "float64")
    y = op(x, scale=1)[0]
    np.testing.assert_array_equal(run([y], {x: np.arange(3.0)})[0], 2 * np.arange(3.0) + 1)
    with pytest.raises(GraphError, match="affine: has no ref="):
        ft.evaluate(y, {x: np.arange(3.0)})
    with pytest.raises(GradientError, match="affine has no gradient"):
        ft.grad(ft.sum(y), [x])


def test_a_shape_rule_that_disagrees_with_the_reference(define) -> None:
    op = define(ref=lambda x, scale=3: (x[:-1], x.sum()))
    x = ft.input((3,))
    with pytest.raises(ShapeError, match=r"affine: the reference gives shape \(2,\), the shape rule \(3,\)"):
        ft.evaluate(op(x, scale=1)[0], {x: np.arange(3.0)})


def test_a_backward_op_with_too_few_results(define) -> None:
    op = define(infer=lambda x, y, scale=3: (x, x.with_shape(())), vjp=define("back", infer=lambda *_: _[0]))
    x, y = ft.input((3,)), ft.input((3,))
    with pytest.raises(ShapeError, match="its backward op back has 1 results for 2 floating operands"):
        ft.grad(ft.sum(op(x, y)[0]), [x])


def test_a_kernel_of_the_other_mode_is_refused() -> None:
    other = type("JITFunction" if config.interpreted() else "InterpretedFunction", (), {})
    if config.interpreted():
        other = type("Compiled", (triton.JITFunction,), {"__init__": lambda self: None})
    with pytest.raises(DeviceError, match="import flame_triton before triton"):
        _in_mode(KernelRef("theirs", "kernel"), other())
