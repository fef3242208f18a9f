"""The models of bench/models.py, and the training steps of ours: what `flame-triton tune` and `build` take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import flame_triton as ft
from bench.targets import Target
from flame_triton import Value
from flame_triton.models import SD3, DiT, Flux, Model, SD3Config, token_places

LR, BETAS, DECAY = 1e-5, (0.9, 0.999), 0.01


# ---- what is measured ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Row:
    """A model and what it is called with. inputs: name in diffusers -> (shape, dtype), in the order of ours.

    target: shape of the result; times: what timesteps are drawn from, exact in bfloat16 at every place that diffusers
    rounds them; labels: the number of classes; fixed: further arguments of diffusers' model; ours: of ours.
    """

    name: str
    model: type[Model]
    config: dict[str, Any]
    inputs: dict[str, tuple[tuple[int, ...], str]]
    target: tuple[int, ...]
    times: tuple[float, ...]
    labels: int = 0
    fixed: dict[str, np.ndarray] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)


def _flux(tiny: bool) -> Row:
    rows, words, text, pooled = (4, 5, 32, 16) if tiny else (64, 512, 4096, 768)
    small = {
        "num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6), "joint_attention_dim": text,
        "pooled_projection_dim": pooled, "in_channels": 16,
    }  # fmt: skip
    layers = {"num_layers": 1, "num_single_layers": 1} if tiny else {"num_layers": 2, "num_single_layers": 4}
    channels, places = 16 if tiny else 64, token_places(rows, rows, words)
    ids = places.astype(np.float32)
    return Row(
        "flux", Flux, {"guidance_embeds": True, **layers, **(small if tiny else {})},
        {
            "hidden_states": ((1, rows * rows, channels), "bfloat16"),
            "encoder_hidden_states": ((1, words, text), "bfloat16"),
            "pooled_projections": ((1, pooled), "bfloat16"),
            "timestep": ((1,), "float32"), "guidance": ((1,), "float32"),
        },
        (1, rows * rows, channels), (0.0625, 0.125, 0.25, 0.5, 1.0),
        fixed={"txt_ids": ids[:words], "img_ids": ids[words:]}, ours={"places": places},
    )  # fmt: skip


def _sd35(tiny: bool) -> Row:
    side, words = (8, 5) if tiny else (128, 333)
    config = SD3Config.sd35_medium().as_dict() | {"num_layers": 12, "dual_attention_layers": tuple(range(12))}
    small = {
        "num_layers": 2, "dual_attention_layers": (0, 1), "num_attention_heads": 2, "attention_head_dim": 16,
        "caption_projection_dim": 32, "joint_attention_dim": 32, "pooled_projection_dim": 16, "pos_embed_max_size": 6,
        "sample_size": 8,
    }  # fmt: skip
    config = config | (small if tiny else {})
    del config["_class_name"]
    return Row(
        "sd35", SD3, config,
        {
            "hidden_states": ((2, 16, side, side), "bfloat16"),
            "encoder_hidden_states": ((2, words, config["joint_attention_dim"]), "bfloat16"),
            "pooled_projections": ((2, config["pooled_projection_dim"]), "bfloat16"),
            "timestep": ((2,), "float32"),
        },
        (2, 16, side, side), (1.0, 31.25, 125.0, 250.0, 500.0, 1000.0),
    )  # fmt: skip


def _dit(tiny: bool) -> Row:
    batch, side = (2, 8) if tiny else (64, 32)
    small = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "sample_size": 8}
    return Row(
        "dit", DiT, {"out_channels": 8, **(small if tiny else {})},
        {
            "hidden_states": ((batch, 4, side, side), "bfloat16"),
            "timestep": ((batch,), "float32"), "class_labels": ((batch,), "int64"),
        },
        (batch, 8, side, side), (1.0, 31.25, 125.0, 250.0, 500.0, 1000.0), labels=1000,
    )  # fmt: skip


ROWS: dict[str, Callable[[bool], Row]] = {"flux": _flux, "sd35": _sd35, "dit": _dit}


# ---- our steps --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Graph:
    """A step of ours. state_values: all that its State holds."""

    model: Model
    inputs: list[Value]
    loss: Value
    optimizer: ft.optim.AdamW
    updates: dict[Value, Value]

    @property
    def state_values(self) -> list[Value]:
        return [*self.model.parameters(None), *self.optimizer.state_values]


STATES = ("bfloat16", "masters", "float32")


def step_graph(row: Row, state: str = "bfloat16", fused: bool = False) -> Graph:
    """The training step of a row, without a look for gradients that are not finite, as torch takes it.

    state: "bfloat16", weights and moments; "masters", bfloat16 weights with float32 masters and moments; "float32",
    weights and moments. fused: the update of a parameter follows its gradient at once.
    """
    model = row.model.from_config(row.config, dtype="float32" if state == "float32" else "bfloat16")
    names = [name for name, _ in row.model.from_config(row.config).named_parameters()]
    model.start_from(dict.fromkeys(names, 0))  # drawing a billion random numbers takes minutes
    inputs = [ft.input(shape, dtype, name=name) for name, (shape, dtype) in row.inputs.items()]
    target = ft.input(row.target, "float32", name="target")
    loss = ft.mse_loss(ft.cast(model(*inputs, **row.ours), "float32"), target)
    optimizer = ft.optim.AdamW(
        model.parameters(), LR, betas=BETAS, weight_decay=DECAY, decays=lambda _: True,
        master="float32" if state == "masters" else None, moment_dtype="bfloat16" if state == "bfloat16" else None,
        skip_non_finite=False, fused_backward=fused,
    )  # fmt: skip
    updates = optimizer.updates(ft.grad(loss, model.parameters()))
    return Graph(model, [*inputs, target], loss, optimizer, updates)


def flux_step() -> Target:
    """Flux: 2 + 4 blocks, 4096 tokens of a picture and 512 of text."""
    return _target("flux")


def sd35_step() -> Target:
    """SD3.5-medium's width, 12 blocks with dual attention, two pictures of 1024 x 1024."""
    return _target("sd35")


def dit_step() -> Target:
    """DiT-XL/2, 64 pictures of 256 x 256."""
    return _target("dit")


def _target(name: str) -> Target:
    graph = step_graph(ROWS[name](False))
    return [graph.loss], graph.updates
