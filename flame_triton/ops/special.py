"""NumPy references of functions that NumPy lacks: erf, erfc, sigmoid, softplus. Whole-array, float32 and float64.

erf and erfc are polynomials interpolated at Chebyshev nodes, coefficients highest power first; relative errors stay
below 2e-15 in float64 and 3e-7 in float32, near zero and in the tails alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

BLOCK = 1 << 14
"""Elements worked on at a time, so that the many passes of a polynomial stay in the cache."""

# erfc(x) exp(x^2) in t = (x - k) / (x + k); k = 3.5, x in [0, 27.5] and k = 3, x in [0, 10.5]
# fmt: off
_ERFC_F64 = (
    -1.0251128655040072e-10, -6.864279935282676e-10, -5.806244545370212e-10, 5.126358192395838e-09,
    8.651493108572368e-09, -2.959303010849926e-08, -6.208668082512813e-08, 1.933209055717146e-07,
    3.709246881524541e-07, -1.5199366654357997e-06, -1.6290828372338202e-06, 1.3346491933806979e-05,
    -4.6735335185813e-06, -0.0001080848731770918, 0.0002885551914463626, 0.0002673850983083261,
    -0.004242238602897907, 0.016976760931000392, -0.04543676118372988, 0.09442780690920531, -0.16133852476450417,
    0.23313048160025057, -0.28926504483276744, 0.1552936556088943,
)
_ERFC_F32 = (
    5.4283922e-05, 2.58434474e-05, -0.000594617339, 0.000718107298, 0.00426945298, -0.0243948958, 0.0716657037,
    -0.150115706, 0.245603809, -0.326233566, 0.179001151,
)
# erf(x) / x in x^2, for |x| <= 1
_ERF_F64 = (
    -7.795898827002142e-10, 1.3720064546777686e-08, -1.6208483801871705e-07, 1.6447424703317362e-06,
    -1.492473690741966e-05, 0.00012055294904839707, -0.0008548325975389692, 0.0052239776071164225,
    -0.02686617064323777, 0.11283791670945006, -0.37612638903183543, 1.1283791670955126,
)
_ERF_F32 = (7.87587506e-05, -0.000801686429, 0.00518908742, -0.026854212, 0.112835947, -0.376126267, 1.12837917)
# fmt: on


def _polynomial(x: np.ndarray, coefficients: Sequence[float]) -> np.ndarray:
    """Horner's rule in x's own dtype."""
    first, *rest = (x.dtype.type(c) for c in coefficients)
    result = np.full_like(x, first)
    for c in rest:
        result *= x
        result += c
    return result


def _in_blocks(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The same function, called on pieces of at most BLOCK elements; other dtypes are computed in float64."""

    def whole(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        if x.dtype not in (np.float32, np.float64):
            x = x.astype(np.float64)
        flat = np.ascontiguousarray(x).reshape(-1)
        out = np.empty_like(flat)
        with np.errstate(all="ignore"):
            for i in range(0, flat.size, BLOCK):
                out[i : i + BLOCK] = function(flat[i : i + BLOCK])
        return out.reshape(x.shape)

    return whole


def _erfc_positive(a: np.ndarray) -> np.ndarray:
    """erfc(a) for a >= 0: e^(-a^2) P(t), with e^(-a^2) = e^(-h^2) e^((h - a)(h + a)) and h^2 exact."""
    if a.dtype == np.float32:
        k, most, table, bits, mask = np.float32(3), np.float32(10.5), _ERFC_F32, np.int32, -0x1000
    else:
        k, most, table, bits, mask = np.float64(3.5), np.float64(27.5), _ERFC_F64, np.int64, -0x8000000
    a = np.minimum(a, most)
    result = _polynomial((a - k) / (a + k), table)
    head = (a.view(bits) & bits(mask)).view(a.dtype)
    result *= np.exp((head - a) * (head + a))
    head *= head
    result *= np.exp(-head)
    return result


@_in_blocks
def erfc(x: np.ndarray) -> np.ndarray:
    """1 - erf(x), without cancellation for large x."""
    y = _erfc_positive(np.abs(x))
    return np.where(x < 0, x.dtype.type(2) - y, y)


@_in_blocks
def erf(x: np.ndarray) -> np.ndarray:
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    a = np.abs(x)
    table = _ERF_F32 if x.dtype == np.float32 else _ERF_F64
    inner = x * _polynomial(np.minimum(x * x, x.dtype.type(1)), table)
    return np.where(a < 1, inner, np.copysign(x.dtype.type(1) - _erfc_positive(a), x))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x)."""
    return 1 / (1 + np.exp(-x))


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + e^x) without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
