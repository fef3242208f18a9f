"""Every form of the convolution kernels compiles for sm_80 and sm_90 on a machine without a GPU, into good code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

SCRIPT = """
import dataclasses, json, sys
import flame_triton as ft
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.ops.convolution import convolution
from flame_triton.runtime.ahead import compile_ahead
from flame_triton.runtime.lower import lower

arch, cases = int(sys.argv[1]), json.loads(sys.argv[2])
target = Target(arch, False, *((132, 232448) if arch == 90 else (108, 166912)))
launches = []
for n, size, c, k, r, stride, groups, dilation, dtype in cases:
    x, w = ft.input((n, size, size, c), dtype), ft.input((k, r, r, c // groups), dtype)
    bias, image, pad = ft.input((k,), dtype), ft.input((n, 1, 1, k), dtype), r // 2 * dilation
    y = convolution(x, w, (stride,) * 2, ((pad, pad),) * 2, (dilation,) * 2, groups)
    g = ft.input(y.shape, dtype)
    outputs = (ft.silu(y + bias + image), *ft.grad(y, [x, w], grad_output=g))
    schedule = lower(Graph((x, w, bias, image, g), outputs), {}, target)
    launches += [step for step in schedule.launches if step.label.startswith("conv")]
print("REPORTS " + json.dumps([dataclasses.asdict(r) for r in compile_ahead(launches, target)]))
"""

SHARED = {80: 166912, 90: 232448}
# n, height and width, channels, output channels, kernel, stride, groups, dilation, dtype
CASES = [
    (4, 128, 320, 320, 3, 1, 1, 1, "bfloat16"),
    (4, 32, 1280, 1280, 3, 1, 1, 1, "bfloat16"),
    (4, 64, 640, 640, 3, 2, 1, 1, "bfloat16"),
    (4, 128, 4, 320, 3, 1, 1, 1, "bfloat16"),
    (4, 128, 320, 4, 3, 1, 1, 1, "bfloat16"),
    (4, 64, 256, 512, 1, 2, 1, 1, "bfloat16"),
    (4, 64, 256, 256, 3, 1, 32, 1, "bfloat16"),
    (4, 64, 256, 512, 3, 2, 256, 1, "bfloat16"),
    (2, 32, 40, 80, 3, 1, 1, 1, "bfloat16"),
    (4, 64, 128, 128, 3, 1, 1, 2, "float16"),
    (4, 64, 128, 128, 3, 1, 1, 1, "float32"),
    (1, 16, 32, 32, 3, 1, 1, 1, "float64"),
    (1, 8, 8, 8, 3, 1, 1, 1, "bfloat16"),
]


def reports(arch: int, cases: list[Any]) -> list[dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "FLAME_INTERPRET")}
    environment |= {"FLAME_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", SCRIPT, str(arch), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("REPORTS "))[8:])


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("cases", [CASES[:1], pytest.param(CASES, marks=pytest.mark.slow)], ids=["one", "all"])
def test_kernels_compile(arch: int, cases: list[Any]) -> None:
    found = reports(arch, cases)
    assert len(found) == 3 * len(cases)
    for kernel in found:
        assert kernel["error"] is None, kernel
        assert kernel["shared_bytes"] <= SHARED[arch], kernel
        assert kernel["spills"] == 0, kernel
        assert not kernel["remarks"], kernel
    if cases == CASES[:1]:  # operands go to shared memory in several stages, asynchronously
        assert all(kernel["shared_bytes"] >= 3 * 8192 for kernel in found)
