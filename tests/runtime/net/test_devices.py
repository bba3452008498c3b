"""Devices that need a kernel module, a board or a screen: the first two against named fakes, the last for
real.
"""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from i2i_runtime import v4l2
from i2i_runtime.errors import SinkError, SourceError, UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.opencv import has_windows
from i2i_runtime.sinks import virtualcam
from i2i_runtime.sinks.virtualcam import BUFFER_TYPE, FORMAT, S_FMT, STREAMON, YUYV
from i2i_runtime.sources import SourceOptions
from i2i_runtime.sources.camera import CameraSource
from i2i_runtime.sources.screen import ScreenSource
from i2i_runtime.uri import parse_uri
from i2i_runtime.v4l2 import CAPABILITY, QUERYCAP, VideoDevice

if TYPE_CHECKING:
    from tests.runtime.net.conftest import NextFrame


class FakeLoopback:
    """A fake of the v4l2loopback driver's side of the talk, after its documentation; no kernel module is at
    hand.

    With `fixed` a reader has already settled the size, as the driver's keep_format does.
    """

    def __init__(
        self, capabilities: int = 0x85200002, fixed: tuple[int, int] | None = None, pixels: int = YUYV
    ) -> None:
        self.capabilities, self.fixed, self.pixels = capabilities, fixed, pixels
        self.asked: list[tuple[int, ...]] = []
        self.streams = False

    def ioctl(self, request: int, data: bytearray) -> None:
        if request == QUERYCAP:
            bus = b"platform:v4l2loopback-000"
            able = self.capabilities & 0x0FFFFFFF
            data[:] = CAPABILITY.pack(
                b"v4l2 loopback", b"i2i-stream", bus, 0x60800, self.capabilities | 0x80000000, able
            )
        elif request == S_FMT:
            fields = list(FORMAT.unpack(data))
            self.asked.append(tuple(fields))
            if self.fixed is not None:
                fields[1:3] = self.fixed
                fields[5:7] = 2 * self.fixed[0], 2 * self.fixed[0] * self.fixed[1]
            fields[3] = self.pixels
            data[:] = FORMAT.pack(*fields)
        elif request == STREAMON:
            assert self.asked, "the format is agreed on first"
            self.streams = BUFFER_TYPE.unpack(data) == (2,)
        else:
            raise OSError(25, "Inappropriate ioctl for device")


def test_the_structures_have_the_sizes_that_the_request_numbers_carry() -> None:
    for request, structure in (
        (QUERYCAP, CAPABILITY),
        (virtualcam.G_FMT, FORMAT),
        (S_FMT, FORMAT),
        (STREAMON, BUFFER_TYPE),
    ):
        assert request >> 16 & 0x3FFF == structure.size
        assert request >> 8 & 0xFF == ord("V")


def test_fake_virtual_camera_takes_the_size_asked_for() -> None:
    fake = FakeLoopback()
    device = v4l2.device_from_ioctl(fake.ioctl)
    assert device.is_loopback
    assert device.takes_images
    assert not device.gives_images
    agreed = virtualcam.negotiate(fake.ioctl, 641, 360)
    assert (agreed.width, agreed.height, agreed.line_bytes) == (642, 360, 1284)
    assert fake.asked[0][:4] == (2, 642, 360, YUYV)
    assert fake.streams, "without STREAMON the driver works for one job alone"


@pytest.mark.parametrize(("written", "listed"), [("Y,N,N\n", True), ("N,N\n", False), (None, False)])
def test_browsers_list_a_loopback_of_a_module_with_exclusive_caps(
    tmp_path: Path, written: str | None, listed: bool
) -> None:
    parameter = tmp_path / "exclusive_caps"
    if written is not None:
        parameter.write_text(written)
    assert v4l2.browsers_list_loopback(parameter) is listed


def test_a_virtual_camera_says_why_it_takes_no_images(tmp_path: Path) -> None:
    path = tmp_path / "video10"
    path.write_bytes(b"")
    camera, loopback = ("uvcvideo", "webcam"), ("v4l2 loopback", "i2i")
    assert virtualcam.refusal_of_loopback(path, VideoDevice(*loopback, False, True)) is None
    said = [
        virtualcam.refusal_of_loopback(path, VideoDevice(*kind, gives, False)) or ""
        for kind, gives in ((camera, True), (loopback, True), (loopback, False))
    ]
    assert "is not a virtual camera (it takes no images)" in said[0]
    assert "it is in use" in said[1]
    assert "load the module again: sudo modprobe -r v4l2loopback" in said[2]
    holder = subprocess.Popen(
        [sys.executable, "-c", f"file = open({str(path)!r}); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        busy = virtualcam.refusal_of_loopback(path, VideoDevice(*loopback, False, False)) or ""
        assert re.search(rf"it is in use by python\S* \({holder.pid}\)", busy)
    finally:
        holder.communicate(b"\n")


def test_a_camera_that_does_not_open_says_why(tmp_path: Path) -> None:
    def refused(number: int) -> str:
        def find(path: Path) -> VideoDevice:
            raise OSError(number, "as a driver says it")

        return v4l2.refusal_of_camera(tmp_path, find) or ""

    assert "it does not exist" in refused(errno.ENOENT)
    assert "sudo usermod -aG video $USER" in refused(errno.EACCES)
    assert "it is in use" in refused(errno.EBUSY)
    assert "is not a video device" in refused(errno.ENOTTY)
    output = VideoDevice("v4l2 loopback", "i2i", False, True)
    assert "i2i delivers no images on this device" in (
        v4l2.refusal_of_camera(tmp_path, lambda _: output) or ""
    )
    assert v4l2.refusal_of_camera(tmp_path, lambda _: VideoDevice("uvcvideo", "webcam", True, False)) is None
    for path, said in (("/dev/null", "is not a video device"), (tmp_path / "video9", "does not exist")):
        with pytest.raises(SourceError, match=said):
            CameraSource(str(path), SourceOptions())


def test_stable_names_of_cameras_are_cameras() -> None:
    for name in ("by-path/platform-vivid.0-video-index0", "by-id/usb-046d_C920-video-index0"):
        uri = parse_uri(f"/dev/v4l/{name}")
        assert (uri.scheme, uri.location) == ("v4l2", f"/dev/v4l/{name}")


class FakeCapture:
    """An open camera of OpenCV that takes any size up to `most` and then states `rates` for each size."""

    def __init__(self, rates: dict[int, float]) -> None:
        self.rates, self.held = rates, {cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"MJPG"))}

    def isOpened(self) -> bool:
        return True

    def set(self, what: int, value: float) -> bool:
        self.held[what] = value
        return True

    def get(self, what: int) -> float:
        width = int(self.held.get(cv2.CAP_PROP_FRAME_WIDTH, 640))
        return self.rates[width] if what == cv2.CAP_PROP_FPS else self.held.get(what, 0.0)

    def release(self) -> None:
        pass


@pytest.mark.parametrize(
    ("rates", "size", "delivers"),
    [
        ({1280: 30.0}, None, "1280x720 MJPG at 30 frames per second"),
        ({1280: 10.0, 640: 30.0}, None, "640x480 MJPG at 30 frames per second"),
        ({1280: 0.0}, None, "1280x720 MJPG at 0 frames per second"),
        ({320: 5.0}, (320, 240), "320x240 MJPG at 5 frames per second"),
    ],
)
def test_a_camera_says_what_it_delivers(
    monkeypatch: pytest.MonkeyPatch, rates: dict[int, float], size: tuple[int, int] | None, delivers: str
) -> None:
    assert {"isOpened", "set", "get", "release"} <= set(dir(cv2.VideoCapture)), "the fake has OpenCV's names"
    monkeypatch.setattr(cv2, "VideoCapture", lambda *given: FakeCapture(rates))
    monkeypatch.setattr("i2i_runtime.sources.camera.camera_path", lambda device: None)
    source = CameraSource("0", SourceOptions(size))
    assert source.delivers == delivers
    source.close()


def test_fake_virtual_camera_that_insists(paint: Callable[..., Frame]) -> None:
    agreed = virtualcam.negotiate(FakeLoopback(fixed=(320, 240)).ioctl, 640, 360)
    frame = paint(0, (200, 30, 40), 360, 640)
    data = np.frombuffer(virtualcam.yuyv_from_frame(frame, agreed), np.uint8).reshape(240, 320, 2)
    shown = cv2.cvtColor(data, cv2.COLOR_YUV2RGB_YUY2)
    assert np.abs(shown[120, 160].astype(int) - (200, 30, 40)).max() < 6
    assert shown[5].max() < 6, "letterboxed, not stretched"
    with pytest.raises(SinkError, match="insists on NV12"):
        virtualcam.negotiate(FakeLoopback(pixels=int.from_bytes(b"NV12", "little")).ioctl, 640, 360)


def test_no_virtual_camera_is_one_sentence_with_the_command(tmp_path: Any) -> None:
    with pytest.raises(SinkError, match="modprobe v4l2loopback exclusive_caps=1"):
        virtualcam.find_loopback(tmp_path)
    file = tmp_path / "video0"
    file.write_bytes(b"")
    with pytest.raises(SinkError, match="is not a virtual camera"):
        virtualcam.VirtualCameraSink(str(file))


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A blank virtual screen of 640x480 without a window manager."""
    pytest.importorskip("mss", reason="mss is not installed")
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    if not has_windows():
        pytest.skip("this OpenCV has no windows")
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp", "-noreset"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        monkeypatch.setenv("DISPLAY", f":{int(server.stdout.readline())}")
        yield
        server.terminate()


def test_screen_under_xvfb(screen: None, next_frame: NextFrame) -> None:
    source = ScreenSource("1,100,50,320,200", rate=60)
    frames = [next_frame(source) for _ in range(3)]
    source.close()
    assert source.read() is None
    assert [frame.pixels.shape for frame in frames] == [(200, 320, 3)] * 3
    assert frames[1].pts < frames[2].pts
    assert frames[2].captured_s - frames[0].captured_s >= 1.9 / 60


def test_screen_shows_what_is_on_it(
    screen: None,
    start: Callable[..., subprocess.Popen[bytes]],
    wait_until: Callable[..., None],
    next_frame: NextFrame,
) -> None:
    painter = shutil.which("xsetroot") or shutil.which("ffplay")
    if painter is None:
        pytest.skip("neither xsetroot nor ffplay is installed")
    if painter.endswith("xsetroot"):
        start([painter, "-solid", "#c81e28"])
    else:
        colour = "color=c=0xc81e28:s=640x480"
        start([painter, "-loglevel", "quiet", "-noborder", "-left", "0", "-top", "0", "-f", "lavfi", colour])
    source = ScreenSource()
    wait_until(
        lambda: np.abs(next_frame(source).pixels[240, 320].astype(int) - (200, 30, 40)).max() < 8,
        "red on screen",
    )
    source.close()
    source.read()


def test_a_window_shows_a_clip_at_its_own_pace_and_closes_quietly(
    screen: None, engines: Any, make_clip: Callable[..., Path]
) -> None:
    """A clip of one second from its first to its last frame: a window that did not wait would be done in no time."""
    clip = make_clip("window.mp4", pts=[1280 * index for index in range(11)])
    script = (
        "import i2i_runtime.sinks.window as window, i2i_runtime.sinks.pacing as pacing\n"
        "wait, waited = pacing.Pacer.wait, []\n"
        "pacing.Pacer.wait = lambda self, source: (waited.append(source.index), wait(self, source))\n"
        "from i2i_runtime.cli.entry import stream\n"
        "try:\n    stream()\nfinally:\n    print(waited)\n"
    )
    job = ["-m", str(engines.identity), "-i", str(clip)]
    shown = subprocess.run([sys.executable, "-c", script, *job], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == f"{list(range(11))}\n"
    assert len(shown.stderr.strip().splitlines()) == 2, (
        "what runs, what came out, and nothing of the window library"
    )


PRESSED = """
import sys, cv2
code, wait, calls = int(sys.argv.pop(1)), cv2.waitKey, []
def pressed(delay):
    found = wait(delay)
    calls.append(delay)
    return code if len(calls) == 10 else found
cv2.waitKey = pressed
from i2i_runtime.cli.entry import stream
stream()
"""


@pytest.mark.parametrize("code", [ord("q"), 27])
def test_q_and_escape_in_a_window_end_the_job_normally(
    screen: None, engines: Any, make_clip: Callable[..., Path], code: int
) -> None:
    clip = make_clip("keys.mp4", pts=[512 * index for index in range(250)])
    job = ["-m", str(engines.identity), "-i", str(clip)]
    shown = subprocess.run(
        [sys.executable, "-c", PRESSED, str(code), *job], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr.splitlines()[-1].startswith("9 frames in "), shown.stderr
    assert "interrupted" not in shown.stderr


def test_a_real_key_in_a_real_window_ends_the_job_normally(screen: None, engines: Any) -> None:
    if shutil.which("xdotool") is None:
        pytest.skip("xdotool is not installed")
    job = ["-m", str(engines.identity), "-i", "test://bars", "--size", "96x64", "--rate", "1"]
    script = "from i2i_runtime.cli.entry import stream; stream()"
    command = [sys.executable, "-c", script, *job]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as shown:
        search = ["xdotool", "search", "--sync", "--onlyvisible", "--name", "i2i-stream"]
        subprocess.run([*search, "windowfocus", "--sync", "key", "q"], check=True, timeout=60)
        _, told = shown.communicate(timeout=60)
    assert shown.returncode == 0, told
    assert "written to display://" in told.splitlines()[-1]


def test_a_window_says_that_pyav_was_loaded_first(screen: None) -> None:
    script = "import av, i2i_runtime.sinks.window as window\nwindow.WindowSink()"
    refused = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "SinkError: A window needs OpenCV loaded before PyAV" in refused.stderr


@pytest.mark.parametrize("module", ["sources.video", "sinks.video", "frame", "pipeline"])
def test_the_runtime_loads_opencv_before_pyav(module: str) -> None:
    """Else the X libraries of PyAV make a window of OpenCV hang."""
    script = (
        f"import sys, i2i_runtime.{module}\n"
        "names = [name for name in sys.modules if name in ('av', 'cv2')]\n"
        "assert names[0] == 'cv2', names\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_screens_that_are_not_there(screen: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="Screen 7 does not exist"):
        ScreenSource("7")
    with pytest.raises(SourceError, match="outside the screen"):
        ScreenSource("1,9000,0,10,10")
    with pytest.raises(UsageError, match="write screen"):
        ScreenSource("left")
    monkeypatch.setenv("DISPLAY", ":77777")
    with pytest.raises(SourceError, match="cannot be read"):
        ScreenSource()
