"""The examples run and do what they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_mlp_learns_to_read() -> None:
    pytest.importorskip("sklearn")
    assert load("mlp").main(steps=150) > 0.9


def test_gradient_agrees_with_float64() -> None:
    found, exact = load("gradient").main()
    assert abs(found - exact) < 1e-6 * exact


def test_custom_kernels_agree_with_float64() -> None:
    assert load("custom_kernels").main() < 1e-5


def test_unet_runs_channels_last_and_learns() -> None:
    """No image in the step, forward or backward, is copied into another order: weights alone are."""
    listing, losses = load("unet").main()
    assert losses[2] < losses[1] < losses[0]
    copies = [line for line in listing.splitlines() if line.split()[1:2] == ["copy"]]
    assert copies and not [line for line in copies if "[2, " in line]


def test_train_dit_learns() -> None:
    pytest.importorskip("sklearn")
    losses, share = load("train_dit").main(steps=40)
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])
    assert 0 <= share <= 1


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [p.stem for p in EXAMPLES.glob("*.py") if f'load("{p.stem}")' not in text] == []
