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
from flame_triton.runtime.lower import lower

# With eight warps this kernel spills nothing and takes 2.3 times as long on an H200.
SPILLS = {("attention_backward_keys", f"{case}, 128, sm_90"): 1024 for case in ("plain", "bias")}
SPILLS["attention_backward_queries", "causal, 72, sm_80"] = 16
SHARED_LIMIT = {80: 166912, 90: 232448}


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
        for arch in SHARED_LIMIT:
            target = Target(arch=arch, shared_bytes=SHARED_LIMIT[arch])
            launches = [x for x in lower(CASES[name].graph(), {}, target).launches if "attention" in x.kernel.name]
            found[f"{name}, sm_{arch}"] = [asdict(r) for r in compile_ahead(launches, target)]
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
        assert len(reports) == (4 if CASES[name].bias else 3)
        for report in reports:
            what = f"{report['name']}, {case}"
            assert report["error"] is None, report["error"]
            assert report["registers"], f"{what}: the assembler's log was not read"
            assert report["shared_bytes"] <= SHARED_LIMIT[int(case[-2:])], what
            assert report["spills"] <= SPILLS.get((report["name"], case), 0), (
                f"{what}: {report['spills']} bytes spilled"
            )
            assert not report["remarks"], f"{what}: the assembler serialised wgmma"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
