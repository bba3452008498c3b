"""Steady images from an engine that looks at each frame alone.

Two parts, for any engine: the source is held if it differs from what was shown by no more than noise, so
that the engine sees a still image where the scene is still; and the translated image is blended with the
last one, moved along the optical flow of the source (after Lai et al., "Learning Blind Video Temporal
Consistency", ECCV 2018, whose warping error is also the measure). Where the flow does not explain the source,
nothing is blended: no ghosts at occlusions, and a clean start after a cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from i2i_runtime.frame import Frame, Image
from i2i_runtime.sources.base import Source, SourceWrapper
from i2i_runtime.stages.base import Stage

_FLOW_WIDTH = 240
_STILL_PX = 0.15
_CUT_EXPLAINED = 0.5
_CUT_CHANGE = 6.0


class HeldSource(SourceWrapper):
    """A source whose pixels stay as they are until they differ by more than `noise` code values.

    The difference is averaged over 3x3 pixels, so that grain does not count as motion. What is shown is never further
    from the camera's image than the noise allows.
    """

    def __init__(self, source: Source, noise: int = 6) -> None:
        super().__init__(source)
        self._noise = noise
        self._held: Image | None = None

    def read(self) -> Frame | None:
        frame = super().read()
        if frame is None or frame.is_slate:
            return frame
        self._held = hold(self._held, frame.pixels, self._noise)
        return frame.with_pixels(self._held)


def hold(held: Image | None, image: Image, noise: int) -> Image:
    """`image` where it moved away from `held`, `held` elsewhere; a new array, `[H, W, 3] uint8`."""
    if held is None or held.shape != image.shape:
        return image
    difference = cv2.blur(cv2.absdiff(image, held), (3, 3))
    still = cv2.inRange(difference, (0, 0, 0), (noise, noise, noise))
    return np.asarray(cv2.copyTo(held, still, image.copy()), np.uint8)


class Steadier(Stage):
    """A stage that blends each translated frame with the last one, moved along with the scene.

    `strength` is the share of the last image where the source is fully explained by its motion: 0 changes
    nothing, towards 1 the images get calmer and softer. The flow (DIS, Kroeger et al. 2016) is computed on
    grey images of 240 pixels width.
    """

    def __init__(self, strength: float = 0.6) -> None:
        if not 0.0 <= strength < 1.0:
            raise ValueError("the strength must lie in [0, 1)")
        self._strength = strength
        self._engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._grey: Image | None = None
        self._shown: Image | None = None
        self._grid: NDArray[np.float32] | None = None
        self.cuts = 0

    def process(self, translated: Frame, source: Frame) -> Frame:
        """The steadied frame; the given one after a cut, a change of size or a slate."""
        if source.is_slate:
            self._grey = self._shown = None
            return translated
        grey = _small_grey(source.pixels)
        before, shown = self._grey, self._shown
        pixels = translated.pixels
        if (
            before is not None
            and shown is not None
            and before.shape == grey.shape
            and shown.shape == pixels.shape
        ):
            pixels = self._blended(pixels, shown, grey, before)
        self._grey, self._shown = grey, pixels
        # The next blend reads these pixels: what goes on must be a copy, for later stages may draw into it.
        return translated.with_pixels(pixels.copy())

    def _blended(self, pixels: Image, shown: Image, grey: Image, before: Image) -> Image:
        flow = _flow(self._engine, grey, before)
        flow[np.abs(flow).max(axis=2) < _STILL_PX] = (
            0.0  # resampling a still image again and again would blur it
        )
        trust = _trust(grey, before, flow)
        if is_cut(grey, before, trust):
            self.cuts += 1
            return pixels
        height, width = pixels.shape[:2]
        to_full = np.array([width / grey.shape[1], height / grey.shape[0]], np.float32)
        by = cv2.resize(flow * to_full, (width, height), interpolation=cv2.INTER_LINEAR)
        where = np.asarray(cv2.add(by, self._positions(height, width), dst=by), np.float32)
        moved = _moved(shown, where)
        share = cv2.resize(self._strength * trust, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.blendLinear(moved, pixels, share, 1.0 - share), np.uint8)

    def _positions(self, height: int, width: int) -> NDArray[np.float32]:
        if self._grid is None or self._grid.shape[:2] != (height, width):
            self._grid = _positions(height, width)
        return self._grid


def is_cut(grey: Image, before: Image, trust: NDArray[np.float32]) -> bool:
    """Whether a new scene began: the images differ, and motion explains less than half of it."""
    change = float(cv2.absdiff(grey, before).mean())
    return change > _CUT_CHANGE and float(trust.mean()) < _CUT_EXPLAINED


def _small_grey(image: Image) -> Image:
    """At most 240 pixels wide, by a power of two: whole blocks are averaged several times faster than
    parts of them.
    """
    height, width = image.shape[:2]
    factor = 1 << max(0, math.ceil(math.log2(width / _FLOW_WIDTH)))
    size = (max(16, round(width / factor)), max(16, round(height / factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _flow(engine: cv2.DISOpticalFlow, grey: Image, before: Image) -> NDArray[np.float32]:
    """`[h, w, 2] float32`: from each pixel of `grey` to where it was in `before`, in pixels."""
    start: Any = None  # no first guess; OpenCV's stubs ask for one
    return np.asarray(engine.calc(grey, before, start), np.float32)


def _trust(grey: Image, before: Image, flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """`[h, w] float32` in [0, 1]: 1 where the moved last image equals this one, 0 from 16 code values
    apart.
    """
    where = flow + _positions(*grey.shape[:2])
    moved = _moved(before, where)
    apart = cv2.blur(cv2.absdiff(grey, moved), (5, 5)).astype(np.float32)
    inside = (where >= 0).all(axis=2) & (
        where <= np.array([grey.shape[1] - 1, grey.shape[0] - 1], np.float32)
    ).all(axis=2)
    return np.asarray(np.clip(1.25 - apart / 12.8, 0.0, 1.0) * inside, np.float32)


def _moved(image: NDArray[Any], where: NDArray[np.float32]) -> NDArray[Any]:
    nothing: Any = None  # the position maps are one array of pairs; OpenCV's stubs know only two
    return np.asarray(cv2.remap(image, where, nothing, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _positions(height: int, width: int) -> NDArray[np.float32]:
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.dstack([x, y])


@dataclass(frozen=True)
class WarpingError:
    """How much images change beyond what the source's motion explains, over all pairs of neighbours in a
    clip.

    `mse` is the mean squared difference of colours in [0, 1] between an image and its predecessor moved
    along the source's flow, over the pixels that both see (Lai et al. 2018, section 4); `rms_255` is its root
    in code values. Pairs across a cut are skipped and counted.
    """

    mse: float
    rms_255: float
    pairs: int
    cuts: int


def warping_error(clip: Iterable[tuple[Image, Image]]) -> WarpingError:
    """Measures `(source, shown)` images in order, all of one size.

    The flow is computed on the sources at full size, both ways (DIS, medium preset); a pixel counts as seen
    by both where the two agree (Sundaram, Brox and Keutzer 2010: |f + b|^2 <= 0.01 (|f|^2 + |b|^2) + 0.5).
    """
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    squares, pixels, pairs, cuts = 0.0, 0, 0, 0
    last: tuple[Image, Image] | None = None
    for source, shown in clip:
        grey = np.asarray(cv2.cvtColor(source, cv2.COLOR_RGB2GRAY), np.uint8)
        if last is not None:
            before, shown_before = last
            flow = _flow(engine, grey, before)
            if is_cut(grey, before, _trust(grey, before, flow)):
                cuts += 1
            else:
                where = flow + _positions(*grey.shape)
                back = _flow(engine, before, grey)
                seen = _seen_by_both(flow, _moved(back, where), where)
                moved = _moved(shown_before, where)
                apart = (shown.astype(np.float32) - moved)[seen] / 255.0
                squares += float((apart**2).sum())
                pixels += apart.size
                pairs += 1
        last = (grey, shown)
    mse = squares / pixels if pixels else 0.0
    return WarpingError(mse, 255.0 * mse**0.5, pairs, cuts)


def _seen_by_both(
    flow: NDArray[np.float32], back: NDArray[np.float32], where: NDArray[np.float32]
) -> NDArray[np.bool_]:
    apart = ((flow + back) ** 2).sum(axis=2)
    bound = 0.01 * ((flow**2).sum(axis=2) + (back**2).sum(axis=2)) + 0.5
    height, width = flow.shape[:2]
    inside = (where >= 0).all(axis=2) & (where <= np.array([width - 1, height - 1], np.float32)).all(axis=2)
    return np.asarray((apart <= bound) & inside, np.bool_)
