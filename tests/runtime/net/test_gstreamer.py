"""Capture through the real GStreamer. Stand-ins for a Jetson's elements: videotestsrc for nvarguscamerasrc and
nvv4l2camerasrc, identity for nvvidconv. Nothing here shows that a sensor works.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from i2i_runtime.errors import SourceError, UsageError
from i2i_runtime.media.nv12 import Nv12Converter
from i2i_runtime.sources import Source, SourceOptions, open_source
from i2i_runtime.sources.gstreamer import (
    GstreamerSource,
    colour_of_names,
    explain_gstreamer,
    has_element,
    load_gstreamer,
    planes_of_nv12,
    with_appsink,
)
from i2i_runtime.sources.jetson import csi_line, explain_argus, nvv4l2_line

if TYPE_CHECKING:
    from tests.runtime.net.conftest import NextFrame

SIZED = SourceOptions(size=(1920, 1080), rate=60)


@pytest.fixture
def line_source() -> Iterator[Callable[..., GstreamerSource]]:
    """Opens a line, and closes it after the test; skips if this machine has no GStreamer."""
    try:
        if not has_element("videotestsrc"):
            pytest.skip("videotestsrc is not installed")
    except SourceError as error:
        pytest.skip(str(error))
    opened: list[GstreamerSource] = []

    def make(line: str, timeout_s: float = 20.0) -> GstreamerSource:
        opened.append(GstreamerSource("gst:test", line, timeout_s=timeout_s))
        return opened[-1]

    yield make
    for source in opened:
        source.close()


@pytest.mark.parametrize("colorimetry", ["bt601", "bt709", "1:3:5:1", None])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (322, 181), (1280, 720)])
def test_colours_are_those_of_the_pattern(
    line_source: Callable[..., GstreamerSource], colorimetry: str | None, width: int, height: int
) -> None:
    """In limited BT.601 and BT.709, in full BT.709, and with what GStreamer takes for the size."""
    for pattern, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255)), ("white", (255, 255, 255))):
        stated = "" if colorimetry is None else f",colorimetry={colorimetry}"
        source = line_source(
            f"videotestsrc num-buffers=2 pattern={pattern} ! video/x-raw,format=RGB ! videoconvert ! "
            f"video/x-raw,format=NV12,width={width},height={height}{stated} ! appsink"
        )
        frame = source.read()
        assert frame is not None
        assert frame.pixels.shape == (height, width, 3)
        assert np.abs(frame.pixels.astype(int) - colour).max() <= 3
        source.close()


def test_rows_are_padded_as_the_buffer_says() -> None:
    """As NVIDIA pads: rows of 256 bytes for an image of 6x5."""
    memory = np.full(256 * 5 + 256 * 3 + 17, 99, np.uint8)
    rows = memory[: 256 * 5].reshape(5, 256)
    rows[:, :6] = np.arange(30).reshape(5, 6)
    pairs = memory[256 * 5 : 256 * 8].reshape(3, 256)
    pairs[:, :6] = np.arange(18).reshape(3, 6)
    luma, chroma = planes_of_nv12(memory, 6, 5, strides=(256, 256), offsets=(0, 1280))
    assert np.array_equal(luma, np.arange(30).reshape(5, 6))
    assert np.array_equal(chroma, np.arange(18).reshape(3, 3, 2))


def test_nv12_agrees_with_opencv_in_the_one_case_it_knows() -> None:
    """OpenCV converts BT.601 of limited range alone."""
    rng = np.random.default_rng(3)
    luma = rng.integers(16, 236, (8, 12)).astype(np.uint8)
    chroma = rng.integers(100, 156, (4, 6, 2)).astype(np.uint8)
    ours = Nv12Converter(12, 8, 5, full=False).rgb_from_planes(luma, chroma)
    theirs = cv2.cvtColorTwoPlane(luma, chroma, cv2.COLOR_YUV2RGB_NV12)
    assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_a_matrix_that_is_not_stated_is_chosen_by_height() -> None:
    assert colour_of_names("unknown", "unknown", 480) == (5, False)
    assert colour_of_names("unknown", "unknown", 720) == (1, False)
    assert colour_of_names("bt601", "0-255", 1080) == (5, True)
    assert colour_of_names("bt2020", "16-235", 2160) == (9, False)


def test_time_of_capture_is_the_buffers_own(line_source: Callable[..., GstreamerSource]) -> None:
    """A queue that holds images back for 300 ms makes them older; a time taken on arrival would not show it."""
    source = line_source(
        "videotestsrc is-live=true ! video/x-raw,format=NV12,width=64,height=48,framerate=20/1 ! "
        "queue min-threshold-time=300000000 max-size-time=0 max-size-buffers=0 max-size-bytes=0 ! appsink"
    )
    frames = [source.read() for _ in range(3)]
    ages = [time.monotonic() - frame.captured_s for frame in frames if frame is not None]
    assert len(ages) == 3
    assert ages[-1] >= 0.25
    times = [frame.pts for frame in frames if frame is not None]
    assert times == sorted(set(times))


def test_the_end_of_a_stream_is_an_end(line_source: Callable[..., GstreamerSource]) -> None:
    source = line_source("videotestsrc num-buffers=3 ! video/x-raw,format=NV12,width=64,height=48 ! appsink")
    read = 0
    while source.read() is not None:
        read += 1
    assert 1 <= read <= 3


def test_an_error_in_the_pipeline_is_one_sentence(line_source: Callable[..., GstreamerSource]) -> None:
    source = line_source("videotestsrc is-live=true ! identity error-after=3 ! videoconvert ! appsink")

    def read_to_the_end() -> None:
        while source.read() is not None:
            pass

    with pytest.raises(SourceError, match=r"failed \(Failed after iterations as requested\): try the line"):
        read_to_the_end()


def test_a_caps_change_is_followed(line_source: Callable[..., GstreamerSource]) -> None:
    source = line_source(
        "videotestsrc is-live=true ! videoscale ! "
        "capsfilter name=wanted caps=video/x-raw,format=NV12,width=64,height=48 ! appsink"
    )
    first = source.read()
    assert first is not None
    core = load_gstreamer().core
    wanted = source._pipeline.get_by_name("wanted")
    wanted.set_property("caps", core.Caps.from_string("video/x-raw,format=NV12,width=96,height=80"))
    deadline_s = time.monotonic() + 20
    while (frame := source.read()) is not None and frame.pixels.shape != (80, 96, 3):
        assert time.monotonic() < deadline_s
    assert frame is not None


def test_a_stall_is_one_sentence(line_source: Callable[..., GstreamerSource]) -> None:
    source = line_source("videotestsrc is-live=true ! identity sleep-time=2000000 ! appsink", 0.3)
    with pytest.raises(SourceError, match=r"sent no image for 0\.3 s: check the camera"):
        source.read()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nosuchthing ! appsink", "needs the GStreamer element nosuchthing, which is not installed"),
        ("videotestsrc foo=1 ! appsink", "sets foo, which videotestsrc does not have"),
        ("videotestsrc ! fakesink", "has 0 appsinks"),
        ("videotestsrc num-buffers=0 ! videoconvert ! appsink", "ended before its first image"),
        ("videotestsrc ! video/x-raw,format=RGB ! appsink", "cannot be converted to NV12"),
        ("filesrc location=/nowhere.mp4 ! decodebin ! appsink", "failed|cannot be started"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(
    line_source: Callable[..., GstreamerSource], line: str, says: str
) -> None:
    with pytest.raises(SourceError, match=says):
        line_source(line).read()


@pytest.mark.skipif("has_element('nvarguscamerasrc')", reason="this machine has NVIDIA's elements")
def test_without_nvidias_elements_csi_says_where_they_come_from() -> None:
    with pytest.raises(SourceError, match=r"csi://0 needs the GStreamer element nvarguscamerasrc.*JetPack"):
        open_source("csi://0")


def test_a_line_by_its_uri_reconnects_and_shows_the_slate(
    line_source: Callable[..., GstreamerSource], next_frame: NextFrame
) -> None:
    """identity fails after ten images: the source is lost, opened again, and delivers again."""
    assert line_source is not None
    source: Source = open_source(
        "gst:videotestsrc is-live=true ! video/x-raw,width=96,height=64,framerate=30/1 ! identity error-after=10",
        SourceOptions(timeout_s=5.0),
    )
    try:
        deadline_s = time.monotonic() + 60
        while source.recoveries < 1:
            frame = source.read()
            assert frame is not None
            assert frame.pixels.shape == (64, 96, 3)
            assert time.monotonic() < deadline_s
        assert source.outages >= 1
        assert not next_frame(source).is_slate
    finally:
        source.close()


def test_a_line_without_an_appsink_gets_one() -> None:
    assert with_appsink("videotestsrc") == "videotestsrc ! videoconvert ! appsink"
    assert with_appsink("a ! appsink name=x") == "a ! appsink name=x"


def test_csi_line() -> None:
    line = csi_line("1?mode=3&flip=2", SIZED)
    elements = line.split(" ! ")
    assert elements == [
        "nvarguscamerasrc sensor-id=1 sensor-mode=3",
        "video/x-raw(memory:NVMM),width=(int)1920,height=(int)1080,framerate=(fraction)60/1,format=(string)NV12",
        "nvvidconv flip-method=2",
        "video/x-raw,format=(string)NV12",
        "appsink",
    ]
    assert "sensor-mode" not in csi_line("0", SourceOptions())
    assert "width=(int)1280,height=(int)720,framerate=(fraction)30/1" in csi_line("0", SourceOptions())


@pytest.mark.parametrize(
    "wrong", ["", "x", "16", "-1", "0 ! filesink location=/tmp/x", "0?flip=8", "0?mode=", "0?speed=2"]
)
def test_a_sensor_that_cannot_be_is_one_sentence(wrong: str) -> None:
    with pytest.raises(UsageError):
        csi_line(wrong, SourceOptions())


def test_nvv4l2_lines() -> None:
    mjpg = nvv4l2_line("/dev/v4l/by-path/platform-usb-0:2:1.0-video-index0", SIZED)
    assert mjpg.startswith("v4l2src device=/dev/v4l/by-path/platform-usb-0:2:1.0-video-index0 ! image/jpeg,")
    assert "nvv4l2decoder mjpeg=1 ! nvvidconv ! video/x-raw,format=(string)NV12 ! appsink" in mjpg
    assert nvv4l2_line("/dev/video2?format=uyvy", SIZED).startswith("nvv4l2camerasrc device=/dev/video2 ! ")
    for wrong in ("0", "/dev/video0 ! filesink", "/dev/video0?format=rgb"):
        with pytest.raises(UsageError):
            nvv4l2_line(wrong, SIZED)


def test_lines_of_all_sensors_parse_with_stand_ins(line_source: Callable[..., GstreamerSource]) -> None:
    """The elements of NVIDIA are replaced by named stand-ins; what is left is parsed and run by GStreamer."""
    for sensor in range(4):
        for flip in (0, 2):
            line = csi_line(f"{sensor}?flip={flip}", SourceOptions(size=(320, 240), rate=30))
            line = line.replace(f"nvarguscamerasrc sensor-id={sensor}", "videotestsrc num-buffers=3")
            line = line.replace(f"nvvidconv flip-method={flip}", "identity").replace("(memory:NVMM)", "")
            frame = line_source(line).read()
            assert frame is not None
            assert frame.pixels.shape == (240, 320, 3)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("Failed to create CaptureSession", "end that program, or sudo systemctl restart nvargus-daemon"),
        ("EOS before the first image", "got no capture session"),
        ("Argus Error Status", "the camera daemon hangs: sudo systemctl restart nvargus-daemon"),
        ("no image for 10 s", "does not respond, because the camera daemon hangs"),
        ("No cameras available", "check the ribbon cable"),
    ],
)
def test_argus_errors_have_a_reason_and_a_cure(message: str, says: str) -> None:
    assert says in str(explain_argus(message))
    assert explain_argus("something else") is None


def test_rights_and_a_camera_in_use_are_told_apart() -> None:
    assert "used by another program" in str(explain_gstreamer("Device '/dev/video0' is busy"))
    assert "usermod" in str(explain_gstreamer("system error: Permission denied"))


def test_an_engine_opens_after_a_gstreamer_line() -> None:
    """In a process of its own, because the wrong order of the two libraries ends the process."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    script = (
        "import threading, numpy as np\n"
        "from i2i_runtime.sources.gstreamer import load_gstreamer\n"
        "load_gstreamer()\n"
        "from i2i_runtime.engines import MODELS\n"
        "from i2i_runtime.engines.openvino import OpenVinoEngine\n"
        "engine = OpenVinoEngine(MODELS / 'day2night.onnx')\n"
        "image = np.zeros((64, 64, 3), np.uint8)\n"
        "thread = threading.Thread(target=lambda: print(engine.infer(image).shape))\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if "GStreamer cannot be used" in done.stderr:
        pytest.skip("this machine has no GStreamer")
    assert (done.returncode, done.stdout) == (0, "(64, 64, 3)\n")
