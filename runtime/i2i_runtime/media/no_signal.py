"""The slate that stands in for the image of a lost source."""

from __future__ import annotations

import cv2
import numpy as np

from i2i_runtime.media.pixels import Image

_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_slate(height: int, width: int, reason: str, lost_s: float) -> Image:
    """`[height, width, 3] uint8 RGB`: the words NO SIGNAL, the reason, and the seconds since the last
    image.
    """
    slate = np.full((height, width, 3), (24, 28, 36), np.uint8)
    unit = max(1, min(height, width) // 12)
    stripe = np.array([[200, 160, 40], [24, 28, 36]], np.uint8)
    across = (np.add.outer(np.arange(max(2, unit // 3)), np.arange(width)) // unit) % 2
    across = across[:height]
    slate[: across.shape[0]] = stripe[across]
    slate[height - across.shape[0] :] = stripe[across]
    lines = ["NO SIGNAL", *_wrapped(reason, 44)[:3], f"last image {_span(lost_s)} ago"]
    sizes = [1.6] + [0.8] * (len(lines) - 2) + [1.0]
    top = height // 2 - unit * len(lines) // 2
    for line, size in zip(lines, sizes, strict=True):
        scale = _fitting_scale(line, size * unit / 32, 0.92 * width)
        (text_width, text_height), _ = cv2.getTextSize(line, _FONT, scale, 1)
        thickness = max(1, round(2 * scale))
        origin = ((width - text_width) // 2, top + text_height)
        cv2.putText(slate, line, origin, _FONT, scale, (235, 235, 235), thickness, cv2.LINE_AA)
        top += round(text_height + 0.7 * unit)
    return slate


def _fitting_scale(line: str, wanted: float, width_px: float) -> float:
    (text_width, _), _ = cv2.getTextSize(line, _FONT, wanted, 1)
    return wanted * min(1.0, width_px / max(1, text_width))


def _wrapped(text: str, width: int) -> list[str]:
    ascii_text = text.encode("ascii", "replace").decode()  # the drawn font knows no other letters
    lines = [""]
    for word in ascii_text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _span(seconds: float) -> str:
    total = max(0, int(seconds))
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"
