"""flame-triton build: compile every kernel of a program for a GPU that need not be there, and write a bundle."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from . import config
from .cli_target import step_of
from .errors import ArgumentError

if TYPE_CHECKING:
    from .graph.plan import Target
    from .runtime.ahead import KernelReport

# What the compiler must know of the common GPU of each architecture: (multiprocessors, shared bytes one block may use).
GPUS = {80: ("A100", 108, 166912), 90: ("H200", 132, 232448)}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, messages to stderr.")]


def build(
    model: Annotated[str, typer.Argument(metavar="[digits|MODULE:FUNCTION]", help="What to build.")] = "digits",
    target: Annotated[str, typer.Option(help="sm_90 or sm_80.")] = "sm_90",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The bundle to write. Default: none.")] = None,
    processors: Annotated[int | None, typer.Option(min=1, help="Multiprocessors. Default: H200's or A100's.")] = None,
    shared: Annotated[int | None, typer.Option(min=1, help="Shared bytes a block may use. Default: as above.")] = None,
    max_spills: Annotated[int | None, typer.Option(min=0, help="Fail if a kernel spills more bytes a thread.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Kernels compiled at once. Default: one per core.")] = None,
    width: Annotated[int, typer.Option(min=2, help="digits: channels of a token.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="digits: transformer blocks.")] = 3,
    heads: Annotated[int, typer.Option(min=1, help="digits: attention heads.")] = 4,
    batch: Annotated[int, typer.Option(min=1, help="digits: images a step.")] = 64,
    dtype: Annotated[str, typer.Option(help="digits: of the computation.")] = "float32",
    fast: Annotated[bool, typer.Option("--fast", help="As ft.compile(..., deterministic=False) has them.")] = False,
    as_json: Json = False,
) -> None:
    """Compile every kernel of a program for a GPU that need not be there; show registers, spills and shared memory.

    FUNCTION takes nothing and returns a Graph or Values, or (Graph or Values, updates) for a whole training step.
    With -o, the kernels go into one file, from which ft.load_bundle lets a machine with that GPU run without compiling.
    Exit code 1 if a kernel does not compile, needs more shared memory than there is, or spills more than --max-spills.
    """
    config.compile_kernels()  # before anything imports triton
    digits = {"width": width, "layers": layers, "heads": heads, "batch": batch, "dtype": dtype}
    graph, updates = step_of(model, digits)
    from .runtime.ahead import compile_ahead
    from .runtime.execute import planned_bytes
    from .runtime.launch import distinct
    from .runtime.lower import lower

    chosen, start = replace(_target(target, processors, shared), deterministic=not fast), time.perf_counter()
    say = Console(stderr=as_json, no_color=config.no_color())
    schedule = lower(graph, updates, chosen)
    launches, lowered = schedule.launches, time.perf_counter() - start
    memory = dict(planned_bytes(schedule, graph.outputs, sum(slot.nbytes for slot in schedule.state.values())))
    with Progress(console=Console(stderr=True, no_color=config.no_color()), transient=True, disable=as_json) as bar:
        task = bar.add_task(f"compiling for sm_{chosen.arch}", total=len(distinct(launches)))
        reports = compile_ahead(launches, chosen, at_once=jobs, done=lambda: bar.advance(task))
    seconds = time.perf_counter() - start
    problems = [p for report in reports if (p := _problem(report, chosen, max_spills))]
    found: dict[str, Any] = {"target": f"sm_{chosen.arch}", "launches": len(launches), "kernels": len(reports)}
    found |= {"peak_bytes": sum(memory.values()), "memory": memory}
    found |= {"seconds": round(seconds, 2), "lowering_seconds": round(lowered, 2)}
    if output is not None and not any(r.error for r in reports):
        from .runtime.bundle import write_bundle

        found["code_bytes"] = write_bundle(output, reports, chosen.arch)
        found["bundle"] = os.fspath(output)
    if as_json:
        reported = [{k: v for k, v in asdict(r).items() if k != "cached"} for r in reports]
        print(json.dumps({"ok": not problems, **found, "problems": problems, "reports": reported}))
    else:
        _show(reports, found, problems, say)
    if problems:
        raise typer.Exit(1)


def _target(name: str, processors: int | None, shared: int | None) -> Target:
    """Raises ArgumentError for an architecture that we have no kernels for."""
    from .graph.plan import Target

    known = {f"sm_{arch}": arch for arch in GPUS}
    arch = known.get(name.removesuffix("a"))
    if arch is None:
        raise ArgumentError(f"unknown target {name!r}; known are {', '.join(known)}", op="build")
    _, usual_processors, usual_shared = GPUS[arch]
    return Target(arch, False, processors or usual_processors, shared or usual_shared)


def _problem(report: KernelReport, target: Target, max_spills: int | None) -> str:
    """Why this kernel will not do, or nothing."""
    if report.error is not None:
        return f"{report.label or report.name}: {report.error}"
    if report.shared_bytes > target.shared_bytes:
        return f"{report.label}: {report.shared_bytes:,} B of shared memory, {target.shared_bytes:,} B are there"
    if max_spills is not None and report.spills > max_spills:
        return f"{report.label}: spills {report.spills:,} B a thread, {max_spills:,} B are allowed"
    return ""


def _show(reports: Sequence[KernelReport], found: Mapping[str, Any], problems: Sequence[str], say: Console) -> None:
    """The table of kernels, slowest to compile last, and what was found."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("kernel", overflow="fold")
    for name in ("registers", "spills", "shared", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("remarks", overflow="fold")
    for r in sorted(reports, key=lambda r: r.seconds):
        spills = f"[bold red]{r.spills:,}[/]" if r.spills else "0"
        remarks = "does not compile" if r.error else "; ".join(r.remarks)
        table.add_row(
            r.label or r.name, str(r.registers), spills, f"{r.shared_bytes:,}", f"{r.seconds:.2f}",
            f"[bold red]{remarks}[/]",
        )  # fmt: skip
    say.print(table)
    say.print(
        f"{found['kernels']} kernels of {found['launches']} launches for {found['target']} in {found['seconds']:.1f} s "
        f"({found['lowering_seconds']:.1f} s to lower the graph), {sum(bool(r.spills) for r in reports)} spill",
        highlight=False,
    )
    parts = ", ".join(f"{what} {nbytes:,}" for what, nbytes in found["memory"].items())
    say.print(f"planned peak {found['peak_bytes']:,} B: {parts}", highlight=False, soft_wrap=True)
    if "bundle" in found:
        say.print(f"{found['bundle']}: {found['code_bytes']:,} B of code", highlight=False, soft_wrap=True)
    for problem in problems:
        say.print("BAD", style="bold red", end=" ")
        say.print(problem, markup=False, highlight=False, soft_wrap=True)
