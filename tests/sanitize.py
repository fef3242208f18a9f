"""Run the kernels of sample calls with every buffer in an allocation of its own, for compute-sanitizer.

A program keeps its values in one arena, where a read past the end of a value finds its neighbour. Here each slot gets
its own memory of exactly its size, so that the memory checker sees what a kernel really touches:

    python tests/sanitize.py --compile scaled_dot_product_attention conv
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 9 \
        python tests/sanitize.py scaled_dot_product_attention conv

The first command compiles the kernels, in parallel, which does not work inside the sanitizer. Arguments: beginnings of
the names of public functions; their samples and gradients are run in float32 and bfloat16, and so are the tail shapes
below. `hopper` instead names a handful of problems that take the Hopper kernels (sanitize_hopper.py): an error if one
of them would not, or if a result is not finite, for all memory is NaN at first. `--compile hopper` needs no GPU.

Of the sanitizer's other tools, initcheck finds reads of memory that nobody wrote, and synccheck wrong barriers.
racecheck follows neither TMA's writes to shared memory nor mbarriers surely: what it reports of the Hopper kernels is
to be checked by hand, what it reports of the others is a fault.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flame_triton.config import compile_kernels, gpu_available, interpreted

if "--compile" in sys.argv and __name__ == "__main__":
    compile_kernels()

import numpy as np
import sanitize_hopper
import torch

import flame_triton as ft
from flame_triton.graph.evaluate import leaf_array
from flame_triton.graph.plan import Launch, Operand, Schedule, Slot, Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.ahead import compile_ahead, compile_all
from flame_triton.runtime.device import device, target
from flame_triton.runtime.launch import bind, distinct, extent, table_array, tables_of
from flame_triton.runtime.lower import lower
from flame_triton.testing import cases

DEVICE = "cpu" if interpreted() else "cuda"
TORCH = {d: getattr(torch, d) for d in ("float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool")}
TAILS = (1, 3, 17, 63, 65, 129)
COMMANDS = """now, with the same arguments:
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  compute-sanitizer --tool memcheck --error-exitcode 9 python tests/sanitize.py {0}
  compute-sanitizer --tool synccheck --error-exitcode 9 python tests/sanitize.py {0}
  compute-sanitizer --tool racecheck python tests/sanitize.py {0}"""


def _memory(nbytes: int) -> torch.Tensor:
    return torch.full((nbytes,), 0xFF, dtype=torch.uint8, device=DEVICE)  # NaN in every floating dtype


def run(graph: Graph, schedule: Schedule, arrays: list[np.ndarray]) -> list[torch.Tensor]:
    """Every launch of the graph's schedule on memory of its own. Returns the outputs, flat."""
    memory: dict[Slot, torch.Tensor] = {}

    def of(slot: Slot) -> torch.Tensor:
        if slot.root not in memory:
            memory[slot.root] = _memory(slot.root.nbytes)
        return memory[slot.root]

    def view(operand: Operand) -> torch.Tensor:
        flat = of(operand.slot).view(TORCH[operand.dtype.name])
        reach = extent(operand.slot, operand)
        return flat[operand.offset : operand.offset + reach.size] if reach.size else flat

    fed = dict(zip(graph.inputs, arrays, strict=True))
    for table, values in (
        (schedule.inputs, fed),
        (schedule.constants, {v: leaf_array(v.node) for v in schedule.constants}),
    ):
        for value, slot in table.items():
            data = np.ascontiguousarray(values[value].astype(value.dtype.numpy))
            if data.size:
                of(slot).copy_(torch.from_numpy(data.reshape(-1).view(np.uint8)).to(DEVICE))
    tables = {}
    for table in tables_of(schedule.launches):
        data = table_array(table, lambda operand: view(operand).data_ptr())
        tables[table] = torch.from_numpy(np.ascontiguousarray(data)).to(DEVICE)
    for launch in schedule.launches:
        bind(launch, view, tables)()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
    outputs = zip(schedule.outputs, graph.outputs, strict=True)
    return [of(slot).view(TORCH[value.dtype.name])[: value.size] for slot, value in outputs]


def with_gradients(inputs: list[ft.Value], outputs: list[ft.Value]) -> Graph:
    floating = [v for v in outputs if v.dtype.is_float]
    wrt = [v for v in inputs if v.dtype.is_float]
    if not floating or not wrt:
        return Graph(tuple(inputs), tuple(outputs))
    total = sum((ft.sum(ft.cast(v, "float32")) for v in floating), start=ft.zeros(()))
    return Graph(tuple(inputs), (*outputs, *ft.grad(total, wrt, allow_unused=True)))


def samples(prefixes: list[str], dtype: str) -> Iterator[tuple[str, Graph, list[np.ndarray]]]:
    for case in cases():
        if any(case.name.startswith(p) for p in prefixes):
            inputs = case.inputs(dtype)
            yield str(case), with_gradients(inputs, case.call(*inputs)), case.arrays


def tails(prefixes: list[str], dtype: str) -> Iterator[tuple[str, Graph, list[np.ndarray]]]:
    """Attention and convolution over sizes around their blocks."""
    rng = np.random.default_rng(0)

    def problem(name: str, shapes: list[tuple[int, ...]], function) -> tuple[str, Graph, list[np.ndarray]]:
        inputs = [ft.input(s, dtype) for s in shapes]
        return name, with_gradients(inputs, [function(*inputs)]), [rng.standard_normal(s) for s in shapes]

    if any("scaled_dot_product_attention".startswith(p) for p in prefixes):
        for length, keys, width in [(n, TAILS[-1 - i], w) for i, n in enumerate(TAILS) for w in (8, 40, 64, 72, 128)]:
            q, k = (2, 2, length, width), (2, 2, keys, width)
            yield problem(f"attention {length}x{keys}x{width}", [q, k, k], ft.scaled_dot_product_attention)
        q = (1, 2, 129, 64)
        yield problem("causal attention", [q, q, q],
                      lambda q, k, v: ft.scaled_dot_product_attention(q, k, v, is_causal=True))  # fmt: skip
    if any("conv2d".startswith(p) for p in prefixes):
        for channels, size in [(c, TAILS[-1 - i] % 40) for i, c in enumerate(TAILS)]:
            x, w = (2, channels, size + 3, size + 2), (17, channels, 3, 3)
            yield problem(f"conv2d {x} {w}", [x, w], lambda x, w: ft.conv2d(x, w, padding=1))
            yield problem(f"conv2d {x} {w} stride 2", [x, w], lambda x, w: ft.conv2d(x, w, stride=2, padding=1))


def hopper(prefixes: list[str], chosen: Target) -> Iterator[tuple[str, Graph, Schedule, list[np.ndarray]]]:
    """The problems that take the Hopper kernels, where those are asked for."""
    if chosen.arch == 90 and not chosen.interpreted and any("hopper".startswith(p) for p in prefixes):
        for problem in sanitize_hopper.problems():
            yield problem.name, problem.graph, problem.schedule(chosen), problem.arrays


def compile_them(launches: list[Launch], chosen: Target) -> None:
    """All kernels, in parallel; without a GPU for one that is not there. Raises RuntimeError for one that fails."""
    begun = time.perf_counter()
    if gpu_available():
        compile_all(launches, "cuda:0")
    else:
        for report in compile_ahead(launches, chosen):
            if report.error is not None:
                raise RuntimeError(report.error)
    kernels = len(distinct(launches))
    print(f"{len(launches)} launches of {kernels} kernels compiled in {time.perf_counter() - begun:.0f} s")


def main(prefixes: list[str], compile_only: bool) -> None:
    chosen = target(device(None)) if gpu_available() or not compile_only else Target(arch=90)
    problems = []
    for dtype in ("float32", "bfloat16"):
        for source in (samples, tails):
            for name, graph, arrays in source(prefixes, dtype):
                problems.append((f"{name} in {dtype}", graph, lower(graph, {}, chosen), arrays))
    special = list(hopper(prefixes, chosen))
    launches = [launch for _, _, schedule, _ in (*problems, *special) for launch in schedule.launches]
    if not launches:
        raise SystemExit(f"nothing to run for {' '.join(prefixes)} on this device")
    if compile_only:
        compile_them(launches, chosen)
        print(COMMANDS.format(" ".join(p for p in prefixes if p)))
        return
    for name, graph, schedule, arrays in (*problems, *special):
        try:
            results = run(graph, schedule, arrays)
        except Exception as error:
            raise RuntimeError(name) from error
        if name in {n for n, *_ in special} and not all(bool(torch.isfinite(r).all()) for r in results):
            raise RuntimeError(f"{name}: a result is not finite: it was made of memory that nobody wrote")
    print(
        f"{len(problems) + len(special)} graphs, {len(launches)} launches, each buffer in an allocation of its own: no "
        "error raised"
    )


if __name__ == "__main__":
    words = [w for w in sys.argv[1:] if w != "--compile"]
    main(words or [""], "--compile" in sys.argv)
