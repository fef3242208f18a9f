"""Pointwise mathematics, reductions and products."""

from __future__ import annotations

from typing import Any

from ..adapter import Adapter, OutOfScope, cast, number, same, via


def reduction(f: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    dim = None if dim in ((), []) else dim
    return f(cast(x, dtype), dim, keepdims=keepdim)


def spread(f: Any, x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = 1) -> Any:
    """torch corrects by one unless told otherwise; var(x, True) gives `unbiased` where dim would stand."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if unbiased is not None:
        correction = int(unbiased)
    dim = None if dim in ((), []) else dim
    return f(x, axis=dim, correction=1 if correction is None else correction, keepdims=keepdim)


def scaled(f: Any, mul: Any, x: Any, y: Any, alpha: Any = 1) -> Any:
    """add and sub with alpha: the second operand times a number."""
    return f(x, y if alpha == 1 else mul(y, alpha))


def divided(div: Any, trunc: Any, floor_divide: Any, x: Any, y: Any, *, rounding_mode: Any = None) -> Any:
    if rounding_mode is None:
        return div(x, y)
    if rounding_mode == "floor":
        return floor_divide(x, y)
    raise OutOfScope("no rounding_mode='trunc'")


def extreme_along(value: Any, where: Any, x: Any, dim: Any, keepdim: bool = False) -> Any:
    return value(x, axis=dim, keepdims=keepdim), where(x, axis=dim, keepdims=keepdim)


def vector_norm(f: Any, x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return f(cast(x, dtype), p=ord, axis=None if dim == () else dim, keepdims=keepdim)


def norm(f: Any, x: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    if p == "nuc":
        raise OutOfScope("no nuclear norm")
    return f(cast(x, dtype), p=2 if p in ("fro", None) else p, axis=dim, keepdims=keepdim)


def linalg_norm(f: Any, x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    matrix = (isinstance(dim, tuple | list) and len(dim) == 2) or (dim is None and ord is not None and x.ndim == 2)
    if matrix and ord not in (None, "fro"):
        raise OutOfScope("no norms of matrices but Frobenius's")
    return f(cast(x, dtype), p=2 if ord in (None, "fro") else ord, axis=dim, keepdims=keepdim)


def matrix_norm(
    f: Any, x: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None
) -> Any:
    if ord != "fro":
        raise OutOfScope("no norms of matrices but Frobenius's")
    return f(cast(x, dtype), axis=dim, keepdims=keepdim)


def clamp(f: Any, x: Any, min: Any = None, max: Any = None) -> Any:
    return f(x, min, max)


def summed_to(f: Any, x: Any, *size: Any) -> Any:
    raise OutOfScope("no sum_to_size")


def cross(f: Any, x: Any, y: Any, dim: Any = None) -> Any:
    return f(x, y, axis=-1 if dim is None else dim)


def with_matrix(f: Any, c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return f(c, a, b, beta=beta, alpha=alpha)


def with_factor(f: Any, x: Any, a: Any, b: Any, *, value: Any = 1) -> Any:
    return f(x, a, b, value=value)


def nan_reduction(f: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return f(cast(x, dtype), axis=None if dim in ((), []) else dim, keepdims=keepdim)


def einsum(f: Any, operands: Any, equation: str) -> Any:
    return f(equation, *operands)


def tensordot(f: Any, a: Any, b: Any, dims: Any = 2) -> Any:
    return f(a, b, axes=number(dims))


def rounded(f: Any, x: Any, *, decimals: int = 0) -> Any:
    if decimals:
        raise OutOfScope("no decimals=")
    return f(x)


def logits(f: Any, x: Any, eps: Any = None) -> Any:
    return f(x) if eps is None else f(x, eps=eps)


def softmax(f: Any, x: Any, dim: Any = None, dtype: Any = None) -> Any:
    if dim is None:
        raise OutOfScope("no default axis that depends on the number of dimensions")
    return f(x, axis=dim, dtype=dtype)


def counted(f: Any, x: Any, dim: Any = None) -> Any:
    return f(x, axis=dim)


def reverse(f: Any, x: Any, y: Any) -> Any:
    return f(y, x)


def boolean(f: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    return f(x, axis=dim, keepdims=keepdim)


def aminmax(low: Any, high: Any, x: Any, *, dim: Any = None, keepdim: bool = False) -> Any:
    return low(x, axis=dim, keepdims=keepdim), high(x, axis=dim, keepdims=keepdim)


def both_spreads(spread_of: Any, mean: Any, *args: Any, **kwargs: Any) -> Any:
    raise OutOfScope("two functions here")


def var_mean(f: Any, *args: Any, **kwargs: Any) -> Any:
    return spread(f, *args, **kwargs)


def isclose(f: Any, x: Any, y: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    return f(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan)


def distance(norm: Any, x: Any, y: Any, p: Any = 2) -> Any:
    return norm(x - y, p=p)


def averaged(f: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return nan_reduction(f, x, dim, keepdim, dtype=dtype)


def renorm(f: Any, x: Any, p: Any, dim: int, maxnorm: Any) -> Any:
    return f(x, p, dim, maxnorm)


ARITHMETIC: dict[str, Adapter] = {
    **same("abs acos acosh asin asinh atan atan2 atanh ceil cos cosh erf erfc exp exp2 expm1 floor log log10 log1p"),
    **same("log2 neg reciprocal rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc maximum minimum fmod fmax fmin"),
    **same("remainder floor_divide true_divide pow float_power logaddexp logaddexp2 copysign hypot xlogy lerp sinc"),
    **same("lgamma digamma erfinv frac deg2rad rad2deg signbit isfinite isinf isnan isposinf isneginf positive"),
    **same("eq ne lt le gt ge logical_not logical_and logical_or logical_xor nan_to_num heaviside"),
    **same("bitwise_not bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift gcd lcm ldexp"),
    **same("masked_fill clamp_min clamp_max i0 nextafter igamma igammac"),
    **same("entr erfcx ndtr ndtri log_ndtr xlog1py i0e i1 i1e zeta", prefix="special."),
    "add": via("add mul", scaled),
    "sub": via("sub mul", scaled),
    "rsub": via("sub mul", lambda sub, mul, x, y, alpha=1: scaled(sub, mul, y, x, alpha)),
    "mul": via("mul"),
    "__radd__": via("add", reverse),
    "__rmul__": via("mul", reverse),
    "__rsub__": via("sub", reverse),
    "__rdiv__": via("div", reverse),
    "__rpow__": via("pow", reverse),
    "__rmod__": via("remainder", reverse),
    "__rand__": via("bitwise_and", reverse),
    "__ror__": via("bitwise_or", reverse),
    "__rxor__": via("bitwise_xor", reverse),
    "div/no_rounding_mode": via("div trunc floor_divide", divided),
    "div/floor_rounding": via("div trunc floor_divide", divided),
    "max/binary": via("maximum"),
    "min/binary": via("minimum"),
    "round": via("round", rounded),
    "where": via("where", lambda f, x, condition, y: f(condition, x, y)),
    "clamp": via("clamp", clamp),
    "logit": via("logit", logits),
    "addcmul": via("addcmul", with_factor),
    "addcdiv": via("addcdiv", with_factor),
    "isclose": via("isclose", isclose),
    "sgn": via("sign"),
    "isreal": via("isreal"),
    "angle": via("angle"),
    "bfloat16": via("cast", lambda f, x: f(x, "bfloat16")),
    "half": via("cast", lambda f, x: f(x, "float16")),
    "float": via("cast", lambda f, x: f(x, "float32")),
    "double": via("cast", lambda f, x: f(x, "float64")),
    "int": via("cast", lambda f, x: f(x, "int32")),
    "long": via("cast", lambda f, x: f(x, "int64")),
    "byte": via("cast", lambda f, x: f(x, "uint8")),
    "bool": via("cast", lambda f, x: f(x, "bool")),
}

REDUCTIONS: dict[str, Adapter] = {
    **{name: via(name, reduction) for name in "sum mean prod amax amin".split()},
    **{name: via(name, boolean) for name in "all any argmax argmin logsumexp".split()},
    **{name: via(name, nan_reduction) for name in "nansum nanmean".split()},
    **{name: via(name.split("/")[0], spread) for name in "var std var/unbiased std/unbiased".split()},
    **{name: via(name.split("/")[0], var_mean)
       for name in "var_mean std_mean var_mean/unbiased std_mean/unbiased".split()},
    "max/reduction_with_dim": via("max argmax", extreme_along),
    "min/reduction_with_dim": via("min argmin", extreme_along),
    "max/reduction_no_dim": via("max"),
    "min/reduction_no_dim": via("min"),
    "aminmax": via("amin amax", aminmax),
    "count_nonzero": via("count_nonzero", counted),
    "linalg.vector_norm": via("norm", vector_norm),
    "linalg.norm": via("norm", linalg_norm),
    "linalg.norm/subgradients_at_zero": via("norm", linalg_norm),
    "linalg.matrix_norm": via("norm", matrix_norm),
    "norm": via("norm", norm),
    "norm/fro": via("norm", norm),
    "norm/inf": via("norm", norm),
    "dist": via("norm", distance),
    "renorm": via("renorm", renorm),
    "softmax": via("softmax", softmax),
    "softmax/with_dtype": via("softmax", softmax),
    "log_softmax": via("log_softmax", softmax),
    "log_softmax/with_dtype": via("log_softmax", softmax),
    "nn.functional.softmin": via("softmin", softmax),
    "nn.functional.softmin/with_dtype": via("softmin", softmax),
}  # fmt: skip

PRODUCTS: dict[str, Adapter] = {
    **same("matmul mm bmm mv dot vdot inner outer addr kron trace cdist"),
    **{name: via(name, with_matrix) for name in "addmm addmv addbmm baddbmm".split()},
    "addmm/decomposed": via("addmm", with_matrix),
    "__rmatmul__": via("matmul", reverse),
    "einsum": via("einsum", einsum),
    "tensordot": via("tensordot", tensordot),
    "cross": via("cross", cross),
    "linalg.cross": via("cross", lambda f, x, y, *, dim=-1: f(x, y, axis=dim)),
    "linalg.vecdot": via("vecdot", lambda f, x, y, *, dim=-1: f(x, y, axis=dim)),
    "linalg.multi_dot": via("multi_dot", lambda f, values: f(list(values))),
    "linalg.matrix_power": via("matrix_power", lambda f, x, n: f(x, n)),
    "nn.functional.linear": via("linear"),
    "nn.functional.bilinear": via("bilinear"),
}

ADAPTERS = {**ARITHMETIC, **REDUCTIONS, **PRODUCTS}
