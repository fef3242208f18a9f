"""A run of text-to-image training: begun or resumed, its sampler, and the pictures that show how far it is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError, StateError
from ..ir.node import Value
from ..optim import AdamW
from ..runtime.checkpoint import Reader
from ..runtime.compile import compile
from ..runtime.finite import NonFinite
from ..runtime.program import Program
from ..runtime.shards import Shards
from ..runtime.state import State
from .buckets import BucketBatches, Pictures, Size
from .captions import Vocabulary
from .choose import same_run
from .folder import read_progress
from .loop import Training, take_step
from .mmdit import TextToImage
from .text_to_image import (
    TextToImageConfig,
    TrainingGraph,
    null_caption,
    sampler,
    sampling_graph,
    start_noise,
    training_graph,
)

Array = np.ndarray[Any, Any]

FREE = ("steps",)
"""What may change when a run goes on; everything else is part of it."""


class ByBucket:
    """The programs of all buckets as one: the first array is the number of the bucket. They share one State."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = programs

    @property
    def state(self) -> State:
        """The State that all of them update."""
        return self.programs[0].state

    def __call__(self, bucket: int, *arrays: Any) -> Any:
        """A step of this bucket's program."""
        return self.programs[bucket](*arrays)

    def find_non_finite(self, bucket: int, *arrays: Any) -> NonFinite | None:
        """See Program.find_non_finite."""
        return self.programs[bucket].find_non_finite(*arrays)

    def prepare(self) -> None:
        """Compile all of them ahead, so that no bucket stops the training when its turn first comes."""
        for program in self.programs:
            program.prepare()

    @property
    def peak_bytes(self) -> int:
        """Memory of the largest step, in bytes: the programs share their memory too."""
        return max(program.peak_bytes for program in self.programs)


@dataclasses.dataclass(eq=False)
class Run:
    """A run: its configuration, its graphs, its State, and the training that goes on with it."""

    config: TextToImageConfig
    graph: TrainingGraph
    state: State
    steps: ByBucket
    training: Training
    batches: BucketBatches
    device: str

    def plan(self, steps: int) -> None:
        """Have the run end after `steps` steps: the learning rate falls until then."""
        self.config = dataclasses.replace(self.config, steps=steps)
        self.training.config = self.config.as_dict()
        self.state.set(self.graph.horizon, np.float32(steps))


def describe(pictures: Pictures, level: str, changes: Mapping[str, Any]) -> TextToImageConfig:
    """The configuration of a run on these pictures, with `changes` to the defaults."""
    vocabulary = Vocabulary.build(pictures.captions, level)
    sizes = tuple(bucket.size for bucket in pictures.buckets)
    return TextToImageConfig(sizes, level, vocabulary.tokens, pictures.digest(), **changes)


def begin(config: TextToImageConfig, pictures: Pictures, device: str) -> Run:
    """A run with fresh weights; every bucket's program is compiled for `device`.

    Raises StateError if these are not the pictures of the configuration.
    """
    if pictures.digest() != config.data:
        raise StateError("the pictures or captions are not those that the run was begun with")
    graph = training_graph(config)
    state = State(graph.state_values, seed=config.seed, device=device)
    programs = [compile(b.outputs, b.inputs, state=state, updates=b.updates, device=device) for b in graph.buckets]
    encoded = [config.vocabulary.encode(bucket.captions, config.length) for bucket in pictures.buckets]

    def arrays(batch: tuple[int, Array]) -> tuple[Any, ...]:
        bucket, rows = batch
        tokens, lengths = encoded[bucket]
        return bucket, pictures.buckets[bucket].images[rows], tokens[rows], lengths[rows]

    batches = BucketBatches([len(bucket) for bucket in pictures.buckets], config.batch, config.seed)
    steps = ByBucket(programs)
    return Run(config, graph, state, steps, Training(steps, batches, arrays, config.as_dict()), batches, device)


def resume(
    checkpoint: Path | Reader | Shards, pictures: Pictures, device: str, changes: Mapping[str, Any] | None = None
) -> Run:
    """The run that a checkpoint belongs to, bit for bit as it stood. changes: of the number of steps alone.

    Raises StateError for a checkpoint of something else, or of other pictures; ArgumentError for another change.
    """
    progress = read_progress(checkpoint)
    config = TextToImageConfig.stored(progress.config)
    same_run(progress.config, changes or {}, FREE)
    run = begin(config, pictures, device)
    run.state.load(checkpoint)
    run.training.step, run.training.batches.position = progress.step, progress.position
    if changes and "steps" in changes:
        run.plan(changes["steps"])
    return run


def seconds_per_step(run: Run, warm: int = 3, timed: int = 10) -> float:
    """Take warm + timed steps of the run; the seconds that each of the timed ones took."""
    for _ in range(warm):
        take_step(run.training)
    begun = time.perf_counter()
    for _ in range(timed):
        take_step(run.training)
    return (time.perf_counter() - begun) / timed


# ---- sampling --------------------------------------------------------------------------------------------------


class Painter:
    """Paints pictures from captions with the averaged weights, by Euler's method with guidance.

    model and state: state holds the weights; averages: what is read in their place; count: pictures at once; size:
    (H, W), any of which the sides are multiples of the patch.
    """

    def __init__(
        self,
        model: TextToImage,
        averages: Mapping[Value, Value],
        state: State,
        config: TextToImageConfig,
        count: int,
        size: Size,
    ) -> None:
        made = sampling_graph(model, count, size, config)
        self.config, self.count, self.size = config, count, size
        self.program: Program = compile(made.outputs, made.inputs, state=state, bind=averages, device=state.device)

    @classmethod
    def of_run(cls, run: Run, count: int, size: Size) -> Painter:
        """Of a run that goes on: it shares the State, and so paints with the weights of the moment."""
        return cls(run.graph.model, run.graph.optimizer.averages, run.state, run.config, count, size)

    @classmethod
    def of_checkpoint(
        cls, checkpoint: Path | Reader | Shards, device: str, count: int, size: Size | None = None
    ) -> Painter:
        """Of a checkpoint: reads the averaged weights and nothing else. size: default that of the first bucket."""
        config = TextToImageConfig.stored(read_progress(checkpoint).config)
        model = TextToImage(config.model)
        averages = AdamW(model.parameters(), config.lr, ema=config.ema).averages
        state = State([*averages, *averages.values()], device=device)
        state.load(checkpoint, strict=False)
        return cls(model, averages, state, config, count, size or config.sizes[0])

    def paint(
        self, captions: Sequence[str | None], seeds: Sequence[int], guidance: float = 4.0, steps: int = 30
    ) -> Array:
        """uint8 [N, H, W, 3]: one picture a caption, each from the noise of its own seed. None: no caption.

        guidance: 1 follows the caption as learnt, more follows it more strictly. Any number of captions: they are taken
        `count` at a time, and a picture does not depend on those beside it.
        """
        if len(captions) != len(seeds):
            raise ArgumentError(f"{len(captions)} captions need as many seeds, got {len(seeds)}")
        plan, batch = sampler(steps, self.config.shift), self.count
        tokens, lengths = self.config.vocabulary.encode(captions, self.config.length)
        parts = []
        for i in range(0, len(captions), batch):
            own = list(seeds[i : i + batch])
            rest = batch - len(own)
            words = np.concatenate([tokens[i : i + batch], np.repeat(null_caption(self.config.length), rest, 0)])
            counts = np.concatenate([lengths[i : i + batch], np.ones(rest, np.int64)])
            noise = start_noise(own + [0] * rest, self.size)
            painted = plan.draw(self.program, noise, words, counts, np.float32(guidance))
            parts.append(as_bytes(painted[: len(own)]))
        return np.concatenate(parts)


def as_bytes(pictures: Array) -> Array:
    """From -1..1 to 0..255, rounded; what is beyond is cut off, and what is not a number is black."""
    return np.nan_to_num(np.clip((pictures + 1) * 127.5, 0, 255).round()).astype(np.uint8)
