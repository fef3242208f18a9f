"""Depthwise convolution and its gradients, channels-last: one input channel in each group, so there is no product.

The contracts are those of conv.py with C = 1: input channel g belongs to the output channels g * K to g * K + K - 1,
and the weight is [groups * K, *KERNEL]. Sums run in float32 (float64 for float64). The grid stands in conv_configs.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import library as lib
from .conv import first_tap, inside, unravel


@triton.jit
def depthwise_forward(
    x_ptr, w_ptr, ptrs, N, D, H, W, O_D, O_H, O_W, groups, stride_xn, stride_xd, stride_xh, stride_xw,
    EPILOGUE: tl.constexpr, K: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    DILATION: tl.constexpr, CHECK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y[n, o, k]: rows are output positions of all images, columns all output channels."""
    rows = N * O_D * O_H * O_W
    channels = groups * K
    taps: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
    tiles_n = tl.cdiv(channels, BLOCK_N)
    row = tl.program_id(0) // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (row < rows)[:, None] & (column < channels)[None, :]
    n, o_d, o_h, o_w = unravel(tl.minimum(row, rows - 1), O_D, O_H, O_W)
    d = o_d * STRIDE[0] - PADDING[0]
    h = o_h * STRIDE[1] - PADDING[1]
    w = o_w * STRIDE[2] - PADDING[2]
    at = n.to(tl.int64) * stride_xn + d.to(tl.int64) * stride_xd
    at += h.to(tl.int64) * stride_xh + w.to(tl.int64) * stride_xw
    x_at = at[:, None] + (column // K)[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32)
    for tap in range(taps):
        r_d = tap // (KERNEL[1] * KERNEL[2]) * DILATION[0]
        r_h = tap // KERNEL[2] % KERNEL[1] * DILATION[1]
        r_w = tap % KERNEL[2] * DILATION[2]
        there = inside(d + r_d, D, CHECK[0]) & inside(h + r_h, H, CHECK[1]) & inside(w + r_w, W, CHECK[2])
        move = tl.cast(r_d, tl.int64) * stride_xd + tl.cast(r_h, tl.int64) * stride_xh
        move += tl.cast(r_w, tl.int64) * stride_xw
        weight = lib.load(w_ptr, column.to(tl.int64) * taps + tap, column < channels, 0.0)
        acc += lib.load(x_ptr, x_at + move, there[:, None] & mask, 0.0) * weight[None, :]
    EPILOGUE(acc, (row // O_W).to(tl.int64)[:, None], (row % O_W)[:, None], column[None, :], mask, ptrs)


@triton.jit
def depthwise_dgrad(
    dy_ptr, w_ptr, ptrs, N, D, H, W, O_D, O_H, O_W, groups, stride_yn, stride_yd, stride_yh, stride_yw,
    EPILOGUE: tl.constexpr, K: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    DILATION: tl.constexpr, STEP: tl.constexpr, MOVE: tl.constexpr, CHECK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dx[n, i, c]: rows are input positions with one remainder by the stride (see conv.dgrad), columns the channels."""
    j_d = tl.cdiv(D, STRIDE[0])
    j_h = tl.cdiv(H, STRIDE[1])
    j_w = tl.cdiv(W, STRIDE[2])
    rows = N * j_d * j_h * j_w
    taps: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
    tiles_n = tl.cdiv(groups, BLOCK_N)
    tile_n = tl.program_id(0) % tiles_n
    tile_m, rest_d, rest_h, rest_w = unravel(tl.program_id(0) // tiles_n, STRIDE[0], STRIDE[1], STRIDE[2])
    r_d = first_tap(rest_d, PADDING[0], STRIDE[0], DILATION[0], STEP[0])
    r_h = first_tap(rest_h, PADDING[1], STRIDE[1], DILATION[1], STEP[1])
    r_w = first_tap(rest_w, PADDING[2], STRIDE[2], DILATION[2], STEP[2])
    taps_d = tl.cdiv(tl.maximum(KERNEL[0] - r_d, 0), STEP[0])
    taps_h = tl.cdiv(tl.maximum(KERNEL[1] - r_h, 0), STEP[1])
    taps_w = tl.cdiv(tl.maximum(KERNEL[2] - r_w, 0), STEP[2])
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, d, h, w = unravel(tl.minimum(row, rows - 1), j_d, j_h, j_w)
    i_d = d * STRIDE[0] + rest_d
    i_h = h * STRIDE[1] + rest_h
    i_w = w * STRIDE[2] + rest_w
    mask = ((row < rows) & (i_d < D) & (i_h < H) & (i_w < W))[:, None] & (column < groups)[None, :]
    d += (rest_d + PADDING[0] - r_d * DILATION[0]) // STRIDE[0]  # exact
    h += (rest_h + PADDING[1] - r_h * DILATION[1]) // STRIDE[1]
    w += (rest_w + PADDING[2] - r_w * DILATION[2]) // STRIDE[2]
    at = n.to(tl.int64) * stride_yn + d.to(tl.int64) * stride_yd
    at += h.to(tl.int64) * stride_yh + w.to(tl.int64) * stride_yw
    y_at = at[:, None] + (column * K)[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float64 if dy_ptr.dtype.element_ty == tl.float64 else tl.float32)
    for tap in range(taps_d * taps_h * taps_w):
        t_d = tap // (taps_h * taps_w)
        t_h = tap // taps_w % taps_h
        t_w = tap % taps_w
        there = inside(d + t_d * MOVE[0], O_D, CHECK[0]) & inside(h + t_h * MOVE[1], O_H, CHECK[1])
        there &= inside(w + t_w * MOVE[2], O_W, CHECK[2])
        move = (t_d * MOVE[0]).to(tl.int64) * stride_yd + (t_h * MOVE[1]).to(tl.int64) * stride_yh
        move += (t_w * MOVE[2]).to(tl.int64) * stride_yw
        r = ((r_d + t_d * STEP[0]) * KERNEL[1] + r_h + t_h * STEP[1]) * KERNEL[2] + r_w + t_w * STEP[2]
        for k in range(K):
            weight = lib.load(w_ptr, (column.to(tl.int64) * K + k) * taps + r, column < groups, 0.0)
            acc += lib.load(dy_ptr, y_at + (move + k), there[:, None] & mask, 0.0) * weight[None, :]
    b = (n.to(tl.int64) * D + i_d) * H + i_h
    EPILOGUE(acc, b[:, None], i_w[:, None], column[None, :], mask, ptrs)


@triton.jit
def depthwise_wgrad(
    x_ptr, dy_ptr, ptrs, N, D, H, W, O_D, O_H, O_W, groups, piece,
    stride_xn, stride_xd, stride_xh, stride_xw, stride_yn, stride_yd, stride_yh, stride_yw,
    EPILOGUE: tl.constexpr, K: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    DILATION: tl.constexpr, CHECK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dw[part, k, r], the sum over the part's output positions, `piece` consecutive ones; one tap in each program.

    BLOCK_M positions are read at a time, for BLOCK_N output channels.
    """
    channels = groups * K
    taps: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
    tiles_n = tl.cdiv(channels, BLOCK_N)
    column = tl.program_id(0) % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    tap = tl.program_id(0) // tiles_n % taps
    part = tl.program_id(0) // tiles_n // taps
    r_d, r_h, r_w = tap // (KERNEL[1] * KERNEL[2]), tap // KERNEL[2] % KERNEL[1], tap % KERNEL[2]
    end = tl.minimum((part + 1) * piece, N * O_D * O_H * O_W)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32)
    for start in range(part * piece, end, BLOCK_M):
        at = start + tl.arange(0, BLOCK_M)
        n, o_d, o_h, o_w = unravel(at, O_D, O_H, O_W)
        y_at = n.to(tl.int64) * stride_yn + o_d.to(tl.int64) * stride_yd
        y_at += o_h.to(tl.int64) * stride_yh + o_w.to(tl.int64) * stride_yw
        d = o_d * STRIDE[0] - PADDING[0] + r_d * DILATION[0]
        h = o_h * STRIDE[1] - PADDING[1] + r_h * DILATION[1]
        w = o_w * STRIDE[2] - PADDING[2] + r_w * DILATION[2]
        there = inside(d, D, CHECK[0]) & inside(h, H, CHECK[1]) & inside(w, W, CHECK[2]) & (at < end)
        x_at = n.to(tl.int64) * stride_xn + d.to(tl.int64) * stride_xd
        x_at += h.to(tl.int64) * stride_xh + w.to(tl.int64) * stride_xw
        mask = there[:, None] & (column < channels)[None, :]
        y = lib.load(dy_ptr, y_at[:, None] + column[None, :], mask, 0.0)
        acc += y * lib.load(x_ptr, x_at[:, None] + (column // K)[None, :], mask, 0.0)
    total = tl.sum(acc, axis=0)[:, None]
    b = (part.to(tl.int64) * channels + column)[:, None] * (KERNEL[0] * KERNEL[1]) + tap // KERNEL[2]
    m = tl.zeros((BLOCK_N, 1), tl.int32) + r_w
    EPILOGUE(total, b, m, tl.zeros((1, 1), tl.int32), (column < channels)[:, None], ptrs)
