"""From NV12, the format of camera processors and hardware decoders, to full-range RGB."""

from __future__ import annotations

import cv2
import numpy as np

from i2i_runtime.media.colour import rgb_matrix
from i2i_runtime.media.pixels import Image


class Nv12Converter:
    """Converts NV12 images of one size with one matrix and range; keeps its memory between images.

    `matrix` is a number of ITU-T H.273, table 4: 1 is BT.709, 5 BT.601. `full` says that black is 0, not 16.
    Chroma samples are taken as constant over the pixels they cover, as for files.
    """

    def __init__(self, width: int, height: int, matrix: int, *, full: bool) -> None:
        self._to_rgb = rgb_matrix(matrix, full=full)
        self._full_size = np.empty((height, width, 3), np.uint8)

    def rgb_from_planes(self, luma: Image, chroma: Image) -> Image:
        """`[H, W, 3] uint8 RGB` from luma `[H, W]` and chroma `[ceil(H/2), ceil(W/2), 2]` (Cb, Cr).

        Rows may be padded: the arrays can be views with any row stride.
        """
        height, width = luma.shape
        covered = (2 * chroma.shape[1], 2 * chroma.shape[0])
        repeated = cv2.resize(chroma, covered, interpolation=cv2.INTER_NEAREST)
        cv2.merge([luma, repeated[:height, :width]], self._full_size)
        return np.asarray(cv2.transform(self._full_size, self._to_rgb), np.uint8)
