"""Pointwise mathematics, reductions and products."""

from __future__ import annotations

from typing import Any

from ..adapter import Adapter, OutOfScope, cast, same, via


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


def divided(f: Any, x: Any, y: Any, *, rounding_mode: Any = None) -> Any:
    return f(x, y) if rounding_mode is None else f(x, y, rounding_mode=rounding_mode)


def extreme_along(value: Any, where: Any, x: Any, dim: Any, keepdim: bool = False) -> Any:
    return value(x, axis=dim, keepdims=keepdim), where(x, axis=dim, keepdims=keepdim)


def vector_norm(f: Any, x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return f(x, ord=ord, axis=None if dim == () else dim, keepdims=keepdim, dtype=dtype)


def norm(f: Any, x: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    if p == "nuc":
        raise OutOfScope("no nuclear norm")
    return f(cast(x, dtype), p=2 if p in ("fro", None) else p, axis=dim, keepdims=keepdim)


def linalg_norm(
    vector: Any, matrix: Any, x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    """torch's norm of two axes, or of a whole matrix, is a matrix's if an order is given."""
    if ord is not None and ((dim is None and x.ndim == 2) or (isinstance(dim, tuple | list) and len(dim) == 2)):
        return matrix_norm(matrix, x, ord, (-2, -1) if dim is None else dim, keepdim, dtype=dtype)
    return vector(x, ord=2 if ord is None else ord, axis=dim, keepdims=keepdim, dtype=dtype)


def matrix_norm(
    f: Any, x: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None
) -> Any:
    if ord in ("nuc", 2, -2):
        raise OutOfScope("no norms by singular values")
    return f(x, ord, axis=dim, keepdims=keepdim, dtype=dtype)


def clamp(f: Any, x: Any, min: Any = None, max: Any = None) -> Any:
    return f(x, min, max)


def cross(f: Any, x: Any, y: Any, dim: Any = None) -> Any:
    """torch's old default is the first axis of size 3."""
    return f(x, y, axis=x.shape.index(3) if dim is None else dim)


def with_matrix(f: Any, c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return f(c, a, b, beta=beta, alpha=alpha)


def with_factor(f: Any, x: Any, a: Any, b: Any, *, value: Any = 1) -> Any:
    return f(x, a, b, value=value)


def nan_reduction(f: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    return f(cast(x, dtype), axis=None if dim in ((), []) else dim, keepdims=keepdim)


def einsum(f: Any, operands: Any, equation: str) -> Any:
    return f(equation, *operands)


def tensordot(f: Any, a: Any, b: Any, dims: Any = 2) -> Any:
    if not isinstance(dims, int) and any(a.shape[i] != b.shape[j] for i, j in zip(*dims, strict=True)):
        raise OutOfScope("contracted axes are of one size: torch lets 1 stand for any")
    return f(a, b, axes=dims)


def matrix_power(f: Any, x: Any, n: int) -> Any:
    if n < 0:
        raise OutOfScope("no inverse of a matrix")
    return f(x, n)


def distances(f: Any, x: Any, y: Any, p: float = 2.0, compute_mode: Any = None) -> Any:
    return f(x, y, p=p)


def rounded(f: Any, x: Any, *, decimals: int = 0) -> Any:
    return f(x, decimals) if decimals else f(x)


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


def isclose(f: Any, x: Any, y: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    return f(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan)


def renorm(f: Any, x: Any, p: Any, dim: int, maxnorm: Any) -> Any:
    return f(x, p, dim, maxnorm)


def polygamma(f: Any, x: Any, n: int) -> Any:
    return f(n, x)


def vander(f: Any, x: Any, *, N: Any = None) -> Any:
    if x.ndim != 1:
        raise OutOfScope("of one vector, as in NumPy")
    return f(x, N, increasing=True)


def integrated(f: Any, y: Any, x: Any = None, dim: int = -1, dx: Any = None) -> Any:
    if x is not None and x.ndim > 1 and x.shape != y.shape:
        raise OutOfScope("x has y's shape, or is a vector")
    return f(y, x, **({} if dx is None else {"dx": dx}), axis=dim)


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
    "rsub": via("rsub"),
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
    "div/no_rounding_mode": via("div", divided),
    "div/floor_rounding": via("div:rounding_mode", divided),
    "div/trunc_rounding": via("div:rounding_mode", divided),
    "max/binary": via("maximum"),
    "min/binary": via("minimum"),
    "round": via("round", rounded),
    **{f"round/decimals_{d}": via("round:decimals", rounded) for d in ("0", "3", "neg_3")},
    "where": via("where", lambda f, x, condition, y: f(condition, x, y)),
    "clamp": via("clamp", clamp),
    "logit": via("logit", logits),
    "addcmul": via("addcmul", with_factor),
    "addcdiv": via("addcdiv", with_factor),
    "isclose": via("isclose", isclose),
    "allclose": via("allclose", isclose),
    **{f"polygamma/polygamma_n_{n}": via("polygamma", polygamma) for n in range(5)},
    "special.polygamma/special_polygamma_n_0": via("polygamma", polygamma),
    **{f"mvlgamma/mvlgamma_p_{p}": via("mvlgamma") for p in (1, 3, 5)},
    "sgn": via("sgn"),
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
    **{name: via(name.split("/")[0], spread) for name in "var_mean std_mean".split()},
    **{name: via(name.split("/")[0], spread) for name in "var_mean/unbiased std_mean/unbiased".split()},
    "max/reduction_with_dim": via("max argmax", extreme_along),
    "min/reduction_with_dim": via("min argmin", extreme_along),
    "max/reduction_no_dim": via("max"),
    "min/reduction_no_dim": via("min"),
    "aminmax": via("amin amax", aminmax),
    "count_nonzero": via("count_nonzero", counted),
    "linalg.vector_norm": via("vector_norm", vector_norm),
    "linalg.norm": via("vector_norm matrix_norm", linalg_norm),
    "linalg.norm/subgradients_at_zero": via("vector_norm matrix_norm", linalg_norm),
    "linalg.matrix_norm": via("matrix_norm", matrix_norm),
    "norm": via("norm", norm),
    "norm/fro": via("norm", norm),
    "norm/inf": via("norm", norm),
    "dist": via("dist"),
    "renorm": via("renorm", renorm),
    "softmax": via("softmax", softmax),
    "softmax/with_dtype": via("softmax", softmax),
    "log_softmax": via("log_softmax", softmax),
    "log_softmax/with_dtype": via("log_softmax", softmax),
    "nn.functional.softmin": via("softmin", softmax),
    "nn.functional.softmin/with_dtype": via("softmin", softmax),
}  # fmt: skip

PRODUCTS: dict[str, Adapter] = {
    **same("matmul mm bmm mv dot vdot inner outer kron trace"),
    **{name: via(name, with_matrix) for name in "addmm addmv addbmm baddbmm addr".split()},
    "addmm/decomposed": via("addmm", with_matrix),
    "__rmatmul__": via("matmul", reverse),
    "cdist": via("cdist", distances),
    "linalg.vander": via("vander", vander),
    "cumulative_trapezoid": via("cumulative_trapezoid", integrated),
    "trapezoid": via("trapezoid", integrated),
    "trapz": via("trapezoid", integrated),
    "einsum": via("einsum", einsum),
    "tensordot": via("tensordot", tensordot),
    "cross": via("cross", cross),
    "linalg.cross": via("cross", lambda f, x, y, *, dim=-1: f(x, y, axis=dim)),
    "linalg.vecdot": via("vecdot", lambda f, x, y, *, dim=-1: f(x, y, axis=dim)),
    "linalg.multi_dot": via("multi_dot", lambda f, values: f(list(values))),
    "linalg.matrix_power": via("matrix_power", matrix_power),
    "nn.functional.linear": via("linear"),
    "nn.functional.bilinear": via("bilinear"),
}

ADAPTERS = {**ARITHMETIC, **REDUCTIONS, **PRODUCTS}
