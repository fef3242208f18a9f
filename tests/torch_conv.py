"""What torch calls the convolutions: see test_ops_reference.py, which reads every torch_*.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F

TORCH: dict[str, Callable[..., Any]] = {
    "conv1d": F.conv1d,
    "conv2d": F.conv2d,
    "conv3d": F.conv3d,
    "conv_transpose1d": F.conv_transpose1d,
    "conv_transpose2d": F.conv_transpose2d,
    "conv_transpose3d": F.conv_transpose3d,
}

WITHOUT_TWIN: dict[str, str] = {}
