"""Windows, pooling, padding and resizing against torch at random sizes, and what their kernels look like."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import flame_triton as ft
from flame_triton.ir.op import call
from flame_triton.testing import assert_close, check_grads, flatten

Arrays = list[np.ndarray]


def ours(function: Callable[..., Any], *arrays: np.ndarray, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Results and, for random cotangents, the gradients of the floating arrays, in float64."""
    inputs = [ft.input(a.shape, ft.dtype(a.dtype)) for a in arrays]
    outputs = flatten(function(*inputs))
    floating = [v for v in outputs if v.dtype.is_float]
    wrt = [v for v in inputs if v.dtype.is_float]
    seeds = [ft.input(v.shape, v.dtype) for v in floating]
    rng = np.random.default_rng(seed)
    feeds = dict(zip(inputs, arrays, strict=True)) | {s: rng.standard_normal(s.shape) for s in seeds}
    found = ft.evaluate([*outputs, *ft.grad(floating, wrt, grad_output=seeds)], feeds)
    return list(found[: len(outputs)]), list(found[len(outputs) :])


def theirs(function: Callable[..., Any], *arrays: np.ndarray, seed: int = 0) -> tuple[Arrays, Arrays]:
    """The same by torch."""
    inputs = [torch.from_numpy(a).requires_grad_(a.dtype.kind == "f") for a in arrays]
    found = function(*inputs)
    outputs = list(found) if isinstance(found, (tuple, list)) else [found]
    rng = np.random.default_rng(seed)
    floating = [x for x in outputs if x.dtype.is_floating_point]
    seeds = [torch.from_numpy(rng.standard_normal(x.shape)) for x in floating]
    wrt = [x for x in inputs if x.requires_grad]
    gradients = torch.autograd.grad(floating, wrt, seeds)
    return [x.detach().numpy() for x in outputs], [g.numpy() for g in gradients]


def agree(mine: Callable[..., Any], other: Callable[..., Any], *arrays: np.ndarray, tolerance: float = 1e-12) -> None:
    """Values and gradients, in float64."""
    pairs = zip(("value", "gradient"), ours(mine, *arrays), theirs(other, *arrays), strict=True)
    for kind, mine_, other_ in pairs:
        for a, r in zip(mine_, other_, strict=True):
            limit = tolerance if r.dtype.kind == "f" else None
            assert_close(a, r, r.dtype, tolerance=limit, floor=1e-3, what=kind)


# ---- windows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trial", range(40))
def test_overlap_add_is_the_transpose_of_windows(trial: int) -> None:
    """<windows(x), g> = <x, overlap_add(g)>, and windows agree with a plain loop."""
    rng = np.random.default_rng(trial)
    n = int(rng.integers(1, 4))
    size, stride, dilation = (tuple(int(v) for v in rng.integers(1, 4, n)) for _ in range(3))
    before = tuple(int(v) for v in rng.integers(0, 3, n))
    after = tuple(int(v) for v in rng.integers(-2, 3, n))
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    shape = [max(1, r - b - a + int(e)) for r, b, a, e in zip(reach, before, after, rng.integers(0, 5, n), strict=True)]
    x = ft.input((2, *shape), "float64")
    w = call("windows", x, size, stride, dilation, before, after)
    g = ft.input(w.shape, "float64")
    back = call("overlap_add", g, shape, stride, dilation, before)
    feeds = {x: rng.standard_normal(x.shape), g: rng.standard_normal(w.shape)}
    (again,) = ft.grad(w, [x], grad_output=g)
    values, sums, gradient = ft.evaluate([w, back, again], feeds)
    np.testing.assert_allclose(np.sum(values * feeds[g]), np.sum(feeds[x] * sums), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(sums, gradient)
    for at in itertools.islice(np.ndindex(*w.shape[1:]), 0, None, 7):
        place = [o * s + k * d - b for k, o, s, d, b in zip(at[:n], at[n:], stride, dilation, before, strict=True)]
        inside = all(0 <= p < h for p, h in zip(place, shape, strict=True))
        want = feeds[x][(slice(None), *place)] if inside else np.zeros(2)
        np.testing.assert_array_equal(values[(slice(None), *at)], want)


@pytest.mark.interpreter
@pytest.mark.parametrize("trial", range(12))
def test_views_through_kernels(trial: int) -> None:
    """windows, spread and their sums, read in one kernel, at random geometry."""
    rng = np.random.default_rng(100 + trial)
    size, stride, dilation = (tuple(int(v) for v in rng.integers(1, 4, 2)) for _ in range(3))
    before = tuple(int(v) for v in rng.integers(0, 3, 2))
    shape = tuple(int((k - 1) * d + 1 + e) for k, d, e in zip(size, dilation, rng.integers(0, 6, 2), strict=True))
    x = ft.input((3, *shape), "float64")
    w = call("windows", ft.square(x), size, stride, dilation, before, 1, -1.0)
    y = ft.sum(w * w, axis=(1, 2))
    g = ft.input(y.shape, "float64")
    (dx,) = ft.grad(y, [x], grad_output=g)
    feeds = {x: rng.standard_normal(x.shape), g: rng.standard_normal(g.shape)}
    program = ft.compile([y, dx], [x, g], device="interpreter")
    for a, r in zip(program(feeds[x], feeds[g]), ft.evaluate([y, dx], feeds), strict=True):
        assert_close(a.numpy(), r, "float64", tolerance=1e-12)


def test_overlapping_windows_are_not_written_in_place() -> None:
    """A map that reads elements twice has no inverse, and a kernel does not overwrite what it still reads."""
    x = ft.input((8,), "float64")
    w = call("windows", x, 3)
    assert w.node.op.lowering.map(w.node).inverse() is None
    assert call("windows", x, 2, 2).node.op.lowering.map(call("windows", x, 2, 2).node).inverse() is not None


# ---- pooling ---------------------------------------------------------------------------------------------------


def pool_calls(seed: int) -> tuple[int, np.ndarray, dict[str, Any]]:
    """Random arguments of a pool of one to three axes."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4))
    kernel = tuple(int(v) for v in rng.integers(1, 5 if n < 3 else 3, n))
    options: dict[str, Any] = {
        "kernel_size": kernel,
        "padding": tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel),
    }
    if rng.random() < 0.8:
        options["stride"] = tuple(int(v) for v in rng.integers(1, 4, n))
    options["ceil_mode"] = bool(rng.random() < 0.5)
    shape = [int(k + e) for k, e in zip(kernel, rng.integers(0, 6, n), strict=True)]
    return n, rng.standard_normal((*([2] if rng.random() < 0.7 else []), 2, *shape)), options


@pytest.mark.parametrize("seed", range(40))
def test_max_pool(seed: int) -> None:
    n, x, options = pool_calls(seed)
    if seed % 3 == 0:
        x = np.round(x)  # ties
    if seed % 5 == 0:
        x[x > 1] = np.nan
    if seed % 7 == 0:
        x[x < 0] = -np.inf
    if seed % 4 == 1:
        room = x.shape[-n:]
        options["dilation"] = tuple(
            2 if (k - 1) * 2 < h else 1 for k, h in zip(options["kernel_size"], room, strict=True)
        )
    name = f"max_pool{n}d"
    agree(
        lambda v: getattr(ft, name)(v, **options, return_indices=True),
        lambda v: getattr(F, name)(v, **options, return_indices=True),
        x,
    )


@pytest.mark.parametrize("seed", range(40))
def test_avg_pool(seed: int) -> None:
    n, x, options = pool_calls(seed)
    name = f"avg_pool{n}d"
    options["count_include_pad"] = bool(seed % 2)
    if n > 1 and seed % 5 == 0:
        options["divisor_override"] = 3
    agree(lambda v: getattr(ft, name)(v, **options), lambda v: getattr(F, name)(v, **options), x)


@pytest.mark.parametrize("seed", range(30))
def test_adaptive_pools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4))
    plane = [int(v) for v in rng.integers(1, 9, n)]
    size = tuple(int(v) for v in rng.integers(1, 7, n))
    x = rng.standard_normal((2, 3, *plane))
    if seed % 3 == 0:
        x = np.round(x)
    average, largest = f"adaptive_avg_pool{n}d", f"adaptive_max_pool{n}d"
    agree(lambda v: getattr(ft, average)(v, size), lambda v: getattr(F, average)(v, size), x)
    agree(lambda v: getattr(ft, largest)(v, size, True), lambda v: getattr(F, largest)(v, size, True), x)


def test_unpool_undoes_max_pool() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 6))

    def both(space: Any) -> Callable[..., Any]:
        return lambda v: space.max_unpool2d(*space.max_pool2d(v, 2, return_indices=True), 2, output_size=(7, 6))

    agree(both(ft), both(F), x)


@pytest.mark.parametrize(("arguments", "launches"), [((2,), 1), ((3, 2, 1), 1), ((3, 1, 1), 2)])
def test_pool_of_an_activation(arguments: tuple[int, ...], launches: int) -> None:
    """One kernel; but what every window would compute nine times over is stored."""
    x = ft.input((2, 4, 16, 16))
    assert len(ft.compile(ft.max_pool2d(ft.silu(x), *arguments), [x], device="interpreter").launches) == launches


# ---- interpolate -----------------------------------------------------------------------------------------------

RESIZED = [((1,), (4,)), ((5,), (5,)), ((7,), (3,)), ((4,), (9,)), ((6,), (12,)), ((8,), (1,)), ((9,), (3,))]
MODES = {
    1: ("nearest", "nearest-exact", "linear", "area"),
    2: ("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
    3: ("nearest", "nearest-exact", "trilinear", "area"),
}


@pytest.mark.parametrize("mode", sorted({m for modes in MODES.values() for m in modes}))
@pytest.mark.parametrize("align_corners", [None, False, True])
def test_interpolate_to_sizes(mode: str, align_corners: bool | None) -> None:
    if align_corners is not None and mode in ("nearest", "nearest-exact", "area"):
        pytest.skip("has no meaning there")
    for n, modes in MODES.items():
        if mode not in modes:
            continue
        for i, (source, out) in enumerate(RESIZED):
            shape = (1, 2, *source, *(RESIZED[(i + j + 1) % len(RESIZED)][0][0] for j in range(n - 1)))
            size = (*out, *(RESIZED[(i + 2 * j + 2) % len(RESIZED)][1][0] for j in range(n - 1)))
            x = np.random.default_rng(i).standard_normal(shape)
            options = {"mode": mode, "align_corners": align_corners}
            agree(
                lambda v, s=size, o=options: ft.interpolate(v, s, **o),
                lambda v, s=size, o=options: F.interpolate(v, s, **o),
                x,
            )


@pytest.mark.parametrize("factor", [0.3, 0.5, 0.77, 1.0, 1.6, 2, 2.5, 3.0])
@pytest.mark.parametrize("recompute", [None, True])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic", "area"])
def test_interpolate_by_factors(mode: str, factor: float, recompute: bool | None) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 10, 7))
    for align_corners in (None,) if mode in ("nearest", "nearest-exact", "area") else (None, True):
        options = {"mode": mode, "align_corners": align_corners, "recompute_scale_factor": recompute}
        agree(
            lambda v, o=options: ft.interpolate(v, scale_factor=factor, **o),
            lambda v, o=options: F.interpolate(v, scale_factor=factor, **o),
            x,
        )


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
def test_a_factor_that_changes_no_size(mode: str, antialias: bool) -> None:
    """Values alone: torch's gradient of a cubic resize to the same size is that of a copy, its value is not."""
    x = np.random.default_rng(0).standard_normal((1, 2, 10, 7))
    v = ft.input(x.shape, "float64")
    options = {"scale_factor": (1.05, 2.0), "mode": mode, "antialias": antialias}
    want = F.interpolate(torch.from_numpy(x), **options).numpy()
    assert_close(ft.evaluate(ft.interpolate(v, **options), {v: x}), want, tolerance=1e-12)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("align_corners", [None, True])
@pytest.mark.parametrize("size", [(3, 4), (1, 1), (10, 7), (4, 15), (20, 3)])
def test_interpolate_antialiased(mode: str, align_corners: bool | None, size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 10, 7))
    options = {"mode": mode, "align_corners": align_corners, "antialias": True}
    agree(lambda v: ft.interpolate(v, size, **options), lambda v: F.interpolate(v, size, **options), x)


@pytest.mark.parametrize("exact", [False, True])
def test_nearest_reads_what_torch_reads(exact: bool) -> None:
    """Every pair of sizes up to 40, and odd factors: an index off by one would be another element."""
    mode = "nearest-exact" if exact else "nearest"
    for size, dtype in itertools.product(range(1, 41, 3), (np.float32, np.float64)):
        x = np.arange(float(size)).astype(dtype)[None, None]
        for out in range(1, 41):
            v = ft.input(x.shape, ft.dtype(dtype))
            got = ft.evaluate(ft.interpolate(v, out, mode=mode), {v: x})
            want = F.interpolate(torch.from_numpy(x), out, mode=mode).numpy()
            np.testing.assert_array_equal(got, want, err_msg=f"{size} -> {out} {dtype}")


def test_interpolate_pool_chain() -> None:
    """A named regression elsewhere: gradients through resizing, an activation and pooling, to second order."""

    def chain(x: ft.Value) -> ft.Value:
        up = ft.interpolate(ft.silu(x), scale_factor=2, mode="bilinear")
        return ft.avg_pool2d(ft.max_pool2d(ft.tanh(up), 3, 2, 1), 2, 1)

    check_grads(chain, (1, 2, 3, 4), order=2)
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 6))
    agree(
        chain,
        lambda v: F.avg_pool2d(
            F.max_pool2d(torch.tanh(F.interpolate(F.silu(v), scale_factor=2, mode="bilinear")), 3, 2, 1), 2, 1
        ),
        x,
    )


# ---- padding, pixels, grids ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_pad_as_torch(mode: str, axes: int) -> None:
    rng = np.random.default_rng(axes)
    x = rng.standard_normal((2, 3, *(4, 5, 6)[:axes]))
    widths = [int(v) for v in rng.integers(0, 4, 2 * axes)]
    agree(lambda v: ft.pad(v, widths, mode=mode), lambda v: F.pad(v, widths, mode=mode), x)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap", "symmetric"])
def test_pad_as_numpy(mode: str) -> None:
    x = np.random.default_rng(0).standard_normal((4, 1, 6))
    widths = ((3, 2), (1, 1) if mode not in ("reflect",) else (0, 0), (0, 5))
    v = ft.input(x.shape, "float64")
    np.testing.assert_array_equal(ft.evaluate(ft.pad(v, widths, mode=mode), {v: x}), np.pad(x, widths, mode))
    check_grads(lambda v: ft.pad(v, widths, mode=mode), x, order=2)


@pytest.mark.parametrize("order", ["cpp", "ppc"])
def test_patchify_and_back(order: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 12))
    v = ft.input(x.shape, "float64")
    rows = ft.patchify(v, (2, 3), order)
    assert rows.shape == (2, 16, 18)
    np.testing.assert_array_equal(ft.evaluate(ft.unpatchify(rows, (2, 3), (8, 12), order), {v: x}), x)
    np.testing.assert_array_equal(ft.evaluate(ft.pixel_shuffle(ft.pixel_unshuffle(v, 4), 4), {v: x}), x)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample(mode: str, padding_mode: str, align_corners: bool) -> None:
    rng = np.random.default_rng(0)
    options = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    for plane in ((5, 4), (1, 6), (3, 4, 5)):
        if len(plane) == 3 and mode == "bicubic":
            continue
        x = rng.standard_normal((2, 3, *plane))
        grid = rng.uniform(-2.5, 2.5, (2, *((2, 3, 4)[: len(plane)]), len(plane)))
        agree(lambda v, g: ft.grid_sample(v, g, **options), lambda v, g: F.grid_sample(v, g, **options), x, grid)


def test_identity_grid_reads_the_image() -> None:
    """At the very corners, where torch's clamp has no gradient."""
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 5))
    theta = np.array([[[1.0, 0, 0], [0, 1, 0]]])

    def both(space: Any) -> Callable[..., Any]:
        def sampled(v: Any, t: Any) -> Any:
            grid = space.affine_grid(t, (1, 2, 4, 5), align_corners=True)
            return space.grid_sample(v, grid, padding_mode="border", align_corners=True)

        return sampled

    agree(both(ft), both(F), x, theta)
    np.testing.assert_allclose(ours(both(ft), x, theta)[0][0], x, rtol=1e-12)


# ---- layers ----------------------------------------------------------------------------------------------------

LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    *((f"MaxPool{n}d", (3, 2, 1), {"ceil_mode": True, "return_indices": True}) for n in (1, 2, 3)),
    *((f"AvgPool{n}d", (3, 2, 1), {"ceil_mode": True, "count_include_pad": False}) for n in (1, 2, 3)),
    *((f"AdaptiveAvgPool{n}d", (2,), {}) for n in (1, 2, 3)),
    *((f"AdaptiveMaxPool{n}d", (2,), {"return_indices": True}) for n in (1, 2, 3)),
    ("Upsample", (), {"scale_factor": 2.5, "mode": "bicubic", "align_corners": False}),
    ("PixelShuffle", (2,), {}),
    ("PixelUnshuffle", (2,), {}),
]


@pytest.mark.parametrize(("name", "arguments", "options"), LAYERS, ids=[row[0] for row in LAYERS])
def test_layers_as_torch(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    n = int(name[-2]) if name[-2].isdigit() else 2
    x = np.random.default_rng(0).standard_normal((2, 4, *(6, 4, 6)[:n]))
    layer = getattr(ft.nn, name)(*arguments, **options)
    assert not layer.parameters()
    agree(layer, getattr(torch.nn, name)(*arguments, **options), x)
