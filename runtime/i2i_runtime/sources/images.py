"""A folder or glob of images, sorted by name."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction

from i2i_runtime.errors import SourceError
from i2i_runtime.files import IMAGE_ENDINGS
from i2i_runtime.frame import Frame
from i2i_runtime.media.images import image_paths, read_image
from i2i_runtime.sources.base import Source, SourceOptions


class ImageSource(Source):
    """Reads every image that a folder or glob names, upright as its EXIF orientation says.

    An image that does not decode is skipped and named in `losses`.
    """

    live = False

    def __init__(self, location: str, options: SourceOptions) -> None:
        self.name = location
        self._paths = image_paths(location)
        if not self._paths:
            raise SourceError(
                f"{location} contains no image: {', '.join(sorted(IMAGE_ENDINGS))} are supported."
            )
        self.frame_count = len(self._paths)
        self._index = 0
        self._left_to_skip = options.skip
        self._time_base = Fraction(1, options.rate or 25)
        self._losses: list[str] = []

    @property
    def losses(self) -> list[str]:
        return self._losses

    def skip_one(self) -> bool:
        # Decoded even so: a damaged image was never done, and is lost again.
        if self._left_to_skip == 0 or self._next() is None:
            return False
        self._left_to_skip -= 1
        return True

    def read(self) -> Frame | None:
        while self.skip_one():
            pass
        return self._next()

    def _next(self) -> Frame | None:
        while self._index < len(self._paths):
            index = self._index
            self._index += 1
            try:
                image = read_image(self._paths[index])
            except SourceError as error:
                if len(self._paths) == 1:
                    raise
                self._losses.append(str(error))
                continue
            origin = replace(image.origin, sources=self._paths)
            return Frame(
                image.pixels,
                index,
                index,
                self._time_base,
                time.monotonic(),
                origin=origin,
                alpha=image.alpha,
            )
        return None

    def close(self) -> None:
        self._index = len(self._paths)
