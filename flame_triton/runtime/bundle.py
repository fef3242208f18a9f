"""Bundles: one file with every compiled kernel of a program, from which a GPU machine runs without compiling.

A bundle is a safetensors file: one U8 tensor per kernel with the GPU's code, named by its SHA-256, and in the metadata
"manifest", a JSON text with what it was built with and each kernel's metadata and digests, and "sha256", the manifest's
own. Triton's cache key covers its own files, and its library differs from one Python version to the next, so
the manifest keeps the parts of the key that do not; the whole key is made where the bundle is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BundleError, FlameError
from ..types import TensorType, uint8
from . import checkpoint
from .ahead import KernelReport
from .compiling import CacheKey, cache_key
from .device import Device, target
from .device import device as as_device
from .jit import prepare

FORMAT = 1
_NAME = re.compile(r"[A-Za-z_]\w{0,149}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Loaded:
    """kernels: in the bundle; installed: those among them that Triton did not have yet."""

    kernels: int
    installed: int


def load_bundle(path: str | os.PathLike[str], device: Device | str | None = None) -> Loaded:
    """Put the kernels of a bundle where Triton finds them, so that programs compiled for `device` need no compiler.

    device: a GPU; default the process's own. Kernels that are there already are left alone. A bundle holds code that
    the GPU runs: load only those whose maker you trust.
    Raises BundleError for a file that is damaged, or was built for another arch or with other versions of flame_triton,
    triton or ptxas; DeviceError without a GPU.
    """
    chosen = as_device("cuda" if device is None else device)
    return install(path, target(chosen).arch)


def install(path: str | os.PathLike[str], arch: int) -> Loaded:
    """`load_bundle` for a compute capability."""
    prepare()
    name = os.fspath(path)
    manifest, code = _read(name)
    _check_built_with(name, manifest["built_with"], built_with(arch))
    keys = [cache_key(kernel["source"], kernel["options"], arch) for kernel in manifest["kernels"]]
    fresh = [_put(key, k, code[k["sha256"]]) for key, k in zip(keys, manifest["kernels"], strict=True)]
    return Loaded(len(keys), sum(fresh))


def built_with(arch: int) -> dict[str, str]:
    """All that a bundle depends on but the kernels themselves."""
    import triton
    from triton.backends.nvidia.compiler import get_ptxas_version
    from triton.compiler.compiler import get_cache_invalidating_env_vars

    ptxas = re.search(r"release.*", get_ptxas_version(arch))
    variables = " ".join(f"{k}={v}" for k, v in sorted(get_cache_invalidating_env_vars().items()))
    return {
        "arch": f"sm_{arch}",
        "flame_triton": import_module("flame_triton").__version__,
        "triton": triton.__version__,
        "ptxas": ptxas[0] if ptxas else "unknown",
        "environment": variables,
    }


# --- writing ---


def write_bundle(path: str | os.PathLike[str], reports: Sequence[KernelReport], arch: int) -> int:
    """A bundle of kernels that this process has had compiled (ahead.compile_ahead); the bytes of code in it.

    Raises BundleError if a kernel was not compiled or the file cannot be written.
    """
    kernels: dict[str, dict[str, Any]] = {}
    code: dict[str, np.ndarray[Any, Any]] = {}
    for report in reports:
        if report.cached is None:
            raise BundleError(f"the kernel {report.name} was not compiled: {report.error}")
        metadata, binary = _get(report.cached)
        digest = hashlib.sha256(binary).hexdigest()
        code[digest] = np.frombuffer(binary, np.uint8)
        kernels[report.cached.key] = {
            "name": report.cached.name,
            "source": report.cached.source,
            "options": report.cached.options,
            "sha256": digest,
            "metadata": metadata,
        }
    manifest = {"format": FORMAT, "built_with": built_with(arch), "kernels": list(kernels.values())}
    text = json.dumps(manifest, sort_keys=True)
    types = {digest: TensorType((len(binary),), uint8) for digest, binary in sorted(code.items())}
    try:
        checkpoint.write(
            path, types, code.__getitem__, {"manifest": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        )
    except FlameError as error:
        raise BundleError(error.message) from error
    return sum(map(len, code.values()))


_OF_THE_MACHINE = ("hash", "extern_libs", "cache_dir")  # in Triton's metadata: its key, and paths


def _get(cached: CacheKey) -> tuple[dict[str, Any], bytes]:
    """Triton's metadata, less what is of this machine, and the code of a kernel in its cache."""
    from triton.runtime.cache import get_cache_manager

    group = get_cache_manager(cached.key).get_group(f"{cached.name}.json") or {}
    try:
        metadata = json.loads(Path(group[f"{cached.name}.json"]).read_text(encoding="utf-8"))
        binary = Path(group[f"{cached.name}.cubin"]).read_bytes()
    except (KeyError, OSError, ValueError) as error:
        raise BundleError(f"Triton's cache has lost the kernel {cached.name}: {error}") from error
    return {k: v for k, v in metadata.items() if k not in _OF_THE_MACHINE}, binary


# --- reading ---


def _read(name: str) -> tuple[dict[str, Any], Mapping[str, bytes]]:
    """The manifest and the code by digest, all checked. Raises BundleError."""
    try:
        with checkpoint.Reader(name) as file:
            text = file.metadata.get("manifest", "")
            wanted = file.metadata.get("sha256", "")
            if not text:
                raise BundleError(f"{name} is no bundle of kernels")
            if hashlib.sha256(text.encode()).hexdigest() != wanted:
                raise BundleError(f"{name} is damaged: the manifest does not match its checksum")
            manifest = json.loads(text)
            _check_manifest(name, manifest)
            code = {}
            for digest in {kernel["sha256"] for kernel in manifest["kernels"]}:
                code[digest] = _blob(name, file, digest)
    except BundleError:
        raise
    except FlameError as error:
        raise BundleError(error.message) from error
    except (ValueError, OSError) as error:
        raise BundleError(f"{name} is damaged: {error}") from error
    return manifest, code


def _blob(name: str, file: checkpoint.Reader, digest: str) -> bytes:
    kind = file.types.get(digest)
    if not isinstance(kind, TensorType) or kind.dtype is not uint8:
        raise BundleError(f"{name} is damaged: the code {digest[:16]} is missing")
    binary = file.read(digest).tobytes()
    if hashlib.sha256(binary).hexdigest() != digest:
        raise BundleError(f"{name} is damaged: the code {digest[:16]} does not match its checksum")
    return binary


def _check_manifest(name: str, manifest: Any) -> None:
    """Every claim of the manifest, so that nothing is looked up that is not there, and no name leaves its folder."""

    def fits(kernel: Any) -> bool:
        return (
            isinstance(kernel, dict)
            and all(isinstance(kernel.get(k), str) for k in ("name", "source", "options", "sha256"))
            and _NAME.fullmatch(kernel["name"]) is not None
            and all(_DIGEST.fullmatch(kernel[k]) for k in ("source", "options", "sha256"))
            and isinstance(kernel.get("metadata"), dict)
            and isinstance(kernel["metadata"].get("name"), str)
        )

    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise BundleError(f"{name} has format {found!r}; this version reads format {FORMAT}")
    versions, kernels = manifest.get("built_with"), manifest.get("kernels")
    if not isinstance(versions, dict) or not isinstance(kernels, list) or not all(map(fits, kernels)):
        raise BundleError(f"{name} is damaged: the manifest is not one of a bundle")


def _check_built_with(name: str, built: Mapping[str, Any], here: Mapping[str, str]) -> None:
    different = [
        f"{what} {built.get(what) or 'none'} (here: {mine or 'none'})"
        for what, mine in here.items()
        if built.get(what) != mine
    ]
    if different:
        raise BundleError(f"{name} was built for or with " + ", ".join(different) + "; build it anew")


def _put(key: str, kernel: Mapping[str, Any], code: bytes) -> bool:
    """Put one kernel into Triton's cache; False if it is there."""
    from triton.backends.nvidia.compiler import CUDAOptions
    from triton.runtime.cache import get_cache_manager

    stem = kernel["name"]
    names = f"{stem}.json", f"{stem}.cubin"
    manager = get_cache_manager(key)
    if set(names) <= set(manager.get_group(names[0]) or {}):
        return False
    metadata = {**kernel["metadata"], "hash": key, "extern_libs": CUDAOptions().extern_libs}
    group = {
        names[0]: manager.put(json.dumps(metadata), names[0], binary=False),
        names[1]: manager.put(code, names[1]),
    }
    manager.put_group(names[0], group)
    return True
