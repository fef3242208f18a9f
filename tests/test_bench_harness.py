"""The harness itself: its statistics, its gate, its budget, and what it writes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bench.harness", reason="bench/ is part of a checkout alone")
torch = pytest.importorskip("torch")

from bench import command, report  # noqa: E402
from bench.case import Aims, Array, KernelCase, Scale  # noqa: E402
from bench.cases import chosen, registry  # noqa: E402
from bench.harness import Harness, HostClock, Plan, copy, measure, quartiles, relative_error  # noqa: E402
from bench.opponents import Run  # noqa: E402
from bench.page import page  # noqa: E402

PLAN = Plan(Scale(quick=True), rounds=2, seconds=0.01)


class FakeClock:
    """Gives each call, in order, a fixed time with a little spread; runs nothing."""

    def __init__(self, *milliseconds: float) -> None:
        self.milliseconds = milliseconds

    def times(self, calls: Sequence[Callable[[], Any]], count: int) -> list[list[float]]:
        assert len(calls) == len(self.milliseconds)
        return [[ms * (1 + 0.01 * (i % 3 - 1)) for i in range(count)] for ms in self.milliseconds]


def doubled(**changes: Any) -> KernelCase:
    """x + x, against torch."""
    case = KernelCase(
        "double", "pointwise", {"x": Array((4, 8), "float32")}, lambda x: x + x, lambda x: 2 * x,
        aims=Aims(ratio=1.5, share=0.9),
    )  # fmt: skip
    return replace(case, **changes)


def measured(case: KernelCase, *milliseconds: float, plan: Plan = PLAN) -> dict[str, Any]:
    return Harness(plan, "reference", lambda _: None, FakeClock(*milliseconds)).case(case)


# ---- statistics ------------------------------------------------------------------------------------------------


def test_quartiles() -> None:
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([4.0, 1.0, 2.0, 3.0, 100.0]) == (2.0, 3.0, 4.0)


def test_ratio_and_share_follow_from_the_medians() -> None:
    row = measured(doubled(), 2.0, 3.0, 1.5)  # ours, eager, the copy
    assert row["verdict"] == "ok" and row["best"] == "eager"
    assert row["ratio"] == pytest.approx(1.5) and row["share"] == pytest.approx(0.75)
    assert row["nbytes"] == 2 * 4 * 8 * 4 == row["ceiling"]["amount"]
    assert row["ours"]["q1_ms"] <= row["ours"]["median_ms"] <= row["ours"]["q3_ms"]
    assert report.reached(row, "ratio") and report.reached(row, "share") is False
    assert report.reached(row, "bare") is None


def test_the_best_opponent_counts_and_a_wrong_one_does_not() -> None:
    case = doubled(opponents={"quicker": lambda x: x + x, "wrong": lambda x: 3 * x})
    row = measured(case, 2.0, 3.0, 1.0, 1.5)
    assert row["best"] == "quicker" and row["ratio"] == pytest.approx(0.5)
    assert row["failed"] == {"wrong": "does not agree: relative RMS error 0.5"}


def test_over_bare() -> None:
    case = doubled(bare=lambda x: x + 1.0, bound="compute", flops=100)
    row = measured(case, 1.03, 1.0, 2.0, 1.0)
    assert row["over_bare"] == pytest.approx(1.03)


def test_sides_take_turns_in_going_first() -> None:
    order: list[str] = []
    runs = {name: Run(lambda name=name: order.append(name), list) for name in "abc"}
    found = measure(runs, HostClock(), rounds=2, seconds=1e-9)
    assert {name: len(samples) for name, samples in found.items()} == {"a": 6, "b": 6, "c": 6}
    assert "".join(order[6:15]) == "abcbcacab"


def test_copy_moves_half_each_way() -> None:
    run = copy(1000, "cpu")
    run.call()
    assert run.results()[0].nbytes == 500


# ---- the gate --------------------------------------------------------------------------------------------------


def test_relative_error() -> None:
    exact = torch.tensor([3.0, 4.0])
    assert relative_error([exact], [exact]) == 0
    assert relative_error([exact * 1.01], [exact]) == pytest.approx(0.01, rel=1e-4)
    assert relative_error([exact, exact * 1.1], [exact, exact]) == pytest.approx(0.1, rel=1e-4)
    assert relative_error([exact * float("nan")], [exact]) == float("inf")
    with pytest.raises(ValueError, match="shape"):
        relative_error([exact[:1]], [exact])


def test_a_wrong_result_has_no_time() -> None:
    row = measured(doubled(ours=lambda x: x + x * 1.001), 1.0, 1.0, 1.0)
    assert row["verdict"] == "wrong" and "0.0005" in row["message"] and "ours" not in row
    assert report.cells(row)[1] == "WRONG"


def test_what_breaks_is_part_of_its_row() -> None:
    def broken(x: Any) -> Any:
        raise RuntimeError("no such kernel\nmore")

    row = measured(doubled(opponents={"broken": broken}), 1.0, 1.0, 1.0)
    assert row["failed"] == {"broken": "no such kernel"}
    row = measured(doubled(ours=broken), 1.0)
    assert row["verdict"] == "failed" and "no such kernel" in row["message"]


def test_budget_and_opponents() -> None:
    harness = Harness(replace(PLAN, budget=0.0), "reference", lambda _: None)
    result = harness.run(chosen(Scale(True), ("gemm",)))
    assert {row["verdict"] for row in result["cases"]} == {"skipped"}
    row = measured(doubled(), 2.0, 1.5, plan=replace(PLAN, opponents=("cuBLAS",)))
    assert row["ratio"] is None and row["opponents"] == {} and row["failed"] == {}
    late = Harness(replace(PLAN, opponents=("inductor-triton",), autotune=-1.0), "reference", lambda _: None)
    assert "autotuning" in str(late.case(chosen(Scale(True), ("gemm",))[0])["failed"]["inductor-triton"])


# ---- what is written -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """A row of each kind, measured, and one each that is wrong, failed and skipped."""
    cases = [case for name in ("gemm", "norm", "optimizer", "step") for case in chosen(Scale(True), (name,))[:1]]
    harness = Harness(PLAN, "reference", lambda _: None)
    found = harness.run(cases)
    found["cases"].append(harness.case(doubled(name="wrong | <one>", ours=lambda x: x)))
    found["cases"].append(harness.case(doubled(name="broken", theirs=lambda x: x[9])))
    return found


def test_json_has_everything(result: dict[str, Any], tmp_path: Path) -> None:
    command.write(result, tmp_path)
    read = json.loads((tmp_path / "bench.json").read_text())
    assert read["schema"] == 1 and {"torch", "triton", "gpu", "driver"} <= read["machine"].keys()
    for row in read["cases"]:
        assert {"name", "family", "bar", "bound", "aims", "verdict", "message", "flops", "nbytes"} <= row.keys()
        if row["verdict"] == "ok":
            sides = [row["ours"], row["ceiling"], *row["opponents"].values()]
            assert all(len(s["samples"]) >= 6 and s["median_ms"] > 0 for s in sides)
            assert row["error"] <= row["tolerance"] and row["best"] in row["opponents"]
    assert [row["verdict"] for row in read["cases"][-2:]] == ["wrong", "failed"]


def test_markdown_has_a_row_for_each_case(result: dict[str, Any]) -> None:
    text = report.markdown(result)
    for row in result["cases"]:
        assert f"| {row['name'].replace('|', chr(92) + '|')} |" in text
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {len(report.COLUMNS) + 1}


def test_markdown_joins_runs(result: dict[str, Any]) -> None:
    later = {**result, "cases": [{**result["cases"][0], "bar": "newer"}]}
    both = report.joined([result, later])
    assert len(both["cases"]) == len(result["cases"]) and both["cases"][0]["bar"] == "newer"


class Parser(HTMLParser):
    """Tags that are open, and the sources that a page asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.asked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.asked += [v or "" for k, v in attrs if k in ("src", "href") and not (v or "").startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_stands_by_itself(result: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    text = page(result)
    parser = Parser()
    parser.feed(text)
    assert not parser.open and not parser.asked
    assert text.count("<svg") == 1 + 4  # the overview, and a figure for each family with times
    assert "wrong | &lt;one&gt;" in text and "<one>" not in text
    figures = re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)
    assert figures is not None and len(json.loads(figures[1])["cases"]) == len(result["cases"])


def test_geometric_mean_and_summary() -> None:
    assert report.geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    rows = [measured(doubled(), 2.0, 3.0, 1.5), measured(doubled(ours=lambda x: x), 1.0)]
    text = report.summary(rows)
    assert text == "geometric mean of the ratio 1.500x over 1 rows; 1 of 2 aims reached; 1 wrong"


def test_one_graph_serves_all_ahead_compilation() -> None:
    """What the harness compiles before it measures: the program, what the forward pass saves, the bare product."""
    from bench.harness import _graphs

    by_name = {case.name: case for case in registry(Scale(True))}
    assert len(_graphs(by_name["bias 4608x3072x12288"])) == 2
    assert len(_graphs(by_name["LayerNorm 4608x3072 bwd"])) == 2
    assert len(_graphs(by_name["LayerNorm 4608x3072 fwd"])) == 1
