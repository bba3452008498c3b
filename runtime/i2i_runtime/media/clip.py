"""The facts of a video file that a file made from it must share."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from i2i_runtime.media.colour import Colour


@dataclass(frozen=True)
class Clip:
    """One video stream of a file.

    `width` and `height` are those of the stored images, before `rotation`: degrees counter-clockwise that a player
    rotates them by, as in the display matrix of ISO/IEC 14496-12. `rate` is the average, used by an encoder for its
    rate control and never for timing. `sample_aspect` is width to height of one pixel, None if it is not stated.
    """

    path: Path
    stream_index: int
    width: int
    height: int
    pixel_format: str
    time_base: Fraction
    rate: Fraction
    colour: Colour
    rotation: int = 0
    sample_aspect: Fraction | None = None
