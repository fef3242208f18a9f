"""Memory, streams and CUDA graphs: the only module that imports torch.

torch holds bytes here and computes nothing: while a program runs, the only operators used are allocation, views and
copies between equal dtypes. A `Buffer` is a piece of raw memory; a `Place` is one dense array inside a Buffer.

`memory` arguments name where bytes live: "cpu" or "cuda:0". Memory is handed out in multiples of 512 bytes and counted
per memory until it is given back (`counter`). Addresses are multiples of 512 on CUDA and of 64 on the CPU.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch

from ..errors import DeviceError, FlameError, InputError, OutOfMemoryError
from ..types import (
    DType,
    TensorType,
    bfloat16,
    bool_,
    dtype,
    float8_e4m3fn,
    float8_e5m2,
    float16,
    float32,
    float64,
    int32,
    int64,
    uint8,
)
from .account import MemoryInfo, counter, host_memory, rounded

Tensor: TypeAlias = torch.Tensor
Array: TypeAlias = np.ndarray[Any, Any]
Source: TypeAlias = Array | Tensor
"""An array that has passed `accept`: its dtype and shape are right; its strides are anything."""

_TORCH: dict[DType, torch.dtype] = {
    float64: torch.float64,
    float32: torch.float32,
    bfloat16: torch.bfloat16,
    float16: torch.float16,
    float8_e4m3fn: torch.float8_e4m3fn,
    float8_e5m2: torch.float8_e5m2,
    int64: torch.int64,
    int32: torch.int32,
    uint8: torch.uint8,
    bool_: torch.bool,
}
_OF_TORCH = {t: d for d, t in _TORCH.items()}
_FOREIGN = {d.numpy: d for d in (bfloat16, float8_e4m3fn, float8_e5m2)}
"""NumPy has these from ml_dtypes, and torch does not know those: they pass as integers of the same size."""


def kernel_dtype(like: DType) -> torch.dtype:
    """The element type of the tensors that kernels take: 8-bit floats arrive as their bytes."""
    return torch.uint8 if like.is_storage else _TORCH[like]


def _empty(shape: tuple[int, ...], kind: torch.dtype, memory: str) -> Tensor:
    """Uninitialised memory. Raises OutOfMemoryError with the bytes asked for and available."""
    try:
        return torch.empty(shape, dtype=kind, device=memory)
    except RuntimeError as error:  # torch.OutOfMemoryError on CUDA, a plain RuntimeError on the CPU
        wanted = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if "memory" not in str(error).lower():
            raise DeviceError(f"{wanted} bytes could not be allocated on {memory}: {error}") from error
        available = memory_info(memory).available
        raise OutOfMemoryError(f"{wanted:,} bytes do not fit on {memory}: {available:,} are available") from error


_alive: set[weakref.ref[Tensor]] = set()


def fresh(type: TensorType, memory: str) -> Tensor:
    """An uninitialised dense tensor for the user, counted until it is garbage."""
    return _counted(_empty(type.shape, _TORCH[type.dtype], memory), type, memory)


def _counted(tensor: Tensor, type: TensorType, memory: str) -> Tensor:
    """The tensor, its bytes counted until it is garbage."""
    size, held = rounded(type.nbytes), counter(memory)
    held.take(size)

    def gone(reference: weakref.ref[Tensor]) -> None:
        _alive.discard(reference)
        held.give(size)

    _alive.add(weakref.ref(tensor, gone))  # lighter than weakref.finalize, which every output of every step would pay
    return tensor


# --- memory ---


class _Registered:
    """Host memory that the driver has pinned and mapped; a CUDA tensor can be made of it, and keeps it alive."""

    def __init__(self, nbytes: int) -> None:
        self._bytes = _empty((nbytes,), torch.uint8, "cpu")
        runtime: Any = torch.cuda.cudart()
        code = int(runtime.cudaHostRegister(self._bytes.data_ptr(), nbytes, 0))
        if code:
            raise OutOfMemoryError(f"{nbytes:,} bytes of host memory could not be pinned (CUDA error {code})")
        weakref.finalize(self, _unregister, runtime, self._bytes).atexit = False
        self.__cuda_array_interface__ = {
            "shape": (nbytes,), "typestr": "|u1", "data": (self._bytes.data_ptr(), False), "version": 3, "stream": None,
        }  # fmt: skip


def _unregister(runtime: Any, held: Tensor) -> None:
    torch.cuda.synchronize()
    runtime.cudaHostUnregister(held.data_ptr())


def _mapped(nbytes: int, memory: str) -> Tensor:
    """Pinned host memory as a tensor of the device `memory`: with unified addressing both see it at one address."""
    if not nbytes:
        return _empty((0,), torch.uint8, memory)
    available = memory_info("cpu").available
    if nbytes > available:
        raise OutOfMemoryError(f"{nbytes:,} bytes do not fit on the host: {available:,} are available")
    with on(memory):
        return torch.as_tensor(_Registered(nbytes), device=memory)


class Buffer:
    """Raw uninitialised memory, counted until the last reference to this object goes.

    offloaded: host memory that the device named by `memory` reads and writes in place, over its bus; it is counted as
    "cpu". Kernels, copies and streams treat it as memory of the device.
    """

    __slots__ = ("__weakref__", "_bytes", "_host", "memory", "nbytes", "offloaded")

    def __init__(self, nbytes: int, memory: str, offloaded: bool = False) -> None:
        """nbytes: rounded up to 512. Raises OutOfMemoryError."""
        self.nbytes = rounded(nbytes)
        self.memory = memory
        self.offloaded = offloaded
        mapped = offloaded and memory != "cpu"
        self._bytes = _mapped(self.nbytes, memory) if mapped else _empty((self.nbytes,), torch.uint8, memory)
        self._host: Array | None = self._bytes.numpy() if memory == "cpu" else None
        held = counter("cpu" if offloaded else memory)
        held.take(self.nbytes)
        weakref.finalize(self, held.give, self.nbytes).atexit = False

    @property
    def address(self) -> int:
        """The device address of byte 0 (0 for an empty buffer)."""
        return self._bytes.data_ptr()

    @property
    def host(self) -> Array:
        """The bytes themselves. Raises DeviceError for memory that the host cannot read."""
        if self._host is None:
            raise DeviceError(f"memory on {self.memory} has no NumPy view; read a copy instead")
        return self._host

    def place(self, offset: int, type: TensorType) -> Place:
        """The dense array of `type` that starts `offset` bytes into this buffer."""
        return Place(self, offset, type)

    def fill(self, byte: int) -> None:
        """Set every byte: 255 makes every float a NaN. For measurements; programs never need it."""
        self._bytes.fill_(byte)


class Place:
    """One dense array inside a Buffer. The view is made once; using it costs no look-up.

    tensor: the array; argument: the same memory as kernels take it (see kernel_dtype).
    """

    __slots__ = ("argument", "array", "buffer", "offset", "tensor", "type")

    def __init__(self, buffer: Buffer, offset: int, type: TensorType) -> None:
        self.buffer = buffer
        self.offset = offset
        self.type = type
        end = offset + type.nbytes
        if offset < 0 or end > buffer.nbytes:
            raise DeviceError(f"{type} at byte {offset} lies outside a buffer of {buffer.nbytes} bytes")
        if buffer._host is not None:
            # Made from NumPy so that the tensor's storage is this array alone: Triton's interpreter copies the whole
            # storage of every argument onto itself after each launch.
            self.array: Array | None = buffer._host[offset:end].view(type.dtype.numpy).reshape(type.shape)
            self.tensor = as_tensor(self.array)
        else:
            self.array = None
            self.tensor = buffer._bytes[offset:end].view(_TORCH[type.dtype]).view(type.shape)
        self.argument = self.tensor.view(torch.uint8) if type.dtype.is_storage else self.tensor

    @property
    def address(self) -> int:
        """The device address of element 0."""
        return self.buffer.address + self.offset

    @property
    def host(self) -> Array:
        """The array itself, without a copy. Raises DeviceError for memory that the host cannot read."""
        return self.buffer.host if self.array is None else self.array

    def write(self, source: Source) -> None:
        """Copy an accepted array of this dtype and shape in. On CUDA this is queued on the current stream."""
        if self.array is not None:
            np.copyto(self.array, as_array(source))
            return
        tensor = source if isinstance(source, Tensor) else _importable(source)
        # NumPy memory is pageable and staged before the call returns, so it is just queued. A host tensor may be pinned
        # and be read later, when its owner may have changed it: there the call waits.
        self.tensor.copy_(tensor, non_blocking=tensor.is_cuda or not isinstance(source, Tensor))

    def fill(self, number: Array) -> None:
        """A 0-d array of this dtype into every element; no array of the whole shape is made."""
        if self.array is not None:
            np.copyto(self.array, number)
            return
        one = self.tensor.new_empty(()).copy_(as_tensor(np.array(number, self.type.dtype.numpy)))
        self.argument.copy_(one.view(self.argument.dtype))

    def read(self) -> Array:
        """A copy on the host, once all work queued before is done."""
        return self.array.copy() if self.array is not None else as_array(self.tensor)

    def copy_from(self, other: Place) -> None:
        """Copy another place of the same type on the same memory."""
        if self.array is not None:
            np.copyto(self.array, other.host)
        else:
            self.tensor.copy_(other.tensor, non_blocking=True)

    def fresh(self) -> Tensor:
        """A tensor of its own with these values, on the same memory."""
        try:  # this is done for every output of every step, and new_empty finds the device quicker than empty does
            tensor = self.tensor.new_empty(self.type.shape)
        except RuntimeError:
            tensor = _empty(self.type.shape, _TORCH[self.type.dtype], self.buffer.memory)  # says what is wrong
        result = _counted(tensor, self.type, self.buffer.memory)
        result.copy_(self.tensor, non_blocking=True)
        return result


def fill_normal(place: Place, seed: int, magnitudes: bool = False) -> None:
    """Deterministic standard normal numbers, or their magnitudes, into a place of floats. For measurements."""
    source = torch.Generator(place.tensor.device).manual_seed(seed)
    place.tensor.normal_(generator=source)
    if magnitudes:
        place.tensor.abs_()


def fill_constant(place: Place, number: int) -> None:
    """One number into every element of a place of integers or bools. For measurements."""
    place.tensor.fill_(number)


def all_finite(place: Place) -> bool:
    """True if no element is NaN or infinite. For measurements."""
    return bool(torch.isfinite(place.tensor).all())


def relative_error(actual: Place, expected: Place) -> float:
    """Relative RMS error between two places of one type, on their own device; 0 if they are equal. For measurements.

    Infinite if NaN or infinities stand in different places, or if integers differ anywhere.
    """
    wrong, total = 0.0, 0.0
    for a, e in zip(actual.tensor.reshape(-1).split(1 << 26), expected.tensor.reshape(-1).split(1 << 26), strict=True):
        finite = torch.isfinite(e)
        same = torch.where(finite, torch.isfinite(a), (a == e) | (torch.isnan(a) & torch.isnan(e)))
        if not bool(same.all()) or not (a.dtype.is_floating_point or torch.equal(a, e)):
            return float("inf")
        a, e = (torch.where(finite, x, 0).double() for x in (a, e))
        wrong += float((a - e).square().sum())
        total += float(e.square().sum())
    return (wrong / total) ** 0.5 if total else 0.0 if not wrong else float("inf")


class Slab:
    """Several dense arrays in one Buffer, each at a multiple of 512 bytes, in order."""

    __slots__ = ("buffer", "places")

    def __init__(self, types: list[TensorType], memory: str, offloaded: bool = False) -> None:
        self.buffer = Buffer(slab_bytes(types), memory, offloaded)
        self.places: list[Place] = []
        offset = 0
        for type in types:
            self.places.append(self.buffer.place(offset, type))
            offset += rounded(type.nbytes)


def slab_bytes(types: list[TensorType]) -> int:
    """The bytes that a Slab of these types takes."""
    return sum(rounded(type.nbytes) for type in types)


# --- arrays in and out ---


def as_tensor(array: Array) -> Tensor:
    """A CPU tensor that shares a writable NumPy array's memory, bfloat16 and 8-bit floats included."""
    foreign = _FOREIGN.get(array.dtype)
    if foreign is not None:
        return torch.from_numpy(array.view(f"u{foreign.itemsize}")).view(_TORCH[foreign])
    return torch.from_numpy(array)


def as_array(source: Source) -> Array:
    """An accepted array as NumPy: without a copy on the CPU, bfloat16 and 8-bit floats through ml_dtypes."""
    if isinstance(source, np.ndarray):
        return source
    if source.device.type != "cpu":
        host = torch.empty(source.shape, dtype=source.dtype)
        source = host.copy_(source)
    found = _OF_TORCH.get(source.dtype)
    if found is not None and found.numpy in _FOREIGN:
        return source.view(torch.uint8 if found.is_storage else torch.uint16).numpy().view(found.numpy)
    return source.numpy()


def _importable(array: Array) -> Tensor:
    """A CPU tensor with the array's values; torch takes neither every stride nor read-only memory."""
    return as_tensor(array if array.flags.writeable and array.flags.c_contiguous else array.copy())


def accept(
    array: Any, want: TensorType, label: str, *, wide: bool = False, error: type[FlameError] = InputError
) -> Source:
    """`array` as something that can be copied into a Place of `want`; nothing is converted but plain Python numbers.

    array: NumPy, torch, or anything with __dlpack__ or __array__: its dtype must be the wanted one (with `wide`,
    float64 is taken for every float as well). Python and NumPy scalars and nested lists are converted, if no
    float would become an integer and no integer overflows. Raises `error` saying what `label` expects.
    """
    source = _imported(array, want, label, error)
    found = _OF_TORCH.get(source.dtype) if isinstance(source, Tensor) else _dtype_of(source)
    right = found is want.dtype or (wide and found is float64 and want.dtype.is_float)
    if right and tuple(source.shape) == want.shape:
        return source
    got = f"{found or source.dtype}[{', '.join(map(str, source.shape))}]"
    message = f"{label} expects {want}, got {got}"
    if not right:
        how = f".to(torch.{want.dtype})" if isinstance(source, Tensor) else f".astype({want.dtype.name!r})"
        if want.dtype.numpy in _FOREIGN and not isinstance(source, Tensor):
            how = f".astype(ml_dtypes.{want.dtype})"
        message += f"; dtypes are not converted silently: pass array{how}"
    raise error(message)


def _dtype_of(array: Array) -> DType | None:
    try:
        return dtype(array.dtype)
    except FlameError:
        return None


def _imported(array: Any, want: TensorType, label: str, error: type[FlameError]) -> Source:
    """`array` as NumPy or torch, of whatever dtype and shape it has; Python numbers in the dtype of `want`."""
    if isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray):
        return array
    if isinstance(array, Tensor):
        if array.layout is not torch.strided or array.is_meta:
            raise error(f"{label} expects {want}, got a {array.layout} tensor on {array.device}")
        return array.detach() if array.requires_grad else array
    if isinstance(array, bool | int | float | np.generic | list | tuple):
        return _converted(array, want, label, error)
    if isinstance(array, np.ma.MaskedArray):
        raise error(f"{label} expects {want}, got a masked array; fill it first: array.filled(value)")
    if hasattr(array, "__dlpack__"):
        return torch.from_dlpack(array)
    if hasattr(array, "__array__"):
        return np.asarray(array)
    raise error(f"{label} expects {want}, got {array.__class__.__name__}; pass a NumPy, torch or DLPack array")


def _converted(numbers: Any, want: TensorType, label: str, error: type[FlameError]) -> Array:
    """Python numbers as an array of the wanted dtype."""
    try:
        plain = np.asarray(numbers)
    except ValueError as cause:
        raise error(f"{label} expects {want}, got lists of unequal lengths") from cause
    rank = {"b": 0, "i": 1, "u": 1, "f": 2}
    needed = rank[want.dtype.kind]
    have = rank.get("f" if plain.dtype in _FOREIGN else plain.dtype.kind, 3) if plain.size else 0
    if have > needed:
        raise error(f"{label} expects {want}, got numbers of type {plain.dtype}, which {want.dtype} does not hold")
    if needed == have == 1 and plain.size:
        limits = np.iinfo(want.dtype.numpy)
        low, high = int(plain.min()), int(plain.max())
        if low < limits.min or high > limits.max:
            raise error(f"{label} expects {want}, but {low if low < limits.min else high} is out of its range")
    return want.dtype.convert(plain)


# --- devices, streams, CUDA graphs ---


def memory_info(memory: str) -> MemoryInfo:
    """Available and total bytes. On CUDA what torch holds in reserve counts as available."""
    if memory == "cpu":
        return host_memory()
    free, total = torch.cuda.mem_get_info(memory)
    reserve = torch.cuda.memory_reserved(memory) - torch.cuda.memory_allocated(memory)
    return MemoryInfo(free + reserve, total)


@dataclass(frozen=True)
class Properties:
    """A CUDA device: name, compute capability, streaming multiprocessors, shared memory one block may opt in to, L2."""

    name: str
    capability: tuple[int, int]
    processors: int
    shared_bytes: int
    cache_bytes: int


def device_count() -> int:
    """CUDA devices that torch can use."""
    return torch.cuda.device_count()


@cache
def properties(memory: str) -> Properties:
    """The properties of a CUDA device. Raises DeviceError if torch cannot use it."""
    if not torch.cuda.is_available():
        raise DeviceError(f"this build of torch ({torch.__version__}) cannot use CUDA; install one that can")
    found = torch.cuda.get_device_properties(memory)
    return Properties(
        found.name,
        (found.major, found.minor),
        found.multi_processor_count,
        found.shared_memory_per_block_optin,
        found.L2_cache_size,
    )


def on(memory: str) -> contextlib.AbstractContextManager[Any]:
    """Makes a CUDA device current inside, so that kernels go there; does nothing for the CPU."""
    return contextlib.nullcontext() if memory == "cpu" or _only_one_device() else torch.cuda.device(memory)


@cache
def _only_one_device() -> bool:
    return torch.cuda.device_count() == 1


def synchronize(memory: str) -> None:
    """Wait until all work queued on the memory's device is done."""
    if memory != "cpu":
        torch.cuda.synchronize(memory)


def current_stream(memory: str) -> torch.cuda.Stream | None:
    """The CUDA stream that work is queued on now; None on the CPU."""
    return None if memory == "cpu" else torch.cuda.current_stream(_index(memory))


@cache
def _index(memory: str) -> int | None:
    """The device's number: torch takes it quicker than a name."""
    return torch.device(memory).index


def wait_for(memory: str, earlier: torch.cuda.Stream | None) -> torch.cuda.Stream | None:
    """Let the current stream wait for what is queued on `earlier`, if that is another one; returns the current one."""
    stream = current_stream(memory)
    if stream is not None and earlier is not None and stream != earlier:
        stream.wait_stream(earlier)
    return stream


@contextlib.contextmanager
def aside(memory: str) -> Iterator[None]:
    """Work queued inside goes to a stream of its own, after what was queued before and before what comes after."""
    if memory == "cpu":
        yield
        return
    outer, inner = torch.cuda.current_stream(memory), torch.cuda.Stream(memory)
    inner.wait_stream(outer)
    with torch.cuda.stream(inner):
        yield
    outer.wait_stream(inner)


class Event:
    """A point in the current CUDA stream, for timing."""

    def __init__(self, memory: str) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._memory = memory

    def record(self) -> None:
        """Mark the point after all work queued so far."""
        self._event.record(torch.cuda.current_stream(self._memory))

    def milliseconds_since(self, start: Event) -> float:
        """Device time between two recorded events; waits for this one."""
        self._event.synchronize()
        return start._event.elapsed_time(self._event)


class CudaGraph:
    """Kernels and copies recorded once and replayed with one call."""

    def __init__(self, memory: str, record: Callable[[], None]) -> None:
        """record: queues the work; it must neither allocate nor wait. Nothing runs yet."""
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(memory)
        # Other threads may allocate meanwhile (loaders of data do).
        with torch.cuda.device(memory), torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            record()

    def replay(self) -> None:
        """Queue the recorded work on the current stream."""
        self._graph.replay()
