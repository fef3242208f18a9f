"""flame_triton: static graphs of ops, reverse-mode gradients as graphs, and Triton kernels that run them.

A model is a pure graph of ops on symbolic Values (`input`, `parameter`, everything below); `grad` is a function from
graph to graph; `evaluate` runs a graph on NumPy in float64. Names and arguments are NumPy's for mathematics and
torch.nn.functional's for networks.
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import config

# Triton fixes at its first import whether kernels are compiled or interpreted: decide before anybody imports it.
config.interpreted()

from .graph.autodiff import grad
from .graph.evaluate import evaluate
from .ir.node import Value
from .ops.activation import (
    elu,
    gelu,
    glu,
    hardswish,
    leaky_relu,
    logsigmoid,
    mish,
    prelu,
    relu,
    silu,
    softplus,
)
from .ops.arithmetic import (
    abs,
    add,
    ceil,
    clamp,
    clamp_max,
    clamp_min,
    div,
    floor,
    floor_divide,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    reciprocal,
    remainder,
    round,
    sign,
    square,
    sub,
    trunc,
)
from .ops.attention import (
    scaled_dot_product_attention,
)
from .ops.dropout import (
    alpha_dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
    gumbel_softmax,
    rrelu,
)
from .ops.elementary import (
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    cos,
    cosh,
    erf,
    erfc,
    exp,
    exp2,
    expm1,
    log,
    log1p,
    log2,
    log10,
    rsqrt,
    sigmoid,
    sin,
    sinh,
    sqrt,
    tan,
    tanh,
)
from .ops.foreach import (
    foreach,
    foreach_sum,
)
from .ops.getitem import (
    index_put,
)
from .ops.indexing import (
    embedding,
    embedding_bag,
    gather,
    index_select,
    one_hot,
    scatter_add,
    take,
    take_along_axis,
    tril,
    triu,
)
from .ops.join import (
    chunk,
    concat,
    repeat,
    roll,
    split,
    stack,
    tile,
    unbind,
)
from .ops.leaf import (
    arange,
    cast,
    constant,
    full,
    full_like,
    input,
    ones,
    ones_like,
    parameter,
    stop_gradient,
    zeros,
    zeros_like,
)
from .ops.logic import (
    equal,
    greater,
    greater_equal,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    masked_fill,
    nan_to_num,
    not_equal,
    where,
)
from .ops.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from .ops.matmul import (
    linear,
    matmul,
)
from .ops.norm import (
    layer_norm,
    rms_norm,
)
from .ops.random import (
    bernoulli,
    dropout,
    next_step,
    normal,
    randint,
    rng_seed,
    uniform,
)
from .ops.reduce import (
    all,
    any,
    argmax,
    argmin,
    max,
    mean,
    min,
    norm,
    prod,
    std,
    sum,
    var,
)
from .ops.sampling import (
    cauchy,
    exponential,
    geometric,
    gumbel,
    laplace,
    log_normal,
    multinomial,
    normal_like,
    randperm,
    uniform_like,
)
from .ops.scan import (
    cummax,
    cummin,
    cumprod,
    cumsum,
    cumulative_trapezoid,
    linear_recurrence,
    logcumsumexp,
)
from .ops.scatter import (
    bincount,
    diagonal_scatter,
    histc,
    index_add,
    index_copy,
    index_fill,
    index_reduce,
    masked_scatter,
    put_along_axis,
    scatter,
    scatter_reduce,
    select_scatter,
    slice_scatter,
)
from .ops.softmax import (
    log_softmax,
    logsumexp,
    softmax,
    softmin,
)
from .ops.sort import (
    argsort,
    bucketize,
    kthvalue,
    median,
    mode,
    msort,
    nanmedian,
    nanquantile,
    quantile,
    searchsorted,
    sort,
    topk,
)
from .ops.view import (
    broadcast_to,
    expand_dims,
    flatten,
    flip,
    narrow,
    pad,
    reshape,
    slice,
    squeeze,
    swapaxes,
    transpose,
)
from .types import DType, bfloat16, bool_, dtype, float16, float32, float64, int32, int64, uint8

# The same functions under the names that NumPy, the array API or torch also give them.
absolute = abs
amax = max
amin = min
arccos = acos
arccosh = acosh
arcsin = asin
arcsinh = asinh
arctan = atan
arctan2 = atan2
arctanh = atanh
astype = cast
bmm = matmul
cat = concat
clip = clamp
concatenate = concat
detach = stop_gradient
take_along_dim = take_along_axis
rand_like = uniform_like
randn_like = normal_like
divide = div
eq = equal
expand = broadcast_to
ge = greater_equal
gt = greater
le = less_equal
lt = less
mm = matmul
multiply = mul
ne = not_equal
negative = neg
permute = transpose
permute_dims = transpose
power = pow
repeat_interleave = repeat
subtract = sub
true_divide = div

if TYPE_CHECKING:
    from . import nn, optim, testing
    from .runtime.compile import compile
    from .runtime.program import Program
    from .runtime.state import State

# What needs torch is loaded when it is first asked for, so that `import flame_triton` and --help stay quick.
_LATER = {
    "compile": ".runtime.compile",
    "Program": ".runtime.program",
    "State": ".runtime.state",
    "nn": ".nn",
    "optim": ".optim",
    "testing": ".testing",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'flame_triton' has no attribute {name!r}")
    module = import_module(_LATER[name], __name__)
    found = getattr(module, name) if name in ("compile", "Program", "State") else module
    globals()[name] = found
    return found


# fmt: off
__all__ = [
    "__version__", "compile", "Program", "State", "nn", "optim", "testing", "grad", "evaluate", "Value",
    "DType", "dtype", "float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "bool_",
    # leaf
    "arange", "cast", "constant", "full", "full_like", "input", "ones", "ones_like", "parameter", "stop_gradient",
    "zeros", "zeros_like",
    # arithmetic
    "abs", "add", "ceil", "clamp", "clamp_max", "clamp_min", "div", "floor", "floor_divide", "maximum", "minimum",
    "mul", "neg", "pow", "reciprocal", "remainder", "round", "sign", "square", "sub", "trunc",
    # elementary
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cos", "cosh", "erf", "erfc", "exp", "exp2",
    "expm1", "log", "log10", "log1p", "log2", "rsqrt", "sigmoid", "sin", "sinh", "sqrt", "tan", "tanh",
    # logic
    "equal", "greater", "greater_equal", "isfinite", "isinf", "isnan", "less", "less_equal", "logical_and",
    "logical_not", "logical_or", "logical_xor", "masked_fill", "nan_to_num", "not_equal", "where",
    # activation
    "elu", "gelu", "glu", "hardswish", "leaky_relu", "logsigmoid", "mish", "prelu", "relu", "silu", "softplus",
    # reduce
    "all", "any", "argmax", "argmin", "max", "mean", "min", "norm", "prod", "std", "sum", "var",
    # softmax
    "log_softmax", "logsumexp", "softmax", "softmin",
    # norm
    "layer_norm", "rms_norm",
    # loss
    "binary_cross_entropy_with_logits", "cross_entropy", "huber_loss", "l1_loss", "mse_loss", "nll_loss",
    "smooth_l1_loss",
    # matmul
    "linear", "matmul",
    # attention
    "scaled_dot_product_attention",
    # view
    "broadcast_to", "expand_dims", "flatten", "flip", "narrow", "pad", "reshape", "slice", "squeeze", "swapaxes",
    "transpose",
    # join
    "chunk", "concat", "repeat", "roll", "split", "stack", "tile", "unbind",
    # indexing
    "embedding", "gather", "index_select", "one_hot", "scatter_add", "take", "tril", "triu",
    # sampling and dropout
    "cauchy", "exponential", "geometric", "gumbel", "laplace", "log_normal", "multinomial", "normal_like", "randperm",
    "uniform_like", "rand_like", "randn_like", "alpha_dropout", "dropout1d", "dropout2d", "dropout3d",
    "feature_alpha_dropout", "gumbel_softmax", "rrelu",
    # scan
    "cummax", "cummin", "cumprod", "cumsum", "cumulative_trapezoid", "linear_recurrence", "logcumsumexp",
    # scatter
    "bincount", "diagonal_scatter", "histc", "index_add", "index_copy", "index_fill", "index_reduce",
    "masked_scatter", "put_along_axis", "scatter", "scatter_reduce", "select_scatter", "slice_scatter", "index_put",
    "embedding_bag", "take_along_axis", "take_along_dim",
    # sort
    "argsort", "bucketize", "kthvalue", "median", "mode", "msort", "nanmedian", "nanquantile", "quantile",
    "searchsorted", "sort", "topk",
    # random
    "bernoulli", "dropout", "next_step", "normal", "randint", "rng_seed", "uniform",
    # foreach
    "foreach", "foreach_sum",
    # other names
    "absolute", "amax", "amin", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "astype",
    "bmm", "cat", "clip", "concatenate", "detach", "divide", "eq", "expand", "ge", "gt", "le", "lt", "mm",
    "multiply", "ne", "negative", "permute", "permute_dims", "power", "repeat_interleave", "subtract", "true_divide",
]
# fmt: on
