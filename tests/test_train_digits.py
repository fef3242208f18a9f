"""The digits demo: it learns, resumes bit for bit, stops cleanly, and its kernels agree with the references."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import flame_triton as ft
from flame_triton.errors import ArgumentError, NonFiniteError, StateError
from flame_triton.train import agreement, digits, faults, folder, log, loop, pictures
from flame_triton.train.data import Batches, Digits
from flame_triton.train.digits_model import (
    NO_CLASS,
    DigitsConfig,
    DigitsDiT,
    patchify,
    start_noise,
    training_graph,
    unpatchify,
)

SMALL = DigitsConfig(width=16, layers=1, heads=2, batch=8, steps=20, warmup=5)
KERNELS = "interpreter" if ft.config.interpreted() else "cuda"


def toy(count: int = 64) -> Digits:
    """Images of which each class is one constant pattern."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, count)
    patterns = rng.uniform(-1, 1, (10, 8, 8)).astype(np.float32)
    return Digits(patterns[labels], labels)


def bits(state: ft.State) -> dict[str, bytes]:
    return {name: state[name].tobytes() for name in state.names}


# ---- the model ------------------------------------------------------------------------------------------------


def test_patches_are_rows_of_patches_and_rows_within() -> None:
    x = ft.input((1, 8, 8), "float64")
    image = np.arange(64.0).reshape(1, 8, 8)
    tokens, back = ft.evaluate([patchify(x), unpatchify(patchify(x))], {x: image})
    assert tokens.shape == (1, 16, 4)
    np.testing.assert_array_equal(tokens[0, 0], [0, 1, 8, 9])
    np.testing.assert_array_equal(tokens[0, 5], [18, 19, 26, 27])
    np.testing.assert_array_equal(back, image)


def test_model_starts_at_zero_and_knows_its_condition() -> None:
    model = DigitsDiT(16, 2, 2)
    tokens, t, labels = ft.input((2, 16, 4)), ft.input((2,)), ft.input((2,), "int64")
    y = model(tokens, t, labels)
    rng = np.random.default_rng(0)
    feeds = {tokens: rng.standard_normal((2, 16, 4)), t: np.array([0.1, 0.9]), labels: np.array([1, 10])}
    state = ft.State(model.parameters(), device="reference")
    weights = {p: state[p] for p in model.parameters()}
    assert (ft.evaluate(y, {**feeds, **weights}) == 0).all()  # adaLN-Zero: nothing is predicted at first
    weights = {p: 0.1 * rng.standard_normal(p.shape) for p in model.parameters()}
    base = ft.evaluate(y, {**feeds, **weights})
    for value, other in ((t, np.array([0.2, 0.9])), (labels, np.array([2, 10]))):
        moved = ft.evaluate(y, {**feeds, **weights, value: other})
        assert (moved[0] != base[0]).all() and (moved[1] == base[1]).all()


def test_config_refuses_what_makes_no_model() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"width": 30, "heads": 4}, "multiple of heads"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"dtype": "int32"}, "floating"),
    ]
    for wrong, message in cases:
        with pytest.raises(ArgumentError, match=message):
            DigitsConfig(**wrong)


# ---- training -------------------------------------------------------------------------------------------------


def test_loss_falls(tmp_path: Path) -> None:
    run = digits.begin(dataclasses.replace(SMALL, batch=32, steps=120, warmup=10), toy(), "reference")
    outcome = loop.train(run.training, folder.RunFolder(tmp_path, "a"), 120)
    assert outcome.step == 120 and not outcome.interrupted
    records = log.read(tmp_path / "a" / "log.jsonl")
    assert [r["step"] for r in records] == list(range(10, 121, 10))
    assert set(records[0]) == {"step", "count", "loss", "lr", "grad_norm", "seconds"}
    ratio = digits.loss_ratio(records, last=20)
    assert ratio is not None and ratio < 0.7
    assert records[0]["lr"] == pytest.approx(3e-3) and records[-1]["lr"] < 2e-4
    assert digits.loss_ratio(records[:5]) is None


def test_a_resumed_run_is_the_unbroken_run_bit_for_bit(tmp_path: Path) -> None:
    data = toy()
    whole = digits.begin(SMALL, data, "reference")
    loop.train(whole.training, folder.RunFolder(tmp_path, "whole"), 20, log_every=3)
    first, place = digits.begin(SMALL, data, "reference"), folder.RunFolder(tmp_path, "parts")
    loop.train(first.training, place, 10, log_every=3, save_every=5)
    second = digits.resume(place.latest(), data, "reference")
    assert second.training.step == 10
    assert bits(second.state) == bits(first.state)
    loop.train(second.training, place, 20, log_every=3)
    assert bits(second.state) == bits(whole.state)
    assert second.training.batches.position == whole.training.batches.position
    lines = [log.read(tmp_path / name / "log.jsonl")[-2:] for name in ("whole", "parts")]
    assert [r["loss"] for r in lines[0]] == [r["loss"] for r in lines[1]]


def test_a_run_cannot_become_another(tmp_path: Path) -> None:
    data, place = toy(), folder.RunFolder(tmp_path, "a")
    run = digits.begin(SMALL, data, "reference")
    loop.train(run.training, place, 1)
    with pytest.raises(ArgumentError, match="begun with width 16, which cannot become 32"):
        digits.resume(place.latest(), data, "reference", {"width": 32})
    assert digits.resume(place.latest(), data, "reference", {"steps": 30}).config.steps == 30
    with pytest.raises(StateError, match="another kind of run"):
        digits.config_from({"width": 16})


def test_ctrl_c_saves_a_checkpoint_and_stops(tmp_path: Path) -> None:
    data, place = toy(), folder.RunFolder(tmp_path, "a")
    run = digits.begin(SMALL, data, "reference")
    arrays = run.training.arrays

    def interrupting(rows: Any) -> Any:
        if run.training.step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return arrays(rows)

    run.training.arrays = interrupting
    before = signal.getsignal(signal.SIGINT)
    outcome = loop.train(run.training, place, 20)
    assert outcome.interrupted and outcome.step == 7
    assert signal.getsignal(signal.SIGINT) is before
    assert [p.name for p in place.checkpoints()] == ["checkpoint-7"]
    assert log.read(place.log)[-1]["step"] == 7
    assert bits(digits.resume(place.latest(), data, "reference").state) == bits(run.state)


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(tmp_path: Path) -> None:
    for terminal in (True, False):
        run, text = digits.begin(SMALL, toy(), "reference"), io.StringIO()
        console = Console(file=text, force_terminal=terminal, width=120)
        loop.train(run.training, folder.RunFolder(tmp_path, f"run-{terminal}"), 20, console=console)
        assert "loss" in text.getvalue() and "steps/s" in text.getvalue()
        assert ("\x1b" in text.getvalue()) == terminal and ("20/20" in text.getvalue()) == terminal
        assert text.getvalue().count("step 20 of 20") == (0 if terminal else 1)


def test_a_bad_batch_ends_the_run_before_it_does_harm(tmp_path: Path) -> None:
    data = toy()
    data.images[3, 0, 0] = np.inf
    run = digits.begin(dataclasses.replace(SMALL, batch=64), data, "reference")
    before = bits(run.state)
    with pytest.raises(NonFiniteError, match=r"(?s)step 1: the loss is not finite; .*digits_model\.py:\d+"):
        loop.train(run.training, folder.RunFolder(tmp_path, "a"), 20)
    assert bits(run.state) == before


def test_gradients_that_stay_infinite_end_the_run(tmp_path: Path) -> None:
    w, x = ft.parameter((), name="w", init=0.0), ft.input((), name="x")
    optimizer = ft.optim.SGD([w], 0.1)
    loss = ft.sqrt(w * x)  # d sqrt / dw at 0 is infinite, sqrt(0) is not
    updates = optimizer.updates(ft.grad(loss, [w]))
    outputs = [loss, optimizer.lr, optimizer.grad_norm, optimizer.skipped]
    state = ft.State([w, *optimizer.state_values], device="reference")
    program = ft.compile(outputs, [x], state=state, updates=updates, device="reference")
    run = loop.Training(program, Batches(4, 1, 0), lambda rows: [np.float32(1)], {})
    with pytest.raises(NonFiniteError, match=rf"for {faults.MAX_SKIPPED} steps the gradients were not finite"):
        loop.train(run, folder.RunFolder(tmp_path, "a"), 100)
    assert run.step == faults.MAX_SKIPPED - 1 and int(state["optimizer.step"]) == 0


# ---- sampling, pictures, kernels ------------------------------------------------------------------------------


def test_sampling_is_eulers_method_on_the_averaged_weights_with_guidance() -> None:
    run = digits.begin(SMALL, toy(), "reference")
    rng = np.random.default_rng(0)
    averages = run.graph.optimizer.averages
    for average in averages.values():
        run.state.set(average, (0.1 * rng.standard_normal(average.shape)).astype(np.float32))
    sampler = digits.Sampler(run, 10, 2.5, "reference")
    labels = digits.labels_in_rows(1)
    found = sampler.draw(labels, steps=3, seed=4)

    x, t, classes = ft.input((10, 8, 8)), ft.input((10,)), ft.input((10,), "int64")
    velocity = unpatchify(run.graph.model(patchify(x), t, classes))
    weights = {p: run.state[averages[p]] for p in run.graph.parameters}
    image = start_noise(10, 4).astype(np.float64)
    for step in range(3):
        feeds = {**weights, x: image, t: np.full(10, 1 - step / 3)}
        shown, free = (ft.evaluate(velocity, {**feeds, classes: c}) for c in (labels, np.full(10, NO_CLASS)))
        image = image - (free + 2.5 * (shown - free)) / 3
    np.testing.assert_allclose(found, image, rtol=1e-4, atol=1e-4)
    assert (sampler.draw(labels, steps=3, seed=5) != found).any()
    with pytest.raises(ArgumentError, match="at least one step"):
        sampler.draw(labels, steps=0)


def test_kernels_agree_with_references() -> None:
    data = toy()
    run = digits.begin(SMALL, data, "reference")
    for _ in range(3):
        run.training.program(*run.training.arrays(next(run.training.batches)))
    before = bits(run.state)
    config = dataclasses.replace(SMALL, batch=2)
    found = agreement.compare_kernels(config, run.state, data, [np.array([0, 1]), np.array([2, 3])], KERNELS)
    assert found.holds and len(found.steps) == 2 and found.launches > 0
    assert set(found.steps[0].errors) == {p.name for p in run.graph.parameters}
    assert bits(run.state) == before


def test_disagreement_is_seen() -> None:
    assert agreement.relative_error([1.0, 2.0], [1.0, 2.2]) == pytest.approx(0.2 / 2.2)
    assert agreement.relative_error([0.0], [0.0]) == 0
    for errors in ({"w": 2e-4}, {"w": float("nan")}):
        assert not agreement.StepAgreement(1.0, 0.0, errors).within(1e-4)
    assert not agreement.StepAgreement(1.0, 1e-3, {"w": 0.0}).within(1e-4)
    assert agreement.tolerance("float32") == 1e-4 and agreement.tolerance("bfloat16") == 4 / 128
    assert agreement.StepAgreement(1.0, 0.0, {"a": 1e-6, "w": 9e-5}).worst == ("w", 9e-5)


def test_a_trained_step_equals_its_float64_oracle() -> None:
    graph = training_graph(SMALL)
    data, rng = toy(), np.random.default_rng(0)
    feeds: dict[ft.Value, Any] = {graph.images: data.images[:8], graph.labels: data.labels[:8]}
    feeds |= {p: 0.1 * rng.standard_normal(p.shape) for p in graph.parameters}
    outputs = [graph.loss, *graph.gradients]
    exact, single = ft.evaluate(outputs, feeds), ft.evaluate(outputs, feeds, dtype=None)
    for a, b in zip(single, exact, strict=True):
        assert agreement.relative_error(a, b) < 1e-4


def test_grid_of_images() -> None:
    images = np.full((3, 8, 8), -1.0)
    images[1], images[2] = 1.0, 5.0
    grid = pictures.image_grid(images, columns=2, scale=3, margin=4)
    assert grid.shape == (2 * 28 + 4, 2 * 28 + 4) and grid.dtype == np.uint8
    assert grid[0, 0] == 96 and grid[4, 4] == 0 and grid[27, 27] == 0 and grid[28, 28] == 96
    assert grid[4, 32] == 255 and grid[32, 4] == 255 and grid[40, 40] == 96


def test_pictures_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    records = [{"step": s, "loss": 1 / s, "lr": 0.1} for s in (1, 2, 3)]
    pictures.plot_loss(records, tmp_path / "loss.png")
    pictures.save_grid(np.zeros((4, 8, 8)), tmp_path / "grid.png", 2)
    for name in ("loss.png", "grid.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
