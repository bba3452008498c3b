"""Every codec in every container is written or refused before the first frame, and what is cut stays cut."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.cli.stream import stream
from i2i_runtime.cli.verify import main as verify
from i2i_runtime.doctor import ENCODERS
from i2i_runtime.errors import SinkError, SourceError
from i2i_runtime.media.framing import payload_of
from i2i_runtime.sinks.encoder import CONTAINERS, refusal_of_encoder
from i2i_runtime.verify import compare_files

# SVT-AV1 runs its threads in real time if root starts it; two such encoders at once block a machine of two cores.
pytestmark = pytest.mark.xdist_group("encoders")

PTS = [512 * index for index in range(12)]
MORE_ENCODERS = (
    "mpeg4",
    "ffv1",
    "prores_ks",
    "mjpeg",
    "libvpx",
    "libvpx-vp9",
    "png",
    "qtrle",
    "libaom-av1",
    "mpeg2video",
)


def run(engine: Path, source: Path | str, output: Path | str, **more: Any) -> int:
    options = {"backend": "onnxruntime", "quiet": True, **more}
    return stream(StreamOptions(str(engine), input=str(source), output=[str(output)], **options))


def disagreements(source: Path, output: Path) -> list[str]:
    return [f"{c.name}: {c.source} | {c.output}" for c in compare_files(source, output) if not c.agrees]


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("codec", [*ENCODERS, *MORE_ENCODERS])
def test_an_encoder_that_works_writes_a_complete_file_or_is_refused_at_once(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, suffix: str, codec: str
) -> None:
    if refusal_of_encoder(codec) is not None:
        pytest.skip(f"{codec} does not work on this machine")
    clip = make_clip(
        f"matrix{suffix}",
        pts=PTS,
        size=(128, 96),
        codec="libvpx" if suffix == ".webm" else "libx264",
        options={},
        time_base=Fraction(1, 1000) if suffix in (".webm", ".mkv") else Fraction(1, 12800),
    )
    output = tmp_path / f"out{suffix}"
    try:
        assert run(engines.identity, clip, output, codec=codec) == 0
    except SinkError as refused:
        assert re.search("cannot hold|does not take", str(refused))  # noqa: PT017 - most pairs are written
        assert list(tmp_path.iterdir()) == []
        assert codec not in ENCODERS or (suffix, codec) in REFUSED
        return
    assert (suffix, codec) not in REFUSED
    differ = [
        line for line in disagreements(clip, output) if not line.startswith(("bits", "full range", "matrix"))
    ]
    assert differ == []


REFUSED = {(".webm", "libx264"), (".webm", "libx265"), (".mov", "libsvtav1")}
"""What a container cannot hold of the encoders that i2i-doctor tests."""


def with_audio(make_clip: Callable[..., Path], folder: Path, codec: str, container: str = "matroska") -> Path:
    """A clip in Matroska with half a second of a tone, from the beginning to the end of its images."""
    film, path = make_clip("silent.mp4", pts=PTS), folder / f"tone.{codec}.mkv"
    with av.open(film) as source, av.open(path, "w", format=container) as joined:
        images = joined.add_stream_from_template(source.streams.video[0])
        sound = joined.add_stream(codec, rate=48000)
        assert isinstance(sound, av.AudioStream)
        sound.layout = "stereo"
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = images
                joined.mux(packet)
        wanted = sound.codec_context.frame_size or 1024
        for begin in range(0, 24000, wanted):
            wave = np.sin(np.arange(begin, begin + wanted) / 9).astype(np.float32) * 0.3
            frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 48000, begin
            resampler = av.AudioResampler(sound.format, "stereo", 48000)
            for made in resampler.resample(frame):
                joined.mux(sound.encode(made))
        joined.mux(sound.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize(
    "audio", ["aac", "libopus", "flac", "libmp3lame", "pcm_s16le", "ac3", "libvorbis", "alac", "mp2"]
)
def test_audio_is_carried_or_named_before_the_first_frame(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, audio: str, suffix: str
) -> None:
    if audio not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg does not encode {audio}")
    source = with_audio(make_clip, tmp_path, audio)
    output, report = tmp_path / "out" / f"out{suffix}", tmp_path / "r.json"
    assert run(engines.identity, source, output, report=report) == 0
    notes = " ".join(json.loads(report.read_text())["notes"])
    with av.open(output) as container:
        carried = len(container.streams.audio)
    if carried:
        assert disagreements(source, output) == []
        assert "dropped" not in notes
    else:
        assert "the audio stream 1 (" in notes
        assert "cannot hold it" in notes
        assert all("audio" in line for line in disagreements(source, output))
    assert carried or suffix in (".webm", ".mov") or audio in ("pcm_s16le",)
    assert os.listdir(output.parent) == [output.name]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_images_begin_at_zero_whatever_the_sound_does_before(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, suffix: str
) -> None:
    """AAC's priming lies before 0: in Matroska it once moved the images by 23 ms."""
    clip = make_clip("primed.mp4", pts=PTS, audio_tracks=1)
    output = tmp_path / f"out{suffix}"
    assert run(engines.identity, clip, output) == 0
    assert verify([str(clip), str(output)]) == 0
    with av.open(output) as container:
        assert container.streams.video[0].start_time == 0
        begin = next(p.pts * p.time_base for p in container.demux(audio=0) if p.pts is not None)
        assert -0.03 < float(begin) < 0


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_an_edit_list_cuts_away_stays_away(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, suffix: str
) -> None:
    whole, clip = make_clip("uncut.mp4", pts=PTS, audio_tracks=1), tmp_path / "cut.mp4"
    with av.open(whole) as source, av.open(clip, "w") as cut:
        copies = {s.index: cut.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            shift = round(Fraction(33, 100) / packet.time_base)
            packet.pts, packet.dts = (packet.pts or 0) - shift, packet.dts - shift
            packet.stream = copies[packet.stream.index]
            cut.mux(packet)
    output, report = tmp_path / f"out{suffix}", tmp_path / "r.json"
    assert run(engines.identity, clip, output, report=report) == 0
    assert disagreements(clip, output) == []
    with av.open(output) as container:
        images = [float(frame.time or 0) for frame in container.decode(video=0)]
        container.seek(0)
        sound = [
            float(p.pts * p.time_base)
            for p in container.demux(audio=0)
            if p.pts is not None and not p.is_discard
        ]
    assert len(images) == 3
    assert images[0] < 0.04
    assert min(sound) > -0.05, "no more than a decoder needs"
    notes = json.loads(report.read_text())["notes"]
    assert [note for note in notes if "edit list" in note] == ([notes[0]] if suffix == ".mkv" else [])


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".m4v"])
@pytest.mark.parametrize("late", [99, 51, 149, 5049])
def test_a_film_that_begins_a_little_late_keeps_its_times(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, late: int, suffix: str
) -> None:
    """0.99 ms is less than an edit list counts in by default."""
    clip = make_clip(
        f"late{late}.mp4", pts=[late + 4000 * n for n in range(5)], time_base=Fraction(1, 100000)
    )
    assert run(engines.identity, clip, tmp_path / f"out{suffix}") == 0
    assert disagreements(clip, tmp_path / f"out{suffix}") == []


def test_adts_headers_are_no_part_of_the_sound(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    """MPEG-TS has them before each AAC frame, Matroska has none."""
    film, clip = make_clip("framed.mp4", pts=PTS, audio_tracks=1), tmp_path / "a.ts"
    with av.open(film) as source, av.open(clip, "w") as target:
        copies = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
    with av.open(clip) as container:
        first = next(packet for packet in container.demux(audio=0) if packet.size)
        assert bytes(first)[:1] == b"\xff"
    assert run(engines.identity, clip, tmp_path / "out.mkv") == 0
    assert [line for line in disagreements(clip, tmp_path / "out.mkv") if "audio" in line] == []


def test_framing_is_not_content() -> None:
    frame = bytes(range(64))
    adts = bytes([0xFF, 0xF1, 0x50, 0x80, 0, 0, 0xFC])
    length = len(frame) + 7
    header = bytearray(adts)
    header[3] |= length >> 11
    header[4], header[5] = length >> 3 & 0xFF, (length & 7) << 5 | 0x1F
    assert payload_of("aac", bytes(header) + frame) == frame
    assert payload_of("aac", (bytes(header) + frame) * 2) == frame * 2
    assert payload_of("aac", frame) == frame
    slice_unit, parameters = b"\x65abc", b"\x67xyz"
    by_code = b"\0\0\0\1" + parameters + b"\0\0\1" + slice_unit
    by_length = (4).to_bytes(4, "big") + slice_unit
    assert payload_of("h264", by_code) == payload_of("h264", by_length) == by_length
    assert payload_of("flac", by_code) == by_code


def test_a_cover_image_is_not_a_film(engines: Any, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    film, clip, song = (
        make_clip("covered.mp4", pts=PTS, audio_tracks=1),
        tmp_path / "film.mp4",
        tmp_path / "song.m4a",
    )
    for path, with_film in ((clip, True), (song, False)):
        with av.open(film) as source, av.open(path, "w", format="mp4") as target:
            cover = target.add_stream("mjpeg", rate=1)
            assert isinstance(cover, av.VideoStream)
            cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            taken: list[av.stream.Stream] = [s for s in source.streams if with_film or s.type == "audio"]
            copies = {s.index: target.add_stream_from_template(s) for s in taken}
            image = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8), "rgb24").reformat(
                format="yuvj420p"
            )
            image.pts = 0
            target.mux(cover.encode(image))
            target.mux(cover.encode(None))
            for packet in source.demux(taken):
                if packet.dts is not None and packet.size:
                    packet.stream = copies[packet.stream.index]
                    target.mux(packet)
    with pytest.raises(SourceError, match="has only a cover image"):
        run(engines.identity, song, tmp_path / "x.mp4")
    assert run(engines.identity, clip, tmp_path / "out.mp4") == 0
    with av.open(tmp_path / "out.mp4") as container:
        sizes = {
            (s.width, s.height, bool(s.disposition & av.stream.Disposition.attached_pic))
            for s in container.streams.video
        }
    assert sizes == {(96, 64, False), (32, 32, True)}
    assert disagreements(clip, tmp_path / "out.mp4") == []


@pytest.mark.skipif(sys.platform != "linux", reason="priorities are Linux's")
def test_av1_takes_no_real_time_priority() -> None:
    if (reason := refusal_of_encoder("libsvtav1")) is not None:
        pytest.skip(reason)
    policies = {os.sched_getscheduler(int(task)) for task in os.listdir("/proc/self/task")}
    assert policies == {os.SCHED_OTHER}
