"""How long a process takes from having imported everything to the end of its first step.

    python -m bench.start [--target bench.targets:step] [--runs 3]

The first run compiles what is not on disk; each further one is a fresh process that finds plans and kernels there. One
line a run, in seconds: graph (building it), state (making weights and bringing them to the device), compile (plan or
passes), kernels (found and loaded, memory), first step, second step, and the sum without state and second step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib import import_module
from itertools import pairwise

COLUMNS = ("graph", "state", "compile", "kernels", "first", "second", "sum")


def once(target: str) -> dict[str, float]:
    """Seconds of each part, in this process."""
    import torch

    import flame_triton as ft
    from flame_triton.cli_target import step_of
    from flame_triton.ir.graph import Graph
    from flame_triton.runtime import execute, lower  # noqa: F401 - imports are no part of what is timed
    from flame_triton.runtime.jit import prepare

    if ":" in target:
        import_module(target.partition(":")[0])
    prepare()
    device = "cuda" if torch.cuda.is_available() else "interpreter"
    torch.zeros(1, device="cuda" if device == "cuda" else "cpu")
    times = [time.perf_counter()]
    graph, updates = step_of(target)
    times.append(time.perf_counter())
    whole = Graph(graph.inputs, (*graph.outputs, *updates, *updates.values()))
    held = [n.out for n in whole.nodes if n.op.name == "parameter" and n.out not in set(graph.inputs)]
    state = ft.State(held, device=device)
    arrays = [torch.zeros(v.shape, dtype=getattr(torch, v.dtype.name)) for v in graph.inputs]
    _wait(device)
    times.append(time.perf_counter())
    program = ft.compile(graph.outputs, graph.inputs, state=state, updates=updates, device=device)
    times.append(time.perf_counter())
    program.prepare()
    _wait(device)
    times.append(time.perf_counter())
    for _ in range(2):
        program(*arrays)
        _wait(device)
        times.append(time.perf_counter())
    parts = dict(zip(COLUMNS, (b - a for a, b in pairwise(times)), strict=False))
    return parts | {"sum": sum(parts[c] for c in ("graph", "compile", "kernels", "first"))}


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="bench.targets:step")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(once(options.target)))
        return
    print("run     " + " ".join(f"{c:>8}" for c in COLUMNS))
    for run in range(options.runs):
        command = [sys.executable, "-m", "bench.start", "--inside", "--target", options.target]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        if done.returncode:
            sys.exit(done.stderr[-4000:])
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{run:<8}" + " ".join(f"{found[c]:8.2f}" for c in COLUMNS), flush=True)


if __name__ == "__main__":
    main()
