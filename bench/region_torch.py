"""torch's own kernels for the cases of region_cases, eager."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

Tensors = Mapping[str, torch.Tensor]
Run = Callable[[], list[torch.Tensor]]


def opponent(name: str, tensors: Tensors) -> Run:
    """What torch runs for a case: its forward, or its backward through autograd after a forward that is not timed."""
    kind, _, way = name.rpartition(" ")
    function = FUNCTIONS[kind]
    if way == "fwd":

        def forward() -> list[torch.Tensor]:
            with torch.no_grad():
                return _listed(function(tensors))

        return forward
    wrt = {n: tensors[n].detach().clone().requires_grad_() for n in WRT[kind]}
    results = _listed(function({**tensors, **wrt}))
    seeds = [tensors[f"g{i}"] for i in range(len(results))]
    return lambda: list(torch.autograd.grad(results, list(wrt.values()), seeds, retain_graph=True))


def save(name: str, t: Mapping[str, torch.Tensor]) -> None:
    """Fill what a backward reads of its forward: statistics of rows, or the result."""
    if "saved0" not in t:
        return
    kind = name.rpartition(" ")[0]
    if kind == "cross_entropy":
        t["saved0"].copy_(torch.logsumexp(t["logits"].float(), -1).reshape(t["saved0"].shape))
        return
    if kind == "softmax":
        t["saved0"].copy_(F.softmax(t["x"], -1))
        return
    if kind == "qk-norm + rope":
        for i in range(2):
            t[f"saved{i}"].copy_(_rstd(t["qkv"][:, :, i], 1e-6))
        return
    x = t["x"].float()
    if kind == "rms_norm":
        t["saved0"].copy_(_rstd(x, torch.finfo(torch.bfloat16).eps))
        return
    mean = x.mean(-1, keepdim=True)
    t["saved0"].copy_(mean)
    t["saved1"].copy_(_rstd(x - mean, 1e-6 if kind == "LN + modulate" else 1e-5))


def _rstd(x: torch.Tensor, eps: float) -> torch.Tensor:
    return (x.float().square().mean(-1, keepdim=True) + eps).rsqrt()


def _listed(results: torch.Tensor | tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return list(results) if isinstance(results, tuple) else [results]


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2).to(x.dtype)


def _qk_norm(t: Tensors) -> tuple[torch.Tensor, ...]:
    q, k, v = t["qkv"].unbind(2)
    cos, sin = t["cos"][:, None], t["sin"][:, None]
    q, k = (_turned(F.rms_norm(x, x.shape[-1:], w, 1e-6), cos, sin) for x, w in ((q, t["wq"]), (k, t["wk"])))
    return (q, k, v) if "g2" in t else (q, k)


def _modulate(t: Tensors) -> torch.Tensor:
    y = F.layer_norm(t["x"], t["x"].shape[-1:], eps=1e-6)
    return y * (1 + t["scale"][:, None]) + t["shift"][:, None]


FUNCTIONS: dict[str, Callable[[Tensors], torch.Tensor | tuple[torch.Tensor, ...]]] = {
    "layer_norm": lambda t: F.layer_norm(t["x"], t["x"].shape[-1:], t["w"], t["b"]),
    "rms_norm": lambda t: F.rms_norm(t["x"], t["x"].shape[-1:], t["w"]),
    "LN + modulate": _modulate,
    "residual + gate": lambda t: t["x"] + t["gate"] * t["y"],
    "softmax": lambda t: F.softmax(t["x"], -1),
    "cross_entropy": lambda t: F.cross_entropy(t["logits"], t["target"]),
    "qk-norm + rope": _qk_norm,
    "gelu": lambda t: F.gelu(t["x"], approximate="tanh"),
}
WRT = {
    "layer_norm": ("x", "w", "b"), "rms_norm": ("x", "w"), "LN + modulate": ("x", "shift", "scale"),
    "residual + gate": ("y", "gate"), "softmax": ("x",), "cross_entropy": ("logits",), "gelu": ("x",),
    "qk-norm + rope": ("qkv", "wq", "wk"),
}  # fmt: skip
