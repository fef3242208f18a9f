"""Which elementary functions of a region may be short: those that only 16-bit results depend on."""

from __future__ import annotations

import re

from ..ir.graph import Graph
from ..ir.node import Node
from ..ir.op import Pointwise, View
from ..types import float32

SHORT = ("exp", "sigmoid", "tanh", "erfc")
_CALL = re.compile(rf"\blib\.({'|'.join(SHORT)})\(")


def short_nodes(region: Graph) -> frozenset[Node]:
    """The pointwise nodes whose float32 values reach nothing but 16-bit floats, through pointwise nodes and views."""
    outputs = {v.node for v in region.outputs}
    long: set[Node] = set()
    short: set[Node] = set()
    for node in reversed(region.nodes):
        kind = node.op.lowering
        if isinstance(kind, Pointwise) and node.type.dtype.is_low_precision:
            short.add(node)
        elif isinstance(kind, Pointwise | View) and node.type.dtype is float32:
            if node not in outputs and node not in long:
                short.add(node)
        if node not in short:
            long.update(v.node for v in node.inputs)
    return frozenset(short)


def shortened(text: str) -> str:
    """An expression with its elementary functions replaced by short ones."""
    return _CALL.sub(r"lib.short_\1(", text)
