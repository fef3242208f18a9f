"""Buffers, places, and the arrays that are taken in; devices and what this process may ask for."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings

import ml_dtypes
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flame_triton import config
from flame_triton.errors import DeviceError, InputError, OutOfMemoryError, StateError
from flame_triton.runtime import buffers
from flame_triton.runtime.buffers import Buffer, Slab, accept, as_array, as_tensor, counter, rounded
from flame_triton.runtime.device import Device, default_device, device, target
from flame_triton.types import DTYPES, TensorType, bfloat16, bool_, float32, int32, int64, uint8

MEMORIES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]
VECTOR = TensorType((2, 3), float32)


def example(type: TensorType) -> np.ndarray:
    return np.asarray(np.arange(type.size).reshape(type.shape) % 2, dtype=type.dtype.numpy)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_write_and_read(memory: str, dtype) -> None:
    slab = Slab([TensorType((2, 3), dtype), TensorType((), dtype), TensorType((0, 4), dtype)], memory)
    for place in slab.places:
        array = example(place.type)
        place.write(array)
        assert place.read().tobytes() == array.tobytes() and place.read().dtype == dtype.numpy
        assert place.argument.dtype is buffers.kernel_dtype(dtype) and tuple(place.tensor.shape) == place.type.shape
        place.write(as_tensor(array.copy()))
        result = place.fresh()
        assert as_array(result).tobytes() == array.tobytes()
        assert place.address % 64 == slab.buffer.address % 64
    slab.places[0].copy_from(slab.places[0].buffer.place(0, slab.places[0].type))


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_number_everywhere(memory: str, dtype) -> None:
    slab = Slab([TensorType(shape, dtype) for shape in ((2, 3), (), (0, 4))], memory)
    slab.buffer.fill(0)
    for place in slab.places:
        place.fill(np.ones((), dtype.numpy))
        assert place.read().tobytes() == np.ones(place.type.shape, dtype.numpy).tobytes()


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("dtype", [float32, bfloat16, bool_], ids=str)
def test_arrays_of_any_strides_are_written(memory: str, dtype) -> None:
    place = Slab([TensorType((3, 4), dtype)], memory).places[0]
    wide = (np.arange(9 * 8).reshape(9, 8) % 7).astype(dtype.numpy)
    frozen = wide[:3, :4].copy()
    frozen.setflags(write=False)
    fields = np.zeros((3, 4), [("a", np.int8), ("b", dtype.numpy)])["b"]
    for array in (
        wide[::3, ::2],
        wide[2::-1, 3::-1],
        wide[:4, :3].T,
        np.broadcast_to(wide[0, :4], (3, 4)),
        frozen,
        fields,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            place.write(array)
        assert np.array_equal(place.read(), array)
    tensor = as_tensor(wide.copy())
    for view in (tensor[::3, ::2], tensor[:4, :3].T, tensor[0, :4].expand(3, 4)):
        place.write(view)
        assert np.array_equal(place.read(), as_array(view))


def test_places_share_the_memory_of_their_buffer() -> None:
    buffer = Buffer(1024, "cpu")
    numbers = buffer.place(512, TensorType((4,), int32))
    numbers.write(np.arange(4, dtype=np.int32))
    numbers.tensor[1] = 7
    assert numbers.host.tolist() == [0, 7, 2, 3]
    assert buffer.place(516, TensorType((), int32)).read() == 7
    assert numbers.tensor.data_ptr() == numbers.address == buffer.address + 512
    assert numbers.tensor.untyped_storage().nbytes() == 16
    with pytest.raises(DeviceError, match="outside"):
        buffer.place(1020, TensorType((2,), int32))


@pytest.mark.parametrize("memory", MEMORIES)
def test_bytes_are_counted_until_they_are_garbage(memory: str) -> None:
    gc.collect()
    count = counter(memory)
    before, handed = count.held, count.handed_out
    count.reset_peak()
    buffer = Buffer(1000, memory)
    place = buffer.place(0, VECTOR)
    del buffer
    assert count.held - before == 1024
    result = place.fresh()
    assert count.held - before == 1024 + 512
    del result, place
    assert count.held == before
    assert count.peak - before == count.handed_out - handed == 1536
    assert rounded(0) == 0 and rounded(1) == rounded(512) == 512 and rounded(513) == 1024


def test_what_does_not_fit_is_refused_with_figures() -> None:
    with pytest.raises(OutOfMemoryError, match=r"1,000,000,000,000,\d+ bytes do not fit on cpu: [\d,]+ are available"):
        Buffer(10**15, "cpu")
    info = buffers.memory_info("cpu")
    assert 0 < info.available <= info.total


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(str(function).removeprefix("aten.").removesuffix(".default"))
        return function(*args, **(kwargs or {}))


ALLOWED = {
    "empty.memory_format", "new_empty", "set_.source_Storage_storage_offset", "view", "view.dtype", "slice.Tensor",
    "select.int", "as_strided", "detach", "lift_fresh", "copy_",
}  # fmt: skip


@pytest.mark.parametrize("memory", MEMORIES)
def test_torch_only_holds_bytes(memory: str) -> None:
    with Operators() as operators:
        slab = Slab([VECTOR, TensorType((2,), bfloat16)], memory)
        for place in slab.places:
            place.write(example(place.type))
            place.write(accept(torch.empty(place.type.shape, dtype=place.tensor.dtype), place.type, "x"))
            place.copy_from(place)
            place.fresh()
            place.read()
    assert operators.seen <= ALLOWED, operators.seen - ALLOWED


# --- what is accepted ---


class Foreign:
    """An array of another library, known by its protocol alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Convertible:
    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.ones((2, 3), np.float32)


def test_accepts_without_a_copy() -> None:
    array = np.ones((2, 3), np.float32)
    assert accept(array, VECTOR, "x") is array
    tensor = torch.ones(2, 3)
    assert accept(tensor, VECTOR, "x") is tensor
    detached = accept(tensor.clone().requires_grad_(), VECTOR, "x")
    assert isinstance(detached, torch.Tensor) and not detached.requires_grad
    imported = accept(Foreign(array), VECTOR, "x")
    array[0, 0] = 5
    assert as_array(imported)[0, 0] == 5
    assert accept(Convertible(), VECTOR, "x").shape == (2, 3)


def test_accepts_bfloat16_of_either_library() -> None:
    type = TensorType((2,), bfloat16)
    for array in (np.array([1, 2], ml_dtypes.bfloat16), torch.tensor([1, 2], dtype=torch.bfloat16)):
        assert as_array(accept(array, type, "x")).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("numbers", "type", "result"),
    [
        (3, TensorType((), int64), 3),
        (3, TensorType((), float32), 3.0),
        (0.1, TensorType((), bfloat16), float(ml_dtypes.bfloat16(0.1))),
        (np.float64(0.5), TensorType((), float32), 0.5),
        (np.int8(5), TensorType((), int64), 5),
        (True, TensorType((), bool_), True),
        (True, TensorType((), float32), 1.0),
        ([[1, 2.5, 3], [4, 5, 6]], VECTOR, [[1, 2.5, 3], [4, 5, 6]]),
        ((0, 255), TensorType((2,), uint8), [0, 255]),
        ([], TensorType((0,), int32), []),
        ([[], []], TensorType((2, 0), bool_), [[], []]),
    ],
)
def test_converts_plain_numbers(numbers, type: TensorType, result) -> None:
    array = accept(numbers, type, "x")
    assert array.dtype == type.dtype.numpy and array.tolist() == result


@pytest.mark.parametrize(
    ("array", "type", "message"),
    [
        (np.zeros((2, 3)), VECTOR, r"x expects float32\[2, 3\], got float64\[2, 3\].*array.astype\('float32'\)"),
        (np.zeros((3, 2), np.float32), VECTOR, r"x expects float32\[2, 3\], got float32\[3, 2\]$"),
        (np.zeros(6, np.float32), VECTOR, r"got float32\[6\]"),
        (np.zeros((2, 3), ">f4"), VECTOR, "got >f4"),
        (np.zeros((2, 3), np.int16), VECTOR, "got int16"),
        (np.zeros((2, 3), object), VECTOR, "got object"),
        (np.zeros(2, np.int32), TensorType((2,), int64), r"astype\('int64'\)"),
        (np.zeros(2, np.float32), TensorType((2,), bfloat16), "ml_dtypes.bfloat16"),
        (torch.zeros(2, 3, dtype=torch.float64), VECTOR, r"array.to\(torch.float32\)"),
        (torch.zeros(2, 3, dtype=torch.complex64), VECTOR, "complex64"),
        (torch.zeros(2, 3, device="meta"), VECTOR, "meta"),
        (torch.zeros(2, 3).to_sparse(), VECTOR, "sparse"),
        (np.ma.zeros((2, 3), np.float32), VECTOR, "masked"),
        (1.5, TensorType((), int64), "float64, which int64 does not hold"),
        (1, TensorType((), bool_), "does not hold"),
        (256, TensorType((), uint8), "256 is out of its range"),
        ([0, -1], TensorType((2,), uint8), "-1 is out of its range"),
        (1 << 40, TensorType((), int32), "out of its range"),
        (1j, TensorType((), float32), "complex"),
        (1 << 80, TensorType((), float32), "object"),
        ("ab", VECTOR, "got str"),
        (None, VECTOR, "got NoneType"),
        ([[1], [1, 2]], VECTOR, "unequal lengths"),
        ([["a"]], VECTOR, "does not hold"),
    ],
)
def test_refuses(array, type: TensorType, message: str) -> None:
    with pytest.raises(InputError, match=message):
        accept(array, type, "x")
    with pytest.raises(StateError):
        accept(array, type, "x", error=StateError)


def test_wide_takes_double_for_any_float() -> None:
    accept(np.zeros((2, 3)), VECTOR, "x", wide=True)
    accept(np.zeros((2, 3), np.float32), VECTOR, "x", wide=True)
    with pytest.raises(InputError):
        accept(np.zeros(2), TensorType((2,), int64), "x", wide=True)


# --- devices ---


def test_devices_by_name() -> None:
    assert device("reference") == Device("reference") == device(Device("reference"))
    assert str(Device("cuda", 1)) == Device("cuda", 1).memory == "cuda:1"
    assert str(Device("interpreter")) == "interpreter" and Device("interpreter").memory == "cpu"
    for wrong in ("gpu", "cuda:", "cuda:x", "", 3):
        with pytest.raises(DeviceError, match="unknown device"):
            device(wrong)  # type: ignore[arg-type]


@pytest.mark.interpreter
def test_the_interpreter_is_the_default_without_a_gpu() -> None:
    assert default_device() == Device("interpreter") == device(None)
    assert target(Device("interpreter")).interpreted


@pytest.mark.interpreter
@pytest.mark.skipif(config.gpu_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there(name: str) -> None:
    with pytest.raises(DeviceError, match="no NVIDIA GPU is visible"):
        device(name)


@pytest.mark.gpu
def test_the_gpu_is_the_default() -> None:
    assert default_device() == Device("cuda") == device("cuda:0")
    found = target(Device("cuda"))
    assert found.arch >= 80 and found.processors > 0 and found.shared_bytes >= 49152 and not found.interpreted
    with pytest.raises(DeviceError, match="FLAME_INTERPRET=1"):
        device("interpreter")
    with pytest.raises(DeviceError, match="there is no cuda:99"):
        device("cuda:99")


@pytest.mark.gpu
def test_events_measure_the_stream() -> None:
    start, end = buffers.Event("cuda:0"), buffers.Event("cuda:0")
    source, place = Slab([TensorType((1 << 20,), float32)] * 2, "cuda:0").places
    start.record()
    place.copy_from(source)
    end.record()
    assert end.milliseconds_since(start) > 0


def test_a_process_that_compiles_refuses_the_interpreter() -> None:
    code = (
        "from flame_triton.runtime.device import device\n"
        "from flame_triton.errors import DeviceError\n"
        "try:\n    device('interpreter')\nexcept DeviceError as error:\n    print(error)\n"
    )
    environment = {"FLAME_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert "start it with FLAME_INTERPRET=1" in result.stdout
