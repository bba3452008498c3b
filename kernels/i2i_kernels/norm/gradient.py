"""The normalisation family backward, NHWC: reduce, finish, and the gradient of x.

With `z = scale * (x - mean) + offset` and `dz = act'(z) * dy`, every gradient follows from two sums per
(sample, channel), `s1 = sum(dz)` and `s2 = sum(dz * (x - mean))`; the gradient of x is
`scale * dz + slope * (x - mean) + level`.
"""
# The bodies are Triton's language, not Python's: untyped, and a branch on a constant is a statement.
# mypy: ignore-errors
# ruff: noqa: RET505, SIM108

from __future__ import annotations

import triton
import triton.language as tl

from i2i_kernels.norm.kernel import (
    instance_share,
    inverse_std,
    mean_of_block,
    merged_channel,
    merged_layer,
    parameter,
)


@triton.jit
def folded(dy_ptr, n, pixel, valid, c, in_c, C, H, W, PAD: tl.constexpr):
    """Gradient at input pixels of what reflection copied from them: up to three rows by three columns."""
    if PAD == 0:
        mask = valid[:, None] & in_c[None, :]
        total = tl.load(dy_ptr + n * H * W * C + pixel[:, None] * C + c[None, :], mask=mask, other=0.0).to(
            tl.float32
        )
    else:
        out_w = W + 2 * PAD
        dy_ptr += n * (H + 2 * PAD) * out_w * C
        y = pixel // W
        x = pixel % W
        total = tl.zeros([pixel.shape[0], c.shape[0]], tl.float32)
        for i in tl.static_range(3):
            if i == 0:
                row, row_in = y + PAD, valid
            elif i == 1:
                row, row_in = PAD - y, valid & (y >= 1) & (y <= PAD)
            else:
                row, row_in = PAD + 2 * (H - 1) - y, valid & (y >= H - 1 - PAD) & (y <= H - 2)
            for j in tl.static_range(3):
                if j == 0:
                    column, both_in = x + PAD, row_in
                elif j == 1:
                    column, both_in = PAD - x, row_in & (x >= 1) & (x <= PAD)
                else:
                    column, both_in = PAD + 2 * (W - 1) - x, row_in & (x >= W - 1 - PAD) & (x <= W - 2)
                mask = both_in[:, None] & in_c[None, :]
                at = (row * out_w + column)[:, None] * C + c[None, :]
                total += tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
    return total


@triton.jit
def through_activation(dy, gap, scale, offset, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    """`act'(z) * dy`, with z computed again from x."""
    z = gap * scale[None, :] + offset[None, :]
    if ACTIVATION == "relu":
        dy = tl.where(z > 0.0, dy, 0.0)
    elif ACTIVATION == "leaky":
        dy = tl.where(z > 0.0, dy, dy * SLOPE)
    return dy


@triton.jit
def sums_kernel(
    dy_ptr,  # [N, H + 2 PAD, W + 2 PAD, C]
    x_ptr,  # [N, H, W, C]
    coefficients_ptr,  # [N, 3, C] float32
    C,
    H,
    W,
    sums_ptr,  # [N, SPLITS, 2, C] float32: s1 and s2 of each run of pixels
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    PAD: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_HW: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: SPLITS, channel blocks, N."""
    split = tl.program_id(0)
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_c = c < C
    base = coefficients_ptr + n * 3 * C + c
    mean = tl.load(base, mask=in_c, other=0.0)
    scale = tl.load(base + C, mask=in_c, other=0.0)
    offset = tl.load(base + 2 * C, mask=in_c, other=0.0)
    rows = tl.cdiv(H * W, SPLITS)
    start = split * rows
    end = tl.minimum(start + rows, H * W)
    # Every thread sums its own numbers; one reduction after the loop.
    s1 = tl.zeros([BLOCK_HW, BLOCK_C], tl.float32)
    s2 = tl.zeros([BLOCK_HW, BLOCK_C], tl.float32)
    for first in range(start, end, BLOCK_HW):
        pixel = first + tl.arange(0, BLOCK_HW)
        valid = pixel < end
        mask = valid[:, None] & in_c[None, :]
        at = n * H * W * C + pixel[:, None] * C + c[None, :]
        gap = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32) - mean[None, :]
        dz = folded(dy_ptr, n, pixel, valid, c, in_c, C, H, W, PAD)
        dz = through_activation(dz, gap, scale, offset, ACTIVATION, SLOPE)
        s1 += dz
        s2 += tl.where(mask, dz * gap, 0.0)
    base = sums_ptr + (n * SPLITS + split) * (2 * C) + c
    tl.store(base, tl.sum(s1, 0), mask=in_c)
    tl.store(base + C, tl.sum(s2, 0), mask=in_c)


@triton.jit
def summed(sums_ptr, n, c, in_c, C, SPLITS: tl.constexpr, BLOCK_S: tl.constexpr):
    """s1 and s2 of channels `c` over all runs, BLOCK_S at a time."""
    s1 = tl.zeros([BLOCK_S, c.shape[0]], tl.float32)
    s2 = tl.zeros([BLOCK_S, c.shape[0]], tl.float32)
    for first in range(0, SPLITS, BLOCK_S):
        split = first + tl.arange(0, BLOCK_S)
        base = sums_ptr + (n * SPLITS + split)[:, None] * (2 * C) + c[None, :]
        s1 += tl.load(base, mask=in_c[None, :], other=0.0)
        s2 += tl.load(base + C, mask=in_c[None, :], other=0.0)
    return tl.sum(s1, 0), tl.sum(s2, 0)


@triton.jit
def second_factor(r, second, count, EPS: tl.constexpr, UNBIASED: tl.constexpr, EPS_INSIDE: tl.constexpr):
    """The factor k in `d(inverse std) / dx = -k * (x - mean)`."""
    if UNBIASED:
        divisor = count - 1.0
    else:
        divisor = count
    if EPS_INSIDE:
        return r * r * r / divisor
    else:
        std = tl.sqrt(second / divisor)
        # A constant channel has no second-order term; the division must not see its zero.
        return tl.where(std > 0.0, r * r / (divisor * tl.where(std > 0.0, std, 1.0)), 0.0)


@triton.jit
def finish_kernel(
    sums_ptr,  # [N, SUM_SPLITS, 2, C] float32
    partials_ptr,  # [N, SPLITS, 2, C] float32, of the forward
    weight_ptr,  # [C] or [N, C], or None
    mix_ptr,  # clamp: [C]; softmax: [2, C]; else None
    C,
    HW,
    lines_ptr,  # [N, 2, C] float32: slope and level of the gradient of x
    grads_ptr,  # [N, 3, C] float32: gradients of weight, bias and mix, not yet summed over samples
    FAMILY: tl.constexpr,
    EPS: tl.constexpr,
    UNBIASED: tl.constexpr,
    EPS_INSIDE: tl.constexpr,
    PER_SAMPLE: tl.constexpr,
    SUM_SPLITS: tl.constexpr,
    SUM_BLOCK_S: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: channel blocks, N."""
    n = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_c = c < C
    count = HW * 1.0
    s1, s2 = summed(sums_ptr, n, c, in_c, C, SUM_SPLITS, SUM_BLOCK_S)
    shift, away, second = merged_channel(partials_ptr, n, c, in_c, C, HW, SPLITS, BLOCK_S)
    mean = shift + away
    weight = parameter(weight_ptr, n, c, in_c, C, 1.0, PER_SAMPLE)
    share = instance_share(mix_ptr, c, in_c, C, FAMILY)
    r = inverse_std(second, count, EPS, UNBIASED, EPS_INSIDE)
    by_instance = r * s2
    slope = -second_factor(r, second, count, EPS, UNBIASED, EPS_INSIDE) * weight * share * s2
    level = -r * weight * share * s1 / count
    d_weight = share * by_instance
    d_mix = tl.zeros([BLOCK_C], tl.float32)
    if FAMILY != "instance":
        total = count * C
        around = mean_of_block(mean, in_c)
        lacks, layer_second = merged_layer(partials_ptr, n, around, C, HW, SPLITS, BLOCK_S, BLOCK_C)
        from_layer = (mean - around) - lacks
        layer_r = inverse_std(layer_second, total, EPS, UNBIASED, EPS_INSIDE)
        t1 = 0.0
        t2 = 0.0
        for first in range(0, C, BLOCK_C):
            k = first + tl.arange(0, BLOCK_C)
            in_k = k < C
            k_s1, k_s2 = summed(sums_ptr, n, k, in_k, C, SUM_SPLITS, SUM_BLOCK_S)
            k_shift, k_away, _ = merged_channel(partials_ptr, n, k, in_k, C, HW, SPLITS, BLOCK_S)
            k_from_layer = ((k_shift + k_away) - around) - lacks
            k_share = instance_share(mix_ptr, k, in_k, C, FAMILY)
            h = tl.where(in_k, parameter(weight_ptr, n, k, in_k, C, 1.0, PER_SAMPLE) * (1.0 - k_share), 0.0)
            t1 += tl.sum(h * k_s1, 0)
            t2 += tl.sum(h * (k_s2 + k_from_layer * k_s1), 0)
        layer_k = second_factor(layer_r, layer_second, total, EPS, UNBIASED, EPS_INSIDE)
        by_layer = layer_r * (s2 + from_layer * s1)
        slope -= layer_k * t2
        level -= layer_r * t1 / total + layer_k * t2 * from_layer
        d_weight += (1.0 - share) * by_layer
        d_share = weight * (by_instance - by_layer)
        if FAMILY == "clamp":
            rho = tl.load(mix_ptr + c, mask=in_c, other=0.0).to(tl.float32)
            d_mix = tl.where((rho >= 0.0) & (rho <= 1.0), d_share, 0.0)
        elif FAMILY == "softmax":
            d_mix = share * (1.0 - share) * d_share
    base = lines_ptr + n * 2 * C + c
    tl.store(base, slope, mask=in_c)
    tl.store(base + C, level, mask=in_c)
    base = grads_ptr + n * 3 * C + c
    tl.store(base, d_weight, mask=in_c)
    tl.store(base + C, s1, mask=in_c)
    tl.store(base + 2 * C, d_mix, mask=in_c)


@triton.jit
def dx_kernel(
    dy_ptr,  # [N, H + 2 PAD, W + 2 PAD, C]
    x_ptr,  # [N, H, W, C]
    coefficients_ptr,  # [N, 3, C] float32
    lines_ptr,  # [N, 2, C] float32
    C,
    H,
    W,
    dx_ptr,  # [N, H, W, C]
    d_residual_ptr,  # [N, H, W, C], or None
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    RESIDUAL_SCALE: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK_HW: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: pixel blocks, channel blocks, N."""
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_c = c < C
    base = coefficients_ptr + n * 3 * C + c
    mean = tl.load(base, mask=in_c, other=0.0)
    scale = tl.load(base + C, mask=in_c, other=0.0)
    offset = tl.load(base + 2 * C, mask=in_c, other=0.0)
    slope = tl.load(lines_ptr + n * 2 * C + c, mask=in_c, other=0.0)
    level = tl.load(lines_ptr + n * 2 * C + C + c, mask=in_c, other=0.0)
    pixel = tl.program_id(0) * BLOCK_HW + tl.arange(0, BLOCK_HW)
    valid = pixel < H * W
    mask = valid[:, None] & in_c[None, :]
    at = n * H * W * C + pixel[:, None] * C + c[None, :]
    gap = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32) - mean[None, :]
    dy = folded(dy_ptr, n, pixel, valid, c, in_c, C, H, W, PAD)
    if d_residual_ptr is not None:
        tl.store(d_residual_ptr + at, (dy * RESIDUAL_SCALE).to(d_residual_ptr.dtype.element_ty), mask=mask)
    dz = through_activation(dy, gap, scale, offset, ACTIVATION, SLOPE)
    dx = dz * scale[None, :] + gap * slope[None, :] + level[None, :]
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)
