"""How nodes of the hand-written kernel families become launches: one module for each kind of kernel.

A module offers FAMILIES: the name of a family (a Kernel lowering names it) -> function(lowering, node), which emits the
launches of one node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...ir.node import Node
from . import attention, conv, custom, foreach, indexing, matmul, scan, sort

if TYPE_CHECKING:
    from ..lower import Lowering

FAMILIES: dict[str, Callable[[Lowering, Node], None]] = {
    **custom.FAMILIES,
    **conv.FAMILIES,
    **attention.FAMILIES,
    **foreach.FAMILIES,
    **indexing.FAMILIES,
    **matmul.FAMILIES,
    **scan.FAMILIES,
    **sort.FAMILIES,
}
