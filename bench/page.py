"""One self-contained HTML page: plots as SVG, tables, and every figure behind them as JSON."""

from __future__ import annotations

import html
import io
import json
from typing import Any

from bench.report import AIMS, COLUMNS, Row, cells, conditions, families, reached, summary

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 1100px; margin: 2.5em auto; padding: 0 1em }
h1 { font-size: 1.6em; margin-bottom: 0 } h2 { font-size: 1.15em; margin: 2.2em 0 .2em } p.note { color: #57606a }
table { border-collapse: collapse; font-size: 13px; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .3em .6em; border-bottom: 1px solid #e3e6ea; vertical-align: top }
th { color: #57606a; font-weight: 600 } td.number { text-align: right; white-space: nowrap }
.good { color: #1a7f37 } .bad { color: #cf222e; font-weight: 600 } svg { max-width: 100%; height: auto }
"""
AHEAD, BEHIND, QUIET, INK = "#2a9d5c", "#d1495b", "#57606a", "#1b1f24"
SVG = {"svg.hashsalt": "flame_triton", "svg.fonttype": "none", "font.family": ["sans-serif"]}
FAMILY_COLOURS = {
    "gemm": "#30638e", "epilogue": "#00798c", "norm": "#d1495b", "pointwise": "#edae49", "optimizer": "#6a4c93",
    "step": "#1b1f24", "attention": "#8ab17d", "group": "#577590", "conv": "#bc6c25",
}  # fmt: skip


def page(result: dict[str, Any]) -> str:
    """The whole page."""
    rows = [r for r in result["cases"] if r["verdict"] == "ok"]
    parts = [f"<h1>flame_triton bench</h1><p class=note>{html.escape(conditions(result))}</p>"]
    parts.append(
        "<p>Medians of alternating rounds with cold caches; ratio: the best opponent's time over ours; ceiling: a copy"
        " of the same bytes, or cuBLAS's product of 8192³, in the same rounds; black marks: what is aimed at.</p>"
    )
    if rows:
        parts += ["<h2>All cases</h2>", _svg(overview_figure(rows))]
    for family, group in families(result["cases"]).items():
        timed = [r for r in group if r["verdict"] == "ok"]
        parts.append(f"<h2>{html.escape(family)}</h2><p class=note>{html.escape(summary(group))}</p>")
        parts += [_svg(family_figure(timed)) if timed else "", _table(group)]
    figures = json.dumps(result).replace("<", "\\u003c")
    parts.append(f'<script type="application/json" id="figures">{figures}</script>')
    body = "\n".join(parts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>flame_triton bench</title>'
        f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _table(rows: list[Row]) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in COLUMNS)
    return f"<table><tr>{head}</tr>{''.join(map(_row, rows))}</table>"


def _row(row: Row) -> str:
    states = dict(zip((5, 6, 7), (reached(row, aim) for aim in AIMS), strict=True))
    found = []
    for i, text in enumerate(cells(row)):
        kind = "number" if i in (1, 2, 5, 6, 7) and row["verdict"] == "ok" else ""
        if i in states and states[i] is not None:
            kind += " good" if states[i] else " bad"
        if i == 1 and row["verdict"] != "ok":
            kind = "bad"
        found.append(f'<td class="{kind.strip()}">{html.escape(text)}</td>')
    return f"<tr>{''.join(found)}</tr>"


# ---- plots -----------------------------------------------------------------------------------------------------


def _axes(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure without a window, and its axes, plainly drawn."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    found = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in found:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("bottom", "left"):
            axes.spines[side].set_color("#c4c9d0")
        axes.tick_params(colors=QUIET, labelsize=8, length=0)
    return figure, found


def _svg(figure: Any) -> str:
    import matplotlib

    with io.StringIO() as text, matplotlib.rc_context(SVG):
        figure.savefig(text, format="svg", metadata={"Date": None})
        drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]


def overview_figure(rows: list[Row]) -> Any:
    """Every case: how long it would take at its ceiling, and which share of the ceiling it reaches."""
    figure, (axes,) = _axes(10, 4.2)
    for family, group in families(rows).items():
        ideal = [row["ours"]["median_ms"] * 1e3 * row["share"] for row in group]
        axes.plot(ideal, [row["share"] for row in group], "o", markersize=6, alpha=0.85, label=family,
                  color=FAMILY_COLOURS.get(family, QUIET), markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_ylim(0, max(1.1, *(1.05 * r["share"] for r in rows)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} us" if value < 1000 else f"{value / 1000:g} ms")
    axes.grid(axis="y", color="#eceff2")
    axes.set_axisbelow(True)
    axes.set_xlabel("time at the ceiling: a copy of the same bytes, or cuBLAS's rate for the same operations",
                    fontsize=8.5, color=QUIET)  # fmt: skip
    axes.set_ylabel("share of the ceiling", fontsize=8.5, color=QUIET)
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="lower right")
    return figure


def family_figure(rows: list[Row]) -> Any:
    """Left: bars from 1x to the right where ours is faster, to the left where the best opponent is. Right: shares."""
    figure, (left, right) = _axes(10, 0.75 + 0.25 * len(rows), columns=2)
    for place, row in enumerate(rows):
        if row["ratio"] is not None:
            _ratio_bar(left, place, row)
        _share_dots(right, place, row)
    values = [r["ratio"] for r in rows if r["ratio"] is not None] or [1.0]
    low, high = min(0.8, *values) / 1.9, max(1.3, *values) * 1.7
    left.set_xscale("log", base=2)
    left.set_xlim(low, high)
    marks = [p for p in (0.0625, 0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 8, 16, 32, 64) if low <= p <= high]
    sparse = marks if len(marks) < 8 else [p for p in marks if p not in (0.75, 1.5, 3)]
    left.set_xticks(sparse, [f"{p:g}x" for p in sparse])
    left.minorticks_off()
    left.set_yticks(range(len(rows)), [row["name"] for row in rows])
    left.set_xlabel("best opponent's time over ours", fontsize=8.5, color=QUIET)
    reach = [max(r["share"], r["share"] / r["ratio"] if r["ratio"] else 0) for r in rows]
    right.set_xlim(0, max(1.1, *(1.05 * v for v in reach)))
    right.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.grid(axis="x", color="#eceff2")
    right.set_axisbelow(True)
    right.set_yticks([])
    right.set_xlabel("share of the ceiling; hollow: best opponent", fontsize=8.5, color=QUIET)
    for axes in (left, right):
        axes.axvline(1, color=INK, linewidth=0.8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
    return figure


def _ratio_bar(axes: Any, place: int, row: Row) -> None:
    ratio, aim = row["ratio"], row["aims"].get("ratio")
    ahead = ratio >= 1
    axes.barh(place, ratio - 1, left=1, height=0.66, color=AHEAD if ahead else BEHIND)
    end = ratio if aim is None or not ahead else max(ratio, aim)
    axes.annotate(
        f"{ratio:.2f}x {row['best']}", (end, place), (5 if ahead else -5, 0), textcoords="offset points", fontsize=7.5,
        va="center", ha="left" if ahead else "right", color=QUIET,
    )  # fmt: skip
    if aim is not None:
        axes.plot([aim, aim], [place - 0.42, place + 0.42], color=INK, linewidth=1.3)


def _share_dots(axes: Any, place: int, row: Row) -> None:
    share, aim = row["share"], row["aims"].get("share")
    if row["ratio"]:
        theirs = share / row["ratio"]
        axes.plot([share, theirs], [place, place], color="#c4c9d0", linewidth=1.4, zorder=1)
        axes.plot(theirs, place, "o", markersize=5.5, markerfacecolor="white", markeredgecolor=QUIET, zorder=2)
    axes.plot(share, place, "o", markersize=6.5, color=FAMILY_COLOURS.get(row["family"], QUIET), zorder=3)
    if aim is not None:
        axes.plot([aim, aim], [place - 0.42, place + 0.42], color=INK, linewidth=1.3, zorder=0)
