"""Weights in the form of the original releases: Flux of Black Forest Labs, SD3 and SD3.5 of Stability AI, a file each.

The numbers are the same, but for names and where they are kept: projections that diffusers keeps apart are one matrix
there, rows after rows (q, k, v; in Flux's single blocks also the first layer of the MLP), and the modulations before
the last projection, and of SD3's last text block, give the shift first and not the scale.

    arrays = read_original(model, "flux1-dev.safetensors")
    model.load_state_dict(state, arrays)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArgumentError, StateError
from ..runtime.checkpoint import Reader
from .flux import Flux
from .model import Model
from .sd3 import SD3

Array = np.ndarray[Any, Any]

PREFIX = "model.diffusion_model."
"""Before every name in files that hold other models too."""


@dataclass(frozen=True)
class _Kept:
    """What an original array holds: ours by these names, rows after rows; swapped: its halves, of one of ours."""

    original: str
    ours: tuple[str, ...]
    swapped: bool = False


def _layer(original: str, *ours: str, swapped: bool = False) -> Iterator[_Kept]:
    """A linear layer, or several in one."""
    for kind in ("weight", "bias"):
        yield _Kept(f"{original}.{kind}", tuple(f"{name}.{kind}" for name in ours), swapped)


def _embedding(original: str, ours: str, first: str, second: str) -> Iterator[_Kept]:
    yield from _layer(f"{original}.{first}", f"time_text_embed.{ours}.linear_1")
    yield from _layer(f"{original}.{second}", f"time_text_embed.{ours}.linear_2")


def _last(swapped: str = "norm_out.linear") -> Iterator[_Kept]:
    yield from _layer("final_layer.adaLN_modulation.1", swapped, swapped=True)
    yield from _layer("final_layer.linear", "proj_out")


_STREAMS = (
    # of the picture, then of the text: projections of queries, keys, values; norms; result; modulation; MLP
    (("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), "to_out.0", "norm1", "ff"),
    (
        ("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k"), "to_add_out", "norm1_context",
        "ff_context",
    ),
)  # fmt: skip


def _flux(model: Flux) -> Iterator[_Kept]:
    c = model.config
    yield from _layer("img_in", "x_embedder")
    yield from _layer("txt_in", "context_embedder")
    embedders = {"time_in": "timestep_embedder", "vector_in": "text_embedder"}
    for original, ours in (embedders | ({"guidance_in": "guidance_embedder"} if c.guidance_embeds else {})).items():
        yield from _embedding(original, ours, "in_layer", "out_layer")
    for i in range(c.num_layers):
        for stream, (projections, norms, out, modulation, mlp) in zip(("img", "txt"), _STREAMS, strict=True):
            there, here = f"double_blocks.{i}.{stream}", f"transformer_blocks.{i}"
            yield from _layer(f"{there}_mod.lin", f"{here}.{modulation}.linear")
            yield from _layer(f"{there}_attn.qkv", *(f"{here}.attn.{name}" for name in projections))
            for name, norm in zip(("query_norm", "key_norm"), norms, strict=True):
                yield _Kept(f"{there}_attn.norm.{name}.scale", (f"{here}.attn.{norm}.weight",))
            yield from _layer(f"{there}_attn.proj", f"{here}.attn.{out}")
            yield from _layer(f"{there}_mlp.0", f"{here}.{mlp}.net.0.proj")
            yield from _layer(f"{there}_mlp.2", f"{here}.{mlp}.net.2")
    for i in range(c.num_single_layers):
        there, here = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        yield from _layer(f"{there}.modulation.lin", f"{here}.norm.linear")
        fused = (f"{here}.attn.to_q", f"{here}.attn.to_k", f"{here}.attn.to_v", f"{here}.proj_mlp")
        yield from _layer(f"{there}.linear1", *fused)
        for name, norm in (("query_norm", "norm_q"), ("key_norm", "norm_k")):
            yield _Kept(f"{there}.norm.{name}.scale", (f"{here}.attn.{norm}.weight",))
        yield from _layer(f"{there}.linear2", f"{here}.proj_out")
    yield from _last()


def _sd3(model: SD3) -> Iterator[_Kept]:
    c = model.config
    yield _Kept("pos_embed", ("pos_embed.pos_embed",))
    yield from _layer("x_embedder.proj", "pos_embed.proj")
    yield from _layer("context_embedder", "context_embedder")
    yield from _embedding("t_embedder", "timestep_embedder", "mlp.0", "mlp.2")
    yield from _embedding("y_embedder", "text_embedder", "mlp.0", "mlp.2")
    for i in range(c.num_layers):
        last, here = i == c.num_layers - 1, f"transformer_blocks.{i}"
        for stream, (projections, norms, out, modulation, mlp) in zip(("x", "context"), _STREAMS, strict=True):
            there, whole = f"joint_blocks.{i}.{stream}_block", stream == "x" or not last
            yield from _layer(f"{there}.adaLN_modulation.1", f"{here}.{modulation}.linear", swapped=not whole)
            twice = stream == "x" and i in c.dual_attention_layers
            for attention in ("attn", "attn2") if twice else ("attn",):
                yield from _layer(f"{there}.{attention}.qkv", *(f"{here}.{attention}.{name}" for name in projections))
                for name, norm in zip(("ln_q", "ln_k"), norms, strict=True):
                    if c.qk_norm is not None:
                        yield _Kept(f"{there}.{attention}.{name}.weight", (f"{here}.{attention}.{norm}.weight",))
                if whole:
                    yield from _layer(f"{there}.{attention}.proj", f"{here}.{attention}.{out}")
            if whole:
                yield from _layer(f"{there}.mlp.fc1", f"{here}.{mlp}.net.0.proj")
                yield from _layer(f"{there}.mlp.fc2", f"{here}.{mlp}.net.2")
    yield from _last()


def _kept(model: Model) -> list[_Kept]:
    if isinstance(model, Flux):
        return list(_flux(model))
    if isinstance(model, SD3):
        return list(_sd3(model))
    raise ArgumentError(f"there is no original form of a {type(model).__name__}", op="convert")


def original_names(model: Model) -> list[str]:
    """The names of the arrays in a file of the original release."""
    return [kept.original for kept in _kept(model)]


def from_original(model: Model, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays of an original release by our names, for `model.load_state_dict`.

    Names may have the prefix "model.diffusion_model."; if any has, those without it are other models' and passed over.
    Raises StateError listing every missing, unexpected and mis-shaped name.
    """
    kept = _kept(model)
    if any(name.startswith(PREFIX) for name in arrays):
        arrays = {n.removeprefix(PREFIX): a for n, a in arrays.items() if n.startswith(PREFIX)}
    shapes = {name: value.shape for name, value in model.named_parameters(None)}
    wanted = {k.original: _joined_shape([shapes[name] for name in k.ours]) for k in kept}
    problems = [f"{name}: missing, expected {list(shape)}" for name, shape in wanted.items() if name not in arrays]
    for name, array in arrays.items():
        if name not in wanted:
            problems.append(f"{name}: unexpected")
        elif tuple(array.shape) != wanted[name]:
            problems.append(f"{name}: shape {list(array.shape)}, expected {list(wanted[name])}")
    if problems:
        raise StateError("the original weights do not fit the model:\n  " + "\n  ".join(problems))
    found: dict[str, Array] = {}
    for k in kept:
        array, start = arrays[k.original], 0
        if k.swapped:
            array = _swapped(array)
        for name in k.ours:
            found[name] = array if len(k.ours) == 1 else array[start : start + shapes[name][0]]
            start += shapes[name][0]
    return found


def to_original(model: Model, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The inverse: from arrays by our names, as `model.state_dict(state)` gives them, to the original release's."""
    found: dict[str, Array] = {}
    for k in _kept(model):
        parts = [arrays[name] for name in k.ours]
        array = parts[0] if len(parts) == 1 else np.concatenate(parts)
        found[k.original] = _swapped(array) if k.swapped else array
    return found


def read_original(model: Model, path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of a safetensors file of an original release by our names: see `from_original`."""
    with Reader(path) as reader:
        whole = any(name.startswith(PREFIX) for name in reader.types)
        names = [name for name in reader.types if name.startswith(PREFIX) or not whole]
        return from_original(model, {name: reader.read(name) for name in names})


def _joined_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    return shapes[0] if len(shapes) == 1 else (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _swapped(array: Array) -> Array:
    """The second half of the rows before the first."""
    return np.concatenate([array[len(array) // 2 :], array[: len(array) // 2]])
