"""bench/flux_dev.py at its small size: the options of the whole model, the losses, what is written."""

from __future__ import annotations

import json

import flame_triton as ft
from bench import flux_dev


def test_the_small_model_learns_its_batch(tmp_path, capsys) -> None:
    out = tmp_path / "found.json"
    assert flux_dev.main(["--tiny", "--steps", "3", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert len(found["losses"]) == 3 and found["losses"][-1] < found["losses"][0]
    assert found["launches"] > 0 and found["planned_bytes"] > found["state_bytes"] > 0
    assert "memory_budget=0." in capsys.readouterr().out


def test_the_whole_model_is_flux_dev() -> None:
    step = flux_dev.build(flux_dev.flux(tiny=False))
    parameters = step.model.parameters()
    assert sum(v.size for v in parameters) == 11_901_408_320
    assert {v.dtype for v in parameters} == {ft.bfloat16}
    assert step.operations > 190e12


def test_losses_that_stand_still_are_no_success() -> None:
    for losses in ([1.0, float("nan"), 0.5], [1.0, float("inf")], [2.0, 1.0, 1.0]):
        assert not flux_dev.well({"losses": losses})
