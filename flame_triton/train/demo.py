"""The demo from start to end: train, draw, judge, compare the kernels; what `flame-triton train digits` does."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from .. import config as process
from ..errors import ArgumentError
from ..runtime.device import device as as_device
from . import log, pictures
from .agreement import Agreement
from .board import Board
from .choose import claim, find
from .data import Digits, load_digits, require_extra
from .digits import Run, Sampler, begin, labels_in_rows, loss_ratio, prove, read_back, resume, single_threaded
from .digits_model import DigitsConfig
from .folder import RunFolder, new_run
from .loop import Outcome, train


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How digits are drawn. per_class: how many of each; guidance: see Sampler; steps: Euler's; seed: of the noise."""

    per_class: int = 10
    guidance: float = 1.5
    steps: int = 50
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Order:
    """A training run that somebody wants.

    changes: to DigitsConfig's defaults, or to a resumed run's configuration; device: None for the best one there is;
    runs: the folder of all runs; name: of this one, None for a new one; resume: see choose.find, None for a new run;
    log_every, save_every: steps; keep, keep_every: see RunFolder; tensorboard: write event files into the run's folder;
    proof: compare kernels and references afterwards.
    """

    changes: dict[str, Any]
    device: str | None = None
    runs: Path = Path("runs")
    name: str | None = None
    resume: str | None = None
    log_every: int = 10
    save_every: int = 500
    keep: int = 3
    keep_every: int | None = None
    drawing: Drawing = Drawing()
    tensorboard: bool = False
    proof: bool = True


class Voice:
    """Plain lines on a console: no highlighting, no wrapping."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def choose_device(wanted: str | None, say: Voice) -> str:
    """The device that is asked for, else a GPU, else the references, saying so. Raises DeviceError."""
    if wanted is not None:
        return str(as_device(wanted))
    if process.gpu_available() and not process.interpreted():
        return str(as_device("cuda"))
    say("no GPU: training on the NumPy references of the ops (device 'reference')")
    return "reference"


def run_demo(order: Order, say: Voice) -> dict[str, Any]:
    """Train, draw digits, judge them and compare kernels with references. Returns what it found, for JSON.

    The key "interrupted" is True after Ctrl-C: then nothing follows the training.
    Raises MissingPackageError before anything else, ArgumentError, StateError, DeviceError, NonFiniteError.
    """
    require_extra("examples", "sklearn", "matplotlib")
    if order.tensorboard:
        require_extra("tensorboard", "tensorboardX")
    device, data = choose_device(order.device, say), load_digits()
    keeping = (order.keep, order.keep_every)
    place = RunFolder(order.runs, order.name, *keeping) if order.name else new_run(order.runs, "digits", *keeping)
    with contextlib.ExitStack() as stack:
        stack.enter_context(single_threaded(device))
        run = _prepared(order, place, data, device, say, stack)
        board = Board(place.path / "tensorboard", run.training.step) if order.tensorboard else None
        if board is not None:
            stack.callback(board.close)
        outcome = train(
            run.training,
            place,
            run.config.steps,
            log_every=order.log_every,
            save_every=order.save_every,
            board=board,
            console=say.console,
        )
        report = _summary(place, device, outcome)
        if outcome.interrupted:
            again = f"flame-triton train digits --runs {order.runs} --run {place.path.name} --resume latest"
            say(f"stopped after step {outcome.step}; to go on: {again}")
            return report
        report |= _pictures(run, place, device, data, order.drawing, board, say)
        if order.proof and device == "reference" and process.interpreted():
            agreement = prove(run, data)
            show_agreement(agreement, say)
            report["kernels_agree"] = agreement.holds
    return report


def _prepared(
    order: Order, place: RunFolder, data: Digits, device: str, say: Voice, stack: contextlib.ExitStack
) -> Run:
    """A new run, or one that goes on; its folder is this process's own from here on."""
    if order.resume is None:
        if place.used():
            raise ArgumentError(f"{place.path} holds a run: --resume latest goes on with it, or choose another name")
        run = begin(DigitsConfig(**order.changes), data, device)
        stack.enter_context(place.occupied())
        return run
    if order.name is None:
        raise ArgumentError("--resume needs --run, the name of the run to go on with")
    stack.enter_context(place.occupied())
    with find(place, order.resume) as checkpoint:
        run = resume(checkpoint, data, device, order.changes)
        say(claim(place, checkpoint, device))
    return run


def _summary(place: RunFolder, device: str, outcome: Outcome) -> dict[str, Any]:
    records = log.read(place.log)
    return {
        "run": str(place.path),
        "device": device,
        "steps": outcome.step,
        "seconds": round(outcome.seconds, 2),
        "interrupted": outcome.interrupted,
        "loss": records[-1]["loss"] if records else None,
        "loss_ratio": loss_ratio(records),
    }


def _pictures(
    run: Run, place: RunFolder, device: str, data: Digits, drawing: Drawing, board: Board | None, say: Voice
) -> dict[str, Any]:
    """loss.png and samples.png, and how the samples are read."""
    records = log.read(place.log)
    pictures.plot_loss(records, place.path / "loss.png")
    ratio = loss_ratio(records)
    if ratio is not None:
        say(f"mean loss of the last 100 steps: {ratio:.3f} of that of the first 20")
    images, right = draw(run, device, data, drawing)
    pictures.save_grid(images, place.path / "samples.png", drawing.per_class)
    if board is not None:
        board.image("samples", pictures.image_grid(images, drawing.per_class), run.training.step)
    say(f"a support vector machine, trained on the real digits, reads {right} of {len(images)} drawn ones as meant")
    say(f"pictures: {place.path / 'samples.png'} and {place.path / 'loss.png'}")
    return {"samples": len(images), "samples_read_right": right}


def draw(run: Run, device: str, data: Digits, drawing: Drawing) -> tuple[Any, int]:
    """Digits, a row for each class: float32 [10 * per_class, 8, 8]; and how many of them are read as meant."""
    labels = labels_in_rows(drawing.per_class)
    images = Sampler(run, len(labels), drawing.guidance, device).draw(labels, drawing.steps, drawing.seed)
    return images, read_back(images, labels, data)


def sample(
    place: RunFolder, wish: str, device: str | None, drawing: Drawing, output: Path | None, say: Voice
) -> dict[str, Any]:
    """Draw digits with a checkpoint of a run (see choose.find), and write them as a PNG."""
    require_extra("examples", "sklearn", "matplotlib")
    with find(place, wish) as checkpoint:
        chosen, data = choose_device(device, say), load_digits()
        with single_threaded(chosen):
            run = resume(checkpoint, data, chosen)
            images, right = draw(run, chosen, data, drawing)
    path = output or place.path / f"samples-{drawing.seed}.png"
    pictures.save_grid(images, path, drawing.per_class)
    say(f"{path}: {right} of {len(images)} digits are read as meant")
    found = {"picture": str(path), "checkpoint": str(checkpoint.path)}
    return {**found, "samples": len(images), "samples_read_right": right}


def show_agreement(agreement: Agreement, say: Voice) -> None:
    """The comparison as a table."""
    say(
        f"three more steps by the Triton kernels, interpreted, against the references ({agreement.launches} launches a "
        f"step; batch {agreement.batch}, since the interpreter is slow):"
    )
    table = Table("step", "loss", "differs", "worst gradient", "differs", "verdict", box=SIMPLE)
    for number, step in enumerate(agreement.steps, 1):
        name, error = step.worst
        verdict = "agree" if step.within(agreement.limit) else "DIFFER"
        table.add_row(str(number), f"{step.loss:.6f}", f"{step.loss_error:.1e}", name, f"{error:.1e}", verdict)
    say.console.print(table, highlight=False)
    say(
        f"{len(agreement.steps[0].errors)} gradients were compared in each step, relative to their largest element; "
        f"at most {agreement.limit:.1g} is allowed"
    )
