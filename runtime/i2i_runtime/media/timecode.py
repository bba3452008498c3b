"""The timecode (SMPTE ST 12-1) of a video file, which one container keeps as a track and another as a tag."""

from __future__ import annotations

import re

import av

_TIMECODE = re.compile(r"^\d\d:\d\d:\d\d(?:(?P<drop>[;.])|:)\d\d$")


def timecode_of(container: av.container.InputContainer, video_index: int) -> str | None:
    """The timecode of the first image, from a tag or a track; None if the file has none."""
    tags = [
        container.streams[video_index].metadata,
        *(s.metadata for s in container.streams),
        container.metadata,
    ]
    found = (tag.get(key) for tag in tags for key in ("timecode", "TIMECODE"))
    return next((text for text in found if text), None)


def is_timecode(stream: av.stream.Stream) -> bool:
    """Whether a stream holds the timecode and nothing else."""
    return stream.type == "data" and "timecode" in stream.metadata


def fits_timecode_track(timecode: str, frames_per_second: int) -> bool:
    """Whether QuickTime and MP4 hold it: at most 255 frames per second, drop frame only in multiples of 30."""
    form = _TIMECODE.match(timecode)
    return form is not None and 0 < frames_per_second < 256 and not (form["drop"] and frames_per_second % 30)
