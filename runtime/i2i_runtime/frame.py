"""One image on its way through the pipeline, with its time and what outputs keep of its source."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

from i2i_runtime.media.origin import Clip, ImageOrigin
from i2i_runtime.media.pixels import Alpha, Image

__all__ = ["Frame", "Image"]


@dataclass(frozen=True, slots=True)
class Frame:
    """An image, its time, and the facts about its source that a sink may need.

    `pixels` is `[H, W, 3] uint8 RGB`, full range. `index` counts the frames of the source from 0; a gap means that a
    live source dropped frames. `pts` counts in units of `time_base` seconds, exactly as the source counts; live
    sources stamp the capture time. `captured_s` is `time.monotonic()` when the image entered this process: the age of
    a frame is measured from it.

    The rest is None if it does not apply. `clip` describes the video file the frame was decoded from, `origin` the
    image file. `alpha` is the transparency of the source image. `no_signal` says why a live source has no image: the
    pixels are a slate then, which no engine translates. `engine_ms` is set on translated frames: the milliseconds the
    engine took.
    """

    pixels: Image
    index: int
    pts: int
    time_base: Fraction
    captured_s: float
    clip: Clip | None = None
    origin: ImageOrigin | None = None
    alpha: Alpha | None = None
    no_signal: str | None = None
    engine_ms: float | None = None

    def with_pixels(self, pixels: Image) -> Frame:
        """A copy with other pixels: what the output of an engine or a stage becomes."""
        return replace(self, pixels=pixels)

    @property
    def is_slate(self) -> bool:
        """Whether the image is a stand-in for a lost signal."""
        return self.no_signal is not None

    @property
    def time_s(self) -> Fraction:
        """Presentation time in seconds, exact."""
        return self.pts * self.time_base
