"""The time of frames in written files, where no source clip lends its time base."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from i2i_runtime.frame import Frame
from i2i_runtime.sinks import SinkOptions, open_sink


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001)])
def test_frames_without_a_clip_keep_their_pace(tmp_path: Path, suffix: str, rate: Fraction | int) -> None:
    path = tmp_path / f"out{suffix}"
    sink = open_sink(str(path), SinkOptions())
    time_base = 1 / Fraction(rate)
    for index in range(30):
        picture = np.full((48, 64, 3), index * 8, np.uint8)
        frame = Frame(picture, index, index, time_base, 0.0)
        sink.write(frame, frame)
    sink.finish()
    sink.close()
    with av.open(path) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert len(times) == 30
    # Matroska counts in milliseconds; MP4 is exact.
    resolution = Fraction(1, 1000) if suffix == ".mkv" else 0
    assert all(abs(t - times[0] - i * time_base) <= resolution for i, t in enumerate(times))
