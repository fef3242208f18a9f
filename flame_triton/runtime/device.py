"""Devices: what runs a program, and what the compiler is told about it.

"cuda" (or "cuda:1")  compiled kernels on an NVIDIA GPU
"interpreter"         the same kernels in Triton's interpreter, on the CPU
"reference"           the ops' NumPy references on the CPU; no kernels
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .. import config
from ..errors import DeviceError
from ..graph.plan import Target
from . import buffers


@dataclass(frozen=True)
class Device:
    """kind: "cuda", "interpreter" or "reference"; index: which GPU."""

    kind: str
    index: int = 0

    @property
    def memory(self) -> str:
        """Where its bytes live: "cpu" or "cuda:0"."""
        return f"cuda:{self.index}" if self.kind == "cuda" else "cpu"

    def __str__(self) -> str:
        return self.memory if self.kind == "cuda" else self.kind


def device(like: Device | str | None = None) -> Device:
    """The device that `like` names; None: the default one.

    Raises DeviceError if there is no such device, or if this process cannot use it (it runs either compiled or
    interpreted kernels, never both).
    """
    if like is None:
        return default_device()
    if isinstance(like, Device):
        return like
    found = re.fullmatch(r"cuda(?::(\d+))?|interpreter|reference", like) if isinstance(like, str) else None
    if found is None:
        raise DeviceError(f"unknown device {like!r}; known are 'cuda', 'cuda:1', ..., 'interpreter' and 'reference'")
    if like == "interpreter":
        config.require_interpreter()
    if not like.startswith("cuda"):
        return Device(like)
    config.require_gpu()
    index, count = int(found[1] or 0), buffers.device_count()
    if count and index >= count:
        raise DeviceError(f"there is no {like}: {count} GPU{'s are' if count > 1 else ' is'} visible to this process")
    chosen = Device("cuda", index)
    buffers.properties(chosen.memory)
    return chosen


def default_device() -> Device:
    """A GPU if there is one and this process compiles its kernels, otherwise the interpreter."""
    if config.gpu_available() and not config.interpreted():
        return device("cuda")
    return device("interpreter")


def target(device: Device) -> Target:
    """What the compiler may assume about a device."""
    if device.kind != "cuda":
        return Target(interpreted=True)
    found = buffers.properties(device.memory)
    major, minor = found.capability
    return Target(major * 10 + minor, False, found.processors, found.shared_bytes)
