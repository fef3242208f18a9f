"""Is this installation sound? Versions, device, cache folder, and one small computation for each kind of kernel."""

from __future__ import annotations

import hashlib
import platform
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from . import config
from .graph.decompose import decompose
from .ir.graph import Graph
from .ir.op import OPS, Generator, Kernel, Pointwise, Reduce
from .testing import Case, cases, check_kernels

PACKAGE = "flame-triton"
REQUIRED = ("torch", "triton", "numpy", "ml_dtypes", "safetensors", "typer", "rich", "platformdirs", "filelock")
OPTIONAL = ("scikit-learn", "matplotlib")

T = TypeVar("T")


@dataclass(frozen=True)
class Check:
    """One finding. group: what it belongs to; ok: False if something is broken; advice: how to mend it."""

    group: str
    name: str
    value: str
    ok: bool = True
    advice: str = ""


def examine() -> Iterator[Check]:
    """Every check, one after the other, as soon as it is known. None raises: what goes wrong is a finding."""
    yield from _versions()
    yield from _device()
    yield from _cache()
    yield from _kernels()


# ---- versions --------------------------------------------------------------------------------------------------


def _versions() -> Iterator[Check]:
    wanted = {**_ranges(), "python": ">=3.11"}
    found = platform.python_version()
    yield _version("python", found, wanted["python"], "install Python 3.11 or newer")
    for name in (*REQUIRED, *OPTIONAL):
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            optional = name in OPTIONAL
            extra = f"{PACKAGE}[examples]" if optional else name
            value = "not installed" + (" (needed by the examples alone)" if optional else "")
            yield Check("versions", name, value, optional, f"pip install '{extra}'")
            continue
        yield _version(name, found, wanted.get(_canonical(name), ""), f"pip install '{name}{wanted.get(name, '')}'")


def _version(name: str, found: str, wanted: str, advice: str) -> Check:
    ok = _within(found, wanted)
    return Check("versions", name, found if ok else f"{found}, needs {wanted}", ok, "" if ok else advice)


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def _ranges() -> dict[str, str]:
    """package -> the versions that this package asks for; nothing if it runs from a folder without being installed."""
    try:
        lines = metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return {}
    parsed = (re.match(r"([\w.-]+)\s*([<>=!~][^;]*)?(;.*)?$", line) for line in lines)
    return {_canonical(m[1]): (m[2] or "").strip() for m in parsed if m and not m[3]}


def _within(version: str, wanted: str) -> bool:
    """True if every comparison in `wanted` (">=3.6,<3.10") holds; only <, <=, >, >= and == are understood."""
    tests: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
        ">=": lambda a, b: a >= b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        "<": lambda a, b: a < b,
        "==": lambda a, b: a == b,
    }
    for part in filter(None, wanted.split(",")):
        found = re.fullmatch(r"\s*(>=|<=|==|<|>)\s*([\d.]+)\s*", part)
        if found and not tests[found[1]](_numbers(version), _numbers(found[2])):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version, padded to four: "2.13.0+cpu" -> (2, 13, 0, 0)."""
    found = [int(n) for n in re.findall(r"\d+", version.split("+")[0])[:4]]
    return (*found, *(0,) * (4 - len(found)))


# ---- device and cache ------------------------------------------------------------------------------------------


def _guarded(action: Callable[[], T]) -> tuple[T | None, str]:
    """What `action` returns, or None and what went wrong in one line."""
    try:
        return action(), ""
    except Exception as error:  # anything: a broken installation fails in ways of its own
        return None, f"{type(error).__name__}: {error}".splitlines()[0]


def _device() -> Iterator[Check]:
    if not config.gpu_available():
        yield Check("device", "GPU", "none; kernels run in Triton's interpreter, training on NumPy references")
    elif config.interpreted():
        yield Check("device", "GPU", "there is one, but this process interprets kernels (FLAME_INTERPRET)")
    else:
        yield _gpu()
        yield _tables()
    found, problem = _guarded(_default_device)
    advice = "" if found else "see the versions above; reinstall torch and triton"
    yield Check("device", "default device", found or problem, found is not None, advice)


def _gpu() -> Check:
    def describe() -> str:
        from .runtime.buffers import memory_info, properties

        card, memory = properties("cuda:0"), memory_info("cuda:0")
        major, minor = card.capability
        return f"{card.name}, sm_{major}{minor}, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"

    found, problem = _guarded(describe)
    advice = "" if found else "install a build of torch for this driver, or set FLAME_INTERPRET=1"
    return Check("device", "GPU", found or problem, found is not None, advice)


def _tables() -> Check:
    def describe() -> str:
        from .runtime.buffers import properties
        from .runtime.tables import summary

        return summary(properties("cuda:0").name)

    found, problem = _guarded(describe)
    advice = "" if found else "move the store away; `flame-triton tune` makes a new one"
    return Check("device", "tuned kernels", found or problem, found is not None, advice)


def _default_device() -> str:
    from .runtime.device import default_device

    return str(default_device())


def _cache() -> Iterator[Check]:
    folder, problem = _guarded(config.cache_dir)
    if folder is None:
        yield Check("cache", "folder", problem, False, "set FLAME_CACHE_DIR to a folder that can be written")
        return
    writable, problem = _guarded(lambda: _try_writing(folder))
    advice = "" if writable else "make it writable, or set FLAME_CACHE_DIR to another folder"
    yield Check("cache", "folder", f"{folder}" if writable else problem, bool(writable), advice)
    shared = folder.stat().st_mode & 0o022
    if shared:
        yield Check("cache", "permissions", "others may write kernels that you run", False, f"chmod 700 '{folder}'")
    sizes = {p: size for p in folder.rglob("*") if (size := _size(p)) is not None}
    damaged = [p for p in sizes if p.parent.name == "kernels" and p.suffix == ".py" and not _sound(p)]
    state = f"{len(sizes)} files, {sum(sizes.values()) / 2**20:.1f} MiB"
    if damaged:
        state += f", {len(damaged)} damaged (they are made anew when needed)"
    yield Check("cache", "contents", state)
    yield Check("cache", "plans", _plans(folder))


def _plans(folder: Path) -> str:
    if not config.keeps_plans():
        return "none are kept (FLAME_PLANS)"
    from .runtime.plans import FOLDER, LIMIT

    sizes = [size for p in (folder / FOLDER).glob("*") if (size := _size(p)) is not None]
    return f"{len(sizes)} graphs, {sum(sizes) / 2**20:.1f} of at most {LIMIT >> 20} MiB; FLAME_PLANS=0 keeps none"


def _size(path: Path) -> int | None:
    """Bytes of a file; None for a folder, and for a file that another process has just renamed."""
    try:
        return path.stat().st_size if path.is_file() else None
    except FileNotFoundError:
        return None


def _try_writing(folder: Path) -> bool:
    from .codegen.atomic import atomic_file

    probe = folder / "doctor.probe"
    with atomic_file(probe) as file:
        file.write(b"writable")
    probe.unlink()
    return True


def _sound(path: Path) -> bool:
    """True if a generated module still has the checksum in its first line."""
    head, _, source = path.read_bytes().partition(b"\n")
    return head == b"# sha256: " + hashlib.sha256(source).hexdigest().encode()


# ---- kernels ---------------------------------------------------------------------------------------------------


def _families(graph: Graph) -> set[str]:
    """The kinds of kernels that a graph needs."""
    names: set[str] = set()
    for node in graph.nodes:
        match node.op.lowering:
            case Kernel(family=family):
                names.add(family)
            case Pointwise():
                names.add("pointwise")
            case Reduce():
                names.add("reduce")
            case Generator():
                names.add("random" if node.op.name.startswith("random") else "pointwise")
            case _:
                pass
    return names


MADE_BY_PASSES = {"foreach_columns"}
"""Families that no call needs: passes put several nodes together."""


def representatives() -> dict[str, Case]:
    """For every kind of kernel a sample call from the registry that needs it, if not before its gradient does; the one
    that needs the fewest kinds."""
    wanted = {op.lowering.family for op in OPS.values() if isinstance(op.lowering, Kernel)} - MADE_BY_PASSES
    wanted |= {"pointwise", "reduce", "random"}
    best: dict[str, tuple[int, Case]] = {}

    def consider(case: Case, found: set[str], missing: set[str]) -> None:
        for family in found & missing:
            if family not in best or len(found) < best[family][0]:
                best[family] = (len(found), case)

    every = list(cases())
    for case in every:
        consider(case, _families(decompose(case.graph("float32"))), wanted)
    backward = wanted - set(best)
    for case in every if backward else ():
        consider(case, _families(decompose(case.with_gradients("float32")[0])), backward)
    return {family: best[family][1] for family in sorted(best)}


def _kernels() -> Iterator[Check]:
    device, problem = _guarded(_default_device)
    if device is None:
        yield Check("kernels", "self-test", f"left out: {problem}", False)
        return
    for family, case in representatives().items():
        _, problem = _guarded(lambda case=case: _run(case, device))
        value = f"{case.name} agrees with its reference" if not problem else f"{case.name}: {problem}"
        advice = "" if not problem else "empty the cache folder and try again; if it stays, report it with this output"
        yield Check("kernels", f"{family} ({device})", value, not problem, advice)


def _run(case: Case, device: str) -> None:
    """Raises unless the sample and its gradients are the same through the kernels and the float64 references."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_kernels(case, "float32", device)
