"""The table: OpInfo's name, with its variant after a slash, to the adapter onto our function."""

from ..adapter import Adapter
from . import index, math, network, shape

ADAPTERS: dict[str, Adapter] = {**math.ADAPTERS, **shape.ADAPTERS, **index.ADAPTERS, **network.ADAPTERS}
