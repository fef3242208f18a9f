"""Results as a table on the screen, as Markdown and as one HTML page.

python -m bench.report RESULT.json [MORE.json ...]     prints Markdown; of a case in several files the last counts
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]
AIMS = ("ratio", "share", "bare")
COLUMNS = (
    "work", "ours", "rate", "best opponent", "others", "ratio", "of the ceiling", "over bare product", "torch before",
)  # fmt: skip
"""torch before: what torch reached in another run, on one H200 with torch 2.11."""


def rate(row: Row, milliseconds: float) -> str:
    """What a time means for this work: TFLOP/s or GB/s."""
    if row["bound"] == "memory":
        return f"{row['nbytes'] / milliseconds / 1e6:,.0f} GB/s"
    return f"{row['flops'] / milliseconds / 1e9:,.0f} TFLOP/s"


def duration(milliseconds: float) -> str:
    """Microseconds below ten milliseconds."""
    return f"{milliseconds * 1e3:,.1f} us" if milliseconds < 10 else f"{milliseconds:,.2f} ms"


def reached(row: Row, aim: str) -> bool | None:
    """Whether an aim is reached; None if there is none, or nothing to compare."""
    wanted, found = row["aims"].get(aim), row.get({"bare": "over_bare"}.get(aim, aim))
    if wanted is None or found is None:
        return None
    return found <= wanted if aim == "bare" else found >= wanted


def cells(row: Row) -> list[str]:
    """The row as text, one for each column; a row without times says why."""
    if row["verdict"] != "ok":
        word = {"wrong": "WRONG", "failed": "FAILED", "skipped": "not run"}[row["verdict"]]
        return [row["name"], word, row["message"], "", "", "", "", "", row["bar"]]
    ours, best = row["ours"]["median_ms"], row["best"]
    others = {n: o["median_ms"] for n, o in row["opponents"].items() if n != best}
    calls = [n for n, o in row["opponents"].items() if row["ours"]["captured"] and not o["captured"]]
    texts = [f"{name} {duration(ms)}" for name, ms in sorted(others.items(), key=lambda item: item[1])]
    texts += [f"{name}: {why}" for name, why in row["failed"].items()]
    first = ""
    if best is not None:
        first = f"{best} {duration(row['opponents'][best]['median_ms'])}" + (" (not captured)" if best in calls else "")
    return [
        row["name"],
        duration(ours),
        rate(row, ours),
        first,
        "; ".join(texts),
        f"{row['ratio']:.3f}x" if row["ratio"] is not None else "",
        f"{row['share']:.1%}",
        f"{row['over_bare']:.3f}x" if row["over_bare"] is not None else "",
        row["bar"],
    ]


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean logarithm."""
    return math.exp(sum(map(math.log, values)) / len(values))


def families(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by family, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["family"], []).append(row)
    return found


def summary(rows: Sequence[Row]) -> str:
    """One line about a family."""
    ratios = [r["ratio"] for r in rows if r["verdict"] == "ok" and r["ratio"] is not None]
    judged = [reached(r, aim) for r in rows if r["verdict"] == "ok" for aim in AIMS]
    counted = [j for j in judged if j is not None]
    parts = [f"geometric mean of the ratio {geometric_mean(ratios):.3f}x over {len(ratios)} rows"] if ratios else []
    parts += [f"{sum(counted)} of {len(counted)} aims reached"] if counted else []
    for verdict in ("wrong", "failed", "skipped"):
        if count := sum(r["verdict"] == verdict for r in rows):
            parts.append(f"{count} {verdict}")
    return "; ".join(parts)


def conditions(result: dict[str, Any]) -> str:
    """The machine, in one line."""
    m = result["machine"]
    where = m["gpu"] or "CPU"
    parts = [where, f"torch {m['torch']}", f"triton {m['triton']}", f"Python {m['python']}"]
    parts += [f"driver {m['driver']}"] if m["driver"] else []
    return ", ".join(parts)


def joined(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several runs as one: of a case that was measured more than once, the last."""
    rows = {(row["family"], row["name"]): row for result in results for row in result["cases"]}
    return {**results[-1], "cases": list(rows.values())}


# ---- the screen ------------------------------------------------------------------------------------------------


def screen(result: dict[str, Any]) -> Group:
    """A table for each family: green what reaches its aim, red what does not. The rest is in the files."""
    shown = [i for i, name in enumerate(COLUMNS) if name not in ("others", "torch before")]
    tables: list[Any] = []
    for family, rows in families(result["cases"]).items():
        title = Text.assemble((family, "bold"), f": {summary(rows)}")
        table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
        for i in shown:
            table.add_column(COLUMNS[i], justify="left" if i in (0, 3) else "right", no_wrap=i in (1, 5, 6, 7))
        for row in rows:
            texts = [Text(c) for c in cells(row)]
            if row["verdict"] != "ok":
                texts[1].stylize("bold red" if row["verdict"] != "skipped" else "yellow")
            for aim, column in zip(AIMS, (5, 6, 7), strict=True):
                state = reached(row, aim)
                texts[column].stylize("" if state is None else "green" if state else "red")
            table.add_row(*(texts[i] for i in shown))
        tables.append(table)
    return Group(Text(conditions(result)), *tables)


# ---- Markdown --------------------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    """Tables by family; a ratio, share or overhead that misses its aim is in bold."""
    lines = [f"{conditions(result)}.", ""]
    for family, rows in families(result["cases"]).items():
        lines += [f"### {family}", "", summary(rows) + ".", ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * (len(COLUMNS) - 1)]
        for row in rows:
            texts = [c.replace("|", "\\|") for c in cells(row)]
            for aim, column in zip(AIMS, (5, 6, 7), strict=True):
                if reached(row, aim) is False:
                    texts[column] = f"**{texts[column]}**"
            lines.append("| " + " | ".join(texts) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Print Markdown for the files named on the command line."""
    results = [json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]
    if not results:
        sys.exit(__doc__)
    print(markdown(joined(results)))


if __name__ == "__main__":
    main()
