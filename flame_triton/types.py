"""Element types and tensor types: the vocabulary that every other module shares.

Promotion follows torch: a category (bool < integer < floating) is decided first, Python scalars are weak and only
raise the category, never the width within it.

The 8-bit floats only store values: they are cast, moved and viewed, and every arithmetic op refuses them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from .errors import DTypeError, ShapeError


@dataclass(frozen=True, eq=False)
class DType:
    """An element type. Instances are singletons, compared by identity.

    name: the public spelling ("bfloat16"); itemsize: bytes; kind: "f" floating, "i" signed, "u" unsigned, "b" bool.
    """

    name: str
    itemsize: int
    kind: str
    numpy: np.dtype[Any]

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def is_low_precision(self) -> bool:
        """True for the 16-bit and 8-bit floats, which are held in float32 and rounded."""
        return self.kind == "f" and self.itemsize <= 2

    @property
    def is_storage(self) -> bool:
        """True for the 8-bit floats, which only store values."""
        return self.kind == "f" and self.itemsize == 1

    @property
    def compute(self) -> DType:
        """The type in which a kernel holds values of this type in registers."""
        return float32 if self.is_low_precision else self

    @property
    def gradient(self) -> DType:
        """The type of a gradient in a value of this type: its own, or float32 where that only stores values."""
        return float32 if self.is_storage else self

    @property
    def eps(self) -> float:
        """The distance from 1 to the next larger number of a floating type."""
        return float(ml_dtypes.finfo(self.numpy).eps)

    @property
    def largest(self) -> float:
        """The largest finite number of a floating type."""
        return float(ml_dtypes.finfo(self.numpy).max)

    def convert(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """NumPy's elements in this type as a cast gives them: floats round to nearest even.

        To 8-bit floats by way of float32, as torch 2.13 and newer: what float8_e4m3fn does not hold, infinities too,
        becomes its largest number, in float8_e5m2 an infinity; NaN is the pattern with all bits set but the sign.
        """
        if not self.is_storage or array.dtype == self.numpy:
            return array.astype(self.numpy, copy=False)
        with np.errstate(invalid="ignore", over="ignore"):
            exact = array.astype(np.float32, copy=False)
            if self is float8_e4m3fn:
                exact = np.clip(exact, -self.largest, self.largest)
            bits = np.asarray(exact.astype(self.numpy)).view(np.uint8)
        return np.where(np.isnan(exact), bits | 0x7F, bits).view(self.numpy)

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> str:
        return self.name if self.name != "bool" else "bool_"


float64 = DType("float64", 8, "f", np.dtype(np.float64))
float32 = DType("float32", 4, "f", np.dtype(np.float32))
bfloat16 = DType("bfloat16", 2, "f", np.dtype(ml_dtypes.bfloat16))
float16 = DType("float16", 2, "f", np.dtype(np.float16))
float8_e4m3fn = DType("float8_e4m3fn", 1, "f", np.dtype(ml_dtypes.float8_e4m3fn))
float8_e5m2 = DType("float8_e5m2", 1, "f", np.dtype(ml_dtypes.float8_e5m2))
int64 = DType("int64", 8, "i", np.dtype(np.int64))
int32 = DType("int32", 4, "i", np.dtype(np.int32))
uint8 = DType("uint8", 1, "u", np.dtype(np.uint8))
bool_ = DType("bool", 1, "b", np.dtype(np.bool_))

FLOATS: tuple[DType, ...] = (float64, float32, bfloat16, float16)
STORAGE: tuple[DType, ...] = (float8_e4m3fn, float8_e5m2)
DTYPES: tuple[DType, ...] = (*FLOATS, *STORAGE, int64, int32, uint8, bool_)
_BY_NAME = {d.name: d for d in DTYPES}
_BY_NUMPY = {d.numpy: d for d in DTYPES}

DTypeLike = DType | str | type | np.dtype[Any]


def dtype(like: Any) -> DType:
    """The DType that `like` names: a DType, "float32", numpy.float32, a NumPy dtype, float, int or bool.

    Raises DTypeError for a type that is not supported.
    """
    if isinstance(like, DType):
        return like
    if isinstance(like, str):
        found = _BY_NAME.get(like.removeprefix("torch."))
        if found is not None:
            return found
    if like is float:
        return float32
    if like is int:
        return int64
    if like is bool:
        return bool_
    name = str(like)
    if name.startswith("torch.") and name[6:] in _BY_NAME:
        return _BY_NAME[name[6:]]
    try:
        return _BY_NUMPY[np.dtype(like)]
    except (TypeError, KeyError):
        known = ", ".join(_BY_NAME)
        raise DTypeError(f"unsupported dtype {like!r}; supported are {known}") from None


_CATEGORY = {"b": 0, "u": 1, "i": 1, "f": 2}


def promote(a: DType, b: DType) -> DType:
    """The common type of two tensor operands, by torch's table. Raises DTypeError for an 8-bit float and another."""
    if a is b:
        return a
    for stored in (a, b):
        if stored.is_storage:
            raise DTypeError(f"{a} and {b} have no common type: {storage_only(stored)}")
    category_a, category_b = _CATEGORY[a.kind], _CATEGORY[b.kind]
    if category_a != category_b:
        return a if category_a > category_b else b
    if a.is_float and a.itemsize == b.itemsize == 2:
        return float32  # bfloat16 with float16: neither holds the other
    if a.is_float or a.kind == b.kind:
        return a if a.itemsize > b.itemsize else b
    return a if a.kind == "i" else b  # uint8 with int32 or int64


def promote_scalar(tensor: DType, scalar: bool | int | float) -> DType:
    """The type of `tensor op scalar`: the tensor's, unless the scalar is of a higher category."""
    kind = "b" if isinstance(scalar, bool) else "i" if isinstance(scalar, int) else "f"
    if _CATEGORY[kind] <= _CATEGORY[tensor.kind]:
        return tensor
    return int64 if kind == "i" else float32


def storage_only(dtype: DType) -> str:
    """Why an 8-bit float is refused, and what helps."""
    return f'{dtype} only stores values; cast it first, for example with astype("bfloat16")'


@dataclass(frozen=True, slots=True)
class TensorType:
    """Static shape and element type of a Value."""

    shape: tuple[int, ...]
    dtype: DType

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def with_shape(self, shape: tuple[int, ...]) -> TensorType:
        return TensorType(shape, self.dtype)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(self.shape, dtype)

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join(map(str, self.shape))}]"


def check_shape(shape: int | Iterable[int], what: str = "shape") -> tuple[int, ...]:
    """`shape` as a tuple of non-negative Python ints. Raises ShapeError otherwise."""
    if isinstance(shape, (int, np.integer)):
        shape = (int(shape),)
    try:
        dims = tuple(int(d) if isinstance(d, (int, np.integer)) else _not_int(d) for d in shape)
    except TypeError as error:
        raise ShapeError(f"{what} must be a tuple of ints, got {shape!r}") from error
    if any(d < 0 for d in dims):
        raise ShapeError(f"{what} must not hold negative sizes, got {dims}")
    return dims


def _not_int(d: object) -> int:
    raise TypeError(f"{d!r} is not an int")


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """NumPy's broadcast of the shapes. Raises ShapeError naming all of them."""
    ndim = max((len(s) for s in shapes), default=0)
    out = [1] * ndim
    for shape in shapes:
        for i, d in enumerate(shape, start=ndim - len(shape)):
            if d != 1:
                if out[i] not in (1, d):
                    raise ShapeError("shapes do not broadcast: " + ", ".join(str(s) for s in shapes))
                out[i] = d
    return tuple(out)


def check_axis(axis: int, ndim: int, what: str = "axis") -> int:
    """A possibly negative axis as 0 <= axis < ndim (a 0-d tensor accepts 0 and -1, as in torch)."""
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise ShapeError(f"{what} must be an int, got {axis!r}")
    bound = max(ndim, 1)
    if not -bound <= axis < bound:
        raise ShapeError(f"{what} {axis} is out of range for a tensor of {ndim} dimensions")
    return int(axis) % bound


def check_dimension(axis: int, ndim: int, what: str = "axis") -> int:
    """As check_axis, for a function that takes the axis apart: a 0-d tensor has none."""
    if not ndim:
        raise ShapeError(f"{what} {axis}: a 0-d tensor has no axes")
    return check_axis(axis, ndim, what)


def check_axes(axis: int | Iterable[int] | None, ndim: int, what: str = "axis") -> tuple[int, ...]:
    """Axes as a sorted tuple without duplicates; None means all of them."""
    if axis is None:
        return tuple(range(ndim))
    if isinstance(axis, (int, np.integer)):
        axis = (int(axis),)
    axes = [check_axis(a, ndim, what) for a in axis]
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{what} {tuple(axes)} names one axis twice")
    return tuple(sorted(axes)) if ndim else ()
