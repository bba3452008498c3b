"""Alpha goes around the engine: out of a video or image, into every output that can hold it, or it is named."""

from __future__ import annotations

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
from i2i_runtime.media.alpha import alpha_bits, alpha_of_frame, put_alpha
from i2i_runtime.sources import open_source
from i2i_runtime.verify import compare_files

SIZE = (96, 64)
# Enough steps to tell planes and rows apart, opaque and clear among them.
RAMP = np.add.outer(np.arange(64) * 3, np.arange(96) * 2).clip(0, 255).astype(np.uint8)
KINDS = {
    "qtrle.mov": ("qtrle", "argb"),
    "png.mov": ("png", "rgba"),
    "deep_png.mov": ("png", "rgba64be"),
    "ffv1.mkv": ("ffv1", "yuva444p"),
    "ffv1_10.mkv": ("ffv1", "yuva420p10le"),
    "prores.mov": ("prores_ks", "yuva444p10le"),
}


@pytest.fixture
def clip_with_alpha(make_clip: Callable[..., Path]) -> Callable[..., Path]:
    def make(kind: str, **more: Any) -> Path:
        codec, pixel_format = KINDS[kind]

        def frame_at(index: int) -> av.VideoFrame:
            image = np.full((SIZE[1], SIZE[0], 3), 40 + 20 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pixel_format)
            put_alpha(frame, np.roll(RAMP, index, axis=1))
            return frame

        return make_clip(
            kind,
            pts=[40 * index for index in range(4)],
            time_base=Fraction(1, 1000),
            size=SIZE,
            codec=codec,
            pixel_format=pixel_format,
            options={"bits_per_mb": "8000"} if codec == "prores_ks" else {"threads": "1"},
            frame_at=frame_at,
            **more,
        )

    return make


def run(engine: Path, source: Path | str, output: Path, **more: Any) -> int:
    return stream(StreamOptions(str(engine), input=str(source), output=[str(output)], **more))


def alphas_of(path: Path | str) -> list[np.ndarray]:
    """In [0, 1]."""
    source = open_source(str(path))
    alphas = []
    while (frame := source.read()) is not None:
        alpha = frame.alpha
        assert alpha is not None
        alphas.append(alpha / np.iinfo(alpha.dtype).max)
    source.close()
    return alphas


@pytest.mark.parametrize(
    "pixel_format", ["rgba", "bgra", "argb", "rgba64be", "yuva420p", "yuva444p12le", "gbrap10le"]
)
def test_alpha_of_a_frame_is_what_was_put_there(pixel_format: str) -> None:
    frame = av.VideoFrame(*SIZE, pixel_format)
    put_alpha(frame, RAMP)
    read = alpha_of_frame(frame)
    assert read is not None
    assert read.dtype == (np.uint8 if alpha_bits(pixel_format) == 8 else np.uint16)
    assert np.abs(read / np.iinfo(read.dtype).max - RAMP / 255).max() < 0.5 / 1023
    put_alpha(frame, None)
    assert np.all(alpha_of_frame(frame) == np.iinfo(read.dtype).max)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("output", ["prores_ks .mov", "qtrle .mov", "png .mov", "ffv1 .mkv"])
def test_alpha_is_carried_to_codecs_that_hold_it(
    engines: Any, clip_with_alpha: Callable[..., Path], tmp_path: Path, kind: str, output: str
) -> None:
    clip = clip_with_alpha(kind)
    codec, suffix = output.split()
    made = tmp_path / f"out{suffix}"
    assert run(engines.invert, clip, made, codec=codec) == 0
    # qtrle has 8 bits; ProRes here 10, which its decoder cuts from 16 without rounding.
    steps = {"qtrle": 255, "prores_ks": 511}.get(codec, 65535)
    for before, after in zip(alphas_of(clip), alphas_of(made), strict=True):
        assert np.abs(before - after).max() <= 0.5 / steps + 1e-9
    with av.open(made) as container:
        if codec == "prores_ks":
            assert container.streams.video[0].codec_context.codec_tag == "ap4h", "editors go by the label"
        grey = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(grey.astype(int) - 215).max() <= 3, "the image itself is the engine's"
    transparency = next(check for check in compare_files(clip, made) if check.name == "transparency")
    assert transparency.agrees


@pytest.mark.parametrize("kind", ["ffv1_10.mkv", "qtrle.mov"])
@pytest.mark.parametrize("size", [None, "97x63"])
@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
def test_alpha_is_carried_beside_the_images_of_vp9(
    engines: Any,
    clip_with_alpha: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    size: str | None,
    suffix: str,
) -> None:
    """Over the seams of segments, too."""
    monkeypatch.setattr("i2i_runtime.sinks.video.SEGMENT_FRAMES", 3)
    clip, made = clip_with_alpha(kind), tmp_path / f"out{suffix}"
    more = {"codec": "libvpx-vp9", "crf": 4, "size": size, "backend": "onnxruntime"}
    assert run(engines.invert, clip, made, **more) == 0
    wanted = alphas_of(clip)
    if size is not None:
        wanted = [cv2.resize(alpha, (97, 63)) for alpha in wanted]
    for before, after in zip(wanted, alphas_of(made), strict=True):
        assert np.abs(before - after).mean() < 2 / 255
    checks = {check.name: check.agrees for check in compare_files(clip, made)}
    assert checks["transparency"]
    assert checks["times of frames"]


def test_alpha_of_vp9_that_hides_nothing_is_no_transparency(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    def opaque(index: int) -> av.VideoFrame:
        frame = av.VideoFrame(*SIZE, "rgba")
        put_alpha(frame, None)
        return frame

    clip = make_clip(
        "opaque.mov", pts=[0, 512], size=SIZE, codec="png", pixel_format="rgba", frame_at=opaque,
        options={"threads": "1"},
    )  # fmt: skip
    assert run(engines.identity, clip, tmp_path / "out.webm", backend="onnxruntime") == 0
    checks = {check.name: check.agrees for check in compare_files(clip, tmp_path / "out.webm")}
    assert checks["transparency"]


def test_alpha_of_vp9_that_mp4_does_not_hold_is_named(
    engines: Any, clip_with_alpha: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, made = clip_with_alpha("qtrle.mov"), tmp_path / "out.mp4"
    assert run(engines.identity, clip, made, codec="libvpx-vp9", backend="onnxruntime") == 0
    assert "because mp4 cannot hold that of VP9: a .webm or .mkv keeps it" in capsys.readouterr().err
    with av.open(made) as container:
        assert len(list(container.decode(video=0))) == 4


def test_alpha_that_no_output_holds_is_named(
    engines: Any, clip_with_alpha: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = clip_with_alpha("qtrle.mov")
    assert run(engines.identity, clip, tmp_path / "out.mp4") == 0
    assert (
        "the alpha channel was dropped, because libx264 cannot hold one: --codec prores_ks"
        in capsys.readouterr().err
    )
    lost = [check.name for check in compare_files(clip, tmp_path / "out.mp4") if not check.agrees]
    assert "transparency" in lost


def test_alpha_turns_and_scales_with_the_image(
    engines: Any, clip_with_alpha: Callable[..., Path], tmp_path: Path
) -> None:
    def turn(container: av.container.OutputContainer, stream: av.VideoStream) -> None:
        stream.set_display_rotation(90)

    clip = clip_with_alpha("png.mov", prepare=turn)
    assert alphas_of(clip)[0].shape == (96, 64), "upright"
    assert run(engines.identity, clip, tmp_path / "turned.mov", codec="png") == 0
    np.testing.assert_array_equal(alphas_of(tmp_path / "turned.mov")[3], alphas_of(clip)[3])
    assert run(engines.identity, clip, tmp_path / "images", size="32x48") == 0
    small = alphas_of(tmp_path / "images")
    assert small[0].shape == (48, 32)
    half = cv2.resize(alphas_of(clip)[0], (32, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(small[0] - half).max() <= 0.5 / 255 + 1e-6


def test_images_with_alpha_become_a_film_with_alpha(engines: Any, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        bgra = np.dstack([np.full((64, 96, 3), 60, np.uint8), np.roll(RAMP, number, axis=0)])
        cv2.imwrite(str(folder / f"{number}.png"), bgra)
    assert run(engines.identity, folder, tmp_path / "out.mkv", codec="ffv1") == 0
    np.testing.assert_array_equal(alphas_of(tmp_path / "out.mkv"), alphas_of(folder))


def test_alpha_beside_the_images_of_a_webm_is_read(
    engines: Any, real_alpha_webm: Path, tmp_path: Path
) -> None:
    before = alphas_of(real_alpha_webm)
    assert 0 < before[0].mean() < 1
    assert run(engines.identity, real_alpha_webm, tmp_path / "out.mkv", codec="ffv1") == 0
    np.testing.assert_array_equal(alphas_of(tmp_path / "out.mkv"), before)


@pytest.fixture
def real_alpha_webm(clip_with_alpha: Callable[..., Path], tmp_path: Path) -> Path:
    """VP9 with alpha as the ffmpeg program writes it."""
    import shutil
    import subprocess

    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    made = tmp_path / "alpha.webm"
    command = ["ffmpeg", "-v", "error", "-i", str(clip_with_alpha("png.mov"))]
    subprocess.run([*command, "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", str(made)], check=True)
    return made


@pytest.mark.parametrize("kind", ["png.mov", "qtrle.mov"])
def test_a_film_of_rgb_becomes_ycbcr_that_says_so(
    engines: Any, clip_with_alpha: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    """Tags of RGB (no matrix, full range) on YCbCr would show as green in a player."""
    assert run(engines.identity, clip_with_alpha(kind), tmp_path / "out.mp4", crf=4) == 0
    with av.open(tmp_path / "out.mp4") as container:
        frame = next(container.decode(video=0))
        assert (frame.format.name, int(frame.colorspace), int(frame.color_range)) == ("yuv420p", 1, 1)
        grey = frame.to_ndarray(format="rgb24")
    assert np.abs(grey.astype(int) - 40).max() <= 3
    names = [check.name for check in compare_files(clip_with_alpha(kind), tmp_path / "out.mp4")]
    assert "matrix" not in names
