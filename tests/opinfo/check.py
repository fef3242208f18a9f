"""One sample through ours and through torch in float64: values, gradients, dtypes and shapes; and refusals."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import flame_triton as ft
from flame_triton.errors import DTypeError, FlameError
from flame_triton.ir.graph import Graph
from flame_triton.testing import TOLERANCE, assert_close

from .adapter import Adapter, OutOfScope
from .adapters import ADAPTERS
from .adapters.accepted import accepted
from .draw import Drawn, as_array, op_db, samples, spread

FLOOR = 0.05
"""Results smaller than this are differences of larger ones: what was cancelled sets the scale."""

FLOORS = {"nn.functional.scaled_dot_product_attention": 1.0, "nn.functional.normalize": 1.0}
"""As FLOOR. Attention: the scores reach 200, so that softmax is saturated and its gradient is what is left of terms of
size 30 that cancel; flash attention subtracts a row sum where torch's dense backward subtracts equal terms. normalize
along an axis of length 1 gives a sign, whose gradient is what is left of terms that cancel."""

INEXACT = {
    **dict.fromkeys(("nn.functional.adaptive_avg", "nn.functional.interpolate/", "nn.functional.upsample"), 1e-7),
    "nn.functional.hardsigmoid": 1e-7,
}
"""Beginnings of names where float64 is not reached: the weights of windows and of interpolation are constants of the
graph's own dtype, here float32; torch's backward of hardsigmoid multiplies by a 1/6 rounded to float32."""

VALUES_ONLY = {
    "nn.functional.max_unpool1d": "two maxima at one place: torch gives both its whole gradient, we share it",
    "nn.functional.max_unpool2d": "as max_unpool1d",
    "nn.functional.max_unpool3d": "as max_unpool1d",
}
"""Whose gradients are not compared, and why. max_unpool1d/grad and its kin, without such places, are."""


@dataclass
class Tally:
    """What came of the samples of one name."""

    values: int = 0
    gradients: int = 0
    refused: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.values += other.values
        self.gradients += other.gradients
        self.refused += other.refused
        self.skipped += other.skipped
        self.failures += other.failures

    def __str__(self) -> str:
        left = f", {self.skipped.total()} out of scope" if self.skipped else ""
        return f"{self.values} samples, {self.gradients} with gradients, {self.refused} refusals{left}"


# ---- both sides ------------------------------------------------------------------------------------------------


@dataclass
class Problem:
    """A sample as our graph, and what torch finds: outputs, then the gradients for random cotangents."""

    graph: Graph
    arrays: list[np.ndarray]
    want: list[np.ndarray]  # torch in float64
    same: list[np.ndarray]  # torch in float32
    outputs: int

    @property
    def has_gradients(self) -> bool:
        return len(self.want) > self.outputs


def problem(name: str, adapter: Adapter, drawn: Drawn, gradients: bool) -> Problem:
    """Both sides of one sample. Raises OutOfScope, what our function raises, and AssertionError for types."""
    drawn.check()
    op = op_db()[name]
    values = drawn.values()
    outputs = drawn.ours(adapter, values)
    found, wrt = drawn.theirs(op, torch.float64)
    narrow, narrow_wrt = drawn.theirs(op, torch.float32)
    check_types(outputs, narrow)
    arrays = drawn.arrays()
    chosen = [i for i, t in enumerate(found) if t.requires_grad] if gradients and wrt else []
    want, same = [as_array(t) for t in found], [as_array(t) for t in narrow]
    if not chosen:
        return Problem(Graph(tuple(values), tuple(outputs)), arrays, want, same, len(outputs))
    rng = np.random.default_rng(len(arrays))
    seeds = [rng.standard_normal(outputs[i].shape).astype(outputs[i].dtype.numpy) for i in chosen]
    cotangents = [ft.input(outputs[i].shape, outputs[i].dtype) for i in chosen]
    ours = [v for v, t in zip(values, drawn.tensors, strict=True) if t.requires_grad]
    try:
        want += torch_grads([found[i] for i in chosen], wrt, seeds)
    except NotImplementedError:  # some say that they have a gradient, and do not
        return Problem(Graph(tuple(values), tuple(outputs)), arrays, want, same, len(outputs))
    grads = ft.grad([outputs[i] for i in chosen], ours, grad_output=cotangents, allow_unused=True)
    same += torch_grads([narrow[i] for i in chosen], narrow_wrt, seeds)
    graph = Graph((*values, *cotangents), (*outputs, *grads))
    return Problem(graph, [*arrays, *seeds], want, same, len(outputs))


def torch_grads(outputs: list[torch.Tensor], wrt: list[torch.Tensor], seeds: list[np.ndarray]) -> list[np.ndarray]:
    cotangents = [torch.from_numpy(s.astype(np.float64)).to(t.dtype) for s, t in zip(seeds, outputs, strict=True)]
    found = torch.autograd.grad(outputs, wrt, cotangents, allow_unused=True)
    return [as_array(torch.zeros_like(w) if g is None else g) for w, g in zip(wrt, found, strict=True)]


def check_types(ours: list[ft.Value], theirs: list[torch.Tensor]) -> None:
    """As many results as torch has, of the same shapes and dtypes."""
    a = [f"{v.dtype}{list(v.shape)}" for v in ours]
    r = [f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in theirs]
    assert a == r, f"results are {', '.join(a)}; torch's {', '.join(r)}"


# ---- comparing -------------------------------------------------------------------------------------------------


def by_reference(p: Problem) -> list[np.ndarray]:
    """The oracle: the references of the ops in float64."""
    return ft.evaluate(p.graph, dict(zip(p.graph.inputs, p.arrays, strict=True)))


def by_kernels(device: str) -> Callable[[Problem], list[np.ndarray]]:
    """Generated kernels, in the sample's own dtypes."""

    def run(p: Problem) -> list[np.ndarray]:
        program = ft.compile(list(p.graph.outputs), list(p.graph.inputs), device=device)
        return [as_array(t) for t in program(*p.arrays)]

    return run


def compare(p: Problem, got: list[np.ndarray], exact: bool, name: str) -> None:
    """exact: `got` was computed in float64. Raises AssertionError naming the output or gradient that differs."""
    floor = FLOORS.get(name, FLOOR)
    tolerance = next((t for beginning, t in INEXACT.items() if name.startswith(beginning)), None)
    for i, (value, a, want, same) in enumerate(zip(p.graph.outputs, got, p.want, p.same, strict=True)):
        what = f"result {i}" if i < p.outputs else f"gradient {i - p.outputs}"
        if not value.dtype.is_float:
            assert_close(a, want, value.dtype, what=what)
        elif exact:
            # torch rounds what passes through 16 bits, the oracle does not
            held = next((v.dtype for v in p.graph.outputs if v.dtype.is_low_precision), "float64")
            assert_close(a, want, held, tolerance=tolerance, floor=floor, what=what)
        else:
            compare_narrow(a, want, same, value.dtype, floor, what)


def compare_narrow(a: np.ndarray, want: np.ndarray, same: np.ndarray, dtype: ft.DType, floor: float, what: str) -> None:
    """By the table, or if torch in the same dtype is no better: at most twice its worst error, and one ulp."""
    with np.errstate(over="ignore"):
        want = want.astype(dtype.numpy).astype(np.float64)
    try:
        assert_close(a, want, dtype, tolerance=TOLERANCE[dtype], floor=floor, what=what)
    except AssertionError:
        a, same = a.astype(np.float64), same.astype(np.float64)
        alike = (np.isnan(a) & np.isnan(same)) | (np.isinf(a) & (a == same))
        there = np.isfinite(a) & np.isfinite(want)
        if a.shape != want.shape or not (alike | there).all():
            raise
        limit = 2 * np.abs(same - want)[there & np.isfinite(same)].max(initial=0)
        if np.abs(a - want)[there].max(initial=0) > limit + dtype.eps * np.abs(want[there]).max(initial=0):
            raise


# ---- all samples of one name -----------------------------------------------------------------------------------


def run_sample(
    name: str, adapter: Adapter, drawn: Drawn, run: Callable[[Problem], Any], exact: bool, tally: Tally
) -> None:
    """One sample, its outcome entered in the tally."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            p = problem(name, adapter, drawn, gradients=name not in VALUES_ONLY)
            compare(p, run(p), exact, name)
        except OutOfScope as reason:
            tally.skipped[str(reason)] += 1
        except DTypeError as error:
            kinds = {t.dtype for t in drawn.tensors}
            if any(k.is_floating_point for k in kinds):
                tally.failures.append(f"{name}{drawn}: {error}")
            else:  # documented: some functions are for floats alone, or not for bool
                tally.skipped["refused by its dtypes: " + ", ".join(sorted(map(str, kinds)))] += 1
        except Exception as error:  # a crash of any kind is a failure of this sample alone
            tally.failures.append(f"{name}{drawn}: {type(error).__name__}: {error}")
        else:
            tally.values += 1
            tally.gradients += p.has_gradients


def drawn_for(name: str, most: int) -> list[Drawn]:
    """float32 samples with gradients, up to `most`, and a few of int64 and bool where torch takes these."""
    few, static = max(1, most // 10), ADAPTERS[name].static
    return [
        *spread(samples(name, torch.float32, True, static), most),
        *spread(samples(name, torch.int64, False, static), few),
        *spread(samples(name, torch.bool, False, static), few),
    ]


def smallest(name: str, limit: int) -> list[Drawn]:
    """The float32 samples (int64, if there are none) of at most `limit` elements, smallest first."""
    static = ADAPTERS[name].static
    found = samples(name, torch.float32, True, static) or samples(name, torch.int64, False, static)
    return sorted((d for d in found if 0 < d.size <= limit or not d.tensors), key=lambda d: d.size)


# ---- refusals --------------------------------------------------------------------------------------------------


def run_refusals(name: str, adapter: Adapter, tally: Tally) -> None:
    """Every ErrorInput that concerns us must raise a FlameError that names the op and the line of the adapter."""
    op = op_db().get(name)
    if op is None or op.error_inputs_func is None:
        return
    for error_input in op.error_inputs("cpu"):
        drawn = Drawn.of(error_input.sample_input, adapter.static)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                drawn.check()
                call_refused(op, adapter, drawn, str(error_input.error_regex))
            except OutOfScope as reason:
                tally.skipped[str(reason)] += 1
            except AssertionError as error:
                reason = accepted(name, str(drawn)) if "accepted" in str(error) else None
                if reason is None:
                    tally.failures.append(f"{name}{drawn}: {error}")
                else:
                    tally.skipped[reason] += 1
            else:
                tally.refused += 1


def call_refused(op: Any, adapter: Adapter, drawn: Drawn, regex: str) -> None:
    try:
        drawn.theirs(op, torch.float32)
    except Exception as error:
        torch_says = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        raise OutOfScope("torch itself accepts it")
    try:
        drawn.ours(adapter, drawn.values())
    except FlameError as error:
        assert error.op, f"{type(error).__name__} without the op's name: {error}"
        assert error.loc is not None and "opinfo" in error.loc.file, f"{error!r} does not name the user's line"
    except OutOfScope:
        raise
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}; torch refuses it: {torch_says}") from error
    else:
        raise AssertionError(f"accepted, though torch refuses it: {torch_says}")


# ---- everything ------------------------------------------------------------------------------------------------


def run_name(name: str, device: str, most: int) -> tuple[str, Tally, float]:
    """All samples of one name on a device, at most `most` of them in float32, and its refusals; seconds taken."""
    start = time.perf_counter()
    tally = Tally()
    run = by_reference if device == "reference" else by_kernels(device)
    for drawn in drawn_for(name, most):
        run_sample(name, ADAPTERS[name], drawn, run, device == "reference", tally)
    run_refusals(name, ADAPTERS[name], tally)
    return name, tally, time.perf_counter() - start
