"""How alike two images look, beside how far their numbers are apart."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from i2i_runtime.frame import Image

_SIGMA, _WINDOW = 1.5, (11, 11)
_DARK, _FLAT = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_TILE = 32
"""Side in pixels of the squares of which the worst counts: about what an eye takes in at one glance."""


def worst_ssim(wanted: Image, got: Image) -> float:
    """Structural similarity of two uint8 RGB images in the square of 32 x 32 pixels where it is lowest; 1 is equal.

    On luma, Gaussian window of 11 x 11 and sigma 1.5: Wang, Bovik, Sheikh, Simoncelli: Image Quality Assessment:
    From Error Visibility to Structural Similarity, 2004. Its mean over an image hides a sky that turned to bands;
    the worst square shows it.
    """
    similarity = _ssim_map(_luma(wanted), _luma(got))
    height, width = similarity.shape
    size = (max(1, width // _TILE), max(1, height // _TILE))
    return float(cv2.resize(similarity, size, interpolation=cv2.INTER_AREA).min())


def _luma(image: Image) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY), np.float32)


def _ssim_map(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.float32]:
    mean_one, mean_two = _blur(one), _blur(two)
    variance_one, variance_two = _blur(one * one) - mean_one**2, _blur(two * two) - mean_two**2
    covariance = _blur(one * two) - mean_one * mean_two
    light = (2 * mean_one * mean_two + _DARK) / (mean_one**2 + mean_two**2 + _DARK)
    structure = (2 * covariance + _FLAT) / (variance_one + variance_two + _FLAT)
    return np.asarray(light * structure, np.float32)


def _blur(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(values, _WINDOW, _SIGMA), np.float32)
