"""Cache keys of Triton functions that do not depend on what was compiled before.

Triton hashes a function with the constants that it and the functions it calls read from their modules. Those of a
called function count only if that one was hashed before: the key, and with it what is found in the cache on disk, would
depend on the order in which a process meets its kernels. So every function is hashed after all that it calls.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any

_settled: set[int] = set()  # by id: a set of functions would hash them
_lock = threading.RLock()


def settle(function: Any) -> None:
    """Hash `function`, a Triton function for the compiler, after all that it calls."""
    with _lock:
        if id(function) in _settled:
            return
        _settled.add(id(function))
        for called in _mentioned(function):
            settle(called)
        function.cache_key  # noqa: B018 - computed and kept when first read


def _mentioned(function: Any) -> Iterator[Any]:
    """The Triton functions that the code names, directly or in a module that it names."""
    from triton.runtime.jit import JITCallable

    scope = function.get_capture_scope()
    names = tuple(dict.fromkeys(_names(function.fn.__code__)))
    for name in names:
        value = scope.get(name)
        inside = [getattr(value, n, None) for n in names] if isinstance(value, ModuleType) else []
        for found in (value, *inside):
            if isinstance(found, JITCallable):
                yield found


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    yield from code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
