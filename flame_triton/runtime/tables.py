"""What is known of configurations in a normal run: the user's store first, then the tables that are shipped.

Both are only read. What cannot be read is left out with one warning: a run needs no table.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from .. import config
from ..errors import CacheWarning, FlameError
from ..graph.plan import Launch
from . import fingerprint
from .choices import Choices, Config, Decision, Problem, as_json
from .store import OK, Row, Store, read_table

SHIPPED = Path(__file__).parents[1] / "tune" / "data"


class Tables(Choices):
    """Choices from a store and from shipped tables, for one device and version of triton."""

    def __init__(self, device: str, triton: str, store: Store | None, shipped: dict[Problem, list[Row]]) -> None:
        self._device = device
        self._triton = triton
        self._store = store
        self._shipped = shipped
        self._known: dict[Problem, list[tuple[Row, str]]] = {}
        self._taken: dict[Problem, Row] = {}
        self._answers: dict[Problem, tuple[Config, str] | None] = {}

    def find(self, problem: Problem, candidates: Callable[[], Sequence[Config]]) -> tuple[Config, str] | None:
        """See Choices."""
        if problem not in self._answers:
            self._answers[problem] = self._find(problem, candidates)
        return self._answers[problem]

    def _find(self, problem: Problem, candidates: Callable[[], Sequence[Config]]) -> tuple[Config, str] | None:
        known = self._rows(problem)
        possible = candidates() if known else ()
        for row, source in known:
            found = _named(row.config, possible)
            if found is not None:
                self._taken[problem] = row
                return found, source
        return None

    def confirm(self, decision: Decision, launches: Sequence[Launch]) -> bool:
        """See Choices."""
        problem = decision.problem
        taken = self._taken.get(problem)
        if taken is None or taken.kernel == fingerprint.of_launches(launches):
            return True
        self._known[problem] = [(r, s) for r, s in self._known[problem] if r.kernel != taken.kernel]
        del self._taken[problem], self._answers[problem]
        return False

    def _rows(self, problem: Problem) -> list[tuple[Row, str]]:
        if problem not in self._known:
            rows = [(row, "tuned") for row in self._own(problem)]
            self._known[problem] = rows + [(row, "shipped") for row in self._shipped.get(problem, [])]
        return self._known[problem]

    def _own(self, problem: Problem) -> list[Row]:
        if self._store is None:
            return []
        try:
            return self._store.best(self._device, self._triton, problem)
        except FlameError as error:
            warnings.warn(f"measured configurations are left out: {error}", CacheWarning, stacklevel=5)
            self._store = None
            return []


def _named(text: str, candidates: Sequence[Config]) -> Config | None:
    """The candidate with this canonical JSON. Most differ in their first fields, which is quicker to see."""
    fields = {name: value for name, value in json.loads(text).items() if name != "kind"}
    alike = (c for c in candidates if all(getattr(c, name, None) == value for name, value in fields.items()))
    return next((c for c in alike if as_json(c) == text), None)


@contextmanager
def tables(device: str) -> Iterator[Choices]:
    """What is known for a device of this name. The store is open inside."""
    triton = fingerprint.triton_version()
    store = _store()
    try:
        yield Tables(device, triton, store, shipped(device, triton))
    finally:
        if store is not None:
            store.close()


def _store() -> Store | None:
    path = config.store_path()
    if not path.exists():
        return None
    try:
        return Store(path, create=False)
    except FlameError as error:
        warnings.warn(f"no measured configurations: {error}", CacheWarning, stacklevel=5)
        return None


@cache
def shipped(device: str, triton: str) -> dict[Problem, list[Row]]:
    """The rows shipped for a device and version of triton, by problem, the fastest first. Read once."""
    found: dict[Problem, list[Row]] = {}
    for path in sorted(SHIPPED.glob(f"{file_stem(device)}*.json")):
        try:
            rows = read_table(path)
        except FlameError as error:
            warnings.warn(f"a shipped table is left out: {error}", CacheWarning, stacklevel=5)
            continue
        for row in rows:
            if row.device == device and row.triton == triton and row.status == OK:
                found.setdefault(row.problem, []).append(row)
    for rows in found.values():
        rows.sort(key=lambda row: row.microseconds or 0.0)
    return found


def file_stem(device: str) -> str:
    """How the file of a device's shipped table begins: "NVIDIA H200" -> "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def summary(device: str) -> str:
    """One line on what is known for a device, for `doctor`."""
    triton = fingerprint.triton_version()
    own, path = 0, config.store_path()
    if path.exists():
        with Store(path, create=False) as store:
            own = store.count(device, triton)
    count = len(shipped(device, triton))
    if not own and not count:
        return f"none for {device} with triton {triton}; heuristics decide (`flame-triton tune` measures)"
    return f"{own} problems in {path}, {count} shipped, for {device} with triton {triton}"
