"""What TensorBoard shows of a run: its log and pictures. Needs tensorboardX (the extra `tensorboard`)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .data import require_extra

Array = np.ndarray[Any, Any]


class Board:
    """Event files in a folder, for `tensorboard --logdir`.

    after: the step that the run continues from; TensorBoard drops what earlier files say of later steps.
    Raises MissingPackageError.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        require_extra("tensorboard", "tensorboardX")
        make: Any = import_module("tensorboardX").SummaryWriter
        self._writer: Any = make(str(folder), purge_step=after + 1, filename_suffix=f".{secrets.token_hex(4)}")

    def scalars(self, record: Mapping[str, Any]) -> None:
        """Every number of a line of the log, at its step."""
        for name, value in record.items():
            if name not in ("step", "count") and isinstance(value, (int, float)):
                self._writer.add_scalar(f"train/{name}", value, record["step"])
        self._writer.flush()

    def image(self, name: str, pixels: Array, step: int) -> None:
        """A picture: uint8 [height, width] or [height, width, 3]."""
        self._writer.add_image(name, pixels, step, dataformats="HWC" if pixels.ndim == 3 else "HW")
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
