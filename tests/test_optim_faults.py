"""Steps that are not finite, in the training loop: what is expected of a loss scaler, and what is a fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flame_triton as ft
from flame_triton.errors import NonFiniteError
from flame_triton.optim import SGD, Accumulate, LossScaler
from flame_triton.train import log, loop
from flame_triton.train.data import Batches
from flame_triton.train.faults import MAX_SKIPPED
from flame_triton.train.folder import RunFolder

KERNELS = "interpreter" if ft.config.interpreted() else "cuda"
DEVICES = ["reference", KERNELS]


def _run(
    dtype: str,
    device: str,
    scaler: LossScaler | None,
    feed: Any,
    every: int = 0,
    depth: float = 1.0,
) -> tuple[loop.Training, Any]:
    """Train w on loss = mean(cast(sqrt(w x) * depth)): the gradient of sqrt is infinite where w x is 0."""
    w, x = ft.parameter((4,), name="w", init=1.0), ft.input((4,), dtype, name="x")
    root = ft.sqrt(ft.cast(w, dtype) * x)  # THE LINE
    loss = ft.mean(ft.cast(root, "float32") * depth)
    optimizer: Any = SGD([w], 0.01, scaler=scaler)
    (gradient,) = ft.grad(scaler.scaled(loss) if scaler else loss, [w])
    outer = Accumulate(optimizer, every) if every else optimizer
    if every:
        outer.updates([gradient])  # the reports
    else:
        updates = optimizer.updates([gradient])
    outputs = [loss, optimizer.lr, optimizer.grad_norm, optimizer.skipped]
    state = ft.State([w, *outer.state_values], device=device)
    program = (
        outer.compile(outputs, [gradient], [x], state=state, device=device)
        if every
        else ft.compile(outputs, [x], state=state, updates=updates, device=device)
    )
    return loop.Training(program, Batches(1, 1, 0), feed, {}, scaler=scaler), state


def _line() -> int:
    return next(i for i, line in enumerate(Path(__file__).read_text().splitlines(), 1) if "# THE LINE" in line)


def _feed(dtype: str, bad: set[int]) -> Any:
    step = 0

    def arrays(_: Any) -> list[np.ndarray]:
        nonlocal step
        step += 1
        x = np.ones(4, np.float32)
        if step in bad:
            x[2] = 0.0
        return [x.astype(ft.types.dtype(dtype).numpy)]

    return arrays


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_skipped_step_is_reported_with_its_line(dtype: str, device: str, tmp_path: Path) -> None:
    run, state = _run(dtype, device, None, _feed(dtype, {3}))
    place = RunFolder(tmp_path, "a")
    loop.train(run, place, 6, log_every=2, save_every=100)
    records = log.read(place.log)
    faults = [r["fault"] for r in records if "fault" in r]
    assert len(faults) == 1 and "step 3 was skipped" in faults[0]
    assert "gradient of sqrt" in faults[0] and f"test_optim_faults.py:{_line()}" in faults[0]
    assert [r.get("skipped", 0) for r in records] == [0, 1, 0]
    assert int(state["optimizer.step"]) == 5


@pytest.mark.parametrize("device", DEVICES)
def test_a_scale_that_is_too_large_is_no_fault(device: str, tmp_path: Path) -> None:
    """2^24 / 4 overflows float16 on the way back: the scale is halved until it fits, and nothing is reported."""
    run, state = _run("float16", device, LossScaler(2.0**24), _feed("float16", set()))
    place = RunFolder(tmp_path, "a")
    loop.train(run, place, 14, log_every=7, save_every=100)
    records = log.read(place.log)
    assert not any("fault" in r for r in records)
    assert records[0]["loss_scale"] < 2.0**24 and records[0]["skipped"] == 7
    assert records[1]["loss_scale"] == records[-1]["loss_scale"] <= 2.0**18
    assert int(state["optimizer.step"]) == 14 - sum(r.get("skipped", 0) for r in records) > 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_no_scale_mends_is_a_fault(dtype: str, device: str, tmp_path: Path) -> None:
    run, state = _run(dtype, device, LossScaler(2.0**12), _feed(dtype, set(range(3, 100))))
    with pytest.raises(NonFiniteError, match=rf"{MAX_SKIPPED} steps in a row .* loss scale of 1 either") as error:
        loop.train(run, RunFolder(tmp_path, "a"), 100)
    assert "gradient of sqrt" in str(error.value) and f"test_optim_faults.py:{_line()}" in str(error.value)
    assert float(state["optimizer.loss_scale"]) == 2.0 ** (12 - MAX_SKIPPED)
    assert int(state["optimizer.step"]) == 2


def test_many_halvings_in_a_row_are_looked_into_and_go_on(tmp_path: Path) -> None:
    run, state = _run("float16", "reference", LossScaler(2.0**40), _feed("float16", set()))
    loop.train(run, RunFolder(tmp_path, "a"), 40)
    assert int(state["optimizer.step"]) > 10


@pytest.mark.parametrize("every", [2, 3])
def test_a_bad_micro_batch_is_reported_when_it_comes(every: int, tmp_path: Path) -> None:
    run, state = _run("bfloat16", "reference", None, _feed("bfloat16", {every * 2 + 1}), every)
    place = RunFolder(tmp_path, "a")
    loop.train(run, place, every * 4, log_every=1, save_every=100)
    faults = [(r["step"], r["fault"]) for r in log.read(place.log) if "fault" in r]
    assert len(faults) == 1 and faults[0][0] == every * 2 + 1
    assert "gradient of sqrt" in faults[0][1] and f"test_optim_faults.py:{_line()}" in faults[0][1]
    assert int(state["optimizer.step"]) == 3
