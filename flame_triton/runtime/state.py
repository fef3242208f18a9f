"""State: named, stable buffers that outlive programs. Weights, moments, averages, seeds and step counts live here."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import FlameError, StateError
from ..ir.node import Value
from ..types import DType, TensorType
from . import checkpoint
from .arena import Arena
from .buffers import Array, Buffer, Place, Slab, accept
from .checkpoint import Reader
from .device import Device
from .device import device as as_device
from .shards import Shards, open_checkpoint

OFFLOAD_LEAST = 1 << 16  # bytes; reading less than this over the bus costs more time than it saves memory


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The bytes of a State at one moment, held on the host."""

    arrays: Mapping[str, Array]


class State:
    """One buffer per parameter, in one allocation; programs read and update it in place.

    values: parameters (`ft.parameter`), each with a name of its own; one without a name is called "parameter_0",
    "parameter_1", ... in order, and modules whose names coincide are told apart as "weight", "weight_1", ...
    seed: what initialisers draw from; each parameter has its own generator, made from the seed and its name, so that
    one more parameter changes none of the others. device: default the process's own.
    offload: those of the values that live in pinned host memory, such as an optimizer's `state_values`: kernels read
    and write them there, over the bus. Values smaller than 64 KiB stay on the device.

    Raises StateError for equal names, for a Value that is no parameter and for an initialiser of the wrong shape;
    OutOfMemoryError.
    """

    def __init__(
        self,
        values: Sequence[Value],
        *,
        seed: int = 0,
        device: Device | str | None = None,
        offload: Sequence[Value] = (),
    ) -> None:
        self.device = as_device(device)
        self.seed = _check_seed(seed)
        self.arena = Arena(self.device.memory)
        self._values = _named(values)
        self._names = {value: name for name, value in self._values.items()}
        away = _away(self._names, offload)
        self._places: dict[str, Place] = {}
        self._buffers: list[Buffer] = []
        for offloaded in (False, True):
            names = [name for name, value in self._values.items() if (value in away) is offloaded]
            slab = Slab([self._values[name].type for name in names], self.device.memory, offloaded)
            self._buffers.append(slab.buffer)
            self._places.update(zip(names, slab.places, strict=True))
        self._places = {name: self._places[name] for name in self._values}
        self._followers = _followers(values)
        for name, value in self._values.items():
            first = value if (leader := _leader(value)) is None else leader
            _begin(self._places[name], self.name(first), first, self.seed)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parameters, in order."""
        return tuple(self._values)

    @property
    def values(self) -> tuple[Value, ...]:
        """The parameters, in order."""
        return tuple(self._values.values())

    @property
    def types(self) -> dict[str, TensorType]:
        """Shape and dtype of every parameter, in order."""
        return {name: place.type for name, place in self._places.items()}

    @property
    def nbytes(self) -> int:
        """Bytes allocated on the device: every parameter there rounded up to 512."""
        return self._buffers[0].nbytes

    @property
    def offloaded_bytes(self) -> int:
        """Bytes of pinned host memory."""
        return self._buffers[1].nbytes

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._names if isinstance(key, Value) else key in self._values

    def __repr__(self) -> str:
        return f"<State of {len(self)} parameters, {self.nbytes:,} bytes on {self.device}>"

    def name(self, value: Value) -> str:
        """The name under which a parameter is kept. Raises StateError if it is not."""
        found = self._names.get(value)
        if found is None:
            raise StateError(f"{value!r} is not in this State", loc=value.node.loc)
        return found

    def place(self, key: Value | str) -> Place:
        """Where a parameter lives; programs bind to it."""
        name = self.name(key) if isinstance(key, Value) else key
        if name not in self._places:
            raise StateError(f"no parameter is called {name!r} in this State")
        return self._places[name]

    def __getitem__(self, key: Value | str) -> Array:
        """A copy of a parameter on the host."""
        return self.place(key).read()

    def numpy(self, key: Value | str) -> Array:
        """A parameter's memory itself, without a copy. Raises DeviceError on a GPU."""
        return self.place(key).host

    def set(self, key: Value | str, array: Any) -> None:
        """Overwrite a parameter, and those whose `init` it is. Raises StateError for another shape or dtype; then
        nothing is written."""
        place = self.place(key)
        name = self.name(key) if isinstance(key, Value) else key
        place.write(accept(array, place.type, f"parameter {name!r}", error=StateError))
        self._follow(name, ())

    def _follow(self, name: str, apart: Container[str]) -> None:
        """Give the numbers of a parameter to those that follow it, but for the names in `apart`."""
        for follower in self._followers.get(self._values[name], ()):
            if (other := self.name(follower)) not in apart:
                self._places[other].write(self._places[name].read().astype(follower.dtype.numpy))

    def snapshot(self) -> Snapshot:
        """A copy of every parameter, for `restore`."""
        return Snapshot({name: place.read() for name, place in self._places.items()})

    def restore(self, snapshot: Snapshot) -> None:
        """Put back, bit for bit, what `snapshot` of this State holds."""
        if list(snapshot.arrays) != list(self._places):
            raise StateError("the snapshot was taken of another State")
        for name, array in snapshot.arrays.items():
            self._places[name].write(array)

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
        """Write every parameter to a safetensors file, atomically: a crash leaves the old file or the new one.

        metadata: text stored beside the arrays. Raises StateError if the file cannot be written.
        """
        checkpoint.write(path, self.types, lambda name: self._places[name].read(), metadata or {})

    def load(self, source: str | os.PathLike[str] | Reader | Shards, strict: bool = True) -> dict[str, str]:
        """Read parameters from a safetensors file or a checkpoint folder, and return its metadata.

        source: a path, or an open checkpoint, which stays open.
        strict: the file must hold exactly the parameters of this State; otherwise names that only one of them has
        are left alone, but for parameters whose `init` is one that the file has: they follow it. Shapes
        and dtypes must always agree. Everything that does not fit is listed in one StateError, as is a damaged file;
        then nothing is written.
        """
        opened = isinstance(source, (Reader, Shards))
        with contextlib.nullcontext(source) if opened else open_checkpoint(source) as reader:
            problems = _mismatches(self.types, reader.types, strict)
            if problems:
                raise StateError(f"{os.fspath(reader.path)} does not fit this State:\n  " + "\n  ".join(problems))
            for name, place in self._places.items():
                if name in reader.types:
                    place.write(reader.read(name))
                    self._follow(name, reader.types)
            return reader.metadata


def _check_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise StateError(f"seed must be a non-negative int, got {seed!r}")
    return int(seed)


def _named(values: Sequence[Value]) -> dict[str, Value]:
    """Parameters by name, in order. Raises StateError for equal names or something else than a parameter."""
    taken = {v.explicit_name for v in values if isinstance(v, Value)}
    numbers: dict[str, int] = {}
    table: dict[str, Value] = {}
    seen: set[Value] = set()
    for value in values:
        if not isinstance(value, Value) or value.node.op.name != "parameter":
            raise StateError(f"a State holds parameters, got {value!r}")
        if value in seen:
            raise StateError(f"{value!r} is listed twice", loc=value.node.loc)
        seen.add(value)
        name = value.explicit_name
        if name is None:
            name = _free_name(value.name, taken, numbers)
        if name in table:
            raise StateError(
                f"two parameters are named {name!r}: the one at {table[name].node.loc} and this one", loc=value.node.loc
            )
        table[name] = value
    return table


def _free_name(wish: str | None, taken: set[str | None], numbers: dict[str, int]) -> str:
    """`wish` or, where that is taken, wish_1, wish_2, ...; without a wish parameter_0, parameter_1, ...

    What is found is added to `taken`; numbers: the last one tried for each stem.
    """
    stem = "parameter" if wish is None else wish
    name = f"{stem}_0" if wish is None else wish
    while name in taken:
        numbers[stem] = numbers.get(stem, 0) + 1
        name = f"{stem}_{numbers[stem]}"
    taken.add(name)
    return name


def _away(held: Container[Value], offload: Sequence[Value]) -> set[Value]:
    """Values for the host. Raises StateError for one that the State does not hold."""
    for value in offload:
        if value not in held:
            raise StateError(f"offload lists {value!r}, which is not in this State")
    return {value for value in offload if value.type.nbytes >= OFFLOAD_LEAST}


def _leader(value: Value) -> Value | None:
    """The parameter that this one follows, if its `init` is one."""
    init = value.node.attrs["init"]
    return init if isinstance(init, Value) else None


def _followers(values: Sequence[Value]) -> dict[Value, list[Value]]:
    """Parameter -> those that follow it. Raises StateError if it is missing, or itself follows another."""
    table: dict[Value, list[Value]] = {}
    held = set(values)
    for value in values:
        leader = _leader(value)
        if leader is None:
            continue
        if leader not in held or _leader(leader) is not None:
            raise StateError(
                f"{value!r} starts from {leader!r}, which must be in the State and have a value of its own",
                loc=value.node.loc,
            )
        table.setdefault(leader, []).append(value)
    return table


def _begin(place: Place, name: str, value: Value, seed: int) -> None:
    """Write the initial value of a parameter. One number goes into every element where the memory is: a model's moments
    would take longer to be made on the host, and copied, than its first steps."""
    init = value.node.attrs["init"]
    if callable(init) or np.ndim(0 if init is None else init):
        place.write(_initial(name, value, seed, place.type.dtype, value.shape))
    else:
        place.fill(_initial(name, value, seed, place.type.dtype, ()))


def _initial(name: str, value: Value, seed: int, dtype: DType, shape: tuple[int, ...]) -> Array:
    """A parameter's initial array in `dtype` (floats are rounded to nearest even), or one number with shape ()."""
    init = value.node.attrs["init"]
    if callable(init):
        digest = hashlib.sha256(name.encode()).digest()
        rng = np.random.default_rng([seed, int.from_bytes(digest[:16], "little")])
        init = np.asarray(init(value.shape, rng))
        if init.shape != value.shape:
            raise StateError(
                f"the initialiser of {name!r} gave shape {init.shape}, expected {value.shape}", loc=value.node.loc
            )
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            whole = np.broadcast_to(0 if init is None else init, shape)
            return np.array(dtype.convert(whole) if dtype.is_storage else whole, dtype=dtype.numpy)
    except (TypeError, ValueError, OverflowError) as error:
        raise StateError(
            f"the initial value of {name!r} is no {value.type.with_dtype(dtype)}: {error}", loc=value.node.loc
        ) from error


def _mismatches(
    want: Mapping[str, TensorType], found: Mapping[str, TensorType | FlameError], strict: bool
) -> list[str]:
    """One line for everything in a file that does not fit."""
    problems = [f"{name}: missing, expected {type}" for name, type in want.items() if strict and name not in found]
    for name, type in found.items():
        if name not in want:
            if strict:
                problems.append(f"{name}: unexpected, not in this State")
        elif isinstance(type, FlameError):
            problems.append(f"{name}: expected {want[name]}, the file holds {type}")
        elif type != want[name]:
            problems.append(f"{name}: expected {want[name]}, the file holds {type}")
    return problems
