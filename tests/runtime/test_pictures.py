"""Images in and out, rendered scenes, replays, styles, and the spelling of inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.cli.stream import stream
from i2i_runtime.engines import open_engine
from i2i_runtime.errors import EngineError, I2IError, SourceError, UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.media.images import read_image
from i2i_runtime.sinks import open_sink
from i2i_runtime.sources import SourceOptions, open_source
from i2i_runtime.sources.replay import ReplaySource
from i2i_runtime.stats import Curve, Histogram
from i2i_runtime.style import style_from_text
from i2i_runtime.uri import parse_uri, redact


def frames_of(text: str, **options: Any) -> list[Frame]:
    source = open_source(text, SourceOptions(**options))
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames


def run(engine: Path, source: Path | str, output: Path, **more: Any) -> int:
    return stream(StreamOptions(str(engine), input=str(source), output=[str(output)], quiet=True, **more))


def test_exif_orientation_is_applied(odd_images: Path) -> None:
    upright = read_image(odd_images / "exif_Landscape_1.jpg").pixels
    for number in range(2, 9):
        turned = read_image(odd_images / f"exif_Landscape_{number}.jpg").pixels
        assert turned.shape == upright.shape
        assert np.abs(turned.astype(int) - upright).mean() < 12, number


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_alpha_is_turned_as_the_colours_are(tmp_path: Path, orientation: int, deep: bool) -> None:
    """The image's alpha equals its grey, and does so whichever way EXIF turns it."""
    grey = np.arange(60, dtype=np.uint8).reshape(6, 10, 1) * 4
    stored = np.repeat(grey, 4, axis=2).astype(np.uint16) * 257 if deep else np.repeat(grey, 4, axis=2)
    # One entry of a TIFF directory (Exif 2.32, 4.6.4): tag 0x112, one SHORT.
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation]) + bytes(6)
    kinds, chunks = [cv2.IMAGE_METADATA_EXIF], [np.frombuffer(exif, np.uint8)]
    assert cv2.imencodeWithMetadata(".png", stored, kinds, chunks)[0]
    (tmp_path / "a.png").write_bytes(cv2.imencodeWithMetadata(".png", stored, kinds, chunks)[1].tobytes())
    image = read_image(tmp_path / "a.png")
    pixels, alpha = image.pixels, image.alpha
    assert pixels.shape == ((6, 10, 3) if orientation < 5 else (10, 6, 3))
    assert alpha is not None
    np.testing.assert_array_equal(alpha // 257 if deep else alpha, pixels[:, :, 0])


def test_every_odd_image_is_translated_or_named(engines: Any, odd_images: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    assert run(engines.invert, odd_images, tmp_path / "out", report=report) == 1
    text = report.read_text()
    for name in ("broken.png", "broken_data_stream.png", "truncated_image.png", "truncated_jpeg.jpg"):
        assert f"{name} is damaged or not an image" in text
    assert len(list((tmp_path / "out").iterdir())) == len(list(odd_images.iterdir())) - 4


def test_alpha_sixteen_bits_and_profile_are_kept(engines: Any, odd_images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    deep = np.random.default_rng(2).integers(0, 65536, (20, 30, 4)).astype(np.uint16)
    _, kinds, chunks = cv2.imdecodeWithMetadata(
        np.fromfile(odd_images / "rgb.jpg", np.uint8), flags=cv2.IMREAD_COLOR
    )
    profile = np.asarray(chunks[list(kinds).index(cv2.IMAGE_METADATA_ICCP)]).reshape(-1)
    kinds, chunks = [cv2.IMAGE_METADATA_ICCP], [profile]
    written, data = cv2.imencodeWithMetadata(".png", deep, kinds, chunks)
    assert written
    (folder / "deep.png").write_bytes(data.tobytes())
    assert run(engines.identity, folder, tmp_path / "out") == 0
    again = (tmp_path / "out" / "deep.png").read_bytes()
    decoded, found, metadata = cv2.imdecodeWithMetadata(
        np.frombuffer(again, np.uint8), flags=cv2.IMREAD_UNCHANGED
    )
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded[:, :, 3], deep[:, :, 3])
    # The engine works in 8 bits, so colours agree within half of one of its steps.
    assert np.abs(decoded[:, :, :3].astype(int) - deep[:, :, :3]).max() <= 129
    assert list(found) == [cv2.IMAGE_METADATA_ICCP]
    assert np.asarray(metadata[0]).tobytes() == profile.tobytes()


def test_images_come_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 9, 1, 100):
        cv2.imwrite(str(tmp_path / f"p{number}.png"), np.full((4, 4, 3), number, np.uint8))
    frames = frames_of(str(tmp_path / "p*.png"))
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [1, 9, 10, 100]
    assert [frame.pts for frame in frames] == [0, 1, 2, 3]


def test_damaged_images_are_no_part_of_what_is_done(tmp_path: Path) -> None:
    """A resumed job passes over as many images as were written, and a damaged one never was."""
    for number in range(9):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((4, 4, 3), number, np.uint8))
    (tmp_path / "2.png").write_bytes(b"broken")
    source = open_source(str(tmp_path), SourceOptions(skip=4))
    shown = []
    while (frame := source.read()) is not None:
        shown.append((int(frame.pixels[0, 0, 0]), frame.pts))
    assert shown == [(number, number) for number in range(5, 9)]
    assert len(getattr(source, "losses", ())) == 1, "what was lost before is lost still"


def test_one_image_in_one_image_out(engines: Any, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((9, 7, 3), 10, np.uint8))
    assert run(engines.invert, tmp_path / "a.png", tmp_path / "b.png") == 0
    assert np.all(cv2.imread(str(tmp_path / "b.png")) == 245)
    with pytest.raises(I2IError, match="takes one image"):
        run(engines.invert, "test://bars", tmp_path / "c.png", limit=3)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("in/b.png", "in/b.png"),
        ("in/b.png", "in"),
        ("in", "in"),
        ("in", "in/b.png"),
        ("in", "link"),
        ("in/*.jpg", "in"),
        ("**/*.*", "in/deeper"),
    ],
)
def test_no_source_image_is_written_over(
    engines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, output: str
) -> None:
    """Neither the image's own file nor that of one that comes later, and nothing is written before."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    (tmp_path / "link").symlink_to("in")
    for shade, name in enumerate(("a.jpg", "b.bmp", "b.png", "deeper/a.jpg")):
        cv2.imwrite(f"in/{name}", np.full((9, 7, 3), 40 * shade, np.uint8))
    before = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*.*")}
    with pytest.raises(I2IError, match=r"(overwrite a source image|is the input): choose another"):
        run(engines.invert, source, Path(output), backend="onnxruntime")
    assert {path: path.read_bytes() for path in (tmp_path / "in").rglob("*.*")} == before


def test_an_image_of_one_pixel_passes_a_network_with_a_stride(engines: Any, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "dot.png"), np.full((1, 1, 3), 77, np.uint8))
    with pytest.raises(EngineError, match="8x8 to 2048x2048 and this one is 1x1"):
        run(
            engines.conv,
            tmp_path / "dot.png",
            tmp_path / "big.png",
            backend="onnxruntime",
            size="1x1",
            limit=1,
        )
    assert run(engines.identity, tmp_path / "dot.png", tmp_path / "out.png") == 0


def test_images_of_several_sizes_cannot_be_one_film(engines: Any, tmp_path: Path) -> None:
    for number, size in enumerate((16, 16, 24)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((size, size, 3), np.uint8))
    with pytest.raises(I2IError, match=r"frame 2 is 24x24: add --size"):
        run(engines.identity, tmp_path, tmp_path / "film.mp4")
    assert not (tmp_path / "film.mp4").exists()
    assert run(engines.identity, tmp_path, tmp_path / "film2.mp4", size="16x16", rate=10) == 0
    film = frames_of(str(tmp_path / "film2.mp4"))
    assert [frame.time_s for frame in film] == [Fraction(0), Fraction(1, 10), Fraction(2, 10)]


def test_street_is_the_same_every_time_and_moves() -> None:
    first, again = (
        frames_of("test://street", size=(320, 180)),
        open_source("test://street", SourceOptions((320, 180))),
    )
    assert len(first) == 250
    for frame in first[:3]:
        other = again.read()
        assert other is not None
        np.testing.assert_array_equal(frame.pixels, other.pixels)
    moved = np.abs(first[0].pixels.astype(int) - first[10].pixels).mean()
    assert moved > 3
    sky, road = first[0].pixels[:30], first[0].pixels[-30:]
    assert sky[..., 2].mean() > sky[..., 0].mean() + 20
    assert np.ptp(road.reshape(-1, 3).mean(axis=0)) < 30


def test_bars_are_the_eight_colours() -> None:
    (frame,) = frames_of("test://bars", size=(64, 8))[:1]
    assert frame.pixels[4, 4::8].tolist()[1:4] == [[255, 255, 0], [0, 255, 255], [0, 255, 0]]


class Waited:
    """A replay's clock: time passes only while the replay waits."""

    def __init__(self) -> None:
        self.now_s, self.slept = 100.0, list[float]()

    def wait(self, seconds: float) -> bool:
        self.slept.append(seconds)
        self.now_s += seconds
        return False


def test_replay_keeps_the_clips_own_pace(
    make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip("paced.mp4", pts=[0, 512, 6400, 6912])
    source = open_source(f"replay:{clip}")
    assert isinstance(source, ReplaySource)
    assert source.live
    clock = Waited()
    monkeypatch.setattr(source, "_closing", clock)
    monkeypatch.setattr("i2i_runtime.sources.replay.time.monotonic", lambda: clock.now_s)
    frames = [source.read() for _ in range(5)]
    assert frames[4] is None
    assert [round(seconds, 6) for seconds in clock.slept] == [0, 0.04, 0.46, 0.04]
    assert [round(frame.captured_s, 6) for frame in frames if frame] == [100.0, 100.04, 100.5, 100.54]


def test_style_as_people_name_it(engines: Any, tmp_path: Path) -> None:
    engine = open_engine(engines.styled, "onnxruntime")
    metadata = engine.metadata
    assert style_from_text("red", metadata, engines.styled).tolist() == [[90, 0, 0]]
    assert style_from_text("1,2.5,-3", metadata, engines.styled).tolist() == [[1, 2.5, -3]]
    first = style_from_text("random:7", metadata, engines.styled)
    np.testing.assert_array_equal(first, style_from_text("random:7", metadata, engines.styled))
    assert not np.array_equal(first, style_from_text("random:8", metadata, engines.styled))
    for text in ("blue", "1,2", "random:x", "nan,0,0"):
        with pytest.raises(UsageError):
            style_from_text(text, metadata, engines.styled)
    cv2.imwrite(str(tmp_path / "look.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(EngineError, match="has no style encoder"):
        style_from_text(str(tmp_path / "look.png"), metadata, engines.styled)
    with pytest.raises(EngineError, match="no style input"):
        style_from_text("red", open_engine(engines.identity, "onnxruntime").metadata, engines.identity)


def test_style_from_an_image(engines: Any, save_engine: Callable[..., Path], tmp_path: Path) -> None:
    """The encoder beside the engine takes the mean colour of the image as style."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    engine = open_engine(engines.styled, "onnxruntime")
    described = engine.metadata.to_json().replace('"encoder": null', '"encoder": "look.onnx"')
    assert "look.onnx" in described
    path = tmp_path / "styled.onnx"
    path.write_bytes(engines.styled.read_bytes())
    from i2i_runtime.metadata import EngineMetadata

    metadata = EngineMetadata.from_json(described, origin="test")
    image = tmp_path / "look.png"
    cv2.imwrite(str(image), np.full((8, 8, 3), (30, 20, 10), np.uint8))
    with pytest.raises(EngineError, match=r"style encoder .*look\.onnx is missing"):
        style_from_text(str(image), metadata, path)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["frame"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["x", "axes"], ["style"], keepdims=0),
        ],
        "look",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, "H", "W", 3])],
        [helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "look.onnx")
    assert style_from_text(str(image), metadata, path).tolist() == [[10, 20, 30]]


@pytest.mark.parametrize(
    ("text", "scheme", "location"),
    [
        ("0", "webcam", "0"),
        ("webcam:1", "webcam", "1"),
        ("v4l2:///dev/video0", "v4l2", "/dev/video0"),
        ("/dev/video12", "v4l2", "/dev/video12"),
        ("/dev/videos/clip.mp4", "file", "/dev/videos/clip.mp4"),
        ("rtsp://user:pw@host/live", "rtsp", "user:pw@host/live"),
        ("replay:a/b c.mp4", "replay", "a/b c.mp4"),
        ("test://street", "test", "street"),
        ("file:odd:name.mp4", "file", "odd:name.mp4"),
        ("C:\\clip.mp4", "file", "C:\\clip.mp4"),
        ("-video-.mp4", "file", "-video-.mp4"),
        ("screen", "screen", ""),
        ("null:", "null", ""),
    ],
)
def test_inputs_are_spelled_as_people_spell_them(text: str, scheme: str, location: str) -> None:
    uri = parse_uri(text)
    assert (uri.scheme, uri.location) == (scheme, location)


def test_a_telephones_capital_does_not_hide_the_protocol() -> None:
    assert parse_uri("Rtsp://me:Pass@Host/Live").address == "rtsp://me:Pass@Host/Live"


def test_passwords_are_never_shown() -> None:
    assert "secret" not in str(parse_uri("rtsp://me:secret@host/a?token=secret&x=1"))
    assert (
        redact("see rtsp://me:secret@host and http://a?password=secret")
        == "see rtsp://***@host and http://a?password=***"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://me:se@cr@et@cam/x", "rtsp://***@cam/x"),
        ("rtsp://me:se/cr@et@cam/x", "rtsp://***@cam/x"),
        ("rtsp://me:se?cr#et@cam/x", "rtsp://***@cam/x"),
        ("rtsp://me:se cr et@cam/x", "rtsp://***@cam/x"),
        ("no rtsp://me:secret@cam/x: 404, or http://cam/", "no rtsp://***@cam/x: 404, or http://cam/"),
        ("rtsp://cam:554/user=me_password=secret_channel=1.sdp", "rtsp://cam:554/user=me_password=***"),
        ("rtsp://cam/user=me&Password=secret&x=1", "rtsp://cam/user=me&Password=***&x=1"),
        ("http://cam/?api_key=secret&apikey=secret&x=1", "http://cam/?api_key=***&apikey=***&x=***"),
        ("http://cam:80/monkey=1?compass=2", "http://cam:80/monkey=1?compass=***"),
        ("mjpeg://@:8080", "mjpeg://@:8080"),
        ("mjpeg://@0.0.0.0:8080", "mjpeg://@0.0.0.0:8080"),
    ],
)
def test_whatever_a_password_holds_it_is_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@settings(max_examples=150, deadline=None)
@given(st.text())
def test_any_text_is_an_input_or_a_sentence(text: str) -> None:
    assert parse_uri(text).text == text
    if parse_uri(text).scheme not in ("file", "replay", "webcam", "v4l2", "test"):
        return
    if parse_uri(text).scheme in ("webcam", "v4l2"):
        return  # opening a device is no business of this test
    with contextlib.suppress(I2IError):
        open_source(text).close()


def test_unknown_schemes_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="Unknown input scheme 'gopher'"):
        open_source("gopher://x")
    with pytest.raises(UsageError, match="Unknown output scheme 'gopher'"):
        open_sink("gopher://x")
    with pytest.raises(UsageError, match="Unknown scene 'moon'"):
        open_source("test://moon")
    with pytest.raises(SourceError, match="contains no image"):
        open_source("/nowhere/*.png")


def test_percentiles_are_within_two_per_cent() -> None:
    histogram = Histogram()
    values = np.random.default_rng(0).lognormal(2, 1, 5000)
    for value in values:
        histogram.add(float(value))
    for percent in (50, 95, 99):
        exact = float(np.percentile(values, percent))
        assert abs(histogram.percentile_ms(percent) - exact) < 0.03 * exact
    assert Histogram().percentile_ms(50) == 0


def test_a_curve_stays_short_and_spans_all() -> None:
    curve = Curve(points=100)
    for step in range(100_000):
        curve.add(step, step * 2.0)
    assert len(curve.kept) < 100
    assert curve.kept[0] == (0.0, 0.0)
    assert curve.kept[-1][0] > 95_000
