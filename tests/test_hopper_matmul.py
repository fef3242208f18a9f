"""The Hopper matmul: when it is chosen, its configurations, and (on the GPU) its numbers against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hopper import CONFIGS, TARGET, Forced, Product, lowered

import flame_triton as ft
from flame_triton.graph.pipeline import optimise
from flame_triton.graph.plan import Descriptor, Target
from flame_triton.ir.graph import Graph
from flame_triton.kernels.hopper import matmul_configs
from flame_triton.kernels.hopper.matmul_configs import HopperConfig
from flame_triton.kernels.portable.matmul_configs import Problem
from flame_triton.runtime import lower as lower_module

LARGE = Product(4608, 3072, 3072)


# ---- when it is chosen -------------------------------------------------------------------------------------------


def labels(graph: Graph, target: Target = TARGET) -> list[str]:
    return [launch.label for launch in lowered(graph, target=target).launches]


@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_large_products_of_16_bit_floats_take_it(layout: str, dtype: str) -> None:
    assert all(label.startswith("hopper") for label in labels(replace(LARGE, layout=layout, dtype=dtype).graph()))


@pytest.mark.parametrize(
    "product",
    [
        replace(LARGE, dtype="float32"),
        replace(LARGE, K=3070),  # rows of 6,140 bytes
        replace(LARGE, N=3070, layout="nn"),
        Product(64, 64, 64),  # too little work
    ],
)
def test_what_tma_cannot_read_takes_the_portable_kernel(product: Product) -> None:
    assert not any(label.startswith("hopper") for label in labels(product.graph()))


@pytest.mark.parametrize("target", [Target(arch=80, shared_bytes=166912), Target(arch=100)])
def test_other_architectures_take_the_portable_kernel(target: Target) -> None:
    assert not any(label.startswith("hopper") for label in labels(LARGE.graph(), target))


def test_a_slice_off_the_16_byte_grid_takes_the_portable_kernel() -> None:
    x, w = ft.input((4608, 3080), "bfloat16"), ft.input((3072, 3072), "bfloat16")
    for start, hopper in ((8, True), (4, False)):
        y = x[:, start : start + 3072] @ w
        (label, *_) = labels(optimise(Graph((x, w), (y,)), target=TARGET))
        assert label.startswith("hopper") == hopper, label


def test_heads_of_a_packed_projection_are_read_where_they_lie() -> None:
    x, w = ft.input((8, 1024, 3, 16, 64), "bfloat16"), ft.input((8, 16, 64, 1024), "bfloat16")
    q = ft.transpose(x[:, :, 0], (0, 2, 1, 3))
    made = lowered(optimise(Graph((x, w), (q @ w,)), target=TARGET))
    # Two batch axes with strides of their own: TMA descriptors have one, so the portable kernel reads it in place.
    assert [launch.label for launch in made.launches] == ["matmul"]
    one = ft.transpose(x[0, :, 0], (1, 0, 2)) @ w[0]
    (launch, *_) = lowered(optimise(Graph((x, w), (one,)), target=TARGET)).launches
    a = launch.args[0]
    assert isinstance(a, Descriptor)
    assert (a.shape, a.strides, a.block[0]) == ((16, 1024, 64), (64, 3072, 1), 1)


# ---- configurations ----------------------------------------------------------------------------------------------

PROBLEMS = [
    Problem(1, 4608, 12288, 3072, "bfloat16"),
    Problem(1, 4608, 3072, 12288, "bfloat16"),
    Problem(1, 16384, 640, 640, "bfloat16"),
    Problem(24, 64, 64, 64, "bfloat16"),
    Problem(1, 1, 8, 8, "float16"),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("out_size", [2, 4])
def test_configurations_fit_shared_memory(problem: Problem, out_size: int) -> None:
    found = matmul_configs.configs(problem, 132, out_size)
    assert found
    assert len(set(found)) == len(found)
    assert all(matmul_configs.shared_bytes(c, out_size) <= matmul_configs.SHARED_LIMIT for c in found)
    assert all(c.STAGES >= 2 for c in found)
    assert matmul_configs.heuristic(problem, 132, out_size) in found


def test_the_heuristic_is_a_candidate_of_the_lowering() -> None:
    made = lowered(LARGE.graph())
    (decision,) = [d for d in made.decisions if d.problem.family == "matmul"]
    assert decision.source == "heuristic"
    assert decision.chosen in decision.candidates()
    assert any(not isinstance(c, HopperConfig) for c in decision.candidates()), "the portable kernel takes part"


def test_cut_tiles_are_finished_by_a_second_launch_that_reads_the_parts() -> None:
    first, second = lowered(LARGE.graph(), CONFIGS["cooperative, cut"]).launches
    parts = [slot for slot in first.writes if slot.value is None]
    assert len(parts) == 1
    assert parts[0] in second.reads
    assert parts[0].nbytes == 2 * 132 * 128 * 256 * 4
    assert second.grid == (36 * 12 % 132, 4, 4)


# ---- numbers -----------------------------------------------------------------------------------------------------

TAILS = [
    Product(128, 256, 64),
    Product(264, 520, 72, "nt", epilogue="gate"),
    Product(1, 8, 8, "nt"),
    Product(77, 136, 200, "nn", epilogue="save"),
    Product(1000, 200, 1096, "tn"),
    Product(264, 392, 136, "tt", epilogue="wide"),
    Product(129, 257 * 8, 64, "nt", dtype="float16", epilogue="gate"),
    Product(130, 72, 136, "nn", batch=5, epilogue="save"),
    Product(256, 256, 8192, "nt", epilogue="gate"),
    Product(2432, 896, 2112, "nt"),  # 133 tiles: the cut tile has fewer blocks than there are programs
    Product(1152, 3072, 1032, "nt", epilogue="gate"),
]


def run(monkeypatch: pytest.MonkeyPatch, product: Product, config: HopperConfig | None, arrays: list[Any]) -> list[Any]:
    """The results on the GPU with one configuration."""
    original = lower_module.lower
    forced = Forced(config)
    monkeypatch.setattr(lower_module, "lower", lambda g, u, t, choices=None, limit=None: original(g, u, t, forced))
    leaves = product.leaves()
    program = ft.compile(product.results(leaves), leaves, device="cuda")
    if config is not None:
        assert any(launch.label.startswith("hopper") for launch in program.launches)
    return [r.float().cpu().numpy().astype(np.float64) for r in program(*arrays)]


@pytest.mark.gpu
@pytest.mark.parametrize("product", TAILS, ids=str)
def test_tails(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to share the work, against float64; the same bits twice; no element left unwritten."""
    import torch

    generator = torch.Generator().manual_seed(1)
    leaves = product.leaves()
    dtype = getattr(torch, product.dtype)
    arrays = [torch.randn(v.shape, generator=generator).to(dtype).cuda() for v in leaves]
    arrays[0] *= product.K**-0.5
    exact = exact_results(product, [a.double() for a in arrays])
    bound = 1e-2 if product.dtype == "bfloat16" else 2e-3
    for name, config in CONFIGS.items():
        results = run(monkeypatch, product, config, arrays)
        again = run(monkeypatch, product, config, arrays)
        for got, same, want in zip(results, again, exact, strict=True):
            assert np.array_equal(got, same), f"{name}: two runs differ"
            error = np.sqrt(((got - want) ** 2).mean() / (want**2).mean())
            assert error < bound, f"{name}: relative RMS {error:.1e}"
            assert np.abs(got - want).max() < 8 * bound * max(1.0, float(np.abs(want).max())), name


def exact_results(product: Product, arrays: list[Any]) -> list[np.ndarray]:
    """torch in float64; every intermediate unrounded."""
    import torch

    a, b, *more = arrays
    y = (a if product.layout[0] == "n" else a.transpose(-1, -2)) @ (
        b if product.layout[1] == "n" else b.transpose(-1, -2)
    )
    if product.epilogue == "none":
        return [y.cpu().numpy()]
    bias, residual = more
    y = y + bias
    if product.epilogue == "wide":
        return [(y + residual).cpu().numpy()]
    active = residual + torch.nn.functional.gelu(y, approximate="tanh")
    return [r.cpu().numpy() for r in ((active, y) if product.epilogue == "save" else (active,))]
