"""State: initial values, reading and writing, safetensors files."""

from __future__ import annotations

import json
import os
import stat
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

import flame_triton.ops  # noqa: F401
from flame_triton.errors import StateError
from flame_triton.ops.leaf import input as make_input
from flame_triton.ops.leaf import parameter
from flame_triton.runtime import buffers
from flame_triton.runtime.state import State

DEVICES = ["reference", pytest.param("cuda", marks=pytest.mark.gpu)]


def normal(shape, rng):
    return rng.standard_normal(shape).astype(np.float32)


def mixed() -> list:
    """One parameter of every dtype, of odd sizes, one empty, one 0-d."""
    values = [
        parameter((3, 5), dtype, name=dtype, init=np.arange(15).reshape(3, 5) % 3)
        for dtype in ("float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool")
    ]
    return [*values, parameter((0, 4), name="empty"), parameter((), "int64", name="step", init=7)]


@pytest.mark.parametrize("device", DEVICES)
def test_initial_values(device: str) -> None:
    array = np.linspace(-1, 1, 6).reshape(2, 3)
    zeros, full = parameter((2,)), parameter((2,), "bfloat16", name="f", init=0.1)
    copied, drawn = parameter((2, 3), name="a", init=array), parameter((4,), name="w", init=normal)
    state = State([zeros, full, copied, drawn], device=device)
    assert np.array_equal(state[zeros], np.zeros(2, np.float32))
    assert state["f"].dtype == ml_dtypes.bfloat16
    assert np.array_equal(state["f"], np.full(2, 0.1, ml_dtypes.bfloat16))
    assert np.array_equal(state["a"], array.astype(np.float32))
    assert state["w"].std() > 0
    array[:] = 9
    assert state["a"].max() == 1


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    exact = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], np.float32)  # tie down, tie up, above a tie
    state = State([parameter((3,), "bfloat16", name="w", init=exact)], device="reference")
    assert state["w"].astype(np.float32).tolist() == [1.0, 1 + 2**-6, 1 + 2**-7]


def test_each_parameter_draws_for_itself() -> None:
    a, b, c = (parameter((8,), name=name, init=normal) for name in "abc")
    one, two = State([a, b], seed=3, device="reference"), State([c, b, a], seed=3, device="reference")
    assert np.array_equal(one["a"], two["a"]) and np.array_equal(one["b"], two["b"])
    assert not np.array_equal(one["a"], one["b"])
    assert not np.array_equal(one["a"], State([a], seed=4, device="reference")["a"])


def test_names() -> None:
    explicit, first, second = parameter((1,), name="parameter_0"), parameter((1,)), parameter((1,))
    state = State([first, explicit, second], device="reference")
    assert state.names == ("parameter_1", "parameter_0", "parameter_2")
    assert state.values == (first, explicit, second)
    assert state.name(second) == "parameter_2"
    assert second in state and "parameter_2" in state and "w" not in state and len(state) == 3


def test_refuses_what_it_cannot_hold() -> None:
    w = parameter((2,), name="w")
    with pytest.raises(StateError, match=r"two parameters are named 'w'.*test_state"):
        State([w, parameter((3,), name="w")], device="reference")
    with pytest.raises(StateError, match="listed twice"):
        State([w, w], device="reference")
    with pytest.raises(StateError, match="holds parameters"):
        State([make_input((2,))], device="reference")
    with pytest.raises(StateError, match=r"gave shape \(3,\), expected \(2,\)"):
        State([parameter((2,), name="v", init=lambda shape, rng: np.zeros(3))], device="reference")
    with pytest.raises(StateError, match="no float32"):
        State([parameter((2,), name="v", init=lambda shape, rng: np.array(["a", "b"]))], device="reference")
    for seed in (-1, 1.5, True):
        with pytest.raises(StateError, match="seed"):
            State([w], seed=seed, device="reference")  # type: ignore[arg-type]


def test_bytes_are_what_was_handed_out() -> None:
    before = buffers.counter("cpu").held
    state = State(mixed(), device="reference")
    assert state.nbytes == buffers.counter("cpu").held - before == 9 * 512
    del state
    assert buffers.counter("cpu").held == before


@pytest.mark.parametrize("device", DEVICES)
def test_set(device: str) -> None:
    w, b = parameter((2, 3), name="w"), parameter((2,), "bfloat16", name="b")
    state = State([w, b], device=device)
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    state.set(w, array)
    assert np.array_equal(state["w"], array)
    state.set("w", torch.from_numpy(array).flip(0))
    assert np.array_equal(state["w"], array[::-1])
    state.set("w", array[::-1, ::-1])
    assert np.array_equal(state["w"], array[::-1, ::-1])
    state.set("b", torch.tensor([1.5, 2.5], dtype=torch.bfloat16))
    assert state["b"].astype(np.float32).tolist() == [1.5, 2.5]
    state.set("b", [1, 2])
    assert state["b"].astype(np.float32).tolist() == [1, 2]


@pytest.mark.parametrize(
    "array", [np.zeros((3, 2), np.float32), np.zeros((2, 3)), np.zeros((2, 3), np.int32), "w", None]
)
def test_set_refuses_and_writes_nothing(array) -> None:
    state = State([parameter((2, 3), name="w", init=1)], device="reference")
    with pytest.raises(StateError, match=r"parameter 'w' expects float32\[2, 3\]"):
        state.set("w", array)
    assert (state["w"] == 1).all()


def test_unknown_names() -> None:
    state = State([parameter((2,), name="w")], device="reference")
    with pytest.raises(StateError, match="no parameter is called 'v'"):
        state["v"]
    with pytest.raises(StateError, match="not in this State"):
        state[parameter((2,), name="w")]


def test_numpy_is_the_memory_itself_and_indexing_is_a_copy() -> None:
    state = State([parameter((2,), name="w"), parameter((2,), "bfloat16", name="b")], device="reference")
    state.numpy("w")[0] = 5
    assert state["w"].tolist() == [5, 0]
    state["w"][0] = 6
    assert state["w"].tolist() == [5, 0]
    assert state.numpy("b").dtype == ml_dtypes.bfloat16
    assert np.shares_memory(state.numpy("w"), state.numpy("w"))


@pytest.mark.parametrize("device", DEVICES)
def test_snapshot_and_restore(device: str) -> None:
    state = State(mixed(), device=device)
    snapshot = state.snapshot()
    before = {name: state[name].tobytes() for name in state.names}
    for name in state.names:
        state.set(name, np.ones(state[name].shape, state[name].dtype))
    state.restore(snapshot)
    assert {name: state[name].tobytes() for name in state.names} == before
    with pytest.raises(StateError, match="another State"):
        State([parameter((1,), name="x")], device=device).restore(snapshot)


# --- files ---


@pytest.mark.parametrize("device", DEVICES)
def test_save_and_load(device: str, tmp_path) -> None:
    state, other = State(mixed(), device=device), State(mixed(), device=device)
    path = tmp_path / "a.safetensors"
    state.save(path, {"step": "12", "ünï": "cödé"})
    for name in other.names:
        other.set(name, np.ones(other[name].shape, other[name].dtype))
    assert other.load(path) == {"step": "12", "ünï": "cödé"}
    for name in state.names:
        assert other[name].tobytes() == state[name].tobytes()
    assert os.listdir(tmp_path) == ["a.safetensors"]
    state.save(path)
    assert other.load(str(path)) == {}


def test_the_file_is_read_by_the_safetensors_package(tmp_path) -> None:
    state = State(mixed(), device="reference")
    state.save(tmp_path / "a", {"k": "v"})
    arrays = safetensors.numpy.load_file(tmp_path / "a")
    assert set(arrays) == set(state.names)
    for name, array in arrays.items():
        assert array.tobytes() == state[name].tobytes(), name
    with safetensors.safe_open(tmp_path / "a", framework="numpy") as file:
        assert file.metadata() == {"k": "v"}


def test_a_file_of_the_safetensors_package_is_read(tmp_path) -> None:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, ml_dtypes.bfloat16)}
    safetensors.numpy.save_file(arrays, tmp_path / "a")
    state = State([parameter((2, 3), name="w"), parameter((3,), "bfloat16", name="b")], device="reference")
    assert state.load(tmp_path / "a") == {}
    assert np.array_equal(state["w"], arrays["w"]) and np.array_equal(state["b"], arrays["b"])


def test_an_empty_state_is_saved(tmp_path) -> None:
    State([], device="reference").save(tmp_path / "a")
    assert State([], device="reference").load(tmp_path / "a") == {}


def test_every_misfit_is_listed_at_once_and_nothing_is_written(tmp_path) -> None:
    saved = [
        parameter((2,), name="same", init=5),
        parameter((3,), name="shape"),
        parameter((2,), "int32", name="dtype"),
    ]
    State([*saved, parameter((1,), name="extra")], device="reference").save(tmp_path / "a")
    mine = [parameter((2,), name=name, init=1) for name in ("same", "shape", "dtype", "missing")]
    state = State(mine, device="reference")
    with pytest.raises(StateError) as caught:
        state.load(tmp_path / "a")
    for line in (
        "missing: missing, expected float32[2]",
        "extra: unexpected",
        "shape: expected float32[2], the file holds float32[3]",
        "dtype: expected float32[2], the file holds int32[2]",
    ):
        assert line in str(caught.value)
    assert "same:" not in str(caught.value)
    assert all((state[name] == 1).all() for name in state.names)
    with pytest.raises(StateError, match="shape: expected"):
        state.load(tmp_path / "a", strict=False)
    assert (state["same"] == 1).all()


def test_not_strict_leaves_strangers_alone(tmp_path) -> None:
    State([parameter((2,), name="w", init=5), parameter((1,), name="extra")], device="reference").save(tmp_path / "a")
    state = State([parameter((2,), name="w"), parameter((2,), name="missing", init=3)], device="reference")
    state.load(tmp_path / "a", strict=False)
    assert state["w"].tolist() == [5, 5] and state["missing"].tolist() == [3, 3]


def test_unsupported_dtypes_matter_only_where_they_are_wanted(tmp_path) -> None:
    safetensors.numpy.save_file({"w": np.zeros(2, np.int16)}, tmp_path / "a")
    with pytest.raises(StateError, match="unsupported dtype I16"):
        State([parameter((2,), name="w")], device="reference").load(tmp_path / "a")
    State([], device="reference").load(tmp_path / "a", strict=False)


def header_of(entries: dict | list | bytes, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = {
    "empty": b"",
    "short": b"1234",
    "huge header": struct.pack("<Q", 1 << 62) + b"{}",
    "no JSON": header_of(b"hello"),
    "a list": header_of(b"[]"),
    "no data": header_of({"w": F32}),
    "too much data": header_of({"w": F32}, bytes(9)),
    "a gap": header_of({"w": {**F32, "data_offsets": [4, 12]}}, bytes(12)),
    "wrong size": header_of({"w": {**F32, "shape": [3]}}, bytes(8)),
    "backwards": header_of({"w": {**F32, "data_offsets": [8, 0]}}, bytes(8)),
    "huge shape": header_of({"w": {**F32, "shape": [1 << 62, 4]}}, bytes(8)),
    "negative shape": header_of({"w": {**F32, "shape": [-2]}}, bytes(8)),
    "unknown dtype": header_of({"w": {**F32, "dtype": "X"}}, bytes(8)),
    "no dtype": header_of({"w": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "metadata that is no text": header_of({"__metadata__": {"a": 1}, "w": F32}, bytes(8)),
    "deep": header_of(b'{"w":' * 5000 + b"1" + b"}" * 5000),
    "twice": header_of(b'{"w":%(a)s,"w":%(a)s}' % {b"a": json.dumps(F32).encode()}, bytes(8)),
    "not text": header_of(b'{"\xff":1}'),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files(content: bytes, tmp_path) -> None:
    (tmp_path / "a").write_bytes(content)
    state = State([parameter((2,), name="w", init=1)], device="reference")
    with pytest.raises(StateError, match="no sound safetensors file"):
        state.load(tmp_path / "a")
    assert (state["w"] == 1).all()


def test_every_truncation_and_many_flips(tmp_path) -> None:
    values = [parameter((2, 3), name="w", init=2), parameter((5,), "bfloat16", name="b", init=3)]
    State(values, device="reference").save(tmp_path / "a", {"k": "v"})
    whole = (tmp_path / "a").read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:n] for n in range(len(whole))]
    for at in rng.integers(0, len(whole) - 34, 300):
        damaged.append(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
    state = State([parameter((2, 3), name="w", init=1), parameter((5,), "bfloat16", name="b")], device="reference")
    refused = 0
    for content in damaged:
        (tmp_path / "b").write_bytes(content)
        try:
            state.load(tmp_path / "b")
        except StateError:
            refused += 1
            assert (state["w"] == 1).all()
        else:  # a flip in the metadata or the padding does no harm
            assert (state["w"] == 2).all()
            state.set("w", np.ones((2, 3), np.float32))
    assert refused > len(whole) + 200


def test_missing_files_and_folders(tmp_path) -> None:
    state = State([parameter((2,), name="w")], device="reference")
    with pytest.raises(StateError, match="cannot be read"):
        state.load(tmp_path / "nothing")
    with pytest.raises(StateError):
        state.load(tmp_path)
    with pytest.raises(StateError, match="cannot be written"):
        state.save(tmp_path / "no" / "folder")
    with pytest.raises(StateError, match="cannot be written"):
        state.save(tmp_path)


def test_metadata_is_text(tmp_path) -> None:
    with pytest.raises(StateError, match="text to text"):
        State([], device="reference").save(tmp_path / "a", {"step": 1})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    state = State([parameter((2,), name="w", init=1)], device="reference")
    path = tmp_path / "a"
    state.save(path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    state.set("w", [2, 2])
    with pytest.raises(StateError, match="No space left"):
        state.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


def test_the_file_obeys_the_umask(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        State([], device="reference").save(tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
