"""Which configuration a kernel gets: one that was measured for this very problem, or the heuristic's.

Nothing is ever measured here. The tuner (flame_triton/tune) measures, and fills what `Choices` look up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ..graph.plan import Launch
from ..ir.node import Node

Config = Any  # a frozen dataclass of the family's own, with numbers, flags and text as fields


@dataclass(frozen=True, order=True)
class Problem:
    """What decides which configuration of a kernel is the fastest.

    family: of kernels ("matmul", "region", ...). facts: canonical JSON of sizes, dtypes, how operands lie, and the
    digest of what is fused into the kernel; nothing that changes from run to run. Launches of one problem have the same
    candidates: a configuration that is legal for one of them is legal for all.
    """

    family: str
    facts: str

    @classmethod
    def of(cls, family: str, facts: Mapping[str, Any]) -> Problem:
        """The problem with these facts, in whatever order they are given."""
        return cls(family, json.dumps(facts, sort_keys=True, separators=(",", ":")))


def as_json(config: Config) -> str:
    """Canonical JSON of a configuration, with the name of its kind."""
    fields = {"kind": type(config).__name__, **asdict(config)}
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, eq=False)
class Decision:
    """A choice that a lowering has made.

    node: for which; problem: what for; candidates: every configuration worth measuring, the heuristic's among them;
    chosen: the one taken; source: "heuristic", or where the choice came from ("tuned", "shipped", ...).
    first: how many launches there were before it. A family decides right before it emits what the decision is for.
    """

    node: Node
    problem: Problem
    candidates: Callable[[], Sequence[Config]]
    chosen: Config
    source: str
    first: int = 0


class Choices(Protocol):
    """What has been measured before."""

    def find(self, problem: Problem, candidates: Callable[[], Sequence[Config]]) -> tuple[Config, str] | None:
        """The best of `candidates` for the problem and where that is known from, or None if nothing is known.

        A stored configuration that is no candidate any more counts as unknown.
        """
        ...

    def confirm(self, decision: Decision, launches: Sequence[Launch]) -> bool:
        """True if what `find` knew was measured with the very kernels of these launches.

        If not, it is forgotten, so that a lowering made anew decides without it.
        """
        ...
