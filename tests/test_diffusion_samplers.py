"""Samplers against diffusers' schedulers: times, noise levels and every step of whole trajectories.

diffusers computes in float32 in several places; here its modules see float64 in place of float32 (`double`), so that
both sides carry the same numbers and agree to 1e-9. Two cases are held to less, and say why.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flame_triton as ft

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers_alone").diffusers

D = ft.diffusion
SHAPE, STEPS = (2, 3, 2, 2), 9
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KINDS = {"eps": "epsilon", "v": "v_prediction", "sample": "sample"}
FILES = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "EulerDiscreteScheduler": "euler_discrete",
    "EulerAncestralDiscreteScheduler": "euler_ancestral_discrete",
    "HeunDiscreteScheduler": "heun_discrete",
    "LMSDiscreteScheduler": "lms_discrete",
    "DPMSolverMultistepScheduler": "dpmsolver_multistep",
    "UniPCMultistepScheduler": "unipc_multistep",
    "PNDMScheduler": "pndm",
    "FlowMatchEulerDiscreteScheduler": "flow_match_euler_discrete",
}


class Lifted:
    """A module whose float32 is float64."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.float32 = module.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


def module_of(name: str) -> Any:
    return importlib.import_module(f"diffusers.schedulers.scheduling_{FILES[name]}")


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FILES:
        module = module_of(name)
        monkeypatch.setattr(module, "torch", Lifted(torch))
        if hasattr(module, "np"):
            monkeypatch.setattr(module, "np", Lifted(np))


def fake_model(x: np.ndarray, t: float) -> np.ndarray:
    """Something smooth that depends on both."""
    return 0.8 * np.tanh(x) - 0.3 * np.cos(x[..., ::-1] + t / 300) + 0.1


def noises(count: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, *SHAPE))


def theirs(
    monkeypatch: pytest.MonkeyPatch, name: str, config: dict[str, Any], steps: int, setup: dict[str, Any], **step: Any
) -> tuple[Any, list[np.ndarray]]:
    """The scheduler, and x before the first and after every step."""
    module, current = module_of(name), {"i": 0}
    drawn = noises(4 * steps + 1)
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(drawn[current["i"] + 1]))
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(steps if "sigmas" not in setup else None, **setup)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    x = torch.from_numpy(drawn[0]) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    found = [x.numpy()]
    for i, t in enumerate(scheduler.timesteps):
        current["i"] = i
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(torch.from_numpy(fake_model(given.numpy(), float(t))), t, x, **step).prev_sample
        found.append(x.numpy())
    return scheduler, found


def ours(sampler: Any, steps: int) -> list[np.ndarray]:
    drawn = noises(4 * steps + 1)
    state = sampler.start(drawn[0])
    found = [state[0]]
    for i in range(len(sampler)):
        output = fake_model(sampler.input_scale[i] * state[0], sampler.timesteps[i])
        state = sampler.step(i, state, output, drawn[i + 1])
        found.append(state[0])
    return found


def compare(
    monkeypatch: pytest.MonkeyPatch,
    sampler: Any,
    name: str,
    config: dict[str, Any],
    setup: dict[str, Any] | None = None,
    *,
    steps: int = STEPS,
    tolerance: float = 1e-9,
    **step: Any,
) -> Any:
    scheduler, expected = theirs(monkeypatch, name, config, steps, setup or {}, **step)
    np.testing.assert_allclose(sampler.timesteps, scheduler.timesteps.double().numpy(), rtol=tolerance, atol=1e-9)
    found = ours(sampler, steps)
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        scale = np.abs(b).max()
        assert np.abs(a - b).max() <= tolerance * scale, f"step {i}: {np.abs(a - b).max() / scale:.2e}"
    return scheduler


SPACINGS = [("leading", 0), ("leading", 1), ("linspace", 0), ("trailing", 0)]


# ---- flows -----------------------------------------------------------------------------------------------------

FLOWS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({}, {}, {}),
    ({"shift": 3.0}, {"shift": 3.0}, {}),
    ({"mu": 0.9}, {"use_dynamic_shifting": True}, {"mu": 0.9}),
    (
        {"mu": 0.7, "sigmas": np.linspace(1, 1 / STEPS, STEPS)},
        {"use_dynamic_shifting": True},
        {"mu": 0.7, "sigmas": np.linspace(1, 1 / STEPS, STEPS)},
    ),
    (
        {"shift": 2.0, "sigmas": np.linspace(1, 1 / STEPS, STEPS)},
        {"shift": 2.0},
        {"sigmas": np.linspace(1, 1 / STEPS, STEPS)},
    ),
    ({"shift": 2.0, "terminal": 0.1}, {"shift": 2.0, "shift_terminal": 0.1}, {}),
    ({"shift": 2.0, "curve": "karras"}, {"shift": 2.0, "use_karras_sigmas": True}, {}),
    ({"curve": "exponential"}, {"use_exponential_sigmas": True}, {}),
    ({"shift": 3.0, "stochastic": True}, {"shift": 3.0, "stochastic_sampling": True}, {}),
]


@pytest.mark.parametrize(("mine", "config", "setup"), FLOWS, ids=lambda v: ",".join(v) or "plain")
def test_flow_euler(double: None, monkeypatch: pytest.MonkeyPatch, mine: Any, config: Any, setup: Any) -> None:
    sampler = D.flow_euler(STEPS, **mine)
    scheduler = compare(monkeypatch, sampler, "FlowMatchEulerDiscreteScheduler", config, setup)
    np.testing.assert_allclose(sampler.sigmas, scheduler.sigmas.numpy(), rtol=1e-9, atol=1e-12)


def test_flow_euler_in_diffusers_own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing lifted: float32 levels and samples there, so 1e-5."""
    compare(monkeypatch, D.flow_euler(28, shift=3.0), "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, steps=28,
            tolerance=1e-5)  # fmt: skip


def test_flow_dpmpp_and_unipc(double: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are whole numbers there."""
    config = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    compare(monkeypatch, D.flow_dpmpp_2m(STEPS, shift=3.0), "DPMSolverMultistepScheduler", config)
    compare(monkeypatch, D.flow_unipc(STEPS, shift=3.0), "UniPCMultistepScheduler", config)
    config = {**config, "use_dynamic_shifting": True}
    compare(monkeypatch, D.flow_unipc(STEPS, mu=0.8, order=3), "UniPCMultistepScheduler",
            {**config, "solver_order": 3}, {"mu": 0.8})  # fmt: skip


def test_resolution_mu() -> None:
    """A line through its two points; Flux at 1024 x 1024 has 4096 tokens. exp(mu) then is the shift."""
    assert D.resolution_mu(256) == pytest.approx(0.5, rel=1e-14)
    assert D.resolution_mu(4096) == pytest.approx(1.15, rel=1e-14)
    assert D.resolution_mu(2176) == pytest.approx(0.825, rel=1e-14)


# ---- noise schedules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eps", "v", "sample"])
@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
@pytest.mark.parametrize(("eta", "clip", "renoise"), [(0.0, None, False), (0.6, 1.0, False), (1.0, 0.5, True)])
def test_ddim(
    double: None,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
    spacing: Any,
    offset: int,
    eta: float,
    clip: Any,
    renoise: bool,
) -> None:
    sampler = D.ddim(D.schedule("scaled_linear"), STEPS, prediction=kind, eta=eta, spacing=spacing, offset=offset,
                     clip=clip, renoise=renoise, end_at_clean=False)  # fmt: skip
    config = {**SD, "prediction_type": KINDS[kind], "timestep_spacing": spacing, "steps_offset": offset,
              "clip_sample": clip is not None, "clip_sample_range": clip or 1.0, "set_alpha_to_one": False}  # fmt: skip
    compare(monkeypatch, sampler, "DDIMScheduler", config, eta=eta, use_clipped_model_output=renoise)


def test_ddim_of_zero_terminal_snr(double: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """abar is 0 up to rounding at the last training step, and v is well defined there."""
    sampler = D.ddim(D.schedule("linear", zero_snr=True), STEPS, prediction="v", spacing="trailing")
    config = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing",
              "clip_sample": False}  # fmt: skip
    compare(monkeypatch, sampler, "DDIMScheduler", config, tolerance=1e-8)


@pytest.mark.parametrize("kind", ["eps", "v", "sample"])
@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
@pytest.mark.parametrize(("variance", "clip"), [("small", None), ("large", 1.0)])
def test_ddpm(
    double: None, monkeypatch: pytest.MonkeyPatch, kind: Any, spacing: Any, offset: int, variance: Any, clip: Any
) -> None:
    sampler = D.ddpm(D.schedule(), STEPS, prediction=kind, variance=variance, spacing=spacing, offset=offset, clip=clip)
    config = {"prediction_type": KINDS[kind], "timestep_spacing": spacing, "steps_offset": offset,
              "clip_sample": clip is not None, "variance_type": f"fixed_{variance}"}  # fmt: skip
    compare(monkeypatch, sampler, "DDPMScheduler", config)


EULERIAN: dict[str, tuple[Callable[..., Any], dict[str, Any], bool]] = {
    "EulerDiscreteScheduler": (D.euler, {}, True),
    "EulerAncestralDiscreteScheduler": (D.euler_ancestral, {}, False),
    "HeunDiscreteScheduler": (D.heun, {}, True),
    "LMSDiscreteScheduler": (D.lms, {}, True),
}


@pytest.mark.parametrize("name", EULERIAN)
@pytest.mark.parametrize("kind", ["eps", "v", "sample"])
@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
@pytest.mark.parametrize("curve", [None, "karras", "exponential"])
def test_eulerian(
    double: None, monkeypatch: pytest.MonkeyPatch, name: str, kind: Any, spacing: Any, offset: int, curve: Any
) -> None:
    make, config, curves = EULERIAN[name]
    if curve and not curves:
        pytest.skip("diffusers has no curves here")
    if kind == "sample" and name.startswith("EulerAncestral"):
        pytest.skip("diffusers has no such prediction here")
    sampler = make(D.schedule("scaled_linear"), STEPS, prediction=kind, spacing=spacing, offset=offset, curve=curve)
    config = {**SD, **config, "prediction_type": KINDS[kind], "timestep_spacing": spacing, "steps_offset": offset}
    if curve:
        config[f"use_{curve}_sigmas"] = True
    scheduler = compare(monkeypatch, sampler, name, config)
    np.testing.assert_allclose(sampler.start_scale, float(scheduler.init_noise_sigma), rtol=1e-12)
    levels = scheduler.sigmas.numpy()
    expected = levels if make is not D.heun else np.concatenate([levels[:1], levels[1:-1:2], levels[-1:]])
    np.testing.assert_allclose(sampler.sigmas, expected, rtol=1e-9)


def test_euler_options(double: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = D.euler(D.schedule("cosine"), STEPS, end="sigma_min", spacing="leading", prediction="v")
    config = {"beta_schedule": "squaredcos_cap_v2", "final_sigmas_type": "sigma_min", "timestep_spacing": "leading"}
    compare(monkeypatch, sampler, "EulerDiscreteScheduler", {**config, "prediction_type": "v_prediction"})
    sampler = D.euler(D.schedule(zero_snr=True), STEPS, spacing="trailing", prediction="v")
    compare(monkeypatch, sampler, "EulerDiscreteScheduler", {"rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing", "prediction_type": "v_prediction"})  # fmt: skip


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_orders(double: None, monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    compare(monkeypatch, D.lms(D.schedule(), STEPS, order=order), "LMSDiscreteScheduler", {}, order=order)


@pytest.mark.parametrize("kind", ["eps", "v", "sample"])
@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
def test_dpmpp_2m(
    double: None, monkeypatch: pytest.MonkeyPatch, kind: Any, spacing: Any, offset: int, sde: bool, solver: Any
) -> None:
    sampler = D.dpmpp_2m(D.schedule("scaled_linear"), STEPS, prediction=kind, sde=sde, solver=solver, spacing=spacing,
                         offset=offset)  # fmt: skip
    config = {**SD, "prediction_type": KINDS[kind], "timestep_spacing": spacing, "steps_offset": offset,
              "algorithm_type": "sde-dpmsolver++" if sde else "dpmsolver++", "solver_type": solver}  # fmt: skip
    compare(monkeypatch, sampler, "DPMSolverMultistepScheduler", config)


@pytest.mark.parametrize("curve", ["karras", "exponential"])
@pytest.mark.parametrize("end", ["zero", "sigma_min"])
@pytest.mark.parametrize("steps", [1, 6, 17])
def test_multistep_levels(double: None, monkeypatch: pytest.MonkeyPatch, curve: Any, end: Any, steps: int) -> None:
    """Orders at the ends depend on the number of steps and on where they end."""
    config = {**SD, f"use_{curve}_sigmas": True, "final_sigmas_type": end}
    table = D.schedule("scaled_linear")
    if end == "zero":
        compare(monkeypatch, D.dpmpp_2m(table, steps, curve=curve), "DPMSolverMultistepScheduler", config, steps=steps)
        if curve == "karras":
            compare(monkeypatch, D.unipc(table, steps, curve=curve), "UniPCMultistepScheduler", config, steps=steps)
    config = {**SD, "final_sigmas_type": end}
    for make, name in ((D.dpmpp_2m, "DPMSolverMultistepScheduler"), (D.unipc, "UniPCMultistepScheduler")):
        compare(monkeypatch, make(table, steps, end=end), name, config, steps=steps)


@pytest.mark.parametrize("kind", ["eps", "v", "sample"])
@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc(
    double: None, monkeypatch: pytest.MonkeyPatch, kind: Any, spacing: Any, offset: int, order: int, variant: Any
) -> None:
    end = "sigma_min" if variant == "bh1" else "zero"  # diffusers' bh1 gives NaN at level zero: its h is infinite
    sampler = D.unipc(D.schedule("scaled_linear"), STEPS, prediction=kind, order=order, variant=variant,
                      spacing=spacing, offset=offset, end=end)  # fmt: skip
    config = {**SD, "prediction_type": KINDS[kind], "timestep_spacing": spacing, "steps_offset": offset,
              "solver_order": order, "solver_type": variant, "final_sigmas_type": end}  # fmt: skip
    compare(monkeypatch, sampler, "UniPCMultistepScheduler", config)


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize(("spacing", "offset"), SPACINGS)
@pytest.mark.parametrize("clean", [False, True])
def test_pndm(double: None, monkeypatch: pytest.MonkeyPatch, kind: Any, spacing: Any, offset: int, clean: bool) -> None:
    sampler = D.pndm(D.schedule("scaled_linear"), STEPS, prediction=kind, spacing=spacing, offset=offset,
                     end_at_clean=clean)  # fmt: skip
    config = {**SD, "skip_prk_steps": True, "prediction_type": KINDS[kind], "timestep_spacing": spacing,
              "steps_offset": offset, "set_alpha_to_one": clean}  # fmt: skip
    compare(monkeypatch, sampler, "PNDMScheduler", config)
