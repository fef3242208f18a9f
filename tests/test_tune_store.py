"""The store of measured configurations: many processes, damage, tables; and what a normal run finds in it."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import flame_triton as ft
from flame_triton.errors import CacheWarning, StateError
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime import fingerprint, listing, tables
from flame_triton.runtime.choices import Problem, as_json
from flame_triton.runtime.lower import Lowering, lower
from flame_triton.runtime.store import OK, SPILLED, Row, Store, fastest, read_table, write_table
from flame_triton.tune import problems

DEVICE, TRITON = "a device", fingerprint.triton_version()
ROW = Row(DEVICE, TRITON, "12", "matmul", '{"M":1}', '{"kind":"Config"}', "abc", OK, 5.0, 15)


def test_rows_come_back_and_are_replaced(tmp_path: Path) -> None:
    slower = replace(ROW, config='{"kind":"Other"}', microseconds=9.0)
    spilled = replace(ROW, config='{"kind":"Third"}', status=SPILLED, microseconds=None, runs=0)
    with Store(tmp_path / "s") as store:
        store.put([ROW, slower, spilled])
        store.put([replace(ROW, microseconds=4.0)])
    with Store(tmp_path / "s", create=False) as store:
        assert [r.microseconds for r in store.best(DEVICE, TRITON, ROW.problem)] == [4.0, 9.0]
        assert len(store.known(DEVICE, TRITON, "12", ROW.problem)) == 3
        assert not store.known(DEVICE, TRITON, "13", ROW.problem)
        assert not store.best("another device", TRITON, ROW.problem)
        assert store.count(DEVICE, TRITON) == 1
        assert fastest(store.rows()) == [replace(ROW, microseconds=4.0)]
        with pytest.raises(StateError, match="readonly"):
            store.put([ROW])


def _write_many(path: Path, worker: int, count: int, failed: Any) -> None:
    try:
        for i in range(count):
            with Store(path) as store:
                store.put([replace(ROW, config=json.dumps({"worker": worker, "i": i}))])
                store.best(DEVICE, TRITON, ROW.problem)
    except BaseException as error:
        failed.put(repr(error))
        raise


def test_sixteen_processes_lose_no_row(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    failed = context.Queue()
    workers = [context.Process(target=_write_many, args=(tmp_path / "s", w, 25, failed)) for w in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * 16, failed.get(timeout=1)
    with Store(tmp_path / "s", create=False) as store:
        assert len(store.rows()) == 16 * 25


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"this is no database" * 500)
    with pytest.raises(StateError, match="damaged"):
        Store(path)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE letters (a)")
    with pytest.raises(StateError, match="something else"):
        Store(path)
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match="version"):
        Store(path)
    with pytest.raises(StateError, match="no store"):
        Store(tmp_path / "nowhere", create=False)


def test_tables_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_table(path, [ROW])
    assert read_table(path) == [ROW]
    whole = path.read_text()
    entry = json.loads(whole)["rows"][0]
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(StateError, match="cut off"):
        read_table(path)
    path.write_text(whole.replace("5.0", "4.0"))
    with pytest.raises(StateError, match="checksum"):
        read_table(path)
    path.write_text("[1, 2]")
    with pytest.raises(StateError, match="no tuning table"):
        read_table(path)
    path.write_text(whole.replace('"version": 1', '"version": 2'))
    with pytest.raises(StateError, match="version 2"):
        read_table(path)
    assert set(entry) == set(Row.__dataclass_fields__)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "fine"}, "unknown status"),
        ({"microseconds": -1.0}, "positive"),
        ({"microseconds": None}, "exactly if"),
        ({"runs": "many"}, "runs"),
        ({"kernel": 7}, "kernel must be text"),
        ({"config": "7"}, "config must be a JSON object"),
    ],
)
def test_rows_of_tables_are_checked(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "table.json"
    write_table(path, [ROW, replace(ROW, **change)])
    with pytest.raises(StateError, match=f"row 1: .*{message}"):
        read_table(path)


# ---- what a normal run finds -----------------------------------------------------------------------------------


def graph() -> Graph:
    x = ft.input((64, 48))
    return Graph((x,), (ft.softmax(x + 1.0, axis=-1),))


def measured(g: Graph, store: Path, kernel: str | None = None) -> tuple[Problem, Any]:
    """A store in which the last candidate of the graph's first problem is the fastest."""
    task = problems.tasks(g, {}, Target())[0]
    made = problems.trial(task, task.candidates[-1], Target())
    facts = (DEVICE, TRITON, "12", task.problem.family, task.problem.facts)
    with Store(store) as opened:
        opened.put([Row(*facts, made.text, kernel or made.kernel, OK, 1.0, 15)])
    return task.problem, made.config


def test_lowering_takes_what_was_measured_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_STORE", str(tmp_path / "s"))
    g = graph()
    _, config = measured(g, tmp_path / "s")
    with tables.tables(DEVICE) as choices:
        schedule = lower(g, {}, Target(), choices)
    assert schedule.launches[0].options["num_warps"] == config.num_warps
    text = listing.of_launches(schedule.launches, 1, [], DEVICE)
    assert "tuned" in text and "heuristic" not in text
    with tables.tables("another device") as choices:
        assert lower(g, {}, Target(), choices).launches[0].choice == "heuristic"


def test_rows_of_other_kernels_are_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_STORE", str(tmp_path / "s"))
    g = graph()
    measured(g, tmp_path / "s", "a kernel of last week")
    with tables.tables(DEVICE) as choices:
        assert lower(g, {}, Target(), choices).launches[0].choice == "heuristic"
    measured(g, tmp_path / "s")  # the same configuration, measured anew
    with tables.tables(DEVICE) as choices:
        assert lower(g, {}, Target(), choices).launches[0].choice == "tuned"


def test_a_configuration_that_is_no_candidate_is_unknown(tmp_path: Path) -> None:
    problem = Problem("region", "{}")
    with Store(tmp_path / "s") as store:
        store.put([Row(DEVICE, TRITON, "12", "region", "{}", '{"BLOCK":3,"kind":"Gone"}', "k", OK, 1.0, 3)])
        assert tables.Tables(DEVICE, TRITON, store, {}).find(problem, list) is None


def test_shipped_tables_come_after_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAME_STORE", str(tmp_path / "s"))
    monkeypatch.setattr(tables, "SHIPPED", tmp_path)
    g = graph()
    task = problems.tasks(g, {}, Target())[0]
    made = problems.trial(task, task.candidates[1], Target())
    row = Row("NVIDIA X1", TRITON, "12", task.problem.family, task.problem.facts, made.text, made.kernel, OK, 1.0, 15)
    write_table(tmp_path / f"{tables.file_stem(row.device)}.json", [row])
    tables.shipped.cache_clear()
    with tables.tables(row.device) as choices:
        launch = lower(g, {}, Target(), choices).launches[0]
    assert launch.choice == "shipped" and "1 shipped" in tables.summary(row.device)
    with Store(tmp_path / "s") as store:  # slower, but measured here
        other = problems.trial(task, task.candidates[2], Target())
        store.put([replace(row, config=other.text, kernel=other.kernel, microseconds=2.0)])
    with tables.tables(row.device) as choices:
        assert lower(g, {}, Target(), choices).launches[0].choice == "tuned"
    (tmp_path / f"{tables.file_stem(row.device)}-more.json").write_text("{")
    tables.shipped.cache_clear()
    with pytest.warns(CacheWarning, match="left out"), tables.tables(row.device):
        pass
    tables.shipped.cache_clear()


def test_a_damaged_store_is_a_warning_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s").write_bytes(b"no database" * 1000)
    monkeypatch.setenv("FLAME_STORE", str(tmp_path / "s"))
    with pytest.warns(CacheWarning, match="damaged"), tables.tables(DEVICE) as choices:
        assert lower(graph(), {}, Target(), choices).launches[0].choice == "heuristic"


def test_shipped_tables_of_the_package_are_sound() -> None:
    for path in tables.SHIPPED.glob("*.json"):
        rows = read_table(path)
        assert rows and all(path.name.startswith(tables.file_stem(row.device)) for row in rows)


# ---- fingerprints ----------------------------------------------------------------------------------------------


def test_fingerprints_follow_code_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flame_triton.codegen.cache import load_module

    head = "import triton\nimport triton.language as tl\nFOUR: tl.constexpr = tl.constexpr({four})\n\n\n"
    body = '@triton.jit\ndef inner(x):\n    return x + {one}\n\n\n@triton.jit\ndef outer(x):\n    """{doc}"""\n'
    body += "    return inner(x) * FOUR  # {doc}\n"

    def digest(**parts: Any) -> str:
        source = (head + body).format(**{"four": 4, "one": 1, "doc": "text", **parts})
        found: dict[Any, str] = {}
        fingerprint._collect(load_module("outer_test", source).outer, found)
        return repr(list(found.values()))

    assert digest() == digest(doc="other text")
    assert len({digest(), digest(one=2), digest(four=5)}) == 3


def test_equal_problems_have_equal_kernels() -> None:
    first, second = (Lowering(problems.optimise(graph()), Target(), problems.Unknown()) for _ in range(2))
    assert [d.problem for d in first.decisions] == [d.problem for d in second.decisions]
    assert fingerprint.of_launches(first.launches) == fingerprint.of_launches(second.launches)
    assert as_json(first.decisions[0].chosen) == as_json(second.decisions[0].chosen)
