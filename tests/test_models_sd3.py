"""SD3 and SD3.5 against diffusers' own: names, outputs, gradients, files; and through interpreted kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers_models import arrays_of, assert_parity, differences, run_ours, shapes_of, theirs

import flame_triton as ft
from flame_triton.errors import ArgumentError, ShapeError
from flame_triton.models import SD3, SD3Config

TINY: dict[str, Any] = {
    "sample_size": 8, "in_channels": 3, "out_channels": 5, "num_layers": 3, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": 10, "caption_projection_dim": 16, "pooled_projection_dim": 6,
    "pos_embed_max_size": 7,
}  # fmt: skip
DUAL = TINY | {"qk_norm": "rms_norm", "dual_attention_layers": (0, 2)}
NAME = SD3Config.class_name


def inputs(rows: int = 8, columns: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {
        "hidden_states": rng.standard_normal((2, 3, rows, columns)),
        "encoder_hidden_states": rng.standard_normal((2, 5, 10)),
        "pooled_projections": rng.standard_normal((2, 6)),
        "timestep": np.array([17.5, 999.0]),
    }


@pytest.mark.parametrize(
    "change",
    [
        {},  # SD3-medium: no norm of queries and keys
        {"qk_norm": "rms_norm", "num_layers": 2},  # SD3.5-large
        {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},  # SD3.5-medium
        {"dual_attention_layers": (0, 2), "out_channels": None, "patch_size": 1, "pos_embed_max_size": 9},
    ],
)
def test_outputs_and_all_gradients_are_diffusers(change: dict[str, Any]) -> None:
    assert_parity(SD3, TINY | change, inputs())


def test_parity_with_diffusers_own_float32_islands() -> None:
    early = {"timestep": np.array([0.0, 40.0])}  # an angle of 999 has an error of 3e-5 in float32
    assert_parity(SD3, DUAL, inputs() | early, lifted=False, tolerance=1e-5)


def test_kernels_compute_what_the_reference_does() -> None:
    module = theirs(NAME, DUAL)
    arrays = {name: array.astype(np.float32) for name, array in arrays_of(module).items()}
    given = {name: a.astype(np.float32) for name, a in inputs().items()}
    probe = np.random.default_rng(1).standard_normal((2, 5, 8, 6))
    expected, expected_grads = run_ours(SD3.from_config(DUAL), arrays, given, probe)
    found, grads = run_ours(SD3.from_config(DUAL), arrays, given, probe, device=None)
    errors = dict(differences({"output": found, **grads}, {"output": expected, **expected_grads}, floor=1e-3))
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize(
    "config, tensors, size",
    [
        (SD3Config.sd3_medium(), 682, 2_028_328_000),
        (SD3Config.sd35_medium(), 908, 2_243_171_520),
        (SD3Config.sd35_large(), 1226, 8_056_627_520),
    ],
)
def test_the_published_models_have_the_published_sizes_and_names(config: SD3Config, tensors: int, size: int) -> None:
    model = SD3.from_config(config)
    parameters = model.parameters()
    assert (len(parameters), sum(p.size for p in parameters)) == (tensors, size)
    assert {n: v.shape for n, v in model.named_parameters(None)} == shapes_of(NAME, config.as_dict())


def test_files_go_both_ways(tmp_path: Path) -> None:
    import diffusers
    import torch

    module = theirs(NAME, DUAL, dtype=torch.float32)
    module.save_pretrained(tmp_path / "theirs")
    model = SD3.from_pretrained(tmp_path / "theirs")
    state = ft.State(model.parameters(None), device="reference")
    model.save_pretrained(tmp_path / "ours", state, max_shard_size="4KB")
    again = getattr(diffusers, NAME).from_pretrained(tmp_path / "ours")
    held, expected, back = model.state_dict(state), arrays_of(module), arrays_of(again)
    assert set(held) == set(expected) == set(back)
    for name, array in expected.items():
        np.testing.assert_array_equal(held[name], array, err_msg=name)
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    assert SD3.from_config(dict(again.config)).config == model.config == SD3Config.from_dict(DUAL)
    given = {name: a.astype(np.float32) for name, a in inputs().items()}
    values = [ft.input(a.shape) for a in given.values()]
    found = ft.compile(model(*values), values, state=state, device="reference")(*given.values())
    wanted = again(**{name: torch.from_numpy(a) for name, a in given.items()}).sample.detach().numpy()
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-4, atol=1e-5)


def test_an_untrained_model_is_zero() -> None:
    model = SD3.from_config(DUAL)
    given = [ft.input(a.shape, ft.float64) for a in inputs().values()]
    y = ft.compile(model(*given), given, device="reference")(*inputs().values())
    assert not np.asarray(y).any()


def test_the_dtype_of_the_first_input_is_that_of_the_computation() -> None:
    model = SD3.from_config(DUAL)
    given = [ft.input(a.shape, "bfloat16" if i == 0 else "float32") for i, a in enumerate(inputs().values())]
    y = model(*given)
    assert y.dtype is ft.bfloat16 and y.shape == (2, 5, 8, 6)
    assert {p.dtype for p in model.parameters()} == {ft.float32}


def test_wrong_inputs_are_refused() -> None:
    model = SD3.from_config(TINY)
    x, c, pooled, t = (ft.input(a.shape) for a in inputs().values())
    with pytest.raises(ShapeError, match=r"expects hidden_states \[N, C, H, W\]"):
        model(x, c, pooled, ft.input((3,)))
    with pytest.raises(ShapeError, match="expects hidden_states"):
        model(x, ft.input((2, 10)), pooled, t)
    with pytest.raises(ShapeError, match="8 x 3 patches do not fit the table of 7 x 7"):
        model(ft.input((2, 3, 16, 6)), c, pooled, t)
    with pytest.raises(ShapeError, match=r"expects \[..., 10\]"):
        model(x, ft.input((2, 5, 11)), pooled, t)


def test_wrong_configurations_are_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        SD3Config(qk_norm="layer_norm", caption_projection_dim=100, num_layers=0, sample_size=1)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["num_layers", "qk_norm", "caption_projection_dim", "sample_size"]
    with pytest.raises(ArgumentError, match="a width of 18"):
        SD3Config(num_attention_heads=3, attention_head_dim=6, caption_projection_dim=18)
    with pytest.raises(ArgumentError, match=r"dropout = 0\.1: unknown"):
        SD3.from_config({"dropout": 0.1})
