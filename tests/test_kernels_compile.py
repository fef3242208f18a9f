"""Every portable kernel compiles for sm_80 and sm_90, without a GPU, into code that can be fast.

The kernels are compiled in one child process, because this one may be interpreting them. Run as a program with a file
name, this module is that child: it writes what it found as JSON. Looked at: shared memory, register spills, tensor-core
instructions, tf32 where float32 was asked for, 16-byte accesses, and the assembler's remark on serialised wgmma.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":
    os.environ["FLAME_INTERPRET"] = "0"

from flame_triton.kernels.portable import column_sums, foreach, indexing, matmul, matmul_configs  # isort: skip
from flame_triton.kernels.portable import library as lib  # isort: skip
import triton
import triton.language as tl

SHARED_LIMIT = {80: 166912, 90: 232448}
# Bytes. The assembler of triton 3.9 keeps this kernel at 128 registers, for occupancy, at the price of three words.
SPILLS_ALLOWED = {"fp32 64x64, sm_80": 12}
ARCHS = (80, 90)
POINTER = {"float64": "*fp64", "float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16", "int64": "*i64"}

UNARY = (
    "acos acosh asin asinh atan atanh cosh erfc exp exp2 expm1 isfinite isinf isnan log log10 log1p log2 neg "
    "reciprocal round rsqrt sigmoid sign signbit sinh softplus sqrt tan tanh trunc"
).split()
BINARY = "atan2 copysign div floor_divide fmod maximum minimum pow remainder".split()


@triton.jit
def every_function(x_ptr, out_ptr, n, UNARY: tl.constexpr, BINARY: tl.constexpr, BLOCK: tl.constexpr):
    """Row f of out: function f of x, or of x and x reversed."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = lib.load(x_ptr, i, i < n, 0)
    y = lib.load(x_ptr, n - 1 - i, i < n, 1)
    for f in tl.static_range(len(UNARY)):
        lib.store(out_ptr, f * n + i, UNARY[f](x), i < n)
    for f in tl.static_range(len(BINARY)):
        lib.store(out_ptr, (len(UNARY) + f) * n + i, BINARY[f](x, y), i < n)


@triton.jit
def every_draw(out_ptr, seed, stream, step, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lib.store(out_ptr, i, lib.uniform(seed, i, stream, step) + lib.normal(seed, i.to(tl.int64), stream, step), i < n)
    lib.store(out_ptr, n + i, lib.randint_bits(seed, i, stream, step), i < n)


@triton.jit
def momentum(pointers, offsets, mask, scalars, each):
    """Weight and average in float32, gradient in bfloat16."""
    average = 0.9 * lib.load(pointers[2], offsets, mask, 0.0) + scalars[1] * lib.load(pointers[1], offsets, mask, 0.0)
    lib.store(pointers[0], offsets, lib.load(pointers[0], offsets, mask, 0.0) - scalars[0] * average, mask)
    lib.store(pointers[2], offsets, average, mask)


@triton.jit
def square(pointers, offsets, mask, scalars, each):
    x = lib.load(pointers[0], offsets, mask, 0.0)
    return x * x


@dataclass(frozen=True)
class Case:
    """One kernel to compile. signature: in order; "constexpr" ones take their value from constants."""

    name: str
    arch: int
    kernel: Any
    signature: dict[str, Any]
    constants: dict[Any, Any]
    num_warps: int = 4
    num_stages: int = 3
    unaligned: tuple[str, ...] = ()  # arguments not known to be multiples of 16
    ptx_has: tuple[str, ...] = ()
    ptx_lacks: tuple[str, ...] = ()

    def attributes(self) -> dict[tuple[int, ...], list[list[Any]]]:
        """What the launcher would find for 16-byte aligned pointers and sizes that are multiples of 16."""
        found: dict[tuple[int, ...], list[list[Any]]] = {}
        for i, (name, kind) in enumerate(self.signature.items()):
            if kind != "constexpr" and name not in self.unaligned:
                inside = [(i, j) for j, part in enumerate(kind) if part != "constexpr"]
                paths = inside if isinstance(kind, tuple) else [(i,)]
                found.update({path: [["tt.divisibility", 16]] for path in paths})
        return found


def matmul_case(name: str, arch: int, problem: matmul_configs.Problem, config: Any = None, **options: Any) -> Case:
    """The matmul of a problem under its heuristic or a given configuration."""
    config = config or matmul_configs.heuristic(problem, False, arch)
    signature: dict[str, Any] = {"a_ptr": POINTER[problem.dtype], "b_ptr": POINTER[problem.dtype]}
    signature["ptrs"] = (POINTER[problem.dtype], "i32", "i32")
    signature.update(dict.fromkeys(("M", "N", "K", "batch", "batch_inner"), "i32"))
    operands = [f"stride_{x}{axis}" for x, axes in (("a", "01mk"), ("b", "01kn")) for axis in axes]
    signature.update(dict.fromkeys(operands, "i32"))
    constants: dict[str, Any] = {
        "EPILOGUE": matmul.store_epilogue, "INPUT_PRECISION": problem.precision,
        "BLOCK_B": config.BLOCK_B, "BLOCK_M": config.BLOCK_M, "BLOCK_N": config.BLOCK_N, "BLOCK_K": config.BLOCK_K,
        "GROUP_M": config.GROUP_M, "EVEN_K": config.even_k(problem.K),
        "stride_ak" if problem.layout_a == "n" else "stride_am": 1,
        "stride_bn" if problem.layout_b == "n" else "stride_bk": 1,
    }  # fmt: skip
    signature.update(dict.fromkeys(constants, "constexpr"))
    return Case(
        name, arch, matmul.matmul, signature, constants, config.num_warps, config.num_stages,
        unaligned=("batch", "batch_inner"), **options,
    )  # fmt: skip


def matmul_cases(arch: int) -> Iterator[Case]:
    problem, tile = matmul_configs.Problem, matmul_configs.Config
    products = ("wgmma.mma_async",) if arch >= 90 else ("mma.sync",)
    fast = {"ptx_has": (*products, "cp.async.c"), "ptx_lacks": ("ld.global",)}
    for layouts in ("nn", "nt", "tn"):
        yield matmul_case(f"bf16 {layouts}", arch, problem(1, 4096, 1536, 384, "bfloat16", *layouts), **fast)
    yield matmul_case("bf16 largest tile", arch, problem(1, 8192, 8192, 8192, "bfloat16", "n", "t"), **fast)
    yield matmul_case("bf16 wgrad", arch, problem(1, 384, 1536, 4096, "bfloat16", "t", "n"), **fast)
    yield matmul_case("fp16 uneven K", arch, problem(1, 4096, 1536, 400, "float16", "n", "t"), **fast)
    four_warps = tile(1, 128, 128, 64, 8, 4, 4)
    yield matmul_case("bf16 128x128x64", arch, problem(1, 4096, 4096, 4096, "bfloat16"), four_warps, **fast)
    yield matmul_case("bf16 small heads", arch, problem(1536, 64, 64, 32, "bfloat16", "n", "t"))
    yield matmul_case("bf16 tiny", arch, problem(4096, 16, 16, 16, "bfloat16", "n", "t"), ptx_has=("mma.sync",))
    batched = tile(4, 16, 16, 16, 1, 4, 2)
    yield matmul_case("bf16 3-D", arch, problem(4096, 16, 16, 32, "bfloat16"), batched, ptx_has=("mma.sync",))
    ieee = {"ptx_lacks": ("tf32",), "ptx_has": ("fma.rn.f32",)}
    yield matmul_case("fp32", arch, problem(1, 4096, 1536, 384, "float32"), **ieee)
    yield matmul_case(
        "fp32 64x64", arch, problem(1, 4096, 1536, 384, "float32", "n", "t"), tile(1, 64, 64, 16, 8, 4, 3), **ieee
    )
    yield matmul_case("fp32 3-D", arch, problem(4096, 16, 16, 32, "float32"), batched, **ieee)
    tf32 = problem(1, 4096, 1536, 384, "float32", precision="tf32")
    yield matmul_case("tf32", arch, tf32, ptx_has=("tf32", *products))
    yield matmul_case("fp64", arch, problem(1, 512, 512, 512, "float64"), ptx_lacks=("f32",))


def indexing_cases(arch: int) -> Iterator[Case]:
    sizes = ("n_index", "n_rows", "width")

    def signature(source: str, source_type: str, out_type: str, constants: dict[str, int]) -> dict[str, str]:
        kinds = {f"{source}_ptr": source_type, "index_ptr": "*i64", "out_ptr": out_type}
        kinds.update(dict.fromkeys((*sizes, f"stride_{source}", "stride_out"), "i32"))
        return kinds | dict.fromkeys(constants, "constexpr")

    for dtype, width in (("bfloat16", 768), ("float32", 64), ("int64", 32)):
        pick = indexing.gather_heuristic(4096, width, False)
        constants = {"BLOCK_I": pick.BLOCK_I, "BLOCK_W": pick.BLOCK_W}
        yield Case(
            f"gather {dtype}", arch, indexing.gather_rows,
            signature("table", POINTER[dtype], POINTER[dtype], constants), constants, pick.num_warps,
            unaligned=sizes[:2], ptx_has=("ld.global.v2.b64" if dtype == "int64" else "ld.global.v4.b32",),
        )  # fmt: skip
    for dtype, out, shape in (("bfloat16", "float32", (4096, 50304, 384)), ("float64", "float64", (64, 1001, 64))):
        s = indexing.scatter_heuristic(*shape, False)
        constants = {"BLOCK_R": s.BLOCK_R, "BLOCK_W": s.BLOCK_W, "BLOCK_I": s.BLOCK_I, "SCAN": s.SCAN}
        yield Case(
            f"scatter {dtype}", arch, indexing.scatter_add_rows,
            signature("grad", POINTER[dtype], POINTER[out], constants), constants, s.num_warps,
            unaligned=sizes[:2], ptx_lacks=("atom.", "red.global"),
        )  # fmt: skip


def other_cases(arch: int) -> Iterator[Case]:
    constants: dict[Any, Any] = {"BODY": momentum, "DTYPES": (tl.float32, tl.bfloat16, tl.float32)}
    constants.update(EACH=1, BLOCK=1024, CHUNK=4096)
    # The launcher makes a number 1 in a tuple a constant.
    signature = {"pointers_ptr": "*i64", "chunks_ptr": "*i64", "scalars": ("*fp32", "constexpr"), "each": ("*fp32",)}
    signature.update(dict.fromkeys(constants, "constexpr"))
    # 16-byte accesses of float32, 8-byte ones of bfloat16, and no detour through shared memory.
    vectors = ("ld.global.v4.b32", "ld.global.v2.b32", "st.global.v4.b32")
    yield Case(
        "foreach", arch, foreach.foreach, signature, {**constants, (2, 1): 1}, ptx_has=vectors, ptx_lacks=("st.shared",)
    )
    constants = {"BODY": square, "DTYPES": (tl.bfloat16,), "BLOCK": 1024, "CHUNK": 4096}
    signature = {"pointers_ptr": "*i64", "chunks_ptr": "*i64", "scalars": (), "partials_ptr": "*fp32"}
    signature.update(dict.fromkeys(constants, "constexpr"))
    yield Case("foreach_sum", arch, foreach.foreach_sum, signature, constants, ptx_has=("ld.global.v2.b32",))

    for given, rounding, out in (
        (tl.float32, tl.bfloat16, tl.bfloat16),
        (tl.float32, tl.bfloat16, tl.float32),
        (tl.float64, tl.float64, tl.float64),
    ):
        constants = {"IN": given, "ROUNDING": rounding, "OUT": out}
        constants |= {"BLOCK_R": column_sums.BLOCK_R, "BLOCK_N": column_sums.BLOCK_N}
        signature = {"pointers_ptr": "*i64", "tiles_ptr": "*i64", **dict.fromkeys(constants, "constexpr")}
        yield Case(
            f"column_sums {rounding} {out}", arch, column_sums.column_sums, signature, constants, column_sums.WARPS,
            ptx_lacks=("atom.", "red.global"),
        )  # fmt: skip

    for dtype in ("float32", "float64", "bfloat16"):
        constants = {"UNARY": tuple(getattr(lib, f) for f in UNARY), "BINARY": tuple(getattr(lib, f) for f in BINARY)}
        constants["BLOCK"] = 128
        signature = {"x_ptr": POINTER[dtype], "out_ptr": POINTER[dtype], "n": "i32"}
        signature.update(dict.fromkeys(constants, "constexpr"))
        yield Case(f"library {dtype}", arch, every_function, signature, constants)
    signature = {"out_ptr": "*fp32", "seed": "i64", "stream": "i32", "step": "i32", "n": "i32", "BLOCK": "constexpr"}
    yield Case("random", arch, every_draw, signature, {"BLOCK": 512}, unaligned=("seed", "stream", "step"))


def cases(arch: int) -> list[Case]:
    return [*matmul_cases(arch), *indexing_cases(arch), *other_cases(arch)]


# --- the child ---


def compile_case(case: Case) -> dict[str, Any]:
    """What one compilation gave, or its error."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants = dict(case.signature), dict(case.constants)
    for name, parameter in inspect.signature(case.kernel.fn).parameters.items():
        if name not in signature:  # a constant with a default
            signature[name], constants[name] = "constexpr", parameter.default
    source = ASTSource(case.kernel, signature, constexprs=constants, attrs=case.attributes())
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages, "enable_fp_fusion": True}
    log = io.StringIO()
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(log):
            kernel = triton.compile(source, target=GPUTarget("cuda", case.arch, 32), options=options)
    except Exception as error:
        while error.__cause__ is not None:  # the innermost one names the line
            error = error.__cause__
        return {"error": f"{type(error).__name__}: {error}"}
    text = log.getvalue()
    return {
        "seconds": time.perf_counter() - start,
        "shared": kernel.metadata.shared,
        "registers": max(map(int, re.findall(r"Used (\d+) registers", text)), default=None),
        "spills": sum(map(int, re.findall(r"(\d+) bytes spill stores", text))),
        "remarks": re.findall(r"\(C75\d\d\).*", text),
        "missing": [part for part in case.ptx_has if part not in kernel.asm["ptx"]],
        "unwanted": [part for part in case.ptx_lacks if part in kernel.asm["ptx"]],
    }


def controls() -> list[Case]:
    """Code that must be found wanting: a tile too large for the registers, and one too large for shared memory."""
    problem, tile = matmul_configs.Problem(1, 4096, 4096, 4096, "bfloat16"), matmul_configs.Config
    return [
        matmul_case("spills", 90, problem, tile(1, 256, 256, 64, 8, 4, 2), ptx_has=("tcgen05",), ptx_lacks=("wgmma",)),
        matmul_case("overflows", 90, problem, tile(1, 128, 256, 64, 8, 8, 6)),
    ]


def main(path: str) -> None:
    triton.knobs.nvidia.dump_ptxas_log = True
    triton.knobs.compilation.always_compile = True  # a kernel found in the cache leaves no log
    found = {f"{case.name}, sm_{arch}": compile_case(case) for arch in ARCHS for case in cases(arch)}
    found.update({case.name: compile_case(case) for case in controls()})
    Path(path).write_text(json.dumps(found, indent=1), encoding="utf-8")


# --- the tests ---


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the child found, by case."""
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


NAMES = [f"{case.name}, sm_{arch}" for arch in ARCHS for case in cases(arch)]


@pytest.mark.parametrize("name", NAMES)
def test_compiles_into_good_code(compiled: dict[str, Any], name: str) -> None:
    found = compiled[name]
    assert "error" not in found, found["error"]
    assert found["registers"] is not None, "the assembler's log was not read"
    assert found["shared"] <= SHARED_LIMIT[90 if name.endswith("90") else 80]
    assert found["spills"] <= SPILLS_ALLOWED.get(name, 0), (
        f"{found['spills']} bytes spilled with {found['registers']} registers"
    )
    assert found["remarks"] == [], "the assembler serialised wgmma"
    assert found["missing"] == [], "expected in the PTX"
    assert found["unwanted"] == [], "not expected in the PTX"


def test_bad_code_is_seen(compiled: dict[str, Any]) -> None:
    found = compiled["spills"]
    assert found["spills"] > 0 and found["missing"] == ["tcgen05"] and found["unwanted"] == ["wgmma"]
    assert compiled["overflows"]["shared"] > SHARED_LIMIT[90]


def test_shared_memory_estimate_is_an_upper_bound(compiled: dict[str, Any]) -> None:
    for arch in ARCHS:
        problem = matmul_configs.Problem(1, 8192, 8192, 8192, "bfloat16", "n", "t")
        config = matmul_configs.heuristic(problem, False, arch)
        used = compiled[f"bf16 largest tile, sm_{arch}"]["shared"]
        assert used <= matmul_configs.shared_bytes(config, problem, arch)


if __name__ == "__main__":
    main(sys.argv[1])
