"""Activations, norms, losses, convolutions, pooling, resampling and attention."""

from __future__ import annotations

from typing import Any

import torch

from ..adapter import Adapter, OutOfScope, lacks, via


def activation(f: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
    return f(*args, **kwargs)


def glu(f: Any, x: Any, dim: int = -1) -> Any:
    return f(x, axis=dim)


def dropped(f: Any, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """A draw can be compared where nothing is dropped."""
    if training and p:
        raise OutOfScope("a draw")
    if "feature" in f.__name__ and x.ndim < 2:
        raise OutOfScope("channels are [N, C, ...]")
    return f(x, p=p, training=training)


# ---- losses ----------------------------------------------------------------------------------------------------


def reduced(size_average: Any, reduce: Any, reduction: str) -> str:
    """torch's older pair of flags."""
    if size_average is None and reduce is None:
        return reduction
    return "none" if reduce is False else "sum" if size_average is False else "mean"


def loss(
    f: Any, *args: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", **kwargs: Any
) -> Any:
    return f(*args, reduction=reduced(size_average, reduce, reduction), **kwargs)


def linear_cross_entropy(
    f: Any, x: Any, linear_weight: Any, target: Any, *, linear_bias: Any = None, weight: Any = None,
    options: Any = None, **kwargs: Any
) -> Any:  # fmt: skip
    """torch's `weight` is of the classes; how it cuts the work in parts is its own affair."""
    if linear_weight.ndim != 2 or weight is not None or target.dtype.is_float:
        raise OutOfScope("classes by number and without weights, [classes, features]")
    return f(x, linear_weight, target, linear_bias, **kwargs)


def hardtanh(f: Any, x: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Any:
    return f(x, *args, **kwargs)


def of_classes(f: Any, x: Any, target: Any, **kwargs: Any) -> Any:
    if not x.ndim or (x.ndim == 1 and target.shape == (1,)):
        raise OutOfScope("a batch is [N, C], one sample [C]")
    return loss(f, x, target, **kwargs)


def triplet(f: Any, anchor: Any, positive: Any, negative: Any, *, distance_function: Any = None, **kwargs: Any) -> Any:
    """torch's samples measure with functions of torch's tensors; its default is a module of its own."""
    if distance_function is not None and not isinstance(distance_function, torch.nn.PairwiseDistance):
        raise OutOfScope("a function of torch's tensors")
    return loss(f, anchor, positive, negative, **kwargs)


def weighted(
    f: Any, x: Any, y: Any, weight: Any = None, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    pos_weight: Any = None,
) -> Any:  # fmt: skip
    extra = {} if pos_weight is None else {"pos_weight": pos_weight}
    return f(x, y, weight=weight, reduction=reduced(size_average, reduce, reduction), **extra)


def classes(
    f: Any, x: Any, target: Any, weight: Any = None, size_average: Any = None, ignore_index: int = -100,
    reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Any:  # fmt: skip
    extra = {"label_smoothing": label_smoothing} if label_smoothing else {}
    chosen = reduced(size_average, reduce, reduction)
    return f(x, target, weight=weight, ignore_index=ignore_index, reduction=chosen, **extra)


def divergence(
    f: Any, x: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    log_target: bool = False,
) -> Any:  # fmt: skip
    return f(x, target, reduction=reduced(size_average, reduce, reduction), log_target=log_target)


def pairwise_loss(
    f: Any, x: Any, y: Any, target: Any, margin: float = 0.0, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Any:  # fmt: skip
    return f(x, y, target, margin=margin, reduction=reduced(size_average, reduce, reduction))


# ---- norms -----------------------------------------------------------------------------------------------------


def layer_norm(f: Any, x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    return f(x, shape, weight, bias, eps=eps)


def rms_norm(f: Any, x: Any, shape: Any, weight: Any = None, eps: Any = None) -> Any:
    return f(x, shape, weight, eps=eps)


def group_norm(f: Any, x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    return f(x, groups, weight, bias, eps=eps)


def check_momentum(momentum: float) -> None:
    if not 0 <= momentum <= 1:
        raise OutOfScope("a momentum outside of [0, 1]")


def instance_norm(
    f: Any, x: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    check_momentum(momentum)
    return f(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def batch_norm(
    f: Any, x: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    check_momentum(momentum)
    if x.ndim < 2:
        raise OutOfScope("a batch is [N, C, ...]")
    return f(x, running_mean, running_var, weight, bias, training, momentum, eps)


def normalized(f: Any, x: Any, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Any:
    return f(x, p, dim, eps)


def similarity(f: Any, x: Any, y: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    return f(x, y, dim, eps)


def local_response(f: Any, x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Any:
    return f(x, size, alpha=alpha, beta=beta, k=k)


# ---- convolutions and windows ----------------------------------------------------------------------------------


def convolution(
    f: Any, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    return f(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)


def transposed(
    f: Any, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    return f(
        x, weight, bias, stride=stride, padding=padding, output_padding=output_padding, groups=groups,
        dilation=dilation,
    )  # fmt: skip


def max_pooled(
    f: Any, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:  # fmt: skip
    stride = None if stride in ((), []) else stride
    return f(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def mean_pooled(
    f: Any, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: Any = None,
) -> Any:  # fmt: skip
    extra = {} if divisor_override is None else {"divisor_override": divisor_override}
    stride = None if stride in ((), []) else stride
    return f(
        x, kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode, count_include_pad=count_include_pad,
        **extra,
    )  # fmt: skip


def adaptive(f: Any, x: Any, output_size: Any, return_indices: bool = False) -> Any:
    return f(x, output_size, return_indices) if return_indices else f(x, output_size)


def unpooled(f: Any, x: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0,
             output_size: Any = None) -> Any:  # fmt: skip
    return f(x, indices, kernel_size, stride, padding, output_size)


def resized(
    f: Any, x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: Any = None,
    recompute_scale_factor: Any = None, antialias: bool = False,
) -> Any:  # fmt: skip
    lacks(recompute_scale_factor=recompute_scale_factor, antialias=antialias)
    extra = {} if align_corners is None else {"align_corners": align_corners}
    return f(x, size=size, scale_factor=scale_factor, mode=mode, **extra)


def upsampled(mode: str, align: Any) -> Any:
    def call(f: Any, x: Any, size: Any = None, scale_factor: Any = None) -> Any:
        return resized(f, x, size, scale_factor, mode, align)

    return call


def unfolded(f: Any, x: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    return f(x, kernel_size, dilation=dilation, padding=padding, stride=stride)


def shuffled(f: Any, x: Any, *factor: int, **named: int) -> Any:
    """The one number has a name of its own in each of them."""
    return f(x, *factor, *named.values())


def grid_sampled(
    f: Any, x: Any, grid: Any, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: Any = None
) -> Any:
    return f(x, grid, mode=mode, padding_mode=padding_mode, align_corners=bool(align_corners))


def attention(
    f: Any, query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: Any = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    if dropout_p:
        raise OutOfScope("a draw")
    return f(query, key, value, attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa)


def in_functional(names: str, call: Any, needs: str = "") -> dict[str, Adapter]:
    return {f"nn.functional.{name}": via(needs or name, call) for name in names.split()}


ADAPTERS: dict[str, Adapter] = {
    **in_functional("relu relu6 leaky_relu elu selu celu silu mish gelu hardswish hardsigmoid", activation),
    **in_functional("softplus softsign softshrink hardshrink tanhshrink threshold logsigmoid prelu", activation),
    **in_functional("glu", glu),
    **in_functional("hardtanh", hardtanh),
    **in_functional("gaussian_nll_loss", loss),
    **in_functional("dropout dropout2d dropout3d alpha_dropout", dropped),
    **in_functional("feature_alpha_dropout/without_train", dropped, "feature_alpha_dropout"),
    **in_functional("linear_cross_entropy linear_cross_entropy/chunked", linear_cross_entropy, "linear_cross_entropy"),
    **in_functional("mse_loss l1_loss smooth_l1_loss huber_loss soft_margin_loss hinge_embedding_loss", loss),
    **in_functional("poisson_nll_loss", loss),
    **in_functional("multilabel_margin_loss multi_margin_loss", of_classes),
    **in_functional("multilabel_soft_margin_loss triplet_margin_loss", loss),
    **in_functional("triplet_margin_with_distance_loss", triplet),
    **in_functional("binary_cross_entropy binary_cross_entropy_with_logits", weighted),
    **in_functional("cross_entropy nll_loss", classes),
    **in_functional("kl_div", divergence),
    **in_functional("margin_ranking_loss cosine_embedding_loss", pairwise_loss),
    **in_functional("layer_norm", layer_norm),
    **in_functional("rms_norm", rms_norm),
    **in_functional("group_norm", group_norm),
    **in_functional("instance_norm", instance_norm),
    **in_functional("batch_norm", batch_norm),
    **in_functional("normalize", normalized),
    **in_functional("cosine_similarity", similarity),
    **in_functional("pairwise_distance", activation),
    **in_functional("local_response_norm", local_response),
    **in_functional("conv1d conv2d conv3d", convolution),
    **in_functional("conv_transpose1d conv_transpose2d conv_transpose3d", transposed),
    **in_functional("max_pool1d max_pool2d max_pool3d", max_pooled),
    **in_functional("avg_pool1d avg_pool2d avg_pool3d", mean_pooled),
    **in_functional("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d", adaptive),
    **in_functional("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", adaptive),
    **in_functional("max_unpool1d max_unpool2d max_unpool3d", unpooled),
    **{f"nn.functional.max_unpool{n}d/grad": via(f"max_unpool{n}d", unpooled) for n in (1, 2, 3)},
    **{
        f"nn.functional.interpolate/{mode}": via("interpolate", resized)
        for mode in "nearest nearest-exact linear bilinear bicubic trilinear area".split()
    },
    "nn.functional.upsample_bilinear": via("interpolate", upsampled("bilinear", True)),
    "nn.functional.upsample_nearest": via("interpolate", upsampled("nearest", None)),
    **in_functional("unfold", unfolded),
    **in_functional("pixel_shuffle pixel_unshuffle channel_shuffle", shuffled),
    **in_functional("grid_sample", grid_sampled),
    **in_functional("scaled_dot_product_attention", attention),
}
