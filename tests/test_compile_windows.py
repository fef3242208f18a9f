"""Pooling and resizing, forward and backward, compile for sm_80 and sm_90 on a machine without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import dataclasses, json, sys
import flame_triton as ft
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.ahead import compile_ahead
from flame_triton.runtime.lower import lower

arch = int(sys.argv[1])
target = Target(arch, False, *((132, 232448) if arch == 90 else (108, 166912)))
functions = {
    "max": lambda x: ft.max_pool2d(ft.silu(x), 3, 2, 1),
    "dilated": lambda x: ft.max_pool2d(x, 3, 2, 1, 2),
    "bilinear": lambda x: ft.interpolate(x, scale_factor=2, mode="bilinear"),
    "reflect": lambda x: ft.pad(x, (1, 1, 1, 1), mode="reflect"),
}
found = []
for name, function in functions.items():
    x = ft.input((4, 64, 56, 56), "bfloat16")
    y = function(x)
    g = ft.input(y.shape, "bfloat16")
    graph = Graph((x, g), (y, *ft.grad(y, [x], grad_output=g)))
    for report in compile_ahead(lower(graph, {}, target).launches, target):
        found.append({"of": name, **dataclasses.asdict(report)})
print("REPORTS " + json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
def test_kernels_of_windows_compile(arch: int) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "FLAME_INTERPRET")}
    environment |= {"FLAME_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", SCRIPT, str(arch)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("REPORTS "))[8:])
    assert len(found) >= 11
    for report in found:
        assert report["error"] is None, report
        assert not report["spills"], report
        assert report["shared_bytes"] <= 1 << 14, report
