"""The command line: parses arguments, calls, prints. What needs torch is imported only by the commands that use it.

Exit codes: 0 done; 1 something is wrong, said in one message; 2 wrong usage; 3 training stopped on numbers that are not
finite; 4 the kernels do not agree with the references; 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from typer.core import TyperGroup

from . import __version__, config
from .cli_bench import bench
from .cli_build import build
from .cli_target import step_of
from .cli_tune import tune_app
from .errors import ArgumentError, FlameError, NonFiniteError
from .ir.graph import Graph
from .ir.node import Value

EPILOG = (
    "Exit codes: 0 done, 1 an error (one message), 2 wrong usage, 3 numbers that are not finite, "
    "4 kernels that disagree with the references, 130 interrupted."
)


class _Commands(TyperGroup):
    """Prints errors of this package as one message; --debug shows where they come from."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FlameError as error:
            if ctx.params.get("debug"):
                raise
            _console(stderr=True).print(f"[bold red]error:[/] {_plain(str(error))}", soft_wrap=True, highlight=False)
            raise typer.Exit(3 if isinstance(error, NonFiniteError) else 1) from None


def _plain(text: str) -> str:
    """Text in which rich sees no markup."""
    return text.replace("[", "\\[")


def _console(stderr: bool = False) -> Console:
    return Console(stderr=stderr, no_color=config.no_color())


class GraphFormat(StrEnum):
    """How a graph is shown."""

    text = "text"
    dot = "dot"
    html = "html"


class Stage(StrEnum):
    """After which pass a graph is shown."""

    build = "build"
    simplify = "simplify"
    decompose = "decompose"
    placement = "placement"
    legalise = "legalise"
    fuse = "fuse"


def _settings(help: str, **more: Any) -> dict[str, Any]:
    context = {"help_option_names": ["-h", "--help"]}
    return {"help": help, "epilog": EPILOG, "context_settings": context, "no_args_is_help": True, **more}


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    **_settings("Kernel DSL with graph-level autodiff: train, sample, inspect."),
)
train_app = typer.Typer(**_settings("Train a model."))
app.add_typer(train_app, name="train")
app.command(epilog=EPILOG)(bench)
app.add_typer(tune_app, name="tune", epilog=EPILOG)
app.command(epilog=EPILOG)(build)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"flame-triton {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options that stand before the command."""


# ---- train and sample ------------------------------------------------------------------------------------------

Device = Annotated[
    str | None, typer.Option(help="cuda, cuda:1, interpreter or reference. Default: a GPU, else reference.")
]
Runs = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Folder that holds all runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, messages to stderr.")]
CHECKPOINT = "latest|latest-good|STEP|PATH"
Guidance = Annotated[float, typer.Option(help="How strictly digits follow their label; 1: as learnt.")]
SamplingSteps = Annotated[int, typer.Option("--sampling-steps", min=1, help="Euler steps from noise to digit.")]


@train_app.command("digits", epilog=EPILOG)
def train_digits(
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a step.")] = None,
    width: Annotated[int | None, typer.Option(min=2, help="Channels of a token.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Transformer blocks.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the computation: float32, bfloat16, float16.")] = None,
    lr: Annotated[float | None, typer.Option(min=0.0, help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, noise and the order of the data.")] = None,
    device: Device = None,
    run: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the run. Default: a new one.")] = None,
    runs: Runs = Path("runs"),
    resume: Annotated[
        str | None,
        typer.Option(
            metavar=CHECKPOINT,
            help="Go on with --run, bit for bit, from the newest checkpoint, the newest sound one, that of a step, or "
            "the one of this path. A damaged one is refused, naming the newest sound one before it.",
        ),
    ] = None,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between lines of the log.")] = 10,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    keep: Annotated[int, typer.Option(min=1, help="Newest checkpoints that stay.")] = 3,
    keep_every: Annotated[int | None, typer.Option(min=1, help="Those of steps that N divides stay too.")] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the log and the samples for TensorBoard.")
    ] = False,
    guidance: Guidance = 1.5,
    sampling_steps: SamplingSteps = 50,
    proof: Annotated[bool, typer.Option(help="Without a GPU: compare kernels and references afterwards.")] = True,
    as_json: Json = False,
) -> None:
    """Train a diffusion transformer on handwritten digits, and draw new ones.

    Writes RUNS/NAME/: log.jsonl, checkpoint-STEP/, loss.png, samples.png. Ctrl-C or SIGTERM ends the run with a
    checkpoint. A kill leaves the last one: it can be taken at any instant (docs/checkpoints.md).
    """
    from .train import demo

    given = {"steps": steps, "batch": batch, "width": width, "layers": layers, "heads": heads, "dtype": dtype}
    given |= {"lr": lr, "seed": seed}
    changes = {name: value for name, value in given.items() if value is not None}
    drawing = demo.Drawing(guidance=guidance, steps=sampling_steps, seed=seed or 0)
    keeping = (log_every, save_every, keep, keep_every)
    order = demo.Order(changes, device, runs, run, resume, *keeping, drawing, tensorboard, proof)
    report = demo.run_demo(order, demo.Voice(_console(stderr=as_json)))
    if as_json:
        print(json.dumps(report))
    if report["interrupted"]:
        raise typer.Exit(130)
    if report.get("kernels_agree") is False:
        raise typer.Exit(4)


@app.command(epilog=EPILOG)
def sample(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or its folder.")],
    checkpoint: Annotated[str, typer.Option(metavar=CHECKPOINT, help="Which one draws.")] = "latest",
    per_class: Annotated[int, typer.Option(min=1, help="Digits of each class.")] = 10,
    guidance: Guidance = 1.5,
    sampling_steps: SamplingSteps = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise to start from.")] = 1,
    device: Device = None,
    runs: Runs = Path("runs"),
    output: Annotated[Path | None, typer.Option("--output", "-o", help="PNG. Default: RUN/samples-SEED.png.")] = None,
    as_json: Json = False,
) -> None:
    """Draw digits with a checkpoint of a run."""
    from .train import demo, folder

    named = Path(run)
    root, name = (named.parent, named.name) if len(named.parts) > 1 else (runs, run)
    drawing = demo.Drawing(per_class, guidance, sampling_steps, seed)
    voice = demo.Voice(_console(stderr=as_json))
    report = demo.sample(folder.RunFolder(root, name), checkpoint, device, drawing, output, voice)
    if as_json:
        print(json.dumps(report))


# ---- doctor and graph ------------------------------------------------------------------------------------------


@app.command(epilog=EPILOG)
def doctor(as_json: Json = False) -> None:
    """Check versions, device, cache and every kind of kernel. Exit code 1 if something is broken."""
    from .doctor import examine

    checks, say, group = [], _console(), ""
    for check in examine():
        checks.append(check)
        if as_json:
            continue
        if check.group != group:
            group = check.group
            say.print(f"[bold]{group}[/]")
        mark = "[green]ok[/] " if check.ok else "[bold red]BAD[/]"
        say.print(f"  {mark} {check.name}: {_plain(check.value)}", highlight=False, soft_wrap=True)
        if not check.ok and check.advice:
            say.print(f"      to mend it: {_plain(check.advice)}", highlight=False, soft_wrap=True)
    broken = [c for c in checks if not c.ok]
    if as_json:
        print(json.dumps({"ok": not broken, "checks": [dataclasses.asdict(c) for c in checks]}))
    else:
        say.print(f"{len(broken)} broken" if broken else "everything works", style="red" if broken else "green")
    if broken:
        raise typer.Exit(1)


@app.command(epilog=EPILOG)
def graph(
    target: Annotated[str, typer.Argument(metavar="[digits|MODULE:FUNCTION]", help="What to show.")] = "digits",
    stage: Annotated[Stage, typer.Option(help="Show it as it is after this pass.")] = Stage.build,
    format: Annotated[
        GraphFormat, typer.Option("--format", "-f", help="text, dot (Graphviz) or html.")
    ] = GraphFormat.text,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write. Default: stdout.")] = None,
    forward: Annotated[bool, typer.Option("--forward", help="digits: the loss alone.")] = False,
    width: Annotated[int, typer.Option(min=2, help="digits: channels of a token.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="digits: transformer blocks.")] = 3,
    batch: Annotated[int, typer.Option(min=1, help="digits: images a step.")] = 64,
) -> None:
    """Show a graph after any pass. FUNCTION returns a Graph, Values, or a pair of that and a dict of updates."""
    from .graph import show
    from .graph.pipeline import optimise

    found = _digits_graph(forward, width, layers, batch) if target == "digits" else _whole(*step_of(target))
    render: Callable[[Graph], str] = {"text": show.text, "dot": show.dot, "html": show.html}[format.value]
    picture = render(optimise(found, stage=stage.value))
    if output is None:
        sys.stdout.write(picture if picture.endswith("\n") else picture + "\n")
        return
    try:
        output.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"{output} cannot be written: {error.strerror or error}") from error


def _digits_graph(forward: bool, width: int, layers: int, batch: int) -> Graph:
    from .train.digits_model import DigitsConfig, training_graph

    made = training_graph(DigitsConfig(width=width, layers=layers, batch=batch))
    return Graph((made.images, made.labels), (made.loss, *(() if forward else made.updates.values())))


def _whole(graph: Graph, updates: Mapping[Value, Value]) -> Graph:
    """The graph with the updates among its outputs."""
    return Graph(graph.inputs, (*graph.outputs, *updates.values()))


# ---- check ----------------------------------------------------------------------------------------------------


@app.command(epilog=EPILOG)
def check(
    module: Annotated[
        str | None, typer.Argument(metavar="[MODULE|FILE.py]", help="Whose ops to prove. Default: all of ours.")
    ] = None,
    graphs: Annotated[int, typer.Option(min=0, help="Prove this many random graphs instead.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the first random graph; each has the next one.")] = 0,
    size: Annotated[int, typer.Option(min=1, help="Calls in a random graph.")] = 6,
    only: Annotated[str, typer.Option(metavar="TEXT", help="Only functions whose name holds TEXT.")] = "",
    device: Annotated[str | None, typer.Option(help="cuda or interpreter. Default: the process's own.")] = None,
    as_json: Json = False,
) -> None:
    """Prove ops: kernels against float64 in every dtype, gradients and their gradients against differences.

    MODULE is imported, and what it defines with ft.fused(samples=) and ft.custom_op(samples=) is proven like ours.
    Exit code 1 if something does not hold.
    """
    from .testing import PROOFS, cases, prove, prove_graphs, user_cases

    if graphs:
        found = prove_graphs(graphs, seed, size, device)
        failed = [f for f in _watched(found, graphs, "random graphs", as_json) if f.problem]
        lines = [f"seed {f.seed}, {f.size} calls: {f.problem}\n\n{f.text}\n{_again(f)}" for f in failed]
        summary = f"{graphs} random graphs from seed {seed}"
    else:
        chosen = list(cases() if module is None else user_cases(_module_name(module)))
        chosen = [case for case in chosen if only in case.name]
        if not chosen:
            which = f" whose name holds {only!r}" if only else ""
            raise ArgumentError(f"{module or 'the registry'} has no function with samples{which}")
        findings = list(_watched(prove(chosen, device), len(chosen) * PROOFS, "proofs", as_json))
        failed = [f for f in findings if f.problem]
        lines = [f"{f.case}, {f.what}: {f.problem}" for f in failed]
        summary = f"{len(findings)} proofs of {len({case.name for case in chosen})} functions"
    if as_json:
        print(json.dumps({"ok": not failed, "checked": summary, "failed": [dataclasses.asdict(f) for f in failed]}))
    else:
        say = _console()
        for line in lines:
            say.print(f"[bold red]BAD[/] {_plain(line)}", highlight=False, soft_wrap=True)
        say.print(f"{summary}: {len(failed)} failed" if failed else f"{summary}: all hold", highlight=False)
    if failed:
        raise typer.Exit(1)


def _again(finding: Any) -> str:
    return f"again: flame-triton check --graphs 1 --seed {finding.seed} --size {finding.size}"


def _watched(findings: Iterable[Any], total: int, what: str, quiet: bool) -> Iterator[Any]:
    """The findings, with a progress bar on stderr."""
    with Progress(console=_console(stderr=True), transient=True, disable=quiet) as bar:
        task = bar.add_task(what, total=total)
        for finding in findings:
            bar.advance(task)
            yield finding


def _module_name(given: str) -> str:
    """The name under which a module, or a file, has been imported. Raises ArgumentError if it cannot be."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        if not given.endswith(".py"):
            return import_module(given).__name__
        spec = spec_from_file_location(Path(given).stem, given)
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[module.__name__] = module
        spec.loader.exec_module(module)
        return module.__name__
    except (ImportError, FileNotFoundError) as error:
        raise ArgumentError(f"{given} cannot be imported: {error}") from error
    finally:
        sys.path.pop(0)


def main() -> None:
    """Run the command line with the arguments of this process."""
    app(prog_name="flame-triton")
