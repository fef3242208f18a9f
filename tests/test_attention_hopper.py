"""Attention on Hopper over a grid of heads, lengths, masks, layouts and dtypes, forward and backward.

FlashAttention's criterion: max |ours - ref| <= 2 max |torch - ref| + one unit in the last place of the largest element,
where ref is the formula in float64 and torch its own attention in the dtype, both on the same inputs. Whatever kernel
the family chooses is tested; `kernels_of` says which, and test_which_kernels_run holds it to Hopper's.

Cases with one kernel stand side by side: run it with `-n 30 --dist worksteal`, so that few workers compile the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import flame_triton as ft
from flame_triton import Value
from flame_triton.runtime.program import Program

pytestmark = pytest.mark.gpu
attend: Any = ft.scaled_dot_product_attention

DTYPES = ("bfloat16", "float16")
WIDTHS = (64, 72, 80, 96, 128, 256)
SMALL = ((1, 77), (77, 77), (77, 1), (129, 127), (300, 77), (64, 256), (1025, 1025))
LARGE = ((4429, 4429), (4608, 4608), (4608, 77))
MASKS = ("none", "causal", "bottom-right", "lengths", "bias", "boolean")
LAYOUTS = ("heads", "tokens", "packed")
SHARED = ((8, 2), (6, 1))


@dataclass(frozen=True)
class Case:
    """One call. layout: queries, keys and values as [B, H, L, E], as [B, L, H, E], or of one [B, L, 3, H, E]."""

    width: int
    rows: int
    keys: int
    mask: str
    layout: str
    dtype: str
    heads: int = 2
    kv_heads: int = 2
    batch: int = 2

    def __str__(self) -> str:
        shared = f"-{self.heads}of{self.kv_heads}" if self.heads != self.kv_heads else ""
        return f"{self.dtype}-{self.width}-{self.mask}-{self.rows}x{self.keys}-{self.layout}{shared}"

    @property
    def diagonal(self) -> int | None:
        """j <= i + diagonal takes part; None: no band."""
        return {"causal": 0, "bottom-right": self.keys - self.rows}.get(self.mask)


def _grid() -> list[Case]:
    """Every width, dtype, mask and small size; layouts in turn. Large sizes without a mask and causal; shared heads."""
    found: list[Case] = []
    for dtype in DTYPES:
        for width in WIDTHS:
            for mask in MASKS:
                sizes = SMALL + (LARGE if mask in ("none", "causal") else ())
                for i, (rows, keys) in enumerate(sizes):
                    layout = LAYOUTS[(i + MASKS.index(mask)) % 3]
                    layout = "tokens" if layout == "packed" and rows != keys else layout
                    found.append(Case(width, rows, keys, mask, layout, dtype, batch=1 if rows > 2048 else 2))
                if mask in ("none", "causal"):
                    found += [Case(width, 190, 250, mask, "tokens", dtype, *heads) for heads in SHARED]
    return found


GRID = _grid()


def operands(case: Case) -> list[torch.Tensor]:
    """What is handed in: q, k and v, or all three in one; then the mask, if it is an array; then the cotangent of o."""
    generator = torch.Generator("cuda").manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda").to(getattr(torch, case.dtype))

    query, key = (case.batch, case.rows, case.heads, case.width), (case.batch, case.keys, case.kv_heads, case.width)
    if case.layout == "packed":
        found = [normal(case.batch, case.rows, 3, case.heads, case.width)]
    elif case.layout == "tokens":
        found = [normal(*query), normal(*key), normal(*key)]
    else:
        found = [normal(*(shape[i] for i in (0, 2, 1, 3))) for shape in (query, key, key)]
    if case.mask == "lengths":
        found.append(torch.tensor([case.keys, max(1, case.keys // 3)][: case.batch], dtype=torch.int32, device="cuda"))
    if case.mask == "bias":
        found.append(normal(1, case.heads, case.rows, case.keys))
    if case.mask == "boolean":
        kept = torch.rand(case.rows, case.keys, generator=generator, device="cuda") < 0.7
        kept[:, 0] = True  # no row without a key: torch's kernels do not agree on those
        found.append(kept)
    return [*found, normal(case.batch, case.rows, case.heads, case.width)]


def heads_first(case: Case, given: Sequence[Any], transpose: Any) -> list[Any]:
    """q, k and v as [B, H, L, E], of arrays or of Values."""
    if case.layout == "packed":
        return [transpose(given[0][:, :, i], (0, 2, 1, 3)) for i in range(3)]
    return [transpose(x, (0, 2, 1, 3)) for x in given[:3]] if case.layout == "tokens" else list(given[:3])


def compiled(case: Case, arrays: Sequence[torch.Tensor], deterministic: bool = True) -> Program:
    """o as [B, L, H, E], and the gradients of what was handed in."""
    inputs = [ft.input(tuple(a.shape), str(a.dtype).removeprefix("torch.")) for a in arrays]
    count = 1 if case.layout == "packed" else 3
    extra: Value | None = inputs[count] if len(inputs) > count + 1 else None
    options: dict[str, Any] = {"enable_gqa": case.heads != case.kv_heads}
    if case.diagonal is not None:
        options |= {"is_causal": True, "causal_alignment": "top-left" if case.mask == "causal" else "bottom-right"}
    if extra is not None:
        options["key_lengths" if case.mask == "lengths" else "attn_mask"] = extra
    o = ft.transpose(attend(*heads_first(case, inputs, ft.transpose), **options), (0, 2, 1, 3))
    grads = ft.grad(o, inputs[:count], grad_output=inputs[-1])
    return ft.compile([o, *grads], inputs, device="cuda", deterministic=deterministic)


def kernels_of(program: Program) -> list[str]:
    """The modules of the attention kernels that a program launches: "hopper.attention", "portable.attention", ..."""
    modules = [launch.kernel.module for launch in program.launches]
    return [m.removeprefix("flame_triton.kernels.") for m in modules if ".attention" in m]


def theirs(case: Case, arrays: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """torch's o and gradients in `dtype`, in float64: by its own attention, in double by the formula."""
    count = 1 if case.layout == "packed" else 3
    given = [a.to(dtype).requires_grad_() for a in arrays[:count]]
    q, k, v = heads_first(case, given, torch.permute)
    k, v = (x.repeat_interleave(case.heads // case.kv_heads, 1) for x in (k, v))
    i, j = (torch.arange(n, device="cuda") for n in (case.rows, case.keys))
    extra = arrays[count] if len(arrays) > count + 1 else None
    mask: torch.Tensor | None = None
    if case.diagonal is not None:
        mask = j <= i[:, None] + case.diagonal
    elif case.mask == "lengths":
        assert extra is not None
        mask = (j < extra[:, None])[:, None, None].expand(-1, 1, case.rows, -1)
    elif extra is not None:
        mask = extra if extra.dtype == torch.bool else extra.to(dtype)
    alive: torch.Tensor | bool = True
    if mask is not None and mask.dtype == torch.bool:  # a row that sees no key gives 0
        alive = mask.any(-1, keepdim=True)
        mask = mask | ~alive
    o = _exact(q, k, v, mask) if dtype == torch.float64 else _own(q, k, v, mask)
    o = torch.where(torch.as_tensor(alive, device="cuda"), o, 0).permute(0, 2, 1, 3)
    grads = torch.autograd.grad(o, given, arrays[-1].to(dtype))
    return [x.detach().double() for x in (o, *grads)]


def _own(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)


def _exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("case", GRID, ids=str)
def test_as_exact_as_torch(case: Case) -> None:
    arrays = operands(case)
    program = compiled(case, arrays)
    names = ["o", "dqkv"] if case.layout == "packed" else ["o", "dq", "dk", "dv"]
    exact = theirs(case, arrays, torch.float64)
    other = theirs(case, arrays, getattr(torch, case.dtype))
    for name, got, their, ref in zip(names, program(*arrays), other, exact, strict=True):
        # of a single key the weight is 1: what is left of its gradient are terms of about 1/100 that cancel
        limit = 2 * (their - ref).abs().max() + ft.dtype(case.dtype).eps * ref.abs().max().clamp(min=0.01)
        error = (got.double() - ref).abs().max()
        assert error <= limit, f"{name}: {error:.3g}, at most {limit:.3g}; by {kernels_of(program)}"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", WIDTHS)
def test_which_kernels_run(width: int, layout: str) -> None:
    """Hopper's, on Hopper, both ways; q, k and v are read where the projection left them, and their gradients stored
    as it reads them: rows first, so that heads first as the result takes a copy each."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("the kernels are Hopper's")
    case = Case(width, 1024, 1024, "none", layout, "bfloat16")
    program = compiled(case, operands(case))
    ran = kernels_of(program)
    assert "hopper.attention" in ran, ran
    assert ("hopper.attention_backward" in ran) == (width <= 128), ran
    copies = [launch.label for launch in program.launches if launch.label == "copy"]
    assert not copies or (layout == "heads" and len(copies) == 3)


@pytest.mark.parametrize("mask", ["none", "causal"])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_twenty_runs_give_the_same_bits(width: int, mask: str, dtype: str) -> None:
    case = Case(width, 1111, 1300, mask, "tokens", dtype, 6, 6)
    arrays = operands(case)
    program = compiled(case, arrays)
    first = [t.view(torch.int16).clone() for t in program(*arrays)]
    for _ in range(19):
        assert all(torch.equal(a, t.view(torch.int16)) for a, t in zip(first, program(*arrays), strict=True))


@pytest.mark.parametrize("width", [64, 128])
def test_the_fast_form_is_as_exact(width: int) -> None:
    """deterministic=False: dq is added up in any order."""
    case = Case(width, 1111, 1300, "none", "tokens", "bfloat16")
    arrays = operands(case)
    program = compiled(case, arrays, deterministic=False)
    pairs = zip(theirs(case, arrays, torch.bfloat16), theirs(case, arrays, torch.float64), strict=True)
    for got, (their, ref) in zip(program(*arrays), pairs, strict=True):
        assert (got.double() - ref).abs().max() <= 2 * (their - ref).abs().max() + 2**-8 * ref.abs().max()
