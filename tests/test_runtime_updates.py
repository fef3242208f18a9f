"""Programs and State: who owns a parameter, updates that take effect together, bind."""

from __future__ import annotations

import numpy as np
import pytest
from regression import DEVICES, REFERENCE, Regression

from flame_triton.errors import ArgumentError, DeviceError, GraphError
from flame_triton.ops.leaf import full, parameter
from flame_triton.ops.leaf import input as make_input
from flame_triton.runtime.compile import compile
from flame_triton.runtime.device import Device
from flame_triton.runtime.state import State


@pytest.mark.parametrize("device", DEVICES)
def test_parameters_nobody_holds_get_a_state_of_their_own(device: str) -> None:
    held, loose = parameter((2,), name="held", init=1), parameter((2,), name="loose", init=5)
    state = State([held], device=device)
    f = compile(held + loose, state=state, updates={held: held + loose})
    assert f().tolist() == [6, 6] and f().tolist() == [11, 11]
    assert f.state is state and [s.names for s in f.states] == [("held",), ("loose",)]
    own = compile(loose * 2, updates={loose: loose + 1}, device=device)
    assert own().tolist() == [10, 10] and own().tolist() == [12, 12] and own.state["loose"].tolist() == [7, 7]
    assert compile(loose, device=device)().tolist() == [5, 5]


@pytest.mark.parametrize("device", DEVICES)
def test_a_parameter_listed_as_input_is_an_input(device: str) -> None:
    w = parameter((2,), name="w", init=5)
    assert compile(w + 1, [w], device=device)(np.ones(2, np.float32)).tolist() == [2, 2]
    state = State([w], device=device)
    assert compile(w + 1, [w], state=state)(np.ones(2, np.float32)).tolist() == [2, 2]
    assert state["w"].tolist() == [5, 5]


@pytest.mark.parametrize("device", DEVICES)
def test_all_updates_take_effect_together(device: str) -> None:
    a, b, c = (parameter((3,), name=name, init=i) for i, name in enumerate("abc"))
    state = State([a, b, c], device=device)
    swap = compile([a, b, c], state=state, updates={a: b, b: a})
    assert [t.tolist()[0] for t in swap()] == [0, 1, 2]
    assert (state["a"][0], state["b"][0], state["c"][0]) == (1, 0, 2)
    rotate = compile([a + b], state=state, updates={a: b, b: c, c: a})
    assert rotate()[0].tolist() == [1] * 3
    assert (state["a"][0], state["b"][0], state["c"][0]) == (0, 2, 1)
    chain = compile([a, b, c, a + 1], state=state, updates={a: a + 1, b: a, c: a + b})
    assert [t.tolist()[0] for t in chain()] == [0, 2, 1, 1]
    assert (state["a"][0], state["b"][0], state["c"][0]) == (1, 0, 2)
    same = compile([c], state=state, updates={a: c * 3, b: c * 3, c: c})
    assert same()[0].tolist() == [2] * 3
    assert (state["a"][0], state["b"][0], state["c"][0]) == (6, 6, 2)


@pytest.mark.parametrize("device", DEVICES)
def test_updates_from_views_and_inputs(device: str) -> None:
    a, x = parameter((2, 2), name="a", init=np.arange(4).reshape(2, 2)), make_input((2, 2), name="x")
    state = State([a], device=device)
    compile([], state=state, updates={a: a.T})()
    assert state["a"].tolist() == [[0, 2], [1, 3]]
    compile([], [x], state=state, updates={a: x})(np.ones((2, 2), np.float32))
    assert state["a"].tolist() == [[1, 1], [1, 1]]
    compile([], state=state, updates={a: full((2, 2), 7.0)})()
    assert state["a"].tolist() == [[7, 7], [7, 7]]


@pytest.mark.parametrize("device", DEVICES)
def test_bind_reads_one_parameter_for_another(device: str) -> None:
    x, w = make_input((2,), name="x"), parameter((2,), name="w", init=1)
    y = x * w
    ema, other = parameter((2,), name="ema", init=10), parameter((3,), name="other")
    state = State([w, ema, other], device=device)
    ones = np.ones(2, np.float32)
    assert compile(y, [x], state=state)(ones).tolist() == [1, 1]
    assert compile(y, [x], state=state, bind={w: ema})(ones).tolist() == [10, 10]
    both = compile([w, ema], state=state, bind={w: ema, ema: w}, updates={w: w + 1})
    assert [t.tolist() for t in both()] == [[10, 10], [1, 1]]
    assert state["w"].tolist() == [11, 11] and state["ema"].tolist() == [10, 10]
    for bind, message in [({w: other}, "types differ"), ({w: parameter((2,))}, "not in the state"), ({x: w}, "not in")]:
        with pytest.raises(GraphError, match=message):
            compile(y, [x], state=state, bind=bind)
    with pytest.raises(GraphError, match="not in the state"):
        compile(y, [x], bind={w: ema}, device=device)
    with pytest.raises(GraphError, match="bound and cannot be an input"):
        compile(y, [x, w], state=state, bind={w: ema})


def test_updates_that_do_not_fit() -> None:
    x, w = make_input((2,), name="x"), parameter((2,), name="w")
    state = State([w], device=REFERENCE)
    for updates, message in [
        ({x: w}, "keyed by parameters"),
        ({w: 3}, "must be a Value"),
        ({w: w.astype("bfloat16")}, r"cannot take a value of type bfloat16\[2\]"),
        ({w: w.reshape(2, 1)}, r"cannot take a value of type float32\[2, 1\]"),
        ({parameter((2,)): w}, "not in the state"),
    ]:
        with pytest.raises(GraphError, match=message):
            compile([], state=state, updates=updates)
    with pytest.raises(GraphError, match="cannot be an input as well"):
        compile([], [w], state=state, updates={w: w + 1})


def test_devices_and_dtypes_that_do_not_fit() -> None:
    x = make_input((2,), name="x")
    for dtype in ("float32", "int64"):
        with pytest.raises(ArgumentError, match="float64"):
            compile(x, [x], device=REFERENCE, dtype=dtype)
    state = State([parameter((2,))], device=REFERENCE)
    state.device = Device("cuda", 5)
    with pytest.raises(DeviceError, match="lives on cuda:5"):
        compile(x, [x], state=state, device=REFERENCE)
    with pytest.raises(DeviceError):
        compile(x, [x], device="tpu")


def test_a_state_in_host_memory_serves_both_cpu_executors() -> None:
    model = Regression(REFERENCE)
    assert model.step().device.kind == REFERENCE
    assert model.state.device == Device(REFERENCE)
