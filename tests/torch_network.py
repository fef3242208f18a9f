"""What torch calls our norms, activations, positions and losses, for test_ops_reference.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch_core import named


def group_norm(x: torch.Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> torch.Tensor:
    return F.group_norm(x, groups, weight, bias, eps)


def with_stats(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """torch changes the running statistics in place."""

    def call(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        mean, var = mean.clone(), var.clone()
        weight, bias = [*args, None, None][:2]
        y = function(x, mean, var, weight, bias, True, **kwargs)
        return y, mean, var

    return call


def batch_norm(x: torch.Tensor, mean: Any, var: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    return F.batch_norm(
        x, None if mean is None else mean.clone(), None if var is None else var.clone(), *args, **kwargs
    )


def normalize(x: torch.Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> torch.Tensor:
    return x / torch.linalg.vector_norm(x, p, dim, keepdim=True).clamp_min(eps)


def weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int | None = 0) -> torch.Tensor:
    return v * g / v.norm() if dim is None else torch._weight_norm(v, g, dim)


def spectral_norm(
    weight: torch.Tensor, u: torch.Tensor, v: torch.Tensor, n_power_iterations: int = 1, dim: int = 0
) -> Any:
    matrix = weight.movedim(dim, 0).flatten(1)
    for _ in range(n_power_iterations):
        u = F.normalize(matrix @ v, dim=0)
        v = F.normalize(matrix.T @ u, dim=0)
    return weight / (u @ matrix @ v), u, v


def standardize_weight(weight: torch.Tensor, gain: Any = None, dim: int = 0, eps: float = 1e-5) -> torch.Tensor:
    found = F.batch_norm(weight.flatten(1)[None], None, None, gain, None, True, 0.0, eps)
    return found[0].reshape(weight.shape)


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    shift, scale = (
        v.reshape(v.shape[0], *(1,) * (x.ndim - 2), v.shape[1]) if v.ndim == 2 else v for v in (shift, scale)
    )
    return x * (1 + scale) + shift


def ada_layer_norm(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    return modulate(F.layer_norm(x, x.shape[-1:], eps=eps), shift, scale)


def gated(activation: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def call(x: torch.Tensor, axis: int = -1, **kwargs: Any) -> torch.Tensor:
        hidden, gate = x.chunk(2, axis)
        return hidden * activation(gate, **kwargs)

    return call


def apply_rotary_emb(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool = True) -> torch.Tensor:
    """As a product of complex numbers."""
    turn = torch.complex(cos, sin)
    if interleaved:
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)
    a, b = x.chunk(2, -1)
    y = torch.complex(a, b) * turn
    return torch.cat([y.real, y.imag], -1)


def rope_tables(positions: torch.Tensor, dim: Any, theta: float = 1e4) -> Any:
    dims = [dim] if isinstance(dim, int) else list(dim)
    columns = positions.reshape(len(positions), len(dims)).double()
    angles = torch.cat(
        [torch.outer(columns[:, i], 1 / theta ** (torch.arange(0, d, 2).double() / d)) for i, d in enumerate(dims)], 1
    )
    return angles.cos(), angles.sin()


def timestep_embedding(
    t: torch.Tensor,
    dim: int,
    flip_sin_to_cos: bool = False,
    downscale_freq_shift: float = 1.0,
    scale: float = 1.0,
    max_period: float = 1e4,
) -> torch.Tensor:
    half = dim // 2
    exponent = -math.log(max_period) * torch.arange(half).double() / (half - downscale_freq_shift)
    angles = scale * t[:, None].double() * exponent.exp()
    waves = [angles.sin(), angles.cos()]
    return F.pad(torch.cat(waves[::-1] if flip_sin_to_cos else waves, 1), (0, dim % 2))


def linear_cross_entropy(
    x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, bias: Any = None, chunk: Any = None, **kwargs: Any
) -> torch.Tensor:
    logits = F.linear(x, weight, bias)
    found = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1), **kwargs)
    return found.reshape(target.shape) if kwargs.get("reduction") == "none" else found


TORCH: dict[str, Callable[..., Any]] = {
    **named("softsign tanhshrink selu celu hardtanh relu6 hardsigmoid softshrink hardshrink threshold", F),
    **named("kl_div binary_cross_entropy poisson_nll_loss gaussian_nll_loss hinge_embedding_loss", F),
    **named("margin_ranking_loss soft_margin_loss cosine_embedding_loss multilabel_soft_margin_loss", F),
    **named("multi_margin_loss multilabel_margin_loss triplet_margin_loss triplet_margin_with_distance_loss", F),
    "ada_layer_norm": ada_layer_norm,
    "apply_rotary_emb": apply_rotary_emb,
    "batch_norm": batch_norm,
    "batch_norm_with_stats": with_stats(F.batch_norm),
    "geglu": gated(F.gelu),
    "group_norm": group_norm,
    "instance_norm": F.instance_norm,
    "instance_norm_with_stats": with_stats(F.instance_norm),
    "linear_cross_entropy": linear_cross_entropy,
    "modulate": modulate,
    "normalize": normalize,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "reglu": gated(F.relu),
    "rope_tables": rope_tables,
    "spectral_norm": spectral_norm,
    "standardize_weight": standardize_weight,
    "swiglu": gated(F.silu),
    "timestep_embedding": timestep_embedding,
    "weight_norm": weight_norm,
}

WITHOUT_TWIN: dict[str, str] = {}
