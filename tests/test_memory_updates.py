"""Updates inside the backward pass: the same bits, in place, right after each gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flame_triton as ft
from flame_triton import nn
from flame_triton.errors import ArgumentError
from flame_triton.graph.memory import plan_memory, verify_plan
from flame_triton.graph.plan import Schedule, Target
from flame_triton.ir.graph import Graph
from flame_triton.optim import streamed
from flame_triton.runtime.lower import lower

KERNELS = "interpreter" if ft.config.interpreted() else "cuda"
RULES = [
    ("AdamW", {"weight_decay": 0.1}),
    ("AdamW", {"ema": 0.9, "clip_value": 0.01}),
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("Lion", {"weight_decay": 0.1}),
]


class Model:
    """A chain of linear layers, its loss and its gradients."""

    def __init__(self, dtype: str = "float32", width: int = 24, layers: int = 3, rows: int = 16) -> None:
        made = [nn.Linear(width, width, dtype=dtype) for _ in range(layers)]
        self.x = ft.input((rows, width), dtype, name="x")
        value = self.x
        for layer in made:
            value = value + ft.tanh(layer(value))
        self.weights = [p for layer in made for p in layer.parameters()]
        self.loss = ft.mean(ft.square(ft.cast(value, "float32")))
        self.grads = ft.grad(self.loss, self.weights)

    def schedule(self, **options: Any) -> Schedule:
        optimizer = ft.optim.AdamW(self.weights, 1e-3, **options)
        made = lower(Graph((self.x,), (self.loss,)), optimizer.updates(self.grads), Target())
        plan_memory(made)
        verify_plan(made)
        return made

    def train(self, rule: str, steps: int, **options: Any) -> list[bytes]:
        optimizer = getattr(ft.optim, rule)(self.weights, 1e-2, **options)
        state = ft.State([*self.weights, *optimizer.state_values], seed=3, device=KERNELS)
        updates = optimizer.updates(self.grads)
        program = ft.compile(self.loss, [self.x], state=state, updates=updates, device=KERNELS)
        rng = np.random.default_rng(0)
        x = rng.standard_normal(self.x.shape).astype(self.x.dtype.numpy)
        losses = [program(x).cpu().numpy().tobytes() for _ in range(steps)]
        return [*losses, *(state[v].tobytes() for v in state.values)]


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_the_numbers_are_the_same_bits(rule: str, options: dict[str, Any], monkeypatch) -> None:
    monkeypatch.setattr(streamed, "SMALL", 1000)  # weights apart, biases together
    model = Model()
    assert model.train(rule, 2, **options) == model.train(rule, 2, fused_backward=True, **options)


def test_stochastic_rounding_draws_the_same_bits(monkeypatch) -> None:
    monkeypatch.setattr(streamed, "SMALL", 1000)
    model, options = Model("bfloat16"), {"rounding": "stochastic", "weight_decay": 0.1}
    assert model.train("AdamW", 2, **options) == model.train("AdamW", 2, fused_backward=True, **options)


def test_gradients_are_freed_as_they_are_used() -> None:
    model = Model(width=512, layers=8)
    plain, streams = model.schedule(), model.schedule(fused_backward=True)
    one = 512 * 512 * 4
    assert plain.arena_bytes >= 8 * one
    assert streams.arena_bytes <= 3 * one
    assert not streams.updates or sum(s.nbytes for s, _ in streams.updates) < 100  # large ones are written in place


def test_an_update_comes_after_the_last_reader_of_the_old_value() -> None:
    made = Model(width=512, layers=3).schedule(fused_backward=True)
    for i, launch in enumerate(made.launches):
        for slot in launch.writes:
            if slot.root.kind == "state" and slot.nbytes > 4096:
                assert not any(slot.root in later.reads for later in made.launches[i + 1 :])


@pytest.mark.parametrize("other", [{"clip_norm": 1.0}, {"clip_layer": 1.0}, {"skip_non_finite": True}])
def test_what_needs_every_gradient_is_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="fused_backward=True moves weights before the last gradient is known"):
        ft.optim.AdamW(Model().weights, 1e-3, fused_backward=True, **other)


def test_the_norm_is_not_there() -> None:
    model = Model()
    optimizer = ft.optim.AdamW(model.weights, 1e-3, fused_backward=True)
    optimizer.updates(model.grads)
    with pytest.raises(ArgumentError, match="grad_norm needs every gradient"):
        _ = optimizer.grad_norm


def test_a_step_that_is_not_finite_is_taken_if_skipping_is_off() -> None:
    w = ft.parameter((3,), "float32", name="w", init=1.0)
    optimizer = ft.optim.SGD([w], 0.1, skip_non_finite=False)
    state = ft.State([w, *optimizer.state_values], device="reference")
    x = ft.input((3,), "float32")
    ft.compile([], [x], state=state, updates=optimizer.updates([x]), device="reference")(
        np.array([np.inf, 1, 1], np.float32)
    )
    assert np.isneginf(state[w][0])
