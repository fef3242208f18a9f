"""Device functions of kernels/portable/library.py: memory, rounding, random numbers, dot."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl
from kernel_launch import FLOATS, NUMPY, TAILS, Output, array, launch, samples, tensor

from flame_triton.kernels.portable import library as lib

BLOCK = 128


@triton.jit
def copy_kernel(x_ptr, out_ptr, n, other, BLOCK: tl.constexpr):
    """out[i] = x[i] for i < n, `other` for the rest of the block."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lib.store(out_ptr, i, lib.load(x_ptr, i, i < n, other))


@triton.jit
def masked_copy_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lib.store(out_ptr, i, lib.load(x_ptr, i, i < n, 0), i < n)


@triton.jit
def affine_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lib.store(out_ptr, i, lib.load(x_ptr, i, i < n, 0.0) * 3.0 - 1.0, i < n)


@triton.jit
def map_kernel(x_ptr, out_ptr, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lib.store(out_ptr, i, FUNCTION(lib.load(x_ptr, i, i < n, 0)), i < n)


@triton.jit
def random_kernel(out_ptr, seed, first, stream, step, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    """Draws number `first` and on; the index has the dtype of `first`."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    lib.store(out_ptr, i, FUNCTION(seed, first + i, stream, step), i < n)


@triton.jit
def dot_kernel(a_ptr, b_ptr, c_ptr, out_ptr, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """out = c + a @ b for one block; B > 0: with a leading dimension."""
    m = tl.arange(0, M)[:, None]
    n = tl.arange(0, N)[None, :]
    k = tl.arange(0, K)
    p_a = m * K + k[None, :]
    p_b = k[:, None] * N + n
    p_c = m * N + n
    if B > 0:
        b = tl.arange(0, B)[:, None, None]
        p_a = b * (M * K) + p_a[None, :, :]
        p_b = b * (K * N) + p_b[None, :, :]
        p_c = b * (M * N) + p_c[None, :, :]
    acc = lib.dot(tl.load(a_ptr + p_a), tl.load(b_ptr + p_b), tl.load(c_ptr + p_c), "ieee")
    tl.store(out_ptr + p_c, acc)


def blocks(n: int) -> tuple[int]:
    return (-(-n // BLOCK),)


# --- memory ---


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("n", TAILS)
def test_load_and_store_are_masked(rng: np.random.Generator, dtype: str, n: int) -> None:
    x = samples(rng, n, dtype)
    out = Output(n, dtype)
    launch(masked_copy_kernel, blocks(n), tensor(x), out, n, BLOCK=BLOCK)
    assert out.result().tobytes() == x.tobytes()


@pytest.mark.parametrize("dtype", NUMPY)
def test_load_fills_with_other(rng: np.random.Generator, dtype: str) -> None:
    x = samples(rng, 17, dtype)
    other = -1.1 if dtype in FLOATS else 1
    out = Output(BLOCK, "float64" if dtype in FLOATS else dtype)
    launch(copy_kernel, (1,), tensor(x), out, 17, other, BLOCK=BLOCK)
    expected = np.full(BLOCK, other).astype(out.result().dtype)
    expected[:17] = x.astype(expected.dtype)
    # `other` arrives as a float32 scalar; a 16-bit load may round it to its own dtype when compiled.
    np.testing.assert_allclose(out.result()[17:].astype(float), expected[17:].astype(float), rtol=4e-3)
    np.testing.assert_array_equal(out.result()[:17], expected[:17])


@pytest.mark.parametrize("dtype", FLOATS)
def test_loaded_values_are_computed_in_the_compute_dtype(rng: np.random.Generator, dtype: str) -> None:
    """Interpreted, arithmetic on raw bfloat16 is garbage; and 16-bit values are not rounded between steps."""
    x = samples(rng, 300, dtype)
    out = Output(300, "float64")
    launch(affine_kernel, blocks(300), tensor(x), out, 300, BLOCK=BLOCK)
    # Two float32 roundings, or one if the product is fused into the sum, of values up to 12: 12 * 2^-24.
    atol = 1e-14 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(out.result(), x.astype(np.float64) * 3 - 1, rtol=0, atol=atol)


@pytest.mark.parametrize("source", ["float32", "int32", "bool"])
@pytest.mark.parametrize("target", ["float64", "float32", "bfloat16", "float16", "int64", "int32", "bool"])
def test_store_converts(rng: np.random.Generator, source: str, target: str) -> None:
    x = samples(rng, 100, source)
    x[:3] = np.array([0, 1, 0]).astype(x.dtype)
    if source == "float32":
        x[3:6] = [0.25, -0.5, -2.75]  # true as bool, truncated as integers
    out = Output(100, target)
    launch(masked_copy_kernel, blocks(100), tensor(x), out, 100, BLOCK=BLOCK)
    np.testing.assert_array_equal(out.result(), x.astype(NUMPY[target]))


# --- rounding ---


def bf16_cases() -> np.ndarray:
    """Every bfloat16 value with tails below, at and above one half, as float32."""
    high = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    return (high | low).ravel().view(np.float32)


def fp16_cases() -> np.ndarray:
    """Every float16 value, the midpoint to the next one, and the float32 neighbours of both; then overflow and tiny."""
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    finite = np.sort(values[np.isfinite(values)])
    middle = (finite[:-1] + finite[1:]) / 2
    exact = np.concatenate([values, middle, np.float32([65519.9, 65520, 65536, 1e38, 1e-38, 1e-45, -65520, -1e-45])])
    with np.errstate(invalid="ignore"):
        return np.concatenate([exact, *(np.nextafter(exact, np.float32(end)) for end in (np.inf, -np.inf))])


def assert_same_bits(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal to the bit, except that every NaN equals every NaN."""
    nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), nan)
    bits = f"u{got.dtype.itemsize}"
    np.testing.assert_array_equal(got.view(bits)[~nan], expected.view(bits)[~nan])


@pytest.mark.parametrize(
    ("cases", "dtype", "function"),
    [(bf16_cases, "bfloat16", lib.round_bf16), (fp16_cases, "float16", lib.round_fp16)],
    ids=["bfloat16", "float16"],
)
def test_rounding_is_to_nearest_even(cases, dtype: str, function) -> None:
    x = cases()
    with np.errstate(all="ignore"):
        expected = x.astype(NUMPY[dtype])
    block = 65536
    stored, rounded = Output(x.size, dtype), Output(x.size, "float32")
    launch(masked_copy_kernel, (-(-x.size // block),), tensor(x), stored, x.size, BLOCK=block, num_warps=8)
    launch(map_kernel, (-(-x.size // block),), tensor(x), rounded, x.size, function, BLOCK=block, num_warps=8)
    assert_same_bits(stored.result(), expected)
    assert_same_bits(rounded.result(), expected.astype(np.float32))


def test_float64_is_stored_in_16_bits() -> None:
    """Through float32, as torch does it."""
    x = np.array([1 / 3, 1e300, -np.inf, np.nan, 1 + 2.0**-8, 1 + 3 * 2.0**-8])
    out = Output(x.size, "bfloat16")
    launch(masked_copy_kernel, (1,), tensor(x), out, x.size, BLOCK=BLOCK)
    with np.errstate(all="ignore"):
        assert_same_bits(out.result(), x.astype(np.float32).astype(NUMPY["bfloat16"]))


# --- random numbers ---


def philox(seed: int, index: np.ndarray, stream: int, step: int) -> list[np.ndarray]:
    """Philox4x32-10 in NumPy: the four words for each index (Salmon et al. 2011)."""
    low32 = np.uint64(0xFFFFFFFF)
    index = index.astype(np.int64).view(np.uint64)
    c = [index & low32, index >> np.uint64(32), np.full_like(index, stream), np.full_like(index, step)]
    key = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        k0, k1 = np.uint64(key[0]), np.uint64(key[1])
        c = [second >> np.uint64(32) ^ c[1] ^ k0, second & low32, first >> np.uint64(32) ^ c[3] ^ k1, first & low32]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return [word.astype(np.uint32) for word in c]


def signed(value: int, bits: int) -> int:
    """The integer with the same low bits that fits a signed type."""
    return value - (1 << bits) if value >> (bits - 1) else value


# Known answers of Philox4x32-10 from its authors' test suite: counter words, key words, result.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]) -> None:
    seed, index = key[1] << 32 | key[0], signed(counter[1] << 32 | counter[0], 64)
    words = philox(seed, np.array([index]), counter[2], counter[3])
    assert tuple(int(word[0]) for word in words) == answer  # the reference itself
    out = Output(1, "int32")
    # tl's integers are signed: seed and index are the same 64 bits read as int64.
    stream, step = signed(counter[2], 32), signed(counter[3], 32)
    launch(one_draw_kernel, (1,), out, signed(seed, 64), tensor(np.array([index])), stream, step)
    assert int(out.result().view(np.uint32)[0]) == answer[0]


@triton.jit
def one_draw_kernel(out_ptr, seed, index_ptr, stream, step):
    index = tl.load(index_ptr + tl.arange(0, 1))
    tl.store(out_ptr + tl.arange(0, 1), lib.randint_bits(tl.cast(seed, tl.int64), index, stream, step))


def uniform_of(word: np.ndarray) -> np.ndarray:
    bits = word.view(np.int32)
    return np.where(bits < 0, -bits - 1, bits).astype(np.float32) * np.float32(4.6566127342e-10)


@pytest.mark.parametrize("first", [0, 5, (1 << 32) - 3, (1 << 40) + 7])
def test_uniform_equals_numpy_to_the_bit(first: int) -> None:
    n, seed = 1000, 0x123456789ABCDEF
    word = philox(seed, first + np.arange(n), 7, 11)[0]
    out = Output(n, "float32")
    launch(random_kernel, blocks(n), out, seed, first, 7, 11, n, lib.uniform, BLOCK=BLOCK)
    np.testing.assert_array_equal(out.result(), uniform_of(word))
    assert out.result().min() >= 0 and out.result().max() < 1


def test_normal_is_box_muller_of_words_0_and_1() -> None:
    n, seed, block = 8192, 42, 4096
    words = philox(seed, np.arange(n), 3, 0)
    u0, u1 = uniform_of(words[0]).astype(np.float64), uniform_of(words[1]).astype(np.float64)
    out = Output(n, "float32")
    launch(random_kernel, (n // block,), out, seed, 0, 3, 0, n, lib.normal, BLOCK=block)
    # log, sqrt and cos in float32, the last two approximate when compiled; the cosine crosses zero.
    np.testing.assert_allclose(
        out.result(), np.sqrt(-2 * np.log(np.maximum(u0, 1e-7))) * np.cos(2 * np.pi * u1), rtol=2e-5, atol=4e-6
    )
    assert abs(out.result().mean()) < 0.04 and abs(out.result().std() - 1) < 0.03  # 3 to 4 standard errors


def test_streams_steps_and_seeds_draw_differently() -> None:
    draws = []
    for seed, stream, step in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1 + (1 << 32), 0, 0)]:
        out = Output(64, "int32")
        launch(random_kernel, (1,), out, seed, 0, stream, step, 64, lib.randint_bits, BLOCK=BLOCK)
        draws.append(out.result())
    assert len({draw.tobytes() for draw in draws}) == len(draws)


# --- dot ---


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("b", [0, 4])
def test_dot_is_exact_on_small_integers(rng: np.random.Generator, dtype: str, b: int) -> None:
    """Products and sums of small integers are exact in every dtype, so any lost or misplaced term is seen."""
    m, n, k = 32, 16, 64
    lead = (b,) if b else ()
    x = rng.integers(-8, 9, (*lead, m, k))
    y = rng.integers(-8, 9, (*lead, k, n))
    c = rng.integers(-8, 9, (*lead, m, n))
    wide = "float64" if dtype == "float64" else "float32"
    out = Output((*lead, m, n), wide)
    operands = (tensor(x.astype(NUMPY[dtype])), tensor(y.astype(NUMPY[dtype])), tensor(c.astype(NUMPY[wide])))
    launch(dot_kernel, (1,), *operands, out, b, m, n, k)
    np.testing.assert_array_equal(out.result(), x @ y + c)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dot_keeps_the_precision_of_its_operands(rng: np.random.Generator, dtype: str) -> None:
    x, y = samples(rng, (64, 128), dtype), samples(rng, (128, 64), dtype)
    out = Output((64, 64), dtype)
    launch(dot_kernel, (1,), tensor(x), tensor(y), tensor(np.zeros((64, 64), NUMPY[dtype])), out, 0, 64, 64, 128)
    exact = x.astype(np.longdouble) @ y.astype(np.longdouble)
    # 128 roundings of sums up to 50; tf32 products alone would be off by 5e-3 = 4e4 eps.
    assert np.abs(out.result() - exact).max() < 256 * np.finfo(NUMPY[dtype]).eps


def test_array_and_tensor_are_inverse(rng: np.random.Generator) -> None:
    for dtype in NUMPY:
        x = samples(rng, (3, 5), dtype)
        assert array(tensor(x)).tobytes() == x.tobytes()
