"""The demo's model: a class-conditional diffusion transformer on 8x8 images, trained by flow matching.

DiT with adaLN-Zero (Peebles and Xie 2023) on 2x2 patches: 16 tokens of 4 pixels. Flow matching (Lipman et al. 2023)
along straight lines: x_t = (1 - t) x_0 + t n, the model predicts the velocity n - x_0. Labels are dropped at random,
for classifier-free guidance (Ho and Salimans 2022).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .. import diffusion, nn
from ..errors import ArgumentError
from ..graph.autodiff import grad
from ..ir.node import Value
from ..ir.op import call
from ..optim import AdamW
from ..optim.schedule import warmup_cosine
from ..types import dtype as as_dtype
from ..types import float32, int64

SIDE, PATCH, CLASSES = 8, 2, 10
TOKENS, PIXELS = (SIDE // PATCH) ** 2, PATCH**2
NO_CLASS = CLASSES  # the label that means "any"


@dataclass(frozen=True)
class DigitsConfig:
    """The model's size and the training recipe. dtype: of the computation; weights are float32."""

    width: int = 64
    layers: int = 3
    heads: int = 4
    dtype: str = "float32"
    batch: int = 64
    steps: int = 1500
    lr: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema: float | None = 0.99
    label_dropout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "batch", "steps"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be at least 1, got {getattr(self, name)}", op="digits")
        if self.width % self.heads or self.width % 2:
            raise ArgumentError(f"width {self.width} must be even and a multiple of heads {self.heads}", op="digits")
        if not as_dtype(self.dtype).is_float:
            raise ArgumentError(f"dtype must be floating, got {self.dtype}", op="digits")

    def as_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


class Block(nn.Module):
    """x += gate_1 attention(modulate(norm x)); x += gate_2 mlp(modulate(norm x)); the factors from the condition."""

    def __init__(self, width: int, heads: int) -> None:
        self.modulation = nn.Linear(width, 6 * width, init=nn.init.zeros)
        self.norm = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.attention = nn.Attention(width, heads, init=nn.init.xavier_uniform())
        self.mlp = nn.MLP(width, 4 * width)

    def forward(self, x: Value, condition: Value) -> Value:
        batch, _, width = x.shape
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = call("chunk", self.modulation(condition), 6, 1)
        gates = [call("reshape", g, (batch, 1, width)) for g in (gate_1, gate_2)]
        x = x + gates[0] * self.attention(nn.modulate(self.norm(x), shift_1, scale_1))
        return x + gates[1] * self.mlp(nn.modulate(self.norm(x), shift_2, scale_2))


class DigitsDiT(nn.Module):
    """tokens [B, 16, 4], t [B] in 0..1, labels [B] (10: no class) -> velocity [B, 16, 4], in the tokens' dtype."""

    def __init__(self, width: int = 64, layers: int = 3, heads: int = 4) -> None:
        self.patches = nn.Linear(PIXELS, width)
        self.position = nn.Parameter((1, TOKENS, width), nn.init.normal(0.02))
        self.time = nn.TimestepEmbedding(width)
        self.classes = nn.Embedding(CLASSES + 1, width, init=nn.init.normal(0.02))
        self.blocks = [Block(width, heads) for _ in range(layers)]
        self.norm = nn.LayerNorm(width, 1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width, init=nn.init.zeros)
        self.out = nn.Linear(width, PIXELS, init=nn.init.zeros)

    def forward(self, tokens: Value, t: Value, labels: Value) -> Value:
        dtype = tokens.dtype
        x = self.patches(tokens) + call("cast", self.position, dtype)
        embedded = self.time(t * 1000.0, dtype) + call("cast", self.classes(labels), dtype)
        condition = call("silu", embedded)
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = call("chunk", self.modulation(condition), 2, 1)
        return self.out(nn.modulate(self.norm(x), shift, scale))


def patchify(images: Value) -> Value:
    """[B, 8, 8] -> [B, 16, 4]: rows of patches, then rows within a patch."""
    batch, n = images.shape[0], SIDE // PATCH
    split = call("reshape", images, (batch, n, PATCH, n, PATCH))
    return call("reshape", call("transpose", split, (0, 1, 3, 2, 4)), (batch, TOKENS, PIXELS))


def unpatchify(tokens: Value) -> Value:
    """[B, 16, 4] -> [B, 8, 8]."""
    batch, n = tokens.shape[0], SIDE // PATCH
    split = call("reshape", tokens, (batch, n, n, PATCH, PATCH))
    return call("reshape", call("transpose", split, (0, 1, 3, 2, 4)), (batch, SIDE, SIDE))


@dataclass(eq=False)
class TrainingGraph:
    """Everything one training step is: inputs, loss, gradients and what the State takes over."""

    model: DigitsDiT
    images: Value
    labels: Value
    loss: Value
    parameters: list[Value]
    gradients: list[Value]
    optimizer: AdamW
    seed: Value
    updates: dict[Value, Value]

    @property
    def state_values(self) -> list[Value]:
        """What the State holds: weights, moments, averages, step count, random seed."""
        return [*self.model.parameters(None), *self.optimizer.state_values, self.seed]


def flow_matching_loss(model: DigitsDiT, images: Value, labels: Value, seed: Value, config: DigitsConfig) -> Value:
    """mean((model(x_t, t, label) - (n - x_0))^2), with t, the noise and the dropped labels drawn in the graph."""
    batch = images.shape[0]
    clean = patchify(images)
    noise = call("normal", clean.shape, seed)
    t = diffusion.draw_times(batch, seed, "uniform")
    shown = call("where", diffusion.dropped(batch, seed, config.label_dropout), NO_CLASS, labels)
    mixed = diffusion.flow_noisy(clean, noise, t)
    velocity = model(call("cast", mixed, config.dtype), t, shown)
    return call("mse_loss", call("cast", velocity, float32), diffusion.flow_target(clean, noise))


def training_graph(config: DigitsConfig) -> TrainingGraph:
    """The graph of one step: forward, backward, clipping, AdamW with averaged weights, next random numbers."""
    model = DigitsDiT(config.width, config.layers, config.heads)
    images = call("input", (config.batch, SIDE, SIDE), float32, name="images")
    labels = call("input", (config.batch,), int64, name="labels")
    seed = call("rng_seed", config.seed)
    loss = flow_matching_loss(model, images, labels, seed, config)
    parameters = model.parameters()
    gradients = grad(loss, parameters)
    warmup = min(config.warmup, config.steps - 1)
    optimizer = AdamW(
        parameters,
        warmup_cosine(config.lr, config.steps, warmup, 0.02 * config.lr),
        betas=(0.9, 0.99),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        ema=config.ema,
    )
    updates = optimizer.updates(gradients, also={seed: call("next_step", seed)})
    return TrainingGraph(model, images, labels, loss, parameters, gradients, optimizer, seed, updates)


@dataclass(eq=False)
class SamplingGraph:
    """One Euler step of the flow with classifier-free guidance: x [B, 8, 8] at time t -> x at time t - dt."""

    x: Value
    t: Value
    dt: Value
    labels: Value
    result: Value


def sampling_graph(model: DigitsDiT, count: int, guidance: float, config: DigitsConfig) -> SamplingGraph:
    """x - dt v, v = v_none + guidance (v_label - v_none); t, dt: 0-d float32 inputs."""
    x = call("input", (count, SIDE, SIDE), float32, name="x")
    t, dt = call("input", (), float32, name="t"), call("input", (), float32, name="dt")
    labels = call("input", (count,), int64, name="labels")
    tokens = call("cast", patchify(x), config.dtype)
    both = call("concat", [tokens, tokens])
    none = call("full", (count,), NO_CLASS, int64)
    times = call("broadcast_to", t, (2 * count,))
    velocity = call("cast", model(both, times, call("concat", [labels, none])), float32)
    followed = diffusion.guide(velocity[:count], velocity[count:], guidance)
    return SamplingGraph(x, t, dt, labels, x - dt * unpatchify(followed))


def start_noise(count: int, seed: int) -> np.ndarray[Any, Any]:
    """The noise that sampling starts from: float32 [count, 8, 8]."""
    return np.random.default_rng((seed, count)).standard_normal((count, SIDE, SIDE)).astype(np.float32)
