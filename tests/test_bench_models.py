"""bench/models.py: what it builds are the models it says, and both sides of a small one agree."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("bench.models", reason="bench/ is part of a checkout alone")
pytest.importorskip("diffusers_alone")

from bench import models
from bench.targets import Target


@pytest.mark.parametrize(
    "target, millions", [(models.flux_step, 1310), (models.sd35_step, 1207), (models.dit_step, 750)]
)
def test_targets_are_of_real_size(target: Callable[[], Target], millions: int) -> None:
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


@pytest.mark.parametrize("state", models.STATES)
def test_both_sides_of_a_small_model_agree(state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found" / "dit.json"
    options = f"--model dit --tiny --mode eager --steps 2 --seconds 0.01 --state {state}".split()
    models.main([*options, "--out", str(file), "--profile", str(tmp_path / "profile.json")])
    assert json.loads((tmp_path / "profile.json").read_text())["launches"]
    found = json.loads(file.read_text())
    assert found["ours"]["agrees"] and found["torch eager"]["agrees"]
    assert found["torch eager"]["curve_difference"] < 1e-2
    printed = capsys.readouterr().out
    assert "torch eager" in printed and "AGREE" not in printed


def test_a_side_that_fails_does_not_hide_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> models.Side:
        raise ValueError("no memory left")

    monkeypatch.setattr(models, "our_side", fails)
    options = argparse.Namespace(
        state="float32", fused=False, mode=["eager"], steps=2, seconds=0.01, attention="default", profile=None
    )
    said: list[str] = []
    result = models.compare(models.ROWS["dit"](True), options, said.append)
    assert result["ours"] == {"failed": "ValueError: no memory left"}
    assert result["torch eager"]["agrees"] and "no memory left" in "".join(said)
    assert "failed" in models.table(result)


def test_diffusers_is_imported_beside_packages_that_cannot_be(tmp_path: Path) -> None:
    for name, version in (("transformers", "5.17.0"), ("peft", "0.21.2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('another huggingface_hub is required')")
        about = tmp_path / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    script = "; ".join(
        [
            "import sys, bench.models as m",
            "print([m._diffusers(row(True).model.config_type.class_name).__name__ for row in m.ROWS.values()])",
            "assert not {'transformers', 'peft'} & set(sys.modules)",
        ]
    )
    path = os.pathsep.join([str(tmp_path), *(p for p in sys.path if p)])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'FluxTransformer2DModel', 'SD3Transformer2DModel', 'DiTTransformer2DModel'" in done.stdout
