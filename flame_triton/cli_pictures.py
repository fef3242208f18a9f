"""flame-triton train emoji, train images: a text-to-image model on real pictures; and sample --caption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from . import config
from .errors import ArgumentError

Steps = Annotated[int | None, typer.Option(min=1, help="Training steps. Default 10000.")]
Minutes = Annotated[
    float | None, typer.Option(min=0.01, help="Train as many steps as fit into this time, instead of --steps.")
]
Tiny = Annotated[bool, typer.Option("--tiny", help="A small model of large patches, for a CPU.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Pictures a step.")]
Width = Annotated[int | None, typer.Option(min=4, help="Channels of a patch's token.")]
Layers = Annotated[int | None, typer.Option(min=1, help="Transformer blocks.")]
Heads = Annotated[int | None, typer.Option(min=1, help="Attention heads.")]
Patch = Annotated[int | None, typer.Option(min=1, help="Side of a patch, in pixels.")]
DType = Annotated[str | None, typer.Option(help="Of the computation. Default: bfloat16 on a GPU, else float32.")]
Rate = Annotated[float | None, typer.Option(min=0.0, help="Peak learning rate.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of weights, noise and the order of the data.")]
Device = Annotated[
    str | None, typer.Option(help="cuda, cuda:1, interpreter or reference. Default: a GPU, else reference.")
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FOLDER", help="Folder of this run. Default: a new one in --runs.")
]
Name = Annotated[str | None, typer.Option("--run", metavar="NAME", help="Name of the run in --runs.")]
Runs = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Folder that holds all runs.")]
Resume = Annotated[
    str | None,
    typer.Option(metavar="latest|latest-good|STEP|PATH", help="Go on from a checkpoint of the run, bit for bit."),
]
LogEvery = Annotated[int, typer.Option(min=1, help="Steps between lines of the log.")]
SaveEvery = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")]
Keep = Annotated[int, typer.Option(min=1, help="Newest checkpoints that stay.")]
KeepEvery = Annotated[int | None, typer.Option(min=1, help="Those of steps that N divides stay too.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write log and pictures for TensorBoard.")]
Grids = Annotated[int, typer.Option(min=1, help="How many times pictures are painted on the way.")]
Captions = Annotated[list[str] | None, typer.Option("--caption", help="Paint this too; may be given several times.")]
Guidance = Annotated[float, typer.Option(help="How strictly pictures follow their caption; 1: as learnt.")]
SamplingSteps = Annotated[int, typer.Option("--sampling-steps", min=1, help="Euler steps from noise to picture.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout, messages to stderr.")]


def train_emoji(
    steps: Steps = None,
    minutes: Minutes = None,
    tiny: Tiny = False,
    batch: Batch = None,
    width: Width = None,
    layers: Layers = None,
    heads: Heads = None,
    patch: Patch = None,
    dtype: DType = None,
    lr: Rate = None,
    seed: Seed = None,
    device: Device = None,
    out: Out = None,
    run: Name = None,
    runs: Runs = Path("runs"),
    resume: Resume = None,
    log_every: LogEvery = 20,
    save_every: SaveEvery = 2000,
    keep: Keep = 2,
    keep_every: KeepEvery = None,
    tensorboard: TensorBoard = False,
    grids: Grids = 4,
    caption: Captions = None,
    guidance: Guidance = 4.0,
    sampling_steps: SamplingSteps = 30,
    as_json: Json = False,
) -> None:
    """Train a text-to-image model on 3,953 real emoji and their names, and paint what it is told.

    Needs pip install 'flame-triton[emoji]'. The graphics are Twemoji (CC-BY 4.0). Writes log.jsonl, checkpoints and
    pictures-STEP.png: captions it is trained on, captions held out, and combinations that no emoji shows.
    """
    given = {"steps": steps, "batch": batch, "width": width, "layers": layers, "heads": heads, "patch": patch}
    given |= {"dtype": dtype, "lr": lr, "seed": seed}
    _train(
        _changes(given, minutes),
        as_json,
        tiny=tiny,
        minutes=minutes,
        device=device,
        resume=resume,
        log_every=log_every,
        save_every=save_every,
        keep=keep,
        keep_every=keep_every,
        tensorboard=tensorboard,
        grids=grids,
        captions=tuple(caption or ()),
        guidance=guidance,
        sampling_steps=sampling_steps,
        **_place(out, runs, run),
    )


def train_images(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures with captions: NAME.png and NAME.txt.")],
    side: Annotated[int, typer.Option(min=1, help="Pictures get about side x side pixels, in their own ratio.")] = 72,
    characters: Annotated[bool, typer.Option("--characters", help="Captions are read by letters, not words.")] = False,
    steps: Steps = None,
    minutes: Minutes = None,
    tiny: Tiny = False,
    batch: Batch = None,
    width: Width = None,
    layers: Layers = None,
    heads: Heads = None,
    patch: Patch = None,
    dtype: DType = None,
    lr: Rate = None,
    seed: Seed = None,
    device: Device = None,
    out: Out = None,
    run: Name = None,
    runs: Runs = Path("runs"),
    resume: Resume = None,
    log_every: LogEvery = 20,
    save_every: SaveEvery = 2000,
    keep: Keep = 2,
    keep_every: KeepEvery = None,
    tensorboard: TensorBoard = False,
    grids: Grids = 4,
    caption: Captions = None,
    guidance: Guidance = 4.0,
    sampling_steps: SamplingSteps = 30,
    as_json: Json = False,
) -> None:
    """Train a text-to-image model on a folder of pictures: NAME.png beside NAME.txt, or captions.jsonl.

    Pictures of different shapes go into buckets, each with a program of its own, compiled before training begins.
    """
    given = {"steps": steps, "batch": batch, "width": width, "layers": layers, "heads": heads, "patch": patch}
    given |= {"dtype": dtype, "lr": lr, "seed": seed}
    _train(
        _changes(given, minutes),
        as_json,
        folder=folder,
        side=side,
        level="character" if characters else "word",
        tiny=tiny,
        minutes=minutes,
        device=device,
        resume=resume,
        log_every=log_every,
        save_every=save_every,
        keep=keep,
        keep_every=keep_every,
        tensorboard=tensorboard,
        grids=grids,
        captions=tuple(caption or ()),
        guidance=guidance,
        sampling_steps=sampling_steps,
        **_place(out, runs, run),
    )


def _changes(given: dict[str, Any], minutes: float | None) -> dict[str, Any]:
    if minutes is not None and given["steps"] is not None:
        raise ArgumentError("--minutes and --steps exclude each other")
    return {name: value for name, value in given.items() if value is not None}


def _place(out: Path | None, runs: Path, name: str | None) -> dict[str, Any]:
    """Where the run lies: the folder of all runs and its name."""
    if out is None:
        return {"runs": runs, "name": name}
    if name is not None:
        raise ArgumentError("--out names the folder of the run; --run and --runs say the same in two parts")
    whole = out.absolute()
    return {"runs": whole.parent, "name": whole.name}


def _train(changes: dict[str, Any], as_json: bool, **order: Any) -> None:
    from .train import painting
    from .train.demo import Voice

    report = painting.run_order(painting.Order(changes, **order), Voice(_console(as_json)))
    if as_json:
        print(json.dumps(report))
    if report["interrupted"]:
        raise typer.Exit(130)


def _console(as_json: bool) -> Console:
    return Console(stderr=as_json, no_color=config.no_color())
