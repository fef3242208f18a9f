"""Pictures of a run: the loss curve, and images in rows. Needs matplotlib (the extra `examples`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .log import Record

Array = np.ndarray[Any, Any]


def plot_loss(records: Sequence[Record], path: Path) -> None:
    """Loss and learning rate over the steps, from the records of a log, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [r["step"] for r in records]
    axes.plot(steps, [r["loss"] for r in records], color="#1f5fa8", linewidth=1)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title="Training loss")
    axes.grid(alpha=0.3, which="both")
    rate = axes.twinx()
    rate.plot(steps, [r["lr"] for r in records], color="#b0b0b0", linewidth=1)
    rate.set_ylabel("learning rate", color="#808080")
    figure.savefig(path, dpi=120)


def image_grid(images: Array, columns: int, scale: int = 6, margin: int = 8) -> Array:
    """Images [N, H, W] in [-1, 1] as one picture, uint8 [height, width]: row by row, enlarged, on a grey ground."""
    count, height, width = images.shape
    rows = -(-count // columns)
    pixels = np.clip((images + 1) * 127.5, 0, 255).round().astype(np.uint8)
    large = pixels.repeat(scale, 1).repeat(scale, 2)
    step_y, step_x = height * scale + margin, width * scale + margin
    picture = np.full((rows * step_y + margin, columns * step_x + margin), 96, np.uint8)
    for i, image in enumerate(large):
        y, x = margin + i // columns * step_y, margin + i % columns * step_x
        picture[y : y + height * scale, x : x + width * scale] = image
    return picture


def save_grid(images: Array, path: Path, columns: int = 10) -> None:
    """Write images [N, H, W] in [-1, 1] as a PNG, `columns` a row."""
    from matplotlib.image import imsave

    imsave(path, image_grid(images, columns), cmap="gray", vmin=0, vmax=255)
