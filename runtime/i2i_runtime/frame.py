"""One image on its way through the pipeline, with its time and its colour."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""`[H, W, 3] uint8 RGB, full range, C-contiguous`."""


@dataclass(frozen=True, slots=True)
class Frame:
    """An image and when it is due.

    `pts` counts in units of `time_base` seconds, exactly as the source counts; live sources stamp capture time.
    `captured_s` is `time.monotonic()` at the moment the image entered this process: its age is measured from it.
    `extra` carries what a sink may keep of the source image (ICC profile, alpha plane, file name, ...).
    """

    pixels: Image
    index: int
    pts: int
    time_base: Fraction
    captured_s: float
    extra: dict[str, Any] = field(default_factory=dict)

    def with_pixels(self, pixels: Image) -> Frame:
        """The same moment with another image: what the engine's output becomes."""
        return replace(self, pixels=pixels)

    @property
    def time_s(self) -> Fraction:
        """Presentation time in seconds, exact."""
        return self.pts * self.time_base
