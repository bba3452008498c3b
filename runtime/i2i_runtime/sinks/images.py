"""A folder of images, one for each frame, or a single image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from i2i_runtime.errors import SinkError, UsageError
from i2i_runtime.files import IMAGE_ENDINGS, folded, refusal_of_target, write_whole
from i2i_runtime.frame import Frame
from i2i_runtime.media.alpha import fitting_alpha, narrowed
from i2i_runtime.media.origin import ImageOrigin
from i2i_runtime.sinks.base import Sink, SinkOptions

# What keeps 16 bits, alpha and a colour profile alike.
_LOSSLESS = ".png"
_KEEPS_ALPHA = frozenset({".png", ".webp", ".tif", ".tiff"})
_KEEPS_16_BIT = frozenset({".png", ".tif", ".tiff"})
_PARAMETERS = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95], ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95]}


def takes_images(location: str) -> bool:
    """Whether an output path means images: a folder, a name without suffix, or an image's suffix."""
    path = Path(location)
    return path.is_dir() or location.endswith(("/", os.sep)) or path.suffix.lower() in {"", *IMAGE_ENDINGS}


class ImageSink(Sink):
    """Writes each frame under its source's name (or its number), complete or not at all.

    Alpha, 16 bits and an RGB colour profile of the source image are kept if the format holds them.
    """

    def __init__(self, path: Path, options: SinkOptions) -> None:
        self.name = str(path)
        self._single = path if path.suffix.lower() in IMAGE_ENDINGS and not path.is_dir() else None
        self._folder = path if self._single is None else path.parent
        self._kept = options.kept
        self._written: set[str] = set()
        self._checked = False
        if self._single is not None and (refusal := refusal_of_target(path, options.kept)) is not None:
            raise UsageError(f"{path} {refusal}: choose another --output.")
        if self._single is None and path.exists() and not path.is_dir():
            kind = refusal_of_target(path) or "is a file"
            raise UsageError(
                f"{path} {kind}: choose a folder, or a name with the ending of an image or video."
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(
                f"The folder {self._folder} cannot be made ({error.strerror}): choose another --output."
            ) from error

    def write(self, translated: Frame, source: Frame) -> None:
        origin = source.origin
        if origin is not None and not self._checked:
            self._spare(origin.sources)
            self._checked = True
        path = self._path(origin, source.index)
        bgr = cv2.cvtColor(translated.pixels, cv2.COLOR_RGB2BGR)
        suffix = path.suffix.lower()
        kinds: list[int] = []
        chunks: list[np.ndarray[tuple[int], np.dtype[np.uint8]]] = []
        if origin is not None:
            if origin.deep and suffix in _KEEPS_16_BIT:
                bgr = bgr.astype(np.uint16) * 257
            if origin.icc is not None:
                kinds, chunks = [cv2.IMAGE_METADATA_ICCP], [np.frombuffer(origin.icc, np.uint8)]
        alpha = fitting_alpha(source.alpha, source.pixels, translated.pixels)
        if alpha is not None and suffix in _KEEPS_ALPHA:
            bgr = np.dstack([bgr, narrowed(alpha) if bgr.dtype == np.uint8 else alpha])
        parameters = _PARAMETERS.get(".jpg" if suffix == ".jpeg" else suffix, [])
        encoded, data = cv2.imencodeWithMetadata(suffix, bgr, kinds, chunks, parameters)
        if not encoded:
            raise SinkError(f"{path} cannot be encoded as {suffix}: choose .png or .jpg.")
        _write(path, data.tobytes())

    def finish(self) -> None:
        if not self._written:
            raise SinkError(f"Nothing was written to {self.name}, because the input had no images.")

    def _path(self, origin: ImageOrigin | None, index: int) -> Path:
        if self._single is not None:
            if self._written:
                raise SinkError(
                    f"{self._single} takes one image and the input has more: give a folder or a video file."
                )
            path = self._single
        elif origin is None:
            path = self._folder / f"{index:06d}{_LOSSLESS}"
        else:
            path = self._folder / _translated_name(origin.path, origin.icc is not None)
            # Names that differ in case are one on some file systems.
            if folded(path.name) in self._written:
                path = self._folder / f"{origin.path.stem}_{index:06d}{path.suffix}"
            if (refusal := refusal_of_target(path, self._kept)) is not None:
                raise SinkError(f"{path} {refusal}: choose another folder as --output.")
        self._written.add(folded(path.name))
        return path

    def _spare(self, sources: Sequence[Path]) -> None:
        """Raises SinkError if any of the input's images would be overwritten, under whatever name."""
        names = {_translated_name(source, profile) for source in sources for profile in (False, True)}
        targets = [self._folder / name for name in sorted(names)] if self._single is None else [self._single]
        spared = {_identity(source) for source in sources} - {None}
        for target in targets:
            if _identity(target) in spared:
                raise SinkError(
                    f"{target} would overwrite a source image: choose another folder as --output."
                )


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of the file behind a path; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


_KEPT_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"})


def _translated_name(source: Path, profile: bool) -> str:
    """What the translated image is called in a folder; `profile` says whether the source has one for its colours."""
    suffix = source.suffix.lower()
    # OpenCV writes no colour profile into TIFF.
    kept = suffix in _KEPT_SUFFIXES and not (profile and suffix.startswith(".tif"))
    return f"{source.stem}{suffix if kept else _LOSSLESS}"


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, data)
    except OSError as error:
        raise SinkError(
            f"{path} cannot be written ({error.strerror}): free some space or choose another --output."
        ) from error
