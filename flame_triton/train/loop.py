"""The training loop: steps of one program over one State, with log, checkpoints, and a clean stop on Ctrl-C."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ..optim import LossScaler
from ..runtime.finite import NonFinite
from ..runtime.state import State
from .board import Board
from .faults import Faults
from .folder import Progress, RunFolder
from .log import Log
from .writer import Writer


class Steps(Protocol):
    """What takes a step: a Program, or several that share a State."""

    @property
    def state(self) -> State: ...

    def __call__(self, *arrays: Any) -> Any: ...

    def find_non_finite(self, *arrays: Any) -> NonFinite | None: ...


class Positioned(Protocol):
    """Endless batches of which the position determines the next one, such as `data.Batches`."""

    position: int

    def __next__(self) -> Any: ...


@dataclass(eq=False)
class Training:
    """A run, ready to go on from `step`.

    program: returns loss, learning rate, gradient norm and skipped (0 or 1) of one step, all 0-d, and updates its
    state; batches and arrays: where its inputs come from; config: kept in every checkpoint; after: called with the
    number of each step that was taken; scaler: of the loss. A program that accumulates gradients counts micro-batches
    as steps.
    """

    program: Steps
    batches: Positioned
    arrays: Callable[[Any], Sequence[Any]]
    config: Mapping[str, Any]
    step: int = 0
    after: Callable[[int], None] = lambda step: None
    scaler: LossScaler | None = None

    @property
    def progress(self) -> Progress:
        """Where the run stands, for a checkpoint."""
        return Progress(self.step, self.batches.position, self.config)


@dataclass(frozen=True)
class Outcome:
    """step: reached; seconds: spent in steps; interrupted: True after Ctrl-C."""

    step: int
    seconds: float
    interrupted: bool


def train(
    run: Training,
    folder: RunFolder,
    steps: int,
    *,
    log_every: int = 10,
    save_every: int = 500,
    board: Board | None = None,
    console: Console | None = None,
) -> Outcome:
    """Take steps until `steps` have been taken in all. A checkpoint is written every `save_every` steps and at the end.

    Every step's loss is read back, so that a bad step ends the run at once, in the state in which it happened. Ctrl-C
    or SIGTERM ends the run after the current step, with a checkpoint; a second one ends it at once. Checkpoints are
    written beside training (writer.Writer); when this returns they are on disk. board: gets what the log gets.
    Raises NonFiniteError for a loss that is NaN or infinite, naming the node that made it and the user's line;
    CheckpointError; StateError if another process trains in the folder.
    """
    with ExitStack() as open_files:
        open_files.enter_context(folder.occupied())
        folder.set_aside(run.step)
        log = Log(folder.log, after=run.step)
        open_files.callback(log.close)
        writer = Writer(folder)
        begun = time.perf_counter()
        window, faults = _Window(), Faults(run.program, run.scaler)

        def save() -> None:
            log.sync()
            writer.save(run.program.state, run.progress)

        try:
            with _interruptible() as interrupted, _reporting(console, run.step, steps) as report:
                if run.step and run.step not in folder.steps():
                    save()  # it comes from elsewhere: from here on the folder has all that the run needs
                while run.step < steps and not interrupted.is_set():
                    window.add(take_step(run, faults))
                    boundary = interrupted.is_set() or run.step == steps or not run.step % save_every
                    if boundary or not run.step % log_every:
                        record = window.record(run.step, time.perf_counter() - begun) | faults.take()
                        log.write(record)
                        if board is not None:
                            board.scalars(record)
                    report(run.step, window.loss)
                    writer.check()
                    if boundary:
                        save()
                seconds = time.perf_counter() - begun
                writer.close()
                if interrupted.is_set() and run.step not in folder.steps():
                    save()
                    writer.close()
        except BaseException:
            writer.abandon()
            raise
    return Outcome(run.step, seconds, interrupted.is_set())


def take_step(run: Training, faults: Faults | None = None) -> tuple[float, float, float, float]:
    """One step: loss, learning rate, gradient norm, skipped. faults: of the run; default fresh ones.

    Raises NonFiniteError, see `train`.
    """
    arrays = run.arrays(next(run.batches))
    loss, rate, norm, skipped = (float(t) for t in run.program(*arrays))
    (faults or Faults(run.program, run.scaler)).watch(run.step + 1, loss, bool(skipped), arrays)
    run.step += 1
    run.after(run.step)
    return loss, rate, norm, skipped


class _Window:
    """What happened since the last line of the log."""

    def __init__(self) -> None:
        self.loss = math.nan
        self._clear()

    def _clear(self) -> None:
        self._losses: list[float] = []
        self._skipped = 0
        self._last = (math.nan, math.nan)

    def add(self, results: tuple[float, float, float, float]) -> None:
        """Take in one step."""
        loss, rate, norm, skipped = results
        self._losses.append(loss)
        self._skipped += int(skipped)
        self._last = (rate, norm)
        self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss

    def record(self, step: int, seconds: float) -> dict[str, Any]:
        """A line of the log, and a fresh start. loss: mean over `count` steps; lr and grad_norm: of the last one."""
        rate, norm = self._last
        made: dict[str, Any] = {
            "step": step,
            "count": len(self._losses),
            "loss": math.fsum(self._losses) / len(self._losses),
            "lr": rate,
            "grad_norm": norm if math.isfinite(norm) else None,
            "seconds": round(seconds, 3),
        }
        if self._skipped:
            made["skipped"] = self._skipped
        self._clear()
        return made


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Within, the first SIGINT (Ctrl-C) or SIGTERM only sets the event; the next one acts as it did before.

    Signals reach the main thread alone; elsewhere nothing changes.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore(*_: Any) -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def handle(*_: Any) -> None:
        event.set()
        restore()

    for number in previous:
        signal.signal(number, handle)
    try:
        yield event
    finally:
        restore()


@contextmanager
def _reporting(console: Console | None, start: int, steps: int) -> Iterator[Callable[[int, float], None]]:
    """A progress bar on a terminal; elsewhere a line after every tenth of the run; nothing without a console."""
    if console is None:
        yield lambda step, loss: None
        return
    begun = time.perf_counter()

    def speed(step: int) -> float:
        return (step - start) / max(time.perf_counter() - begun, 1e-9)

    if not console.is_terminal:
        every = max(1, (steps - start) // 10)

        def line(step: int, loss: float) -> None:
            if not (step - start) % every or step == steps:
                console.print(f"step {step} of {steps}  loss {loss:.4f}  {speed(step):.1f} steps/s", highlight=False)

        yield line
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"))
    columns += (TextColumn("{task.fields[speed]:.1f} steps/s"), TimeRemainingColumn())
    with Bar(TextColumn("training"), *columns, console=console) as bar:
        task = bar.add_task("training", total=steps, completed=start, loss=math.nan, speed=0.0)
        yield lambda step, loss: bar.update(task, completed=step, loss=loss, speed=speed(step))
