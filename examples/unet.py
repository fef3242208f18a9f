"""A small diffusion UNet, trained for a step: its convolutions run channels-last from end to end.

    python examples/unet.py

The program listing shows it: what is called "copy" are weights being brought into the order that convolutions read.
Norms, activations, residuals, attention and skip connections lie between the convolutions, uncopied.
"""

import numpy as np

import flame_triton as ft
from flame_triton import nn

SHAPE = (2, 4, 16, 16)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + linear(silu(t)))))."""

    def __init__(self, channels: int, out: int, width: int, dtype: str = "float32") -> None:
        self.norm1 = nn.GroupNorm(4, channels, dtype=dtype)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, dtype=dtype)
        self.time = nn.Linear(width, out, dtype=dtype)
        self.norm2 = nn.GroupNorm(4, out, dtype=dtype)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, dtype=dtype)
        self.skip = nn.Conv2d(channels, out, 1, dtype=dtype) if channels != out else None

    def forward(self, x: ft.Value, t: ft.Value) -> ft.Value:
        h = self.conv1(ft.silu(self.norm1(x)))
        h = h + self.time(ft.silu(t))[:, :, None, None]
        h = self.conv2(ft.silu(self.norm2(h)))
        return h + (x if self.skip is None else self.skip(x))


class AttentionBlock(nn.Module):
    """Self-attention over the pixels, as tokens [N, H W, C]."""

    def __init__(self, channels: int, heads: int, dtype: str = "float32") -> None:
        self.heads = heads
        self.norm = nn.GroupNorm(4, channels, dtype=dtype)
        self.qkv = nn.Linear(channels, 3 * channels, dtype=dtype)
        self.out = nn.Linear(channels, channels, dtype=dtype)

    def forward(self, x: ft.Value) -> ft.Value:
        n, c, h, w = x.shape
        tokens = ft.permute(self.norm(x), (0, 2, 3, 1)).reshape(n, h * w, c)
        packed = self.qkv(tokens).reshape(n, h * w, 3, self.heads, c // self.heads)
        q, k, v = (packed[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        mixed = ft.scaled_dot_product_attention(q, k, v).transpose(0, 2, 1, 3).reshape(n, h, w, c)
        return x + ft.permute(self.out(mixed), (0, 3, 1, 2))


class UNet(nn.Module):
    """One level down and up again, with a skip connection. x: [N, 4, H, W], t: [N] -> [N, 4, H, W]."""

    def __init__(self, channels: int = 32, width: int = 64, dtype: str = "float32") -> None:
        c, self.width = channels, width
        self.first = nn.Conv2d(4, c, 3, padding=1, dtype=dtype)
        self.block1 = ResBlock(c, c, width, dtype)
        self.down = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1, dtype=dtype)
        self.block2 = ResBlock(2 * c, 2 * c, width, dtype)
        self.attention = AttentionBlock(2 * c, 4, dtype)
        self.up = nn.Conv2d(2 * c, c, 3, padding=1, dtype=dtype)
        self.block3 = ResBlock(2 * c, c, width, dtype)
        self.norm = nn.GroupNorm(4, c, dtype=dtype)
        self.last = nn.Conv2d(c, 4, 3, padding=1, dtype=dtype)

    def forward(self, x: ft.Value, t: ft.Value) -> ft.Value:
        t = ft.cast(ft.timestep_embedding(t, self.width, flip_sin_to_cos=True), x.dtype)
        skip = self.block1(self.first(x), t)
        h = self.attention(self.block2(self.down(skip), t))
        h = self.up(ft.interpolate(h, scale_factor=2))
        h = self.block3(ft.concat([h, skip], axis=1), t)
        return self.last(ft.silu(self.norm(h)))


def main(steps: int = 3, device: str | None = None) -> tuple[str, list[float]]:
    """Train for some steps; the listing of the program, and the losses."""
    model = UNet()
    x, noise, t = (ft.input(shape, name=n) for n, shape in (("x", SHAPE), ("noise", SHAPE), ("t", SHAPE[:1])))
    loss = ft.mse_loss(model(x + noise, t), noise)
    optimizer = ft.optim.AdamW(model.parameters(), lr=1e-3)
    state = ft.State([*model.parameters(), *optimizer.state_values], device=device)
    updates = optimizer.updates(ft.grad(loss, model.parameters()))
    step = ft.compile(loss, [x, noise, t], state=state, updates=updates, device=device)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2)]
    times = np.array([10, 500], np.float32)
    return step.listing(), [float(step(*arrays, times)) for _ in range(steps)]


if __name__ == "__main__":
    listing, losses = main()
    print(listing)
    print("losses: " + ", ".join(f"{loss:.4f}" for loss in losses))
