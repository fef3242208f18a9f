"""What torch has of rounding at random, for test_ops_reference.py: nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TORCH: dict[str, Callable[..., Any]] = {}

WITHOUT_TWIN = {"stochastic_round": "a draw: see test_optim_precision"}
