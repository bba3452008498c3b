"""Image files: which of them an input names, and what one holds beside its pixels; shared by sources and sinks."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from i2i_runtime.errors import SourceError
from i2i_runtime.files import IMAGE_ENDINGS
from i2i_runtime.media.origin import ImageOrigin
from i2i_runtime.media.pixels import Alpha, Image

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
        found = list(path.iterdir())
    elif path.is_file():
        found = [path]
    else:
        found = [Path(name) for name in glob.glob(location, recursive=True)]
    images = [file for file in found if file.suffix.lower() in IMAGE_ENDINGS and file.is_file()]
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
        raise SourceError(f"{path} is not an image that can be read ({error.err}).") from error
    if decoded is None or decoded.ndim != 3:
        raise SourceError(f"{path} is damaged or not an image: save it again from a program that opens it.")
    deep = decoded.dtype == np.uint16
    if not deep and decoded.dtype != np.uint8:
        raise SourceError(f"{path} holds {decoded.dtype} values: save it with 8 or 16 bits per channel.")
    exif = next((np.asarray(c) for k, c in zip(kinds, metadata, strict=True) if k == _EXIF), None)
    alpha = _alpha(data, path, decoded.shape[:2], exif)
    narrow = np.asarray((decoded.astype(np.uint32) * 255 + 32767) // 65535, np.uint8) if deep else decoded
    rgb = np.asarray(cv2.cvtColor(narrow, cv2.COLOR_BGR2RGB), np.uint8)
    return StillImage(rgb, alpha, ImageOrigin(path, deep, _rgb_profile(kinds, metadata)))


def _alpha(
    data: NDArray[np.uint8], path: Path, size: tuple[int, ...], exif: NDArray[Any] | None
) -> Alpha | None:
    if path.suffix.lower() not in _WITH_ALPHA:
        return None
    stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if stored is None or stored.ndim != 3 or stored.shape[2] != 4:
        return None
    alpha = np.ascontiguousarray(stored[:, :, 3])
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
