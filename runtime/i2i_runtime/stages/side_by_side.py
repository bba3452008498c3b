"""Source and translated image side by side."""

from __future__ import annotations

import numpy as np

from i2i_runtime.frame import Frame
from i2i_runtime.stages.base import Stage


class SideBySide(Stage):
    """A stage that puts the source image to the left of the translated one."""

    def process(self, translated: Frame, source: Frame) -> Frame:
        return translated.with_pixels(np.concatenate([source.pixels, translated.pixels], axis=1))
