"""Parameters by name: groups, freezing, the summary; clipping in all its ways."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

import flame_triton as ft
from flame_triton.errors import ArgumentError
from flame_triton.optim import SGD, AdamW, LossScaler, freeze, group, schedule
from flame_triton.optim.clip import adaptive

KERNELS = "interpreter" if ft.config.interpreted() else "cuda"
DEVICES = ["reference", KERNELS]


class Block(ft.nn.Module):
    def __init__(self) -> None:
        self.attn, self.mlp = ft.nn.Linear(4, 4), ft.nn.Linear(4, 4)

    def forward(self, x: ft.Value) -> ft.Value:
        return x + self.mlp(ft.tanh(self.attn(x)))


class Model(ft.nn.Module):
    def __init__(self) -> None:
        self.pos_embed = ft.nn.module.Parameter((3, 4), 0.1)
        self.blocks = [Block(), Block()]
        self.out = ft.nn.Linear(4, 2)

    def forward(self, x: ft.Value) -> ft.Value:
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.out(x)


# ---- names -----------------------------------------------------------------------------------------------------


def test_groups_claim_by_glob_and_expression() -> None:
    model = Model()
    optimizer = AdamW(
        model,
        schedule.warmup_cosine(1e-3, 100, 10),
        weight_decay=0.1,
        groups=[
            group("*.bias", weight_decay=0.02),
            group(re.compile(r"blocks\.\d+\.attn\..*"), but="*.bias", rate=0.5, schedule=schedule.constant(2e-4)),
        ],
    )
    by_name = dict(model.named_parameters())
    rows = {n: (optimizer.rate_factor(p), optimizer.decay(p)) for n, p in by_name.items()}
    assert rows["blocks.0.attn.bias"] == (1.0, 0.02) and rows["out.bias"] == (1.0, 0.02)
    assert rows["blocks.1.attn.weight"] == (0.5, 0.1) and rows["blocks.1.mlp.weight"] == (1.0, 0.1)
    assert rows["pos_embed"] == (1.0, 0.1)
    text = optimizer.summary()
    lines = text.splitlines()
    assert lines[0] == f"AdamW: 11 tensors, {sum(p.size for p in by_name.values()):,} elements, " + (
        f"{optimizer.state_bytes:,} bytes of state ({optimizer.state_bytes / sum(p.size for p in by_name.values()):.2f}"
        " an element)"
    )
    assert lines[2].split()[:3] == ['"*.bias"', "5", "18"] and "0.02" in lines[2]
    assert "but" in lines[3] and "constant(0.0002)" in lines[3] and " 0.5 " in lines[3]
    assert lines[4].startswith("the others") and lines[4].endswith("warmup_cosine(0.001, 100, warmup=10, floor=0)")


def test_a_parameter_belongs_to_one_group() -> None:
    with pytest.raises(ArgumentError, match=r'blocks\.0\.attn\.bias belongs to two groups, "\*\.bias" and "blocks'):
        AdamW(Model(), 0.1, groups=[group("*.bias"), group("blocks.*")])


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("pos_embd", "pos_embed"),
        ("blocks.*.atn.weight", "blocks.0.attn.weight"),
        (re.compile(r"output\..*"), "out"),
        ("zzz", "the names are pos_embed"),
    ],
)
def test_patterns_that_match_nothing_name_what_is_near(pattern: Any, near: str) -> None:
    with pytest.raises(ArgumentError, match="matches no parameter") as error:
        AdamW(Model(), 0.1, groups=[group("*.bias"), group(pattern)])
    assert near in str(error.value)
    with pytest.raises(ArgumentError, match="matches no parameter"):
        freeze(Model(), "*.bias", pattern)


def test_frozen_parameters_cost_nothing() -> None:
    model = Model()
    trained = freeze(model, "pos_embed*", "blocks.0.*")
    optimizer = AdamW(trained, 0.1, clip_norm=1.0)
    assert list(trained) == [f"blocks.1.{n}" for n in ("attn.weight", "attn.bias", "mlp.weight", "mlp.bias")] + [
        "out.weight",
        "out.bias",
    ]
    assert optimizer.state_bytes == 8 + 8 * sum(p.size for p in trained.values())
    x = ft.input((3, 4))
    loss = ft.sum(ft.square(model(x)))
    gradients = ft.grad(loss, optimizer.parameters)
    state = ft.State([*model.parameters(), *optimizer.state_values], device="reference")
    before = {n: state[n] for n, _ in model.named_parameters()}
    program = ft.compile([], [x], state=state, updates=optimizer.updates(gradients), device="reference")
    program(np.ones((3, 4), np.float32))
    moved = {n for n, old in before.items() if np.any(state[n] != old)}
    assert moved == set(trained)
    with pytest.raises(ArgumentError, match="all parameters"):
        freeze(model, "*")


def test_names_from_everywhere() -> None:
    a, b = ft.parameter((2,)), ft.parameter((3,), name="b")
    assert list(AdamW([a, b], 0.1).names.values()) == ["parameter_0", "b"]
    assert list(AdamW({"x": a, "y": b}, 0.1).names.values()) == ["x", "y"]
    for wrong in ([a, a], [a, 3]):
        with pytest.raises(ArgumentError, match=r"listed twice|expected parameters"):
            AdamW(wrong, 0.1)  # type: ignore[list-item]
    for bad in (lambda: group(), lambda: group("x", rate=-1.0), lambda: group("x", weight_decay=-0.1)):
        with pytest.raises(ArgumentError, match="group"):
            bad()


SHAPES = [(6, 5), (6,), (3, 6), (130,)]


def _train(make: Any, device: str, steps: int = 6, dtype: str = "float32") -> tuple[list[np.ndarray], Any]:
    """Parameters w0.. after steps on seeded gradients; make: parameters -> optimizer."""
    rng = np.random.default_rng(1)
    weights = [
        ft.parameter(s, dtype, name=f"w{i}", init=rng.standard_normal(s).astype(np.float32))
        for i, s in enumerate(SHAPES)
    ]
    optimizer = make(weights)
    inputs = [ft.input(w.shape, w.dtype) for w in weights]
    updates = optimizer.updates(inputs)
    state = ft.State([*weights, *optimizer.state_values], device=device)
    program = ft.compile([optimizer.grad_norm], inputs, state=state, updates=updates, device=device)
    for arrays in _gradients(steps):
        program(*[a.astype(weights[0].dtype.numpy) for a in arrays])
    return [state[w].astype(np.float32) for w in weights], program


def _gradients(steps: int) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(2)
    return [[rng.standard_normal(s).astype(np.float32) for s in SHAPES] for _ in range(steps)]


def _torch_start() -> list[torch.nn.Parameter]:
    rng = np.random.default_rng(1)
    return [torch.nn.Parameter(torch.from_numpy(rng.standard_normal(s).astype(np.float32))) for s in SHAPES]


@pytest.mark.parametrize("device", DEVICES)
def test_groups_with_schedules_of_their_own_match_torch(device: str) -> None:
    """One launch all the same."""
    groups = [
        group("w0", rate=0.5, weight_decay=0.3, schedule=schedule.linear(0.02, 4, end=0.01)),
        group("w1", "w3", weight_decay=0.05, schedule=schedule.constant(0.03)),
    ]
    found, program = _train(
        lambda w: AdamW(w, schedule.exponential(0.05, 0.9), weight_decay=0.1, groups=groups), device
    )
    theirs = _torch_start()
    optimizer = torch.optim.AdamW(
        [
            {"params": [theirs[0]], "lr": 0.01, "weight_decay": 0.3},
            {"params": [theirs[1], theirs[3]], "lr": 0.03, "weight_decay": 0.05},
            {"params": [theirs[2]], "lr": 0.05, "weight_decay": 0.1},
        ]
    )
    for t, arrays in enumerate(_gradients(6)):
        optimizer.param_groups[0]["lr"] = 0.5 * (0.02 - 0.01 * min(t / 4, 1))
        optimizer.param_groups[2]["lr"] = 0.05 * 0.9**t
        for p, g in zip(theirs, arrays, strict=True):
            p.grad = torch.from_numpy(g)
        optimizer.step()
    for a, b in zip(found, theirs, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=2e-5, atol=1e-6)
    if device == KERNELS:
        assert [launch.kernel.name for launch in program.launches].count("foreach") == 1


# ---- clipping --------------------------------------------------------------------------------------------------


def _clipped(kind: str, limit: float, p: torch.nn.Parameter) -> None:
    """What torch users do to one gradient."""
    assert p.grad is not None
    if kind == "clip_value":
        torch.nn.utils.clip_grad_value_([p], limit)
    elif kind == "clip_layer":
        torch.nn.utils.clip_grad_norm_([p], limit)
    else:
        p.grad.copy_(torch.from_numpy(_adaptive(p.detach().numpy(), p.grad.numpy(), limit)))


def _adaptive(p: np.ndarray, g: np.ndarray, ratio: float) -> np.ndarray:
    """Brock et al. 2021, equation 3, unit by unit."""
    result = g.copy()
    for i in range(len(p)) if p.ndim > 1 else [slice(None)]:
        norm, limit = np.linalg.norm(g[i]), ratio * max(float(np.linalg.norm(p[i])), 1e-3)
        if norm > limit:
            result[i] = g[i] * (limit / norm)
    return result


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("kind", "limit"), [("clip_value", 0.4), ("clip_layer", 1.5), ("clip_adaptive", 0.3)])
def test_clipping_matches_torch(kind: str, limit: float, scaled: bool, device: str) -> None:
    def make(weights: Any) -> Any:
        scaler = LossScaler(1.0) if scaled else None
        return SGD(weights, 0.1, momentum=0.9, scaler=scaler, **{kind: limit})

    found, program = _train(make, device)
    theirs = _torch_start()
    optimizer = torch.optim.SGD(theirs, 0.1, momentum=0.9)
    for arrays in _gradients(6):
        for p, g in zip(theirs, arrays, strict=True):
            p.grad = torch.from_numpy(g.copy())
            _clipped(kind, limit, p)
        optimizer.step()
    for a, b in zip(found, theirs, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=2e-5, atol=1e-6)
    if device == KERNELS and kind != "clip_adaptive":
        names = [launch.kernel.name for launch in program.launches]
        assert names.count("foreach") == 1 and names.count("foreach_sum") == 1


@pytest.mark.parametrize("kind", ["clip_norm", "clip_value", "clip_layer", "clip_adaptive"])
def test_clipping_sees_true_gradients(kind: str) -> None:
    """A loss scale changes nothing: gradients are divided before they are clipped."""
    w = ft.parameter((3, 4), name="w", init=0.5)
    g = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    results = []
    for scale in (1.0, 1024.0):
        optimizer = SGD([w], 1.0, scaler=LossScaler(scale), **{kind: 0.25})
        x = ft.input((3, 4))
        updates = optimizer.updates([x])
        state = ft.State([w, *optimizer.state_values], device="reference")
        program = ft.compile([optimizer.grad_norm], [x], state=state, updates=updates, device="reference")
        norm = float(program(g * scale)[0])
        results.append((norm, state["w"].tobytes()))
    assert results[0] == results[1] and results[0][0] == pytest.approx(float(np.linalg.norm(g)), rel=1e-6)


def test_gradients_are_clipped_in_one_way() -> None:
    w = ft.parameter((3,), name="w")
    with pytest.raises(ArgumentError, match="one way, got clip_norm and clip_value"):
        SGD([w], 0.1, clip_norm=1.0, clip_value=1.0)
    for kind in ("clip_value", "clip_layer", "clip_adaptive"):
        with pytest.raises(ArgumentError, match=kind):
            SGD([w], 0.1, **{kind: 0.0})


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2, 2), (5,), ()])
def test_adaptive_clipping_takes_units_of_any_rank(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal(shape), rng.standard_normal(shape)
    a, b = ft.input(shape, "float64"), ft.input(shape, "float64")
    found = ft.evaluate(adaptive(a, b, 0.2), {a: p, b: g})
    expected = _adaptive(p.reshape(shape or (1,)), g.reshape(shape or (1,)), 0.2).reshape(shape)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    still = ft.evaluate(adaptive(a, b, 0.2), {a: p * 0, b: g * 0})
    assert np.all(still == 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_sums_of_each_row(dtype: str, device: str) -> None:
    shapes = [(3, 5), (), (7000,), (2, 1, 9), (0, 4)]
    rows = [[ft.input(s, dtype)] for s in shapes]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(r[0].dtype.numpy) for s, r in zip(shapes, rows, strict=True)]
    sums = ft.foreach_sum(
        lambda x: ft.square(ft.cast(x, "float64" if dtype == "float64" else "float32")), rows, (), True
    )
    found = ft.compile(sums, [r[0] for r in rows], device=device)(*arrays).cpu().numpy()
    np.testing.assert_allclose(found, [np.sum(np.square(a.astype(np.float64))) for a in arrays], rtol=1e-5)
