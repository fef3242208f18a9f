"""Text-to-image training: the model, captions and guidance, resume to the bit, kernels against references."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flame_triton as ft
from flame_triton.errors import ArgumentError, ShapeError, StateError
from flame_triton.train import folder, log, loop, mmdit, text_run
from flame_triton.train import text_to_image as t2i
from flame_triton.train.agreement import relative_error, tolerance
from flame_triton.train.buckets import Bucket, Pictures
from flame_triton.train.captions import NULL, Vocabulary

KERNELS = "interpreter" if ft.config.interpreted() else "cuda"
SMALL: dict[str, Any] = {
    "length": 5,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "text_width": 16,
    "text_layers": 1,
    "text_heads": 2,
    "batch": 4,
    "steps": 12,
    "warmup": 2,
    "ema": 0.9,
}
CAPTIONS = ("a red square", "blue", "a green thing, tall", "red and blue")


def toy(sizes: tuple[tuple[int, int], ...] = ((8, 8), (12, 8)), each: int = 6) -> Pictures:
    rng = np.random.default_rng(0)
    buckets = [
        Bucket(
            rng.integers(0, 256, (each, *size, 3)).astype(np.uint8), tuple(CAPTIONS[i % 4] for i in range(b, b + each))
        )
        for b, size in enumerate(sizes)
    ]
    return Pictures(tuple(buckets))


def begun(pictures: Pictures, device: str = "reference", **changes: Any) -> text_run.Run:
    return text_run.begin(text_run.describe(pictures, "word", {**SMALL, **changes}), pictures, device)


def bits(state: ft.State) -> dict[str, bytes]:
    return {name: state[name].tobytes() for name in state.names}


# ---- the model ------------------------------------------------------------------------------------------------


def model_and_weights(
    **changes: Any,
) -> tuple[mmdit.TextToImage, dict[ft.Value, np.ndarray], list[ft.Value], list[Any], ft.Value]:
    """A model with random weights, its inputs, arrays for them, and its result."""
    own = {k: v for k, v in SMALL.items() if k in mmdit.Sizes.__dataclass_fields__}
    model = mmdit.TextToImage(mmdit.Sizes(vocabulary=12, **{**own, **changes}))
    inputs = [ft.input((2, 8, 12, 3)), ft.input((2,)), ft.input((2, 5), "int64"), ft.input((2,), "int64")]
    rng = np.random.default_rng(1)
    arrays: list[Any] = [rng.standard_normal((2, 8, 12, 3)), np.array([200.0, 700.0])]
    arrays += [np.array([[3, 5, 6, 0, 0], [3, 7, 0, 0, 0]]), np.array([3, 2])]
    weights = {p: 0.2 * rng.standard_normal(p.shape) for p in model.parameters()}
    return model, weights, inputs, arrays, model(*inputs)


def test_the_model_starts_at_zero() -> None:
    model, _, inputs, arrays, result = model_and_weights()
    state = ft.State(model.parameters(), device="reference")
    feeds: dict[ft.Value, Any] = dict(zip(inputs, arrays, strict=True))
    found = ft.evaluate(result, feeds | {p: state[p] for p in model.parameters()})
    assert found.shape == (2, 8, 12, 3) and (found == 0).all()


def test_every_input_matters_to_its_own_sample_alone() -> None:
    _, weights, inputs, arrays, result = model_and_weights()
    base = ft.evaluate(result, {**weights, **dict(zip(inputs, arrays, strict=True))})
    others = [arrays[0] + [[[[1]]], [[[0]]]], arrays[1] + [0.1, 0], arrays[2] + [[0, 1, 0, 0, 0], [0] * 5]]
    for place, other in enumerate(others):
        changed = [other if i == place else a for i, a in enumerate(arrays)]
        moved = ft.evaluate(result, {**weights, **dict(zip(inputs, changed, strict=True))})
        assert (moved[0] != base[0]).all() and (moved[1] == base[1]).all()


def test_what_lies_beyond_the_end_of_a_caption_is_never_seen() -> None:
    _, weights, inputs, arrays, result = model_and_weights()
    base = ft.evaluate(result, {**weights, **dict(zip(inputs, arrays, strict=True))})
    arrays[2] = np.array([[3, 5, 6, 9, 9], [3, 7, 8, 8, 8]])
    np.testing.assert_allclose(
        ft.evaluate(result, {**weights, **dict(zip(inputs, arrays, strict=True))}), base, rtol=1e-12
    )
    arrays[3] = np.array([4, 2])
    moved = ft.evaluate(result, {**weights, **dict(zip(inputs, arrays, strict=True))})
    assert (moved[0] != base[0]).all()


def test_every_parameter_has_a_gradient() -> None:
    model, weights, inputs, arrays, result = model_and_weights()
    gradients = ft.grad(ft.mean(result * result), model.parameters())
    found = ft.evaluate(gradients, {**weights, **dict(zip(inputs, arrays, strict=True))})
    assert [p.name for p, g in zip(model.parameters(), found, strict=True) if not np.any(g)] == []


def test_patches_and_positions() -> None:
    x = ft.input((1, 4, 6, 3), "float64")
    image = np.arange(72.0).reshape(1, 4, 6, 3)
    tokens = mmdit.patchify(x, 2)
    flat, back = ft.evaluate([tokens, mmdit.unpatchify(tokens, 2, 4, 6)], {x: image})
    np.testing.assert_array_equal(flat[0, 1], image[0, 0:2, 2:4].ravel())
    np.testing.assert_array_equal(back, image)
    with pytest.raises(ShapeError, match="no whole number of 4x4"):
        mmdit.patchify(x, 4)
    table = mmdit.position_table(3, 5, 16)
    assert table.shape == (1, 15, 16) and len({row.tobytes() for row in table[0]}) == 15
    np.testing.assert_array_equal(table[0, 7], mmdit.position_table(5, 3, 16)[0, 7])  # the middle is the middle


def test_configurations_that_make_no_model_are_refused() -> None:
    config = text_run.describe(toy(), "word", SMALL)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"batch": 0}, "batch must be at least 1"),
        ({"dtype": "int32"}, "floating"),
        ({"shift": 0.0}, "shift > 0"),
        ({"patch": 5}, "no multiples of the patch"),
    ]
    for wrong, message in cases:
        with pytest.raises(ArgumentError, match=message):
            dataclasses.replace(config, **wrong)
    for wrong, message in [({"heads": 3}, "multiple of heads"), ({"tokens": ()}, "vocabulary is empty")]:
        with pytest.raises(ArgumentError, match=message):
            _ = dataclasses.replace(config, **wrong).model
    with pytest.raises(StateError, match="another kind of run"):
        t2i.TextToImageConfig.stored({"width": 16})


# ---- training -------------------------------------------------------------------------------------------------


def test_sampling_times_are_shifted_as_in_training() -> None:
    plan = t2i.sampler(4, 2.0)
    np.testing.assert_allclose(plan.sigmas, [1, 6 / 7, 2 / 3, 0.4, 0], rtol=1e-12)
    np.testing.assert_allclose(plan.timesteps, 1000 * plan.sigmas[:-1], rtol=1e-12)
    with pytest.raises(ArgumentError, match="at least one step"):
        t2i.sampler(0, 2.0)


def test_the_loss_is_that_of_flow_matching() -> None:
    """With caption_dropout 1 and 0, against the formula on the same draws."""
    for dropout in (0.0, 1.0):
        run = begun(toy(((8, 8),)), caption_dropout=dropout, shift=3.0)
        graph, config = run.graph, run.config
        inputs, seed = graph.buckets[0].inputs, ft.rng_seed(5)
        loss = t2i.flow_matching_loss(graph.model, inputs, seed, config)
        again = ft.rng_seed(5)
        noise, z = ft.normal((4, 8, 8, 3), again), ft.normal((4,), again)
        mixed, t = ft.input((4, 8, 8, 3)), ft.input((4,))
        velocity = graph.model(mixed, t, *inputs[1:])
        rng = np.random.default_rng(3)
        weights = {p: 0.2 * rng.standard_normal(p.shape) for p in graph.parameters}
        arrays = run.training.arrays((0, np.arange(4)))[1:]
        seeds = {seed: ft.State([seed], device="reference")[seed], again: ft.State([again], device="reference")[again]}
        feeds: dict[ft.Value, Any] = {**weights, **seeds, **dict(zip(inputs, arrays, strict=True))}
        found, n, u = ft.evaluate([loss, noise, z], feeds)
        u = 1 / (1 + np.exp(-u))
        time = 3 * u / (1 + 2 * u)
        clean = arrays[0] / 127.5 - 1
        feeds |= {mixed: clean + time.reshape(4, 1, 1, 1) * (n - clean), t: 1000 * time}
        if dropout:
            feeds |= {inputs[1]: np.tile([NULL, 0, 0, 0, 0], (4, 1)), inputs[2]: np.ones(4, np.int64)}
        expected = np.mean((ft.evaluate(velocity, feeds) - (n - clean)) ** 2)
        assert found == pytest.approx(expected, rel=1e-6)


def test_a_resumed_run_is_the_unbroken_run_bit_for_bit(tmp_path: Path) -> None:
    pictures = toy()
    whole = begun(pictures)
    loop.train(whole.training, folder.RunFolder(tmp_path, "whole"), 12, log_every=3)
    first, place = begun(pictures), folder.RunFolder(tmp_path, "parts")
    loop.train(first.training, place, 7, log_every=3, save_every=7)
    second = text_run.resume(place.latest(), pictures, "reference")
    assert second.training.step == 7 and bits(second.state) == bits(first.state)
    loop.train(second.training, place, 12, log_every=3)
    assert bits(second.state) == bits(whole.state)
    assert second.batches.position == whole.batches.position
    lines = [log.read(tmp_path / name / "log.jsonl")[-1]["loss"] for name in ("whole", "parts")]
    assert lines[0] == lines[1]
    assert len({run.batches.position for run in (whole, second)}) == 1


def test_both_buckets_take_part_and_never_mix() -> None:
    run = begun(toy())
    seen = [next(run.batches) for _ in range(run.batches.per_epoch)]
    assert sorted({bucket for bucket, _ in seen}) == [0, 1]
    for batch in seen:
        bucket, images, tokens, lengths = run.training.arrays(batch)
        assert images.shape == (4, *run.config.sizes[bucket], 3) and tokens.shape == (4, 5) and lengths.shape == (4,)


def test_a_run_cannot_become_another(tmp_path: Path) -> None:
    pictures, place = toy(), folder.RunFolder(tmp_path, "a")
    loop.train(begun(pictures).training, place, 1)
    with pytest.raises(ArgumentError, match="begun with width 32, which cannot become 64"):
        text_run.resume(place.latest(), pictures, "reference", {"width": 64})
    with pytest.raises(StateError, match="not those that the run was begun with"):
        text_run.resume(place.latest(), toy(each=5), "reference")
    longer = text_run.resume(place.latest(), pictures, "reference", {"steps": 30})
    assert longer.config.steps == 30 and float(longer.state["schedule.steps"]) == 30


def test_the_plan_of_steps_is_part_of_the_state() -> None:
    """A run whose length is known late is the run whose length was known from the start."""
    pictures = toy(((8, 8),))
    late, early = begun(pictures, steps=1000, warmup=4), begun(pictures, steps=8, warmup=4)
    assert text_run.seconds_per_step(late, warm=1, timed=2) > 0 and late.training.step == 3
    late.plan(8)
    for _ in range(5):
        loop.take_step(late.training)
    for _ in range(8):
        loop.take_step(early.training)
    assert bits(late.state) == bits(early.state) and late.training.config == early.training.config


def test_it_learns_two_pictures_and_which_is_which() -> None:
    """The loss falls, and each caption paints its own picture from any noise."""
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[0, :, :4], images[1, :4, :, 2] = 255, 255
    pictures = Pictures((Bucket(images, ("left half", "blue top")),))
    run = begun(pictures, batch=16, steps=250, warmup=10, lr=1e-2, layers=1, length=3, caption_dropout=0.2)
    losses = [loop.take_step(run.training)[0] for _ in range(250)]
    assert np.mean(losses[-20:]) < 0.4 * np.mean(losses[:5])
    painted = text_run.Painter.of_run(run, 4, (8, 8)).paint(["left half", "blue top"] * 2, [1, 2, 2, 1], 2.0, 12)
    for i, picture in enumerate(painted.astype(float)):
        own, other = (np.mean((picture - images[j]) ** 2) for j in (i % 2, 1 - i % 2))
        assert own < 0.4 * other


# ---- sampling -------------------------------------------------------------------------------------------------


def test_sampling_is_eulers_method_on_the_averaged_weights_with_guidance(tmp_path: Path) -> None:
    run = begun(toy(((8, 8),)))
    rng = np.random.default_rng(0)
    averages = run.graph.optimizer.averages
    for average in averages.values():
        run.state.set(average, (0.1 * rng.standard_normal(average.shape)).astype(np.float32))
    captions = ["a red square", None, "blue"]
    found = text_run.Painter.of_run(run, 2, (12, 8)).paint(captions, [4, 5, 6], 2.5, 3)

    x, t = ft.input((3, 12, 8, 3)), ft.input((3,))
    tokens, lengths = ft.input((3, 5), "int64"), ft.input((3,), "int64")
    velocity = run.graph.model(x, t, tokens, lengths)
    weights = {p: run.state[averages[p]] for p in run.graph.parameters}
    image = t2i.start_noise([4, 5, 6], (12, 8)).astype(np.float64)
    given, none = (run.config.vocabulary.encode(c, 5) for c in (captions, [None] * 3))
    times = t2i.sampler(3, run.config.shift).sigmas
    for now, after in pairwise(times):
        feeds = {**weights, x: image, t: np.full(3, 1000 * now)}
        shown, free = (ft.evaluate(velocity, {**feeds, tokens: c, lengths: n}) for c, n in (given, none))
        image = image + (after - now) * (free + 2.5 * (shown - free))
    expected = text_run.as_bytes(image)
    assert np.abs(found.astype(int) - expected).max() <= 1 and (found != expected).mean() < 0.01

    place = folder.RunFolder(tmp_path, "a")
    place.make()
    checkpoint = place.save(run.state, run.training.progress)
    again = text_run.Painter.of_checkpoint(checkpoint, "reference", 2, (12, 8))
    np.testing.assert_array_equal(again.paint(captions, [4, 5, 6], 2.5, 3), found)
    assert (again.paint(captions, [4, 5, 7], 2.5, 3)[2] != found[2]).any()
    with pytest.raises(ArgumentError, match="as many seeds"):
        again.paint(captions, [1])


@pytest.mark.parametrize(("dtype", "sizes"), [("float32", ((8, 8), (12, 8))), ("bfloat16", ((8, 8),))])
def test_kernels_agree_with_references(dtype: str, sizes: tuple[tuple[int, int], ...]) -> None:
    """One step of each bucket, every gradient, from weights at which nothing is zero."""
    small = {**SMALL, "layers": 1, "batch": 2, "width": 16, "text_width": 8, "dtype": dtype}
    config = text_run.describe(toy(sizes), "word", small)
    graph, arrays = t2i.training_graph(config), begun(toy(sizes), layers=1, batch=2).training.arrays
    rng = np.random.default_rng(2)
    weights = {p: (0.2 * rng.standard_normal(p.shape)).astype(np.float32) for p in graph.parameters}
    for number, bucket in enumerate(graph.buckets):
        found = []
        for device in ("reference", KERNELS):
            state = ft.State(graph.state_values, device=device)
            for parameter, array in weights.items():
                state.set(parameter, array)
            outputs = [bucket.outputs[0], *bucket.gradients]
            program = ft.compile(outputs, bucket.inputs, state=state, updates=bucket.updates, device=device)
            program.prepare()
            results = program(*arrays((number, np.array([1, 4])))[1:])
            found.append([np.asarray(r.cpu()) for r in results])
        names = ["loss", *(p.name for p in graph.parameters)]
        errors = {n: relative_error(b, a) for n, a, b in zip(names, *found, strict=True)}
        # A GPU's logarithm and cosine draw times that differ in their last bits; the sinusoids turn by 1000 radians for
        # a unit of time, so 6e-8 of a time is 6e-5 of a feature. The interpreter draws the references' very numbers.
        drawn = 0.0 if KERNELS == "interpreter" else 4e-4
        assert max(errors.values()) < max(tolerance(dtype), drawn), max(errors.items(), key=lambda item: item[1])


def test_words_are_known_to_a_stored_configuration() -> None:
    config = text_run.describe(toy(), "word", SMALL)
    assert t2i.TextToImageConfig.stored(config.as_dict()) == config
    assert config.vocabulary == Vocabulary.build(toy().captions)
    assert config.vocabulary.unknown("a red zebra, red zebra") == ["zebra"]
