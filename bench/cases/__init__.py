"""The registry: every case, in the order in which they matter."""

from __future__ import annotations

from fnmatch import fnmatch

from bench.case import Case, Scale
from bench.cases import attention, conv, epilogue, gemm, group, norm, optimizer, pointwise, step

FAMILIES = {
    "gemm": gemm.cases,
    "epilogue": epilogue.cases,
    "norm": norm.cases,
    "pointwise": pointwise.cases,
    "optimizer": optimizer.cases,
    "step": step.cases,
    "attention": attention.cases,
    "group": group.cases,
    "conv": conv.cases,
}


def registry(scale: Scale) -> list[Case]:
    """All cases at this scale."""
    return [case for cases in FAMILIES.values() for case in cases(scale)]


def chosen(scale: Scale, families: tuple[str, ...] = (), patterns: tuple[str, ...] = ()) -> list[Case]:
    """Cases of these families (default all) whose name holds, or matches, one of the patterns (default all).

    Raises ValueError for a family that is not there, and if nothing is left.
    """
    for family in families:
        if family not in FAMILIES:
            raise ValueError(f"there is no family {family!r}; there are {', '.join(FAMILIES)}")
    wanted = [case for f, cases in FAMILIES.items() if not families or f in families for case in cases(scale)]
    found = [case for case in wanted if not patterns or any(_fits(case.name, p) for p in patterns)]
    if not found:
        raise ValueError(f"no case is called {' or '.join(repr(p) for p in patterns)}; see --list")
    return found


def _fits(name: str, pattern: str) -> bool:
    return pattern.lower() in name.lower() or fnmatch(name.lower(), pattern.lower())
