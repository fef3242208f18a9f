"""What programs say about themselves: listings, and where a NaN comes from."""

from __future__ import annotations

import numpy as np
import pytest
from regression import DEVICES, KERNELS, REFERENCE, Regression, floats

from flame_triton.graph.autodiff import grad
from flame_triton.ir.op import call
from flame_triton.ops.leaf import input as make_input
from flame_triton.ops.leaf import parameter
from flame_triton.runtime.compile import compile
from flame_triton.runtime.state import State
from flame_triton.types import TensorType, float32


@pytest.mark.parametrize("device", KERNELS)
def test_the_listing_says_what_runs(device: str) -> None:
    step = Regression(device).step()
    text = step.listing()
    lines = text.splitlines()
    assert lines[0].startswith(f"{len(step.launches)} launches of {step.distinct_kernels} kernels on {step.device}")
    assert f"peak {step.peak_bytes:,} B: arena" in text
    assert sum("regression.py:" in line for line in lines) == len(step.launches)
    for word in ("matmul", "float32[5, 3]", "state", "gradient of", "grid"):
        assert word in text
    assert 0 < step.distinct_kernels <= len(step.launches)
    assert f"{len(step.launches)} launches" in repr(step)


def test_the_listing_of_the_reference() -> None:
    step = Regression(REFERENCE).step()
    assert "matmul" in step.listing() and "regression.py:" in step.listing()
    assert f"peak {step.peak_bytes:,} B" in step.listing()
    assert len(step.launches) == step.distinct_kernels == 0


@pytest.mark.parametrize("device", DEVICES)
def test_the_first_non_finite_value_is_named(device: str) -> None:
    x, w = make_input((4,), name="x"), parameter((4,), name="w", init=1)
    state = State([w], device=device)
    y = call("log", x + w)
    loss = call("mean", y * 2)
    f = compile(loss, [x], state=state, updates={w: w - grad(loss, [w])[0]})
    assert f.find_non_finite(np.ones(4, np.float32)) is None
    found = f.find_non_finite(np.array([1, -2, -1, 0], np.float32))
    assert found is not None
    assert found.op == "log" and (found.nan, found.inf) == (1, 1) and found.type == TensorType((4,), float32)
    assert found.loc == y.node.loc and not found.inputs_non_finite and found.reaches_output
    assert "log makes 1 NaN and 1 infinite of 4 elements" in str(found) and "from finite operands" in str(found)
    assert state["w"].tolist() == [1] * 4, "the state is left as it is"
    given = f.find_non_finite(np.array([1, np.nan, 1, 1], np.float32))
    assert given is not None and given.inputs_non_finite and given.given
    assert "input 'x' holds 1 NaN" in str(given)
    assert float(f(np.zeros(4, np.float32))) == 0


@pytest.mark.parametrize("device", DEVICES)
def test_non_finite_parameters_and_masks(device: str) -> None:
    x, w = make_input((4,), name="x"), parameter((4,), name="w", init=1)
    state = State([w], device=device)
    f = compile(call("exp", x * w).sum(), [x], state=state)
    overflow = f.find_non_finite(np.full(4, 100, np.float32))
    assert overflow is not None and overflow.op == "exp" and overflow.inf == 4
    state.set(w, np.full(4, np.inf, np.float32))
    found = f.find_non_finite(np.ones(4, np.float32))
    assert found is not None and found.op == "parameter" and found.given


@pytest.mark.parametrize("device", DEVICES)
def test_infinities_that_reach_no_output_are_said_to_be_harmless(device: str) -> None:
    x, w = make_input((8, 8), name="x"), make_input((8, 8), name="w")
    low = call("where", x > 0, x, -np.inf)
    harmless = compile(call("exp", low).sum(), [x], device=device).find_non_finite(floats(8, 8))
    assert harmless is None, "a mask of infinities is no fault"
    f = compile(call("minimum", x @ w, 1.0) @ w, [x, w], device=device)
    found = f.find_non_finite(np.full((8, 8), 1e30, np.float32), np.full((8, 8), 1e20, np.float32))
    assert found is None or (not found.reaches_output and "all outputs are finite" in str(found))


@pytest.mark.parametrize("device", DEVICES)
def test_overflow_is_blamed_for_the_nan_it_becomes(device: str) -> None:
    x = make_input((8, 8), name="x")
    big = call("exp", x) @ call("exp", x)
    f = compile([(big - big * 2).sum()], [x], device=device)
    found = f.find_non_finite(np.full((8, 8), 60, np.float32))
    assert found is not None and found.inf == 64 and found.nan == 0 and not found.inputs_non_finite
    assert found.loc.line == big.node.loc.line


@pytest.mark.parametrize("device", DEVICES)
def test_the_op_inside_a_fused_kernel_is_named(device: str) -> None:
    x, w = make_input((8, 8), name="x"), make_input((8, 8), name="w")
    root = call("sqrt", x @ w - 100)
    f = compile([call("mean", root * 3 + 1)], [x, w], device=device)
    found = f.find_non_finite(np.ones((8, 8), np.float32), np.ones((8, 8), np.float32))
    assert found is not None and found.op == "sqrt" and found.loc == root.node.loc and found.nan == 64


@pytest.mark.parametrize("device", DEVICES)
def test_a_nan_made_from_given_infinities_names_both(device: str) -> None:
    x = make_input((8, 8), name="x")
    y = call("exp", x)
    f = compile([call("sum", y - y * 2)], [x], device=device)
    found = f.find_non_finite(np.full((8, 8), np.inf, np.float32))
    assert found is not None and found.inputs_non_finite and found.cause is not None
    assert found.nan == 64 or found.op == "sum"
    assert "from input 'x' holds 64 infinite" in str(found)
