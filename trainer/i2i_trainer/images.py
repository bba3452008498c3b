"""Images as arrays: whatever a file holds becomes `[H, W, 3] uint8 RGB`, full range.

Grey and palette images become RGB, transparency is laid on white, CMYK is converted, 16 bits become 8, and the
EXIF orientation is applied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from i2i_trainer.errors import DataError

Pixels = NDArray[np.uint8]

# The runtime reads the same endings; a test compares the lists.
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".jp2", ".avif")
)
CLIP_SUFFIXES = frozenset(
    (
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".ts",
        ".m2ts",
        ".mpg",
        ".mpeg",
        ".wmv",
        ".flv",
        ".ogv",
        ".3gp",
        ".mts",
        ".m2v",
        ".vob",
        ".mxf",
        ".asf",
        ".dv",
        ".y4m",
        ".h264",
        ".264",
        ".h265",
        ".265",
        ".hevc",
    )
)
LARGEST_ASPECT = 16.0
DEEP_SUFFIXES = frozenset((".png", ".tif", ".tiff", ".pgm", ".jp2"))
"""Endings of files that may have 16 bits."""
FULL_SCALES = (255, 1023, 4095, 16383, 65535)


class TrainingImage(Protocol):
    """Something that a training image can be read from."""

    @property
    def name(self) -> str:
        """Name for messages."""
        ...

    @property
    def key(self) -> str:
        """What makes a pair: equal in both domains, and no other's in its own."""
        ...

    def size(self) -> tuple[int, int] | None:
        """Width and height as stored, without decoding; None if it cannot be read."""
        ...

    def read(self, short_side: int) -> Pixels:
        """`[H, W, 3] uint8 RGB` whose shorter side is `short_side`. Raises DataError if it cannot be read."""
        ...


@dataclass(frozen=True)
class ImageFile:
    """An image file, or the left or right half of a file that holds a pair side by side."""

    path: Path
    half: Literal["whole", "left", "right"] = "whole"
    key: str = ""
    white: int = 65535
    """The value that becomes 255, if the file has 16 bits."""

    @property
    def name(self) -> str:
        return self.path.name

    def size(self) -> tuple[int, int] | None:
        with suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            with Image.open(self.path) as image:
                width, height = image.size
            return (width if self.half == "whole" else width // 2), height
        return None

    def read(self, short_side: int) -> Pixels:
        image = open_image(self.path, draft_side=short_side, white=self.white)
        if self.half != "whole":
            middle = image.width // 2
            box = (
                (0, 0, middle, image.height) if self.half == "left" else (middle, 0, 2 * middle, image.height)
            )
            image = image.crop(box)
        return np.asarray(resize_short_side(image, short_side, self.name))


@dataclass(frozen=True)
class ArrayImage:
    """An image that is in memory already: a frame of a clip, or a digit.

    `nearest` resizes without smoothing, as the digits' protocol asks.
    """

    name: str
    pixels: Pixels
    nearest: bool = False
    key: str = ""

    def size(self) -> tuple[int, int] | None:
        height, width = self.pixels.shape[:2]
        return width, height

    def read(self, short_side: int) -> Pixels:
        if min(self.pixels.shape[:2]) == short_side:
            return self.pixels
        resample = Image.Resampling.NEAREST if self.nearest else Image.Resampling.BICUBIC
        return np.asarray(resize_short_side(Image.fromarray(self.pixels), short_side, self.name, resample))


@dataclass(frozen=True)
class UnreadableImage:
    """What stands for a clip that cannot be read, so that it is named, counted and skipped like an image."""

    name: str
    reason: str
    key: str = ""

    def size(self) -> tuple[int, int] | None:
        return None

    def read(self, short_side: int) -> Pixels:
        raise DataError(self.reason)


def open_image(path: Path, draft_side: int = 0, white: int = 65535) -> Image.Image:
    """The file as an RGB image, upright. Raises DataError naming the file.

    `draft_side` lets a JPEG decode at a fraction of its size that is no smaller than this. `white` is the value of a
    16-bit image that becomes 255.
    """
    try:
        with Image.open(path) as image:
            if draft_side:
                image.draft("RGB", (draft_side, draft_side))
            image.load()
            return _rgb(ImageOps.exif_transpose(image), white)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}).") from error


def white_of(paths: Sequence[Path]) -> int:
    """The smallest full scale of 8, 10, 12, 14 or 16 bits that fits the 16-bit images among the files.

    Cameras and scanners store 12 and 14 bits in 16-bit files. Up to 64 files are read; 65535 if none has 16 bits.
    """
    deep = [path for path in paths if path.suffix.lower() in DEEP_SUFFIXES]
    largest = -1
    for path in deep[:: max(1, len(deep) // 64)]:
        with suppress(OSError, ValueError, SyntaxError), Image.open(path) as image:
            if image.mode.startswith("I"):
                largest = max(largest, int(np.asarray(image).max(initial=0)))
    return next((white for white in FULL_SCALES if 0 <= largest <= white), FULL_SCALES[-1])


def _rgb(image: Image.Image, white: int) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if image.mode == "F" and values.max(initial=0.0) <= 1.0:
            values *= 255.0
        elif image.mode != "F":
            values *= 255.0 / white
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        background = Image.new("RGBA", transparent.size, (255, 255, 255, 255))
        image = Image.alpha_composite(background, transparent)
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_short_side(
    image: Image.Image,
    short_side: int,
    name: str,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """The image with its shorter side at `short_side`; nothing is stretched. Raises DataError on a sliver."""
    width, height = image.size
    shorter, longer = min(width, height), max(width, height)
    if shorter == 0 or longer > LARGEST_ASPECT * shorter:
        raise DataError(f"{name} is {width}x{height}, too thin to take a square crop from.")
    if shorter == short_side:
        return image
    size = (
        max(short_side, round(width * short_side / shorter)),
        max(short_side, round(height * short_side / shorter)),
    )
    return image.resize(size, resample, reducing_gap=None if resample == Image.Resampling.NEAREST else 2.0)


def frames_of_clip(path: Path, fps: float, short_side: int, most: int | None = None) -> list[ArrayImage]:
    """Frames of a clip, `fps` per second, upright, resized and in memory. Raises DataError if none decodes.

    A clip that breaks off gives the frames before the damage. After `most` frames nothing more is decoded.
    """
    frames: list[ArrayImage] = []
    due = None
    try:
        for seconds, frame in _decoded(path):
            if due is None:
                due = seconds
            if seconds + 1e-6 < due:
                continue
            due += max(1.0 / fps, 1e-6) * (1 + int((seconds - due) * fps))
            upright = np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90) % 4)
            name = f"{path.name}@{seconds:.3f}s"
            image = resize_short_side(Image.fromarray(np.ascontiguousarray(upright)), short_side, name)
            frames.append(ArrayImage(name, np.asarray(image)))
            if len(frames) == most:
                break
    except (FFmpegError, OSError) as error:
        if not frames:
            raise DataError(f"{path} cannot be read as a clip ({error}).") from error
    if not frames:
        raise DataError(f"{path} holds no video frame.")
    return frames


def _decoded(path: Path) -> Iterator[tuple[float, VideoFrame]]:
    with av.open(str(path)) as container:
        if not container.streams.video:
            return
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            yield (float(number) / 25.0 if frame.time is None else frame.time), frame
