"""Between the planes of a video frame and full-range RGB, exactly.

Both directions use the matrix and range that the clip states (ITU-T H.273), round once, and take chroma samples as
constant over the pixels they cover, averaging them on the way back. An engine that changes nothing therefore gives
back every plane within one code value, whatever the chroma siting; the siting tag passes through untouched.
swscale's default converters are up to three code values off, so its exact ones are asked for by flag.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Picture

UNSPECIFIED = 2
LIMITED, FULL = 1, 2

# libswscale's flags as numbers, because PyAV names them from version 18 on: accurate rounding, and full chroma in
# both directions; repeated over the pixels it covers on the way in, averaged on the way back.
EXACT = 0x40000 | 0x2000 | 0x4000
_TO_RGB = EXACT | int(Interpolation.POINT)
_FROM_RGB = EXACT | int(Interpolation.AREA)

# H.273 matrix coefficients -> the coefficients swscale knows by the same name.
_SWSCALE_MATRIX = {0: 1, 1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
_MATRIX_NAMES = {8: "YCgCo", 10: "BT.2020 constant luminance", 11: "SMPTE 2085", 12: "derived", 14: "ICtCp"}
_HDR_TRANSFERS = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}


@dataclass(frozen=True)
class Colour:
    """The four numbers of ITU-T H.273 as a file states them; 2 means unspecified, range 0 likewise."""

    matrix: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    @property
    def hdr(self) -> str | None:
        """The name of a high dynamic range transfer function, None for ordinary clips."""
        return _HDR_TRANSFERS.get(self.transfer)


class ColourConverter:
    """Converts the frames of one clip in both directions; keeps swscale's tables between frames.

    `height` decides the matrix of clips that state none: BT.601 up to 576 lines, BT.709 above, as players do.
    """

    def __init__(self, colour: Colour, pixel_format: str, height: int) -> None:
        matrix = colour.matrix
        if matrix == UNSPECIFIED:
            matrix = 5 if height <= 576 else 1
        if matrix not in _SWSCALE_MATRIX:
            raise SourceError(
                f"The clip's colour matrix is {_MATRIX_NAMES.get(matrix, f'number {matrix}')}, which is not supported: "
                "convert the clip to BT.709 first, for example with ffmpeg -vf scale=out_color_matrix=bt709."
            )
        self._matrix = _SWSCALE_MATRIX[matrix]
        full = colour.range == FULL or pixel_format.startswith("yuvj")
        self._range = FULL if full else LIMITED
        self._reformatter = VideoReformatter()

    def rgb_from_frame(self, frame: av.VideoFrame) -> Picture:
        """`[H, W, 3] uint8 RGB`, full range, from a decoded frame of any pixel format."""
        rgb = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=self._matrix,
            dst_colorspace=self._matrix,
            interpolation=_TO_RGB,
            src_color_range=self._range,
            dst_color_range=FULL,
            threads=1,
        )
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(rgb.height, plane.line_size)
        return np.ascontiguousarray(rows[:, : rgb.width * 3]).reshape(rgb.height, rgb.width, 3)

    def frame_from_rgb(self, picture: Picture, pixel_format: str) -> av.VideoFrame:
        """A frame of `pixel_format` with the clip's matrix and range from `[H, W, 3] uint8 RGB`."""
        return self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(picture), "rgb24"),
            format=pixel_format,
            src_colorspace=self._matrix,
            dst_colorspace=self._matrix,
            interpolation=_FROM_RGB,
            src_color_range=FULL,
            dst_color_range=self._range,
            threads=1,
        )
