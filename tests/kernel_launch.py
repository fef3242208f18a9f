"""What the kernel tests share: where tensors live, NaN-prefilled outputs, and a launch without NumPy's warnings.

Tests work on NumPy arrays (ml_dtypes for bfloat16); the one place that knows torch and its device is here.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from flame_triton.config import interpreted

DEVICE = "cpu" if interpreted() else "cuda"

NUMPY = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}
FLOATS = ("float64", "float32", "bfloat16", "float16")
TAILS = (1, 3, 17, 127, 128, 129)  # around a block of 128

GUARD = 64  # elements after the end of every output, which no kernel may touch


def tensor(array: Any) -> torch.Tensor:
    """The array on the device of this process, same shape, dtype and values (also ml_dtypes' bfloat16)."""
    array = np.ascontiguousarray(array)
    if array.dtype == NUMPY["bfloat16"]:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(DEVICE)
    return torch.from_numpy(array.copy()).to(DEVICE)


def array(value: torch.Tensor) -> np.ndarray:
    """A tensor as a NumPy array of the same dtype."""
    value = value.detach().cpu().contiguous()
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).numpy().view(NUMPY["bfloat16"])
    return value.numpy()


class Output:
    """A tensor to be written: NaN (integers: 77, bool: True) before the launch, with a guard area behind it."""

    def __init__(self, shape: int | tuple[int, ...], dtype: str) -> None:
        self.shape = (shape,) if isinstance(shape, int) else shape
        self.size = int(np.prod(self.shape))
        self.dtype = dtype
        fill = float("nan") if dtype in FLOATS else True if dtype == "bool" else 77
        self.tensor = tensor(np.full(self.size + GUARD, fill).astype(NUMPY[dtype]))
        self._untouched = array(self.tensor)[self.size :].tobytes()

    def result(self) -> np.ndarray:
        """What the kernel wrote; fails if it wrote behind the end."""
        flat = array(self.tensor)
        assert flat[self.size :].tobytes() == self._untouched, "the kernel wrote behind the end of its output"
        return flat[: self.size].reshape(self.shape)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Runs a kernel. NumPy's warnings about NaN and overflow, which the interpreter would raise, are off."""
    arguments = [arg.tensor if isinstance(arg, Output) else arg for arg in args]
    with np.errstate(all="ignore"):
        kernel[grid](*arguments, **options)


def samples(rng: np.random.Generator, shape: int | tuple[int, ...], dtype: str) -> np.ndarray:
    """Standard normal numbers rounded to the dtype; small integers (any sign) for integer dtypes."""
    if dtype in FLOATS:
        return rng.standard_normal(shape).astype(NUMPY[dtype])
    if dtype == "bool":
        return rng.random(shape) < 0.5
    return rng.integers(0 if dtype == "uint8" else -9, 10, shape).astype(NUMPY[dtype])
