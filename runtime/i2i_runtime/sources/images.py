"""A folder or glob of images, in the order of their names."""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.media.alpha import ALPHA, Alpha
from i2i_runtime.sources import SourceOptions

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}
)
_EXIF = cv2.IMAGE_METADATA_EXIF
_WITH_ALPHA = frozenset({".png", ".webp", ".tif", ".tiff", ".avif", ".jp2"})
ORIGIN = "image"
"""The key of `Frame.extra` under which the `ImageOrigin` of a frame stands."""


@dataclass(frozen=True)
class ImageOrigin:
    """What an image file held beside 8-bit RGB.

    `icc` is the bytes of an RGB colour profile; `deep` says 16 bits per channel. `sources` are all images of the
    input, of which none may be overwritten.
    """

    path: Path
    deep: bool
    alpha: Alpha | None
    icc: bytes | None
    sources: Sequence[Path] = ()


class ImageSource:
    """Reads every image that a folder or glob names, upright as its EXIF orientation says.

    An image that does not decode is left out and named in `losses`.
    """

    live = False

    def __init__(self, location: str, options: SourceOptions) -> None:
        self.name = location
        self._paths = image_paths(location)
        if not self._paths:
            raise SourceError(f"{location} names no image: {', '.join(sorted(IMAGE_SUFFIXES))} are read.")
        self.frame_count: int | None = len(self._paths)
        self._index = 0
        self._left_to_skip = options.skip
        self._time_base = Fraction(1, options.rate or 25)
        self._losses: list[str] = []

    @property
    def losses(self) -> list[str]:
        return self._losses

    def skip_one(self) -> bool:
        # Decoded all the same: one that is damaged was never done, and is lost again.
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
                pixels, origin = read_image(self._paths[index])
            except SourceError as error:
                if len(self._paths) == 1:
                    raise
                self._losses.append(str(error))
                continue
            extra: dict[str, Any] = {ORIGIN: replace(origin, sources=self._paths)}
            if origin.alpha is not None:
                extra[ALPHA] = origin.alpha
            return Frame(pixels, index, index, self._time_base, time.monotonic(), extra)
        return None

    def close(self) -> None:
        self._index = len(self._paths)


def names_images(location: str) -> bool:
    """Whether a path is an image, a folder or a glob of images."""
    path = Path(location)
    if path.is_dir():
        return bool(image_paths(location))
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    return not path.exists() and glob.has_magic(location)


def image_paths(location: str) -> list[Path]:
    """The images of a folder or glob, by name with numbers in order of their value (2 before 10)."""
    path = Path(location)
    if path.is_dir():
        found = list(path.iterdir())
    elif path.is_file():
        found = [path]
    else:
        found = [Path(name) for name in glob.glob(location, recursive=True)]
    images = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    return sorted(images, key=_natural)


def read_image(path: Path) -> tuple[NDArray[np.uint8], ImageOrigin]:
    """`[H, W, 3] uint8 RGB` upright, and what else the file holds. Raises SourceError."""
    try:
        data = np.fromfile(path, np.uint8)
        decoded, kinds, metadata = cv2.imdecodeWithMetadata(
            data, flags=cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        )
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read ({error.strerror}): see that it exists and is yours."
        ) from error
    except cv2.error as error:
        raise SourceError(f"{path} is no image that can be read ({error.err}).") from error
    if decoded is None or decoded.ndim != 3:
        raise SourceError(f"{path} is damaged or no image: save it again from a program that opens it.")
    deep = decoded.dtype == np.uint16
    if not deep and decoded.dtype != np.uint8:
        raise SourceError(f"{path} holds {decoded.dtype} values: save it with 8 or 16 bits per channel.")
    exif = next((np.asarray(c) for k, c in zip(kinds, metadata, strict=True) if k == _EXIF), None)
    alpha = _alpha(data, path, decoded.shape[:2], exif)
    narrow = np.asarray((decoded.astype(np.uint32) * 255 + 32767) // 65535, np.uint8) if deep else decoded
    rgb = np.asarray(cv2.cvtColor(narrow, cv2.COLOR_BGR2RGB), np.uint8)
    return rgb, ImageOrigin(path, deep, alpha, _rgb_profile(kinds, metadata))


def _alpha(
    data: NDArray[np.uint8], path: Path, size: tuple[int, ...], exif: NDArray[Any] | None
) -> Alpha | None:
    if path.suffix.lower() not in _WITH_ALPHA:
        return None
    whole = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if whole is None or whole.ndim != 3 or whole.shape[2] != 4:
        return None
    alpha = np.ascontiguousarray(whole[:, :, 3])
    if exif is not None:
        # OpenCV decodes alpha as it is stored: the colours were turned upright, and so it is turned by itself.
        _, plane = cv2.imencodeWithMetadata(".png", alpha, [_EXIF], [exif.reshape(-1)])
        alpha = np.asarray(cv2.imdecode(plane, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH))
    if alpha.shape != size:
        return None
    return (
        alpha.astype(np.uint16, copy=False)
        if whole.dtype == np.uint16
        else alpha.astype(np.uint8, copy=False)
    )


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
