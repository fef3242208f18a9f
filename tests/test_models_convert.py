"""Weights of the original releases: SD3's against diffusers' own conversion, Flux's against what their forms are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers_models import torch
from test_models_flux import GUIDED
from test_models_flux import TINY as FLUX
from test_models_sd3 import DUAL
from test_models_sd3 import TINY as SMALL

import flame_triton as ft
from flame_triton.errors import ArgumentError, StateError
from flame_triton.models import SD3, DiT, Flux
from flame_triton.models.convert import PREFIX, from_original, original_names, read_original, to_original
from flame_triton.runtime.checkpoint import write


def arrays_for(model: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {n: rng.standard_normal(v.shape).astype(np.float32) for n, v in model.named_parameters(None)}


@pytest.mark.parametrize("model", [Flux, SD3])
@pytest.mark.parametrize("more", [False, True])
def test_there_and_back(model: Any, more: bool) -> None:
    config = {(Flux, False): FLUX, (Flux, True): GUIDED, (SD3, False): SMALL, (SD3, True): DUAL}[model, more]
    built = model.from_config(config)
    arrays = arrays_for(built)
    original = to_original(built, arrays)
    assert list(original) == original_names(built)
    assert sum(a.size for a in original.values()) == sum(a.size for a in arrays.values())
    back = from_original(built, original)
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


@pytest.mark.parametrize("config", [SMALL, DUAL])
def test_diffusers_converts_sd3_as_we_do(config: dict[str, Any]) -> None:
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    model = SD3.from_config(config)
    arrays = arrays_for(model)
    tensors = {PREFIX + n: torch.from_numpy(a) for n, a in to_original(model, arrays).items()}
    found = convert_sd3_transformer_checkpoint_to_diffusers(tensors)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].numpy(), array, err_msg=name)


def test_flux_is_what_the_original_model_reads() -> None:
    model = Flux.from_config(GUIDED)
    arrays, width = arrays_for(model), 32
    original = to_original(model, arrays)
    one = original["single_blocks.1.linear1.weight"]
    assert one.shape == (7 * width, width)
    block = "single_transformer_blocks.1"
    for i, name in enumerate(("to_q", "to_k", "to_v")):
        np.testing.assert_array_equal(one[i * width : (i + 1) * width], arrays[f"{block}.attn.{name}.weight"])
    np.testing.assert_array_equal(one[3 * width :], arrays[f"{block}.proj_mlp.weight"])
    final = original["final_layer.adaLN_modulation.1.bias"]
    np.testing.assert_array_equal(final[:width], arrays["norm_out.linear.bias"][width:])  # the shift
    text = original["double_blocks.0.txt_attn.qkv.bias"]
    np.testing.assert_array_equal(text[width : 2 * width], arrays["transformer_blocks.0.attn.add_k_proj.bias"])
    scale = original["double_blocks.1.txt_attn.norm.key_norm.scale"]
    np.testing.assert_array_equal(scale, arrays["transformer_blocks.1.attn.norm_added_k.weight"])
    assert len(Flux(dtype="bfloat16").parameters()) == 1156 and len(original_names(Flux())) == 776


def test_a_file_is_read_and_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    model = SD3.from_config(DUAL)
    arrays = arrays_for(model)
    held = {PREFIX + n: a for n, a in to_original(model, arrays).items()} | {"first_stage_model.x": np.ones(3, "f")}
    types = {n: ft.types.TensorType(a.shape, ft.float32) for n, a in held.items()}
    write(tmp_path / "sd3.safetensors", types, lambda name: held[name], {})
    found = read_original(model, tmp_path / "sd3.safetensors")
    state = ft.State(model.parameters(None), device="reference")
    model.load_state_dict(state, found)
    np.testing.assert_array_equal(state["context_embedder.weight"], arrays["context_embedder.weight"])
    wrong = {n.removeprefix(PREFIX): a for n, a in held.items() if n != PREFIX + "pos_embed"}
    wrong["final_layer.linear.bias"] = np.ones(3, "f")
    with pytest.raises(StateError) as caught:
        from_original(model, wrong)
    lines = sorted(line.strip() for line in str(caught.value).splitlines()[1:])
    assert lines == [
        "final_layer.linear.bias: shape [3], expected [20]",
        "first_stage_model.x: unexpected",
        "pos_embed: missing, expected [1, 49, 16]",
    ]
    with pytest.raises(ArgumentError, match="no original form of a DiT"):
        original_names(DiT.from_config({"num_layers": 1}))
