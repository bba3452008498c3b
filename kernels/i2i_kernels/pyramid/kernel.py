"""The pyramid's filters, NHWC, any channel count: fine to coarse and coarse to fine, each the other's gradient.

Along one axis both filters and both gradients are `out[a] = sum over b of K[a, b] in[b]`, with the reflection at the
border folded into K: a fine index that reflection reaches twice simply weighs more. So nothing is padded.
"""
# The bodies are Triton's language, not Python's: untyped, and a branch on a constant is a statement.
# mypy: ignore-errors
# ruff: noqa: SIM108

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def binomial(distance):
    """(1, 4, 6, 4, 1) / 16 at distances -2 to 2, else 0."""
    d = tl.abs(distance)
    return tl.where(d == 0, 0.375, tl.where(d == 1, 0.25, tl.where(d == 2, 0.0625, 0.0)))


@triton.jit
def reach(position, centre, size):
    """Weight with which the tap at `position` of a reflected line of `size` enters the blur around `centre`."""
    weight = binomial(position - centre)
    weight += tl.where(position > 0, binomial(-position - centre), 0.0)
    return weight + tl.where(position < size - 1, binomial(2 * (size - 1) - position - centre), 0.0)


@triton.jit
def coarse_kernel(
    x_ptr,  # [N, H, W, C], the fine image
    H,
    W,
    OH,
    OW,
    y_ptr,  # [N, OH, OW, C], the coarse image
    C: tl.constexpr,
    SCALE: tl.constexpr,
    TRANSPOSED: tl.constexpr,  # False: blur and decimate; True: gradient of zero insertion and blur
    BLOCK: tl.constexpr,
):
    """Grid: blocks of output elements, N."""
    n = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = e % C
    oy = e // C // OW
    ox = e // C % OW
    inside = e < OH * OW * C
    x_ptr += n * H * W * C
    total = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(5):
        y = 2 * oy + i - 2
        if TRANSPOSED:
            row = reach(2 * oy, y, H)
        else:
            row = reach(y, 2 * oy, H)
        for j in tl.static_range(5):
            x = 2 * ox + j - 2
            if TRANSPOSED:
                column = reach(2 * ox, x, W)
            else:
                column = reach(x, 2 * ox, W)
            mask = inside & (y >= 0) & (y < H) & (x >= 0) & (x < W)
            total += row * column * tl.load(x_ptr + (y * W + x) * C + c, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + n * OH * OW * C + e, (total * SCALE).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def fine_kernel(
    x_ptr,  # [N, H, W, C], the coarse image
    add_ptr,  # [N, OH, OW, C], or None
    H,
    W,
    OH,
    OW,
    y_ptr,  # [N, OH, OW, C], the fine image
    C: tl.constexpr,
    SCALE: tl.constexpr,
    TRANSPOSED: tl.constexpr,  # False: zero insertion and blur; True: gradient of blur and decimate
    BLOCK: tl.constexpr,
):
    """Grid: blocks of output elements, N."""
    n = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c = e % C
    oy = e // C // OW
    ox = e // C % OW
    inside = e < OH * OW * C
    x_ptr += n * H * W * C
    total = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(3):
        y = oy // 2 + i - 1
        if TRANSPOSED:
            row = reach(oy, 2 * y, OH)
        else:
            row = reach(2 * y, oy, OH)
        for j in tl.static_range(3):
            x = ox // 2 + j - 1
            if TRANSPOSED:
                column = reach(ox, 2 * x, OW)
            else:
                column = reach(2 * x, ox, OW)
            mask = inside & (y >= 0) & (y < H) & (x >= 0) & (x < W)
            total += row * column * tl.load(x_ptr + (y * W + x) * C + c, mask=mask, other=0.0).to(tl.float32)
    total *= SCALE
    at = n * OH * OW * C + e
    if add_ptr is not None:
        total += tl.load(add_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, total.to(y_ptr.dtype.element_ty), mask=inside)
