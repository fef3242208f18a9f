"""Every sample of every name through the kernels of a device, on several processes: for a machine with a GPU.

    python -m tests.opinfo --device cuda --out report.json

From the project's root. Each process takes names off one list; each has its own CUDA context and shares the cache of
generated kernels. The report says for every name what passed, what was out of scope and why, and every failure with its
sample. The exit status is 1 if anything failed. --most caps the samples of one name, --names picks some.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # the processes share the cores; read by BLAS and OpenMP when they load

from flame_triton import config  # noqa: E402

from . import check  # noqa: E402
from .adapters import ADAPTERS  # noqa: E402
from .draw import op_db  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.opinfo", description=__doc__)
    parser.add_argument("--device", default="interpreter" if config.interpreted() else "cuda")
    parser.add_argument("--most", type=int, default=400, help="float32 samples of one name at most")
    parser.add_argument("--names", nargs="*", default=None, help="default: all that exist")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=None, help="a JSON file for the report")
    chosen = parser.parse_args()
    missing = {name: adapter.missing for name, adapter in ADAPTERS.items() if adapter.missing}
    names = [n for n in chosen.names or ADAPTERS if n not in missing]
    total, report = check.Tally(), {}
    start = time.perf_counter()
    with ProcessPoolExecutor(chosen.workers, get_context("spawn"), initializer=op_db) as pool:
        jobs = {pool.submit(check.run_name, name, chosen.device, chosen.most): name for name in names}
        for job in as_completed(jobs):
            try:
                name, tally, seconds = job.result()
            except Exception as error:  # a name whose samples cannot be drawn, or a process that died
                name, seconds = jobs[job], 0.0
                tally = check.Tally(failures=[f"{name}: {type(error).__name__}: {error}"])
            report[name] = {**vars(tally), "seconds": round(seconds, 2)}
            total.add(tally)
            print(f"{name}: {tally}, {seconds:.1f} s", flush=True)
            for failure in tally.failures:
                print("FAIL", failure, flush=True)
    passed = sum(r["values"] > 0 and not r["failures"] for r in report.values())
    print(f"{passed} of {len(names)} names passed on {chosen.device} in {time.perf_counter() - start:.0f} s: {total}")
    print(f"{len(missing)} names not there yet: {' '.join(missing)}")
    print(f"{len(total.failures)} failures; out of scope: {json.dumps(dict(total.skipped.most_common()))}")
    if chosen.out:
        chosen.out.write_text(json.dumps({"names": report, "missing": missing}, indent=1))
    return int(bool(total.failures))


if __name__ == "__main__":
    sys.exit(main())
