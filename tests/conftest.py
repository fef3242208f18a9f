"""What every test shares: the executor of this process, one kernel cache per session, fixed seeds.

flame_triton is imported here, before any test can import triton, because triton fixes at its first import whether
kernels run compiled or interpreted, and flame_triton.config makes that choice.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import sys
import tempfile

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ

if IS_WORKER:
    # One thread a worker: the workers share the cores. Read by BLAS and OpenMP when they load.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
else:
    # Workers inherit the variable, so all processes of a session share one cache, and sessions share none.
    os.environ["FLAME_CACHE_DIR"] = tempfile.mkdtemp(prefix="flame-triton-tests-")
    atexit.register(shutil.rmtree, os.environ["FLAME_CACHE_DIR"], ignore_errors=True)

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

import flame_triton.config  # noqa: E402

COMPILED = not flame_triton.config.interpreted()

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci")


def pytest_report_header() -> str:
    gpu = "a GPU" if flame_triton.config.gpu_available() else "no GPU"
    return f"flame_triton: {'compiled' if COMPILED else 'interpreted'} kernels, {gpu}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what this process cannot run: it has compiled kernels or interpreted ones, never both."""
    unfit: dict[str, str] = {}
    if not flame_triton.config.gpu_available():
        unfit["gpu"] = "needs an NVIDIA GPU"
    elif not COMPILED:
        unfit["gpu"] = "needs compiled kernels: run without FLAME_INTERPRET and TRITON_INTERPRET"
    if COMPILED:
        unfit["interpreter"] = "needs the interpreter: run with FLAME_INTERPRET=1"
    for item in items:
        for marker, reason in unfit.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What torch's own suite amounted to, if it ran: skipped samples look green, these counts do not."""
    from opinfo.summary import summary

    lines = summary(r for part in ("passed", "failed") for r in terminalreporter.stats.get(part, []))
    if lines:
        terminalreporter.section("torch's OpInfo")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """The same global random state before every test, whichever process and order it runs in."""
    random.seed(0)
    np.random.seed(0)  # the global state is what a test that forgot its own generator would use
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A fresh generator with a fixed seed."""
    return np.random.default_rng(0)
