"""A diffusion transformer that draws digits: define, differentiate, compile, train, sample.

python examples/train_dit.py
"""

import numpy as np
from sklearn.datasets import load_digits

import flame_triton as ft
from flame_triton import diffusion, nn

BATCH, WIDTH, NO_LABEL = 64, 64, 10


class Block(nn.Module):
    """x [B, T, C], condition [B, C] -> [B, T, C]; shifts, scales and gates come from the condition (adaLN-Zero)."""

    def __init__(self) -> None:
        self.modulation = nn.Linear(WIDTH, 6 * WIDTH, init=nn.init.zeros)
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.attention, self.mlp = nn.Attention(WIDTH, 4), nn.MLP(WIDTH, 4 * WIDTH)

    def forward(self, x: ft.Value, condition: ft.Value) -> ft.Value:
        shift1, scale1, gate1, shift2, scale2, gate2 = ft.chunk(self.modulation(condition), 6, 1)
        x = x + gate1[:, None] * self.attention(nn.modulate(self.norm(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(nn.modulate(self.norm(x), shift2, scale2))


class DiT(nn.Module):
    """Images as 16 patches [B, 16, 4], times [B] in 0 ... 1000, labels [B] (10: none) -> velocity [B, 16, 4]."""

    def __init__(self) -> None:
        self.patches, self.out = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 4, init=nn.init.zeros)
        self.position = nn.Parameter((1, 16, WIDTH), nn.init.normal(0.02))
        self.time, self.labels = nn.TimestepEmbedding(WIDTH), nn.Embedding(11, WIDTH)
        self.blocks = [Block() for _ in range(3)]

    def forward(self, x: ft.Value, t: ft.Value, labels: ft.Value) -> ft.Value:
        condition = ft.silu(self.time(t) + self.labels(labels))
        x = self.patches(x) + self.position
        for block in self.blocks:
            x = block(x, condition)
        return self.out(x)


def main(steps: int = 800, device: str = "reference") -> tuple[list[float], float]:
    """Train, then draw ten of each digit. The losses, and the share whose nearest real digit has their label."""
    model, seed = DiT(), ft.rng_seed(0)
    x, labels = ft.input((BATCH, 16, 4), name="x"), ft.input((BATCH,), "int64", name="labels")
    noise, t = ft.normal(x.shape, seed), diffusion.draw_times(BATCH, seed)
    shown = ft.where(diffusion.dropped(BATCH, seed), NO_LABEL, labels)  # now and then without its label
    velocity = model(diffusion.flow_noisy(x, noise, t), t * 1000.0, shown)
    loss = ft.mse_loss(velocity, diffusion.flow_target(x, noise))
    optimizer = ft.optim.AdamW(model.parameters(), lr=2e-3, clip_norm=1.0, ema=0.99)
    updates = optimizer.updates(ft.grad(loss, model.parameters()), also={seed: ft.next_step(seed)})
    state = ft.State([*model.parameters(), *optimizer.state_values, seed], device=device)
    step = ft.compile(loss, [x, labels], state=state, updates=updates, device=device)

    pixels, digits = load_digits(return_X_y=True)
    real = (pixels / 8 - 1).reshape(-1, 4, 2, 4, 2).swapaxes(2, 3).reshape(-1, 16, 4).astype(np.float32)
    rng, losses = np.random.default_rng(0), []
    for i in range(steps):
        rows = rng.integers(0, len(real), BATCH)
        losses.append(float(step(real[rows], digits[rows])))
        if i % 100 == 0:
            print(f"step {i}: loss {losses[-1]:.4f}")

    wanted = ft.input((100,), "int64", name="wanted")

    def guided(x: ft.Value, t: ft.Value) -> ft.Value:
        none = ft.full((100,), NO_LABEL, "int64")
        both = model(ft.concat([x, x]), ft.concat([t, t]), ft.concat([wanted, none]))
        return diffusion.guide(both[:100], both[100:], 2.0)

    sampler = diffusion.flow_euler(20)
    graph = diffusion.step_graph(sampler, guided, (100, 16, 4))
    program = ft.compile(graph.outputs, [*graph.inputs, wanted], state=state, bind=optimizer.averages, device=device)
    asked = np.repeat(np.arange(10), 10)
    drawn = sampler.draw(program, rng.standard_normal((100, 16, 4)), asked)
    distances = np.square(drawn.reshape(100, 1, -1) - real.reshape(1, -1, 64)).sum(-1)
    return losses, float(np.mean(digits[distances.argmin(1)] == asked))


if __name__ == "__main__":
    print(f"{100 * main()[1]:.0f}% of the digits drawn are nearest to a real one of their label")
