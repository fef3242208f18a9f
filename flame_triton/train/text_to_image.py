"""Training and sampling of a text-to-image model as graphs: flow matching with classifier-free guidance.

    x_t = (1 - t) x_0 + t n,  the model predicts n - x_0 (Lipman et al. 2023)
    t = s u / (1 + (s - 1) u),  u = sigmoid(m + d z), z normal: logit-normal times, shifted (Esser et al. 2024)

Captions are dropped at random for the null caption, whose token is learned, so that at sampling time
v = v_null + guidance (v_caption - v_null) (Ho and Salimans 2022).

Every bucket of pictures has a training graph of its own; model, optimizer and random seed are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from ..diffusion import (
    TRAIN_STEPS,
    Sampler,
    draw_times,
    flow_euler,
    flow_noisy,
    flow_target,
    guide,
    step_graph,
)
from ..errors import ArgumentError, StateError
from ..graph.autodiff import grad
from ..ir.node import Value
from ..ir.op import call
from ..optim import AdamW
from ..optim.schedule import warmup_cosine
from ..types import dtype as as_dtype
from ..types import float32, int64, uint8
from .buckets import Size
from .captions import NULL, PAD, SPECIAL, Vocabulary
from .mmdit import Sizes, TextToImage


@dataclass(frozen=True)
class TextToImageConfig:
    """The model's sizes, the recipe, and what the captions are made of: all that a checkpoint needs besides weights.

    dtype: of the computation; weights are float32. sizes: (H, W) of each bucket; level and tokens: the vocabulary;
    data: SHA-256 of the pictures and captions. shift: of the times of flow matching, in training and sampling.
    """

    sizes: tuple[Size, ...]
    level: str
    tokens: tuple[str, ...]
    data: str
    length: int = 24
    width: int = 384
    layers: int = 5
    heads: int = 6
    text_width: int = 256
    text_layers: int = 3
    text_heads: int = 4
    patch: int = 4
    dtype: str = "float32"
    batch: int = 128
    steps: int = 10000
    lr: float = 6e-4
    warmup: int = 200
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float = 0.999
    caption_dropout: float = 0.1
    time_mean: float = 0.0
    time_std: float = 1.0
    shift: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "steps"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be at least 1, got {getattr(self, name)}", op="text_to_image")
        if not as_dtype(self.dtype).is_float:
            raise ArgumentError(f"dtype must be floating, got {self.dtype}", op="text_to_image")
        if self.shift <= 0 or not 0 <= self.caption_dropout <= 1:
            raise ArgumentError(
                f"needs shift > 0 and caption_dropout in [0, 1], got {self.shift} and {self.caption_dropout}",
                op="text_to_image",
            )
        if not self.sizes or any(side % self.patch for size in self.sizes for side in size):
            raise ArgumentError(f"the sizes {self.sizes} are no multiples of the patch, {self.patch}")

    @property
    def model(self) -> Sizes:
        """The model's sizes alone."""
        own = {f.name: getattr(self, f.name) for f in fields(Sizes) if f.name != "vocabulary"}
        return Sizes(vocabulary=SPECIAL + len(self.tokens), **own)

    @property
    def vocabulary(self) -> Vocabulary:
        """What turns captions into numbers."""
        return Vocabulary(self.level, self.tokens)

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"task": "text to image", **asdict(self)}

    @classmethod
    def stored(cls, found: Mapping[str, Any]) -> TextToImageConfig:
        """From a checkpoint's. Raises StateError for a configuration of something else."""
        known = {"task", *(f.name for f in fields(cls))}
        if set(found) != known or found["task"] != "text to image":
            odd = ", ".join(sorted(set(found) ^ known)) or "task"
            raise StateError(f"the checkpoint is of another kind of run; its configuration differs in: {odd}")
        own = {k: v for k, v in found.items() if k != "task"}
        sizes = tuple((int(h), int(w)) for h, w in found["sizes"])
        return cls(**{**own, "sizes": sizes, "tokens": tuple(found["tokens"])})


# ---- training --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class BucketGraph:
    """One step on pictures of one size. inputs: pictures uint8 [B, H, W, 3], tokens int64 [B, L], lengths int64 [B].

    outputs: loss, learning rate, gradient norm, skipped.
    """

    inputs: list[Value]
    outputs: list[Value]
    gradients: list[Value]
    updates: dict[Value, Value]


@dataclass(eq=False)
class TrainingGraph:
    """What all buckets share, and a graph for each, in order of config.sizes.

    horizon: the number of steps that the learning rate is planned for: float32, 0-d, a parameter of the State.
    """

    model: TextToImage
    parameters: list[Value]
    optimizer: AdamW
    seed: Value
    horizon: Value
    buckets: list[BucketGraph]

    @property
    def state_values(self) -> list[Value]:
        """What the State holds: weights, moments, averages, step count, random seed, planned steps."""
        return [*self.model.parameters(None), *self.optimizer.state_values, self.seed, self.horizon]


def training_graph(config: TextToImageConfig) -> TrainingGraph:
    """The graphs of one step on each bucket: forward, backward, clipping, AdamW with averaged weights, next seed."""
    model = TextToImage(config.model)
    parameters = model.parameters()
    seed = call("rng_seed", config.seed)
    horizon = call("parameter", (), float32, "schedule.steps", float(config.steps), False)
    optimizer = AdamW(
        parameters,
        warmup_cosine(config.lr, horizon, config.warmup, 0.02 * config.lr),
        betas=(0.9, 0.99),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        ema=config.ema,
    )
    graph = TrainingGraph(model, parameters, optimizer, seed, horizon, [])
    for size in config.sizes:
        graph.buckets.append(_bucket(graph, config, size))
    return graph


def _bucket(graph: TrainingGraph, config: TextToImageConfig, size: Size) -> BucketGraph:
    inputs = _inputs(config, config.batch, size)
    loss = flow_matching_loss(graph.model, inputs, graph.seed, config)
    gradients = grad(loss, graph.parameters)
    optimizer = graph.optimizer
    updates = optimizer.updates(gradients, also={graph.seed: call("next_step", graph.seed)})
    return BucketGraph(inputs, [loss, optimizer.lr, optimizer.grad_norm, optimizer.skipped], gradients, updates)


def _inputs(config: TextToImageConfig, batch: int, size: Size) -> list[Value]:
    return [
        call("input", (batch, *size, 3), uint8, name="pictures"),
        call("input", (batch, config.length), int64, name="tokens"),
        call("input", (batch,), int64, name="lengths"),
    ]


def flow_matching_loss(model: TextToImage, inputs: Sequence[Value], seed: Value, config: TextToImageConfig) -> Value:
    """mean((model(x_t, t, caption) - (n - x_0))^2), with times, noise and dropped captions drawn in the graph.

    inputs: pictures, tokens, lengths, see BucketGraph.
    """
    pictures, tokens, lengths = inputs
    batch = pictures.shape[0]
    clean = call("cast", pictures, float32) * (1 / 127.5) - 1.0
    noise = call("normal", clean.shape, seed)
    t = draw_times(batch, seed, mean=config.time_mean, std=config.time_std, shift=config.shift)
    dropped = call("bernoulli", config.caption_dropout, (batch,), seed)
    shown, counted = null_where(dropped, tokens, lengths)
    velocity = model(flow_noisy(clean, noise, t), TRAIN_STEPS * t, shown, counted, config.dtype)
    return call("mse_loss", call("cast", velocity, float32), flow_target(clean, noise))


def null_where(dropped: Value, tokens: Value, lengths: Value) -> tuple[Value, Value]:
    """Captions [B, L] and lengths [B], with the null caption where `dropped` [B] is True."""
    batch, length = tokens.shape
    null = call("constant", null_caption(length))
    return call("where", call("reshape", dropped, (batch, 1)), null, tokens), call("where", dropped, 1, lengths)


def null_caption(length: int) -> np.ndarray[Any, Any]:
    """int64 [1, length]: the null token, then padding."""
    return np.array([[NULL] + [PAD] * (length - 1)], np.int64)


# ---- sampling --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class SamplingGraph:
    """One step of a sampler with guidance, see diffusion.step_graph.

    inputs: those of the step, then tokens, lengths and guidance (0-d); outputs: what the next step begins with.
    """

    inputs: list[Value]
    outputs: list[Value]


def sampling_graph(model: TextToImage, count: int, size: Size, config: TextToImageConfig) -> SamplingGraph:
    """Pictures [count, H, W, 3] one step on, by v_null + guidance (v_caption - v_null); both in one batch."""
    _, tokens, lengths = _inputs(config, count, size)
    guidance = call("input", (), float32, name="guidance")
    dropped = call("constant", np.repeat([False, True], count))
    shown, counted = null_where(dropped, call("concat", [tokens, tokens]), call("concat", [lengths, lengths]))

    def velocity(x: Value, t: Value) -> Value:
        both = model(call("concat", [x, x]), call("concat", [t, t]), shown, counted, config.dtype)
        both = call("cast", both, float32)
        return guide(both[:count], both[count:], guidance)

    step = step_graph(sampler(2, config.shift), velocity, (count, *size, 3))
    return SamplingGraph([*step.inputs, tokens, lengths, guidance], step.outputs)


def sampler(steps: int, shift: float) -> Sampler:
    """Euler's method at times from 1 to 0, equally spaced, then shifted as in training."""
    if steps < 1:
        raise ArgumentError(f"sampling takes at least one step, got {steps}")
    return flow_euler(steps, shift=shift, sigmas=np.linspace(1, 1 / steps, steps))


def start_noise(seeds: Sequence[int], size: Size) -> np.ndarray[Any, Any]:
    """The noise that sampling starts from: float32 [B, H, W, 3]; each picture has its own seed."""
    return np.stack([np.random.default_rng((s, *size)).standard_normal((*size, 3)) for s in seeds]).astype(np.float32)
