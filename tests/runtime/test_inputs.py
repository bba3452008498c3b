"""Nothing silently wrong with what comes in: named, marked, refused by its header, or translated as it is meant."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.cli.stream import stream
from i2i_runtime.errors import EngineError, I2IError, SourceError
from i2i_runtime.media.animation import is_animated
from i2i_runtime.media.images import read_image
from i2i_runtime.sources import SourceOptions, open_source
from i2i_runtime.verify import compare_files

PTS = [512 * index for index in range(12)]


def run(engine: Path, source: Path | str, output: Path | str, **more: Any) -> int:
    options = {"backend": "onnxruntime", "quiet": True, **more}
    return stream(StreamOptions(str(engine), input=str(source), output=[str(output)], **options))


def png(width: int, height: int, depth: int, kind: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """A PNG of these rows, each with its filter byte."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    hidden = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + hidden + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_an_image_that_the_engine_cannot_take_does_not_end_a_folder(
    engines: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, report = tmp_path / "in", tmp_path / "r.json"
    folder.mkdir()
    for number, side in enumerate((16, 3000, 16, 4000, 16)):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((side, 16, 3), 99, np.uint8))
    assert run(engines.conv, folder, tmp_path / "out", report=report) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "2.png", "4.png"]
    told = json.loads(report.read_text())
    for number, loss in zip((1, 3), told["losses"], strict=True):
        assert f"{number}.png was not translated: The engine takes" in loss
    assert told["frames"]["out"] == 3
    assert "1.png was not translated" in capsys.readouterr().err, "also under --quiet"
    for number in (0, 2, 4):
        (folder / f"{number}.png").unlink()
    with pytest.raises(EngineError, match=r"1\.png was not translated"):
        run(engines.conv, folder, tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []


def test_files_of_a_folder_are_translated_or_named(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    film = make_clip("one.mp4", pts=PTS)
    (folder / "a.mp4").write_bytes(film.read_bytes())
    with av.open(film) as source, av.open(folder / "b.h264", "w") as raw:
        copy = raw.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                raw.mux(packet)
    write_animation(folder / "c.gif")
    cv2.imwrite(str(folder / "d.png"), np.zeros((16, 16, 3), np.uint8))
    (folder / "notes.txt").write_text("remember")
    for sidecar in ("._a.mp4", "._d.png", "Thumbs.db", ".DS_Store", "desktop.ini"):
        (folder / sidecar).write_bytes(b"\0\5\x16\7")
    assert run(engines.identity, folder, tmp_path / "out", quiet=False) == 0
    told = capsys.readouterr().err
    assert "neither videos nor images, so not translated: notes.txt" in told
    assert "Thumbs" not in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "b.mp4", "c.mp4", "d.png"]


def write_animation(path: Path) -> None:
    animation = cv2.Animation()
    animation.frames = [np.full((16, 24, 4), (index * 40, 0, 0, 255 - index), np.uint8) for index in range(5)]
    animation.durations = [40, 50, 60, 70, 80]
    assert cv2.imwriteanimation(str(path), animation)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".avif"])
def test_animated_images_are_clips(engines: Any, tmp_path: Path, suffix: str) -> None:
    clip = tmp_path / f"moving{suffix}"
    write_animation(clip)
    assert is_animated(clip)
    output = tmp_path / "out.mkv"
    assert run(engines.identity, clip, output, codec="ffv1") == 0
    with av.open(output) as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == [0, 0.04, 0.09, 0.15, 0.22]
    assert [round(frame.to_ndarray(format="rgb24")[4, 4, 2] / 40) for frame in frames] == list(range(5))
    still = tmp_path / f"still{suffix}"
    cv2.imwrite(str(still), np.zeros((16, 16, 3), np.uint8))
    assert not is_animated(still)
    source = open_source(str(clip), SourceOptions(skip=3))
    frame = source.read()
    assert frame is not None
    assert (frame.index, frame.time_s) == (3, Fraction(150, 1000))
    source.close()
    clip.write_bytes(clip.read_bytes()[:60])
    with pytest.raises(I2IError):
        run(engines.identity, clip, tmp_path / "broken.mkv")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("kind", [0, 2])
def test_a_transparent_colour_is_transparency(engines: Any, tmp_path: Path, depth: int, kind: int) -> None:
    if kind == 2 and depth < 8:
        pytest.skip("PNG has no RGB of less than 8 bits per sample")
    samples = 1 if kind == 0 else 3
    value = (1 << depth) - 1
    row_bits = "".join(format(value if x % 2 else 0, f"0{depth}b") * samples for x in range(8))
    row = b"\0" + int(row_bits, 2).to_bytes(len(row_bits) // 8, "big")
    hidden = struct.pack(">H", value) * samples
    (tmp_path / "a.png").write_bytes(png(8, 4, depth, kind, row * 4, hidden))
    alpha = read_image(tmp_path / "a.png").alpha
    assert alpha is not None
    most = np.iinfo(alpha.dtype).max
    np.testing.assert_array_equal(alpha, np.tile(np.array([most, 0], alpha.dtype), (4, 4)))
    assert run(engines.identity, tmp_path / "a.png", tmp_path / "out.png") == 0
    written = read_image(tmp_path / "out.png").alpha
    assert written is not None
    assert written[0, :2].tolist() == [most, 0]


def test_grey_with_alpha_keeps_it_or_is_refused(tmp_path: Path) -> None:
    rows = (b"\0" + bytes([50, 255, 60, 0])) * 2
    (tmp_path / "a.png").write_bytes(png(2, 2, 8, 4, rows))
    image = read_image(tmp_path / "a.png")
    assert image.alpha is not None
    assert image.alpha.tolist() == [[255, 0]] * 2
    assert image.pixels[0, :, 0].tolist() == [50, 60]
    header = bytes([0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 4, 0, 16, 8])
    (tmp_path / "a.tga").write_bytes(header + bytes([99, 128]) * 16)
    with pytest.raises(SourceError, match="grey TGA with transparency"):
        open_source(str(tmp_path / "a.tga"))


@pytest.mark.parametrize(("side", "depth"), [(12000, 1), (12000, 16), (50000, 1)])
def test_an_image_bomb_is_refused_by_its_header(tmp_path: Path, side: int, depth: int) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(side, side, depth, 0, bytes(1000)))
    with pytest.raises(SourceError, match="more than 134 million pixels: scale it down"):
        read_image(bomb)


def test_a_list_of_other_files_is_not_a_clip(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "private.mp4").write_bytes(make_clip("private.mp4", pts=PTS).read_bytes())
    for name, text in (
        ("a.mp4", "ffconcat version 1.0\nfile private.mp4\n"),
        ("b.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nprivate.mp4\n#EXT-X-ENDLIST\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(SourceError, match="cannot be read as a video"):
            open_source(str(tmp_path / name))


def test_images_that_change_size_are_letterboxed(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    """Two streams of H.264 in one file, as a recorder writes whose input changed."""
    raw, report = tmp_path / "changing.h264", tmp_path / "r.json"
    for name, size in (("wide.mp4", (96, 64)), ("tall.mp4", (64, 96))):
        part = tmp_path / "part.h264"
        clip = make_clip(f"changing_{name}", pts=PTS[:5], size=size, options={"bf": "0"})
        with av.open(clip) as source, av.open(part, "w") as target:
            copy = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
        raw.write_bytes((raw.read_bytes() if raw.exists() else b"") + part.read_bytes())
    assert run(engines.identity, raw, tmp_path / "out.mp4", report=report) == 0
    told = json.loads(report.read_text())
    assert "change to 64x96" in told["notes"][0]
    assert "letterboxed to 96x64" in told["notes"][0]
    with av.open(tmp_path / "out.mp4") as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [image.shape for image in images] == [(64, 96, 3)] * 10
    assert images[-1][:, :20].max() < 30, "black beside what is not so wide"
    assert images[-1][30, 48].max() > 50


def test_many_losses_are_summed_up(engines: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, report = tmp_path / "in", tmp_path / "r.json"
    folder.mkdir()
    cv2.imwrite(str(folder / "0.png"), np.zeros((8, 8, 3), np.uint8))
    for number in range(1, 25):
        (folder / f"{number}.png").write_bytes(b"broken")
    assert run(engines.identity, folder, tmp_path / "out", report=report) == 1
    told = capsys.readouterr().err
    assert told.count("lost: ") == 10
    assert "and 14 more losses, which --report lists" in told
    assert len(json.loads(report.read_text())["losses"]) == 24


def interlaced_clip(make_clip: Callable[..., Path], order: str) -> Path:
    """Images whose even and odd lines show a bar at two moments."""

    def fields(index: int) -> av.VideoFrame:
        image = np.full((64, 96, 3), 40, np.uint8)
        for moment in (0, 1):
            left = 4 + 6 * index + 3 * moment
            image[moment if order == "tff" else 1 - moment :: 2, left : left + 12] = 220
        return av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")

    return make_clip(
        f"{order}.mp4", pts=PTS, frame_at=fields, options={"x264-params": f"{order}=1", "crf": "5"}
    )


def combing(path: Path) -> float:
    """How much neighbouring lines differ, in the mean over all frames."""
    with av.open(path) as container:
        lines = [f.to_ndarray(format="gray").astype(int) for f in container.decode(video=0)]
    return float(np.mean([np.abs(np.diff(image, axis=0)).mean() for image in lines]))


@pytest.mark.parametrize("order", ["tff", "bff"])
def test_interlaced_material_is_named_marked_or_deinterlaced(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, order: str
) -> None:
    clip, report = interlaced_clip(make_clip, order), tmp_path / "r.json"
    assert run(engines.identity, clip, tmp_path / "marked.mp4", report=report) == 0
    notes = json.loads(report.read_text())["notes"]
    first = "top" if order == "tff" else "bottom"
    assert any(f"is interlaced ({first} field first)" in note for note in notes)
    assert [c for c in compare_files(clip, tmp_path / "marked.mp4") if not c.agrees] == []
    assert run(engines.identity, clip, tmp_path / "plain.mp4", codec="libx265", report=report) == 0
    assert "plain.mp4 is not marked as interlaced" in " ".join(json.loads(report.read_text())["notes"])
    assert [c.name for c in compare_files(clip, tmp_path / "plain.mp4") if not c.agrees] == ["fields"]
    assert run(engines.identity, clip, tmp_path / "progressive.mp4", deinterlace=True, report=report) == 0
    assert "made one progressive frame" in json.loads(report.read_text())["notes"][0]
    assert [c.name for c in compare_files(clip, tmp_path / "progressive.mp4") if not c.agrees] == ["fields"]
    assert combing(tmp_path / "progressive.mp4") < combing(tmp_path / "marked.mp4") / 2


def test_deinterlacing_leaves_progressive_clips_alone(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    clip = make_clip("progressive.mp4", pts=PTS)
    for name, deinterlace in (("a.mkv", False), ("b.mkv", True)):
        assert run(engines.identity, clip, tmp_path / name, codec="ffv1", deinterlace=deinterlace) == 0
    with av.open(tmp_path / "a.mkv") as one, av.open(tmp_path / "b.mkv") as other:
        for before, after in zip(one.decode(video=0), other.decode(video=0), strict=True):
            assert before.pts == after.pts
            np.testing.assert_array_equal(before.to_ndarray(), after.to_ndarray())
