"""The normalisation family forward, NHWC: split statistics, coefficients, apply, and the slab that does all.

Every kernel takes input pointers, then int32 arguments, then output pointers, then compile-time constants: the
order in which TensorRT's ahead-of-time plugins pass them. A pointer that is None is compiled out. Accumulation is
float32: sums around a mean close by and Chan's merge, never E[x^2] - E[x]^2.

Within one (sample, channel) every member of the family is `act(scale * (x - mean) + offset)`.
"""

# The bodies are Triton's language, not Python's: untyped, and a branch on a constant is a statement.
# mypy: ignore-errors
# ruff: noqa: RET505, SIM108

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def runs(partials_ptr, n, first, c, in_c, C, HW, SPLITS: tl.constexpr, BLOCK_S: tl.constexpr):
    """Pixels, means and second moments of BLOCK_S runs from `first` on."""
    split = first + tl.arange(0, BLOCK_S)
    rows = tl.cdiv(HW, SPLITS)
    count = tl.minimum(tl.maximum(HW - split * rows, 0), rows).to(tl.float32)[:, None]
    base = partials_ptr + (n * SPLITS + split)[:, None] * (2 * C) + c[None, :]
    means = tl.load(base, mask=in_c[None, :], other=0.0)
    seconds = tl.load(base + C, mask=in_c[None, :], other=0.0)
    return count, means, seconds


@triton.jit
def merged_channel(partials_ptr, n, c, in_c, C, HW, SPLITS: tl.constexpr, BLOCK_S: tl.constexpr):
    """Mean and centred second moment of channels `c` of sample `n` from the partials (Chan's formula).

    The mean comes as two summands, a value close by and what it lacks: their sum rounds, and a layer's mean of means
    must not. Each thread sums its own runs around the first block's mean, and one reduction ends it.
    """
    count, means, second = runs(partials_ptr, n, 0, c, in_c, C, HW, SPLITS, BLOCK_S)
    shift = tl.sum(means * count, 0) / tl.minimum(tl.cdiv(HW, SPLITS) * BLOCK_S, HW).to(tl.float32)
    gap = means - shift[None, :]
    moved = count * gap
    second += moved * gap
    for first in range(BLOCK_S, SPLITS, BLOCK_S):
        count, means, seconds = runs(partials_ptr, n, first, c, in_c, C, HW, SPLITS, BLOCK_S)
        gap = means - shift[None, :]
        moved += count * gap
        second += seconds + count * gap * gap
    away = tl.sum(moved, 0) / HW
    return shift, away, tl.maximum(tl.sum(second, 0) - away * away * HW, 0.0)


@triton.jit
def merged_layer(
    partials_ptr, n, around, C, HW, SPLITS: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Mean less `around`, a number close to it, and centred second moment over all channels of sample `n`."""
    mean = 0.0
    second = 0.0
    for first in range(0, C, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        in_c = c < C
        shift, away, c_second = merged_channel(partials_ptr, n, c, in_c, C, HW, SPLITS, BLOCK_S)
        c_mean = tl.where(in_c, (shift - around) + away, 0.0)
        size = tl.minimum(C - first, BLOCK_C).to(tl.float32)
        block_mean = tl.sum(c_mean, 0) / size
        gap = tl.where(in_c, c_mean - block_mean, 0.0)
        block_second = tl.sum(c_second, 0) + tl.sum(gap * gap, 0) * HW
        before = first * 1.0
        delta = block_mean - mean
        mean += delta * (size / (before + size))
        second += block_second + delta * delta * (before * size / (before + size)) * HW
    return mean, second


@triton.jit
def mean_of_block(values, in_c):
    """Of one number per channel, a number."""
    return tl.sum(tl.where(in_c, values, 0.0), 0) / tl.sum(in_c.to(tl.float32), 0)


@triton.jit
def inverse_std(second, count, EPS: tl.constexpr, UNBIASED: tl.constexpr, EPS_INSIDE: tl.constexpr):
    """`1 / sqrt(var + eps)` or `1 / (sqrt(var) + eps)`."""
    if UNBIASED:
        var = second / (count - 1.0)
    else:
        var = second / count
    if EPS_INSIDE:
        return 1.0 / tl.sqrt(var + EPS)
    else:
        return 1.0 / (tl.sqrt(var) + EPS)


@triton.jit
def instance_share(mix_ptr, c, in_c, C, FAMILY: tl.constexpr):
    """Share of instance norm in the mix, per channel; the rest is layer norm's."""
    if FAMILY == "clamp":
        rho = tl.load(mix_ptr + c, mask=in_c, other=0.0).to(tl.float32)
        share = tl.minimum(tl.maximum(rho, 0.0), 1.0)
    elif FAMILY == "softmax":
        first = tl.load(mix_ptr + c, mask=in_c, other=0.0).to(tl.float32)
        second = tl.load(mix_ptr + C + c, mask=in_c, other=0.0).to(tl.float32)
        share = tl.sigmoid(first - second)
    elif FAMILY == "layer":
        share = tl.zeros(c.shape, tl.float32)
    else:
        share = tl.full(c.shape, 1.0, tl.float32)
    return share


@triton.jit
def parameter(ptr, n, c, in_c, C, NEUTRAL: tl.constexpr, PER_SAMPLE: tl.constexpr):
    """Weight or bias of channels `c`: per channel `[C]`, per sample `[N, C]`, or the neutral constant."""
    if ptr is None:
        value = tl.full(c.shape, NEUTRAL, tl.float32)
    elif PER_SAMPLE:
        value = tl.load(ptr + n * C + c, mask=in_c, other=0.0).to(tl.float32)
    else:
        value = tl.load(ptr + c, mask=in_c, other=0.0).to(tl.float32)
    return value


@triton.jit
def activated(z, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    if ACTIVATION == "relu":
        z = tl.maximum(z, 0.0)
    elif ACTIVATION == "leaky":
        z = tl.where(z > 0.0, z, z * SLOPE)
    return z


@triton.jit
def reflected(i, size):
    """Index inside `[0, size)` that reflection without repeating the edge puts at `i`."""
    i = tl.abs(i)
    return size - 1 - tl.abs(size - 1 - i)


@triton.jit
def inside(pixel, W, PAD: tl.constexpr):
    """Where a pixel of the image lies in one that has PAD more rows and columns on every side."""
    if PAD > 0:
        pixel = (pixel // W + PAD) * (W + 2 * PAD) + pixel % W + PAD
    return pixel


@triton.jit
def stats_kernel(
    x_ptr,  # [N, HW, C]
    C,
    HW,
    partials_ptr,  # [N, SPLITS, 2, C] float32: mean and centred second moment of each run of pixels
    SPLITS: tl.constexpr,
    BLOCK_HW: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: SPLITS, channel blocks, N."""
    split = tl.program_id(0)
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_c = c < C
    rows = tl.cdiv(HW, SPLITS)
    start = split * rows
    end = tl.minimum(start + rows, HW)
    x_ptr += n * HW * C
    pixel = start + tl.arange(0, BLOCK_HW)
    mask = (pixel < end)[:, None] & in_c[None, :]
    x = tl.load(x_ptr + pixel[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
    # An empty run past the end of the image counts one pixel, and stores zeros.
    first_count = tl.maximum(tl.minimum(end - start, BLOCK_HW), 1).to(tl.float32)
    shift = tl.sum(x, 0) / first_count
    gap = tl.where(mask, x - shift[None, :], 0.0)
    # Every thread sums its own numbers around the first tile's mean: no barrier and no shuffle in the loop.
    moved = gap
    squares = gap * gap
    for first in range(start + BLOCK_HW, end, BLOCK_HW):
        pixel = first + tl.arange(0, BLOCK_HW)
        mask = (pixel < end)[:, None] & in_c[None, :]
        x = tl.load(x_ptr + pixel[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
        gap = tl.where(mask, x - shift[None, :], 0.0)
        moved += gap
        squares += gap * gap
    count = tl.maximum(end - start, 1).to(tl.float32)
    away = tl.sum(moved, 0) / count
    mean = shift + away
    second = tl.maximum(tl.sum(squares, 0) - away * away * count, 0.0)
    base = partials_ptr + (n * SPLITS + split) * (2 * C) + c
    tl.store(base, mean, mask=in_c)
    tl.store(base + C, second, mask=in_c)


@triton.jit
def coefficients_kernel(
    partials_ptr,  # [N, SPLITS, 2, C] float32
    weight_ptr,  # [C] or [N, C], or None
    bias_ptr,
    mix_ptr,  # clamp: [C]; softmax: [2, C]; else None
    C,
    HW,
    coefficients_ptr,  # [N, 3, C] float32: mean, scale, offset
    FAMILY: tl.constexpr,
    EPS: tl.constexpr,
    UNBIASED: tl.constexpr,
    EPS_INSIDE: tl.constexpr,
    PER_SAMPLE: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: channel blocks, N. Layer families merge every channel in every program, out of the cache."""
    n = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_c = c < C
    shift, away, second = merged_channel(partials_ptr, n, c, in_c, C, HW, SPLITS, BLOCK_S)
    mean = shift + away
    weight = parameter(weight_ptr, n, c, in_c, C, 1.0, PER_SAMPLE)
    bias = parameter(bias_ptr, n, c, in_c, C, 0.0, PER_SAMPLE)
    share = instance_share(mix_ptr, c, in_c, C, FAMILY)
    count = HW * 1.0
    scale = weight * share * inverse_std(second, count, EPS, UNBIASED, EPS_INSIDE)
    offset = bias
    if FAMILY != "instance":
        around = mean_of_block(mean, in_c)
        lacks, layer_second = merged_layer(partials_ptr, n, around, C, HW, SPLITS, BLOCK_S, BLOCK_C)
        layer = weight * (1.0 - share) * inverse_std(layer_second, count * C, EPS, UNBIASED, EPS_INSIDE)
        scale += layer
        offset += layer * ((mean - around) - lacks)
    base = coefficients_ptr + n * 3 * C + c
    tl.store(base, mean, mask=in_c)
    tl.store(base + C, scale, mask=in_c)
    tl.store(base + 2 * C, offset, mask=in_c)


@triton.jit
def apply_kernel(
    x_ptr,  # [N, H, W, C]
    moments_ptr,  # SPLITS > 0: partials [N, SPLITS, 2, C] of the instance family; 0: coefficients [N, 3, C]
    weight_ptr,  # [C] or [N, C], or None; only with partials
    bias_ptr,
    residual_ptr,  # [N, H + 2 RESIDUAL_PAD, W + 2 RESIDUAL_PAD, C], or None
    C,
    H,
    W,
    y_ptr,  # [N, H + 2 PAD, W + 2 PAD, C]
    EPS: tl.constexpr,
    UNBIASED: tl.constexpr,
    EPS_INSIDE: tl.constexpr,
    PER_SAMPLE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    RESIDUAL_SCALE: tl.constexpr,
    RESIDUAL_PAD: tl.constexpr,
    PAD: tl.constexpr,
    SPLITS: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_HW: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: runs of TILES x BLOCK_HW output pixels, channel blocks, N."""
    n = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_c = c < C
    if SPLITS > 0:
        shift, away, second = merged_channel(moments_ptr, n, c, in_c, C, H * W, SPLITS, SPLITS)
        mean = shift + away
        weight = parameter(weight_ptr, n, c, in_c, C, 1.0, PER_SAMPLE)
        scale = weight * inverse_std(second, H * W * 1.0, EPS, UNBIASED, EPS_INSIDE)
        offset = parameter(bias_ptr, n, c, in_c, C, 0.0, PER_SAMPLE)
    else:
        base = moments_ptr + n * 3 * C + c
        mean = tl.load(base, mask=in_c, other=0.0)
        scale = tl.load(base + C, mask=in_c, other=0.0)
        offset = tl.load(base + 2 * C, mask=in_c, other=0.0)
    out_w = W + 2 * PAD
    out_hw = (H + 2 * PAD) * out_w
    x_ptr += n * H * W * C
    y_ptr += n * out_hw * C
    residual_hw = (H + 2 * RESIDUAL_PAD) * (W + 2 * RESIDUAL_PAD)
    for tile in range(TILES):
        out = (tl.program_id(0) * TILES + tile) * BLOCK_HW + tl.arange(0, BLOCK_HW)
        mask = (out < out_hw)[:, None] & in_c[None, :]
        if PAD > 0:
            source = reflected(out // out_w - PAD, H) * W + reflected(out % out_w - PAD, W)
        else:
            source = out
        at = source[:, None] * C + c[None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        y = activated((x - mean[None, :]) * scale[None, :] + offset[None, :], ACTIVATION, SLOPE)
        if residual_ptr is not None:
            at = (n * residual_hw + inside(source, W, RESIDUAL_PAD))[:, None] * C + c[None, :]
            y += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32) * RESIDUAL_SCALE
        tl.store(y_ptr + out[:, None] * C + c[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def border_pixel(b, H, W, PAD: tl.constexpr):
    """Row and column, in the padded image, of its border's b-th pixel: those above, those below, then both sides."""
    out_w = W + 2 * PAD
    above = PAD * out_w
    is_below = b >= above
    is_side = b >= 2 * above
    level = tl.where(is_below, b - above, b)
    side = tl.maximum(b - 2 * above, 0)
    column = side % (2 * PAD)
    row = tl.where(is_side, PAD + side // (2 * PAD), level // out_w + tl.where(is_below, H + PAD, 0))
    return row, tl.where(is_side, tl.where(column < PAD, column, W + column), level % out_w)


@triton.jit
def slab_kernel(
    x_ptr,  # [N, H, W, C]
    weight_ptr,  # [C] or [N, C], or None
    bias_ptr,
    residual_ptr,  # [N, H + 2 RESIDUAL_PAD, W + 2 RESIDUAL_PAD, C], or None
    C,
    H,
    W,
    y_ptr,  # [N, H + 2 PAD, W + 2 PAD, C]
    partials_ptr,  # [N, 1, 2, C] float32 for the gradient, or None
    EPS: tl.constexpr,
    UNBIASED: tl.constexpr,
    EPS_INSIDE: tl.constexpr,
    PER_SAMPLE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    RESIDUAL_SCALE: tl.constexpr,
    RESIDUAL_PAD: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK_HW: tl.constexpr,  # power of two, at least H * W
    BLOCK_C: tl.constexpr,
    BLOCK_BORDER: tl.constexpr,
):
    """Instance norm of a whole small map held in registers: x is read once, and its rim again for a padded border.

    Grid: channel blocks, N.
    """
    n = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    in_c = c < C
    pixel = tl.arange(0, BLOCK_HW)
    mask = (pixel < H * W)[:, None] & in_c[None, :]
    x_ptr += n * H * W * C
    y_ptr += n * (H + 2 * PAD) * (W + 2 * PAD) * C
    x = tl.load(x_ptr + pixel[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
    count = H * W * 1.0
    mean = tl.sum(x, 0) / count
    gap = tl.where(mask, x - mean[None, :], 0.0)
    second = tl.sum(gap * gap, 0)
    if partials_ptr is not None:
        base = partials_ptr + n * 2 * C + c
        tl.store(base, mean, mask=in_c)
        tl.store(base + C, second, mask=in_c)
    weight = parameter(weight_ptr, n, c, in_c, C, 1.0, PER_SAMPLE)
    scale = weight * inverse_std(second, count, EPS, UNBIASED, EPS_INSIDE)
    offset = parameter(bias_ptr, n, c, in_c, C, 0.0, PER_SAMPLE)
    y = activated(gap * scale[None, :] + offset[None, :], ACTIVATION, SLOPE)
    if residual_ptr is not None:
        residual_ptr += n * (H + 2 * RESIDUAL_PAD) * (W + 2 * RESIDUAL_PAD) * C
        at = inside(pixel, W, RESIDUAL_PAD)[:, None] * C + c[None, :]
        y += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32) * RESIDUAL_SCALE
    at = inside(pixel, W, PAD)[:, None] * C + c[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=mask)
    if PAD > 0:
        border = 2 * PAD * (W + 2 * PAD + H)
        for first in range(0, border, BLOCK_BORDER):
            b = first + tl.arange(0, BLOCK_BORDER)
            row, column = border_pixel(b, H, W, PAD)
            source = reflected(row - PAD, H) * W + reflected(column - PAD, W)
            valid = (b < border)[:, None] & in_c[None, :]
            read = tl.load(x_ptr + source[:, None] * C + c[None, :], mask=valid, other=0.0).to(tl.float32)
            rim = activated((read - mean[None, :]) * scale[None, :] + offset[None, :], ACTIVATION, SLOPE)
            if residual_ptr is not None:
                there = inside(source, W, RESIDUAL_PAD)[:, None] * C + c[None, :]
                rim += tl.load(residual_ptr + there, mask=valid, other=0.0).to(tl.float32) * RESIDUAL_SCALE
            there = (row * (W + 2 * PAD) + column)[:, None] * C + c[None, :]
            tl.store(y_ptr + there, rim.to(y_ptr.dtype.element_ty), mask=valid)
