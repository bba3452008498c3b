"""Between the planes of a video frame and full-range RGB, within one code value.

Both directions use the matrix and range that the clip states (ITU-T H.273), and take chroma samples as constant over
the pixels they cover, averaging them on the way back. An engine that changes nothing therefore gives back every plane
within one code value, whatever the chroma siting; the siting tag passes through untouched.

The ordinary 8-bit formats go through OpenCV on the way in: as close to the standard as swscale's exact converter, at a
third of its cost. Everything else goes through swscale, whose default converters are up to three code values off, so
that its exact ones are asked for by flag.
"""

from __future__ import annotations

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from i2i_runtime.errors import SourceError
from i2i_runtime.media.origin import FULL, LIMITED, UNSPECIFIED, Colour
from i2i_runtime.media.pixels import Image

# libswscale's flags as numbers, because PyAV names them from version 18 on: accurate rounding, and full chroma in
# both directions; repeated over the pixels it covers on the way in, averaged on the way back.
EXACT = 0x40000 | 0x2000 | 0x4000
_TO_RGB = EXACT | int(Interpolation.POINT)
_FROM_RGB = EXACT | int(Interpolation.AREA)

# H.273 matrix coefficients -> the coefficients swscale knows by the same name.
_SWSCALE_MATRIX = {0: 1, 1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
# The same numbers -> the weights of red and blue in luma (H.273, table 4).
_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_PLANAR_8_BIT = {
    name: (across, down)
    for size, across, down in (("420", 2, 2), ("422", 2, 1), ("444", 1, 1))
    for name in (f"yuv{size}p", f"yuvj{size}p")
}
"""Pixel formats of three planes of bytes -> pixels across and down that share a chroma sample."""
_MATRIX_NAMES = {8: "YCgCo", 10: "BT.2020 constant luminance", 11: "SMPTE 2085", 12: "derived", 14: "ICtCp"}


def is_rgb(pixel_format: str) -> bool:
    """Whether pixels are stored as RGB, or as a palette of it."""
    entry = av.VideoFormat(pixel_format)
    return entry.is_rgb or entry.has_palette


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
        self._to_rgb = rgb_matrix(self._matrix, full=full)
        self._reformatter = VideoReformatter()
        # Kept between frames: fresh memory would be mapped page by page, at twice the cost of the arithmetic.
        self._full_size: Image | None = None

    def rgb_from_frame(self, frame: av.VideoFrame) -> Image:
        """`[H, W, 3] uint8 RGB`, full range, from a decoded frame of any pixel format."""
        covered = _PLANAR_8_BIT.get(frame.format.name)
        if covered is None:
            return self._rgb_by_swscale(frame)
        luma, blue, red = (_pixels(plane) for plane in frame.planes)
        if self._full_size is None or self._full_size.shape[:2] != luma.shape:
            self._full_size = np.empty((*luma.shape, 3), np.uint8)
        chroma = (_repeated(plane, covered)[: luma.shape[0], : luma.shape[1]] for plane in (blue, red))
        cv2.merge([luma, *chroma], self._full_size)
        return np.asarray(cv2.transform(self._full_size, self._to_rgb), np.uint8)

    def _rgb_by_swscale(self, frame: av.VideoFrame) -> Image:
        if frame.format.chroma_width(2) == 1:
            frame = _without_siting(frame)
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
        rows = plane_rows(rgb.planes[0])
        return np.ascontiguousarray(rows[:, : rgb.width * 3]).reshape(rgb.height, rgb.width, 3)

    def frame_from_rgb(self, image: Image, pixel_format: str) -> av.VideoFrame:
        """A frame of `pixel_format` with the clip's matrix and range from `[H, W, 3] uint8 RGB`."""
        return self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), "rgb24"),
            format=pixel_format,
            src_colorspace=self._matrix,
            dst_colorspace=self._matrix,
            interpolation=_FROM_RGB,
            src_color_range=FULL,
            dst_color_range=self._range,
            threads=1,
        )


def rgb_matrix(matrix: int, *, full: bool) -> NDArray[np.float32]:
    """`[3, 4] float32`: full-range R, G, B from (Y, Cb, Cr, 1) in 8-bit code values (H.273, 8.3)."""
    red, blue = _WEIGHTS[matrix]
    green = 1 - red - blue
    luma, chroma, black = (1.0, 1.0, 0) if full else (255 / 219, 255 / 224, 16)
    cr, cb = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    weights = np.array(
        [[luma, 0, cr], [luma, -cb * blue / green, -cr * red / green], [luma, cb, 0]], np.float64
    )
    offsets = -weights @ np.array([black, 128, 128])
    return np.column_stack([weights, offsets]).astype(np.float32)


def _without_siting(frame: av.VideoFrame) -> av.VideoFrame:
    """The same planes in a frame that does not say where chroma sits.

    A decoder's frame mostly says left, and swscale would give every other pixel its neighbour's sample.
    """
    plain = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for plane, given in zip(plain.planes, frame.planes, strict=True):
        plane_rows(plane)[:, : given.line_size] = plane_rows(given)[:, : plane.line_size]
    return plain


def _repeated(plane: Image, times: tuple[int, int]) -> Image:
    """Each sample repeated over the (across, down) pixels it covers."""
    if times == (1, 1):
        return plane
    size = (plane.shape[1] * times[0], plane.shape[0] * times[1])
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def plane_rows(plane: av.video.plane.VideoPlane) -> NDArray[np.uint8]:
    """`[rows, line_size] uint8`: the plane's memory, whatever it holds."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)


def _pixels(plane: av.video.plane.VideoPlane) -> NDArray[np.uint8]:
    """`[H, W] uint8` of a plane of bytes."""
    return plane_rows(plane)[:, : plane.width]
