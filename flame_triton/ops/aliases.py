"""The same functions under the names that NumPy, the array API or torch also give them."""

from __future__ import annotations

from .activation import silu
from .arithmetic import abs, clamp, div, mul, neg, pow, sign, sub, trunc
from .bitwise import bitwise_not
from .elementary import acos, acosh, asin, asinh, atan, atan2, atanh, sigmoid
from .indexing import take_along_axis
from .join import concat, repeat
from .leaf import cast, stop_gradient
from .linear_algebra import dot, outer
from .logic import equal, greater, greater_equal, less, less_equal, not_equal
from .matrix import matrix_transpose
from .parts import tensor_split, vstack
from .reduce import max, min
from .sampling import normal_like, uniform_like
from .shape import broadcast_tensors, clone, moveaxis, reshape_as
from .special_functions import digamma, lgamma
from .statistics import trapezoid
from .view import broadcast_to, swapaxes, transpose

# fmt: off
__all__ = [
    "absolute", "adjoint", "amax", "amin", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh",
    "array_split", "astype", "bitwise_invert", "broadcast_arrays", "cat", "clip", "concatenate", "contiguous", "copy",
    "detach", "divide", "eq", "expand", "expit", "fix", "gammaln", "ge", "ger", "gt", "le", "lt", "movedim",
    "multiply", "ne", "negative", "permute", "permute_dims", "power", "psi", "rand_like", "randn_like",
    "repeat_interleave", "row_stack", "sgn", "subtract", "swapdims", "swish", "take_along_dim", "trapz",
    "true_divide", "vdot", "view_as",
]
# fmt: on

absolute = abs
adjoint = matrix_transpose
amax = max
amin = min
arccos = acos
arccosh = acosh
arcsin = asin
arcsinh = asinh
arctan = atan
arctan2 = atan2
arctanh = atanh
array_split = tensor_split
astype = cast
bitwise_invert = bitwise_not
broadcast_arrays = broadcast_tensors
cat = concat
clip = clamp
concatenate = concat
contiguous = clone
copy = clone
detach = stop_gradient
divide = div
eq = equal
expand = broadcast_to
expit = sigmoid
fix = trunc
gammaln = lgamma
ge = greater_equal
ger = outer
gt = greater
le = less_equal
lt = less
movedim = moveaxis
multiply = mul
ne = not_equal
negative = neg
permute = transpose
permute_dims = transpose
power = pow
psi = digamma
rand_like = uniform_like
randn_like = normal_like
repeat_interleave = repeat
row_stack = vstack
sgn = sign
subtract = sub
swapdims = swapaxes
swish = silu
take_along_dim = take_along_axis
trapz = trapezoid
true_divide = div
vdot = dot
view_as = reshape_as
