"""Norms: every form of group norm against torch, running statistics, modulation, and what their kernels hold and launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from regression import DEVICES, numpy
from test_nn_layers import check_against_torch

import flame_triton as ft
from flame_triton.errors import ArgumentError, GraphError, ShapeError
from flame_triton.graph.plan import Target
from flame_triton.ir.graph import Graph
from flame_triton.runtime.lower import lower
from flame_triton.testing import assert_close


def randn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def compare(ours: Callable[..., Any], theirs: Callable[..., Any], *arrays: np.ndarray) -> None:
    """Result and gradients in float64: ours on Values, theirs on tensors."""
    inputs = [ft.input(a.shape, "float64") for a in arrays]
    y = ours(*inputs)
    cotangent = randn(*y.shape, seed=9)
    gradients = ft.grad(y, inputs, grad_output=ft.constant(cotangent, "float64"))
    found = ft.evaluate([y, *gradients], dict(zip(inputs, arrays, strict=True)))
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    result = theirs(*tensors)
    result.backward(torch.tensor(cotangent))
    expected = [result.detach(), *(t.grad for t in tensors)]
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, e.numpy(), rtol=1e-9, atol=1e-10)


# ---- group, batch, instance ------------------------------------------------------------------------------------

SHAPES = [(2, 6, 4), (1, 6, 3, 2), (3, 6), (2, 6, 1), (2, 4, 2, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("groups", [1, 2, -1], ids=["G=1", "G=2", "G=C"])
def test_group_norm_and_its_gradients(shape: tuple[int, ...], groups: int) -> None:
    channels = shape[1]
    groups = channels if groups == -1 else groups
    arrays = randn(*shape), randn(channels, seed=1), randn(channels, seed=2)
    compare(
        lambda x, w, b: ft.group_norm(x, groups, w, b, 0.01),
        lambda x, w, b: F.group_norm(x, groups, w, b, 0.01),
        *arrays,
    )


def test_group_norm_of_a_permuted_input() -> None:
    def ours(x: ft.Value, w: ft.Value, b: ft.Value) -> ft.Value:
        return ft.transpose(ft.group_norm(ft.transpose(x, (0, 3, 1, 2)), 2, w, b), (0, 2, 3, 1))

    def theirs(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x.permute(0, 3, 1, 2), 2, w, b).permute(0, 2, 3, 1)

    compare(ours, theirs, randn(2, 3, 5, 6), randn(6, seed=1), randn(6, seed=2))


def test_long_groups_go_by_channels(rng: np.random.Generator) -> None:
    """More elements than one program reads: means and deviations of pieces, then those of the whole."""
    arrays = randn(1, 4, 2048 * 3) + 5, randn(4, seed=1), randn(4, seed=2)
    compare(lambda x, w, b: ft.group_norm(x, 2, w, b), lambda x, w, b: F.group_norm(x, 2, w, b), *arrays)
    x = ft.input((1, 4, 6144))
    y = ft.group_norm(x, 2)
    found = numpy(ft.compile(y, [x])(arrays[0].astype(np.float32)))
    expected = F.group_norm(torch.tensor(arrays[0].astype(np.float32)).double(), 2).numpy()
    assert_close(found, expected, "float32")


@pytest.mark.parametrize("offset", [1e3, 1e4])
@pytest.mark.parametrize("norm", ["group", "batch", "layer", "weight"])
def test_the_variance_does_not_cancel(norm: str, offset: float) -> None:
    """E[x^2] - E[x]^2 in float32 would leave nothing: the mean is a thousand deviations and more."""
    array = (randn(2, 4, 40) + offset).astype(np.float32)
    functions: dict[str, Callable[[ft.Value], ft.Value]] = {
        "group": lambda x: ft.group_norm(x, 2),
        "batch": lambda x: ft.batch_norm(x, None, None, training=True),
        "layer": lambda x: ft.layer_norm(x, 40),
        "weight": lambda x: ft.standardize_weight(x),
    }
    x = ft.input(array.shape)
    found = numpy(ft.compile(functions[norm](x), [x])(array))
    expected = ft.evaluate(functions[norm](x), {x: array.astype(np.float64)})
    assert_close(found, expected, "float32", tolerance=2e-7 * offset)  # what rounding of the mean alone may do


def test_float16_statistics_are_float32() -> None:
    """Sums of 8192 sixteen-bit numbers near 100 would overflow float16, and stand still in it."""
    array = (randn(2, 4, 4096) * 10 + 100).astype(np.float16)
    x = ft.input(array.shape, "float16")
    y = ft.group_norm(x, 2)
    found = numpy(ft.compile(y, [x])(array))
    assert_close(found, ft.evaluate(y, {x: array.astype(np.float64)}), "float16")


@pytest.mark.parametrize("function", ["batch_norm", "instance_norm"])
def test_running_statistics_take_part_and_move(function: str) -> None:
    """Three steps of training and one of inference, the statistics in a State, against torch's own buffers."""
    module = getattr(ft.nn, function.replace("_norm", "").title() + "Norm2d")(
        3, momentum=0.3, affine=True, track_running_stats=True
    )
    theirs = getattr(torch.nn, type(module).__name__)(3, momentum=0.3, affine=True, track_running_stats=True)
    x = ft.input((4, 3, 2, 2))
    y = module(x)
    updates = module.buffer_updates()
    assert not module.buffer_updates()
    state = ft.State(module.parameters(None))
    step = ft.compile(y, [x], state=state, updates=updates)
    for seed in range(3):
        array = randn(4, 3, 2, 2, seed=seed).astype(np.float32)
        assert_close(numpy(step(array)), theirs(torch.tensor(array)).detach().numpy(), "float32", tolerance=2e-5)
    names = ("running_mean", "running_var", "num_batches_tracked")
    for name in names:
        np.testing.assert_allclose(state[name], getattr(theirs, name).numpy(), rtol=1e-5, atol=1e-6)
    assert state["num_batches_tracked"] == (3 if function == "batch_norm" else 0)  # torch counts there alone
    theirs.eval()
    inference = ft.compile(module.eval()(x), [x], state=state)
    assert_close(numpy(inference(array)), theirs(torch.tensor(array)).detach().numpy(), "float32", tolerance=2e-5)
    assert not module.buffer_updates()


def test_a_layer_used_twice_moves_its_statistics_twice() -> None:
    module = ft.nn.BatchNorm1d(3)
    theirs = torch.nn.BatchNorm1d(3)
    a, b = randn(5, 3).astype(np.float32), (randn(5, 3, seed=1) * 2).astype(np.float32)
    x, z = ft.input((5, 3)), ft.input((5, 3))
    outputs = [module(x), module(z)]
    state = ft.State(module.parameters(None))
    ft.compile(outputs, [x, z], state=state, updates=module.buffer_updates())(a, b)
    theirs(torch.tensor(a)), theirs(torch.tensor(b))
    np.testing.assert_allclose(state["running_mean"], theirs.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(state["running_var"], theirs.running_var.numpy(), rtol=1e-5)
    assert state["num_batches_tracked"] == 2


def test_training_with_batch_norm_through_an_optimizer() -> None:
    """The one way to pass buffers: `also=`."""
    model = ft.nn.Sequential(ft.nn.Linear(4, 6), ft.nn.BatchNorm1d(6), ft.nn.Linear(6, 1))
    x, t = ft.input((8, 4)), ft.input((8, 1))
    loss = ft.mse_loss(model(x), t)
    optimizer = ft.optim.AdamW(model.parameters(), lr=1e-2)
    updates = optimizer.updates(ft.grad(loss, model.parameters()), also=model.buffer_updates())
    state = ft.State([*model.parameters(None), *optimizer.state_values])
    step = ft.compile(loss, [x, t], state=state, updates=updates)
    a, b = randn(8, 4).astype(np.float32), randn(8, 1).astype(np.float32)
    losses = [float(step(a, b)) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]
    assert state["1.num_batches_tracked"] == 12 and np.abs(state["1.running_mean"]).max() > 0


def test_statistics_carry_no_gradient_but_the_result_does() -> None:
    x, m, v = (ft.input(s, "float64") for s in ((5, 3), (3,), (3,)))
    y, mean, var = ft.batch_norm_with_stats(x, m, v)
    with pytest.raises(GraphError, match="x|depend|gradient"):
        ft.grad(ft.sum(mean) + ft.sum(var), [x])
    compare(
        lambda x: ft.batch_norm_with_stats(x, ft.zeros((3,), "float64"), ft.ones((3,), "float64"))[0],
        lambda x: F.batch_norm(x, None, None, training=True),
        randn(5, 3),
    )


# ---- weights ---------------------------------------------------------------------------------------------------


def test_spectral_norm_has_torchs_gradient() -> None:
    w, u, v = randn(4, 6), randn(4, seed=1), randn(6, seed=2)

    def theirs(weight: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            left = F.normalize(weight @ torch.tensor(v), dim=0)
            right = F.normalize(weight.T @ left, dim=0)
        return weight / (left @ weight @ right)

    compare(lambda x: ft.spectral_norm(x, ft.constant(u), ft.constant(v))[0], theirs, w)


@pytest.mark.parametrize("device", DEVICES)
def test_spectral_norm_finds_the_largest_singular_value(device: str) -> None:
    module = ft.nn.SpectralNorm(ft.nn.Linear(5, 7, bias=False))
    x = ft.input((5, 5))
    y = module(x)
    state = ft.State(module.parameters(None), device=device)
    step = ft.compile(y, [x], state=state, updates=module.buffer_updates())
    eye = np.eye(5, dtype=np.float32)
    for _ in range(60):
        found = numpy(step(eye))
    weight = state["layer.weight"]
    np.testing.assert_allclose(found.T, weight / np.linalg.svd(weight)[1][0], rtol=2e-4, atol=1e-5)
    assert isinstance(module.layer, ft.nn.Linear) and module.layer.weight.node.op.name == "parameter"
    fixed = ft.compile(module.eval()(x), [x], state=state)
    np.testing.assert_allclose(numpy(fixed(eye)), found, rtol=1e-5, atol=1e-6)


def test_standardized_weight_module() -> None:
    def theirs(x: Sequence[torch.Tensor], w: dict[str, torch.Tensor]) -> torch.Tensor:
        own = w["layer.weight"]
        std = torch.sqrt(own.var(1, correction=0, keepdim=True) + 1e-5)
        return F.linear(x[0], (own - own.mean(1, keepdim=True)) / std, w["layer.bias"])

    check_against_torch(ft.nn.StandardizedWeight(ft.nn.Linear(5, 3)), theirs, randn(2, 5))


def test_modules_of_norms_against_torch() -> None:
    check_against_torch(
        ft.nn.GroupNorm(2, 6), lambda x, w: F.group_norm(x[0], 2, w["weight"], w["bias"]), randn(2, 6, 3)
    )
    check_against_torch(
        ft.nn.InstanceNorm1d(6, affine=True),
        lambda x, w: F.instance_norm(x[0], None, None, w["weight"], w["bias"]),
        randn(2, 6, 3),
    )
    check_against_torch(
        ft.nn.BatchNorm3d(2),
        lambda x, w: F.batch_norm(x[0], None, None, w["weight"], w["bias"], True),
        randn(2, 2, 2, 1, 2),
    )
    with pytest.raises(ShapeError, match="BatchNorm2d: expects 4 axes"):
        ft.nn.BatchNorm2d(3)(ft.input((2, 3)))
    with pytest.raises(ArgumentError, match="groups 4"):
        ft.nn.GroupNorm(4, 6)


# ---- modulation ------------------------------------------------------------------------------------------------


def ada(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


def test_chained_modulated_norms_against_torch() -> None:
    """A named regression: gradients of one modulated LayerNorm after another (pytorch #193061), in float64."""
    arrays = [randn(2, 3, 8), *(randn(2, 8, seed=s) for s in range(1, 7))]

    def ours(x: ft.Value, *rest: ft.Value) -> ft.Value:
        for shift, scale in zip(rest[::2], rest[1::2], strict=True):
            x = x + ft.silu(ft.ada_layer_norm(x, shift, scale))
        return x

    def theirs(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        for shift, scale in zip(rest[::2], rest[1::2], strict=True):
            x = x + F.silu(ada(x, shift, scale))
        return x

    compare(ours, theirs, *arrays)


@pytest.mark.parametrize("device", DEVICES)
def test_chained_modulated_norms_through_kernels(device: str) -> None:
    """The same without residuals, norm straight on norm, through kernels in float32 against torch's float64."""
    arrays = [randn(2, 5, 16).astype(np.float32), *(randn(2, 16, seed=s).astype(np.float32) for s in range(1, 5))]
    inputs = [ft.input(a.shape) for a in arrays]
    x, *rest = inputs
    y = ft.ada_layer_norm(ft.ada_layer_norm(x, *rest[:2]), *rest[2:])
    program = ft.compile([y, *ft.grad(ft.sum(ft.square(y)), inputs)], inputs, device=device)
    tensors = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in arrays]
    result = ada(ada(*tensors[:3]), *tensors[3:])
    (result**2).sum().backward()
    for a, e in zip(program(*arrays), [result.detach(), *(t.grad for t in tensors)], strict=True):
        assert_close(numpy(a), e.numpy(), "float32", tolerance=2e-5)


def test_scale_and_shift_are_not_swapped_in_the_final_layer() -> None:
    """A named regression: the final layer stores scale first, a block's norm shift first."""
    final = ft.nn.AdaLayerNormContinuous(4, 3)

    def theirs(x: Sequence[torch.Tensor], w: dict[str, torch.Tensor]) -> torch.Tensor:
        scale, shift = F.linear(F.silu(x[1]), w["linear.weight"], w["linear.bias"]).chunk(2, 1)
        return ada(x[0], shift, scale)

    check_against_torch(final, theirs, randn(2, 5, 4), randn(2, 3))
    x = ft.input((1, 2, 4))
    shift, scale = np.full((1, 4), 3.0), np.zeros((1, 4))
    y = ft.evaluate(ft.modulate(x, shift, scale), {x: np.ones((1, 2, 4))})
    np.testing.assert_array_equal(y, np.full((1, 2, 4), 4.0))


def test_ada_layer_norm_zero_gives_its_parts_in_order() -> None:
    block = ft.nn.AdaLayerNormZero(4, 3)

    class Whole(ft.nn.Module):
        def __init__(self) -> None:
            self.norm = block

        def forward(self, x: ft.Value, e: ft.Value) -> ft.Value:
            y, gate, shift, scale, last = self.norm(x, e)
            return ft.concat([y, *(ft.expand_dims(v, 1) for v in (gate, shift, scale, last))], 1)

    def theirs(x: Sequence[torch.Tensor], w: dict[str, torch.Tensor]) -> torch.Tensor:
        parts = F.linear(F.silu(x[1]), w["norm.linear.weight"], w["norm.linear.bias"]).chunk(6, 1)
        return torch.cat([ada(x[0], parts[0], parts[1]), *(p[:, None] for p in parts[2:])], 1)

    check_against_torch(Whole(), theirs, randn(2, 5, 4), randn(2, 3))
    x = ft.input((2, 5, 4))
    y, gate, *_ = ft.nn.AdaLayerNormZero(4)(x, ft.input((2, 4)))
    state = ft.State(block.parameters())
    assert not any(state[name].any() for name in state.names)  # zeros: the block starts as the identity


@pytest.mark.parametrize(("function", "name"), [(F.gelu, "GEGLU"), (F.silu, "SwiGLU")])
def test_gated_units_put_the_value_before_the_gate(function: Callable[..., torch.Tensor], name: str) -> None:
    def theirs(x: Sequence[torch.Tensor], w: dict[str, torch.Tensor]) -> torch.Tensor:
        value, gate = F.linear(x[0], w["proj.weight"], w["proj.bias"]).chunk(2, -1)
        return value * function(gate)

    check_against_torch(getattr(ft.nn, name)(4, 6), theirs, randn(2, 3, 4))


# ---- regressions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm"])
@pytest.mark.parametrize("device", DEVICES)
def test_every_norm_has_a_backward_and_its_affine_gradients_are_not_zero(norm: str, device: str) -> None:
    """Named regressions: dgamma and dbeta of zero; a fast norm without a backward (candle #2168)."""
    x, w, b = ft.input((4, 6, 6)), ft.input((6,)), ft.input((6,))
    y = {
        "layer_norm": lambda: ft.layer_norm(x, 6, w, b),
        "rms_norm": lambda: ft.rms_norm(x, 6, w) + b,
        "group_norm": lambda: ft.group_norm(x, 3, w, b),
        "batch_norm": lambda: ft.batch_norm(x, None, None, w, b, True),
        "instance_norm": lambda: ft.instance_norm(x, weight=w, bias=b),
    }[norm]()
    program = ft.compile(ft.grad(ft.sum(ft.tanh(y)), [x, w, b]), [x, w, b], device=device)
    for gradient in program(*(randn(*v.shape, seed=i).astype(np.float32) for i, v in enumerate((x, w, b)))):
        assert np.abs(numpy(gradient)).min() > 0 or np.abs(numpy(gradient)).mean() > 1e-3


# ---- launches --------------------------------------------------------------------------------------------------


def launches(outputs: Sequence[ft.Value], inputs: Sequence[ft.Value]) -> list[list[tuple[int, ...]]]:
    """The shapes that each launch reads, on a GPU."""
    schedule = lower(Graph(tuple(inputs), tuple(outputs)), {}, Target())
    return [[v.value.shape for v in launch.reads if v.value is not None] for launch in schedule.launches]


@pytest.mark.parametrize(
    ("shape", "forward", "backward"), [((4, 320, 128, 128), (3, 2), (9, 2)), ((4, 1280, 8, 8), (2, 2), (6, 2))]
)
def test_group_norm_and_silu_in_few_launches(
    shape: tuple[int, ...], forward: tuple[int, int], backward: tuple[int, int]
) -> None:
    """(launches, those that read the image): statistics read it once, the result once; backward as often, besides
    the statistics that it shares with the forward pass."""
    x, w, b, g = (
        ft.input(s, d)
        for s, d in ((shape, "bfloat16"), ((shape[1],), "float32"), ((shape[1],), "float32"), (shape, "bfloat16"))
    )
    y = ft.silu(ft.group_norm(x, 32, w, b))
    found = launches([y], [x, w, b])
    assert (len(found), sum(shape in reads for reads in found)) == forward
    alone = launches([y, *ft.grad(y, [x, w, b], grad_output=g)], [x, w, b, g])
    assert len(alone) <= forward[0] + backward[0]
    assert sum(shape in reads for reads in alone) <= forward[1] + backward[1]


def test_modulated_layer_norm_is_one_launch() -> None:
    x, shift, scale = ft.input((2, 256, 1152), "bfloat16"), ft.input((2, 1152)), ft.input((2, 1152))
    assert len(launches([ft.ada_layer_norm(x, shift, scale)], [x, shift, scale])) == 1


@pytest.mark.parametrize("function", [ft.geglu, ft.swiglu, ft.reglu])
def test_gated_units_are_one_launch(function: Callable[[ft.Value], ft.Value]) -> None:
    x = ft.input((512, 1024), "bfloat16")
    assert len(launches([function(x)], [x])) == 1
