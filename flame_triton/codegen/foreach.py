"""Generate the body of a multi-tensor map: the pointwise graph that one launch applies to every element of a row."""

from __future__ import annotations

from ..ir.graph import Graph
from ..ir.index_map import IndexMap
from .emit import Axis, Deps, Emitter, Space, Term, decoded, load, store
from .region import HEADER, define_function

LANE: Deps = frozenset((0,))


def generate_body(body: Graph, slots: int, returns: bool) -> tuple[str, str]:
    """(name, module source) of BODY(pointers, offsets, mask, scalars), see kernels/portable/foreach.py.

    body: inputs are `slots` tensors' elements, then scalars, all 0-d. returns: the one output is returned per element
    (foreach_sum) rather than stored through the pointers after the first `slots`.
    """
    lines: list[str] = []
    space = Space((Axis("offsets", 1, "mask"),), ((1,),))
    emitter = Emitter(body, space, {}, lambda _: lines)
    for i, value in enumerate(body.inputs):
        if i < slots:
            text = load(f"pointers[{i}]", "offsets", "mask", value.dtype)
            emitter.bound[value] = emitter.assign(text, LANE, str(value.dtype), prefix="x")
        else:
            emitter.bound[value] = Term(decoded(f"scalars[{i - slots}]", value.dtype), frozenset())
    here = IndexMap.dense(())
    results = [emitter.value(v, here).text for v in body.outputs]
    if returns:
        lines.append(f"return {results[0]}")
    else:
        for j, (v, text) in enumerate(zip(body.outputs, results, strict=True)):
            lines.append(store(f"pointers[{slots + j}]", "offsets", text, "mask", v.dtype))
    ops = list(dict.fromkeys(n.op.name for n in body.nodes if n.inputs and n.op.name != "cast"))
    name = "_".join(["foreach", *ops[:4], *(["etc"] if len(ops) > 4 else [])])
    source = HEADER.format(title=f"the body of a multi-tensor map: {', '.join(ops) or 'a copy'}")
    return name, source + define_function(name, ["pointers", "offsets", "mask", "scalars"], lines)
