"""Optimizer state in pinned host memory: the same numbers, fewer bytes on the device."""

from __future__ import annotations

import numpy as np
import pytest

import flame_triton as ft
from flame_triton import nn
from flame_triton.errors import StateError
from flame_triton.runtime import buffers

KERNELS = "interpreter" if ft.config.interpreted() else "cuda"


class Model:
    def __init__(self, width: int = 160) -> None:
        layer = nn.Linear(width, width)
        self.x = ft.input((8, width), "float32", name="x")
        self.weights = layer.parameters()
        self.loss = ft.mean(ft.square(layer(self.x)))
        self.optimizer = ft.optim.AdamW(self.weights, 1e-2, ema=0.9)
        self.updates = self.optimizer.updates(ft.grad(self.loss, self.weights))

    def state(self, device: str, offload: bool) -> ft.State:
        values = self.optimizer.state_values
        return ft.State([*self.weights, *values], seed=1, device=device, offload=values if offload else ())

    def train(self, state: ft.State, steps: int = 3) -> tuple[list[bytes], int]:
        program = ft.compile(self.loss, [self.x], state=state, updates=self.updates, device=state.device)
        x = np.random.default_rng(0).standard_normal(self.x.shape).astype(np.float32)
        losses = [program(x) for _ in range(steps)]
        return [t.cpu().numpy().tobytes() for t in losses], program.peak_bytes


@pytest.mark.parametrize("device", ["reference", KERNELS])
def test_the_numbers_are_the_same_bits(device: str) -> None:
    model = Model()
    here, away = model.state(device, False), model.state(device, True)
    assert model.train(here)[0] == model.train(away)[0]
    for value in here.values:
        assert here[value].tobytes() == away[value].tobytes()


def test_the_peak_counts_what_is_on_the_device() -> None:
    model = Model()
    here, away = model.state(KERNELS, False), model.state(KERNELS, True)
    moments = 3 * buffers.rounded(160 * 160 * 4)
    assert away.offloaded_bytes == moments and here.offloaded_bytes == 0
    assert away.nbytes == here.nbytes - moments
    assert model.train(away, 1)[1] == model.train(here, 1)[1] - moments


def test_offloaded_state_is_saved_set_and_restored_like_any_other(tmp_path) -> None:
    model = Model()
    state = model.state(KERNELS, True)
    model.train(state, 1)
    before = state.snapshot()
    state.save(tmp_path / "state.safetensors")
    model.train(state, 1)
    assert any(state[n].tobytes() != before.arrays[n].tobytes() for n in state.names)
    state.load(tmp_path / "state.safetensors")
    assert all(state[n].tobytes() == before.arrays[n].tobytes() for n in state.names)


def test_small_values_stay() -> None:
    model = Model(width=16)
    assert model.state(KERNELS, True).offloaded_bytes == 0


def test_what_the_state_does_not_hold_cannot_be_offloaded() -> None:
    model = Model()
    with pytest.raises(StateError, match="offload lists"):
        ft.State(model.weights, device=KERNELS, offload=model.optimizer.state_values)
