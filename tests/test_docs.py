"""The documents' code is code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_examples import load

import flame_triton as ft

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "custom-kernels.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
EXAMPLE = (ROOT / "examples" / "custom_kernels.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:40])
def test_custom_kernels_quotes_its_example(block: str) -> None:
    assert block in EXAMPLE or block == "ft.testing.check_grads(swiglu, (3, 5), (3, 5), order=2)\n"


def test_custom_kernels_shows_what_is_printed() -> None:
    example = load("custom_kernels")
    assert str(example.snake.explain(((8, 32), "float32"), ((32,), "float32"))) in GUIDE
    ft.testing.check_grads(example.swiglu, (3, 5), (3, 5), order=2)


def test_custom_kernels_quotes_something() -> None:
    assert len(BLOCKS) >= 6
