"""Typed errors. Each names the op, says what was wrong with which argument, and points at the user's own line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ir.location import Loc


class FlameError(Exception):
    """Base of every error that flame_triton raises on purpose.

    op: the op's name, if one is to blame; loc: the user's file:line, if known.
    """

    def __init__(self, message: str, *, op: str | None = None, loc: Loc | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.op = op
        self.loc = loc

    def __str__(self) -> str:
        prefix = f"{self.op}: " if self.op else ""
        suffix = f"\n  at {self.loc}" if self.loc else ""
        return f"{prefix}{self.message}{suffix}"


class ShapeError(FlameError, ValueError):
    """Shapes, axes or sizes that do not fit together."""


class DTypeError(FlameError, TypeError):
    """An element type that the op does not take."""


class ArgumentError(FlameError, ValueError):
    """An argument other than shape and dtype that makes no sense."""


class GraphError(FlameError, ValueError):
    """A graph that is not closed or not well formed: a missing input, equal names, a broken invariant."""


class GradientError(FlameError, ValueError):
    """No gradient where one was asked for: a severed path, an integer `wrt`, an op without a gradient."""


class InputError(FlameError, ValueError):
    """An array given to a program does not fit the input it is for. Nothing was written."""


class StateError(FlameError, ValueError):
    """A State, checkpoint or safetensors file that does not fit."""


class CheckpointError(StateError):
    """A checkpoint that is damaged, or could not be written. Those written before it are as they were."""


class CompileError(FlameError, RuntimeError):
    """A graph or kernel that cannot be lowered or compiled."""


class DeviceError(FlameError, RuntimeError):
    """The device asked for is not there, or this process cannot use it."""


class BundleError(FlameError, ValueError):
    """A bundle of kernels that is damaged, or was built for another device or with other versions."""


class MissingPackageError(FlameError, ImportError):
    """An optional package is not installed; the message says how to get it."""


class OutOfMemoryError(FlameError, MemoryError):
    """The plan does not fit the device; says planned and available bytes."""


class NonFiniteError(FlameError, ArithmeticError):
    """A NaN or infinity appeared; names the node that made it first."""


class CacheWarning(UserWarning):
    """A cache entry was damaged and is made anew."""


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written; training goes on, and the next one is tried in time."""
