"""What training draws, aims at and weighs: against diffusers' training functions and plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flame_triton as ft
from flame_triton.errors import ArgumentError, ShapeError

D = ft.diffusion
RNG = np.random.default_rng(3)
U, Z = RNG.uniform(0.01, 0.99, 64), RNG.standard_normal(64)


def apply(function: Any, *arrays: np.ndarray) -> np.ndarray:
    """function of Values, in float64."""
    inputs = [ft.input(a.shape, "int64" if a.dtype.kind == "i" else "float64") for a in arrays]
    return ft.evaluate(function(*inputs), dict(zip(inputs, arrays, strict=True)))


@pytest.fixture(scope="module")
def theirs() -> Any:
    pytest.importorskip("torch")
    pytest.importorskip("diffusers_alone")
    return pytest.importorskip("diffusers.training_utils")


@pytest.mark.parametrize(
    ("density", "options"), [("logit_normal", {"mean": 0.3, "std": 0.8}), ("mode", {}), ("uniform", {})]
)
def test_densities_of_times(theirs: Any, monkeypatch: pytest.MonkeyPatch, density: Any, options: Any) -> None:
    """The same formula on the same random numbers."""
    torch = theirs.torch
    monkeypatch.setattr(torch, "rand", lambda **_: torch.from_numpy(U))
    monkeypatch.setattr(torch, "normal", lambda mean, std, **_: torch.from_numpy(Z) * std + mean)
    expected = theirs.compute_density_for_timestep_sampling(
        density, len(U), logit_mean=options.get("mean"), logit_std=options.get("std"), mode_scale=1.29
    ).numpy()
    found = apply(lambda s: D.times_from(s, density, **options), Z if density == "logit_normal" else U)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_cosmap_is_its_density() -> None:
    """t = F^-1(u) where F is the integral of the density 2 / (pi - 2 pi t + 2 pi t^2)."""
    t = apply(lambda s: D.times_from(s, "cosmap"), U)
    np.testing.assert_allclose(t, 1 - 1 / (np.tan(np.pi / 2 * U) + 1), rtol=1e-12)
    np.testing.assert_allclose(2 / np.pi * (np.arctan(2 * t - 1) + np.pi / 4), U, rtol=1e-9)


def test_logit_normal_weight_is_its_density() -> None:
    grid = np.linspace(1e-6, 1 - 1e-6, 20001)
    density = apply(lambda t: D.flow_weight(t, "logit_normal"), grid)
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-6)
    below = np.mean(1 / (1 + np.exp(-np.random.default_rng(0).standard_normal(200_000))) < 0.3)
    assert np.trapezoid(density[grid < 0.3], grid[grid < 0.3]) == pytest.approx(below, abs=3e-3)


@pytest.mark.parametrize("kind", ["none", "sigma_sqrt", "cosmap"])
def test_weights_of_sd3(theirs: Any, kind: Any) -> None:
    """diffusers rounds sigma^-2 to float32."""
    expected = theirs.compute_loss_weighting_for_sd3(kind, theirs.torch.from_numpy(U)).numpy()
    np.testing.assert_allclose(apply(lambda t: D.flow_weight(t, kind), U), expected, rtol=1e-6)


def test_drawn_times_are_drawn_again() -> None:
    """One seed, one step: the same bits; they follow shift and density."""
    found = []
    for _ in range(2):
        seed = ft.rng_seed(5)
        found.append(ft.evaluate(D.draw_times(4000, seed, shift=3.0), dtype=None))
    assert np.array_equal(*found) and found[0].dtype == np.float32
    assert np.median(found[0]) == pytest.approx(0.75, abs=0.02)  # shift 3 takes 1/2 to 3/4
    assert 0 < found[0].min() and found[0].max() < 1
    for density in ("uniform", "mode", "cosmap"):
        t = ft.evaluate(D.draw_times(4000, ft.rng_seed(1), density))
        assert t.min() >= 0 and t.max() <= 1 and t.mean() == pytest.approx(0.5, abs=0.02)


def test_flow_by_definition() -> None:
    clean, noise, t = RNG.standard_normal((3, 2, 4)), RNG.standard_normal((3, 2, 4)), np.array([0.0, 0.25, 1.0])
    found = apply(D.flow_noisy, clean, noise, t)
    weight = t[:, None, None]
    np.testing.assert_allclose(found, (1 - weight) * clean + weight * noise, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(apply(D.flow_target, clean, noise), noise - clean)


# ---- noise schedules -------------------------------------------------------------------------------------------

SCHEDULES = {
    "linear": ({}, {}),
    "scaled_linear": ({}, {"beta_start": 0.00085, "beta_end": 0.012}),
    "cosine": ({}, {"beta_schedule": "squaredcos_cap_v2"}),
    "linear, zero": ({"zero_snr": True}, {"rescale_betas_zero_snr": True}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(theirs: Any, name: str) -> None:
    """abar to diffusers' float32; noisy samples and velocities too."""
    import diffusers

    torch, kind = theirs.torch, name.split(",")[0]
    mine, config = SCHEDULES[name]
    table = D.schedule(kind, **mine)
    scheduler = diffusers.DDPMScheduler(**{"beta_schedule": kind, **config})
    np.testing.assert_allclose(table.betas, scheduler.betas.numpy(), rtol=3e-5, atol=1e-6)
    np.testing.assert_allclose(table.alphas_cumprod, scheduler.alphas_cumprod.numpy(), rtol=1e-4, atol=1e-6)
    scheduler.alphas_cumprod = torch.from_numpy(table.alphas_cumprod)
    clean, noise, t = RNG.standard_normal((4, 2, 3)), RNG.standard_normal((4, 2, 3)), np.array([0, 10, 500, 998])
    args = [torch.from_numpy(a) for a in (clean, noise, t)]
    np.testing.assert_allclose(
        apply(table.noisy, clean, noise, t), scheduler.add_noise(*args).numpy(), rtol=1e-5, atol=1e-6
    )
    velocity = apply(lambda *a: table.target("v", *a), clean, noise, t)
    np.testing.assert_allclose(velocity, scheduler.get_velocity(*args).numpy(), rtol=1e-5, atol=1e-6)
    snr = theirs.compute_snr(scheduler, torch.arange(1000)[:-1]).numpy()
    np.testing.assert_allclose(table.snr[:-1], snr, rtol=1e-4)


def test_min_snr() -> None:
    """eps: min(SNR, 5) / SNR; v: min(SNR, 5) / (SNR + 1); at zero SNR finite."""
    table, t = D.schedule(), np.array([0, 300, 999])
    snr = table.snr[t]
    for kind, expected in (
        ("eps", np.minimum(snr, 5) / snr),
        ("v", np.minimum(snr, 5) / (snr + 1)),
        ("sample", np.minimum(snr, 5)),
    ):
        found = apply(lambda t, kind=kind: D.min_snr_weight(table, t, kind), t)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    zero = D.schedule(zero_snr=True)
    assert np.all(np.isfinite(apply(lambda t: D.min_snr_weight(zero, t), t)))
    np.testing.assert_allclose(apply(lambda t: D.snr_weight(table, t), t), snr, rtol=1e-6)
    np.testing.assert_allclose(apply(lambda t: D.snr_weight(table, t, "p2"), t), 1 / (1 + snr), rtol=1e-6)
    debiased = apply(lambda t: D.snr_weight(table, t, "debiased"), t[:2])
    np.testing.assert_allclose(debiased, snr[:2] ** -0.5, rtol=1e-6)


@pytest.mark.parametrize("source", ["eps", "v", "sample", "flow"])
def test_predictions_follow_from_each_other(source: Any) -> None:
    clean, noise = RNG.standard_normal((2, 5)), RNG.standard_normal((2, 5))
    known = {"eps": noise, "sample": clean, "flow": noise - clean}
    for alpha, sigma in ((0.6, 0.8), (0.3, 0.7)):
        x = alpha * clean + sigma * noise
        known["v"] = alpha * noise - sigma * clean
        for target, expected in known.items():
            found = D.convert(known[source], x, source, target, alpha, sigma)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


# ---- noise and losses ------------------------------------------------------------------------------------------


def test_other_noises() -> None:
    seed, noise = ft.rng_seed(2), ft.input((64, 3, 16, 16), name="noise")
    feeds = {noise: RNG.standard_normal(noise.shape)}
    added = ft.evaluate(D.offset_noise(noise, seed, 0.3), feeds) - feeds[noise]
    assert np.ptp(added, axis=(2, 3)).max() < 1e-12 and added[..., 0, 0].std() == pytest.approx(0.3, rel=0.15)
    pyramid = ft.evaluate(D.pyramid_noise(noise, seed), feeds)
    assert pyramid.std() == pytest.approx(1.0, rel=1e-9)
    means = [a.mean(axis=(2, 3)).std() for a in (feeds[noise], pyramid)]
    assert means[1] > 3 * means[0]  # low frequencies are stronger
    moved = ft.evaluate(D.perturbed_noise(noise, seed, 0.2), feeds) - feeds[noise]
    assert moved.std() == pytest.approx(0.2, rel=0.02)
    assert ft.evaluate(D.dropped(4000, seed, 0.1)).mean() == pytest.approx(0.1, abs=0.02)


def test_weighted_and_masked_loss() -> None:
    a, b, weight = RNG.standard_normal((3, 2, 4)), RNG.standard_normal((3, 2, 4)), np.array([1.0, 2.0, 0.5])
    mask = (RNG.uniform(size=(3, 1, 4)) < 0.5).astype(np.float64)
    error = (a - b) ** 2
    assert apply(D.weighted_mse, a, b) == pytest.approx(error.mean())
    assert apply(D.weighted_mse, a, b, weight) == pytest.approx((error * weight[:, None, None]).mean())
    counted = np.broadcast_to(mask, error.shape)
    expected = (error * weight[:, None, None] * counted).sum() / counted.sum()
    assert apply(D.weighted_mse, a, b, weight, mask) == pytest.approx(expected)
    assert apply(D.weighted_mse, a, b, weight, 0 * mask) == 0


def test_mistakes_are_named() -> None:
    x, t = ft.input((2, 3)), ft.input((3,))
    with pytest.raises(ShapeError, match="one number for each sample"):
        D.flow_noisy(x, x, t)
    with pytest.raises(ArgumentError, match="no density"):
        D.times_from(t, "normal")
    with pytest.raises(ArgumentError, match="no weighting"):
        D.flow_weight(t, "snr")
    with pytest.raises(ArgumentError, match="no schedule"):
        D.schedule("quadratic")
    with pytest.raises(ShapeError, match=r"\[B, C, H, W\]"):
        D.pyramid_noise(x, ft.rng_seed(0))
