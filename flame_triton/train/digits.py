"""The demo: trains a small diffusion transformer on handwritten digits, draws new ones, and reads them back."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError, StateError
from ..ir.node import Value
from ..runtime.checkpoint import Reader
from ..runtime.compile import compile
from ..runtime.program import Program
from ..runtime.shards import Shards
from ..runtime.state import State
from .agreement import Agreement, compare_kernels
from .choose import same_run
from .data import Batches, Digits, require_extra
from .digits_model import CLASSES, DigitsConfig, TrainingGraph, sampling_graph, start_noise, training_graph
from .folder import read_progress
from .log import Record
from .loop import Training

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(eq=False)
class Run:
    """A run of the demo: its configuration, its graph, its State, and the training that goes on with it."""

    config: DigitsConfig
    graph: TrainingGraph
    state: State
    training: Training


def config_from(stored: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> DigitsConfig:
    """A configuration from a checkpoint's, with `changes` to it.

    Only the number of steps may change: everything else is part of the run. Raises StateError for a configuration of
    something else, ArgumentError that lists every other change.
    """
    known = {f.name for f in dataclasses.fields(DigitsConfig)}
    if set(stored) != known:
        odd = ", ".join(sorted(set(stored) ^ known))
        raise StateError(f"the checkpoint is of another kind of run; its configuration differs in: {odd}")
    return DigitsConfig(**same_run(stored, changes or {}, free=("steps",)))


def begin(config: DigitsConfig, data: Digits, device: str) -> Run:
    """A run with fresh weights, compiled for `device`."""
    graph = training_graph(config)
    state = State(graph.state_values, seed=config.seed, device=device)
    optimizer = graph.optimizer
    outputs = [graph.loss, optimizer.lr, optimizer.grad_norm, optimizer.skipped]
    program = compile(outputs, [graph.images, graph.labels], state=state, updates=graph.updates, device=device)
    batches = Batches(len(data.images), config.batch, config.seed)

    def arrays(rows: Array) -> tuple[Array, Array]:
        return data.images[rows], data.labels[rows]

    return Run(config, graph, state, Training(program, batches, arrays, config.as_dict()))


def resume(
    checkpoint: Path | Reader | Shards, data: Digits, device: str, changes: Mapping[str, Any] | None = None
) -> Run:
    """The run that a checkpoint belongs to, bit for bit as it stood. changes: see `config_from`."""
    progress = read_progress(checkpoint)
    run = begin(config_from(progress.config, changes), data, device)
    run.state.load(checkpoint)
    run.training.step, run.training.batches.position = progress.step, progress.position
    return run


@contextlib.contextmanager
def single_threaded(device: str) -> Iterator[None]:
    """On the CPU, matrix products use one thread: they are small, and threads that wait for each other cost more."""
    if device.startswith("cuda"):
        yield
        return
    require_extra("examples", "sklearn")
    from threadpoolctl import threadpool_limits  # scikit-learn depends on it

    with threadpool_limits(1):
        yield


class Sampler:
    """Draws digits from the averaged weights by Euler's method.

    count: digits at once; guidance: 1 follows the label, more follows it more strictly (Ho and Salimans 2022).
    """

    def __init__(self, run: Run, count: int, guidance: float, device: str) -> None:
        graph = sampling_graph(run.graph.model, count, guidance, run.config)
        bind: dict[Value, Value] = run.graph.optimizer.averages
        inputs = [graph.x, graph.t, graph.dt, graph.labels]
        self.count = count
        self.program: Program = compile(graph.result, inputs, state=run.state, bind=bind, device=device)

    def draw(self, labels: Array, steps: int = 50, seed: int = 0) -> Array:
        """Digits of these classes, int64 [count] -> float32 [count, 8, 8] in about [-1, 1]."""
        if steps < 1:
            raise ArgumentError(f"sampling takes at least one step, got {steps}")
        x: Any = start_noise(self.count, seed)
        dt = np.float32(1 / steps)
        for i in range(steps):
            x = self.program(x, np.float32(1 - i / steps), dt, labels)
        return np.asarray(x.cpu())


def labels_in_rows(per_class: int) -> Array:
    """0 0 ... 1 1 ... 9 9: int64 [10 * per_class]."""
    return np.repeat(np.arange(CLASSES), per_class)


def read_back(images: Array, labels: Array, data: Digits) -> int:
    """How many of the images a support vector machine, trained on the real digits, reads as their labels."""
    require_extra("examples", "sklearn")
    from sklearn.svm import SVC

    judge = SVC().fit(data.images.reshape(len(data.images), -1), data.labels)
    seen = judge.predict(np.clip(images, -1, 1).reshape(len(images), -1))
    return int(np.sum(seen == labels))


def loss_ratio(records: list[Record], first: int = 20, last: int = 100) -> float | None:
    """Mean loss of the last `last` steps over that of the first `first`; None if the log has fewer steps."""
    if not records or records[-1]["step"] < first + last:
        return None
    losses = np.repeat([r["loss"] for r in records], [r["count"] for r in records])
    return float(np.mean(losses[-last:]) / np.mean(losses[:first]))


def prove(run: Run, data: Digits, batch: int = 4, steps: int = 3) -> Agreement:
    """Further training steps of the run's model on the references and on the interpreted kernels, from its State.

    batch: images a step, fewer than in training to save time. The State itself is left as it is.
    """
    config = dataclasses.replace(run.config, batch=batch)
    rows = Batches(len(data.images), batch, run.config.seed + 1)
    return compare_kernels(config, run.state, data, [next(rows) for _ in range(steps)], "interpreter")
