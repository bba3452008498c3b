"""Real frames for the gate and for calibration: from a clip, a folder of images, or the rendered street."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from i2i_export.errors import CalibrationError, ExportError
from i2i_export.sizes import FRAMES_IN_GATE
from i2i_runtime.errors import I2IError
from i2i_runtime.files import CLIP_ENDINGS
from i2i_runtime.frame import Image
from i2i_runtime.sources import SourceOptions, open_source

_LOOKED_AT = 240
"""Frames at the start of a source over which the chosen ones are spread: about ten seconds of a clip."""


def read_frames(source: Path | None, count: int) -> list[Image]:
    """`count` frames `[H, W, 3] uint8 RGB` spread over a clip, a folder of clips or of images.

    Without a source they show the rendered street. Fewer if the source holds fewer. Raises ExportError if nothing
    can be read.
    """
    try:
        frames = _rendered_frames(count) if source is None else _frames_of(source, count)
    except I2IError as error:
        raise ExportError(f"--frames cannot be used: {error}") from error
    if not frames:
        raise ExportError(f"--frames {source} contains no readable image: name a clip or a folder.")
    return frames


def read_held_back_frames(source: Path, count: int) -> tuple[list[Image], list[Image]]:
    """`count` frames to calibrate with, and later ones of the same source to compare the result on.

    Raises ExportError if there are not two frames.
    """
    frames = read_frames(source, count + FRAMES_IN_GATE)
    if len(frames) < 2:
        raise CalibrationError(
            f"--frames {source} has only one frame: int8 needs some to calibrate with and others to compare on."
        )
    held_back = min(FRAMES_IN_GATE, len(frames) // 2)
    return frames[:-held_back], frames[-held_back:]


def _rendered_frames(count: int) -> list[Image]:
    frames = []
    for skip in np.linspace(0, _LOOKED_AT - 1, count, dtype=int).tolist():
        street = open_source("test://street", SourceOptions(size=(640, 360), skip=skip))
        frame = street.read()
        street.close()
        if frame is not None:
            frames.append(frame.pixels)
    return frames


def _frames_of(source: Path, count: int) -> list[Image]:
    """From a folder of clips some of every clip, the clips in turn; the images of a folder, or one clip."""
    clips = sorted(path for path in source.glob("*") if path.suffix.lower() in CLIP_ENDINGS)
    if not clips:
        return _spread_frames(source, count)
    rows = [_spread_frames(clip, -(-count // len(clips))) for clip in clips]
    in_turn = [frame for row in itertools.zip_longest(*rows) for frame in row if frame is not None]
    return in_turn[:count]


def _spread_frames(source: Path, count: int) -> list[Image]:
    opened = open_source(f"file:{source}")
    try:
        total = min(opened.frame_count or _LOOKED_AT, _LOOKED_AT)
        wanted = set(np.linspace(0, total - 1, count, dtype=int).tolist())
        frames = []
        for index in range(total):
            frame = opened.read()
            if frame is None:
                break
            if index in wanted:
                frames.append(frame.pixels)
        return frames
    finally:
        opened.close()


def fit(frame: Image, height: int, width: int) -> Image:
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


def fit_all(frames: Sequence[Image], sizes: Sequence[tuple[int, int]]) -> list[Image]:
    """Every frame at every (height, width)."""
    return [fit(frame, height, width) for height, width in sizes for frame in frames]
