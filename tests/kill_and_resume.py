"""Kill training with SIGKILL at random instants, resume it, compare with the run that was never killed, bit for bit.

    python tests/kill_and_resume.py --runs 50                    on the CPU, by the references
    python tests/kill_and_resume.py --runs 5 --device cuda       on a GPU, five runs side by side

The model is small and uses everything that a checkpoint must hold: weights and biases, dropout (random numbers), AdamW
with moments, an average and a master copy of float16 weights, and a loss scale that rises until a step overflows, is
skipped, and halves it. Every second step begins a checkpoint of several shards. Compared are the SHA-256 of every shard
of the last checkpoint (so every tensor of the State), step, data position, seed, configuration, and each line of the
log but for its clock. Exit code 1 if any run differs.

The unbroken run comes first, alone: it leaves the compiled kernels in Triton's cache for all others, and says what its
start consisted of. --jobs runs then go side by side; each is killed once its training has begun.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

BEGUN = time.perf_counter()
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs as a file, wherever the package is not installed
STEPS, SAVE_EVERY, LOG_EVERY, SHARD_BYTES = 80, 2, 5, 40_000
WIDTH, BATCH, ROWS = 64, 16, 200


# ---- the training that is killed --------------------------------------------------------------------------------


def make_training(device: str) -> Any:
    """A run of the small model, at its first step."""
    import numpy as np

    import flame_triton as ft
    from flame_triton.train.data import Batches
    from flame_triton.train.loop import Training

    def normal(shape: tuple[int, ...], rng: Any) -> Any:
        return rng.standard_normal(shape) / shape[0] ** 0.5

    sizes = [(8, WIDTH), (WIDTH, WIDTH), (WIDTH, 1)]
    weights = [ft.parameter(s, "float16", name=f"layer{i}.weight", init=normal) for i, s in enumerate(sizes)]
    biases = [ft.parameter((s[1],), name=f"layer{i}.bias") for i, s in enumerate(sizes)]
    parameters = [*weights, *biases]
    x, y = ft.input((BATCH, 8), name="x"), ft.input((BATCH, 1), name="y")
    seed = ft.rng_seed(7)
    scale = ft.parameter((), name="loss_scale", init=2.0**12, trainable=False)
    good = ft.parameter((), "int64", name="good_steps", trainable=False)

    h = ft.cast(x, "float16")
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        h = h @ w + ft.cast(b, "float16")
        if i < 2:
            h = ft.dropout(ft.silu(h), 0.1, seed)
    loss = ft.mse_loss(ft.cast(h, "float32"), y)
    gradients = [ft.cast(g, "float32") / scale for g in ft.grad(loss * scale, parameters)]
    optimizer = ft.optim.AdamW(parameters, 1e-3, clip_norm=1.0, ema=0.99, master="float32")
    updates = optimizer.updates(gradients, also={seed: ft.next_step(seed)})
    taken = optimizer.skipped < 0.5
    full = good + 1 >= 3
    updates[scale] = ft.where(taken, ft.where(full, scale * 2, scale), scale * 0.5)
    updates[good] = ft.where(taken & ~full, good + 1, 0)
    state = ft.State([*parameters, *optimizer.state_values, seed, scale, good], seed=1, device=device)
    outputs = [loss, optimizer.lr, optimizer.grad_norm, optimizer.skipped]
    program = ft.compile(outputs, [x, y], state=state, updates=updates, device=device)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((ROWS, 8)).astype(np.float32)
    targets = np.sin(3 * rows.sum(1, keepdims=True)).astype(np.float32)
    return Training(program, Batches(ROWS, BATCH, 3), lambda at: (rows[at], targets[at]), {"model": "mlp"})


def child(folder: Path, device: str) -> None:
    """Train to the end, from the newest checkpoint if there is one. Says when training begins, how long what came
    before it took, and when it ends."""
    from flame_triton.train.choose import find
    from flame_triton.train.folder import RunFolder, read_progress
    from flame_triton.train.loop import train

    imported = time.perf_counter()
    training, place = make_training(device), RunFolder(folder.parent, folder.name, keep=3, shard_bytes=SHARD_BYTES)
    planned = time.perf_counter()
    training.program.prepare()  # kernels are compiled and loaded now: the instant of the kill lies in the training
    prepared = time.perf_counter()
    with place.occupied():
        if place.checkpoints():
            with find(place, "latest") as checkpoint:
                progress = read_progress(checkpoint)
                training.program.state.load(checkpoint)
            training.step, training.batches.position = progress.step, progress.position
        parts = f"{imported - BEGUN:.1f} {planned - imported:.1f} {prepared - planned:.1f}"
        print(f"READY {training.step} {parts}", flush=True)
        begun = time.perf_counter()
        train(training, place, STEPS, log_every=LOG_EVERY, save_every=SAVE_EVERY)
        print(f"DONE {time.perf_counter() - begun}", flush=True)


# ---- the one who kills ------------------------------------------------------------------------------------------


def start(folder: Path, device: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(folder), "--device", device]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ready(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """The step from which a process begins to train; seconds of its imports, its planning and its kernels."""
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    if not line.startswith("READY "):
        raise RuntimeError(f"the training did not begin: {process.stderr.read()}")
    _, step, *parts = line.split()
    return int(step), parts


def finish(process: subprocess.Popen[str]) -> float:
    """The seconds that a process spent in training, once it has ended well."""
    output, errors = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(f"the training ended with {process.returncode}: {errors}")
    return float(output.split()[1])


def result(folder: Path) -> tuple[Any, Any]:
    """All that must be the same: what the last manifest says of the tensors and of the run, and the log."""
    from flame_triton.runtime.shards import Shards
    from flame_triton.train.log import read

    last = folder / f"checkpoint-{STEPS}"
    with Shards(last):  # verifies that the manifest's digests are those of the files
        manifest = json.loads((last / "manifest.json").read_text())
    lines = [{k: v for k, v in record.items() if k != "seconds"} for record in read(folder / "log.jsonl")]
    return (manifest["files"], manifest["tensors"], manifest["run"]), lines


def unsound(folder: Path) -> list[str]:
    """Checkpoints under a final name that do not verify: there must never be one."""
    from flame_triton.errors import StateError
    from flame_triton.runtime.shards import Shards

    found = []
    for path in folder.glob("checkpoint-*"):
        try:
            Shards(path).__exit__()
        except StateError as error:
            found.append(str(error))
    return found


def kill_once(root: Path, number: int, device: str, seconds: float, seed: int) -> tuple[dict[str, Any], Path]:
    """Begin a run, kill it at a random instant of its training, resume it to the end. Returns what happened."""
    rng = random.Random(f"{seed} {number}")
    while True:
        folder, instant = root / f"run-{number}-{rng.getrandbits(32):08x}", rng.uniform(0, seconds)
        process = start(folder, device)
        ready(process)
        time.sleep(instant)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        if "DONE" not in output:
            break  # otherwise no training was killed, and it does not count
    names = [p.name for p in folder.iterdir()]
    log = folder / "log.jsonl"
    found = {
        "instant": instant,
        "lines": log.read_bytes().count(b"\n") if log.exists() else 0,
        "newest": max((int(n.split("-")[1]) for n in names if n.startswith("checkpoint-")), default=None),
        "hidden": [n.rpartition(".")[2] for n in names if n.startswith(".checkpoint-")],
        "unsound": unsound(folder),
    }
    again = start(folder, device)
    found["from"], _ = ready(again)
    finish(again)
    found["left"] = [p.name for p in folder.iterdir() if p.name.startswith(".checkpoint-")]
    return found, folder


def differences(found: dict[str, Any], got: tuple[Any, Any], expected: tuple[Any, Any]) -> list[str]:
    """What is not as it should be: against the unbroken run, and in what the kill left behind."""
    wrong = [what for what, a, b in zip(("state", "log"), got, expected, strict=True) if a != b]
    wrong += ["an unsound checkpoint"] * bool(found["unsound"]) + ["orphans left"] * bool(found["left"])
    return wrong + ["not the newest"] * (found["from"] != (found["newest"] or 0))


def line_of(number: int, found: dict[str, Any], wrong: list[str]) -> str:
    """A run as it is printed."""
    verdict = "bit-identical" if not wrong else "DIFFERS: " + ", ".join(wrong)
    newest = "none" if found["newest"] is None else found["newest"]
    unfinished = "+".join(found["hidden"]) or "-"
    return f"{number:>4} {found['instant']:>9.3f}s {newest:>18} {unfinished:>11} {found['from']:>13}  {verdict}"


def kill_and_resume(runs: int, device: str, seed: int, root: Path, jobs: int = 1) -> int:
    """Print a line for each run. Returns how many were bit-identical to the unbroken run. jobs: runs side by side."""
    begun = time.perf_counter()
    whole = start(root / "whole", device)
    _, (imports, plan, kernels) = ready(whole)
    print(f"unbroken: imports {imports} s, plan and State {plan} s, kernels {kernels} s", flush=True)
    seconds = finish(whole)
    expected = result(root / "whole")
    skipped = sum(line.get("skipped", 0) for line in expected[1])
    print(f"unbroken: {STEPS} steps in {seconds:.2f} s on {device}, {skipped} of them skipped by the loss scale")
    print(f"{'run':>4} {'killed at':>10} {'newest checkpoint':>18} {'unfinished':>11} {'resumed from':>13}  verdict")
    same = 0
    with ThreadPoolExecutor(jobs) as pool:
        tasks = [pool.submit(kill_once, root, number, device, seconds, seed) for number in range(1, runs + 1)]
        for number, task in enumerate(tasks, 1):
            found, folder = task.result()
            wrong = differences(found, result(folder), expected)
            same += not wrong
            print(line_of(number, found, wrong), flush=True)
    print(f"all took {time.perf_counter() - begun:.0f} s, {jobs} side by side")
    print(f"{same} of {runs} killed runs resumed bit-identical to the unbroken one")
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--device", default="reference", help="reference, interpreter or cuda")
    parser.add_argument("--jobs", type=int, help="runs side by side; default 5 on a GPU, else 1")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        child(given.child, given.device)
        return 0
    with tempfile.TemporaryDirectory(prefix="kill-and-resume-") as root:
        jobs = given.jobs or (5 if given.device.startswith("cuda") else 1)
        return int(kill_and_resume(given.runs, given.device, given.seed, Path(root), jobs) != given.runs)


if __name__ == "__main__":
    sys.exit(main())
