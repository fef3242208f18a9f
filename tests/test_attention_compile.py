"""Attention compiles for sm_80 and sm_90 without a GPU: within shared memory, without spills or serialised products.

Each case is a graph, forward and backward, lowered and compiled as it would be launched, in a child process, because
this one may be interpreting kernels. Run as a program with a file and names of cases, this module is that child.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":
    os.environ["FLAME_INTERPRET"] = "0"

import flame_triton as ft  # isort: skip
from flame_triton.graph.plan import Target  # isort: skip
from flame_triton.ir.graph import Graph
from flame_triton.runtime.ahead import compile_ahead
from flame_triton.runtime.families import hopper_attention
from flame_triton.runtime.lower import lower

# With eight warps this kernel spills nothing and takes 2.3 times as long on an H200.
SPILLS = {("attention_backward_keys", f"{case}, 128, sm_90"): 1024 for case in ("plain", "bias")}
SPILLS |= {("attention_backward_queries", f"causal, 72, sm_{arch}"): 16 for arch in (80, 90)}
SPILLS["attention_forward", "causal, 72, sm_90"] = 1536  # Hopper's kernel takes such calls, unless they have dropout
SPILLS["attention_backward_keys", "causal, 72, sm_90"] = 1024
# Hopper's backward pass holds two gradients and two tiles of scores in 240 registers: what does not fit is spilled
# around the loops over queries, of which a band has three. No faster form was found: see docs/performance.md.
HOPPER_SPILLS = {"backward": 1536, "backward, bias": 4096, "forward, bias": 768}
SHARED_LIMIT = {80: 166912, 90: 232448}
TARGETS = ("sm_80", "sm_90", "hopper")  # the portable kernels for both, and those for sm_90 alone


@dataclass(frozen=True)
class Problem:
    """One call: elements a head, dtype, an additive bias or not, options."""

    width: int
    dtype: str = "bfloat16"
    bias: bool = False
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def graph(self) -> Graph:
        q, k, v, g = inputs = [ft.input((2, 16, 4096, self.width), self.dtype) for _ in range(4)]
        bias = [ft.input((1, 16, 4096, 4096), self.dtype)] if self.bias else []
        o: Any = ft.scaled_dot_product_attention(q, k, v, *bias, **self.options)
        return Graph((*inputs, *bias), (o, *ft.grad(o, [q, k, v, *bias], grad_output=g)))


CASES = {
    "causal, 64": Problem(64, options={"is_causal": True}),
    "plain, 128": Problem(128),
    "plain, 16": Problem(16),
    "plain, 40": Problem(40),
    "plain, 64": Problem(64),
    "bias, 64": Problem(64, bias=True),
    "causal, 72": Problem(72, options={"is_causal": True}),
    "bias, 128": Problem(128, bias=True),
    "plain, 160": Problem(160),
    "causal, 256": Problem(256, options={"is_causal": True}),
    "float32, 64": Problem(64, "float32"),
}
SLOW = list(CASES)[2:]


def main(path: str, names: list[str]) -> None:
    found = {}
    for name in names:
        for kind in TARGETS:
            arch = 80 if kind == "sm_80" else 90
            target = Target(arch=arch, shared_bytes=SHARED_LIMIT[arch])
            with pytest.MonkeyPatch.context() as patch:
                if kind != "hopper":
                    patch.setattr(hopper_attention, "serves", lambda call: False)
                launches = [x for x in lower(CASES[name].graph(), {}, target).launches if "attention" in x.label]
            found[f"{name}, {kind}"] = [asdict(r) for r in compile_ahead(launches, target)]
    Path(path).write_text(json.dumps(found, indent=1), encoding="utf-8")


def compiled(folder: Path, *names: str) -> dict[str, list[dict[str, Any]]]:
    """What the child says of these cases."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"FLAME_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    result = folder / "result.json"
    command = [sys.executable, str(Path(__file__).resolve()), str(result), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(result.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_compiles_into_good_code(name: str, tmp_path: Path) -> None:
    found = compiled(tmp_path, name)
    for case, reports in found.items():
        hopper = any(report["label"].startswith("hopper") for report in reports)
        assert hopper == (case.endswith("hopper") and CASES[name].dtype == "bfloat16")
        assert hopper or len(reports) == (4 if CASES[name].bias else 3)
        for report in reports:
            what = f"{report['name']}, {case}"
            assert report["error"] is None, report["error"]
            assert report["registers"], f"{what}: the assembler's log was not read"
            assert report["shared_bytes"] <= SHARED_LIMIT[80 if case.endswith("sm_80") else 90], what
            assert report["spills"] <= _bound(report, case), f"{what}: {report['spills']} bytes spilled"
            assert not report["remarks"], f"{what}: the assembler serialised wgmma"


def _bound(report: dict[str, Any], case: str) -> int:
    if report["label"].startswith("hopper attention") and report["name"].startswith("attention_"):
        way = report["name"].removeprefix("attention_")
        return HOPPER_SPILLS.get(f"{way}, bias" if case.startswith("bias") else way, 0)
    return SPILLS.get((report["name"], case.replace("hopper", "sm_90")), 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
