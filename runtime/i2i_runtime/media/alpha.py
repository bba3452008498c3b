"""The alpha channel of a source image: engines never see it, outputs that can hold it get it unchanged."""

from __future__ import annotations

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from i2i_runtime.media.colour import plane_rows
from i2i_runtime.media.pixels import Alpha, Image

_PLANE = 3
# Packed formats: samples per pixel, and which of them is alpha.
_PACKED = {
    "rgba": (4, 3),
    "bgra": (4, 3),
    "argb": (4, 0),
    "abgr": (4, 0),
    "rgba64": (4, 3),
    "bgra64": (4, 3),
    "ya8": (2, 1),
    "ya16": (2, 1),
}


def alpha_bits(pixel_format: str) -> int:
    """Bits of the alpha samples of a pixel format, as FFmpeg names it; 0 if it has none or is unknown."""
    known = pixel_format.removesuffix("le").removesuffix("be") in _PACKED or pixel_format.startswith(
        ("yuva", "gbrap")
    )
    if not known or pixel_format.endswith(("f32le", "f32be", "f16le", "f16be")):
        return 0
    return next((entry.bits for entry in av.VideoFormat(pixel_format).components if entry.is_alpha), 0)


def alpha_of_frame(frame: av.VideoFrame) -> Alpha | None:
    """A copy of a decoded frame's alpha, as it is stored; uint16 if it has more than 8 bits."""
    bits = alpha_bits(frame.format.name)
    if bits == 0:
        return None
    if bits == 8:
        return _samples(frame).astype(np.uint8)
    return _scaled(_samples(frame), (1 << bits) - 1, 65535).astype(np.uint16)


def put_alpha(frame: av.VideoFrame, alpha: Alpha | None) -> None:
    """Writes `alpha`, as it is to be stored, into a frame whose format has one; None is opaque everywhere."""
    samples, most = _samples(frame), (1 << alpha_bits(frame.format.name)) - 1
    if alpha is None:
        samples[:] = most
    else:
        samples[:] = _scaled(alpha, np.iinfo(alpha.dtype).max, most)


def fitting_alpha(alpha: Alpha | None, source: Image, translated: Image) -> Alpha | None:
    """The alpha of `source` in the size of `translated`; None if a stage gave the image another shape."""
    if alpha is None or translated.shape != source.shape:
        return None
    height, width = translated.shape[:2]
    if alpha.shape == (height, width):
        return alpha
    how = cv2.INTER_AREA if width < alpha.shape[1] else cv2.INTER_LINEAR
    resized = cv2.resize(alpha, (width, height), interpolation=how)
    return resized.astype(np.uint8) if alpha.dtype == np.uint8 else resized.astype(np.uint16)


def narrowed(alpha: Alpha) -> NDArray[np.uint8]:
    """With 8 bits."""
    return _scaled(alpha, np.iinfo(alpha.dtype).max, 255).astype(np.uint8)


def is_opaque(alpha: Alpha) -> bool:
    return bool(alpha.min() == np.iinfo(alpha.dtype).max)


def _samples(frame: av.VideoFrame) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """A view of the alpha samples in the frame's own memory."""
    name = frame.format.name
    kind = np.dtype("u1" if alpha_bits(name) == 8 else ">u2" if name.endswith("be") else "<u2")
    number, at = _PACKED.get(name.removesuffix("le").removesuffix("be"), (1, 0))
    plane = frame.planes[0 if number > 1 else _PLANE]
    rows = plane_rows(plane)[: frame.height]
    return rows.view(kind)[:, at : number * frame.width : number]


def _scaled(
    samples: NDArray[np.uint8] | NDArray[np.uint16], most: int, wanted: int
) -> NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]:
    if most == wanted:
        return samples
    return (samples.astype(np.uint32) * wanted + most // 2) // most
