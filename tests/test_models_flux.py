"""Flux against diffusers' own: names, outputs, gradients, files; and through interpreted kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers_models import arrays_of, assert_parity, differences, run_ours, shapes_of, theirs

import flame_triton as ft
from flame_triton.errors import ArgumentError, ShapeError
from flame_triton.models import Flux, FluxConfig, token_places
from flame_triton.models.flux import rotary_tables

TINY: dict[str, Any] = {
    "in_channels": 6, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 10, "pooled_projection_dim": 7, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
GUIDED = TINY | {"guidance_embeds": True}
NAME = FluxConfig.class_name
ROWS, COLUMNS, WORDS = 3, 4, 5
PLACES = token_places(ROWS, COLUMNS, WORDS)
EARLY = {"timestep": np.array([0.0, 0.04]), "guidance": np.array([0.01, 0.04])}  # larger angles have larger errors
IDS = {"txt_ids": PLACES[:WORDS], "img_ids": PLACES[WORDS:]}


def inputs(guidance: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    given = {
        "hidden_states": rng.standard_normal((2, ROWS * COLUMNS, 6)),
        "encoder_hidden_states": rng.standard_normal((2, WORDS, 10)),
        "pooled_projections": rng.standard_normal((2, 7)),
        "timestep": np.array([0.0175, 0.999]),
    }
    return given | ({"guidance": np.array([3.5, 1.0])} if guidance else {})


def placed(model: Flux, *values: ft.Value) -> ft.Value:
    """The model with its tokens in their places."""
    return model(*values, places=PLACES)


@pytest.mark.parametrize(
    "config",
    [TINY, GUIDED, TINY | {"out_channels": 3, "patch_size": 2, "num_layers": 1, "num_single_layers": 1}],
)
def test_outputs_and_all_gradients_are_diffusers(config: dict[str, Any]) -> None:
    assert_parity(Flux, config, inputs(config is GUIDED), call=placed, fixed=IDS)


def test_text_may_have_places_too() -> None:
    places = PLACES.copy()
    places[:WORDS] = np.arange(3 * WORDS).reshape(WORDS, 3)
    ids = {"txt_ids": places[:WORDS], "img_ids": places[WORDS:]}
    assert_parity(Flux, TINY, inputs(False), call=lambda model, *v: model(*v, places=places), fixed=ids)


def test_parity_with_diffusers_own_float32_islands() -> None:
    assert_parity(Flux, GUIDED, inputs() | EARLY, call=placed, fixed=IDS, lifted=False, tolerance=1e-5)


def test_kernels_compute_what_the_reference_does() -> None:
    module = theirs(NAME, GUIDED)
    arrays = {name: array.astype(np.float32) for name, array in arrays_of(module).items()}
    given = {name: a.astype(np.float32) for name, a in inputs().items()}
    probe = np.random.default_rng(1).standard_normal((2, ROWS * COLUMNS, 6))
    expected, expected_grads = run_ours(Flux.from_config(GUIDED), arrays, given, probe, placed)
    found, grads = run_ours(Flux.from_config(GUIDED), arrays, given, probe, placed, device=None)
    errors = dict(differences({"output": found, **grads}, {"output": expected, **expected_grads}, floor=1e-3))
    assert max(errors.values()) < 1e-4, errors


def test_places_go_by_rows_and_their_angles_are_diffusers() -> None:
    import torch
    from diffusers.models.transformers.transformer_flux import FluxPosEmbed

    assert not PLACES[:WORDS].any()
    assert PLACES[WORDS:].tolist() == [[0, row, column] for row in range(ROWS) for column in range(COLUMNS)]
    large = token_places(64, 96, 2)
    expected = FluxPosEmbed(10000, [16, 56, 56])(torch.from_numpy(large))
    for table, wanted in zip(rotary_tables(large, (16, 56, 56), ft.float32), expected, strict=True):
        found = np.asarray(ft.compile(table, [], device="reference")())
        np.testing.assert_allclose(found, wanted[:, ::2].numpy(), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "config, tensors, size", [(FluxConfig.dev(), 1160, 11_901_408_320), (FluxConfig.schnell(), 1156, 11_891_178_560)]
)
def test_the_published_models_have_the_published_sizes_and_names(config: FluxConfig, tensors: int, size: int) -> None:
    model = Flux.from_config(config)
    parameters = model.parameters(None)
    assert (len(parameters), sum(p.size for p in parameters)) == (tensors, size)
    assert {n: v.shape for n, v in model.named_parameters(None)} == shapes_of(NAME, config.as_dict())


def test_files_go_both_ways(tmp_path: Path) -> None:
    import diffusers
    import torch

    module = theirs(NAME, GUIDED, dtype=torch.float32)
    module.save_pretrained(tmp_path / "theirs", max_shard_size="8KB")
    model = Flux.from_pretrained(tmp_path / "theirs")
    state = ft.State(model.parameters(None), device="reference")
    model.save_pretrained(tmp_path / "ours", state)
    again = getattr(diffusers, NAME).from_pretrained(tmp_path / "ours")
    held, expected, back = model.state_dict(state), arrays_of(module), arrays_of(again)
    assert set(held) == set(expected) == set(back)
    for name, array in expected.items():
        np.testing.assert_array_equal(held[name], array, err_msg=name)
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    assert Flux.from_config(dict(again.config)).config == model.config == FluxConfig.from_dict(GUIDED)
    given = {name: a.astype(np.float32) for name, a in (inputs() | EARLY).items()}
    values = [ft.input(a.shape) for a in given.values()]
    found = ft.compile(placed(model, *values), values, state=state, device="reference")(*given.values())
    tensors = {name: torch.from_numpy(a) for name, a in {**given, **IDS}.items()}
    np.testing.assert_allclose(np.asarray(found), again(**tensors).sample.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_an_untrained_model_is_zero() -> None:
    model = Flux.from_config(GUIDED)
    given = [ft.input(a.shape, ft.float64) for a in inputs().values()]
    y = ft.compile(placed(model, *given), given, device="reference")(*inputs().values())
    assert not np.asarray(y).any()


def test_the_dtype_of_the_first_input_is_that_of_the_computation() -> None:
    model = Flux.from_config(GUIDED)
    given = [ft.input(a.shape, "bfloat16" if i == 0 else "float32") for i, a in enumerate(inputs().values())]
    y = placed(model, *given)
    assert y.dtype is ft.bfloat16 and y.shape == (2, ROWS * COLUMNS, 6)
    assert {p.dtype for p in model.parameters()} == {ft.float32}


def test_wrong_inputs_are_refused() -> None:
    model = Flux.from_config(GUIDED)
    x, c, pooled, t, guidance = (ft.input(a.shape) for a in inputs().values())
    with pytest.raises(ShapeError, match=r"expects hidden_states \[N, T, C\].* timestep, guidance, got"):
        model(x, c, pooled, t, ft.input((3,)), places=PLACES)
    with pytest.raises(ArgumentError, match="guidance_embeds is True: the model needs guidance"):
        model(x, c, pooled, t, places=PLACES)
    with pytest.raises(ArgumentError, match="guidance_embeds is False: the model takes no guidance"):
        Flux.from_config(TINY)(x, c, pooled, t, guidance, places=PLACES)
    with pytest.raises(ShapeError, match=r"places must be \[5 \+ 12, 3\], of text and picture, got \(12, 3\)"):
        model(x, c, pooled, t, guidance, places=PLACES[WORDS:])
    with pytest.raises(ShapeError, match=r"places must be \[tokens, 2\], got \(17, 3\)"):
        rotary_tables(PLACES, (8, 8), ft.float32)


def test_wrong_configurations_are_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        FluxConfig(num_layers=0, axes_dims_rope=(15, 57, 56))
    assert [line.split()[0] for line in str(caught.value).splitlines()[1:]] == ["num_layers", "axes_dims_rope"]
    with pytest.raises(ArgumentError, match="their sum attention_head_dim, 64"):
        FluxConfig(attention_head_dim=64)
    written = json.loads(FluxConfig.dev().as_json())
    assert written["_class_name"] == NAME and FluxConfig.from_dict(written) == FluxConfig.dev()
