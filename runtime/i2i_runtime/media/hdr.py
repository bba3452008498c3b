"""High dynamic range brought down to BT.709, on request.

Light is made linear as ITU-R BT.2100 says for PQ and HLG, its primaries are turned from BT.2020 to BT.709, highlights
are rolled off by the extended curve of Reinhard et al. 2002 on the largest channel (so hues stay), and the result is
coded for a BT.1886 display. Diffuse white of 203 cd/m² (ITU-R BT.2408) becomes the brightest ordinary white.
"""

from __future__ import annotations

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from i2i_runtime.media.colour import EXACT
from i2i_runtime.media.pixels import Image

PQ, HLG = 16, 18
_WHITE_NITS = 203.0
_PEAK_NITS = 1000.0
_BT709_FROM_BT2020 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]
)
_BT2020 = 9


class ToneMapper:
    """Gives standard-range RGB for frames of one HDR clip; `transfer` is H.273's 16 (PQ) or 18 (HLG)."""

    def __init__(self, transfer: int, full_range: bool) -> None:
        self._range = 2 if full_range else 1
        self._reformatter = VideoReformatter()
        self._hlg = transfer == HLG
        code = np.linspace(0, 1, 65536)
        self._light = (_hlg_scene_light(code) if self._hlg else _pq_light(code) / _WHITE_NITS).astype(
            np.float32
        )
        self._codes = (np.linspace(0, 1, 4097) ** (1 / 2.4) * 255 + 0.5).astype(np.uint8)

    def rgb_from_frame(self, frame: av.VideoFrame) -> Image:
        """`[H, W, 3] uint8 RGB` in BT.709 from a decoded BT.2020 frame of 10 bits or more."""
        deep = self._reformatter.reformat(
            frame,
            format="rgb48le",
            src_colorspace=_BT2020,
            dst_colorspace=_BT2020,
            interpolation=EXACT | int(Interpolation.BILINEAR),
            src_color_range=self._range,
            dst_color_range=2,
            threads=1,
        )
        light = self._light[deep.to_ndarray()]
        if self._hlg:
            # The system gamma of BT.2100 for a display of 1000 cd/m²: Y^(1.2 - 1) of the scene's own luminance.
            luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
            light *= (np.maximum(luminance, 1e-6) ** 0.2 * np.float32(_PEAK_NITS / _WHITE_NITS))[..., None]
        narrow = np.maximum(cv2.transform(light, _BT709_FROM_BT2020), 0)
        brightest = np.maximum(narrow.max(axis=2), 1e-6)
        peak = _PEAK_NITS / _WHITE_NITS
        rolled = narrow * ((1 + brightest / peak**2) / (1 + brightest))[..., None]
        return np.asarray(self._codes[np.clip(rolled * 4096 + 0.5, 0, 4096).astype(np.uint16)], np.uint8)


def _pq_light(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """SMPTE ST 2084: code value in [0, 1] to cd/m²."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = code ** (1 / m2)
    return 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def _hlg_scene_light(code: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse OETF of BT.2100's HLG: code value in [0, 1] to scene light in [0, 1]."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
