"""What only Linux has is refused elsewhere with a sentence. The other system is a name here: nothing ran on it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from i2i_runtime import doctor
from i2i_runtime.bench import measure
from i2i_runtime.errors import SinkError
from i2i_runtime.sinks import SinkOptions, open_sink
from i2i_runtime.uri import parse_uri


@pytest.mark.parametrize("path", [r"C:\clips\a.mp4", "C:/clips/a.mp4", r"\\server\share\a.mp4"])
def test_a_drive_letter_is_not_a_scheme(path: str) -> None:
    assert (parse_uri(path).scheme, parse_uri(path).location) == ("file", path)


@pytest.mark.parametrize(
    ("platform", "output", "instead"),
    [
        ("win32", "rtmp://localhost/live/a", "mjpeg://"),
        ("win32", "rtsp://localhost/a", "mjpeg://"),
        ("win32", "virtualcam", "needs Linux"),
        ("darwin", "virtualcam", "needs Linux"),
        ("darwin", "virtualcam:/dev/video10", "needs Linux"),
    ],
)
def test_an_output_that_this_system_lacks_names_another(
    monkeypatch: pytest.MonkeyPatch, platform: str, output: str, instead: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(SinkError, match=instead):
        open_sink(output, SinkOptions())


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_the_doctor_says_that_cameras_cannot_be_listed(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    cameras = [finding for finding in doctor.examine() if finding.topic == "camera"]
    assert [finding.works for finding in cameras] == [False]
    assert platform in cameras[0].detail


def test_peak_memory_is_counted_in_the_units_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    here = measure.peak_memory_mb()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert measure.peak_memory_mb() == pytest.approx(here / 1024, rel=0.1)
    monkeypatch.setattr(sys, "platform", "win32")
    assert measure.peak_memory_mb() == 0


def test_linux_reports_its_memory() -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux's /proc")
    assert 10 < measure.resident_memory_mb() <= measure.peak_memory_mb() + 1
