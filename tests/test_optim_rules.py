"""Adafactor, schedule-free AdamW, Prodigy, Muon, RAdam and NAdam: against torch's, or against their papers in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flame_triton as ft
from flame_triton.errors import ArgumentError
from flame_triton.optim import (
    Adafactor,
    LossScaler,
    Muon,
    NAdam,
    Prodigy,
    RAdam,
    ScheduleFreeAdamW,
    ema_weights,
    group,
    save_averages,
    schedule,
)
from flame_triton.optim.muon import QUINTIC, orthogonal
from flame_triton.runtime.checkpoint import Reader

KERNELS = "interpreter" if ft.config.interpreted() else "cuda"
DEVICES = ["reference", KERNELS]
SHAPES = [(6, 5), (6,), (3, 6), (2, 3, 4), ()]
STEPS = 8
Arrays = list[np.ndarray]


def _start() -> Arrays:
    rng = np.random.default_rng(1)
    return [np.asarray(rng.standard_normal(s)) for s in SHAPES]


def _gradients(steps: int = STEPS) -> list[Arrays]:
    rng = np.random.default_rng(2)
    slope = [np.asarray(rng.standard_normal(s)) for s in SHAPES]
    return [[np.asarray(a + 0.5 * rng.standard_normal(a.shape)) for a in slope] for _ in range(steps)]


class Run:
    """Parameters w0, w1, ... and the program of a step on given gradients."""

    def __init__(self, make: Callable[[Any], Any], device: str, dtype: str, gradient: str | None = None) -> None:
        self.weights = [ft.parameter(a.shape, dtype, name=f"w{i}", init=a) for i, a in enumerate(_start())]
        self.optimizer = make(self.weights)
        inputs = [ft.input(w.shape, gradient or dtype) for w in self.weights]
        updates = self.optimizer.updates(inputs)
        self.state = ft.State([*self.weights, *self.optimizer.state_values], device=device)
        outputs = [self.optimizer.skipped, self.optimizer.grad_norm]
        self.program = ft.compile(outputs, inputs, state=self.state, updates=updates, device=device)
        self.held = inputs[0].dtype.numpy

    def steps(self, gradients: Sequence[Arrays]) -> Run:
        for arrays in gradients:
            self.program(*[a.astype(self.held) for a in arrays])
        return self

    def values(self) -> Arrays:
        return [self.state[w].astype(np.float64) for w in self.weights]

    def everything(self) -> dict[str, bytes]:
        return {name: self.state[name].tobytes() for name in self.state.names}


def _torch_run(make: Callable[[Any], Any], gradients: Sequence[Arrays]) -> Arrays:
    params = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in _start()]
    optimizer = make(params)
    for arrays in gradients:
        for p, g in zip(params, arrays, strict=True):
            p.grad = torch.from_numpy(g.copy())
        optimizer.step()
    return [p.detach().numpy() for p in params]


def _close(found: Arrays, wanted: Arrays, tolerance: float) -> None:
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert np.max(np.abs(a - b)) <= tolerance * max(1.0, float(np.max(np.abs(b)))), i


ALL = {"decays": lambda _: True}
TORCH = {
    "adafactor": (
        lambda p: Adafactor(p, 0.05, weight_decay=0.1, **ALL),
        lambda p: torch.optim.Adafactor(p, 0.05, weight_decay=0.1),
    ),
    "adafactor fast": (
        lambda p: Adafactor(p, 0.9, d=1.2, beta2_decay=-0.5, eps=(1e-4, 0.2)),
        lambda p: torch.optim.Adafactor(p, 0.9, d=1.2, beta2_decay=-0.5, eps=(1e-4, 0.2)),
    ),
    "radam": (
        lambda p: RAdam(p, 0.05, betas=(0.9, 0.97), weight_decay=0.1, **ALL),
        lambda p: torch.optim.RAdam(p, 0.05, betas=(0.9, 0.97), weight_decay=0.1),
    ),
    "radam decoupled": (
        lambda p: RAdam(p, 0.05, weight_decay=0.1, decoupled_weight_decay=True, **ALL),
        lambda p: torch.optim.RAdam(p, 0.05, weight_decay=0.1, decoupled_weight_decay=True),
    ),
    "nadam": (
        lambda p: NAdam(p, 0.02, weight_decay=0.1, **ALL),
        lambda p: torch.optim.NAdam(p, 0.02, weight_decay=0.1),
    ),
    "nadam decoupled": (
        lambda p: NAdam(p, 0.02, momentum_decay=0.1, weight_decay=0.1, decoupled_weight_decay=True, **ALL),
        lambda p: torch.optim.NAdam(p, 0.02, momentum_decay=0.1, weight_decay=0.1, decoupled_weight_decay=True),
    ),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", TORCH)
def test_rules_are_torchs(case: str, dtype: str, device: str) -> None:
    """In float64 what differs is the scalars, which the graph keeps in float32."""
    ours, theirs = TORCH[case]
    gradients = _gradients()
    _close(
        Run(ours, device, dtype).steps(gradients).values(),
        _torch_run(theirs, gradients),
        3e-6 if dtype == "float64" else 2e-5,
    )


# ---- Prodigy and schedule-free, from their papers --------------------------------------------------------------


def _prodigy(
    gradients: Sequence[Arrays], lr: Any, decay: float, bias: bool, safeguard: bool, growth: float, d0: float
) -> Any:
    """Algorithm 4 of Mishchenko and Defazio 2023, in float64; returns weights and every d."""
    b1, b2 = 0.9, 0.999
    b3, d, largest, r = b2**0.5, d0, d0, 0.0
    p = _start()
    p0 = [a.copy() for a in p]
    m, v, s = ([np.zeros_like(a) for a in p] for _ in range(3))
    found = []
    for t, g in enumerate(gradients, 1):
        a = d * lr(t - 1) * (np.sqrt(1 - b2**t) / (1 - b1**t) if bias else 1.0)
        r = b3 * r + d / d0 * a * sum(float(np.sum(gi * (qi - pi))) for gi, qi, pi in zip(g, p0, p, strict=True))
        for i in range(len(p)):
            m[i] = b1 * m[i] + (1 - b1) * d * g[i]
            v[i] = b2 * v[i] + (1 - b2) * d * d * g[i] ** 2
            s[i] = b3 * s[i] + d / d0 * (d if safeguard else a) * g[i]
        hat = r / sum(float(np.sum(np.abs(si))) for si in s)
        if d == d0:
            d = max(d, hat)
        largest = max(largest, hat)
        d = min(largest, d * growth)
        found.append(d)
        for i in range(len(p)):
            p[i] = p[i] - decay * a * p[i] - a * m[i] / (np.sqrt(v[i]) + d * 1e-8)
    return p, found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "kw", [{}, {"bias_correction": True, "weight_decay": 0.1}, {"safeguard_warmup": True, "growth": 1.5}]
)
def test_prodigy_is_its_algorithm(kw: dict[str, Any], device: str) -> None:
    gradients = _gradients(24 if device == "reference" else 6)
    run = Run(lambda p: Prodigy(p, schedule.exponential(1.0, 0.98), d0=1e-3, **ALL, **kw), device, "float64")
    estimates = []
    for arrays in gradients:
        run.steps([arrays])
        estimates.append(float(run.state[run.optimizer.estimate]))
    weights, expected = _prodigy(
        gradients, lambda t: 0.98**t, kw.get("weight_decay", 0.0), kw.get("bias_correction", False),
        kw.get("safeguard_warmup", False), kw.get("growth", np.inf), 1e-3,
    )  # fmt: skip
    np.testing.assert_allclose(estimates, expected, rtol=1e-5)
    assert estimates[-1] > 1.5 * estimates[0]
    _close(run.values(), weights, 1e-5)
    _close([run.state[s[0]] for s in run.optimizer.slots.values()], _start(), 0.0)


def _schedule_free(gradients: Sequence[Arrays], lr: Any, decay: float, r: float) -> tuple[Arrays, Arrays]:
    """Algorithm 1 of Defazio et al. 2024, with x itself: (y after the last step, x), in float64."""
    b1, b2 = 0.9, 0.99
    x, z = _start(), _start()
    y, v = _start(), [np.zeros_like(a) for a in _start()]
    total, largest = 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        rate = lr(t - 1)
        largest = max(largest, rate)
        weight = t**r * largest**2
        total += weight
        c = weight / total
        for i in range(len(x)):
            v[i] = b2 * v[i] + (1 - b2) * g[i] ** 2
            n = g[i] / (np.sqrt(v[i] / (1 - b2**t)) + 1e-8) + decay * y[i]
            z[i] = z[i] - rate * n
            x[i] = (1 - c) * x[i] + c * z[i]
            y[i] = (1 - b1) * z[i] + b1 * x[i]
    return y, x


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("decay", "r"), [(0.0, 0.0), (0.1, 1.0)])
def test_schedule_free_is_its_algorithm(decay: float, r: float, device: str, tmp_path: Path) -> None:
    gradients = _gradients(12)

    def make(p: Any) -> Any:
        warm = schedule.warmup(4, schedule.constant(0.05))
        return ScheduleFreeAdamW(p, warm, betas=(0.9, 0.99), weight_decay=decay, r=r, **ALL)

    run = Run(make, device, "float64").steps(gradients)
    y, x = _schedule_free(gradients, lambda t: 0.05 * min((t + 1) / 4, 1.0), decay, r)
    _close(run.values(), y, 3e-6)
    before = run.everything()
    with ema_weights(run.state, run.optimizer):
        _close(run.values(), x, 3e-6)
    assert run.everything() == before
    save_averages(tmp_path / "x.safetensors", run.state, run.optimizer)
    with Reader(tmp_path / "x.safetensors") as reader:
        _close([reader.read(f"w{i}") for i in range(len(x))], x, 3e-6)
    assert run.everything() == before


# ---- Muon ------------------------------------------------------------------------------------------------------


def _newton_schulz(x: np.ndarray, steps: int = 5) -> np.ndarray:
    a, b, c = QUINTIC
    tall = x.shape[-2] > x.shape[-1]
    x = np.swapaxes(x, -1, -2) if tall else x
    x = x / np.maximum(np.sqrt(np.sum(x * x, (-2, -1), keepdims=True)), 1e-7)
    for _ in range(steps):
        gram = x @ np.swapaxes(x, -1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return np.swapaxes(x, -1, -2) if tall else x


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (3, 5, 5)])
def test_orthogonalised_matrices(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    v = ft.input(shape, "float64")
    found = ft.evaluate(orthogonal(v), {v: x})
    np.testing.assert_allclose(found, _newton_schulz(x), rtol=1e-10, atol=1e-12)
    assert np.all(np.abs(np.linalg.svd(found)[1] - 1) < 0.5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kw", [{}, {"nesterov": False, "adjust": "original"}])
def test_muon_is_its_formula(kw: dict[str, Any], device: str) -> None:
    """Matrices and kernels by Muon, the second matrix and the rest by AdamW."""
    gradients = _gradients(STEPS if device == "reference" else 2)
    run = Run(
        lambda p: Muon(p, 0.02, adamw=["w2"], dtype="float64", weight_decay=0.1, **ALL, **kw), device, "float64"
    ).steps(gradients)
    found, start = run.values(), _start()
    for i in (0, 3):
        p, m = start[i], np.zeros_like(start[i])
        flat = (p.shape[0], p.size // p.shape[0])
        ratio = np.sqrt(max(1, flat[0] / flat[1])) if "adjust" in kw else 0.2 * np.sqrt(max(flat))
        for arrays in gradients:
            g = arrays[i]
            m = 0.95 * m + 0.05 * g
            way = 0.95 * m + 0.05 * g if kw.get("nesterov", True) else m
            p = p * (1 - 0.02 * 0.1) - 0.02 * ratio * _newton_schulz(way.reshape(flat)).reshape(p.shape)
        _close([found[i]], [p], 1e-6)
    adam = _torch_run(lambda p: torch.optim.AdamW(p, 0.02, weight_decay=0.1), gradients)
    _close([found[i] for i in (1, 2, 4)], [adam[i] for i in (1, 2, 4)], 3e-6)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
@pytest.mark.parametrize("device", DEVICES)
def test_muon_errs_no_more_than_torchs(device: str) -> None:
    """Both iterate in bfloat16: each is as far from the exact update as the other, within twice."""
    gradients = [g[0].astype(np.float32) for g in _gradients(STEPS if device == "reference" else 2)]
    w = ft.parameter((6, 5), name="w", init=_start()[0])
    optimizer, x = Muon([w], 0.02, adjust="original"), ft.input((6, 5))
    state = ft.State([w, *optimizer.state_values], device=device)
    program = ft.compile([], [x], state=state, updates=optimizer.updates([x]), device=device)
    theirs = torch.nn.Parameter(torch.from_numpy(_start()[0].astype(np.float32)))
    judge = torch.optim.Muon([theirs], 0.02)
    exact, m = _start()[0], np.zeros((6, 5))
    for g in gradients:
        program(g)
        theirs.grad = torch.from_numpy(g)
        judge.step()
        m = 0.95 * m + 0.05 * g
        way = _newton_schulz(0.95 * m + 0.05 * g)
        exact = exact * (1 - 0.02 * 0.1) - 0.02 * np.sqrt(6 / 5) * way
    moved = np.linalg.norm(exact - _start()[0])
    ours, torchs = (np.linalg.norm(a - exact) / moved for a in (state["w"], theirs.detach().numpy()))
    assert ours <= 2 * torchs < 0.1


# ---- what all of them do ---------------------------------------------------------------------------------------

EVERY: dict[str, Callable[..., Any]] = {
    "adafactor": lambda p, **kw: Adafactor(p, 0.05, weight_decay=0.1, **kw),
    "schedule-free": lambda p, **kw: ScheduleFreeAdamW(p, 0.05, weight_decay=0.1, **kw),
    "prodigy": lambda p, **kw: Prodigy(p, d0=1e-2, weight_decay=0.1, **kw),
    "muon": lambda p, **kw: Muon(p, 0.05, dtype="float32", **kw),
    "radam": lambda p, **kw: RAdam(p, 0.05, **kw),
    "nadam": lambda p, **kw: NAdam(p, 0.05, **kw),
}


@pytest.mark.parametrize(
    ("kw", "device"),
    [
        ({}, "reference"),
        ({"master": "float32", "clip_norm": 1.0}, "reference"),
        ({"master": "float32", "clip_norm": 1.0}, KERNELS),
        ({"rounding": "stochastic"}, "reference"),
    ],
)
@pytest.mark.parametrize("rule", EVERY)
def test_a_bad_step_leaves_every_bit(rule: str, kw: dict[str, Any], device: str) -> None:
    gradients = _gradients(2)
    run = Run(lambda p: EVERY[rule](p, **kw), device, "bfloat16").steps(gradients[:1])
    before = run.everything()
    for where in (0, 1, 4):
        bad = [a.copy() for a in gradients[1]]
        bad[where][...] = np.nan
        assert run.steps([bad]).everything() == before
    assert run.steps(gradients[1:]).everything() != before
    assert all(np.all(np.isfinite(a)) for a in run.values())


@pytest.mark.parametrize("rule", EVERY)
def test_masters_are_float32_training(rule: str) -> None:
    kw = {"clip_norm": 1.0} | ({} if rule == "schedule-free" else {"ema": 0.9})
    gradients = [[a.astype(ft.bfloat16.numpy).astype(np.float32) for a in g] for g in _gradients(3)]
    mixed = Run(lambda p: EVERY[rule](p, master="float32", **kw), "reference", "bfloat16").steps(gradients)
    exact = Run(lambda p: EVERY[rule](p, **kw), "reference", "float32", "bfloat16").steps(gradients)
    for a, b in zip(mixed.weights, exact.weights, strict=True):
        np.testing.assert_array_equal(mixed.state[mixed.optimizer.masters[a]], exact.state[b])
        np.testing.assert_array_equal(mixed.state[a], exact.state[b].astype(ft.bfloat16.numpy))


@pytest.mark.parametrize("rule", EVERY)
def test_a_loss_scale_changes_nothing(rule: str) -> None:
    device, gradients = "reference", _gradients(3)
    plain = Run(lambda p: EVERY[rule](p, clip_norm=2.0), device, "float32").steps(gradients)
    scaled = Run(lambda p: EVERY[rule](p, clip_norm=2.0, scaler=LossScaler(256.0)), device, "float32")
    scaled.steps([[a * 256.0 for a in g] for g in gradients])
    _close(scaled.values(), plain.values(), 1e-6)


@pytest.mark.parametrize("rule", EVERY)
def test_resumed_runs_are_equal(rule: str, tmp_path: Path) -> None:
    gradients = _gradients(4)

    def fresh() -> Run:
        return Run(lambda p: EVERY[rule](p, rounding="stochastic"), "reference", "bfloat16")

    whole = fresh().steps(gradients)
    fresh().steps(gradients[:2]).state.save(tmp_path / "s")
    again = fresh()
    again.state.load(tmp_path / "s")
    assert again.steps(gradients[2:]).everything() == whole.everything()


@pytest.mark.parametrize("rule", ["adafactor", "muon", "radam", "nadam", "schedule-free"])
def test_groups_reach_every_rule(rule: str) -> None:
    """A rate of zero and no decay leave a parameter where it was; others move as they would without the group."""
    groups = [group("w0", "w1", rate=0.0)]
    gradients = _gradients(2)
    run = Run(lambda p: EVERY[rule](p, groups=groups), "reference", "float32").steps(gradients)
    plain = Run(lambda p: EVERY[rule](p), "reference", "float32").steps(gradients)
    for i, (a, b, c) in enumerate(zip(run.values(), _start(), plain.values(), strict=True)):
        np.testing.assert_allclose(a, b if i < 2 else c, rtol=1e-6, atol=1e-7)


def test_what_they_cannot_have_is_refused() -> None:
    w, b = ft.parameter((3, 2), name="w"), ft.parameter((3,), name="b")
    other = group("b", schedule=schedule.constant(0.1))
    for make, message in (
        (lambda: Adafactor([w, b], clip_layer=1.0), "clip_layer"),
        (lambda: Prodigy([w, b], groups=[other]), "one schedule"),
        (lambda: Prodigy([w, b], groups=[group("b", rate=0.5)]), "one learning rate"),
        (lambda: ScheduleFreeAdamW([w, b], groups=[other]), "one schedule"),
        (lambda: ScheduleFreeAdamW([w, b], ema=0.9), "leave out ema"),
        (lambda: Muon([w, b], clip_layer=1.0), "clip_layer"),
        (lambda: Muon([w, b], adamw=["v*"]), r'"v\*" matches no parameter'),
        (lambda: Muon([w, b], adjust="none"), "adjust"),
        (lambda: Muon([w, b], momentum=1.0), "momentum"),
        (lambda: RAdam([w, b], betas=(0.9, 1.0)), "betas"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make()


def test_bytes_of_state() -> None:
    """What docs/optim.md says of a matrix of 1024 x 1024."""
    n, w = 1024 * 1024, ft.parameter((1024, 1024), "bfloat16", name="w")
    for make, bytes_each in (
        (lambda: ft.optim.SGD([w], 0.1), 0),
        (lambda: ft.optim.SGD([w], 0.1, momentum=0.9), 4),
        (lambda: ft.optim.Lion([w]), 4),
        (lambda: ft.optim.AdamW([w]), 8),
        (lambda: ft.optim.AdamW([w], master="float32"), 12),
        (lambda: ft.optim.AdamW([w], master="float32", ema=0.99), 16),
        (lambda: RAdam([w]), 8),
        (lambda: NAdam([w]), 8),
        (lambda: ScheduleFreeAdamW([w]), 8),
        (lambda: Prodigy([w]), 16),
        (lambda: Muon([w]), 4),
        (lambda: Adafactor([w]), 0),
    ):
        assert round(make().state_bytes / n, 1) == bytes_each


def test_elementwise_rules_take_one_launch() -> None:
    for rule, passes in (("radam", 2), ("nadam", 2), ("schedule-free", 2), ("prodigy", 4)):
        run = Run(EVERY[rule], KERNELS, "float32")
        names = [launch.kernel.name for launch in run.program.launches]
        assert names.count("foreach") == 1 and names.count("foreach") + names.count("foreach_sum") == passes, rule
