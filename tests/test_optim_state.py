"""Mixed precision and training state: loss scaling, accumulation, averages that take the weights' place."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flame_triton as ft
from flame_triton.errors import ArgumentError, StateError
from flame_triton.optim import SGD, Accumulate, AdamW, LossScaler, ema_weights, save_averages
from flame_triton.runtime.checkpoint import Reader

KERNELS = "interpreter" if ft.config.interpreted() else "cuda"
DEVICES = ["reference", KERNELS]


# ---- loss scaling ----------------------------------------------------------------------------------------------


def _scaled_run(device: str, clip: float | None, **kw: Any) -> tuple[Any, ...]:
    """w * x with gradient x: (State, program of one step, scaler, optimizer, w)."""
    w, x = ft.parameter((3,), name="w", init=[1.0, -2.0, 3.0]), ft.input((3,), name="x")
    scaler = LossScaler(**kw)
    optimizer = AdamW([w], 0.1, weight_decay=0.0, clip_norm=clip, scaler=scaler)
    gradients = ft.grad(scaler.scaled(ft.sum(w * x)), [w])
    updates = optimizer.updates(gradients)
    state = ft.State([w, *optimizer.state_values], device=device)
    outputs = [optimizer.skipped, optimizer.grad_norm]
    return state, ft.compile(outputs, [x], state=state, updates=updates, device=device), scaler, optimizer, w


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("clip", [None, 0.7])
@pytest.mark.parametrize("factors", [(2.0, 0.5, 3), (1.7, 0.3, 2), (4.0, 0.25, 1)])
def test_the_scaler_is_torchs_step_by_step(device: str, clip: float | None, factors: tuple[float, float, int]) -> None:
    growth, backoff, interval = factors
    kw = {"growth_factor": growth, "backoff_factor": backoff, "growth_interval": interval}
    state, program, scaler, optimizer, w = _scaled_run(device, clip, scale=1024.0, **kw)
    theirs = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    adam = torch.optim.AdamW([theirs], 0.1, weight_decay=0.0)
    judge = torch.amp.GradScaler("cpu", init_scale=1024.0, **kw)
    rng = np.random.default_rng(0)
    bad = {3, 4, 9, 10, 11, 20}
    taken = 0
    for step in range(26):
        x = rng.standard_normal(3).astype(np.float32)
        if step in bad:
            x[step % 3] = (np.inf, np.nan, -np.inf)[step % 3]
        skipped, norm = (float(v) for v in program(x))
        adam.zero_grad()
        judge.scale((theirs * torch.from_numpy(x)).sum()).backward()
        judge.unscale_(adam)
        expected = float(torch.nn.utils.clip_grad_norm_([theirs], clip or math.inf))
        judge.step(adam)
        judge.update()
        assert skipped == (step in bad)
        taken += not skipped
        if not skipped:
            assert norm == pytest.approx(expected, rel=1e-6)
        assert np.float32(state[scaler.value]) == np.float32(judge.get_scale())
        assert int(state[scaler.good_steps]) == judge.state_dict()["_growth_tracker"]
        np.testing.assert_allclose(state[w], theirs.detach().numpy(), rtol=2e-6, atol=1e-6)
    assert int(state[optimizer.step]) == taken


def test_the_scale_stops_growing_at_the_largest_number() -> None:
    state, program, scaler, *_ = _scaled_run("reference", None, scale=2.0**126, growth_interval=1)
    for _ in range(3):
        program(np.full(3, 1e-30, np.float32))
    assert float(state[scaler.value]) == 2.0**127


def test_scaling_keeps_what_float16_would_lose() -> None:
    """A gradient of 2^-26 is zero in float16; scaled by 2^16 it arrives whole."""
    for scaler, arrives in ((None, False), (LossScaler(), True)):
        w, x = ft.parameter((2,), name="w", init=0.0), ft.input((2,), "float16")
        product = ft.cast(ft.cast(w, "float16") * x, "float32") * 2.0**-20
        loss = ft.sum(product)
        optimizer = SGD([w], 1.0, scaler=scaler)
        (g,) = ft.grad(scaler.scaled(loss) if scaler else loss, [w])
        state = ft.State([w, *optimizer.state_values], device="reference")
        ft.compile([], [x], state=state, updates=optimizer.updates([g]), device="reference")(
            np.full(2, 2.0**-6, np.float16)
        )
        assert np.all(state["w"] == (-(2.0**-26) if arrives else 0.0))


def test_scaler_arguments() -> None:
    for kw in ({"scale": 0.0}, {"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"growth_interval": 0}):
        with pytest.raises(ArgumentError, match="LossScaler"):
            LossScaler(**kw)  # type: ignore[arg-type]


def test_scaling_costs_no_launch_over_the_tensors() -> None:
    def launches(scaler: LossScaler | None) -> list[str]:
        w = [ft.parameter((4, 4), name=f"w{i}") for i in range(3)]
        g = [ft.input((4, 4), name=f"g{i}") for i in range(3)]
        optimizer = AdamW(w, 0.1, clip_norm=1.0, scaler=scaler)
        updates = optimizer.updates(g)
        state = ft.State([*w, *optimizer.state_values], device=KERNELS)
        program = ft.compile([optimizer.lr], g, state=state, updates=updates, device=KERNELS)
        return [launch.kernel.name for launch in program.launches if launch.kernel.name.startswith("foreach")]

    assert launches(LossScaler()) == launches(None) == ["foreach_sum", "foreach"]


# ---- accumulation ----------------------------------------------------------------------------------------------


class Micro:
    """Least squares by two layers, on batches of `rows`; all of it in one dtype."""

    def __init__(self, dtype: str, rows: int, device: str, wrap: Callable[[Any], Any], **kw: Any) -> None:
        rng = np.random.default_rng(5)
        self.w1 = ft.parameter((6, 4), dtype, name="w1", init=rng.standard_normal((6, 4)))
        self.b1 = ft.parameter((6,), dtype, name="b1", init=rng.standard_normal(6))
        self.w2 = ft.parameter((2, 6), dtype, name="w2", init=rng.standard_normal((2, 6)))
        self.weights = [self.w1, self.b1, self.w2]
        x, t = ft.input((rows, 4), dtype, name="x"), ft.input((rows, 2), dtype, name="t")
        loss = ft.mean(ft.square(ft.linear(ft.tanh(ft.linear(x, self.w1, self.b1)), self.w2) - t))
        scaler = kw.get("scaler")
        self.optimizer = wrap(AdamW(self.weights, ft.optim.schedule.linear(0.05, 10), **kw))
        gradients = ft.grad(scaler.scaled(loss) if scaler else loss, self.weights)
        self.state = ft.State([*self.weights, *self.optimizer.state_values], device=device)
        if isinstance(self.optimizer, Accumulate):
            self.step: Any = self.optimizer.compile(loss, gradients, [x, t], state=self.state, device=device)
        else:
            updates = self.optimizer.updates(gradients)
            self.step = ft.compile(loss, [x, t], state=self.state, updates=updates, device=device)

    def numbers(self) -> list[np.ndarray]:
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        return [self.state[v].astype(np.float64) for v in [*self.weights, *inner.state_values]]


def _batches(count: int, dtype: str) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(6)
    return [
        (rng.standard_normal((12, 4)).astype(dtype), rng.standard_normal((12, 2)).astype(dtype)) for _ in range(count)
    ]


def _run_micro(micro: Micro, every: int, batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> Micro:
    rows = 12 // every
    for x, t in batches:
        for i in range(every):
            micro.step(x[i * rows : (i + 1) * rows], t[i * rows : (i + 1) * rows])
    return micro


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("every", [1, 3, 4])
def test_accumulated_steps_are_the_big_batchs(device: str, every: int) -> None:
    """Clipping, averages, the loss scale and the schedule count steps, not micro-batches."""
    batches = _batches(4, "float64")

    def kw() -> dict[str, Any]:
        return {"clip_norm": 0.5, "ema": 0.9, "scaler": LossScaler(growth_interval=3)}

    whole = _run_micro(Micro("float64", 12, device, lambda o: o, **kw()), 1, batches)
    parts = _run_micro(Micro("float64", 12 // every, device, lambda o: Accumulate(o, every), **kw()), every, batches)
    for a, b in zip(parts.numbers(), whole.numbers(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    assert int(parts.state["optimizer.step"]) == 4 and float(parts.state["optimizer.loss_scale"]) == 2.0**17


@pytest.mark.parametrize("where", range(3))
def test_one_bad_micro_batch_skips_the_step_and_no_other(where: int) -> None:
    micro = Micro("float32", 4, "reference", lambda o: Accumulate(o, 3), scaler=LossScaler())
    before = {n: micro.state[n].copy() for n in ("w1", "b1", "w2", "optimizer.step")}
    (x, t), good = _batches(2, "float32")
    bad = x.copy()
    bad[where * 4, 0] = np.nan
    _run_micro(micro, 3, [(bad, t)])
    for name, array in before.items():
        np.testing.assert_array_equal(micro.state[name], array)
    assert float(micro.state["optimizer.loss_scale"]) == 2.0**15
    _run_micro(micro, 3, [good])
    assert int(micro.state["optimizer.step"]) == 1 and np.all(np.isfinite(micro.state["w1"]))


def test_a_step_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    (batch,) = _batches(1, "float32")
    pieces = [(batch[0][i : i + 4], batch[1][i : i + 4]) for i in (0, 4, 8)]
    whole = Micro("float32", 4, "reference", lambda o: Accumulate(o, 3))
    for piece in pieces:
        whole.step(*piece)
    first = Micro("float32", 4, "reference", lambda o: Accumulate(o, 3))
    for piece in pieces[:2]:
        first.step(*piece)
    first.state.save(tmp_path / "s.safetensors")
    again = Micro("float32", 4, "reference", lambda o: Accumulate(o, 3))
    again.state.load(tmp_path / "s.safetensors")
    again.step.rewind()
    assert again.step.ends_step
    again.step(*pieces[2])
    for a, b in zip(again.numbers(), whole.numbers(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sums_have_the_dtype_that_was_asked_for() -> None:
    w = ft.parameter((3, 2), "bfloat16", name="w")
    assert Accumulate(SGD([w], 0.1), 2).sums[w].dtype is ft.float32
    assert Accumulate(SGD([w], 0.1), 2, dtype="parameter").sums[w].dtype is ft.bfloat16
    for kw in ({"every": 0}, {"every": 2, "dtype": "float16"}):
        with pytest.raises(ArgumentError, match="Accumulate"):
            Accumulate(SGD([w], 0.1), **kw)


def test_a_products_gradient_is_added_where_it_is_computed() -> None:
    """No launch but the product itself writes the sum of a weight's gradient."""
    w, x = ft.parameter((32, 64), "bfloat16", name="w"), ft.input((16, 64), "bfloat16")
    loss = ft.sum(ft.cast(ft.square(ft.linear(x, w)), "float32"))
    plan = Accumulate(SGD([w], 0.1), 2)
    adds = plan.adds(ft.grad(loss, [w]))
    state = ft.State([w, *plan.state_values], device=KERNELS)
    program = ft.compile([], [x], state=state, updates=adds, device=KERNELS)
    products = [launch.label for launch in program.launches if launch.kernel.name == "matmul"]
    assert len(program.launches) == 3 and len(products) == 2, program.listing()  # forward, gradient + sum, count
    assert "where" in products[1] and "add" in products[1]


# ---- averages in the place of weights --------------------------------------------------------------------------


def _averaged(dtype: str, device: str, **kw: Any) -> tuple[ft.State, Any, list[Any]]:
    weights = [ft.parameter(s, dtype, name=n, init=0.5) for s, n in (((5, 3), "w"), ((7,), "b"))]
    optimizer = SGD(weights, 0.25, ema=0.9, **kw)
    gradients = [ft.input(w.shape, dtype) for w in weights]
    state = ft.State([*weights, *optimizer.state_values], device=device)
    program = ft.compile([], gradients, state=state, updates=optimizer.updates(gradients), device=device)
    rng = np.random.default_rng(0)
    for _ in range(3):
        program(*[rng.standard_normal(w.shape).astype(w.dtype.numpy) for w in weights])
    return state, optimizer, weights


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "kw"),
    [("float32", {}), ("bfloat16", {"master": "float32"}), ("bfloat16", {"rounding": "stochastic"}), ("float16", {})],
)
def test_averages_take_the_weights_place_and_leave_it(dtype: str, kw: dict[str, Any], device: str) -> None:
    state, optimizer, weights = _averaged(dtype, device, **kw)
    read = ft.compile(ft.cast(weights[0], "float32"), state=state, device=device)
    before = {n: state[n].tobytes() for n in state.names}
    expected = state[optimizer.averages[weights[0]]].astype(weights[0].dtype.numpy).astype(np.float32)
    assert np.any(read().cpu().numpy() != expected)
    for _ in range(2):
        with ema_weights(state, optimizer):
            np.testing.assert_array_equal(read().cpu().numpy(), expected)
        assert {n: state[n].tobytes() for n in state.names} == before
    with pytest.raises(RuntimeError, match="stop"), ema_weights(state, optimizer):
        raise RuntimeError("stop")
    assert {n: state[n].tobytes() for n in state.names} == before


def test_averages_are_entered_once_and_must_be_there() -> None:
    state, optimizer, weights = _averaged("float32", "reference")
    with ema_weights(state, optimizer):
        with pytest.raises(StateError, match="already"), ema_weights(state, optimizer):
            pass
        with pytest.raises(StateError, match=r"state\.save"):
            save_averages("never", state, optimizer)
    with pytest.raises(ArgumentError, match="no averages"), ema_weights(state, SGD(weights, 0.1)):
        pass


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_averages_are_saved_as_a_model(dtype: str | None, tmp_path: Path) -> None:
    state, optimizer, weights = _averaged("bfloat16", "reference", master="float32")
    before = copy.copy(state["w"])
    save_averages(tmp_path / "ema.safetensors", state, optimizer, dtype=dtype, metadata={"what": "ema"})
    with Reader(tmp_path / "ema.safetensors") as reader:
        assert set(reader.types) == {"w", "b"} and reader.metadata == {"what": "ema"}
        average = state[optimizer.averages[weights[0]]]
        expected = average if dtype else average.astype(ft.bfloat16.numpy)
        np.testing.assert_array_equal(reader.read("w").astype(np.float32), expected.astype(np.float32))
    np.testing.assert_array_equal(state["w"], before)
