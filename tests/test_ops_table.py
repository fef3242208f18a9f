"""docs/ops.md is what the registry says."""

from __future__ import annotations

from pathlib import Path

from ops_table import document

OPS = Path(__file__).resolve().parent.parent / "docs" / "ops.md"


def test_the_table_of_ops_is_up_to_date() -> None:
    assert OPS.read_text(encoding="utf-8") == document(), "run: python tests/ops_table.py > docs/ops.md"
