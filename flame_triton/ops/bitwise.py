"""Integers: their bits, shifts and common divisors. On bools the bitwise functions are logical, as in torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DTypeError
from ..ir.node import Node
from ..ir.op import Sample, call
from ..types import TensorType, bool_
from .define import integers, pointwise, samples

# fmt: off
__all__ = [
    "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "gcd",
    "lcm",
]
# fmt: on


def _bits(x: TensorType, *_: TensorType) -> TensorType:
    if x.dtype.is_float:
        raise DTypeError(f"needs integers or bools, got {x.dtype}")
    return x


def _whole(x: TensorType, *_: TensorType) -> TensorType:
    if not x.dtype.is_integer:
        raise DTypeError(f"needs integers, got {x.dtype}")
    return x


_words = samples(
    Sample((integers(3, 5, low=-99, high=99), integers(5, low=-99, high=99, seed=1)), grad=()),
    Sample((integers(7, low=-99, high=99), 12), grad=()),
    Sample((np.array([True, False, True]), np.array([[True], [False]])), grad=()),
)


def _bitwise(name: str, symbol: str, ref: Any, logical: str, doc: str) -> Any:
    return pointwise(
        name,
        f"({{0}} {symbol} {{1}})",
        ref,
        None,
        doc=doc,
        infer=_bits,
        samples=_words,
        shortcut=lambda x, y: call(logical, x, y) if x.dtype is bool_ else None,
    )


bitwise_and = _bitwise("bitwise_and", "&", np.bitwise_and, "logical_and", "x & y, bit by bit.")
bitwise_or = _bitwise("bitwise_or", "|", np.bitwise_or, "logical_or", "x | y, bit by bit.")
bitwise_xor = _bitwise("bitwise_xor", "^", np.bitwise_xor, "logical_xor", "x ^ y, bit by bit.")


def _complement(node: Node) -> str:
    return "(255 - {0})" if node.inputs[0].dtype.kind == "u" else "(-1 - {0})"


bitwise_not = pointwise(
    "bitwise_not",
    _complement,
    np.bitwise_not,
    None,
    doc="~x, every bit turned.",
    operands=("x",),
    infer=_bits,
    samples=samples(Sample((integers(3, 5, low=-99, high=99),), grad=()), Sample((np.array([True, False]),), grad=())),
    shortcut=lambda x: call("logical_not", x) if x.dtype is bool_ else None,
    aliases=("bitwise_invert",),
)


def _shift_ref(left: bool) -> Any:
    """Counts that are negative or too large: 0, or on the right what is left of the sign."""

    def ref(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        bits = x.dtype.itemsize * 8
        inside = (y >= 0) & (y < bits)
        count = np.where(inside, y, 0).astype(x.dtype)
        if left:
            return np.where(inside, np.left_shift(x, count), 0).astype(x.dtype)
        return np.where(inside, np.right_shift(x, count), -(x < 0).astype(np.int8)).astype(x.dtype)

    return ref


_shifts = samples(
    Sample((integers(3, 5, low=-99, high=99), integers(5, low=0, high=9, seed=1)), grad=()),
    Sample((integers(4, low=-99, high=99), np.array([0, 63, 64, -1])), grad=()),
    Sample((integers(7, low=-99, high=99), 3), grad=()),
)
bitwise_left_shift = pointwise(
    "bitwise_left_shift",
    "lib.left_shift({0}, {1})",
    _shift_ref(left=True),
    None,
    doc="x << y; 0 where y is negative or not less than the number of bits.",
    infer=_whole,
    samples=_shifts,
    cost=4,
)
bitwise_right_shift = pointwise(
    "bitwise_right_shift",
    "lib.right_shift({0}, {1})",
    _shift_ref(left=False),
    None,
    doc="x >> y with the sign kept; the sign alone where y is negative or not less than the number of bits.",
    infer=_whole,
    samples=_shifts,
    cost=4,
)

_divided = samples(
    Sample((integers(3, 5, low=-60, high=60), integers(5, low=-60, high=60, seed=1)), grad=()),
    Sample((np.array([0, 0, 12, 4181]), np.array([0, 5, 0, 2584])), grad=()),
    Sample((integers(7, low=-60, high=60), 12), grad=()),
)
gcd = pointwise(
    "gcd",
    "lib.gcd({0}, {1})",
    np.gcd,
    None,
    doc="The greatest common divisor, not negative; gcd(0, 0) = 0.",
    infer=_whole,
    samples=_divided,
    cost=400,
)
lcm = pointwise(
    "lcm",
    "lib.lcm({0}, {1})",
    np.lcm,
    None,
    doc="The least common multiple, not negative; 0 if either is 0.",
    infer=_whole,
    samples=_divided,
    cost=400,
)
