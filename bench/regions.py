"""Norms and pointwise kernels against a copy of the same bytes, on one GPU: every configuration, cold caches.

    python -m bench.regions [--only "layer_norm bwd"] [--most 12] [--sums] [--all] [--json FILE]

For each case and size: gigabytes a second of the heuristic's configuration and of the best candidate, and their share
of a copy that moves as many bytes; and torch, eager. A case's bytes are those of its tensors, each counted once.
Programs are replayed from captured graphs; what they read stands in a State, what they write stays where it is. Each
run starts after a write that fills the caches with something else, long enough for the launches to be queued behind it.
The kernels are compiled first, in as many processes as there are cores.

--sums varies the last launch, which adds up partial sums, instead of the largest one. --all prints every candidate.
--programs: how many programs of a column reduction there are for each processor, see graph/legalise.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import flame_triton as ft
from bench import region_torch as rivals
from bench.region_cases import SIZES, RegionCase, cases
from flame_triton.graph import legalise
from flame_triton.graph.memory import plan_memory
from flame_triton.graph.plan import Launch, Schedule, Target
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import Value
from flame_triton.ops.leaf import parameter
from flame_triton.runtime.choices import Problem
from flame_triton.runtime.lower import lower

FLUSH_BYTES = 1 << 29
ROUNDS = 11
GATE = 0.03  # of the largest value: two roundings to bfloat16 and other orders of summation lie below


@dataclass
class Asked:
    """Choices that give one problem the configuration wanted, and remember which problems there were."""

    problem: Problem | None = None
    config: Any = None
    seen: dict[Problem, Sequence[Any]] = field(default_factory=dict[Problem, Sequence[Any]])

    def find(self, problem: Problem, candidates: Callable[[], Sequence[Any]]) -> tuple[Any, str] | None:
        self.seen.setdefault(problem, candidates())
        return (self.config, "asked") if problem == self.problem else None

    def confirm(self, decision: Any, launches: Any) -> bool:
        return True


@dataclass(frozen=True)
class Variant:
    """A case lowered with one configuration of the launch that is varied; the first of a case is the heuristic's."""

    case: RegionCase
    size: tuple[int, int]
    config: Any
    schedule: Schedule
    launch: Launch

    @property
    def key(self) -> str:
        return f"{self.case.name} {self.size} {text(self.config)}"


def text(config: Any) -> str:
    stages = f" s{config.num_stages}" if config.num_stages > 1 else ""
    return f"{config.BLOCK_M}x{config.BLOCK_N} w{config.num_warps}{stages}"


def stored(case: RegionCase) -> RegionCase:
    """The case with its inputs in a State."""

    def rule(node: Any) -> tuple[Value, ...] | None:
        if node.op.name != "input":
            return None
        return (parameter(node.type.shape, node.type.dtype, node.attrs["name"]),)

    return replace(case, graph=Graph((), case.graph.rewrite(rule).outputs))


def variants(options: argparse.Namespace, target: Target) -> Iterator[list[Variant]]:
    """For each case the variants to measure."""
    for size, bare in cases(options.only, SIZES if options.size is None else [SIZES[options.size]]):
        case = stored(bare)
        asked = Asked()
        plain = lower(case.graph, {}, target, asked)
        sizes = [sum(s.nbytes for s in (*launch.reads, *launch.writes)) for launch in plain.launches]
        place = len(sizes) - 1 if options.sums else max(range(len(sizes)), key=sizes.__getitem__)
        problem = _problem_of(plain.launches[place], asked)
        found: list[Variant] = []
        for config in asked.seen[problem][: options.most]:
            schedule = lower(case.graph, {}, target, Asked(problem, config))
            found.append(Variant(case, size, config, schedule, schedule.launches[place]))
        yield found


def _problem_of(launch: Launch, asked: Asked) -> Problem:
    """The problem that a launch of a generated kernel answers."""
    source = launch.kernel.source or ""
    wanted = hashlib.sha256(source.encode()).hexdigest()[:16]
    return next(p for p in asked.seen if json.loads(p.facts).get("kernel") == wanted)


# ---- compiling -------------------------------------------------------------------------------------------------


def compile_share(options: argparse.Namespace, target: Target) -> None:
    """Compile every n-th variant; write what the compiler says of each."""
    from flame_triton.runtime.ahead import compile_ahead

    share, count, out = options.share
    reports: dict[str, dict[str, Any]] = {}
    every = [v for group in variants(options, target) for v in group]
    for variant in every[int(share) :: int(count)]:
        launches = variant.schedule.launches if variant is every[0] else [variant.launch]
        reports[variant.key] = asdict(compile_ahead(launches, target, at_once=1)[0])
    Path(out).write_text(json.dumps(reports))


def compile_everything(arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Reports by variant; the kernels are left in Triton's cache."""
    count = os.cpu_count() or 1
    environment = os.environ | {"FLAME_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    reports: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.json" for i in range(count)]
        command = [sys.executable, "-m", "bench.regions", *arguments]
        started = [
            subprocess.Popen([*command, "--share", str(i), str(count), str(f)], env=environment)
            for i, f in enumerate(files)
        ]
        for process, file in zip(started, files, strict=True):
            if process.wait():
                raise RuntimeError(f"a compiling process ended with {process.returncode}")
            reports |= json.loads(file.read_text())
    return reports


# ---- measuring -------------------------------------------------------------------------------------------------


class Clock:
    """Milliseconds of a call on the GPU, from cold caches: the median of a few."""

    def __init__(self) -> None:
        self.trash = torch.empty(FLUSH_BYTES // 4, dtype=torch.int32, device="cuda")

    def __call__(self, run: Callable[[], object], rounds: int = ROUNDS) -> float:
        run()
        times: list[float] = []
        for _ in range(rounds):
            self.trash.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        return statistics.median(times)

    def copy(self, nbytes: int) -> float:
        """A captured copy that reads and writes nbytes in all."""
        source = torch.empty(nbytes // 2, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        target.copy_(source)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            target.copy_(source)
        return self(graph.replay)


class Measured:
    """One case on the GPU: its State, filled with numbers, and the programs of its variants."""

    def __init__(self, case: RegionCase) -> None:
        values = [n.out for n in case.graph.nodes if n.op.name == "parameter"]
        self.case = case
        self.state = ft.State(values, device="cuda")
        self.places = {v: self.state.place(v) for v in values}
        generator = torch.Generator("cuda").manual_seed(0)
        self.tensors: dict[str, torch.Tensor] = {}
        for v, place in self.places.items():
            tensor = place.tensor
            if v.dtype.is_float:
                tensor.normal_(generator=generator)
            else:
                tensor.random_(0, 1000, generator=generator)
            self.tensors[str(v.name)] = tensor
        for v in case.others:
            kind = getattr(torch, v.dtype.name)
            self.tensors[str(v.name)] = torch.randn(v.shape, device="cuda", generator=generator).to(kind)
        rivals.save(case.name, self.tensors)

    def runner(self, schedule: Schedule) -> Callable[[], list[Any]]:
        from flame_triton.runtime.execute import KernelExecutor

        plan_memory(schedule)
        executor = KernelExecutor(schedule, self.case.graph, self.places, self.state.arena, self.state.device)
        return lambda: executor.run([], True)


def gate(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest difference of a result, as a share of its largest value. Statistics, which follow the results that
    torch has too, are not compared."""
    errors = [
        float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp(min=1e-30))
        for a, b in zip(found, wanted, strict=False)
    ]
    return max(errors)


def measure(options: argparse.Namespace, target: Target, reports: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    clock = Clock()
    rows: list[dict[str, Any]] = []
    heads = ("case", "size", "MB", "copy", "heuristic", "GB/s", "%", "best", "GB/s", "%", "torch", "%")
    print("{:24}{:>14}{:>7}{:>7} | {:16}{:>6}{:>5} | {:16}{:>6}{:>5} |{:>6}{:>5}".format(*heads))
    for group in variants(options, target):
        case, size = group[0].case, group[0].size
        measured = Measured(case)
        times: dict[str, float] = {}
        rival = rivals.opponent(case.name, measured.tensors)
        wanted = rival()
        for variant in group:
            report = reports.get(variant.key, {})
            if report.get("error") or report.get("spills", 0) > 64:
                continue
            run = measured.runner(variant.schedule)
            error = gate(run(), wanted)
            if not error < GATE:
                print(f"  WRONG {variant.key}: {error:.2e} off torch's result")
                continue
            times[text(variant.config)] = clock(run)
        if not times:
            continue
        copy, theirs = clock.copy(case.ideal), clock(rival)
        first = text(group[0].config)
        best = min(times, key=times.__getitem__)
        row = {
            "case": case.name, "size": size, "bytes": case.ideal, "copy_ms": copy, "torch_ms": theirs, "ms": times,
            "heuristic": first, "best": best,
            "reports": {name: reports.get(f"{case.name} {size} {name}") for name in times},
        }  # fmt: skip
        rows.append(row)
        print(_line(row), flush=True)
        if options.all:
            for name, ms in sorted(times.items(), key=lambda item: item[1]):
                report = row["reports"][name] or {}
                print(f"      {name:24}{case.ideal / ms / 1e6:7.0f} GB/s {100 * copy / ms:5.1f}%  "
                      f"{report.get('registers', 0)} registers, {report.get('spills', 0)} B spilled")  # fmt: skip
        del measured, wanted, rival
        torch.cuda.empty_cache()
    return rows


def _line(row: dict[str, Any]) -> str:
    def rate(ms: float | None) -> str:
        return f"{row['bytes'] / ms / 1e6:6.0f}{100 * row['copy_ms'] / ms:5.0f}" if ms else "     -    -"

    ms, size = row["ms"], "x".join(map(str, row["size"]))
    copy = row["bytes"] / row["copy_ms"] / 1e6
    ours = [f"{name:16}{rate(ms.get(name))}" for name in (row["heuristic"], row["best"])]
    return (
        f"{row['case']:24}{size:>14}{row['bytes'] / 1e6:7.1f}{copy:7.0f} | {' | '.join(ours)} |{rate(row['torch_ms'])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--size", type=int, choices=range(len(SIZES)), help=f"one of {SIZES}")
    parser.add_argument("--most", type=int, default=16, help="candidates of each case")
    parser.add_argument("--sums", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--programs", type=int, default=legalise.PROGRAMS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--share", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    legalise.PROGRAMS = options.programs
    target = Target(90)
    if options.share:
        compile_share(options, target)
        return
    start = time.perf_counter()
    reports = compile_everything(sys.argv[1:])
    print(f"{len(reports)} variants compiled in {time.perf_counter() - start:.0f} s")
    rows = measure(options, target, reports)
    print(f"{time.perf_counter() - start:.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
