"""What torch calls `angle` and `renorm`, for test_ops_reference.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

TORCH: dict[str, Callable[..., Any]] = {
    "angle": lambda x: torch.angle(x if x.is_floating_point() else x.double()),
    "renorm": torch.renorm,
}
WITHOUT_TWIN: dict[str, str] = {}
