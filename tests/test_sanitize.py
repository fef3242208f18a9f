"""The problems of tests/sanitize.py for the Hopper kernels: they take those kernels."""

from __future__ import annotations

import pytest
import sanitize_hopper

from flame_triton.graph.plan import Target

PROBLEMS = list(sanitize_hopper.problems())


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_the_hopper_kernels_are_taken(problem: sanitize_hopper.Problem) -> None:
    problem.schedule(Target(arch=90))


def test_all_of_them_are_reached() -> None:
    labels = {label for p in PROBLEMS for label in sanitize_hopper.labels_of(p.schedule(Target(arch=90)))}
    assert {"hopper attention", "hopper attention backward", "hopper matmul", "hopper matmul, cut tiles"} <= labels


def test_another_kernel_is_an_error() -> None:
    with pytest.raises(AssertionError, match="not hopper"):
        PROBLEMS[0].schedule(Target(arch=80))
