"""Every kernel of every optimizer's step compiles for sm_80 and sm_90 without a GPU, and spills nothing."""

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
from flame_triton.optim import *
from flame_triton.runtime.ahead import compile_ahead
from flame_triton.runtime.lower import lower

arch = int(sys.argv[1])
target = Target(arch, False, *((132, 232448) if arch == 90 else (108, 166912)))
SHAPES = [(640, 320), (640,), (256, 640), (256, 640)]
MASTER = {"master": "float32", "clip_norm": 1.0, "ema": 0.999}
CASES = {
    "plain": lambda p: AdamW(p, 1e-3),
    "mixed": lambda p: AdamW(p, 1e-3, scaler=LossScaler(), **MASTER),
    "groups": lambda p: AdamW(p, schedule.cosine(1e-3, 100), groups=[
        group("w1", weight_decay=0.0), group("w2", rate=0.5, schedule=schedule.cosine_restarts(1e-3, 10, 2))]),
    "layer": lambda p: AdamW(p, 1e-3, clip_layer=1.0),
    "value": lambda p: Lion(p, schedule.one_cycle(1e-3, 100), clip_value=1.0, **{"master": "float32"}),
    "adaptive": lambda p: SGD(p, 1e-3, momentum=0.9, clip_adaptive=0.01),
    "radam": lambda p: RAdam(p, 1e-3, **MASTER),
    "nadam": lambda p: NAdam(p, schedule.step(1e-3, 10), **MASTER),
    "schedule-free": lambda p: ScheduleFreeAdamW(p, 1e-3, master="float32"),
    "prodigy": lambda p: Prodigy(p, schedule.polynomial(1.0, 100, 2.0), bias_correction=True, **MASTER),
    "adafactor": lambda p: Adafactor(p, 1e-3, weight_decay=0.1, rounding="stochastic"),
    "muon": lambda p: Muon(p, 1e-3, **MASTER),
    "accumulate": lambda p: Accumulate(AdamW(p, 1e-3, **MASTER), 4),
}
found = {}
for name, make in CASES.items():
    weights = [ft.parameter(s, "bfloat16", name=f"w{i}") for i, s in enumerate(SHAPES)]
    gradients = [ft.input(s, "bfloat16") for s in SHAPES]
    optimizer = make(weights)
    news = [optimizer.updates(gradients)]
    if name == "accumulate":
        news.append(optimizer.adds(gradients))
    launches = [l for n in news for l in lower(Graph(tuple(gradients), ()), n, target).launches]
    found[name] = [dataclasses.asdict(r) for r in compile_ahead(launches, target)]
print("REPORTS " + json.dumps(found))
"""

SHARED = {80: 166912, 90: 232448}


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
def test_optimizers_compile(arch: int) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "FLAME_INTERPRET")}
    environment |= {"FLAME_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", SCRIPT, str(arch)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("REPORTS "))
    for name, kernels in json.loads(line[8:]).items():
        for kernel in kernels:
            assert kernel["error"] is None, (name, kernel)
            assert kernel["shared_bytes"] <= SHARED[arch] and not kernel["remarks"], (name, kernel)
            assert kernel["spills"] == 0, (name, kernel)
