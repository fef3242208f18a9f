"""What `flame-triton bench` does: choose cases, measure them, show and write what was found; or profile one program."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

import flame_triton as ft
from bench.case import Case, KernelCase, Replayed, Scale
from bench.cases import FAMILIES, chosen
from bench.cases.step import StepCase, StepSession
from bench.harness import Harness, Plan, copy, large_product, measure
from bench.page import page
from bench.report import markdown, screen
from flame_triton import config
from flame_triton.runtime.profile import Ceilings, Profile


def device_for(quick: bool) -> str:
    """The GPU if kernels are compiled here. Without one only tiny sizes, on the references."""
    if config.gpu_available() and not config.interpreted():
        return "cuda"
    if not quick:
        raise ValueError("there is no GPU to measure on; --quick tries everything at tiny sizes on the references")
    return "reference"


def listing(plan: Plan, families: tuple[str, ...], patterns: tuple[str, ...]) -> str:
    """The chosen cases, by family."""
    wanted = {f: chosen(plan.scale, (f,), ()) for f in families or tuple(FAMILIES)}
    names = {case.name for case in chosen(plan.scale, families, patterns)}
    lines = []
    for family, cases in wanted.items():
        lines += [f"{family}:", *(f"  {case.name}" for case in cases if case.name in names)]
    return "\n".join(lines)


def run(
    plan: Plan, families: tuple[str, ...], patterns: tuple[str, ...], out: Path | None, console: Console
) -> dict[str, Any]:
    """Measure, print the table, and write bench.json, bench.md and bench.html into `out`."""
    device = device_for(plan.scale.quick)
    harness = Harness(plan, device, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
    result = harness.run(chosen(plan.scale, families, patterns))
    console.print(screen(result))
    if out is not None:
        write(result, out)
        console.print(f"written to {out}: bench.json, bench.md, bench.html", markup=False, highlight=False)
    return result


def write(result: dict[str, Any], out: Path) -> None:
    """The figures, the tables and the page."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    (out / "bench.md").write_text(markdown(result), encoding="utf-8")
    (out / "bench.html").write_text(page(result), encoding="utf-8")


# ---- profile ---------------------------------------------------------------------------------------------------


def profile(wanted: str, scale: Scale, out: Path | None, console: Console) -> Profile:
    """Time per launch of a case, or of the Program that a function MODULE:FUNCTION gives; prints, and writes to `out`.

    Writes profile.txt, profile.json and trace.json (Chrome's trace events; Perfetto opens it).
    """
    if ":" in wanted:
        module, _, function = wanted.partition(":")
        program = getattr(import_module(module), function)()
    else:
        program = _program(_named(wanted, scale))
    found = program.profile(ceilings=_ceilings() if program.device.kind == "cuda" else None)
    console.print(found.text(), markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "profile.txt").write_text(found.text(), encoding="utf-8")
        (out / "profile.json").write_text(json.dumps(found.as_dict(), indent=1), encoding="utf-8")
        (out / "trace.json").write_text(json.dumps(found.trace()), encoding="utf-8")
        console.print(f"written to {out}: profile.txt, profile.json, trace.json", markup=False, highlight=False)
    return found


def _named(wanted: str, scale: Scale) -> Case:
    """The one case of this name, or the only one that it fits."""
    found = chosen(scale, (), (wanted,))
    exact = [case for case in found if case.name == wanted]
    if len(exact or found) > 1:
        raise ValueError(f"{wanted!r} fits several cases: {', '.join(case.name for case in found)}")
    return (exact or found)[0]


def _program(case: Case) -> ft.Program:
    """A case's program, with its arrays in place."""
    device = "cuda" if config.gpu_available() and not config.interpreted() else "interpreter"
    session: Any = case.open(device)
    if isinstance(case, KernelCase):
        return Replayed(session.built, session.tensors, device).program
    if isinstance(case, StepCase):
        assert isinstance(session, StepSession)
        return Replayed(case.build(), session.named_inputs() | session.weights(), device).program
    return Replayed(session.built, session.tensors, device).program


def _ceilings() -> Ceilings:
    """What this GPU reaches now: a copy of 2 GiB, and cuBLAS's large product."""
    from bench.harness import CudaClock

    nbytes = 1 << 31
    product, flops = large_product("cuda", quick=False)
    samples = measure({"copy": copy(nbytes, "cuda"), "product": product}, CudaClock(), 3, 0.1)
    best = {name: min(times) for name, times in samples.items()}
    return Ceilings(nbytes / best["copy"] * 1e3, flops / best["product"] * 1e3)
