"""The kernels of the pointwise mathematics, gradients included, compile for sm_80 and sm_90 without a GPU."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["FLAME_INTERPRET"] = "0"

import flame_triton as ft  # isort: skip
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph

ONE = """lgamma digamma erfinv erfcx ndtr log_ndtr ndtri i0 i0e i1 i1e sinc entr logit frac signbit rint""".split()
TWO = "hypot copysign fmod fmax fmin logaddexp logaddexp2 xlogy xlog1py heaviside".split()
INTEGER = "bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift gcd lcm".split()
SHARED = {80: 166912, 90: 232448}
# Bytes stored and loaded per thread. In float64, kept for proofs, a function and its derivatives in one kernel hold
# more constants than there are registers; the sine's slow path, for large arguments, has a small table of its own.
SPILLS = {"float32": 128, "float64": 8192}
SIZE = 4096


def floating_graph(dtype: str) -> Graph:
    """Every function of its own operands, with its gradients."""
    inputs: list[ft.Value] = []
    outputs: list[ft.Value] = []
    calls = [(getattr(ft, name), 1) for name in ONE] + [(getattr(ft, name), 2) for name in TWO]
    calls += [(lambda x: ft.polygamma(1, x), 1), (lambda x: ft.polygamma(4, x), 1)]
    for function, count in calls:
        operands = [ft.input((SIZE,), dtype) for _ in range(count)]
        y = function(*operands)
        inputs += operands
        outputs += [y, *ft.grad(y, operands, grad_output=ft.ones(y.shape, y.dtype))] if y.dtype.is_float else [y]
    x, y = ft.input((SIZE,), dtype), ft.input((SIZE,), dtype)
    return Graph((*inputs, x, y), (*outputs, ft.nextafter(x, y)))


def integer_graph(dtype: str) -> Graph:
    x, y = ft.input((SIZE,), dtype), ft.input((SIZE,), dtype)
    return Graph((x, y), (*(getattr(ft, name)(x, y) for name in INTEGER), ~x))


def main(arch: int) -> None:
    """Compiles everything for one architecture and prints what became of it."""
    from flame_triton.runtime.ahead import compile_ahead
    from flame_triton.runtime.lower import lower

    target = Target(arch, False, *((132, SHARED[90]) if arch == 90 else (108, SHARED[80])))
    graphs = {dtype: floating_graph(dtype) for dtype in ("float32", "float64")}
    graphs |= {dtype: integer_graph(dtype) for dtype in ("int64", "int32", "uint8")}
    found = {dtype: compile_ahead(lower(graph, {}, target).launches, target) for dtype, graph in graphs.items()}
    print("REPORTS " + json.dumps({dtype: [dataclasses.asdict(r) for r in part] for dtype, part in found.items()}))


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
def test_kernels_compile(arch: int) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "FLAME_INTERPRET")}
    environment |= {"FLAME_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, str(Path(__file__).resolve()), str(arch)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    kernels = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("REPORTS "))[8:])
    assert sum(map(len, kernels.values())) > 60
    for dtype, part in kernels.items():
        for kernel in part:
            assert kernel["error"] is None, kernel
            assert kernel["spills"] <= SPILLS.get(dtype, 0), kernel
            assert kernel["shared_bytes"] <= SHARED[arch], kernel


if __name__ == "__main__":
    main(int(sys.argv[1]))
