"""Plans kept on disk: found again by what is the same, missed by what differs, harmless when damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from regression import KERNELS, floats
from test_custom_op import DEFINITION

import flame_triton as ft
from flame_triton import config
from flame_triton.graph.plan import ConstantTable, Descriptor, KernelRef, Operand, PointerTable, Slot
from flame_triton.ops.custom import CUSTOM
from flame_triton.runtime import lower as lowering
from flame_triton.runtime import plans
from flame_triton.runtime.store import OK, Row, Store

ROOT = Path(__file__).resolve().parent.parent
DEVICE = "interpreter" if config.interpreted() else "cuda"
pytestmark = pytest.mark.parametrize("device", KERNELS)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """An empty cache that keeps small plans too; holds the launches of every graph that was lowered."""
    found: list[int] = []
    plain = lowering.lower

    def lower(*args: Any, **kwargs: Any) -> Any:
        schedule = plain(*args, **kwargs)
        found.append(len(schedule.launches))
        return schedule

    monkeypatch.setattr(lowering, "lower", lower)
    monkeypatch.setattr(plans, "WORTH", 0)
    monkeypatch.setenv("FLAME_CACHE_DIR", str(tmp_path / "cache"))
    yield found


def entries() -> list[Path]:
    return sorted(plans.folder().iterdir()) if plans.folder().exists() else []


@ft.fused
def gated(x: ft.Value, gate: ft.Value) -> ft.Value:
    """A function of the user's."""
    return ft.gelu(x, "tanh") * ft.sigmoid(gate)


def trained(
    device: str, *, width: int = 16, rate: Any = 1e-2, shift: float = 0.5, eps: float = 1e-6, **options: Any
) -> ft.Program:
    """A training step with products, norms, attention, dropout, a constant, a concatenation and AdamW."""
    x, y = ft.input((8, 16), name="x"), ft.input((8, 16), name="y")
    names = {"first": (16, width), "second": (width, 16), "scale": (16,)}
    weights = {k: ft.parameter(s, name=k, init=floats(*s, seed=len(k)) / 4) for k, s in names.items()}
    seed = ft.parameter((2,), "int64", name="seed", init=np.array([3, 0]))
    offset = ft.constant(np.linspace(0, shift, 16, dtype=np.float32))
    h = ft.layer_norm(x + offset, 16, weights["scale"], eps=eps) @ weights["first"]
    h = gated(h, ft.concat([h[:, 1:], h[:, :1]], 1)) * ft.dropout(ft.full((8, width), 1.0), 0.2, seed=seed)
    heads = ft.transpose(ft.reshape(h @ weights["second"], (1, 8, 2, 8)), (0, 2, 1, 3))
    h = ft.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
    loss = ft.mse_loss(ft.reshape(ft.transpose(h, (0, 2, 1, 3)), (8, 16)), y)
    optimizer = ft.optim.AdamW(list(weights.values()), rate)
    updates = optimizer.updates(ft.grad(loss, list(weights.values())))
    state = ft.State([*weights.values(), seed, *optimizer.state_values], device=device)
    return ft.compile([loss, h], [x, y], state=state, updates=updates | {seed: seed + 1}, **options)


def run(program: ft.Program, steps: int = 2) -> list[np.ndarray]:
    found = [program(floats(8, 16, seed=i), floats(8, 16, seed=9)) for i in range(steps)]
    held = [program.state[v] for v in program.state.values]
    return [*(t.cpu().numpy() for step in found for t in step), *held]


def described(program: ft.Program) -> list[Any]:
    """Everything that a plan says, with slots as places in memory."""

    def plain(x: Any) -> Any:
        match x:
            case Slot():
                return x.kind, x.nbytes, x.root.offset, str(x.value), str(x.root.value)
            case Operand():
                return plain(x.slot), x.dtype.name, x.offset
            case Descriptor():
                return plain(x.operand), x.shape, x.strides, x.block
            case PointerTable():
                return plain(x.rows)
            case ConstantTable():
                return x.array.dtype.name, x.array.tolist()
            case KernelRef():
                return x.module, x.name, x.source
            case tuple() | list():
                return [plain(v) for v in x]
            case dict():
                return {k: plain(v) for k, v in x.items()}
            case _:
                return type(x).__name__, x

    parts = ("kernel", "grid", "args", "constexprs", "options", "reads", "writes", "label", "choice")
    launches = [[plain(getattr(launch, part)) for part in parts] for launch in program.launches]
    nodes = [launch.node for launch in program.launches]
    where = [(n.op.name, str(n.loc), n.loc.within, n.origin and str(n.origin.loc), n.types) for n in nodes]
    return [launches, where, program.peak_bytes, program.listing(), program.distinct_kernels]


def test_a_second_compile_gives_the_same_plan_and_results(device: str, made: list[int]) -> None:
    programs = [trained(device) for _ in range(2)]
    assert len(made) == len(entries()) == 1
    first, second = map(described, programs)
    assert len(first[0]) > 15
    for one, other in zip(first, second, strict=True):
        assert one == other
    for one, other in zip(*map(run, programs), strict=True):
        assert np.array_equal(one, other)


def test_nodes_and_slots_are_one_where_they_were_one(device: str, made: list[int]) -> None:
    counts = []
    for program in (trained(device), trained(device)):
        slots = {s for launch in program.launches for s in (*launch.reads, *launch.writes)}
        counts.append((len({launch.node for launch in program.launches}), len(slots), len({s.value for s in slots})))
        leaves = {s.value for s in slots if s.kind == "state"}
        assert leaves <= set(program.state.values), "state is the user's own"
    assert len(made) == 1 and counts[0] == counts[1]


CHANGES: dict[str, dict[str, Any]] = {
    "a constant": {"shift": 0.25},
    "a shape": {"width": 32},
    "the schedule of the rate": {"rate": 2e-2},
    "an attribute": {"eps": 1e-5},
    "a flag": {"deterministic": False},
    "a budget": {"memory_budget": 1.0},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_differs_is_planned_anew(device: str, made: list[int], change: str) -> None:
    trained(device)
    trained(device, **CHANGES[change])
    assert len(made) == len(entries()) == 2
    trained(device, **CHANGES[change])
    assert len(made) == 2


def test_another_line_of_the_user_is_another_plan(device: str, made: list[int]) -> None:
    def first() -> Any:
        x = ft.input((4, 4), name="x")
        return ft.compile(ft.exp(x), [x], device=device)

    def second() -> Any:
        x = ft.input((4, 4), name="x")
        return ft.compile(ft.exp(x), [x], device=device)

    for build in (first, second, first):
        assert build().launches[0].node.loc.function == build.__name__
    assert len(made) == 2


def test_sources_of_the_package_count(device: str, made: list[int], tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "package"
    (package / "tune").mkdir(parents=True)
    monkeypatch.setattr(plans, "PACKAGE", package)
    for name, text in (("a.py", "x = 1"), ("a.py", "x = 2"), ("tune/table.json", "{}"), ("tune/table.json", "{ }")):
        (package / name).write_text(text)
        plans._package.cache_clear()
        before = len(made)
        trained(device)
        trained(device)
        assert len(made) == before + 1
    plans._package.cache_clear()


def test_what_was_measured_counts(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_STORE", str(tmp_path / "tuned.sqlite"))
    stamps = [plans.measured()]
    for microseconds in (1.0, 2.0):
        with Store(tmp_path / "tuned.sqlite") as store:
            store.put([Row("d", "3", "1", "matmul", "{}", "{}", "k", OK, microseconds, 3)])
            stamps.append(plans.measured())
    assert stamps[0] != stamps[1] != stamps[2] != stamps[0]
    assert plans.measured() == plans.measured()


@pytest.mark.parametrize("spoil", ["cut", "empty", "changed", "another"])
def test_a_damaged_entry_is_made_anew(device: str, made: list[int], spoil: str) -> None:
    trained(device)
    (entry,) = entries()
    whole = entry.read_bytes()
    middle = len(whole) // 2
    other = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    if spoil == "another":
        x = ft.input((4,), name="x")
        ft.compile(ft.exp(x), [x], device=device)
        other = next(e for e in entries() if e != entry).read_bytes()
        made.clear()
    entry.write_bytes({"cut": whole[:-100], "empty": b"", "changed": other, "another": b"x" * 32 + other[32:]}[spoil])
    before = len(made)
    program = trained(device)
    assert len(made) == before + 1
    assert entry.read_bytes() == whole
    assert len(run(program)) > 5
    trained(device)
    assert len(made) == before + 1


def test_a_failing_node_is_reported_at_the_users_line(device: str, made: list[int]) -> None:
    found = []
    for _ in range(2):
        x = ft.input((8, 8), name="x")
        w = ft.parameter((8, 8), name="w", init=floats(8, 8))
        program = ft.compile(ft.sum(ft.log((x @ w) * 0 - 1)), [x], device=device)
        found.append(str(program.find_non_finite(floats(8, 8))))
    assert len(made) == 1
    assert found[0] == found[1]
    assert "test_plans.py" in found[0] and "log" in found[0]


def test_an_error_of_a_kernel_names_the_users_line(device: str, made: list[int], monkeypatch) -> None:
    notes = []
    for _ in range(2):
        x = ft.input((8,), name="x")
        program = ft.compile(ft.exp(x), [x], device=device)
        with monkeypatch.context() as patch:
            patch.setattr("flame_triton.runtime.launch.resolve", lambda ref: {(1,): _broken})
            patch.setattr("flame_triton.runtime.ahead.distinct", lambda launches: [])
            with pytest.raises(RuntimeError) as caught:
                program(floats(8))
        notes.append([note.partition(" at ")[2] for note in caught.value.__notes__])
    assert len(made) == 1
    assert notes[0] == notes[1] and "test_plans.py" in notes[0][0]


def _broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("the kernel does not run")


def test_plans_can_be_switched_off(device: str, made: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_PLANS", "0")
    for _ in range(2):
        trained(device)
    assert len(made) == 2 and not entries()


def test_small_graphs_are_not_kept(device: str, made: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "WORTH", 10_000)
    trained(device)
    assert not entries()


def test_kernels_of_the_user_are_planned_each_time(device: str, made: list[int]) -> None:
    affine = ft.custom_op("affine_of_plans", **DEFINITION)
    CUSTOM.pop("affine_of_plans")
    for _ in range(2):
        x = ft.input((3, 4), name="x")
        assert ft.compile(affine(x, scale=2)[0], [x], device=device).launches
    assert len(made) == 2 and not entries()


def test_those_used_longest_ago_make_room(device: str, made: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def build(size: int) -> None:
        x = ft.input((size,), name="x")
        ft.compile(ft.exp(x), [x], device=device)

    names: list[Path] = []
    for size in (1, 2, 3):
        build(size)
        names += [e for e in entries() if e not in names]
    for age, entry in enumerate(names):
        os.utime(entry, ns=(age, age))
    build(1)  # found, and so used now
    assert len(made) == 3
    monkeypatch.setattr(plans, "LIMIT", sum(e.stat().st_size for e in entries()))
    build(4)
    assert names[1] not in entries() and {names[0], names[2]} < set(entries())


def test_threads_write_one_entry(device: str, made: list[int]) -> None:
    program = trained(device)
    (entry,) = entries()
    whole = entry.read_bytes()
    entry.unlink()
    graph = ft.input((2,), name="x")
    nodes = [graph.node]
    schedule = ft.compile(ft.exp(graph), [graph], device=device)._executor._schedule  # type: ignore[attr-defined]
    work: list[Callable[[], None]] = [lambda: plans._keep(entry, schedule, nodes)] * 8
    threads = [threading.Thread(target=call) for call in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [e.name[0] for e in entries()].count(".") == 0
    assert plans._read(entry, nodes) is not None
    assert program.launches and entry.read_bytes() != whole


SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:]
from flame_triton.runtime import lower as lowering, plans
from test_plans import DEVICE, trained
plans.WORTH, calls, plain = 0, [], lowering.lower
lowering.lower = lambda *a, **k: calls.append(1) or plain(*a, **k)
print("lowered", trained(DEVICE).peak_bytes, len(calls))
"""


def test_another_process_finds_the_plan(device: str, made: list[int]) -> None:
    printed = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(ROOT), str(ROOT / "tests")],
            capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        printed.append(done.stdout.split()[-3:])
    assert printed[0][1] == printed[1][1]
    assert [p[2] for p in printed] == ["1", "0"]
