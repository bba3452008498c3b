"""Real frames for the gate and for calibration: from a clip, a folder of pictures, or rendered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np

from i2i_export.errors import ExportError
from i2i_runtime.frame import Picture

_T = TypeVar("_T")

_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


def read_frames(source: Path | None, count: int) -> list[Picture]:
    """`count` frames `[H, W, 3] uint8 RGB` spread over a clip or folder; rendered ones without a source.

    Raises ExportError where nothing can be read.
    """
    if source is None:
        return [_rendered(index) for index in range(count)]
    if source.is_dir():
        frames = _from_folder(source, count)
    elif source.suffix.lower() in _PICTURES:
        frames = [_read_picture(source)]
    else:
        frames = _from_clip(source, count)
    if not frames:
        raise ExportError(f"--frames {source} holds no picture that can be read: name a clip or a folder.")
    return frames


def fit(frame: Picture, height: int, width: int) -> Picture:
    """Scales a frame until it covers `height` x `width` and crops the middle; never stretches."""
    scale = max(height / frame.shape[0], width / frame.shape[1])
    scaled_height, scaled_width = (
        max(height, round(frame.shape[0] * scale)),
        max(width, round(frame.shape[1] * scale)),
    )
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(frame, (scaled_width, scaled_height), interpolation=how)
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width], dtype=np.uint8)


def fit_all(frames: Sequence[Picture], sizes: Sequence[tuple[int, int]]) -> list[Picture]:
    """Every frame at every (height, width)."""
    return [fit(frame, height, width) for height, width in sizes for frame in frames]


def _from_folder(folder: Path, count: int) -> list[Picture]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
    return [_read_picture(path) for path in _spread(paths, count)]


def _read_picture(path: Path) -> Picture:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ExportError(f"{path} cannot be read as a picture: remove it from --frames.")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _from_clip(path: Path, count: int) -> list[Picture]:
    try:
        with av.open(str(path)) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ExportError(f"--frames {path} cannot be read ({error}): name a clip or a folder.") from error
    return [np.asarray(pixels, dtype=np.uint8) for pixels in _spread(decoded, count)]


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    """At most `count` items, evenly over the whole sequence."""
    if len(items) <= count:
        return list(items)
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, count)]


def _rendered(index: int) -> Picture:
    """A frame with flat, smooth, sharp and noisy parts, the same on every machine."""
    random = np.random.default_rng(index)
    height, width = 360, 640
    down, right = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = np.stack([right / width, down / height, 1 - right / width], axis=-1) * 200
    for _ in range(24):
        top, left = int(random.integers(0, height)), int(random.integers(0, width))
        bottom, end = top + int(random.integers(10, 90)), left + int(random.integers(10, 120))
        picture[top:bottom, left:end] = random.uniform(0, 255, 3)
    picture[height // 2 :] += random.normal(0, 12, (height - height // 2, width, 3))
    levels: Picture = np.clip(picture, 0, 255).astype(np.uint8)
    return levels
