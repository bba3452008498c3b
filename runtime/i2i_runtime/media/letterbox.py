"""An image of any size inside a fixed one."""

from __future__ import annotations

import cv2
import numpy as np

from i2i_runtime.media.pixels import Image


def letterboxed(image: Image, height: int, width: int) -> Image:
    """The whole image inside `[height, width, 3]`, never stretched, black outside it."""
    have_height, have_width = image.shape[:2]
    if (have_height, have_width) == (height, width):
        return image
    scale = min(height / have_height, width / have_width)
    inner_height, inner_width = max(1, round(have_height * scale)), max(1, round(have_width * scale))
    boxed = np.zeros((height, width, 3), np.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    resized = cv2.resize(image, (inner_width, inner_height), interpolation=cv2.INTER_AREA)
    boxed[top : top + inner_height, left : left + inner_width] = resized
    return boxed
