"""What an image and its transparency are in memory."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""`[H, W, 3] uint8 RGB`, full range, C-contiguous."""

Alpha: TypeAlias = "NDArray[np.uint8] | NDArray[np.uint16]"
"""`[H, W]`, upright like the image; 0 is transparent, and 255 of uint8 or 65535 of uint16 is opaque."""
