"""docs/ops.md: every function with its dtypes, gradients, kernels and proofs, from the registry and the tests' tables.

Run from the project's root: python tests/ops_table.py > docs/ops.md
"""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

import flame_triton as ft
from flame_triton.errors import FlameError
from flame_triton.graph.decompose import decompose
from flame_triton.ir.op import OPS, Generator, Kernel, Pointwise, Reduce, View
from flame_triton.ops.define import SAMPLED
from flame_triton.testing import Case, cases, differentiable

HEAD = """# The ops

{count} functions, made of {primitives} primitive and composite ops. This table is generated: `python
tests/ops_table.py > docs/ops.md`.

- **dtypes**: what the floating operands may also be. All take float64, float32, bfloat16 and float16; 16-bit floats are
  computed in float32 and rounded once. float8 stands for both 8-bit types, which only store values: these functions
  move them, all others refuse them.
- **gradient**: 2 where the gradient and the gradient of the gradient are checked against central differences on every
  sample; - for functions whose results are not floating, or do not depend on a floating operand.
- **kernels**: what the function comes down to. Pointwise work, views and reductions are fused with their neighbours; a
  name in italics is a hand-written family of kernels.
- **samples**: calls that the tests run through the references and the kernels in all four dtypes; `flame-triton check`
  runs them on your machine.
- **against**: torch's function in float64 on all samples; and the entries of torch's own OpInfo suite that the function
  is put through.
"""


def by_function() -> dict[str, list[Case]]:
    table: dict[str, list[Case]] = {}
    for case in cases():
        table.setdefault(case.name, []).append(case)
    return table


def torch_twins() -> set[str]:
    tables = [import_module(path.stem) for path in sorted(Path(__file__).parent.glob("torch_*.py"))]
    return {name for table in tables for name in table.TORCH}


def opinfo_names() -> dict[str, list[str]]:
    """Our functions, and the names of the OpInfo entries whose adapter calls them first."""
    adapters = import_module("opinfo.adapters").ADAPTERS
    table: dict[str, list[str]] = {}
    for name, adapter in sorted(adapters.items()):
        if not adapter.missing and adapter.needs:
            table.setdefault(adapter.needs[0].split(":")[0], []).append(name)
    return table


def accepts(case: Case, dtype: str) -> bool:
    """True if the case can be built with its floating arrays of another dtype."""
    try:
        case.call(*case.inputs(dtype))
    except (FlameError, TypeError, ValueError):
        return False
    return True


def dtypes(found: list[Case]) -> str:
    floating = [c for c in found if any(a.dtype.kind == "f" for a in c.arrays)]
    if not floating:
        return ""
    more = [
        words
        for words, dtype in (("integers", "int64"), ("bool", "bool"), ("float8", "float8_e4m3fn"))
        if all(accepts(c, dtype) for c in floating)
    ]
    return ", ".join(more)


def kernels(found: list[Case]) -> str:
    kinds: set[str] = set()
    for case in found:
        for node in decompose(case.graph("float32")).nodes:
            match node.op.lowering:
                case Kernel(family=family):
                    kinds.add(f"*{family}*")
                case Pointwise():
                    kinds.add("pointwise")
                case Reduce():
                    kinds.add("reduce")
                case Generator():
                    kinds.add("generated")
                case View():
                    kinds.add("view")
    kinds -= {"generated"} if "pointwise" in kinds or len(kinds) > 1 else set()
    return ", ".join(sorted(kinds)) or "constant"


def summary(name: str) -> str:
    text = inspect.getdoc(SAMPLED[name].function) or ""
    return text.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def signature(name: str) -> str:
    parameters = inspect.signature(SAMPLED[name].function).parameters.values()
    return f"`{name}({', '.join(('*' if p.kind is p.VAR_POSITIONAL else '') + p.name for p in parameters)})`"


def family(name: str) -> str:
    """The module of ops/ that defines the function."""
    module = inspect.unwrap(SAMPLED[name].function).__module__
    if module == "flame_triton.ops.define":  # made by a constructor: its name is assigned where it is defined
        assigned = re.compile(rf"^{name} = ", re.MULTILINE)
        module = next(
            m for m in sorted(sys.modules) if m.startswith("flame_triton.ops.") and assigned.search(_source(m))
        )
    return module.rpartition(".")[2]


@cache
def _source(module: str) -> str:
    return inspect.getsource(sys.modules[module])


def document() -> str:
    """The whole of docs/ops.md."""
    twins, opinfo = torch_twins(), opinfo_names()
    families: dict[str, list[str]] = {}
    table = {name: found for name, found in by_function().items() if name in ft.__all__}
    for name, found in table.items():
        against = ["torch"] if name in twins else []
        against += [f"`{n}`" for n in opinfo.get(name, [])]
        gradient = "2" if any(differentiable(c) for c in found) else "-"
        cells = (
            signature(name),
            summary(name),
            dtypes(found),
            gradient,
            kernels(found),
            str(len(found)),
            ", ".join(against),
        )
        families.setdefault(family(name), []).append(f"| {' | '.join(cells)} |")
    lines = [
        HEAD.format(
            count=len(table), primitives=sum(op.ref.__module__.startswith("flame_triton.") for op in OPS.values())
        )
    ]
    for title, rows in sorted(families.items()):
        lines += [
            f"## {title}",
            "",
            "| function | what it computes | dtypes | gradient | kernels | samples | against |",
        ]
        lines += ["|---|---|---|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(document())
