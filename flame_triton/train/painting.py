"""Text-to-image training from start to end, and painting from captions: what `flame-triton train emoji`,
`flame-triton train images` and `flame-triton sample --caption` do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError
from . import emoji, log
from .board import Board
from .buckets import Pictures, Size
from .choose import find, other_versions
from .data import require_extra
from .demo import Voice, choose_device
from .folder import RunFolder, new_run, read_progress
from .images import grid, load_folder, write_picture
from .loop import train
from .text_run import Painter, Run, begin, describe, resume, seconds_per_step

TINY = {
    "width": 192,
    "layers": 2,
    "heads": 3,
    "text_width": 64,
    "text_layers": 1,
    "text_heads": 2,
    "patch": 8,
    "batch": 32,
    "warmup": 50,
    "lr": 1e-3,
    "ema": 0.99,
}
"""A model for a CPU: few large patches. Tokens are as wide as patches have numbers, since the model predicts noise."""

HELD_OUT = 0.02
"""The share of the captions that are not trained on, if all their words are."""

COLUMNS = 8
TRAINED = ("red heart", "pizza", "cat face", "rocket", "automobile", "red apple", "flag Japan", "woman firefighter")
COMBINED = (
    "green heart with arrow",
    "blue apple",
    "green automobile",
    "purple star",
    "green cat face",
    "dog face with sunglasses",
    "crying robot",
    "black banana",
)
"""Captions for the pictures of a run on emoji: what it is trained on, and what no emoji shows, of words it knows."""

MARGIN = 0.97
"""The share of the time that steps are planned for, since they are not all equally fast."""


@dataclasses.dataclass(frozen=True)
class Order:
    """A training run that somebody wants.

    folder: of pictures, None for the emoji; side: of a picture, about, for a folder; level: of the captions' tokens;
    changes: to TextToImageConfig's defaults; tiny: of the TINY model; minutes: that the training may take, pictures
    included; the number of steps follows from it. grids: how many times pictures are painted on the way; captions: of
    further ones; guidance, sampling_steps: of painting. The others are those of `demo.Order`.
    """

    changes: dict[str, Any]
    folder: Path | None = None
    side: int = 72
    level: str = "word"
    tiny: bool = False
    minutes: float | None = None
    device: str | None = None
    runs: Path = Path("runs")
    name: str | None = None
    resume: str | None = None
    log_every: int = 20
    save_every: int = 2000
    keep: int = 2
    keep_every: int | None = None
    tensorboard: bool = False
    grids: int = 4
    captions: tuple[str, ...] = ()
    guidance: float = 4.0
    sampling_steps: int = 30


def run_order(order: Order, say: Voice) -> dict[str, Any]:
    """Train, painting pictures on the way. Returns what was found, for JSON; "interrupted" is True after Ctrl-C.

    Raises MissingPackageError, DataError, ArgumentError, StateError, DeviceError, NonFiniteError.
    """
    if order.minutes is not None and order.resume is not None:
        raise ArgumentError("a run that goes on has its number of steps already: --minutes is for a new one")
    if order.tensorboard:
        require_extra("tensorboard", "tensorboardX")
    device = choose_device(order.device, say)
    pictures, held = _data(order, say)
    with contextlib.ExitStack() as stack:
        place = _place(order)
        run = _prepared(order, place, pictures, device, say, stack)
        board = Board(place.path / "tensorboard", run.training.step) if order.tensorboard else None
        if board is not None:
            stack.callback(board.close)
        rows = grid_captions(pictures, held, order.captions, order.folder is None, run.config.seed)
        watch = Watch(run, place, rows, order, board, say)
        _compile(run, watch, say)
        if order.minutes is not None:
            _plan(run, watch, order.minutes * 60, say)
        watch.begin()
        outcome = train(
            run.training,
            place,
            run.config.steps,
            log_every=order.log_every,
            save_every=order.save_every,
            board=board,
            console=say.console,
        )
    report = _report(run, place, watch, outcome.interrupted)
    if outcome.interrupted:
        say(f"stopped after step {outcome.step}; to go on: {_again(order, place)}")
    else:
        say(f"{report['images_per_second']} images/s while training; pictures: {', '.join(report['grids'])}")
    return report


def _place(order: Order) -> RunFolder:
    """The folder that is named, or a new one."""
    if order.name is not None:
        return RunFolder(order.runs, order.name, order.keep, order.keep_every)
    return new_run(order.runs, "emoji" if order.folder is None else "images", order.keep, order.keep_every)


def _again(order: Order, place: RunFolder) -> str:
    """The command that goes on with a run."""
    what = "emoji" if order.folder is None else f"images {order.folder} --side {order.side}"
    if order.folder is not None and order.tiny:
        what += " --tiny"
    return f"flame-triton train {what} --runs {order.runs} --run {place.path.name} --resume latest"


def _compile(run: Run, watch: Watch, say: Voice) -> None:
    begun = time.perf_counter()
    run.steps.prepare()
    watch.prepare()
    say(f"programs compiled in {time.perf_counter() - begun:.1f} s; {run.steps.peak_bytes / 1e9:.2f} GB planned")


def _data(order: Order, say: Voice) -> tuple[Pictures, Pictures]:
    """(pictures to train on, those held out): of emoji some are held out, of a folder none."""
    begun = time.perf_counter()
    if order.folder is None:
        kept, held = emoji.load_emoji().held_out(HELD_OUT)
        say(emoji.CREDIT)
    else:
        patch = order.changes.get("patch", TINY["patch"] if order.tiny else 4)
        kept, held = load_folder(order.folder, order.side, patch), Pictures(())
    sizes = ", ".join(f"{len(b)} of {b.size[0]}x{b.size[1]}" for b in kept.buckets)
    say(f"{len(kept)} pictures ({sizes}), {len(held)} held out; read in {time.perf_counter() - begun:.1f} s")
    if kept.skipped:
        name, why = next(iter(kept.skipped.items()))
        say(f"{len(kept.skipped)} left out, such as {name}: {why}")
    return kept, held


def _prepared(
    order: Order, place: RunFolder, pictures: Pictures, device: str, say: Voice, stack: contextlib.ExitStack
) -> Run:
    """A new run, or one that goes on; its folder is this process's own from here on."""
    if order.resume is not None:
        if order.name is None:
            raise ArgumentError("--resume needs --run, the name of the run to go on with")
        stack.enter_context(place.occupied())
        with find(place, order.resume) as checkpoint:
            run = resume(checkpoint, pictures, device, order.changes)
            notice = other_versions(checkpoint, device)
            say(f"going on from {checkpoint.path}, step {run.training.step}" + (f"\n{notice}" if notice else ""))
        return run
    if place.used():
        raise ArgumentError(f"{place.path} holds a run: --resume latest goes on with it, or choose another name")
    dtype = "bfloat16" if device.startswith("cuda") else "float32"
    config = describe(pictures, order.level, {"dtype": dtype, **(TINY if order.tiny else {}), **order.changes})
    run = begin(config, pictures, device)
    stack.enter_context(place.occupied())
    count = sum(int(np.prod(p.shape)) for p in run.graph.parameters)
    say(f"{count / 1e6:.1f} M parameters, {len(config.tokens)} tokens known, batches of {config.batch}, {config.dtype}")
    return run


def _plan(run: Run, watch: Watch, seconds: float, say: Voice) -> None:
    """Plan so many steps as fit into `seconds`. The first ones, which tell how long a step takes, belong to the run:
    while the learning rate still rises it does not depend on the plan."""
    begun = time.perf_counter()
    watch.paint(1)  # the first launches of a program take longer than the others
    painting = time.perf_counter()
    watch.paint(1)
    painting = (time.perf_counter() - painting) * watch.order.sampling_steps
    run.plan(run.config.warmup + 1_000_000)
    each = seconds_per_step(run)
    left = seconds - (time.perf_counter() - begun) - watch.planned * painting
    run.plan(max(run.training.step + 1, run.training.step + int(MARGIN * left / each)))
    say(
        f"a step takes {each * 1e3:.1f} ms ({run.config.batch / each:.0f} images/s), a sheet of pictures "
        f"{painting:.1f} s: {run.config.steps} steps are planned"
    )


# ---- pictures on the way ---------------------------------------------------------------------------------------


def grid_captions(
    pictures: Pictures, held: Pictures, wanted: Sequence[str], known: bool, seed: int
) -> list[tuple[str, list[str]]]:
    """(what they are, captions) of each row of the sheet: trained on, held out, new combinations, and what is wanted.

    known: the pictures are the emoji, for which captions are chosen; of others, those trained on are drawn by `seed`.
    """
    rng = np.random.default_rng(seed)

    def drawn(captions: list[str]) -> list[str]:
        chosen = rng.choice(len(captions), min(COLUMNS, len(captions)), replace=False)
        return [captions[i] for i in sorted(chosen.tolist())]

    rows: list[tuple[str, list[str]]] = [("trained on", list(TRAINED) if known else drawn(pictures.captions))]
    if len(held):
        rows.append(("held out", drawn(held.captions)))
    if known:
        rows.append(("new combinations", list(COMBINED)))
    rows += [("wanted", list(wanted[i : i + COLUMNS])) for i in range(0, len(wanted), COLUMNS)]
    return rows


class Watch:
    """Paints the same captions from the same noise at planned steps, and says how fast the training is.

    planned: how many sheets there will be.
    """

    def __init__(
        self,
        run: Run,
        place: RunFolder,
        rows: list[tuple[str, list[str]]],
        order: Order,
        board: Board | None,
        say: Voice,
    ) -> None:
        self.board = board
        self.run, self.place, self.order, self.say = run, place, order, say
        self.captions = [caption for _, row in rows for caption in row]
        self.cells = [i * COLUMNS + j for i, (_, row) in enumerate(rows) for j in range(len(row))]
        self.rows = rows
        self.planned = order.grids
        self.sheets: list[Path] = []
        self.size = _largest(run)
        self._painter = Painter.of_run(run, len(self.captions), self.size)
        self._steps: frozenset[int] = frozenset()
        self._painting = 0.0
        self._since = self._first = (0, 0.0)

    def prepare(self) -> None:
        """Compile what paints."""
        self._painter.program.prepare()

    def begin(self) -> None:
        """From now on steps are counted, and sheets painted when it is their turn, the last one at the end."""
        total = self.run.config.steps
        self._steps = frozenset(round(total * (i + 1) / self.planned) for i in range(self.planned))
        self._since = self._first = (self.run.training.step, time.perf_counter())
        self.run.training.after = self.after

    def after(self, step: int) -> None:
        """After each step of the training."""
        if step not in self._steps:
            return
        speed = self._speed(self._since)
        begun = time.perf_counter()
        path = self.place.path / f"pictures-{step}.png"
        self.save(path, self.paint(self.order.sampling_steps))
        self._painting += time.perf_counter() - begun
        self._since = (step, time.perf_counter())
        self.say(f"step {step}: {speed:.0f} images/s, {path}")

    def _speed(self, since: tuple[int, float]) -> float:
        steps, seconds = self.run.training.step - since[0], time.perf_counter() - since[1]
        return steps * self.run.config.batch / max(seconds, 1e-9)

    @property
    def speed(self) -> float:
        """Images a second since `begin`, but for the time of painting."""
        step, begun = self._first
        return self._speed((step, begun + self._painting))

    def paint(self, steps: int) -> np.ndarray[Any, Any]:
        """All captions, by so many steps of Euler's method: uint8 [N, H, W, 3]."""
        return self._painter.paint(self.captions, range(len(self.captions)), self.order.guidance, steps)

    def save(self, path: Path, painted: np.ndarray[Any, Any]) -> None:
        """A sheet, a row for each kind of caption."""
        blank = np.full_like(painted[0], 255)
        cells = [(blank, "")] * (len(self.rows) * COLUMNS)
        for cell, image, caption in zip(self.cells, painted, self.captions, strict=True):
            cells[cell] = (image, caption)
        columns = min(COLUMNS, max(len(row) for _, row in self.rows))
        cells = [c for i, c in enumerate(cells) if i % COLUMNS < columns]
        sheet = grid([i for i, _ in cells], columns, [c for _, c in cells], _scale(self.size))
        write_picture(sheet, path)
        if self.board is not None:
            self.board.image("pictures", sheet, self.run.training.step)
        self.sheets.append(path)


def _largest(run: Run) -> Size:
    """The size of the bucket with the most pictures."""
    counts = run.batches.counts
    return run.config.sizes[int(np.argmax(counts))]


def _scale(size: Size) -> int:
    """So many times a small picture is enlarged."""
    return max(1, 96 // max(size))


def _report(run: Run, place: RunFolder, watch: Watch, interrupted: bool) -> dict[str, Any]:
    records = log.read(place.log)
    return {
        "run": str(place.path),
        "device": run.device,
        "steps": run.training.step,
        "interrupted": interrupted,
        "loss": records[-1]["loss"] if records else None,
        "images_per_second": round(watch.speed),
        "planned_bytes": run.steps.peak_bytes,
        "grids": [str(path) for path in watch.sheets],
    }


# ---- painting from a checkpoint --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Painting:
    """captions: what to paint, each `count` times from different noise; guidance, steps: see Painter; seed: of the
    first noise; size: (H, W), default that of the run's first bucket."""

    captions: tuple[str, ...]
    count: int = 1
    guidance: float = 4.0
    steps: int = 30
    seed: int = 0
    size: Size | None = None


def paint(
    place: RunFolder, which: str, device: str | None, wish: Painting, output: Path | None, say: Voice
) -> dict[str, Any]:
    """Paint captions with a checkpoint of a run (see choose.find), and write them as a PNG, a row for each caption.

    Raises StateError if the run is of another kind.
    """
    require_extra("emoji", "PIL")
    chosen = choose_device(device, say)
    with find(place, which) as checkpoint:
        painter = Painter.of_checkpoint(checkpoint, chosen, len(wish.captions) * wish.count, wish.size)
    strange = {w: None for c in wish.captions for w in painter.config.vocabulary.unknown(c)}
    if strange:
        say(f"the model was never told these words: {', '.join(strange)}")
    captions = [caption for caption in wish.captions for _ in range(wish.count)]
    seeds = [wish.seed + i for _ in wish.captions for i in range(wish.count)]
    painted = painter.paint(captions, seeds, wish.guidance, wish.steps)
    path = output or place.path / f"painted-{wish.seed}.png"
    columns = wish.count if wish.count > 1 else min(COLUMNS, len(captions))
    write_picture(grid(list(painted), columns, captions, _scale(painter.size)), path)
    say(f"{path}: {len(painted)} pictures, from {checkpoint.path}")
    return {"picture": str(path), "checkpoint": str(checkpoint.path), "captions": captions, "seeds": seeds}


def read_size(text: str | None) -> Size | None:
    """(H, W) of "72x96"; None of None. Raises ArgumentError."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdecimal() and int(p) for p in parts):
        raise ArgumentError(f"a size is HEIGHTxWIDTH in pixels, such as 72x96, got {text!r}")
    return int(parts[0]), int(parts[1])


def is_text_to_image(place: RunFolder, which: str) -> bool:
    """True if a checkpoint, see choose.find, is of a run of this kind."""
    with find(place, which) as checkpoint:
        return read_progress(checkpoint).config.get("task") == "text to image"
