"""Sixteen-bit weights: float32 masters, stochastic rounding; groups, Lion, and how many launches a step takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flame_triton as ft
from flame_triton.errors import ArgumentError, DTypeError, ShapeError, StateError

SHAPES = [(6, 5), (6,), (3, 6), (130,)]
KERNELS = "interpreter" if ft.config.interpreted() else "cuda"
DEVICES = ["reference", KERNELS]
Arrays = list[np.ndarray]


def _start(shapes: Sequence[tuple[int, ...]] = SHAPES) -> Arrays:
    rng = np.random.default_rng(1)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def _gradients(steps: int, dtype: str, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Arrays]:
    """Gradients of each step: bfloat16 numbers, in float32."""
    rng = np.random.default_rng(2)
    held = ft.types.dtype(dtype).numpy
    return [[rng.standard_normal(s).astype(held).astype(np.float32) for s in shapes] for _ in range(steps)]


class Run:
    """Parameters of one dtype, an optimizer, and the program of its step on given gradients."""

    def __init__(
        self, rule: Any, device: str, dtype: str, start: Arrays, gradient: str | None = None, **kw: Any
    ) -> None:
        self.weights = [ft.parameter(a.shape, dtype, name=f"w{i}", init=a) for i, a in enumerate(start)]
        self.optimizer = rule(self.weights, **kw)
        inputs = [ft.input(a.shape, gradient or dtype, name=f"g{i}") for i, a in enumerate(start)]
        updates = self.optimizer.updates(inputs)
        self.state = ft.State([*self.weights, *self.optimizer.state_values], device=device)
        self.program = ft.compile([self.optimizer.skipped], inputs, state=self.state, updates=updates, device=device)
        self.held = inputs[0].dtype.numpy

    def steps(self, gradients: list[Arrays]) -> Run:
        for arrays in gradients:
            self.program(*[a.astype(self.held) for a in arrays])
        return self

    def values(self, of: Sequence[Any] | None = None) -> Arrays:
        return [self.state[v].astype(np.float32) for v in (of or self.weights)]

    def everything(self) -> dict[str, bytes]:
        return {name: self.state[name].tobytes() for name in self.state.names}


def _equal(found: Arrays, wanted: Arrays) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- rules and groups ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_lion_is_its_formula(device: str) -> None:
    gradients = _gradients(5, "float32")
    run = Run(ft.optim.Lion, device, "float32", _start(), lr=0.01, weight_decay=0.1, betas=(0.8, 0.95)).steps(gradients)
    for i, p in enumerate(a.astype(np.float64) for a in _start()):
        m, decay = np.zeros_like(p), 0.1 if p.ndim > 1 else 0.0
        for g in gradients:
            p = p * (1 - 0.01 * decay) - 0.01 * np.sign(0.8 * m + 0.2 * g[i])
            m = 0.95 * m + 0.05 * g[i]
        np.testing.assert_allclose(run.values()[i], p, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", ["AdamW", "SGD"])
def test_groups_match_torch(rule: str, device: str) -> None:
    """Rates and decays that differ from tensor to tensor."""
    rates, decays = [1.0, 0.1, 0.0, 3.0], [0.5, 0.0, 1.0, 2.0]
    more = {"momentum": 0.9, "nesterov": True} if rule == "SGD" else {}
    gradients = _gradients(6, "float32")
    by_name = {f"w{i}": i for i in range(len(SHAPES))}
    run = Run(
        getattr(ft.optim, rule), device, "float32", _start(), lr=0.02, weight_decay=0.1,
        decays=lambda p: decays[by_name[p.name]], rates=lambda p: rates[by_name[p.name]], **more,
    ).steps(gradients)  # fmt: skip
    theirs = [torch.nn.Parameter(torch.from_numpy(a)) for a in _start()]
    groups = [
        {"params": [p], "lr": 0.02 * r, "weight_decay": 0.1 * d} for p, r, d in zip(theirs, rates, decays, strict=True)
    ]
    optimizer = getattr(torch.optim, rule)(groups, lr=0.02, **more)
    for arrays in gradients:
        for p, g in zip(theirs, arrays, strict=True):
            p.grad = torch.from_numpy(g)
        optimizer.step()
    for a, b in zip(run.values(), theirs, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kw", [{}, {"master": "float32", "ema": 0.9}, {"rounding": "stochastic"}])
def test_one_launch_for_each_pair_of_dtypes(kw: dict[str, Any]) -> None:
    """bfloat16 matrices, float32 vectors; decays and rates that differ cost nothing."""
    weights = [ft.parameter(s, "bfloat16" if len(s) > 1 else "float32", name=f"w{i}") for i, s in enumerate(SHAPES)]
    optimizer = ft.optim.AdamW(weights, 0.1, clip_norm=1.0, rates=lambda p: p.shape[0], **kw)
    gradients = [ft.input(w.shape, w.dtype) for w in weights]
    updates = optimizer.updates(gradients)
    state = ft.State([*weights, *optimizer.state_values], device=KERNELS)
    program = ft.compile([optimizer.lr], gradients, state=state, updates=updates, device=KERNELS)
    assert sum(launch.kernel.name == "foreach" for launch in program.launches) == 2
    assert sum(launch.kernel.name == "foreach_sum" for launch in program.launches) == 2


def test_bad_arguments() -> None:
    w = ft.parameter((3,), "bfloat16", name="w")
    for kw, message in (
        ({"master": "bfloat16"}, "master must be float32"),
        ({"rounding": "up"}, "nearest"),
        ({"rounding": "stochastic", "master": "float32"}, "without master"),
        ({"betas": (1.0, 0.9)}, "betas"),
    ):
        with pytest.raises(ArgumentError, match=message):
            ft.optim.AdamW([w], 0.1, **kw)
    with pytest.raises(ArgumentError, match="seed"):
        ft.optim.AdamW([w], 0.1, rounding="stochastic", seed=-1).updates([w])
    with pytest.raises(ShapeError, match=r"\(1, n\)"):
        ft.foreach(lambda x, r: x * r, [[w]], each=np.ones((2, 1)))
    with pytest.raises(DTypeError, match="bfloat16"):
        ft.stochastic_round(w, ft.rng_seed(0), "float16")


# ---- master weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", ["AdamW", "SGD", "Lion"])
def test_masters_are_float32_training(rule: str, device: str) -> None:
    """Bit for bit, averages and moments too; the 16-bit weights are the masters rounded."""
    kw: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "ema": 0.9, "clip_norm": 1.0}
    kw |= {"momentum": 0.9} if rule == "SGD" else {}
    gradients = _gradients(4, "bfloat16")
    make = getattr(ft.optim, rule)
    mixed = Run(make, device, "bfloat16", _start(), master="float32", **kw).steps(gradients)
    exact = Run(make, device, "float32", _start(), "bfloat16", **kw).steps(gradients)
    _equal(mixed.values([mixed.optimizer.masters[w] for w in mixed.weights]), exact.values())
    _equal(mixed.values(list(mixed.optimizer.averages.values())), exact.values(list(exact.optimizer.averages.values())))
    _equal(mixed.values(), [a.astype(ft.bfloat16.numpy).astype(np.float32) for a in exact.values()])


def test_masters_start_before_rounding_and_follow() -> None:
    initial = ft.nn.init.normal(1.0) if hasattr(ft.nn.init, "normal") else lambda s, rng: rng.standard_normal(s)
    w = ft.parameter((40,), "bfloat16", name="w", init=initial)
    optimizer = ft.optim.AdamW([w], 0.1, master="float32")
    state = ft.State([w, *optimizer.state_values], device="reference")
    master = state[optimizer.masters[w]]
    assert np.any(master != state["w"].astype(np.float32))
    np.testing.assert_array_equal(master.astype(ft.bfloat16.numpy), state["w"])
    state.set("w", np.full(40, 0.5, ft.bfloat16.numpy))
    assert np.all(state[optimizer.masters[w]] == 0.5)
    with pytest.raises(StateError, match="must be in the State"):
        ft.State(optimizer.state_values, device="reference")


def test_weights_loaded_without_masters_take_them_along(tmp_path: Path) -> None:
    w = ft.parameter((4,), "bfloat16", name="w", init=3.0)
    ft.State([w], device="reference").save(tmp_path / "weights.safetensors")
    v = ft.parameter((4,), "bfloat16", name="w", init=1.0)
    optimizer = ft.optim.AdamW([v], 0.1, master="float32")
    state = ft.State([v, *optimizer.state_values], device="reference")
    state.set(optimizer.masters[v], np.full(4, 1.001, np.float32))
    state.save(tmp_path / "all.safetensors")
    state.load(tmp_path / "weights.safetensors", strict=False)
    assert np.all(state[optimizer.masters[v]] == 3)
    state.load(tmp_path / "all.safetensors")
    assert np.all(state[optimizer.masters[v]] == np.float32(1.001)) and np.all(state["w"].astype(np.float32) == 1)


def test_sixteen_bit_weights_are_evaluated_with_their_average() -> None:
    run = Run(ft.optim.SGD, "reference", "bfloat16", _start(), lr=0.1, ema=0.5, master="float32")
    run.steps(_gradients(3, "bfloat16"))
    w = run.weights[0]
    average = run.optimizer.averages[w]
    read = ft.compile(ft.cast(w, "float32"), state=run.state, bind={w: average}, device="reference")().cpu().numpy()
    np.testing.assert_array_equal(read, run.state[average].astype(ft.bfloat16.numpy).astype(np.float32))


# ---- stochastic rounding ---------------------------------------------------------------------------------------


def _rounded(x: np.ndarray, seed: int, step: int, device: str) -> np.ndarray:
    at, source = ft.rng_seed(seed), ft.input(x.shape)
    state = ft.State([at], device=device)
    state.set(at, np.array([seed, step]))
    y = ft.cast(ft.stochastic_round(source, at), "float32")
    return ft.compile(y, [source], state=state, device=device)(x).cpu().numpy()


def test_stochastic_rounding_takes_a_neighbour_and_is_unbiased() -> None:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal(64) * 10.0 ** rng.integers(-6, 6, 64)).astype(np.float32)
    draws = _rounded(np.broadcast_to(x, (4000, 64)).copy(), 5, 0, "reference").astype(np.float64)
    lower = (x.view(np.uint32) & 0xFFFF0000).view(np.float32).astype(np.float64)  # towards zero
    upper = ((x.view(np.uint32) & 0xFFFF0000) + 0x10000).view(np.float32).astype(np.float64)
    assert np.all((draws == lower) | (draws == upper))
    share = (x - lower) / (upper - lower)
    error = ((draws == upper).mean(0) - share) / np.sqrt(np.maximum(share * (1 - share), 1e-3) / 4000)
    assert np.abs(error).max() < 4.5 and 0.7 < error.std() < 1.3


@pytest.mark.parametrize("device", DEVICES)
def test_stochastic_rounding_keeps_what_it_can(device: str) -> None:
    x = np.array([0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan, 2.0**-126], np.float32)
    found = _rounded(x, 1, 0, device)
    np.testing.assert_array_equal(found, x)
    assert np.signbit(found[1])


def test_kernels_round_as_the_reference_does() -> None:
    x = np.random.default_rng(0).standard_normal((33, 7)).astype(np.float32)
    first = _rounded(x, 9, 2, "reference")
    _equal([first], [_rounded(x, 9, 2, KERNELS)])
    assert np.any(first != _rounded(x, 9, 3, "reference")) and np.any(first != _rounded(x, 8, 2, "reference"))


@pytest.mark.parametrize("rule", ["AdamW", "SGD"])
def test_training_with_stochastic_rounding_is_one_on_all_devices(rule: str) -> None:
    kw: dict[str, Any] = {"lr": 0.01, "rounding": "stochastic", "seed": 7}
    gradients = _gradients(3, "bfloat16")
    reference, kernels = (
        Run(getattr(ft.optim, rule), device, "bfloat16", _start(), **kw).steps(gradients) for device in DEVICES
    )
    _equal(reference.values(), kernels.values())
    other = Run(getattr(ft.optim, rule), "reference", "bfloat16", _start(), **(kw | {"seed": 8})).steps(gradients)
    assert any(np.any(a != b) for a, b in zip(other.values(), reference.values(), strict=True))


def test_small_updates_are_not_lost() -> None:
    """A step of 1/16 unit in the last place, 64 times: nearest stays, stochastic moves as far as float32 would."""
    start, gradients = [np.ones((64, 64), np.float32)], [[np.full((64, 64), 2.0**-4, np.float32)]] * 64
    kw: dict[str, Any] = {"lr": 2.0**-8, "decays": lambda p: False}
    nearest = Run(ft.optim.SGD, "reference", "bfloat16", start, **kw).steps(gradients).values()[0]
    moved = Run(ft.optim.SGD, "reference", "bfloat16", start, rounding="stochastic", **kw).steps(gradients).values()[0]
    assert np.all(nearest == 1)
    spread = 2.0**-8 * np.sqrt(64 * 15 / 256)  # of one element: 64 times a unit with probability 1/16
    np.testing.assert_allclose(moved.mean(), 1 - 64 * 2.0**-12, atol=4 * spread / 64)
    assert np.unique(moved).size > 3


def test_equal_tensors_are_rounded_apart() -> None:
    start = [np.full((64,), 1.001, np.float32)] * 2
    run = Run(ft.optim.SGD, "reference", "bfloat16", start, lr=2.0**-9, rounding="stochastic")
    a, b = run.steps([[np.ones(64, np.float32)] * 2]).values()
    assert np.any(a != b)


@pytest.mark.parametrize("kw", [{"master": "float32", "ema": 0.9}, {"rounding": "stochastic"}])
def test_resumed_runs_are_equal(kw: dict[str, Any], tmp_path: Path) -> None:
    gradients = _gradients(6, "bfloat16")
    whole = Run(ft.optim.AdamW, "reference", "bfloat16", _start(), lr=0.01, **kw).steps(gradients)
    Run(ft.optim.AdamW, "reference", "bfloat16", _start(), lr=0.01, **kw).steps(gradients[:3]).state.save(
        tmp_path / "s"
    )
    again = Run(ft.optim.AdamW, "reference", "bfloat16", [a * 0 for a in _start()], lr=0.01, **kw)
    again.state.load(tmp_path / "s")
    assert again.steps(gradients[3:]).everything() == whole.everything()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kw", [{"master": "float32", "ema": 0.9}, {"rounding": "stochastic"}])
def test_a_step_that_is_not_finite_leaves_every_bit(kw: dict[str, Any], device: str) -> None:
    run = Run(ft.optim.AdamW, device, "bfloat16", _start(), lr=0.01, **kw).steps(_gradients(1, "bfloat16"))
    before = run.everything()
    bad = _gradients(1, "bfloat16")
    bad[0][2][0, 0] = np.nan
    assert run.steps(bad).everything() == before


# ---- moments in sixteen bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_short_moments_are_rounded_once_a_step(device: str) -> None:
    gradients = _gradients(4, "bfloat16")
    options: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1, "betas": (0.9, 0.99), "moment_dtype": "bfloat16"}
    run = Run(ft.optim.AdamW, device, "bfloat16", _start(), **options).steps(gradients)
    held = ft.bfloat16.numpy

    def rounded(a: np.ndarray) -> np.ndarray:
        return a.astype(np.float32).astype(held).astype(np.float64)

    for i, p in enumerate(rounded(a) for a in _start()):
        m, v, decay = np.zeros_like(p), np.zeros_like(p), 0.1 if p.ndim > 1 else 0.0
        for t, g in enumerate((arrays[i].astype(np.float64) for arrays in gradients), 1):
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g  # the step takes them as they are before rounding
            step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
            p = rounded(p * (1 - 0.05 * decay) - 0.05 * step)
            m, v = rounded(m), rounded(v)
        slots = run.optimizer.slots[run.weights[i]]
        assert [s.dtype for s in slots] == [ft.bfloat16, ft.bfloat16]
        for found, wanted in zip(run.values([run.weights[i], *slots]), (p, m, v), strict=True):
            # float32 arithmetic may round to the other neighbour, now and then
            np.testing.assert_allclose(found, wanted, rtol=2**-7, atol=1e-6)
            assert np.mean(found == wanted) > 0.9


def test_short_moments_halve_the_state() -> None:
    weights = [ft.parameter((8, 4), "bfloat16"), ft.parameter((3,), "float32")]
    usual = ft.optim.AdamW(weights)
    short = ft.optim.AdamW(weights, moment_dtype="bfloat16")
    assert usual.state_bytes - short.state_bytes == 2 * 2 * 32  # float32 parameters keep float32 moments
    fast = ft.optim.ScheduleFreeAdamW(weights, moment_dtype="bfloat16").slots[weights[0]]
    assert [s.dtype for s in fast] == [ft.float32, ft.bfloat16]  # the first is a weight
    with pytest.raises(ArgumentError, match="moment_dtype must be bfloat16, float32 or None, got float16"):
        ft.optim.AdamW(weights, moment_dtype="float16")
