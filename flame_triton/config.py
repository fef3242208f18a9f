"""Process-wide configuration: the only reader of os.environ.

Triton decides once, at its first import, whether kernels run compiled or interpreted. `interpreted()` makes that
decision before anybody here imports triton: compiled if a GPU driver answers, interpreted otherwise or on request.

Environment:
    FLAME_INTERPRET=1   run kernels in Triton's interpreter even where there is a GPU; 0: never interpret
    FLAME_CACHE_DIR     where generated kernels live (default: the user's cache folder)
    FLAME_PLANS=0       plan every graph anew, and keep no plans in the cache folder
    FLAME_STORE         the file of measured configurations (default: tuned.sqlite in the cache folder)
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

import platformdirs

from .errors import DeviceError


@cache
def gpu_available() -> bool:
    """True if the CUDA driver library loads, initialises and sees at least one device. Imports nothing heavy."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


@cache
def interpreted() -> bool:
    """True if this process runs Triton kernels in the interpreter. Decided once, before triton is imported.

    If somebody imported triton before us in the other mode, the kernels cannot run: `require_mode` says so.
    """
    wish = os.environ.get("FLAME_INTERPRET", "").strip().lower()
    if wish in ("1", "true", "yes", "on"):
        want = True
    elif wish in ("0", "false", "no", "off"):
        want = False
    else:
        want = os.environ.get("TRITON_INTERPRET") == "1" or not gpu_available()
    if "triton" not in sys.modules:
        os.environ["TRITON_INTERPRET"] = "1" if want else "0"
    return want


def compile_kernels() -> None:
    """From here on this process compiles kernels, GPU or not, whatever the environment says: for building ahead.

    Call it before anybody imports triton.
    """
    os.environ["FLAME_INTERPRET"] = "0"
    interpreted.cache_clear()
    interpreted()


def compiling_environment() -> dict[str, str]:
    """The environment of a process that only compiles, and finds every module that this one finds."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "FLAME_INTERPRET": "0", "TRITON_INTERPRET": "0", "PYTHONPATH": path}


def require_gpu() -> None:
    """Raises DeviceError if kernels cannot run on a GPU in this process, saying why and what to do."""
    if not gpu_available():
        raise DeviceError("no NVIDIA GPU is visible to this process; use device='interpreter' or device='reference'")
    if interpreted():
        raise DeviceError(
            "this process runs Triton kernels in the interpreter (FLAME_INTERPRET or TRITON_INTERPRET is set), so it "
            "cannot run them on the GPU; unset the variable and start again"
        )


def require_interpreter() -> None:
    """Raises DeviceError if this process runs compiled kernels, naming the variable that changes it."""
    if not interpreted():
        raise DeviceError(
            "this process runs compiled Triton kernels; start it with FLAME_INTERPRET=1 to interpret them on the CPU"
        )


def cache_dir() -> Path:
    """The folder for generated kernels (created 0700 on first use). Raises DeviceError if it is not a folder."""
    root = os.environ.get("FLAME_CACHE_DIR")
    path = Path(root) if root else Path(platformdirs.user_cache_dir("flame-triton", appauthor=False))
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DeviceError(
            f"the cache folder {path} cannot be used ({error.strerror}); set FLAME_CACHE_DIR to a folder"
        ) from error
    return path


def store_path() -> Path:
    """The file of measured configurations; it need not exist."""
    given = os.environ.get("FLAME_STORE")
    return Path(given) if given else cache_dir() / "tuned.sqlite"


def keeps_plans() -> bool:
    """True unless the user wants every graph planned anew."""
    return os.environ.get("FLAME_PLANS", "").strip().lower() not in ("0", "false", "no", "off")


def no_color() -> bool:
    """True if the user asks for plain output (https://no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))
