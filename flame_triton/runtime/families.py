"""How nodes of the hand-written kernel families other than matmul become launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..ir.node import Node

if TYPE_CHECKING:
    from .lower import Lowering

FAMILIES: dict[str, Callable[[Lowering, Node], None]] = {}
