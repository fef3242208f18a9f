"""The Hopper attention: when it is chosen, its configurations, and (on the GPU) the numbers of every one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

import flame_triton as ft
from flame_triton.graph.plan import Descriptor, Launch, Target
from flame_triton.ir.graph import Graph
from flame_triton.ir.node import Value
from flame_triton.kernels.hopper import attention_configs as configs
from flame_triton.kernels.hopper.attention_configs import HopperBackward, HopperForward
from flame_triton.kernels.portable.attention_configs import Problem
from flame_triton.runtime import lower as lower_module
from flame_triton.runtime.choices import Config, Decision
from flame_triton.runtime.choices import Problem as Choice
from flame_triton.runtime.lower import lower

TARGET = Target(arch=90)


@dataclass(frozen=True)
class Call:
    """One call: batch, heads, queries, keys, elements; kv_heads, layout ("heads", "packed"), options."""

    batch: int
    heads: int
    L: int
    S: int
    E: int
    kv_heads: int = 0
    dtype: str = "bfloat16"
    packed: bool = False
    causal: bool = False
    lengths: bool = False
    dropout: float = 0.0
    scale: float | None = None

    def leaves(self) -> list[Value]:
        """q, k, v (or all in one), the cotangent of the result, lengths."""
        kv = (self.batch, self.kv_heads or self.heads, self.S, self.E)
        shapes: list[tuple[int, ...]] = [(self.batch, self.heads, self.L, self.E), kv, kv]
        if self.packed:
            shapes = [(self.batch, self.L, 3, self.heads, self.E)]
        shapes.append((self.batch, self.heads, self.L, self.E))
        made = [ft.input(s, self.dtype, name=f"x{i}") for i, s in enumerate(shapes)]
        return [*made, ft.input((self.batch,), "int32", name="lengths")] if self.lengths else made

    def results(self, leaves: Sequence[Value]) -> list[Value]:
        """The result and the gradients."""
        *operands, cotangent = leaves[:-1] if self.lengths else leaves
        q, k, v = operands if not self.packed else (ft.transpose(operands[0][:, :, i], (0, 2, 1, 3)) for i in range(3))
        seed = {"dropout_p": self.dropout, "seed": ft.rng_seed(0)} if self.dropout else {}
        o: Any = ft.scaled_dot_product_attention(
            q, k, v, is_causal=self.causal, scale=self.scale, enable_gqa=bool(self.kv_heads),
            key_lengths=leaves[-1] if self.lengths else None, **seed,
        )  # fmt: skip
        return [o, *ft.grad(o, operands, grad_output=cotangent)]

    def launches(self, target: Target = TARGET) -> list[Launch]:
        """Of attention alone."""
        leaves = self.leaves()
        made = lower(Graph(tuple(leaves), tuple(self.results(leaves))), {}, target).launches
        return [launch for launch in made if "attention" in launch.label]


PLAIN = Call(2, 4, 512, 512, 64)


# ---- when it is chosen -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        PLAIN,
        Call(2, 4, 512, 77, 64),
        Call(2, 4, 4429, 4429, 128, dtype="float16"),
        Call(2, 4, 300, 300, 72),
        Call(2, 4, 300, 300, 96, packed=True),
        Call(2, 4, 300, 300, 64, kv_heads=2, causal=True),
        Call(2, 4, 300, 300, 64, lengths=True),
    ],
    ids=str,
)
def test_calls_of_16_bit_floats_take_it(call: Call) -> None:
    assert all(launch.label.startswith("hopper attention") for launch in call.launches())


@pytest.mark.parametrize(
    "call",
    [
        Call(2, 4, 512, 512, 64, dtype="float32"),
        Call(2, 4, 512, 512, 60),  # rows of 120 bytes
        Call(2, 4, 16, 16, 64),  # too little work
        Call(2, 4, 512, 512, 64, dropout=0.1),
        Call(2, 4, 512, 512, 64, scale=-0.1),
    ],
    ids=str,
)
def test_the_rest_takes_the_portable_kernels(call: Call) -> None:
    assert not any(launch.label.startswith("hopper") for launch in call.launches())


@pytest.mark.parametrize("target", [Target(arch=80, shared_bytes=166912), Target(arch=100)])
def test_other_architectures_take_the_portable_kernels(target: Target) -> None:
    assert not any(launch.label.startswith("hopper") for launch in PLAIN.launches(target))


def test_wide_heads_take_it_forward_alone() -> None:
    labels = {launch.label.partition(",")[0] for launch in Call(2, 4, 512, 512, 256).launches()}
    assert labels == {"hopper attention", "attention_backward_keys", "attention_backward_queries"}


def test_a_packed_projection_is_read_where_it_lies() -> None:
    leaves = Call(2, 4, 300, 300, 64, packed=True).leaves()
    made = lower(Graph(tuple(leaves), (Call(2, 4, 300, 300, 64, packed=True).results(leaves)[0],)), {}, TARGET)
    (launch, *_) = made.launches
    q, k, _ = launch.args[:3]
    assert isinstance(q, Descriptor)
    assert isinstance(k, Descriptor)
    assert (q.shape, q.strides) == ((2, 4, 300, 64), (300 * 768, 64, 768, 1))
    assert k.operand.offset - q.operand.offset == 256


# ---- configurations ----------------------------------------------------------------------------------------------

PROBLEMS = [
    Problem(b, h, h, rows, keys, e, e, "bfloat16")
    for b, h, rows, keys in ((1, 24, 4608, 4608), (2, 24, 4429, 4429), (4, 10, 4096, 77), (64, 16, 256, 256))
    for e in (64, 72, 128)
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("uneven", [False, True])
def test_configurations_fit_shared_memory(problem: Problem, uneven: bool) -> None:
    width = configs.width_of(problem)
    forward = configs.forward_configs(problem, uneven, 132)
    backward = configs.backward_configs(problem, uneven, 132, ordered=True)
    for found in (forward, backward):
        assert len(set(found)) == len(found) > 1
    assert all(c.shared_bytes(width) <= configs.SHARED_LIMIT // (2 if c.DOUBLE else 1) for c in forward)
    assert all(c.shared_bytes(width) <= configs.SHARED_LIMIT for c in backward)
    assert configs.forward_heuristic(problem, uneven, 132) == forward[0]
    assert configs.backward_heuristic(problem, uneven, 132) == backward[0]
    assert not uneven or not any(c.SPLIT for c in (*forward, *backward)), "parts of unequal tiles are not equal"


def test_every_program_takes_part_in_the_cut_tiles() -> None:
    problem = PROBLEMS[2]
    config = configs.forward_heuristic(problem, False, 132)
    assert config.SPLIT, "864 tiles are six and a half waves"
    cut = config.cut(problem, 132)
    assert cut == 864 % 132
    depth, parts = config.depth(problem), configs.parts(132, cut)
    bounds = [cut * depth * i // 132 for i in range(133)]
    for tile in range(cut):
        sharing = [i for i in range(132) if bounds[i] < (tile + 1) * depth and bounds[i + 1] > tile * depth]
        first = max(tile * 132 // cut - 1, 0)
        assert first <= sharing[0], "the first part is looked for"
        assert sharing[-1] < first + parts, "and so is the last"


def test_cut_tiles_are_joined_by_a_second_launch() -> None:
    labels = [launch.label for launch in Call(1, 24, 4608, 4608, 128).launches()]
    assert labels == [
        "hopper attention",
        "hopper attention, cut tiles",
        "hopper attention, row statistics",
        "hopper attention backward",
        "hopper attention backward, cut tiles",
        "hopper attention, dq rounded",
    ]


# ---- numbers -----------------------------------------------------------------------------------------------------


class Forced:
    """Choices that give both kernels one configuration; `seen` collects the candidates of each."""

    def __init__(self, **chosen: HopperForward | HopperBackward) -> None:
        self.chosen = chosen
        self.seen: dict[str, list[Any]] = {}

    def find(self, problem: Choice, candidates: Any) -> tuple[Config, str] | None:
        """See choices.Choices."""
        kernel = next((k for k in ("forward", "backward") if f'"kernel":"{k}"' in problem.facts), "")
        if kernel:
            self.seen[kernel] = [c for c in candidates() if isinstance(c, HopperForward | HopperBackward)]
        found = self.chosen.get(kernel)
        return None if found is None else (found, "forced")

    def confirm(self, decision: Decision, launches: Sequence[Launch]) -> bool:
        """See choices.Choices."""
        return True


NUMBERS = [
    Call(1, 11, 2500, 1000, 128),
    Call(1, 11, 1000, 2500, 64),
    Call(1, 5, 777, 777, 64, packed=True),
    Call(2, 6, 1000, 900, 128, kv_heads=2, causal=True),
    Call(3, 4, 500, 77, 64, lengths=True),
    Call(1, 24, 1024, 1024, 72),
    Call(1, 3, 300, 500, 256),
]


def exact(call: Call, arrays: list[Any]) -> list[Any]:
    """torch in float64."""
    import torch

    *operands, g = [a.double() for a in (arrays[:-1] if call.lengths else arrays)]
    operands = [x.requires_grad_() for x in operands]
    q, k, v = operands if not call.packed else (operands[0][:, :, i].transpose(1, 2) for i in range(3))
    k, v = (x.repeat_interleave(call.heads // (call.kv_heads or call.heads), 1) for x in (k, v))
    s = q @ k.transpose(-1, -2) / math.sqrt(call.E)
    n = torch.arange(call.S, device=s.device)
    if call.causal:
        s = s.masked_fill(n > torch.arange(call.L, device=s.device)[:, None], -math.inf)
    if call.lengths:
        s = s.masked_fill(n >= arrays[-1].view(-1, 1, 1, 1), -math.inf)
    o = torch.softmax(s, -1) @ v
    return [o.detach(), *torch.autograd.grad((o * g).sum(), operands)]


@pytest.mark.gpu
@pytest.mark.parametrize("call", NUMBERS, ids=str)
def test_every_configuration(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against float64, 0.5% (16-bit results alone are off by 0.2%); the same bits in four runs."""
    import torch

    generator = torch.Generator().manual_seed(1)
    leaves = call.leaves()
    arrays = [torch.randn(v.shape, generator=generator).to(torch.bfloat16).cuda() for v in leaves]
    if call.lengths:
        arrays[-1] = torch.tensor([40, 1, 77], dtype=torch.int32).cuda()
    wanted = exact(call, arrays)
    original, seen = lower_module.lower, Forced()
    lower(Graph(tuple(leaves), tuple(call.results(leaves))), {}, TARGET, seen)
    forward, backward = seen.seen["forward"], seen.seen.get("backward", [])
    for i in range(max(len(forward), len(backward))):
        chosen = {k: c[i % len(c)] for k, c in (("forward", forward), ("backward", backward)) if c}
        forced = Forced(**chosen)
        monkeypatch.setattr(lower_module, "lower", lambda g, u, t, c=None, limit=None, f=forced: original(g, u, t, f))
        program = ft.compile(call.results(leaves), leaves, device="cuda")
        runs = [[r.cpu() for r in program(*arrays)] for _ in range(4)]
        for n, want in enumerate(wanted):
            assert all(torch.equal(runs[0][n], again[n]) for again in runs[1:]), f"{chosen}: result {n} differs"
            error = float((runs[0][n].double() - want.cpu()).norm() / want.norm())
            assert error < 5e-3, f"{chosen}: result {n} is off by {error:.1e}"
