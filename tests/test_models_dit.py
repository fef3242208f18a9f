"""DiT against diffusers' own: names, outputs, gradients; and through interpreted kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusers_models import Lifted, arrays_of, assert_parity, differences, run_ours, theirs

import flame_triton as ft
from flame_triton.errors import ArgumentError, ShapeError
from flame_triton.models import DiT, DiTConfig
from flame_triton.models.embeddings import PatchEmbed, position_table

TINY: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 3, "out_channels": 6, "num_layers": 2,
    "sample_size": 8, "num_embeds_ada_norm": 5,
}  # fmt: skip
NAME = DiTConfig.class_name


def inputs(rows: int = 8, columns: int = 8, **config: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    channels = config.get("in_channels", TINY["in_channels"])
    return {
        "hidden_states": rng.standard_normal((3, channels, rows, columns)),
        "timestep": np.array([0.0, 17.5, 999.0]),
        "class_labels": np.array([0, 3, 5]),  # 5: no class
    }


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"activation_fn": "gelu", "attention_bias": False, "out_channels": None},
        {"norm_elementwise_affine": True, "norm_eps": 1e-3, "patch_size": 4, "num_layers": 1},
    ],
)
def test_outputs_and_all_gradients_are_diffusers(change: dict[str, Any]) -> None:
    assert_parity(DiT, TINY | change, inputs())


@pytest.mark.parametrize("side", [8, 12])  # 12: another size than the model was made for has positions of its own
def test_parity_with_diffusers_own_float32_islands(side: int) -> None:
    early = {"timestep": np.array([0.0, 3.5, 40.0])}  # an angle of 999 has an error of 3e-5 in float32
    assert_parity(DiT, TINY, inputs(side, side) | early, lifted=False, tolerance=1e-5)


def test_kernels_compute_what_the_reference_does() -> None:
    module = theirs(NAME, TINY)
    arrays = {name: array.astype(np.float32) for name, array in arrays_of(module).items()}
    given = {k: a.astype(np.float32) if a.dtype == np.float64 else a for k, a in inputs().items()}
    probe = np.random.default_rng(1).standard_normal((3, 6, 8, 8))
    expected, expected_grads = run_ours(DiT.from_config(TINY), arrays, given, probe)
    found, grads = run_ours(DiT.from_config(TINY), arrays, given, probe, device=None)
    errors = dict(differences({"output": found, **grads}, {"output": expected, **expected_grads}, floor=1e-3))
    assert max(errors.values()) < 1e-4, errors


def test_the_dtype_of_the_latents_is_that_of_the_computation() -> None:
    model = DiT.from_config(TINY)
    latents = ft.input((1, 3, 8, 8), "bfloat16")
    y = model(latents, ft.input((1,)), ft.input((1,), "int64"))
    assert y.dtype is ft.bfloat16 and y.shape == (1, 6, 8, 8)
    assert {p.dtype for p in model.parameters()} == {ft.float32}
    assert {p.dtype for p in DiT.from_config(TINY, dtype="bfloat16").parameters()} == {ft.bfloat16}


def test_pictures_need_not_be_square() -> None:
    y = DiT.from_config(TINY)(ft.input((1, 3, 4, 10)), ft.input((1,)), ft.input((1,), "int64"))
    assert y.shape == (1, 6, 4, 10)


def test_an_untrained_model_is_zero() -> None:
    """adaLN-Zero: gates and the last projection begin at zero, so the blocks are the identity and the result is 0."""
    model = DiT.from_config(TINY)
    given = [ft.input(a.shape, ft.dtype(a.dtype)) for a in inputs().values()]
    y = ft.compile(model(*given), given, device="reference")(*inputs().values())
    assert not np.asarray(y).any()


@pytest.mark.parametrize("rows, columns", [(4, 4), (3, 5)])
def test_positions_are_diffusers(rows: int, columns: int) -> None:
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    expected = get_2d_sincos_pos_embed(24, (rows, columns), base_size=7, interpolation_scale=2.0, output_type="pt")
    found = position_table(24, rows, columns, 7, 2.0)
    np.testing.assert_array_equal(found, expected.float().numpy())


def test_the_stored_table_and_its_middle_are_diffusers() -> None:
    import torch
    from diffusers.models.embeddings import PatchEmbed as Theirs

    module = Theirs(16, 16, 2, 3, 24, pos_embed_max_size=6)
    ours = PatchEmbed(16, 2, 3, 24, pos_embed_max_size=6)
    x = ft.input((2, 3, 6, 10))
    y = ours(x)
    state = ft.State(ours.parameters(None), device="reference")
    np.testing.assert_array_equal(state["pos_embed"], module.state_dict()["pos_embed"].numpy())
    ours.load_state_dict(state, arrays_of(module))
    array = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    expected = module(torch.from_numpy(array)).detach().numpy()
    found = np.asarray(ft.compile(y, [x], state=state, device="reference")(array))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ShapeError, match=r"7 x 5 patches do not fit the table of 6 x 6"):
        ours(ft.input((2, 3, 14, 10)))


def test_wrong_inputs_are_refused() -> None:
    model = DiT.from_config(TINY)
    labels, t = ft.input((3,), "int64"), ft.input((3,))
    with pytest.raises(ShapeError, match="expects latents"):
        model(ft.input((2, 3, 8, 8)), t, labels)
    with pytest.raises(ShapeError, match=r"expects \[N, 3, H, W\], got \(3, 4, 8, 8\)"):
        model(ft.input((3, 4, 8, 8)), t, labels)
    with pytest.raises(ShapeError, match="multiples of 2"):
        model(ft.input((3, 3, 8, 7)), t, labels)


def test_a_configuration_says_all_that_is_wrong_at_once() -> None:
    wrong = {
        "_class_name": NAME, "_diffusers_version": "0.42.0", "norm_num_groups": 16, "upcast_attention": True,
        "dropout": 0.1, "num_layers": "4", "norm_type": "layer_norm", "sampel_size": 32, "patch_size": 2,
    }  # fmt: skip
    with pytest.raises(ArgumentError) as caught:
        DiT.from_config(wrong)
    lines = str(caught.value).splitlines()[1:]
    assert sorted(line.split()[0] for line in lines) == ["dropout", "norm_type", "num_layers", "sampel_size"]
    with pytest.raises(ArgumentError, match="is that of a FluxTransformer2DModel"):
        DiT.from_config({"_class_name": "FluxTransformer2DModel"})
    with pytest.raises(ArgumentError, match="num_layers = 0: must be at least 1"):
        DiTConfig(num_layers=0)
    with pytest.raises(ArgumentError, match="activation_fn = 'geglu': supported are gelu-approximate, gelu"):
        DiTConfig(activation_fn="geglu")
    with pytest.raises(ArgumentError, match="a width of 6"):
        DiTConfig(num_attention_heads=2, attention_head_dim=3)
    with pytest.raises(ArgumentError, match="sample_size = 2: must be at least patch_size"):
        DiTConfig(sample_size=2, patch_size=4)
    with pytest.raises(ArgumentError, match="norm_eps = True: expected float"):
        DiTConfig(norm_eps=True)
    with pytest.raises(ArgumentError, match="config must be a DiTConfig or a dict"):
        DiT.from_config(4)  # type: ignore[arg-type]


def test_older_files_call_it_by_the_name_of_a_wider_class() -> None:
    old = {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero", "cross_attention_dim": None, **TINY}
    assert DiT.from_config(old).config == DiTConfig(**TINY)
    with pytest.raises(ArgumentError, match="or a Transformer2DModel with norm_type = 'ada_norm_zero'"):
        DiT.from_config({"_class_name": "Transformer2DModel", **TINY})
    with pytest.raises(ArgumentError, match="cross_attention_dim = 768: only None is supported"):
        DiT.from_config(old | {"cross_attention_dim": 768})


def test_config_dict_is_what_diffusers_builds_the_same_model_from() -> None:
    written = DiT.from_config(TINY).config_dict()
    assert written["_class_name"] == NAME
    module = theirs(NAME, {k: v for k, v in written.items() if k != "_class_name"})
    assert {k: v for k, v in module.config.items() if not k.startswith("_")} == {
        k: v for k, v in written.items() if not k.startswith("_")
    }
    assert DiT.from_config(written).config == DiTConfig(**TINY)


def test_the_published_model_has_the_published_size() -> None:
    parameters = DiT.from_config({"out_channels": 8}).parameters(None)
    assert len(parameters) == 538 and sum(p.size for p in parameters) == 749_826_464


def test_three_steps_of_training_are_those_of_torch() -> None:
    """diffusers' model with torch's AdamW, and ours with ours: the same weights afterwards."""
    import torch

    given, rate = inputs(), 1e-3
    target = np.random.default_rng(4).standard_normal((3, 6, 8, 8))
    module = theirs(NAME, TINY)
    model = DiT.from_config(TINY, dtype="float64")
    values = [ft.input(a.shape, ft.dtype(a.dtype), name=name) for name, a in given.items()]
    loss = ft.mse_loss(model(*values), ft.constant(target))
    optimizer = ft.optim.AdamW(model.parameters(), rate, weight_decay=0.1, decays=lambda p: True)
    updates = optimizer.updates(ft.grad(loss, model.parameters()))
    state = ft.State([*model.parameters(None), *optimizer.state_values], device="reference")
    model.load_state_dict(state, arrays_of(module))
    step = ft.compile(loss, values, state=state, updates=updates, device="reference", dtype="float64")
    torch_optimizer = torch.optim.AdamW(module.parameters(), rate, weight_decay=0.1)
    with Lifted():
        for _ in range(3):
            out = module(**{name: torch.from_numpy(a) for name, a in given.items()}, return_dict=False)[0]
            expected = torch.nn.functional.mse_loss(out, torch.from_numpy(target))
            torch_optimizer.zero_grad()
            expected.backward()
            torch_optimizer.step()
            found = step(*given.values())
            assert abs(float(found) - expected.item()) < 1e-7 * expected.item()
    errors = dict(differences(model.state_dict(state), arrays_of(module)))
    quiet = {name for name in errors if name.endswith("to_k.bias")}  # gradients of exact zero: Adam moves by noise
    assert max(error for name, error in errors.items() if name not in quiet) < 1e-6, errors
