"""bench/models.py: what it builds are the models it says, and both sides of a small one agree."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

pytest.importorskip("bench.models", reason="bench/ is part of a checkout alone")
pytest.importorskip("diffusers")

from bench import models


@pytest.mark.parametrize(
    "target, millions", [(models.flux_step, 1310), (models.sd35_step, 1207), (models.dit_step, 750)]
)
def test_targets_are_of_real_size(target: models.Callable[[], models.Target], millions: int) -> None:
    outputs, updates = target()
    assert len(outputs) == 1 and not outputs[0].shape
    weights = [p for p in updates if "optimizer" not in str(p.name)]
    assert round(sum(p.size for p in weights) / 1e6) == millions


@pytest.mark.parametrize("name", models.ROWS)
def test_every_block_is_watched_at_both_ends(name: str) -> None:
    row = models.ROWS[name](True)
    watched = models._watched(row)
    assert len(set(watched)) == len(watched) >= 10
    assert set(watched) <= set(models._weights(row))


def test_both_sides_of_a_small_model_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found" / "dit.json"
    models.main(f"--model dit --tiny --mode eager --steps 2 --seconds 0.01 --out {file}".split())
    found = json.loads(file.read_text())
    assert found["ours"]["agrees"] and found["torch eager"]["agrees"]
    assert found["torch eager"]["curve_difference"] < 1e-2
    printed = capsys.readouterr().out
    assert "torch eager" in printed and "AGREE" not in printed


def test_a_side_that_fails_does_not_hide_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> models.Side:
        raise ValueError("no memory left")

    monkeypatch.setattr(models, "our_side", fails)
    options = argparse.Namespace(masters=False, mode=["eager"], steps=2, seconds=0.01)
    said: list[str] = []
    result = models.compare(models.ROWS["dit"](True), options, said.append)
    assert result["ours"] == {"failed": "ValueError: no memory left"}
    assert result["torch eager"]["agrees"] and "no memory left" in "".join(said)
    assert "failed" in models.table(result)
