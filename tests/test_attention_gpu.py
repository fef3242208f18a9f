"""Attention on the GPU, in 16 bits, against torch by FlashAttention's own criterion; one file for compute-sanitizer.

max |ours - ref| <= 2 max |torch - ref| + one unit in the last place of the largest element, ref in float64 on the same
inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_attention import Case, qkv
from torch_attention import attention as formula

import flame_triton as ft

pytestmark = pytest.mark.gpu
attend: Any = ft.scaled_dot_product_attention

DTYPES = ["bfloat16", "float16"]
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "window": {"window": (40, 7), "causal_alignment": "bottom-right"},
}


def references(case: Case, options: dict[str, Any], dtype: torch.dtype) -> list[np.ndarray]:
    """torch's result and gradients of q, k, v in `dtype`, as float64."""
    q, k, v, seed = (torch.from_numpy(a.astype(np.float64)).cuda().to(dtype) for a in case.arrays)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    groups = q.shape[1] // k.shape[1]
    if "window" in options:
        o = formula(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), **options)
    else:
        o = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=groups > 1, **options)
    gradients = torch.autograd.grad(o, leaves, seed)
    return [x.detach().double().cpu().numpy() for x in (o, *gradients)]


def check(case: Case, options: dict[str, Any]) -> None:
    """Result and gradients of q, k, v are as close to float64 as torch's are."""
    kind = getattr(torch, case.dtype)
    want, theirs = references(case, options, torch.float64), references(case, options, kind)
    for name, a, t, r in zip("o dq dk dv".split(), case.run(), theirs, want, strict=True):
        # of a single key the weight is 1: what is left of its gradient are terms of about 1/100 that cancel
        limit = 2 * np.abs(t - r).max() + ft.dtype(case.dtype).eps * max(np.abs(r).max(), 0.01)
        error = np.abs(a.astype(np.float64) - r).max()
        assert error <= limit, f"{name}: {error:.3g}, at most {limit:.3g}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (1, 77), (77, 77), (128, 128), (129, 127), (300, 77), (1025, 1025)])
@pytest.mark.parametrize("width", [64, 128])
def test_tails(rows: int, keys: int, width: int, mode: str, dtype: str) -> None:
    options = MODES[mode]
    check(Case(lambda q, k, v: attend(q, k, v, **options), *qkv(rows, keys, width), dtype=dtype), options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [8, 16, 40, 72, 80, 96, 160, 256])
@pytest.mark.parametrize("mode", ["plain", "causal"])
def test_head_sizes(width: int, mode: str, dtype: str) -> None:
    options = MODES[mode]
    check(Case(lambda q, k, v: attend(q, k, v, **options), *qkv(200, 205, width), dtype=dtype), options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 2), (6, 1)])
@pytest.mark.parametrize("mode", ["plain", "causal"])
def test_shared_heads(heads: int, kv_heads: int, mode: str, dtype: str) -> None:
    arrays = qkv(190, 190, 64, heads=heads, kv_heads=kv_heads)
    case = Case(lambda q, k, v: attend(q, k, v, enable_gqa=True, **MODES[mode]), *arrays, dtype=dtype)
    check(case, MODES[mode])


@pytest.mark.parametrize("dtype", DTYPES)
def test_long(dtype: str) -> None:
    """SD3's length, which no block divides."""
    check(Case(lambda q, k, v: attend(q, k, v), *qkv(4429, 4429, 64, batch=1, heads=2), dtype=dtype), {})


@pytest.mark.parametrize("dtype", [*DTYPES, "float32", "float64"])
def test_masks_bias_lengths_and_dropout(dtype: str) -> None:
    """Everything at once, against our float64 reference."""
    seed = ft.rng_seed(3)
    bias = np.random.default_rng(5).standard_normal((4, 130, 150))
    arrays = (*qkv(130, 150, 64, 40, heads=4, kv_heads=2), bias, np.array([150, 77]))

    def call(q: Any, k: Any, v: Any, bias: Any, lengths: Any) -> Any:
        options = {"enable_gqa": True, "window": (60, 9), "causal_alignment": "bottom-right", "return_lse": True}
        return attend(q, k, v, bias, 0.3, key_lengths=lengths, seed=seed, **options)

    Case(call, *arrays, dtype=dtype).check()


def test_results_repeat_to_the_bit() -> None:
    arrays = (*qkv(333, 333, 64, batch=3, heads=8), np.random.default_rng(5).standard_normal((8, 333, 333)))
    case = Case(lambda q, k, v, b: attend(q, k, v, b, is_causal=False), *arrays, dtype="bfloat16")
    program = ft.compile(case.results, case.inputs, device="cuda")
    feeds = [a.astype(v.dtype.numpy) for v, a in zip(case.inputs, case.arrays, strict=True)]
    first = [t.cpu().view(torch.int16 if t.element_size() == 2 else torch.int32) for t in program(*feeds)]
    for _ in range(19):
        again = [t.cpu().view(torch.int16 if t.element_size() == 2 else torch.int32) for t in program(*feeds)]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
