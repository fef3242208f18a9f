"""A network that reads handwritten digits: define, differentiate, compile, train.    python examples/mlp.py"""

import numpy as np
from sklearn.datasets import load_digits

import flame_triton as ft

BATCH, HELD_BACK = 64, 360


class Reader(ft.nn.Module):
    """Images [B, 64] -> logits [B, 10]."""

    def __init__(self, hidden: int = 64) -> None:
        self.hidden = ft.nn.Linear(64, hidden)
        self.norm = ft.nn.LayerNorm(hidden)
        self.out = ft.nn.Linear(hidden, 10)

    def forward(self, x: ft.Value) -> ft.Value:
        return self.out(ft.gelu(self.norm(self.hidden(x))))


def main(steps: int = 600, device: str = "reference") -> float:
    """Train, and return the share of digits kept out of training that is read right."""
    model = Reader()
    x, labels = ft.input((BATCH, 64), name="x"), ft.input((BATCH,), "int64", name="labels")
    loss = ft.cross_entropy(model(x), labels)  # a graph: nothing has been computed yet
    gradients = ft.grad(loss, model.parameters())  # more of it
    optimizer = ft.optim.AdamW(model.parameters(), lr=3e-3, clip_norm=1.0)
    state = ft.State([*model.parameters(), *optimizer.state_values], device=device)
    step = ft.compile(loss, [x, labels], state=state, updates=optimizer.updates(gradients), device=device)

    pixels, targets = load_digits(return_X_y=True)
    images, rng = (pixels / 8 - 1).astype(np.float32), np.random.default_rng(0)
    for i in range(steps):
        rows = rng.integers(HELD_BACK, len(images), BATCH)
        value = step(images[rows], targets[rows])
        if i % 100 == 0:
            print(f"step {i}: loss {float(value):.4f}")

    unseen = ft.input((HELD_BACK, 64), name="unseen")
    read = ft.compile(ft.argmax(model(unseen), axis=-1), [unseen], state=state, device=device)
    return float(np.mean(read(images[:HELD_BACK]).cpu().numpy() == targets[:HELD_BACK]))


if __name__ == "__main__":
    print(f"{100 * main():.1f}% of the digits it has never seen are read right")
