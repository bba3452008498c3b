"""Image files: which of them an input names, and what one holds beside its pixels; shared by sources and sinks."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from i2i_runtime.errors import SourceError
from i2i_runtime.files import IMAGE_ENDINGS, is_sidecar
from i2i_runtime.media.animation import is_animated
from i2i_runtime.media.origin import ImageOrigin
from i2i_runtime.media.pixels import Alpha, Image

_LARGEST_MEGAPIXELS = int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]) // 1_000_000
_EXIF = cv2.IMAGE_METADATA_EXIF
_WITH_ALPHA = frozenset({".png", ".webp", ".tif", ".tiff", ".avif", ".jp2"})


@dataclass(frozen=True)
class StillImage:
    """A decoded image file: `pixels` `[H, W, 3] uint8 RGB`, upright; `alpha` `[H, W]` in the depth of the file."""

    pixels: Image
    alpha: Alpha | None
    origin: ImageOrigin


def names_images(location: str) -> bool:
    """Whether a path is an image, a folder or a glob of images."""
    path = Path(location)
    if path.is_dir():
        return bool(image_paths(location))
    if path.suffix.lower() in IMAGE_ENDINGS:
        return True
    return not path.exists() and glob.has_magic(location)


def image_paths(location: str) -> list[Path]:
    """The images of a folder or glob, sorted by name, numbers by their value (2 before 10)."""
    path = Path(location)
    if path.is_dir():
        # What moves is one of the clips of a folder.
        found = [file for file in path.iterdir() if not is_animated(file)]
    elif path.is_file():
        found = [path]
    else:
        found = [Path(name) for name in glob.glob(location, recursive=True)]
    images = [
        file
        for file in found
        if file.suffix.lower() in IMAGE_ENDINGS and file.is_file() and not is_sidecar(file)
    ]
    return sorted(images, key=_natural)


def read_image(path: Path) -> StillImage:
    """Decodes one file, upright as its EXIF orientation says. Raises SourceError."""
    try:
        data = np.fromfile(path, np.uint8)
        decoded, kinds, metadata = cv2.imdecodeWithMetadata(
            data, flags=cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        )
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read ({error.strerror}): check that it exists and that you may read it."
        ) from error
    except cv2.error as error:
        if "MAX_IMAGE" in error.err:
            raise SourceError(
                f"{path} has more than {_LARGEST_MEGAPIXELS} million pixels: scale it down with another program first."
            ) from error
        raise SourceError(f"{path} is not an image that can be read ({error.err}).") from error
    if decoded is None or decoded.ndim != 3:
        raise SourceError(f"{path} is damaged or not an image: save it again from a program that opens it.")
    deep = decoded.dtype == np.uint16
    if not deep and decoded.dtype != np.uint8:
        raise SourceError(f"{path} holds {decoded.dtype} values: save it with 8 or 16 bits per channel.")
    exif = next((np.asarray(c) for k, c in zip(kinds, metadata, strict=True) if k == _EXIF), None)
    alpha = _alpha(data, path, decoded.shape[:2], exif)
    narrow = cv2.convertScaleAbs(decoded, alpha=1 / 257) if deep else decoded
    rgb = np.asarray(cv2.cvtColor(narrow, cv2.COLOR_BGR2RGB), np.uint8)
    return StillImage(rgb, alpha, ImageOrigin(path, deep, _rgb_profile(kinds, metadata)))


def _alpha(
    data: NDArray[np.uint8], path: Path, size: tuple[int, ...], exif: NDArray[Any] | None
) -> Alpha | None:
    if path.suffix.lower() not in _WITH_ALPHA:
        return None
    stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if stored is None:
        return None
    alpha = _stored_alpha(stored, data)
    if alpha is None:
        return None
    if exif is not None:
        # OpenCV rotates only the colours by EXIF, so the alpha plane is rotated on its own.
        _, plane = cv2.imencodeWithMetadata(".png", alpha, [_EXIF], [exif.reshape(-1)])
        alpha = np.asarray(cv2.imdecode(plane, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH))
    if alpha.shape != size:
        return None
    return (
        alpha.astype(np.uint16, copy=False)
        if stored.dtype == np.uint16
        else alpha.astype(np.uint8, copy=False)
    )


def _stored_alpha(stored: NDArray[Any], data: NDArray[np.uint8]) -> NDArray[Any] | None:
    """The alpha plane of a decoded image, or what the transparent colour of a PNG (PNG 3, 11.3.1.1) makes of it."""
    if stored.ndim == 3 and stored.shape[2] == 4:
        return np.ascontiguousarray(stored[:, :, 3])
    if stored.ndim == 3 and stored.shape[2] == 2:
        return np.ascontiguousarray(stored[:, :, 1])
    colour = transparent_colour(data.tobytes())
    if colour is None:
        return None
    # OpenCV widens samples of less than 8 bits to 8.
    most = np.iinfo(stored.dtype).max
    values = np.array([value * most // scale for value, scale in colour[::-1]], stored.dtype)
    hidden = (stored.reshape(*stored.shape[:2], -1) == values).all(axis=2)
    return np.where(hidden, 0, most).astype(stored.dtype)


def transparent_colour(png: bytes) -> list[tuple[int, int]] | None:
    """The grey or RGB samples of a PNG that are transparent, each with its largest value; None if there are none."""
    if png[:8] != b"\x89PNG\r\n\x1a\n" or len(png) < 33 or png[25] not in (0, 2):
        return None
    scale, at = (1 << png[24]) - 1, 8
    while at + 8 <= len(png) and png[at + 4 : at + 8] != b"IDAT":
        length = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"tRNS":
            chunk = png[at + 8 : at + 8 + length]
            return [(int.from_bytes(chunk[i : i + 2], "big"), scale) for i in range(0, len(chunk), 2)]
        at += 12 + length
    return None


def _rgb_profile(kinds: Sequence[int], metadata: Sequence[Any]) -> bytes | None:
    for kind, chunk in zip(kinds, metadata, strict=True):
        profile = np.asarray(chunk).tobytes()
        # Bytes 16 to 20 of an ICC header (ISO 15076-1) name the colour space; a CMYK profile no longer fits.
        if kind == cv2.IMAGE_METADATA_ICCP and profile[16:20] == b"RGB ":
            return profile
    return None


def _natural(path: Path) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]
