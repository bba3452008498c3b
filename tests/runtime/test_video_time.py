"""The time of frames in written files, where no source clip lends its time base."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.cli.stream import stream
from i2i_runtime.frame import Frame
from i2i_runtime.sinks import SinkOptions, open_sink
from i2i_runtime.sources import SourceOptions
from i2i_runtime.sources.video import VideoSource
from i2i_runtime.verify import compare_files


def time_of(frame: av.VideoFrame) -> Fraction:
    """Seconds, exactly."""
    assert frame.pts is not None
    assert frame.time_base is not None
    return frame.pts * frame.time_base


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001)])
def test_frames_without_a_clip_keep_their_pace(tmp_path: Path, suffix: str, rate: Fraction | int) -> None:
    path = tmp_path / f"out{suffix}"
    sink = open_sink(str(path), SinkOptions())
    time_base = 1 / Fraction(rate)
    for index in range(30):
        image = np.full((48, 64, 3), index * 8, np.uint8)
        frame = Frame(image, index, index, time_base, 0.0)
        sink.write(frame, frame)
    sink.finish()
    sink.close()
    with av.open(path) as container:
        times = [time_of(frame) for frame in container.decode(video=0)]
    assert len(times) == 30
    # Matroska counts in milliseconds; MP4 is exact.
    resolution = Fraction(1, 1000) if suffix == ".mkv" else 0
    assert all(abs(t - times[0] - i * time_base) <= resolution for i, t in enumerate(times))


def test_frames_of_a_container_without_pts_come_at_their_pace(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    """AVI knows the order of decoding alone; with B-frames that is not the order of showing."""
    clip = make_clip(
        "ordered.avi",
        pts=list(range(30)),
        time_base=Fraction(1, 25),
        options={"bf": "3", "x264-params": "scenecut=0:b-adapt=0"},
    )
    with av.open(clip) as container:
        decoded = [packet.dts for packet in container.demux(video=0) if packet.size]
    source = VideoSource(clip, SourceOptions())
    shown = []
    while (frame := source.read()) is not None:
        shown.append(frame.time_s)
    assert source.losses == []
    assert len(shown) == len(decoded) == 30
    assert {later - earlier for earlier, later in itertools.pairwise(shown)} == {Fraction(1, 25)}
    output = tmp_path / "out.mp4"
    options = StreamOptions(str(engines.identity), input=str(clip), output=[str(output)], quiet=True)
    assert stream(options) == 0
    agrees = {check.name: check.agrees for check in compare_files(clip, output)}
    assert agrees["frames"]
    assert agrees["times of frames"]
