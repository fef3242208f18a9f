"""Scans, sorts and segments compile for sm_80 and sm_90 without a GPU: see test_kernels_compile.py.

A child process compiles. Looked at: shared memory, spills, and that nothing is atomic.
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

from flame_triton.kernels.portable import indexing, scan, segment, sort  # isort: skip
import triton

NO_ATOMICS = ("atom.", "red.global")
SCAN_SIZES = ("lanes", "length", "stride_lane", "stride_n", "stride_group")


def case(
    name: str, arch: int, kernel: Any, pointers: dict[str, str], sizes: tuple[str, ...], warps: int, **constants: Any
) -> Case:
    """sizes: integer arguments, of any value; those among the constants are 1, as the launcher makes them."""
    sizes = tuple(s for s in sizes if s not in constants)
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


def segment_cases(arch: int) -> Iterator[Case]:
    for dtype, kind, width in (("bfloat16", "sum", 384), ("float64", "max", 1), ("int64", "min", 7)):
        pick = segment.heuristic(100000, width, False)
        pointers = {"x_ptr": POINTER[dtype], "sorted_ptr": "*i64", "order_ptr": "*i64", "out_ptr": POINTER[dtype]}
        yield case(
            f"segments {kind} {dtype}", arch, segment.segment_reduce, pointers,
            ("n_index", "n_rows", "width", "steps"), pick.num_warps, KIND=kind, EMPTY=2**63 - 1,
            BLOCK_R=pick.BLOCK_R, BLOCK_W=pick.BLOCK_W, BLOCK_I=pick.BLOCK_I,
        )  # fmt: skip
    s = indexing.scatter_heuristic(4096, 100, 1, False)
    pointers = {"grad_ptr": "*i64", "index_ptr": "*i64", "out_ptr": "*i64"}
    sizes = ("n_index", "n_rows", "width", "stride_grad", "stride_out")
    yield case(
        "scatter int64", arch, indexing.scatter_add_rows, pointers, sizes, s.num_warps, BLOCK_R=s.BLOCK_R,
        BLOCK_W=s.BLOCK_W, BLOCK_I=s.BLOCK_I, SCAN=s.SCAN,
    )  # fmt: skip


def single_cases(arch: int) -> Iterator[Case]:
    """One row, one element: the launcher makes the number 1 a constant of the kernel."""
    x, both = {"x_ptr": "*fp32"}, {"x_ptr": "*fp32", "out_ptr": "*fp32"}
    sizes = dict.fromkeys(SCAN_SIZES[:4], 1)
    yield case("cumsum of 1", arch, scan.cumulate, both, SCAN_SIZES, 4, **sizes, PRODUCT=False, REVERSE=False,
               BLOCK_L=1, BLOCK_N=1)  # fmt: skip
    yield case("logcumsumexp of 1", arch, scan.logcumsumexp, both, SCAN_SIZES, 4, **sizes, BLOCK_L=1, BLOCK_N=1)
    three = {**both, "index_ptr": "*i64"}
    yield case("cummax of 1", arch, scan.extreme, three, SCAN_SIZES, 4, **sizes, SMALLEST=False, BLOCK_L=1, BLOCK_N=1)
    for rows in (1, 1000):
        config = sort.heuristic(rows, 1, 4, False)
        ones = {"length": 1, **({"rows": 1} if rows == 1 else {})}
        yield case(f"sort {rows} x 1", arch, sort.sort_chunks, three, ("rows", "length"), config.num_warps, **ones,
                   DESCENDING=True, BLOCK_M=config.BLOCK_M, CHUNK=config.CHUNK)  # fmt: skip
    wide = {"x_ptr": "*fp64", "out_ptr": "*fp64", "index_ptr": "*i64"}
    config = sort.heuristic(1, 1, 8, False)
    yield case("rank 1 x 1", arch, sort.rank_chunks, wide, ("rows", "length"), config.num_warps, rows=1, length=1,
               DESCENDING=True, BLOCK_M=config.BLOCK_M, CHUNK=config.CHUNK)  # fmt: skip
    four = {**x, "from_ptr": "*i64", "out_ptr": "*fp32", "index_ptr": "*i64"}
    yield case("merge 1 row", arch, sort.merge_runs, four, ("rows", "length", "run", "steps"), 4, rows=1,
               DESCENDING=True, BLOCK=512)  # fmt: skip
    names = ("count", "row_count", "length", "stride_row", "steps")
    pointers = {"sorted_ptr": "*fp32", "x_ptr": "*fp32", "out_ptr": "*i64"}
    yield case("search of 1", arch, sort.search_sorted, pointers, names, 4, **dict.fromkeys(names, 1), RIGHT=False,
               BLOCK=512)  # fmt: skip
    names = ("n_index", "n_rows", "width", "steps")
    pointers = {"x_ptr": "*fp32", "sorted_ptr": "*i64", "order_ptr": "*i64", "out_ptr": "*fp32"}
    pick = segment.heuristic(1, 1, False)
    yield case("segments of 1", arch, segment.segment_reduce, pointers, names, 4, **dict.fromkeys(names, 1),
               KIND="max", EMPTY=0, BLOCK_R=pick.BLOCK_R, BLOCK_W=pick.BLOCK_W, BLOCK_I=pick.BLOCK_I)  # fmt: skip


def cases(arch: int) -> list[Case]:
    return [*scan_cases(arch), *sort_cases(arch), *segment_cases(arch), *single_cases(arch)]


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
