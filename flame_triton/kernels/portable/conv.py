"""Convolution and its gradients as implicit matrix products, channels-last, with a fused epilogue.

Everything is written for three spatial axes (depth, height, width); fewer are sizes of 1 in front. The operands are

    x   [N, *SIZE, groups * C]     any strides but for a unit stride of channels
    w   [groups * K, *KERNEL, C]   row-major
    dy  [N, *OUT, groups * K]      any strides but for a unit stride of channels

of one dtype: bfloat16, float16 and float32 accumulate in float32, float64 in float64. C and K are channels of one
group. Strides are in elements; addresses are computed in 64 bits. Positions outside x and dy read as zeros, through
masked loads. The configurations and the grid stand in conv_configs.py.

EPILOGUE(acc, b, m, n, mask, ptrs) is called as matmul.py describes, for a result of shape [..., M, N] whose last axis
holds channels and whose last but one is the innermost spatial axis: b counts all axes in front.

FLAT: a block of the inner axis (forward, dgrad) or of the columns (wgrad) runs over the channels of several taps, for
small channel counts; otherwise it lies within one tap, which is then the same for the whole tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import library as lib

# --- places ---


@triton.jit
def unravel(i, d, h, w):
    """(n, i_d, i_h, i_w) of the row-major index i over [N, d, h, w]."""
    return i // (w * h * d), i // (w * h) % d, i // w % h, i % w


@triton.jit
def inside(i, size, CHECK: tl.constexpr):
    """0 <= i < size; without CHECK it is known to be so, and any value of i's shape that is True will do."""
    if CHECK:
        return (i >= 0) & (i < size)
    else:
        return i == i


@triton.jit
def first_tap(i, PADDING: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, STEP: tl.constexpr):
    """The first tap r that reaches input position i, that is (i + PADDING - r * DILATION) % STRIDE = 0, along one axis.

    The others follow every STEP = STRIDE / gcd(STRIDE, DILATION). If there is none the result is larger than any tap.
    """
    found = i * 0 + (1 << 20)
    for r in tl.static_range(STEP):
        found = tl.where((i + PADDING % STRIDE) % STRIDE == r * DILATION % STRIDE, r, found)
    return found


# --- the product that forward and dgrad share ---


@triton.jit
def _product(
    p_x, p_w, d, h, w, D, H, W, stride_xd, stride_xh, stride_xw, stride_wd, stride_wh, stride_ww, stride_wc,
    taps_d, taps_h, taps_w, C,
    STEP: tl.constexpr, CHECK: tl.constexpr, SHAPE: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr, FLAT: tl.constexpr, EVEN_C: tl.constexpr, NEVER_EMPTY: tl.constexpr,
):  # fmt: skip
    """acc[i, j] = sum over taps (t_d, t_h, t_w) and channels c of x[i, t, c] w[j, t, c], [*SHAPE].

    x at p_x[i] + sum of t_a * STEP_a * stride_xa + c, if the positions d[i] + t_d * STEP_d, ... lie within D, H, W.
    w at p_w[j] + sum of t_a * stride_wa + c * stride_wc.
    """
    acc = tl.zeros(SHAPE, dtype=tl.float64 if p_x.dtype.element_ty == tl.float64 else tl.float32)
    k = tl.arange(0, BLOCK_K)
    if FLAT:
        total = taps_d * taps_h * taps_w * C
        for start in range(0, total, BLOCK_K):
            at = start + k
            tap = at // C
            c = at % C
            t_d = tap // (taps_h * taps_w)
            t_h = tap // taps_w % taps_h
            t_w = tap % taps_w
            there = inside(d[:, None] + (t_d * STEP[0])[None, :], D, CHECK[0])
            there &= inside(h[:, None] + (t_h * STEP[1])[None, :], H, CHECK[1])
            there &= inside(w[:, None] + (t_w * STEP[2])[None, :], W, CHECK[2])
            there &= (at < total)[None, :]
            x_at = (t_d * STEP[0]).to(tl.int64) * stride_xd + (t_h * STEP[1]).to(tl.int64) * stride_xh
            x_at += (t_w * STEP[2]).to(tl.int64) * stride_xw + c
            w_at = t_d.to(tl.int64) * stride_wd + t_h.to(tl.int64) * stride_wh
            w_at += t_w.to(tl.int64) * stride_ww + c.to(tl.int64) * stride_wc
            x = tl.load(p_x[:, None] + x_at[None, :], mask=there, other=0.0)
            y = tl.load(p_w[None, :] + w_at[:, None], mask=(at < total)[:, None], other=0.0)
            acc = lib.dot(x, y, acc, INPUT_PRECISION)
    else:
        blocks = tl.cdiv(C, BLOCK_K)
        steps = taps_d * taps_h * taps_w * blocks
        if NEVER_EMPTY:  # the compiler must know it: a branch around the loop makes the assembler serialise wgmma
            tl.assume(steps > 0)
        for step in range(steps):
            tap = step // blocks
            c = step % blocks * BLOCK_K + k
            t_d = tap // (taps_h * taps_w)
            t_h = tap // taps_w % taps_h
            t_w = tap % taps_w
            there = inside(d + t_d * STEP[0], D, CHECK[0])
            there &= inside(h + t_h * STEP[1], H, CHECK[1])
            there &= inside(w + t_w * STEP[2], W, CHECK[2])
            x_at = tl.cast(t_d * STEP[0], tl.int64) * stride_xd + tl.cast(t_h * STEP[1], tl.int64) * stride_xh
            x_at += tl.cast(t_w * STEP[2], tl.int64) * stride_xw
            w_at = tl.cast(t_d, tl.int64) * stride_wd + tl.cast(t_h, tl.int64) * stride_wh
            w_at += tl.cast(t_w, tl.int64) * stride_ww
            p_a = p_x[:, None] + (x_at + c)[None, :]
            p_b = p_w[None, :] + (w_at + c.to(tl.int64) * stride_wc)[:, None]
            if EVEN_C:
                x = tl.load(p_a, mask=there[:, None], other=0.0)
                y = tl.load(p_b)
            else:
                x = tl.load(p_a, mask=there[:, None] & (c < C)[None, :], other=0.0)
                y = tl.load(p_b, mask=(c < C)[:, None], other=0.0)
            acc = lib.dot(x, y, acc, INPUT_PRECISION)
    return acc


@triton.jit
def forward(
    x_ptr, w_ptr, ptrs, N, D, H, W, O_D, O_H, O_W, C, K, stride_xn, stride_xd, stride_xh, stride_xw,
    EPILOGUE: tl.constexpr, INPUT_PRECISION: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    PADDING: tl.constexpr, DILATION: tl.constexpr, CHECK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    FLAT: tl.constexpr, EVEN_C: tl.constexpr,
):  # fmt: skip
    """y[n, o, g K + k]: rows are output positions of all images, columns the output channels k of a group.

    PADDING: zeros in front, along each axis. CHECK: whether some tap reaches outside x, along each axis.
    """
    rows = N * O_D * O_H * O_W
    group, tile_m, tile_n = lib.raster(tl.program_id(0), tl.cdiv(rows, BLOCK_M), tl.cdiv(K, BLOCK_N), GROUP_M)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, o_d, o_h, o_w = unravel(tl.minimum(row, rows - 1), O_D, O_H, O_W)
    d = o_d * STRIDE[0] - PADDING[0]
    h = o_h * STRIDE[1] - PADDING[1]
    w = o_w * STRIDE[2] - PADDING[2]
    p_x = x_ptr + (n.to(tl.int64) * stride_xn + d.to(tl.int64) * stride_xd)
    p_x += h.to(tl.int64) * stride_xh + w.to(tl.int64) * stride_xw + group * C
    taps: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
    p_w = w_ptr + (group.to(tl.int64) * K + tl.minimum(column, K - 1)) * (taps * C)
    acc = _product(
        p_x, p_w, d, h, w, D, H, W, stride_xd, stride_xh, stride_xw,
        KERNEL[1] * KERNEL[2] * C, KERNEL[2] * C, C, 1, KERNEL[0], KERNEL[1], KERNEL[2], C,
        DILATION, CHECK, (BLOCK_M, BLOCK_N), INPUT_PRECISION, BLOCK_K, FLAT, EVEN_C, True,
    )  # fmt: skip
    mask = (row < rows)[:, None] & (column < K)[None, :]
    EPILOGUE(acc, (row // O_W).to(tl.int64)[:, None], (row % O_W)[:, None], (group * K + column)[None, :], mask, ptrs)


@triton.jit
def dgrad(
    dy_ptr, w_ptr, ptrs, N, D, H, W, O_D, O_H, O_W, C, K, stride_yn, stride_yd, stride_yh, stride_yw,
    EPILOGUE: tl.constexpr, INPUT_PRECISION: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    PADDING: tl.constexpr, DILATION: tl.constexpr, STEP: tl.constexpr, MOVE: tl.constexpr, CHECK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    FLAT: tl.constexpr, EVEN_C: tl.constexpr, NEVER_EMPTY: tl.constexpr,
):  # fmt: skip
    """dx[n, i, g C + c]: rows are input positions i, columns the input channels c of a group.

    Positions with one remainder by the stride are reached by the same taps, so each remainder is a product of its own
    and no work is lost: position i = remainder + STRIDE * j is reached from
    o = j + (remainder + PADDING - r DILATION) / STRIDE for the taps r = first, first + STEP, ...
    STEP: STRIDE / gcd(STRIDE, DILATION); MOVE: -STEP * DILATION / STRIDE, from one of these o to the next;
    CHECK: whether some o may lie outside dy. All are given for each axis.
    NEVER_EMPTY: every remainder is reached by some tap.
    """
    j_d = tl.cdiv(D, STRIDE[0])
    j_h = tl.cdiv(H, STRIDE[1])
    j_w = tl.cdiv(W, STRIDE[2])
    rows = N * j_d * j_h * j_w
    batch, tile_m, tile_n = lib.raster(tl.program_id(0), tl.cdiv(rows, BLOCK_M), tl.cdiv(C, BLOCK_N), GROUP_M)
    group, rest_d, rest_h, rest_w = unravel(batch, STRIDE[0], STRIDE[1], STRIDE[2])
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
    d += (rest_d + PADDING[0] - r_d * DILATION[0]) // STRIDE[0]  # exact
    h += (rest_h + PADDING[1] - r_h * DILATION[1]) // STRIDE[1]
    w += (rest_w + PADDING[2] - r_w * DILATION[2]) // STRIDE[2]
    p_y = dy_ptr + (n.to(tl.int64) * stride_yn + d.to(tl.int64) * stride_yd)
    p_y += h.to(tl.int64) * stride_yh + w.to(tl.int64) * stride_yw + group * K
    taps: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
    p_w = w_ptr + group.to(tl.int64) * K * (taps * C)
    p_w += ((r_d * KERNEL[1] + r_h) * KERNEL[2] + r_w).to(tl.int64) * C + column % C
    acc = _product(
        p_y, p_w, d, h, w, O_D, O_H, O_W, stride_yd, stride_yh, stride_yw,
        STEP[0] * KERNEL[1] * KERNEL[2] * C, STEP[1] * KERNEL[2] * C, STEP[2] * C, taps * C, taps_d, taps_h, taps_w, K,
        MOVE, CHECK, (BLOCK_M, BLOCK_N), INPUT_PRECISION, BLOCK_K, FLAT, EVEN_C, NEVER_EMPTY,
    )  # fmt: skip
    there = (row < rows) & (i_d < D) & (i_h < H) & (i_w < W)
    mask = there[:, None] & (column < C)[None, :]
    b = (n.to(tl.int64) * D + i_d) * H + i_h
    EPILOGUE(acc, b[:, None], i_w[:, None], (group * C + column)[None, :], mask, ptrs)


# --- wgrad ---


@triton.jit
def wgrad(
    x_ptr, dy_ptr, ptrs, N, D, H, W, O_D, O_H, O_W, C, K, piece,
    stride_xn, stride_xd, stride_xh, stride_xw, stride_yn, stride_yd, stride_yh, stride_yw,
    EPILOGUE: tl.constexpr, INPUT_PRECISION: tl.constexpr, GROUPS: tl.constexpr, KERNEL: tl.constexpr,
    STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr, CHECK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """dw[part, g K + k, r, c], the sum over the part's output positions, `piece` consecutive ones of all images.

    Rows are output channels k of a group, columns taps and input channels c of a group.
    """
    taps: tl.constexpr = KERNEL[0] * KERNEL[1] * KERNEL[2]
    tiles_c = tl.cdiv(C, BLOCK_N)
    tiles_n = tl.cdiv(taps * C, BLOCK_N) if FLAT else taps * tiles_c
    batch, tile_m, tile_n = lib.raster(tl.program_id(0), tl.cdiv(K, BLOCK_M), tiles_n, GROUP_M)
    part = batch // GROUPS
    group = batch % GROUPS
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    if FLAT:
        column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
        column_ok = column < taps * C
        tap = tl.minimum(column // C, taps - 1)
        c = column % C
    else:
        c = tile_n % tiles_c * BLOCK_N + tl.arange(0, BLOCK_N)
        column_ok = c < C
        tap = tile_n // tiles_c
    r_d, r_h, r_w = tap // (KERNEL[1] * KERNEL[2]), tap // KERNEL[2] % KERNEL[1], tap % KERNEL[2]
    p_y = dy_ptr + (group * K + row % K)
    p_x = x_ptr + (group * C + c % C)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32)
    positions = N * O_D * O_H * O_W
    end = tl.minimum((part + 1) * piece, positions)
    for start in range(part * piece, end, BLOCK_K):
        at = start + tl.arange(0, BLOCK_K)
        n, o_d, o_h, o_w = unravel(at, O_D, O_H, O_W)
        y_at = n.to(tl.int64) * stride_yn + o_d.to(tl.int64) * stride_yd
        y_at += o_h.to(tl.int64) * stride_yh + o_w.to(tl.int64) * stride_yw
        d, h, w = o_d * STRIDE[0] - PADDING[0], o_h * STRIDE[1] - PADDING[1], o_w * STRIDE[2] - PADDING[2]
        if FLAT:
            d = d[:, None] + (r_d * DILATION[0])[None, :]
            h = h[:, None] + (r_h * DILATION[1])[None, :]
            w = w[:, None] + (r_w * DILATION[2])[None, :]
            n = n[:, None]
        else:
            d = (d + r_d * DILATION[0])[:, None]
            h = (h + r_h * DILATION[1])[:, None]
            w = (w + r_w * DILATION[2])[:, None]
            n = n[:, None]
        there = inside(d, D, CHECK[0]) & inside(h, H, CHECK[1]) & inside(w, W, CHECK[2]) & (at < end)[:, None]
        x_at = n.to(tl.int64) * stride_xn + d.to(tl.int64) * stride_xd
        x_at += h.to(tl.int64) * stride_xh + w.to(tl.int64) * stride_xw
        y = tl.load(p_y[:, None] + y_at[None, :], mask=(at < end)[None, :], other=0.0)
        x = tl.load(p_x[None, :] + x_at, mask=there, other=0.0)
        acc = lib.dot(y, x, acc, INPUT_PRECISION)
    mask = (row < K)[:, None] & column_ok[None, :]
    first = (part.to(tl.int64) * GROUPS + group) * K + row
    b = first[:, None] * (KERNEL[0] * KERNEL[1])
    m = tl.zeros((BLOCK_M, 1), tl.int32)  # of acc's rows, though only b depends on them
    if FLAT:
        EPILOGUE(acc, b + (tap // KERNEL[2])[None, :], m + r_w[None, :], c[None, :], mask, ptrs)
    else:
        EPILOGUE(acc, b + tap // KERNEL[2], m + r_w, c[None, :], mask, ptrs)
