"""Samplers as graphs: one program for all steps, a trajectory in one graph; guidance. Against the host's oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flame_triton as ft
from flame_triton.errors import ArgumentError, ShapeError
from flame_triton.ops.philox import as_normal, draw

D = ft.diffusion
SHAPE, STEPS, SEED = (2, 3, 4), 5, 11
TABLE = D.schedule("scaled_linear")
SAMPLERS = [
    D.flow_euler(STEPS, shift=3.0),
    D.flow_euler(STEPS, stochastic=True),
    D.ddim(TABLE, STEPS, clip=0.7, eta=0.5),
    D.ddpm(TABLE, STEPS, prediction="v"),
    D.euler(TABLE, STEPS, curve="karras"),
    D.euler_ancestral(TABLE, STEPS),
    D.heun(TABLE, STEPS),
    D.lms(TABLE, STEPS),
    D.dpmpp_2m(TABLE, STEPS),
    D.dpmpp_2m(TABLE, STEPS, sde=True),
    D.unipc(TABLE, STEPS, order=3),
    D.pndm(TABLE, STEPS),
    D.flow_dpmpp_2m(STEPS, shift=3.0),
    D.flow_unipc(STEPS),
    D.flow_euler(STEPS).zero_init(2),
]


def model(x: ft.Value, t: ft.Value) -> ft.Value:
    return 0.8 * ft.tanh(x) + t.reshape(-1, 1, 1) * 3e-4


def numpy_model(x: np.ndarray, t: float) -> np.ndarray:
    return 0.8 * np.tanh(x) + t * 3e-4


def start(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def oracle(sampler: Any, one_key: bool = False) -> np.ndarray:
    """By NumPy in float64, with the noise that the graph draws: stream 0 at step i, or stream i at step 0."""
    state = sampler.start(start().astype(np.float64))
    for i in range(len(sampler)):
        stream, step = (i, 0) if one_key else (0, i)
        noise = draw(SHAPE, np.float32, SEED, stream, step, as_normal).astype(np.float64)
        output = numpy_model(sampler.input_scale[i] * state[0], sampler.timesteps[i])
        state = sampler.step(i, state, output, noise)
    return state[0]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_one_program_for_all_steps(sampler: Any) -> None:
    """Its numbers come in float32: 1e-4 of the largest element."""
    graph = D.step_graph(sampler, model, SHAPE)
    program = ft.compile(graph.outputs, graph.inputs, device="reference")
    exact = oracle(sampler)
    assert np.abs(sampler.draw(program, start(), seed=SEED) - exact).max() < 1e-4 * np.abs(exact).max()


@pytest.mark.interpreter
@pytest.mark.parametrize("sampler", [SAMPLERS[0], SAMPLERS[2], SAMPLERS[10]], ids=repr)
def test_a_step_is_one_kernel(sampler: Any) -> None:
    graph = D.step_graph(sampler, model, SHAPE)
    program = ft.compile(graph.outputs, graph.inputs, device="interpreter")
    assert len(program.launches) == 1
    exact = oracle(sampler)
    assert np.abs(sampler.draw(program, start(), seed=SEED) - exact).max() < 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_a_trajectory_is_a_graph(sampler: Any) -> None:
    """Evaluated in float64, its draws apart: 1e-9."""
    noise, seed = ft.input(SHAPE, name="noise"), ft.input((2,), "int64", name="seed")
    result = D.sample_graph(sampler, model, noise, seed if sampler.stochastic else None)
    feeds: dict[Any, Any] = {noise: start()}
    if sampler.stochastic:
        feeds[seed] = np.array([SEED, 0])
    exact = oracle(sampler, one_key=True)
    assert np.abs(ft.evaluate(result, feeds) - exact).max() < 1e-9 * np.abs(exact).max()


def test_zero_init_stands_still() -> None:
    sampler = D.flow_euler(4).zero_init(2)
    state = sampler.start(start())
    for i in range(4):
        after = sampler.step(i, state, np.ones(SHAPE, np.float32))
        assert np.array_equal(after[0], state[0]) == (i < 2)
        state = after
    with pytest.raises(ArgumentError, match="steps must lie in"):
        sampler.zero_init(4)


def test_mistakes_are_named() -> None:
    with pytest.raises(ArgumentError, match="step 0 needs noise"):
        SAMPLERS[5].step(0, SAMPLERS[5].start(start()), start())
    with pytest.raises(ArgumentError, match="seed="):
        D.sample_graph(SAMPLERS[5], model, ft.input(SHAPE))
    with pytest.raises(ShapeError, match="expected the same shape"):
        D.step_graph(SAMPLERS[0], lambda x, t: x[:, :1], SHAPE)
    with pytest.raises(ArgumentError, match="as many sigmas as steps"):
        D.flow_euler(4, sigmas=[1.0, 0.5])
    with pytest.raises(ArgumentError, match="no spacing"):
        D.ddim(TABLE, 4, spacing="even")
    with pytest.raises(ArgumentError, match="no prediction"):
        D.ddpm(TABLE, 4, prediction="epsilon")
    with pytest.raises(ArgumentError, match="no curve"):
        D.euler(TABLE, 4, curve="line")
    with pytest.raises(ArgumentError, match="use v"):
        D.ddim(D.NoiseSchedule(np.array([0.1, 1.0])), 1, spacing="trailing")


# ---- guidance --------------------------------------------------------------------------------------------------


def outputs() -> tuple[ft.Value, ft.Value, dict[Any, Any], np.ndarray, np.ndarray]:
    shown, free = ft.input(SHAPE, name="shown"), ft.input(SHAPE, name="free")
    a, b = (start(s).astype(np.float64) for s in (1, 2))
    return shown, free, {shown: a, free: b}, a, b


def test_guidance() -> None:
    shown, free, feeds, a, b = outputs()
    assert np.allclose(ft.evaluate(D.guide(shown, free, 4.0), feeds), b + 4 * (a - b), rtol=1e-12)
    scale = ft.input((), name="scale")
    assert np.allclose(ft.evaluate(D.guide(shown, free, scale), {**feeds, scale: 1.0}), a, rtol=1e-12)


def test_rescaled_guidance_is_diffusers() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers_alone")
    from diffusers.guiders.classifier_free_guidance import rescale_noise_cfg

    shown, free, feeds, a, b = outputs()
    expected = rescale_noise_cfg(torch.from_numpy(b + 4 * (a - b)), torch.from_numpy(a), 0.7).numpy()
    # torch's std divides by N - 1, ours by N: their ratio is the same
    assert np.allclose(ft.evaluate(D.guide(shown, free, 4.0, rescale=0.7), feeds), expected, rtol=1e-12)


def test_zero_star_guidance() -> None:
    """From the multiple of the free output nearest to the shown one, sample by sample."""
    shown, free, feeds, a, b = outputs()
    found = ft.evaluate(D.guide_zero_star(shown, free, 3.0), feeds)
    for i in range(SHAPE[0]):
        s = np.linalg.lstsq(b[i].reshape(-1, 1), a[i].ravel(), rcond=None)[0][0]
        assert np.allclose(found[i], s * b[i] + 3 * (a[i] - s * b[i]), rtol=1e-6)
