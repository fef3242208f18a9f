"""flame-triton tune: measure configurations of kernels, show what was measured, and exchange it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer.core import TyperGroup

from . import config
from .cli_target import step_of
from .errors import ArgumentError, DeviceError

if TYPE_CHECKING:
    from .runtime.store import Row
    from .tune.search import Gain, Search

_CONTEXT = {"help_option_names": ["-h", "--help"]}


class _Tune(TyperGroup):
    """What is no name of a command is what to tune: `tune digits` is `tune graph digits`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in _CONTEXT["help_option_names"]:
            args = ["graph", *args]
        return super().parse_args(ctx, args)


tune_app = typer.Typer(
    cls=_Tune,
    no_args_is_help=True,
    context_settings=_CONTEXT,
    help="Measure the configurations of a graph's kernels: tune digits, or tune MODULE:FUNCTION.",
)

StoreFile = Annotated[
    Path | None, typer.Option("--store", metavar="FILE", help="Default: FLAME_STORE, or one in the cache folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, messages to stderr.")]


@tune_app.command("graph")
def tune_graph(
    target: Annotated[str, typer.Argument(metavar="[digits|MODULE:FUNCTION]", help="What to tune.")] = "digits",
    budget: Annotated[str | None, typer.Option(help="When to end: 240, 90s, 8m, 1h. Default: when done.")] = None,
    store: StoreFile = None,
    device: Annotated[str, typer.Option(help="Which GPU: cuda, cuda:1.")] = "cuda",
    only: Annotated[str, typer.Option(metavar="FAMILY", help="Only problems of this family: matmul, region.")] = "",
    workers: Annotated[int | None, typer.Option(min=1, help="Compiling processes. Default: one per core.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Kernels of ft.compile(..., deterministic=False).")] = False,
    as_json: Json = False,
) -> None:
    """Measure the distinct kernel problems of a graph and store every result.

    FUNCTION takes nothing and returns a Graph, a Value, several Values, or a pair of any of them and a dict from
    parameters to their new values, so that a training step is tuned as it is compiled. What is stored is not measured
    again: a search that was ended goes on.
    """
    seconds = None if budget is None else _seconds(budget)
    if not config.gpu_available() or config.interpreted():
        why = "this process interprets kernels" if config.gpu_available() else "there is none on this machine"
        raise DeviceError(f"tuning measures kernels on an NVIDIA GPU, and {why}; without tuning, heuristics decide")
    from .runtime.device import device as as_device
    from .runtime.store import Store
    from .tune.measure import DeviceBench
    from .tune.problems import tasks
    from .tune.search import Search

    chosen = as_device(device)
    if chosen.kind != "cuda":
        raise DeviceError(f"tuning measures kernels on an NVIDIA GPU, not on {chosen}")
    say = _console(stderr=as_json)
    bench = DeviceBench(chosen, workers, deterministic=not fast)
    try:
        found = [t for t in tasks(*step_of(target), bench.target) if t.problem.family.startswith(only)]
        say.print(f"{len(found)} distinct problems, {bench.workers} compiling processes, {bench.device}")
        with Store(store or config.store_path()) as opened, _progress(as_json) as bar:
            line = bar.add_task("heuristics", total=len(found))
            search = Search(found, bench, opened, seconds, lambda search: _move(bar, line, search))
            interrupted = False
            try:
                search.run()
            except KeyboardInterrupt:
                interrupted = True
    finally:
        bench.close()
    _report(search.gains, search.out_of_time or interrupted, say, as_json)
    if interrupted:
        raise typer.Exit(130)


@tune_app.command("show")
def tune_show(store: StoreFile = None, as_json: Json = False) -> None:
    """The fastest configuration of every problem in the store."""
    from dataclasses import asdict

    from .runtime.store import fastest

    rows = _rows(store)
    best = fastest(rows)
    if as_json:
        print(json.dumps({"problems": [asdict(row) for row in best], "rows": len(rows)}))
        return
    say, table = _console(), _table("device", "triton", "family", "problem", "configuration", "us")
    for row in sorted(best, key=lambda r: (r.device, r.triton, r.family, -(r.microseconds or 0.0))):
        table.add_row(
            row.device, row.triton, row.family, _brief(row.facts), _brief(row.config), f"{row.microseconds:.1f}"
        )
    say.print(table)
    states = {status: sum(r.status == status for r in rows) for status in dict.fromkeys(r.status for r in rows)}
    say.print(f"{len(best)} problems, {len(rows)} configurations: {_counted(states)}", highlight=False)


@tune_app.command("export")
def tune_export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON file to write.")],
    store: StoreFile = None,
    every: Annotated[bool, typer.Option("--all", help="Every configuration, not the fastest alone.")] = False,
) -> None:
    """Write what was measured to a table that `tune import` reads and that can be shipped."""
    from .runtime.store import fastest, write_table

    rows = _rows(store)
    chosen = rows if every else fastest(rows)
    write_table(file, chosen)
    _console().print(f"{len(chosen)} rows in {file}", highlight=False, soft_wrap=True)


@tune_app.command("import")
def tune_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON file that `tune export` wrote.")],
    store: StoreFile = None,
) -> None:
    """Enter a table into the store; rows of the same configuration and versions are replaced."""
    from .runtime.store import Store, read_table

    rows = read_table(file)
    with Store(store or config.store_path()) as opened:
        opened.put(rows)
    _console().print(f"{len(rows)} rows from {file}", highlight=False, soft_wrap=True)


def _seconds(text: str) -> float:
    """ "8m" -> 480. Raises ArgumentError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None or not float(found[1]):
        raise ArgumentError(f"a budget is seconds, or like 90s, 8m or 1h; got {text!r}")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


# ---- what is said ----------------------------------------------------------------------------------------------


def _console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr, no_color=config.no_color())
    if not console.is_terminal:  # nobody's window: rows of tables stay on one line
        console.width = 220
    return console


def _progress(quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    return Progress(*columns, TimeElapsedColumn(), console=_console(stderr=True), transient=True, disable=quiet)


def _move(bar: Progress, line: Any, search: Search) -> None:
    done, total = search.progress
    saved = sum(gain.saved for gain in search.gains)
    measured = sum(gain.before is not None for gain in search.gains)
    text = f"heuristics {measured}/{total}" if not done and not saved else f"problems, {saved:.0f} us saved a run"
    bar.update(line, completed=done, description=text)


def _report(gains: Sequence[Gain], out_of_time: bool, say: Console, as_json: bool) -> None:
    """What was gained, the most first."""
    ordered = sorted(gains, key=lambda g: (-g.saved, -g.task.count * (g.before or 0.0)))
    before = sum(g.task.count * (g.before or 0.0) for g in gains)
    after = sum(g.task.count * (g.after or 0.0) for g in gains)
    tried: dict[str, int] = {}
    for gain in gains:
        for status, count in gain.tried.items():
            tried[status] = tried.get(status, 0) + count
    known = sum(g.known for g in gains)
    complete = all(g.complete or g.note for g in gains)
    if as_json:
        totals = {"before": before, "after": after, "tried": tried, "known": known, "complete": complete}
        print(json.dumps({**totals, "problems": [_plain(gain) for gain in ordered]}))
        return
    table = _table("family", "line", "count", "tried", "heuristic us", "best us", "gain", "saved us", "configuration")
    for g in ordered:
        if g.before is None or g.after is None:
            table.add_row(g.task.problem.family, g.task.where, str(g.task.count), "-", "-", "-", "-", "-", g.note)
            continue
        row = [f"{g.before:.1f}", f"{g.after:.1f}", f"{g.before / g.after:.2f}x", f"{g.saved:.0f}", _brief(g.best)]
        share = f"{sum(g.tried.values())}/{g.space}"
        table.add_row(g.task.problem.family, g.task.where, str(g.task.count), share, *row)
    say.print(table)
    if after:
        say.print(
            f"[bold]{before:.0f} us -> {after:.0f} us a run, {before / after:.3f}x[/], in kernels with a choice",
            highlight=False,
        )
    say.print(f"configurations: {_counted(tried) or 'none'}; {known} known from before", highlight=False)
    if out_of_time and not complete:
        left = sum(not (g.complete or g.note) for g in gains)
        say.print(f"ended early, {left} problems left: run it again to go on", highlight=False)


def _plain(gain: Gain) -> dict[str, Any]:
    problem = gain.task.problem
    return {
        "family": problem.family, "facts": json.loads(problem.facts), "where": gain.task.where,
        "count": gain.task.count, "space": gain.space, "tried": gain.tried, "known": gain.known,
        "before": gain.before, "after": gain.after, "best": json.loads(gain.best) if gain.best else None,
        "complete": gain.complete, "note": gain.note,
    }  # fmt: skip


def _rows(store: Path | None) -> list[Row]:
    from .runtime.store import Store

    with Store(store or config.store_path(), create=False) as opened:
        return opened.rows()


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold", justify="right" if name in _NUMBERS else "left")
    return table


_NUMBERS = ("count", "tried", "heuristic us", "best us", "gain", "saved us", "us")


def _brief(text: str) -> str:
    """Canonical JSON in short: values without quotes, a configuration's kind left out."""
    fields = {k: v for k, v in json.loads(text).items() if k != "kind"}
    return " ".join(f"{k}={_value(v)}" for k, v in fields.items())


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return text.replace("[", "(").replace("]", ")")


def _counted(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in states.items())
