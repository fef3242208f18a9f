"""DiT against diffusers' own: names, outputs, gradients; and through interpreted kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from diffusers_models import arrays_of, assert_parity, differences, run_ours, theirs

import flame_triton as ft
from flame_triton.errors import ArgumentError, ShapeError
from flame_triton.models import DiT, DiTConfig

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
