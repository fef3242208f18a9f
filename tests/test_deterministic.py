"""`deterministic` on its way from `ft.compile` to the kernel families."""

from __future__ import annotations

from typing import Any

import pytest

import flame_triton as ft
from flame_triton import config
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime import compile as compiling
from flame_triton.runtime.lower import Lowering, lower
from flame_triton.tune.problems import tasks


def attention() -> Graph:
    q, k, v, g = inputs = [ft.input((1, 2, 256, 64), "bfloat16") for _ in range(4)]
    o: Any = ft.scaled_dot_product_attention(q, k, v)
    return Graph(tuple(inputs), (o, *ft.grad(o, [q, k, v], grad_output=g)))


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_family_sees_it(deterministic: bool) -> None:
    launches = lower(attention(), {}, Target(deterministic=deterministic)).launches
    ordered = [n.constexprs["ORDERED"] for n in launches if "ORDERED" in n.constexprs]
    assert ordered == [deterministic]


def test_what_was_measured_of_one_form_says_nothing_of_the_other() -> None:
    one, other = ({t.problem for t in tasks(attention(), {}, Target(deterministic=d))} for d in (True, False))
    assert one != other
    changed = one ^ other
    assert len(changed) == 2
    assert all('"ordered"' in p.facts for p in changed)


@pytest.mark.parametrize("deterministic", [True, False])
def test_compile_hands_it_on(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    made = Lowering.__init__

    def watched(self: Lowering, *args: Any) -> None:
        made(self, *args)
        seen.append(self.deterministic)

    monkeypatch.setattr(Lowering, "__init__", watched)
    x = ft.input((3,), name="x")
    device = "interpreter" if config.interpreted() else "cuda"
    assert compiling.compile(x + 1, [x], device=device, deterministic=deterministic).launches
    assert set(seen) == {deterministic}
