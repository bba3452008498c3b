"""Frames held in memory: what a pipeline is measured with when neither disk nor decoder should count."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fractions import Fraction

from i2i_runtime.frame import Frame, Image
from i2i_runtime.sources.base import Source


class RecordedSource(Source):
    """Gives `frame_count` frames, cycling through the recorded images; waits to be read."""

    name = "recorded"
    live = False

    def __init__(self, images: Sequence[Image], frame_count: int, rate: int = 30) -> None:
        self.frame_count = frame_count
        self._images = images
        self._left = frame_count
        self._index = 0
        self._time_base = Fraction(1, rate)

    def read(self) -> Frame | None:
        if self._left == 0:
            return None
        self._left -= 1
        index = self._index
        self._index += 1
        pixels = self._images[index % len(self._images)]
        return Frame(pixels, index, index, self._time_base, time.monotonic())

    def close(self) -> None:
        self._left = 0
