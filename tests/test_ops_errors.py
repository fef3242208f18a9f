"""What ops refuse: a typed error that names the op and the user's own line, when the graph is built."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from symbols import f, i

import flame_triton as ft
from flame_triton.errors import FlameError, GraphError, InputError
from flame_triton.ops.define import SAMPLED

TABLES = [import_module(path.stem) for path in sorted(Path(__file__).parent.glob("refused_*.py"))]
REFUSED = [row for table in TABLES for row in table.REFUSED]
ACCEPTS_ALL = {name for table in TABLES for name in table.ACCEPTS_ALL}


@pytest.mark.parametrize(
    ("name", "call", "error", "message"), REFUSED, ids=[f"{r[0]}-{k}" for k, r in enumerate(REFUSED)]
)
def test_refused(name: str, call, error: type[FlameError], message: str) -> None:
    with pytest.raises(error, match=message) as found:
        call()
    assert found.value.op == name
    assert str(found.value).startswith(f"{name}: ")
    assert found.value.loc is not None
    assert found.value.loc.file == call.__code__.co_filename
    assert found.value.loc.line == call.__code__.co_firstlineno or found.value.loc.function == "<lambda>"


def test_families_that_must_refuse_something() -> None:
    """Every function with shapes or options to get wrong is in the table; elementwise ones share one code path."""
    elementwise = {name for name, entry in SAMPLED.items() if _is_elementwise(entry.function)}
    missing = set(SAMPLED) - elementwise - {name for name, *_ in REFUSED}
    assert missing <= ACCEPTS_ALL, sorted(missing - ACCEPTS_ALL)


def _is_elementwise(function) -> bool:
    return function.__wrapped__.__module__ == "flame_triton.ops.define"


def test_line_is_the_users_even_deep_inside() -> None:
    x = f(3, 4)
    with pytest.raises(FlameError) as found:
        ft.cross_entropy(x, i(7))
    lines = open(__file__, encoding="utf-8").read().splitlines()
    assert found.value.loc is not None
    assert "ft.cross_entropy(x, i(7))" in lines[found.value.loc.line - 1]


def test_a_symbolic_value_is_no_number() -> None:
    x = f(3)
    for misuse in (bool, iter, np.asarray, lambda v: [1.0] @ v.reshape(3) if v else None):
        with pytest.raises(GraphError):
            misuse(x)
    with pytest.raises(TypeError):
        ft.exp(x, x)


def test_evaluate_refuses_wrong_feeds() -> None:
    x = f(3)
    with pytest.raises(InputError, match=r"shape \(3,\), got \(4,\)"):
        ft.evaluate(x + 1, {x: np.zeros(4)})
    with pytest.raises(GraphError, match="no array is given"):
        ft.evaluate(x + 1, {})
