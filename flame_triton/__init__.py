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
from .graph.fused import fused
from .ir.node import Value
from .ops.activation import (
    celu,
    elu,
    geglu,
    gelu,
    glu,
    hardswish,
    leaky_relu,
    logsigmoid,
    mish,
    prelu,
    quick_gelu,
    reglu,
    relu,
    selu,
    silu,
    softplus,
    softsign,
    swiglu,
    tanhshrink,
)
from .ops.adaptive import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
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
    rint,
    round,
    sign,
    square,
    sub,
    trunc,
)
from .ops.attention import (
    scaled_dot_product_attention,
)
from .ops.bitwise import (
    bitwise_and,
    bitwise_left_shift,
    bitwise_not,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    gcd,
    lcm,
)
from .ops.channel_norm import (
    batch_norm,
    batch_norm_with_stats,
    group_norm,
    instance_norm,
    instance_norm_with_stats,
)
from .ops.conv import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from .ops.custom import (
    custom_op,
)
from .ops.distance import (
    cdist,
    cosine_similarity,
    dist,
    pairwise_distance,
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
from .ops.einsum import (
    einsum,
    tensordot,
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
from .ops.grid import (
    affine_grid,
    grid_sample,
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
from .ops.likelihood_loss import (
    binary_cross_entropy,
    gaussian_nll_loss,
    kl_div,
    poisson_nll_loss,
)
from .ops.linear_algebra import (
    addbmm,
    addmm,
    addmv,
    addr,
    baddbmm,
    bilinear,
    chain_matmul,
    cross,
    dot,
    inner,
    kron,
    matrix_norm,
    matrix_power,
    multi_dot,
    mv,
    outer,
    vecdot,
    vector_norm,
)
from .ops.linear_loss import (
    linear_cross_entropy,
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
from .ops.margin_loss import (
    cosine_embedding_loss,
    hinge_embedding_loss,
    margin_ranking_loss,
    multi_margin_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
    soft_margin_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from .ops.matmul import (
    bmm,
    linear,
    matmul,
    mm,
)
from .ops.matrix import (
    block_diag,
    cartesian_prod,
    diag,
    diag_embed,
    diagflat,
    diagonal,
    eye,
    indices,
    matrix_transpose,
    meshgrid,
    trace,
    tri,
    tril_indices,
    triu_indices,
    vander,
)
from .ops.norm import (
    ada_layer_norm,
    layer_norm,
    modulate,
    rms_norm,
)
from .ops.numeric import (
    addcdiv,
    addcmul,
    allclose,
    copysign,
    deg2rad,
    entr,
    float_power,
    fmax,
    fmin,
    fmod,
    frac,
    heaviside,
    hypot,
    isclose,
    isneginf,
    isposinf,
    isreal,
    ldexp,
    lerp,
    logaddexp,
    logaddexp2,
    logit,
    nextafter,
    rad2deg,
    rsub,
    signbit,
    sinc,
    xlog1py,
    xlogy,
)
from .ops.padding import (
    pad,
)
from .ops.parts import (
    column_stack,
    dsplit,
    dstack,
    hsplit,
    hstack,
    split_with_sizes,
    tensor_split,
    vsplit,
    vstack,
)
from .ops.piecewise import (
    hardshrink,
    hardsigmoid,
    hardtanh,
    relu6,
    softshrink,
    threshold,
)
from .ops.pixel import (
    channel_shuffle,
    patchify,
    pixel_shuffle,
    pixel_unshuffle,
    unpatchify,
)
from .ops.pool import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    local_response_norm,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from .ops.position import (
    apply_rotary_emb,
    rope_tables,
    timestep_embedding,
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
from .ops.ranges import (
    geomspace,
    linspace,
    logspace,
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
from .ops.resize import (
    interpolate,
    upsample,
    upsample_bilinear,
    upsample_nearest,
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
from .ops.shape import (
    atleast_1d,
    atleast_2d,
    atleast_3d,
    broadcast_tensors,
    clone,
    expand_as,
    fliplr,
    flipud,
    moveaxis,
    positive,
    ravel,
    reshape_as,
    rot90,
    select,
    t,
    unflatten,
    unsqueeze,
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
from .ops.special_functions import (
    digamma,
    erfcx,
    erfinv,
    i0,
    i0e,
    i1,
    i1e,
    lgamma,
    log_ndtr,
    mvlgamma,
    ndtr,
    ndtri,
    polygamma,
)
from .ops.statistics import (
    aminmax,
    average,
    corrcoef,
    count_nonzero,
    cov,
    diff,
    gradient,
    nanmax,
    nanmean,
    nanmin,
    nansum,
    ptp,
    std_mean,
    trapezoid,
    var_mean,
)
from .ops.view import (
    broadcast_to,
    expand_dims,
    flatten,
    flip,
    narrow,
    reshape,
    slice,
    squeeze,
    swapaxes,
    transpose,
)
from .ops.weight_norm import (
    normalize,
    spectral_norm,
    standardize_weight,
    weight_norm,
)
from .ops.window import (
    fold,
    sliding_window_view,
    unfold,
    unfold_axis,
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
cat = concat
clip = clamp
concatenate = concat
detach = stop_gradient
divide = div
eq = equal
expand = broadcast_to
ge = greater_equal
gt = greater
le = less_equal
lt = less
multiply = mul
ne = not_equal
negative = neg
permute = transpose
permute_dims = transpose
power = pow
repeat_interleave = repeat
subtract = sub
true_divide = div
# Of the mathematics in matrix products, special functions, statistics and views.
adjoint = matrix_transpose
array_split = tensor_split
broadcast_arrays = broadcast_tensors
contiguous = clone
copy = clone
ger = outer
movedim = moveaxis
row_stack = vstack
swapdims = swapaxes
vdot = dot
view_as = reshape_as
bitwise_invert = bitwise_not
expit = sigmoid
fix = trunc
sgn = sign
trapz = trapezoid
gammaln = lgamma
psi = digamma
take_along_dim = take_along_axis
swish = silu
rand_like = uniform_like
randn_like = normal_like

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
    # random
    "bernoulli", "dropout", "next_step", "normal", "randint", "rng_seed", "uniform",
    # foreach
    "foreach", "foreach_sum",
    # other names
    "absolute", "amax", "amin", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "astype",
    "cat", "clip", "concatenate", "detach", "divide", "eq", "expand", "ge", "gt", "le", "lt",
    "multiply", "ne", "negative", "permute", "permute_dims", "power", "repeat_interleave", "subtract", "true_divide",
    # more of matmul
    "bmm", "mm",
    # einsum
    "einsum", "tensordot",
    # matrix
    "block_diag", "cartesian_prod", "diag", "diag_embed", "diagflat", "diagonal", "eye", "indices",
    "matrix_transpose", "meshgrid", "trace", "tri", "tril_indices", "triu_indices", "vander",
    # linear algebra
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bilinear", "chain_matmul", "cross", "dot", "inner", "kron",
    "matrix_norm", "matrix_power", "multi_dot", "mv", "outer", "vecdot", "vector_norm",
    # distance
    "cdist", "cosine_similarity", "dist", "pairwise_distance",
    # shape
    "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_tensors", "clone", "expand_as", "fliplr", "flipud",
    "moveaxis", "positive", "ravel", "reshape_as", "rot90", "select", "t", "unflatten", "unsqueeze",
    # parts
    "column_stack", "dsplit", "dstack", "hsplit", "hstack", "split_with_sizes", "tensor_split", "vsplit", "vstack",
    # ranges
    "geomspace", "linspace", "logspace",
    # other names of mathematics
    "adjoint", "array_split", "broadcast_arrays", "contiguous", "copy", "ger", "movedim", "row_stack", "swapdims",
    "vdot", "view_as",
    "custom_op", "fused",
    "rint", "addcdiv", "addcmul", "allclose", "copysign", "deg2rad", "entr", "float_power", "fmax", "fmin", "fmod",
    "frac", "heaviside", "hypot", "isclose", "isneginf", "isposinf", "isreal", "ldexp", "lerp", "logaddexp",
    "logaddexp2", "logit", "nextafter", "rad2deg", "rsub", "signbit", "sinc", "xlog1py", "xlogy", "bitwise_and",
    "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "gcd", "lcm", "aminmax",
    "average", "corrcoef", "count_nonzero", "cov", "diff", "gradient", "nanmax", "nanmean", "nanmin", "nansum", "ptp",
    "std_mean", "trapezoid", "var_mean", "bitwise_invert", "expit", "fix", "sgn", "trapz",
    "cummax", "cummin", "cumprod", "cumsum", "cumulative_trapezoid", "linear_recurrence", "logcumsumexp", "argsort",
    "bucketize", "kthvalue", "median", "mode", "msort", "nanmedian", "nanquantile", "quantile", "searchsorted",
    "sort", "topk",
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "digamma", "erfcx", "erfinv", "i0", "i0e", "i1", "i1e", "lgamma", "log_ndtr", "mvlgamma", "ndtr", "ndtri",
    "polygamma", "gammaln", "psi",
    "bincount", "diagonal_scatter", "histc", "index_add", "index_copy", "index_fill", "index_reduce",
    "masked_scatter", "put_along_axis", "scatter", "scatter_reduce", "select_scatter", "slice_scatter", "index_put",
    "embedding_bag", "take_along_axis", "take_along_dim",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "fold", "interpolate", "local_response_norm",
    "lp_pool1d", "lp_pool2d", "lp_pool3d", "max_pool1d", "max_pool2d", "max_pool3d", "max_unpool1d", "max_unpool2d",
    "max_unpool3d", "sliding_window_view", "unfold", "unfold_axis", "upsample", "upsample_bilinear",
    "upsample_nearest", "affine_grid", "channel_shuffle", "grid_sample", "patchify", "pixel_shuffle",
    "pixel_unshuffle", "unpatchify",
    "batch_norm", "batch_norm_with_stats", "group_norm", "instance_norm", "instance_norm_with_stats",
    "ada_layer_norm", "apply_rotary_emb", "binary_cross_entropy", "celu", "cosine_embedding_loss",
    "gaussian_nll_loss", "geglu", "hardshrink", "hardsigmoid", "hardtanh", "hinge_embedding_loss", "kl_div",
    "linear_cross_entropy", "margin_ranking_loss", "modulate", "multi_margin_loss", "multilabel_margin_loss",
    "multilabel_soft_margin_loss", "normalize", "poisson_nll_loss", "quick_gelu", "reglu", "relu6", "rope_tables",
    "selu", "soft_margin_loss", "softshrink", "softsign", "spectral_norm", "standardize_weight", "swiglu", "swish",
    "tanhshrink", "threshold", "timestep_embedding", "triplet_margin_loss", "triplet_margin_with_distance_loss",
    "weight_norm",
    "cauchy", "exponential", "geometric", "gumbel", "laplace", "log_normal", "multinomial", "normal_like", "randperm",
    "uniform_like", "rand_like", "randn_like", "alpha_dropout", "dropout1d", "dropout2d", "dropout3d",
    "feature_alpha_dropout", "gumbel_softmax", "rrelu",
]
# fmt: on
