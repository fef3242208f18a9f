"""A graph, its gradient, and a compiled program that runs both.    python examples/gradient.py"""

import numpy as np

import flame_triton as ft


def graph() -> tuple[list[ft.Value], list[ft.Value]]:
    """Inputs and outputs of a least-squares loss with its gradient; see it with

    flame-triton graph examples.gradient:picture --stage fuse
    """
    x = ft.input((32, 64), "float32", name="x")
    w = ft.parameter((64, 10), "float32", name="w")
    target = ft.input((32, 10), "float32", name="target")
    loss = ft.mean(ft.square(ft.softmax(x @ w, axis=-1) - target))
    (dw,) = ft.grad(loss, [w])  # more graph
    return [x, w, target], [loss, dw]


def picture() -> list[ft.Value]:
    """The outputs, for `flame-triton graph`."""
    return graph()[1]


def main() -> tuple[float, float]:
    """Run it in float32 by the process's kernels (interpreted without a GPU) and in float64; both losses."""
    inputs, outputs = graph()
    step = ft.compile(outputs, inputs)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(v.shape).astype("float32") for v in inputs]
    loss, dw = step(*arrays)
    exact, exact_dw = ft.evaluate(outputs, dict(zip(inputs, arrays, strict=True)))
    print(f"loss {float(loss):.7f}, in float64 {float(exact):.7f}")
    print(f"largest difference in the gradient: {np.abs(dw.cpu().numpy() - exact_dw).max():.1e}")
    return float(loss), float(exact)


if __name__ == "__main__":
    main()
