"""A video file comes back whole: frames, times, sound, tags, shape and colour."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest
from av.stream import AttachmentStream
from numpy.typing import NDArray

from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.cli.stream import stream
from i2i_runtime.cli.verify import main as verify
from i2i_runtime.errors import I2IError, SinkError, SourceError, UsageError
from i2i_runtime.media.colour import ColourConverter
from i2i_runtime.media.origin import Colour
from i2i_runtime.sources import SourceOptions, open_source
from i2i_runtime.verify import compare_files

if TYPE_CHECKING:
    from av.container import Chapter

REGULAR = [512 * index for index in range(40)]
IRREGULAR = [0, 500, 512, 3000, 3001, 9000, 9600, 20000, 20001, 20002, 61440, 70000]


def run(engine: Path, source: Path | str, output: Path | str, **more: Any) -> int:
    return stream(StreamOptions(str(engine), input=str(source), output=[str(output)], quiet=True, **more))


def disagreements(source: Path, output: Path) -> list[str]:
    return [f"{c.name}: {c.source} | {c.output}" for c in compare_files(source, output) if not c.agrees]


def frames_of(path: Path) -> list[av.VideoFrame]:
    with av.open(path) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize(
    ("name", "pts", "time_base"),
    [
        ("regular.mp4", REGULAR, Fraction(1, 12800)),
        ("irregular.mp4", IRREGULAR, Fraction(1, 12800)),
        ("ntsc.mp4", [1001 * index for index in range(30)], Fraction(1, 30000)),
        ("film.mov", list(range(30)), Fraction(1001, 24000)),
        ("late.mp4", [13760 + 512 * index for index in range(20)], Fraction(1, 12800)),
        ("short.mkv", [0, 33, 67, 100, 634], Fraction(1, 1000)),
        ("one.mp4", [0], Fraction(1, 12800)),
    ],
)
def test_frames_times_and_sound_survive(
    engines: Any,
    make_clip: Callable[..., Path],
    tmp_path: Path,
    name: str,
    pts: list[int],
    time_base: Fraction,
) -> None:
    clip = make_clip(name, pts=pts, time_base=time_base, audio_tracks=2)
    output = tmp_path / name
    assert run(engines.identity, clip, output) == 0
    assert disagreements(clip, output) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_segments_join_without_a_trace(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2i_runtime.sinks.video.SEGMENT_FRAMES", 7)
    clip = make_clip(
        "many.mp4", pts=[*REGULAR, *(30000 + 700 * index for index in range(20))], audio_tracks=1
    )
    assert run(engines.identity, clip, tmp_path / "out.mp4") == 0
    assert disagreements(clip, tmp_path / "out.mp4") == []
    with av.open(tmp_path / "out.mp4") as container:
        dts = [packet.dts for packet in container.demux(video=0) if packet.dts is not None]
    assert dts == sorted(set(dts))


def test_chapters_subtitles_attachments_and_tags_are_carried(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    plain = make_clip("plain.mp4", pts=REGULAR[:20])
    words = tmp_path / "words.srt"
    words.write_text("1\n00:00:00,100 --> 00:00:00,600\nHello\n", encoding="utf-8")
    clip = tmp_path / "clip.mkv"
    with av.open(plain) as film, av.open(words) as text, av.open(clip, "w") as joined:
        images = joined.add_stream_from_template(film.streams.video[0])
        lines = joined.add_stream_from_template(text.streams.subtitles[0])
        joined.add_attachment("note.txt", "text/plain", b"remember the milk")
        joined.metadata["title"] = "A drive"
        begin: Chapter = {
            "id": 1,
            "start": 0,
            "end": 400,
            "time_base": Fraction(1, 1000),
            "metadata": {"title": "Off"},
        }
        joined.set_chapters([begin])
        for image in film.demux(film.streams.video[0]):
            if image.dts is not None:
                image.stream = images
                joined.mux(image)
        for line in text.demux(text.streams.subtitles[0]):
            if line.dts is not None:
                line.stream = lines
                joined.mux(line)
    assert run(engines.identity, clip, tmp_path / "out.mkv") == 0
    assert disagreements(clip, tmp_path / "out.mkv") == []
    with av.open(tmp_path / "out.mkv") as container:
        assert [s.data for s in container.streams if isinstance(s, AttachmentStream)] == [
            b"remember the milk"
        ]
    # MP4 holds neither: the job is done and says what was left out.
    report = tmp_path / "report.json"
    assert run(engines.identity, clip, tmp_path / "out.mp4", report=report) == 0
    notes = " ".join(json.loads(report.read_text())["notes"])
    assert "subrip" in notes
    assert "attachment" in notes


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotation_is_kept_and_the_engine_sees_it_upright(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, rotation: int
) -> None:
    def turn(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
        stream.set_display_rotation(rotation)

    clip = make_clip(f"turned{rotation}.mp4", pts=REGULAR[:5], prepare=turn)
    source = open_source(str(clip))
    frame = source.read()
    assert frame is not None
    assert frame.pixels.shape[:2] == ((64, 96) if rotation == 180 else (96, 64))
    assert frame.clip is not None
    assert frame.clip.rotation % 360 == rotation % 360
    source.close()
    assert run(engines.identity, clip, tmp_path / "out.mp4") == 0
    assert disagreements(clip, tmp_path / "out.mp4") == []


def test_upright_means_upright(make_clip: Callable[..., Path]) -> None:
    """A display matrix of 90 degrees counter-clockwise brings the right edge of the stored image to the top."""
    stored = np.zeros((64, 96, 3), np.uint8)
    stored[:, 72:] = 255

    def turn(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
        stream.set_display_rotation(90)

    clip = make_clip(
        "edge.mp4",
        pts=[0],
        prepare=turn,
        frame_at=lambda index: av.VideoFrame.from_ndarray(stored, "rgb24").reformat(format="yuv420p"),
    )
    source = open_source(str(clip))
    frame = source.read()
    source.close()
    assert frame is not None
    assert frame.clip is not None
    assert frame.clip.rotation == 90
    assert frame.pixels[:20].mean() > 240
    assert frame.pixels[40:].mean() < 15


def test_shape_of_pixels_is_kept(engines: Any, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    def squeeze(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)

    clip = make_clip("anamorphic.mp4", pts=REGULAR[:5], prepare=squeeze)
    assert run(engines.identity, clip, tmp_path / "out.mp4") == 0
    assert disagreements(clip, tmp_path / "out.mp4") == []
    with av.open(tmp_path / "out.mp4") as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)
    # Scaled to another shape, the image still fills the same screen.
    assert run(engines.identity, clip, tmp_path / "wide.mp4", size="192x64") == 0
    with av.open(tmp_path / "wide.mp4") as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(8, 11)


def planes_of(frame: av.VideoFrame) -> list[NDArray[np.int64]]:
    return [
        np.frombuffer(memoryview(p), np.uint8).reshape(p.height, p.line_size)[:, : p.width].astype(np.int64)
        for p in frame.planes
    ]


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
@pytest.mark.parametrize("full", [False, True])
def test_colour_round_trips_within_one_code_value(pixel_format: str, matrix: int, full: bool) -> None:
    """Every plane, chroma included, of random colours that RGB can hold."""
    dice = np.random.default_rng(matrix)
    frame = av.VideoFrame(66, 48, pixel_format)
    for number, plane in enumerate(frame.planes):
        values = dice.integers(60, 196, (plane.height, plane.line_size))
        if number:
            values = dice.integers(110, 147, (plane.height, plane.line_size))
        plane.update(values.astype(np.uint8).tobytes())
    converter = ColourConverter(Colour(matrix, 2 if full else 1), pixel_format, 48)
    back = converter.frame_from_rgb(converter.rgb_from_frame(frame), pixel_format)
    for before, after in zip(planes_of(frame), planes_of(back), strict=True):
        assert np.abs(before - after).max() <= 1


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_every_pixel_has_the_chroma_that_covers_it(pixel_format: str, tmp_path: Path) -> None:
    """Also where the decoder says that chroma sits on the left, as it does of H.264."""
    dice, deep = np.random.default_rng(5), pixel_format.endswith("10le")
    stored, given = np.dtype("<u2" if deep else "u1"), av.VideoFrame(66, 48, pixel_format)
    for number, plane in enumerate(given.planes):
        low, high = (110, 147) if number else (60, 196)
        values = dice.integers(low, high, (plane.height, plane.line_size // stored.itemsize))
        plane.update((values << 2 if deep else values).astype(stored).tobytes())
    with av.open(tmp_path / "lossless.mkv", "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 66, 48, pixel_format
        container.mux(stream.encode(given))
        container.mux(stream.encode(None))
    with av.open(tmp_path / "lossless.mkv") as container:
        frame = next(container.decode(video=0))
    rgb = ColourConverter(Colour(1, 1), pixel_format, 48).rgb_from_frame(frame)
    planes = [
        np.frombuffer(memoryview(p), stored).reshape(p.height, -1)[:, : p.width] / (4 if deep else 1)
        for p in frame.planes
    ]
    luma, blue, red = (np.repeat(np.repeat(p, 48 // p.shape[0], 0), 66 // p.shape[1], 1) for p in planes)
    bright, cb, cr = (luma - 16) / 219, (blue - 128) / 224, (red - 128) / 224
    expected = np.stack(
        [bright + 1.5748 * cr, bright - 0.187324 * cb - 0.468124 * cr, bright + 1.8556 * cb], axis=-1
    )
    assert np.abs(rgb - np.clip(expected, 0, 1) * 255).max() <= 1.1


@pytest.mark.parametrize(("matrix", "red"), [(1, (63, 102, 240)), (5, (81, 90, 240))])
def test_colour_is_that_of_the_standard(matrix: int, red: tuple[int, int, int]) -> None:
    """Limited-range red in BT.709 and BT.601, as the recommendations' matrices give it."""
    frame = av.VideoFrame(16, 16, "yuv444p")
    for plane, value in zip(frame.planes, red, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    rgb = ColourConverter(Colour(matrix, 1), "yuv444p", 16).rgb_from_frame(frame)
    assert np.abs(rgb[4, 4].astype(int) - [255, 0, 0]).max() <= 1


@pytest.mark.parametrize(
    ("matrix", "colour_range", "pixel_format"),
    [(1, 1, "yuv420p"), (6, 1, "yuv420p"), (1, 2, "yuv444p"), (6, 2, "yuvj420p"), (9, 1, "yuv420p10le")],
)
def test_colour_tags_and_depth_are_written(
    engines: Any,
    make_clip: Callable[..., Path],
    tmp_path: Path,
    matrix: int,
    colour_range: int,
    pixel_format: str,
) -> None:
    def tag(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, colour_range
        context.color_primaries = context.color_trc = 1 if matrix == 1 else 6

    clip = make_clip(
        f"tagged{matrix}{colour_range}{pixel_format}.mp4",
        pts=REGULAR[:5],
        pixel_format=pixel_format,
        prepare=tag,
    )
    assert run(engines.identity, clip, tmp_path / "out.mp4") == 0
    assert disagreements(clip, tmp_path / "out.mp4") == []
    with av.open(clip) as before, av.open(tmp_path / "out.mp4") as after:
        assert before.streams.video[0].pix_fmt == after.streams.video[0].pix_fmt


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_refused_with_the_reason_or_tone_mapped(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, transfer: int
) -> None:
    def tag(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
        context = stream.codec_context
        context.colorspace = context.color_primaries = 9
        context.color_range, context.color_trc = 1, transfer

    clip = make_clip(
        f"hdr{transfer}.mkv",
        pts=[40 * i for i in range(3)],
        time_base=Fraction(1, 1000),
        pixel_format="yuv420p10le",
        prepare=tag,
    )
    with pytest.raises(SourceError, match=r"high dynamic range.*--tonemap"):
        run(engines.identity, clip, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []
    assert run(engines.identity, clip, tmp_path / "out.mp4", tonemap=True) == 0
    with av.open(tmp_path / "out.mp4") as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert context.pix_fmt == "yuv420p"


@pytest.mark.parametrize(("grey", "wanted"), [("gray", "yuv420p"), ("gray10le", "yuv420p10le")])
def test_a_grey_clip_gets_the_engines_colours(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, grey: str, wanted: str
) -> None:
    clip = make_clip(f"{grey}.mkv", pts=[0, 40], codec="ffv1", pixel_format=grey, options={"level": "3"})
    assert run(engines.styled, clip, tmp_path / "out.mp4", style="90,0,0", backend="onnxruntime") == 0
    before, after = (frames_of(path)[0] for path in (clip, tmp_path / "out.mp4"))
    assert (before.format.name, after.format.name) == (grey, wanted)
    red, green, blue = after.to_ndarray(format="rgb24")[20:40, 20:40].reshape(-1, 3).mean(axis=0)
    assert red - green > 70
    assert abs(green - blue) < 6


@pytest.mark.parametrize("size", [(97, 63), (1, 1), (2, 2)])
def test_odd_sizes_keep_their_size(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, size: tuple[int, int]
) -> None:
    clip = make_clip(f"odd{size[0]}.mp4", pts=REGULAR[:4], size=size, pixel_format="yuv444p")
    assert run(engines.identity, clip, tmp_path / "out.mp4") == 0
    assert disagreements(clip, tmp_path / "out.mp4") == []


def test_encoder_options_reach_the_encoder(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    clip = make_clip("options.mp4", pts=REGULAR[:20])
    assert run(engines.identity, clip, tmp_path / "intra.mp4", encoder_option=["g=1", "bf=0"], crf=30) == 0
    with av.open(tmp_path / "intra.mp4") as container:
        assert all(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    with pytest.raises(UsageError, match="KEY=VALUE"):
        run(engines.identity, clip, tmp_path / "x.mp4", encoder_option=["nonsense"])
    with pytest.raises(SinkError, match=r"libx264.*no option.*unheard"):
        run(engines.identity, clip, tmp_path / "x.mp4", encoder_option=["unheard=1"])
    with pytest.raises(SinkError, match="dnxhd does not take images of 96x64 as yuv422p"):
        run(engines.identity, clip, tmp_path / "x.mov", codec="dnxhd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["intra.mp4"]


@pytest.mark.parametrize(("suffix", "codec"), [(".webm", None), (".mkv", "libx265"), (".mov", "ffv1")])
def test_other_containers_and_codecs(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, suffix: str, codec: str | None
) -> None:
    clip = make_clip("kinds.mkv", pts=[40 * i for i in range(6)], time_base=Fraction(1, 1000))
    output = tmp_path / f"out{suffix}"
    if codec == "ffv1":
        with pytest.raises(SinkError, match=r"\.mov.*cannot hold ffv1"):
            run(engines.identity, clip, output, codec=codec)
        assert list(tmp_path.iterdir()) == []
        return
    assert run(engines.identity, clip, output, codec=codec) == 0
    assert disagreements(clip, output) == []


@pytest.mark.parametrize(("codec", "label"), [("prores_ks", "apch"), ("libx265", "hvc1"), ("dnxhd", "AVdh")])
def test_codecs_of_editors_and_their_labels(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, codec: str, label: str
) -> None:
    """Over segments of a container other than NUT, which holds neither ProRes nor DNxHR."""

    def tag(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1

    clip = make_clip("edited.mov", pts=REGULAR[:20], size=(256, 128), audio_tracks=1, prepare=tag)
    options = ["profile=dnxhr_hq"] if codec == "dnxhd" else []
    assert run(engines.identity, clip, tmp_path / "out.mov", codec=codec, encoder_option=options) == 0
    differ = [line for line in disagreements(clip, tmp_path / "out.mov") if not line.startswith("bits")]
    assert differ == []
    with av.open(tmp_path / "out.mov") as container:
        assert container.streams.video[0].codec_context.codec_tag == label


def test_hardware_encoder_that_does_not_open_falls_back_and_says_why(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(SinkError, match="Unknown encoder 'h264_dreamt'"):
        run(engines.identity, make_clip("hw.mp4", pts=REGULAR[:3]), tmp_path / "x.mp4", codec="h264_dreamt")
    if "h264_nvenc" not in av.codecs_available:
        pytest.skip("this build of FFmpeg has no hardware encoder to probe")
    report = tmp_path / "r.json"
    clip = make_clip("hw.mp4", pts=REGULAR[:3], size=(256, 256))
    assert run(engines.identity, clip, tmp_path / "out.mp4", codec="h264_nvenc", report=report) == 0
    notes = json.loads(report.read_text())["notes"]
    assert not notes or "h264_nvenc cannot be opened (" in notes[0]


def test_damaged_clip_is_translated_as_far_as_it_goes(
    engines: Any, real_videos: Path, tmp_path: Path
) -> None:
    report = tmp_path / "r.json"
    output = tmp_path / "out.mp4"
    assert (
        run(engines.identity, real_videos / "decord__corrupted.mp4", output, report=report, size="320x180")
        == 1
    )
    told = json.loads(report.read_text())
    assert told["frames"]["out"] == 49
    assert told["outcome"] == "damaged"
    assert any("did not decode" in loss for loss in told["losses"])
    with av.open(output) as container:
        assert sum(1 for _ in container.decode(video=0)) == 49


BAD_INPUT = {
    "missing.mp4": (None, "does not exist"),
    "noise.mp4": (b"\x00\x01noise" * 500, "cannot be read as a video"),
    "empty.mp4": (b"", "cannot be read as a video"),
    "broken.png": (b"\x89PNG\r\n\x1a\n\x00", "damaged"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_inputs_end_in_one_sentence(engines: Any, tmp_path: Path, name: str) -> None:
    content, says = BAD_INPUT[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(I2IError, match=says) as caught:
        run(engines.identity, tmp_path / name, tmp_path / "out" / "x.mp4")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_clip_without_images_is_refused(engines: Any, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    clip = make_clip("sound.mp4", pts=REGULAR[:3], audio_tracks=1)
    with av.open(clip) as source, av.open(tmp_path / "sound.m4a", "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    with pytest.raises(SourceError, match="no video stream"):
        run(engines.identity, tmp_path / "sound.m4a", tmp_path / "x.mp4")


@pytest.mark.parametrize("output", ["/proc/nowhere/x.mp4", "x.xyz", "clip.mp4"])
def test_unwritable_outputs_are_refused_at_once(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, output: str
) -> None:
    clip = make_clip("fine.mp4", pts=REGULAR[:3])
    target = str(clip) if output == "clip.mp4" else output
    if output == "x.xyz":
        target = str(tmp_path / output)
    before = clip.read_bytes()
    with pytest.raises(I2IError):
        run(engines.identity, clip, target)
    assert clip.read_bytes() == before


def test_two_outputs_from_one_translate(engines: Any, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    clip = make_clip("twice.mp4", pts=REGULAR[:6])
    options = StreamOptions(
        str(engines.invert),
        input=str(clip),
        output=[str(tmp_path / "a.mp4"), str(tmp_path / "images")],
        quiet=True,
    )
    assert stream(options) == 0
    assert disagreements(clip, tmp_path / "a.mp4") == []
    assert len(list((tmp_path / "images").glob("*.png"))) == 6


def test_compare_puts_both_side_by_side(engines: Any, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    clip = make_clip("pair.mp4", pts=REGULAR[:2])
    assert run(engines.invert, clip, tmp_path / "out", compare=True) == 0
    source = open_source(str(tmp_path / "out"), SourceOptions())
    frame = source.read()
    assert frame is not None
    assert frame.pixels.shape == (64, 192, 3)
    left, right = frame.pixels[:, :96].astype(int), frame.pixels[:, 96:].astype(int)
    np.testing.assert_array_equal(left + right, np.full_like(left, 255))


def test_folder_of_clips_goes_on_after_a_bad_one(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.mp4", "c.mp4"):
        (folder / name).write_bytes(make_clip(f"folder_{name}", pts=REGULAR[:5], audio_tracks=1).read_bytes())
    (folder / "b.mp4").write_bytes(b"no video at all")
    report = tmp_path / "r.json"
    assert run(engines.identity, folder, tmp_path / "out", report=report) == 1
    told = json.loads(report.read_text())
    assert [entry["outcome"] for entry in told["clips"]] == ["done", "failed", "done"]
    assert told["failures"][0].startswith("b.mp4: ")
    for name in ("a.mp4", "c.mp4"):
        assert disagreements(folder / name, tmp_path / "out" / name) == []


def test_every_clip_of_a_folder_has_an_output_of_its_own(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever they are called, and whatever lies beside them."""
    folder = tmp_path / "in"
    folder.mkdir()
    for count, name in enumerate(("a.avi", "a.mp4", "a.ts", "b.avi"), 2):
        clip = make_clip("one_of_many.mp4", pts=REGULAR[:count])
        (folder / name).write_bytes(clip.read_bytes())
    cv2.imwrite(str(folder / "cover.jpg"), np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(UsageError, match="in contains the clips themselves"):
        run(engines.identity, folder, folder, backend="onnxruntime")
    options = StreamOptions(
        str(engines.identity),
        input=f"file:{folder}",
        output=[f"file:{tmp_path / 'out'}"],
        backend="onnxruntime",
        resume=True,
    )
    for _ in range(2):
        assert stream(options) == 0
        assert "5 of 5 items finished" in capsys.readouterr().err
        videos = (tmp_path / "out").glob("*.mp4")
        made = {path.name: len(frames_of(path)) for path in videos}
        assert made == {"a.avi.mp4": 2, "a.mp4": 3, "a.ts.mp4": 4, "b.mp4": 5}
        assert (tmp_path / "out" / "cover.jpg").exists()
    assert stream(replace(options, output=[str(folder / "film.mp4")], resume=False)) == 0
    assert ": its clips (a.avi, a.mp4, a.ts, b.avi) need a folder" in capsys.readouterr().err
    (folder / "cover.jpg").unlink()
    with pytest.raises(UsageError, match="is a folder of clips: give one folder"):
        run(engines.identity, folder, tmp_path / "film.mp4", backend="onnxruntime")


def test_names_with_colons_and_brackets_are_only_names(
    engines: Any,
    make_clip: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither a protocol for FFmpeg nor markup for the terminal."""
    monkeypatch.chdir(tmp_path)
    Path("take:1.mp4").write_bytes(make_clip("named.mp4", pts=REGULAR[:4]).read_bytes())
    assert run(engines.identity, "file:take:1.mp4", "file:out:1.mp4", backend="onnxruntime") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out:1.mp4", "take:1.mp4"]
    Path("q[").mkdir()
    Path("out:1.mp4").rename("q[/x].mp4")
    assert verify(["take:1.mp4", "q[/x].mp4"]) == 0
    assert "q[/x].mp4 is complete" in capsys.readouterr().out
    assert verify(["file:take:1.mp4", "q[/x].mp4"]) == 0


def test_command_prints_one_sentence_and_its_exit_code(engines: Any, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from i2i_runtime.cli.entry import stream; stream()",
        "-m",
        str(engines.identity),
    ]
    missing = subprocess.run(
        [*command, "-i", str(tmp_path / "no.mp4"), "-o", "null:"], capture_output=True, text=True
    )
    assert missing.returncode == 1
    assert (
        missing.stderr.strip()
        .splitlines()[-1]
        .endswith("does not exist: give a video file, a folder of images, a camera or a URI.")
    )
    assert "Traceback" not in missing.stderr
    usage = subprocess.run([*command, "-o", "null:"], capture_output=True, text=True)
    assert usage.returncode == 2
