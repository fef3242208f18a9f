"""Modules: names, what counts as a parameter, and state dicts."""

from __future__ import annotations

import numpy as np
import pytest

import flame_triton as ft
from flame_triton.errors import StateError
from flame_triton.nn import Module, Parameter


class Net(Module):
    def __init__(self) -> None:
        self.scale = Parameter((3,), ft.nn.init.ones)
        self.count = Parameter((), 0, "int64", trainable=False)
        self.blocks = [ft.nn.Linear(3, 3), ft.nn.Linear(3, 3, bias=False)]
        self.heads = {"left": ft.nn.Linear(3, 2), "right": ft.nn.Linear(3, 2)}
        self.note = "not a module"

    def forward(self, x: ft.Value) -> ft.Value:
        for block in self.blocks:
            x = block(x) * self.scale
        return self.heads["left"](x) + self.heads["right"](x)


NAMES = ["scale", "blocks.0.weight", "blocks.0.bias", "blocks.1.weight"]
NAMES += [f"heads.{side}.{part}" for side in ("left", "right") for part in ("weight", "bias")]


def test_parameters_are_named_by_their_path() -> None:
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [p.name for p in net.parameters()] == NAMES
    assert [name for name, _ in net.named_parameters(None)] == [NAMES[0], "count", *NAMES[1:]]
    assert [v.name for v in net.parameters(trainable=False)] == ["count"]


def test_calling_declares_and_shares() -> None:
    net = Net()
    y = net(ft.input((4, 3)))
    z = net(ft.input((2, 3)))
    assert y.shape == (4, 2) and z.shape == (2, 2)
    needed = {n.out for n in ft.ir.graph.Graph((), (y, z)).nodes if n.op.name == "parameter"}
    assert needed == set(net.parameters())


def test_a_module_used_twice_counts_once() -> None:
    class Tied(Module):
        def __init__(self) -> None:
            self.a = ft.nn.Linear(3, 3)
            self.b = self.a

        def forward(self, x: ft.Value) -> ft.Value:
            return self.b(self.a(x))

    assert [name for name, _ in Tied().named_parameters()] == ["a.weight", "a.bias"]


def test_sequential_names_by_position() -> None:
    model = ft.nn.Sequential(ft.nn.Linear(3, 5), ft.nn.Linear(5, 2))
    assert model(ft.input((4, 3))).shape == (4, 2)
    assert [n for n, _ in model.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_two_bare_layers_live_in_one_state() -> None:
    first, second = ft.nn.Linear(3, 4), ft.nn.Linear(4, 2)
    x = ft.input((5, 3))
    y = second(first(x))
    state = ft.State([*first.parameters(), *second.parameters()], device="reference")
    assert state.names == ("weight", "bias", "weight_1", "bias_1")
    assert state[second.weight].shape == (2, 4)
    program = ft.compile(y, [x], device="reference")  # with a State of its own
    assert program(np.ones((5, 3), np.float32)).shape == (5, 2)
    ft.compile(y, [x, *first.parameters(), *second.parameters()], device="reference")


def test_names_that_the_user_chose_may_not_coincide() -> None:
    layer, own = ft.nn.Linear(3, 4), ft.parameter((2,), name="weight")
    assert ft.State([*layer.parameters(), own], device="reference").names == ("weight_1", "bias", "weight")
    with pytest.raises(StateError, match="two parameters are named 'weight'"):
        ft.State([own, ft.parameter((2,), name="weight")], device="reference")


def test_two_optimizers_live_in_one_state() -> None:
    layers = [ft.nn.Linear(3, 3), ft.nn.Linear(3, 3)]
    optimizers = [ft.optim.AdamW(layer.parameters(), 0.1) for layer in layers]
    values = [
        v for layer, opt in zip(layers, optimizers, strict=True) for v in (*layer.parameters(), *opt.state_values)
    ]
    assert len(set(ft.State(values, device="reference").names)) == len(values)


def test_state_dict_round_trip() -> None:
    net = Net()
    first = ft.State(net.parameters(None), seed=1, device="reference")
    second = ft.State(net.parameters(None), seed=2, device="reference")
    stored = net.state_dict(first)
    assert set(stored) == {*NAMES, "count"}
    assert (second["blocks.0.weight"] != stored["blocks.0.weight"]).any()
    net.load_state_dict(second, {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in stored.items()})
    for name, array in stored.items():
        np.testing.assert_array_equal(second[name], array)


def test_a_state_dict_that_does_not_fit_is_listed_and_refused() -> None:
    net = Net()
    state = ft.State(net.parameters(None), device="reference")
    before = net.state_dict(state)
    broken = {**before, "scale": np.zeros(4), "extra": np.zeros(1)}
    del broken["count"]
    with pytest.raises(
        StateError, match=r"(?s)missing: count.*unexpected: extra.*scale: shape \(4,\), expected \(3,\)"
    ):
        net.load_state_dict(state, broken)
    np.testing.assert_array_equal(state["scale"], before["scale"])
    net.load_state_dict(state, {"scale": np.full(3, 2.0), "extra": np.zeros(1)}, strict=False)
    assert (state["scale"] == 2).all()


def test_the_same_seed_gives_the_same_weights() -> None:
    first, again, other = (
        ft.State(Net().parameters(None), seed=seed, device="reference")["blocks.0.weight"] for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first, again)
    assert (other != first).any()


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(TypeError, match="Empty defines no forward"):
        type("Empty", (Module,), {})()()


def test_parameters_start_from_what_they_are_told() -> None:
    net = Net()
    net.start_from({"blocks.1.weight": np.full((3, 3), 7.0), "count": 4})
    state = ft.State(net.parameters(None), device="reference")
    assert (state["blocks.1.weight"] == 7).all() and state["count"] == 4
    assert (state["scale"] == 1).all() and state["blocks.0.weight"].std() > 0
    with pytest.raises(StateError, match=r"no parameters to be made are called blocks.2.weight, heads"):
        Net().start_from({"blocks.2.weight": 0, "scale": 0, "heads": 0})
    with pytest.raises(StateError, match="are called scale"):
        net.start_from({"scale": 0})  # it has been made
