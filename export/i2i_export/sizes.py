"""Sizes an engine takes: how they are written on the command line, and which ones the gate tries."""

from __future__ import annotations

import re

from i2i_runtime.errors import UsageError
from i2i_runtime.metadata import SizePolicy

SMALLEST = 64
"""Dynamic engines take frames from this side on: below it, reflection pads and instance norms degenerate."""

FRAMES_IN_GATE = 2
"""Frames per size: enough to meet a second image, few enough for a network of 70 GMACs on a laptop."""

_TALLEST, _WIDEST = 4320, 7680


def size_from_text(text: str, stride: int) -> SizePolicy:
    """Reads `dynamic` or `WIDTHxHEIGHT`, both multiples of `stride`. Raises UsageError."""
    if text == "dynamic":
        return dynamic_size(stride)
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or 0 in (int(match[1]), int(match[2])):
        raise UsageError(
            f"--size {text} cannot be read: write it as WIDTHxHEIGHT, as 1280x720, or `dynamic`."
        )
    width, height = int(match[1]), int(match[2])
    if width % stride or height % stride:
        rounded = f"{up_to_multiple(width, stride)}x{up_to_multiple(height, stride)}"
        raise UsageError(
            f"--size {text} does not fit the network, which needs multiples of {stride}: use {rounded}."
        )
    return SizePolicy.fixed(height, width)


def dynamic_size(stride: int) -> SizePolicy:
    """Every multiple of `stride` from `SMALLEST` up to 8K."""
    smallest = up_to_multiple(SMALLEST, stride)
    return SizePolicy(stride, smallest, _TALLEST // stride * stride, smallest, _WIDEST // stride * stride)


def gate_sizes(size: SizePolicy) -> tuple[tuple[int, int], ...]:
    """The (height, width) pairs the gate runs: two for a dynamic engine, one of them not square."""
    if size.is_fixed:
        return ((size.min_height, size.min_width),)
    square = (_within(256, size, tall=True), _within(256, size, tall=False))
    oblong = (_within(192, size, tall=True), _within(320, size, tall=False))
    if oblong == square:
        oblong = (square[0], min(square[1] + size.stride, size.max_width))
    return (square, oblong)


def timing_size(size: SizePolicy) -> tuple[int, int]:
    """The (height, width) at which two forms of an engine are timed against each other: about 640x360."""
    return (_within(360, size, tall=True), _within(640, size, tall=False))


def _within(pixels: int, size: SizePolicy, *, tall: bool) -> int:
    low, high = (size.min_height, size.max_height) if tall else (size.min_width, size.max_width)
    return max(low, min(up_to_multiple(pixels, size.stride), high))


def up_to_multiple(pixels: int, stride: int) -> int:
    """The smallest multiple of `stride` from `pixels` on."""
    return -(-pixels // stride) * stride


def odd_multiple(pixels: int, stride: int) -> int:
    """The smallest odd multiple of `stride` from `pixels` on, which no coarser stride divides."""
    return (-(-pixels // stride) | 1) * stride
