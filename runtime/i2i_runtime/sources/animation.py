"""An animated GIF, PNG, WebP or AVIF, frame for frame."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.sources.base import Source, SourceOptions

_MILLISECOND = Fraction(1, 1000)
_AT_ONCE = 64
# What browsers show frames for that state no time.
_UNSTATED_MS = 100


class AnimationSource(Source):
    """The frames of one round of an animation, each for as long as the file says, with their transparency."""

    def __init__(self, path: Path, options: SourceOptions) -> None:
        """Raises SourceError."""
        self.name = str(path)
        try:
            self._data = np.fromfile(path, np.uint8)
        except OSError as error:
            raise SourceError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
        self._skip = options.skip
        self._frames = self._decode()
        first = next(self._frames, None)
        if first is None:
            raise SourceError(
                f"{path} is damaged or not an animation: save it again from a program that opens it."
            )
        self._first: Frame | None = first

    def skip_one(self) -> bool:
        if self._skip == 0 or self._next() is None:
            return False
        self._skip -= 1
        return True

    def read(self) -> Frame | None:
        while self.skip_one():
            pass
        return self._next()

    def close(self) -> None:
        self._frames, self._first = iter(()), None

    def _next(self) -> Frame | None:
        frame, self._first = self._first or next(self._frames, None), None
        return frame

    def _decode(self) -> Iterator[Frame]:
        index = pts = 0
        while True:
            try:
                decoded, animation = cv2.imdecodeanimation(self._data, index, _AT_ONCE)
            except cv2.error:
                return
            if not decoded or not animation.frames:
                return
            for image, duration in zip(animation.frames, animation.durations, strict=True):
                rgb = np.asarray(cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB), np.uint8)
                alpha = np.array(image[..., 3], np.uint8) if image.shape[2] == 4 else None
                moving = alpha if alpha is not None and int(alpha.min()) < 255 else None
                yield Frame(rgb, index, pts, _MILLISECOND, time.monotonic(), alpha=moving)
                pts += int(duration) or _UNSTATED_MS
                index += 1
            if len(animation.frames) < _AT_ONCE:
                return
