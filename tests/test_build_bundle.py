"""Bundles: versions that differ are refused by name, damaged files clearly, whatever is wrong with them."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flame_triton as ft
from flame_triton.errors import BundleError, DeviceError
from flame_triton.runtime import bundle, checkpoint
from flame_triton.types import TensorType, uint8

CODE = bytes(range(256)) * 3
SHA = hashlib.sha256(CODE).hexdigest()


def manifest(**changes: Any) -> dict[str, Any]:
    """A bundle's manifest for this installation, with one kernel."""
    metadata = {"name": "saxpy", "shared": 0, "num_warps": 4}
    kernel = {"name": "saxpy", "source": "a" * 64, "options": "b" * 64, "sha256": SHA, "metadata": metadata}
    return {"format": bundle.FORMAT, "built_with": bundle.built_with(90), "kernels": [kernel | changes]}


def write(path: Path, content: Any, code: bytes = CODE) -> Path:
    text = json.dumps(content)
    told = {"manifest": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    checkpoint.write(path, {SHA: TensorType((len(code),), uint8)}, lambda name: np.frombuffer(code, np.uint8), told)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Triton's cache folder for this test."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    return tmp_path / "triton"


def test_a_kernel_is_put_where_triton_looks(tmp_path: Path, cache: Path) -> None:
    path = write(tmp_path / "good", manifest())
    assert bundle.install(path, 90) == bundle.Loaded(1, 1)
    assert bundle.install(path, 90) == bundle.Loaded(1, 0)
    (folder,) = cache.iterdir()
    assert {p.name for p in folder.iterdir()} == {"saxpy.json", "saxpy.cubin", "__grp__saxpy.json"}
    assert (folder / "saxpy.cubin").read_bytes() == CODE
    metadata = json.loads((folder / "saxpy.json").read_text(encoding="utf-8"))
    assert metadata["shared"] == 0 and metadata["hash"] and Path(metadata["extern_libs"][0][1]).exists()


@pytest.mark.parametrize("what", ["arch", "flame_triton", "triton", "ptxas", "environment"])
def test_other_versions_are_refused_by_name(tmp_path: Path, cache: Path, what: str) -> None:
    content = manifest()
    here = content["built_with"][what] or "none"
    content["built_with"][what] = "9.8.7"
    with pytest.raises(BundleError) as error:
        bundle.install(write(tmp_path / "other", content), 90)
    assert f"{what} 9.8.7 (here: {here})" in str(error.value)
    assert not cache.exists()


def test_another_arch_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(BundleError, match=r"arch sm_90 \(here: sm_80\)"):
        bundle.install(write(tmp_path / "good", manifest()), 80)


@pytest.mark.parametrize(
    "content",
    [
        manifest(name="../../escape"),
        manifest(name="/escape"),
        manifest(name="a" * 151),
        manifest(name="two\nlines"),
        manifest(name=""),
        manifest(name=7),
        manifest(source="short"),
        manifest(options=None),
        manifest(sha256="c" * 64),
        manifest(sha256="../" + "c" * 61),
        manifest(metadata=[]),
        manifest(metadata={}),
        manifest() | {"format": 99},
        manifest() | {"kernels": {}},
        manifest() | {"kernels": [3]},
        manifest() | {"built_with": []},
        {"built_with": {}},
        [],
        None,
    ],
)
def test_manifests_that_claim_nonsense_are_refused(tmp_path: Path, cache: Path, content: Any) -> None:
    with pytest.raises(BundleError):
        bundle.install(write(tmp_path / "bad", content), 90)
    assert not cache.exists() and not list(tmp_path.glob("**/escape*"))


def test_code_that_is_not_what_was_written_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(BundleError, match="does not match its checksum"):
        bundle.install(write(tmp_path / "bad", manifest(), CODE[::-1]), 90)


def test_damaged_files_are_refused(tmp_path: Path, cache: Path) -> None:
    """Truncations, bit flips anywhere, lengthened files: a BundleError each time, and nothing is installed."""
    rng, sound = random.Random(0), write(tmp_path / "good", manifest()).read_bytes()
    path = tmp_path / "damaged"
    for trial in range(400):
        data = bytearray(sound)
        if trial % 4 == 0:
            del data[rng.randrange(len(data)) :]
        elif trial % 4 == 1:
            data[rng.randrange(64)] ^= 1 << rng.randrange(8)
        elif trial % 4 == 2:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            at = rng.randrange(len(data))
            data[at:at] = rng.randbytes(rng.randrange(1, 20))
        path.write_bytes(data)
        try:
            bundle.install(path, 90)
        except BundleError:
            continue
        changed = [i for i, (a, b) in enumerate(zip(data, sound, strict=False)) if a != b]
        raise AssertionError(f"trial {trial} was accepted: bytes {changed[:5]} differ, {len(data)} of {len(sound)}")
    assert not cache.exists()


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.install(missing, 90)
    with pytest.raises(BundleError):
        bundle.install(tmp_path, 90)
    checkpoint.write(missing, {}, lambda name: np.zeros(0), {"step": "3"})
    with pytest.raises(BundleError, match="is no bundle of kernels"):
        bundle.install(missing, 90)


@pytest.mark.interpreter
def test_kernels_are_for_gpus(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        ft.load_bundle(tmp_path / "any")
