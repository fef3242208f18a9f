"""Scans, sorts and segments compile for sm_80 and sm_90 without a GPU: see test_kernels_compile.py, whose child this is.

Looked at: shared memory, spills, and that nothing is atomic.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":
    os.environ["FLAME_INTERPRET"] = "0"

from test_kernels_compile import ARCHS, POINTER, SHARED_LIMIT, Case, compile_case  # isort: skip

from flame_triton.kernels.portable import scan, sort  # isort: skip
import triton

NO_ATOMICS = ("atom.", "red.global")
SCAN_SIZES = ("lanes", "length", "stride_lane", "stride_n", "stride_group")


def case(
    name: str, arch: int, kernel: Any, pointers: dict[str, str], sizes: tuple[str, ...], warps: int, **constants: Any
) -> Case:
    signature = {**pointers, **dict.fromkeys(sizes, "i32"), **dict.fromkeys(constants, "constexpr")}
    return Case(name, arch, kernel, signature, constants, warps, unaligned=sizes, ptx_lacks=NO_ATOMICS)


def scan_cases(arch: int) -> Iterator[Case]:
    for label, contiguous, dtype in (("rows", True, "bfloat16"), ("columns", False, "float64")):
        itemsize = 4 if dtype == "bfloat16" else 8
        single = scan.heuristic(256, 4096, itemsize, contiguous, False)
        double = scan.heuristic(256, 4096, 8, contiguous, False)
        kind = POINTER[dtype]
        two, three = {"x_ptr": kind, "out_ptr": kind}, {"x_ptr": kind, "out_ptr": kind, "index_ptr": "*i64"}
        pair = {"a_ptr": kind, "b_ptr": kind, "out_ptr": kind}
        for name, kernel, pointers, config, flags in (
            ("cumsum", scan.cumulate, two, single, {"PRODUCT": False, "REVERSE": True}),
            ("cummax", scan.extreme, three, double, {"SMALLEST": False}),
            ("logcumsumexp", scan.logcumsumexp, two, single, {}),
            ("linear_recurrence", scan.linear_recurrence, pair, single, {"REVERSE": True}),
        ):
            yield case(
                f"{name} {dtype} {label}", arch, kernel, pointers, SCAN_SIZES, config.num_warps, **flags,
                BLOCK_L=config.BLOCK_L, BLOCK_N=config.BLOCK_N,
            )  # fmt: skip


def sort_cases(arch: int) -> Iterator[Case]:
    for dtype, itemsize in (("bfloat16", 2), ("float64", 8)):
        for length in (8, 10000):
            config = sort.heuristic(1000, length, itemsize, False)
            kernel = sort.sort_chunks if config.packed else sort.rank_chunks
            pointers = {"x_ptr": POINTER[dtype], "out_ptr": POINTER[dtype], "index_ptr": "*i64"}
            yield case(
                f"sort {dtype} {length}", arch, kernel, pointers, ("rows", "length"), config.num_warps,
                DESCENDING=True, BLOCK_M=config.BLOCK_M, CHUNK=config.CHUNK,
            )  # fmt: skip
        pointers = {"x_ptr": POINTER[dtype], "from_ptr": "*i64", "out_ptr": POINTER[dtype], "index_ptr": "*i64"}
        sizes = ("rows", "length", "run", "steps")
        yield case(f"merge {dtype}", arch, sort.merge_runs, pointers, sizes, 4, DESCENDING=False, BLOCK=config.BLOCK)
        pointers = {"sorted_ptr": POINTER[dtype], "x_ptr": POINTER[dtype], "out_ptr": "*i64"}
        sizes = ("count", "row_count", "length", "stride_row", "steps")
        yield case(f"search {dtype}", arch, sort.search_sorted, pointers, sizes, 4, RIGHT=True, BLOCK=config.BLOCK)


def cases(arch: int) -> list[Case]:
    return [*scan_cases(arch), *sort_cases(arch)]


def main(path: str) -> None:
    triton.knobs.nvidia.dump_ptxas_log = True
    triton.knobs.compilation.always_compile = True
    found = {f"{c.name}, sm_{arch}": compile_case(c) for arch in ARCHS for c in cases(arch)}
    Path(path).write_text(json.dumps(found, indent=1), encoding="utf-8")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("compile")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["FLAME_INTERPRET"] = "0"
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    result = folder / "result.json"
    command = [sys.executable, str(Path(__file__).resolve()), str(result)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(result.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [f"{c.name}, sm_{arch}" for arch in ARCHS for c in cases(arch)])
def test_compiles_without_spills_or_atomics(compiled: dict[str, Any], name: str) -> None:
    found = compiled[name]
    assert "error" not in found, found["error"]
    assert found["shared"] <= SHARED_LIMIT[90 if name.endswith("90") else 80]
    assert found["spills"] == 0, f"{found['spills']} bytes spilled with {found['registers']} registers"
    assert found["unwanted"] == [], "not expected in the PTX"


if __name__ == "__main__":
    main(sys.argv[1])
