"""Launches: arguments of every kind, what makes kernels the same, Triton's mode, compiling ahead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import flame_triton.ops  # noqa: F401
from flame_triton.errors import CompileError, DeviceError
from flame_triton.graph.memory import plan_memory
from flame_triton.graph.plan import ConstantTable, KernelRef, Launch, Operand, PointerTable, Schedule, Slot, Target
from flame_triton.ir.node import Value
from flame_triton.ops.leaf import input as make_input
from flame_triton.runtime.ahead import compile_ahead
from flame_triton.runtime.bound import Bound, Layout
from flame_triton.runtime.buffers import Buffer
from flame_triton.runtime.jit import resolve
from flame_triton.runtime.launch import describe, distinct, kernel_key
from flame_triton.types import DType, bfloat16, float32

MEMORY = [pytest.param("cpu", marks=pytest.mark.interpreter), pytest.param("cuda:0", marks=pytest.mark.gpu)]

HEADER = "import triton\nimport triton.language as tl\n\n\n"

SAXPY = KernelRef(
    "saxpy",
    "saxpy",
    HEADER
    + textwrap.dedent('''\
        @triton.jit
        def saxpy(x_ptr, y_ptr, a, n, BLOCK: tl.constexpr):
            """y = a x."""
            at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
            tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n) * a, mask=at < n)
        '''),
)

GATHER = KernelRef(
    "gather",
    "gather",
    HEADER
    + textwrap.dedent('''\
        @triton.jit
        def square(x):
            return x * x


        @triton.jit(do_not_specialize=["stream"], do_not_specialize_on_alignment=["count"])
        def gather(out_ptr, table_ptr, order_ptr, extra, stream, count, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
            """out[i] = f(row order[i]) + the two numbers behind extra + stream; rows are found by address."""
            row = tl.program_id(0)
            at = tl.arange(0, BLOCK)
            source = tl.load(table_ptr + tl.load(order_ptr + row)).to(tl.pointer_type(tl.float32))
            value = FUNCTION(tl.load(source + at)) + tl.load(extra[0]) + extra[1] + stream
            tl.store(out_ptr + row * count + at, value)
        '''),
)
SQUARE = KernelRef("gather", "square", GATHER.source)


def value(shape: tuple[int, ...], dtype: DType = float32) -> Value:
    return make_input(shape, dtype)


def call(kernel: KernelRef, args: tuple, reads=(), writes=(), grid=(1,), options=None, **constexprs) -> Launch:
    return Launch(kernel, grid, args, constexprs, options or {}, tuple(reads), tuple(writes), value((2,)).node, "label")


def bound(memory: str, launches: list[Launch], inputs: dict[Value, Slot], outputs: dict[Value, Slot]) -> Bound:
    schedule = Schedule(launches, inputs, {}, {}, list(outputs.values()), [])
    plan_memory(schedule)
    return Bound(Layout(schedule, list(outputs)), Buffer(schedule.arena_bytes, memory), {})


def saxpy(x: Slot, y: Slot, n: int, offset: int = 0, grid: int | None = None, dtype: DType = float32) -> Launch:
    args = (Operand(x, dtype, offset), Operand(y, dtype), 2.0, n)
    return call(SAXPY, args, [x], [y], (-(-n // 16) if grid is None else grid,), BLOCK=16)


def run(memory: str, launches: list[Launch], x: Value, source: Slot, y: Value, result: Slot, array) -> np.ndarray:
    step = bound(memory, launches, {x: source}, {y: result})
    staging = step.staging(x)
    assert staging is not None
    staging.write(array)
    step.run()
    return step.outputs[0].read()


@pytest.mark.parametrize("memory", MEMORY)
def test_a_launch_with_an_offset(memory: str) -> None:
    x, y = value((40,)), value((37,))
    source, result = Slot("input", 160, x), Slot("arena", 148, y)
    array = np.arange(40, dtype=np.float32)
    assert np.array_equal(run(memory, [saxpy(source, result, 37, 3)], x, source, y, result, array), 2 * array[3:])


@pytest.mark.parametrize("memory", MEMORY)
def test_launches_that_would_do_nothing(memory: str) -> None:
    """An empty grid, and a result without elements, are not launched (CUDA refuses an empty grid)."""
    x, y = value((0, 3)), value((0, 3))
    source, result = Slot("input", 0, x), Slot("arena", 0, y)
    array = np.zeros((0, 3), np.float32)
    for grid in (0, 1):
        launches = [saxpy(source, result, 0, grid=grid)]
        assert run(memory, launches, x, source, y, result, array).shape == (0, 3)
        schedule = Schedule(launches, {}, {}, {}, [], [])
        assert Layout(schedule, []).launches == []


@pytest.mark.parametrize("memory", MEMORY)
def test_an_empty_operand_beside_others(memory: str) -> None:
    """A kernel may have a pointer to nothing, as long as it writes something."""
    x, y = value((0,)), value((16,))
    source, result = Slot("input", 0, x), Slot("arena", 64, y)
    assert run(memory, [saxpy(source, result, 0, grid=1)], x, source, y, result, np.zeros(0, np.float32)).shape == (16,)


@pytest.mark.parametrize("memory", MEMORY)
def test_tables_tuples_and_functions_as_arguments(memory: str) -> None:
    x, out = value((4, 8)), value((3, 8))
    rows, result = Slot("input", 128, x), Slot("arena", 96, out)
    table = PointerTable(tuple((Operand(rows, float32, 8 * i),) for i in range(4)))
    order = ConstantTable(np.array([2, 0, 3], np.int32))
    args = (Operand(result, float32), table, order, (Operand(rows, float32, 1), 10), 100, 8)
    launch = call(GATHER, args, [rows], [result], (3,), FUNCTION=SQUARE, BLOCK=8)
    array = np.arange(32, dtype=np.float32).reshape(4, 8)
    found = run(memory, [launch], x, rows, out, result, array)
    assert np.array_equal(found, array[[2, 0, 3]] ** 2 + array[0, 1] + 10 + 100)


@pytest.mark.parametrize("memory", MEMORY)
def test_a_result_in_place(memory: str) -> None:
    x, y, z = value((16,)), value((16,)), value((16,))
    source, first = Slot("input", 64, x), Slot("arena", 64, y)
    second = Slot("arena", 64, z, alias=first)
    launches = [saxpy(source, first, 16), saxpy(first, second, 16)]
    array = np.arange(16, dtype=np.float32)
    assert np.array_equal(run(memory, launches, x, source, z, second, array), 4 * array)


@pytest.mark.interpreter
def test_errors_of_a_kernel_name_the_node() -> None:
    bad = KernelRef("bad", "bad", HEADER + "@triton.jit\ndef bad(x_ptr):\n    tl.load(x_ptr + tl.arange(0, 3))\n")
    x, y = value((4,)), value((4,))
    source, result = Slot("input", 16, x), Slot("arena", 16, y)
    launch = call(bad, (Operand(source, float32),), [source], [result])
    with pytest.raises(Exception) as caught:
        run("cpu", [launch], x, source, y, result, np.zeros(4, np.float32))
    assert describe(launch) in caught.value.__notes__
    assert "kernel bad" in describe(launch) and "test_runtime_launch.py" in describe(launch)


def test_kernels_that_are_not_there() -> None:
    for ref, message in [
        (KernelRef("flame_triton.kernels.nothing", "f"), "cannot be imported"),
        (KernelRef("flame_triton.kernels.portable.library", "nothing"), "no kernel called 'nothing'"),
        (KernelRef("gather", "nothing", GATHER.source), "no kernel called 'nothing'"),
    ]:
        with pytest.raises(CompileError, match=message):
            resolve(ref)
    slot = Slot("arena", 64)
    with pytest.raises(CompileError, match="takes x_ptr, y_ptr, a, n, got 1 arguments"):
        kernel_key(call(SAXPY, (Operand(slot, float32),), BLOCK=16))
    with pytest.raises(CompileError, match="constants called OTHER"):
        kernel_key(call(SAXPY, (Operand(slot, float32),) * 4, BLOCK=16, OTHER=1))


# --- what makes kernels the same ---


def key(*args, kernel=SAXPY, options=None, **constexprs):
    return kernel_key(call(kernel, args, options=options, **({"BLOCK": 16} | constexprs)))


def test_kernel_keys_tell_kernels_apart() -> None:
    x, y = Slot("arena", 4096), Slot("arena", 4096)

    def simple(offset=0, n=1000, a=2.0, dtype=float32, **more):
        return key(Operand(x, dtype, offset), Operand(y, float32), a, n, **more)

    same = [simple(), simple(4), simple(a=3.5), simple(n=1016), simple(n=-8)]
    assert len(set(same)) == 1
    others = [
        simple(1),
        simple(n=1),
        simple(n=1024),
        simple(n=1 << 40),
        simple(n=1 << 63),
        simple(a=3),
        simple(a=True),
        simple(dtype=bfloat16),
        simple(BLOCK=32),
        simple(options={"num_warps": 8}),
        simple(options={"enable_fp_fusion": True}),
        simple(kernel=KernelRef("saxpy", "saxpy", str(SAXPY.source) + "\n")),
    ]
    assert len({*same, *others}) == len(others) + 1
    assert simple(options={"enable_fp_fusion": False}) == simple()


def test_kernel_keys_of_tuples_tables_and_unspecialised_arguments() -> None:
    slot = Slot("arena", 4096)
    table = PointerTable(((Operand(slot, float32),),))

    def gather(stream: int = 5, count: int = 3, offset: int = 0, number: int = 7, order: str = "int32"):
        extra = (Operand(slot, float32, offset), number)
        rows = ConstantTable(np.zeros(3, order))
        return key(Operand(slot, float32), table, rows, extra, stream, count, kernel=GATHER, FUNCTION=SQUARE)

    assert gather() == gather(stream=1) == gather(stream=16) == gather(count=16)
    assert gather() == gather(number=9) == gather(offset=4)
    others = [gather(count=1), gather(offset=1), gather(number=16), gather(order="int64"), gather(stream=1 << 40)]
    assert len({gather(), *others}) == 6


def test_distinct_keeps_the_first_of_each() -> None:
    x, y = Slot("arena", 4096), Slot("arena", 4096)
    launches = [saxpy(x, y, 100), saxpy(x, y, 200), saxpy(x, y, 64), saxpy(x, y, 300), saxpy(x, y, 32)]
    assert distinct(launches) == [launches[0], launches[2]]


# --- Triton's mode, in processes of their own ---


def python(code: str, tmp_path: Path, **environment: str) -> str:
    """Run code (from a file, so that Triton finds its source) and return what it prints."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(code))
    cleared = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "FLAME_INTERPRET")}
    cleared |= {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=300, env=cleared | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_triton_imported_compiled_before_us_is_made_to_interpret(tmp_path) -> None:
    printed = python(
        """
        import triton, triton.language as tl

        @triton.jit
        def early(x_ptr):
            tl.store(x_ptr, 1.0)

        assert isinstance(tl.sum, triton.JITFunction)
        import numpy as np
        import flame_triton.ops
        from flame_triton.errors import DeviceError
        from flame_triton.graph.plan import KernelRef
        from flame_triton.kernels.portable import library
        from flame_triton.ops.leaf import input
        from flame_triton.runtime.compile import compile
        from flame_triton.runtime.jit import resolve

        x = input((3, 5), name="x")
        f = compile((x * x).sum(), [x])
        print(f.device, float(f(np.ones((3, 5), np.float32))))
        assert not isinstance(tl.sum, triton.JITFunction) and not isinstance(library.load, triton.JITFunction)
        try:
            resolve(KernelRef("__main__", "early"))
        except DeviceError as error:
            print(error)
        """,
        tmp_path,
        FLAME_INTERPRET="1",
    )
    assert "interpreter 15.0" in printed
    assert "the kernel __main__.early was made for the GPU" in printed


def test_triton_imported_interpreted_before_we_compile(tmp_path) -> None:
    printed = python(
        """
        import triton
        from flame_triton.errors import DeviceError
        from flame_triton.runtime.jit import prepare

        try:
            prepare()
        except DeviceError as error:
            print(error)
        """,
        tmp_path,
        FLAME_INTERPRET="0",
        TRITON_INTERPRET="1",
    )
    assert "unset TRITON_INTERPRET" in printed


@pytest.mark.interpreter
def test_nothing_is_compiled_where_kernels_are_interpreted() -> None:
    with pytest.raises(DeviceError, match="FLAME_INTERPRET=0"):
        compile_ahead([], Target())


COMPILE = """
    import json, sys
    sys.path.insert(0, {tests!r})
    import test_runtime_launch as t
    from flame_triton.graph.plan import Operand, PointerTable, ConstantTable, Slot, Target, KernelRef
    from flame_triton.runtime.ahead import compile_ahead
    from flame_triton.runtime.launch import distinct
    from flame_triton.types import float64
    import numpy as np

    x, y = Slot("arena", 1 << 20), Slot("arena", 1 << 20)
    table = PointerTable(((Operand(x, t.float32),),))
    order = ConstantTable(np.zeros(3, np.int32))
    gather = (Operand(y, t.float32), table, order, (Operand(x, t.float32, 1), 16), 1, 16)
    dot = (Operand(x, t.bfloat16), Operand(y, t.float32))
    launches = [
        t.saxpy(x, y, 1024), t.saxpy(x, y, 1025), t.saxpy(x, y, 1), t.saxpy(x, y, 7, 1), t.saxpy(x, y, 9, 1),
        t.saxpy(x, y, 1 << 40), t.saxpy(x, y, 5, dtype=float64),
        t.call(t.GATHER, gather, FUNCTION=t.SQUARE, BLOCK=8),
        t.call(t.DOT, dot, options=dict(num_warps=4, num_stages=3), N=128),
        t.call(t.BROKEN, (Operand(x, t.float32),)),
    ]
"""
DOT = KernelRef(
    "dot",
    "dot",
    HEADER
    + textwrap.dedent("""\
        @triton.jit
        def dot(x_ptr, y_ptr, N: tl.constexpr):
            at = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
            acc = tl.zeros((N, N), tl.float32)
            for k in range(8):
                acc = tl.dot(tl.load(x_ptr + at + k * N * N), tl.load(x_ptr + at), acc)
            tl.store(y_ptr + at, acc)
        """),
)
BROKEN = KernelRef("broken", "broken", HEADER + "@triton.jit\ndef broken(x_ptr):\n    tl.nothing(x_ptr)\n")


def test_kernels_are_compiled_for_devices_that_are_not_there(tmp_path) -> None:
    code = textwrap.dedent(COMPILE.format(tests=os.path.dirname(__file__))) + textwrap.dedent(
        """
        for arch in (90, 80):
            reports = compile_ahead(launches, Target(arch=arch), at_once=2)
            print(json.dumps([vars(r) | {"cached": None} for r in reports]))
        assert len(reports) == len(distinct(launches)) == len(launches) - 1
        """
    )
    for line in python(code, tmp_path, FLAME_INTERPRET="0").splitlines():
        *good, broken = json.loads(line)
        assert [r["name"] for r in good] == ["saxpy"] * 6 + ["gather", "dot"]
        assert all(r["registers"] > 0 and r["error"] is None and r["spills"] == 0 for r in good)
        assert all(0 < r["seconds"] < 60 for r in good)
        assert good[-1]["shared_bytes"] > 16384 and good[0]["shared_bytes"] == 0
        assert "nothing" in broken["error"] and "test_runtime_launch.py" in broken["error"]


def test_kernels_compiled_ahead_are_those_that_would_run(tmp_path) -> None:
    """Triton's own launcher, given real tensors at real addresses, finds every kernel compiled: none is missing."""
    code = textwrap.dedent(COMPILE.format(tests=os.path.dirname(__file__))) + textwrap.dedent(
        """
        from flame_triton.runtime import compiling, launch as l
        from flame_triton.runtime.buffers import Buffer
        from flame_triton.types import TensorType, int64, int32

        buffer = Buffer(1 << 21, "cpu")
        assert buffer.address % 16 == 0
        launches.pop()
        with compiling.stand_in(90):
            for one in distinct(launches):
                compiling.compile_kernel(one)
            functions = [l.resolve(one.kernel) for one in launches]
            made = lambda: sum(len(f.device_caches[d][0]) for f in {id(f): f for f in functions}.values()
                               for d in list(f.device_caches))
            count = made()
            assert count == len(distinct(launches))

            def memory(argument):
                if isinstance(argument, Operand):
                    size = argument.dtype.itemsize
                    return buffer.place(argument.offset * size, TensorType((4,), argument.dtype))
                return buffer.place(0, TensorType((1,), l.table_type(argument).dtype))

            for one, function in zip(launches, functions):
                tables = {table: memory(table) for table in l.tables_of([one])}
                positional, options = l.arguments(one, memory, tables)
                function.warmup(*positional, grid=one.grid, **options)
            print(made() - count)
        """
    )
    assert python(code, tmp_path, FLAME_INTERPRET="0").strip() == "0"
