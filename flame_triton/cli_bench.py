"""`flame-triton bench`: measurements against torch. They live in the checkout's folder bench/, not in the package."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from . import config
from .errors import ArgumentError

HERE = Path(__file__).resolve().parent


def checkout() -> Path:
    """The folder of the checkout that this package runs from. Raises ArgumentError if there is none with bench/."""
    root = HERE.parent
    if not (root / "bench" / "harness.py").is_file():
        raise ArgumentError(
            "flame-triton bench runs from a checkout of the project, whose folder bench/ holds the cases and their "
            f"opponents in torch; the package in {HERE} has none beside it. Clone the project and run it there: "
            "python -m flame_triton bench"
        )
    return root


def _module(name: str) -> Any:
    """A module of the checkout's bench/."""
    root = checkout()
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    found = find_spec("bench")
    where = [Path(p).resolve() for p in (found.submodule_search_locations or [])] if found is not None else []
    if root / "bench" not in where:
        raise ArgumentError(f"another package called bench hides the one in {root}: {', '.join(map(str, where))}")
    return import_module(f"bench.{name}")


def bench(
    patterns: Annotated[
        list[str] | None, typer.Argument(metavar="[PATTERN]...", help="Cases whose name holds or matches one. All.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="The same, as an option.")] = None,
    family: Annotated[str, typer.Option(metavar="A,B", help="gemm, epilogue, norm, pointwise, optimizer, ...")] = "",
    opponents: Annotated[str, typer.Option(metavar="A,B", help="cuBLAS, eager, compile, max-autotune, ... All.")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes in float32; also without a GPU.")] = False,
    budget: Annotated[float, typer.Option(min=0, help="Seconds after which no case is started.")] = 600.0,
    autotune: Annotated[float, typer.Option(min=0, help="Seconds for torch's autotuned modes together.")] = 120.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each case.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.001, help="Measuring time of a case, about.")] = 0.6,
    profile: Annotated[
        str | None, typer.Option(metavar="CASE", help="Time per launch: of a case, or of MODULE:FUNCTION's Program.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Write JSON, Markdown, HTML.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="List the cases and stop.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object to stdout, messages to stderr.")
    ] = False,
) -> None:
    """Measure kernels and steps side by side with torch, or profile a program. Runs from a checkout.

    Exit code 1 if a result is wrong or a case fails.
    """
    command, harness, case = (_module(name) for name in ("command", "harness", "case"))
    stream = sys.stderr if as_json else sys.stdout
    console = Console(file=stream, no_color=config.no_color(), width=None if stream.isatty() else 140)
    names, groups, taking = (*(patterns or ()), *(only or ())), _listed(family), _listed(opponents)
    plan = harness.Plan(case.Scale(quick), taking, budget, autotune, rounds, seconds)
    try:
        if show:
            print(command.listing(plan, groups, names))
            return
        if profile is not None:
            found = command.profile(profile, plan.scale, out, console).as_dict()
        else:
            found = command.run(plan, groups, names, out, console)
    except ValueError as error:
        raise ArgumentError(str(error)) from error
    if as_json:
        print(json.dumps(found))
    if any(row["verdict"] in ("wrong", "failed") for row in found.get("cases", ())):
        raise typer.Exit(1)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
