"""Camera bytes to NHWC images in [-1, 1] and back: RGB, and NV12 with pitch, range and standard."""
# The bodies are Triton's language, not Python's: untyped.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def byte(value):
    return tl.minimum(tl.maximum(tl.floor(value + 0.5), 0.0), 255.0).to(tl.uint8)


@triton.jit
def from_rgb_kernel(frame_ptr, count, image_ptr, BLOCK: tl.constexpr):
    """Grid: blocks of the `count` bytes of `[N, H, W, 3]`; the image has the same order."""
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(frame_ptr + e, mask=e < count, other=0).to(tl.float32) / 127.5 - 1.0
    tl.store(image_ptr + e, value.to(image_ptr.dtype.element_ty), mask=e < count)


@triton.jit
def to_rgb_kernel(image_ptr, count, frame_ptr, BLOCK: tl.constexpr):
    """The way back of `from_rgb_kernel`, clamped."""
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(image_ptr + e, mask=e < count, other=0.0).to(tl.float32)
    tl.store(frame_ptr + e, byte((value + 1.0) * 127.5), mask=e < count)


@triton.jit
def from_nv12_kernel(
    frame_ptr,  # [N, 3 H / 2, pitch] uint8
    H,
    W,
    pitch,
    image_ptr,  # [N, H, W, 3]
    KR: tl.constexpr,
    KB: tl.constexpr,
    BLACK: tl.constexpr,
    WHITE: tl.constexpr,
    CHROMA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid: blocks of pixels, N."""
    n = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < H * W
    row = pixel // W
    column = pixel % W
    frame_ptr += n * (H // 2 * 3) * pitch
    pair = frame_ptr + (H + row // 2) * pitch + column // 2 * 2
    y = (tl.load(frame_ptr + row * pitch + column, mask=inside, other=0).to(tl.float32) - BLACK) / WHITE
    cb = (tl.load(pair, mask=inside, other=0).to(tl.float32) - 128.0) / CHROMA
    cr = (tl.load(pair + 1, mask=inside, other=0).to(tl.float32) - 128.0) / CHROMA
    red = y + 2.0 * (1.0 - KR) * cr
    blue = y + 2.0 * (1.0 - KB) * cb
    green = (y - KR * red - KB * blue) / (1.0 - KR - KB)
    at = image_ptr + n * H * W * 3 + pixel * 3
    dtype = image_ptr.dtype.element_ty
    tl.store(at, (tl.minimum(tl.maximum(red, 0.0), 1.0) * 2.0 - 1.0).to(dtype), mask=inside)
    tl.store(at + 1, (tl.minimum(tl.maximum(green, 0.0), 1.0) * 2.0 - 1.0).to(dtype), mask=inside)
    tl.store(at + 2, (tl.minimum(tl.maximum(blue, 0.0), 1.0) * 2.0 - 1.0).to(dtype), mask=inside)


@triton.jit
def unit(image_ptr, at, mask):
    value = tl.load(image_ptr + at, mask=mask, other=0.0).to(tl.float32)
    return tl.minimum(tl.maximum((value + 1.0) / 2.0, 0.0), 1.0)


@triton.jit
def to_nv12_kernel(
    image_ptr,  # [N, H, W, 3]
    H,
    W,
    pitch,
    frame_ptr,  # [N, 3 H / 2, pitch] uint8
    KR: tl.constexpr,
    KB: tl.constexpr,
    BLACK: tl.constexpr,
    WHITE: tl.constexpr,
    CHROMA: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid: blocks of chroma pairs, padding of the pitch included, N. One pair serves a square of four pixels."""
    n = tl.program_id(1).to(tl.int64)
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = pair // (pitch // 2)
    column = pair % (pitch // 2)
    on_frame = row < H // 2
    inside = on_frame & (column < W // 2)
    frame_ptr += n * (H // 2 * 3) * pitch
    image_ptr += n * H * W * 3
    red = tl.zeros([BLOCK], tl.float32)
    green = tl.zeros([BLOCK], tl.float32)
    blue = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            at = ((2 * row + i) * W + 2 * column + j) * 3
            r = unit(image_ptr, at, inside)
            g = unit(image_ptr, at + 1, inside)
            b = unit(image_ptr, at + 2, inside)
            y = byte((KR * r + (1.0 - KR - KB) * g + KB * b) * WHITE + BLACK)
            y = tl.where(inside, y, 0).to(tl.uint8)
            tl.store(frame_ptr + (2 * row + i) * pitch + 2 * column + j, y, mask=on_frame)
            red += r * 0.25
            green += g * 0.25
            blue += b * 0.25
    y = KR * red + (1.0 - KR - KB) * green + KB * blue
    cb = byte((blue - y) / (2.0 * (1.0 - KB)) * CHROMA + 128.0)
    cr = byte((red - y) / (2.0 * (1.0 - KR)) * CHROMA + 128.0)
    at = frame_ptr + (H + row) * pitch + 2 * column
    tl.store(at, tl.where(inside, cb, 0).to(tl.uint8), mask=on_frame)
    tl.store(at + 1, tl.where(inside, cr, 0).to(tl.uint8), mask=on_frame)
