"""Timecode comes along, and data that cannot is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import pytest

from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.cli.stream import stream
from i2i_runtime.verify import compare_files

if TYPE_CHECKING:
    from av.container import Chapter


def translated(engine: Path, clip: Path, output: Path) -> list[str]:
    """Makes `output` and returns what the report notes."""
    report = output.with_suffix(".json")
    options = StreamOptions(
        str(engine), input=str(clip), output=[str(output)], report=report, backend="onnxruntime", quiet=True
    )
    assert stream(options) == 0
    return list(json.loads(report.read_text())["notes"])


def disagreements(source: Path, output: Path) -> list[str]:
    return [f"{c.name}: {c.source} | {c.output}" for c in compare_files(source, output) if not c.agrees]


@pytest.mark.parametrize("suffix", [".mov", ".mp4", ".mkv", ".webm"])
def test_timecode_is_carried(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, suffix: str
) -> None:
    def begin(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
        stream.metadata["timecode"] = "01:00:00:00"

    clip = make_clip("slated.mov", pts=[0, 512, 1024, 1536], prepare=begin)
    assert translated(engines.identity, clip, tmp_path / f"out{suffix}") == []
    assert disagreements(clip, tmp_path / f"out{suffix}") == []
    if suffix in (".mov", ".mp4"):
        with av.open(tmp_path / f"out{suffix}") as container:
            assert [s.type for s in container.streams] == ["video", "data"]
    with av.open(clip) as film, av.open(tmp_path / "bare.mov", "w") as bare:
        images = bare.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(video=0):
            if packet.dts is not None:
                packet.stream = images
                bare.mux(packet)
    assert disagreements(clip, tmp_path / "bare.mov") == ["timecode: 01:00:00:00 | None"]


def test_timecode_that_no_track_holds_is_named(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    """Dropped numbers, as of 29.97 frames a second, at 25."""

    def begin(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
        stream.metadata["timecode"] = "01:00:00;02"

    clip = make_clip(
        "dropped.mkv", pts=[40 * n for n in range(4)], time_base=Fraction(1, 1000), prepare=begin
    )
    (note,) = translated(engines.identity, clip, tmp_path / "out.mp4")
    assert (
        note
        == "the timecode 01:00:00;02 was dropped, because mp4 cannot hold one of this kind for 25.00 frames per second"
    )
    assert translated(engines.identity, clip, tmp_path / "out.mkv") == []
    assert disagreements(clip, tmp_path / "out.mkv") == []


def test_data_that_is_left_out_is_named(engines: Any, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    def add_data(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
        data = container.add_data_stream("klv")
        packet = av.Packet(bytes.fromhex("060e2b34020b01010e01030101000000") + b"\x01\x00")
        packet.stream, packet.pts, packet.dts, packet.time_base = data, 0, 0, Fraction(1, 90000)
        container.mux(packet)

    clip = make_clip(
        "flight.ts", pts=[3600 * n for n in range(9)], time_base=Fraction(1, 90000), prepare=add_data
    )
    (note,) = translated(engines.identity, clip, tmp_path / "out.mp4")
    assert note.startswith("the data stream 1 (klv) was dropped: only audio")
    assert "data streams: klv | none" in disagreements(clip, tmp_path / "out.mp4")


@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
def test_the_track_of_quicktimes_chapters_is_no_data(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, suffix: str
) -> None:
    def mark(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
        chapter: Chapter = {
            "id": 1,
            "start": 0,
            "end": 80,
            "time_base": Fraction(1, 1000),
            "metadata": {"title": "Off"},
        }
        container.set_chapters([chapter])

    clip = make_clip("marked.mov", pts=[0, 512, 1024, 1536], prepare=mark)
    with av.open(clip) as container:
        assert [s.type for s in container.streams] == ["video", "data"]
    assert translated(engines.identity, clip, tmp_path / f"out{suffix}") == []
    assert disagreements(clip, tmp_path / f"out{suffix}") == []
