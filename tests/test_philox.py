"""Random draws: the published vectors, the rules of tl.rand and tl.randn, and the same numbers on every executor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import flame_triton as ft
from flame_triton import config
from flame_triton.graph.simplify import simplify
from flame_triton.ir.graph import Graph
from flame_triton.ops.philox import as_normal, as_uniform, draw, philox
from flame_triton.testing import assert_close

DEVICE = "interpreter" if config.interpreted() else "cuda"
ONES, PI = 0xFFFFFFFF, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)


# ---- the generator ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [  # Random123's kat_vectors, philox4x32 10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (PI, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], want: tuple[int, ...]) -> None:
    assert tuple(int(w) for w in philox(counter, key[0] | key[1] << 32)) == want


def test_words_broadcast() -> None:
    index = np.arange(5)
    words = philox((index, 0, 3, 7), 42)
    for i in range(5):
        assert [int(w[i]) for w in words] == [int(w) for w in philox((i, 0, 3, 7), 42)]


def test_uniform_at_the_ends() -> None:
    words = np.array([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF], np.uint64)
    got = as_uniform(words)
    assert got.dtype == np.float32
    assert (got >= 0).all() and (got < 1).all()
    np.testing.assert_array_equal(got[[0, 4]], [0.0, 0.0])
    assert got[2] == got[3] == np.float32(2147483648.0) * np.float32(4.6566127342e-10)


def test_normal_at_the_ends() -> None:
    got = as_normal(np.array([0, 0xFFFFFFFF, 0x7FFFFFFF], np.uint64), np.array([0, 0, 0], np.uint64))
    assert np.isfinite(got).all()
    assert got[0] == got[1] == pytest.approx(np.sqrt(-2 * np.log(1e-7)), rel=1e-6)


def test_draw_does_not_depend_on_blocks() -> None:
    """Element i is a function of i alone: a long draw begins with a short one, and the last block is a part of one."""
    words = draw((3, 7001), np.uint64, 9, 1, 2, lambda a, b: a)
    np.testing.assert_array_equal(words.reshape(-1), philox((np.arange(21003), 0, 1, 2), 9)[0])


def test_shape_of_the_distributions() -> None:
    n = 1 << 18
    u = draw((n,), np.float32, 1, 0, 0, lambda a, b: as_uniform(a)).astype(np.float64)
    z = draw((n,), np.float32, 1, 0, 0, as_normal).astype(np.float64)
    assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * n)
    assert abs(u.var() - 1 / 12) < 1e-3
    assert abs(z.mean()) < 4 / np.sqrt(n)
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 0.1
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / np.sqrt(n)


# ---- draws as ops ----------------------------------------------------------------------------------------------


def drawn(make: Callable[[ft.Value], ft.Value], seed: int = 7, step: int = 0) -> np.ndarray:
    state = ft.rng_seed(seed)
    return ft.evaluate(make(state), {state: np.array([seed, step])}, dtype=None)


def test_rebuilding_draws_the_same_and_each_draw_is_another() -> None:
    def two(seed: ft.Value) -> ft.Value:
        return ft.stack([ft.uniform((100,), seed), ft.uniform((100,), seed)])

    first, again = drawn(two), drawn(two)
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).mean() > 0.99
    assert (first != drawn(two, seed=8)).mean() > 0.99
    assert (first != drawn(two, step=1)).mean() > 0.99


def test_a_draw_is_its_philox_words() -> None:
    got = drawn(lambda seed: ft.stack([ft.uniform((3, 5), seed), ft.normal((3, 5), seed)]), seed=11, step=4)
    words = [philox((np.arange(15), 0, stream, 4), 11) for stream in (0, 1)]
    np.testing.assert_array_equal(got[0], as_uniform(words[0][0]).reshape(3, 5))
    np.testing.assert_array_equal(got[1], as_normal(words[1][0], words[1][1]).reshape(3, 5))


def test_seeds_of_64_bits() -> None:
    high = ft.rng_seed((1 << 63) + 5)
    low = ft.rng_seed(5)
    a, b = (ft.evaluate(ft.uniform((50,), s), dtype=None) for s in (high, low))
    np.testing.assert_array_equal(a, as_uniform(philox((np.arange(50), 0, 0, 0), (1 << 63) + 5)[0]))
    assert (a != b).all()


def test_next_step() -> None:
    seed = ft.rng_seed(3)
    np.testing.assert_array_equal(ft.evaluate(ft.next_step(seed)), [3, 1])
    np.testing.assert_array_equal(ft.evaluate(ft.next_step(ft.next_step(seed))), [3, 2])
    assert not seed.node.attrs["trainable"]


def test_equal_draws_are_not_merged() -> None:
    """Two masks of one shape are two masks, even on the same stream of two graphs joined by hand."""
    seed = ft.rng_seed(0)
    x = ft.input((64,), "float32")
    y = ft.dropout(x, 0.5, seed) + ft.dropout(x, 0.5, seed)
    graph = simplify(Graph((x, seed), (y,)))
    assert sum(n.op.name == "random_uniform" for n in graph.nodes) == 2


def test_ranges() -> None:
    u = drawn(lambda s: ft.uniform((10000,), s, -2.0, 3.0))
    assert u.min() >= -2 and u.max() < 3 and abs(u.mean() - 0.5) < 0.1
    z = drawn(lambda s: ft.normal((10000,), s, mean=4.0, std=0.5))
    assert abs(z.mean() - 4) < 0.03 and abs(z.std() - 0.5) < 0.02
    k = drawn(lambda s: ft.randint(-3, 4, (7000,), s))
    assert k.dtype == np.int64
    counts = np.bincount(k + 3, minlength=7)
    assert len(counts) == 7 and (abs(counts - 1000) < 150).all()
    wide = drawn(lambda s: ft.randint(-(2**31), 0, (1000,), s, dtype="int32"))
    assert wide.dtype == np.int32 and wide.min() < -2e9 and -1e8 < wide.max() < 0


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_bernoulli_and_dropout(p: float) -> None:
    flags = drawn(lambda s: ft.bernoulli(p, (20000,), s))
    assert flags.dtype == np.bool_
    assert abs(flags.mean() - p) < 0.02
    kept = drawn(lambda s: ft.dropout(ft.ones((20000,)), p, s))
    assert set(np.unique(kept)) <= {np.float32(0), np.float32(1 / (1 - p)) if p < 1 else np.float32(0)}
    assert abs((kept == 0).mean() - p) < 0.02


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_masks_agree_in_every_dtype_and_with_the_oracle(dtype: str) -> None:
    want = drawn(lambda s: ft.bernoulli(0.3, (4096,), s))
    seed = ft.rng_seed(7)
    y = ft.dropout(ft.ones((4096,), dtype), 0.3, seed)
    for wide in (None, "float64"):
        got = ft.evaluate(y, {seed: np.array([7, 0])}, dtype=wide)
        np.testing.assert_array_equal(got == 0, want)


def test_dropout_draws_its_mask_again_for_backward() -> None:
    x, seed = ft.input((1000,), "float64"), ft.rng_seed(5)
    y = ft.dropout(x, 0.4, seed)
    (dx,) = ft.grad(ft.sum(y), [x])
    values = np.random.default_rng(0).standard_normal(1000)
    out, gradient = ft.evaluate([y, dx], {x: values})
    np.testing.assert_array_equal(out == 0, gradient == 0)
    np.testing.assert_allclose(gradient[gradient != 0], 1 / 0.6)


def test_dropout_outside_training_is_nothing() -> None:
    x = ft.input((3,), "float32")
    assert ft.dropout(x, 0.5, training=False) is x
    assert ft.dropout(x, 0.0) is x


# ---- the kernels draw the same numbers -------------------------------------------------------------------------

SHAPES = [(1,), (17,), (3, 5), (129,), (2, 3, 65), (1000, 3)]


def through_kernels(outputs: list[ft.Value], seed: ft.Value, feed: np.ndarray) -> list[np.ndarray]:
    program = ft.compile(outputs, [seed], device=DEVICE)
    return [t.cpu().numpy() for t in program(feed)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("feed", [(7, 0), (-5, 3), (2**40 + 1, 2**33 + 9)], ids=str)
def test_kernels_agree(shape: tuple[int, ...], feed: tuple[int, int]) -> None:
    """Bits, uniforms and masks to the bit; normals to tolerance, since log, cos and sqrt may be approximate."""
    seed = ft.input((2,), "int64")
    outputs = [
        ft.uniform(shape, seed),
        ft.randint(-9, 1000, shape, seed),
        ft.bernoulli(0.3, shape, seed),
        ft.normal(shape, seed),
    ]
    data = np.array(feed)
    want = ft.evaluate(outputs, {seed: data}, dtype=None)
    got = through_kernels(outputs, seed, data)
    for a, r in zip(got[:3], want[:3], strict=True):
        assert a.dtype == r.dtype
        np.testing.assert_array_equal(a, r)
    assert_close(got[3], want[3], "float32")


def test_the_index_is_logical_whatever_the_layout() -> None:
    """A draw that is transposed, sliced and joined in the kernel is the draw, transposed, sliced and joined."""
    seed = ft.input((2,), "int64")
    u = ft.uniform((6, 10), seed)
    outputs = [ft.transpose(u) * 1.0, u[1::2, ::-3] * 1.0, ft.concat([u, u], 1), ft.sum(u, 0)]
    data = np.array([3, 1])
    want = ft.evaluate(outputs, {seed: data}, dtype=None)
    got = through_kernels(outputs, seed, data)
    for a, r in zip(got[:3], want[:3], strict=True):
        np.testing.assert_array_equal(a, r)
    assert_close(got[3], want[3], "float32")
