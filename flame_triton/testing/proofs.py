"""What is to be shown about an op: its kernels against the float64 oracle, its gradients against differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import FlameError
from ..graph import show
from ..graph.decompose import decompose
from ..graph.evaluate import evaluate
from ..graph.pipeline import optimise
from ..graph.plan import Target
from ..ir.graph import Graph
from ..ir.op import Generator
from ..ir.verify import verify
from ..ops.leaf import constant
from ..types import FLOATS, DType, DTypeLike
from ..types import dtype as as_dtype
from .cases import Case
from .compare import TOLERANCE, assert_close
from .grads import check_grads
from .graphs import RandomGraph, random_graph


@dataclass(frozen=True)
class Finding:
    """The outcome of one proof. case: "name-number"; what: which proof; problem: empty if it holds."""

    case: str
    what: str
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem


def prove(cases: Iterable[Case], device: str | None = None) -> Iterator[Finding]:
    """Every proof of every case, as soon as it is known: the kernels in each floating dtype, values and gradients; the
    gradient and the second gradient against central differences. None raises: what goes wrong is a finding."""
    for case in cases:
        for dtype in FLOATS:
            yield _tried(case, f"kernels in {dtype}", lambda case=case, dtype=dtype: check_kernels(case, dtype, device))
        if differentiable(case):
            yield _tried(case, "gradient", lambda case=case: check_gradient(case, order=1))
            yield _tried(case, "second gradient", lambda case=case: check_gradient(case, order=2))


PROOFS = len(FLOATS) + 2
"""At most this many findings a case."""


def _tried(case: Case, what: str, proof: Callable[[], None]) -> Finding:
    try:
        proof()
    except (AssertionError, FlameError) as error:
        return Finding(str(case), what, str(error) or type(error).__name__)
    except Exception as error:  # a kernel, a reference or a rule of the user's own may raise anything
        return Finding(str(case), what, f"{type(error).__name__}: {error}")
    return Finding(str(case), what)


def check_kernels(case: Case, dtype: DTypeLike, device: str | None = None) -> None:
    """Raises AssertionError unless the case's values and gradients through the kernels agree with the oracle."""
    graph, arrays = case.with_gradients(dtype)
    want = evaluate(graph, dict(zip(graph.inputs, arrays, strict=True)))
    computed = max([as_dtype(dtype), *_drawn(graph)], key=TOLERANCE.__getitem__)
    for v, a, r in zip(graph.outputs, run_kernels(graph, arrays, device), want, strict=True):
        assert_close(a, r, v.dtype, tolerance=tolerance(v.dtype, computed), floor=case.floor)


def _drawn(graph: Graph) -> list[DType]:
    """The floating dtypes of the random draws in a graph: float32, whatever they become."""
    nodes = decompose(graph).nodes
    return [n.type.dtype for n in nodes if isinstance(n.op.lowering, Generator) and n.inputs and n.type.dtype.is_float]


def tolerance(result: DType, computed: DType) -> float | None:
    """A draw is float32 whatever the dtype of the rest, and so is what is made of it; integers agree exactly."""
    return max(TOLERANCE[computed], TOLERANCE[result]) if result.is_float else None


def run_kernels(graph: Graph, arrays: Iterable[np.ndarray], device: str | None = None) -> list[np.ndarray]:
    """The outputs through the kernels, on arrays that are cast to the inputs' dtypes; device: default this process's
    own, interpreter or cuda. 16-bit and 8-bit floats come back as float32."""
    from .. import config
    from ..runtime.compile import compile

    chosen = device or ("interpreter" if config.interpreted() else "cuda")
    program = compile(list(graph.outputs), list(graph.inputs), device=chosen)
    found = program(*(a.astype(v.dtype.numpy) for v, a in zip(graph.inputs, arrays, strict=True)))
    return [_as_numpy(t, v.dtype) for t, v in zip(found, graph.outputs, strict=True)]


def _as_numpy(tensor: Any, dtype: DType) -> np.ndarray:
    tensor = tensor.cpu()
    return np.asarray(tensor.float() if dtype.is_low_precision else tensor)


def differentiable(case: Case) -> bool:
    """True if there is a floating operand to differentiate, and a floating result."""
    return bool(case.wrt) and any(v.dtype.is_float for v in case.graph().outputs)


def check_gradient(case: Case, **options: Any) -> None:
    """check_grads in the arrays to be differentiated, the others held fixed."""
    arrays = case.arrays

    def fn(*values: Any) -> list[Any]:
        mixed: list[Any] = [constant(a) for a in arrays]
        for i, v in zip(case.wrt, values, strict=True):
            mixed[i] = v
        return case.call(*mixed)

    check_grads(fn, *(arrays[i] for i in case.wrt), **options)


# ---- random graphs ---------------------------------------------------------------------------------------------

LIMIT = 1e-9
"""Relative RMS error that a float64 graph may have against the oracle, relative to its largest element."""


@dataclass(frozen=True)
class GraphFinding:
    """The outcome for one random graph. size: moves, the fewest that fail; problem: empty if everything agrees; called:
    the functions in it; text: the graph, if it fails."""

    seed: int
    size: int
    called: tuple[str, ...]
    problem: str = ""
    text: str = ""


def prove_graphs(count: int, seed: int = 0, size: int = 6, device: str | None = None) -> Iterator[GraphFinding]:
    """`count` random graphs over the whole registry, forward and backward: well formed after every pass, equal to the
    oracle after the last one, and through the kernels. One that fails is made as small as it goes on failing."""
    for number in range(seed, seed + count):
        made = random_graph(number, size=size)
        problem = _graph_problem(made, device)
        if not problem:
            yield GraphFinding(number, size, tuple(made.called))
            continue
        shorter, size_found = made, size
        for fewer in range(1, size):
            candidate = random_graph(number, size=fewer)
            found = _graph_problem(candidate, device)
            if found:
                shorter, size_found, problem = candidate, fewer, found
                break
        yield GraphFinding(number, size_found, tuple(shorter.called), problem, show.text(shorter.graph))


def _graph_problem(made: RandomGraph, device: str | None) -> str:
    try:
        check_graph(made, device)
    except Exception as error:  # whatever a pass or a kernel raises is the finding
        return f"{type(error).__name__}: {error}"
    return ""


def check_graph(made: RandomGraph, device: str | None = None) -> None:
    """Raises GraphError if a pass makes an ill-formed graph, AssertionError if a result differs from the oracle."""
    graph = made.graph
    want = evaluate(graph, made.feeds)
    scale = max(1.0, *(float(np.abs(w).max(initial=0)) for w in want))
    for target in (Target(), Target(interpreted=True)):
        fused = optimise(graph, target=target, dump=lambda stage, staged: verify(staged, stage))
        _compare_all(evaluate(fused, made.feeds), want, scale, f"after the passes for sm_{target.arch}")
    _compare_all(run_kernels(graph, [made.feeds[v] for v in graph.inputs], device), want, scale, "through the kernels")


def _compare_all(found: Iterable[np.ndarray], want: Iterable[np.ndarray], scale: float, what: str) -> None:
    for i, (a, r) in enumerate(zip(found, want, strict=True)):
        assert_close(a, r, "float64", tolerance=LIMIT, floor=scale, what=f"output {i} {what}")
