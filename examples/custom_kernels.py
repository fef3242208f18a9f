"""Your own ops: a snake activation as an expression, and SwiGLU with Triton kernels of its own.

Run: python examples/custom_kernels.py
Prove: flame-triton check examples/custom_kernels.py
"""

import flame_triton as ft  # before triton: it decides whether this process compiles kernels or interprets them

# isort: split
import numpy as np
import triton
import triton.language as tl

# ---- an expression: one kernel, and its gradient for free -------------------------------------------------------


@ft.fused(strict=True, samples=[((3, 17), (17,)), ((1,), (1,))])
def snake(x, a):
    """x + sin^2(a x) / a (Ziyin et al. 2020). x: [..., C], a: [C]."""
    return x + ft.square(ft.sin(a * x)) / a


# ---- a kernel: SwiGLU, y = g * sigmoid(g) * x, forward and backward ------------------------------------------------


@triton.jit
def swiglu_kernel(p_x, p_g, p_y, n, BLOCK: tl.constexpr):
    """p_x, p_g, p_y: [n]; grid: blocks of BLOCK elements."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    dtype = tl.float64 if p_x.dtype.element_ty == tl.float64 else tl.float32
    x = tl.load(p_x + i, mask=inside, other=0).to(dtype)
    g = tl.load(p_g + i, mask=inside, other=0).to(dtype)
    y = x * g / (1 + tl.exp(-g))
    tl.store(p_y + i, y.to(p_y.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward_kernel(p_x, p_g, p_dy, p_dx, p_dg, n, BLOCK: tl.constexpr):
    """With s = sigmoid(g): dx = dy * g * s, dg = dy * x * s * (1 + g * (1 - s))."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    dtype = tl.float64 if p_x.dtype.element_ty == tl.float64 else tl.float32
    x = tl.load(p_x + i, mask=inside, other=0).to(dtype)
    g = tl.load(p_g + i, mask=inside, other=0).to(dtype)
    dy = tl.load(p_dy + i, mask=inside, other=0).to(dtype)
    s = 1 / (1 + tl.exp(-g))
    tl.store(p_dx + i, (dy * g * s).to(p_dx.dtype.element_ty), mask=inside)
    tl.store(p_dg + i, (dy * x * s * (1 + g * (1 - s))).to(p_dg.dtype.element_ty), mask=inside)


CONFIGS = [{"BLOCK": block, "num_warps": warps} for block, warps in ((4096, 8), (1024, 4), (128, 1))]


def same_shape(x, g):
    if x != g:
        raise ft.errors.ShapeError(f"x and g must be of one type, got {x} and {g}")
    return x


def small_enough(problem, config):
    return config["BLOCK"] <= max(128, problem.out.size)


def sigmoid(g):
    return 1 / (1 + np.exp(-g))


def backward_by_hand(node, ddx, ddg):
    """The gradient of the backward op, written in ft's own ops."""
    x, g, dy = node.inputs
    s = ft.sigmoid(g)
    slope = s * (1 + g * (1 - s))  # of g * s
    bend = s * (1 - s) * (2 + g * (1 - 2 * s))  # of the slope
    return ddg * dy * slope, ddx * dy * slope + ddg * dy * x * bend, ddx * g * s + ddg * x * slope


swiglu_backward = ft.custom_op(
    "swiglu_backward",
    infer=lambda x, g, dy: (x, g),
    kernel=swiglu_backward_kernel,
    args=lambda problem: {"n": problem.out.size},
    grid=lambda problem, config: -(-problem.out.size // config["BLOCK"]),
    configs=CONFIGS,
    valid=small_enough,
    ref=lambda x, g, dy: (dy * g * sigmoid(g), dy * x * sigmoid(g) * (1 + g * (1 - sigmoid(g)))),
    vjp=backward_by_hand,
)

swiglu = ft.custom_op(
    "swiglu",
    infer=same_shape,
    kernel=swiglu_kernel,
    args=lambda problem: {"n": problem.out.size},
    grid=lambda problem, config: -(-problem.out.size // config["BLOCK"]),
    configs=CONFIGS,
    valid=small_enough,
    ref=lambda x, g: x * g * sigmoid(g),
    vjp=swiglu_backward,
    samples=[((3, 17), (3, 17)), ((1,), (1,)), ((129,), (129,))],
)


def main() -> float:
    """The largest difference between the kernels and float64, values and gradients of a small layer."""
    x, w, a = ft.input((8, 32), name="x"), ft.input((32, 64), name="w"), ft.input((32,), name="a")
    both = snake(x, a) @ w
    y = swiglu(both[:, :32], both[:, 32:])
    outputs = [y, *ft.grad(ft.mean(y * y), [x, w, a])]
    program = ft.compile(outputs, inputs=[x, w, a])
    print(program.listing())
    print(snake.explain(x, a))
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.5, 1.5, v.shape).astype(np.float32) / (v.shape[0] if v is w else 1) for v in (x, w, a)]
    arrays = [array.astype(np.float32) for array in arrays]
    exact = ft.evaluate(outputs, dict(zip((x, w, a), arrays, strict=True)))
    found = [np.asarray(tensor.cpu()) for tensor in program(*arrays)]
    return max(float(np.abs(f - e).max()) for f, e in zip(found, exact, strict=True))


if __name__ == "__main__":
    print(f"largest difference from float64: {main():.2g}")
