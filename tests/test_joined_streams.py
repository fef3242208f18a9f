"""Joint attention's streams: one kernel norms, turns and joins the queries and keys of text and image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import flame_triton as ft
from flame_triton import Value, config
from flame_triton.graph.evaluate import evaluate
from flame_triton.graph.pipeline import optimise
from flame_triton.graph.plan import Launch, Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.lower import lower
from flame_triton.testing import assert_close

DEVICE = "interpreter" if config.interpreted() else "cuda"
STREAMS = ("txt", "img")


def projected(name: str, batch: int, tokens: int, heads: int, width: int, packed: bool, dtype: str) -> list[Value]:
    """q, k and v [B, T, H, D] as a projection leaves them."""
    if packed:
        whole = ft.input((batch, tokens, 3, heads, width), dtype, name=name)
        return [whole[:, :, i] for i in range(3)]
    return [ft.input((batch, tokens, heads, width), dtype, name=f"{name}.{part}") for part in "qkv"]


def joined(
    batch: int, tokens: Sequence[int], heads: int, width: int, packed: bool, style: str, dtype: str = "bfloat16"
) -> list[Value]:
    """q, k and v [B, H, T, D] as attention takes them. style: "sd3" joins before it takes heads first, "flux" after,
    and turns what is joined."""
    streams: list[list[Value]] = []
    for name, length in zip(STREAMS, tokens, strict=True):
        q, k, v = projected(name, batch, length, heads, width, packed, dtype)
        q, k = (
            ft.rms_norm(x, width, ft.input((width,), dtype, name=f"{name}.{n}"), 1e-6)
            for x, n in ((q, "nq"), (k, "nk"))
        )
        streams.append([q, k, v])
    if style == "sd3":
        return [ft.transpose(ft.concat(parts, 1), (0, 2, 1, 3)) for parts in zip(*streams, strict=True)]
    first = [[ft.transpose(x, (0, 2, 1, 3)) for x in stream] for stream in streams]
    q, k, v = (ft.concat(parts, 2) for parts in zip(*first, strict=True))
    cos, sin = (ft.input((sum(tokens), width // 2), "float32", name=n) for n in ("cos", "sin"))
    return [ft.apply_rotary_emb(q, cos, sin), ft.apply_rotary_emb(k, cos, sin), v]


def leaves(outputs: Sequence[Value]) -> list[Value]:
    return [n.out for n in Graph((), tuple(outputs)).nodes if n.op.name == "input"]


def generated(outputs: Sequence[Value]) -> list[Launch]:
    """The generated kernels of a graph, lowered for sm_90."""
    launches = lower(Graph(tuple(leaves(outputs)), tuple(outputs)), {}, Target()).launches
    return [launch for launch in launches if launch.kernel.source]


def backward(outputs: Sequence[Value]) -> list[Value]:
    """The gradients of everything but the tables."""
    seeds = [ft.input(v.shape, v.dtype, name=f"g{i}") for i, v in enumerate(outputs)]
    wrt = [v for v in leaves(outputs) if v.name not in ("cos", "sin")]
    return ft.grad(list(outputs), wrt, grad_output=seeds)


@pytest.mark.parametrize("style", ["sd3", "flux"])
@pytest.mark.parametrize("batch", [1, 2])
def test_packed_projections_are_read_once(style: str, batch: int) -> None:
    """Norms, turns and all three joins are one launch, which moves every byte once."""
    outputs = joined(batch, (77, 1024), 6, 64, True, style)
    (launch,) = generated(outputs)
    moved = sum(s.nbytes for s in (*launch.reads, *launch.writes))
    assert moved == sum(v.type.nbytes for v in (*leaves(outputs), *outputs))


@pytest.mark.parametrize(("style", "count"), [("sd3", 3), ("flux", 2)])
def test_separate_projections(style: str, count: int) -> None:
    """Queries and keys share a kernel where they share the tables; values are one pass."""
    assert len(generated(joined(2, (77, 1024), 6, 64, False, style))) == count


@pytest.mark.parametrize("style", ["sd3", "flux"])
def test_a_step_of_packed_projections(style: str) -> None:
    """Forward one launch, backward for each stream one and the sum of the weights' partial gradients."""
    q, k, v = joined(2, (512, 1024), 6, 64, True, style)
    # what attention does to them, here in one kernel that nothing can join
    o = ft.cumsum(q * 2, 2) + ft.cumsum(k, 2) + ft.cumsum(v, 2)
    made = lower(Graph(tuple(leaves([o])), (o,)), {}, Target()).launches
    assert len([n for n in made if "square" in n.label]) == 1
    gradients = backward([q, k, v])
    assert len(generated(gradients)) <= 6, [n.label for n in generated(gradients)]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("style", ["sd3", "flux"])
@pytest.mark.parametrize("tokens", [(3, 9), (1, 1), (1, 24), (7, 4)], ids=str)
def test_numbers(style: str, tokens: tuple[int, int], packed: bool) -> None:
    """Forward and backward through the passes for a device and through kernels, against float64."""
    outputs = joined(2, tokens, 3, 32, packed, style, "float32")
    results = [*outputs, *backward(outputs)]
    inputs = leaves(results)
    rng = np.random.default_rng(0)
    feeds = {v: rng.standard_normal(v.shape) for v in inputs}
    want = evaluate(results, feeds)
    graph = optimise(Graph(tuple(inputs), tuple(results)))
    for v, a, r in zip(results, evaluate(graph, feeds), want, strict=True):
        assert_close(a, r, "float64", tolerance=1e-11, floor=1.0, what=repr(v))
    program = ft.compile(results, inputs, device=DEVICE)
    for v, a, r in zip(results, program(*(feeds[v].astype(np.float32) for v in inputs)), want, strict=True):
        assert_close(a.cpu().numpy(), r, "float32", tolerance=1e-5, floor=1.0, what=repr(v))


CONCATS: dict[str, Any] = {
    "statistics alone": lambda a, b: ft.concat([ft.mean(a, (1, 2)), ft.mean(b, (1, 2))], 0),
    "different ops": lambda a, b: ft.concat([ft.softmax(a), ft.relu(b)], 1),
    "along the normed axis": lambda a, b: ft.concat([ft.softmax(a), ft.softmax(b)], 2),
    "along another axis": lambda a, b: ft.concat([ft.softmax(a), ft.softmax(b)], 1),
    "through reshapes": lambda a, b: ft.concat([ft.reshape(ft.softmax(x), (2, 3, 2, 2, 2)) for x in (a, b)], 1),
    "across reshapes": lambda a, b: ft.concat([ft.reshape(ft.softmax(x), (6, 8)) for x in (a, b)], 0),
    "one of them empty": lambda a, b: ft.concat([ft.softmax(a), ft.softmax(b)[:, :0]], 1),
    "the same twice": lambda a, _: ft.concat([ft.softmax(a), ft.softmax(a)], 1),
    "of what is read besides": lambda a, b: ft.concat([ft.softmax(a), ft.softmax(b)], 1) * ft.sum(ft.softmax(a)),
}


@pytest.mark.parametrize("name", CONCATS)
def test_other_concatenations(name: str) -> None:
    a, b = ft.input((2, 3, 8), "float64", name="a"), ft.input((2, 3, 8), "float64", name="b")
    y = CONCATS[name](a, b)
    results = [y, *ft.grad(ft.sum(y * y), [a, b], allow_unused=True)]
    rng = np.random.default_rng(1)
    feeds = {a: rng.standard_normal(a.shape), b: rng.standard_normal(b.shape)}
    want = evaluate(results, feeds)
    found = evaluate(optimise(Graph((a, b), tuple(results))), feeds)
    for got, ref in zip(found, want, strict=True):
        np.testing.assert_allclose(got, ref, rtol=1e-12, atol=1e-12)
