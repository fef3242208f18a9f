"""Programs on every executor: what goes in, what comes out, what is refused."""

from __future__ import annotations

import time

import ml_dtypes
import numpy as np
import pytest
import torch
from regression import DEVICES, KERNELS, REFERENCE, Regression, floats, numpy

from flame_triton.errors import GraphError, InputError
from flame_triton.ir.op import call
from flame_triton.ops.leaf import constant, full, parameter
from flame_triton.ops.leaf import input as make_input
from flame_triton.runtime import buffers
from flame_triton.runtime.compile import compile
from flame_triton.runtime.state import State


@pytest.mark.parametrize("device", DEVICES)
def test_a_few_steps_of_training(device: str) -> None:
    model = Regression(device)
    step = model.step()
    x, y = (a.astype(np.float64) for a in model.arrays)
    w, b = model.state["w"].astype(np.float64), np.zeros(3)
    for _ in range(4):
        error = x @ w + b - y
        assert float(step(*model.arrays)) == pytest.approx((error**2).mean(), rel=1e-5)
        w, b = w - 0.1 * x.T @ error * 2 / error.size, b - 0.1 * error.sum(0) * 2 / error.size
        assert np.allclose(model.state["w"], w, atol=1e-5) and np.allclose(model.state["b"], b, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_the_first_call_advances_the_state_once(device: str) -> None:
    n, x = parameter((3,), "int64", name="n"), make_input((3,), "int64", name="x")
    state = State([n], device=device)
    step = compile(n + x, [x], state=state, updates={n: n + x})
    for i in (1, 2, 3):
        assert step(np.array([1, 2, 3])).tolist() == [i, 2 * i, 3 * i] == state["n"].tolist()


@pytest.mark.parametrize("device", DEVICES)
def test_outputs_match_what_was_compiled(device: str) -> None:
    x = make_input((2,), name="x")
    array = floats(2)
    single = compile(x + 1, [x], device=device)(array)
    assert isinstance(single, torch.Tensor) and tuple(single.shape) == (2,)
    for outputs in ([x + 1], (x + 1, x * 2), []):
        results = compile(outputs, [x], device=device)(array)
        assert isinstance(results, list) and len(results) == len(outputs)
    assert compile(x.reshape(2, 1), [x], device=device)(array).shape == (2, 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool"])
def test_every_dtype_goes_in_and_out(device: str, dtype: str) -> None:
    x = make_input((3, 5), dtype, name="x")
    w = parameter((3, 5), dtype, name="w", init=1)
    array = (np.arange(15).reshape(3, 5) % 2).astype(x.dtype.numpy)
    f = compile([x.T, w, call("where", x.astype("bool"), x, w)], [x], device=device)
    for _ in range(2):
        transposed, weight, chosen = (numpy(t) for t in f(array))
        assert transposed.dtype == array.dtype and np.array_equal(transposed, array.T)
        assert np.array_equal(weight, np.ones((3, 5), array.dtype)) and np.array_equal(chosen, weight)


@pytest.mark.parametrize("device", DEVICES)
def test_outputs_are_fresh(device: str) -> None:
    """No output shares memory with an input, a parameter, another output or the next call's outputs."""
    x, w = make_input((4,), name="x"), parameter((4,), name="w", init=1)
    state = State([w], device=device)
    y = x + w
    f = compile([x, w, y, y, y.reshape(2, 2), w.reshape(2, 2)], [x], state=state)
    array = floats(4)
    first, second = f(array), f(array + 1)
    expected = [array, np.ones(4), array + 1, array + 1]
    for tensor in first + second:
        tensor.mul_(0)
    assert array.any() and state["w"].tolist() == [1] * 4
    for tensor, value in zip(f(array), expected, strict=False):
        assert np.array_equal(numpy(tensor), value)


@pytest.mark.parametrize("device", KERNELS)
def test_borrowed_outputs_are_overwritten_by_the_next_call(device: str) -> None:
    x = make_input((4,), name="x")
    f = compile(x * 2, [x], device=device)
    count = buffers.counter(f.device.memory)
    f(floats(4))
    handed = count.handed_out
    borrowed = f(floats(4), borrow=True)
    assert count.handed_out == handed
    assert np.array_equal(numpy(borrowed), 2 * floats(4))
    f(floats(4, seed=1))
    assert np.array_equal(numpy(borrowed), 2 * floats(4, seed=1))


@pytest.mark.parametrize("device", DEVICES)
def test_arrays_of_any_kind_and_strides(device: str) -> None:
    x = make_input((3, 4), name="x")
    f = compile(x * 2, [x], device=device)
    wide = floats(9, 8)
    frozen = wide[:3, :4].copy()
    frozen.setflags(write=False)
    for array in (wide[::3, ::2], wide[2::-1, 3::-1], wide[:4, :3].T, np.broadcast_to(wide[0, :4], (3, 4)), frozen):
        assert np.array_equal(numpy(f(array)), 2 * array)
    for tensor in (
        torch.from_numpy(wide)[::3, ::2],
        torch.from_numpy(wide)[:4, :3].T,
        torch.ones(3, 4).requires_grad_(),
    ):
        assert np.array_equal(numpy(f(tensor)), 2 * tensor.detach().numpy())
    assert np.array_equal(numpy(f(f(frozen))), 4 * frozen)
    assert np.array_equal(numpy(f(frozen.tolist())), 2 * frozen)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)])
def test_zero_sized_inputs(device: str, shape: tuple[int, ...]) -> None:
    x, w = make_input(shape, name="x"), parameter(shape, name="w")
    state = State([w], device=device)
    f = compile([x, x.sum()], [x], state=state, updates={w: x})
    empty, total = f(np.zeros(shape, np.float32))
    assert tuple(empty.shape) == shape and float(total) == 0


@pytest.mark.parametrize("device", DEVICES)
def test_programs_without_inputs_or_outputs(device: str) -> None:
    n = parameter((), "int64", name="n")
    state = State([n], device=device)
    tick = compile([], state=state, updates={n: n + 1})
    assert [tick(), tick()] == [[], []] and state["n"] == 2
    assert compile([], [], device=device)() == []
    assert compile(full((2,), 3.0), device=device)().tolist() == [3, 3]


@pytest.mark.parametrize("device", DEVICES)
def test_constants(device: str) -> None:
    x = make_input((2, 3), name="x")
    c = constant(np.arange(6, dtype=np.float32).reshape(2, 3))
    table = constant(np.array([1, 2, 3]), "bfloat16")
    for _ in range(2):
        f = compile([x + c, table], [x], device=device)
        total, copied = f(np.ones((2, 3), np.float32))
        assert np.array_equal(numpy(total), c.node.attrs["array"] + 1)
        assert numpy(copied).dtype == ml_dtypes.bfloat16 and numpy(copied).tolist() == [1, 2, 3]


# --- inputs that do not fit ---


@pytest.mark.parametrize("device", DEVICES)
def test_inputs_are_checked_before_anything_is_written(device: str) -> None:
    model = Regression(device)
    step, (x, y) = model.step(), model.arrays
    step(x, y)
    before = model.state["w"].tobytes()
    for arrays, message in [
        ((x,), r"takes 2 arrays, got 1; expected: input 'x' float32\[8, 5\], input 'y'"),
        ((x, y, y), "takes 2 arrays, got 3"),
        ((x[:3], y), r"input 'x' expects float32\[8, 5\], got float32\[3, 5\]"),
        ((x, y.astype(np.float64)), r"input 'y' expects float32\[8, 3\], got float64"),
        ((x, None), "input 'y' expects"),
        ((x, "y"), "input 'y' expects"),
    ]:
        with pytest.raises(InputError, match=message):
            step(*arrays)
        with pytest.raises(InputError, match=message):
            step.find_non_finite(*arrays)
    assert model.state["w"].tobytes() == before


def test_an_input_without_a_name_is_called_by_its_position() -> None:
    x, y = make_input((2,)), make_input((3,))
    with pytest.raises(InputError, match=r"input 1 expects float32\[3\]"):
        compile(x, [x, y], device=REFERENCE)(np.zeros(2, np.float32), np.zeros(2, np.float32))


@pytest.mark.parametrize("device", DEVICES)
def test_an_input_that_nothing_needs(device: str) -> None:
    x, unused = make_input((2,), name="x"), make_input((3,), "int64", name="unused")
    f = compile(x + 1, [unused, x], device=device)
    assert f(np.arange(3), np.ones(2, np.float32)).tolist() == [2, 2]
    with pytest.raises(InputError, match="unused"):
        f(np.arange(4), np.ones(2, np.float32))


def test_graphs_that_do_not_close() -> None:
    x, y = make_input((2,), name="x"), make_input((2,), name="y")
    with pytest.raises(GraphError, match=r"input 'y' float32\[2\] is needed but not listed.*\n.*test_runtime_program"):
        compile(x + y, [x], device=REFERENCE)
    with pytest.raises(GraphError, match="needed but not listed"):
        compile([], [], updates={parameter((2,)): x}, device=REFERENCE)


def test_inputs_that_clash() -> None:
    x = make_input((2,), name="x")
    with pytest.raises(GraphError, match="two inputs are named 'x'"):
        compile(x, [x, make_input((3,), name="x")], device=REFERENCE)
    with pytest.raises(GraphError, match="listed twice"):
        compile(x, [x, x], device=REFERENCE)
    unnamed = make_input((2,))
    with pytest.raises(GraphError, match="listed twice"):
        compile(unnamed, [unnamed, unnamed], device=REFERENCE)
    with pytest.raises(GraphError, match="must be inputs or parameters"):
        compile(x, [x + 1], device=REFERENCE)
    with pytest.raises(GraphError, match="got one Value"):
        compile(x, x, device=REFERENCE)  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="outputs must be Values"):
        compile([3], device=REFERENCE)  # type: ignore[list-item]
    compile(unnamed, [unnamed, make_input((2,))], device=REFERENCE)


# --- the reference executor ---


def test_the_oracle_computes_in_double_precision() -> None:
    x, w = make_input((2,), name="x"), parameter((2,), "bfloat16", name="w", init=1)
    state = State([w], device=REFERENCE)
    third = x / 3 + w
    f = compile([third, w], [x], state=state, updates={w: (w + x / 3).astype("bfloat16")}, dtype="float64")
    result, weight = f(np.array([1.0, 2.0]))
    assert result.dtype == weight.dtype == torch.float64
    assert np.allclose(numpy(result), [4 / 3, 5 / 3], rtol=1e-15)
    assert state["w"].dtype == ml_dtypes.bfloat16
    assert np.array_equal(state["w"], np.array([4 / 3, 5 / 3], ml_dtypes.bfloat16))
    f(np.ones(2, np.float32))
    with pytest.raises(InputError):
        f(np.ones(2, np.float16))


def test_a_call_of_the_reference_costs_little() -> None:
    """A small training step must not be dominated by the executor: about 100 us on an idle core."""
    model = Regression(REFERENCE)
    step = model.step()
    step(*model.arrays)
    start = time.process_time()  # not by the clock on the wall: tests run side by side
    for _ in range(200):
        step(*model.arrays)
    assert (time.process_time() - start) / 200 < 2e-3
