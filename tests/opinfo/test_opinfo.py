"""One case for each OpInfo name: references against torch in float64, interpreted or compiled kernels, refusals."""

from __future__ import annotations

import pytest

import flame_triton as ft

from . import check
from .adapters import ADAPTERS
from .draw import op_db

PRESENT = [name for name, adapter in ADAPTERS.items() if not adapter.missing]
DEVICE = "interpreter" if ft.config.interpreted() else "cuda"

NAMES_FLOOR = 466
REFERENCE_SAMPLES = 40
KERNEL_SAMPLES = 3
LARGEST = 100_000


def finish(tally: check.Tally, record_property) -> None:
    record_property("opinfo", [tally.values, tally.gradients, tally.refused, tally.skipped.total()])
    shown = "\n\n".join(tally.failures[:5])
    assert not tally.failures, f"{len(tally.failures)} failures; the first:\n{shown}"


def assert_some(name: str, tally: check.Tally) -> None:
    if name not in op_db():
        pytest.skip(f"this version of torch has no OpInfo {name}")
    assert tally.values, f"no sample of {name} is in scope: {dict(tally.skipped)}"


@pytest.mark.parametrize("name", PRESENT)
def test_reference(name: str, record_property) -> None:
    """Values, dtypes and gradients of the references, in float64."""
    tally = check.Tally()
    for drawn in check.drawn_for(name, REFERENCE_SAMPLES):
        check.run_sample(name, ADAPTERS[name], drawn, check.by_reference, True, tally)
    finish(tally, record_property)
    assert_some(name, tally)


@pytest.mark.parametrize("name", PRESENT)
def test_kernels(name: str, record_property) -> None:
    """Values and gradients through the generated kernels, on the smallest samples."""
    tally = check.Tally()
    for drawn in check.smallest(name, LARGEST):
        check.run_sample(name, ADAPTERS[name], drawn, check.by_kernels(DEVICE), False, tally)
        if tally.values == KERNEL_SAMPLES:
            break
    finish(tally, record_property)
    assert_some(name, tally)


@pytest.mark.parametrize("name", PRESENT)
def test_refusals(name: str, record_property) -> None:
    """What torch refuses, we refuse: with a typed error that names the op and the user's line."""
    tally = check.Tally()
    check.run_refusals(name, ADAPTERS[name], tally)
    finish(tally, record_property)


def test_enough_names_are_compared() -> None:
    """Skips look green: the number of names is a floor, and each must pass at least one sample."""
    assert len(PRESENT) >= NAMES_FLOOR
