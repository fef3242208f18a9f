"""The Hopper matmul compiles for sm_90 without a GPU: no spills, no serialised products, within shared memory.

As in test_attention_compile.py, a child process compiles. Run as a program with a file and names, this module is it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["FLAME_INTERPRET"] = "0"

from hopper import CONFIGS, TARGET, Product, lowered  # isort: skip
from flame_triton.runtime.ahead import compile_ahead  # isort: skip

PRODUCTS = {
    "none": Product(4608, 12288, 3072),
    "save": Product(4608, 12288, 3072, epilogue="save"),
    "wide": Product(4608, 3072, 12288, "nn", epilogue="wide"),
    "tn": Product(12288, 3072, 4608, "tn"),
    "tt": Product(1000, 2048, 4424, "tt", epilogue="gate"),
}
FAST = [("save", "cooperative, cut"), ("save", "ping-pong"), ("tt", "three consumers")]
SLOW = [(p, c) for p in PRODUCTS for c in CONFIGS if (p, c) not in FAST]


def main(path: str, pairs: list[str]) -> None:
    found = {}
    for pair in pairs:
        product, config = pair.split("/")
        launches = lowered(PRODUCTS[product].graph(), CONFIGS[config]).launches
        found[pair] = [asdict(r) for r in compile_ahead(launches, TARGET)]
    Path(path).write_text(json.dumps(found, indent=1), encoding="utf-8")


@pytest.mark.parametrize("pairs", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["few", "all"])
def test_compiles_into_good_code(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"FLAME_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    result = tmp_path / "result.json"
    command = [sys.executable, str(Path(__file__).resolve()), str(result), *("/".join(pair) for pair in pairs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(result.read_text(encoding="utf-8"))
    assert len(found) == len(pairs)
    for name, reports in found.items():
        cut = name.endswith("cut")
        assert len(reports) == 1 + cut or not cut
        for report in reports:
            assert report["error"] is None, report["error"]
            assert report["registers"], f"{name}: the assembler's log was not read"
            assert report["shared_bytes"] <= TARGET.shared_bytes, name
            assert report["spills"] == 0, f"{name}: {report['spills']} bytes spilled"
            assert not report["remarks"], f"{name}: the assembler serialised wgmma"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
