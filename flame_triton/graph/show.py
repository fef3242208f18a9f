"""Pictures of a graph: text for a terminal, DOT for Graphviz, and one self-contained HTML page."""

from __future__ import annotations

import html as escape_html
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.graph import Graph
from ..ir.node import Node, Value
from ..ir.op import Fused, Kernel, Leaf, Pointwise, Reduce, View
from ..types import DType

_COLOURS = {
    "leaf": "#e8eaed",
    "view": "#f8f9fa",
    "kernel": "#fde0c8",
    "fused": "#d2e8d4",
    "reduce": "#d6e4f7",
    "op": "#fff8d6",
}


def _kind(node: Node) -> str:
    lowering = node.op.lowering
    if isinstance(lowering, Leaf):
        return "leaf"
    if isinstance(lowering, View):
        return "view"
    if isinstance(lowering, Fused):
        return "fused"
    if isinstance(lowering, Kernel):
        return "kernel"
    return "reduce" if isinstance(lowering, Reduce) else "op"


def _attribute(value: Any) -> str:
    if isinstance(value, Graph):
        return f"<{len(value.nodes) - len(value.inputs)} nodes>"
    if isinstance(value, np.ndarray):
        return "<array>"
    return str(value) if isinstance(value, DType | str) else repr(value)


def _attributes(node: Node) -> str:
    skip = ("name", "shape", "dtype", "init", "trainable", "implicit") if isinstance(node.op.lowering, Leaf) else ()
    shown = {k: v for k, v in node.attrs.items() if k not in skip}
    if "region" in node.attrs:
        shown = {"ops": region_summary(node.attrs["region"])}
    return ", ".join(f"{k}={_attribute(v)}" for k, v in shown.items())


def region_summary(region: Graph) -> str:
    """The arithmetic inside a fused node: its ops in order, each named once."""
    ops = [n.op.name for n in region.nodes if isinstance(n.op.lowering, Pointwise | Reduce)]
    return " ".join(dict.fromkeys(o for o in ops if o not in ("full", "cast"))) or "copy"


def _namer() -> Callable[[Value], str]:
    names: dict[Value, str] = {}

    def name(value: Value) -> str:
        if value not in names:
            label = value.name or f"%{len(names)}"
            names[value] = label if label not in names.values() else f"{label}.{len(names)}"
        return names[value]

    return name


def text(graph: Graph) -> str:
    """One line a node: results, op, operands, attributes, type, and the user's line."""
    name = _namer()
    lines: list[str] = []
    for node in graph.nodes:
        results = ", ".join(name(v) for v in node.outputs)
        operands = ", ".join(name(v) for v in node.inputs)
        attributes = _attributes(node)
        inside = ", ".join(part for part in (operands, attributes) if part)
        types = ", ".join(str(t) for t in node.types)
        place = f"{node.loc.file}:{node.loc.line}" + (f" in {node.loc.within}" if node.loc.within else "")
        backward = f"  (gradient of {node.origin.op.name})" if node.origin else ""
        lines.append(f"{results} = {node.op.name}({inside}) : {types}  # {place}{backward}")
    lines.append("return " + ", ".join(name(v) for v in graph.outputs))
    return "\n".join(lines) + "\n"


def dot(graph: Graph) -> str:
    """The graph in the DOT language of Graphviz."""
    name = _namer()
    lines = ["digraph flame {", '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=10];']
    for node in graph.nodes:
        label = f"{_label(node, name)}\\n{', '.join(str(t) for t in node.types)}".replace('"', "'")
        lines.append(f'  n{node.id} [label="{label}", fillcolor="{_COLOURS[_kind(node)]}"];')
        lines += [f"  n{v.node.id} -> n{node.id};" for v in dict.fromkeys(node.inputs)]
    for i, v in enumerate(graph.outputs):
        lines += [f'  out{i} [label="output {i}", shape=plaintext, fillcolor="white"];', f"  n{v.node.id} -> out{i};"]
    return "\n".join([*lines, "}"]) + "\n"


def _label(node: Node, name: Callable[[Value], str]) -> str:
    if isinstance(node.op.lowering, Leaf):
        return name(node.outputs[0])
    if "region" in node.attrs:
        words = region_summary(node.attrs["region"]).split()
        shown = " ".join(words[:6]) + (" ..." if len(words) > 6 else "")
        return f"{node.attrs['kernel'].name} + {shown}" if "kernel" in node.attrs else shown
    return node.op.name


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 13px system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff; }}
svg text {{ font: 11px system-ui, sans-serif; pointer-events: none; }}
svg rect {{ stroke: #888; stroke-width: 0.7; }} svg path {{ fill: none; stroke: #9aa0a6; stroke-width: 0.8; }}
g.node:hover rect {{ stroke: #c5221f; stroke-width: 2; }} .key span {{ padding: 2px 8px; margin-right: 6px; }}
</style></head><body><h1>{title}</h1><p>{summary}</p><p class="key">{key}</p>
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">{body}</svg></body></html>
"""
_BOX, _ROW, _STEP = 168, 62, 184  # box width, row height, horizontal step: pixels


def html(graph: Graph, title: str = "flame_triton graph") -> str:
    """A page that needs nothing else: nodes by depth from top to bottom; pointing at one shows type and source line."""
    name = _namer()
    depth: dict[Node, int] = {}
    rows: list[list[Node]] = []
    for node in graph.nodes:
        level = depth[node] = 1 + max((depth[v.node] for v in node.inputs), default=-1)
        while len(rows) <= level:
            rows.append([])
        rows[level].append(node)
    place: dict[Node, tuple[float, float]] = {}
    for level, row in enumerate(rows):
        row.sort(key=lambda n: sum(place[v.node][0] for v in n.inputs) / max(1, len(n.inputs)))
        for i, node in enumerate(row):
            place[node] = (20 + i * _STEP, 20 + level * _ROW)
    parts: list[str] = []
    for node in graph.nodes:
        x, y = place[node]
        for v in dict.fromkeys(node.inputs):
            a, b = place[v.node]
            mid = (b + 34 + y) / 2
            parts.append(
                f'<path d="M{a + _BOX / 2} {b + 34} C{a + _BOX / 2} {mid} {x + _BOX / 2} {mid} {x + _BOX / 2} {y}"/>'
            )
    for node in graph.nodes:
        x, y = place[node]
        types = ", ".join(str(t) for t in node.types)
        detail = f"{node.op.name}({_attributes(node)})\n{types}\n{node.loc}"
        detail += f"\ngradient of {node.origin.op.name}" if node.origin else ""
        parts.append(
            f'<g class="node"><title>{escape_html.escape(detail)}</title>'
            f'<rect x="{x}" y="{y}" width="{_BOX}" height="34" rx="5" fill="{_COLOURS[_kind(node)]}"/>'
            f'<text x="{x + 7}" y="{y + 14}">{escape_html.escape(_label(node, name)[:28])}</text>'
            f'<text x="{x + 7}" y="{y + 28}" fill="#666">{escape_html.escape(types[:28])}</text></g>'
        )
    widest = max((len(r) for r in rows), default=1)
    key = "".join(f'<span style="background:{c}">{k}</span>' for k, c in _COLOURS.items())
    summary = f"{len(graph.nodes)} nodes, {len(graph.inputs)} inputs, {len(graph.outputs)} outputs"
    return _PAGE.format(
        title=escape_html.escape(title), summary=summary, key=key, body="".join(parts),
        width=40 + widest * _STEP, height=60 + len(rows) * _ROW,
    )  # fmt: skip
