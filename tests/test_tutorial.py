"""The tutorial's blocks run one after the other and do what the text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def blocks(document: str) -> list[str]:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run(document: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    scope: dict[str, Any] = {"__name__": "document"}
    for block in blocks(document):
        exec(compile(block, document, "exec"), scope)
    return scope, capsys.readouterr().out


def test_tutorial(capsys: pytest.CaptureFixture[str]) -> None:
    scope, printed = run("tutorial.md", capsys)
    assert "() float32" in printed and "(3, 2)" in printed and "True" in printed
    assert "matmul" in printed  # the error names the op
    losses, radius = scope["losses"], scope["radius"]
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:20])
    assert abs(radius.mean() - 1) < 0.15 and radius.std() < 0.3
    assert abs(np.linalg.norm(scope["again"], axis=1).mean() - 1) < 0.2


def test_diffusion_reference(capsys: pytest.CaptureFixture[str]) -> None:
    scope, _ = run("diffusion.md", capsys)
    assert scope["pictures"].shape == (4, 3, 8, 8) and np.isfinite(scope["pictures"]).all()


def test_diffusion_reference_names_everything() -> None:
    from flame_triton import diffusion

    text = (ROOT / "docs" / "diffusion.md").read_text(encoding="utf-8")
    assert [name for name in diffusion.__all__ if f"`{name}" not in text] == []
