"""EXPERIMENT: 3 x 3 convolution, NHWC, that normalises what it loads and keeps statistics of what it stores.

Implicit matrix product over nine taps. With it a residual block passes over its tensors seven times in place of about
twenty, for a convolution that is slower than a vendor's: of use only where memory is the limit. sm_80 and later.
"""
# The bodies are Triton's language, not Python's: untyped, and a branch on a constant is a statement.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from i2i_kernels.norm.kernel import activated, reflected


@triton.jit
def conv_norm_kernel(
    x_ptr,  # [N, H, W, C]
    coefficients_ptr,  # [N, 3, C] float32: mean, scale, offset
    weight_ptr,  # [OC, 3, 3, C]
    C,
    H,
    W,
    OC,
    y_ptr,  # [N, H, W, OC]
    partials_ptr,  # [N, SPLITS, 2, OC] float32 of the stored result
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,  # at least cdiv(H * W, SPLITS)
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: SPLITS, blocks of output channels, N. One program, one run of pixels: its statistics need no merge."""
    split = tl.program_id(0)
    n = tl.program_id(2).to(tl.int64)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    in_o = o < OC
    rows = tl.cdiv(H * W, SPLITS)
    start = split * rows
    end = tl.minimum(start + rows, H * W)
    pixel = start + tl.arange(0, BLOCK_M)
    valid = pixel < end
    x_ptr += n * H * W * C
    total = tl.zeros([BLOCK_M, BLOCK_O], tl.float32)
    for tap in range(9):
        row = reflected(pixel // W + tap // 3 - 1, H)
        column = reflected(pixel % W + tap % 3 - 1, W)
        source = (row * W + column) * C
        for first in range(0, C, BLOCK_C):
            c = first + tl.arange(0, BLOCK_C)
            in_c = c < C
            mask = valid[:, None] & in_c[None, :]
            x = tl.load(x_ptr + source[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
            base = coefficients_ptr + n * 3 * C + c
            mean = tl.load(base, mask=in_c, other=0.0)
            scale = tl.load(base + C, mask=in_c, other=0.0)
            offset = tl.load(base + 2 * C, mask=in_c, other=0.0)
            z = activated((x - mean[None, :]) * scale[None, :] + offset[None, :], ACTIVATION, SLOPE)
            at = weight_ptr + o[None, :] * (9 * C) + tap * C + c[:, None]
            weight = tl.load(at, mask=in_c[:, None] & in_o[None, :], other=0.0)
            total = tl.dot(z.to(weight.dtype), weight, total)
    y = total.to(y_ptr.dtype.element_ty)
    mask = valid[:, None] & in_o[None, :]
    tl.store(y_ptr + n * H * W * OC + pixel[:, None] * OC + o[None, :], y, mask=mask)
    # The next norm reads the rounded result, so its statistics are those of the rounded result.
    count = tl.maximum(end - start, 1).to(tl.float32)
    stored = tl.where(mask, y.to(tl.float32), 0.0)
    mean = tl.sum(stored, 0) / count
    gap = tl.where(mask, stored - mean[None, :], 0.0)
    base = partials_ptr + (n * SPLITS + split) * (2 * OC) + o
    tl.store(base, mean, mask=in_o)
    tl.store(base + OC, tl.sum(gap * gap, 0), mask=in_o)
