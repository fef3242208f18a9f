"""The arena: one allocation for the intermediate values of every program that shares it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

from . import buffers
from .buffers import Buffer, rounded


class Tenant(Protocol):
    """A program's memory that points into an arena."""

    def unbind(self) -> None:
        """Forget every address: the arena has moved."""


class Arena:
    """One buffer for the largest of its tenants. Only one tenant runs at a time, and nothing survives between calls."""

    def __init__(self, memory: str) -> None:
        self.memory = memory
        self._buffer: Buffer | None = None
        self._tenants: weakref.WeakKeyDictionary[Tenant, int] = weakref.WeakKeyDictionary()
        self._stream: Any = None

    def reserve(self, tenant: Tenant, nbytes: int) -> None:
        """Announce a tenant that needs nbytes. Nothing is allocated before `buffer` is first asked for."""
        self._tenants[tenant] = rounded(nbytes)

    @property
    def growth(self) -> int:
        """Bytes by which the memory held would grow if `buffer` were asked for now."""
        held = self._buffer.nbytes if self._buffer is not None else 0
        return max(0, max(self._tenants.values(), default=0) - held)

    def growth_for(self, nbytes: int) -> int:
        """`growth`, if a tenant that needs nbytes came as well."""
        held = self._buffer.nbytes if self._buffer is not None else 0
        return max(self.growth, rounded(nbytes) - held)

    @property
    def buffer(self) -> Buffer:
        """The memory, at least as large as every tenant needs. Growing moves it: all tenants are unbound."""
        needed = max(self._tenants.values(), default=0)
        if self._buffer is None or self._buffer.nbytes < needed:
            buffers.synchronize(self.memory)
            self._buffer = None
            for tenant in list(self._tenants):
                tenant.unbind()
            self._buffer = Buffer(needed, self.memory)
        return self._buffer

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Around a call: makes the device current, and orders the call after the last one, whatever its stream."""
        with buffers.on(self.memory):
            self._stream = buffers.wait_for(self.memory, self._stream)
            yield
