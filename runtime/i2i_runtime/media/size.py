"""Image sizes as text."""

from __future__ import annotations

from i2i_runtime.errors import UsageError

LARGEST = 65536


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`1280x720` -> (1280, 720) as (width, height) in pixels; None stays None. Raises UsageError."""
    if text is None:
        return None
    width, x, height = text.lower().partition("x")
    numbers = x and width.isascii() and height.isascii() and width.isdecimal() and height.isdecimal()
    if not (numbers and 0 < int(width) <= LARGEST and 0 < int(height) <= LARGEST):
        raise UsageError(f"--size {text} is not a size: write WIDTHxHEIGHT, for example 1280x720.")
    return int(width), int(height)
