"""Scenes that the runtime draws itself, so that it can be tried without a camera or a clip."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from i2i_runtime.errors import UsageError
from i2i_runtime.frame import Frame, Image
from i2i_runtime.sources.base import Source, SourceOptions

DEFAULT_FRAMES = 250


class SyntheticSource(Source):
    """`street` or `bars` at a rate of its own; every frame depends on its index alone.

    Not live: it waits to be read.
    """

    live = False

    def __init__(self, scene: str, options: SourceOptions) -> None:
        self.name = f"test://{scene}"
        width, height = options.size or (1280, 720)
        self._draw = _drawer(scene, width, height)
        self.frame_count = DEFAULT_FRAMES
        self._index = options.skip
        self._time_base = Fraction(1, options.rate or 25)

    def read(self) -> Frame | None:
        if self._index >= DEFAULT_FRAMES:
            return None
        index = self._index
        self._index += 1
        return Frame(self._draw(index), index, index, self._time_base, time.monotonic())

    def close(self) -> None:
        self._index = DEFAULT_FRAMES


def _drawer(scene: str, width: int, height: int) -> Callable[[int], Image]:
    if scene == "bars":
        return lambda index: draw_bars(index, width, height)
    if scene == "street":
        from i2i_runtime.sources.street import Street

        return Street(width, height).draw
    raise UsageError(f"Unknown scene {scene!r}: use test://street or test://bars.")


def draw_bars(index: int, width: int, height: int) -> Image:
    """`[H, W, 3] uint8 RGB`: the eight bars of a test card, with a white line that walks one pixel per frame."""
    colours = [[255, 255, 255], [255, 255, 0], [0, 255, 255], [0, 255, 0]]
    colours += [[255, 0, 255], [255, 0, 0], [0, 0, 255], [0, 0, 0]]
    row = np.asarray(colours, np.uint8)[np.arange(width) * 8 // width]
    row[index % width] = 255 - row[index % width]
    return np.repeat(row[None], height, axis=0)
