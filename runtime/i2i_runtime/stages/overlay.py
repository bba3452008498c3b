"""The overlay: age of the image, new frames per second, drops and engine time, drawn into the translated
frame.
"""

from __future__ import annotations

import cv2
import numpy as np

from i2i_runtime.frame import Frame, Image
from i2i_runtime.live_stats import LiveMeter, LiveStats
from i2i_runtime.stages.base import Stage

_FONT = cv2.FONT_HERSHEY_SIMPLEX


class Hud(Stage):
    """A stage that writes one line on a darkened strip at the lower edge; it touches no other pixel."""

    def __init__(self) -> None:
        self._meter = LiveMeter()

    def process(self, translated: Frame, source: Frame) -> Frame:
        """The frame with the line on it; the given frame's pixels stay as they are."""
        stats = self._meter.observe(translated, source)
        return translated.with_pixels(draw_line(translated.pixels, line_from_stats(stats)))


def line_from_stats(stats: LiveStats) -> str:
    line = (
        f"age {stats.age_ms:.0f} ms   {stats.fps:.1f} fps   {stats.dropped} dropped   "
        f"engine {stats.engine_ms:.1f} ms"
    )
    return line if stats.no_signal is None else f"NO SIGNAL   {line}"


def draw_line(image: Image, line: str) -> Image:
    """A copy of `[H, W, 3] uint8 RGB` with `line` at its lower edge: about 1/32 of the height, at least 10
    pixels.

    A line that is too wide for the image is made smaller; below 40 pixels of height nothing is drawn.
    """
    height, width = image.shape[:2]
    if height < 40:
        return image
    drawn = image.copy()
    scale = max(10.0, height / 32) / 22
    (text_width, text_height), base = cv2.getTextSize(line, _FONT, scale, 1)
    if text_width > 0.96 * width:
        scale *= 0.96 * width / text_width
        (text_width, text_height), base = cv2.getTextSize(line, _FONT, scale, 1)
    pad = max(2, text_height // 2)
    strip = drawn[height - text_height - base - 2 * pad :]
    np.right_shift(strip, 2, out=strip)
    origin = (pad, height - base - pad)
    cv2.putText(drawn, line, origin, _FONT, scale, (255, 255, 255), max(1, round(scale * 1.5)), cv2.LINE_AA)
    return drawn
