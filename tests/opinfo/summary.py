"""The totals of a run, for pytest's last lines: what each case recorded as its property "opinfo"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

KINDS = {"test_reference": "references in float64", "test_kernels": "kernels", "test_refusals": "refusals"}


def summary(reports: Iterable[Any]) -> list[str]:
    """One line a kind: names, samples, gradients, refusals, samples out of scope. reports: those of all cases."""
    totals: dict[str, list[int]] = {}
    for report in reports:
        for key, counts in report.user_properties:
            if key == "opinfo" and report.when == "call":
                kind = report.nodeid.split("::")[-1].split("[")[0]
                old = totals.setdefault(kind, [0] * (1 + len(counts)))
                totals[kind] = [a + b for a, b in zip(old, [1, *counts], strict=True)]
    lines = []
    for kind, (names, values, gradients, refused, skipped) in sorted(totals.items()):
        found = (
            f"{refused} refused alike" if kind == "test_refusals" else f"{values} samples, {gradients} with gradients"
        )
        lines.append(f"{KINDS[kind]}: {names} names, {found}, {skipped} out of scope")
    return lines
