"""Where the sky is in a photograph by day, found without a trained network.

Sky is what is bright or blue, smooth, connected to the top of the image and above the ground. These rules mark what is
surely and what is probably sky; a graph cut over colours (GrabCut, Rother et al., SIGGRAPH 2004) draws the line
between, and a guided filter (He et al., ECCV 2010) lays it along the branches and roofs of the full-sized image.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from i2i_trainer.images import Pixels

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

WORKING_SIDE = 192
"""Pixels of the shorter side at which the cut is made."""
DARKEST = 80.0
"""Level of 255 below which nothing is taken for a sky by day."""
LOWEST = 0.78
"""Share of the height, from the top, below which there is no sky."""
MOST_AT_FLOOR = 0.2
"""Share of the width that may still be a grey sky at that height: more is a wall or a road seen from above."""
LEAST_SHARE = 0.01
"""Of the image; less than this is not called a sky."""


def sky_of(image: Pixels) -> Floats:
    """How much each pixel of `[H, W, 3] uint8 RGB` is sky, `[H, W]` in [0, 1]; all zero if there is none."""
    height, width = image.shape[:2]
    factor = min(1.0, WORKING_SIDE / min(height, width))
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA).astype(np.uint8)
    bars = letterbox(small)
    mask = _cut(small, bars)
    if mask is None:
        return np.zeros((height, width), np.float32)
    coarse = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    radius = max(2, round(min(height, width) / 45))
    fine = _guided(grey, coarse.astype(np.float32), radius, 1e-3)
    return np.clip((fine - 0.15) / 0.7, 0, 1).astype(np.float32)


def letterbox(image: Pixels) -> Mask:
    """True on black bars along the border of `[H, W, 3] uint8`: rows and columns of nothing but black."""
    dark = image.max(axis=2) < 20
    bars = np.zeros(dark.shape, bool)
    for lines, whole in ((bars, dark.all(axis=1)), (bars.T, dark.all(axis=0))):
        first = int(np.argmin(whole)) if not whole.all() else len(whole)
        last = int(np.argmin(whole[::-1])) if not whole.all() else len(whole)
        lines[:first] = True
        lines[len(whole) - last :] = True
    return bars


def _cut(small: Pixels, bars: Mask) -> Mask | None:
    """The sky of a small image, or None if nothing looks like one."""
    height, width = small.shape[:2]
    soft = cv2.GaussianBlur(small, (0, 0), 1.0).astype(np.float32)
    level = soft @ np.asarray([0.299, 0.587, 0.114], np.float32)
    blue = soft[..., 2] - soft[..., 0]
    green = soft[..., 1] - 0.5 * (soft[..., 0] + soft[..., 2])
    rough = np.hypot(cv2.Sobel(level, cv2.CV_32F, 1, 0), cv2.Sobel(level, cv2.CV_32F, 0, 1)) / 8
    rough = cv2.GaussianBlur(rough, (0, 0), 1.5)
    open_rows = np.flatnonzero(~bars.all(axis=1))
    top = int(open_rows[0]) if len(open_rows) else 0
    down = (np.arange(height)[:, None] - top) / max(1, height - top)
    bright = level > max(DARKEST, float(np.percentile(level[~bars], 45)) if (~bars).any() else 255.0)
    bluish = (blue > 18) & (level > 45)
    sky_hue = ((green < 6) | (blue > 40)) & (blue > -60)
    likely = (bright | bluish) & (rough < 6) & sky_hue & (down < LOWEST) & ~bars
    likely = _hanging(likely, top + max(2, height // 40))
    if likely.mean() < LEAST_SHARE:
        return None
    marks = np.full((height, width), cv2.GC_BGD, np.uint8)
    possible = (level > 60) & (down < LOWEST) & ~bars
    marks[possible] = cv2.GC_PR_BGD
    marks[likely] = cv2.GC_PR_FGD
    sure = likely & (rough < 3) & (down < 0.5)
    marks[cv2.erode(sure.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0] = cv2.GC_FGD
    if not (marks == cv2.GC_FGD).any() or not np.isin(marks, (cv2.GC_BGD, cv2.GC_PR_BGD)).any():
        return None
    cv2.setRNGSeed(0)
    cv2.grabCut(small, marks, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    found = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))
    found = _hanging(found, top + max(2, height // 40)) | (found & (rough < 4) & (down < 0.4))
    floor = (found & ~bluish)[int((LOWEST - 0.1) * height) : int(LOWEST * height)].mean()
    return found if found.mean() >= LEAST_SHARE and floor < MOST_AT_FLOOR else None


def _hanging(mask: Mask, top: int) -> Mask:
    """The parts of a mask that reach the rows above `top`."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    above = np.unique(labels[: top + 1][mask[: top + 1]])
    return np.isin(labels, above) & mask


def _guided(guide: Floats, values: Floats, radius: int, eps: float) -> Floats:
    """The guided filter: `values` smoothed within `radius`, with its edges where the guide has them."""

    def mean(what: Floats) -> Floats:
        return np.asarray(cv2.blur(what, (2 * radius + 1, 2 * radius + 1)), np.float32)

    at, of = mean(guide), mean(values)
    gain = (mean(guide * values) - at * of) / (mean(guide * guide) - at * at + eps)
    return np.asarray(mean(gain) * guide + mean(of - gain * at), np.float32)
