"""Optimizers and schedules against torch's, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

import flame_triton as ft
from flame_triton.errors import ArgumentError

STEPS = 20


def _problem(dtype: str) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(6, 5), (6,), (3, 6)]
    weights = [rng.standard_normal(s).astype(dtype) for s in shapes]
    return weights, rng.standard_normal((7, 5)).astype(dtype), rng.standard_normal((7, 3)).astype(dtype)


def _ours(make: Callable, dtype: str, device: str) -> tuple[list[np.ndarray], list[float]]:
    start, x, t = _problem(dtype)
    w1, b1, w2 = (ft.parameter(a.shape, dtype, name=n, init=a) for n, a in zip(("w1", "b1", "w2"), start, strict=True))
    loss = ft.mean(ft.square(ft.linear(ft.tanh(ft.linear(ft.constant(x), w1, b1)), w2) - ft.constant(t)))
    optimizer = make([w1, b1, w2])
    updates = optimizer.updates(ft.grad(loss, [w1, b1, w2]))
    state = ft.State([w1, b1, w2, *optimizer.state_values], device=device)
    program = ft.compile([loss, optimizer.grad_norm], state=state, updates=updates, device=device)
    norms = [float(program()[1]) for _ in range(STEPS)]
    return [state[v] for v in (w1, b1, w2)], norms


def _theirs(make: Callable, dtype: str, clip: float | None) -> tuple[list[np.ndarray], list[float]]:
    start, x, t = _problem(dtype)
    params = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in start]
    optimizer = make(params)
    norms = []
    for _ in range(STEPS):
        h = torch.tanh(torch.from_numpy(x) @ params[0].T + params[1])
        loss = ((h @ params[2].T - torch.from_numpy(t)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(params, clip if clip else math.inf)))
        optimizer.step()
    return [p.detach().numpy() for p in params], norms


CASES = {
    "sgd": (lambda p: ft.optim.SGD(p, 0.1, decays=lambda _: True), lambda p: torch.optim.SGD(p, 0.1), None),
    "momentum": (
        lambda p: ft.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01, decays=lambda _: True, clip_norm=0.5),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
        0.5,
    ),
    "nesterov": (
        lambda p: ft.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
        None,
    ),
    "adamw": (
        lambda p: ft.optim.AdamW(p, 0.01, weight_decay=0.1, decays=lambda _: True, clip_norm=0.3),
        lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
        0.3,
    ),
}


@pytest.mark.parametrize("device", ["reference", "kernels"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_match_torch(case: str, dtype: str, device: str) -> None:
    ours, theirs, clip = CASES[case]
    where = "reference" if device == "reference" else "interpreter" if ft.config.interpreted() else "cuda"
    weights, norms = _ours(ours, dtype, where)
    expected, expected_norms = _theirs(theirs, dtype, clip)
    # float64: scalars (rate, bias correction, clip factor) are float32 in the graph, hence not 1e-15
    tolerance = 2e-6 if dtype == "float64" else 2e-5
    np.testing.assert_allclose(norms, expected_norms, rtol=tolerance)
    for got, want in zip(weights, expected, strict=True):
        assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < tolerance


def test_decay_spares_vectors_by_default() -> None:
    w, b = (ft.parameter(s, name=n, init=1.0) for s, n in (((2, 2), "w"), ((2,), "b")))
    optimizer = ft.optim.SGD([w, b], 1.0, weight_decay=0.5)
    zeros = [ft.zeros(w.shape), ft.zeros(b.shape)]
    state = ft.State([w, b, *optimizer.state_values], device="reference")
    ft.compile([], state=state, updates=optimizer.updates(zeros), device="reference")()
    assert np.all(state["w"] == 0.5) and np.all(state["b"] == 1.0)


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    w = ft.parameter((3,), name="w", init=1.0)
    x = ft.input((3,), name="x")
    optimizer = ft.optim.AdamW([w], 0.1, clip_norm=1.0, ema=0.9)
    updates = optimizer.updates(ft.grad(ft.sum(w * x), [w]))
    state = ft.State([w, *optimizer.state_values], device="reference")
    program = ft.compile([optimizer.skipped], [x], state=state, updates=updates, device="reference")
    assert float(program(np.ones(3, np.float32))[0]) == 0
    before = {n: state[n] for n in state.names}
    assert float(program(np.array([1, np.inf, 1], np.float32))[0]) == 1
    for name, array in before.items():
        np.testing.assert_array_equal(state[name], array)
    assert float(program(np.ones(3, np.float32))[0]) == 0 and int(state["optimizer.step"]) == 2


def test_average_follows_and_then_lags() -> None:
    w = ft.parameter((), name="w", init=0.0)
    optimizer = ft.optim.SGD([w], 1.0, ema=0.5)
    updates = optimizer.updates([ft.full((), -1.0, "float32")])
    state = ft.State([w, *optimizer.state_values], device="reference")
    program = ft.compile([], state=state, updates=updates, device="reference")
    weight = average = 0.0
    for t in range(12):
        program()
        weight += 1.0
        decay = min(0.5, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * weight
    np.testing.assert_allclose(float(state[optimizer.averages[w]]), average, rtol=1e-6)


def test_warmup_cosine_is_its_closed_form() -> None:
    step = ft.input((), "int64", name="step")
    rate = ft.optim.schedule.warmup_cosine(0.2, 100, warmup=10, floor=0.01)(step)
    for t in (0, 4, 9, 10, 11, 55, 99, 100, 1000):
        part = min(max((t - 10) / 90, 0), 1)
        want = 0.2 * (t + 1) / 10 if t < 10 else 0.01 + 0.5 * 0.19 * (1 + math.cos(math.pi * part))
        np.testing.assert_allclose(ft.evaluate(rate, {step: np.asarray(t)}), want, rtol=1e-6)


def test_bad_arguments_are_refused() -> None:
    w = ft.parameter((3,), name="w")
    with pytest.raises(ArgumentError, match="no parameters"):
        ft.optim.AdamW([], 0.1)
    with pytest.raises(ArgumentError, match="clip_norm"):
        ft.optim.AdamW([w], 0.1, clip_norm=0.0)
    with pytest.raises(ArgumentError, match="1 parameters but 2 gradients"):
        ft.optim.SGD([w], 0.1).updates([w, w])
    with pytest.raises(ArgumentError, match="AdamW: lr is there after updates"):
        _ = ft.optim.AdamW([w], 0.1).lr
    with pytest.raises(ArgumentError, match="nesterov"):
        ft.optim.SGD([w], 0.1, nesterov=True)
    with pytest.raises(ArgumentError, match="warmup"):
        ft.optim.schedule.warmup_cosine(0.1, 10, warmup=10)


def test_a_skipped_step_leaves_out_what_goes_with_it() -> None:
    w, x, count = ft.parameter((), name="w", init=1.0), ft.input((), name="x"), ft.parameter((), "int64", name="count")
    optimizer = ft.optim.SGD([w], 0.1, clip_norm=1.0)
    updates = optimizer.updates(ft.grad(w * x, [w]), also={count: count + 1})
    state = ft.State([w, count, *optimizer.state_values], device="reference")
    program = ft.compile([], [x], state=state, updates=updates, device="reference")
    for value, expected in ((1.0, 1), (math.nan, 1), (math.inf, 1), (2.0, 2)):
        program(np.float32(value))
        assert int(state["count"]) == expected
    np.testing.assert_allclose(state["w"], 1.0 - 2 * 0.1, rtol=1e-6)  # both gradients were clipped to 1


def test_bias_correction_is_exact_enough_after_many_steps() -> None:
    w = ft.parameter((2,), name="w", init=0.0)
    optimizer = ft.optim.AdamW([w], 1.0, weight_decay=0.0, eps=0.0)
    updates = optimizer.updates([ft.constant(np.array([3.0, -0.01], np.float32))])
    state = ft.State([w, *optimizer.state_values], device="reference")
    program = ft.compile([], state=state, updates=updates, device="reference")
    for step in (0, 1, 1000, 10**6):
        b1, b2 = 0.9 ** (step + 1), 0.999 ** (step + 1)  # moments as a constant gradient would have left them
        gradient = np.array([3.0, -0.01])
        state.set("optimizer.step", step)
        state.set("w", np.zeros(2, np.float32))
        state.set("optimizer.exp_avg.w", (gradient * (1 - b1 / 0.9)).astype(np.float32))
        state.set("optimizer.exp_avg_sq.w", (gradient**2 * (1 - b2 / 0.999)).astype(np.float32))
        program()
        np.testing.assert_allclose(state["w"], [-1.0, 1.0], rtol=1e-5)


def test_sixteen_bit_weights_have_float32_moments() -> None:
    w = ft.parameter((3,), "bfloat16", name="w", init=1.0)
    optimizer = ft.optim.AdamW([w], 0.25, weight_decay=0.0, ema=0.9)
    assert {v.dtype for v in optimizer.state_values} == {ft.int64, ft.float32}
    state = ft.State([w, *optimizer.state_values], device="reference")
    updates = optimizer.updates([ft.full((3,), 2.0, "bfloat16")])
    ft.compile([], state=state, updates=updates, device="reference")()
    assert state["w"].astype(np.float32).tolist() == [0.75] * 3


def test_all_tensors_of_a_group_are_one_node() -> None:
    model = ft.nn.Sequential(*(ft.nn.Linear(4, 4) for _ in range(5)))
    loss = ft.sum(model(ft.input((2, 4))))
    optimizer = ft.optim.AdamW(model.parameters(), 0.1, clip_norm=1.0, ema=0.9)
    updates = optimizer.updates(ft.grad(loss, model.parameters()))
    nodes = [n.op.name for n in ft.ir.graph.Graph((), tuple(updates.values())).nodes]
    assert nodes.count("foreach") == 1 and nodes.count("foreach_sum") == 1
